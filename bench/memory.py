"""Whether the plan's memory on a GPU is what a step takes there: counted on a pretended card, without one.

    python -m bench.memory [--runs NAME ...] [--whole] [--json FILE]

    plan_error           the worst of eight runs: planned over counted bytes, or the other way (1.15; moonshot 1.05)
    fits_24gb_by_plan    how many of seven runs the plan fits into a card of 24 GB (7; moonshot: dpo of 7B too)

A run's fullest micro-batch, as the plan has it, is computed twice and the weights are updated, by alignkit's own code
on fake tensors (bench/pretended_cuda.py); the peak of the bytes alive is compared with the plan's, CUDA's context left
out of both. All layers are alike: three and six of them give the rest, unless `--whole` counts them. They are not
compiled, because a pretended card compiles nothing. Shapes are Qwen2.5's, with its vocabulary.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import platform
import struct
import sys
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench.commit import commit
from bench.pretended_cuda import pretended_cuda

GIB, MIB = 2**30, 2**20
BLOCK = 512  # bytes that torch's allocator rounds up to
SHAPES: dict[str, dict[str, Any]] = {
    "0.5B": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14},
    "1.5B": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12},
    "3B": {"hidden_size": 2048, "intermediate_size": 11_008, "num_hidden_layers": 36, "num_attention_heads": 16},
    "7B": {"hidden_size": 3584, "intermediate_size": 18_944, "num_hidden_layers": 28, "num_attention_heads": 28}
    | {"num_key_value_heads": 4, "tie_word_embeddings": False, "vocab_size": 152_064},
}
LONG_GROUP = {"group_size": 8, "max_new_tokens": 1024, "max_length": 1024}
ADAPTER = {"lora_rank": 16, "gradient_checkpointing": True}


@dataclass(frozen=True)
class Run:
    """A run whose memory is planned."""

    method: str
    shape: str
    options: Mapping[str, Any] = field(default_factory=dict)


RUNS = {  # the table of docs/guide/memory.md
    "0.5B sft": Run("sft", "0.5B"),
    "0.5B grpo": Run("grpo", "0.5B"),
    "0.5B grpo 8 x 512": Run("grpo", "0.5B", {"group_size": 8, "max_new_tokens": 512, "max_length": 512}),
    "0.5B grpo 8 x 1,024": Run("grpo", "0.5B", LONG_GROUP),
    "1.5B sft": Run("sft", "1.5B"),
    "3B dpo, LoRA": Run("dpo", "3B", {"lora_rank": 16}),
    "7B sft, LoRA, checkpointing": Run("sft", "7B", ADAPTER),
    "7B sft, QLoRA, checkpointing": Run("sft", "7B", ADAPTER | {"quantize": "4bit"}),
}
SMALL_CARD = {
    "0.5B sft": Run("sft", "0.5B"),
    "0.5B dpo": Run("dpo", "0.5B"),
    "0.5B grpo 8 x 1,024, vLLM": Run("grpo", "0.5B", LONG_GROUP | {"sampler": "vllm"}),
    "1.5B sft, 8-bit Adam, checkpointing": Run(
        "sft", "1.5B", {"optimizer": "adamw-8bit", "gradient_checkpointing": True}
    ),
    "3B dpo, LoRA, checkpointing": Run("dpo", "3B", ADAPTER),
    "7B sft, LoRA, checkpointing": RUNS["7B sft, LoRA, checkpointing"],
    "7B sft, QLoRA, checkpointing": RUNS["7B sft, QLoRA, checkpointing"],
}
MOONSHOT = {"7B dpo, LoRA, checkpointing": Run("dpo", "7B", ADAPTER)}
TOTAL, FREE = 24_564 * MIB, 24_100 * MIB  # a card of 24 GB, as its driver counts; beside a desktop
GOALS = {"plan_error": 1.15, "fits_24gb_by_plan": len(SMALL_CARD)}


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the storages on CUDA that are alive, and their peak."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:  # a fake tensor has no number to give
            return 1.0 if args[0].is_floating_point() else 1
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.is_cuda:
                self.see(tensor)
        return out

    def see(self, tensor: Tensor) -> None:
        """Count a tensor's storage from now on, once, until it goes."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._seen:
            return
        size = -(-storage.nbytes() // BLOCK) * BLOCK
        self._seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


def write_folder(folder: Path, shape: str) -> Path:
    """Write a model's config.json, and weights of which the headers alone are there, and a hole in their place."""
    from transformers import AutoModelForCausalLM

    made = folder / shape
    if made.exists():
        return made
    made.mkdir()
    config = config_of(shape)
    config.save_pretrained(made)
    with torch.device("meta"):
        tensors = AutoModelForCausalLM.from_config(config).state_dict()
    header, end = {}, 0
    for name, tensor in tensors.items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        begin, end = end, end + 2 * tensor.numel()
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (made / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return made


def config_of(shape: str, layers: int | None = None) -> Any:
    from transformers import Qwen2Config

    sizes = {"vocab_size": 151_936, "num_key_value_heads": 2, "tie_word_embeddings": True} | SHAPES[shape]
    sizes |= {} if layers is None else {"num_hidden_layers": layers}
    return Qwen2Config(max_position_embeddings=32_768, architectures=["Qwen2ForCausalLM"], **sizes)


def planned(run: Run, folder: Path, **options: Any) -> tuple[Any, Any, Any]:
    """A run's method, its configuration and its plan for a card of 24 GB."""
    from alignkit.config import file as config_file
    from alignkit.memory import Card
    from alignkit.registry import registry
    from alignkit.training.run.plan import make_plan

    method = registry().find("method", run.method)
    given = {"model": str(write_folder(folder, run.shape)), "precision": "bf16", **run.options, **options}
    resolved = config_file.resolve(method, options=given, config=None)
    return method(), resolved, make_plan(method(), resolved, card=Card(TOTAL, FREE, "24 GB"))


def counted(run: Run, method: Any, resolved: Any, tokens: int, *, whole: bool) -> int:
    """The peak of an update and of two more micro-batches of so many tokens, bytes; from 3 and 6 layers, or all."""
    layers = SHAPES[run.shape]["num_hidden_layers"]
    if whole:
        return counted_layers(run, method, resolved, tokens, layers)
    few, more = (counted_layers(run, method, resolved, tokens, number) for number in (3, 6))
    return few + (more - few) * (layers - 3) // 3


def counted_layers(run: Run, method: Any, resolved: Any, tokens: int, layers: int) -> int:
    """The peak with so many layers, bytes."""
    from transformers import AutoModelForCausalLM

    from alignkit.policy.head import PLAIN
    from alignkit.policy.load import load_policy
    from alignkit.training.gradient.optimizer import make_optimizer
    from alignkit.training.gradient.reference import Reference
    from alignkit.training.gradient.step import accumulate
    from alignkit.training.run.plan import keeps_reference

    model = resolved.model
    options: dict[str, Any] = {"lora_rank": model.lora_rank, "gradient_checkpointing": model.gradient_checkpointing}

    def load(**more: Any) -> Any:
        with torch.device("cuda"):  # an adapter is made where its base lies
            return load_policy("pretended", precision="bf16", attention="tree", compiled=False, **more)

    def fake_model(*_: Any) -> Any:
        return AutoModelForCausalLM.from_config(config_of(run.shape, layers), dtype=torch.float32)

    patches = {
        "alignkit.policy.load._load_model": fake_model,
        "alignkit.policy.policy.find_form": lambda model: PLAIN,  # it reads values
        "torch.nn.Module.to": _moved,
        "alignkit.policy.four_bits.quantize": _quantize,
        "alignkit.policy.four_bits.computed_weight": lambda layer, dtype=torch.float32: layer.weight.new_empty(
            layer.out_features, layer.in_features, dtype=dtype
        ),
    }
    with pretended_cuda(TOTAL), flex_uncompiled(), LiveBytes() as live, _replaced(patches):
        policy = load(**options, in_four_bits=model.quantize is not None)
        reference = Reference(policy, frozen=load()) if keeps_reference(method, resolved) else None
        in_eight_bits = resolved.method.optimizer.endswith("-8bit")
        trained = [p for p in policy.parameters() if p.requires_grad] if in_eight_bits else []
        moments = [torch.empty(2 * p.numel(), dtype=torch.uint8, device="cuda") for p in trained]
        optimizer = None if in_eight_bits else make_optimizer(policy.parameters(), resolved.method)
        live.peak = live.now  # a model is read on the host
        micro_batch = full_row(method, resolved, tokens, reads_reference=reference is None)
        for number in (1, 2):  # the first update makes the moments, a second micro-batch finds a gradient
            accumulate(policy, method, resolved.method, [micro_batch] * number, reference=reference)
            if optimizer is not None and number == 1:
                optimizer.step()
            policy.zero_grad(set_to_none=True)
        moments.clear()
        return live.peak


def full_row(method: Any, resolved: Any, tokens: int, *, reads_reference: bool) -> Any:
    """A micro-batch of so many tokens: trees of at most 2,048, a fifth of each its prompt."""
    from alignkit.data.trees.packs import lay_out
    from alignkit.data.trees.trees import tree
    from alignkit.training.gradient.step import MicroBatch

    answers = len(method.trains_on.completions) or resolved.method.group_size
    trees = -(-tokens // 2048)
    size = tokens // trees
    own = size * 4 // 5 // answers
    scored = (np.zeros(own, np.int32), np.ones(own, bool))
    pack = lay_out([tree(str(n), np.zeros(size - answers * own, np.int32), [scored] * answers) for n in range(trees)])
    known_T = np.zeros(len(pack.target_T), np.float32)
    sampled = {"sampler_logprob_T": known_T, "advantage_N": np.ones(pack.num_completions, np.float32)}
    given: dict[str, Any] = sampled if method.trains_on.is_sampled else {}
    return MicroBatch(pack, reference_T=known_T if reads_reference and "reference" in method.needs else None, **given)


def _moved(module: torch.nn.Module, *args: Any, **kwargs: Any) -> torch.nn.Module:
    """A module on the device asked for: it is there. Parameters are cast one by one, fake ones cannot be swapped."""
    for dtype in (x for x in (*args, *kwargs.values()) if isinstance(x, torch.dtype)):
        for parameter in module.parameters():
            if parameter.is_floating_point() and parameter.dtype != dtype:
                parameter.data = parameter.data.to(dtype)
    return module


class Linear4bit(torch.nn.Linear):
    """Stands in for bitsandbytes' layer, whose weights cannot be fake: as many bytes, alignkit's own product."""

    def __init__(self, like: torch.nn.Linear) -> None:
        from alignkit.policy import four_bits

        torch.nn.Module.__init__(self)
        self.in_features, self.out_features, self.bias = like.in_features, like.out_features, like.bias
        num_bytes = int(four_bits.BYTES_PER_WEIGHT * like.weight.numel())
        narrow = torch.empty(num_bytes, dtype=torch.uint8, device="cuda")
        self.weight = torch.nn.Parameter(narrow, requires_grad=False)
        self.forward = functools.partial(four_bits._forward, self)  # type: ignore[method-assign]


def _quantize(model: torch.nn.Module, head: torch.nn.Module | None, device: torch.device) -> None:
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is torch.nn.Linear and child is not head:
                setattr(parent, name, Linear4bit(child))


@contextlib.contextmanager
def _replaced(patches: Mapping[str, Any]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for name, value in patches.items():
            stack.enter_context(mock.patch(name, value))
        yield


@contextlib.contextmanager
def flex_uncompiled() -> Iterator[None]:
    """Let FlexAttention be one call, as its kernel is."""
    import torch.nn.attention.flex_attention as flex

    with (
        mock.patch.object(flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True),
        mock.patch("alignkit.policy.attention._compiled_flex", return_value=flex.flex_attention),
    ):
        yield


def errors(names: Sequence[str], folder: Path, *, whole: bool) -> dict[str, dict[str, Any]]:
    """Planned and counted bytes of runs, and how many times the one is the other."""
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        method, resolved, made = planned(RUNS[name], folder, compile=False)
        sides = {"planned_mib": (made.total - made.memory["context"]) / MIB}
        sides["counted_mib"] = counted(RUNS[name], method, resolved, made.tokens, whole=whole) / MIB
        low, high = sorted(sides.values())
        found[name] = {**sides, "tokens": made.tokens, "error": high / low}
        print(f"{name:<30} {json.dumps(found[name])}", file=sys.stderr, flush=True)
    return found


def fits(folder: Path) -> dict[str, dict[str, Any]]:
    """Which runs the plan fits into a card of 24 GB, with compiled layers, as they are on CUDA."""
    found = {}
    for name, run in (SMALL_CARD | MOONSHOT).items():
        _, _, made = planned(run, folder)
        found[name] = {"planned_mib": made.total / MIB, "tokens": made.micro_batch_tokens, "fits": made.total <= FREE}
        found[name] |= {"vllm_memory": made.vllm_memory} if made.vllm_memory else {}
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", nargs="*", choices=list(RUNS), default=list(RUNS), metavar="NAME")
    parser.add_argument("--whole", action="store_true", help="count all layers, in place of a few")
    parser.add_argument("--json", type=Path, help="write the results here too")
    told = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        fitting, counts = fits(Path(name)), errors(told.runs, Path(name), whole=told.whole)
    figures: dict[str, float] = {"fits_24gb_by_plan": sum(fitting[run]["fits"] for run in SMALL_CARD)}
    if counts:
        figures["plan_error"] = max(one["error"] for one in counts.values())
    results = {
        "commit": commit(),
        "machine": {"cpu": platform.processor() or platform.machine(), "torch": version("torch")},
        "goals": GOALS,
        "figures": figures,
        "fits": fitting,
        "errors": counts,
    }
    if told.json:
        told.json.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
