"""`alignkit`: the commands, and how an error ends one.

An `AlignkitError` is one line and its exit code; wrong use is 2; an interruption 130; a lost GPU 3. Anything else keeps
its traceback: an error in a plugin's code names the plugin and ends with 3, a bug of alignkit with 70.
"""

from __future__ import annotations

import errno
import gc
import importlib
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from alignkit.cli.commands import Commands
from alignkit.display import LogFormatter, fitted, on_one_line, shown
from alignkit.errors import AlignkitError, Interrupted, RunStopped, nearest
from alignkit.gpu import lost_gpu
from alignkit.progress import Progress
from alignkit.registry import COMMANDS, registry

_BUG = 70
_SHOWN = 60  # characters of a name that no file can have


class _Commands(Commands):
    """Lists alignkit's own commands in the order in which they are used, then what plugins add.

    A command's module is imported when that command is named; completing its name takes its line alone.
    """

    _completes = False

    def list_commands(self, ctx: Any) -> list[str]:
        return [*COMMANDS, *registry().names("command")]

    def about(self, ctx: Any, name: str) -> str:
        return COMMANDS[name] if name in COMMANDS else super().about(ctx, name)

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        self._completes = True
        try:
            return super().shell_complete(ctx, incomplete)
        finally:
            self._completes = False

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in COMMANDS and self._completes:
            return TyperCommand(cmd_name, help=COMMANDS[cmd_name])
        if cmd_name in COMMANDS:
            return _own_command(cmd_name)
        found = super().get_command(ctx, cmd_name)
        return _plugin_command(cmd_name) if found is None and cmd_name in registry().found["command"] else found


def _own_command(name: str) -> Any:
    """Return the click command of a module of this room."""
    alone = typer.Typer(rich_markup_mode=None, add_completion=False)
    importlib.import_module(f"alignkit.cli.{name}").add_to(alone)
    return typer.main.get_group(alone).commands[name]


def _plugin_command(name: str) -> Any:
    """Return the click command of what a plugin registered: a Typer app, or a function."""
    added: Any = registry().find("command", name)
    if isinstance(added, typer.Typer):
        return typer.main.get_command(added)
    single = typer.Typer(rich_markup_mode=None, add_completion=False)
    single.command(name)(added)
    return typer.main.get_command(single)


app = typer.Typer(
    name="alignkit",
    cls=_Commands,
    help="Align a small language model, and know honestly whether it became better.",
    rich_markup_mode=None,  # drawing by rich would take longer than all the rest of a --help
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _version(wanted: bool) -> None:
    if wanted:
        from alignkit import __version__

        print(__version__)
        raise typer.Exit()


@app.callback(invoke_without_command=True)
def start(
    ctx: typer.Context,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="log warnings only")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version and exit")
    ] = False,
) -> None:
    """Align a small language model, and know honestly whether it became better."""
    _log_to_stderr(logging.WARNING if quiet else logging.INFO)
    ctx.call_on_close(_stop_progress)
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())


def _stop_progress() -> None:
    if (progress := sys.modules.get("alignkit.cli.progress")) is not None:  # else nothing was drawn
        progress.stop_started()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = None if argv is None else list(argv)
    code = _ended(lambda: typer.main.get_command(app).main(args=words, prog_name="alignkit", standalone_mode=False))
    if argv is None:  # the process ends: looking for garbage in all of torch would take another second and more
        gc.freeze()
    return code


def piece(level: int, work: Callable[[Progress], None]) -> int:
    """Do a piece of a tournament in a process that is its own, and return the exit code as `main` would."""
    from alignkit.cli.progress import RichProgress

    _log_to_stderr(level)
    progress = RichProgress()

    def run() -> None:
        try:
            work(progress)
        finally:
            progress.stop()

    return _ended(run)


def log_level() -> int:
    """The level that `--quiet` asked for."""
    return logging.getLogger("alignkit").level


def _ended(run: Callable[[], object]) -> int:
    """Run something and return the exit code of how it ended; an error is printed."""
    try:
        code = run()
        sys.stdout.flush()
    except AlignkitError as error:
        if error.is_reported_by_rank0:
            return error.exit_code
        return _fail(error.line, error.exit_code, trace=error.trace)
    except typer.Abort:
        return _fail("interrupted", Interrupted.exit_code)
    except BrokenPipeError:  # the reader of our output has read enough, as in `alignkit data show | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if hasattr(error, "format_message"):  # typer's own errors: wrong use
            return _fail(_usage(error), 2)
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            return _fail(f"{str(error.filename)[:_SHOWN]}...: {error.strerror}; give another", 2)
        if (line := lost_gpu(error)) is not None:
            return _fail(line, RunStopped.exit_code)
        print(shown(traceback.format_exc()), end="", file=sys.stderr)
        if (fault := registry().fault_of(error)) is not None:
            return _fail(f"{fault}; its traceback is above", RunStopped.exit_code)
        return _fail("this is a bug: please report it with the lines above", _BUG)
    return code if isinstance(code, int) else 0


def _fail(message: str, code: int, *, trace: str = "") -> int:
    """Print an error as one line, below the traceback of a user's own function.

    A line end in an id or a name would begin a line that looks like ours: it is shown as \\n.
    """
    if trace:
        print(shown(trace), file=sys.stderr)
    kind = "" if code == Interrupted.exit_code else "error: "  # a person's wish is no error
    print(fitted(f"alignkit: {kind}{on_one_line(message)}", sys.stderr), file=sys.stderr)
    return code


def _usage(error: Exception) -> str:
    """Return typer's message on one line, with the nearest option and the --help to look at."""
    message = " ".join(error.format_message().split()).rstrip(".").replace("Value error, ", "")  # type: ignore[attr-defined]
    ctx = getattr(error, "ctx", None)
    if ctx is None:
        return message
    name = getattr(error, "option_name", None)
    keys = {"--" + key.rpartition(".")[2].replace("_", "-"): key for key in getattr(ctx.command, "keys", ())}
    if name in keys:
        message = f"{name} is no option but a key: type --set {keys[name]}=VALUE"
    elif name is not None:
        from alignkit.options import synonym

        flags = [flag for parameter in ctx.command.params for flag in (*parameter.opts, *parameter.secondary_opts)]
        known = [flag for flag in flags if flag.startswith("-")]
        ours = synonym(name, [*known, "--set"])
        if ours is None:  # dashes, which all have, bring no name nearer
            alike = [flag for flag in known if flag.startswith("--no-") == name.startswith("--no-")]
            hint = nearest(name.lstrip("-"), [flag.lstrip("-") for flag in alike]).replace("'", "'--", 1)
        else:
            hint = f"; here it is {ours}" if ours.startswith("--") else f"; {ours}"
        message = f"no such option: {name}{hint}"
    elif (swallowed := _flag_as_value(ctx)) is not None:
        message = swallowed
    elif message == "Missing command":
        message = f"{ctx.command_path}: say which: {', '.join(ctx.command.list_commands(ctx))}"
    return f"{message}; see `{ctx.command_path} --help`"


def _flag_as_value(ctx: Any) -> str | None:
    """Say which option was typed without its value, so that the next one was taken for it; None where none was."""
    options = [parameter for parameter in ctx.command.params if parameter.param_type_name == "option"]
    flags = {flag for option in options for flag in (*option.opts, *option.secondary_opts)}
    for option in options:
        value = ctx.params.get(option.name)
        if isinstance(value, str) and value in flags:
            what = "a number" if option.metavar in ("N", "NUMBER") else "a value"
            return f"{option.opts[0]} takes {what}, and {value} follows it: write it between them"
    return None


class _Stderr(logging.Handler):
    """Writes to the standard error of the moment, so that a progress bar can move out of the way."""

    def emit(self, record: logging.LogRecord) -> None:
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        line = f"{level}{self.format(record)}"
        print(line if "\n" in line else fitted(line, sys.stderr), file=sys.stderr)


def _log_to_stderr(level: int) -> None:
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h, _Stderr)]:
        root.removeHandler(handler)
    handler = _Stderr()
    handler.setFormatter(LogFormatter())
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("alignkit").setLevel(level)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # which peft imports: it misses a kernel for CPUs
