"""More than one process by torch's own engine: torchrun starts the ranks, FSDP2 shards the policy among them.

A step's trees follow from (seed, epoch, step) alone. They are shared among the ranks by their attention cost; each rank
packs and computes its own. Gradients are summed, not averaged, because each loss already divides by the whole step's
counts. Shards are gathered and gradients reduced micro-batch by micro-batch, so every rank computes equally many: a
rank with fewer repeats one with weight 0. What needs no gradient (samples, validation, export) is computed by a plain
copy that holds all the weights for as long as that takes, each rank its share.

Left out: tensor and pipeline parallelism; the frozen reference stays whole on each rank.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from alignkit.config.file import Resolved
from alignkit.data.trees.packs import attention_cost, pack_evenly, pack_for_ranks, share_rows
from alignkit.data.trees.trees import Tree
from alignkit.distributed.ranks import World
from alignkit.errors import UsageError
from alignkit.policy.compiled import decoder_layers
from alignkit.policy.policy import Policy, own_shard
from alignkit.registry import registry
from alignkit.rollouts.sampler import Completion, Request, Sampler


def shard_and_pack(trees: Sequence[Tree], capacity: int, world: World) -> tuple[list[list[int]], bool]:
    """Pack this rank's share of a step's trees into rows.

    Returns:
        the tree numbers of each row; and whether they are padding: a rank without any gets the cheapest tree,
        computed with weight 0.
    """
    if world.size == 1 or not trees:
        return pack_evenly(trees, capacity), False
    if sum(len(tree) for tree in trees) > capacity * world.size:
        rows = [row for row in pack_for_ranks(trees, capacity, world.size)[world.rank] if row]
    else:  # one row per rank: whole rows would leave some without any
        own = share_rows([attention_cost(tree) for tree in trees], world.size)[world.rank]
        rows = [[own[n] for n in row] for row in pack_evenly([trees[n] for n in own], capacity)]
    if rows:
        return rows, False
    return [[min(range(len(trees)), key=lambda n: len(trees[n]))]], True


class FullParams:
    """Gives the policy as a plain module that holds all the weights for a while, on every rank.

    Args:
        sharded: the policy that is trained.
        plain: the same modules without storage, outside `gathered`.
    """

    def __init__(self, sharded: Policy, plain: Policy) -> None:
        self.sharded, self.plain = sharded, plain
        self._is_gathered = False

    @contextlib.contextmanager
    def gathered(self) -> Iterator[Policy]:
        """Give the plain policy the weights as they are now; every rank must ask. May be nested."""
        if self._is_gathered:
            yield self.plain
            return
        parts = dict(self.sharded.named_parameters())
        filled = dict(self.plain.named_parameters())
        for name, parameter in filled.items():
            parameter.data = full(parts[name].detach())
        self._is_gathered = True
        try:
            yield self.plain
        finally:
            self._is_gathered = False
            for parameter in filled.values():
                parameter.data = parameter.data.new_empty(0)


def shard(policy: Policy, world: World) -> FullParams:
    """Shard a copy of a policy, each decoder layer apart and the policy as the root; `policy` becomes the plain one."""
    from torch.distributed.fsdp import FSDPModule, fully_shard

    policy.leave_weights_to_autocast()
    own: dict[int, Any] = {id(p): nn.Parameter(p.data, requires_grad=p.requires_grad) for p in policy.parameters()}
    sharded = copy.deepcopy(policy, own)
    mesh = dist.init_device_mesh(policy.device.type, (world.size,))
    for layer in decoder_layers(sharded.body):
        fully_shard(layer, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    for module in sharded.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    for parameter in policy.parameters():
        parameter.data = parameter.data.new_empty(0)
    return FullParams(sharded, policy)


def full(tensor: Tensor) -> Tensor:
    """Return a tensor of all ranks' shards; every rank must ask."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def summed(x: Tensor, world: World) -> Tensor:
    """Add up a tensor over all ranks, on their devices; every rank must ask."""
    if world.size > 1:
        dist.all_reduce(x)
    return x


def total_norm(tensors: Sequence[Tensor]) -> Tensor:
    """L2 norm over all tensors and all ranks' shards, a scalar on their device; every rank must ask."""
    from torch.distributed.tensor import DTensor

    norm = torch.nn.utils.get_total_norm([own_shard(tensor) for tensor in tensors])
    if tensors and isinstance(tensors[0], DTensor):  # FSDP shards every parameter, so no number is counted twice
        square = norm.square()
        dist.all_reduce(square)
        norm = square.sqrt()
    return norm


def clip(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """Scale gradients down to an L2 norm over all ranks; returns the norm before, a scalar on their device."""
    from torch.distributed.tensor import DTensor

    trained = [parameter for parameter in parameters if parameter.grad is not None]
    if not any(isinstance(parameter, DTensor) for parameter in trained):
        return torch.nn.utils.clip_grad_norm_(trained, max_norm)
    gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
    norm = total_norm(gradients)
    scale = (max_norm / (norm.double() + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        own_shard(gradient).mul_(scale)
    return norm


def refuse_unshared(resolved: Resolved, world: World) -> None:
    """Refuse what several ranks cannot share.

    Raises:
        UsageError: a sampler that only one process can have; 4-bit weights, which are not sharded; or an optimizer
            whose moments in 8 bits are not.
    """
    if world.size == 1:
        return
    sampler, optimizer = resolved.rollouts.sampler, resolved.method.optimizer
    cls = registry().find("sampler", sampler)
    assert issubclass(cls, Sampler)
    if not cls.works_on_ranks:
        text = f"--sampler {sampler} runs in one process: leave it out, several ranks sample with transformers or vllm"
        raise world.reported_by_rank0(UsageError(text))
    if resolved.model.quantize is not None:
        text = f"--quantize {resolved.model.quantize} runs in one process: its weights are not sharded; leave it out"
        raise world.reported_by_rank0(UsageError(text))
    if optimizer.endswith("-8bit"):
        whole = optimizer.removesuffix("-8bit")
        text = f"optimizer {optimizer} runs in one process: take optimizer={whole}, several ranks share its moments"
        raise world.reported_by_rank0(UsageError(text))


class SharedSampler(Sampler):
    """Lets each rank draw its share of the prompts' completions, with all the weights, and gives every rank all.

    Args:
        sampler: draws from the plain policy.
        gathered: gives the plain policy its weights.
    """

    name = "shared"

    def __init__(self, sampler: Sampler, world: World, gathered: Callable[[], AbstractContextManager[Policy]]) -> None:
        super().__init__(sampler.policy, end_ids=sampler.end_ids)
        self.name, self.copies_weights = sampler.name, sampler.copies_weights  # type: ignore[misc]  # what it shares
        self._sampler, self._world, self._gathered = sampler, world, gathered

    @property
    def max_length(self) -> int | None:
        return self._sampler.max_length

    @property
    def metrics(self) -> Mapping[str, float]:
        return self._sampler.metrics

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Draw this rank's share; requests of one prompt stay together."""
        prompts = {tuple(request.prompt_ids): None for request in requests}
        rank_of = {prompt: number % self._world.size for number, prompt in enumerate(prompts)}
        ranks = [rank_of[tuple(request.prompt_ids)] for request in requests]
        own = [request for request, rank in zip(requests, ranks, strict=True) if rank == self._world.rank]
        with self._gathered():
            parts = self._world.run_on_all(lambda: packed(self._sampler.generate(own) if own else []))
        drawn = [iter(unpacked(part)) for part in parts]
        return [next(drawn[rank]) for rank in ranks]

    def sync(self) -> None:
        with self._gathered():
            self._sampler.sync()

    def close(self) -> None:
        self._sampler.close()


def packed(completions: Sequence[Completion]) -> list[list[Any]]:
    """Completions as JSON types."""
    return [[c.ids.tolist(), c.logprobs.tolist(), c.truncated] for c in completions]


def unpacked(parts: Sequence[Sequence[Any]]) -> list[Completion]:
    """What `packed` was given."""
    return [
        Completion(np.array(ids, np.int32), np.array(logprobs, np.float32), truncated)
        for ids, logprobs, truncated in parts
    ]
