"""The commands that load a tokenizer or a model, on a small random one."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from alignkit_plugins.transformers_sampler import TransformersSampler
from tiny_models import tiny_model

from alignkit import api
from alignkit.cli.main import main
from alignkit.display import shown


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")


ANSWERS = ("red", "green", "blue", "a much longer answer that says little")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def rows() -> str:
    """A file of preference rows in the working folder."""
    lines = [
        {"id": f"r{n}", "prompt": f"Name colour {n}.", "chosen": ANSWERS[n % 3], "rejected": ANSWERS[3]}
        for n in range(12)
    ]
    Path("rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return "rows.jsonl"


def test_data_show_prints_json_lines_and_nothing_else(
    model: str, rows: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "show", "--model", model, "--data", rows, "--limit", "2", "--json"]) == 0
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["id"] for row in shown] == ["r0", "r1"]
    for row in shown:
        assert set(row) == {"id", "prompt_ids", "completions"}
        chosen, rejected = row["completions"]
        length = len(ANSWERS[int(row["id"][1:])]) + 1  # the end token too; behind it a line end, unscored
        assert chosen["scored"] == [True] * length + [False] and len(chosen["ids"]) == length + 1
        assert rejected["scored"] == [True] * (len(ANSWERS[3]) + 1) + [False]


def test_data_show_for_people_has_the_text_and_ids_where_asked(
    model: str, rows: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "show", "--model", model, "--data", rows, "--limit", "1"]) == 0
    shown = capsys.readouterr().out
    assert "row r0" in shown
    assert "Name colour 0." in shown
    assert "completion 1: 5 tokens, 4 scored\nred<|im_end|>" in shown
    assert main(["data", "show", "--model", model, "--data", rows, "--limit", "1", "--ids"]) == 0
    assert "<|im_end|>\N{MIDDLE DOT}258" in capsys.readouterr().out


def test_data_show_passes_over_rows_that_do_not_fit_and_says_so(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"id": "long", "prompt": "y" * 90, "chosen": "a"}, {"id": "short", "prompt": "y", "chosen": "a" * 90}]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert main(["data", "show", "--model", model, "--data", "rows.jsonl", "--max-length", "60", "--json"]) == 0
    out, err = capsys.readouterr()
    (shown,) = [json.loads(line) for line in out.splitlines()]
    assert shown["id"] == "short" and len(shown["prompt_ids"]) + len(shown["completions"][0]["ids"]) == 60
    assert "row long is not shown: prompt does not fit --max-length 60 tokens" in err
    assert shown["note"] == "cut to fit --max-length 60 tokens"


@pytest.fixture
def too_long(tmp_path: Path) -> str:
    """A prompt and an answer of more than the 512 tokens of the model's context."""
    rows = [{"id": "long", "prompt": "y" * 600, "chosen": "a"}, {"id": "short", "prompt": "y", "chosen": "a" * 600}]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return "rows.jsonl"


def test_data_show_holds_rows_to_the_length_that_a_run_would_allow(
    model: str, too_long: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["data", "show", "--model", model, "--data", too_long]
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert "row long is not shown: prompt does not fit --max-length 512 tokens" in err
    assert "row short (cut to fit --max-length 512 tokens)" in out
    assert main([*command, "--method", "grpo", "--set", "max_new_tokens=500"]) == 0
    assert "row long is not shown: prompt does not fit --max-length 12 tokens" in capsys.readouterr().err


@pytest.mark.parametrize(("truncation", "what"), [("drop-row", "leaves it out"), ("stop", "stops a run")])
def test_data_show_says_what_the_truncation_does_with_a_row_that_is_too_long(
    truncation: str, what: str, model: str, too_long: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "show", "--model", model, "--data", too_long, "--truncation", truncation]) == 0
    said = f"row short is not shown: longer than --max-length 512 tokens: --truncation {truncation} {what}"
    assert said in capsys.readouterr().err


def test_data_lengths_counts_each_column(model: str, rows: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "lengths", "--model", model, "--data", rows, "--json"]) == 0
    columns = {column["column"]: column for column in json.loads(capsys.readouterr().out)}
    assert (columns["chosen"]["count"], columns["chosen"]["min"], columns["chosen"]["max"]) == (12, 4, 6)
    assert columns["rejected"]["mean"] == len(ANSWERS[3]) + 1
    assert main(["data", "lengths", "--model", model, "--data", rows]) == 0
    shown = capsys.readouterr().out
    assert "0 to 15       12 " + "\N{FULL BLOCK}" * 40 in shown
    assert "will be cut at 512: 0 (0.0 %), at 1,024: 0 (0.0 %), at 2,048: 0 (0.0 %)" in shown


def test_generate_answers_prompts_as_json_lines(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["generate", model, "--prompt", "One?", "--prompt", "Two?", "--max-new-tokens", "3"]
    assert main(command) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["id"] for answer in answers] == ["prompt-1", "prompt-2"]
    assert all(answer["num_tokens"] <= 3 for answer in answers)
    assert main([*command, "--out", "answers.jsonl"]) == 0
    assert capsys.readouterr().out == ""
    assert [json.loads(line) for line in Path("answers.jsonl").read_text().split("\n") if line] == answers


def test_a_failed_generate_leaves_no_file(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", model, "--prompt", " ", "--out", "answers.jsonl"]) == 2
    assert "--prompt: an empty prompt" in capsys.readouterr().err
    assert main(["generate", model, "--prompt", "a", "--out", "no/answers.jsonl"]) == 2
    assert "no/answers.jsonl: cannot be written" in capsys.readouterr().err
    assert list(Path().iterdir()) == []


def test_evaluate_prints_every_figure(model: str, rows: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["evaluate", model, "--data", rows, "--num-prompts", "3", "--max-new-tokens", "4"]
    assert main([*command, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    keys = {"bleu1", "bleu2", "bleu4", "signature", "perplexity", "mean_length", "num_prompts"}
    assert keys | {"bits_per_byte", "bleu4_low", "bleu4_sentence_method4", "mean_thinking", "health"} <= set(figures)
    assert figures["bits_per_byte"] > 0
    assert figures["num_prompts"] == 3
    assert main(command) == 0
    printed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if len(line.split()) > 1)
    assert printed["perplexity"] == f"{figures['perplexity']:.2f}"


def test_chat_answers_each_line_of_its_input_with_both_models(
    model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = str(tiny_model(Path("other"), seed=1))
    lines = "Hello\n\n/clear\nHello\n/help\n/halp\n/quit\nunread\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    assert main(["chat", model, "--vs", other, "--max-new-tokens", "4"]) == 0
    out, told = capsys.readouterr()
    assert f"talking to {model} and {other}; /help lists" in told and "/history  what was said" in told
    assert "/halp: unknown; /help lists" in told
    first, second = out[: len(out) // 2], out[len(out) // 2 :]
    assert out.count(f"[{model}]") == out.count(f"[{other}]") == 2
    assert first == second  # what was said before /clear is forgotten


def test_chat_shows_an_answer_while_it_is_drawn_and_what_was_said(
    model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces: list[str] = []
    stream = TransformersSampler.stream

    def watched(self: Any, request: Any, seen: Any) -> Any:
        return stream(self, request, lambda ids: (seen(ids), pieces.append(capsys.readouterr().out)))

    monkeypatch.setattr(TransformersSampler, "stream", watched)
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\n/history\n"))
    assert main(["chat", model, "--max-new-tokens", "24", "--temperature", "1"]) == 0
    rest = capsys.readouterr().out
    answer = "".join(pieces)
    assert len(pieces) > 3 and sum(map(bool, pieces)) > 2  # most tokens were shown by themselves
    assert "[you] Hello\n" in rest and f"[{model}] {answer}" in rest
    whole = api.chat_session(model, max_new_tokens=24, temperature=1.0).reply([{"role": "user", "content": "Hello"}])
    assert shown(whole).startswith(answer)


def test_an_answer_that_is_stopped_and_one_without_room_leave_the_chat_as_it_was(
    model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(self: Any, request: Any, seen: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(TransformersSampler, "stream", stopped)
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\n" + "word " * 5000 + "\n/history\n"))
    assert main(["chat", model]) == 0
    told = capsys.readouterr().err
    assert "stopped; this question and its answers are forgotten" in told and "nothing was said yet" in told
    assert "; /clear forgets what was said" in told
    assert main(["chat", model, "--vs", model]) == 2


def test_doctor_reports_the_machine_and_runs_the_checks(
    model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVIDIA_API_KEY", "nvapi-very-secret")
    assert main(["doctor", "--model", model, "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert "very-secret" not in out + err
    assert found["keys"]["NVIDIA_API_KEY"] == {"judges": ["nemotron"], "is_set": True}
    assert (found["native"], found["machine"]["disk_gib"] > 0) == ("present", True)
    assert "method:sft" in found["plugins"]
    assert found["versions"]["torch"]
    assert len(found["checks"]) >= 3
    assert all(check["ok"] and check["value"] <= check["tolerance"] for check in found["checks"])


def test_a_failed_start_up_check_ends_doctor_with_3(
    model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alignkit.training.run.self_checks._LOGPROB_TOLERANCE", -1.0)
    assert main(["doctor", "--model", model]) == 3
    out, err = capsys.readouterr()
    assert "FAILED" in out
    assert "start-up checks failed" in err


def test_a_tree_path_that_cannot_be_computed_is_one_line_of_doctor(
    model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*_: object, **__: object) -> None:
        raise RuntimeError("out of resource: shared memory, Required: 147456, Hardware limit: 101376")

    monkeypatch.setattr("alignkit.training.run.self_checks.run_checks", too_large)
    assert main(["doctor", "--model", model]) == 3
    err = capsys.readouterr().err
    assert "start-up checks failed: a model of type " in err and "RuntimeError: out of resource: shared memory" in err
    assert "Traceback" not in err


def test_two_commands_lead_from_rows_to_a_verdict(model: str, rows: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("length.py").write_text("def brevity(completion, row):\n    return -len(completion)\n")
    training = ["train", "sft", "--model", model, "--data", rows, "--out", "runs/first", "--max-steps", "2"]
    assert main([*training, "--set", "train.batch_size=6", "--split", "0.3"]) == 0
    out = capsys.readouterr().out
    assert out == "runs/first\nnext: alignkit judge runs/first --judge FILE.py:FUNCTION\n"
    config = json.loads(Path("runs/first/run.json").read_text())["config"]
    assert (config["train"]["sft"]["max_steps"], config["train"]["sft"]["batch_size"]) == (2, 6)
    assert config["data"]["split"] == "0.3"
    report = Path("runs/first/report.html").read_text()
    assert "Lengths of the training rows" in report and "longer than 1,024" in report
    judging = ["judge", "runs/first", "--vs", model, "--judge", "length.py:brevity", "--max-new-tokens", "6"]
    assert main([*judging, "--json"]) == 0
    verdict = json.loads(capsys.readouterr().out)
    assert verdict["answer"] in {"better", "worse", "no difference that matters", "not enough evidence"}
    assert main([*judging, "--details", "--require", "better"]) == (0 if verdict["answer"] == "better" else 1)
    shown = capsys.readouterr().out
    for word in (verdict["answer"], "BLEU-4", "perplexity", "mean length"):
        assert word in shown


def test_an_existing_run_folder_is_refused(model: str, rows: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("keep")
    assert main(["train", "sft", "--model", model, "--data", rows, "--out", "mine", "--max-steps", "1"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "mine" in err.splitlines()[-1]
    assert [file.name for file in Path("mine").iterdir()] == ["notes.txt"]


def test_a_plan_prints_what_a_run_needs_and_trains_nothing(
    model: str, rows: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "dpo", "--model", model, "--data", rows, "--plan"]) == 0
    out, err = capsys.readouterr()
    assert "weights" in out
    assert "MiB" in out
    assert err == ""
    assert not Path("runs").exists()
    assert main(["train", "dpo", "--model", model, "--data", rows, "--plan", "--batch-size", "0"]) == 2
    assert "--batch-size: 0 was given" in capsys.readouterr().err
