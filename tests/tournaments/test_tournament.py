"""A tiny tournament, in this process: what it trains, what it does not train twice, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from places import ROOT
from small_runs import write_numbered_rows
from tiny_models import tiny_model
from tournament_kills import small

import alignkit
from alignkit.api import tournaments
from alignkit.cli.tournament import show
from alignkit.data.prepared.selection import prompt_key
from alignkit.data.reading.read import read_rows
from alignkit.errors import AlignkitError, InputError, RunStopped, UsageError
from alignkit.progress import Silent
from alignkit.runs import read_run
from alignkit.tournaments.judges import agree, num_rewards, paid_rewards
from alignkit.tournaments.price import disk_warning
from alignkit.tournaments.prompts import choose
from alignkit.tournaments.results import Results
from alignkit.tournaments.tournament import claimed
from alignkit.tournaments.work import Place
from alignkit.training.run import train_run


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ground")
    tiny_model(folder / "model")
    write_numbered_rows(folder / "rows.jsonl")
    return folder


def played(*, out: Path, **given: Any) -> Results:
    """Run a tournament and return what it found."""
    table = alignkit.tournament(**given, out=out)
    found = Results.read(out / "results.json")
    assert table.report == out / "report.html" and table.best in found.names
    assert table.frame["entrant"].to_list() == list(table.entrants) == list(found.names)
    assert table._repr_html_().startswith("<pre>") and (out / "table.txt").read_text(encoding="utf-8") == table.text()
    assert "told apart" in (page := (out / "report.html").read_text(encoding="utf-8")) and "<svg" in page
    return found


@pytest.fixture(scope="module")
def done(ground: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    """A finished tournament, with a reward model as a second judge and prompts beside."""
    out = tmp_path_factory.mktemp("done") / "t"
    entrants = {**small(ground)["entrants"], "reward": {"learning_rate": 1e-3}}
    more = {"second": "reward", "second_prompts": 2, "off_task": str(ground / "rows.jsonl"), "off_task_prompts": 2}
    return out, played(**small(ground) | more | {"entrants": entrants}, out=out)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The runs that are trained from now on."""
    seen: list[str] = []
    original: Callable[..., Path] = train_run.train_run

    def watched(method: Any, resolved: Any, **more: Any) -> Path:
        seen.append(Path(resolved.run.out).name)
        return original(method, resolved, **more)

    monkeypatch.setattr(train_run, "train_run", watched)
    return seen


def test_every_entrant_is_trained_with_every_seed_and_compared_with_every_opponent(done: tuple[Path, Results]) -> None:
    out, found = done
    times = json.loads((out / "times.json").read_text())
    spent_s = times["training_s"] + times["answering_s"] + times["judging_s"]
    assert 0 < spent_s < times["whole_s"] and times["overhead"] == pytest.approx(1 - spent_s / times["whole_s"])
    assert found.names == ("base", "sft", "dpo") and found.opponents == ("base", "start") and found.seeds == (1, 2)
    assert found.outcome_ESVP.shape == (3, 2, 2, 6) and not found.failed
    assert np.isnan(found.outcome_ESVP[0]).all()  # the base has no start, and is not compared with itself
    assert not np.isnan(found.outcome_ESVP[1:]).any()
    ours, theirs = found.score_ESP[2], found.score_ESP[1]
    np.testing.assert_array_equal(found.outcome_ESVP[2, :, 1], (np.sign(ours - theirs) + 1) / 2)
    np.testing.assert_array_equal(found.rival_length_ESVP[2, :, 1], found.length_ESP[1])
    np.testing.assert_array_equal(found.text_ESP[0, 0], found.text_ESP[0, 1])
    assert not np.array_equal(found.score_ESP[1, 0], found.score_ESP[1, 1])
    assert {name for name, _ in found.runs} == {"sft", "dpo"} and found.parents["dpo", 2] == "sft-2"
    assert read_run(out / "dpo-2").parent == str(out / "sft-2")
    assert (found.minutes_ES[1:] > 0).all() and np.isnan(found.minutes_ES[0]).all()
    assert (found.kl_nats_ESP[1:] > 0).any(-1).all() and np.isnan(found.kl_nats_ESP[0]).all()
    assert "KL from the start of sft: no validation" in " ".join((out / "table.txt").read_text().split())
    assert (found.nats_ESP > 0).all() and (found.reference_tokens_ESP[0, 0] == found.reference_length_P).all()


def test_a_second_judge_reads_the_first_prompts_and_other_prompts_are_measured(done: tuple[Path, Results]) -> None:
    _, found = done
    assert found.second is not None and found.second.judge == "reward" and found.off_task is not None
    known = ~np.isnan(found.second.outcome_ESVP)
    assert known[1:, ..., :2].all() and not known[..., 2:].any()
    assert np.isnan(found.off_task.outcome_ESVP).all() and found.off_task.length_ESP.shape == (3, 2, 2)


def test_prompts_that_judge_neither_train_nor_validate(done: tuple[Path, Results], ground: Path) -> None:
    out, found = done
    held = {prompt_key(row) for row in read_rows(str(out / "prompts.jsonl"))}
    assert len(held) == 6
    record = read_run(out / "dpo-1")
    rows = {row.id: prompt_key(row) for row in read_rows(str(ground / "rows.jsonl"))}
    used = {rows[id_] for part in (record.rows.training, record.rows.validation) for id_ in part.ids}
    assert not used & held and len(used) == 24 and set(found.prompt_ids) <= set(rows)


def test_a_second_call_computes_nothing(ground: Path, done: tuple[Path, Results], trained: list[str]) -> None:
    out, found = done
    entrants = {**small(ground)["entrants"], "reward": {"learning_rate": 1e-3}}
    more = {"second": "reward", "second_prompts": 2, "off_task": str(ground / "rows.jsonl"), "off_task_prompts": 2}
    started = time.monotonic()
    again = played(**small(ground) | more | {"entrants": entrants}, out=out)
    assert time.monotonic() - started < 3 and not trained
    np.testing.assert_array_equal(again.outcome_ESVP, found.outcome_ESVP)
    reports = [out / "report.html", out / "dpo-1" / "report.html"]
    for report in reports:
        report.unlink()
    played(**small(ground) | more | {"entrants": entrants}, out=out)
    assert all(report.exists() for report in reports) and not trained


def test_a_changed_entrant_is_refused_and_a_new_one_is_trained_alone(
    ground: Path, done: tuple[Path, Results], trained: list[str]
) -> None:
    out, _ = done
    changed: dict[str, dict[str, Any]] = {
        "sft": {"learning_rate": 0.02},
        "dpo": {"start": "sft", "learning_rate": 0.03},
    }
    with pytest.raises(UsageError, match=r"dpo-1 was trained otherwise .*rate was 0.01, is 0.03.*type fresh dpo"):
        played(**small(ground) | {"entrants": changed}, out=out)
    with pytest.raises(UsageError, match="judged on other prompts"):
        played(**small(ground) | {"num_prompts": 5}, out=out)
    assert not trained
    changed["dpo-2"] = changed.pop("dpo") | {"method": "dpo"}
    (out / "sft-1" / "report.html").unlink()  # as if it had been killed before
    found = played(**small(ground) | {"entrants": changed, "seeds": 1}, out=out)
    assert trained == ["dpo-2-1"] and found.names == ("base", "sft", "dpo-2")
    assert all((out / run / "report.html").exists() for run in ("sft-1", "dpo-1", "dpo-2-1"))


def test_an_entrant_that_fails_ends_no_other_and_is_tried_again(ground: Path, tmp_path: Path) -> None:
    reward = tmp_path / "bad.py"
    reward.write_text("def f(completion, row):\n    raise ValueError('no idea')\n")
    entrants = {
        "grpo": {"reward": [f"{reward}:f"], "batch_size": 1, "group_size": 2, "temperatures": [1.0, 1.0]},
        "dpo": {"start": "grpo"},
        "sft": {},
    }
    given = small(ground) | {"entrants": entrants, "seeds": 1, "steps": 1}
    found = played(**given, out=tmp_path / "t")
    assert set(found.failed) == {("grpo", 1), ("dpo", 1)} and "grpo/1, which it needs, failed" in found.failed["dpo", 1]
    assert "the reward function raised ValueError" in (why := found.failed["grpo", 1])
    assert why.endswith("correct it and go on with: the same command with --fresh grpo")
    assert "without a score" not in (tmp_path / "t" / "table.txt").read_text(encoding="utf-8")  # it is said as failed
    assert np.isnan(found.outcome_ESVP[found.names.index("grpo")]).all()
    assert not np.isnan(found.outcome_ESVP[found.names.index("sft"), 0, 0]).any()
    with pytest.raises(RunStopped, match="grpo with seed 1 failed, and 1 more: "):
        show(found, tmp_path / "t")  # exit code 3
    reward.write_text("def f(completion, row):\n    return 1.0 * len(completion)\n")
    again = played(**given, out=tmp_path / "t")
    assert again.failed["grpo", 1].endswith("change it back, or begin anew with: the same command with --fresh grpo")


def test_a_judge_that_fails_ends_the_tournament_and_its_page_says_so(ground: Path, tmp_path: Path) -> None:
    judge = tmp_path / "bad.py"
    judge.write_text("def f(completion, row):\n    raise ValueError('no idea')\n")
    given = small(ground) | {"entrants": {"sft": {}}, "seeds": 1, "steps": 1, "judge": f"{judge}:f"}
    with pytest.raises(AlignkitError, match="raised ValueError"):
        played(**given, out=tmp_path / "t")
    page = (tmp_path / "t" / "report.html").read_text(encoding="utf-8")
    assert "It stopped: " in page and "raised ValueError" in page and "The same command goes on" in page


def test_a_halved_sweep_trains_no_step_twice_and_is_picked_on_prompts_of_its_own(
    ground: Path, tmp_path: Path, trained: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "alignkit")
    given = small(ground) | {"entrants": {"sft": {}}, "seeds": 1, "steps": 4, "num_prompts": 3}
    given |= {"sweep": ["sft.learning_rate=1e-5,1e-2"], "halvings": 1, "checkpoint_interval": 100}
    found = played(**given, out=tmp_path / "t")
    first, last = found.rungs
    assert first.steps == (2, 2) and last.steps == (4,) and set(last.names) < set(first.names)
    rates = dict(zip(first.names, np.nanmean(first.outcome_KSP, axis=(1, 2)), strict=True))
    (left,) = set(first.names) - set(last.names)
    assert rates[left] == min(rates.values())
    assert found.names == ("base", found.picked["sft"]) and last.names == (found.picked["sft"],)
    assert found.tuning is not None and not set(found.prompt_ids) & set(found.tuning.prompt_ids)
    assert len(trained) == 2 + 1
    assert "going on from step 2" in caplog.text
    for name in first.names:
        record = read_run(tmp_path / "t" / f"{name}-1")
        assert record.options["max_steps"] == 2 and record.end is not None
        assert record.end.steps == (2 if name == left else 4)
    text = (tmp_path / "t" / "table.txt").read_text()
    assert f"{left}: {100 * rates[left]:.1f} % after 2 steps; left behind" in " ".join(text.split())
    assert text.count(" % after 2 steps") == 2 and "trained in 2 parts" in text
    (tmp_path / "t" / "done.json").unlink()
    again = played(**given, out=tmp_path / "t")
    assert len(trained) == 3  # every halving is judged again, of the answers that were kept
    np.testing.assert_array_equal(again.rungs[0].outcome_KSP, first.outcome_KSP)
    with pytest.raises(UsageError, match="has left, weights that a halving of its sweep needs"):
        played(**given | {"temperature": 0.5}, out=tmp_path / "t")


def test_one_folder_holds_one_tournament_and_one_process_runs_it(ground: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    with pytest.raises(UsageError, match="is no tournament"):
        played(**small(ground), out=tmp_path / "full")
    with pytest.raises(UsageError, match=r"letter.txt: this is a file; name a folder"):
        played(**small(ground), out=tmp_path / "full" / "letter.txt")
    with pytest.raises(UsageError, match="a file stands where a folder must"):
        played(**small(ground), out=tmp_path / "full" / "letter.txt" / "t")
    with claimed(tmp_path / "t"), pytest.raises(UsageError, match="another process runs the tournament"):
        played(**small(ground), out=tmp_path / "t")


def test_an_opponent_that_is_not_there_is_said_before_anything_is_trained(ground: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nobody/nothing"):
        played(**small(ground) | {"vs": ["nobody/nothing"]}, out=tmp_path / "t")
    assert not [*tmp_path.glob("t/*/run.json")]


def test_the_plan_is_made_of_measured_steps(ground: Path, tmp_path: Path) -> None:
    given = {name: value for name, value in small(ground).items() if name != "entrants"}
    made = tournaments.made_of(None, {"sft": {}}, options=given)
    said: list[str] = []
    progress = Silent()
    progress.note = said.append  # type: ignore[method-assign]
    lines = tournaments.tournament_plan(made, tmp_path / "t", jobs=1, yes=False, progress=progress)
    assert said == ["measuring a step of sft"]
    assert lines[0].startswith("sft: 2 of 2 runs left, 3 steps of ") and any(
        x.startswith("in all about ") for x in lines
    )
    assert json.loads((tmp_path / "t" / "measured.json").read_text()) and not (tmp_path / "t" / ".measured").exists()


def test_a_tournament_that_was_killed_ends_with_the_same_table_to_the_digit(ground: Path, tmp_path: Path) -> None:
    for name in ("model", "rows.jsonl"):
        os.symlink(ground / name, tmp_path / name)
    script = ROOT / "tests" / "helpers" / "tournament_kills.py"
    done = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [-9, -9, -9]
    whole, killed = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("whole", "killed"))
    runs = [path.parent for path in tmp_path.glob("*/*/run.json")]
    assert runs and all((run / "report.html").exists() for run in runs)
    for name in whole.keys() - {"minutes_ES", "answer_minutes_ES", "peak_mib_ES"}:
        assert whole[name] == killed[name], name


def test_a_disk_that_will_not_last_is_said_before(tmp_path: Path) -> None:
    assert disk_warning(Place(tmp_path), 0) is None
    assert "it will not last" in str(disk_warning(Place(tmp_path), 2**60))


def test_rewards_that_only_a_file_names_and_judges_that_are_not_there_are_refused_before_anything_is_trained(
    ground: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.py").write_text("raise AssertionError('it was run')\n")
    text = '[rollouts]\nreward = ["bad.py:f"]\n[entrants.grpo]\n[entrants.reward]\n'
    (tmp_path / "alignkit.toml").write_text(text)
    given = {name: value for name, value in small(ground).items() if name != "entrants"}
    with pytest.raises(UsageError, match="nothing is run or sent only because a file names it"):
        played(**given, out=tmp_path / "t")
    with pytest.raises(UsageError, match=r"; or here .*judge.*reward, which is an entrant"):
        played(**given | {"judge": "auto"}, out=tmp_path / "t2")
    assert not [*tmp_path.glob("t*/*/run.json")]


def test_a_folder_with_the_name_of_the_data_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"^out demo: the data have that name too \(demo\)"):
        alignkit.tournament(preset="demo", out="demo")
    Path("rows").mkdir()
    Path("rows/a.jsonl").write_text('{"prompt": "Hi", "chosen": "yes"}\n')
    with pytest.raises(UsageError, match=r"^out rows/t: it would stand in rows, a folder whose files are all read as"):
        alignkit.tournament({"sft": {}}, model="rows", data="rows", out="rows/t")
    assert [*Path("rows").rglob("*")] == [Path("rows/a.jsonl")]


def test_rewards_that_cost_are_counted_before_anything_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVIDIA_API_KEY", "nvapi-none")
    entrants = {"grpo": {"reward": ["nemotron=0.5", "rules"], "max_steps": 7, "batch_size": 3, "group_size": 4}}
    made = tournaments.made_of(None, entrants, options={"seeds": 2, "data": "demo", "judge": "rules"})
    (grpo,) = (entry for entry in made.entrants if entry.method)
    assert num_rewards(made, grpo, None) == 7 * 3 * 4 * 2 and num_rewards(made, grpo, 5) == 5 * 3 * 4 * 2
    assert [named.judge.name for named in paid_rewards(made, grpo)] == ["nemotron"]
    with pytest.raises(UsageError, match="up to 168 texts would be sent"):
        agree(made, choose(made), {}, yes=False)
    assert agree(made, choose(made), {}, yes=True).by_entrant == {"grpo": (168, None)}  # no price is set
