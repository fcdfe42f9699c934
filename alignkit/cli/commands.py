"""A group of commands: its --help has a line for each, in text that no width cuts."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

from alignkit.errors import nearest


class Commands(TyperGroup):
    """A group whose --help lists each command with the first sentence of its help, whole."""

    def about(self, ctx: Any, name: str) -> str:
        """Return what --help says of one of the commands."""
        command: Any = self.get_command(ctx, name)
        return str(command.get_short_help_str(limit=1000))

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, self.about(ctx, name)) for name in self.list_commands(ctx)])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if not ctx.resilient_parsing and self.get_command(ctx, args[0]) is None:
            ctx.fail(f"no such command: {args[0]}{nearest(args[0], self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)
