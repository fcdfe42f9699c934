"""`--sampler vllm`: vLLM generates in this process, from a copy of the policy's weights that every draw renews.

Token ids go in, token ids and log-probs come out. Each request has its own temperature, top-p and seed. Every sampling
field is set, so nothing comes from a model's generation_config. On a GPU the engine sleeps while the policy trains. The
order is: wake the weights, load them, forget cached prefixes, wake the cache, generate, sleep.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from alignkit.plugin import Completion, CopyingSampler, Request, RunStopped, Sampler, UsageError, hookimpl
from alignkit_plugins.vllm_engine import (
    CPU_BLOCK,
    as_completion,
    num_ranks,
    require_vllm,
    sampling_fields,
    start_engine,
    stop_engine,
)
from alignkit_plugins.weight_comparison import WeightComparison, is_made_of

if TYPE_CHECKING:
    from torch import Tensor

    from alignkit.plugin import Candidates, Policy

MAX_LENGTH = 4096  # tokens, prompt and completion: a longer engine's cache would hold fewer sequences at once
MIN_TEMPERATURE = 0.01  # vLLM raises lower ones to it, except 0
_GPU_MEMORY = 0.35  # share; the rest is the policy's
_MAX_SEQUENCES = 256


class VLLMSampler(CopyingSampler):
    """Generates with vLLM beside the policy."""

    name: ClassVar[str] = "vllm"
    works_on_ranks: ClassVar[bool] = True

    def __init__(self, policy: Policy, *, end_ids: frozenset[int]) -> None:
        super().__init__(policy, end_ids=end_ids)
        require_vllm("--sampler vllm", otherwise="--sampler transformers needs nothing more")
        self._sleeps = policy.device.type == "cuda"
        self._is_asleep = False
        self._searches_beams = False
        self._comparison = WeightComparison(policy)

    @property
    def max_length(self) -> int:
        return min(MAX_LENGTH, int(self.policy.config.max_position_embeddings))

    def sample(self, requests: Sequence[Request]) -> list[Completion]:
        """Return one completion for each request, in order.

        Raises:
            UsageError: a temperature that vLLM does not sample at.
            RunStopped: the engine failed.
        """
        params = [self._params(request) for request in requests]
        with self._awake():
            outputs = self._generate([request.prompt_ids for request in requests], params)
        return [_completion(output, request) for output, request in zip(outputs, requests, strict=True)]

    def beam_search(self, requests: Sequence[Request], *, num_beams: int, length_penalty: float) -> list[Completion]:
        """See `Sampler`. Each live beam asks for one more token; its past is in the engine's prefix cache."""
        from alignkit.plugin import beam_search

        self._searches_beams = True

        def search(requests: Sequence[Request]) -> list[Completion]:
            with self._awake():
                return beam_search(
                    requests,
                    partial(self._likeliest, num=2 * num_beams),
                    num_beams=num_beams,
                    length_penalty=length_penalty,
                    end_ids=self.end_ids,
                )

        return self.checked([replace(request, temperature=0.0, top_p=1.0) for request in requests], search)

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Wake the engine, load weights into it, and forget what was cached under older ones."""
        if self._sleeps:
            import torch

            # Memory that torch keeps after a training step is not free to the engine, whose allocator is another.
            torch.cuda.empty_cache()
        engine = self._engine
        if self._is_asleep:
            engine.wake_up(tags=["weights"])
            self._is_asleep = False
        engine.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(weights)})
        if not engine.reset_prefix_cache():
            raise RunStopped("vLLM keeps prefixes that were cached under older weights: another request is under way")

    def stale(self) -> Sequence[str]:
        """See `CopyingSampler`."""

        def differing(model: Any) -> list[str]:
            own = dict(model.named_parameters())
            return self._comparison.differing(lambda name, parts: is_made_of(own[name], parts) if name in own else None)

        (found,) = self._engine.apply_model(differing)
        return list(found)

    def close(self) -> None:
        """Free the engine."""
        if "_engine" in vars(self):
            stop_engine(self._engine)
            del self._engine

    @cached_property
    def _engine(self) -> Any:
        """An engine of the policy's architecture. Its weights are random until the policy's are loaded.

        Several ranks make theirs at once, in the first `sync`: vLLM makes process groups of all ranks.
        """
        import torch

        folder = tempfile.TemporaryDirectory(prefix="alignkit-vllm-")
        weakref.finalize(self, folder.cleanup)
        self.policy.config.save_pretrained(folder.name)
        bf16 = self.policy.autocast is torch.bfloat16
        on_cpu = self.policy.device.type == "cpu"
        return start_engine(
            Path(folder.name),
            dtype="bfloat16" if bf16 else "float32",
            max_model_len=self.max_length,
            gpu_memory=self.gpu_memory or _GPU_MEMORY,
            eager=on_cpu,
            distributed_executor_backend="external_launcher" if num_ranks() > 1 else None,
            load_format="dummy",
            skip_tokenizer_init=True,
            generation_config="vllm",
            logprobs_mode="processed_logprobs",
            max_num_seqs=_MAX_SEQUENCES,
            enable_sleep_mode=self._sleeps,
            max_logprobs=-1,  # of any width of beam search
            block_size=CPU_BLOCK if self._searches_beams and on_cpu else None,
            # a seeded request whose prompt is computed in parts fails there: CPU generators cannot be set back
            enable_chunked_prefill=False if on_cpu else None,
        )

    @contextmanager
    def _awake(self) -> Iterator[None]:
        """Hold the engine awake, with weights and cache, while it generates."""
        if self._is_asleep:
            self.sync()  # sleeping threw the weights away
        if self._sleeps:
            self._engine.wake_up(tags=["kv_cache"])
        yield
        if self._sleeps:
            self._engine.sleep(level=2)
            self._is_asleep = True

    def _generate(self, texts: Sequence[Sequence[int]], params: Any) -> list[Any]:
        """Return each text's only continuation."""
        prompts = [{"prompt_token_ids": list(ids)} for ids in texts]
        try:
            outputs = self._engine.generate(prompts, params, use_tqdm=False)
        except (RuntimeError, ValueError) as error:
            raise RunStopped(f"vLLM failed while generating: {error}") from error
        return [output.outputs[0] for output in outputs]

    def _likeliest(self, texts: Sequence[Sequence[int]], *, num: int) -> list[Candidates]:
        """Return each text's likeliest next tokens and their log-probs."""
        params = self._params(Request((), temperature=0.0, seed=0, max_new_tokens=1))
        params.logprobs = min(num, int(self.policy.config.vocab_size))
        outputs = self._generate(texts, params)
        return [[(token, one.logprob) for token, one in output.logprobs[0].items()] for output in outputs]

    def _params(self, request: Request) -> Any:
        from vllm import SamplingParams

        if 0 < request.temperature < MIN_TEMPERATURE:
            raise UsageError(
                f"temperature {request.temperature:g}: vLLM samples at 0 or from {MIN_TEMPERATURE:g} on; use --sampler "
                "transformers"
            )
        return SamplingParams(**sampling_fields(request, self.end_ids), detokenize=False)


def _completion(output: Any, request: Request) -> Completion:
    logprobs = [step[token].logprob for step, token in zip(output.logprobs, output.token_ids, strict=True)]
    return as_completion(list(output.token_ids), logprobs, request, output.finish_reason)


@hookimpl
def register_samplers(register: Callable[[type[Sampler]], None]) -> None:
    from alignkit_plugins.vllm_server import VLLMServerSampler

    register(VLLMSampler)
    register(VLLMServerSampler)
