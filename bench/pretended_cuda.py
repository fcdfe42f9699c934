"""A pretended CUDA device: the code's CUDA branches run on a machine without a card, and nothing is computed.

Fake tensors have shapes, types and a device. Python reads "cuda" there (`x.device`, `x.is_cuda`); C++ is told "meta",
because autograd would ask the driver for streams. `torch.autocast("cuda")` is on, and its casts are made by a function
mode, because C++ makes them on a real "cuda" alone. A Triton kernel passes where it is behind a custom operator with a
fake; torch.compile does not. Private parts of torch are replaced: use it in a process of its own.
"""

from __future__ import annotations

import collections
import contextlib
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._higher_order_ops.flex_attention import flex_attention
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CUDA, _META = torch.device("cuda", 0), torch.device("meta")
GIB = 2**30
TO_THE_CARD = "copy to the card"  # of memory that is not pinned, a wait too; counted apart
VIEWS = frozenset(  # aten calls that launch nothing: views, shapes, memory that is not written
    """_local_scalar_dense _reshape_alias _unsafe_view alias as_strided chunk detach diagonal empty empty_like
    empty_strided expand is_same_size lift_fresh lift_fresh_copy movedim narrow new_empty new_empty_strided permute
    promote_types reshape resize_ select set_ slice split split_with_sizes squeeze t transpose unbind unfold unsqueeze
    view view_as""".split()
)
SEVERAL = {  # what one call launches where it is not 1; attend_trees of a row with one completion a tree:
    "flex_attention_backward": 2,  # sum(out dout), and the gradients
    "attend_trees_backward": 7,  # FlashAttention's four kernels and a fill, sums over grouped heads
}
_FOREACH_BLOCKS, _FOREACH_CHUNK = (
    320,
    65_536,
)  # of one launch over many tensors: aten/src/ATen/native/cuda/MultiTensorApply
_WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_dim", "unique_consecutive"}
PRODUCTS = frozenset(
    [
        torch.matmul,
        torch.mm,
        torch.bmm,
        torch.addmm,
        torch.baddbmm,
        torch._C._nn.linear,
        torch.nn.functional.linear,
        torch.nn.functional.scaled_dot_product_attention,
        Tensor.matmul,
        Tensor.__matmul__,
        Tensor.mm,
        Tensor.bmm,
        flex_attention,
    ]
)


@contextlib.contextmanager
def pretended_cuda(memory: int = 80 * GIB) -> Iterator[None]:
    """Make fake tensors, on "cuda" where that is asked for; the card has so many bytes, all free."""
    class_dispatch, mode_dispatch = FakeTensor.__torch_dispatch__.__func__, FakeTensorMode.dispatch

    def told(device: torch.device) -> torch.device:
        return _META if device.type == "cuda" else device

    def of_class(cls: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.prim.device.default:
            return told(args[0].fake_device)
        return class_dispatch(cls, func, types, args, kwargs or {})

    def of_mode(self: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.prim.device.default:
            return told(args[0].fake_device)
        kwargs = dict(kwargs or {})
        if kwargs.get("device") == _META:  # C++ makes a tensor like one that it was told lies there
            kwargs["device"] = CUDA
        return mode_dispatch(self, func, types, args, kwargs)

    card = SimpleNamespace(
        name="NVIDIA H100 80GB HBM3",
        major=9,
        minor=0,
        total_memory=memory,
        multi_processor_count=132,
        warp_size=32,
        max_threads_per_multi_processor=2048,
        max_threads_per_block=1024,
        gcnArchName="",
        regs_per_multiprocessor=65_536,
        shared_memory_per_block=49_152,
        L2_cache_size=50 * 2**20,
        shared_memory_per_block_optin=232_448,
        shared_memory_per_multiprocessor=233_472,
    )
    functions: dict[str, Callable[..., Any]] = {
        "torch.cuda.amp.common.amp_definitely_not_available": lambda: False,  # else autocast is switched off
        "torch._subclasses.fake_tensor.init_gpu_context": lambda device: None,
        "torch.cuda.is_available": lambda: True,
        "torch.cuda.current_device": lambda: 0,
        "torch.cuda.is_bf16_supported": lambda including_emulation=True: True,
        "torch.cuda.get_device_name": lambda device=None: card.name,
        "torch.cuda.get_device_properties": lambda device=None: card,
        "torch.cuda.mem_get_info": lambda device=None: (memory, memory),
        "torch.cuda.max_memory_allocated": lambda device=None: 0,
        "torch.cuda.reset_peak_memory_stats": lambda device=None: None,
        "torch.cuda.synchronize": lambda device=None: None,
        "torch.cuda.empty_cache": lambda: None,
    }
    with contextlib.ExitStack() as stack:
        for name, function in functions.items():
            stack.enter_context(mock.patch(name, function))
        of: dict[Any, dict[str, Any]] = {
            FakeTensor: {
                "__torch_dispatch__": classmethod(of_class),
                "is_cuda": property(lambda x: x.device.type == "cuda"),
                "is_meta": property(lambda x: x.device.type == "meta"),
                "pin_memory": lambda x, *_: x,
            },
            FakeTensorMode: {"dispatch": of_mode, "avoid_device_init": True},
        }
        for owner, replaced in of.items():
            for name, value in replaced.items():
                stack.enter_context(mock.patch.object(owner, name, value, create=True))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        autocast = _Autocast()
        stack.enter_context(autocast)
        # `backward` puts function modes aside, and computes checkpointed layers again
        stack.enter_context(mock.patch("torch.autograd._engine_run_backward", autocast.around(_run_backward)))
        yield


_run_backward: Callable[..., Any] = torch.autograd._engine_run_backward  # type: ignore[attr-defined]


class _Autocast(TorchFunctionMode):
    """What torch.autocast("cuda") casts in a transformer: products and attention; each weight once."""

    def __init__(self) -> None:
        super().__init__()
        self._weights: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not torch.is_autocast_enabled("cuda"):
            self._weights.clear()
        elif func in PRODUCTS and "out_dtype" not in kwargs:
            args = [self._cast(x) for x in args]
            kwargs = {name: self._cast(x) for name, x in kwargs.items()}
        return func(*args, **kwargs)

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function with this mode on."""

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return wrapped

    def _cast(self, x: Any) -> Any:
        if not isinstance(x, Tensor) or x.dtype != torch.float32 or x.device.type != "cuda":
            return x
        if torch.compiler.is_compiling() or not (x.is_leaf and x.requires_grad):
            return x.to(torch.get_autocast_dtype("cuda"))
        if id(x) not in self._weights:
            self._weights[id(x)] = x, x.to(torch.get_autocast_dtype("cuda"))
        return self._weights[id(x)][1]


class Calls(TorchDispatchMode):
    """Counts what would be launched on CUDA, and where the host would wait for it.

    One aten call counts as one launch, but for SEVERAL and for calls over lists of tensors. A wait is a number read, a
    result whose size the values decide, or a copy to the host.
    """

    supports_higher_order_operators = True

    @classmethod
    def is_infra_mode(cls) -> bool:
        """Let torch.compile see the code below this mode."""
        return True

    def __init__(self) -> None:
        super().__init__()
        self.launches: collections.Counter[str] = collections.Counter()
        self.waits: collections.Counter[str] = collections.Counter()
        self.places: collections.Counter[str] = collections.Counter()  # of waits: the line of alignkit

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Count nothing for a while."""
        before = self.launches.copy(), self.waits.copy()
        yield
        self.launches, self.waits = before

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = str(func).removeprefix("aten.").removeprefix("alignkit.").split(".")[0]
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        on_cuda = any(x.is_cuda for x in given)
        if on_cuda and name in _WAITS:
            self._wait(name)
        if name == "_local_scalar_dense":
            return 1.0 if args[0].is_floating_point() else 1
        if name == "nonzero":
            return torch.zeros(args[0].numel(), args[0].dim(), dtype=torch.int64, device=args[0].device)
        if name in ("index", "index_put", "index_put_"):
            args = (args[0], [self._chosen(x) for x in args[1]], *args[2:])
        out = func(*args, **kwargs)
        made = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        if name in ("_to_copy", "copy_") and on_cuda and made[0].device.type == "cpu":
            self._wait("copy to the host")
        elif name in ("_to_copy", "copy_") and made[0].is_cuda and given[-1].device.type == "cpu":
            self._wait(TO_THE_CARD)
        if name not in VIEWS and not name.startswith("prim") and (on_cuda or any(x.is_cuda for x in made)):
            self.launches[name] += _launches(name, args)
        return out

    def _wait(self, kind: str) -> None:
        own = [x for x in traceback.extract_stack() if "/alignkit" in x.filename and "/bench/" not in x.filename]
        self.waits[kind] += 1
        self.places[f"{kind} at {Path(own[-1].filename).name}:{own[-1].lineno}" if own else kind] += 1

    def _chosen(self, index: Any) -> Any:
        """All positions in a boolean mask's place: its values, which say how many, are not there."""
        if index is None or index.dtype != torch.bool:
            return index
        self._wait("index by booleans")
        return torch.zeros(index.numel(), dtype=torch.int64, device=index.device)


def _launches(name: str, args: Any) -> int:
    if name.startswith(("_foreach", "_fused")) and args and isinstance(args[0], list | tuple):
        numbers = sum(-(-x.numel() // _FOREACH_CHUNK) for x in args[0])
        return max(1, -(-numbers // _FOREACH_BLOCKS))
    return SEVERAL.get(name, 1)
