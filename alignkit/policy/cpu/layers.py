"""Layers that save less for the backward pass and make fewer passes over memory, in an unforked transformers model.

Under autocast a linear layer saves a bf16 copy of its weight and of its input, once more for each of q, k, v, gate and
up; a norm saves what it can make again; a gated MLP saves its activation and the product. Here

    Linear      saves its input in the compute type; its weight is cast from fp32 again when it is needed
    RMSNorm     saves its input and one number per token, and gives the compute type
    gated MLP   saves gate and up; activation and product are made again (two passes, no matrix product)
    Embedding   adds its gradient to the rows that were read; autograd makes a gradient of the table's size

What norm and MLP save lies apart from what is freed at once (activation_arena.py).

Each kind is taken only where it gives the module's own output on random numbers, and only on a CPU: a GPU's autocast
kernels are not measured here. The start-up checks compare the whole policy with the plain path, which uses the modules
as they are. Weight gradients go through `accumulate_grad` and `grad_buffer` of logprobs.py.
Shape letters: alignkit/policy/__init__.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from alignkit.policy.cpu import activation_arena
from alignkit.policy.in_place import accumulate_grad, grad_buffer

_TOLERANCE = 1e-5  # relative L2 to the module's own output, fp32


Forward = Callable[..., Tensor]


def find(body: nn.Module) -> list[tuple[nn.Module, Forward]]:
    """Return the modules of a known kind, each with the forward that replaces its own."""
    pairs = ((module, _replacement(module)) for module in body.modules())
    return [(module, forward) for module, forward in pairs if forward is not None]


def switch(found: list[tuple[nn.Module, Forward]], on: bool) -> None:
    """Let modules compute by the forwards that `find` gave, or by their own again."""
    for module, forward in found:
        module.__dict__.pop("forward", None)
        if on:
            module.forward = forward


def _replacement(module: nn.Module) -> Forward | None:
    if type(module) is nn.Linear:
        return functools.partial(_linear, module)
    if type(module) is nn.Embedding and module.max_norm is None and not module.scale_grad_by_freq:
        return functools.partial(_embedding, module)
    weight = getattr(module, "weight", None)
    if type(module).__name__.endswith("RMSNorm") and isinstance(weight, Tensor):
        return _if_equal(module, functools.partial(_norm, module, type(module).forward), weight.shape[-1])
    parts: list[Any] = [getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
    if all(type(part) is nn.Linear and part.bias is None for part in parts):
        return _if_equal(module, functools.partial(_mlp, *parts), parts[0].in_features)
    return None


def _if_equal(module: nn.Module, forward: Forward, width: int) -> Forward | None:
    """Return `forward` where it gives what the module gives."""
    weight = next(module.parameters())
    if weight.device.type != "cpu" or weight.dtype not in (torch.float32, torch.float64):
        return None
    generator = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(4, width, generator=generator, dtype=weight.dtype)
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        own, ours = module(x), forward(x)
    same = own.shape == ours.shape and (own - ours).norm() <= _TOLERANCE * own.norm()
    return forward if same else None


def compute_type(x: Tensor) -> torch.dtype:
    """Type that a layer on the CPU computes in: autocast's, else that of its input."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def _linear(module: nn.Linear, x: Tensor) -> Tensor:
    apply: Forward = _Linear.apply
    return apply(x.to(compute_type(x)), module.weight, module.bias)


class _Linear(torch.autograd.Function):
    """y = x W^T + b."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
        ctx.save_for_backward(x)
        # A parameter is held by ctx, not saved: it is there anyway, and its `.grad` is added to in the backward pass.
        ctx.weight, ctx.bias = weight_OI, bias_O
        bias = None if bias_O is None else bias_O.to(x.dtype)
        return nn.functional.linear(x, weight_OI.to(x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x,), (grad,) = ctx.saved_tensors, grads
        # dx = dy W,  dW = dy^T x,  db = sum of dy over the tokens
        grad_x = grad @ ctx.weight.to(grad.dtype) if ctx.needs_input_grad[0] else None
        grad_SO = grad.flatten(0, -2)
        grad_weight = _weight_grad(ctx.weight, grad_SO, x.flatten(0, -2)) if ctx.needs_input_grad[1] else None
        grad_bias = accumulate_grad(ctx.bias, grad_SO.sum(0)) if ctx.needs_input_grad[2] else None
        return grad_x, grad_weight, grad_bias


def _weight_grad(weight_OI: Tensor, grad_SO: Tensor, x_SI: Tensor) -> Tensor | None:
    """Add dW = dy^T x to the weight's gradient, or return it for autograd to add."""
    return accumulate_grad(weight_OI, grad_SO.t() @ x_SI)


def _norm(module: Any, own: Forward, x: Tensor) -> Tensor:
    """x / rms(x) * weight, where x is fp32 or fp64 (a norm of queries or keys gets bf16 and stays as it is)."""
    if x.dtype != module.weight.dtype:
        return own(module, x)
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", 0.0))
    apply: Forward = _RMSNorm.apply
    return apply(x, module.weight, eps, compute_type(x), activation_arena.current())


class _RMSNorm(torch.autograd.Function):
    """y = w x / rms(x), in x's type and rounded once at the end: the residual stream stays fp32."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight_I: Tensor, eps: float, compute: torch.dtype, arena: activation_arena.Arena | None
    ) -> Tensor:
        # 1 / rms(x) [S, 1]. The norm's square is the sum of squares, without a tensor of x's size for the squares.
        inverse = (torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_() / x.shape[-1] + eps).rsqrt_()
        ctx.save_for_backward(*(activation_arena.cast(arena, tensor, tensor.dtype) for tensor in (x, inverse)))
        ctx.weight = weight_I
        return activation_arena.cast(arena, (x * inverse).mul_(weight_I), compute)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, inverse = ctx.saved_tensors
        # The gradient comes in the compute type; the sums below run over I or S numbers, and are formed in x's type.
        normed, grad = x * inverse, grads[0].to(x.dtype)
        product = grad * normed
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = accumulate_grad(ctx.weight, product.flatten(0, -2).sum(0))  # dw = sum of dy x / rms(x)
        # dx = (dy w - x / rms mean(dy w x / rms)) / rms; the second term is what x changes of its own rms.
        mean = (product @ ctx.weight / x.shape[-1])[..., None]
        return torch.addcmul(grad * ctx.weight, normed, mean, value=-1).mul_(inverse), grad_weight, None, None, None


def _mlp(gate: nn.Linear, up: nn.Linear, down: nn.Linear, x: Tensor) -> Tensor:
    apply: Forward = _GatedMLP.apply
    return apply(x.to(compute_type(x)), activation_arena.current(), gate.weight, up.weight, down.weight)


class _GatedMLP(torch.autograd.Function):
    """y = D (a * u), where a = silu(g), g = G x and u = U x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, arena: activation_arena.Arena | None, *weights: Tensor) -> Tensor:
        x_SI = x.flatten(0, -2)
        wide = [activation_arena.empty(arena, (len(x_SI), len(weight)), x.dtype) for weight in weights[:2]]
        for y_SO, weight in zip(wide, weights, strict=False):
            torch.mm(x_SI, weight.to(x.dtype).t(), out=y_SO)  # straight into the arena, without a copy
        gate, up = (y_SO.view(*x.shape[:-1], -1) for y_SO in wide)
        ctx.save_for_backward(x, gate, up)
        ctx.weights = weights
        return nn.functional.linear(silu(gate).mul_(up), weights[2].to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x, gate, up), (grad,) = ctx.saved_tensors, grads
        x_SI, grad_SI, (gate_SO, up_SO) = x.flatten(0, -2), grad.flatten(0, -2), (y.flatten(0, -2) for y in (gate, up))
        needed, weights = ctx.needs_input_grad[2:], ctx.weights
        active_SO = silu(gate_SO)  # a, made again: an elementwise pass costs less than holding it
        given: list[Tensor | None] = [None] * 3
        # dD = dy^T (a u) comes first, because the steps below overwrite a
        if needed[2]:
            given[2] = _weight_grad(weights[2], grad_SI, active_SO * up_SO)
        grad_product_SO = grad_SI @ weights[2].to(x.dtype)  # d(a u) = dy D
        grad_up_SO = active_SO.mul_(grad_product_SO)  # du = a d(a u), in a's memory
        # da = u d(a u), in d(a u)'s memory now that du is formed; dg = silu'(g) da
        grad_gate_SO = torch.ops.aten.silu_backward(grad_product_SO.mul_(up_SO), gate_SO)
        for n, part_SO in enumerate((grad_gate_SO, grad_up_SO)):
            if needed[n]:
                given[n] = _weight_grad(weights[n], part_SO, x_SI)  # dG = dg^T x,  dU = du^T x
        grad_x = grad_gate_SO @ weights[0].to(x.dtype)  # dx = dg G + du U, the second added within its product
        grad_x.addmm_(grad_up_SO, weights[1].to(x.dtype))
        return grad_x.view(x.shape), None, *given


def _embedding(module: nn.Embedding, ids: Tensor) -> Tensor:
    apply: Forward = _Embedding.apply
    return apply(module.weight, ids, module.padding_idx)


class _Embedding(torch.autograd.Function):
    """Rows of a table by ids; a padding id's row gets no gradient, as in torch."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor, padding: int | None) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.weight, ctx.padding = weight, padding
        return nn.functional.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None]:
        (ids,), (grad,) = ctx.saved_tensors, grads
        buffer = grad_buffer(ctx.weight)
        total = torch.zeros_like(ctx.weight) if buffer is None else buffer
        rows, ids = grad.flatten(0, -2).to(total.dtype), ids.flatten()
        if ctx.padding is not None:
            rows = rows * (ids != ctx.padding)[:, None]
        total.index_add_(0, ids, rows)  # an id that occurs twice adds twice
        return None if buffer is not None else total, None, None
