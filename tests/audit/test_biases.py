"""What the preferences follow."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from alignkit.audit.biases import BETA, biases, explained, length_lessons, share, ties
from alignkit.audit.cross_fit import dense_parts, fold_of
from alignkit.audit.pairs import PairSet, read_pairs
from alignkit.audit.surface import compare
from alignkit.cli.main import main
from alignkit.data.reading.rows import to_row
from alignkit.statistics.intervals import wilson
from alignkit.statistics.resampling import Clusters


def pair_set(rows: list[dict[str, object]]) -> PairSet:
    return read_pairs(to_row(row, where=f"rows.jsonl, line {number}") for number, row in enumerate(rows, start=1))


def test_a_bias_is_counted_by_hand() -> None:
    rows = [
        {"prompt": "1", "chosen": "a long answer", "rejected": "short"},
        {"prompt": "2", "chosen": "- a list\n- of two", "rejected": "short"},
        {"prompt": "3", "chosen": "short", "rejected": "perhaps a long answer"},
        {"prompt": "4", "chosen": "alike", "rejected": "equal"},
    ]
    found = {bias.feature: bias for bias in biases(compare(pair_set(rows)))}
    assert (found["longer"].chosen.share, found["longer"].chosen.num, found["longer"].equal) == (2 / 3, 3, 1)
    assert (found["more formatted"].chosen.share, found["more formatted"].chosen.num) == (1, 1)
    assert (found["more hedging"].chosen.share, found["more hedging"].equal) == (0, 3)
    assert "more headings" not in found  # no pair differs in them


def test_sources_are_told_apart_and_together() -> None:
    rows: list[dict[str, object]] = []
    for number in range(240):
        long, short = f"a much longer answer {number}", f"short {number}"
        source = "one" if number < 120 else "two"
        chosen, rejected = (long, short) if source == "one" else (short, long)
        rows.append({"prompt": str(number), "chosen": chosen, "rejected": rejected, "source": source})
    compared = compare(pair_set(rows))
    longer = {bias.source: bias.chosen.share for bias in biases(compared) if bias.feature == "longer"}
    assert longer == {None: 0.5, "one": 1, "two": 0}
    fold_P = fold_of(compared.prompts)
    scores_P = dense_parts(compared.x_PK, compared.source_P, fold_P).sum(1)
    found = {part.source: part for part in explained(compared, scores_P)}
    assert {source: part.accuracy.share for source, part in found.items()} == {None: 1, "one": 1, "two": 1}
    # each source says the opposite of the other one
    assert {source: part.by_others and part.by_others.share for source, part in found.items()} == {
        None: None,
        "one": 0,
        "two": 0,
    }


def test_repeated_prompts_widen_the_interval_as_if_there_were_fewer() -> None:
    outcome_P = np.array([1.0, 0, 1, 1, 0, 1, 1, 1, 0, 1])
    alone = share(outcome_P, Clusters.single(10))
    four_times = share(np.repeat(outcome_P, 4), Clusters.of(np.repeat(np.arange(10), 4).tolist()))
    assert (four_times.share, four_times.num) == (0.7, 40)
    assert four_times.low == pytest.approx(alone.low, abs=0.01)
    assert four_times.high == pytest.approx(alone.high, abs=0.01)
    assert alone.low == pytest.approx(wilson(0.7, 9)[0])  # n - 1, as the standard error over clusters has it


def test_the_length_lesson_is_dpo_s_optimum_on_drawn_lengths() -> None:
    """Weigh lengths drawn for one prompt by length^(w / beta), and compare the mean."""
    rng = np.random.default_rng(0)
    w, spread, num = 0.15, 0.5, 20_000
    lengths_P2 = np.exp(rng.normal(np.log(200), spread, (num, 2)))
    chosen_first = rng.random(num) < 1 / (1 + (lengths_P2[:, 1] / lengths_P2[:, 0]) ** w)
    lengths_P2[~chosen_first] = lengths_P2[~chosen_first][:, ::-1]
    rows: list[dict[str, object]] = [{"prompt": "1", "chosen": "a", "rejected": "b"}]
    compared = compare(pair_set(rows))
    object.__setattr__(compared, "names", ["one"] * num)
    object.__setattr__(compared, "prompts", Clusters.single(num))
    object.__setattr__(compared, "rows", np.arange(num))
    (lesson,) = length_lessons(compared, lengths_P2, counted_by="drawn")
    reference_N = lengths_P2.ravel()
    tilted = float(np.average(reference_N, weights=reference_N ** (w / BETA)))
    assert lesson.mean_tokens == pytest.approx(reference_N.mean())
    assert lesson.mean_tokens + lesson.tokens == pytest.approx(tilted, rel=0.06)
    assert lesson.tokens > 50


def test_ties_and_hardly_different_scores_are_counted() -> None:
    scores = [(3, 3), (3, 2), (3, 2), (3, 2.95), (2, 3), (None, None)]
    rows: list[dict[str, object]] = [
        {"prompt": str(n), "chosen": "a", "rejected": "b", "score_chosen": better, "score_rejected": worse}
        for n, (better, worse) in enumerate(scores)
    ]
    (found,) = ties(pair_set(rows))
    assert (found.scored, found.ties, found.tiny, found.tiny_margin, found.reversed) == (5, 1, 1, 0.1, 1)


def test_a_source_that_prefers_the_opposite_of_the_others_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = []
    for number in range(480):
        source = ("one", "two", "three", "swapped")[number % 4]
        short, long = f"It is {number}.", f"It is {number}, for so it was said by all of those who know of it."
        better, worse = (short, long) if source == "swapped" else (long, short)
        scores = {"score_chosen": "2", "score_rejected": "4"} if source == "swapped" else {}
        rows.append({"prompt": f"Question {number}?", "chosen": better, "rejected": worse, "source": source} | scores)
    Path("set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["data", "audit", "--data", "set.jsonl", "--page", "page.html"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Opposite to the others: swapped." in said and "Opposite to the others: one." not in said
    assert "PROBABLY SWAPPED: swapped. In 120 of its 120 pairs with unequal scores" in said
    page = Path("page.html").read_text(encoding="utf-8")
    assert "swapped prefers the opposite of the other sources" in page
    assert "swapped is probably swapped: in 120 of its 120 pairs" in page


def test_scores_may_be_text_or_a_margin() -> None:
    scores: list[dict[str, object]] = [
        {"score_chosen": "5", "score_rejected": "2"},
        {"margin": "-3"},
        {"margin": 0},
        {},
    ]
    rows = [{"prompt": f"{n}?", "chosen": f"a{n}", "rejected": f"b{n}"} | more for n, more in enumerate(scores)]
    (found,) = ties(pair_set(rows))
    assert (found.scored, found.ties, found.unequal, found.reversed) == (3, 0, 2, 1)
    assert found.tiny_margin == pytest.approx(0.3)
