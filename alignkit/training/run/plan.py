"""`--plan`: the memory and disk a run needs, from the model's files alone; nothing is loaded.

Always there:

    weights              4 bytes per parameter (fp32); of a base under LoRA c bytes on a GPU, and 0.5 byte per linear
                         weight with --quantize 4bit
    optimizer            8 bytes per trained parameter (two moments), 2 in 8 bits
    copies               c bytes per trained parameter, in the compute type
    reference            4 bytes per parameter, where a frozen copy stays: --set reference=online without LoRA
    gathered             4 bytes per parameter on each of several ranks, for validation and samples
    kernels              those that a CPU compiles for bf16 and keeps (alignkit/memory.py)
    libraries            Python, torch and transformers in this process, and peft with an adapter, on a CPU
    context              CUDA's, with its libraries' workspaces, on a GPU
    engine               what vLLM keeps while it sleeps

While a micro-batch is computed:

    gradient             4 bytes per trained parameter
    activations          its tokens x layers x what a layer keeps for the backward pass, c bytes per number
                         CPU, tree path: 8 H + c (4 H + 2 K + 2 I)       (policy/cpu/layers.py; the residuals stay fp32)
                         GPU, compiled:  4 H + c (3 H + 2 Q + 2 K + 3 I), and c (H + 7 r) under LoRA
                         GPU, not so:    8 H + c (8 H + 2 K + 4 I)
                         plain path:     16 H + c (8 H + 2 K + 4 I)
                         with --gradient-checkpointing 4 H, and one layer's of the above
    logits               what the head holds: policy/logprobs.py, on a GPU policy/cuda/head.py

Between steps, where it is more than that:

    rollouts             keys and values of the completions drawn at once, in the compute type; or vLLM's share
    validation           4 bytes per parameter, where the reference is loaded to validate

    disk                 12 bytes per trained parameter and checkpoint: two, the best and the one being written, or
                         as many as max_steps has (with early stopping, one a better validation too) and one where it
                         is interrupted; and 4 per parameter for the model

Several ranks (started by torchrun) share weights, gradient and optimizer: the plan is of one rank, but for the disk.
c is 2 under bf16 and 4 in fp32; H hidden size, Q and K queries and keys of a token, I intermediate size, r LoRA's rank.
A micro-batch has `--micro-batch-tokens`, or the longest tree that cannot be split: of the data's where that is known
(a run says it), else as long as --max-length lets it be. fitting.py chooses how many by what a GPU has free.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from alignkit.config.file import Resolved
from alignkit.data.trees.packs import MICRO_BATCH_TOKENS, ROW_CAPACITY
from alignkit.distributed.ranks import num_started
from alignkit.errors import InputError
from alignkit.memory import KERNEL_BYTES, KERNELS, Card, find_card
from alignkit.methods import Method, MethodConfig, sampled_options
from alignkit.policy.architecture import Architecture, read_architecture, tensor_sizes
from alignkit.policy.cuda.head import memory_bytes as head_bytes
from alignkit.policy.four_bits import BYTES_PER_WEIGHT
from alignkit.policy.load import autocast_type, pick_device
from alignkit.policy.logprobs import CHUNK_BYTES
from alignkit.pretrained.names import find_model
from alignkit.training.inputs.model_options import needs_reference, on_adapter, reference_is_base

TOKENS = (16_384, 12_288, 8_192, 6_144, 4_096, 3_072, 2_048, 1_536, 1_024, 512, 256)
"""Sizes of a micro-batch that a plan chooses from on a GPU. Rows of 8 k keep a card busy; longer ones save a few passes
over the gradient, and form part of the head's logits twice."""
USABLE = 0.92
"""Share of a GPU's free memory that a plan may take: rows differ in length, and the allocator leaves holes."""
_CHECKPOINTS = 4  # the last two, the best, and the one being written
_MAX_LENGTH = 2048  # tokens of a row, where none is given
_LIBRARIES, _PEFT = 800 * 2**20, 60 * 2**20  # bytes resident once imported: torch 2.13, transformers 5.19, peft 0.21
_CONTEXT = 700 * 2**20  # bytes of a CUDA context, its kernels, and cuBLAS's workspaces
_ENGINE_ASLEEP = 2**30  # bytes that vLLM keeps: captured graphs, workspaces
_ENGINE_AWAKE = 3 * 2**29  # bytes that it takes beside weights and cache: a profile run's activations and logits
_ENGINE_TOKENS = 4_096  # the longest sequence of vLLM beside a policy, prompt and completion
_ENGINE_SEQUENCES = 256  # that it computes at once
_WHILE_COMPUTING = ("gradient", "activations", "logits")
_BETWEEN_STEPS = ("rollouts", "validation")


@dataclass(frozen=True)
class Plan:
    """What a run needs, in bytes.

    Args:
        memory: by part. What a micro-batch takes and what is held between steps are never there at once.
        disk: of the run's folder.
        device: "cpu" or "cuda".
        tokens: of the longest row of trees.
        micro_batch_tokens: that a row may have, where it holds several trees.
        ranks: that share the run; memory is one's, disk is the run's.
        longest: tokens of the data's longest tree, where it is known.
        vllm_memory: share of the card that vLLM gets while it draws, where it draws in this process.
        engine_least: what vLLM cannot do without: its weights, and the cache of one sequence.
        card: the GPU; None on a CPU.
    """

    memory: Mapping[str, int]
    disk: int
    device: str
    tokens: int
    micro_batch_tokens: int
    ranks: int = 1
    longest: int | None = None
    vllm_memory: float | None = None
    engine_least: int = 0
    card: Card | None = None

    @property
    def total(self) -> int:
        """Bytes at the fullest moment."""
        return self.always + max(self._sum(_WHILE_COMPUTING), *(self.memory[name] for name in _BETWEEN_STEPS))

    @property
    def always(self) -> int:
        """Bytes that are there all the time."""
        return sum(self.memory.values()) - self._sum(_WHILE_COMPUTING) - self._sum(_BETWEEN_STEPS)

    def _sum(self, names: tuple[str, ...]) -> int:
        return sum(self.memory[name] for name in names)

    def settled(self, resolved: Resolved) -> Resolved:
        """The configuration, with what the plan chose where that was left open."""
        model = resolved.model.model_copy(update={"micro_batch_tokens": self.micro_batch_tokens})
        rollouts = resolved.rollouts.model_copy(update={"vllm_memory": self.vllm_memory})
        return replace(resolved, model=model, rollouts=rollouts if self.vllm_memory else resolved.rollouts)

    @property
    def _where(self) -> str:
        return self.device if self.ranks == 1 else f"{self.device}, each of {self.ranks} ranks"

    def lines(self) -> list[str]:
        """One line for each part, and the sums."""
        lines = [f"{name:<12} {_mib(count)}" for name, count in self.memory.items() if count]
        lines.append(f"{'memory':<12} {_mib(self.total)} on {self._where}, up to {self.tokens:,} tokens at once")
        lines.append(f"{'disk':<12} {_mib(self.disk)}")
        return lines

    def line(self) -> str:
        """The same in one line."""
        parts = ", ".join(f"{name} {count / 2**20:,.0f}" for name, count in self.memory.items() if count)
        return (
            f"plan: {self.total / 2**20:,.0f} MiB on {self._where} ({parts}), disk {self.disk / 2**20:,.0f} MiB; "
            f"up to {self.tokens:,} tokens at once"
        )


def make_plan(
    method: Method,
    resolved: Resolved,
    *,
    longest: int | None = None,
    micro_batch_tokens: int | None = None,
    card: Card | None = None,
) -> Plan:
    """Work out what a run needs, and where nobody says it, how many tokens a micro-batch has.

    Args:
        longest: tokens of the data's longest row (prompt and completions), where it is known; of samples, of its
            longest prompt.
        micro_batch_tokens: where the configuration names none; default: the largest of `TOKENS` that a GPU has room
            for, or the smallest, and `MICRO_BATCH_TOKENS` on a CPU.
        card: the GPU; default: the one that is there.

    Raises:
        InputError: the model folder has no config.json or no safetensors.
    """
    card = find_card() if card is None else card
    given = resolved.model.micro_batch_tokens or micro_batch_tokens or (None if card else MICRO_BATCH_TOKENS)
    plans = (_planned(method, resolved, longest, size, card) for size in ((given,) if given else TOKENS))
    for made in plans:
        if card is None or made.total <= USABLE * card.free:
            break
    return made


def _num_checkpoints(config: MethodConfig) -> int:
    if config.max_steps is None:
        return _CHECKPOINTS
    regular = config.max_steps // config.checkpoint_interval
    best = 0  # with early stopping each better validation has one as well
    if config.early_stopping_steps:
        best = (config.max_steps - 1) // config.steps_between_validations(config.max_steps)
    return min(_CHECKPOINTS, 1 + regular + best)


def _planned(method: Method, resolved: Resolved, longest: int | None, capacity: int, card: Card | None) -> Plan:
    folder = find_model(resolved.model.model).folder
    sizes = read_architecture(folder, scalar_head="scalar_head" in method.needs)
    parameters = count_parameters(folder)
    rank = resolved.model.lora_rank
    trained = parameters if rank is None else rank * sum(map(sum, sizes.matrices))
    narrow = 0 if resolved.model.quantize is None else sizes.num_narrow
    size = 4 if autocast_type(resolved.model.precision, pick_device()) is None else 2
    tokens = _row_tokens(method, resolved, sizes, capacity, longest)
    on_cpu_layers = card is None and resolved.model.attention != "plain"  # they cast weights as they need them
    ranks = num_started()
    memory = {
        "weights": _weights(parameters, narrow, 0 if rank is None else trained, size if card else 4) // ranks,
        "gradient": 4 * trained // ranks,
        "optimizer": (2 if resolved.method.optimizer.endswith("-8bit") else 8) * trained // ranks,
        "copies": 0 if size == 4 or on_cpu_layers else size * (trained if card else parameters - narrow),
        "gathered": 4 * parameters if ranks > 1 else 0,
        "reference": 4 * parameters if keeps_reference(method, resolved) else 0,
        "activations": tokens * _activation_bytes_per_token(resolved, sizes, size, card),
        "logits": _logits(method, resolved, sizes, tokens, size, card),
        "rollouts": _rollouts(method, resolved, sizes, size),
        "validation": 4 * parameters if _loads_reference(method, resolved) else 0,
        "kernels": int(KERNELS * KERNEL_BYTES) if card is None and size == 2 else 0,
        "libraries": 0 if card else _LIBRARIES + (0 if rank is None else _PEFT),
        "context": 0 if card is None else _CONTEXT,
        "engine": 0,
    }
    made = Plan(
        memory=memory,
        disk=_num_checkpoints(resolved.method) * 12 * trained + 4 * parameters,
        device="cpu" if card is None else "cuda",
        tokens=tokens,
        micro_batch_tokens=capacity,
        ranks=ranks,
        longest=longest,
        card=card,
    )
    if card is None or not draws_by_vllm(method, resolved):
        return made
    return _with_engine(
        made, card, resolved.rollouts.vllm_memory, size * parameters, _engine_cache(method, resolved, sizes, size)
    )


def _with_engine(made: Plan, card: Card, given: float | None, weights: int, cache: tuple[int, int]) -> Plan:
    """Add vLLM to a plan, with the share that was given, or half as much again as it needs, or what is left.

    Args:
        cache: bytes for all sequences that it computes at once, and for one.
    """
    made = replace(made, memory={**made.memory, "engine": _ENGINE_ASLEEP})
    needed = 1.5 * (weights + cache[0]) + _ENGINE_AWAKE
    room = USABLE * card.free - made.always
    share = given or max(1, int(1000 * min(needed, room) / card.total)) / 1000
    return replace(
        made,
        memory={**made.memory, "rollouts": int(share * card.total)},
        vllm_memory=share,
        engine_least=weights + cache[1] + _ENGINE_AWAKE // 2,
    )


def draws_by_vllm(method: Method, resolved: Resolved) -> bool:
    """Whether an engine of vLLM draws in this process."""
    return resolved.rollouts.sampler == "vllm" and "scalar_head" not in method.needs


def _weights(parameters: int, narrow: int, adapter: int, frozen_size: int) -> int:
    """Bytes of the weights; a base under an adapter has so many bytes per weight, and 4 bits for the narrow ones."""
    if not adapter:
        return 4 * parameters
    return int(frozen_size * (parameters - narrow) + BYTES_PER_WEIGHT * narrow) + 4 * adapter


def keeps_reference(method: Method, resolved: Resolved) -> bool:
    """Whether a frozen reference stays in memory: cached log-probs let it go, a new adapter is switched off instead."""
    if not needs_reference(method, resolved) or reference_is_base(method, resolved):
        return False
    return method.trains_on.is_sampled or resolved.model.reference == "online"


def _loads_reference(method: Method, resolved: Resolved) -> bool:
    """Whether a frozen reference is loaded to validate, and dropped."""
    return (
        needs_reference(method, resolved)
        and not reference_is_base(method, resolved)
        and not keeps_reference(method, resolved)
    )


def _activation_bytes_per_token(resolved: Resolved, sizes: Architecture, size: int, card: Card | None) -> int:
    """Bytes that all layers keep of a token for the backward pass."""
    hidden, layers, inner, rank = sizes.hidden, sizes.layers, sizes.inner, resolved.model.lora_rank
    queries, keys = 2 * sizes.query_width, 2 * sizes.key_width
    on_tree = resolved.model.attention != "plain"
    if card is None and on_tree:
        saved = 8 * hidden + size * (4 * hidden + keys + 2 * inner)
    elif card is not None and resolved.model.compile and on_tree:
        saved = 4 * hidden + size * (3 * hidden + queries + keys + 3 * inner)
        saved += 0 if rank is None else size * (hidden + rank * len(sizes.matrices) // layers)
    else:
        saved = (8 if card is not None and on_tree else 16) * hidden + size * (8 * hidden + keys + 4 * inner)
    return layers * 4 * hidden + saved if resolved.model.gradient_checkpointing else layers * saved


def _logits(method: Method, resolved: Resolved, sizes: Architecture, tokens: int, size: int, card: Card | None) -> int:
    if "scalar_head" in method.needs:
        return 0
    if card is None:
        return 4 * CHUNK_BYTES
    return head_bytes(tokens, sizes.vocab, size, card.total) + 8 * tokens * sizes.hidden


def plan(method: Method, resolved: Resolved, *, longest: int | None = None) -> list[str]:
    """Return one line for each part and the sums. Arguments and errors are those of `make_plan`."""
    return make_plan(method, on_adapter(method, resolved), longest=longest).lines()


def disk_warning(made: Plan, folder: Path) -> str | None:
    """Say that a run's folder may become too full, before anything is computed."""
    free = shutil.disk_usage(folder).free
    if free >= made.disk:
        return None
    return (
        f"disk: the run's checkpoints and model take about {made.disk / 2**20:,.0f} MiB, and "
        f"{free / 2**20:,.0f} MiB are free below {folder}; it will stop where there is no room, and can then go on"
    )


def longest_row(resolved: Resolved, sizes: Architecture) -> int:
    """Longest prompt and completion, in tokens."""
    return min(resolved.data.max_length or _MAX_LENGTH, sizes.context or ROW_CAPACITY)


def _row_tokens(method: Method, resolved: Resolved, sizes: Architecture, capacity: int, longest: int | None) -> int:
    """Tokens of the fullest row that a step can have: trees are laid into rows, and a longer tree has its own."""
    trees, new = resolved.method.batch_size, resolved.method.max_new_tokens
    drawn = len(method.temperatures(1, resolved.method)) * new
    row = longest_row(resolved, sizes)
    most = row * max(1, len(method.trains_on.completions))
    tree = most if longest is None else min(longest, most)
    whole = tree  # what is computed at once
    if drawn and method.trains_on.is_sampled:
        whole, tree = tree + (new if sampled_options(resolved.method).splits_groups else drawn), tree + drawn
    elif drawn:
        whole = tree = max(tree, row + drawn)
    return max(whole, min(capacity, trees * tree))


def _rollouts(method: Method, resolved: Resolved, sizes: Architecture, size: int) -> int:
    """Bytes held as keys and values by the completions that are drawn at once."""
    from alignkit.rollouts.batched import MAX_BATCH

    if "scalar_head" in method.needs:
        return 0
    tokens = longest_row(resolved, sizes) + resolved.method.max_new_tokens
    return min(MAX_BATCH, _num_drawn(method, resolved)) * tokens * _cached(sizes, size)


def _engine_cache(method: Method, resolved: Resolved, sizes: Architecture, size: int) -> tuple[int, int]:
    """Bytes of vLLM's keys and values: of all sequences that it computes at once, and of the longest that it takes."""
    drawn = min(_ENGINE_SEQUENCES, max(16, _num_drawn(method, resolved)))
    tokens = min(longest_row(resolved, sizes) + resolved.method.max_new_tokens, _ENGINE_TOKENS)
    return drawn * tokens * _cached(sizes, size), min(sizes.context or _ENGINE_TOKENS, _ENGINE_TOKENS) * _cached(
        sizes, size
    )


def _num_drawn(method: Method, resolved: Resolved) -> int:
    in_a_step = resolved.method.batch_size * len(method.temperatures(1, resolved.method))
    return max(in_a_step, sampled_options(resolved.method).validation_prompts)


def _cached(sizes: Architecture, size: int) -> int:
    """Bytes of a token's keys and values in all layers."""
    return sizes.layers * 2 * sizes.key_width * size


def count_parameters(folder: Path) -> int:
    """Count a folder's parameters from the headers of its safetensors files."""
    total = sum(tensor_sizes(folder))
    if not total:
        raise InputError(f"{folder}: cannot be loaded (no weights in it); a model needs whole safetensors")
    return total


def _mib(count: int) -> str:
    return f"{count / 2**20:>9,.0f} MiB"
