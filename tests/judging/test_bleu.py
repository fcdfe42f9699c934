"""BLEU and the health of texts."""

import math

import numpy as np
import pytest
from sacrebleu.metrics import BLEU

from alignkit.judging.bleu import corpus_bleu
from alignkit.statistics.resampling import Clusters
from alignkit.statistics.texts import repetition


def test_bleu_of_a_hand_computed_case() -> None:
    # 5 of 6 words, 3 of 5 bigrams, 2 of 4 trigrams, 1 of 3 4-grams; 6 words against 6: no brevity penalty
    bleu = corpus_bleu(["the cat sat on the rug"], ["the cat sat on a rug"])
    assert bleu is not None
    assert bleu.bleu1 == pytest.approx(100 * 5 / 6)
    assert bleu.bleu2 == pytest.approx(100 * math.sqrt(5 / 6 * 3 / 5))
    assert bleu.bleu4 == pytest.approx(100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)


def test_a_short_text_pays_the_brevity_penalty_once_for_the_corpus() -> None:
    bleu = corpus_bleu(["a b c", "a b c d e"], ["a b c d e", "a b c d e"])  # 8 words against 10
    assert bleu is not None
    assert bleu.bleu1 == pytest.approx(100 * math.exp(1 - 10 / 8))


def test_equal_texts_score_100_and_the_signature_names_the_tokenizer() -> None:
    bleu = corpus_bleu(["one two three four five ."], ["one two three four five ."])
    assert bleu is not None
    assert (bleu.bleu1, bleu.bleu2, bleu.bleu4) == pytest.approx((100, 100, 100))
    assert "tok:13a|smooth:exp|version:" in bleu.signature


@pytest.mark.parametrize("references", [[None, None], ["", "  \n"]])
def test_without_references_there_is_no_bleu(references: list[str | None]) -> None:
    assert corpus_bleu(["a b", "c d"], references) is None


def test_prompts_without_a_reference_are_left_out() -> None:
    assert corpus_bleu(["w x y z", "a b c d"], [None, "a b c d"]) == corpus_bleu(["a b c d"], ["a b c d"])


def test_an_empty_answer_scores_nothing() -> None:
    bleu = corpus_bleu([""], ["a b c d"])
    assert bleu is not None
    assert (bleu.bleu1, bleu.bleu2, bleu.bleu4) == (0, 0, 0)


def test_intervals_are_over_clusters_of_prompts() -> None:
    rng = np.random.default_rng(0)
    words = np.array(["the", "cat", "sat", "on", "a", "rug", "and", "slept", "well", "there"])
    references = [" ".join(rng.choice(words, 8)) for _ in range(40)]
    texts = [
        " ".join(w if rng.random() < 0.4 + 0.1 * (n % 5) else "x" for w in r.split()) for n, r in enumerate(references)
    ]
    alone = corpus_bleu(texts, references, num_resamples=800)
    peers = BLEU(tokenize="13a", force=True).corpus_score(texts, [references], n_bootstrap=800)
    assert alone is not None and alone.intervals is not None and alone.bleu4 == pytest.approx(peers.score)
    low, high = alone.intervals[2]
    assert low < alone.bleu4 < high and (high - low) / 2 == pytest.approx(peers._ci, rel=0.2)
    four = Clusters.of([n % 40 for n in range(160)])  # each prompt four times says no more than once
    copied = corpus_bleu(
        texts * 4 + [""], references * 4 + [None], num_resamples=800, clusters=Clusters.of([*four.number_P, 40])
    )
    assert copied is not None and copied.intervals is not None
    np.testing.assert_allclose(copied.intervals, alone.intervals, rtol=0.1)
    few = corpus_bleu(texts, references, num_resamples=800, clusters=Clusters.of([n % 3 for n in range(40)]))
    assert few is not None and few.intervals is None


def test_repetition_is_the_share_of_repeated_word_ngrams() -> None:
    # a b a b a b: 4-grams abab, baba, abab: 2 of 3 are unique
    assert repetition(["a b a b a b"]) == pytest.approx(1 / 3)
    assert repetition(["a b a b a b", "all of these words differ"]) == pytest.approx(1 / 6)
    assert repetition(["a a a"], n=1) == pytest.approx(2 / 3)


def test_texts_shorter_than_an_ngram_repeat_nothing() -> None:
    assert repetition(["a a a", ""]) == 0
    assert repetition([]) == 0
