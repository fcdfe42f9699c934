"""Evidence: the same verdict elsewhere, to the digit, and what was changed by hand is found."""

from __future__ import annotations

import hashlib
import json
import math
import re
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from tiny_models import tiny_model

from alignkit import api
from alignkit.cli.main import main
from alignkit.errors import InputError
from alignkit.judging import evidence as module
from alignkit.judging.clustering import find_clusters
from alignkit.judging.evidence import Evidence, judgements_of, read_evidence, verdict_of, write_evidence
from alignkit.judging.health import Measure, Worst
from alignkit.judging.metrics import unmeasured
from alignkit.judging.verdict import JudgeName
from alignkit.judging.verdict_text import lines


def made(sources: int = 40, **changes: Any) -> Evidence:
    rng = np.random.default_rng(0)
    ours_P, theirs_P = rng.random(400) + 0.1, rng.random(400)
    ours_P[7] = math.nan
    texts = [["x" * int(n) for n in rng.integers(1, 90, 400)] for _ in range(2)]
    grouping = find_clusters([{"source": n % sources} for n in range(400)], list(range(400)), column=None)
    judgements = judgements_of(
        prompts=[f"p{n}" for n in range(400)],
        scorings=[(ours_P, theirs_P), (ours_P, rng.random(400))],
        texts=(texts[0], texts[1]),
        grouping=grouping,
    )
    given: dict[str, Any] = {
        "run": "one",
        "vs": "other",
        "weights": ("a", "b"),
        "judge": JudgeName(name="j", version="1", verifiable=False),
        "judge_parameters": "0",
        "prompts": "here",
        "fingerprint": "f",
        "seed": 3,
        "margin": 3.0,
        "level": 0.96,
        "look": 1,
        "look_id": "l",
        "pair": "a b",
        "units": grouping.words,
        "here_units": grouping.alone and grouping.alone.words,
        "caveats": ("one",),
        "ours": unmeasured(),
        "theirs": unmeasured(),
        "health": (),
        "created": "2026-01-31T00:00:00Z",
        "judgements": judgements,
    }
    return Evidence(**(given | changes))


@pytest.mark.parametrize("sources", [40, 3])
def test_the_verdict_derived_from_a_file_is_the_same_to_the_digit(sources: int, tmp_path: Path) -> None:
    evidence = made(sources)
    verdict = verdict_of(evidence)
    assert verdict.win_rate.num_missing == 1 and verdict.noise is not None and verdict.length is not None
    assert (verdict.here is None) == (sources == 40)
    write_evidence(evidence, verdict, tmp_path / "e.json")
    assert verdict_of(read_evidence(tmp_path / "e.json")) == verdict == api.judge_file(tmp_path / "e.json")
    assert "x" * 5 not in (tmp_path / "e.json").read_text()  # no answer stands in it
    assert (tmp_path / "e.json").stat().st_mode & 0o077 == 0
    (tmp_path / "marked.json").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "e.json").read_bytes())
    assert api.judge_file(tmp_path / "marked.json") == verdict


def test_no_text_of_an_answer_and_no_path_of_this_machine_leaves_it(tmp_path: Path) -> None:
    worst = Worst(id="r1", value=3.0, text="a secret answer")
    measure = Measure(
        name="loops", ours=1.0, theirs=0.0, difference=1.0, low=0.5, high=1.5, found=("a secret",), worst=(worst,)
    )
    private, folder = "/home/jo/my project", "/srv/jo"
    evidence = made(
        run=f"{private}/runs/dpo",
        vs=f"{folder}/sft",
        prompts=f"the validation prompts of {private}/runs/dpo",
        judge=JudgeName(name=f"{folder}/j.py:f", version="1", verifiable=False),
        caveats=(
            f"{folder}/a/b.jsonl, and {Path.cwd()}/c.jsonl: see https://example.org/x/y",
            "file:///srv/jo/d.jsonl",
        ),
        health=(measure,),
    )
    write_evidence(evidence, verdict_of(evidence), tmp_path / "e.json")
    text = (tmp_path / "e.json").read_text()
    assert "secret" not in text and "jo" not in text.replace('"judg', "") and str(Path.cwd()) not in text
    read = read_evidence(tmp_path / "e.json")
    assert (read.run, read.vs, read.prompts) == ("dpo", "sft", "the validation prompts of dpo")
    assert read.caveats == ("b.jsonl, and c.jsonl: see https://example.org/x/y", "d.jsonl")
    told = [line for line in lines(api.judge_file(tmp_path / "e.json")) if "loops" in line]
    assert told == [line for line in lines(verdict_of(evidence)) if "loops" in line] and told


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda e: e["judgements"][16].update(ours=2.0), "written: judgement 17;"),
        (lambda e: e["judgements"][3].update(cluster=0), "written: judgement 4;"),
        (lambda e: e["judgements"].pop(6), "written: judgement 7 was taken out;"),
        (lambda e: e["judgements"].pop(), "written: judgement 400 was taken out;"),
        (lambda e: e["judgements"].append(e["judgements"][2]), "written: judgement 3 stands 2 times;"),
        (
            lambda e: e["judgements"].insert(0, e["judgements"].pop(1)),
            "place 1 has judgement 2, place 2 has judgement 1;",
        ),
        (lambda e: e.update(margin=1.0, level=0.9), "written: margin, level;"),
        (lambda e: e["verdict"].update(answer="worse"), "written: verdict.answer;"),
        (lambda e: e["judge"].update(name="another"), "written: judge.name;"),
        (lambda e: e.update(num_judgements=10**12), "written: num_judgements;"),
        (lambda e: e["checks"].update(seed="0"), "written: seed;"),
        (lambda e: e.update(checks={}, margin=1.0), "what stands beside the judgements"),
        (lambda e: e.update(level=2), "level is 2, needed is less than 1;"),
        (lambda e: e["judgements"][3].update(ours="x"), 'judgement 4, ours is "x", needed is a number;'),
        (lambda e: e["judgements"][3].update(again=[[0.5, [1]]]), "judgement 4, again 1 2 is [1], needed is a number;"),
        (lambda e: e["judgements"][3].pop("cluster"), "judgement 4, cluster is missing;"),
        (lambda e: e.update(new=1), "new is not known here; a newer alignkit may have written it"),
        (lambda e: e.update(alignkit_evidence=2), "its format is 2, known here is 1; update alignkit"),
        (lambda e: e.update(judgements=[]), "judgements is empty"),
    ],
)
def test_what_was_changed_by_hand_is_found_and_where(change: Any, said: str, tmp_path: Path) -> None:
    content = json.loads(written())
    change(content)
    (tmp_path / "e.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=re.escape(said)):
        read_evidence(tmp_path / "e.json")


@cache
def written() -> bytes:
    """A file of evidence."""
    evidence = made(caveats=("é" * 900,))
    with TemporaryDirectory() as folder:
        write_evidence(evidence, verdict_of(evidence), Path(folder, "e.json"))
        return Path(folder, "e.json").read_bytes()


@pytest.mark.parametrize("cut", [40, 1000, -2, -5, -200])
def test_a_file_cut_in_copying_is_said_to_be(cut: int, tmp_path: Path) -> None:
    (tmp_path / "e.json").write_bytes(written()[:cut])
    line = written()[:cut].rstrip().count(b"\n") + 1
    with pytest.raises(InputError, match=f"cut off at line {line}; copy it again"):
        api.judge_file(tmp_path / "e.json")


def test_a_file_that_is_not_there_may_have_been_evidence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give evidence that `judge --evidence` wrote, CSV or JSONL"):
        api.judge_file(tmp_path / "missing.json")


def test_a_file_from_before_a_field_was_there_is_read_as_it_was_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    evidence, path = made(), tmp_path / "e.json"
    verdict = verdict_of(evidence)
    write_evidence(evidence, verdict, path)
    content = json.loads(path.read_text())
    judgements = [without(row, "here", "stratum") for row in content.pop("judgements")]
    content["verdict"] = {name: x for name, x in content["verdict"].items() if name not in ("guards", "rounds", "here")}
    older = without(content, "guards", "people", "here_units", "rounds", "no_interval")
    path.write_text(json.dumps(older | {"judgements": judgements}))
    assert verdict_of(read_evidence(path)) == verdict and not caplog.text
    older["verdict"]["win_rate"].pop("num_effective")  # a number that was not yet recorded, but is derived now
    path.write_text(json.dumps(without(older) | {"judgements": judgements}))
    with pytest.raises(InputError, match="derives another verdict: win_rate differ"):
        read_evidence(path)
    monkeypatch.setattr(module, "code_fingerprint", lambda: "another")
    assert verdict_of(read_evidence(path)) == verdict
    assert "win_rate differ; it was written by other code" in caplog.text


def without_texts(verdict: dict[str, Any]) -> dict[str, Any]:
    """Without what health quotes of the answers."""
    return verdict | {"health": [measure | {"found": [], "worst": []} for measure in verdict["health"]]}


def without(content: dict[str, Any], *names: str) -> dict[str, Any]:
    """Without some fields, with the checksum of an alignkit that never had them."""
    kept = {name: value for name, value in content.items() if name not in (*names, "check")}
    return kept | {"check": hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]}


def test_a_verdict_that_does_not_follow_is_refused_or_said_where_the_code_is_other(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    evidence, path = made(), tmp_path / "e.json"
    wrong = verdict_of(evidence).model_copy(update={"answer": "worse"})
    write_evidence(evidence, wrong, path)
    assert main(["judge", "--from", str(path)]) == 2
    assert "this alignkit derives another verdict: answer differ" in capsys.readouterr().err
    monkeypatch.setattr(module, "code_fingerprint", lambda: "another")
    assert read_evidence(path).judgements == tuple(read_evidence(path).judgements)
    assert "it was written by other code" in caplog.text


def test_the_command_writes_evidence_that_gives_its_verdict_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_model(Path("one"), seed=0)
    tiny_model(Path("other"), seed=1)
    Path("length.py").write_text("def length(completion, row):\n    return len(completion)\n")
    rows = ({"id": f"r{n}", "prompt": f"Say {n}", "source": f"s{n % 3}"} for n in range(12))
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["judge", "one", "--vs", "other", "--data", "rows.jsonl", "--judge", "length.py:length", "--json"]
    command += ["--max-new-tokens", "3", "--difference", "45", "--temperature", "1", "--rejudge", "1"]
    assert main([*command, "--evidence", "e.json"]) == 0
    said = capsys.readouterr().out
    assert main(["judge", "--from", "e.json", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == without_texts(json.loads(said))
    assert main(["judge", "--from", "e.json", "--margin", "4"]) == 2
    assert "leave out margin" in capsys.readouterr().err
    assert main(["judge", "one", "other", "--vs", "other", "--evidence", "e.json"]) == 2
    assert "one file holds one verdict" in capsys.readouterr().err
