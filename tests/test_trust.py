"""What a folder's files name counts only after the user agreed to it; what is typed needs no agreement."""

from __future__ import annotations

import http.server
import io
import json
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tiny_models import tiny_model

from alignkit import trust
from alignkit.cli.main import main
from alignkit.config_file import judge_settings
from alignkit.errors import InputError, UsageError
from alignkit.scoring.specs import make_judge

CANARY = "nvapi-CANARY-0123456789"
EVIL = """from pathlib import Path
Path("canary").write_text("x")
def score(completion, row):
    return float(len(completion))
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return str(tiny_model(folder / "one")), str(tiny_model(folder / "other", seed=7))


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("evil.py").write_text(EVIL)
    rows = [{"id": f"r{n}", "prompt": f"Say {n}.", "chosen": f"{n}", "rejected": f"no {n}"} for n in range(8)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("NVIDIA_API_KEY", "HF_TOKEN", "VLLM_API_KEY"):
        monkeypatch.setenv(name, CANARY)
    return tmp_path


def write(text: str) -> None:
    Path("alignkit.toml").write_text(text)


@contextmanager
def listening() -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    """A service on this machine: its address, and what arrived as (verb, Authorization)."""
    arrived: list[tuple[str, str | None]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            arrived.append((self.command, self.headers.get("authorization")))
            body = json.dumps({"choices": [{"message": {"content": "reward:1.0 [[A]]"}}], "data": []}).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = answer

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", arrived
    finally:
        server.shutdown()
        server.server_close()


def judging(models: tuple[str, str], *more: str) -> list[str]:
    return ["judge", models[0], "--vs", models[1], "--data", "rows.jsonl", "--max-new-tokens", "2", *more]


def training(models: tuple[str, str], *more: str) -> list[str]:
    return ["train", "grpo", "--model", models[0], "--data", "rows.jsonl", "--out", "out", "--max-steps", "1",
            "--batch-size", "2", "--max-new-tokens", "4", "--precision", "fp32", *more]  # fmt: skip


def at(url: str, judge: str, more: str = "") -> str:
    return f'[judge.{judge}]\nbase_url = ["{url}"]\nrequests_per_minute = 60000\n{more}'


LLM = 'model = "x"\nkey_variable = "HF_TOKEN"\n'
FILES: dict[str, tuple[Callable[[str], str], Callable[[tuple[str, str]], list[str]]]] = {
    "judge auto": (lambda url: at(url, "nemotron"), judging),
    "judge auto --yes": (lambda url: at(url, "nemotron"), lambda m: judging(m, "--yes")),
    "default reward": (lambda url: at(url, "nemotron"), training),
    "named reward": (lambda url: f'[rollouts]\nreward = ["nemotron"]\n{at(url, "nemotron")}', training),
    "named reward --yes": (
        lambda url: f'[rollouts]\nreward = ["nemotron"]\n{at(url, "nemotron")}',
        lambda m: training(m, "--yes"),
    ),
    "typed reward, the file's address": (
        lambda url: at(url, "nemotron"), lambda m: training(m, "--reward", "nemotron", "--yes"),
    ),
    "key variable": (
        lambda url: f'[judge]\njudge = "llm"\n{at(url, "llm", LLM)}', lambda m: judging(m, "--yes"),
    ),
    "vllm": (
        lambda url: f'[judge]\njudge = "vllm-reward"\n{at(url, "vllm-reward", LLM[:12])}',
        lambda m: judging(m, "--yes"),
    ),
    "probe": (lambda url: at(url, "llm", LLM), lambda _: ["probe", "llm", "--yes"]),
    "servers": (
        lambda url: f'[rollouts]\nservers = ["{url}"]\nsampler = "vllm-server"\n',
        lambda m: training(m, "--reward", "evil.py:score"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_files_address_is_sent_nothing_before_its_user_agreed(
    name: str, models: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    text, command = FILES[name]
    with listening() as (url, arrived):
        write(text(url))
        assert main(command(models)) == 2
    said = capsys.readouterr().err
    assert not arrived
    assert url in said and "agree once by `alignkit trust`" in said
    assert CANARY not in said


CODE = {
    "judge": ('[judge]\njudge = "evil.py:score"\n', judging),
    "reward": ('[rollouts]\nreward = ["evil.py:score"]\n', training),
    "weighted reward": ('[rollouts]\nreward = ["evil.py:score=0.5"]\n', training),
    "elsewhere": ('[judge]\njudge = "../{here}/evil.py:score"\n', judging),
}


@pytest.mark.parametrize("name", CODE)
def test_a_files_code_runs_only_after_its_user_agreed(
    name: str, models: tuple[str, str], project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, command = CODE[name]
    write(text.replace("{here}", project.name))
    assert main(command(models)) == 2
    assert not Path("canary").exists()
    assert f"the code of {project / 'evil.py'} is run" in capsys.readouterr().err
    assert main(["trust"]) == 0
    assert main(command(models)) == 0
    assert Path("canary").exists()


def test_what_runs_no_code_asks_nothing(models: tuple[str, str]) -> None:
    write('[judge]\njudge = "evil.py:score"\n[rollouts]\nreward = ["evil.py:score"]\n')
    assert main(["data", "show", "--model", models[0], "--data", "rows.jsonl", "--limit", "1"]) == 0
    assert main(["generate", models[0], "--prompt", "Hi", "--max-new-tokens", "2"]) == 0
    assert main(judging(models, "--judge", "evil.py:score")) == 0  # typed
    assert Path("canary").read_text() == "x"


def names(text: str) -> list[str]:
    write(text)
    return [one.recorded for one in trust.named(judge_settings({}))]


def test_what_is_agreed_to_is_what_is_named(project: Path) -> None:
    text = '[judge]\njudge = "evil.py:score"\n' + at("https://one/v1", "llm", LLM)
    assert names(text) == [
        f"code {project / 'evil.py'}", "address https://one/v1", "key HF_TOKEN -> https://one/v1",
        "key HF_TOKEN -> https://one/v1",
    ]  # fmt: skip
    trust.record(trust.named(judge_settings({})))
    trust.require(judge_settings({}), ("judge",))
    Path("evil.py").write_text(EVIL + "\n")  # an edit inside a named file
    write(text.replace("60000", "50"))  # and what names nothing
    trust.require(judge_settings({}), ("judge",))
    for before, after in (("evil.py", "other.py"), ("one/v1", "two/v1"), ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY")):
        write(text.replace(before, after))
        with pytest.raises(UsageError, match="agree once"):
            trust.require(judge_settings({}), ("judge",))


def test_a_variable_and_an_address_are_agreed_to_together() -> None:
    """Each was agreed to beside another: that is no agreement to send this key there."""
    write(at("https://one/v1", "llm", LLM))
    trust.record(trust.named(judge_settings({})))
    write(at("https://two/v1", "llm", 'model = "x"\nkey_variable = "VLLM_API_KEY"\n'))
    trust.record(trust.named(judge_settings({})))
    write(at("https://one/v1", "llm", 'model = "x"\nkey_variable = "VLLM_API_KEY"\n'))
    with pytest.raises(UsageError, match="the key in VLLM_API_KEY goes to https://one/v1"):
        make_judge("llm", judge_settings({}))
    write(at("https://one/v1", "llm", 'model = "x"\n'))
    typed = judge_settings({}, settings=["judge.llm.key_variable=VLLM_API_KEY"])  # the address is the file's
    with pytest.raises(UsageError, match="the key in VLLM_API_KEY goes to https://one/v1"):
        make_judge("llm", typed)
    make_judge("llm", judge_settings({}, settings=['judge.llm.base_url=["https://other/v1"]']))


def test_a_judges_own_address_needs_no_agreement() -> None:
    assert names('[judge.nemotron]\nbase_url = ["https://integrate.api.nvidia.com/v1"]\n') == []
    assert names('[judge.nemotron]\nbase_url = ["https://integrate.api.nvidia.com/v1", "https://x/v1"]\n') == [
        "address https://x/v1", "key NVIDIA_API_KEY -> https://x/v1",
    ]  # fmt: skip


def test_a_folder_to_write_to_is_named_by_its_own_place(project: Path) -> None:
    assert names('[rollouts]\nserver_weights = "../precious"\n') == [f"folder {project.parent / 'precious'}"]
    assert names('[rollouts]\nserver_weights = "vllm:nccl"\n') == []


def test_another_folders_agreement_is_not_this_ones(models: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    write('[judge]\njudge = "evil.py:score"\n')
    assert main(["trust"]) == 0
    Path("copy").mkdir()
    for file in ("alignkit.toml", "evil.py", "rows.jsonl"):
        Path("copy", file).write_text(Path(file).read_text())
    monkeypatch.chdir("copy")
    assert main(judging(models)) == 2
    assert not Path("canary").exists()


def test_the_run_behind_like_is_asked_about(models: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(training(models, "--reward", "evil.py:score")) == 0
    Path("canary").unlink()
    like = ["train", "grpo", "--max-steps", "1", "--like"]
    assert main([*like, "out", "--out", "again"]) == 2  # who made it cannot be seen from the folder
    Path("theirs").mkdir()
    Path("theirs/run.json").write_text(Path("out/run.json").read_text())
    capsys.readouterr()
    assert main([*like, "theirs", "--out", "third"]) == 2
    said = capsys.readouterr().err
    assert "theirs/run.json: rollouts.reward: the code of" in said and "`alignkit trust theirs`" in said
    assert not Path("canary").exists() and not Path("third").exists()
    assert main(["trust", "theirs"]) == 0
    assert main([*like, "theirs", "--out", "third"]) == 0
    Path("canary").unlink()
    assert main([*like, "out", "--out", "fourth", "--reward", "evil.py:score"]) == 0  # typed


def test_a_resume_is_refused_before_code_runs(models: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(training(models, "--reward", "evil.py:score")) == 0
    for file in Path("out/model").iterdir():
        file.unlink()
    Path("canary").unlink()
    again = training(models, "--reward", "evil.py:score", "--resume", "--learning-rate", "0.5")
    assert main(again) == 2
    assert "learning_rate" in capsys.readouterr().err
    assert not Path("canary").exists()
    Path("evil.py").write_text(EVIL + "# changed\n")
    assert main(training(models, "--reward", "evil.py:score", "--resume")) == 2
    assert "fingerprint of reward evil.py" in capsys.readouterr().err
    assert not Path("canary").exists()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "code"), [("n\n", 2), ("\n", 2), ("", 2), ("y\n", 0)])
def test_a_terminal_is_asked_once(
    answer: str, code: int, models: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write('[judge]\njudge = "evil.py:score"\n')
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    monkeypatch.setattr("sys.stderr", asked := Terminal())
    assert main(judging(models)) == code
    assert "evil.py is run" in asked.getvalue() and "[y/N]" in asked.getvalue()
    assert Path("canary").exists() == (code == 0)
    if code == 0:
        monkeypatch.setattr("sys.stdin", Terminal(""))
        assert main(judging(models)) == 0


def test_the_command_shows_records_lists_and_takes_back(capsys: pytest.CaptureFixture[str], project: Path) -> None:
    write('[judge]\njudge = "evil.py:score"\n')
    assert main(["trust", "--list"]) == 0
    assert capsys.readouterr().out == ""
    assert main(["trust"]) == 0
    assert f"alignkit.toml:2: judge.judge: the code of {project / 'evil.py'} is run" in capsys.readouterr().out
    assert main(["trust", "--list"]) == 0
    assert capsys.readouterr().out == f"{project}\n  code {project / 'evil.py'}\n"
    assert main(["trust", "--revoke"]) == 0
    assert "1 names taken back" in capsys.readouterr().out
    with pytest.raises(UsageError):
        make_judge("evil.py:score", judge_settings({}), named_at=("judge", "judge"))
    assert main(["trust", "nowhere"]) == 2


def test_the_record_is_the_users_own(project: Path) -> None:
    write('[judge]\njudge = "evil.py:score"\n')
    trust.record(trust.named(judge_settings({})))
    path = trust.record_path()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    for content in ("[]", "null", "{", "", '{"version": 1, "folders": [1]}', '{"version": 2, "folders": {}}', "\0"):
        path.write_text(content)
        with pytest.raises(InputError, match="not the record"):
            trust.require(judge_settings({}), ("judge",))


def test_init_agrees_to_what_it_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["init", "--paper"]) == 0
    make_judge("nemotron", judge_settings({}), named_at=("judge", "judge"))
    write(Path("alignkit.toml").read_text() + at("https://evil/v1", "nemotron"))
    with pytest.raises(UsageError, match="https://evil/v1"):
        make_judge("nemotron", judge_settings({}), named_at=("judge", "judge"))
