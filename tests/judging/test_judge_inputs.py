"""What `alignkit judge` does with input that cannot be judged, or only just, and which judge `auto` chooses."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from chaos_server import ask, running
from reward_folders import reward_folder
from tiny_models import tiny_model

import alignkit
from alignkit.cli.main import main
from alignkit.errors import UsageError
from alignkit.judging.verdict import Unscored
from alignkit.scoring.ledger import open_ledger

CANARY = "nvapi-canary-5c1f9e"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny_model(folder / "one", seed=0)
    tiny_model(folder / "other", seed=1)
    return folder


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NVIDIA_API_KEY", raising=False)
    Path("length.py").write_text("def length(completion, row):\n    return len(completion)\n")
    return tmp_path


def write_rows(*rows: dict[str, Any]) -> str:
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return "rows.jsonl"


PROMPTS = [{"id": f"r{n}", "prompt": f"Say {n}", "reference": "x"} for n in range(4)]


def judged(models: Path, rows: str, *more: str, judge: str = "length.py:length", vs: str = "other") -> list[str]:
    command = ["judge", str(models / "one"), "--vs", str(models / vs), "--data", rows, "--max-new-tokens", "3"]
    return [*command, "--judge", judge, "--json", *more]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--judge", "nemotorn"], r"no judge is named 'nemotorn'; did you mean 'nemotron'"),
        (
            ["--judge", "vllm-reward", "--set", "judge.vllm-reward.model=models/none/here"],
            "no such model folder|needs vLLM",
        ),
        (["--vs", "models/none/here"], "no such model folder"),
        (["--vs", "torn"], "torn.*cannot be loaded.*whole safetensors"),
        (["--vs", "unfinished"], "unfinished has no model yet: .* and --resume --out .* at its end"),
        (["--num-beams", "4", "--temperature", "1"], "beam search does not sample"),
        (["--judge", "labels"], "a classifier of 2 labels is no reward model"),
        (["--judge", "bare"], "no chat template"),
    ],
)
def test_what_cannot_be_judged_is_one_line_before_anything_is_answered(
    models: Path, options: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_model(Path("torn"))
    weights = Path("torn/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-100])
    reward_folder(Path("labels"), "qwen2", labels=2)
    reward_folder(Path("bare"), "qwen2")
    Path("bare/chat_template.jinja").unlink()
    Path("unfinished").mkdir()
    Path("unfinished/run.json").write_text("{}")
    monkeypatch.setattr("alignkit.judging.compare.answers_of", None)  # never reached
    assert main([*judged(models, write_rows(*PROMPTS)), *options]) == 2
    err = capsys.readouterr().err
    assert re.search(said, err.splitlines()[-1]), err


def test_an_address_with_a_web_page_is_refused_before_anything_is_answered(
    models: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alignkit.judging.compare.answers_of", None)
    with running(always="html-page") as urls:
        setting = ["--set", f"judge.nemotron.base_url={json.dumps(urls)}", "--yes"]
        assert main(judged(models, write_rows(*PROMPTS), *setting, judge="nemotron")) == 2
    assert "answers with a web page (text/html)" in capsys.readouterr().err


def test_one_prompt_repeated_prompts_and_empty_answers_are_said(
    models: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(judged(models, write_rows(PROMPTS[0]))) == 0
    verdict = json.loads(capsys.readouterr().out)
    assert verdict["answer"] == "not enough evidence" and verdict["num_prompts"] == 1
    assert any("one prompt only" in caveat for caveat in verdict["caveats"])
    repeated = [row | {"id": f"again-{row['id']}"} for row in PROMPTS[:2]]
    monkeypatch.setattr("alignkit.judging.answers.split_thinking", lambda text: ("", ""))
    assert main(judged(models, write_rows(*PROMPTS, *repeated))) == 0
    verdict = json.loads(capsys.readouterr().out)
    assert any("2 of 6 prompts repeat another" in caveat for caveat in verdict["caveats"])
    assert any("empty answers: 6 of" in caveat for caveat in verdict["caveats"]) and verdict["num_ties"] == 6
    assert any("every prompt ties" in caveat for caveat in verdict["caveats"]) and verdict["num_clusters"] == 4


def test_two_prompts_of_one_source_are_no_verdict_and_the_summary_says_why_first(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = write_rows(*(row | {"source": "web"} for row in PROMPTS[:2]))
    assert main([word for word in judged(models, rows) if word != "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("not enough evidence: ") and ", no interval; " in lines[1]
    assert "rests on: your function length in length.py; " in lines[4]
    assert lines[2].startswith("note: no verdict, and no look at this pair: 2 prompts find a difference of 5 points in")
    assert "all are of one source, the verdict speaks for it alone" in lines[4] and lines[5] == "details: --details"


def test_a_verdict_without_a_single_score_is_none_and_says_why(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("length.py").write_text(
        "def length(completion, row):\n    return None\n"
        "def some(completion, row):\n    return None if row['id'] == 'r1' else len(completion)\n"
    )
    assert main([*judged(models, write_rows(*PROMPTS)), "--rejudge", "1"]) == 3
    out, err = capsys.readouterr()
    assert (
        "other: 8 of 8 scores are missing: the function gave None for each of them; no prompt has both"
        in err.splitlines()[-1]
    )
    verdict = json.loads(out, parse_constant=pytest.fail)
    assert verdict["num_missing"] == 4 and verdict["win_rate"] is None and verdict["look"] is None
    assert main([word for word in judged(models, "rows.jsonl") if word != "--json"]) == 3
    assert capsys.readouterr().out == ""
    assert main(judged(models, "rows.jsonl", judge="length.py:some")) == 0
    verdict = json.loads(capsys.readouterr().out)
    assert "2 of 8 scores are missing: the function gave None for each of them" in verdict["caveats"]
    with pytest.raises(Unscored) as caught:
        alignkit.judge(
            models / "one", vs=str(models / "other"), data="rows.jsonl", judge="length.py:length", max_new_tokens=3
        )
    assert caught.value.verdict is not None and caught.value.exit_code == 3


def test_a_file_without_a_single_score_is_no_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    Path("judged.csv").write_text("row,score_model,score_baseline\n0,1,\n1,,2\n")
    assert main(["judge", "--from", "judged.csv", "--json"]) == 3
    out, err = capsys.readouterr()
    assert "judged.csv: none of its 2 rows has a preference, or both scores" in err
    assert json.loads(out, parse_constant=pytest.fail)["num_prompts"] == 0


def test_rows_of_a_file_without_a_score_are_counted_first(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"{n},{'' if n % 3 else 1},0" for n in range(60)]
    Path("judged.csv").write_text("row,score_model,score_baseline\n" + "\n".join(rows) + "\n")
    assert main(["judge", "--from", "judged.csv"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert next(line for line in said if line.startswith("note: ")) == (
        "note: 40 of 60 rows are left out: a score is missing"
    )


def test_a_lone_surrogate_in_the_data_is_refused_with_its_line(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("rows.jsonl").write_text('{"prompt": "fine"}\n{"prompt": "half \\ud800"}\n')
    assert main(judged(models, "rows.jsonl")) == 2
    assert "rows.jsonl, line 2: no valid text" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["judge", "evaluate"])
def test_what_is_odd_in_rows_is_said_of_those_that_are_judged_too(
    command: str, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chat = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "And you?"}]
    rows = write_rows(*({**row, "chat": chat, "split": "test"} for row in PROMPTS))
    if command == "judge":
        assert main(judged(models, rows, judge="auto")) == 2  # none is there
    else:
        assert main(["evaluate", str(models / "one"), "--data", rows, "--max-new-tokens", "3"]) == 0
    said = capsys.readouterr().err
    assert said.count("rows have a conversation in 'chat', whose turns are not read") == 1
    assert said.count("rows have the split 'test', and are read like all others") == 1


def test_rejudging_measures_the_judges_own_noise_and_require_decides_the_exit_code(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("noisy.py").write_text(
        "import random\nR = random.Random(0)\ndef noisy(completion, row):\n    return R.random()\n"
        "def sure(completion, row):\n    return len(completion)\n"
    )
    rows = write_rows(*({"id": f"r{n}", "prompt": f"Say {n}"} for n in range(12)))
    apart = ["--rejudge", "2", "--temperature", "1"]  # of the same model: the two sides' answers differ
    assert main(judged(models, rows, *apart, judge="noisy.py:noisy", vs="one")) == 0
    noise = json.loads(capsys.readouterr().out)["noise"]
    assert noise["num_repeats"] == 2 and 0.2 < noise["changed"] < 0.8 and noise["lowest"] < noise["highest"]
    assert main(judged(models, rows, *apart, judge="noisy.py:sure", vs="one")) == 0
    assert json.loads(capsys.readouterr().out)["noise"]["changed"] == 0.0
    Path("long.jsonl").write_text("".join(f'{{"row": {n}, "preference": 2}}\n' for n in range(30)))
    assert main(["judge", "--from", "long.jsonl", "--require", "better"]) == 0
    Path("even.jsonl").write_text("".join(f'{{"row": {n}, "preference": {1 + n % 2}}}\n' for n in range(30)))
    assert main(["judge", "--from", "even.jsonl", "--require", "better"]) == 1
    capsys.readouterr()


MANY = [{"id": f"r{n}", "prompt": f"Say {n}"} for n in range(12)]  # find 45 points in more than 20 of 100 cases
LARGE = ("--difference", "45")


def test_a_further_look_at_the_same_weights_is_judged_more_strictly_and_the_same_again_is_none(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, seen = write_rows(*MANY), []
    for more in (["--seed", "0"], ["--seed", "1"], ["--seed", "0"], ["--margin", "4"], ["--cluster", "none"]):
        assert main(judged(models, rows, *LARGE, *more)) == 0
        verdict = json.loads(capsys.readouterr().out)
        seen.append((verdict["look"], round(verdict["level"], 4), "the 2nd look at this pair" in verdict["rule"]))
    turned = ["judge", str(models / "other"), "--vs", str(models / "one"), "--data", rows, "--max-new-tokens", "3"]
    assert main([*turned, "--judge", "length.py:length", "--json", "--seed", "2", *LARGE]) == 0
    first, second = (1, 0.96, False), (2, 0.9939, True)
    assert seen == [first, second, first, (3, 0.9985, False), (4, 0.9993, False)]
    assert json.loads(capsys.readouterr().out)["look"] == 5


def test_a_look_that_could_find_nothing_is_free_and_gives_no_answer(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.py").write_text(
        "SEEN = {}\ndef mine(completion, row):\n    return SEEN.setdefault(row['id'], completion) == completion\n"
    )
    rows = write_rows(*MANY)
    for seed in ("0", "1"):
        assert main(judged(models, rows, "--seed", seed, "--temperature", "1", judge="mine.py:mine")) == 0
        verdict = json.loads(capsys.readouterr().out)
        assert (verdict["answer"], verdict["look"]) == ("not enough evidence", None)
        assert verdict["win_rate"] > 70 and (verdict["low"], verdict["high"]) == (None, None)
        (said,) = [caveat for caveat in verdict["caveats"] if caveat.startswith("no verdict, and no look at this pair")]
        assert re.search(
            r"12 prompts find a difference of 5 points in 0 of 100 cases; judge at least \d+ \(--num-", said
        )
    # counted after all, it may have been picked among both
    assert main(judged(models, rows, *LARGE, "--seed", "0", "--temperature", "1", judge="mine.py:mine")) == 0
    verdict = json.loads(capsys.readouterr().out)
    assert (verdict["look"], round(verdict["level"], 4)) == (2, 0.9939) and verdict["low"] > 40
    assert main(judged(models, rows, *LARGE, "--seed", "2", "--temperature", "1", judge="mine.py:mine")) == 0
    assert json.loads(capsys.readouterr().out)["look"] == 3


def test_auto_takes_rules_then_nemotron_then_a_reward_run_and_says_why(
    models: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key is in nothing that is printed or left; the probe asks the configured address, and no score twice."""
    plain = write_rows(*PROMPTS)
    assert main(judged(models, plain, judge="auto")) == 2
    said = capsys.readouterr().err
    assert (
        "no judge" in said and "alignkit train reward" in said and "NVIDIA_API_KEY" in said and "--judge FOLDER" in said
    )
    pairs = [
        {"id": f"p{n}", "prompt": f"Count to {n}.", "chosen": "1 " * n, "rejected": "No. " * n} for n in range(1, 9)
    ]
    Path("pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    training = ["train", "reward", "--model", str(models / "one"), "--data", "pairs.jsonl", "--out", "runs/reward-1"]
    assert main([*training, "--max-steps", "1", "--split", "0.3", "--batch-size", "4", "--precision", "fp32"]) == 0
    assert "held out:" in capsys.readouterr().err
    assert main(judged(models, plain, judge="auto")) == 0
    out, err = capsys.readouterr()
    assert err.splitlines()[0].startswith("judge: runs/reward-1, because it is the newest reward model trained here")
    assert json.loads(out)["judge"]["name"] == "reward-1"
    monkeypatch.setenv("NVIDIA_API_KEY", CANARY)
    with running(key=CANARY) as urls:
        config = Path("nemotron.toml")
        config.write_text(f"[judge.nemotron]\nbase_url = {json.dumps(urls)}\nrequests_per_minute = 60000\n")
        assert main(["trust", "nemotron.toml"]) == 0
        command = judged(models, plain, "--config", "nemotron.toml", judge="auto")
        assert main(command) == 2  # no score is bought before it is agreed to, the probe's neither
        assert "at most 9 requests" in (said := capsys.readouterr().err) and "agree with --yes" in said
        assert ask(urls[0], "sold")["sold"] == []
        assert main([*command, "--yes"]) == 0
        out, err = capsys.readouterr()
        sold = ask(urls[0], "sold")["sold"]
    assert "judge: nemotron, because NVIDIA_API_KEY is set and a one-row probe answered" in err
    bought = [row for row in open_ledger().export() if row["judge"] == "nemotron"]
    assert len(sold) == len(bought) <= 2 * len(PROMPTS) + 1 and err.count("at most 9 requests to") == 1
    with running(key="another") as urls:
        config.write_text(f"[judge.nemotron]\nbase_url = {json.dumps(urls)}\nmax_attempts = 2\n")
        assert main(["trust", "nemotron.toml"]) == 0
        assert main(judged(models, plain, "--yes", "--config", "nemotron.toml", judge="auto")) == 0
        out_refused, err_refused = capsys.readouterr()
    assert "judge: runs/reward-1" in err_refused
    ruled = write_rows(*(row | {"rules": [{"kind": "num_words", "max": 9}]} for row in PROMPTS))
    assert main(judged(models, ruled, judge="auto")) == 0
    out_rules, err_rules = capsys.readouterr()
    assert err_rules.splitlines()[0].startswith("judge: rules, because the rows carry rules")
    said = out + err + out_refused + err_refused + out_rules + err_rules + json.dumps(list(open_ledger().export()))
    files = [*Path().rglob("*"), *Path(os.environ["ALIGNKIT_LEDGER"]).parent.iterdir()]
    assert CANARY not in said
    assert not [path for path in files if path.is_file() and CANARY.encode() in path.read_bytes()]


def test_the_key_is_in_no_run_report_log_or_traceback(
    models: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run rewarded by the service, its report and verdict, a refusal that repeats the key, a bug in the client."""
    monkeypatch.setenv("NVIDIA_API_KEY", CANARY)
    rows = write_rows(*({"id": f"p{n}", "prompt": f"What is {n} + 1?"} for n in range(6)))
    common = ["--config", "a.toml", "--yes"]
    training = [
        "train",
        "grpo",
        "--model",
        str(models / "one"),
        "--data",
        rows,
        "--out",
        "runs/a",
        "--max-steps",
        "1",
        "--precision",
        "fp32",
        "--max-new-tokens",
        "3",
        "--reward",
        "nemotron",
        "--split",
        "0.3",
    ]
    judging = ["judge", "runs/a", "--vs", str(models / "other"), "--judge", "nemotron", "--data", rows, "--details"]
    with running(key=CANARY) as urls:
        Path("a.toml").write_text(f"[judge.nemotron]\nbase_url = {json.dumps(urls)}\nrequests_per_minute = 60000\n")
        assert main(["trust", "a.toml"]) == 0
        assert main([*training, *common]) == 0
        assert main([*judging, "--max-new-tokens", "3", *common]) == 0
        with monkeypatch.context() as broken:
            broken.setattr("alignkit.scoring.remote.client.read_reply", None)
            assert main([*judging, "--max-new-tokens", "4", *common]) == 70
    out, err = capsys.readouterr()
    assert "Traceback" in err and "'NoneType' object is not callable" in err and "was also the training reward" in out
    with running(key="another") as urls:
        Path("a.toml").write_text(f"[judge.nemotron]\nbase_url = {json.dumps(urls)}\n")
        assert main(["trust", "a.toml"]) == 0
        assert main([*judging, "--max-new-tokens", "4", *common]) == 3
    refused = capsys.readouterr()
    assert "[key]" in refused.err
    files = [*Path().rglob("*"), *Path(os.environ["ALIGNKIT_LEDGER"]).parent.iterdir()]
    assert {"report.html", "log.txt", "run.json"} <= {path.name for path in files}
    assert not [path for path in files if path.is_file() and CANARY.encode() in path.read_bytes()]
    assert CANARY not in out + err + refused.out + refused.err


def test_no_key_is_named_before_anything_is_answered(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(judged(models, write_rows(*PROMPTS), "--yes", judge="nemotron")) == 2
    assert "set NVIDIA_API_KEY" in capsys.readouterr().err


@pytest.mark.slow
def test_a_model_against_itself_under_another_seed_is_neither_better_nor_worse(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A real A/A: the embedded model on demo prompts, judged by their rules, both sides sampled."""
    model = "SmolLM2-135M-Instruct"
    command = ["judge", model, "--vs", model, "--data", "demo:test", "--num-prompts", "32", "--temperature", "1"]
    assert main([*command, "--max-new-tokens", "12", "--judge", "rules", "--json"]) == 0
    verdict = json.loads(capsys.readouterr().out)
    assert verdict["answer"] in {"not enough evidence", "no difference that matters"}
    assert 0 < verdict["num_ties"] < 32 and verdict["num_prompts"] == 32  # the two were drawn apart
    assert any("a model against itself" in caveat for caveat in verdict["caveats"])


def test_a_judge_that_nobody_named_is_a_usage_error() -> None:
    from alignkit.scoring.specs import make_judge

    with pytest.raises(UsageError, match="no judge is named 'rulse'; did you mean 'rules'"):
        make_judge("rulse")
