"""What a model makes of W h + b before the softmax, measured on its own forward pass.

The names of config fields do not say it: Granite divides by `logits_scaling`, HyperCLOVA X multiplies by it. So the
body is made to return chosen hidden states, a small random matrix takes the head's place, and the model's logits are
compared with the one form that logprobs.py computes. It covers the heads known so far:

    logits = c tanh(s (W h + b) / c),   or s (W h + b)

s is read where W h + b is tiny, because a soft-cap is linear there; c is read where it is huge. Both are then tried on
numbers between. Only the class and its configuration matter, so a model without weights will do, and the answer is
known before anything is loaded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class HeadForm:
    """What a model makes of a = W h + b before the softmax: s a, or c tanh(s a / c); s is `scale`, c is `softcap`."""

    scale: float = 1.0
    softcap: float | None = None

    def logits_(self, product: Tensor) -> Tensor:
        """Return g(a), computed in place of a [T, V]."""
        if self.softcap is not None:
            return product.mul_(self.scale / self.softcap).tanh_().mul_(self.softcap)
        return product if self.scale == 1 else product.mul_(self.scale)


PLAIN = HeadForm()


_TINY, _HUGE = 1e-4, 1e6  # of W h + b: far below any soft-cap, and far above
_SAME = 1e-5  # relative: some models compute logits in fp32
_HIDDEN, _VOCAB, _TOKENS = 8, 16, 6


class UnknownHeadError(Exception):
    """A model's head is not of the form that can be trained; the text says what was seen."""


def find_form(model: Any) -> HeadForm:
    """Measure the form of a causal model's head; the model is left as it was, and may be without weights.

    Raises:
        UnknownHeadError: its logits are of another form.
    """
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise UnknownHeadError(f"its head is {'missing' if head is None else type(head).__name__}, not one matrix")
    with _small_head(model, head) as small, torch.no_grad():
        bias = torch.zeros(()) if small.bias is None else small.bias
        states = _random((_TOKENS, _HIDDEN), seed=1)
        whole = states @ small.weight.t() + bias

        def given(factor: float) -> tuple[Tensor, Tensor]:
            """W h + b of this size, and the model's logits of it."""
            logits = _own_logits(model, states, small, factor)
            if logits.shape != whole.shape:
                raise UnknownHeadError(f"it gives logits {list(logits.shape)} where {list(whole.shape)} were expected")
            return factor * whole, logits

        inputs, logits = given(_TINY)
        # least squares of logits = s inputs
        scale = _as_configured(float((logits * inputs).sum() / inputs.square().sum()), model.config)
        inputs, logits = given(_HUGE)
        largest = float(logits.abs().max())  # c where there is a soft-cap: tanh is 1 here
        is_capped = largest < 0.5 * abs(scale) * float(inputs.abs().max())
        form = HeadForm(scale, _as_configured(largest, model.config) if is_capped else None)
        for factor in (_TINY, 1.0, 30.0, 1000.0):
            inputs, logits = given(factor)
            gap = float((form.logits_(inputs.clone()) - logits).abs().max() / logits.abs().max().clamp(min=1e-30))
            if not gap <= _SAME:  # nan too
                raise UnknownHeadError(
                    f"its logits are no scaled or soft-capped W h + b (relative difference {gap:.2g} where W h + b "
                    f"reaches {float(inputs.abs().max()):.2g})"
                )
    return form


def _own_logits(model: Any, states: Tensor, head: nn.Linear, factor: float) -> Tensor:
    """Return the model's logits, float64 [T, V], of a head `factor` times as large, for given hidden states."""
    from transformers.modeling_outputs import BaseModelOutputWithPast

    class Output(BaseModelOutputWithPast):
        """Has the states, and None for whatever else a model looks for."""

        def __getattr__(self, name: str) -> None:
            if name.startswith("__"):
                raise AttributeError(name)

    bodies = {id(body): body for body in (model.base_model, model.get_decoder()) if body is not model}
    if not bodies:
        raise UnknownHeadError("its body stands in no module of its own")
    given: Any = states[None]
    for body in bodies.values():
        body.forward = lambda *_, **__: Output(last_hidden_state=given)
    for parameter in head.parameters():
        parameter.mul_(factor)
    try:
        ids = torch.zeros((1, len(states)), dtype=torch.int64)
        logits = model(input_ids=ids, use_cache=False).logits
    except Exception as error:  # a model's code may raise anything; here it means that its head is of another form
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:120]
        raise UnknownHeadError(f"it does not take hidden states from its body ({reason})") from error
    finally:
        for body in bodies.values():
            del body.forward
        for parameter in head.parameters():
            parameter.div_(factor)
    return torch.as_tensor(logits)[0].double()


@contextlib.contextmanager
def _small_head(model: Any, head: nn.Linear) -> Iterator[nn.Linear]:
    """Put a small random matrix in the head's place for a while."""
    small = nn.Linear(_HIDDEN, _VOCAB, bias=head.bias is not None, device="meta", dtype=torch.float64)
    small.weight = nn.Parameter(_random((_VOCAB, _HIDDEN), seed=2) / _HIDDEN**0.5)
    if small.bias is not None:
        small.bias = nn.Parameter(_random((_VOCAB,), seed=3))
    model.set_output_embeddings(small)
    try:
        yield small
    finally:
        model.set_output_embeddings(head)


def _random(shape: tuple[int, ...], *, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _as_configured(measured: float, config: Any) -> float:
    """Return the exact number that a measured one stands for: 1, or a field of the configuration, or 1 by a field."""
    values = [x for part in (config, config.get_text_config()) for x in part.to_dict().values()]
    numbers = [float(x) for x in values if isinstance(x, int | float) and not isinstance(x, bool)]
    candidates = [1.0, *(x for number in numbers if number for x in (number, 1.0 / number))]
    nearest = min(candidates, key=lambda x: abs(x - measured))
    return nearest if abs(nearest - measured) <= _SAME * abs(measured) else measured
