"""The frozen reference: the weights the run started from, in the same precision as the policy."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from alignkit.data.trees.packs import Pack
from alignkit.memory import free_machine_bytes
from alignkit.policy.policy import Policy
from alignkit.policy.transfer import to_device
from alignkit.training.gradient.reference_cache import CachedLogprobs


class Reference:
    """Log-probs under the starting weights.

    They come from what is known before (`known`), else from a frozen copy, or from the policy with its LoRA adapter
    disabled. A frozen copy given as `load` is loaded when it is first needed and let go by `release`. `know` computes
    what is known before, now and by `know_again`.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        frozen: Policy | None = None,
        load: Callable[[], Policy] | None = None,
        known: Sequence[CachedLogprobs] = (),
        know: Callable[[Policy], Sequence[CachedLogprobs]] | None = None,
    ) -> None:
        self._policy, self._load, self._know = policy, load, know
        self._known = list(known) if know is None else list(know(policy))
        self._frozen = None if frozen is None else frozen.requires_grad_(False).eval()
        if frozen is None and load is None and not policy.has_adapter:
            raise ValueError("a reference needs a frozen copy, or a policy with an adapter")

    @property
    def is_cached(self) -> bool:
        """Whether log-probs of the data's rows are known before the first step."""
        return bool(self._known)

    def know_again(self, policy: Policy) -> None:
        """Compute what is known before once more, by a policy that still has the reference's weights."""
        if self._know is not None:
            self._known[:] = self._know(policy)

    def under(self, policy: Policy) -> Reference:
        """The same, with another policy's adapter disabled: one that holds the same weights otherwise."""
        other = copy.copy(self)
        other._policy = policy
        return other

    @contextlib.contextmanager
    def policy(self) -> Iterator[Policy]:
        """The reference as a policy, without gradient."""
        with torch.no_grad():
            if self._frozen is None and self._load is not None:
                self._frozen = self._load().requires_grad_(False).eval()
            elif self._frozen is not None and self._frozen.device != self._policy.device:
                self._frozen.to(self._policy.device)
            if self._frozen is not None:
                yield self._frozen
            else:
                with self._policy.base_weights():
                    yield self._policy

    @property
    def frozen(self) -> Policy | None:
        """The frozen copy that is held now, if there is one."""
        return self._frozen

    def release(self) -> None:
        """Let go of a frozen copy that can be loaded again.

        Beside a GPU it waits in the host's memory, where half of what is free there holds it; else it is dropped.
        """
        if self._load is None or self._frozen is None:
            return
        waits = self._frozen.device.type == "cuda"
        if waits and sum(p.nbytes for p in self._frozen.parameters()) < free_machine_bytes() // 2:
            self._frozen.to("cpu")
        else:
            self._frozen = None

    def known(self, pack: Pack, temperature_N: np.ndarray | None = None) -> np.ndarray | None:
        """Return float32 [T] where the row's log-probs are known before, else None."""
        found = (known.of(pack, temperature_N) for known in self._known)
        return next((x for x in found if x is not None), None)

    def logprobs(
        self, pack: Pack, temperature_N: np.ndarray | None = None, *, tensors: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Return float32 [T] without gradient.

        Args:
            tensors: the policy's own of this row, as `Policy.forward` takes them.
        """
        if (found := self.known(pack, temperature_N)) is not None:
            return to_device([{"logprob_T": found}], self._policy.device)[0]["logprob_T"]
        with self.policy() as policy:
            same = tensors if policy.path == self._policy.path else None
            logprob_T: Tensor = policy(pack, temperature_N, tensors=same).logprob_T
        return logprob_T


def exact_kl(policy: Policy, reference: Reference, pack: Pack, *, chunk_bytes: int = 2**26) -> Tensor:
    """KL(policy || reference) at each scored position, exact over the vocabulary, at temperature 1: float32 [T].

    sum_v p(v) (log p(v) - log q(v)), in chunks of positions. No gradient.
    """
    with torch.no_grad(), policy.computing():
        ours = policy.scored_states(pack)
    with reference.policy() as frozen, frozen.computing():
        theirs = frozen.scored_states(pack)
        size = max(1, chunk_bytes // (4 * policy.base.get_output_embeddings().weight.shape[0]))
        kl_T = torch.empty(len(ours), dtype=torch.float32, device=ours.device)
        for at in range(0, len(ours), size):
            chunk = slice(at, at + size)
            logp, logq = (x.logits(states[chunk]).log_softmax(-1) for x, states in ((policy, ours), (frozen, theirs)))
            kl_T[chunk] = (logp.exp() * (logp - logq)).sum(-1)
    return kl_T
