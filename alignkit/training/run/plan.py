"""`--plan`: the memory and disk a run needs, from the model's files alone; nothing is loaded.

    weights, gradient    4 bytes per parameter each (fp32); 0.5 byte per linear weight with --quantize 4bit
    optimizer            8 bytes per trained parameter (two moments), 2 in 8 bits
    reference            4 bytes per parameter, where a frozen copy stays: --set reference=online without LoRA
    gathered             4 bytes per parameter on each of several ranks, for validation and samples
    activations          tokens of a row x layers x what a layer keeps for the backward pass, c bytes per number
                         CPU, tree path: 8 H + c (4 H + 2 K + 2 I)       (policy/cpu/layers.py; the residuals stay fp32)
                         else: 16 H + c (8 H + 2 K + 4 I), and c bytes per parameter for autocast's copies
                         with --gradient-checkpointing 4 H, and one layer's of the above
    logits               one tile of fp32 logits, four times; on CUDA a chunk's logits in fp32 and a block's gradient
                         by logits in the compute type (policy/cuda/head.py)
    rollouts             keys and values of the completions drawn at once, in the compute type
    kernels              those that a CPU compiles for bf16 and keeps (alignkit/memory.py)
    libraries            Python, torch and transformers in this process, on a CPU
    disk                 12 bytes per trained parameter and checkpoint, two, the best and the one being written, and 4
                         per parameter for the model

Several ranks (started by torchrun) share weights, gradient and optimizer: the plan is of one rank, but for the disk.
c is 2 under bf16 and 4 in fp32; H hidden size, K keys of a token, I intermediate size. A row is as long as the data's
longest tree where that is known (a run says it), else as long as --max-length lets it be. An estimate: kernels'
workspace is not in it.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from alignkit.config.file import Resolved
from alignkit.data.trees.packs import ROW_CAPACITY
from alignkit.distributed.ranks import num_started
from alignkit.errors import InputError, RunStopped
from alignkit.memory import KERNEL_BYTES, KERNELS, is_out_of_memory, memory_bytes
from alignkit.methods import Method, sampled_options
from alignkit.policy.architecture import Architecture, read_architecture, tensor_sizes
from alignkit.policy.cuda.head import memory_bytes as head_bytes
from alignkit.policy.four_bits import BYTES_PER_WEIGHT
from alignkit.policy.load import autocast_type, pick_device
from alignkit.policy.logprobs import CHUNK_BYTES
from alignkit.pretrained.names import find_model
from alignkit.training.inputs.setup import needs_reference
from alignkit.training.loop.source import micro_batch_tokens

_CHECKPOINTS = 4  # the last two, the best, and the one being written
_LORA_RANK = 16  # of what is proposed
_MAX_LENGTH = 2048  # tokens of a row, where none is given
_LIBRARIES = 600 * 2**20  # bytes, as seen with torch 2.13 and transformers 5.19


@dataclass(frozen=True)
class Plan:
    """What a run needs, in bytes.

    Args:
        memory: by part.
        disk: of the run's folder.
        device: "cpu" or "cuda".
        tokens: of the longest row of trees.
        ranks: that share the run; memory is one's, disk is the run's.
        longest: tokens of the data's longest tree, where it is known.
    """

    memory: dict[str, int]
    disk: int
    device: str
    tokens: int
    ranks: int = 1
    longest: int | None = None

    @property
    def total(self) -> int:
        return sum(self.memory.values())

    @property
    def _where(self) -> str:
        return self.device if self.ranks == 1 else f"{self.device}, each of {self.ranks} ranks"

    def lines(self) -> list[str]:
        """One line for each part, and the sums."""
        lines = [f"{name:<12} {_mib(count)}" for name, count in self.memory.items() if count]
        lines.append(f"{'memory':<12} {_mib(self.total)} on {self._where}, for rows of {self.tokens} tokens")
        lines.append(f"{'disk':<12} {_mib(self.disk)}")
        return lines

    def line(self) -> str:
        """The same in one line."""
        parts = ", ".join(f"{name} {count / 2**20:,.0f}" for name, count in self.memory.items() if count)
        return (
            f"plan: {self.total / 2**20:,.0f} MiB on {self._where} ({parts}), disk {self.disk / 2**20:,.0f} MiB; "
            f"rows of {self.tokens} tokens"
        )


def make_plan(method: Method, resolved: Resolved, *, longest: int | None = None) -> Plan:
    """Work out what a run needs.

    Args:
        longest: tokens of the data's longest row (prompt and completions), where it is known; of samples, of its
            longest prompt.

    Raises:
        InputError: the model folder has no config.json or no safetensors.
    """
    folder = find_model(resolved.model.model).folder
    sizes = read_architecture(folder, scalar_head="scalar_head" in method.needs)
    parameters = count_parameters(folder)
    rank = resolved.model.lora_rank
    trained = parameters if rank is None else rank * sum(map(sum, sizes.matrices))
    device = pick_device()
    size = 4 if autocast_type(resolved.model.precision, device) is None else 2
    capacity = resolved.model.micro_batch_tokens or micro_batch_tokens(device)
    tokens = _row_tokens(method, resolved, sizes, capacity, longest)
    on_cpu_layers = device.type == "cpu" and resolved.model.attention != "plain"
    ranks = num_started()
    memory = {
        "weights": _weights(resolved, parameters, sizes) // ranks,
        "gradient": 4 * trained // ranks,
        "optimizer": (2 if resolved.method.optimizer.endswith("-8bit") else 8) * trained // ranks,
        "gathered": 4 * parameters if ranks > 1 else 0,
        "reference": 4 * parameters if _keeps_copy(method, resolved) else 0,
        "activations": tokens
        * _activation_bytes_per_token(sizes, size, on_cpu_layers, resolved.model.gradient_checkpointing)
        + (0 if on_cpu_layers or size == 4 else size * parameters),
        "logits": 0 if "scalar_head" in method.needs else _logits(sizes, tokens, size, device.type),
        "rollouts": _rollouts(method, resolved, sizes) * size,
        "kernels": int(KERNELS * KERNEL_BYTES) if device.type == "cpu" and size == 2 else 0,
        "libraries": _LIBRARIES if device.type == "cpu" else 0,
    }
    return Plan(memory, _CHECKPOINTS * 12 * trained + 4 * parameters, device.type, tokens, ranks, longest)


def _logits(sizes: Architecture, tokens: int, size: int, device: str) -> int:
    """Bytes that the head holds at its peak, where each token of a row is scored."""
    return 4 * CHUNK_BYTES if device == "cpu" else head_bytes(tokens, sizes.vocab, size, memory_bytes())


def _weights(resolved: Resolved, parameters: int, sizes: Architecture) -> int:
    narrow = 0 if resolved.model.quantize is None else sizes.num_narrow
    return int(4 * (parameters - narrow) + BYTES_PER_WEIGHT * narrow)


def _keeps_copy(method: Method, resolved: Resolved) -> bool:
    """Whether a frozen reference stays in memory: cached log-probs let it go, an adapter is switched off instead."""
    if not needs_reference(method, resolved) or resolved.model.lora_rank is not None:
        return False
    return method.trains_on.is_sampled or resolved.model.reference == "online"


def _activation_bytes_per_token(sizes: Architecture, size: int, on_cpu_layers: bool, checkpointing: bool) -> int:
    """Bytes that all layers keep of a token for the backward pass."""
    hidden, layers, inner = sizes.hidden, sizes.layers, sizes.inner
    keys = 2 * sizes.key_width
    saved = 8 * hidden + size * (4 * hidden + keys + 2 * inner)
    if not on_cpu_layers:
        saved = 16 * hidden + size * (8 * hidden + keys + 4 * inner)
    return layers * 4 * hidden + saved if checkpointing else layers * saved


def plan(method: Method, resolved: Resolved) -> list[str]:
    """Return one line for each part and the sums. Raises as `make_plan`."""
    return make_plan(method, resolved).lines()


def disk_warning(made: Plan, folder: Path) -> str | None:
    """Say that a run's folder may become too full, before anything is computed."""
    free = shutil.disk_usage(folder).free
    if free >= made.disk:
        return None
    return (
        f"disk: the run's checkpoints and model take about {made.disk / 2**20:,.0f} MiB, and "
        f"{free / 2**20:,.0f} MiB are free below {folder}; it will stop where there is no room, and can then go on"
    )


def that_fit(method: Method, resolved: Resolved, available: int, longest: int | None = None) -> list[str]:
    """Return the options that would need less memory than is available, each with what it needs; [] where none does."""
    model, train = resolved.model, resolved.method
    sizes = read_architecture(find_model(model.model).folder, scalar_head="scalar_head" in method.needs)
    allowed = _longest(resolved, sizes)
    halved = max(8, (allowed if longest is None else min(allowed, longest)) // 2)
    changes: list[tuple[str, Resolved]] = []
    if train.batch_size > 1:
        smaller = train.model_copy(update={"batch_size": 1})
        changes.append(("--batch-size 1", replace(resolved, method=smaller)))
    shorter = resolved.data.model_copy(update={"max_length": halved})
    changes.append((f"--max-length {halved}", replace(resolved, data=shorter)))
    if not model.gradient_checkpointing:
        again = model.model_copy(update={"gradient_checkpointing": True})
        changes.append(("--gradient-checkpointing", replace(resolved, model=again)))
    if model.precision != "bf16":
        changes.append(("--precision bf16", replace(resolved, model=model.model_copy(update={"precision": "bf16"}))))
    if model.lora_rank is None:
        adapter = model.model_copy(update={"lora_rank": _LORA_RANK})
        changes.append((f"--lora-rank {_LORA_RANK}", replace(resolved, model=adapter)))
        both = replace(resolved, model=adapter, data=shorter)
        changes.append((f"--lora-rank {_LORA_RANK} --max-length {halved}", both))
    needs = [(text, make_plan(method, changed, longest=longest).total) for text, changed in changes]
    return [f"{text} ({total / 2**20:,.0f} MiB)" for text, total in needs if total < available]


@contextlib.contextmanager
def out_of_memory_explained(
    method: Method, resolved: Resolved, made: Plan, *, available: int, go_on: Callable[..., str]
) -> Iterator[None]:
    """Turn an exhausted memory into a stopped run that says what was planned and what would fit.

    `go_on` is training/resume.py's resume_command, of this run.

    Raises:
        RunStopped: the device or the machine has no memory left.
    """
    import torch

    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        text = str(error) or type(error).__name__
        if not is_out_of_memory(error):
            raise
        fitting = that_fit(method, resolved, min(available, made.total), made.longest)
        advice = f"by the plan these need less: {'; '.join(fitting)}" if fitting else "take a smaller model"
        kept = [option for option in fitting if "--lora-rank" not in option]  # no adapter goes on from whole weights
        if kept:
            options = _options(kept[0])
            keys = [*options, *(["data"] if "max_length" in options else [])]
            advice += f"; go on with: {go_on(keys, instead=options)}"
        elif fitting:
            advice += "; begin anew with one of them and another --out"
        raise RunStopped(
            f"out of memory ({text.strip().splitlines()[0][:160]}); {made.line()}; {available / 2**20:,.0f} MiB are "
            f"there; {advice}"
        ) from error


def _options(typed: str) -> dict[str, str | bool]:
    """The options of a line of `that_fit`, by their Python names; one without a value is a switch."""
    words = [part.split() for part in typed.partition(" (")[0].split("--")[1:]]
    return {name.replace("-", "_"): value[0] if value else True for name, *value in words}


def _longest(resolved: Resolved, sizes: Architecture) -> int:
    """Longest prompt and completion, in tokens."""
    return min(resolved.data.max_length or _MAX_LENGTH, sizes.context or ROW_CAPACITY)


def _row_tokens(method: Method, resolved: Resolved, sizes: Architecture, capacity: int, longest: int | None) -> int:
    """Tokens of the fullest row that a step can have: trees are laid into rows, and a longer tree has its own."""
    trees = resolved.method.batch_size
    drawn = len(method.temperatures(1, resolved.method)) * resolved.method.max_new_tokens
    longest_row = _longest(resolved, sizes)
    most = longest_row * max(1, len(method.trains_on.completions))
    tree = most if longest is None else min(longest, most)
    if drawn:
        tree = tree + drawn if method.trains_on.is_sampled else max(tree, longest_row + drawn)
    return max(tree, min(capacity, trees * tree))


def _rollouts(method: Method, resolved: Resolved, sizes: Architecture) -> int:
    """Numbers held as keys and values by the completions that are drawn at once."""
    from alignkit.rollouts.batched import MAX_BATCH

    if "scalar_head" in method.needs:
        return 0
    prompts = resolved.method.batch_size
    drawn = max(
        prompts * len(method.temperatures(1, resolved.method)), sampled_options(resolved.method).validation_prompts
    )
    tokens = _longest(resolved, sizes) + resolved.method.max_new_tokens
    return min(MAX_BATCH, drawn) * tokens * sizes.layers * 2 * sizes.key_width


def count_parameters(folder: Path) -> int:
    """Count a folder's parameters from the headers of its safetensors files."""
    total = sum(tensor_sizes(folder))
    if not total:
        raise InputError(f"{folder}: cannot be loaded (no weights in it); a model needs whole safetensors")
    return total


def _mib(count: int) -> str:
    return f"{count / 2**20:>9,.0f} MiB"
