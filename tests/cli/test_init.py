"""`alignkit init`: every file it writes is one that every method reads."""

from __future__ import annotations

import json
import math
import re
import struct
from pathlib import Path
from typing import ClassVar

import pytest
from tiny_models import tiny_model

from alignkit.cli.machine import look
from alignkit.cli.main import main
from alignkit.config.file import judge_settings, resolve
from alignkit.judging.planner import detectable
from alignkit.plugin import Line, Machine, Preset, Setup
from alignkit.registry import Plugin, registry


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")


def _every_method_reads(file: Path) -> dict[str, object]:
    read = {
        name: resolve(registry().find("method", name), options={}, config=file) for name in registry().names("method")
    }
    return {name: resolved.method for name, resolved in read.items()}


def test_init_says_that_its_file_is_there_before_it_reads_any_row(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("alignkit.toml").write_text("", encoding="utf-8")
    monkeypatch.setattr("alignkit.cli.setups.for_this_machine", lambda *_: pytest.fail("rows were read"))
    assert main(["init", "--data", "rows.jsonl"]) == 2
    assert "alignkit.toml exists: name another with --out, or replace it with --force" in capsys.readouterr().err


def test_init_paper_writes_the_papers_numbers_and_says_what_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.delenv("NVIDIA_API_KEY", raising=False)
    assert main(["init", "--paper"]) == 0
    out, err = capsys.readouterr()
    assert out == "alignkit.toml\n"
    assert "HF_HUB_OFFLINE is set" in err
    assert "NVIDIA_API_KEY is not set" in err
    assert "alignkit init --offline" in err
    configs = _every_method_reads(Path("alignkit.toml"))
    methods = {name: registry().find("method", name) for name in configs}
    assert configs == {name: method.Config(**method.presets.get("paper", {})) for name, method in methods.items()}
    settings = judge_settings({})
    assert (settings.model.model, settings.data.split) == ("Qwen/Qwen2.5-0.5B", "first-2000")
    assert (settings.data.truncation, settings.judge.judge) == ("cut-completion", "nemotron")
    assert settings.rollouts.reward == ["nemotron"]
    text = Path("alignkit.toml").read_text()
    assert "learning_rate = 0.0001" in text
    assert "the paper's" in text


def test_init_names_no_secret(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVIDIA_API_KEY", "nvapi-very-secret")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert main(["init", "--paper"]) == 0
    out, err = capsys.readouterr()
    assert "secret" not in out + err + Path("alignkit.toml").read_text()
    assert "NVIDIA_API_KEY" not in err
    assert "http://127.0.0.1:9 cannot be reached (ConnectError)" in err


@pytest.mark.parametrize("arguments", [["--offline"], ["--model", "some/model", "--data", "rows.jsonl"], []])
def test_every_file_that_init_writes_is_read_by_every_method(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert main(["init", *arguments]) == 0
    assert set(_every_method_reads(Path("alignkit.toml"))) >= {"sft", "sft-lenpen", "dpo", "kto", "grpo", "reward"}
    settings = judge_settings({})
    expected = ("some/model", "rows.jsonl") if "--model" in arguments else ("SmolLM2-135M-Instruct", "demo")
    assert (settings.model.model, settings.data.data) == expected
    lines = Path("alignkit.toml").read_text().splitlines()
    assert all("  # " in line for line in lines if "=" in line and not line.startswith("#"))


def test_init_asks_for_lora_where_the_optimizer_does_not_fit() -> None:
    num_parameters = int(look().device_gib * 2**30 / 8)  # 16 bytes a parameter: twice what there is
    head = json.dumps({"w": {"dtype": "BF16", "shape": [num_parameters], "data_offsets": [0, 0]}}).encode()
    Path("big").mkdir()
    Path("big/model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head)
    assert main(["init", "--model", "big", "--data", "rows.jsonl"]) == 0
    assert judge_settings({}).model.lora_rank == 16


def test_init_reads_the_rows_that_it_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    tiny_model(Path("model"))
    given = [{"prompt": f"How do {n}?", "chosen": f"Press {n}.", "rejected": "No."} for n in range(64)]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given))
    assert main(["init", "--model", "model", "--data", "pairs.jsonl"]) == 0
    text, (_, said) = Path("alignkit.toml").read_text(), capsys.readouterr()
    assert "rows: 45 pairs train, 19 prompts validate" in said
    assert re.search(r"^lengths: \d+ tokens at the median, \d+ at 99 %, \d+ longest$", said, re.M)
    assert re.search("verdict: 19 validation prompts find differences of .. points, 874 find 5 points", said)
    assert re.search(r"^sft: memory [\d,]+ MiB on .*, up to (\d+) tokens at once$", said, re.M)
    settings = judge_settings({})
    assert settings.data.split == "0.3" and settings.data.max_length == 64
    assert settings.judge.difference == math.ceil(detectable(19) or 0) > 10  # less finds no verdict on 19 prompts
    assert settings.judge.num_prompts is None and "max_steps" not in text  # 100 steps of 8 are 18 passes over 45 rows
    _every_method_reads(Path("alignkit.toml"))
    assert main(["init", "--model", "model", "--data", "none.jsonl", "--force"]) == 0
    assert "none.jsonl: nothing of that name here" in capsys.readouterr().err


def test_init_and_show_say_how_a_column_that_looks_like_the_answer_becomes_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tiny_model(Path("model"))
    Path("rows.csv").write_text("prompt,answer\n" + "".join(f"How do {n}?,Press {n}.\n" for n in range(64)))
    assert main(["init", "--model", "model", "--data", "rows.csv"]) == 0
    mapped = "it is not read under this name; map it by --columns completion=answer"
    assert f"no answers are read; 'answer': {mapped}" in capsys.readouterr().err
    assert main(["data", "show", "--limit", "1"]) == 0
    assert f"rows.csv, line 2 (no chosen answer; 'answer': {mapped})" in capsys.readouterr().out.replace("\n", " ")
    assert main(["data", "show", "--limit", "1", "--columns", "completion=answer"]) == 0
    assert "not read" not in (said := capsys.readouterr().out) and "Press 0." in said
    assert main(["data", "show", "--limit", "1", "--method", "grpo"]) == 0
    assert "not read" not in capsys.readouterr().out  # the reward reads it


@pytest.mark.parametrize(
    ("row", "model", "method", "typed"),
    [
        ({"prompt": "{n}?"}, "model", "grpo", "alignkit train grpo --reward FILE.py:FUNCTION"),
        ({"prompt": "{n}?", "chosen": "Yes.", "rejected": "No."}, "model", "sft", "alignkit train sft"),
        ({"prompt": "{n}?", "chosen": "Yes.", "rejected": "No."}, "runs/sft", "dpo", "alignkit train dpo"),
    ],
)
def test_init_names_the_method_that_begins_with_such_rows_and_plans_it_by_their_lengths(
    row: dict[str, str], model: str, method: str, typed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_model(Path("model"))
    rows = [{key: text.format(n=n) for key, text in row.items()} for n in range(40)]
    Path("rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    if model != "model":
        trained = ["train", "sft", "--model", "model", "--data", "rows.jsonl", "--max-steps", "1", "--out", model]
        assert main([*trained, "--max-new-tokens", "4", "--precision", "fp32"]) == 0
    assert main(["init", "--model", model, "--data", "rows.jsonl"]) == 0
    said = capsys.readouterr().err
    assert f"next: {typed}, or another method" in said
    found = re.search(rf"^{method}: memory [\d,]+ MiB on .*, up to ([\d,]+) tokens at once$", said, re.M)
    assert found is not None
    if method != "grpo":  # which draws answers as long as --max-new-tokens
        longest = 8 * (64 + 32)  # eight rows of a batch, not the 1,024 tokens that a micro-batch may have
        assert int(found[1]) < longest


def test_init_keeps_an_existing_file(capsys: pytest.CaptureFixture[str]) -> None:
    Path("alignkit.toml").write_text("# mine\n")
    assert main(["init", "--offline"]) == 2
    assert "alignkit.toml exists" in capsys.readouterr().err
    assert Path("alignkit.toml").read_text() == "# mine\n"
    assert main(["init", "--offline", "--force"]) == 0
    assert "SmolLM2" in Path("alignkit.toml").read_text()


class Lab(Preset):
    """The set-up that everyone in a laboratory begins with."""

    name: ClassVar[str] = "lab"
    help: ClassVar[str] = "our usual set-up"
    model: ClassVar[str] = "lab/model"
    data: ClassVar[str] = "lab/rows"
    needs_hub: ClassVar[bool] = False

    def setup(self, machine: Machine, *, model: str, data: str) -> Setup:
        tables = {"model": [Line("model", model, "ours")], "data": [Line("data", data, "ours")]}
        return Setup([f"Written on {machine.device}."], tables, ["ask before you train on the shared card"])


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> None:
    added = Plugin("preset", "lab", Lab, "lab-plugins", "1", "lab")
    monkeypatch.setitem(registry().found["preset"], "lab", [added])


def test_a_plugins_preset_is_a_switch_of_init(lab: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--help"]) == 0
    assert re.search(r"--lab\W.*our usual set-up", capsys.readouterr().out)
    assert main(["init", "--lab", "--data", "rows.jsonl"]) == 0
    assert capsys.readouterr() == ("alignkit.toml\n", "ask before you train on the shared card\n")
    settings = judge_settings({})
    assert (settings.model.model, settings.data.data) == ("lab/model", "rows.jsonl")


def test_two_presets_or_another_model_than_the_presets_own_are_refused(
    lab: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", "--lab", "--paper"]) == 2
    assert "--lab and --paper exclude each other" in capsys.readouterr().err
    assert main(["init", "--paper", "--model", "mine"]) == 2
    assert "--paper names the model and the data itself" in capsys.readouterr().err
    assert not Path("alignkit.toml").exists()
