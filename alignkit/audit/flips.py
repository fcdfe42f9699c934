"""Pairs whose answers probably stand the wrong way round, ranked, with the precision to expect.

Three views of a pair say which answer is the better one, each without a look at the pair's own label: what the answers
look like and which words they use (cross_fit.py, fitted to other prompts), and how the same two answers fare in other
pairs of the prompt: net wins of the chosen one less net wins of the rejected one. Where the policy is named, its mean
embeddings of the answers are a fourth, fitted like the first. noisy_labels.py weighs the views in each source and fits
the share of flipped labels with them: where the views are surest, labels still disagree with them in that share. Weak
views leave it open; it is then what the prior says, one pair in ten.
The expected precision of a list is the mean of its probabilities; its interval is what the share's interval leaves.
Whoever cannot tell a flip from an odd preference gets both: a pair is listed since nearly all others say the opposite.
Shape letters: P pairs, V views.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from alignkit.audit.cross_fit import dense_parts, fold_of, sparse_scores
from alignkit.audit.findings import Expected, FlippedPair, Flips
from alignkit.audit.noisy_labels import NoisyLabels, Views
from alignkit.audit.pairs import PairSet
from alignkit.audit.reasons import reason
from alignkit.audit.surface import Compared, scaled

MIN_PAIRS = 100  # fewer teach no model
LIKELY = 0.5
VIEWS = ("what the answers look like", "their words", "the prompt's other pairs", "their embeddings")
_SHOWN = 160  # characters of a prompt or an answer
_LISTED = 0.1  # of all pairs
_SHARES = (0.01, 0.02, 0.05, 0.1)
_KNOWN = 0.15  # width of the interval of a rate that can be told


@dataclass(frozen=True)
class Suspicion:
    """What is known of each pair's label.

    Args:
        surface_PK: float32 [P, K], what each feature of `surface.FEATURES` adds to the first view.
        views: `VIEWS` of each pair; the last one is not there without embeddings.
        labels: what they say of the labels.
    """

    surface_PK: np.ndarray
    views: Views
    labels: NoisyLabels

    @property
    def probability_P(self) -> np.ndarray:
        """Probability that the pair is flipped, float64 [P]."""
        return self.labels.flipped_P

    @property
    def order_P(self) -> np.ndarray:
        """Pairs, the likeliest flips first; equal ones as they stand in the file."""
        order_P: np.ndarray = np.argsort(-self.probability_P, kind="stable")
        return order_P


def suspect(compared: Compared) -> Suspicion | None:
    """Compute each pair's probability to be flipped; None below 100 pairs."""
    if len(compared) < MIN_PAIRS:
        return None
    fold_P = fold_of(compared.prompts)
    surface_PK = dense_parts(compared.x_PK, compared.source_P, fold_P)
    views = [
        surface_PK.sum(1, dtype=np.float64),
        sparse_scores(compared.grams_PB, compared.source_P, fold_P),
        net_wins(compared.answer_P2),
    ]
    if compared.means_PE is not None:
        means_PE = scaled(compared.means_PE)
        views.append(dense_parts(means_PE, compared.source_P, fold_P).sum(1, dtype=np.float64))
    seen = Views(np.stack(views, axis=1), compared.source_P)
    return Suspicion(surface_PK, seen, seen.fit())


def flips(pairs: PairSet, compared: Compared, suspicion: Suspicion) -> Flips:
    """Rank the pairs and say why each stands where it does."""
    order_P = suspicion.order_P
    ranked = suspicion.probability_P[order_P]
    least, most = suspicion.views.interval(suspicion.labels)
    counts = [max(1, round(share * len(compared))) for share in _SHARES]
    likely = int((ranked > LIKELY).sum())
    first = max(1, round(_LISTED * len(compared)))
    return Flips(
        pairs=len(compared),
        views=VIEWS[: suspicion.labels.added_PV.shape[1]],
        estimated_rate=suspicion.labels.rate if most.rate - least.rate <= _KNOWN else None,
        rate_interval=(least.rate, most.rate),
        expected_precision=float(ranked[:first].mean()),
        expected=tuple(
            Expected(
                pairs=count,
                precision=float(ranked[:count].mean()),
                interval=(first_ones(least, count), first_ones(most, count)),
            )
            for count in counts
        ),
        likely=likely,
        listed=tuple(flipped_pair(pairs, compared, suspicion, int(pair)) for pair in order_P[: max(first, likely)]),
    )


def first_ones(labels: NoisyLabels, count: int) -> float:
    """Mean probability of the likeliest flips."""
    return float(np.sort(labels.flipped_P)[-count:].mean())


def flipped_pair(pairs: PairSet, compared: Compared, suspicion: Suspicion, pair: int) -> FlippedPair:
    """Describe one of the pairs."""
    row = int(compared.rows[pair])
    return FlippedPair(
        id=pairs.ids[row],
        place=pairs.places[row],
        source=pairs.sources[row],
        probability=float(suspicion.probability_P[pair]),
        reason=reason(compared.counts_P2M[pair], suspicion.surface_PK[pair], suspicion.labels.added_PV[pair]),
        prompt=_beginning(pairs.prompts[row]),
        chosen=_beginning(pairs.chosen[row] or ""),
        rejected=_beginning(pairs.rejected[row] or ""),
    )


def _beginning(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def net_wins(answer_P2: np.ndarray) -> np.ndarray:
    """Net wins of the chosen answer in other pairs less those of the rejected one, float64 [P]; 0 where there are none.

    Args:
        answer_P2: int64 [P, 2], the number of the chosen and of the rejected answer.
    """
    num = int(answer_P2.max(initial=-1)) + 1
    wins_A = np.bincount(answer_P2[:, 0], minlength=num) - np.bincount(answer_P2[:, 1], minlength=num)
    difference_P: np.ndarray = wins_A[answer_P2[:, 0]] - wins_A[answer_P2[:, 1]] - 2.0  # without the pair itself
    return difference_P
