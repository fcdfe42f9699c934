"""The page of `alignkit data audit`: what a preference set would teach, for readers new to all of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from alignkit.audit.findings import FEW, SHORT_ONES, Findings, Share, TextFinding
from alignkit.audit.surface import OTHERS
from alignkit.display import counted
from alignkit.reports.page import Column, Example, Section, write_report

_MOST = 50  # suspected pairs on the page; --list writes all
_TOGETHER = "all together"


def write_audit_page(findings: Findings, path: Path) -> None:
    """Write the page.

    Raises:
        RunStopped: the disk refuses.
    """
    sources = len(findings.sources)
    note = (
        f"{findings.data}: {counted(findings.rows, 'row')} from {counted(sources, 'source')}, looked at before "
        "any training. A preference set is pairs of answers to one prompt, one chosen, one rejected. What training on "
        "it teaches is whatever the chosen answers have and the rejected ones have not, wanted or not. Of looks, 50 % "
        "means that they do not matter; what stands in brackets or as a bar is a 95 % interval. Of fewer than "
        f"{FEW} pairs counts are said, and no share: they are too few to say anything by."
    )
    biases = [_bias(bias.feature, bias.chosen) for bias in findings.biases or () if bias.source is None]
    write_report(
        path,
        title=f"What {Path(findings.data).name} would teach",
        note=note,
        points=points(findings),
        table=_BIASES if biases else (),
        rows=biases,
        sections=list(_sections(findings)),
    )


_MUCH = "That is much: here looks and quality are hard to tell apart. "


def points(findings: Findings) -> list[tuple[str, str]]:
    """The findings as (what, plain sentences), the most telling first."""
    found = {
        "Swapped": _swapped,
        "Opposite": _opposite,
        "Length": _length,
        "Looks": _looks,
        "Scores": _ties,
        "Flipped pairs": _flips,
    }
    said = [(what, text) for what, say in found.items() for text in say(findings)]
    return said + [(text.name.capitalize(), _text(text)) for text in findings.texts or () if text.count]


def _swapped(findings: Findings) -> Iterator[str]:
    for one in findings.ties or ():
        if one.is_swapped and (one.source is not None or len(findings.ties or ()) == 1):
            yield (
                f"{one.source or findings.data} is probably swapped: in {one.reversed:,} of its "
                f"{counted(one.unequal, 'pair')} with unequal scores the rejected answer has the higher score."
            )


def _opposite(findings: Findings) -> Iterator[str]:
    for one in findings.explained or ():
        if one.by_others is not None and one.is_opposite:
            yield (
                f"{one.source} prefers the opposite of the other sources: a model of what answers look like there "
                f"names its chosen answer in {_of_pairs(one.by_others)}, less than guessing would. Chosen and "
                "rejected may be swapped."
            )


def _length(findings: Findings) -> Iterator[str]:
    for lesson in findings.length_lessons or ():
        if lesson.source is not None:
            continue
        share = lesson.longer_chosen
        seen = f"Of two answers the longer one is chosen in {_of_pairs(share)}."
        if share.is_few:
            yield f"{seen} They are too few to say what that would teach."
            continue
        if share.low <= 0.5 <= share.high:
            yield f"{seen} That is no clear preference for either."
            continue
        way = "longer" if lesson.tokens > 0 else "shorter"
        yield (
            f"{seen} If length did not matter it would be 50 %. If length were all that training saw, DPO, the usual "
            f"training on pairs (beta {lesson.beta:g}), would end with answers about {abs(lesson.tokens):,.0f} tokens "
            f"{way} than the set's {lesson.mean_tokens:,.0f} on average: a model that learns this writes {way}, not "
            "better. This is called length bias. After training, look at the win rate at equal length, which alignkit "
            f"judge says; before it, more pairs in which the {'shorter' if lesson.tokens > 0 else 'longer'} answer is "
            "the better one help most."
        )


def _looks(findings: Findings) -> Iterator[str]:
    for one in findings.explained or ():
        if one.source is None:
            yield (
                f"A small model that sees only what answers look like (length, lists, bold, ...) and no meaning "
                f"tells the chosen one, on prompts it has not seen, in {_of_pairs(one.accuracy)}; guessing is "
                f"50 %. {_MUCH if one.accuracy.share > 0.65 else ''}The more it tells, the more can be learnt without "
                "reading."
            )


def _ties(findings: Findings) -> Iterator[str]:
    for one in findings.ties or ():
        if one.source is None and one.scored and (one.ties or one.tiny or one.reversed):
            parts = []
            if one.ties:
                have = "has" if one.ties == 1 else "have"
                parts.append(f"{one.ties:,} {have} equal scores: which answer is called chosen is arbitrary there")
            if one.tiny:
                parts.append(f"{one.tiny:,} {'differs' if one.tiny == 1 else 'differ'} by at most {one.tiny_margin:g}")
            if one.reversed:
                parts.append(
                    f"{one.reversed:,} {'scores' if one.reversed == 1 else 'score'} the rejected answer higher"
                )
            yield (
                f"Of {one.scored:,} pairs with scores, {'; '.join(parts)}. What becomes of them is said by "
                "--ties and --min-margin of dpo and reward."
            )


def _flips(findings: Findings) -> Iterator[str]:
    flips = findings.flips
    if flips is None:
        return
    told = (
        "How many pairs stand the wrong way round cannot be told: other pairs say too little about which answer is the "
        "better one."
        if flips.estimated_rate is None
        else f"About {100 * flips.estimated_rate:.1f} % of the pairs probably stand the wrong way round "
        f"({_between(flips.rate_interval)})."
    )
    if not flips.is_ranked:
        yield told
        return
    if not flips.likely:
        yield f"{told} None is flipped more likely than not."
        return
    if flips.estimated_rate is None:
        told += " What follows assumes about one in ten."
    likely = "1 pair is" if flips.likely == 1 else f"{flips.likely:,} pairs are"
    yield (
        f"{told} {likely} more likely flipped than not. Of the list below, "
        + ", ".join(
            f"the first {e.pairs:,} hold about {100 * e.precision:.0f} % ({_between(e.interval)})"
            for e in flips.expected[:3]
        )
        + f" such pairs: read them before you trust the list. {SHORT_ONES}"
    )


def _text(text: TextFinding) -> str:
    sides = ""
    if text.chosen is not None and text.rejected is not None:
        sides = f" ({counted(text.chosen, 'chosen answer')}, {text.rejected:,} rejected)"
    return f"{text.count:,} of {counted(text.of, 'row')}{sides}. {text.means} {text.goes}".rstrip()


_BIASES = (
    Column("feature", "of two answers the one that is"),
    Column(
        "share",
        "chosen, %",
        low="low",
        high="high",
        line=50,
        note="of the pairs whose answers differ in it; at 50 it does not matter; blue: its bar does not reach 50",
    ),
    Column("num", "pairs that differ", digits=0),
)
_EXAMPLES = {
    "more formatted": "lists, bold, headings, code",
    "more hedging": "perhaps, it seems",
    "more apologetic": "sorry, I apologise",
}


def _bias(feature: str, share: Share) -> dict[str, Any]:
    means = f" ({_EXAMPLES[feature]})" if feature in _EXAMPLES else ""
    return {"feature": f"{feature}{means}", "num": share.num} | _shares("share", "low", "high", share)


def _shares(value: str, low: str, high: str, share: Share | None) -> dict[str, float | str | None]:
    if share is None:
        return dict.fromkeys((value, low, high))
    if share.is_few:
        return {value: share.count, low: None, high: None}
    return {value: 100 * share.share, low: 100 * share.low, high: 100 * share.high}


def _sections(findings: Findings) -> Iterator[Section]:
    if findings.flips is not None and findings.flips.is_ranked and findings.flips.likely:
        flips = findings.flips
        examples = [
            Example(
                one.prompt,
                {"chosen": one.chosen, "rejected": one.rejected},
                heading=f"flipped with {100 * one.probability:.0f} %",
                note=f"{one.id}, {one.place}, of {one.source}. Why: {one.reason}",
            )
            for one in flips.listed[:_MOST]
        ]
        shown = f"The first {len(examples)} of {len(flips.listed):,}" if len(flips.listed) > len(examples) else "All"
        note = (
            "In these the rejected answer may be the better one. The percentage says how probably that is so, told by "
            f"{', '.join(flips.views)}. {SHORT_ONES} {shown}; --list FILE writes all of them."
        )
        yield Section("Pairs that may stand the wrong way round", note=note, examples=examples)
    if findings.texts:
        yield _texts(findings.texts)
    yield _by_source(findings)
    if any(one.scored or one.ties for one in findings.ties or ()):
        rows = [one.model_dump() | {"source": one.source or _TOGETHER} for one in findings.ties or ()]
        columns: tuple[Column, ...] = (
            Column("source", "source"),
            Column("scored", "pairs with scores", digits=0),
            Column("ties", "equal", digits=0),
            Column("tiny", "nearly equal", digits=0),
            Column("tiny_margin", "nearly equal is at most", digits=2, note="a tenth of the scores' usual difference"),
            Column("reversed", "rejected one higher", digits=0),
        )
        yield Section("Scores", table=columns, rows=rows)
    if findings.lengths:
        columns = (
            Column("column", "column"),
            Column("unit", "unit"),
            Column("count", "count", digits=0),
            Column("mean", "mean", digits=0),
            Column("p50", "half have at most", digits=0),
            Column("p90", "90 % have at most", digits=0),
            Column("p99", "99 % have at most", digits=0),
            Column("max", "longest", digits=0),
        )
        yield Section("Lengths", table=columns, rows=[one.model_dump() for one in findings.lengths])
    if findings.languages:
        columns = (
            Column("language", "language or script"),
            *(Column(key, key, digits=0) for key in ("prompts", "chosen", "rejected")),
        )
        yield Section("Languages", table=columns, rows=[one.model_dump() for one in findings.languages])
    if findings.texts and (rows := list(_examples(findings.texts))):
        columns = (
            Column("what", "what"),
            Column("row", "row"),
            Column("text", "how it begins"),
            Column("other", "against row"),
            Column("place", "place"),
        )
        yield Section("Examples", table=columns, rows=rows)


def _texts(texts: Sequence[TextFinding]) -> Section:
    columns = (
        Column("name", "what"),
        Column("count", "rows", digits=0),
        Column("share", "of all, %", note=f"of fewer than {FEW} rows the number that there are"),
        Column("chosen", "chosen answers", digits=0),
        Column("rejected", "rejected answers", digits=0),
        Column("rule", "a row counts when"),
        Column("means", "what it means"),
    )
    rows = [
        text.model_dump() | {"share": f"of {text.of:,}" if text.of < FEW else 100 * text.count / text.of}
        for text in texts
    ]
    return Section("What stands in the texts", table=columns, rows=rows)


def _by_source(findings: Findings) -> Section:
    """What each source prefers: they may prefer opposite things."""
    longer = {bias.source: bias.chosen for bias in findings.biases or () if bias.feature == "longer"}
    formatted = {bias.source: bias.chosen for bias in findings.biases or () if bias.feature == "more formatted"}
    explained = {one.source: one.accuracy for one in findings.explained or ()}
    lessons = {one.source: one.tokens for one in findings.length_lessons or () if not one.longer_chosen.is_few}
    columns = (
        Column("source", "source"),
        Column("rows", "rows", digits=0),
        Column("pairs", "pairs", digits=0),
        Column("longer", "longer chosen, %", low="longer_low", high="longer_high"),
        Column("formatted", "more formatted chosen, %", low="formatted_low", high="formatted_high"),
        Column("looks", "chosen one told by looks alone, %", low="looks_low", high="looks_high"),
        Column("tokens", "tokens DPO would add for length", digits=0),
    )
    counts: dict[str | None, Mapping[str, Any]] = {one.source: one.model_dump() for one in findings.sources}
    if len(counts) > 1:
        both = {name: sum(one[name] for one in counts.values()) for name in ("rows", "pairs")}
        counts = {None: both | {"source": _TOGETHER}, **counts}
    single = len(counts) == 1
    if OTHERS in explained | longer and OTHERS not in counts:
        own = {one.source for one in findings.biases or ()} - {OTHERS}
        small = [one for name, one in counts.items() if name not in own]
        counts[OTHERS] = {"source": OTHERS} | {name: sum(one[name] for one in small) for name in ("rows", "pairs")}
    rows = []
    for source, count in counts.items():
        key = None if single else source  # of one source there is only the whole
        rows.append(
            {"source": count["source"], "rows": count["rows"], "pairs": count["pairs"], "tokens": lessons.get(key)}
            | _shares("longer", "longer_low", "longer_high", longer.get(key))
            | _shares("formatted", "formatted_low", "formatted_high", formatted.get(key))
            | _shares("looks", "looks_low", "looks_high", explained.get(key))
        )
    note = "Where two sources prefer opposite things, a model that is trained on both learns neither well."
    return Section("Source by source", note=note if len(rows) > 1 else "", table=columns, rows=rows)


def _examples(texts: Sequence[TextFinding]) -> Iterator[dict[str, Any]]:
    for text in texts:
        for one in text.examples:
            yield {"what": text.name, "row": one.id, "text": one.text, "other": one.other, "place": one.place}


def _between(interval: tuple[float, float]) -> str:
    low, high = interval
    return f"{100 * low:.0f} to {100 * high:.0f}"


def _of_pairs(share: Share) -> str:
    """A share of pairs with its interval; of a few how many of them."""
    if share.is_few:
        return f"{share.count} pair{'' if share.num == 1 else 's'}"
    return f"{100 * share.share:.0f} % ({100 * share.low:.0f} to {100 * share.high:.0f}) of pairs"
