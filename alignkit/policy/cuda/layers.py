"""Layers on CUDA that leave out what autocast does in each micro-batch, in an unforked transformers model.

    Linear      y = x W'^T + b' with copies W', b' in the compute type, made once an optimizer step;
                dx = dy W'; dW = dy^T x and db = sum dy in fp32, which the product itself adds to `.grad`.
                autocast casts W again in every micro-batch, and rounds each gradient to the compute type.
    RMSNorm     torch's own kernel, where the module's code is Llama's; only outside of compiled layers
    frozen      weights of a LoRA adapter's base are held in the compute type alone (`hold_frozen`);
                an embedding's rows become fp32 again, so that the residual stream stays fp32

A compiled layer gives its gradients to autograd, which adds them up: a graph cannot write to `.grad`.
Shape letters: alignkit/policy/__init__.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, rms_norm

from alignkit.policy.in_place import accumulate_grad, grad_buffer

Forward = Callable[..., Tensor]


class CudaLayers:
    """Layers and weight copies of one policy on CUDA.

    Args:
        base: the model. Its linear layers inside `body` get copies of what they train; what is frozen computes as it is
            held.
        compute: the compute type.
    """

    def __init__(self, base: nn.Module, body: nn.Module, compute: torch.dtype) -> None:
        self._compute = compute
        self._norms = [module for module in body.modules() if _is_llamas_norm(module)]
        self._linears: list[Any] = []
        self._trained: list[Tensor] | None = None  # known when a pass is computed: a reference is frozen before
        self._copies: list[Tensor] = []
        self._versions: list[int] = []
        inside = set(body.modules())
        for module in base.modules():
            if type(module) is nn.Linear and (module in inside or module.weight.dtype == compute):
                module.__class__ = CopyingLinear  # a forward of its own would be a graph apart
                self._linears.append(module)
            elif type(module) is nn.Embedding and module.weight.dtype == compute:
                module.__class__ = WideningEmbedding

    def switch(self, on: bool) -> None:
        """Let the norms compute by torch's kernel, or by their own code again."""
        for norm in self._norms:
            norm.__dict__.pop("forward", None)
            if on:
                norm.forward = functools.partial(_norm, norm)

    def remove(self) -> None:
        """Let every layer compute by its own code again; what is frozen stays as it is held."""
        self.switch(False)
        for layer in self._linears:
            if layer.weight.dtype != self._compute:
                vars(layer).pop("narrow_weight", None)
                vars(layer).pop("narrow_bias", None)
                layer.__class__ = nn.Linear

    def renew(self) -> None:
        """Make the copies of trained weights again, if any of these changed."""
        if self._trained is None:
            self._trained = self._make()
        versions = [parameter._version for parameter in self._trained]
        if versions != self._versions:
            with torch.no_grad():
                torch._foreach_copy_(self._copies, self._trained)
            self._versions = versions

    def _make(self) -> list[Tensor]:
        trained: list[Tensor] = []
        for layer in self._linears:
            for name, parameter in layer.named_parameters():
                if parameter.requires_grad:
                    trained.append(parameter)
                    self._copies.append(torch.empty_like(parameter, dtype=self._compute, requires_grad=False))
                    setattr(layer, f"narrow_{name}", self._copies[-1])
        return trained


class CopyingLinear(nn.Linear):
    """A linear layer that computes by the copies of its weights under autocast, where they are trained."""

    narrow_weight: Tensor | None = None
    narrow_bias: Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:
        is_narrow = torch.is_autocast_enabled(input.device.type)
        x = input.to(torch.get_autocast_dtype(input.device.type)) if is_narrow else input
        if is_narrow and self.narrow_weight is not None:
            apply: Forward = _Linear.apply
            return apply(x, self.weight, self.bias, self.narrow_weight, self.narrow_bias)
        return linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


class WideningEmbedding(nn.Embedding):
    """A frozen table in the compute type, whose rows come out in fp32."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).float()


def hold_frozen(model: nn.Module, compute: torch.dtype) -> None:
    """Hold the frozen weights of linear layers and embeddings in the compute type, in place of fp32."""
    for module in model.modules():
        if type(module) in (nn.Linear, nn.Embedding):
            for parameter in module.parameters():
                if not parameter.requires_grad and parameter.dtype == torch.float32:
                    parameter.data = parameter.data.to(compute)


def widen_frozen(model: nn.Module) -> None:
    """Hold what `hold_frozen` narrowed in fp32 again."""
    for parameter in model.parameters():
        if parameter.dtype in (torch.bfloat16, torch.float16):
            parameter.data = parameter.data.float()


def _is_llamas_norm(module: nn.Module) -> Any:
    """Whether a module's forward is Llama's RMSNorm to the instruction: w x / rms(x), formed in fp32."""
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    ours, theirs = (getattr(kind.forward, "__code__", None) for kind in (type(module), LlamaRMSNorm))
    return ours and theirs and (ours.co_code, ours.co_names) == (theirs.co_code, theirs.co_names)


def _norm(module: Any, x: Tensor) -> Tensor:
    if x.dtype != module.weight.dtype:
        own: Forward = type(module).forward
        return own(module, x)
    return rms_norm(x, module.weight.shape, module.weight, module.variance_epsilon)


class _Linear(torch.autograd.Function):
    """y = x W'^T + b'; the gradients of W' and b' are given as those of W and b."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight_OI: Tensor, bias_O: Tensor | None, narrow_OI: Tensor, narrow_O: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(x, narrow_OI)
        ctx.has_bias, ctx.is_compiled = bias_O is not None, torch.compiler.is_compiling()
        if not ctx.is_compiled:  # parameters are held by ctx, not saved: they are there anyway
            ctx.weight, ctx.bias = weight_OI, bias_O
        return linear(x, narrow_OI, narrow_O)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, narrow_OI = ctx.saved_tensors
        grad_x = grads[0] @ narrow_OI
        grad_SO, x_SI = grads[0].flatten(0, -2), x.flatten(0, -2)
        grad_bias = grad_SO.sum(0, dtype=torch.float32) if ctx.has_bias else None
        if ctx.is_compiled:
            return grad_x, _product(grad_SO.t(), x_SI), grad_bias, None, None
        grad_bias = None if grad_bias is None else accumulate_grad(ctx.bias, grad_bias)
        total_OI = grad_buffer(ctx.weight)
        if total_OI is None:
            return grad_x, _product(grad_SO.t(), x_SI), grad_bias, None, None
        _add_product(total_OI, grad_SO.t(), x_SI)
        return grad_x, None, grad_bias, None, None


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a b in fp32, which a CPU has for fp32 factors alone."""
    return torch.mm(a, b, out_dtype=torch.float32) if a.is_cuda else torch.mm(a.float(), b.float())


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a b in fp32; on CUDA the product itself reads and writes the total, once."""
    if a.is_cuda:
        torch.addmm(total, a, b, out_dtype=torch.float32, out=total)
    else:
        total.addmm_(a.float(), b.float())
