"""The record of everything that the audit found: what `--json` writes and the page shows.

Every part is None where it was not looked for. Shares are from 0 to 1. Each part's class stands beside the parts of its
kind; the module that fills a part has its name.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from alignkit.display import counted

FEW = 10
"""Units of which no share is said: too few to say anything by."""

SHORT_ONES = "A good answer that is short looks flipped to a model of looks, where mostly long ones are chosen."
"""What to know before a list of flips is believed."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Share(_Record):
    """A share of `num` units, with its 95 % interval over prompts; of a few, `is_few`, the count is said alone."""

    share: float
    low: float
    high: float
    num: int = Field(description="units, such as pairs whose answers differ in the feature")

    @property
    def is_few(self) -> bool:
        """Whether there are too few units for a share to say anything."""
        return self.num < FEW

    @property
    def count(self) -> str:
        """How many units of how many, "2 of 3"; one that is neither counts half."""
        return f"{self.share * self.num:,.10g} of {self.num:,}"


class SourceRows(_Record):
    """How many rows one source has, and of what kind."""

    source: str
    rows: int
    pairs: int = Field(description="both answers there, not empty, and different; ties among them")
    ties: int
    labelled: int = Field(description="rows with one answer and a label")
    good: int = Field(description="labelled answers that are marked good")
    others: int = Field(description="rows of other kinds: prompts, conversations, pairs with an empty answer, ...")


# What the preferences follow: biases.py


class Bias(_Record):
    """How often the answer that has more of something is the chosen one."""

    source: str | None = Field(description="None: all sources together")
    feature: str = Field(description="what one answer is more than the other, such as 'longer'")
    chosen: Share = Field(description="of pairs whose answers differ in it")
    equal: int = Field(description="pairs whose answers have equally much; they are left out")


class Explained(_Record):
    """How well a model that sees nothing but what answers look like tells which one is chosen, on prompts unseen."""

    source: str | None
    accuracy: Share
    log_loss: float = Field(description="nats per pair; 0.693 is guessing")
    by_others: Share | None = Field(
        description="accuracy of a model of the other sources alone; clearly below 0.5, the source prefers the opposite"
    )

    @property
    def is_opposite(self) -> bool:
        """Whether the source prefers the opposite of the others: the interval lies below a half."""
        return self.by_others is not None and self.by_others.high < 0.5


class LengthLesson(_Record):
    """What DPO's optimum would write if length were all that it saw of the answers (biases.py has the formula)."""

    source: str | None
    longer_chosen: Share
    tokens: float = Field(description="how many more tokens (negative: fewer) an answer would have")
    mean_tokens: float = Field(description="mean length of the set's answers")
    beta: float = Field(description="DPO's beta that this is said for")
    counted_by: str = Field(description="the tokenizer, or 'about N characters a token'")


class Ties(_Record):
    """Pairs whose scores say that neither answer is better, or hardly."""

    source: str | None
    scored: int = Field(description="pairs with scores of both answers")
    ties: int
    tiny: int = Field(description="pairs whose scores differ, but by at most a tenth of their usual difference")
    tiny_margin: float | None = Field(description="the tenth, in the scores' unit")
    reversed: int = Field(description="pairs whose scores prefer the rejected answer")
    unequal: int = Field(description="pairs whose scores prefer one of the answers")

    @property
    def is_swapped(self) -> bool:
        """Whether most of the scores prefer the rejected answer, and more than chance would make so."""
        return 2 * self.reversed - self.unequal > 2 * self.unequal**0.5


# Pairs that probably stand the wrong way round: flips.py


class FlippedPair(_Record):
    """One pair of the ranked list."""

    id: str
    place: str
    source: str
    probability: float = Field(description="that the answers stand the wrong way round")
    reason: str
    prompt: str = Field(description="how it begins")
    chosen: str = Field(description="how it begins")
    rejected: str = Field(description="how it begins")


class Expected(_Record):
    """How many of the pairs ranked first are flipped, as expected."""

    pairs: int = Field(description="ranked first")
    precision: float = Field(description="share of them that are flipped")
    interval: tuple[float, float] = Field(description="of that share, at 95 %")


class Flips(_Record):
    """The pairs whose answers most probably stand the wrong way round, the surest first."""

    pairs: int = Field(description="pairs that were looked at")
    views: tuple[str, ...] = Field(description="what says which answer is the better one")
    estimated_rate: float | None = Field(
        description="share of all pairs that are flipped, as estimated; None where the views are too weak to tell"
    )
    rate_interval: tuple[float, float] = Field(description="of that share, at 95 %")
    expected_precision: float = Field(description="share of the first 10 % of all pairs that are flipped, as expected")
    expected: tuple[Expected, ...] = Field(description="the same of the first 1, 2, 5 and 10 % of all pairs")
    likely: int = Field(description="pairs that are flipped more likely than not; --write-clean takes them out")
    listed: tuple[FlippedPair, ...] = Field(description="the first 10 % of all pairs, and all that are likely flipped")

    @property
    def is_ranked(self) -> bool:
        """Whether anything tells one pair from another."""
        return self.estimated_rate is not None or self.listed[0].probability > 1.1 * self.expected_precision


# What the texts are: repeats.py and texts.py


class SourceCount(_Record):
    """How many of one source's rows something was found in."""

    source: str
    count: int
    of: int = Field(description="rows of the source that were looked at")


class Example(_Record):
    """One row in which something was found."""

    id: str
    place: str
    text: str = Field(description="the beginning, or of cut answers the end, of the text it was found in, on one line")
    other: str | None = Field(description="the id of the row that it stands against, where there is one")


class TextFinding(_Record):
    """Rows in whose texts one thing was found; of pairs also in which answers."""

    name: str = Field(description="such as 'near-duplicates'")
    rule: str = Field(description="when a row counts, in one sentence")
    means: str = Field(description="what it means for training and what to do, in plain words")
    count: int = Field(description="rows")
    of: int = Field(description="rows that were looked at")
    chosen: int | None = Field(description="chosen answers, where it is a thing of answers")
    rejected: int | None = Field(description="rejected answers")
    sources: tuple[SourceCount, ...] = Field(description="where there are several, those in which it was found")
    examples: tuple[Example, ...]
    taken_out: int = Field(description="rows that --write-clean takes out for it")
    taken_otherwise: dict[str, int] = Field(
        default={}, description="of `count`, rows that it takes out for another reason, by this"
    )

    @property
    def goes(self) -> str:
        """What --write-clean does with the rows, in a sentence; "" where it takes none of them out."""
        said = f"--write-clean takes {counted(self.taken_out, 'row')} out for it" if self.taken_out else ""
        if self.taken_otherwise:
            others = "; ".join(f"{count:,} {why}" for why, count in self.taken_otherwise.items())
            num = sum(self.taken_otherwise.values())
            said = f"{said}, and {num:,}" if said else f"--write-clean takes {counted(num, 'row')} out"
            said += f" for {'another reason' if num == 1 else 'other reasons'} ({others})"
        return f"{said}." if said else ""


class LanguageCount(_Record):
    """How many texts are written in one language, or, where the language is not known, in one script."""

    language: str
    prompts: int
    chosen: int
    rejected: int


class TextLengths(_Record):
    """How long one column's texts are."""

    column: str
    unit: str = Field(description="'tokens' of the policy's tokenizer, or 'characters'")
    count: int
    mean: float
    p50: float
    p90: float
    p99: float
    max: int
    over: dict[int, int] = Field(description="how many texts are longer than each limit, in tokens; empty without them")


# What was written: clean.py


class Written(_Record):
    """One file that was written."""

    file: str
    what: str = Field(description="'cleaned set', 'rows taken out', 'list of likely flips' or 'page'")
    rows: int | None = Field(None, description="how many rows or pairs are in it; None of a page")
    reasons: dict[str, int] = Field(default={}, description="of rows taken out, how many for which reason")


class Findings(_Record):
    """Everything that was found in one set."""

    data: str
    rows: int
    sources: tuple[SourceRows, ...]
    others: dict[str, int] = Field(default={}, description="what rows that are neither pairs nor labelled are")
    seconds: float = 0.0
    biases: tuple[Bias, ...] | None = None
    explained: tuple[Explained, ...] | None = None
    length_lessons: tuple[LengthLesson, ...] | None = None
    ties: tuple[Ties, ...] | None = None
    flips: Flips | None = None
    texts: tuple[TextFinding, ...] | None = None
    languages: tuple[LanguageCount, ...] | None = None
    lengths: tuple[TextLengths, ...] | None = None
    written: tuple[Written, ...] = ()
