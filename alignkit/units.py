"""Units of training: which answers of a row a method trains on, and which rows it cannot use.

`Method.trains_on` is an instance of one of these. A new unit is one class: what reads rows, packs trees, plans
memory and runs steps asks it, and compares no names. Nothing heavy is imported here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from alignkit.data.reading.rows import Messages, Row


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

    @abstractmethod
    def answers(self, row: Row) -> tuple[Messages, ...]:
        """Return the messages of each completion of a usable row, one for each name in `completions`."""

    @abstractmethod
    def unusable_reason(self, row: Row) -> str | None:
        """Say why a well-formed row with a prompt cannot be trained on, in a few words; None where it can."""

    def labels(self, row: Row) -> tuple[float, ...]:
        """Return a number for each completion of a row, for `Batch.label_N`; () where the unit has none."""
        return ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Chosen(Unit):
    """One completion per row: the chosen answer."""

    completions = ("chosen",)
    may_score_all_turns = True

    def answers(self, row: Row) -> tuple[Messages, ...]:
        return (_present(row.chosen),)

    def unusable_reason(self, row: Row) -> str | None:
        return row.missing_answer() if row.chosen is None else _fault(row.chosen, "chosen")


class Pairs(Unit):
    """Two completions per row: the chosen answer and the rejected one."""

    completions = ("chosen", "rejected")
    compares = True

    def answers(self, row: Row) -> tuple[Messages, ...]:
        return _present(row.chosen), _present(row.rejected)

    def unusable_reason(self, row: Row) -> str | None:
        if row.not_a_pair is not None:
            return row.not_a_pair
        fault = Chosen().unusable_reason(row)
        if fault is not None or row.chosen is None:
            return fault
        if row.rejected is None:
            return "no rejected answer"
        fault = _fault(row.rejected, "rejected")
        if fault is not None:
            return fault
        is_same = row.chosen[-1]["content"] == row.rejected[-1]["content"]
        return "chosen equals rejected" if is_same else None


class Samples(Unit):
    """No completion per row: the policy draws them from the prompt, and a reward scores them."""

    completions = ()
    is_sampled = True

    def answers(self, row: Row) -> tuple[Messages, ...]:
        return ()

    def unusable_reason(self, row: Row) -> str | None:
        return None


class Labelled(Unit):
    """One completion per row: its only answer, with the label that says whether it is a good one (KTO).

    `Batch.label_N` is 1 for a good answer and 0 for a bad one.
    """

    completions = ("answer",)

    def answers(self, row: Row) -> tuple[Messages, ...]:
        return (_present(row.rejected if row.chosen is None else row.chosen),)

    def unusable_reason(self, row: Row) -> str | None:
        if row.label is None:
            return "no label"
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


def _fault(answer: Messages, name: str) -> str | None:
    if not answer or not answer[-1]["content"].strip():
        return f"empty {name} answer"
    if answer[-1].get("weight") == 0:
        return "the answer has weight 0" if name == "chosen" else f"the {name} answer has weight 0"
    return None
