"""See, measure, prepare and compare rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignkit.config import file as config_file
from alignkit.errors import UsageError
from alignkit.progress import Progress, Silent, phase, watched_by
from alignkit.registry import registry
from alignkit.units import Chosen, Labelled, Pairs, Samples, Unit

if TYPE_CHECKING:
    from alignkit.audit.findings import Findings
    from alignkit.config.file import Settings
    from alignkit.config.settings import DataSection
    from alignkit.data.looking.lengths import ColumnLengths
    from alignkit.data.looking.overlap import Overlap
    from alignkit.data.reading.rows import Row

SHOWN_ROWS = 5
_SHOWN_AS = {  # how `show_rows` takes a row that is too long, and what it says of one that it does not show
    None: ("cut-completion", ""),
    "drop-row": ("drop-row", ": --truncation drop-row leaves it out"),
    "stop": ("drop-row", ": --truncation stop stops a run"),
}
_MAX_RANKS = 65_536  # the largest clusters have fewer; memory for the shares grows with it
_MAX_WORDS = 10_000  # no prompt has a longer run of words to look for
_TOKENS_A_CHARACTER = 4  # bytes of the longest in UTF-8


def show_rows(
    *, method: str | None = None, config: Path | None = None, set: Sequence[str] = (), **options: object
) -> Iterator[dict[str, Any]]:
    """Yield {"id", "where", "prompt_ids", "completions": [{"ids", "scored"}], "tokens"} of each row, chosen first.

    "name" is what a person finds the row by: its own id, else where it stands. A completion is whole: also what the
    template puts behind the end token, which is never scored. Of a row that does not fit the length that a run would
    allow, {"id", "name", "where", "skipped": the reason}. "note" says why methods leave a row out, and that it is cut;
    None where neither is so.

    Args:
        method: rows are those that it trains on with its options, a completion with a label has "label"; of others
            {"id", "skipped"}. None: rows are shown by the answers that they have.
    """
    from alignkit.data.chat.chat import make_chat
    from alignkit.data.prepared.tokens import prepare
    from alignkit.pretrained.names import find_model
    from alignkit.pretrained.read import row_limit

    settings, trained = _settings(method, config, set, options)
    model = find_model(settings.model.model, tokenizer_is_enough=True)
    chat = make_chat(model, settings.model)
    section = settings.data
    num_new = 0
    if isinstance(settings, config_file.Resolved) and trained is not None and trained.is_sampled:
        num_new = settings.method.max_new_tokens
    limit = row_limit(model.folder, section.max_length, max_new_tokens=num_new)
    cut, too_long = _SHOWN_AS.get(section.truncation, (section.truncation, ""))
    for row in _first_rows(section, trained):
        note, unit = (None, trained) if trained is not None else _shown_as(row, section.train_on)
        if trained is None and note is not None and "weight 0" in note:
            yield {"id": row.id, "name": row.name, "where": row.where, "skipped": note}
            continue
        prepared = prepare(
            [row],
            chat,
            unit=unit,
            max_length=limit,
            truncation=cut,
            max_skipped=1.0,
            train_on=section.train_on,
            whole_answer=True,
            keep_unusable=trained is None,
            is_part=True,
        )
        if not prepared.trees:
            reasons = prepared.skipped | prepared.left_out
            yield {
                "id": row.id,
                "name": row.name,
                "where": row.where,
                "skipped": reasons.get(row.name, f"longer than --max-length {limit} tokens{too_long}"),
            }
        notes = [note] if note else []
        if prepared.num_cut:
            notes.append(f"cut to fit --max-length {limit} tokens")
        for tree in prepared.trees:
            labels = [{"label": label} for label in tree.labels] or [{}] * len(tree.completions)
            yield {
                "id": row.id,
                "name": row.name,
                "where": row.where,
                "note": "; ".join(notes) or None,
                "prompt_ids": tree.prompt.ids.tolist(),
                "completions": [
                    {"ids": c.ids.tolist(), "scored": c.scored.tolist()} | label
                    for c, label in zip(tree.completions, labels, strict=True)
                ],
                "tokens": [
                    _token_texts(chat.tokenizer, segment.ids.tolist(), tree.prompt.ids.tolist() if number else [])
                    for number, segment in enumerate(tree.segments)
                ],
            }


def data_lengths(
    *, method: str | None = None, config: Path | None = None, set: Sequence[str] = (), **options: object
) -> list[ColumnLengths]:
    """Token counts of prompts and answers, by column; of whole rows; and of pairs, how they differ.

    Args:
        method: of the rows that it trains on with its options; None: of all rows, by the answers that they have.
    """
    from alignkit.data.chat.chat import make_chat
    from alignkit.data.looking.lengths import measure, summarise
    from alignkit.pretrained.names import find_model

    settings, unit = _settings(method, config, set, options)
    chat = make_chat(find_model(settings.model.model, tokenizer_is_enough=True), settings.model)
    return summarise(measure(_rows(settings.data, unit, numbered=False), chat, unit))


def _settings(
    method: str | None, config: Path | None, set: Sequence[str], options: Mapping[str, object]
) -> tuple[Settings, Unit | None]:
    """The settings, and the unit of a method with its options."""
    if method is None:
        return config_file.judge_settings(options, config, settings=set), None
    cls = registry().find("method", method)
    resolved = config_file.resolve(cls, options=options, config=config, settings=set)
    return resolved, resolved.method.unit(cls.trains_on)


def _rows(section: DataSection, unit: Unit | None, *, numbered: bool = True) -> Iterator[Row]:
    """The rows of the data, of labelled ones the pairs where a unit compares; `numbered` as `Source.rows` has it."""
    from alignkit.data.reading.pairing import pair_up
    from alignkit.data.reading.read import Source
    from alignkit.storage import cache_folder

    source = Source(section.data, section.read_as, section.limit)
    if unit is not None and unit.compares:
        return pair_up(source, cache_folder(), numbered=numbered)
    return source.rows(numbered=numbered)


def _first_rows(section: DataSection, unit: Unit | None) -> list[Row]:
    """The first few rows; all of them are read only where there are labelled ones among these to be paired."""
    number = section.limit or SHOWN_ROWS
    first = list(islice(_rows(section, None), number))
    has_labels = any(row.label is not None for row in first)
    return list(islice(_rows(section, unit), number)) if has_labels else first


def _shown_as(row: Row, train_on: str | None) -> tuple[str | None, Unit]:
    """Why methods leave a row out, and the unit of the answers that it has."""
    from alignkit.data.reading.rows import unusable_reason

    if row.label is not None:
        return f"marked {'good' if row.label else 'bad'}", Labelled()
    is_pair = row.rejected is not None and train_on != "all-assistant"  # all turns of the chosen one
    unit: Unit = Pairs() if is_pair else Chosen()
    note = unusable_reason(row, unit, train_on)
    if row.chosen is None and (note or is_pair):
        is_prompt = row.rejected is None and not row.is_conversation  # an answer under another name is said
        return None if is_prompt and not row.answers_unread() else note, Samples()
    return note, unit


def data_audit(
    *,
    tests: Sequence[str] = (),
    thorough: bool = False,
    list_to: Path | None = None,
    clean_to: Path | None = None,
    page_to: Path | None = None,
    progress: Progress | None = None,
    config: Path | None = None,
    set: Sequence[str] = (),
    **options: object,
) -> Findings:
    """Look at a set in every way there is: what its preferences follow, which pairs are flipped, what its texts are.

    Args:
        tests: named as `data` is; rows whose prompts hold one of theirs are found.
        thorough: run the model over all answers.
        list_to: where the ranked list of likely flips is written.
        clean_to: where the set is written without rows that should go; they are written beside it, each with a reason.
        page_to: where a page with pictures is written.

    Raises:
        UsageError: `thorough` without a model; or as `audit.clean.check_outputs`.
        RunStopped: the disk refuses.
    """
    from alignkit.audit.audit import audit
    from alignkit.audit.clean import check_outputs
    from alignkit.audit.findings import Written
    from alignkit.data.chat.chat import make_chat
    from alignkit.pretrained.names import find_model

    settings = config_file.judge_settings(options, config, settings=set)
    section = settings.data
    is_named = "model" in settings.model.model_fields_set
    if thorough and not is_named:
        raise UsageError("--thorough runs a model over the answers; name it with --model")
    check_outputs(list_to=list_to, clean_to=clean_to, page_to=page_to, reads=(section.data, *tests))
    model = find_model(settings.model.model, tokenizer_is_enough=not thorough) if is_named else None
    findings = audit(
        section.data,
        columns=section.read_as,
        limit=section.limit,
        model=model,
        chat=None if model is None else make_chat(model, settings.model),
        max_length=section.max_length,
        tests=tests,
        thorough=thorough,
        list_to=list_to,
        clean_to=clean_to,
        progress=progress,
    )
    if page_to is not None:
        from alignkit.reports.audit_page import write_audit_page

        write_audit_page(findings, page_to)
        written = (*findings.written, Written(file=str(page_to), what="page"))
        findings = findings.model_copy(update={"written": written})
    return findings


def data_prepare(
    method: str,
    *,
    shard: str | None = None,
    ranks: int = 1,
    progress: Progress | None = None,
    config: Path | None = None,
    set: Sequence[str] = (),
    **options: object,
) -> dict[str, Any]:
    """Prepare what `train(method, ...)` with the same options trains on, and return the account.

    Args:
        shard: "i/n", i from 1: every n-th row only; when all n are there, training puts them together.
        ranks: over how many ranks to share rows when their balance is measured.

    Raises:
        UsageError: `ranks` is below 1 or above 65,536.
    """
    from alignkit.training.run.prepare import prepare_data

    _refuse_beyond("--ranks", ranks, _MAX_RANKS)
    cls = registry().find("method", method)
    resolved = config_file.resolve(cls, options=options, config=config, settings=set)
    with watched_by(progress or Silent()), phase("reading rows"):
        return prepare_data(cls(), resolved, shard=shard, ranks=ranks)


def data_overlap(
    other: str,
    *,
    size: int | None = None,
    threshold: float | None = None,
    config: Path | None = None,
    set: Sequence[str] = (),
    **options: object,
) -> Overlap:
    """Find prompts of `other` whose runs of `size` words stand in prompts of `data`.

    Raises:
        UsageError: `size` is below 1 or above 10,000.
    """
    from alignkit.data.looking.overlap import SIZE, THRESHOLD, overlap
    from alignkit.data.reading.read import Source

    _refuse_beyond("--words", SIZE if size is None else size, _MAX_WORDS)
    section = config_file.judge_settings(options, config, settings=set).data
    rows = Source(section.data, section.read_as, section.limit).rows()
    prompts = Source(other, section.read_as).rows()
    return overlap(rows, prompts, size=size or SIZE, threshold=threshold or THRESHOLD)


def _refuse_beyond(option: str, number: int, most: int) -> None:
    if not 1 <= number <= most:
        raise UsageError(f"{option} {number}: give a number from 1 to {most:,}")


def _token_texts(tokenizer: Any, ids: Sequence[int], before: Sequence[int]) -> list[str]:
    """Each token's text behind the tokens before it; a character of several tokens stands with its last."""
    texts: list[str] = []
    pending: list[int] = []
    known = list(before[-1:])  # decoded alone, some tokens would lose a space
    for number in ids:
        pending.append(number)
        text, own = tokenizer.decode([*known, *pending]), tokenizer.decode(known)
        text = text[len(own) :] if text.startswith(own) else tokenizer.decode(pending)
        is_part = text.endswith("\N{REPLACEMENT CHARACTER}") and len(pending) < _TOKENS_A_CHARACTER
        texts.append("" if is_part else text)
        if not is_part:
            known, pending = [number], []
    return texts
