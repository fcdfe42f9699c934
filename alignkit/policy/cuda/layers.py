"""Layers on CUDA that leave out what autocast does in each micro-batch, in an unforked transformers model.

    Linear      y = x W'^T + b' with copies W', b' in the compute type, made once an optimizer step;
                dx = dy W'; dW = dy^T x and db = sum dy in fp32, which the product itself adds to `.grad`.
                autocast casts W again in every micro-batch, and rounds each gradient to the compute type.
    joined      q, k and v, and gate and up, read the same x: one product, of their W' one below the other
    RMSNorm     torch's own kernel, where the module's code is Llama's; only outside of compiled layers
    frozen      weights of a LoRA adapter's base are held in the compute type alone (`hold_frozen`);
                an embedding's rows become fp32 again, so that the residual stream stays fp32

A compiled layer gives its gradients to autograd, which adds them up: a graph cannot write to `.grad`.
Shape letters: alignkit/policy/__init__.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, rms_norm

from alignkit.policy.in_place import accumulate_grad, grad_buffer

Forward = Callable[..., Tensor]
JOINED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))  # read the same input, in this order


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
        candidates = [[getattr(module, name, None) for name in names] for module in inside for names in JOINED]
        self._joined = [parts for parts in candidates if _can_join(parts)]

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
                vars(layer).pop("product", None)
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
        trained = [layer for layer in self._linears if layer.weight.requires_grad]
        joined = [parts for parts in self._joined if all(part in trained for part in parts)]
        inside = [part for parts in joined for part in parts]
        wide: list[Tensor] = []
        for parts in [*joined, *([layer] for layer in trained if layer not in inside)]:
            product = Product(parts, self._compute)
            self._copies += [*product.narrow_weights, *product.narrow_biases]
            wide += [*product.weights, *product.biases]
        return wide


class Product:
    """Linear layers that read the same tensor, as one product; the last of them to ask frees what was made.

    Args:
        parts: at least one; with trained weights, and alike in their input's size and in having a bias.
    """

    def __init__(self, parts: Sequence[Any], compute: torch.dtype) -> None:
        self.sizes = tuple(part.out_features for part in parts)
        self.weights = [part.weight for part in parts]
        self.biases = [part.bias for part in parts if part.bias is not None]
        device, num = self.weights[0].device, sum(self.sizes)
        self.narrow_OI = torch.empty(num, parts[0].in_features, dtype=compute, device=device)
        self.narrow_O = torch.empty(num, dtype=compute, device=device) if self.biases else None
        self.narrow_weights = self.narrow_OI.split(self.sizes)
        self.narrow_biases = () if self.narrow_O is None else self.narrow_O.split(self.sizes)
        for narrow in (self.narrow_OI, *(() if self.narrow_O is None else (self.narrow_O,))):
            torch._dynamo.mark_static(narrow)  # else a compiled layer takes a weight's size for that of a row
        for place, part in enumerate(parts):
            part.product, part.place = self, place
        self._given: Tensor | None = None
        self._made: dict[int, Tensor] = {}

    def part(self, place: int, x: Tensor) -> Tensor:
        """Return the output of one of the layers."""
        if self._given is not x or place not in self._made:
            self._given, self._made = x, dict(enumerate(self._outputs(x.to(self.narrow_OI.dtype))))
        out = self._made.pop(place)
        if not self._made:
            self._given = None
        return out

    def _outputs(self, x: Tensor) -> tuple[Tensor, ...]:
        if not torch.is_grad_enabled():  # where dynamo does not follow a function of any number of parameters
            return linear(x, self.narrow_OI, self.narrow_O).split(self.sizes, -1)
        apply: Callable[..., tuple[Tensor, ...]] = _Linears.apply
        return apply(x, self.narrow_OI, self.narrow_O, self.sizes, *self.weights, *self.biases)


class CopyingLinear(nn.Linear):
    """A linear layer that computes by the copies of its weights under autocast, where they are trained."""

    product: Product | None = None
    place = 0  # in it

    def forward(self, input: Tensor) -> Tensor:
        is_narrow = torch.is_autocast_enabled(input.device.type)
        if is_narrow and self.product is not None:
            return self.product.part(self.place, input)
        x = input.to(torch.get_autocast_dtype(input.device.type)) if is_narrow else input
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


class _Linears(torch.autograd.Function):
    """y = x W'^T + b', cut into the layers' parts; the gradients of W' and b' are given as those of the layers' own."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, narrow_OI: Tensor, narrow_O: Tensor | None, sizes: tuple[int, ...], *own: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x, narrow_OI)
        ctx.sizes, ctx.has_bias, ctx.is_compiled = sizes, narrow_O is not None, torch.compiler.is_compiling()
        if not ctx.is_compiled:  # parameters are held by ctx, not saved: they are there anyway
            ctx.own = own
        return linear(x, narrow_OI, narrow_O).split(sizes, -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, narrow_OI = ctx.saved_tensors
        grad = grads[0] if len(grads) == 1 else torch.cat(grads, -1)
        grad_x = grad @ narrow_OI
        grad_SO, x_SI = grad.flatten(0, -2), x.flatten(0, -2)
        grad_O = grad_SO.sum(0, dtype=torch.float32).split(ctx.sizes) if ctx.has_bias else ()
        if ctx.is_compiled:
            grad_OI = _product(grad_SO.t(), x_SI).split(ctx.sizes)
            return grad_x, None, None, None, *grad_OI, *grad_O
        weights, biases = ctx.own[: len(ctx.sizes)], ctx.own[len(ctx.sizes) :]
        of_weights = [
            _add_product(weight, part.t(), x_SI)
            for weight, part in zip(weights, grad_SO.split(ctx.sizes, -1), strict=True)
        ]
        of_biases = [accumulate_grad(bias, part) for bias, part in zip(biases, grad_O, strict=True)]
        return grad_x, None, None, None, *of_weights, *of_biases


def _can_join(parts: Sequence[Any]) -> bool:
    """Whether one product takes the place of layers."""
    if not all(type(part) is CopyingLinear for part in parts):
        return False
    return len({(part.in_features, part.bias is None) for part in parts}) == 1


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a b in fp32, which a CPU has for fp32 factors alone."""
    return torch.mm(a, b, out_dtype=torch.float32) if a.is_cuda else torch.mm(a.float(), b.float())


def _add_product(weight: Tensor, a: Tensor, b: Tensor) -> Tensor | None:
    """Add a b to `weight.grad` in fp32, or return it for autograd to add; on CUDA the product itself adds, once."""
    total = grad_buffer(weight)
    if total is None:
        return _product(a, b)
    if a.is_cuda:
        torch.addmm(total, a, b, out_dtype=torch.float32, out=total)
    else:
        total.addmm_(a.float(), b.float())
    return None
