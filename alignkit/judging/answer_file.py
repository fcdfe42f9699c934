"""A file of answers, JSON lines, to be gone on with: FILE is whole or not there, `.FILE.unfinished` is what there is.

The unfinished file's first line says how its answers were drawn; once FILE is whole, `.FILE.drawn` beside it does, with
FILE's hash. A resume by another model, other settings or, of a whole file, for other prompts is refused, and so is a
file that alignkit did not write: none of these is touched. Answers stand in the unfinished file as they were drawn, in
FILE in the order of the rows, so that an interrupted file ends up the same as another.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alignkit.errors import InputError, UsageError
from alignkit.storage import file_hash, open_private, read_object, write_atomically
from alignkit.tracking import split_lines

_TYPES = {"id": str, "prompt": list, "completion": str, "num_tokens": int, "num_prompt_tokens": int, "finish": str}
Prompts = Sequence[tuple[str, Sequence[Mapping[str, Any]]]]
"""A row's id and its prompt, each."""


class AnswerFile:
    """Answers by row id, on their way into a file; nothing is written before `begin`.

    Args:
        path: the file.
        settings: the model and how answers are drawn, of JSON types.
        prompts: what is to be answered, in the file's order.
        resume: go on with what there is.

    Raises:
        UsageError: there is a file or a part already and `resume` is not set, it was drawn otherwise, or it is none of
            alignkit's.
        InputError: the part, or what stands beside a whole file, is damaged.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], prompts: Prompts, *, resume: bool) -> None:
        self.path, self._part = path, path.with_name(f".{path.name}.unfinished")
        self._about = path.with_name(f".{path.name}.drawn")
        self.is_finished = path.exists() or path.is_symlink()
        self._settings: dict[str, Any] = json.loads(json.dumps(dict(settings)))  # as they come back from a file
        self._ids = [id_ for id_, _ in prompts]
        self._prompts_sha256 = _hash_of(prompts)
        self.known: dict[str, dict[str, Any]] = {}
        if not resume and (self.is_finished or self._part.exists()):
            there = path if self.is_finished else f"{self._part} (an unfinished one)"
            raise UsageError(f"--out {path}: {there} is there already; go on with --resume, or name another file")
        if self.is_finished:
            self._check_finished()
        elif self._part.exists():
            self._read()

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

    def finish(self) -> None:
        """Write the file in the order of the prompts, say beside it how it was drawn, and remove the part."""
        text = "".join(json.dumps(self.known[id_], ensure_ascii=False) + "\n" for id_ in self._ids)
        about = {
            "settings": self._settings,
            "prompts_sha256": self._prompts_sha256,
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
        }
        write_atomically(self._about, json.dumps(about, indent=1, ensure_ascii=False) + "\n", private=True)
        write_atomically(self.path, text, private=True)
        self._part.unlink(missing_ok=True)
        self.is_finished = True

    def _check_finished(self) -> None:
        """Refuse a file that is not, to the byte, what this call would write."""
        if not self.path.is_file() or not self._about.exists():
            raise UsageError(
                f"--resume: {self.path} is no file of answers that alignkit finished ({self._about.name} is not beside "
                "it); name another file"
            )
        about = read_object(self._about)
        drawn, prompts, written = (about.get(key) for key in ("settings", "prompts_sha256", "sha256"))
        if not isinstance(drawn, dict) or not isinstance(prompts, str) or not isinstance(written, str):
            raise InputError(f"{self._about}: does not say how {self.path} was drawn; name another file with --out")
        if file_hash(self.path) != written:
            raise UsageError(f"--resume: {self.path} was changed after it was drawn; name another file")
        self._refuse_changes(self.path, drawn)
        if prompts != self._prompts_sha256:
            raise UsageError(f"--resume: {self.path} answers other prompts than these; name another file")

    def _read(self) -> None:
        try:
            content = self._part.read_bytes()
        except OSError as error:
            raise InputError(f"{self._part}: cannot be read ({error.strerror}); remove it and begin anew") from error
        whole, _, torn = content.rpartition(b"\n")
        try:
            first, *lines = [json.loads(line) for line in split_lines(whole.decode("utf-8"))]
        except (ValueError, RecursionError):
            first, lines = None, []
        drawn = first.get("settings") if isinstance(first, dict) else None
        if not isinstance(drawn, dict) or not all(_is_answer(line) for line in lines):
            raise InputError(f"{self._part}: not an unfinished file of answers; remove it and begin anew")
        self._refuse_changes(self._part, drawn)
        self.known = {line["id"]: line for line in lines}
        if torn:  # a line that a killed process did not finish
            with open(self._part, "rb+") as file:
                file.truncate(len(whole) + 1)

    def _refuse_changes(self, file: Path, drawn: Mapping[str, Any]) -> None:
        settings = self._settings
        changed = [key for key in sorted({*drawn, *settings}) if drawn.get(key) != settings.get(key)]
        if changed:
            was = "; ".join(f"{key} was {_shown(drawn.get(key))}, is {_shown(settings.get(key))}" for key in changed)
            todo = "name another file" if file is self.path else "remove it"
            raise UsageError(f"--resume: {file} was drawn otherwise ({was}): {todo}, or set these as they were")

    def _write(self, lines: Sequence[Mapping[str, Any]], *, mode: str) -> None:
        try:
            with open(self._part, mode, encoding="utf-8", opener=open_private) as file:
                file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        except OSError as error:
            raise UsageError(
                f"--out {self.path}: cannot be written ({error.strerror}); name another file, or make room"
            ) from error


def _is_answer(line: object) -> bool:
    return isinstance(line, dict) and all(type(line.get(key)) is kind for key, kind in _TYPES.items())


def _hash_of(prompts: Prompts) -> str:
    text = json.dumps([[id_, [dict(message) for message in prompt]] for id_, prompt in prompts], sort_keys=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _shown(value: Any) -> str:
    """A setting on one line; of a hash, its beginning."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:13]}..."
