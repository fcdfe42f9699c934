"""What every option has in common, whoever declares it: known names, finite numbers, sizes a computer can hold.

An option is a pydantic field. Its help has three tiers, named by a marker on the field:

    beta: float = Field(0.1, gt=0, description="strength of the pull to the reference", json_schema_extra=IN_HELP)

IN_HELP      a flag that `alignkit train METHOD --help` shows: what most people turn.
IN_HELP_ALL  a flag that `--help-all` shows beside those.
NO_FLAG      a key of alignkit.toml, which the command line sets by `--set KEY=VALUE`; `--help-all` lists it.

A field that a subclass declares again keeps its tier, unless it has a marker of its own. A method's own field without a
marker is shown by `--help`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator
from pydantic.config import JsonDict

Tier = Literal["help", "help-all", "no-flag"]
IN_HELP: JsonDict = {"tier": "help"}
IN_HELP_ALL: JsonDict = {"tier": "help-all"}
NO_FLAG: JsonDict = {"tier": "no-flag"}

SYNONYMS = {
    "lr": "--learning-rate",
    "num-train-epochs": "--epochs",
    "num-epochs": "--epochs",
    "n-epochs": "--epochs",
    "per-device-train-batch-size": "--batch-size",
    "per-device-batch-size": "--batch-size",
    "train-batch-size": "--batch-size",
    "gradient-accumulation-steps": "--batch-size (of a whole step; memory decides how it is split)",
    "model-name-or-path": "--model",
    "model-name": "--model",
    "base-model": "--model",
    "adapter-name-or-path": "--model",
    "dataset": "--data",
    "dataset-name": "--data",
    "dataset-path": "--data",
    "train-file": "--data",
    "output-dir": "--out",
    "max-seq-length": "--max-length",
    "max-seq-len": "--max-length",
    "cutoff-len": "--max-length",
    "max-samples": "--limit",
    "lora-r": "--lora-rank",
    "use-peft": "--lora-rank N",
    "eval-steps": "--validation-interval",
    "save-steps": "--checkpoint-interval",
    "warmup-ratio": "--warmup-steps",
    "num-warmup-steps": "--warmup-steps",
    "lr-scheduler-type": "--set schedule=NAME",
    "optim": "--set optimizer=NAME",
    "num-generations": "--group-size",
    "max-completion-length": "--max-new-tokens",
    "max-tokens": "--max-new-tokens",
    "max-length-completion": "--max-new-tokens",
    "reward-funcs": "--reward",
    "reward-model": "--reward",
    "report-to": "--track",
    "bf16": "--precision bf16",
    "fp16": "--precision bf16 (fp16 is not computed)",
    "load-in-4bit": "--quantize 4bit",
    "eval-dataset": "--split FILE",
    "val-size": "--split",
    "validation-split": "--split",
    "template": "--chat-template",
    "pref-beta": "--beta",
    "kl-coef": "--kl",
    "use-vllm": "--sampler vllm",
    "resume-from-checkpoint": "--resume RUN",
    "logging-steps": "every step is logged, in metrics.jsonl",
    "do-train": "`alignkit train` trains",
    "ref-model": "the model that training starts from is the reference",
    "lr-scheduler": "--set schedule=NAME",
    "eval-strategy": "--validation-interval N",
    "evaluation-strategy": "--validation-interval N",
    "save-strategy": "--checkpoint-interval N",
    "save-total-limit": "the last two checkpoints and the best one are kept",
    "eval-batch-size": "validation is packed as training is",
    "per-device-eval-batch-size": "validation is packed as training is",
    "packing": "short rows are always packed, and see themselves alone",
    "max-prompt-length": "--max-length (of prompt and completion together)",
    "completion-only-loss": "--train-on",
    "assistant-only-loss": "--train-on",
    "train-on-inputs": "--train-on (a prompt has no loss)",
    "train-on-prompt": "--train-on (a prompt has no loss)",
    "finetuning-type": "--lora-rank N for an adapter, without it all weights",
    "quantization-bit": "--quantize 4bit",
    "load-in-8bit": "--quantize 4bit (8 bits are not computed)",
    "torch-dtype": "--precision",
    "dtype": "--precision",
    "attn-implementation": "--set model.attention=plain (the model's own code; auto is faster)",
    "run-name": "--out",
    "stage": "the method is named: `alignkit train METHOD`",
    "loss-type": "the method is named: `alignkit train METHOD`",
    "push-to-hub": "a finished run is pushed by `alignkit export RUN --to DIR --push OWNER/NAME`",
    "num-processes": "ranks are started by torchrun: docs/guide/many-gpus.md",
    "deepspeed": "ranks are started by torchrun: docs/guide/many-gpus.md",
}
"""What TRL, LLaMA-Factory and Unsloth call an option, without dashes before it: what is typed here instead, or where
nothing is, why."""

MAX_WHOLE = 2**31 - 1
MAX_SEED = 2**63 - 1  # what numpy's and torch's generators take
MAX_NUMBER = 1e9  # a timeout of 31 years; larger ones overflow timers, and no option means anything by them


class Options(BaseModel):
    """Options of a section, a method or a judge. Unknown names, nan, inf and absurd sizes are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)

    @field_validator("*")
    @classmethod
    def _within_reach(cls, value: Any, info: ValidationInfo) -> Any:
        most = MAX_SEED if info.field_name == "seed" else MAX_WHOLE
        for number in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(number, int) and abs(number) > most:
                raise ValueError(f"at most {most:,} is allowed")
            if isinstance(number, float) and abs(number) > MAX_NUMBER:
                raise ValueError(f"at most {MAX_NUMBER:g} is allowed")
        return value


def synonym(name: str, known: Sequence[str]) -> str | None:
    """What is typed here for another tool's option; None where that is not known, or is no option of this command.

    Args:
        name: as it was typed, "--lr", "--num_train_epochs" or "lr".
        known: the options there are, "--learning-rate".
    """
    ours = SYNONYMS.get(name.lstrip("-").replace("_", "-").lower())
    if ours is None or (ours.startswith("--") and ours.split()[0] not in known):
        return None
    return ours


def tier(model: type[BaseModel], name: str) -> Tier | None:
    """Return the tier of a model's field: its own marker, else that of the class it overrides; None without one."""
    for cls in model.__mro__:
        field = cls.__dict__.get("__pydantic_fields__", {}).get(name)
        extra = field.json_schema_extra if field is not None else None
        if isinstance(extra, dict) and "tier" in extra:
            return cast("Tier", extra["tier"])
    return None


def is_flag(model: type[BaseModel], name: str) -> bool:
    """Whether the command line has an option for a model's field, beside `--set`."""
    return name in model.model_fields and tier(model, name) != "no-flag"


def typed_name(model: type[BaseModel], name: str) -> str:
    """Return how a field is named on a command line, for messages: "--max-steps", or "--set clip_ratio"."""
    return f"--{name.replace('_', '-')}" if is_flag(model, name) else f"--set {name}"
