"""The command line: help, exit codes, and what each command prints where."""

from __future__ import annotations

import gc
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from tiny_models import tiny_model
from typer.main import get_command

from alignkit.cli.main import app, main
from alignkit.cli.progress import RichProgress
from alignkit.errors import Interrupted, RunStopped, UsageError
from alignkit.registry import COMMANDS, Plugin, registry
from alignkit.scoring.judge import Scored
from alignkit.scoring.ledger import Ledger, Source


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")


def shell(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the real command in its own process."""
    command = [sys.executable, "-m", "alignkit", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)


def test_help_lists_the_commands_and_imports_no_torch() -> None:
    code = (
        "import sys\nfrom alignkit.cli.main import main\n"
        "for arguments in (['--help'], ['train', '--help'], ['train', 'grpo', '--help'], ['plugins', 'list']):\n"
        "    assert main(arguments) == 0\n"
        "heavy = {'torch', 'transformers', 'vllm', 'polars', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for command in (*COMMANDS, "demo"):
        assert f"\n  {command} " in done.stdout


def test_the_list_of_commands_says_what_each_says_of_itself() -> None:
    root = get_command(app)
    for name, line in COMMANDS.items():
        assert root.get_command(None, name).get_short_help_str(limit=1000) == line  # type: ignore[attr-defined]


def test_methods_are_listed_with_what_they_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "sft-lenpen" in shown
    assert "Direct preference optimization" in shown


def shown_options(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, dict[str, str]]:
    """What a --help prints, and what it says of each option, by name."""
    assert main([*arguments]) == 0
    shown = capsys.readouterr().out
    parts = re.split(r"^  (?:-h, )?(--[a-z-]+)", shown, flags=re.M)
    return shown, dict(zip(parts[1::2], map(" ".join, map(str.split, parts[2::2])), strict=True))


@pytest.mark.parametrize("columns", ["80", "200"])
def test_help_of_a_method_shows_what_people_turn(
    columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    shown, options = shown_options(capsys, "train", "grpo", "--help")
    for panel in ("Method:", "Training:", "Model:", "Data:", "Rollouts:", "Run:"):
        assert f"\n{panel}\n" in shown
    assert "the paper's" in options["--group-size"] and "[default: 4]" in options["--group-size"]
    assert "[default: 5e-06]" in options["--learning-rate"] and "above 0" in options["--learning-rate"]
    assert "--no-resume" in options["--resume"]
    assert {"--config", "--set", "--reward", "--temperatures", "--max-length", "--help-all"} <= options.keys()
    assert len(options.keys() - {"--help", "--help-all"}) <= 20


@pytest.mark.parametrize("columns", ["80", "200"])
def test_help_all_shows_every_option_whole_and_the_keys_without_one(
    columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    shown, options = shown_options(capsys, "train", "grpo", "--help-all")
    common = "--like --truncation --max-skipped --chat-template --template-kwargs --precision --track --train-on"
    assert {
        *common.split(),
        "--split",
        "--allow-changed",
        "--gradient-checkpointing",
        "--micro-batch-tokens",
        "--vllm-memory",
        "--yes",
    } <= options.keys()
    assert len(options.keys() - {"--help", "--help-all"}) <= 60
    keys = shown.partition("Keys without an option")[2]
    for key in ("train.grpo.importance_sampling_correction", "model.attention", "rollouts.score_timeout_s"):
        assert f"\n  {key}" in keys
    assert "tree" in keys and "[default: auto]" in keys


USAGE = [
    (["jugde"], "no such command: jugde; did you mean 'judge'?"),
    (["train", "sfft"], "no method is named 'sfft'; did you mean 'sft'?"),
    (["train"], "say which: dpo, grpo, kto, reward, sft, sft-lenpen"),
    (["train", "sft", "--lerning-rate", "1"], "no such option: --lerning-rate; did you mean '--learning-rate'?"),
    (["train", "sft", "--attention", "plain"], "--attention is no option but a key: type --set model.attention=VALUE"),
    (["train", "sft", "--precision", "fp64"], "'fp64' is not one of 'auto', 'bf16', 'fp32'"),
    (["train", "sft", "--template-kwargs", "a"], "'a' is not KEY=VALUE"),
    (["judge", "--require", "worse"], "'worse' is not one of 'better'"),
    (["train", "reward", "--margin", "--data", "x.jsonl"], "--margin takes a number, and --data follows it"),
    (["config", "show", "sfft"], "no method is named 'sfft'"),
    (["config", "show", "sft", "--set", "sede=1"], "--set sede=1: 'sede' is not a known key; did you mean 'seed'?"),
    (["config", "show", "--config", "no.toml"], "no.toml: no such file"),
    (["init", "--paper", "--offline"], "exclude each other"),
    (["init", "--paper", "--model", "x"], "names the model and the data itself"),
    (["init", "--offline", "--out", "no/where.toml"], "no/where.toml: cannot be written"),
]


@pytest.mark.parametrize(("arguments", "said"), USAGE, ids=[" ".join(arguments) for arguments, _ in USAGE])
def test_wrong_use_is_one_line_and_exit_code_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("alignkit: error: ")
    assert said in err
    assert len(err.splitlines()) == 1


@pytest.fixture
def failing() -> Iterator[list[BaseException]]:
    """A command of the real application that raises what the list holds."""
    raised: list[BaseException] = []

    @app.command("fail")
    def fail() -> None:
        raise raised[0]

    yield raised
    app.registered_commands.pop()


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UsageError("wrong"), 2, "alignkit: error: wrong\n"),
        (RunStopped("the judge is dead"), 3, "alignkit: error: the judge is dead\n"),
        (Interrupted("saved"), 130, "alignkit: saved\n"),
        (KeyboardInterrupt(), 130, ""),
        (typer.Exit(1), 1, ""),
    ],
)
def test_an_expected_end_has_its_code_and_no_traceback(
    error: BaseException, code: int, said: str, failing: list[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    failing.append(error)
    assert main(["fail"]) == code
    assert capsys.readouterr() == ("", said)


def test_a_process_that_ends_looks_for_no_garbage_and_a_caller_keeps_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen: list[None] = []
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(None))
    monkeypatch.setattr(sys, "argv", ["alignkit", "--version"])
    assert main(["--version"]) == 0 and not frozen
    assert main() == 0 and len(frozen) == 1


def test_a_bug_keeps_its_traceback_and_ends_with_70(
    failing: list[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    failing.append(ZeroDivisionError("by zero"))
    assert main(["fail"]) == 70
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "ZeroDivisionError: by zero" in err
    assert err.endswith("please report it with the lines above\n")


def test_exit_codes_reach_the_shell() -> None:
    assert shell("--version").returncode == 0
    wrong = shell("train", "sfft")
    assert (wrong.returncode, wrong.stdout) == (2, "")


def test_plugins_are_listed_with_what_is_broken_or_claimed_twice(capsys: pytest.CaptureFixture[str]) -> None:
    found = registry()
    broken = Plugin("broken", "bad", None, "bad-plugin", "0.1", "bad_plugin", "ImportError: no module named 'x'")
    second = Plugin("method", "sft", object, "clash-plugin", "0.2", "clash_plugin")
    found.broken.append(broken)
    found.found["method"]["sft"].append(second)
    try:
        assert main(["plugins", "list", "--json"]) == 0
        rows = json.loads(capsys.readouterr().out)
        assert main(["plugins", "list"]) == 0
        table = capsys.readouterr().out
        assert main(["train", "sft"]) == 2
        assert "clash-plugin 0.2 (clash_plugin)" in capsys.readouterr().err
    finally:
        found.broken.remove(broken)
        found.found["method"]["sft"].remove(second)
    assert all(set(row) == {"kind", "name", "distribution", "version", "module", "error"} for row in rows)
    errors = {(row["distribution"], row["name"]): row["error"] for row in rows}
    assert errors["bad-plugin", "bad"] == "ImportError: no module named 'x'"
    assert "claimed more than once" in errors["clash-plugin", "sft"]
    assert errors["alignkit-plugins", "dpo"] is None
    assert "bad_plugin of bad-plugin: ImportError: no module named 'x'" in table


def test_tables_fit_80_columns_and_cut_no_word(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("ALIGNKIT_LEDGER", "ledger.sqlite")
    parameters = {"function": "length_of_a_reply", "sources_sha256": "6593a857" * 8}
    Ledger(Path("ledger.sqlite")).keep(Source.of("function", "1", parameters), {"k": Scored(1.0)})
    rows = [{"prompt": f"Say {n}.", "chosen": "b", "rejected": "c"} for n in range(40)]
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    prepare = ["data", "prepare", "--method", "dpo", "--data", "rows.jsonl", "--model", str(tiny_model(Path("tiny")))]
    for command, words in (
        (["plugins", "list"], ["alignkit-plugins", "transformers"]),
        (["ledger", "stats"], ["length_of_a_reply", "6593a857 ", "sources_sha256"]),
        (prepare, ["tokenized otherwise", "training", "validation"]),
    ):
        assert main(command) == 0
        shown = capsys.readouterr().out
        assert max(map(len, shown.splitlines())) <= 80
        assert all(word in shown for word in words), shown


def test_config_show_says_where_each_value_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    Path("alignkit.toml").write_text('[train]\nseed = 7\n[train.dpo]\nbeta = 0.2\n[judge]\njudge = "rules"\n')
    assert main(["config", "show", "--set", "train.dpo.epochs=9", "--json"]) == 0
    rows = {row["key"]: (row["value"], row["from"]) for row in json.loads(capsys.readouterr().out)}
    assert rows["train.dpo.seed"] == (7, "alignkit.toml:2")
    assert rows["train.dpo.beta"] == (0.2, "alignkit.toml:4")
    assert rows["train.dpo.epochs"] == (9, "--set")
    assert rows["train.sft.epochs"] == (10, "default")
    assert rows["judge.judge"] == ("rules", "alignkit.toml:6")
    assert main(["config", "show", "dpo"]) == 0
    assert "alignkit.toml:4" in capsys.readouterr().out


def test_config_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "schema"]) == 0
    assert "grpo" in json.loads(capsys.readouterr().out)["properties"]["train"]["properties"]


def test_completing_a_command_imports_none() -> None:
    code = (
        "import atexit, sys\n"
        "atexit.register(lambda: print(sorted(m for m in sys.modules if m.startswith('alignkit.'))))\n"
        "from alignkit.cli.main import main; main()"
    )
    asked = os.environ | {"_ALIGNKIT_COMPLETE": "complete_bash", "COMP_WORDS": "alignkit e", "COMP_CWORD": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=asked, capture_output=True, text=True, check=False)
    *names, imported = done.stdout.splitlines()
    assert names == ["evaluate", "export"]
    assert "alignkit.cli.main" in imported and "alignkit.cli.ev" not in imported and "alignkit.cli.ex" not in imported


def test_completion_offers_methods_and_their_options() -> None:
    def complete(words: str) -> list[str]:
        environment = {
            "_ALIGNKIT_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split())),
        }
        return shell(**environment).stdout.split()

    assert complete("alignkit train ") == ["dpo", "grpo", "kto", "reward", "sft", "sft-lenpen"]
    assert (
        "--group-size"
        in shell(
            _ALIGNKIT_COMPLETE="complete_bash", COMP_WORDS="alignkit train grpo --gr", COMP_CWORD="3"
        ).stdout.split()
    )


def test_progress_is_plain_lines_on_standard_error_without_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("alignkit.cli.progress.time.monotonic", lambda: now[0])
    progress = RichProgress()
    progress.start("training sft", 40)
    for _ in range(12):
        now[0] += 1.0
        progress.advance(1, loss=1.2345)
    progress.note("checkpoint [12] saved")
    progress.stop()
    progress.advance()
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "training sft 10/40, 10 s, about 30 s left  loss 1.234\ncheckpoint [12] saved\n"


def test_without_a_terminal_parts_of_unknown_length_are_named_and_long_ones_said_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alignkit.cli.progress._PLAIN_INTERVAL_S", 0.02)
    progress = RichProgress()
    progress.start("audit: reading rows", None)
    said = ""
    until = time.monotonic() + 20
    while said.count("audit: reading rows, 0 s\n") < 2 and time.monotonic() < until:
        time.sleep(0.01)
        said += capsys.readouterr().err
    progress.stop()
    assert said.startswith("audit: reading rows\naudit: reading rows, 0 s\n")
    time.sleep(0.1)
    capsys.readouterr()
    time.sleep(0.1)
    assert capsys.readouterr().err == ""


def test_progress_on_a_terminal_is_a_bar_that_leaves_the_notes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    progress = RichProgress()
    progress.start("training sft", 40)
    progress.advance(10, loss=0.5)
    progress.note("checkpoint [10] saved")
    progress.stop()
    out, err = capsys.readouterr()
    assert out == ""
    assert "10/40" in err
    assert "loss 0.5" in err
    assert "checkpoint [10] saved\n" in err
