"""`alignkit vote`: people say which answer is better."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alignkit.cli.options import (
    NUM_PROMPTS,
    ROWS,
    SAMPLER,
    SAMPLING,
    TEXT,
    THINKING,
    Command,
    Config,
    Group,
    Set,
    with_options,
)
from alignkit.config.settings import JudgeSection
from alignkit.errors import Interrupted, UsageError

if TYPE_CHECKING:
    from alignkit.voting.server import VoteServer

Model = Annotated[str | None, typer.Argument(metavar="[RUN|MODEL]", help="default: the newest finished run")]
Name = Annotated[str, typer.Option("--name", metavar="NAME", help="your name, kept with your votes")]
Port = Annotated[int, typer.Option("--port", min=0, max=65_535, help="port of the page; 0 takes a free one")]
Listen = Annotated[
    str,
    typer.Option("--listen", metavar="ADDRESS", help="open the page to the network of this address of your machine"),
]
Favour = Annotated[
    list[str] | None,
    typer.Option(
        "--favour",
        metavar="JUDGE",
        help="ask sooner about pairs on which these judges' scores in the ledger disagree; at least two, one each time",
    ),
]
Export = Annotated[
    str | None,
    typer.Option("--export", metavar="FILE", help="write what was voted as preference rows, for train dpo --data FILE"),
]

Import = Annotated[
    str | None,
    typer.Option(
        "--import",
        metavar="FILE",
        help="keep votes cast elsewhere, CSV or JSONL: first, second (both answers), choice (first, second, tie, "
        "skip), voter",
    ),
]


@with_options(Group("Voting", JudgeSection, ("vs",)), NUM_PROMPTS, ROWS, TEXT, SAMPLING, THINKING, SAMPLER)
def vote(
    *,
    ctx: typer.Context,
    given: dict[str, Any],
    model: Model = None,
    name: Name = "",
    port: Port = 0,
    listen: Listen = "127.0.0.1",
    favour: Favour = None,
    export: Export = None,
    import_: Import = None,
    config: Config = None,
    set_: Set = None,
) -> None:
    """Vote on two models' answers, blind, on a local page; Ctrl-C ends it, the same command goes on."""
    from alignkit.cli.progress import starting

    progress = starting()
    from alignkit import api

    if export is not None:
        if model is not None or given or favour or import_:
            raise UsageError("--export writes every vote in the ledger: leave out the models and their options")
        written = api.vote_export(export)
        progress.stop()
        print(
            f"{written.num_rows} {'pair' if written.num_rows == 1 else 'pairs'} written to {export}; left out: "
            f"{written.num_even} on which votes are even, {written.num_skipped} that everybody skipped"
        )
        return
    if favour is not None and len(favour) < 2:
        raise UsageError("--favour: one judge alone cannot disagree; name at least two")

    def ready(server: VoteServer) -> None:
        progress.stop()
        print(f"open {server.address}", flush=True)
        who = (
            f"everybody whose machine reaches {listen} and who has this address can read the answers and vote"
            if server.is_open
            else "this machine alone can open it"
        )
        print(f"{who}; Ctrl-C ends it, and the same command goes on", flush=True)

    try:
        done = api.vote(
            model,
            name=name,
            listen=listen,
            port=port,
            favour=favour or [],
            ready=ready,
            import_from=import_,
            config=Path(config) if config else None,
            set=set_ or [],
            progress=progress,
            **given,
        )
    except KeyboardInterrupt:
        raise Interrupted(
            "interrupted before the page was served; votes cast so far are kept, and the same command begins again"
        ) from None
    finally:
        progress.stop()
    if done is None:
        print("ended; every vote that the page confirmed is kept, and the same command goes on")
    else:
        known = f", {done.num_known} already there" if done.num_known else ""
        print(f"{done.num_new} new {'vote' if done.num_new == 1 else 'votes'} from {import_}{known}")


def add_to(app: typer.Typer) -> None:
    app.command("vote", cls=Command)(vote)
