"""What a verdict was reached on, to be read: RUN/verdicts/001.answers.jsonl beside 001.json, a line for each prompt."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from alignkit.errors import RunStopped
from alignkit.scoring.judge import Item, Scored
from alignkit.storage import write_atomically
from alignkit.tracking import split_lines

if TYPE_CHECKING:
    from alignkit.judging.rounds import Judged

_logger = logging.getLogger(__name__)


class JudgedAnswers(BaseModel):
    """Both models' answers to one prompt.

    Args:
        prompt: the conversation as text.
        outcome: 1 a win, 0.5 a tie, 0 a loss; None where a score is missing.
        our_tokens, their_tokens: end token included.
    """

    model_config = ConfigDict(strict=True, frozen=True)

    id: str
    prompt: str
    ours: str
    theirs: str
    outcome: float | None
    our_score: float | None
    their_score: float | None
    our_tokens: int
    their_tokens: int
    reference: str | None = None

    @property
    def result(self) -> str:
        """The outcome in words."""
        if self.outcome is None:
            return "no score"
        return "a win" if self.outcome > 0.5 else "a loss" if self.outcome < 0.5 else "a tie"


def judged_answers(judged: Judged) -> list[JudgedAnswers]:
    """The answers that were judged, in the order of the prompts."""
    scored = judged.scored
    return [
        JudgedAnswers(
            id=a.row.id,
            prompt="\n\n".join(f"{role}: {text}" for role, text in Item(a.row.prompt, "").turns),
            ours=a.text,
            theirs=b.text,
            outcome=None if math.isnan(outcome) else outcome,
            our_score=_value(ours),
            their_score=_value(theirs),
            our_tokens=a.num_tokens,
            their_tokens=b.num_tokens,
            reference=a.row.reference,
        )
        for a, b, ours, theirs, outcome in zip(
            judged.ours.answers,
            judged.theirs.answers,
            scored.ours,
            scored.theirs,
            judged.outcome_P.tolist(),
            strict=True,
        )
    ]


def examples_of(answers: Sequence[JudgedAnswers]) -> list[tuple[str, JudgedAnswers]]:
    """Choose what to read first: a win, a loss, and the pair whose lengths are the most unequal, whoever won.

    Win and loss are the middle ones by the difference of scores, neither the clearest nor the closest. Unequal is the
    factor between the numbers of tokens. What there is none of is left out.
    """
    chosen: list[tuple[str, JudgedAnswers]] = []
    for name in ("a win", "a loss"):
        found = sorted((one for one in answers if one.result == name), key=_apart)
        chosen += [(name, found[len(found) // 2])] if found else []
    rest = [one for one in answers if all(one is not other for _, other in chosen)]
    if rest:
        widest = max(rest, key=lambda one: abs(math.log((one.our_tokens + 1) / (one.their_tokens + 1))))
        chosen.append((f"the most unequal lengths, {widest.result}", widest))
    return chosen


def keep_answers(verdict_file: Path, answers: Sequence[JudgedAnswers]) -> None:
    """Write them beside their verdict; a warning where the folder cannot be written."""
    text = "".join(answer.model_dump_json() + "\n" for answer in answers)
    try:
        write_atomically(_beside(verdict_file), text, private=True)
    except RunStopped as error:
        _logger.warning("the judged answers were not kept: %s", error)


def read_answers(verdict_file: Path) -> list[JudgedAnswers]:
    """What stands beside a verdict; [] where nothing does. A damaged line is skipped with a warning."""
    file = _beside(verdict_file)
    try:
        lines = split_lines(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        _logger.warning("%s: cannot be read (%s); the report has no answers", file, error)
        return []
    answers = []
    for number, line in enumerate(lines, start=1):
        try:
            answers.append(JudgedAnswers.model_validate_json(line))
        except ValidationError:
            _logger.warning("%s, line %d: no judged answer of this alignkit; skipped", file, number)
    return answers


def _beside(verdict_file: Path) -> Path:
    return verdict_file.with_name(f"{verdict_file.stem}.answers.jsonl")


def _apart(answers: JudgedAnswers) -> float:
    """How far the scores are apart; 0 where a judge of pairs gives none."""
    ours, theirs = answers.our_score, answers.their_score
    return 0.0 if ours is None or theirs is None else abs(ours - theirs)


def _value(score: object) -> float | None:
    return score.value if isinstance(score, Scored) and math.isfinite(score.value) else None
