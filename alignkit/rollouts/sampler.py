"""What a sampler is: token ids in, token ids and their log-probs out, never a text round trip."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from alignkit.errors import UsageError
from alignkit.registry import registry

if TYPE_CHECKING:
    import numpy as np

    from alignkit.data.chat.chat import Chat
    from alignkit.policy.policy import Policy


@dataclass(frozen=True)
class Request:
    """One completion to sample.

    Args:
        prompt_ids: the prompt's token ids, generation prompt included.
        temperature: 0 takes the likeliest token; otherwise logits are divided by it.
        top_p: keep the smallest set of tokens whose probability reaches this; 1 keeps all.
        seed: the whole randomness of this completion: it depends on nothing else in its batch (exactly so in fp32).
        max_new_tokens: a completion that has no end token by then is truncated.
    """

    prompt_ids: Sequence[int]
    temperature: float
    seed: int
    max_new_tokens: int
    top_p: float = 1.0


@dataclass(frozen=True)
class Completion:
    """What was sampled.

    `ids` int32 [T] hold the end token where there is one; `logprobs` float32 [T] are those of the distribution at the
    request's temperature, before top-p (nan where the sampler only knows those after it); `truncated` says that
    `max_new_tokens` ended it.
    """

    ids: np.ndarray
    logprobs: np.ndarray
    truncated: bool


class Sampler(ABC):
    """Samples completions from the policy it was made for.

    Args:
        policy: whose weights generate.
        end_ids: token ids that end a completion (and belong to it).
    """

    name: ClassVar[str]
    copies_weights: ClassVar[bool] = False
    """It samples from a copy of the weights in an engine of its own; else from the weights that are trained."""
    works_on_ranks: ClassVar[bool] = True
    """Several ranks can each have one, and draw their share of the prompts."""
    gpu_memory: float | None = None
    """Share of the GPU's memory that an engine of its own takes while it draws, 0 to 1; None: as the sampler thinks."""

    def __init__(self, policy: Policy, *, end_ids: frozenset[int]) -> None:
        self.policy = policy
        self.end_ids = end_ids

    def connect(self, servers: Sequence[str], shared: str | None) -> None:
        """Use these servers, and this folder that they see too (None: one of this machine).

        Raises:
            UsageError: this sampler generates in the process itself, or cannot use the servers.
        """
        if servers or shared is not None:
            raise UsageError(f"servers: sampler {self.name!r} has none; leave it out, or name --sampler vllm-server")

    @abstractmethod
    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Return one completion for each request, in order."""

    def stream(self, request: Request, seen: Callable[[Sequence[int]], None]) -> Completion:
        """As `generate` of one request; a sampler that can calls `seen` with all ids so far, token by token."""
        return self.generate([request])[0]

    def beam_search(self, requests: Sequence[Request], *, num_beams: int, length_penalty: float) -> list[Completion]:
        """Return each request's completion of the highest sum of log p / tokens ^ `length_penalty` (rollouts/beams.py).

        Temperature, top-p and seed of the requests are not looked at.

        Raises:
            UsageError: this sampler has no beam search.
        """
        raise UsageError(
            f"sampler {self.name!r} has no beam search: leave --num-beams out, or name --sampler transformers"
        )

    @property
    def max_length(self) -> int | None:
        """Longest prompt and completion together, in tokens; None: as the model takes."""
        return None

    @property
    def metrics(self) -> Mapping[str, float]:
        """Numbers of the last `generate`, for metrics.jsonl."""
        return {}

    def sync(self) -> None:
        """Take over the policy's weights as they are now; nothing to do where the sampler reads them directly."""

    def close(self) -> None:
        """Free what was loaded."""


def make_sampler(name: str, policy: Policy, chat: Chat, *, gpu_memory: float | None = None) -> Sampler:
    """Make the sampler of that name for a policy.

    Args:
        gpu_memory: as `Sampler.gpu_memory`.

    Raises:
        UsageError: no plugin adds it.
    """
    cls = registry().find("sampler", name)
    assert issubclass(cls, Sampler)
    sampler = cls(policy, end_ids=chat.end_ids)
    sampler.gpu_memory = gpu_memory
    return sampler
