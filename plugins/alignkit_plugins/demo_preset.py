"""The preset `demo`: the quickstart's tournament on the demo tasks. Its numbers are chosen for two CPU cores.

base -> sft -> {dpo, grpo}, base -> sft-lenpen, all judged on families of tasks that no training row has, by the tasks'
own rules, which anyone can check. A reward model trained on the demo pairs gives a second opinion; own prompts outside
the grammar show what training did elsewhere. The policy itself is judged, at temperature 1: what training changes is
the distribution, not only its likeliest text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from alignkit.plugin import Line, Machine, Preset, Setup, embedded

_SFT = {"learning_rate": 4e-5, "batch_size": 8, "max_steps": 16}


class Demo(Preset):
    """The quickstart's model, rows, entrants and judge. It needs no network and no GPU."""

    name: ClassVar[str] = "demo"
    help: ClassVar[str] = "the quickstart's tournament: SmolLM2 and the demo tasks"
    model: ClassVar[str] = embedded.NAME
    data: ClassVar[str] = "demo"
    needs_hub: ClassVar[bool] = False
    can_be_changed: ClassVar[bool] = False

    def tournament(self) -> Mapping[str, Any]:
        """Four methods, 16 to 26 steps each, on 320 prompts of families that no training row has."""
        return {
            "model": {"model": self.model},
            "data": {"data": self.data, "split": "0.04", "limit": 320},
            "judge": {"judge": "rules", "num_prompts": 320, "temperature": 1.0, "max_new_tokens": 48},
            "tournament": {
                "vs": ["base", "start", "sft"],
                "test": "demo:unseen",
                "second": "reward",
                "second_prompts": 100,  # a reward model of the policy's size costs as much as answering
                "off_task": "demo:own",
                "off_task_prompts": 24,
            },
            "train": {
                "max_new_tokens": 48,
                "warmup_steps": 4,
                "sample_interval": 10_000,
                "validation_interval": 10_000,
                "checkpoint_interval": 10_000,
                "early_stopping_steps": None,
            },
            "notes": _NOTES,
            "entrants": {
                "sft": _SFT,
                "sft-lenpen": _SFT | {"penalty_interval": 2, "penalty_samples": 4, "max_penalty_ratio": 2.0},
                "dpo": {"start": "sft", "learning_rate": 2e-5, "batch_size": 6, "max_steps": 26},
                "grpo": {
                    "start": "sft",
                    "learning_rate": 5e-5,
                    "batch_size": 6,
                    "group_size": 6,
                    "max_steps": 16,
                    "reward": ["rules"],
                    "num_prompts": None,
                    "kl": 0.02,
                },
                "reward": {"learning_rate": 3e-5, "batch_size": 8, "max_steps": 10},
            },
        }

    def setup(self, machine: Machine, *, model: str, data: str) -> Setup:
        tables = self.tournament()
        lines = {
            name: [Line(key, value, "the quickstart's") for key, value in tables[name].items()] for name in _SECTIONS
        }
        for name, table in tables["entrants"].items():
            own = {"method": name} | {key: value for key, value in table.items() if value is not None}
            shown = {key: value for key, value in own.items() if key != "reward"}
            lines[f"entrants.{name}"] = [Line(key, value, "the quickstart's") for key, value in shown.items()]
        lines["rollouts"] = [Line("reward", ["rules"], "GRPO's samples are scored by the rows' rules")]
        lines["train"] = [Line(key, value, "the quickstart's") for key, value in tables["train"].items() if value]
        return Setup(["The quickstart's tournament: alignkit tournament"], lines)


_NOTES = (
    "A demonstration on tasks that alignkit generates; not a quality benchmark.",
    "The rules judge, and gave GRPO its reward: anyone can check them. No training row is of a family that is judged.",
)
_SECTIONS = ("model", "data", "judge", "tournament")
