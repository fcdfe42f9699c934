"""A model's dropout: which rates it has, and how they are switched off while its modules stay in training mode.

transformers has no one name for a rate: attention_dropout, attn_pdrop, resid_pdrop, hidden_dropout_prob, layerdrop. A
rate stands in `nn.Dropout` modules, in numbers that modules keep for `functional.dropout`, and in the configuration,
which some modules read while they compute. All are found by what they are or by "drop" in their name. `eval()` would
switch dropout off too, but gradient checkpointing with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.nn.modules.dropout import _DropoutNd


@dataclass(frozen=True)
class Dropout:
    """The dropout that a model came with.

    Args:
        rates: by name, those above 0.
        attention: the largest rate inside attention, which the tree path does not compute.
        is_on: False where it was switched off.
        configured: what its configuration said: (configuration, name, rate), kept for the saved model.
    """

    rates: Mapping[str, float] = field(default_factory=dict)
    attention: float = 0.0
    is_on: bool = True
    configured: tuple[tuple[Any, str, Any], ...] = ()

    @property
    def drops(self) -> bool:
        """Whether training drops anything out."""
        return self.is_on and bool(self.rates)

    def line(self, method: str) -> str | None:
        """Return what the run logs of it; None where there is none."""
        if not self.rates:
            return None
        rates = ", ".join(f"{name} {rate:g}" for name, rate in sorted(self.rates.items()))
        if self.is_on:
            return f"dropout: {rates}, as the model's config.json has it"
        return f"dropout: the model's own ({rates}) is off in {method}: log-probs of the same weights must be the same"

    @contextmanager
    def as_configured(self) -> Iterator[None]:
        """Let the configuration say what the model came with, to be saved."""
        now = [(config, name, getattr(config, name)) for config, name, _ in self.configured]
        _set(self.configured)
        try:
            yield
        finally:
            _set(now)


def find_dropout(model: nn.Module) -> Dropout:
    """Find a model's rates above 0."""
    rates: dict[str, float] = {}
    attention = [0.0]
    for owner, name, rate in _numbers(model):
        rates[name] = max(rate, rates.get(name, 0.0))
        if _is_inside_attention(type(owner).__name__.lower(), name.lower()):
            attention.append(rate)
    return Dropout(rates, max(attention))


def switch_off_dropout(model: nn.Module) -> Dropout:
    """Set every rate of a model to 0, in its modules and its configuration, and return what there was."""
    found = find_dropout(model)
    configured = tuple(_configured(model))
    for module in model.modules():
        if isinstance(module, _DropoutNd):
            module.p = 0.0
    for owner, name, _ in list(_numbers(model)):
        setattr(owner, name, 0.0)
    _set([(config, name, 0.0) for config, name, _ in configured])
    return Dropout(found.rates, found.attention, is_on=False, configured=configured)


def _is_inside_attention(kind: str, name: str) -> bool:
    """Whether a rate is of attention's weights, not of attention's output (resid_dropout, post_attention_...)."""
    return ("att" in name or "attention" in kind) and not name.startswith(("post", "resid"))


def config_rates(config: Any) -> dict[str, float]:
    """Rates above 0 in a configuration and in those inside it, by name."""
    return {
        name: max(rate for _, other, rate in _in_config(config) if other == name) for _, name, _ in _in_config(config)
    }


def _numbers(model: nn.Module) -> Iterator[tuple[nn.Module, str, float]]:
    """Yield (module, name, rate) of dropout modules, under their parent, and of rates that modules keep as numbers."""
    for parent in model.modules():
        for name, child in parent.named_children():
            if isinstance(child, _DropoutNd) and child.p > 0:
                yield parent, name if not name.isdigit() else "dropout", child.p
        if not isinstance(parent, _DropoutNd):
            yield from ((parent, name, rate) for name, rate in _rates(vars(parent)))


def _configured(model: nn.Module) -> Iterator[tuple[Any, str, float]]:
    configs = {id(config): config for m in model.modules() if (config := getattr(m, "config", None)) is not None}
    seen: set[tuple[int, str]] = set()
    for config in configs.values():
        for owner, name, rate in _in_config(config):
            if (id(owner), name) not in seen:
                seen.add((id(owner), name))
                yield owner, name, rate


def _in_config(config: Any) -> Iterator[tuple[Any, str, float]]:
    content = getattr(config, "__dict__", {})
    yield from ((config, name, rate) for name, rate in _rates(content))
    for part in content.values():
        if hasattr(part, "to_dict") and part is not config:
            yield from _in_config(part)


def _rates(content: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in content.items():
        if "drop" in name.lower() and isinstance(value, float) and 0 < value <= 1:
            yield name, value


def _set(values: Iterable[tuple[Any, str, Any]]) -> None:
    for config, name, value in values:
        setattr(config, name, value)
