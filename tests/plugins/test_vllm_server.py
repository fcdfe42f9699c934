"""`--sampler vllm-server` on real vLLM servers of a small random model: spreading, takeover, renewal, stale weights."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from alignkit_plugins.weight_transfer import BACKENDS, backend_of
from alignkit_plugins.weights_folder import MARK, WeightsFolder
from grpo_runs import command, options
from places import HELPERS
from safetensors.torch import load_file
from tiny_models import tiny_model
from vllm_engines import needs_vllm

from alignkit.cli.main import main
from alignkit.errors import RunStopped, UsageError
from alignkit.policy.load import load_policy
from alignkit.registry import registry
from alignkit.rollouts.sampler import Request

REQUESTS = [Request([1, 2, 3 + n // 4], [0.6, 0.8, 1.0, 1.2][n % 4], n, 24) for n in range(16)]


def start(model: Path, *more: str, **variables: str) -> tuple[str, subprocess.Popen[bytes]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "OMP_NUM_THREADS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        **variables,
    }
    arguments = [
        "--model",
        str(model),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--dtype",
        "float32",
        "--enforce-eager",
        "--max-model-len",
        "256",
        "--logprobs-mode",
        "processed_logprobs",
        "--served-model-name",
        "policy",
        "--disable-uvicorn-access-log",
        "--no-enable-chunked-prefill",
        *more,
    ]
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "vllm.entrypoints.openai.api_server", *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    return f"http://127.0.0.1:{port}", process


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"), hidden_size=128)


@pytest.fixture(scope="module")
def servers(model: Path) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Two servers, started at once."""
    with answering(dict(start(model) for _ in range(2))) as started:
        yield started


@contextmanager
def answering(started: dict[str, subprocess.Popen[bytes]]) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Wait until servers answer, and end them afterwards."""
    try:
        give_up = time.monotonic() + 240
        for url, process in started.items():
            while True:
                assert process.poll() is None and time.monotonic() < give_up, f"{url} did not start"
                try:
                    if httpx.get(f"{url}/health", timeout=2).status_code == 200:
                        break
                except httpx.HTTPError:
                    time.sleep(0.5)
        yield started
    finally:
        for process in started.values():
            kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """A server with its engine process."""
    try:
        os.killpg(process.pid, 9)
    except ProcessLookupError:
        return
    process.wait()


@needs_vllm
@pytest.mark.slow
def test_servers_draw_what_one_engine_draws_take_weights_over_and_take_over_from_the_dead(
    model: Path, servers: dict[str, subprocess.Popen[bytes]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = load_policy(model, precision="fp32")
    sampler: Any = registry().find("sampler", "vllm-server")(policy, end_ids=frozenset({256, 258}))
    sampler.connect(list(servers), str(tmp_path / "weights"))
    assert sampler.max_length == 256
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    sampler.sync()
    first = sampler.generate(REQUESTS)
    assert sampler.metrics["sampler_mismatch"] < 1e-4  # both servers have the new weights
    assert set(sampler.drawn_by) == {f"{url}" for url in servers}
    alone = [sampler.generate([request])[0] for request in REQUESTS[:3]]
    assert [c.ids.tolist() for c in alone] == [c.ids.tolist() for c in first[:3]]  # its seed decides, nothing else

    given = options(
        model,
        tmp_path,
        tmp_path / "run",
        "return len(set(completion))",
        sampler="vllm-server",
        servers=list(servers),
        max_new_tokens=12,
        learning_rate=1e-3,
        warmup_steps=0,
    )
    assert main(command(given)) == 0, capsys.readouterr().err
    assert main(command(given | {"servers": [next(iter(servers))], "out": str(tmp_path / "one")})) == 0
    both, one = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("run", "one"))
    assert all(torch.allclose(both[name], one[name], atol=1e-5) for name in both)

    stale = sampler._write
    sampler._write = lambda weights: None
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.01)
    sampler.sync()
    with pytest.raises(RunStopped, match="stale weights"):
        sampler.generate(REQUESTS)
    sampler._write = stale
    sampler.sync()
    whole = sampler.generate(REQUESTS)

    url, process = next(iter(servers.items()))
    complete = sampler._complete

    def killing(requests: Any, server: Any, number: int) -> Any:
        if number == 5:
            kill(process)
        return complete(requests, server, number)

    sampler._complete = killing
    again = sampler.generate(REQUESTS)
    assert [c.ids.tolist() for c in again] == [c.ids.tolist() for c in whole]
    assert all(np.allclose(a.logprobs, b.logprobs, atol=1e-5) for a, b in zip(again, whole, strict=True))
    sampler._complete = complete
    sampler.sync()  # the dead one is left out
    assert len(sampler.generate(REQUESTS)) == len(REQUESTS) and url not in set(sampler.drawn_by)
    for process in servers.values():
        kill(process)
    with pytest.raises(RunStopped, match="every server failed"):
        sampler.generate(REQUESTS)
    with pytest.raises(RunStopped, match="no server takes the weights"):
        sampler.sync()
    sampler.close()


@needs_vllm
@pytest.mark.slow
def test_weights_reach_a_server_by_vllms_own_transfer(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM's routes and worker, with a backend over TCP where a GPU would have NCCL."""
    import weight_transfer_tcp

    weight_transfer_tcp.register()
    monkeypatch.setitem(BACKENDS, "tcp", lambda: weight_transfer_tcp.TrainerMeeting)
    plugin = tmp_path / "transfer-1.dist-info"
    plugin.mkdir()
    (plugin / "METADATA").write_text("Metadata-Version: 2.1\nName: transfer\nVersion: 1\n")
    (plugin / "entry_points.txt").write_text("[vllm.general_plugins]\ntcp = weight_transfer_tcp:register\n")
    path = os.pathsep.join([str(tmp_path), str(HELPERS)])
    policy = load_policy(model, precision="fp32")
    sampler: Any = registry().find("sampler", "vllm-server")(policy, end_ids=frozenset({256, 258}))
    made = start(model, "--weight-transfer-config", '{"backend": "tcp"}', PYTHONPATH=path)
    with answering(dict([made])) as started:
        sampler.connect(list(started), "vllm:tcp")
        before = None
        for _ in range(2):
            with torch.no_grad():
                for parameter in policy.parameters():
                    parameter.add_(torch.randn_like(parameter) * 0.02)
            sampler.sync()
            drawn = [completion.logprobs.tolist() for completion in sampler.generate(REQUESTS)]
            assert sampler.metrics["sampler_mismatch"] < 1e-4 and drawn != before
            before = drawn
        (transfer,) = sampler._transfers.values()
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.02)
        with monkeypatch.context() as patch:
            patch.setattr(transfer, "send_weights", lambda: None)
            sampler.sync()
            with pytest.raises(RunStopped, match="stale weights"):
                sampler.generate(REQUESTS)
        sampler.sync()
        sampler.generate(REQUESTS)
    with pytest.raises(RunStopped, match="no server takes the weights"):
        sampler.sync()
    sampler.close()


@pytest.mark.parametrize(
    ("named", "said"), [("vllm:nccl", "needs the policy on a GPU"), ("vllm:smoke", "no such transfer; take vllm:nccl")]
)
def test_a_transfer_that_cannot_be_is_refused(tmp_path: Path, named: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        backend_of(named, torch.device("cpu"))


def test_weights_go_into_a_new_empty_or_own_folder_of_one_run(tmp_path: Path) -> None:
    policy = load_policy(tiny_model(tmp_path / "precious"), precision="fp32")
    before = {path.name: path.read_bytes() for path in (tmp_path / "precious").iterdir()}
    sampler: Any = registry().find("sampler", "vllm-server")(policy, end_ids=frozenset())
    with pytest.raises(UsageError, match="holds files that alignkit did not write"):
        sampler.connect(["http://127.0.0.1:9"], str(tmp_path / "precious"))
    assert {path.name: path.read_bytes() for path in (tmp_path / "precious").iterdir()} == before
    (tmp_path / "empty").mkdir()
    for name in ("new", "empty"):
        folder = WeightsFolder(tmp_path / name)
        folder.write(dict(policy.model.state_dict()), policy.config)
        assert {path.name for path in folder.path.iterdir()} == {MARK, "model.safetensors", "config.json"}
        with pytest.raises(UsageError, match="another run hands its weights over by it"):
            WeightsFolder(tmp_path / name)
        folder.close()
        again = WeightsFolder(tmp_path / name)
        again.write(dict(policy.model.state_dict()), policy.config)
        again.close()
    (tmp_path / "file").write_text("x")
    for wrong in ("file", "a" * 300, ""):
        with pytest.raises(UsageError, match="server_weights"):
            WeightsFolder(Path(tmp_path / wrong if wrong else "\n"))


def test_servers_are_named_for_the_sampler_that_has_them_and_must_answer(tmp_path: Path) -> None:
    policy = load_policy(tiny_model(tmp_path), precision="fp32")
    sampler = registry().find("sampler", "vllm-server")(policy, end_ids=frozenset())
    with pytest.raises(UsageError, match="name its servers"):
        sampler.connect([], None)
    with pytest.raises(UsageError, match="draws in training"):
        sampler.generate([Request([1], 1.0, 0, 4)])
    with pytest.raises(UsageError, match=r"no vLLM server that takes weights .*VLLM_SERVER_DEV_MODE=1"):
        sampler.connect(["http://127.0.0.1:9"], None)
    plain = registry().find("sampler", "transformers")(policy, end_ids=frozenset())
    with pytest.raises(UsageError, match="leave it out, or name --sampler vllm-server"):
        plain.connect(["http://127.0.0.1:9"], None)
