"""A file of answers, JSON lines, to be gone on with: FILE is whole or not there, `.FILE.unfinished` is what there is.

Its first line says how its answers were drawn; a resume under other settings is refused. Answers stand in
it as they were drawn, in FILE in the order of the rows, so that an interrupted file ends up the same as another.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alignkit.errors import InputError, UsageError
from alignkit.storage import write_atomically
from alignkit.tracking import split_lines


class AnswerFile:
    """Answers by row id, on their way into a file; nothing is written before `begin`.

    Args:
        path: the file.
        settings: how answers are drawn, of JSON types.
        resume: go on with what there is.

    Raises:
        UsageError: there is a file or a part already and `resume` is not set, or it was drawn otherwise.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], *, resume: bool) -> None:
        self.path, self._part = path, path.with_name(f".{path.name}.unfinished")
        self.is_finished = path.exists()
        self._settings = dict(settings)
        self.known: dict[str, dict[str, Any]] = {}
        if not resume and (self.is_finished or self._part.exists()):
            there = path if self.is_finished else f"{self._part} (an unfinished one)"
            raise UsageError(f"--out {path}: {there} is there already; go on with --resume, or name another file")
        if not self.is_finished and self._part.exists():
            self._read(settings)

    def begin(self) -> None:
        """Write the first line, where there is none yet.

        Raises:
            UsageError: the file cannot be written.
        """
        if not self._part.exists():
            self._write([{"settings": self._settings}], mode="x")

    def add(self, answers: Sequence[Mapping[str, Any]]) -> None:
        """Append answers, on the disk before the next are drawn."""
        self._write(answers, mode="a")
        self.known |= {str(answer["id"]): dict(answer) for answer in answers}

    def finish(self, ids: Sequence[str]) -> None:
        """Write the file, in that order of row ids, and remove the part."""
        lines = [json.dumps(self.known[id_], ensure_ascii=False) + "\n" for id_ in ids]
        write_atomically(self.path, "".join(lines))
        self._part.unlink()
        self.is_finished = True

    def _read(self, settings: Mapping[str, Any]) -> None:
        text = self._part.read_bytes().decode("utf-8", "replace")
        whole, _, torn = text.rpartition("\n")
        try:
            first, *lines = [json.loads(line) for line in split_lines(whole)]
            drawn = first["settings"]
            self.known = {str(line["id"]): line for line in lines}
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self._part}: not an unfinished file of answers; remove it and begin anew") from error
        changed = [key for key in sorted({*drawn, *settings}) if drawn.get(key) != settings.get(key)]
        if changed:
            was = "; ".join(f"{key} was {drawn.get(key)!r}, is {settings.get(key)!r}" for key in changed)
            raise UsageError(
                f"--resume: {self._part} was drawn otherwise ({was}): remove it, or set these as they were"
            )
        if torn:  # a line that a killed process did not finish
            with open(self._part, "rb+") as file:
                file.truncate(len(whole.encode("utf-8", "replace")) + 1)

    def _write(self, lines: Sequence[Mapping[str, Any]], *, mode: str) -> None:
        try:
            with open(self._part, mode, encoding="utf-8") as file:
                file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        except OSError as error:
            raise UsageError(
                f"--out {self.path}: cannot be written ({error.strerror}); name another file, or make room"
            ) from error
