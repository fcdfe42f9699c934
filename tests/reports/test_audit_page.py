"""The page of `alignkit data audit`: what a reader finds on it, and that no text of the set is run."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest

from alignkit.audit.findings import SHORT_ONES, Expected, Findings, FlippedPair, Flips
from alignkit.cli.main import main
from alignkit.reports.audit_page import write_audit_page

BAD = "<script>alert(1)</script><img src=x onerror=alert(2)>"


def write_set(path: Path) -> None:
    rows = []
    for n in range(120):
        longer, shorter = f"Answer {n} with some more words in it {BAD}", f"Answer {n}"
        chosen, rejected = (longer, shorter) if n % 5 else (shorter, longer)
        rows.append(
            {
                "id": f"r{n}{BAD}",
                "prompt": f"Question number {n * 37} about thing {n}?",
                "chosen": chosen,
                "rejected": rejected,
                "score_chosen": 3 + (n % 4),
                "score_rejected": 3,
                "source": ("first", "second")[n % 2],
            }
        )
    rows += [rows[3] | {"id": "again"}] * 2
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_page_says_it_in_words_with_a_picture_and_runs_no_text_of_the_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_set(Path("set.jsonl"))
    assert main(["data", "audit", "--data", "set.jsonl", "--page", "page.html", "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)
    page = Path("page.html").read_text(encoding="utf-8")
    words = html.unescape(re.sub(r"<[^>]*>", "", re.sub(r"<script>.*?</script>", "", page, flags=re.S)))
    (longer,) = [b for b in findings["biases"] if b["source"] is None and b["feature"] == "longer"]
    share = longer["chosen"]
    assert share["share"] == pytest.approx(0.8, abs=0.02)
    said = f"{100 * share['share']:.0f} % ({100 * share['low']:.0f} to {100 * share['high']:.0f}) of pairs"
    assert f"the longer one is chosen in {said}" in " ".join(words.split())
    assert "If length did not matter it would be 50 %" in words and "tokens longer than the set's" in words
    assert "This is called length bias" in words
    assert "have equal scores: which answer is called chosen is arbitrary there" in words
    assert "Near-duplicates" in words and "Source by source" in words and "first" in words
    assert BAD not in page and "&lt;script&gt;alert(1)" in page
    assert page.count("<figure>") == 1
    pair = {
        "id": "r1",
        "place": "set.jsonl, line 2",
        "source": "first",
        "prompt": "Q?",
        "chosen": BAD,
        "rejected": "Ja.",
    }
    flips = Flips(
        pairs=200,
        views=("words",),
        estimated_rate=0.1,
        rate_interval=(0.05, 0.2),
        expected_precision=0.3,
        expected=(Expected(pairs=2, precision=0.5, interval=(0.25, 0.75)),),
        likely=1,
        listed=tuple(FlippedPair(**pair, reason=f"why {n}", probability=n / 60) for n in range(59, -1, -1)),
    )
    write_audit_page(Findings.model_validate(findings).model_copy(update={"flips": flips}), Path("page.html"))
    page = Path("page.html").read_text(encoding="utf-8")
    assert page.count("<details") == page.count("<h4>chosen</h4>") == page.count("<h4>rejected</h4>") == 50
    assert "flipped with 98 %: " in page and "The first 50 of 60" in page and BAD not in page
    assert page.count(SHORT_ONES) == 2  # in short, and over the list
    assert "r1, set.jsonl, line 2, of first. Why: why 59" in page and "Why: why 9<" not in page


def test_of_few_pairs_counts_are_said_and_no_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    row = {"prompt": "Name a river.", "chosen": "The river Rhine.", "rejected": "Rhine.", "source": "one"}
    Path("set.jsonl").write_text(json.dumps(row | {"score_chosen": 1, "score_rejected": 2}) + "\n")
    assert main(["data", "audit", "--data", "set.jsonl", "--page", "page.html"]) == 0
    said, page = capsys.readouterr().out, Path("page.html").read_text(encoding="utf-8")
    line = next(line for line in said.splitlines() if line.startswith("  longer"))
    assert line.split() == ["longer", "1", "of", "1"]
    assert "would become" not in said and "SWAPPED" not in said  # one pair says nothing of the kind
    assert "Of two answers the longer one is chosen in 1 of 1 pair." in page and ">1 of 1<" in page
    assert "(21 to 100)" not in page and "20.7" not in page


def test_a_source_of_few_pairs_is_counted_and_none_is_measured_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [
        {"prompt": f"Q {n}?", "chosen": f"It is {n} of them all.", "rejected": f"{n}.", "source": "large"}
        for n in range(120)
    ]
    rows += [{"prompt": "Q?", "chosen": "No.", "rejected": "It is not so.", "source": f"small {n}"} for n in range(3)]
    Path("set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["data", "audit", "--data", "set.jsonl", "--page", "page.html", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [part["by_others"] for part in found["explained"]] == [None] * 3
    page = Path("page.html").read_text(encoding="utf-8")
    assert "prefers the opposite" not in page and "other sources" in page and ">0 of 3<" in page


def test_a_set_without_pairs_has_a_page_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = ({"prompt": f"Say {n}", "completion": f"I say {n}."} for n in range(30))
    Path("sft.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["data", "audit", "--data", "sft.jsonl", "--page", "page.html"]) == 0
    page = Path("page.html").read_text(encoding="utf-8")
    assert "What sft.jsonl would teach" in page and "Lengths" in page and 'id="chart-' not in page
