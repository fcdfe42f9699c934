"""Guards: what passes, what has not enough evidence, and the same result from a file."""

from __future__ import annotations

import json
import math
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from places import ROOT
from scipy.stats import t
from tiny_models import tiny_model
from verdicts import rated, verdict_on

from alignkit.cli.main import main
from alignkit.judging.clustering import find_clusters
from alignkit.judging.guards import Guard, GuardRow, GuardScores, guard_of


def found(ours: Any, theirs: Any, *, clusters: int = 60, kinds: int = 3, **changes: Any) -> Guard:
    """The result on these scores, nan for a missing one; clusters are of one kind each."""
    rows = [
        GuardRow(
            prompt=str(n),
            ours=None if math.isnan(a) else a,
            theirs=None if math.isnan(b) else b,
            cluster=n % clusters,
            stratum=n % clusters % kinds,
        )
        for n, (a, b) in enumerate(zip(np.asarray(ours).tolist(), np.asarray(theirs).tolist(), strict=True))
    ]
    return guard_of(GuardScores(**({"name": "g", "by": "rules", "units": "templates", "rows": rows} | changes)))


def test_the_bound_in_nats_is_students_over_clusters_within_kinds() -> None:
    rng = np.random.default_rng(1)
    ours_P = np.repeat(rng.permutation(np.linspace(-1, 1, 40)), 5) - 3  # clusters of five equal prompts
    order = np.arange(200).reshape(40, 5).T.ravel()
    result = found(ours_P[order], np.full(200, -3.0), clusters=40, kinds=1, by="perplexity")
    values_G = ours_P[::5] + 3
    half = t.isf(0.02, 39) * values_G.std(ddof=1) / math.sqrt(40)
    assert result.difference == pytest.approx(0, abs=1e-9) and result.low == pytest.approx(-100 * half)
    assert result.margin == pytest.approx(100 * half * (1 + t.ppf(0.82, 39) / t.isf(0.02, 39)))
    assert (result.answer, result.is_default_margin, result.num_clusters) == ("passes", True, 40)


def test_what_two_kinds_differ_by_is_no_uncertainty() -> None:
    noise_P = np.random.default_rng(2).normal(0, 0.05, 300)
    apart_P = np.where(np.arange(300) % 60 % 3 == 0, 0.5, -0.25) + noise_P
    one, other = (found(apart_P, np.zeros(300), by="perplexity", kinds=kinds) for kinds in (3, 1))
    assert one.low is not None and other.low is not None
    assert one.low > -2 and other.low < -6


@pytest.mark.parametrize(("by", "margin", "answer"), [("rules", 3, "does not pass"), ("rules", 40, "passes")])
def test_a_lower_score_of_ours_is_a_loss(by: str, margin: float, answer: str) -> None:
    theirs_P = np.ones(300)
    ours_P = np.where(np.arange(300) % 7 < 2, 0.0, 1.0)  # right in five of seven
    result = found(ours_P, theirs_P, by=by, margin=margin)
    assert result.difference == pytest.approx(100 * (ours_P.mean() - 1)) and result.difference < -20
    assert (result.answer, result.is_default_margin) == (answer, False)
    assert found(theirs_P, ours_P, margin=1).answer == "passes"


def test_a_judges_scores_count_by_their_order_alone() -> None:
    ours_P = np.where(np.arange(300) // 60 % 2 == 0, 1.0, -1e90)
    result = found(ours_P, np.zeros(300), by="judge")
    assert result.difference == pytest.approx(10) and result.low is not None and 5 < result.low < 10
    assert found(np.full(300, 0.1 + 0.2), np.full(300, 0.3), by="judge").difference == 0  # rounding is no win


def test_no_difference_at_all_still_leaves_losses_that_so_many_templates_cannot_show() -> None:
    result = found(np.full(300, 0.3), np.full(300, 0.3))
    assert result.difference == 0 and result.low is not None and -8 < result.low < -4
    assert result.answer == "passes" and result.margin is not None and result.margin > -result.low
    assert found(np.full(300, 0.3), np.full(300, 0.3), margin=2).answer == "does not pass"
    assert found(np.full(300, -1.5), np.full(300, -1.5), by="perplexity").answer == "passes"  # nothing differs


def test_a_missing_score_is_left_out_and_many_refuse() -> None:
    ours_P, theirs_P = np.ones(300), np.ones(300)
    ours_P[:10], theirs_P[10:30] = math.nan, math.nan
    some = found(ours_P, theirs_P)
    assert (some.num_prompts, some.num_missing, some.difference, some.answer) == (270, 30, 0, "passes")
    theirs_P[30] = math.nan
    many = found(ours_P, theirs_P)
    assert (many.answer, many.low, many.num_missing) == ("not enough evidence", None, 31)
    assert "31 of 300 prompts have no score, more than 10 %" in str(many)
    none = found(np.full(300, math.nan), theirs_P)
    assert (none.answer, none.difference) == ("not enough evidence", None)


def test_too_few_templates_are_not_enough_evidence() -> None:
    assert found(np.ones(300), np.zeros(300), clusters=20, kinds=2).answer == "passes"
    few = found(np.ones(300), np.zeros(300), clusters=19, kinds=2)
    assert few.answer == "not enough evidence" and "only 19 clusters: at least 20 are needed" in str(few)
    rows = [
        GuardRow(prompt="", ours=1, theirs=0, cluster=max(0, n - 270), stratum=0) for n in range(300)
    ]  # one of 271 prompts, 29 of one
    unequal = guard_of(GuardScores(name="g", by="rules", units="", rows=tuple(rows)))
    assert "so unequal that they are as informative as 1.2 equal ones" in unequal.reason


@pytest.mark.parametrize(
    ("low", "answer", "not_worse"),
    [(51.0, "better", True), (48.0, "not enough evidence", True), (46.0, "not enough evidence", False)],
)
def test_not_worse_is_an_interval_above_the_margin_and_no_guard_that_fails(
    low: float, answer: str, not_worse: bool
) -> None:
    rate = rated(53, low, 60)
    passing, failing = found(np.ones(300), np.zeros(300)), found(np.zeros(300), np.ones(300))
    verdict = verdict_on(rate)
    assert (verdict.answer, verdict.is_not_worse, verdict.guards_pass) == (answer, not_worse, None)
    assert verdict_on(rate, guards=[passing]).is_not_worse is not_worse
    assert not verdict_on(rate, guards=[passing, failing]).is_not_worse
    assert not verdict_on(rated(48.5, 47.5, 49.5)).is_not_worse  # worse by little is worse
    text = str(verdict_on(rate, guards=[passing, failing]))
    assert "1 of 2 guards not passed: g (rules): does not pass" in text
    assert "guard g, rules: passes: +100.0 points of the score by rules" in text


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny_model(folder / "one", seed=0)
    tiny_model(folder / "other", seed=1)
    return folder


def write(name: str, rows: list[dict[str, Any]]) -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def guarded(**changes: Any) -> list[dict[str, Any]]:
    """44 prompts in 22 templates of 2 kinds, with a rule and a reference."""
    row = {"rules": [{"kind": "num_words", "max": 1}], "reference": "yes"}
    return [
        row | {"id": f"g{n}", "prompt": f"Guard {n}", "template": n // 2, "kind": n // 22} | changes for n in range(44)
    ]


@pytest.fixture
def command(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    write("rows.jsonl", [{"id": f"r{n}", "prompt": f"Say {n}"} for n in range(12)])
    write("guard.jsonl", guarded())
    Path("mine.py").write_text("def length(completion, row):\n    return len(completion)\n")
    given = ["judge", str(models / "one"), "--vs", str(models / "other"), "--data", "rows.jsonl"]
    return [*given, "--judge", "mine.py:length", "--max-new-tokens", "2", "--difference", "45", "--guard"]


def test_guards_stand_in_the_verdict_and_come_out_of_a_file_to_the_digit(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    three = ["guard.jsonl", "--guard", "guard.jsonl:perplexity", "--guard", "guard.jsonl:judge", "--json"]
    assert main([*command, *three, "--evidence", "e.json"]) == 0
    said = capsys.readouterr().out
    verdict = json.loads(said)
    assert [(guard["by"], guard["num_prompts"], guard["num_clusters"]) for guard in verdict["guards"]] == [
        ("rules", 44, 22),
        ("perplexity", 44, 22),
        ("judge", 44, 22),
    ]
    assert verdict["guards_pass"] == all(guard["answer"] == "passes" for guard in verdict["guards"])
    assert main(["judge", "--from", "e.json", "--json"]) == 0
    derived = json.loads(capsys.readouterr().out)
    assert (derived["run"], derived["vs"]) == ("one", "other")  # of a path of this machine, the name
    assert verdict == derived | {name: verdict[name] for name in ("run", "vs", "caveats", "health")}
    assert main(["judge", "--from", "e.json", "--require", "better-and-guards"]) in (0, 1)
    capsys.readouterr()
    content = json.loads(Path("e.json").read_text())
    content["guards"][1]["rows"][4]["ours"] = 0.0
    Path("e.json").write_text(json.dumps(content))
    assert main(["judge", "--from", "e.json"]) == 2
    assert "guard guard.jsonl, perplexity, row 5" in capsys.readouterr().err


def test_a_perplexity_guard_compares_log_probs_a_token_and_leaves_out_what_does_not_fit(
    command: list[str], models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_model(tmp_path / "short", seed=1, max_position_embeddings=96)
    rows = guarded()
    rows[3]["reference"], rows[4]["reference"] = " ", "word " * 60
    write("guard.jsonl", rows)
    given = ["guard.jsonl:perplexity", "--evidence", "e.json", "--json"]
    assert main([*command, *given, "--vs", str(tmp_path / "short"), "--set", "model.precision=fp32"]) == 0
    (guard,) = json.loads(capsys.readouterr().out)["guards"]
    assert (guard["num_prompts"], guard["num_missing"]) == (42, 2)
    assert "2 rows have no reference that fits whole into both models' rows" in guard["notes"]
    scored = json.loads(Path("e.json").read_text())["guards"][0]["rows"]
    assert scored[3]["ours"] is None and scored[4]["theirs"] is None
    whole = evaluated(str(models / "one"), rows[:1], capsys)
    assert math.exp(-scored[0]["ours"]) == pytest.approx(whole["perplexity"], rel=1e-4)


def evaluated(model: str, rows: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    write("few.jsonl", rows)
    options = ["--max-new-tokens", "2", "--json", "--set", "model.precision=fp32"]
    assert main(["evaluate", model, "--data", "few.jsonl", *options]) == 0
    figures: dict[str, Any] = json.loads(capsys.readouterr().out)
    return figures


def test_prompts_that_are_judged_too_and_kinds_of_one_template_are_said(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    write("guard.jsonl", guarded() + [row | {"kind": "lone"} for row in guarded(template="lone")[:3]])
    write("rows.jsonl", [{"id": f"r{n}\x1b[2J", "prompt": f"Guard {n}"} for n in range(12)])
    assert main([*command, "guard.jsonl:perplexity", "--guard-margin", "90"]) == 0
    said = capsys.readouterr().out
    summary, *pairs = said.split("\n\n")
    assert len(summary.splitlines()) == 7 and summary.endswith("\ndetails: --details")
    assert 1 <= len(pairs) <= 3 and all(len(pair.splitlines()) <= 7 for pair in pairs)
    assert all(", row r" in pair and "\n  asked   Guard " in pair and "\n  theirs  " in pair for pair in pairs)
    assert "\x1b" not in said and "\\x1b[2J" in said
    assert "of its prompts are judged in this verdict too: that is not elsewhere" in said
    assert "its spread is not known and it is taken with another kind: lone" in said and ", margin 90; " in said


@pytest.mark.parametrize(
    ("given", "rows", "said"),
    [
        (["genrl"], {}, "--guard genrl: no data is named 'genrl'"),
        ([""], {}, "--guard '': give DATA"),
        ([":"], {}, "--guard ':': give DATA"),
        (["guard.jsonl:"], {}, "--guard 'guard.jsonl:': give DATA"),
        (["none.jsonl:judge"], {}, "--guard none.jsonl:judge: none.jsonl: no such file"),
        (["guard.jsonl"], {"rules": None}, "or guard.jsonl:rules (rows that it cannot score are missing)"),
        (["guard.jsonl:rules"], {"rules": None}, "--guard guard.jsonl:rules: judge rules: none of the 44 rows"),
        (["guard.jsonl"], {"rules": [{"kind": "no"}]}, "--guard guard.jsonl: row g0, rule 1: unknown kind"),
        (["guard.jsonl:perplexity"], {"reference": None}, "no row has a reference answer"),
        (["guard.jsonl", "--guard", "guard.jsonl"], {}, "is named twice"),
        (["guard.jsonl", "--guard-margin", "0"], {}, "above 0 and below 100 is allowed"),
        (["guard.jsonl", "--guard-margin", "200"], {}, "above 0 and below 100 is allowed"),
        (["guard.jsonl:judge", "--guard-margin", "50"], {}, "would always pass"),
    ],
)
def test_what_cannot_be_a_guard_is_refused_before_anything_is_drawn(
    given: list[str], rows: dict[str, Any], said: str, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    write("guard.jsonl", guarded(**rows))
    assert main([*command, *given]) == 2
    assert said in capsys.readouterr().err


def test_a_requirement_of_guards_needs_one(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command[:-1], "--require", "better-and-guards"]) == 2
    assert "there is no guard; name one, as --guard general" in capsys.readouterr().err
    assert main([*command[:-1], "--guard-margin", "3"]) == 2
    assert "--guard-margin belongs to --guard DATA" in capsys.readouterr().err
    write("guard.jsonl", guarded(template="only"))
    assert main([*command, "guard.jsonl", "--require", "not-worse"]) == 1
    out, err = capsys.readouterr()
    assert "; guard guard.jsonl, rules: " in err.splitlines()[-1]
    assert "only 1 clusters: at least 20 are needed" in out


def test_templates_are_clusters_also_where_all_rows_name_one_source() -> None:
    fields = [{"source": "mine", "template": n // 5} for n in range(300)]
    grouping = find_clusters(fields, list(range(300)), column=None)
    assert (grouping.clusters.num, grouping.words) == (60, "clusters of prompts with the same template (60)")


def test_the_pictures_of_the_docs_are_what_their_script_draws() -> None:
    folder = ROOT / "docs" / "judging"
    drawn = runpy.run_path(str(folder / "draw.py"))["PICTURES"]
    assert set(drawn) == {file.name for file in folder.glob("*.svg")}
    for name, picture in drawn.items():
        assert (folder / name).read_text(encoding="utf-8") == picture(), f"run docs/judging/draw.py: {name}"
