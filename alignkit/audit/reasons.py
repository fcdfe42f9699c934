"""Why a pair is suspected, in words: the two or three things that speak most against its label."""

from __future__ import annotations

import numpy as np

from alignkit.audit.surface import COLUMNS, COVERED, FEATURES, SHARED, TAKEN

_SHOWN = 2
_WORTH = 0.15  # of all that speaks against the label
_NAMES = {"repeats": "repeated words", "hedges": "hedges", "apologies": "apologies", "refusals": "phrases of refusal"}
_OVERLAPS = {
    COVERED: "how much of the prompt's words it takes up",
    TAKEN: "how much of it is the prompt's words",
    SHARED: "how many of the prompt's words it takes up",
}
_LENGTHS = ("characters", "words", "distinct_words", "sentences", "lines", "paragraphs")


def reason(counts_2M: np.ndarray, surface_K: np.ndarray, views_V: np.ndarray) -> str:
    """Say what speaks against one pair's label.

    Args:
        counts_2M: int32 [2, M], `surface.COLUMNS` of the chosen and the rejected answer.
        surface_K: float32 [K], what each of `surface.FEATURES` adds for the label.
        views_V: what each view adds for the label: looks, words, the prompt's other pairs, embeddings.
    """
    against = -np.minimum(views_V, 0)
    said = []
    for view in np.argsort(-against, kind="stable"):
        if against[view] <= 0 or against[view] < _WORTH * against.sum():
            break
        if view == 0:
            said.append(_looks(counts_2M, surface_K))
        elif view == 1:
            said.append("the chosen answer's words are rather those of answers that are rejected elsewhere")
        elif view == 2:
            said.append("in other pairs of this prompt the rejected answer wins and the chosen one loses")
        else:
            said.append(
                "the mean of the chosen answer's embeddings is rather that of answers that are rejected elsewhere"
            )
    return "; ".join(said) or "nothing in particular speaks against it"


def _looks(counts_2M: np.ndarray, surface_K: np.ndarray) -> str:
    """The measures that weigh most; all lengths count as one."""
    groups = {name: name for name in COLUMNS} | dict.fromkeys(_LENGTHS, "characters")
    weights: dict[str, float] = {}
    for added, name in zip(surface_K.tolist(), FEATURES, strict=True):
        key = name if name in _OVERLAPS else groups[name.partition(" ")[2]]
        weights[key] = weights.get(key, 0.0) + added
    worst = sorted((name for name in weights if weights[name] < 0), key=lambda name: weights[name])[:_SHOWN]
    seen = "; ".join(_phrase(name, counts_2M) for name in worst)
    return f"the chosen answer looks like answers that are rejected elsewhere ({seen})"


def _phrase(name: str, counts_2M: np.ndarray) -> str:
    if name in _OVERLAPS:
        return _OVERLAPS[name]
    chosen, rejected = counts_2M[:, COLUMNS.index(name)].tolist()
    if name == "ends":
        return "it ends whole" if chosen else "its end is cut off"
    return f"{_NAMES.get(name, name.replace('_', ' '))}: {chosen:,} against {rejected:,}"
