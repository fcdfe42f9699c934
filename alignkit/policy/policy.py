"""The policy: one module, `forward(pack) -> log-probs of the scored tokens`, body and head inside.

FSDP2 shards this module, compile compiles it and checkpointing wraps it; a call of the inner model and a head by hand
would fail there. The tree path computes a prompt once for all its completions. The plain path (one completion per row,
the model's own attention) is its reference, and the fallback for models that the tree path does not know.
Shape letters: alignkit/policy/__init__.py.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from alignkit.data.trees.packs import Pack
from alignkit.policy import attention
from alignkit.policy.architecture import head_size, num_positions
from alignkit.policy.attention import DenseLayout, FlexLayout, TreeLayout, mask_array, tree_refusal, windows
from alignkit.policy.compiled import MIN_TOKENS, CompiledLayers
from alignkit.policy.cpu.kernels import CpuKernels
from alignkit.policy.cuda import flash_trees
from alignkit.policy.cuda.flash_trees import FlashLayout, span_arrays
from alignkit.policy.cuda.layers import CudaLayers
from alignkit.policy.dropout import Dropout
from alignkit.policy.four_bits import computed_weight
from alignkit.policy.head import PLAIN, find_form
from alignkit.policy.in_place import accumulate_in_place
from alignkit.policy.logprobs import head_logits, token_logprobs
from alignkit.policy.separate_rows import SeparateRows
from alignkit.policy.transfer import to_device

_BATCH = "ids_BL "  # names of the plain path's batches begin so
_MAX_TOKENS = 8192  # of a batch on the plain path
_MAX_PADDING = {False: 128, True: 2048}  # tokens of padding that cost less than a pass more, by whether on CUDA


class Output(NamedTuple):
    """What one forward pass gives. It is a tuple, so that FSDP finds the tensors in it.

    Args:
        logprob_T: float32 [T], with gradient.
        value_N: float32 [N], with a scalar head.
        entropy_T: float32 [T], nats, without gradient; only where it was asked for.
    """

    logprob_T: Tensor
    value_N: Tensor | None = None
    entropy_T: Tensor | None = None


class Policy(nn.Module):
    """A causal model of transformers that scores completions.

    Args:
        model: `*ForCausalLM`, or `*ForSequenceClassification` with one label (then `scalar_head`); may be a peft model.
        path: "tree" or "plain".
        autocast: compute type under fp32 weights; None computes in the weights' type.
        scalar_head: the head gives one value in the LM head's place.
    """

    def __init__(
        self, model: Any, *, path: str, autocast: torch.dtype | None = None, scalar_head: bool = False
    ) -> None:
        super().__init__()
        self.model = model
        self.autocast = autocast
        self.scalar_head = scalar_head
        self.num_positions = num_positions(self.base)
        self.tree_refusal = tree_refusal(self.base)
        """Why the tree path does not compute this model; None where it does."""
        self.windows = windows(self.base)
        """Sliding windows of the layers in tokens; None is a layer that sees everything."""
        self.head_form = PLAIN if scalar_head else find_form(self.base)
        self.path = path
        self.dropout = Dropout()
        self.starts_at_base = True  # False of an adapter that was trained before
        """What the model came with."""
        self._cpu = CpuKernels(self.body) if self.device.type == "cpu" else None
        self._has_flash = flash_trees.is_available(self.device, head_size(self.config.get_text_config()))
        self._cuda = None
        if autocast is not None and self.device.type == "cuda":
            self._cuda = CudaLayers(self.base, self.body, autocast)
        self._compiled: CompiledLayers | None = None
        self._in_fp32 = False
        self.use_path(path)

    @property
    def has_adapter(self) -> bool:
        """Whether a LoRA adapter is trained on frozen weights."""
        return hasattr(self.model, "disable_adapter")

    @property
    def base(self) -> Any:
        """The transformers model, without peft's wrapper (adapters stay in place)."""
        return self.model.get_base_model() if self.has_adapter else self.model

    @property
    def body(self) -> nn.Module:
        """The decoder without its head."""
        return self.base.get_decoder() if hasattr(self.base, "get_decoder") else self.base.base_model

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def config(self) -> Any:
        return self.base.config

    @property
    def num_embedded(self) -> int:
        """Rows of the embedding: token ids lie below."""
        return int(self.base.get_input_embeddings().weight.shape[0])

    @property
    def computes_again(self) -> bool:
        """Whether the backward pass computes layers again (gradient checkpointing)."""
        return any(getattr(module, "gradient_checkpointing", False) for module in self.base.modules())

    @property
    def is_compiled(self) -> bool:
        """Whether training computes by compiled layers; on the plain path it does not."""
        return self._compiled is not None and self.path == "tree"

    def use_path(self, path: str) -> None:
        """Switch between the tree path and the plain path."""
        self.path = path
        self._switch()
        if path == "tree":
            attention.register()
        self.base.set_attn_implementation(attention.NAME if path == "tree" else attention.plain_kind(self.base))

    @contextmanager
    def on_path(self, path: str) -> Iterator[None]:
        """Compute on another path for a while."""
        before = self.path
        self.use_path(path)
        try:
            yield
        finally:
            self.use_path(before)

    @contextmanager
    def attending_by(self, name: str) -> Iterator[None]:
        """Let the model attend by another function of transformers' AttentionInterface for a while."""
        before = self.base.config._attn_implementation
        self.base.set_attn_implementation(name)
        try:
            yield
        finally:
            self.base.set_attn_implementation(before)

    def leave_weights_to_autocast(self) -> None:
        """Hold no copies of weights: those that are sharded change hands in every pass."""
        if self._cuda is not None:
            self._cuda.remove()
            self._cuda = None

    def compile_layers(self, *, backend: str = "inductor") -> None:
        """Let the decoder layers compute the tree path by torch.compile; each kind of row costs its time once."""
        self._compiled = CompiledLayers(self.body, backend=backend)
        self._switch()

    @contextmanager
    def in_fp32(self) -> Iterator[None]:
        """Compute in the weights' own precision for a while, a few short rows.

        Where that is not the run's, nothing is compiled for it, neither layers nor attention.
        """
        before = self.autocast, self._in_fp32
        self.autocast, self._in_fp32 = None, self.autocast is not None or self._in_fp32
        self._switch()
        try:
            yield
        finally:
            self.autocast, self._in_fp32 = before
            self._switch()

    def _switch(self) -> None:
        """Let the layers compute by what belongs to the path."""
        is_tree = self.path == "tree"
        compiled = self.is_compiled and not self._in_fp32
        if self._cpu is not None:
            self._cpu.switch(is_tree)
        if self._cuda is not None:
            self._cuda.switch(is_tree and not compiled)
        if self._compiled is not None:
            self._compiled.switch(compiled)

    @contextmanager
    def base_weights(self) -> Iterator[None]:
        """Compute for a while with the weights under the adapter, where there is one."""
        with self.model.disable_adapter() if self.has_adapter else nullcontext():
            yield

    def merged_weights(self, wanted: Callable[[str], bool] = lambda name: True) -> Iterator[tuple[str, Tensor]]:
        """Yield every wanted tensor by its name in the checkpoint format; an adapted one as W + scaling B A.

        The policy is left alone: merging in place and taking it back would round the frozen weights. A tied head is
        named like the rest.
        """
        for name, tensor in self.base.state_dict().items():
            if ".lora_" in name or not wanted(name.replace(".base_layer.", ".")):
                continue
            owner, _, kind = name.rpartition(".base_layer.")
            if not owner:
                yield name, tensor
            elif kind == "weight":
                layer = self.base.get_submodule(owner)
                deltas = [layer.get_delta_weight(adapter) for adapter in layer.active_adapters]
                yield f"{owner}.{kind}", (computed_weight(layer.base_layer) + sum(deltas)).detach()
            elif not kind.startswith("weight."):  # a 4-bit weight's scales
                yield f"{owner}.{kind}", tensor

    def activation_memory(self) -> AbstractContextManager[object]:
        """Memory of one micro-batch's activations, given back at the end of the block.

        The graph must go before the block ends. On a GPU this is torch's own allocator; with gradient checkpointing
        too, because a layer's activations are then freed at once.
        """
        return nullcontext() if self._cpu is None or self.computes_again else self._cpu.activation_memory()

    def backward(self, loss: Tensor) -> None:
        """Add a loss's gradient to the weights' `.grad`."""
        from torch.distributed.fsdp import FSDPModule

        compiled = self._compiled if self.is_compiled and not isinstance(self, FSDPModule) else None
        with accumulate_in_place(), nullcontext() if compiled is None else compiled.adding():
            loss.backward()

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Autocast as configured."""
        if self._cuda is not None and self.autocast is not None:
            self._cuda.renew()
        with torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            yield

    def arrays(self, pack: Pack, temperature_N: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """What `forward` reads of a row on the device, by name."""
        found = self._tree_arrays(pack) if self.path == "tree" else self._plain_arrays(pack)
        if self.scalar_head:
            return found
        temperature_N = np.ones(pack.num_completions) if temperature_N is None else temperature_N
        temperature_T = temperature_N[pack.completion_T].astype(np.float32, copy=False)
        return found | {"target_T": pack.target_T, "temperature_T": temperature_T}

    def forward(
        self,
        pack: Pack,
        temperature_N: np.ndarray | None = None,
        *,
        entropy: bool = False,
        tensors: Mapping[str, Tensor] | None = None,
    ) -> Output:
        """Score the completions of one row of trees.

        Args:
            pack: the row.
            temperature_N: float32 [N], temperature of each completion; default 1.
            entropy: also return the entropy of each scored token's distribution.
            tensors: what `arrays` gives of both, on the device, where it was moved there before.
        """
        device = self.device
        if tensors is None:
            (tensors,) = to_device([self.arrays(pack, temperature_N)], device)
        with self.computing():
            hidden_TH, last_NH = self._states(pack, tensors)
            if self.scalar_head:
                value_N = self.base.score(last_NH)[:, 0].float()
                return Output(torch.zeros(len(pack.target_T), device=device), value_N)
            hidden_TH = hidden_TH.to(self.autocast or hidden_TH.dtype)
            head = self.base.get_output_embeddings()
            with torch.autocast(device.type, enabled=False):
                logprob_T, entropy_T = token_logprobs(
                    hidden_TH,
                    head.weight,
                    tensors["target_T"],
                    tensors["temperature_T"],
                    bias_V=head.bias,
                    form=self.head_form,
                    entropy=entropy,
                )
                return Output(logprob_T, None, entropy_T)

    def scored_states(self, pack: Pack) -> Tensor:
        """Return the hidden states that predict the scored tokens [T, H]."""
        return self._states(pack, *to_device([self.arrays(pack)], self.device))[0]

    def logits(self, hidden_TH: Tensor) -> Tensor:
        """Return the head's logits of such hidden states, fp32 [T, V], computed in fp32 and without gradient."""
        head = self.base.get_output_embeddings()
        wide = torch.promote_types(hidden_TH.dtype, torch.float32)
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            return head_logits(hidden_TH.to(wide), head.weight, head.bias, self.head_form)

    def _states(self, pack: Pack, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Compute the states that predict the scored tokens [T, H], and each completion's last one [N, H]."""
        states_SH = self._tree_states(pack, tensors) if self.path == "tree" else self._plain_states(tensors)
        return states_SH[tensors["source_T"]], states_SH[tensors["last_N"]]

    def _tree_arrays(self, pack: Pack) -> dict[str, np.ndarray]:
        pack = self._filled_up(pack)
        found = {"ids_S": pack.ids_S, "position_S": pack.position_S, "source_T": pack.source_T, "last_N": pack.last_N}
        found |= {"mask": mask_array(pack.spans, self._flex_windows)} if self._flex_windows else {}
        return found | (span_arrays(pack.spans) if self._is_flash else {})

    def _tree_states(self, pack: Pack, tensors: Mapping[str, Tensor]) -> Tensor:
        ids, positions = tensors["ids_S"][None], tensors["position_S"][None]
        tree = self._layout(pack, tensors)
        states: Tensor = self.body(input_ids=ids, position_ids=positions, use_cache=False, tree=tree).last_hidden_state
        return states[0]

    def _filled_up(self, pack: Pack) -> Pack:
        return pack.filled_up(MIN_TOKENS) if self._cpu is None or self._compiled is not None else pack

    @property
    def _is_flash(self) -> bool:
        return self._cpu is None and self.autocast is not None and self._has_flash

    @property
    def _flex_windows(self) -> frozenset[int | None]:
        """Windows of the layers that FlexAttention computes."""
        if self._cpu is not None or self._in_fp32:
            return frozenset()
        return self.windows - {None} if self._is_flash else self.windows

    def _layout(self, pack: Pack, tensors: Mapping[str, Tensor]) -> TreeLayout:
        """Lay the trees of a row out for the device, once for all layers."""
        pack, of_flex = self._filled_up(pack), self._flex_windows
        if self._cpu is not None:
            return self._cpu.layout(pack.spans)
        if self._in_fp32:
            return DenseLayout.of(pack.spans, self.device, self.windows)
        flex = FlexLayout.made(tensors["mask"], len(pack.ids_S), of_flex) if of_flex else None
        if self._is_flash:
            return FlashLayout.made(tensors, flex)
        assert flex is not None
        return flex

    def _plain_arrays(self, pack: Pack) -> dict[str, np.ndarray]:
        """One completion per row, each after its own copy of the prompt, without any sharing or packing."""
        from torch.distributed.fsdp import FSDPModule

        # Ranks gather a layer's weights together at each pass, so all of them pass equally often: once.
        bounds = (_MAX_PADDING[self.device.type == "cuda"], _MAX_TOKENS)
        max_padding, max_tokens = (sys.maxsize, sys.maxsize) if isinstance(self, FSDPModule) else bounds
        rows = SeparateRows.of(pack, max_padding=max_padding, max_tokens=max_tokens)
        batches = {f"{_BATCH}{number}": ids_BL for number, ids_BL in enumerate(rows.batches)}
        return batches | {"source_T": rows.source_T, "last_N": rows.last_N}

    def _plain_states(self, tensors: Mapping[str, Tensor]) -> Tensor:
        batches = [x for name, x in tensors.items() if name.startswith(_BATCH)]
        states = [self.body(input_ids=ids_BL, use_cache=False).last_hidden_state.flatten(0, 1) for ids_BL in batches]
        return torch.cat(states)


def own_shard(tensor: Tensor) -> Tensor:
    """Return what this rank holds of a tensor."""
    from torch.distributed.tensor import DTensor

    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def finite_total(tensors: Iterable[Tensor]) -> Tensor:
    """Return a scalar on the device that is not finite where one of these, in this rank's shards, holds nan or inf.

    A sum, or on CUDA a norm of few kernels; of finite numbers too it may overflow: `non_finite` tells them apart.
    """
    own = [own_shard(tensor.detach()) for tensor in tensors]
    if own and own[0].is_cuda:
        return torch.nn.utils.get_total_norm(own)
    return torch.stack([x.sum(dtype=torch.float32) for x in own]).sum()


def non_finite(named: Iterable[tuple[str, Tensor]]) -> list[str]:
    """Return the names of tensors that hold nan or an infinity; of sharded ones, in this rank's shards.

    A sum with a term that is not finite is not finite, and takes one pass without a copy. A second look tells apart
    finite terms whose sum overflows.
    """
    local = [(name, own_shard(x.detach())) for name, x in named]
    looked_at = [(name, x) for name, x in local if x.is_floating_point() and not x.is_meta]
    if not looked_at:
        return []
    sums = torch.stack([x.sum(dtype=torch.float32) for _, x in looked_at]).isfinite().tolist()
    suspect = (one for one, is_finite in zip(looked_at, sums, strict=True) if not is_finite)
    return [name for name, x in suspect if not bool(x.isfinite().all())]
