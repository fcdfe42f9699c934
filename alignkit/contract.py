"""What a class must be for a plugin to register it. Each finding is one sentence that says what to change."""

from __future__ import annotations

import inspect
import re
from pkgutil import resolve_name
from typing import Any

from alignkit.units import unit_fault

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_OPTIONS_OF_INIT = {"model", "data", "out", "force", "help"}
_NEEDS = {"reference", "scalar_head", "mismatched_kl"}
_BASES = {  # looked up by name: these classes stand in rooms that import the registry
    "method": "alignkit.methods:Method",
    "judge": "alignkit.scoring.judge:Judge",
    "dataset": "alignkit.data.reading.dataset:Dataset",
    "sampler": "alignkit.rollouts.sampler:Sampler",
    "tracker": "alignkit.tracking:Tracker",
    "metric": "alignkit.judging.metric:Metric",
    "preset": "alignkit.presets:Preset",
}


def findings(kind: str, cls: Any) -> list[str]:
    """Return what keeps a class from being a method, judge, data set and so on; [] where it is one.

    Args:
        kind: one of `alignkit.registry.KINDS` but "command".
    """
    base: type = resolve_name(_BASES[kind])
    if not (isinstance(cls, type) and issubclass(cls, base)):
        return [f"{_called(cls)} is no class that derives from alignkit.plugin.{base.__name__}"]
    found = [f"{cls.__name__} must define {name}()" for name in sorted(getattr(cls, "__abstractmethods__", ()))]
    name = getattr(cls, "name", None)
    if not (isinstance(name, str) and _NAME.fullmatch(name)):
        found.append(f"{cls.__name__}.name is {name!r}: give it small letters, digits and hyphens, such as 'my-{kind}'")
    found += _signatures(cls, base)
    if kind == "method":
        found += _method(cls)
    if kind == "preset":
        if name in _OPTIONS_OF_INIT:
            found.append(f"{cls.__name__}.name is {name!r}, which is an option of `alignkit init`: name it otherwise")
        keys = ("help", "model", "data")
        found += [
            f"{cls.__name__}.{key} must be a text" for key in keys if not isinstance(getattr(cls, key, None), str)
        ]
    if kind == "judge" and not isinstance(getattr(cls, "version", None), str):
        found.append(f"{cls.__name__}.version must be a text that changes whenever an answer may get another score")
    if hasattr(base, "Config") or "Config" in inspect.get_annotations(base):
        found += _options(cls, base)
    return found


def _method(cls: Any) -> list[str]:
    fault = unit_fault(getattr(cls, "trains_on", None))
    found = [f"{cls.__name__}: {fault}"] if fault else []
    if unknown := sorted(set(cls.needs) - _NEEDS):
        found.append(f"{cls.__name__}.needs names {unknown[0]!r}: known are {', '.join(sorted(_NEEDS))}")
    if "mismatched_kl" in cls.needs and ("reference" not in cls.needs or not getattr(cls.trains_on, "completions", ())):
        found.append(f"{cls.__name__}.needs names 'mismatched_kl': it needs 'reference' too, and rows with answers")
    return found


def _options(cls: Any, base: type) -> list[str]:
    """Whether Config derives from the right class and each of its options has a description."""
    from pydantic import BaseModel  # not above: data sets and commands need none

    # The base class's own Config, or the name in its annotation: ClassVar[type[MethodConfig]].
    needed: Any = getattr(base, "Config", None) or resolve_name("alignkit.methods:MethodConfig")
    config = getattr(cls, "Config", None)
    if not (isinstance(config, type) and issubclass(config, BaseModel) and issubclass(config, needed)):
        return [f"{cls.__name__}.Config must be a class that derives from alignkit.plugin.{needed.__name__}"]
    return [
        f"option {name!r} of {config.__name__} has no description: write Field(..., description=...)"
        for name, field in config.model_fields.items()
        if not field.description
    ]


def _signatures(cls: Any, base: type) -> list[str]:
    """Methods that override the base's must take what alignkit passes to the base's."""
    found = []
    for name, value in vars(base).items():
        own = getattr(cls, name, None)
        is_contract = inspect.isfunction(value) or isinstance(value, classmethod)
        if (name.startswith("_") and name != "__init__") or not is_contract or own is getattr(base, name):
            continue
        if not inspect.isroutine(own):
            found.append(f"{cls.__name__}.{name} must be a method: {name}{inspect.signature(getattr(base, name))}")
        elif not _takes(inspect.signature(own), inspect.signature(getattr(base, name))):
            wanted = str(inspect.signature(getattr(base, name))).replace("'", "")
            found.append(f"{cls.__name__}.{name}{inspect.signature(own)} must take what {name}{wanted} takes")
    return found


def _takes(own: inspect.Signature, wanted: inspect.Signature) -> bool:
    """Whether every call that fits `wanted` fits `own`: positions by place, keyword-only parameters by name."""
    parameters = list(wanted.parameters.values())
    by_name = {p.name: None for p in parameters if p.kind is p.KEYWORD_ONLY}
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    least = sum(p.default is p.empty for p in places)
    try:
        for count in {least, len(places)}:
            own.bind(*[None] * count, **by_name)
    except TypeError:
        return False
    return True


def _called(cls: Any) -> str:
    return cls.__name__ if isinstance(cls, type) else repr(cls)
