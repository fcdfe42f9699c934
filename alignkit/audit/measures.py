"""What answers look like, in numbers: lengths, formatting, punctuation, and how often they hedge or apologise.

The counting is done in rust_ext/core/src/measures.rs, the phrases are those of `phrases`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from alignkit._native import TEXT_MEASURES, count_phrases
from alignkit._native import text_measures as count_surface
from alignkit.audit.phrases import APOLOGIES, HEDGES, REFUSALS

MEASURES = (*TEXT_MEASURES, "hedges", "apologies", "refusals")
"""The columns of `text_measures`, in order."""

REFUSAL_WORDS = 40
"""An answer refuses in its beginning: phrases that begin later are part of what it tells."""

_ANYWHERE = 2**62


def text_measures(texts: Sequence[str]) -> NDArray[np.int32]:
    """Count what the surface of each text shows.

    Returns:
        int32 [texts, measures], the columns of `MEASURES`; `refusals` counts phrases that begin in the first 40 words
        only, a letter of a script without spaces being a word.
    """
    said = count_phrases(texts, (HEDGES, APOLOGIES), _ANYWHERE)
    refused = count_phrases(texts, (REFUSALS,), REFUSAL_WORDS)
    return np.concatenate((count_surface(texts), said, refused), axis=1)
