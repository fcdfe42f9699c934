"""What a folder's files name counts only after the user agreed to it; what is typed needs no agreement."""

from __future__ import annotations

import http.server
import io
import json
import shlex
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tiny_models import tiny_model

from alignkit import trust
from alignkit.cli.main import main
from alignkit.config.file import dump, judge_settings, resolve
from alignkit.errors import InputError, UsageError
from alignkit.registry import registry
from alignkit.scoring.specs import make_judge
from alignkit.training.inputs.judges import reward_fingerprints

GRPO = registry().find("method", "grpo")
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
    fixed = "--data rows.jsonl --out out --max-steps 1 --batch-size 2 --max-new-tokens 4 --precision fp32"
    return ["train", "grpo", "--model", models[0], *fixed.split(), *more]


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
        lambda url: at(url, "nemotron"),
        lambda m: training(m, "--reward", "nemotron", "--yes"),
    ),
    "key variable": (lambda url: f'[judge]\njudge = "llm"\n{at(url, "llm", LLM)}', lambda m: judging(m, "--yes")),
    "vllm": (
        lambda url: f'[judge]\njudge = "vllm-reward"\n{at(url, "vllm-reward", LLM[:12])}',
        lambda m: judging(m, "--yes"),
    ),
    "probe": (lambda url: at(url, "llm", LLM), lambda _: ["probe", "llm", "--yes"]),
    "servers": (
        lambda url: f'[rollouts]\nservers = ["{url}"]\nsampler = "vllm-server"\n',
        lambda m: training(m, "--reward", "evil.py:score"),
    ),
}


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
        f"code {project / 'evil.py'}",
        "address https://one/v1",
        "key HF_TOKEN -> https://one/v1",
        "key HF_TOKEN -> https://one/v1",
    ]
    trust.record(trust.named(judge_settings({})))
    trust.require(judge_settings({}), ("judge",))
    Path("evil.py").write_text(EVIL + "\n")  # an edit inside a named file
    write(text.replace("60000", "50"))  # and what names nothing
    trust.require(judge_settings({}), ("judge",))
    Path("other.py").write_text(EVIL)
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
        "address https://x/v1",
        "key NVIDIA_API_KEY -> https://x/v1",
    ]


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
    assert main([*like, "out", "--out", "again"]) == 0  # typed when the run began, which agreed to it for its folder
    Path("canary").unlink()
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


EMPTY = {  # what run.json must hold beside its configuration
    "versions": {},
    "rewards": [],
    "parent": None,
    "model": "m",
    "rows": {"training": {"ids": ["r0"]}, "validation": {"ids": ["r1"]}},
}
ADDRESS = 'judge.nemotron.base_url=["{url}"]'
TYPED: dict[str, tuple[str, list[str], str]] = {
    "code": ("evil.py:score", [], "the code of {folder}/evil.py is run"),
    "cost": ("nemotron", [], "nemotron costs money"),
    "address": ("nemotron", [ADDRESS], "requests go to {url}"),
    "key": ("nemotron", [ADDRESS], "the key in NVIDIA_API_KEY goes to {url}"),
}


@pytest.mark.parametrize("kind", TYPED)
def test_what_anothers_run_says_was_typed_is_not_typed_by_who_resumes_it(
    kind: str, models: tuple[str, str], project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who began the run agreed by typing, and run.json says so: that is the word of a file."""
    reward, settings, said = TYPED[kind]
    with listening() as (url, arrived):
        typed = {"model": models[0], "data": "rows.jsonl", "reward": [reward], "max_steps": 1}
        also = [text.format(url=url) for text in settings]
        theirs = resolve(GRPO, options=typed, config=None, settings=also)
        assert theirs.sources["rollouts.reward"] == "option"
        Path("theirs").mkdir()
        hashes = reward_fingerprints(theirs)
        record = EMPTY | {"method": "grpo", "config": dump(theirs), "sources": theirs.sources, "fingerprints": hashes}
        Path("theirs/run.json").write_text(json.dumps(record))
        assert main(["train", "--resume", "theirs"]) == 2
        assert main(["train", "--resume", "theirs", "--yes"]) == 2  # --yes is for what is typed
    error = capsys.readouterr().err
    assert error.count(said.format(folder=project, url=url)) == 2 and error.count("`alignkit trust theirs`") == 2
    assert not arrived and not Path("canary").exists() and not trust.recorded()
    own = resolve(GRPO, options={"resume": True, "out": "theirs"} | typed, config=None, settings=also)
    trust.require(own, ("rollouts",), ("judge",))  # typed again, by who resumes it
    assert main(["trust", "theirs"]) == 0
    trust.require(resolve(GRPO, options={"resume": True, "out": "theirs"}, config=None), ("rollouts",), ("judge",))


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
    assert capsys.readouterr().out == "nothing was agreed to so far\n"
    assert main(["trust"]) == 0
    assert f"alignkit.toml:2: judge.judge: the code of {project / 'evil.py'} is run" in capsys.readouterr().out
    assert main(["trust", "--list"]) == 0
    assert capsys.readouterr().out == f"{project}\n  code {project / 'evil.py'}\n"
    assert main(["trust", "--revoke"]) == 0
    assert capsys.readouterr().out == f"taken back: 1 name in {project}\n"
    assert main(["trust", "--revoke", "alignkit.toml"]) == 0
    assert capsys.readouterr().out == f"taken back: 0 names in {project}\n"
    with pytest.raises(UsageError):
        make_judge("evil.py:score", judge_settings({}), named_at=("judge", "judge"))
    assert main(["trust", "nowhere"]) == 2


@pytest.fixture
def coll(project: Path) -> Path:
    """A folder, with a space in its name, that names its own `rw.py` by a relative name; its parent is the project."""
    folder = project / "a coll"
    (folder / "runs/g").mkdir(parents=True)
    (folder / "rw.py").write_text(EVIL)
    (folder / "rows.jsonl").write_text(Path("rows.jsonl").read_text())
    (folder / "alignkit.toml").write_text('[judge]\njudge = "rw.py:score"\n[rollouts]\nreward = ["rw.py:score"]\n')
    (folder / "runs/g/run.json").write_text(json.dumps({"config": {"rollouts": {"reward": ["rw.py:score"]}}}))
    return folder


def typed(said: str) -> list[list[str]]:
    """The arguments of the commands that a refusal prints, as a shell takes them apart."""
    commands = said.split("agree once by `")[1].split("`")[0].split(" && ")
    words = [shlex.split(command) for command in commands]
    assert all(command[:1] == ["alignkit"] for command in words)
    return [command[1:] for command in words]


def agreed() -> list[str]:
    return sorted(name for names in trust.recorded().values() for name in names)


FLOWS: dict[str, tuple[str, Callable[[tuple[str, str]], list[str]], list[list[str]], str]] = {
    "own folder": ("a coll", judging, [["trust"]], "a coll/rw.py"),
    "own folder, by --config": (
        "a coll",
        lambda m: judging(m, "--config", "alignkit.toml"),
        [["trust"]],
        "a coll/rw.py",
    ),
    "--config from elsewhere": (
        ".",
        lambda m: judging(m, "--config", "a coll/alignkit.toml"),
        [["trust", "--config", "a coll/alignkit.toml"]],
        "rw.py",
    ),
    "--config of another name": (
        ".",
        lambda m: judging(m, "--config", "a coll/other.toml"),
        [["trust", "--config", "a coll/other.toml"]],
        "rw.py",
    ),
    "--like, own folder": (
        "a coll",
        lambda m: training(m, "--config", "empty.toml", "--like", "runs/g"),
        [["trust", "runs/g"]],
        "a coll/rw.py",
    ),
    "--like from elsewhere": (
        ".",
        lambda m: training(m, "--like", "a coll/runs/g"),
        [["trust", "a coll/runs/g"]],
        "rw.py",
    ),
}


@pytest.mark.parametrize("flow", FLOWS)
def test_the_printed_command_agrees_to_what_was_refused(
    flow: str,
    coll: Path,
    project: Path,
    models: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    where, command, expected, file = FLOWS[flow]
    (coll / "other.toml").write_text((coll / "alignkit.toml").read_text())
    (coll / "empty.toml").write_text("")
    (project / "rw.py").write_text(EVIL)  # another file of that name: the one that a command started here would run
    monkeypatch.chdir(project / where)
    assert main(command(models)) == 2
    said = capsys.readouterr().err
    assert f"the code of {project / file} is run" in said
    assert typed(said) == expected
    assert not Path("canary").exists()
    for words in expected:
        assert main(words) == 0
    assert agreed() == [f"code {project / file}"] * len(set(agreed()))
    assert main(command(models)) == 0
    assert Path("canary").exists()


@pytest.mark.parametrize("named", ["a coll", "a coll/alignkit.toml"])
def test_a_folder_is_agreed_to_from_its_parent(
    named: str, coll: Path, models: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (coll / "alignkit.toml").write_text((coll / "alignkit.toml").read_text() + 'server_weights = "weights"\n')
    assert main(["trust", named]) == 0
    assert trust.recorded() == {str(coll): [f"code {coll / 'rw.py'}", f"folder {coll / 'weights'}"]}
    monkeypatch.chdir(coll)
    assert main(judging(models)) == 0


MISSING: dict[str, tuple[str, Callable[[tuple[str, str]], list[str]]]] = {
    "own folder": ("a coll", judging),
    "--config": (".", lambda m: judging(m, "--config", "a coll/alignkit.toml")),
    "--like": (".", lambda m: training(m, "--like", "a coll/runs/g")),
}


@pytest.mark.parametrize("flow", MISSING)
def test_a_missing_file_is_said_to_be_missing(
    flow: str,
    coll: Path,
    project: Path,
    models: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Agreeing to it would record a place where nothing is, and not help."""
    where, command = MISSING[flow]
    here = (project / where).resolve()
    if where != ".":
        (coll / "rw.py").unlink()
    monkeypatch.chdir(here)
    assert main(command(models)) == 2
    said = capsys.readouterr().err
    assert f"{here / 'rw.py'}: no such file; a relative name is looked for from {here}" in said
    error = said[said.index("alignkit: error: ") :]
    assert "alignkit trust" not in error and error.count("\n") == 1


@pytest.mark.parametrize("words", [["a coll"], ["--config", "a coll/alignkit.toml"], ["a coll/runs/g"]])
def test_a_missing_file_is_not_recorded(
    words: list[str], coll: Path, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = project if len(words) > 1 or "runs" in words[0] else coll
    (coll / "rw.py").unlink()
    assert main(["trust", *words]) == 2
    said = capsys.readouterr()
    assert f"{base / 'rw.py'}: no such file; a relative name is looked for from {base}" in said.err
    assert said.err.count("\n") == 1 and not said.out
    assert not trust.recorded()


def test_a_missing_file_beside_others_leaves_them_their_agreement(
    models: tuple[str, str], project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write('[judge]\njudge = "evil.py:score"\n[rollouts]\nreward = ["gone.py:score"]\n')
    assert main(judging(models)) == 2
    assert typed(capsys.readouterr().err) == [["trust"]]
    assert main(["trust"]) == 0
    assert f"not recorded: alignkit.toml:4: rollouts.reward: {project / 'gone.py'}: no" in capsys.readouterr().err
    assert agreed() == [f"code {project / 'evil.py'}"]
    assert main(judging(models)) == 0


def test_names_of_two_files_are_agreed_to_by_two_commands(coll: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that is a project and a run is agreed to by the file that was refused alone."""
    Path("rw.py").write_text(EVIL)
    (coll / "runs/g/alignkit.toml").write_text("")
    write('[train.grpo]\n[judge]\njudge = "evil.py:score"\n')
    settings = resolve(GRPO, options={}, config=None, like=coll / "runs/g")
    with pytest.raises(UsageError) as refused:
        trust.require(settings, ("rollouts",), ("judge",))
    expected = [["trust", str(coll / "runs/g/run.json")], ["trust"]]
    assert typed(str(refused.value)) == expected
    for words in expected:
        assert main(words) == 0
    trust.require(settings, ("rollouts",), ("judge",))


def test_a_key_that_no_file_names_alone_is_to_be_typed() -> None:
    """A typed variable and a file's address: no command for the file could agree to the two together."""
    write(at("https://one/v1", "llm", 'model = "x"\n'))
    assert main(["trust"]) == 0
    variable = "judge.llm.key_variable=VLLM_API_KEY"
    with pytest.raises(UsageError) as refused:
        make_judge("llm", judge_settings({}, settings=[variable]))
    assert "agree once" not in str(refused.value)
    assert "type `--set judge.llm.base_url=...` and `--set judge.llm.key_variable=...`" in str(refused.value)
    make_judge("llm", judge_settings({}, settings=[variable, 'judge.llm.base_url=["https://one/v1"]']))


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
