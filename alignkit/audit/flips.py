"""Pairs whose answers probably stand the wrong way round, ranked, with the precision to expect.

Three views of a pair say which answer is the better one, each without a look at the pair's own label: what the answers
look like and which words they use (cross_fit.py, fitted to other prompts), and how the same two answers fare in other
pairs of the prompt: net wins of the chosen one less net wins of the rejected one. Where the policy is named, its mean
embeddings of the answers are a fourth, fitted like the first. With l the sum of the views, weighted
by source, and e the share of pairs that are flipped,

    P(chosen answer is labelled so) = (1 - e) sigmoid(l) + e sigmoid(-l)
    P(flipped | l)                  = e sigmoid(-l) / [(1 - e) sigmoid(l) + e sigmoid(-l)]

The weights and e are fitted together: where the views are surest, labels still disagree with them in a share e.
Source: Bootkrajang and Kaban 2012, Label-noise robust logistic regression, whose two noise rates are one here, because
swapping the answers of every pair must change nothing. Weak views leave e open; it is then what the prior says, one
pair in ten, with the weight of 30 pairs whose labels were checked.
The expected precision of a list is the mean of its probabilities. Whoever cannot tell a flip from an odd preference
gets both: a pair is listed because nearly all others say the opposite.
Shape letters: P pairs, V views, S sources.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from alignkit.audit.cross_fit import dense_parts, fold_of, sparse_scores
from alignkit.audit.findings import Expected, FlippedPair, Flips
from alignkit.audit.pairs import PairSet
from alignkit.audit.reasons import reason
from alignkit.audit.surface import Compared, scaled
from alignkit.statistics.logistic import sigmoid

MIN_PAIRS = 100  # fewer teach no model
LIKELY = 0.5
VIEWS = ("what the answers look like", "their words", "the prompt's other pairs", "their embeddings")
_SHOWN = 160  # characters of a prompt or an answer
_LISTED = 0.1  # of all pairs
_SHARES = (0.01, 0.02, 0.05, 0.1)
_PRIOR = (3.0, 27.0)  # a Beta distribution's of e
_SHARED, _OWN = 0.1, 2.0  # ridge of the views' weights, and of each source's difference from them


@dataclass(frozen=True)
class Suspicion:
    """What is known of each pair's label.

    Args:
        surface_PK: float32 [P, K], what each feature of `surface.FEATURES` adds to the first view.
        views_PV: float64 [P, V], what each of `VIEWS` adds to l; the last one is not there without embeddings.
        probability_P: that the pair is flipped.
        rate: e.
        weight: how many checked labels would say as much about e as the views do.
    """

    surface_PK: np.ndarray
    views_PV: np.ndarray
    probability_P: np.ndarray
    rate: float
    weight: float

    @property
    def knows_rate(self) -> bool:
        """Whether the views say more about e than the prior does."""
        return self.weight >= sum(_PRIOR)

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
    views_PV = np.stack(views, axis=1)
    weight_PV, rate = _combine(views_PV, compared.source_P)
    added_PV = weight_PV * views_PV
    agrees_P = sigmoid(added_PV.sum(1))
    labelled_so_P = (1 - rate) * agrees_P + rate * (1 - agrees_P)
    probability_P = rate * (1 - agrees_P) / labelled_so_P
    # Fisher's information on e, in units of what one label that somebody checked says of it
    known_P = (2 * agrees_P - 1) ** 2 / np.maximum(labelled_so_P * (1 - labelled_so_P), 1e-12)
    weight = float(rate * (1 - rate) * known_P.sum())
    return Suspicion(surface_PK, added_PV, probability_P, rate, weight)


def flips(pairs: PairSet, compared: Compared, suspicion: Suspicion) -> Flips:
    """Rank the pairs and say why each stands where it does."""
    order_P = suspicion.order_P
    ranked = suspicion.probability_P[order_P]
    counts = [max(1, round(share * len(compared))) for share in _SHARES]
    likely = int((ranked > LIKELY).sum())
    first = max(1, round(_LISTED * len(compared)))
    return Flips(
        pairs=len(compared),
        views=VIEWS[: suspicion.views_PV.shape[1]],
        estimated_rate=suspicion.rate if suspicion.knows_rate else None,
        expected_precision=float(ranked[:first].mean()),
        expected=tuple(Expected(pairs=count, precision=float(ranked[:count].mean())) for count in counts),
        likely=likely,
        listed=tuple(flipped_pair(pairs, compared, suspicion, int(pair)) for pair in order_P[: max(first, likely)]),
    )


def flipped_pair(pairs: PairSet, compared: Compared, suspicion: Suspicion, pair: int) -> FlippedPair:
    """Describe one of the pairs."""
    row = int(compared.rows[pair])
    return FlippedPair(
        id=pairs.ids[row],
        place=pairs.places[row],
        source=pairs.sources[row],
        probability=float(suspicion.probability_P[pair]),
        reason=reason(compared.counts_P2M[pair], suspicion.surface_PK[pair], suspicion.views_PV[pair]),
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


def _combine(views_PV: np.ndarray, source_P: np.ndarray) -> tuple[np.ndarray, float]:
    """Fit the views' weights in each source, none below 0, and the rate of flips; float64 [P, V] and e."""
    num_known_V = np.maximum((views_PV != 0).sum(0), 1)
    scale_V = np.sqrt((views_PV**2).sum(0) / num_known_V)
    scale_V[scale_V == 0] = 1
    x_PV = views_PV / scale_V
    num_sources, num_views = int(source_P.max()) + 1, x_PV.shape[1]
    for_flips, against = _PRIOR

    def objective(at: np.ndarray) -> tuple[float, np.ndarray]:
        """Negative log-posterior of the weights, of their middle, and of e = sigmoid(at[-1]) / 2, with its gradient."""
        middle_V, half = at[:num_views], sigmoid(at[-1:])[0]
        weight_SV = at[num_views:-1].reshape(num_sources, num_views)
        e = max(0.5 * half, 1e-12)
        q_P = sigmoid((x_PV * weight_SV[source_P]).sum(1))
        agree_P = np.maximum((1 - e) * q_P + e * (1 - q_P), 1e-12)
        by_logit_P = (1 - 2 * e) * q_P * (1 - q_P) / agree_P
        by_rate = float(((1 - 2 * q_P) / agree_P).sum()) + for_flips / e - against / (1 - e)
        apart_SV = weight_SV - middle_V
        value = -np.log(agree_P).sum() - for_flips * np.log(e) - against * np.log(1 - e)
        value += 0.5 * _SHARED * (middle_V**2).sum() + 0.5 * _OWN * (apart_SV**2).sum()
        added_PV = x_PV * by_logit_P[:, None]
        by_weight_SV = np.stack([np.bincount(source_P, column, minlength=num_sources) for column in added_PV.T], axis=1)
        slope = (
            _SHARED * middle_V - _OWN * apart_SV.sum(0),
            (_OWN * apart_SV - by_weight_SV).ravel(),
            [-by_rate * 0.5 * half * (1 - half)],
        )
        return float(value), np.concatenate(slope)

    begin = np.append(np.full((num_sources + 1) * num_views, 0.5), -1.5)
    bounds = [(0, None)] * (len(begin) - 1) + [(None, None)]  # a view that seems to mislead has seen chance alone
    found = minimize(objective, begin, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 500})
    weight_SV = found.x[num_views:-1].reshape(num_sources, num_views)
    return weight_SV[source_P] / scale_V, float(0.5 * sigmoid(found.x[-1:])[0])
