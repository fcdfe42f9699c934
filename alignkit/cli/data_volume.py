"""`alignkit data lengths`, `prepare` and `overlap`: what is in much data, seen as a whole."""

from __future__ import annotations

import json as json_module
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alignkit.cli.options import Command, Config, Group, Json, Method, Set, with_options
from alignkit.config.settings import DataSection, ModelSection
from alignkit.display import on_one_line

if TYPE_CHECKING:
    from alignkit.data.looking.lengths import ColumnLengths
    from alignkit.data.looking.overlap import Overlap

_ROWS = Group("Data", DataSection, ("data", "columns", "ignore_fields", "limit"))
_TEXT = Group("Model", ModelSection, ("model", "chat_template", "system", "template_kwargs"))
_BAR_WIDTH = 40
_SHOWN = 20
_OF_PAIRS = {
    "paired": "are a good and a bad answer to the same prompt (labelled rows)",
    "ties_kept": "are ties",
    "reversed": "have scores (or a margin) that prefer the rejected answer",
    "unscored": "have no scores",
}


def add_volume_commands(data: typer.Typer) -> None:
    data.command("lengths", cls=Command)(lengths)
    data.command("prepare", cls=Command)(prepare)
    data.command("overlap", cls=Command)(overlap)


@with_options(_ROWS, _TEXT)
def lengths(
    *,
    ctx: typer.Context,
    given: dict[str, Any],
    method: Method = None,
    json: Json = False,
    config: Config = None,
    set_: Set = None,
) -> None:
    """Show how long the texts of each column are in tokens, and how many a row length would cut."""
    from alignkit.cli.progress import starting

    progress = starting()
    from alignkit import api

    columns = api.data_lengths(method=method, config=Path(config) if config else None, set=set_ or [], **given)
    progress.stop()
    if json:
        print(json_module.dumps([asdict(column) for column in columns]))
    else:
        _show_lengths(columns)


def _show_lengths(columns: Sequence[ColumnLengths]) -> None:
    from alignkit.cli.terminal import print_table
    from alignkit.data.looking.lengths import DIFFERENCE, ROW

    titles = ("column", "texts", "mean", "min", "50 %", "90 %", "99 %", "max")
    rows = [[c.column, *(f"{n:,.0f}" for n in (c.count, c.mean, c.min, c.p50, c.p90, c.p99, c.max))] for c in columns]
    print_table(titles, [(row, "") for row in rows], right=titles[1:])
    for column in columns:
        print(f"\n{on_one_line(column.column)}, tokens")
        for low, high, count in zip(column.edges, column.edges[1:], column.counts, strict=False):
            bar = "\N{FULL BLOCK}" * round(_BAR_WIDTH * count / max(column.counts))
            print(f"{f'{low:,} to {high - 1:,}':>18} {count:>8,} {bar}")
        if column.column == DIFFERENCE:
            continue
        cuts = (f"{limit:,}: {count:,} ({100 * count / column.count:.1f} %)" for limit, count in column.over.items())
        print(f"{'will be cut' if column.column == ROW else 'longer than'} at {', at '.join(cuts)}")


@with_options(Group("Data", DataSection), _TEXT)
def prepare(
    *,
    ctx: typer.Context,
    given: dict[str, Any],
    method: Annotated[str, typer.Option("--method", metavar="METHOD", help="the method that will train")],
    shard: Annotated[
        str | None,
        typer.Option("--shard", metavar="I/N", help="every N-th row only, from the I-th; all N make the whole"),
    ] = None,
    ranks: Annotated[int, typer.Option("--ranks", help="share the rows of an epoch among so many ranks")] = 1,
    json: Json = False,
    config: Config = None,
    set_: Set = None,
) -> None:
    """Tokenize rows into the cache before a run, and say what is cut, skipped and how full the rows are.

    `alignkit train METHOD` with the same options then starts at once.
    """
    from alignkit.cli.progress import starting

    progress = starting()
    from alignkit import api

    file = Path(config) if config else None
    try:
        account = api.data_prepare(
            method, shard=shard, ranks=ranks, progress=progress, config=file, set=set_ or [], **given
        )
    finally:
        progress.stop()
    if json:
        print(json_module.dumps(account))
    else:
        _show_account(account)


def _show_account(account: Mapping[str, Any]) -> None:
    from alignkit.cli.terminal import print_table

    parts = [account[name] for name in ("training", "validation")]
    figures = {
        "rows used": [part["used"] for part in parts],
        "tokens": [part["tokens"] for part in parts],
        "cut": [part["cut"] for part in parts],
        "dropped": [part["dropped"] for part in parts],
        "left out": [len(part["left_out"]) for part in parts],
        "skipped": [len(part["skipped"]) for part in parts],
        "tokenized otherwise": [part["tokenized_otherwise"] for part in parts],
    }
    rows = [([name, *(f"{n:,}" for n in numbers)], "") for name, numbers in figures.items()]
    rows.append((["from the cache", *("yes" if part["from_cache"] else "no" for part in parts)], ""))
    titles = ("", "training", "validation")
    print_table(titles, rows, right=titles[1:])
    for name in ("training", "validation"):
        for key, what in (("left_out", "left out"), ("skipped", "skipped")):
            for reason, count in Counter(account[name][key].values()).most_common():
                print(on_one_line(f"{name}: {count:,} {what}: {reason}"))
        for key, what in _OF_PAIRS.items():
            if count := account[name][key]:
                print(f"{name}: {count:,} of the pairs used {what}")
    for key, what in (("ends_with_user", "end with the user"), ("user_twice", "have two user turns in a row")):
        if count := sum(account[name][key] for name in ("training", "validation")):
            print(f"conversations that {what}, of which the answers are trained on: {count:,}")
    print(f"rows that repeat an earlier one exactly: {account['duplicates']:,}")
    if "fill" in account:
        many, capacity = account["rows"], account["micro_batch_tokens"]
        print(f"packed per step: {many:,} rows of {capacity:,} tokens, {100 * account['fill']:.2f} % full")
        if account["ranks"] > 1:
            print(f"{account['ranks']} ranks: the most loaded computes {account['balance']:.4f} times the mean")
    print(f"{account['seconds']:.1f} s")


@with_options(_ROWS)
def overlap(
    *,
    ctx: typer.Context,
    given: dict[str, Any],
    other: Annotated[str, typer.Option("--with", metavar="OTHER", help="the prompts to look for, named as --data is")],
    words: Annotated[int | None, typer.Option("--words", help="words of a run; default: 8")] = None,
    share: Annotated[
        float | None, typer.Option("--share", min=0.001, max=1.0, help="share of a prompt's runs; default: 0.5")
    ] = None,
    json: Json = False,
    config: Config = None,
    set_: Set = None,
) -> None:
    """Find prompts of OTHER that stand in the data, run of words by run of words."""
    from alignkit.cli.progress import starting

    progress = starting()
    from alignkit import api

    found = api.data_overlap(
        other, size=words, threshold=share, config=Path(config) if config else None, set=set_ or [], **given
    )
    progress.stop()
    if json:
        print(json_module.dumps(asdict(found)))
    else:
        _show_overlap(found, other)


def _show_overlap(overlap: Overlap, other: str) -> None:
    from alignkit.cli.terminal import print_table

    if overlap.found:
        titles = (f"row of {other}", "share", "first row with a run of it")
        rows = [((found.id, f"{100 * found.share:.0f} %", found.first), "") for found in overlap.found[:_SHOWN]]
        print_table(titles, rows, right=("share",))
    print(
        f"{len(overlap.found):,} of {overlap.num_prompts:,} prompts share at least {100 * overlap.threshold:.0f} % of "
        f"their runs of {overlap.size} words with the {overlap.num_rows:,} rows"
    )
