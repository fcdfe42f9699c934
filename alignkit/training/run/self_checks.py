"""Start-up checks: a few seconds on the user's own machine, model and data, each with its tolerance.

The reference of each is the plain path: one completion per row, the model's own attention and head, nothing shared.
All are computed in the weights' own precision (fp32), so that a tolerance means the same on every machine; one more
computes what trains in the precision that trains, against the same reference.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alignkit.data.trees.packs import Pack, lay_out
from alignkit.data.trees.trees import Tree, tree
from alignkit.distributed.fsdp import full
from alignkit.distributed.ranks import ALONE, World
from alignkit.policy.policy import Policy
from alignkit.rollouts.agreement import distance
from alignkit.rollouts.batched import BatchedGeneration
from alignkit.rollouts.sampler import Request
from alignkit.training.gradient.models import Models
from alignkit.training.gradient.reference import Reference
from alignkit.training.loop.source import RowSource

_MAX_TOKENS = 160  # of a checked row's prompt, and of each of its completions
_LOGPROB_TOLERANCE = 2e-3  # nats, fp32 kernels of different shapes
_GRADIENT_TOLERANCE = 1e-3  # relative L2
_BF16_TOLERANCE = 0.05  # nats, the mean; rounding alone moves log-probs of most models by 0.01 to 0.03
_BF16_GRADIENT_TOLERANCE = 0.1  # relative L2
_BF16_SLACK = 3  # times what the model's own code is off, where that is more: SmolLM2 was off 1.6 times as far
_BF16_LIMIT = 4  # times the tolerance: what rounds by more is not to be trained in bf16
IN_BF16 = "bf16, which trains"  # begins the names of the checks that are computed in it
_MARGIN_TOKENS = 2048  # of a rank, in whose rows the margin before the first step is measured
_MEAN_TOLERANCE = 0.01  # of a mean margin in bf16: moves a loss by half of it
_SAMPLER_TOLERANCE = 1e-3  # nats per token, the mean of several
_NUM_SAMPLED = 4  # tokens


@dataclass(frozen=True)
class Check:
    """One comparison: passed when `value <= tolerance`."""

    name: str
    value: float
    tolerance: float
    unit: str

    @property
    def ok(self) -> bool:
        return bool(self.value <= self.tolerance)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "ok": self.ok}


def run_checks(
    policy: Policy, trees: Sequence[Tree], *, reference: Reference | None = None, samples: bool = False
) -> list[Check]:
    """Compare the run's fast paths with the plain path on a few short rows of its own data.

    Args:
        samples: samples will be drawn from the policy itself.

    Leaves no gradient behind.
    """
    small = small_trees(trees)
    pack = lay_out(small)
    was_training = policy.training
    policy.eval()
    try:
        with policy.in_fp32():
            if policy.path == "tree" and was_training and policy.dropout.drops:
                _meet_dropout(policy, pack)
            with policy.on_path("plain"):
                fast = plain = _scores_and_gradient(policy, pack)
            checks = [] if policy.scalar_head else _head_checks(plain, _own_scores_and_gradient(policy, pack))
            if policy.path == "tree":
                fast = _scores_and_gradient(policy, pack)
                checks += _tree_checks(fast, plain)
            checks.append(_split_check(policy, small, fast[0]))
            if policy.path == "plain" and not policy.scalar_head:
                checks.append(_later_check(policy, small[0]))
            if samples and not policy.scalar_head:
                checks.append(_sampler_check(policy, small))
            if reference is not None and not policy.scalar_head:
                checks.append(_reference_check(reference, pack, plain[0]))
        del fast
        if policy.autocast is not None:
            policy.train(was_training and not policy.dropout.drops)  # a compiled graph for each mode
            checks += _bf16_checks(policy, pack, plain)
    finally:
        if reference is not None:
            reference.release()
        policy.train(was_training)
        policy.zero_grad(set_to_none=True)
    return checks


@dataclass(frozen=True)
class Margins:
    """Of some completions or pairs before the first step: what should be 0, in the unit of the loss.

    Args:
        first_N: in the rows that the first steps read.
        rounding_N: what rounding moves them by. In fp32: where the second epoch's rows lay them out otherwise. In bf16:
            from fp32, which is more; once the weights have moved, policy and reference round each on its own.
    """

    first_N: np.ndarray
    rounding_N: np.ndarray

    @property
    def noise(self) -> float:
        """Root mean square of what rounding moves a margin by."""
        return float(np.sqrt(np.mean(self.rounding_N**2))) if len(self.rounding_N) else 0.0

    def check(self, *, in_fp32: bool, repeats: bool) -> Check:
        """Compare the first steps' with 0.

        Args:
            in_fp32: the weights' own precision; in bf16 the mean must lie within 3 standard errors.
            repeats: the device gives the same bits twice.
        """
        name = "margin before the first step, of the values that training reads"
        if in_fp32:
            worst = float(np.abs(self.first_N).max()) if len(self.first_N) else 0.0
            return Check(f"{name}: the largest", worst, 1e-6 if repeats else 1e-4, "of the loss")
        error = float(self.first_N.std(ddof=1) / np.sqrt(len(self.first_N))) if len(self.first_N) > 1 else 0.0
        mean = abs(float(self.first_N.mean())) if len(self.first_N) else 0.0
        return Check(f"{name}: the mean, in bf16", mean, max(3 * error, _MEAN_TOLERANCE), "of the loss")


def first_margins(
    policy: Policy, reference: Reference, layout: RowSource, *, weight: float, world: World = ALONE
) -> Margins:
    """Measure the margin (of pairs, else the log-ratio of a completion) before the first step; every rank must ask.

    The policy computes in the run's own precision and rows, and the reference gives what the loss will read.

    Args:
        weight: what the loss multiplies log-ratios by: DPO's beta.
    """

    def margins(pack: Pack, logprob_T: Tensor, other_T: Tensor) -> list[float]:
        ratio_T = (logprob_T - other_T).double().cpu().numpy()
        ratio_N = weight * np.bincount(pack.completion_T, ratio_T, pack.num_completions)
        are_pairs = all(len(tree.completions) == 2 for tree in pack.trees)
        return (ratio_N[0::2] - ratio_N[1::2] if are_pairs else ratio_N).tolist()

    def packs(first: int) -> Iterator[Pack]:
        tokens = 0
        for row in layout.from_step(first):
            if tokens >= _MARGIN_TOKENS:
                return
            pack = lay_out([layout.trees[n] for n in row])
            tokens += len(pack.ids_S)
            yield pack

    def measured() -> list[list[float]]:
        found: list[float] = []
        rounding: list[float] = []
        with torch.no_grad():
            for pack in packs(1):
                ours_T = policy(pack).logprob_T
                found += margins(pack, ours_T, reference.logprobs(pack))
                if policy.autocast is not None:
                    exact = "plain" if policy.device.type == "cuda" else policy.path  # no S x S mask of a long row
                    with policy.in_fp32(), policy.on_path(exact):
                        rounding += margins(pack, ours_T, policy(pack).logprob_T)
            if policy.autocast is None:
                for pack in packs(1 + layout.steps_per_epoch):
                    rounding += margins(pack, policy(pack).logprob_T, reference.logprobs(pack))
        return [found, rounding]

    was_training = policy.training
    policy.train()  # as in a step: dropout is off in it
    try:
        parts = world.run_on_all(measured)
    finally:
        policy.train(was_training)
        reference.release()
    first_N, rounding_N = (np.array([x for part in parts for x in part[n]]) for n in (0, 1))
    return Margins(first_N, rounding_N)


def ranks_check(models: Models, trees: Sequence[Tree]) -> Check:
    """Compare the gradient of two rows shared among the ranks with that of one process; every rank must ask.

    Leaves no gradient behind.
    """
    small, world = small_trees(trees), models.world
    own = [n for n in range(len(small)) if n % world.size == world.rank]

    def summed(policy: Policy, numbers: Sequence[int], weight: float = 1.0) -> list[Tensor]:
        with policy.in_fp32():
            (weight * torch.stack([_weighted(_scores(policy, lay_out([small[n]]))) for n in numbers]).sum()).backward()
            gradients = [p.grad for p in policy.parameters() if p.grad is not None]
        policy.zero_grad(set_to_none=True)
        return gradients

    ours = [full(x).float().cpu() for x in summed(models.policy, own or [0], 1.0 if own else 0.0)]
    with models.unsharded_policy() as policy:
        theirs = [x.float().cpu() for x in summed(policy, range(len(small)))]
    return Check(
        f"the gradient of {world.size} ranks = of one", _relative(ours, theirs), _GRADIENT_TOLERANCE, "relative L2"
    )


Computed = tuple[Tensor, list[Tensor]]  # log-probs [T], or values [N]; and each weight's gradient, on the CPU


def _meet_dropout(policy: Policy, pack: Pack) -> None:
    """Compute as training does: dropout within attention, which no other check meets, stops the tree path."""
    policy.train()
    with torch.no_grad():
        policy(pack)
    policy.eval()


def _tree_checks(fast: Computed, plain: Computed) -> list[Check]:
    """Packed rows with shared prompts against one completion per row."""
    return [
        Check("packed rows with shared prompts = separate rows", _gap(fast[0], plain[0]), _LOGPROB_TOLERANCE, "nats"),
        Check("their gradients", _relative(fast[1], plain[1]), _GRADIENT_TOLERANCE, "relative L2"),
    ]


def _bf16_checks(policy: Policy, pack: Pack, plain: Computed) -> list[Check]:
    """What trains, in the run's own precision, against separate rows in fp32.

    Where it is further off than most models are, the model's own code in bf16 says how much of that is its rounding.
    """
    # A reward has no scale of its own as log-probs have: it is rounded in proportion to its size.
    scale = max(1.0, float(plain[0].abs().mean())) if policy.scalar_head else 1.0

    def off(found: Computed) -> tuple[float, float]:
        return float((found[0].float() - plain[0].float()).abs().mean()) / scale, _relative(found[1], plain[1])

    usual = [_BF16_TOLERANCE, _BF16_GRADIENT_TOLERANCE]
    tolerances = usual
    values = off(_scores_and_gradient(policy, pack))
    if not policy.scalar_head and any(value > most for value, most in zip(values, usual, strict=True)):
        own = off(_own_scores_and_gradient(policy, pack))
        tolerances = [min(max(t, _BF16_SLACK * x), _BF16_LIMIT * t) for x, t in zip(own, usual, strict=True)]
    what, unit = ("rewards", "of their size") if policy.scalar_head else ("log-probs", "nats")
    return [
        Check(f"{IN_BF16}: {what} = fp32's of separate rows, the mean", values[0], tolerances[0], unit),
        Check(f"{IN_BF16}: their gradients", values[1], tolerances[1], "relative L2"),
    ]


def _head_checks(ours: Computed, theirs: Computed) -> list[Check]:
    """The chunked head on scored tokens against the model's own logits."""
    return [
        Check(
            "head on scored tokens in chunks = the model's own logits",
            _gap(ours[0], theirs[0]),
            _LOGPROB_TOLERANCE,
            "nats",
        ),
        Check("its gradient", _relative(ours[1], theirs[1]), _GRADIENT_TOLERANCE, "relative L2"),
    ]


def _own_scores_and_gradient(policy: Policy, pack: Pack) -> Computed:
    """The model's own logits, by its own attention code, and torch's log-softmax; each completion by itself."""
    policy.zero_grad(set_to_none=True)
    with policy.on_path("plain"):
        policy.base.set_attn_implementation("eager")
        pieces = []
        for one in pack.trees:
            for completion in one.completions:
                tokens = np.concatenate([one.prompt.ids, completion.ids]).astype(np.int64)
                ids = torch.as_tensor(tokens, device=policy.device)
                with policy.computing():
                    logits = policy.model(input_ids=ids[None], use_cache=False).logits[0].float()
                at = torch.as_tensor(len(one.prompt) + np.flatnonzero(completion.scored), device=policy.device)
                pieces.append(logits[at - 1].log_softmax(-1).gather(-1, ids[at, None])[:, 0])
        scores = torch.cat(pieces)
        _weighted(scores).backward()
    return scores.detach(), _gradient(policy)


def _split_check(policy: Policy, trees: Sequence[Tree], whole: Tensor) -> Check:
    """One row of all trees, whose scores are given, against one row per tree."""
    # With gradient as the whole had: without, FlexAttention would be compiled once more.
    apart = torch.cat([_scores(policy, lay_out([one])).detach() for one in trees])
    return Check("a batch in one row = in several", _gap(whole, apart), _LOGPROB_TOLERANCE, "nats")


def _later_check(policy: Policy, one: Tree) -> Check:
    """The same tokens with fewer behind them: a model that is not causal reads the answer it is scored on."""
    ids = np.concatenate([one.prompt.ids, max(one.completions, key=len).ids])
    start = max(1, len(one.prompt))
    end = start + -(-(len(ids) - start) // 2)
    is_first = np.arange(start, len(ids)) < end
    with torch.no_grad():
        whole, short = (
            _scores(policy, lay_out([tree(one.row_id, ids[:start], [(ids[start:stop], is_first[: stop - start])])]))
            for stop in (len(ids), end)
        )
    return Check("log-probs read nothing behind their token", _gap(whole, short), _LOGPROB_TOLERANCE, "nats")


def _sampler_check(policy: Policy, trees: Sequence[Tree]) -> Check:
    """A few tokens drawn for two texts of unequal length at once, against the policy's log-probs of them."""
    texts = [np.concatenate([t.prompt.ids, *(c.ids for c in t.completions)])[-_MAX_TOKENS:] for t in trees]
    prompts = [texts[0], texts[-1][len(texts[-1]) // 3 :]]
    requests = [Request(ids.tolist(), 1.0, seed, _NUM_SAMPLED) for seed, ids in enumerate(prompts)]
    drawn = BatchedGeneration(policy, end_ids=frozenset()).generate(requests)
    with policy.on_path("plain"):  # nothing is compiled for it
        found = distance(policy, list(zip(requests, drawn, strict=True)))
    return Check("samples' log-probs = the policy's", found, _SAMPLER_TOLERANCE, "nats per token")


def _reference_check(reference: Reference, pack: Pack, ours: Tensor) -> Check:
    """Before the first step the policy is its reference (DPO's margin is 0); a run that resumes skips this."""
    with reference.policy() as frozen, frozen.in_fp32(), frozen.on_path("plain"), torch.no_grad():
        theirs = frozen(pack).logprob_T
    return Check("policy = reference before the first step", _gap(ours, theirs), 1e-5, "nats")


def plain_factor(trees: Sequence[Tree], *, num_samples: int = 0, sample_tokens: int = 0) -> float:
    """How many times as many tokens the plain path computes: a prompt again for each of its completions.

    Args:
        trees: the first thousand are looked at.
        num_samples: completions that will be drawn for a prompt that has none yet, of `sample_tokens` each.
    """
    shared = apart = 0
    for one in itertools.islice(trees, 1000):
        sizes = [len(c) for c in one.completions] or [sample_tokens] * max(1, num_samples)
        shared += len(one.prompt) + sum(sizes)
        apart += len(one.prompt) * len(sizes) + sum(sizes)
    return apart / max(1, shared)


def small_trees(trees: Sequence[Tree]) -> list[Tree]:
    """Take two of the shortest rows, cut; prompts without completions get two, made of their own last tokens."""
    chosen = heapq.nsmallest(2, (t for t in trees if len(t.prompt) > 1), key=len) or list(trees[:1])
    return [_cut(one) for one in chosen]


def _cut(one: Tree) -> Tree:
    prompt = one.prompt.ids[-_MAX_TOKENS:]
    parts = []
    for completion in one.completions:
        # A conversation is one text without a prompt: a list of tools or a long question stands before what is scored.
        start = max(0, int(np.argmax(completion.scored)) - _MAX_TOKENS // 2)
        part = slice(start, start + _MAX_TOKENS)
        parts.append((completion.ids[part], completion.scored[part]))
    if not parts:
        parts = [(ids, np.ones(len(ids), bool)) for ids in (prompt[-12:], prompt[-7:])]
    return tree(one.row_id, prompt, parts)


def _scores(policy: Policy, pack: Pack) -> Tensor:
    output = policy(pack)
    return output.logprob_T if output.value_N is None else output.value_N


def _scores_and_gradient(policy: Policy, pack: Pack) -> Computed:
    policy.zero_grad(set_to_none=True)
    scores = _scores(policy, pack)
    _weighted(scores).backward()
    return scores.detach(), _gradient(policy)


def _weighted(scores: Tensor) -> Tensor:
    """A sum with unequal weights of both signs, so that no error cancels."""
    return (scores * torch.linspace(-1, 1, len(scores), device=scores.device).add(0.25)).sum()


def _gradient(policy: Policy) -> list[Tensor]:
    """Take the gradient over from the weights: where they are fp32 on the CPU, nothing is copied."""
    gradients = [p.grad.float().cpu() for p in policy.parameters() if p.grad is not None]
    policy.zero_grad(set_to_none=True)
    return gradients


def _gap(a: Tensor, b: Tensor) -> float:
    return float((a.float() - b.float()).abs().max())


def _relative(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """||a - b|| / ||b|| over all weights' gradients."""
    gap = math.hypot(*(float((a - b).norm()) for a, b in zip(ours, theirs, strict=True)))
    return gap / max(math.hypot(*(float(b.norm()) for b in theirs)), 1e-12)
