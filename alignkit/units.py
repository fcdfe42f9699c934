"""Units of training: which answers of a row a method trains on, and which rows it cannot use.

`Method.trains_on` is an instance of one of these. A new unit is one class: what reads rows, packs trees, plans
memory and runs steps asks it, and compares no names. Nothing heavy is imported here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from alignkit.display import is_blank

if TYPE_CHECKING:
    from alignkit.data.reading.rows import Messages, Row

TIE = "tie: equal scores"
SAID_TIE = "tie: the row says so"
TIES = frozenset({TIE, SAID_TIE})
SMALL_MARGIN = "small margin: scores differ by less than --min-margin"
MARKED_BAD = "marked bad"
NO_BAD_ONE = "marked good, no bad answer to the same prompt is left to pair it with"
NO_GOOD_ONE = "marked bad, no good answer to the same prompt is left to pair it with"
Ties = Literal["drop", "keep", "half"]


class Unit(ABC):
    """What a method trains on of a row. Stateless but for its own options; `repr` must show them."""

    completions: ClassVar[tuple[str, ...]]
    """The names of each row's completions, in the order of the batch: `data lengths` counts tokens under them."""
    is_sampled: ClassVar[bool] = False
    """The policy draws the completions and they are rewarded: rows give the prompt alone."""
    compares: ClassVar[bool] = False
    """The completions of a row are compared: ties teach nothing, and rows whose scores say the opposite are counted."""
    may_score_all_turns: ClassVar[bool] = False
    """A conversation may be trained on as one text, every turn of the assistant scored (--train-on)."""
    left_out: ClassVar[frozenset[str]] = frozenset()
    """Reasons of `unusable_reason` that are no fault of a row: such rows are counted apart from the skipped ones."""

    @abstractmethod
    def answers(self, row: Row) -> tuple[Messages, ...]:
        """Return the messages of each completion of a usable row, one for each name in `completions`."""

    @abstractmethod
    def unusable_reason(self, row: Row) -> str | None:
        """Say why a well-formed row with a prompt cannot be trained on, in a few words; None where it can."""

    def labels(self, row: Row) -> tuple[float, ...]:
        """Return a number for each completion of a row, for `Batch.label_N`; () where the unit has none."""
        return ()

    def lacks_scores(self, row: Row) -> bool:
        """Whether a row is trained on although it has no scores that an option of the unit reads: these are counted."""
        return False

    def rows(self, row: Row) -> tuple[Row, ...]:
        """Take a row apart into rows that are trained on one by one, all with its id; by default it stays whole."""
        return (row,)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Chosen(Unit):
    """One completion per row: the chosen answer; answers marked bad are left out."""

    completions = ("chosen",)
    may_score_all_turns = True
    left_out = frozenset({MARKED_BAD})

    def answers(self, row: Row) -> tuple[Messages, ...]:
        return (_present(row.chosen),)

    def unusable_reason(self, row: Row) -> str | None:
        if row.label is False:
            return MARKED_BAD
        return row.missing_answer() if row.chosen is None else _fault(row.chosen, "chosen")


@dataclass(frozen=True)
class Pairs(Unit):
    """Two completions per row: the chosen answer and the rejected one.

    Args:
        ties: a pair whose row calls its answers equally good is left out (drop), trained in the file's order (keep), or
            half a preference each way (half).
        min_margin: pairs whose scores differ by less are left out; ties are a matter of `ties`, and pairs without
            scores are kept.
        reads_margins: the loss reads how much better the chosen answer is: by the row's `margin`, else its scores.

    `Batch.label_N` is (margin, 0) of chosen and rejected where margins are read, else (1, 0) where ties are halved, and
    (0, 0) for a tie: equal labels. It is None where neither is asked for.
    """

    ties: Ties = "drop"
    min_margin: float = 0.0
    reads_margins: bool = False

    completions = ("chosen", "rejected")
    compares = True
    left_out = frozenset({*TIES, SMALL_MARGIN, NO_BAD_ONE, NO_GOOD_ONE})

    def answers(self, row: Row) -> tuple[Messages, ...]:
        return _present(row.chosen), _present(row.rejected)

    def labels(self, row: Row) -> tuple[float, ...]:
        if row.is_tie:
            return (0.0, 0.0) if self.reads_margins or self.ties == "half" else ()
        if self.reads_margins:
            return (row.difference if row.margin is None else row.margin) or 0.0, 0.0
        return (1.0, 0.0) if self.ties == "half" else ()

    def lacks_scores(self, row: Row) -> bool:
        return self.min_margin > 0 and row.difference is None and not row.is_tie

    def unusable_reason(self, row: Row) -> str | None:
        if row.label is not None:
            return NO_BAD_ONE if row.label else NO_GOOD_ONE
        if row.not_a_pair is not None:
            return row.not_a_pair
        if row.is_tie and (self.ties == "drop" or row.has_same_answers):
            return SAID_TIE if row.scores is None or row.scores[0] != row.scores[1] else TIE
        return self._fault(row) or (None if row.is_tie else self._margin_reason(row))

    def _margin_reason(self, row: Row) -> str | None:
        """Say why a pair's scores or its `margin` keep it out."""
        if self.min_margin > 0 and row.difference is not None and abs(row.difference) < self.min_margin:
            return SMALL_MARGIN
        if self.reads_margins:
            return "neither scores nor a margin, which --margin reads" if row.difference is None else None
        if not row.margin or (self.min_margin > 0 and row.scores is None):
            return None
        return "its 'margin' is not read: give reward --margin 1, or leave it unread by --ignore-fields margin"

    def _fault(self, row: Row) -> str | None:
        fault = Chosen().unusable_reason(row)
        if fault is not None or row.chosen is None:
            return fault
        if row.rejected is None:
            return "no rejected answer"
        fault = _fault(row.rejected, "rejected")
        if fault is not None:
            return fault
        return "chosen equals rejected" if row.has_same_answers else None


class Samples(Unit):
    """No completion per row: the policy draws them from the prompt, and a reward scores them.

    Labelled answers (KTO) are refused: their prompts stand in the data as often as they have answers.
    """

    completions = ()
    is_sampled = True

    def answers(self, row: Row) -> tuple[Messages, ...]:
        return ()

    def unusable_reason(self, row: Row) -> str | None:
        if row.label is None:
            return None
        return "labelled, for kto, sft, dpo and reward; for the prompt alone --ignore-fields label (or as it is called)"


class Labelled(Unit):
    """One completion per row: its only answer, with the label that says whether it is a good one (KTO).

    A preference is two such rows: its chosen answer is a good one, its rejected answer a bad one. `Batch.label_N` is 1
    for a good answer and 0 for a bad one.
    """

    completions = ("answer",)
    left_out = TIES

    def answers(self, row: Row) -> tuple[Messages, ...]:
        return (_present(row.rejected if row.chosen is None else row.chosen),)

    def rows(self, row: Row) -> tuple[Row, ...]:
        if row.label is not None or not _has_both(row) or Pairs().unusable_reason(row) is not None:
            return (row,)
        return replace(row, rejected=None, label=True), replace(row, chosen=None, label=False)

    def unusable_reason(self, row: Row) -> str | None:
        if row.label is None:
            return (Pairs().unusable_reason(row) if _has_both(row) else None) or "no label"
        return _fault(_present(row.chosen if row.label else row.rejected), "labelled")

    def labels(self, row: Row) -> tuple[float, ...]:
        return (float(bool(row.label)),)


def unit_fault(trains_on: object) -> str | None:
    """Say what is wrong with a method's `trains_on`, or None where it is a unit."""
    if isinstance(trains_on, Unit):
        return None
    if isinstance(trains_on, type) and issubclass(trains_on, Unit):
        return f"trains_on is the class {trains_on.__name__}: write {trains_on.__name__}()"
    known = ", ".join(f"{unit.__name__}()" for unit in (Chosen, Pairs, Samples, Labelled))
    return f"trains_on is {trains_on!r}: it must be a unit, {known} or an instance of your own alignkit.units.Unit"


def _present(answer: Messages | None) -> Messages:
    if answer is None:
        raise ValueError("the row has no such answer: ask unusable_reason first")
    return answer


def _has_both(row: Row) -> bool:
    return row.chosen is not None and row.rejected is not None


def _fault(answer: Messages, name: str) -> str | None:
    if not answer or (is_blank(answer[-1]["content"]) and "tool_calls" not in answer[-1]):
        return f"empty {name} answer"
    if answer[-1].get("weight") == 0:
        return "the answer has weight 0" if name == "chosen" else f"the {name} answer has weight 0"
    return None
