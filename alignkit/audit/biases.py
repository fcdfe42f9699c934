"""What the preferences of a set follow: which kind of answer is chosen, and what a model would learn of length.

Every share is one of pairs, with a 95 % interval over prompts (`intervals.wilson_over`). Of a feature, pairs whose
answers have equally much of it are left out and counted.

The length lesson is what DPO's own optimum would do if it saw nothing but length. Of two answers to a prompt the
longer one is chosen with log-odds w (log length - log length'), which is a reward r = w log(length) (Bradley and Terry
1952); DPO's optimum under it is pi(y) ~ pi_ref(y) exp(r / beta) (Rafailov et al. 2023, Eq. 4), which is
pi_ref(y) length^(w / beta). Where the log-lengths of a prompt's answers are normally distributed with variance s^2, the
optimum moves them by w s^2 / beta, so that lengths are multiplied by

    exp(w s^2 / beta)              s^2: half the variance of log length - log length' between the answers of a pair

No training reaches the optimum, and no model writes longer than it can: the length is cut at the set's 99 % quantile.
Shape letters: P pairs.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from alignkit.audit.cross_fit import scores_by_other_sources
from alignkit.audit.findings import Bias, Explained, LengthLesson, Share, Ties
from alignkit.audit.pairs import PairSet
from alignkit.audit.surface import COLUMNS, COVERED, ENDS, FEATURES, MIN_PAIRS, REPEATS, Compared
from alignkit.statistics.intervals import wilson_over
from alignkit.statistics.logistic import fit_ridge
from alignkit.statistics.resampling import Clusters

BETA = 0.1  # DPO's own default here
TINY = 0.1  # of the median difference between scores
_FORMATTING = ("list_items", "headings", "table_rows", "code_blocks", "bold_spans", "inline_code")
_RATIO = 3.0  # standard deviations of log-lengths' differences; beyond them one is no answer
_BIASES = {
    "longer": ("characters",),
    "more formatted": _FORMATTING,
    "more hedging": ("hedges",),
    "more list items": ("list_items",),
    "more headings": ("headings",),
    "more bold": ("bold_spans",),
    "more code": ("code_blocks", "inline_code"),
    "more numbers": ("digits",),
    "more questions": ("question_marks",),
    "more exclamation marks": ("exclamation_marks",),
    "more emoji": ("emoji",),
    "more links": ("links",),
    "more apologetic": ("apologies",),
    "refusing more": ("refusals",),
    "repeating itself more": (REPEATS,),
    "ending whole where the other is cut off": (ENDS,),
}
"""What is said of an answer, and the sum of which measures it is."""
_OVERLAP = "taking up more of the prompt's words"


def biases(compared: Compared) -> tuple[Bias, ...]:
    """Say how often the answer with more of each feature is chosen, over all sources first."""
    found = []
    for source, of_P in _parts(compared):
        counts_P2M = compared.counts_P2M[of_P]
        for feature, columns in _BIASES.items():
            sums_P2 = counts_P2M[:, :, [COLUMNS.index(name) for name in columns]].sum(2, dtype=np.int64)
            found.append(_bias(source, feature, sums_P2[:, 0] - sums_P2[:, 1], compared.prompts, of_P))
        found.append(_bias(source, _OVERLAP, compared.x_PK[of_P, FEATURES.index(COVERED)], compared.prompts, of_P))
    return tuple(bias for bias in found if bias is not None)


def explained(compared: Compared, score_P: np.ndarray) -> tuple[Explained, ...]:
    """Say how well scores of answers' looks tell which one is chosen.

    Args:
        score_P: cross-fitted log-odds, float64 [P] (`cross_fit.dense_parts`).
    """
    by_others_P = scores_by_other_sources(compared.x_PK, compared.source_P)
    found = []
    for source, of_P in _parts(compared):
        prompts = compared.prompts.where(of_P)
        is_enough = min(of_P.sum(), (~of_P).sum()) >= MIN_PAIRS  # so that all pairs together have no others
        found.append(
            Explained(
                source=source,
                accuracy=_accuracy(score_P[of_P], prompts),
                log_loss=float(np.logaddexp(0, -score_P[of_P]).mean()),
                by_others=_accuracy(by_others_P[of_P], prompts) if by_others_P is not None and is_enough else None,
            )
        )
    return tuple(found)


def length_lessons(compared: Compared, length_P2: np.ndarray, *, counted_by: str) -> tuple[LengthLesson, ...]:
    """Say what DPO's optimum would write if length were all that it saw.

    Args:
        length_P2: of the chosen and the rejected answer, in tokens, above 0.
        counted_by: what counted them, in words.
    """
    found = []
    for source, of_P in _parts(compared):
        lengths = length_P2[of_P].astype(np.float64)
        ratio_P = np.log(lengths[:, 0]) - np.log(lengths[:, 1])
        differs_P = ratio_P != 0
        if not differs_P.any():
            continue
        spread = float(np.quantile(np.abs(ratio_P), 0.6827))  # one standard deviation, whatever the tails are
        clipped_P = np.clip(ratio_P, -_RATIO * spread, _RATIO * spread)
        slope = float(fit_ridge(clipped_P[:, None], np.ones(len(clipped_P)), ridge=1.0)[0])
        mean = float(lengths.mean())
        longest = max(mean, float(np.quantile(lengths, 0.99)))
        grown = min(mean * float(np.exp(min(slope * spread**2 / 2 / BETA, 50))), longest)
        of_those = np.flatnonzero(of_P)[differs_P]
        longer = share((ratio_P[differs_P] > 0).astype(np.float64), _of(compared.prompts, of_those))
        found.append(
            LengthLesson(
                source=source,
                longer_chosen=longer,
                tokens=grown - mean,
                mean_tokens=mean,
                beta=BETA,
                counted_by=counted_by,
            )
        )
    return tuple(found)


def ties(pairs: PairSet) -> tuple[Ties, ...]:
    """Count pairs whose scores say that neither answer is better, hardly, or the other one."""
    names = np.array(pairs.sources, dtype=object)
    chosen_less_rejected_P = pairs.scores_P2[:, 0] - pairs.scores_P2[:, 1]
    is_scored_P = pairs.is_pair_P & ~np.isnan(chosen_less_rejected_P)
    found = []
    common = sorted(set(names[pairs.is_pair_P & (is_scored_P | pairs.is_tie_P)].tolist()))
    for source in [None, *common] if len(set(pairs.sources)) > 1 else [None]:
        of_P = np.ones(len(pairs), bool) if source is None else names == source
        margins = np.abs(chosen_less_rejected_P[of_P & is_scored_P])
        tiny = float(TINY * np.median(margins[margins > 0])) if (margins > 0).any() else None
        found.append(
            Ties(
                source=source,
                scored=len(margins),
                ties=int((of_P & pairs.is_pair_P & pairs.is_tie_P).sum()),
                tiny=0 if tiny is None else int(((margins > 0) & (margins <= tiny)).sum()),
                tiny_margin=tiny,
                reversed=int((chosen_less_rejected_P[of_P & is_scored_P] < 0).sum()),
                unequal=int((margins > 0).sum()),
            )
        )
    return tuple(found)


def share(outcome_P: np.ndarray, prompts: Clusters) -> Share:
    """Mean of outcomes from 0 to 1 with its interval over prompts."""
    low, high = wilson_over(outcome_P, prompts)
    return Share(share=float(outcome_P.mean()), low=low, high=high, num=len(outcome_P))


def _accuracy(score_P: np.ndarray, prompts: Clusters) -> Share:
    """How often the chosen answer has the better score; half of a pair without a difference."""
    return share(0.5 + 0.5 * np.sign(score_P), prompts)


def _bias(source: str | None, feature: str, more_P: np.ndarray, prompts: Clusters, of_P: np.ndarray) -> Bias | None:
    differs_P = more_P != 0
    if not differs_P.any():
        return None
    found = share((more_P[differs_P] > 0).astype(np.float64), _of(prompts, np.flatnonzero(of_P)[differs_P]))
    return Bias(source=source, feature=feature, chosen=found, equal=int((~differs_P).sum()))


def _of(prompts: Clusters, numbers: np.ndarray) -> Clusters:
    return Clusters.of(prompts.number_P[numbers].tolist())


def _parts(compared: Compared) -> Iterator[tuple[str | None, np.ndarray]]:
    """All pairs, and where there are several sources, those of each: a name and bool [P]."""
    if len(compared):
        yield None, np.ones(len(compared), bool)
    if len(compared.sources) > 1:
        for number, source in enumerate(compared.sources):
            yield source, compared.source_P == number
