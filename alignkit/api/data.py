"""See, measure, prepare and compare rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignkit.config import file as config_file
from alignkit.errors import UsageError
from alignkit.registry import registry
from alignkit.units import Chosen, Pairs, Samples, Unit

if TYPE_CHECKING:
    from alignkit.data.looking.lengths import ColumnLengths
    from alignkit.data.looking.overlap import Overlap

_SHOWN_ROWS = 5
_MAX_RANKS = 65_536  # the largest clusters have fewer; memory for the shares grows with it
_MAX_WORDS = 10_000  # no prompt has a longer run of words to look for
_TOKENS_A_CHARACTER = 4  # bytes of the longest in UTF-8


def show_rows(*, config: Path | None = None, set: Sequence[str] = (), **options: object) -> Iterator[dict[str, Any]]:
    """Yield {"id", "prompt_ids", "completions": [{"ids", "scored"}], "tokens"} of each row, the chosen one first.

    A completion is whole: also what the template puts behind the end token, which is never scored. Of a row that does
    not fit `max_length`, {"id", "skipped": the reason}. "note" says why methods leave a row out, None where none does.
    """
    from alignkit.data.chat.chat import make_chat
    from alignkit.data.prepared.tokens import prepare
    from alignkit.data.reading.read import read_rows
    from alignkit.data.reading.rows import unusable_reason
    from alignkit.pretrained.names import find_model

    settings = config_file.judge_settings(options, config, settings=set)
    chat = make_chat(find_model(settings.model.model, tokenizer_is_enough=True), settings.model)
    section = settings.data
    for row in read_rows(section.data, columns=section.read_as, limit=section.limit or _SHOWN_ROWS):
        is_pair = row.rejected is not None and section.train_on != "all-assistant"  # all turns of the chosen one
        unit: Unit = Pairs() if is_pair else Chosen()
        note = unusable_reason(row, unit, section.train_on)
        if row.chosen is None and (note or is_pair):
            unit = Samples()
            note = None if row.rejected is None and not row.is_conversation else note
        elif note is not None and "weight 0" in note:
            yield {"id": row.id, "skipped": note}
            continue
        prepared = prepare(
            [row],
            chat,
            unit=unit,
            max_length=section.max_length or 1_000_000,
            truncation=section.truncation or "cut-completion",
            max_skipped=1.0,
            train_on=section.train_on,
            whole_answer=True,
            keep_unusable=True,
            is_part=True,
        )
        if not prepared.trees:
            yield {"id": row.id, "skipped": prepared.skipped.get(row.id, "dropped as too long")}
            continue
        tree = prepared.trees[0]
        yield {
            "id": row.id,
            "note": note,
            "prompt_ids": tree.prompt.ids.tolist(),
            "completions": [{"ids": c.ids.tolist(), "scored": c.scored.tolist()} for c in tree.completions],
            "tokens": [
                _token_texts(chat.tokenizer, segment.ids.tolist(), tree.prompt.ids.tolist() if number else [])
                for number, segment in enumerate(tree.segments)
            ],
        }


def data_lengths(*, config: Path | None = None, set: Sequence[str] = (), **options: object) -> list[ColumnLengths]:
    """Token counts of prompts and answers, by column; of whole rows; and of pairs, how they differ."""
    from alignkit.data.chat.chat import make_chat
    from alignkit.data.looking.lengths import measure, summarise
    from alignkit.data.reading.read import Source
    from alignkit.pretrained.names import find_model

    settings = config_file.judge_settings(options, config, settings=set)
    chat = make_chat(find_model(settings.model.model, tokenizer_is_enough=True), settings.model)
    section = settings.data
    rows = Source(section.data, section.read_as, section.limit).rows(numbered=False)
    return summarise(measure(rows, chat))


def data_prepare(
    method: str,
    *,
    shard: str | None = None,
    ranks: int = 1,
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
