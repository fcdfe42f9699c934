"""What a run says last is a command: typed as it stands, it goes on."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from grpo_runs import command as grpo
from grpo_runs import options
from small_runs import command, stop_at, way_on, weights, write_numbered_rows
from tiny_models import tiny_model

from alignkit.cli.main import main
from alignkit.config.file import resolve
from alignkit.data.chat.chat import CHATML
from alignkit.display import as_typed
from alignkit.errors import RunStopped
from alignkit.registry import registry
from alignkit.training.run.fitting import out_of_memory_explained
from alignkit.training.run.plan import make_plan
from alignkit.training.run.resume import resume_command


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"), template=CHATML + "{% if k %}{% endif %}")


@pytest.mark.parametrize("word", ["my run", "it's 50% \\x", '$HOME `id` "q"', "a\nb'c%d\\e\tf é\u202e1", ""])
def test_a_posix_shell_reads_a_printed_word_as_it_was(word: str) -> None:
    line = as_typed([word])
    done = subprocess.run(["sh", "-c", f"printf %s {line}"], capture_output=True, check=True)
    assert line.isprintable() and done.stdout == word.encode()


def test_an_interrupted_run_goes_on_by_what_it_printed(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was typed, what was set, a file of another name, and a space in --out."""
    monkeypatch.chdir(tmp_path)
    Path("my settings.toml").write_text("[train]\nseed = 7\n")
    given = [
        *command(model, write_numbered_rows(tmp_path / "rows.jsonl"), Path("my run")),
        "--config",
        "my settings.toml",
        "--set",
        "train.weight_decay=0.1",
        "--set",
        "model.system=It's brief",
        "--template-kwargs",
        'k="1"',
    ]
    with monkeypatch.context() as patch:
        stop_at(3, patch)
        assert main(given) == 130
    said = capsys.readouterr().err.splitlines()[-1]
    assert "interrupted after step 3 of 8; go on with: alignkit train --resume" in said
    assert said.count("--resume") == 1 and "--allow-changed" not in said
    assert main(way_on(said)) == 0, capsys.readouterr().err
    assert weights(Path("my run"))


def test_a_run_without_out_goes_on_by_the_folder_that_it_got(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    given = command(model, write_numbered_rows(tmp_path / "rows.jsonl"), Path("gone"))
    del given[(at := given.index("--out")) : at + 2]
    with monkeypatch.context() as patch:
        stop_at(2, patch)
        assert main(given) == 130
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.endswith("alignkit train --resume runs/sft-1")
    Path("alignkit.toml").write_text("[train]\nmax_steps = 3\n")  # typed were other steps: they count for more
    assert main(way_on(said)) == 0
    assert main(["train", "sft", "--resume=runs/sft-1"]) == 0
    assert main(["train", "--resume", "runs/sft-1", "--out", "other"]) == 2
    assert main(["train", "--resume", "runs/none"]) == 2
    assert "runs/none: no run of that name; `alignkit runs`" in capsys.readouterr().err.splitlines()[-1]
    for typed in ("train --resume runs/sft-l", "judge runs/sft-l", "report sft-l", "runs remove sft-l --yes"):
        assert main(typed.split()) == 2
        assert "; did you mean 'sft-1'?" in capsys.readouterr().err.splitlines()[-1], typed
    assert weights(Path("runs/sft-1"))


def test_a_reward_that_raised_is_corrected_and_goes_on_by_what_was_printed(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where nothing was corrected, because the fault was elsewhere and is over."""
    monkeypatch.chdir(tmp_path)
    body = "if __import__('os').path.exists('now'): raise KeyError('answer')\n    return float(len(completion))"
    for mended in (body, "return float(len(completion) + 1)"):
        monkeypatch.setenv("ALIGNKIT_LEDGER", str(tmp_path / f"{len(mended)}.sqlite"))
        out = Path(f"my grpo {len(mended)}")
        given = options(model, tmp_path, out, body, split="0.1")
        Path("now").touch()
        assert main(grpo(given)) == 2
        said = next(line for line in capsys.readouterr().err.splitlines() if "error: " in line)
        Path("now").unlink()
        options(model, tmp_path, out, mended)
        assert said.count("--resume") == said.count("go on with") == 1
        assert main(way_on(said)) == 0, capsys.readouterr().err


def test_a_run_without_enough_memory_goes_on_by_what_would_fit(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = command(model, write_numbered_rows(tmp_path / "rows.jsonl"), tmp_path / "run")
    with monkeypatch.context() as patch:
        stop_at(3, patch)
        assert main(given) == 130
    words = dict(zip(given[2::2], given[3::2], strict=True))
    typed = {name.removeprefix("--").replace("-", "_"): value for name, value in words.items()}
    numbers = ("batch_size", "max_steps", "checkpoint_interval", "validation_interval", "warmup_steps")
    typed |= {key: int(typed[key]) for key in (*numbers, "max_new_tokens")} | {"learning_rate": 1e-3}  # type: ignore[dict-item]
    method = registry().find("method", "sft")
    told = resolve(method, options=typed, config=None)
    made = make_plan(method(), told)
    with (
        pytest.raises(RunStopped) as stopped,
        out_of_memory_explained(
            method(),
            told,
            made,
            available=2**40,
            go_on=lambda keys, **more: resume_command(told, tmp_path / "run", keys, **more),
        ),
    ):
        raise MemoryError
    assert "by the plan these need less: --micro-batch-tokens 512 (" in str(stopped.value)
    assert main(way_on(str(stopped.value))) == 0, capsys.readouterr().err
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["micro_batch_tokens"] == record["config"]["model"]["micro_batch_tokens"] == 512


def test_the_next_command_after_a_reward_run_trains_on_its_own_data(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = write_numbered_rows(tmp_path / "my rows.jsonl")
    given = command(model, rows, Path("my reward"), max_steps=1, chat_template="chatml")
    assert main([given[0], "reward", *given[2:]]) == 0
    _, said = capsys.readouterr().out.splitlines()
    words = shlex.split(said.removeprefix("next: "))
    assert words == [
        "alignkit",
        "train",
        "grpo",
        "--model",
        str(model),
        "--chat-template",
        "chatml",
        "--data",
        str(rows),
        "--reward",
        "my reward",
    ]
    more = ["--max-steps", "1", "--max-new-tokens", "3", "--split", "0.2", "--out", "my grpo"]
    assert main([*words[1:], *more]) == 0, capsys.readouterr().err
    _, said = capsys.readouterr().out.splitlines()
    assert said == "next: alignkit judge 'my grpo' --chat-template chatml --judge FILE.py:FUNCTION"
    judging = shlex.split(said.removeprefix("next: alignkit ").replace("FILE.py:FUNCTION", "'my reward'"))
    assert main([*judging, "--max-new-tokens", "3", "--num-prompts", "4"]) in (0, 3)


def test_where_a_reward_is_a_python_function_the_call_is_named() -> None:
    told: Any = resolve(registry().find("method", "grpo"), options={"reward": ["python:mine.score"]}, config=None)
    said = resume_command(told, Path("runs/a b"), ["rewards"])
    assert said == "the same call of alignkit.train with out='runs/a b', resume=True, allow_changed=['rewards']"
