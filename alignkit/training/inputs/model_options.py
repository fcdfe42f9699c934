"""What a run's options ask of its model: the adapter that is trained, the reference, dropout. Nothing is loaded."""

from __future__ import annotations

from dataclasses import replace

from alignkit.config.file import Resolved
from alignkit.config.settings import ModelSection
from alignkit.errors import UsageError
from alignkit.methods import Method
from alignkit.pretrained.names import find_adapter


def refuse_idle_adapter_options(method: Method, resolved: Resolved) -> None:
    """Check that each option of an adapter has one, and that its dropout spoils no comparison.

    Raises:
        UsageError: it does not.
    """
    section = resolved.model
    defaults = ModelSection()
    for name in ("lora_alpha", "lora_dropout", "lora_targets"):
        if section.lora_rank is None and getattr(section, name) != getattr(defaults, name):
            raise UsageError(f"--{name.replace('_', '-')}: no adapter is trained; add --lora-rank 16, or leave it out")
    if section.lora_dropout and not keeps_dropout(method):
        raise UsageError(
            f"--lora-dropout {section.lora_dropout:g}: {method.name} compares log-probs of other weights or answers, "
            "which dropout would spoil; leave it out"
        )


def on_adapter(method: Method, resolved: Resolved) -> Resolved:
    """Return the options with the shape of the adapter that training goes on from, where --model names one.

    A method with a head of its own trains on base and adapter merged, as on any other model.

    Raises:
        UsageError: another shape was given, or 4 bits.
        InputError: as `find_adapter`.
    """
    if "scalar_head" in method.needs or (adapter := find_adapter(resolved.model.model)) is None:
        return resolved
    section, defaults = resolved.model, ModelSection()
    own = {"lora_rank": adapter.rank, "lora_alpha": adapter.alpha, "lora_targets": list(adapter.targets)}
    for name, value in own.items():
        if getattr(section, name) not in (value, getattr(defaults, name)):
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(
                f"{flag}: training goes on from the adapter {adapter.folder}, whose {flag} is {value}; leave it out, "
                f"or merge it first: alignkit export {adapter.folder} --to DIR"
            )
    if section.quantize is not None:
        raise UsageError(
            f"--quantize {section.quantize}: not under an adapter that was trained before; leave it out, or merge it "
            f"first: alignkit export {adapter.folder} --to DIR"
        )
    return replace(resolved, model=section.model_copy(update=own))


def reference_is_base(method: Method, resolved: Resolved) -> bool:
    """Whether the reference is what lies under the adapter that is trained: of a new one."""
    has_adapter = resolved.model.lora_rank is not None
    return has_adapter and ("scalar_head" in method.needs or find_adapter(resolved.model.model) is None)


def needs_reference(method: Method, resolved: Resolved) -> bool:
    """Whether the frozen reference is there in training: not where no loss reads it, unless it is asked for by name."""
    asked = resolved.model.reference is not None
    return "reference" in method.needs and (asked or resolved.method.reads_reference)


def caches_reference(method: Method, resolved: Resolved) -> bool:
    """Whether the reference's log-probs are computed before the first step.

    Raises:
        UsageError: reference was given to a method that reads none, or cached to one that trains on samples.
    """
    asked = resolved.model.reference
    if asked is not None and "reference" not in method.needs:
        raise UsageError(f"--set reference={asked}: {method.name} has no reference; leave it out")
    if asked == "cached" and method.trains_on.is_sampled:
        raise UsageError(f"--set reference=cached: {method.name}'s samples are not known beforehand; leave it out")
    return "reference" in method.needs and not method.trains_on.is_sampled and asked != "online"


def keeps_dropout(method: Method) -> bool:
    """Whether training drops out as the model came: only where no log-prob is compared with that of other weights.

    A reference, a sampler and the other completion of a pair know nothing of the units that a pass dropped.
    """
    compares = "reference" in method.needs or len(method.trains_on.completions) != 1
    return not compares and not method.draws()
