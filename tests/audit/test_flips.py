"""Pairs that stand the wrong way round."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from places import REAL_ROWS, lines_of

from alignkit.audit.flips import flips, net_wins, suspect
from alignkit.audit.pairs import PairSet, read_pairs
from alignkit.audit.surface import COLUMNS, compare
from alignkit.data.reading.rows import to_row

WORDS = [f"word{number}" for number in range(3000)]  # so many that which of them an answer has says nothing


def pair_set(rows: list[dict[str, object]]) -> PairSet:
    return read_pairs(to_row(row, where=f"rows.jsonl, line {number}") for number, row in enumerate(rows, start=1))


def planted(rows: list[dict[str, object]], *, seed: int) -> tuple[list[dict[str, object]], set[str]]:
    """Swap the answers of one pair in ten, and drop all scores."""
    rng = np.random.default_rng(seed)
    out, flipped = [], set()
    for row in rows:
        row = {key: row[key] for key in ("id", "prompt", "chosen", "rejected", "source") if key in row}
        if rng.random() < 0.1:
            flipped.add(str(row["id"]))
            row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
        out.append(row)
    return out, flipped


def length_rows(count: int) -> list[dict[str, object]]:
    """The longer answer is chosen in nine pairs of ten."""
    rng = np.random.default_rng(1)
    rows = []
    for number in range(count):
        short, long = (" ".join(rng.choice(WORDS, size)) + "." for size in (5, 40))
        chosen, rejected = (long, short) if rng.random() < 0.9 else (short, long)
        rows.append({"id": str(number), "prompt": f"Question {number}?", "chosen": chosen, "rejected": rejected})
    return rows


def test_a_pair_that_says_the_opposite_of_nearly_all_others_is_ranked_first() -> None:
    rows = length_rows(300)
    pairs = pair_set(rows)
    compared = compare(pairs)
    suspicion = suspect(compared)
    assert suspicion is not None
    found = flips(pairs, compared, suspicion)
    shorter = {str(row["id"]) for row in rows if len(str(row["chosen"])) < len(str(row["rejected"]))}
    assert 20 < len(shorter) < 40
    assert {pair.id for pair in found.listed[: len(shorter)]} == shorter
    assert all("looks like answers that are rejected elsewhere (" in pair.reason for pair in found.listed[:20])
    assert all("characters" in pair.reason for pair in found.listed[:20])
    assert found.listed[0].place.startswith("rows.jsonl, line ")
    probabilities = [pair.probability for pair in found.listed]
    assert probabilities == sorted(probabilities, reverse=True)
    assert found.expected_precision == pytest.approx(np.mean(probabilities))
    assert suspicion.labels.rate == pytest.approx(len(shorter) / 300, abs=0.03)
    assert found.likely == sum(probability > 0.5 for probability in suspicion.probability_P)


def test_net_wins_leave_the_pair_itself_out() -> None:
    # a beats b, b beats c, a beats c, c beats a; d beats e only once
    answers = np.array([[0, 1], [1, 2], [0, 2], [2, 0], [3, 4]])
    # wins less losses: a +1, b 0, c -1, d +1, e -1
    assert net_wins(answers).tolist() == [-1, -1, 0, -4, 0]


def test_an_answer_that_loses_elsewhere_is_suspected_where_it_wins() -> None:
    rng = np.random.default_rng(2)
    rows = []
    for prompt in range(60):
        texts = [" ".join(rng.choice(WORDS, 12)) for _ in range(4)]  # from best to worst
        for better in range(4):
            for worse in range(better + 1, 4):
                rows.append(
                    {
                        "id": f"{prompt}-{better}-{worse}",
                        "prompt": f"Question {prompt}?",
                        "chosen": texts[better],
                        "rejected": texts[worse],
                    }
                )
    wrong = [6 * prompt + 2 for prompt in range(0, 60, 4)]  # best against worst
    for number in wrong:
        rows[number]["chosen"], rows[number]["rejected"] = rows[number]["rejected"], rows[number]["chosen"]
    pairs = pair_set(rows)
    compared = compare(pairs)
    suspicion = suspect(compared)
    assert suspicion is not None
    assert len(set(suspicion.order_P[: len(wrong)].tolist()) & set(wrong)) >= 0.75 * len(wrong)
    first = flips(pairs, compared, suspicion).listed[0]
    assert first.reason.startswith("in other pairs of this prompt the rejected answer wins")


def test_few_pairs_teach_nothing() -> None:
    assert suspect(compare(pair_set(length_rows(99)))) is None


def test_a_part_of_the_pairs_is_seen_as_if_it_stood_alone() -> None:
    rows = length_rows(150)
    is_kept = np.arange(150) % 4 != 0
    whole = compare(pair_set(rows))
    assert suspect(whole) is not None  # whatever was computed of all pairs leaves the part as it is
    part = whole.where(is_kept)
    alone = compare(pair_set([row for row, kept in zip(rows, is_kept, strict=True) if kept]))
    np.testing.assert_array_equal(part.x_PK, alone.x_PK)
    assert (part.grams_PB != alone.grams_PB).nnz == 0
    assert part.sources == alone.sources
    first, second = suspect(part), suspect(alone)
    assert first is not None
    assert second is not None
    np.testing.assert_array_equal(first.probability_P, second.probability_P)


def test_features_are_hand_counted() -> None:
    pairs = pair_set([{"prompt": "Name a river", "chosen": "A river: the Po.", "rejected": "No idea. No idea"}])
    compared = compare(pairs)
    counts = dict(zip(COLUMNS, compared.counts_P2M[0].T.tolist(), strict=True))
    assert counts["words"] == [4, 4]
    assert counts["repeats"] == [0, 3]  # no, idea, "no idea"
    assert counts["ends"] == [1, 0]
    # two of three words of the prompt are in the chosen answer, which has four words
    np.testing.assert_allclose(compared.overlap_P3[0], [2 / 3, 2 / 4, 2])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_planted_flips_among_real_rows_are_found_as_often_as_is_said(seed: int) -> None:
    rows, flipped = planted(lines_of(REAL_ROWS), seed=seed)
    pairs = pair_set(rows)
    compared = compare(pairs)
    suspicion = suspect(compared)
    assert suspicion is not None
    found = flips(pairs, compared, suspicion)
    is_flip = np.array([pairs.ids[row] in flipped for row in compared.rows])
    is_found = is_flip[suspicion.order_P]
    num_5, num_10 = round(0.05 * len(is_flip)), round(0.1 * len(is_flip))
    assert is_found[:num_5].mean() >= 0.35
    assert is_found[:num_10].mean() >= 2.5 * is_flip.mean()
    low, high = found.rate_interval
    assert low <= is_flip.mean() <= high <= low + 0.1
    for expected in found.expected[-2:]:
        low, high = expected.interval
        assert low < expected.precision < high
        assert low <= is_found[: expected.pairs].mean() <= high


def test_scores_of_rows_are_not_used(tmp_path: Path) -> None:
    rows = length_rows(120)
    scored = [row | {"score_chosen": 9 + number, "score_rejected": 1} for number, row in enumerate(rows)]
    one, other = (suspect(compare(pair_set(some))) for some in (rows, scored))
    assert one is not None
    assert other is not None
    np.testing.assert_array_equal(one.probability_P, other.probability_P)
    ties = replace(pair_set(rows), is_tie_P=np.arange(120) < 30)
    assert len(compare(ties)) == 90


def test_views_that_tell_nothing_give_no_rate() -> None:
    rng = np.random.default_rng(0)
    rows = []
    for number in range(400):
        texts = [" ".join(rng.choice(WORDS, rng.integers(5, 40))) + "." for _ in range(2)]
        rows.append({"prompt": f"Question {number}?", "chosen": texts[0], "rejected": texts[1]})
    for given, is_told in ((rows, False), (length_rows(300), True)):
        pairs = pair_set(given)
        compared = compare(pairs)
        suspicion = suspect(compared)
        assert suspicion is not None
        assert (flips(pairs, compared, suspicion).estimated_rate is not None) == is_told
