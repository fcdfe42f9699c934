"""How many kernels a training step launches on CUDA, and how often the host waits: counted without a card.

    python -m bench.launches [--quick] [--json FILE] [--only PART ...]

    head_launches              head and loss alone, 3,000 scored tokens, forward and backward (at most 150; moonshot 20)
    step_launches              one micro-batch of 4,096 tokens of the Qwen2.5-0.5B shape, layers not compiled (3,100)
    step_launches_compiled     the same with compiled layers: Inductor's kernels and what it calls (1,200; moonshot 800)
    host_syncs_per_step        numbers read, results whose size the values decide, copies to the host, in a step of the
                               loop with two micro-batches: the worst of sft, dpo, grpo's update, reward (1: at its end)
    recompilations_after_warmup     graphs made by 12 steps of sft, dpo and grpo, samples between, after the second (0)
    flex_block_mask_ms         the block mask of 60 trees in 16,384 tokens, made on the host (5; moonshot 1)

Counts are of aten calls on a pretended card (bench/pretended_cuda.py, where the list of calls that launch nothing is).
What is assumed: a call launches one kernel, but for those in SEVERAL and for calls over lists of tensors; all layers
are alike, so that one and two are counted; FlexAttention is one kernel forward and two backward. Compiled layers are
counted in the code that Inductor writes for an H100, which is not run. Copies to the card are shown apart. plan_error
and fits_24gb_by_plan: `python -m bench.memory`.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import copy
import functools
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from bench.commit import commit
from bench.pretended_cuda import CUDA, SEVERAL, TO_THE_CARD, VIEWS, Calls, pretended_cuda
from bench.texts import ROOT

VOCAB, HIDDEN, LAYERS = 151_936, 896, 24
GOALS = {
    "head_launches": 150,
    "step_launches": 3_100,
    "step_launches_compiled": 1_200,
    "host_syncs_per_step": 1,
    "recompilations_after_warmup": 0,
    "flex_block_mask_ms": 5,
}
BEFORE = {"head_launches": 9_800, "step_launches": 13_600, "host_syncs_per_step": 20}  # at cf2ed70
CASES = ("sft", "dpo", "grpo", "reward")
Counts = dict[str, int]


def head_launches() -> collections.Counter[str]:
    """Head and loss of 3,000 scored tokens."""
    from alignkit.policy.in_place import accumulate_in_place
    from alignkit.policy.logprobs import token_logprobs

    with pretended_cuda():
        states_TH = torch.empty(3000, HIDDEN, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        weight_VH = torch.nn.Parameter(torch.empty(VOCAB, HIDDEN, device="cuda"))
        weight_VH.grad = torch.empty_like(weight_VH)
        target_T, ones_T = torch.empty(3000, device="cuda", dtype=torch.int64), torch.ones(3000, device="cuda")
        with Calls() as calls, accumulate_in_place():
            logprob_T, _ = token_logprobs(states_TH, weight_VH, target_T, ones_T)
            logprob_T.backward(ones_T)
    return calls.launches


@contextlib.contextmanager
def pretended_policy(layers: int, *, scalar_head: bool = False) -> Iterator[Any]:
    """A policy of the 0.5B shape on a pretended card, in bf16; FlexAttention is one call."""
    import torch.nn.attention.flex_attention as flex
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, Qwen2Config

    from alignkit.policy import attention
    from alignkit.policy.head import PLAIN
    from alignkit.policy.policy import Policy

    config = Qwen2Config(
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        intermediate_size=4864,
        num_hidden_layers=layers,
        num_attention_heads=14,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        num_labels=1,
    )
    kind: Any = AutoModelForSequenceClassification if scalar_head else AutoModelForCausalLM
    with contextlib.ExitStack() as stack:
        # it may be called without torch.compile
        stack.enter_context(mock.patch.object(flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True))
        stack.enter_context(mock.patch.object(attention, "_compiled_flex", return_value=flex.flex_attention))
        stack.enter_context(mock.patch("alignkit.policy.policy.find_form", return_value=PLAIN))  # it reads values
        stack.enter_context(pretended_cuda())
        with torch.device("cuda"):
            model = kind.from_config(config)
        yield Policy(model, path="tree", autocast=torch.bfloat16, scalar_head=scalar_head).train()


def pack_of(case: str, *, trees: int = 8) -> Any:
    """A row of 4,096 tokens, 3,000 of them scored: a prompt of 137, and one, two or eight answers a tree."""
    from alignkit.data.trees.packs import lay_out
    from bench.gpu_ground import trees_of

    answers = {"sft": (375,), "grpo": (46,) * 7 + (53,)}.get(case, (187, 188))
    ids = np.random.default_rng(0).integers(0, VOCAB, 4096).tolist()
    row = {"id": "", "prompt": ids[:137], "completions": [ids[:size] for size in answers]}
    return lay_out(trees_of([row] * trees))


def micro_batch_of(case: str, **sizes: int) -> Any:
    from alignkit.training.gradient.step import MicroBatch

    pack = pack_of(case, **sizes)
    known_T = np.zeros(len(pack.target_T), np.float32)
    given: dict[str, dict[str, Any]] = {
        "dpo": {"reference_T": known_T},
        "grpo": {"sampler_logprob_T": known_T, "advantage_N": np.ones(pack.num_completions)},
    }
    return MicroBatch(pack, **given.get(case, {}))


def step_launches(layers: int, *, compiled: bool = False) -> collections.Counter[str]:
    """One micro-batch, forward and backward, gradients there already."""
    from alignkit.training.gradient.step import accumulate
    from bench.gpu_ground import method_of

    method, config = method_of("sft")
    micro_batch, calls = micro_batch_of("sft"), Calls()
    with pretended_policy(layers) as policy, compiled_layers(policy, calls) if compiled else contextlib.nullcontext():
        for _ in range(2):  # the first makes `.grad`
            calls.launches.clear()
            with calls:
                accumulate(policy, method, config, [micro_batch])
    return calls.launches


@contextlib.contextmanager
def compiled_layers(policy: Any, calls: Calls) -> Iterator[None]:
    """Let Inductor write the layers' code for an H100; what it would launch is counted, the graph runs as it is.

    Constant folding, which computes on the card, is off.
    """
    from torch._inductor.compile_fx import compile_fx, compile_fx_inner

    class Written(Exception):
        """The code is there; it cannot be loaded without a driver."""

    codes: list[str] = []

    def write(graph: Any) -> None:
        code, _ = graph.codegen()
        codes.append(code if isinstance(code, str) else code.value)
        raise Written

    def count_code(module: torch.fx.GraphModule, inputs: Any, **options: Any) -> Callable[[Any], Any]:
        _on_the_card(module.graph)
        as_it_is, before = torch.fx.GraphModule(module, copy.deepcopy(module.graph)), len(codes)
        try:
            compile_fx_inner(module, inputs, **options)
        except Exception:
            if len(codes) == before:
                raise
        launches = launches_of(codes[-1])

        uncompiled = torch._dynamo.disable(as_it_is)

        def run(arguments: Any) -> Any:
            with calls.paused():
                found = uncompiled(*arguments)
            calls.launches.update(launches)
            return found

        run._boxed_call = True  # type: ignore[attr-defined]
        return run

    def backend(module: torch.fx.GraphModule, inputs: Any) -> Any:
        return compile_fx(module, inputs, inner_compile=count_code)

    nothing, state = (lambda *_, **__: None), (lambda *_, **__: torch.zeros(16, dtype=torch.uint8))
    functions: dict[str, Any] = {
        "torch.cuda._lazy_init": nothing,
        "torch.cuda.set_device": nothing,
        "torch.cuda._exchange_device": lambda number: 0,
        "torch.cuda._maybe_exchange_device": lambda number: 0,
        "torch.cuda.device_count": lambda: 1,
        "torch.cuda.get_device_capability": lambda device=None: (9, 0),
        "torch.cuda.get_rng_state": state,
        "torch.cuda.set_rng_state": nothing,
        "torch.utils._triton.triton_hash_with_backend": lambda: "none",
        "torch._inductor.graph.GraphLowering.compile_to_module": write,
    }
    with contextlib.ExitStack() as stack:
        for name, function in functions.items():
            stack.enter_context(mock.patch(name, function))
        own = torch.cuda.get_device_properties
        stack.enter_context(mock.patch("torch.cuda._get_device_properties", own, create=True))
        options = {"force_disable_caches": True, "compile_threads": 1, "joint_graph_constant_folding": False}
        stack.enter_context(torch._inductor.config.patch(options))
        torch._dynamo.reset()
        policy.compile_layers(backend=backend)
        policy.use_path(policy.path)
        yield


def _on_the_card(graph: torch.fx.Graph) -> None:
    """Name the card where C++, which was told "meta", named that."""
    for node in list(graph.nodes):
        if node.target is torch.ops.prims.device_put.default and node.args[1].type == "meta":
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
        elif getattr(node.kwargs.get("device"), "type", None) == "meta":
            node.update_kwarg("device", CUDA)


def launches_of(code: str) -> collections.Counter[str]:
    """Launches in the code that Inductor wrote for a graph: its own kernels, and what it calls."""
    body = code[code.index("def call(") :]
    found = collections.Counter(kernels=len(re.findall(r"^\s*triton_\w+\.run\(", body, re.MULTILINE)))
    found.update(re.findall(r"^\s*(?:\w+ = )?extern_kernels\.(\w+)\(", body, re.MULTILINE))
    for name in re.findall(r"^\s*\w+ = torch\.ops\.\w+\.(\w+)", body, re.MULTILINE):
        found[name] += 0 if name in VIEWS else SEVERAL.get(name, 1)
    return found


def inferred(few: Mapping[str, int], more: Mapping[str, int]) -> Counts:
    """Counts of LAYERS layers from those of 1 and of 2."""
    return {name: few.get(name, 0) + (LAYERS - 1) * (more[name] - few.get(name, 0)) for name in more}


def host_syncs() -> dict[str, dict[str, Any]]:
    """Waits of the loop's second step, by case: two micro-batches, clipping, the update, what is logged."""
    from bench.gpu_ground import loop_of

    found: dict[str, dict[str, Any]] = {}
    for case in CASES:
        micro_batches = [micro_batch_of(case, trees=2) for _ in range(2)]
        with pretended_policy(1, scalar_head=case == "reward") as policy, Calls() as calls:
            loop = loop_of(policy, case, micro_batches, steps=2, at_end=lambda: None)
            loop.update.utilisation = mock.Mock(of=lambda *_: {})
            calls.waits.clear()
            loop.step()
            calls.waits.clear()
            calls.places.clear()
            loop.step()
            found[case] = {**calls.waits, "places": dict(calls.places)}
    return found


def flex_block_mask_ms() -> float:
    """Median milliseconds of FlexLayout.of for 60 trees of 16,384 tokens together."""
    from alignkit.data.trees.packs import lay_out
    from alignkit.policy.attention import FlexLayout
    from bench.gpu_ground import trees_of

    row = {"id": "", "prompt": [0] * 73, "completions": [[0] * 100, [0] * 100]}
    spans = lay_out(trees_of([row] * 59 + [{**row, "completions": [[0] * 100, [0] * 104]}])).spans
    found = []
    for _ in range(21):
        began = time.perf_counter()
        FlexLayout.of(spans, torch.device("cpu"))
        found.append(time.perf_counter() - began)
    return 1e3 * statistics.median(found[1:])


def recompilations() -> dict[str, int]:
    """Graphs made after the first two steps of a loop, by method: rows of other lengths each step, samples after each.

    On the CPU, where FlexAttention has no backward pass: the two-call attention stands outside the graphs instead.
    """
    from torch._dynamo.utils import counters

    from alignkit.policy.load import load_policy
    from alignkit.rollouts.batched import BatchedGeneration
    from alignkit.rollouts.sampler import Request
    from bench.gpu_ground import case_rows, loop_of, micro_batches_of
    from bench.train_step_cases import write_model

    def made_late(case: str, model: Path) -> int:
        policy = load_policy(model, precision="bf16")
        policy.compile_layers(backend="eager")  # graphs are counted, not computed fast
        sampler = BatchedGeneration(policy, end_ids=frozenset())
        rows = case_rows(case, rehearse=True, rows=24)
        micro_batches = micro_batches_of(case, policy, rows[:2], 256)
        graphs: list[int] = []

        def at_end() -> None:
            micro_batches[:] = micro_batches_of(case, policy, rows[2 * len(graphs) :][:2], 256)
            sampler.generate([Request([1, 2, 3], 1.0, 0, 4)])
            graphs.append(int(counters["stats"]["unique_graphs"]))

        loop_of(policy, case, micro_batches, steps=12, at_end=at_end).train()
        return graphs[-1] - graphs[1]

    with tempfile.TemporaryDirectory() as folder, mock.patch("alignkit.policy.policy.CpuKernels", _LayersAsOnCuda):
        model = write_model(Path(folder) / "model", "rehearsal")
        return {case: made_late(case, model) for case in ("sft", "dpo", "grpo")}


class _LayersAsOnCuda:
    """The layers as they are and the CPU's attention, which a graph leaves out, in place of a CPU's kernels."""

    def __init__(self, body: Any) -> None:
        pass

    def switch(self, on: bool) -> None:
        pass

    def layout(self, spans: Any) -> Any:
        return _two_calls().of(spans)

    def activation_memory(self) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext()


@functools.cache
def _two_calls() -> Any:
    from alignkit.policy.cpu.split_attention import SegmentLayout

    class TwoCalls(SegmentLayout):
        attend = torch.compiler.disable(SegmentLayout.attend)

    return TwoCalls


PARTS: dict[str, Callable[[], Mapping[str, Any]]] = {
    "head_launches": head_launches,
    "step_launches": lambda: inferred(step_launches(1), step_launches(2)),
    "step_launches_compiled": lambda: inferred(step_launches(1, compiled=True), step_launches(2, compiled=True)),
    "host_syncs_per_step": host_syncs,
    "recompilations_after_warmup": recompilations,
    "flex_block_mask_ms": lambda: {"ms": flex_block_mask_ms()},
}


def figure(part: str, found: Mapping[str, Any]) -> float:
    """A part's figure: the sum of its counts, or the worst case."""
    if part == "host_syncs_per_step":
        return max(sum(n for name, n in one.items() if name not in (TO_THE_CARD, "places")) for one in found.values())
    return max(found.values()) if part == "recompilations_after_warmup" else sum(found.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="without compiled layers")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=None, metavar="PART")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        print(json.dumps(PARTS[given.part]()))
        return
    results, figures = {}, {}
    print(f"{'':<28}{'seen':>9}{'goal':>9}{'before':>9}")
    for part in given.only or PARTS:
        if given.quick and given.only is None and part == "step_launches_compiled":
            continue
        command = [sys.executable, "-m", "bench.launches", "--part", part]
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(f"{part} failed:\n{done.stderr[-3000:]}")
        results[part] = json.loads(done.stdout.splitlines()[-1])
        figures[part] = figure(part, results[part])
        print(f"{part:<28}{figures[part]:>9,.4g}{GOALS[part]:>9,}{BEFORE.get(part, ''):>9}", flush=True)
    content = {
        "figures": figures,
        "goals": GOALS,
        "results": results,
        "commit": commit(),
        "versions": {"python": platform.python_version(), **{p: version(p) for p in ("torch", "transformers")}},
        "machine": {"machine": platform.machine(), "cpus": os.cpu_count()},
    }
    if given.json is not None:
        given.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
