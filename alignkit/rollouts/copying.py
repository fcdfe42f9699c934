"""A sampler that generates from a copy of the policy's weights: the copy is renewed, and checked each time it is."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from alignkit.errors import InputError, RunStopped
from alignkit.rollouts.sampler import Completion, Request, Sampler

if TYPE_CHECKING:
    from torch import Tensor

    from alignkit.policy.policy import Policy
    from alignkit.rollouts.agreement import Agreement


class CopyingSampler(Sampler):
    """Leaves `sample` and `load` to its subclass; after each `sync`, the next samples are compared with the policy."""

    copies_weights: ClassVar[bool] = True
    works_on_ranks: ClassVar[bool] = False

    def __init__(self, policy: Policy, *, end_ids: frozenset[int]) -> None:
        super().__init__(policy, end_ids=end_ids)
        self._agreement: Agreement | None = None
        self._metrics: dict[str, float] = {}
        self._stale: Sequence[str] = ()
        self._is_loaded = False
        self._is_checked = False

    @abstractmethod
    def sample(self, requests: Sequence[Request]) -> list[Completion]:
        """Return one completion for each request, in order, from the copy."""

    @abstractmethod
    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Make these the copy's weights, by the names of the checkpoint format; nothing of older ones may stay."""

    def stale(self) -> Sequence[str]:
        """Return tensors that are others in the copy, which was just renewed; () where it cannot be read."""
        return ()

    def sources(self) -> Sequence[str]:
        """Which copy gave each completion of the last `generate`; () where there is one copy. Each is checked."""
        return ()

    @property
    def metrics(self) -> Mapping[str, float]:
        """`sync_s`, and `sampler_mismatch`: mean |log p(copy) - log p(policy)|, nats per token."""
        return self._metrics

    def weights(self) -> Iterable[tuple[str, Tensor]]:
        """What is handed over: the policy's weights, LoRA adapters merged."""
        return self.policy.merged_weights()

    def sync(self) -> None:
        """Renew the copy."""
        started = time.monotonic()
        self.load(self.weights())
        self._stale = self.stale()
        self._is_loaded, self._is_checked = True, False
        self._metrics["sync_s"] = time.monotonic() - started

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Return one completion for each request, in order.

        Raises:
            InputError: a request is longer than the sampler takes.
            RunStopped: the copy's weights are stale.
        """
        return self.checked(requests, self.sample)

    def checked(
        self, requests: Sequence[Request], sample: Callable[[Sequence[Request]], list[Completion]]
    ) -> list[Completion]:
        """Sample with the policy's weights, and compare what comes with the policy once after each `sync`."""
        for request in requests:
            self._refuse_long(request)
        if not requests:
            return []
        if not self._is_loaded:
            self.sync()
        completions = sample(requests)
        if not self._is_checked:
            self._check(requests, completions)
        return completions

    def _check(self, requests: Sequence[Request], completions: Sequence[Completion]) -> None:
        """Compare where log-probs are known: those after top-p are not the policy's."""
        if self._stale:
            raise RunStopped(
                f"stale weights: --sampler {self.name} does not generate from the weights that are trained: after an "
                f"update {len(self._stale)} of the tensors looked at are other ones ({self._stale[0]}); nothing was "
                "trained on these samples; report this with the versions of `alignkit doctor`, or use --sampler "
                "transformers"
            )
        sources = self.sources() or [self.name] * len(completions)
        known: dict[str, list[tuple[Request, Completion]]] = {}
        for source, request, completion in zip(sources, requests, completions, strict=True):
            if request.top_p == 1.0 or request.temperature == 0:  # nan there is a copy that computes nonsense
                known.setdefault(source, []).append((request, completion))
        if not known:
            return
        if self._agreement is None:
            from alignkit.rollouts.agreement import Agreement

            self._agreement = Agreement(self.policy, sampler=self.name)
        self._metrics["sampler_mismatch"] = max(map(self._agreement.check, known.values()))
        self._is_checked = True

    def _refuse_long(self, request: Request) -> None:
        length = len(request.prompt_ids) + request.max_new_tokens
        if self.max_length is not None and length > self.max_length:
            raise InputError(
                f"a prompt of {len(request.prompt_ids):,} tokens and {request.max_new_tokens:,} new ones are more than "
                f"--sampler {self.name} takes here ({self.max_length:,}): lower --max-new-tokens, or use --sampler "
                "transformers"
            )
