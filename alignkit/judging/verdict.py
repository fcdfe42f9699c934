"""A verdict: is this model better than that one, by which rule, with what other measurements.

The answer is the rule's (decision.py). Where a model's rate at equal length does not agree with it, the verdict adds it
("but not at equal length, as a model reads it"). verdict_text.py says it in words.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from alignkit.errors import RunStopped
from alignkit.judging import guards as guards_module
from alignkit.judging import people as people_module
from alignkit.judging.bleu import Bleu
from alignkit.judging.decision import Answer, decide, prompts_needed
from alignkit.judging.guards import Guard
from alignkit.judging.health import Measure
from alignkit.judging.length import LengthFacts, agrees
from alignkit.judging.people import People
from alignkit.statistics.win_rate import WinRate

if TYPE_CHECKING:
    from alignkit.charts.plots import NotebookFigure

AT_EQUAL_LENGTH = {"length_adjusted_win_rate": "length-adjusted", "length_controlled_win_rate": "length-controlled"}


def _none_if_nan(x: object) -> object:
    return None if isinstance(x, float) and math.isnan(x) else x


class JudgeName(BaseModel):
    """Which judge scored, and whether anyone can check its scores by a rule."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: str
    verifiable: bool
    said: str = Field("", description="in plain words, where name and version say less; empty where they do not")


Figure = Annotated[Bleu | float | None, BeforeValidator(_none_if_nan)]


def _check_kinds(side: dict[str, Any]) -> dict[str, Any]:
    if any(isinstance(figure, Bleu) != (name == "bleu") for name, figure in side.items() if figure is not None):
        raise ValueError("bleu is a record of three numbers, every other figure is one number")
    return side


Side = Annotated[dict[str, Figure], AfterValidator(_check_kinds)]
"""One model's figures by the metric's name (metrics.py); None where unmeasured, and nan becomes None."""


class JudgeNoise(BaseModel):
    """What the judge alone changes: the same answers scored again. Rates in percent, shares from 0 to 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_repeats: int = Field(description="scorings after the first")
    changed: float = Field(description="share of outcomes that differ from the first scoring's")
    lowest: float = Field(description="least win rate among all scorings, the first included")
    highest: float


class Here(BaseModel):
    """The verdict on the sources at hand alone, where these are too few to speak of others."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    answer: Answer
    win_rate: WinRate
    units: str


class Verdict(BaseModel):
    """Whether `run` is better than `vs`, and everything needed to doubt it. Rates in percent, `margin` in points."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str
    vs: str
    judge: JudgeName
    answer: Answer
    win_rate: WinRate
    margin: float = Field(ge=0, le=50, description="difference from 50 % that matters, in points")
    num_prompts_needed: int | None = Field(description="prompts that would settle it; None where it is, or none would")
    ours: Side
    theirs: Side
    caveats: tuple[str, ...] = Field(description="what weakens this verdict, a sentence each, what matters most first")
    prompts: str = Field(description="where the prompts came from")
    seed: int
    created: datetime
    length: LengthFacts | None = Field(
        None, description="None where lengths are unknown, or with fewer than two prompts"
    )
    look: int | None = Field(None, description="how many sets of answers of this pair were judged; None: not counted")
    pair: str | None = Field(None, description="the two models' weights, whichever was judged against the other")
    look_id: str | None = Field(None, description="hash of prompts, answers and judge: what makes a look at the pair")
    units: str = Field("prompts", description="what is resampled")
    only: str = Field("", description="what it speaks of alone, 'this one source'; empty where of others too")
    here: Here | None = Field(None, description="of these sources alone, where they are too few to speak of others")
    rounds: str | None = Field(None, description="after which round it was settled, and what that saved")
    noise: JudgeNoise | None = Field(None, description="the judge's own, where --rejudge measured it")
    health: tuple[Measure, ...] = Field((), description="text health, ours against theirs; percentages and counts")
    people: People | None = Field(None, description="what people voted on these answers, where somebody did")
    fingerprint: str | None = Field(None, description="of the judged prompts, by which runs that share them are found")
    guards: tuple[Guard, ...] = Field((), description="other prompts, where it must not be worse (guards.py)")

    @property
    def guards_pass(self) -> bool | None:
        """Whether every guard passes; None without any."""
        return guards_module.all_pass(self.guards)

    @property
    def is_not_worse(self) -> bool:
        """Whether the interval excludes a loss of more than the margin, and so does every guard."""
        rate = self.win_rate
        here = self.answer != "worse" and rate.has_interval and rate.low >= 50 - self.margin
        return here and self.guards_pass is not False

    @property
    def at_equal_length(self) -> bool | None:
        """Whether the rate at equal length agrees with better or worse; None where nothing is known of it."""
        return agrees(self.length, self.answer)

    def __str__(self) -> str:
        from alignkit.judging.verdict_text import lines

        return "\n".join(lines(self))

    def __repr__(self) -> str:
        from alignkit.judging.verdict_text import headline

        return f"<Verdict {headline(self)}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: the sentence, what weakens it, and the table; all the rest is what `print` shows."""
        from alignkit.judging.verdict_text import headline, table

        notes = "".join(f"<li>{html.escape(caveat)}</li>" for caveat in self.caveats)
        rows = [("", self.run, self.vs), *table(self)]
        cells = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
        return f"<p><b>{html.escape(headline(self))}</b></p><ul>{notes}</ul><table>{cells}</table>"

    def plot(self) -> NotebookFigure:
        """Draw the win rate with its interval, and the one at equal length where there is one, beside 50 %."""
        from alignkit.charts.curves import Whisker
        from alignkit.charts.plots import forest_figure

        rate, length = self.win_rate, self.length
        rows = []
        if rate.rate is not None:
            low, high = (rate.low, rate.high) if rate.has_interval else (None, None)
            rows.append(Whisker("win rate", rate.rate, low, high))
        if length is not None and length.rate is not None:
            name = f"{AT_EQUAL_LENGTH[length.estimator]} win rate"
            rows.append(Whisker(name, length.rate, length.low, length.high))
        return forest_figure(rows, line=50, title=f"{self.run}: % against {self.vs}")


class Unscored(RunStopped):
    """No prompt has a score on both sides: there is nothing to reach a verdict on. `verdict` says the rest."""

    def __init__(self, message: str, verdict: Verdict | None = None) -> None:
        super().__init__(message)
        self.verdict = verdict


def make_verdict(
    win_rate: WinRate,
    *,
    run: str,
    vs: str,
    judge: JudgeName,
    margin: float,
    ours: Side,
    theirs: Side,
    prompts: str,
    seed: int,
    caveats: Sequence[str] = (),
    length: LengthFacts | None = None,
    look: int | None = None,
    pair: str | None = None,
    look_id: str | None = None,
    units: str = "prompts",
    only: str = "",
    here: tuple[WinRate, str] | None = None,
    rounds: str | None = None,
    noise: JudgeNoise | None = None,
    health: Sequence[Measure] = (),
    people: People | None = None,
    fingerprint: str | None = None,
    guards: Sequence[Guard] = (),
) -> Verdict:
    """Apply the rule to a win rate and put the verdict together, dated now.

    Args:
        here: the rate of these sources alone, and what is resampled.
    """
    answer = decide(win_rate, margin=margin)
    needed = prompts_needed(win_rate, margin=margin, look=look) if answer == "not enough evidence" else None
    return Verdict(
        run=run,
        vs=vs,
        judge=judge,
        answer=answer,
        win_rate=win_rate,
        margin=margin,
        num_prompts_needed=needed,
        ours=ours,
        theirs=theirs,
        caveats=(*caveats, *(people_module.caveats(people) if people else ())),
        prompts=prompts,
        seed=seed,
        created=datetime.now(UTC).replace(microsecond=0),
        length=length,
        look=look,
        pair=pair,
        look_id=look_id,
        units=units,
        only=only,
        here=here and Here(answer=decide(here[0], margin=margin), win_rate=here[0], units=here[1]),
        rounds=rounds,
        noise=noise,
        health=tuple(health),
        people=people,
        fingerprint=fingerprint,
        guards=tuple(guards),
    )
