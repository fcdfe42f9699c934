"""`alignkit data audit`: what a set will teach, in words for a terminal of 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alignkit.audit.findings import FEW, SHORT_ONES
from alignkit.cli.options import Command, Config, Group, Json, Set, with_options
from alignkit.config.settings import DataSection, ModelSection
from alignkit.display import counted, on_one_line
from alignkit.errors import Interrupted, UsageError

if TYPE_CHECKING:
    from alignkit.audit.findings import Bias, Findings, Share, TextFinding, Written

_ROWS = Group("Data", DataSection, ("data", "columns", "ignore_fields", "limit", "max_length"))
_TEXT = Group("Model", ModelSection, ("model", "chat_template", "system", "template_kwargs"))
_WIDTH = 80
_ALWAYS = ("longer", "more formatted", "more hedging")
_SHOWN_FLIPS = 5
_SHOWN_SOURCES = 6


def add_audit_command(data: typer.Typer) -> None:
    data.command("audit", cls=Command)(audit)


@with_options(_ROWS, _TEXT)
def audit(
    *,
    ctx: typer.Context,
    given: dict[str, Any],
    test: Annotated[
        list[str] | None, typer.Option("--test", metavar="FILE", help="test prompts to look for in the set; repeatable")
    ] = None,
    thorough: Annotated[
        bool, typer.Option("--thorough", help="run the model over all answers, to find flipped pairs by; takes long")
    ] = False,
    list_to: Annotated[
        str | None, typer.Option("--list", metavar="FILE", help="write the pairs that are probably flipped, ranked")
    ] = None,
    clean_to: Annotated[
        str | None, typer.Option("--write-clean", metavar="FILE", help="write the set without the rows that should go")
    ] = None,
    page: Annotated[
        str | None, typer.Option("--page", metavar="FILE", help="write a page with pictures, for a browser")
    ] = None,
    json: Json = False,
    config: Config = None,
    set_: Set = None,
) -> None:
    """Say what a preference set will teach, before any training: bias to length, flipped pairs, repeats, and more.

    Lengths are in tokens where --model is named (a tokenizer is enough), else in characters.
    """
    from alignkit.cli.progress import starting

    progress = starting()
    from alignkit import api

    outputs = {"--list": list_to, "--write-clean": clean_to, "--page": page}
    for option, name in outputs.items():
        if name is not None and not name.strip():
            raise UsageError(f"{option}: the name is empty; give a file, or leave the option out")
    list_path, clean_path, page_path = (None if name is None else Path(name) for name in outputs.values())
    before = _changed(list_path, clean_path, page_path)
    try:
        findings = api.data_audit(
            tests=test or (),
            thorough=thorough,
            list_to=list_path,
            clean_to=clean_path,
            page_to=page_path,
            progress=progress,
            config=Path(config) if config else None,
            set=set_ or [],
            **given,
        )
    except KeyboardInterrupt:
        done = _changed(list_path, clean_path, page_path) - before
        files = ", ".join(file for file, _ in sorted(done))
        raise Interrupted(f"interrupted; {f'written: {files}' if files else 'nothing was written'}") from None
    finally:
        progress.stop()
    if json:
        print(findings.model_dump_json())
        return
    for line in lines(findings):
        print(on_one_line(line).rstrip())
    if clean_to is None and (
        any(part.taken_out for part in findings.texts or ()) or (findings.flips and findings.flips.likely)
    ):
        print("\n--write-clean FILE writes the set without the rows that should go.")
    for line in _written(findings):
        print(on_one_line(line).rstrip())


def _changed(*files: Path | None) -> set[tuple[str, int]]:
    """Which of the files are there, each with the time at which it was written."""
    found = set()
    for file in files:
        with suppress(OSError):  # not there, or in a folder that may not be searched
            if file is not None:
                found.add((str(file), file.stat().st_mtime_ns))
    return found


def _written(findings: Findings) -> Iterable[str]:
    if findings.written:
        yield ""
        yield "Written"
    for one in findings.written:
        yield from _wrapped(f"{one.file}: {_count(one)}", 2)


def _count(one: Written) -> str:
    reasons = "; ".join(f"{count:,} {why}" for why, count in one.reasons.items())
    match one.what:
        case "cleaned set":
            warning = "" if one.rows else "; warning: the cleaned set is empty, for every row was taken out"
            return f"the {counted(one.rows or 0, 'row')} that stay{'s' * (one.rows == 1)}{warning}"
        case "rows taken out":
            return f"{counted(one.rows or 0, 'row')} taken out" + (f": {reasons}" if reasons else "")
        case "list of likely flips":
            few = "" if one.rows else "; there are too few pairs to look for flips"
            return f"{counted(one.rows or 0, 'pair')}, those first that are most likely flipped{few}"
    return "the page"


def lines(findings: Findings) -> Iterable[str]:
    """Say what was found, line by line."""
    yield from _head(findings)
    yield from _chosen(findings)
    yield from _learnt(findings)
    yield from _opposite(findings)
    yield from _tied(findings)
    yield from _flips(findings)
    yield from _texts(findings.texts or ())
    yield from _languages(findings)
    yield from _lengths(findings)


def _wrapped(text: str, indent: int = 0) -> list[str]:
    space = " " * indent
    return textwrap.wrap(
        on_one_line(text), _WIDTH, initial_indent=space, subsequent_indent=space, break_on_hyphens=False
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _between(interval: tuple[float, float]) -> str:
    low, high = interval
    return f"{100 * low:.0f} to {100 * high:.0f}"


def _interval(share: Share) -> str:
    """A share with its interval; of a few pairs how many of them."""
    return share.count if share.is_few else _plain(share)


def _plain(share: Share) -> str:
    return f"{_percent(share.share)} ({100 * share.low:.1f} to {100 * share.high:.1f})"


def _of(share: Share) -> str:
    """The same in a column, and of how many pairs."""
    return f"{share.count:>21}" if share.is_few else f"{_plain(share):>21} of {share.num:,}"


def _head(findings: Findings) -> Iterable[str]:
    pairs = sum(source.pairs for source in findings.sources)
    ties = sum(source.ties for source in findings.sources)
    labelled = sum(source.labelled for source in findings.sources)
    good = sum(source.good for source in findings.sources)
    yield from _wrapped(
        f"{counted(findings.rows, 'row')} of {findings.data}: {counted(pairs, 'pair')} of two answers, "
        f"{counted(ties, 'tie')} among them"
        + (f", {counted(labelled, 'answer')} with a label ({good:,} good, {labelled - good:,} bad)" if labelled else "")
        + f"; {counted(findings.rows - pairs - labelled, 'other row')}"
        + (f": {', '.join(f'{count:,} {what}' for what, count in findings.others.items())}" if findings.others else "")
    )
    if len(findings.sources) > 1:
        for source in findings.sources[:_SHOWN_SOURCES]:
            yield f"  {source.source[:40]:<40} {counted(source.rows, 'row'):>14} {counted(source.pairs, 'pair'):>15}"
        if len(findings.sources) > _SHOWN_SOURCES:
            yield f"  and {len(findings.sources) - _SHOWN_SOURCES:,} more sources"
    if pairs == 0:
        yield from _wrapped("There are no pairs of two answers: what preferences follow is left out.")


def _chosen(findings: Findings) -> Iterable[str]:
    overall = [bias for bias in findings.biases or () if bias.source is None]
    told = [bias for bias in overall if bias.feature in _ALWAYS or _is_clear(bias)]
    if not told:
        return
    yield ""
    yield "Which answer is chosen (50 % would be no bias; 95 % intervals in brackets)"
    for bias in told:
        yield f"  {bias.feature[:42]:<42} {_of(bias.chosen)}"
    by_source = [b for b in findings.biases or () if b.source is not None and b.feature == "longer"]
    if by_source:
        yield "  the longer one, by source"
        for bias in by_source[:_SHOWN_SOURCES]:
            yield f"    {(bias.source or '')[:40]:<40} {_of(bias.chosen)}"
    if any(bias.chosen.is_few for bias in (*told, *by_source[:_SHOWN_SOURCES])):
        yield from _wrapped(f"Of fewer than {FEW} pairs no share is said: they are too few to say anything by.", 2)


def _is_clear(bias: Bias) -> bool:
    return not bias.chosen.is_few and not bias.chosen.low <= 0.5 <= bias.chosen.high


def _learnt(findings: Findings) -> Iterable[str]:
    for explained in findings.explained or ():
        if explained.source is None:
            yield ""
            yield from _wrapped(
                f"A model that sees what answers look like, and not what they say, names the chosen one in "
                f"{_interval(explained.accuracy)} of unseen pairs. The nearer to 50 %, the more a model must read."
            )
    for lesson in findings.length_lessons or ():
        if lesson.source is None and not lesson.longer_chosen.is_few:
            more = "longer" if lesson.tokens >= 0 else "shorter"
            tokens = counted(round(abs(lesson.tokens)), "token")
            yield ""
            yield from _wrapped(
                f"If DPO (beta {lesson.beta:g}) learnt nothing but length here, answers of {lesson.mean_tokens:,.0f} "
                f"tokens would become {tokens} {more}. Counted by {lesson.counted_by}."
            )


def _opposite(findings: Findings) -> Iterable[str]:
    for explained in findings.explained or ():
        if explained.by_others is not None and explained.is_opposite:
            yield ""
            yield from _wrapped(
                f"Opposite to the others: {explained.source}. A model of what answers look like in the other sources "
                f"names its chosen answer in {_interval(explained.by_others)} of pairs, less than guessing would. Are "
                "chosen and rejected swapped there?"
            )
    for ties in findings.ties or ():
        if ties.is_swapped and (ties.source is not None or len(findings.ties or ()) == 1):
            yield ""
            yield from _wrapped(
                f"PROBABLY SWAPPED: {ties.source or findings.data}. In {ties.reversed:,} of its "
                f"{counted(ties.unequal, 'pair')} with unequal scores the rejected answer has the higher score."
            )


def _tied(findings: Findings) -> Iterable[str]:
    for ties in findings.ties or ():
        if ties.source is None and (ties.ties or ties.tiny or ties.reversed):
            tiny = f"; {ties.tiny:,} differ by at most {ties.tiny_margin:.3g}" if ties.tiny and ties.tiny_margin else ""
            yield ""
            yield from _wrapped(
                f"Scores stand beside {counted(ties.scored, 'pair')}: {counted(ties.ties, 'tie')} (dpo and reward "
                f"leave them out){tiny}; in {ties.reversed:,} the rejected answer has the higher one."
            )


def _flips(findings: Findings) -> Iterable[str]:
    flips = findings.flips
    if flips is None and not any(source.pairs for source in findings.sources):
        return
    yield ""
    yield "Pairs that probably stand the wrong way round"
    if flips is None:
        yield from _wrapped("Not looked for: there are too few pairs that are no ties; 100 are needed.", 2)
        return
    told = (
        f"How many of {flips.pairs:,} pairs are flipped cannot be told: other pairs say too little about which answer "
        "is the better one."
        if flips.estimated_rate is None
        else f"About {_percent(flips.estimated_rate)} of {flips.pairs:,} pairs are flipped "
        f"({_between(flips.rate_interval)}), as far as a model of the other pairs can tell."
    )
    if not flips.is_ranked:
        yield from _wrapped(told, 2)
        return
    if not flips.likely:
        yield from _wrapped(f"{told} None is flipped more likely than not; --list FILE ranks them all the same.", 2)
        return
    likely = "1 is" if flips.likely == 1 else f"{flips.likely:,} are"
    assumed = " What follows assumes about one in ten." if flips.estimated_rate is None else ""
    yield from _wrapped(f"{told}{assumed} {likely} flipped more likely than not. {SHORT_ONES} Of the first:", 2)
    for expected in flips.expected:
        share = f"{100 * expected.precision:>3.0f} %"
        between = _between(expected.interval)
        yield f"  {counted(expected.pairs, 'pair'):>15} {share} are flipped, as expected ({between})"
    for pair in flips.listed[:_SHOWN_FLIPS]:
        yield from _wrapped(f"{pair.id} ({100 * pair.probability:.0f} %): {pair.reason}", 4)
        for name in ("prompt", "chosen", "rejected"):
            text = f"      {name:<9} {on_one_line(getattr(pair, name))}"
            yield text if len(text) <= _WIDTH else text[: _WIDTH - 3] + "..."


def _texts(found: Iterable[TextFinding]) -> Iterable[str]:
    yield ""
    yield f"{'In the texts':<34}{'rows':>9}{'share':>9}{'chosen':>11}{'rejected':>11}"
    kept = list(found)
    for part in kept:
        sides = ("" if n is None else f"{n:,}" for n in (part.chosen, part.rejected))
        share = f"of {part.of:,}" if part.of < FEW else _percent(part.count / part.of)
        yield f"  {part.name:<32}{part.count:>9,}{share:>9}" + "".join(f"{side:>11}" for side in sides)
    for part in kept:
        if part.count:
            yield from _told(part)


def _told(part: TextFinding) -> Iterable[str]:
    yield ""
    yield f"{part.name[0].upper()}{part.name[1:]}: {part.count:,}"
    yield from _wrapped(f"When: {part.rule}.", 2)
    yield from _wrapped(f"{part.means} {part.goes}", 2)
    if part.sources:
        most = ", ".join(f"{s.source} {s.count:,} of {s.of:,}" for s in part.sources[:_SHOWN_SOURCES])
        yield from _wrapped(f"By source: {most}.", 2)
    for example in part.examples:
        other = f" and {example.other}" if example.other else ""
        yield from _wrapped(f"{example.id}{other}: {example.text}", 4)


def _languages(findings: Findings) -> Iterable[str]:
    if findings.languages:
        yield ""
        yield f"{'Languages':<34}{'prompts':>13}{'chosen':>13}{'rejected':>13}"
        for one in findings.languages:
            yield f"  {one.language:<32}{one.prompts:>13,}{one.chosen:>13,}{one.rejected:>13,}"


def _lengths(findings: Findings) -> Iterable[str]:
    if not findings.lengths:
        return
    yield ""
    title = f"Lengths in {findings.lengths[0].unit}"
    yield f"{title:<28}" + "".join(f"{name:>10}" for name in ("mean", "50 %", "90 %", "99 %", "max"))
    for column in findings.lengths:
        numbers = (column.mean, column.p50, column.p90, column.p99, column.max)
        yield f"  {column.column[:26]:<26}" + "".join(f"{number:>10,.0f}" for number in numbers)
    for column in findings.lengths:
        if column.over and column.column.startswith("prompt +"):
            of = f" of {column.count:,}" if column.count < FEW else ""
            cuts = (
                f"{count:,}{of or f' ({_percent(count / column.count)})'} at {n:,}" for n, count in column.over.items()
            )
            yield from _wrapped(f"A limit of --max-length would cut {', '.join(cuts)} tokens.", 2)
