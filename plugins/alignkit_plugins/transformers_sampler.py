"""`--sampler transformers`: the policy itself generates, on its own device. The engine is alignkit's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

from alignkit.plugin import Completion, Request, Sampler, hookimpl

if TYPE_CHECKING:
    from alignkit.plugin import Policy


class TransformersSampler(Sampler):
    """Generates with the policy's own weights: nothing to install, nothing to synchronise."""

    name: ClassVar[str] = "transformers"

    def __init__(self, policy: Policy, *, end_ids: frozenset[int]) -> None:
        from alignkit.plugin import BatchedGeneration  # imports torch: only when a sampler is made

        super().__init__(policy, end_ids=end_ids)
        self._generation = BatchedGeneration(policy, end_ids=end_ids)

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        return self._generation.generate(requests)

    def stream(self, request: Request, seen: Callable[[Sequence[int]], None]) -> Completion:
        return self._generation.generate([request], seen=seen)[0]

    def beam_search(self, requests: Sequence[Request], *, num_beams: int, length_penalty: float) -> list[Completion]:
        from alignkit.plugin import BeamGeneration

        generation = BeamGeneration(self.policy, end_ids=self.end_ids)
        return generation.search(requests, num_beams=num_beams, length_penalty=length_penalty)


@hookimpl
def register_samplers(register: Callable[[type[Sampler]], None]) -> None:
    register(TransformersSampler)
