"""What a metric of judging is: a name, a number per answer, and how it is shown.

A metric is measured for both models of a verdict and for the one of `alignkit evaluate`. It then stands in
`judge --json` and in RUN/verdicts (`ours.NAME`, `theirs.NAME`), in the printed table, and in the report. Where it has a
number per answer, the paired difference of the two models stands beside it with its 95 % interval over prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import numpy as np

    from alignkit.judging.answers import Answers


class Metric:
    """One figure of a model's answers. A subclass sets `name` and `label` and defines `values` or `figure`."""

    name: ClassVar[str]
    """Its key in `judge --json` and in a run's verdicts."""
    label: ClassVar[str]
    """How tables call it, with its unit: "mean length, tokens"."""
    scale: ClassVar[float] = 1.0
    """What is shown is the figure times this: 100 for a share that is shown in percent."""
    digits: ClassVar[int] = 1
    """Shown after the decimal point."""
    more_is_better: ClassVar[bool | None] = None
    """Which end is the better one. Where it is named, a model whose interval lies on the other side is marked."""
    in_table: ClassVar[bool] = True
    """Whether the figure stands in the table of both models, or the difference of the values alone is shown."""

    def values(self, answers: Answers) -> Sequence[float] | np.ndarray | None:
        """Return one number per answer, in their order, nan where an answer has none; or None: there are no such."""
        return None

    def figure(self, answers: Answers) -> Any:
        """Return the number of all answers together, or None; here the mean of the values that are there."""
        import numpy as np

        values_P = self.values(answers)
        known_P = np.asarray([] if values_P is None else values_P, dtype=np.float64)
        known_P = known_P[~np.isnan(known_P)]
        return float(known_P.mean()) if len(known_P) else None

    def rows(self, figure: Any) -> list[tuple[str, str]]:
        """Return a figure, or None, as lines of a table: (label, text)."""
        return [(self.label, "-" if figure is None else f"{self.scale * figure:.{self.digits}f}")]

    def pair(self, ours: Answers, theirs: Answers | None, *, seed: int) -> tuple[np.ndarray, np.ndarray | None] | None:
        """Return what is compared, float64 [P] of each side; here the values. None: nothing is.

        Override it where the unit is no single prompt, or where one side's number depends on the other side.
        """
        import numpy as np

        ours_P = self.values(ours)
        if ours_P is None:
            return None
        theirs_P = None if theirs is None else np.asarray(self.values(theirs), dtype=np.float64)
        return np.asarray(ours_P, dtype=np.float64), theirs_P

    def recurring(self, answers: Answers) -> Sequence[str]:
        """Return the texts behind the number, shown under it; here none."""
        return ()
