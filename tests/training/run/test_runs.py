"""Runs on disk: run.json, checkpoints and the finished model are trusted in nothing; what is not ours is left alone."""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import command, stop_at, weights, write_numbered_rows
from tiny_models import tiny_model

import alignkit
from alignkit import runs
from alignkit.cli.main import main
from alignkit.config.file import resolve
from alignkit.config.settings import DataSection, ModelSection
from alignkit.data.chat.chat import make_chat
from alignkit.data.reading.same_data import difference
from alignkit.errors import AlignkitError, InputError
from alignkit.judging.auto import newest_run
from alignkit.judging.caveats import seen_in_training
from alignkit.judging.prompts import choose_prompts
from alignkit.pretrained.names import ModelSource, find_model
from alignkit.pretrained.read import context_length
from alignkit.registry import registry
from alignkit.reports.run_report import write_run_report
from alignkit.rollouts.sampler import Completion
from alignkit.scoring.rewards import Rewards
from alignkit.training.checkpoints import checkpoint
from alignkit.training.checkpoints.run_folder import RunFolder, open_run
from alignkit.training.rollouts.journal import Journal
from alignkit.training.run.resume import refuse_changes, resume_point


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_numbered_rows(tmp_path_factory.mktemp("data") / "rows.jsonl")


@pytest.fixture(scope="module")
def made(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, `done`, and one that was stopped after step 5, with checkpoints of steps 4 and 5, `stopped`."""
    folder = tmp_path_factory.mktemp("made")
    assert main(command(model, data, folder / "done")) == 0
    with pytest.MonkeyPatch.context() as patch:
        stop_at(5, patch)
        assert main(command(model, data, folder / "stopped")) == 130
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a copy of each run under runs/."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made, tmp_path / "runs")
    return tmp_path


def resumed(model: Path, data: Path, run: Path, *more: str) -> int:
    return main([*command(model, data, run), "--resume", *more])


def the_same(run: Path, made: Path) -> bool:
    whole = weights(made / "done")
    return all(torch.equal(tensor, whole[name]) for name, tensor in weights(run).items())


# what run.json may hold instead of what a run writes


def test_a_run_record_keeps_what_it_does_not_know(here: Path) -> None:
    file = here / "runs/done/run.json"
    content = json.loads(file.read_text()) | {"of_a_later_version": {"a": 1}}
    file.write_text(json.dumps(content))
    assert runs.read_run(file.parent).content == content
    assert alignkit.Run("done").info == content


def test_a_run_names_what_it_began_from_as_it_was_typed(here: Path) -> None:
    file = here / "runs/done/run.json"
    content = json.loads(file.read_text())
    content["model"] = "/home/ann/.cache/alignkit/SmolLM2"
    content["config"]["model"]["model"] = "SmolLM2"
    file.write_text(json.dumps(content))
    assert runs.read_run(file.parent).start == "SmolLM2"
    file.write_text(json.dumps(content | {"parent": "runs/sft"}))
    assert runs.read_run(file.parent).start == "runs/sft"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "3",
        "{}",
        '{"method": "sft"}',
        '{"a": 1, "a": 2}',
        "[" * 100_000,
        "\udcff",
        "\x1f\x8b\x08",
    ],
)
def test_a_run_that_is_none_is_one_line_where_it_is_named_and_passed_over_where_it_is_not(
    text: str, here: Path, model: Path, data: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    strange = here / "runs/strange"
    shutil.copytree(here / "runs/done", strange)
    (strange / "run.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert newest_run() == Path("runs/done")
    assert "runs/strange/run.json" in caplog.text and "skipped" in caplog.text
    with pytest.raises(InputError, match=r"strange/run\.json"):
        find_model("strange")
    capsys.readouterr()
    assert resumed(model, data, strange) == 2
    assert main(["train", "sft", "--data", str(data), "--like", "strange"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if line.startswith("alignkit: error: ")]) == 2
    assert not any("Traceback" in line for line in lines)


_VALUES: list[Any] = [None, True, -1, 1.5, float("nan"), 10**400, "", "5", "\0", "x" * 5000, [], [[]], {}, {"a": {}}]


def _places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value, of long lists the first."""
    yield path
    inside = (
        content.items() if isinstance(content, dict) else enumerate(content[:1]) if isinstance(content, list) else ()
    )
    for key, value in inside:
        yield from _places(value, (*path, key))


def _damaged(content: dict[str, Any], rng: random.Random) -> bytes:
    """A run.json with one thing wrong, sometimes as a file, sometimes in what it says."""
    whole = json.dumps(content).encode()
    kind = rng.randrange(8)
    if kind == 0:
        return whole[: rng.randrange(len(whole))]
    if kind == 1:
        at = rng.randrange(len(whole))
        return whole[:at] + bytes([whole[at] ^ (1 << rng.randrange(8))]) + whole[at + 1 :]
    if kind == 2:
        return bytes(rng.randrange(256) for _ in range(rng.randrange(200)))
    changed = copy.deepcopy(content)
    *path, last = rng.choice([place for place in _places(changed) if place])
    inside: Any = changed
    for key in path:
        inside = inside[key]
    if kind == 3 and isinstance(inside, dict):
        del inside[last]
    else:
        inside[last] = rng.choice(_VALUES)
    return json.dumps(changed).encode()


def test_500_damaged_run_files_give_an_error_for_the_user_or_what_they_say(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(0)
    run = here / "runs/done"
    content = json.loads((run / "run.json").read_text())
    source = ModelSource("done", run / "model", run)
    rows = choose_prompts(source, DataSection(), data_given=False, num_prompts=2, seed=0).rows
    now = runs.read_run(run).content
    monkeypatch.setattr("alignkit.reports.run_report.write_report", lambda *_, **__: None)
    readers: list[Callable[[], Any]] = [
        lambda: alignkit.Run("done").info,
        lambda: find_model("done"),
        lambda: make_chat(source, ModelSection()),
        newest_run,
        lambda: resolve(registry().find("method", "sft"), options={}, config=None, like=Path("done")),  # type: ignore[arg-type]
        lambda: open_run("sft", out=None, resume=True).unlock(),
        lambda: refuse_changes(runs.read_run(run), now, ["code"]),
        lambda: choose_prompts(source, DataSection(), data_given=False, num_prompts=2, seed=0),
        lambda: seen_in_training(rows, run, name="done"),
        lambda: write_run_report(run),
    ]
    refused: list[str] = []
    for _ in range(500):
        (run / "run.json").write_bytes(_damaged(content, rng))
        for reader in rng.sample(readers, 3):
            try:
                reader()
            except AlignkitError as error:
                refused.append(str(error))
    assert len(refused) > 500 and not any("\n" in line for line in refused)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "null",
        "{",
        '{"model_type": "qwen2", "max_position_embeddings": "512"}',
        '{"model_type": "gemma3", "text_config": []}',
    ],
)
def test_a_config_that_is_none_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config\.json"):
        context_length(tmp_path)


# the finished model


@pytest.mark.parametrize("damage", ["bit", "cut", "gone", "added"])
def test_a_finished_model_that_changed_is_named_by_whatever_loads_it(
    damage: str, here: Path, model: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = here / "runs/done/model"
    file = folder / "model.safetensors"
    content = file.read_bytes()
    find_model("done")
    if damage == "bit":
        file.write_bytes(content[:-777] + bytes([content[-777] ^ 4]) + content[-776:])
    elif damage == "cut":
        os.truncate(file, 5000)
    elif damage == "gone":
        file = folder / "generation_config.json"
        file.unlink()
    else:
        file = folder / "adapter_config.json"
        file.write_text("{}")
    capsys.readouterr()
    assert main(["generate", "done", "--prompt", "Hi", "--max-new-tokens", "1"]) == 2
    assert resumed(model, data, here / "runs/done") == 2
    assert main(["train", "sft", "--model", "done", "--data", str(data), "--out", "next"]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("alignkit: error: ")]
    assert len(errors) == 3 and all(file.name in line and "bring the file back" in line for line in errors)


# checkpoints


def test_checkpoints_of_any_step_sort_as_numbers_and_what_is_none_is_left_alone(tmp_path: Path) -> None:
    policy = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(policy.parameters(), 0.1)
    (tmp_path / "step-zzz").mkdir()
    (tmp_path / "step-9999999").write_text("the user's")
    (tmp_path / "step-2000000").mkdir()
    (tmp_path / "step-2000000" / "manifest.json").write_text("{}")
    for step in range(999_998, 1_000_003):
        checkpoint.save(
            tmp_path,
            step=step,
            policy=policy,
            optimizer=optimizer,
            state={},
            run="mine",  # type: ignore[arg-type]
        )
    kept = {path.name for path in tmp_path.iterdir()}
    assert kept == {"step-zzz", "step-9999999", "step-2000000", "step-1000001", "step-1000002"}
    assert checkpoint.newest(tmp_path, "mine") == tmp_path / "step-1000002"
    checkpoint.remove_after(tmp_path, tmp_path / "step-1000001", "mine")
    assert not (tmp_path / "step-1000002").exists() and (tmp_path / "step-2000000").exists()


@pytest.mark.parametrize(
    "manifest", ["[]", "null", "{}", "", '{"files": []}', '{"run": 1, "step": "5", "files": {}}', "[" * 100_000]
)
def test_a_manifest_that_is_none_is_passed_over(manifest: str, here: Path) -> None:
    run = here / "runs/stopped"
    (run / "checkpoints/step-000005/manifest.json").write_text(manifest)
    point = resume_point(_opened(run), needs_best=False)
    assert point is not None and point.name == "step-000004"


def _opened(run: Path) -> RunFolder:
    folder = RunFolder(run)
    folder.id = folder.record().id or ""
    return folder


def _swap(one: Path, other: Path) -> None:
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


@pytest.mark.parametrize("names", [["weights.safetensors"], ["state.json"], ["optimizer.safetensors", "manifest.json"]])
def test_files_of_two_checkpoints_that_changed_places_are_noticed(names: list[str], here: Path) -> None:
    run = here / "runs/stopped"
    for name in names:
        _swap(run / "checkpoints/step-000004" / name, run / "checkpoints/step-000005" / name)
    assert resume_point(_opened(run), needs_best=False) is None


def test_two_checkpoints_that_changed_places_whole_are_noticed_and_the_run_is_the_same(
    here: Path, model: Path, data: Path, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = here / "runs/stopped"
    _swap(run / "checkpoints/step-000004", run / "checkpoints/step-000005")
    assert resumed(model, data, run) == 0
    assert "it is the checkpoint of step 4, not of 5" in capsys.readouterr().err
    assert the_same(run, made)


def test_another_runs_checkpoint_of_the_same_step_is_not_gone_on_from(
    here: Path, model: Path, data: Path, made: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_at(5, patch)
        assert main(command(model, data, here / "other", seed=7)) == 130
    run = here / "runs/stopped"
    shutil.rmtree(run / "checkpoints/step-000005")
    shutil.copytree(here / "other/checkpoints/step-000005", run / "checkpoints/step-000005")
    assert resumed(model, data, run) == 0
    assert "step-000005: skipped: it is another run's" in capsys.readouterr().err
    assert the_same(run, made)
    assert (run / "checkpoints/step-000005").exists(), "what another run wrote is not removed"


# what a run appends to


def test_lines_that_are_lost_are_said_and_an_older_checkpoint_that_fits_is_taken(
    here: Path, model: Path, data: Path, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = here / "runs/stopped"
    file = run / "metrics.jsonl"
    older = json.loads((run / "checkpoints/step-000004/state.json").read_text())["lines"]["metrics.jsonl"]["bytes"]
    os.truncate(file, older + 20)
    assert resumed(model, data, run) == 0
    said = capsys.readouterr().err
    assert "metrics.jsonl" in said and "going on from step 4" in said
    assert the_same(run, made)
    lines = [json.loads(line) for line in file.read_text().split("\n")[:-1]]
    assert [line["step"] for line in lines if line["name"] == "loss"] == list(range(1, 9))


@pytest.mark.parametrize("damage", ["half", "gone", "bit"])
def test_lines_that_are_lost_for_good_are_refused_with_a_way_out(
    damage: str, here: Path, model: Path, data: Path, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = here / "runs/stopped"
    file = run / "metrics.jsonl"
    content = file.read_bytes()
    if damage == "half":
        os.truncate(file, len(content) // 2)
    elif damage == "gone":
        file.unlink()
    else:
        file.write_bytes(content[:30] + bytes([content[30] ^ 1]) + content[31:])
    capsys.readouterr()
    assert resumed(model, data, run) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "metrics.jsonl" in line and "--allow-changed metrics.jsonl" in line
    assert (run / "checkpoints/step-000005").exists()
    if damage == "half":
        assert resumed(model, data, run, "--allow-changed", "metrics.jsonl") == 0
        assert the_same(run, made)
        lines = [json.loads(line) for line in file.read_text().split("\n")[:-1]]
        assert [line["step"] for line in lines if line["name"] == "loss"][-3:] == [6, 7, 8]


@pytest.mark.parametrize("line", ['{"step": 1', "[]", "\udcff", "[" * 100_000])
def test_a_damaged_line_of_a_run_is_named(line: str, here: Path) -> None:
    run = alignkit.Run("done")
    assert run.samples and len(run.metrics)
    for name in ("samples.jsonl", "metrics.jsonl"):
        file = run.path / name
        file.write_bytes(line.encode("utf-8", "surrogateescape") + b"\n" + file.read_bytes())
    with pytest.raises(InputError, match=r"metrics\.jsonl"):
        _ = run.metrics
    if line != "[]":
        with pytest.raises(InputError, match=r"samples\.jsonl.*line 1|samples\.jsonl"):
            _ = run.samples


def test_a_journal_file_that_changed_or_is_anothers_is_drawn_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "rollouts", "mine")
    drawn = [Completion(np.arange(3, dtype=np.int32), np.zeros(3, np.float32), truncated=n == 1) for n in range(2)]
    rewards = Rewards(np.ones((1, 2)), {"a": np.ones((1, 2))}, 3, ("no answer",))
    for batch in (1, 2):
        journal.keep_completions(batch, 0, "key", drawn)
        journal.keep_scored(batch, 0, "key", rewards)
    assert journal.completions(1, 0, "key") is not None and journal.scored(2, 0, "key") is not None
    assert Journal(tmp_path / "rollouts", "another's").scored(1, 0, "key") is None
    rng = random.Random(0)
    for name in ("000001-0.completions.safetensors", "000001-0.scored.safetensors"):
        file = tmp_path / "rollouts" / name
        whole = file.read_bytes()
        for _ in range(300):
            at = rng.randrange(len(whole))
            bit = bytes([whole[at] ^ (1 << rng.randrange(8))])
            file.write_bytes(rng.choice([whole[:at], whole[:at] + bit + whole[at + 1 :], whole[:at] + bytes(9)]))
            assert (
                journal.completions(1, 0, "key") is None
                if "completions" in name
                else journal.scored(1, 0, "key") is None
            )
        file.write_bytes(whole)
    _swap(tmp_path / "rollouts/000001-0.scored.safetensors", tmp_path / "rollouts/000002-0.scored.safetensors")
    assert journal.scored(1, 0, "key") is None and journal.scored(2, 0, "key") is None
    (tmp_path / "rollouts/zzz-1.safetensors").write_text("the user's")
    (tmp_path / "rollouts/.000001-0.completions.safetensors.0123456789ab.part").write_text("half")
    journal.prune(2)
    assert not list((tmp_path / "rollouts").glob("*000001*")) and (tmp_path / "rollouts/zzz-1.safetensors").exists()


# the data


def test_data_that_changed_since_the_run_are_noticed(here: Path, data: Path) -> None:
    record = runs.read_run(Path("runs/done"))
    assert difference(record) is None
    before = data.read_bytes()
    try:
        data.write_bytes(before.replace(b"it is 3", b"it is 4"))
        assert difference(record) == f"the data file has changed since the run: {data}"
    finally:
        data.write_bytes(before)
    older = record.model_copy(update={"data_files": {}})
    assert "is not known" in (difference(older) or "")


def test_a_column_that_only_a_reward_reads_counts_on_resume(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def write(tag: str) -> None:
        rows = [{"id": f"r{n}", "prompt": f"Say {n}.", "tags": tag} for n in range(8)]
        Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    Path("reward.py").write_text("def score(completion, row):\n    return float(len(completion) + len(row['tags']))\n")
    write("short")
    words = command(model, Path("rows.jsonl"), Path("run"), reward="reward.py:score", group_size=2, max_steps=2)
    words[1] = "grpo"
    with monkeypatch.context() as patch:
        stop_at(2, patch)
        assert main(words) == 130
    write("a longer one")
    capsys.readouterr()
    assert main([*words, "--resume"]) == 2
    assert "fingerprint of data" in capsys.readouterr().err.splitlines()[-1]
    write("short")
    assert main([*words, "--resume"]) == 0


# who owns what


def test_a_run_whose_run_json_is_away_keeps_its_checkpoints(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    original = checkpoint.save

    def saving(*arguments: Any, **options: Any) -> None:
        original(*arguments, **options)
        if options["step"] == 4:
            (run / "run.json").rename(run / "run.json.away")
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(checkpoint, "save", saving)
    assert main(command(model, data, run)) == 130
    monkeypatch.undo()
    assert checkpoint.newest(run / "checkpoints") is not None
    capsys.readouterr()
    assert resumed(model, data, run) == 2
    assert "has checkpoints but no run.json; bring that back" in capsys.readouterr().err
    (run / "run.json.away").rename(run / "run.json")
    assert resumed(model, data, run) == 0


def test_a_run_is_its_owners_alone(here: Path) -> None:
    for run in ("done", "stopped"):
        for path in ((here / "runs" / run), *(here / "runs" / run).rglob("*")):
            is_within = path.parent.name == "model"  # what transformers writes, in a folder of ours
            assert is_within or stat.S_IMODE(path.lstat().st_mode) & 0o077 == 0, path


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("", "an empty name"),
        (" ", "an empty name"),
        ("a\nb", "control character"),
        ("a\x1b[31m", "control character"),
        ("a" * 300, "File name too long"),
        ("a/" * 3000, "File name too long"),
    ],
)
def test_a_name_that_no_run_can_have_is_refused(
    out: str, said: str, model: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(model, data, out)) == 2  # type: ignore[arg-type]
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("alignkit: error")]
    assert said in line and len(line) < 300


@pytest.mark.parametrize("option", ["data", "model", "config", "like", "reward", "judge"])
@pytest.mark.parametrize("length", [300, 5000])
def test_a_path_that_no_file_can_have_is_one_line(
    option: str, length: int, model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"model": str(model), "data": str(data), "out": str(tmp_path / "out"), option: "a" * length}
    words = ["judge", given.pop("model")] if option == "judge" else ["train", "grpo" if option == "reward" else "sft"]
    if option == "judge":
        given = {"judge": given["judge"], "vs": str(model), "data": str(data)}
    assert main([*words, *(text for key, value in given.items() for text in (f"--{key}", value))]) == 2
    err = capsys.readouterr().err
    assert "Traceback" not in err and len(err.splitlines()[-1]) < 6000


def test_runs_are_listed_compared_and_removed(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(made, tmp_path / "runs")
    (tmp_path / "runs/broken").mkdir()
    (tmp_path / "runs/broken/run.json").write_text("{")
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert main(["runs", "--json"]) == 0
    rows = {row["run"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["done"]["state"].startswith("finished, ") and rows["stopped"]["state"] == "stopped, saved at step 5"
    assert rows["broken"]["state"] == "damaged" and rows["done"]["bytes"] > rows["broken"]["bytes"]
    assert rows["done"]["best"].startswith("loss ")
    running = _opened(tmp_path / "runs/stopped")
    running.lock()
    assert main(["runs"]) == 0
    assert "running" in capsys.readouterr().out
    assert main(["runs", "remove", "stopped", "--yes"]) == 2
    assert "is being written" in capsys.readouterr().err
    running.unlock()
    assert main(["runs", "compare", "done", "stopped", "--json"]) == 0
    differ = {row["setting"]: row for row in json.loads(capsys.readouterr().out)}
    assert differ["steps"]["b"] is None and "learning_rate" not in differ
    assert main(["runs", "remove", "stopped"]) == 2
    assert main(["runs", "remove", "runs/stopped", "--yes"]) == 0
    assert main(["runs", "compare", "done", "stopped"]) == 2
    assert "`alignkit runs` lists" in capsys.readouterr().err
    assert not Path("runs/stopped").exists() and Path("runs/done/model").is_dir()
