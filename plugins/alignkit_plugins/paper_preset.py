"""The preset `paper`: the paper's model, data, judge and numbers (section 4), read from the methods' own classes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar

from alignkit.plugin import Line, Machine, Method, Preset, Setup
from alignkit_plugins.dpo import DPO
from alignkit_plugins.grpo import GRPO
from alignkit_plugins.sft import SFT
from alignkit_plugins.sft_lenpen import SFTLengthPenalty

_METHODS: tuple[type[Method], ...] = (SFT, SFTLengthPenalty, DPO, GRPO)
_KEY = "NVIDIA_API_KEY"


class Paper(Preset):
    """The paper's set-up, and what of it this machine lacks."""

    name: ClassVar[str] = "paper"
    help: ClassVar[str] = "the paper's model, data, judge and numbers"
    model: ClassVar[str] = "Qwen/Qwen2.5-0.5B"
    data: ClassVar[str] = "HuggingFaceH4/ultrafeedback_binarized"
    can_be_changed: ClassVar[bool] = False

    def tournament(self) -> Mapping[str, Any]:
        """The five of the paper's Table 1, on whatever model and data are configured: base and four methods."""
        return {
            "entrants": {"sft": {}, "sft-lenpen": {}, "dpo": {"start": "sft"}, "grpo": {"start": "sft"}},
            "tournament": {"vs": ["Qwen/Qwen2.5-0.5B-Instruct", "base", "start"]},
            "judge": {"num_beams": 4, "length_penalty": 0.9, "temperature": 0.0},
            "beside": {"title": "paper's Table 1", "rows": _TABLE_1, "notes": _FOOTNOTES},
        }

    def setup(self, machine: Machine, *, model: str, data: str) -> Setup:
        tables = {
            "model": [Line("model", model, "the paper's base model")],
            "data": [
                Line("data", data, "the paper's preference pairs"),
                Line("split", "first-2000", "the paper validates on the first 2,000 rows"),
                Line("truncation", "cut-completion", "the paper's: a longer completion is cut at the limit"),
            ],
            "rollouts": [Line("reward", ["nemotron"], "the paper's reward model scores GRPO's samples")],
            "judge": [
                Line("judge", "nemotron", "the paper's judge: the same reward model"),
                Line("vs", "Qwen/Qwen2.5-0.5B-Instruct", "the paper's opponent"),
                Line("temperature", 0.6, "the paper's, for its final submissions"),
                Line("top_p", 0.95, "the paper's, for its final submissions"),
            ],
        }
        tables |= {f"train.{method.name}": _numbers(method) for method in _METHODS}
        return Setup(_HEAD, tables, _lacking(machine))


_TABLE_1 = {
    "win_rate": {"base": "50.0", "sft": "43.8", "sft-lenpen": "54.9", "dpo": "59.3", "grpo": "61.1"},
    "bleu4": {"base": "16.3", "sft": "17.0", "sft-lenpen": "18.1", "dpo": "19.7", "grpo": "19.4"},
    "perplexity": {"base": "19.8", "sft": "21.3", "sft-lenpen": "20.7", "dpo": "18.9", "grpo": "18.4"},
}
_FOOTNOTES = (
    (
        "The rows here are trained with the numbers that are configured; an entrant takes the paper's by "
        'preset = "paper" in its table.'
    ),
    (
        "Qwen2.5-0.5B on UltraFeedback, one run of each, one seed (16 for SFT, 42 for DPO and GRPO), no interval: "
        "how runs differ is not in it."
    ),
    (
        "It does not say how many prompts were judged. With 2,000, the size of its validation set, and no ties, "
        "59.3 and 61.1 have 95 % intervals of about 2 points to each side, and cannot be told apart."
    ),
    (
        "The base's 50.0 cannot be a win rate of Qwen2.5-0.5B against Qwen2.5-0.5B-Instruct, which the text names "
        "as the opponent: it is what a model has against itself."
    ),
    (
        "Eq. 2 sums the log-probs of an example, so that a long answer weighs more; here it is a mean over "
        "tokens, unless reduction is example-sum."
    ),
    (
        "Lambda has no unit there: Eq. 3 is in squared tokens, 0.1 for 10 tokens too long and 10 for 100. Eq. 6 "
        "sums over the k samples of a prompt, beside which its 0.1 weighs as 0.1 / k does beside the mean that is "
        "taken here."
    ),
    "BLEU and perplexity depend on the references, their tokens and their number, which it does not say.",
)
_HEAD = [
    "The paper's set-up. SFT first; DPO and GRPO start from it:",
    "  alignkit train sft --out runs/sft",
    "  alignkit train dpo --model runs/sft",
    "  alignkit train grpo --model runs/sft",
]


def _numbers(method: type[Method]) -> list[Line]:
    """The preset "paper" of a method."""
    fields = method.Config.model_fields
    return [Line(name, value, fields[name].description or "") for name, value in method.presets["paper"].items()]


def _lacking(machine: Machine) -> list[str]:
    notes = []
    if machine.hub_problem is not None:
        notes.append(f"missing: {machine.hub_problem}; model and data come from the hub")
    if not os.environ.get(_KEY):
        notes.append(f"missing: {_KEY} is not set; judge and reward nemotron need it (another: alignkit train reward)")
    return [*notes, "instead, with no network and no key: alignkit init --offline"] if notes else []
