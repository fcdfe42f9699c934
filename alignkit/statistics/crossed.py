"""Means over training seeds and prompts at once: what both put in the error of a mean, and of a difference of two.

Every seed's run answers every prompt, so that seeds and prompts are crossed. For one entrant, or the difference of two,

    y_sp = m + a_s + b_p + e_sp        a_s a run's effect, b_p a prompt's, e_sp what is left; prompts of a cluster alike

and the mean over S seeds and P prompts has the variance

    V = V_prompts + max(0, between - interaction) / S

    V_prompts    of the mean over seeds of each prompt's outcome, over clusters: b_p / P and e_sp / (S P)
    between      variance of the S runs' means: a_s and e_sp / P
    interaction  of the residuals y_sp - y_s. - y_.p + y_.., over clusters and per run: e_sp / P alone

`between / S` alone would count e_sp twice, once with the prompts. This is the random two-way layout's variance of a
mean (MS_seeds + MS_prompts - MS_residual) / (S P) (Searle, Casella and McCulloch 1992, Variance Components, ch. 4.5;
the same inclusion and exclusion as Cameron, Gelbach and Miller 2011 for two-way clusters), with sums over clusters in
place of prompts. V_prompts keeps the correction for few or unequal clusters of resampling.py.

Two or three seeds know their variance badly. `between` and `interaction` are pooled over the means of one kind, as in
an analysis of variance: over entrants, and over pairs of entrants that are alike in what they share. The degrees of
freedom are Satterthwaite's (1946),

    freedom = V^2 / (V_prompts^2 / (G_eff - 1) + (between / S)^2 / f + (interaction / S)^2 / (f (G_eff - 1)))

with f of the pooled variance of contrasts C [K, E] of entrants whose runs of one seed have the correlation rho:

    f = (S - 1) tr(M)^2 / tr(M M)      M = C ((1 - rho) I + rho 1 1') C'

which is E (S - 1) for E entrants that share nothing, S - 1 where one seed moves all alike, and (E - 1) (S - 1) for all
differences of E entrants, the residual's of entrants by seeds. Seeds are never resampled: a bootstrap of three is too
narrow by a third.

Pooling takes the entrants' runs for equally noisy. An entrant whose variance is above the others' by an F test at 5 %
keeps its own, with S - 1 degrees of freedom (`is_noisier`).

Shape letters: S seeds, P prompts, G clusters, E entrants with several runs, K means; `...` any leading shape.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import f as f_distribution
from scipy.stats import t

from alignkit.statistics.resampling import CAUTION, FEW_CAUTION, Clusters, variance_over

NOISIER = 0.05  # level of the F test


@dataclass(frozen=True)
class Crossed:
    """Means and the parts of their variances, in squared units of the data; arrays [...].

    `between` and `interaction` are 0 with one seed, which says nothing of them. `prompts_freedom` are the degrees of
    freedom of `prompts`. `run_mean_S` [..., S] are the runs' own means.
    """

    mean: np.ndarray
    prompts: np.ndarray
    prompts_freedom: np.ndarray
    between: np.ndarray
    interaction: np.ndarray
    run_mean_S: np.ndarray


def crossed(y_SP: np.ndarray, units: Clusters, strata: Clusters | None = None) -> Crossed:
    """Take a mean's variance apart.

    Args:
        y_SP: float64 [..., S, P] without nan; outcomes, or differences of two entrants' with the same seed.
        units: prompts that are no independent evidence of each other; at least two.
        strata: sources that the mean speaks of alone, `units` are then within them.
    """
    num_seeds = y_SP.shape[-2]
    mean_P = y_SP.mean(-2)
    run_mean_S = y_SP.mean(-1)
    prompts, freedom = variance_over(mean_P, units, strata)
    between = interaction = np.zeros_like(prompts)
    if num_seeds > 1:
        between = run_mean_S.var(-1, ddof=1)
        residual, _ = variance_over(y_SP - mean_P[..., None, :], units, strata)
        interaction = residual.sum(-1) / (num_seeds - 1)
    return Crossed(mean_P.mean(-1), prompts, freedom, between, interaction, run_mean_S)


def seed_correlation(run_mean_ES: np.ndarray) -> np.ndarray:
    """How much one seed moves all entrants alike: mean covariance over mean variance, from 0 to 1; [...].

    Args:
        run_mean_ES: float64 [..., E, S].
    """
    num = run_mean_ES.shape[-2]
    if num < 2 or run_mean_ES.shape[-1] < 2:
        return np.zeros(run_mean_ES.shape[:-2])
    variance = run_mean_ES.var(-1, ddof=1).sum(-1)
    total = run_mean_ES.sum(-2).var(-1, ddof=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        rho = (total - variance) / ((num - 1) * variance)
    return np.clip(np.nan_to_num(rho), 0.0, 1.0)


def is_noisier(between_E: np.ndarray, num_seeds_E: np.ndarray) -> np.ndarray:
    """Which entrants' runs spread more than the others' by an F test at 5 %; bool [..., E].

    Args:
        num_seeds_E: int [E]; an entrant with one seed is not tested.
    """
    freedom_E = (num_seeds_E - 1).astype(float)
    others_E = freedom_E.sum() - freedom_E
    total = (between_E * freedom_E).sum(-1, keepdims=True)
    pool = (total - between_E * freedom_E) / np.maximum(others_E, 1)
    tested_E = (freedom_E >= 1) & (others_E >= 1)
    bound_E = f_distribution.isf(NOISIER, np.maximum(freedom_E, 1), np.maximum(others_E, 1))
    result: np.ndarray = tested_E & (between_E > bound_E * pool)
    return result


def pooled_freedom(contrast_KE: np.ndarray, rho: np.ndarray | float) -> np.ndarray:
    """Degrees of freedom for each one of S - 1 of a variance pooled over contrasts; [...], as `rho`.

    >>> contrasts = np.array([[1.0, -1, 0], [1, 0, -1], [0, 1, -1]])
    >>> cases = ((contrasts, 0.5), (np.eye(3), 0.0), (np.eye(3), 1.0))
    >>> [round(float(pooled_freedom(c, rho)), 3) for c, rho in cases]
    [2.0, 3.0, 1.0]
    """
    product_KK = contrast_KE @ contrast_KE.T
    total_K = contrast_KE.sum(-1)
    rho = np.minimum(rho, 1 - 1e-6)[..., None, None]  # at 1 differences would have no variance to count
    m = (1 - rho) * product_KK + rho * np.outer(total_K, total_K)
    trace = np.trace(m, axis1=-2, axis2=-1)
    result: np.ndarray = trace**2 / np.maximum((m**2).sum((-2, -1)), 1e-300)
    return result


def errors(
    parts: Crossed,
    contrast_KE: np.ndarray,
    kind_K: np.ndarray,
    *,
    num_seeds_K: np.ndarray,
    rho: np.ndarray | float,
    noisier_E: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Variance of each mean with its degrees of freedom, the seeds' part pooled over means of one kind; [..., K] twice.

    Args:
        parts: of K means, its arrays [..., K].
        contrast_KE: which entrants a mean is of: 1 for its own, -1 for the other of a difference. Entrants without
            several runs have no column; a mean of such ones alone has a row of zeros and no seeds' part.
        kind_K: int [K]; means of one number are pooled.
        num_seeds_K: int [K], the seeds in each mean.
        rho: [...] from `seed_correlation`.
        noisier_E: bool [..., E] from `is_noisier`.
    """
    between, interaction = np.zeros_like(parts.between), np.zeros_like(parts.between)
    freedom = np.ones_like(parts.between)
    has_runs_K = (contrast_KE != 0).any(-1)
    for kind in np.unique(kind_K[has_runs_K]):
        members = np.flatnonzero((kind_K == kind) & has_runs_K)
        weight = np.maximum(num_seeds_K[members] - 1, 0).astype(float)
        known = members[weight > 0]
        if not len(known):
            continue  # one seed: nothing is known of its part
        weight = weight[weight > 0] / weight.sum()
        between[..., members] = (parts.between[..., known] * weight).sum(-1)[..., None]
        interaction[..., members] = (parts.interaction[..., known] * weight).sum(-1)[..., None]
        each = (num_seeds_K[known] - 1).mean()
        freedom[..., members] = each * pooled_freedom(contrast_KE[known], rho)[..., None]
    own_freedom = np.broadcast_to(np.maximum(num_seeds_K - 1, 1).astype(float), freedom.shape)
    own = (noisier_E.astype(float) @ np.abs(contrast_KE).T > 0) & (num_seeds_K > 1) & (parts.between > between)
    between = np.where(own, parts.between, between)
    interaction = np.where(own, parts.interaction, interaction)
    freedom = np.where(own, own_freedom, freedom)
    seeds = np.maximum(between - interaction, 0.0)
    variance = parts.prompts + seeds / num_seeds_K
    doubt = parts.prompts**2 / parts.prompts_freedom + (between / num_seeds_K) ** 2 / freedom
    doubt = doubt + (interaction / num_seeds_K) ** 2 / (freedom * parts.prompts_freedom)
    with np.errstate(invalid="ignore", divide="ignore"):
        total = np.where(doubt > 0, variance**2 / doubt, parts.prompts_freedom)
    return variance, np.maximum(total, 1.0)


def caution(units: Clusters) -> float:
    """What the nominal tails are multiplied by, as in the interval of one look (resampling.py)."""
    return FEW_CAUTION if units.are_few else CAUTION


def tails(mean: np.ndarray, variance: np.ndarray, freedom: np.ndarray, units: Clusters) -> np.ndarray:
    """Two-sided p-value of each mean against 0, with the interval's caution; 1 where it has no variance and is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(mean == 0, 0.0, np.abs(mean) / np.sqrt(variance))
    return np.minimum(2 * t.sf(ratio, freedom) / caution(units), 1.0)


def half_width(variance: np.ndarray, freedom: np.ndarray, units: Clusters, level: float | np.ndarray) -> np.ndarray:
    """Half of Student's interval at a two-sided level, in the unit of the data."""
    return -t.ppf(caution(units) * (1 - np.asarray(level)) / 2, freedom) * np.sqrt(variance)


def adjusted(p_K: np.ndarray, steps_K: np.ndarray) -> np.ndarray:
    """Family-wise p-values of a step-down: the j-th smallest times the j-th step, never falling; float64 [..., K].

    Args:
        steps_K: how many true hypotheses may be left at each step; K, K - 1, .. 1 is Holm's (1979).
    """
    order = np.argsort(p_K, axis=-1, kind="stable")
    stepped = np.maximum.accumulate(np.minimum(np.take_along_axis(p_K, order, -1) * steps_K, 1.0), axis=-1)
    result = np.empty_like(stepped)
    np.put_along_axis(result, order, stepped, -1)
    return result


def all_pairs_steps(num: int) -> np.ndarray:
    """Steps for all pairs of `num` entrants: how many of the pairs left can be equal at once; int [K].

    Once one pair differs, not all others can be equal: entrants fall into groups of equal ones, and the number of equal
    pairs is a sum of n_i (n_i - 1) / 2. Holm's steps are never smaller.
    Source: Shaffer 1986, JASA 81:826-831, procedure S1.

    >>> all_pairs_steps(4).tolist()
    [6, 3, 3, 3, 2, 1]
    """
    reach: list[set[int]] = [{0}]
    for n in range(1, num + 1):
        reach.append({size * (size - 1) // 2 + rest for size in range(1, n + 1) for rest in reach[n - size]})
    pairs = num * (num - 1) // 2
    return np.array([max(s for s in reach[num] if s <= left) for left in range(pairs, 0, -1)], dtype=np.int64)
