"""What every test relies on: no hub, one thread a process, and tests that need a network or a GPU only where asked."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from places import TESTS

from alignkit.data.reading.said import say_anew

hypothesis.settings.register_profile("alignkit", deadline=None)  # a busy machine is no failure; pytest has a timeout
hypothesis.settings.load_profile("alignkit")

# Before any test imports torch or huggingface_hub; the commands that tests start inherit it.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Workers take whole files: begun last, one of these would leave the other worker without work.
LONGEST_FILES = (
    "house/test_end_to_end.py",
    "training/run/test_many_ranks.py",
    "data/chat/test_chat_templates.py",
    "training/rollouts/test_rollouts_in_training.py",
    "plugins/test_vllm_reward.py",
    "training/run/test_plan.py",
    "plugins/test_vllm_sampler.py",
    "training/loop/test_reliability.py",
    "plugins/test_vllm_ranks.py",
    "plugins/test_vllm_server.py",
    "scoring/test_chaos.py",
    "house/test_gpu_bench.py",
    "training/run/test_resume_refusals.py",
    "house/test_attacks.py",
)


@pytest.fixture(autouse=True)
def own_ledger(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test an empty ledger, also to the commands that it starts."""
    monkeypatch.setenv("ALIGNKIT_LEDGER", str(tmp_path_factory.mktemp("ledger") / "ledger.sqlite"))


@pytest.fixture(autouse=True)
def own_configuration(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test a user's configuration of its own: what was agreed to stands there."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("configuration")))


@pytest.fixture(autouse=True)
def own_lines() -> None:
    """Let each test hear what was said once in another."""
    say_anew()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 12 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a small file system needs the right to mount: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the longest files; skip tests marked network unless `-m` names them, and gpu without a CUDA device."""
    place = {TESTS / name: number for number, name in enumerate(LONGEST_FILES)}
    items.sort(key=lambda item: place.get(item.path, len(place)))
    if "network" not in config.getoption("-m"):
        for item in items:
            if item.get_closest_marker("network"):
                item.add_marker(pytest.mark.skip(reason="needs a network: ask for it with -m network"))
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if on_gpu and not _has_cuda():
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()
