"""`alignkit tournament`: several ways to train, over seeds, in one table."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alignkit.cli.options import NUM_PROMPTS, SAMPLER, SAMPLING, Command, Group, Json, Set, with_options
from alignkit.config.settings import DataSection, JudgeSection, ModelSection, TournamentSection
from alignkit.display import json_shown, on_one_line
from alignkit.errors import RunStopped, UsageError

if TYPE_CHECKING:
    from alignkit.tournaments.results import Results

File = Annotated[
    str | None, typer.Argument(metavar="[FILE.toml]", help="an alignkit.toml with [tournament] and [entrants.NAME]")
]
Out = Annotated[str, typer.Option("--out", metavar="DIR", help="the tournament's folder; one that is there goes on")]
Preset = Annotated[str | None, typer.Option("--preset", metavar="NAME", help="a plugin's tournament: paper, demo")]
Seeds = Annotated[str | None, typer.Option("--seeds", metavar="N|A,B,...", help="so many training seeds, or these")]
Vs = Annotated[
    list[str] | None,
    typer.Option(
        "--vs", metavar="NAME", help="an opponent: an entrant, a model, or start (each one's own); repeatable"
    ),
]
Sweep = Annotated[
    list[str] | None,
    typer.Option(
        "--sweep",
        metavar="KEY=VALUES",
        help="entrants of an option's values, the winner picked on prompts of its own: train.dpo.beta=0.05,0.1; "
        "with --draws also LOW..HIGH; repeatable",
    ),
]
Draws = Annotated[int | None, typer.Option("--draws", metavar="N", min=1, help="random points of --sweep's grid")]
Halvings = Annotated[
    int,
    typer.Option(
        "--halvings",
        metavar="N",
        min=0,
        help="leave the worse half of a sweep behind so many times: at half of the steps, at a quarter and half, ...",
    ),
]
Jobs = Annotated[int, typer.Option("--jobs", metavar="N", min=1, help="runs at once, one a GPU")]
Fresh = Annotated[
    list[str] | None,
    typer.Option("--fresh", metavar="ENTRANT", help="train this one anew; what is there is kept beside"),
]
Plan = Annotated[bool, typer.Option("--plan", help="print time, memory, disk and money, and exit; steps are measured")]
Yes = Annotated[bool, typer.Option("--yes", help="send paid requests without asking")]
Only = Annotated[
    str | None,
    typer.Option(
        "--only", metavar="NAME/SEED", help="do this piece alone, as a job of a cluster; the table comes later"
    ),
]


@with_options(
    Group("Tournament", TournamentSection, ("steps", "tokens", "minutes", "test", "second", "off_task")),
    Group("Data", DataSection, ("data", "split", "limit", "max_length")),
    Group("Model", ModelSection, ("model", "precision", "lora_rank")),
    Group("Judging", JudgeSection, ("judge", "cluster")),
    NUM_PROMPTS,
    SAMPLING,
    SAMPLER,
)
def tournament(
    *,
    ctx: typer.Context,
    given: dict[str, Any],
    file: File = None,
    out: Out = "runs/tournament",
    preset: Preset = None,
    seeds: Seeds = None,
    vs: Vs = None,
    sweep: Sweep = None,
    draws: Draws = None,
    halvings: Halvings = 0,
    jobs: Jobs = 1,
    fresh: Fresh = None,
    plan: Plan = False,
    yes: Yes = False,
    only: Only = None,
    json: Json = False,
    set_: Set = None,
) -> None:
    """Train several ways on the same rows, over seeds, judge all alike, and say which are better."""
    from alignkit.api import tournaments
    from alignkit.cli.main import log_level, piece
    from alignkit.cli.progress import RichProgress

    options = given | ({} if seeds is None else {"seeds": _seeds(seeds)}) | ({"vs": vs} if vs else {})
    made = tournaments.made_of(
        Path(file) if file else None,
        preset=preset,
        options=options,
        set=set_ or [],
        sweep=sweep or [],
        draws=draws,
        halvings=halvings,
    )
    folder, progress = Path(out), RichProgress()
    try:
        if plan:
            lines = tournaments.tournament_plan(made, folder, jobs=jobs, yes=yes, progress=progress)
            print(*map(on_one_line, lines), sep="\n")
            return
        if only is not None:
            tournaments.tournament_piece(made, folder, only, progress=progress, yes=yes)
            return
        results = tournaments.run_made(
            made,
            folder,
            progress=progress,
            child=partial(piece, log_level()),
            words=_words(ctx),
            jobs=jobs,
            fresh=fresh or [],
            yes=yes,
        )
    finally:
        progress.stop()
    show(results, folder, json=json)


def show(results: Results, folder: Path, *, json: bool = False) -> None:
    """Print the table.

    Raises:
        RunStopped: an entrant failed; the table says which.
    """
    text = (folder / ("table.json" if json else "table.txt")).read_text(encoding="utf-8")
    print(json_shown(text) if json else "\n".join(map(on_one_line, text.split("\n"))), end="")
    if not json:
        print(on_one_line(folder))
    if results.failed:
        (name, seed), reason = next(iter(results.failed.items()))
        more = f", and {len(results.failed) - 1} more" if len(results.failed) > 1 else ""
        raise RunStopped(f"{name} with seed {seed} failed{more}: {reason}; the same command tries again")


def _seeds(text: str) -> int | list[int]:
    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UsageError(f"--seeds {text}: give a number of seeds, or seeds with commas: 3, or 16,17, or 16,") from None
    return numbers if "," in text else numbers[0]


def _words(ctx: typer.Context) -> list[str]:
    """What was typed, without what says only how: what makes the table again."""
    words: list[str] = []
    for parameter in ctx.command.params:
        name = str(parameter.name)
        source = ctx.get_parameter_source(name)
        if source is None or source.name != "COMMANDLINE" or name in {"out", "jobs", "fresh", "plan", "json", "only"}:
            continue
        value = ctx.params[name]
        if parameter.param_type_name == "argument":
            words.append(str(value))
        elif isinstance(value, bool):
            words.append(parameter.opts[0] if value else parameter.secondary_opts[0])
        else:
            for one in value if isinstance(value, list | tuple) else [value]:
                words.append(f"{parameter.opts[0]}={one}")
    return words


def add_to(app: typer.Typer) -> None:
    app.command("tournament", cls=Command)(tournament)
