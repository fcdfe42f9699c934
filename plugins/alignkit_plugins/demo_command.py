"""The command `alignkit demo`: the tournament of the preset `demo`, with one seed. What `make quickstart` runs."""

from __future__ import annotations

from typing import Annotated, Any

import typer

Seed = Annotated[int, typer.Option("--seed", min=0, help="seed of data order and sampling")]
Out = Annotated[str, typer.Option("--out", metavar="DIR", help="the tournament's folder; one that is there goes on")]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]


def demo(ctx: typer.Context, seed: Seed = 16, out: Out = "runs/quickstart", json: Json = False) -> None:
    """Train SFT, SFT + length penalty, DPO and GRPO on demo tasks and compare them (tournament --preset demo)."""
    words = ["--preset=demo", f"--seeds={seed},", f"--out={out}", *(["--json"] if json else [])]
    commands: Any = ctx.find_root().command
    tournament = commands.get_command(ctx, "tournament")
    tournament.main(words, prog_name="alignkit tournament", standalone_mode=False)
