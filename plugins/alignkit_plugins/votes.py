"""`votes`: the judge is people, and so is the data set: what `alignkit vote` collected decides, and is trained on.

The score of an answer is the mean vote for it against its rival: 1 a win, 0.5 a tie. By the rule of a pairwise judge
here (`tie_rule` lean) the side with more votes wins. A pair nobody voted on, and one whose votes are on other answers,
is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from alignkit.plugin import Dataset, Item, Judge, JudgeConfig, Missing, Scored, UsageError, hookimpl

if TYPE_CHECKING:
    from alignkit.plugin import Votes


class VotesConfig(JudgeConfig):
    """How several people's votes on a pair become its outcome."""

    tie_rule: Literal["lean", "agree"] = Field(
        "lean", description="lean: the side with more votes wins; agree: it wins only where all voters say so"
    )


class VotesJudge(Judge):
    """People's votes from the ledger."""

    name: ClassVar[str] = "votes"
    version: ClassVar[str] = "1"
    Config: ClassVar[type[JudgeConfig]] = VotesConfig
    pairwise: ClassVar[bool] = True
    sees_order: ClassVar[bool] = False  # a pair was shown in one order, drawn at random
    config: VotesConfig

    @cached_property
    def votes(self) -> Votes:
        from alignkit.plugin import Votes

        return Votes.read()

    def parameters(self) -> Mapping[str, Any]:
        """The votes themselves: with a further one the scores may be others."""
        return {"votes": self.votes.fingerprint}

    def ready(self, rows: Sequence[Mapping[str, Any]]) -> None:
        if not self.votes.all:
            raise UsageError("judge 'votes': there are no votes yet; collect some with `alignkit vote RUN --vs MODEL`")

    def score(self, items: Sequence[Item]) -> list[Scored | Missing]:
        return [self._score(item) for item in items]

    def _score(self, item: Item) -> Scored | Missing:
        if item.rival is None:
            raise UsageError("judge 'votes' compares two answers, it scores none alone: name it by --judge")
        return self.votes.score(item.prompt, item.completion, item.rival)


class VotedRows(Dataset):
    """The pairs that people decided, as preference rows: `--data votes`."""

    name: ClassVar[str] = "votes"

    def rows(self, part: str) -> Iterator[Mapping[str, Any]]:
        from alignkit.plugin import voted_rows

        yield from voted_rows()


@hookimpl
def register_datasets(register: Callable[[type[Dataset]], None]) -> None:
    """Add the data set `votes`."""
    register(VotedRows)


@hookimpl
def register_judges(register: Callable[[type[Judge]], None]) -> None:
    """Add the judge `votes`."""
    register(VotesJudge)
