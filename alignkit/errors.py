"""The errors a user can meet, each with the exit code it ends a command with.

An `AlignkitError` is printed as one line, without a traceback; any other exception is a bug and keeps its own.
"""

from __future__ import annotations

_MAX_LINE = 200  # characters of a reason


class AlignkitError(Exception):
    """What is wrong, where, and what to do. Ends a command with `exit_code`.

    `trace` is the traceback of a user's own function, where one failed: it is shown above the line.
    """

    exit_code = 2
    is_reported_by_rank0 = False  # of several ranks: the first one prints it
    corrects: str | None = None  # what mending it changes: the KEY of --allow-changed that a resume then needs
    trace: str = ""

    @property
    def line(self) -> str:
        """The message without the traceback."""
        return super().__str__()

    def __str__(self) -> str:
        return f"{self.trace}\n{self.line}" if self.trace else self.line


class UsageError(AlignkitError):
    """A wrong option, key, name or combination of them."""


class InputError(AlignkitError):
    """A file, row, model folder or template that cannot be used as it is."""


class RunStopped(AlignkitError):
    """A run that stopped and says why: a dead judge, no memory, no disk, a non-finite loss, a failed check."""

    exit_code = 3


class Interrupted(AlignkitError):
    """Ctrl-C or SIGTERM, after the run was saved."""

    exit_code = 130


def nearest(name: str, known: list[str], *, cutoff: float = 0.5) -> str:
    """Return "; did you mean 'x'?" for the known name closest to `name`, or "" where none is close.

    Args:
        cutoff: least likeness, from 0 to 1 (difflib's ratio).
    """
    import difflib

    close = difflib.get_close_matches(name, known, n=1, cutoff=cutoff)
    return f"; did you mean {close[0]!r}?" if close else ""


def first_line(error: BaseException) -> str:
    """Return an exception's first line, with the second one where the first announces it."""
    first, *later = str(error).strip().splitlines() or [type(error).__name__]
    return (f"{first} {later[0].strip()}" if later and first.endswith(":") else first)[:_MAX_LINE]
