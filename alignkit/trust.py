"""Nothing runs and nothing is sent just because a file in a folder names it.

An alignkit.toml, or the run.json that `--like` reads, may come with a folder from anywhere. What it names counts only
after the user agreed to it once: files whose code is run, addresses that texts or weights are sent to, environment
variables whose key goes along, judges that cost money, folders that are written to. What is typed (an option, --set, a
Python argument) needs no agreement.

Agreed is what is *named*, for one folder: another name asks again, an edit inside a named file does not. The record is
the user's own, `trust.json` in alignkit's folder of the user's configuration; `alignkit trust` shows and writes it.

A relative name stands for what it is in the working folder of the command that reads it, also where `--config` or
`--like` reads it from elsewhere. `alignkit trust FOLDER` agrees for commands that are started in that folder.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from alignkit import progress
from alignkit.config.file import Settings, judge_settings, run_settings
from alignkit.config.layers import Given
from alignkit.config.source import FILE_NAME
from alignkit.display import on_one_line
from alignkit.errors import InputError, RunStopped, UsageError
from alignkit.progress import is_first_rank
from alignkit.registry import registry
from alignkit.runs import FILE as RUN_FILE
from alignkit.storage import read_object, write_atomically

Kind = Literal["code", "address", "key", "cost", "folder"]
_SPECS = {("rollouts", "reward"): "reward", ("judge", "judge"): "judge"}
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")  # an option of a plugin that is one
_ARROW = " -> "  # between a key's variable and its address, agreed to together
_VERSION = 1


@dataclass(frozen=True)
class Named:
    """One thing that a file names: `name` is what is recorded, `path` and `place` say where it stands.

    `base` is the folder that relative names were looked for from. A key `is_split` where its variable and its address
    are not both this file's: the file alone does not name it.
    """

    kind: Kind
    name: str
    path: tuple[str, ...]
    place: str
    file: Path
    base: Path
    is_split: bool = False

    @property
    def folder(self) -> Path:
        return _resolved(self.file.parent)

    @property
    def recorded(self) -> str:
        return f"{self.kind} {self.name}"

    @property
    def is_absent(self) -> bool:
        """Whether it is code and there is no such file: agreeing to it would be agreeing to a wrong place."""
        return self.kind == "code" and not os.path.isfile(self.name)

    def __str__(self) -> str:
        variable, _, url = self.name.partition(_ARROW)
        said = {
            "code": f"the code of {self.name} is run",
            "address": f"requests go to {self.name}",
            "key": f"the key in {variable} goes to {url}",
            "cost": f"{self.name} costs money",
            "folder": f"{self.name} is written to",
        }[self.kind]
        return on_one_line(f"{self.place}: {'.'.join(self.path)}: {said}")


def named(settings: Settings, base: Path | None = None) -> list[Named]:
    """Everything that the files behind these settings name, typed values left out.

    Args:
        base: the folder that a command which reads the files is started in; None is the working folder.
    """
    base = _resolved(Path() if base is None else base)
    found: list[Named] = []
    for path, given in settings.from_files.items():
        if given.file is None:
            continue

        def add(
            kind: Kind,
            name: str,
            *,
            is_split: bool = False,
            path: tuple[str, ...] = path,
            given: Given = given,
            file: Path = given.file,
        ) -> None:
            found.append(Named(kind, name, path, given.place, file, base, is_split))

        if path in _SPECS:
            for spec in given.value if isinstance(given.value, list) else [given.value]:
                for kind, name in _of_spec(str(spec), base):
                    add(kind, name)
        elif path == ("rollouts", "servers"):
            for url in _texts(given.value):
                add("address", url)
        elif path == ("rollouts", "server_weights"):
            if given.value is not None and not str(given.value).startswith("vllm:"):
                add("folder", _absolute(str(given.value), base))
        elif len(path) == 3 and path[0] in ("judge", "train"):
            usual = _usual_addresses(path)
            for text in _texts(given.value):
                if text.rstrip("/") not in usual and (path[2] == "base_url" or _ADDRESS.match(text)):
                    add("address", text.rstrip("/"))
            for pair in _key_pairs(settings, path, usual):
                add("key", pair, is_split=_is_split(settings, path))
    return list({(one.path, one.recorded): one for one in found}.values())


def named_by(file: Path) -> list[Named]:
    """What one file names: alignkit.toml for commands started in its own folder, another file for those started here.

    Raises:
        AlignkitError: it cannot be read, or holds what alignkit.toml may not.
    """
    if file.name == RUN_FILE:
        return named(run_settings(file.parent))
    return named(judge_settings({}, file), file.parent if file.name == FILE_NAME else None)


def require(settings: Settings, *paths: tuple[str, ...]) -> None:
    """Go on only where the user agreed to what files name at these paths: ("judge", "llm") covers its whole table.

    On a terminal the user is asked, about all that the folder names, and the answer is kept.

    Raises:
        UsageError: it was not agreed to; with the command that does it.
        InputError: a file of code is not there.
    """
    wanted = [one for one in named(settings) if any(one.path[: len(path)] == path for path in paths)]
    for one in wanted:
        if one.is_absent:
            raise InputError(absence(one))
    missing = _unknown(wanted)
    if not missing:
        return
    folders = {one.folder for one in missing}
    if not (is_first_rank() and sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(_refusal(missing))
    for folder in folders:
        asked = _unknown([one for one in named(settings) if one.folder == folder and not one.is_absent])
        if not ask(folder, asked):
            raise UsageError(f"{on_one_line(folder)}: that was not agreed to; nothing was run and nothing was sent")
        record(asked)


def absence(one: Named) -> str:
    """One line: a file of code that is not there, and where it was looked for."""
    return on_one_line(
        f"{one.place}: {'.'.join(one.path)}: {one.name}: no such file; a relative name is looked for from {one.base}: "
        f"start in the folder that it is meant for, or give its full path"
    )


def ask(folder: Path, asked: Sequence[Named]) -> bool:
    """Show what a folder names, and ask on the terminal."""
    progress.undraw()
    print(f"{on_one_line(folder)} names, and you did not agree to it before:", file=sys.stderr)
    for one in _once(asked):
        print(f"  {one}", file=sys.stderr)
    return progress.ask("agree to that for this folder? [y/N] ") in ("y", "yes")


def record(agreed: Sequence[Named]) -> None:
    """Keep what was agreed to, beside what was before.

    Raises:
        UsageError: the user's configuration cannot be written.
    """
    if not agreed:
        return
    with _changing() as folders:
        for one in agreed:
            names = folders.setdefault(str(one.folder), [])
            if one.recorded not in names:
                names.append(one.recorded)


def forget(folder: Path) -> int:
    """Take back what was agreed to for a folder; returns how many names that were."""
    with _changing() as folders:
        return len(folders.pop(str(_resolved(folder)), []))


def recorded() -> dict[str, list[str]]:
    """What was agreed to, by folder.

    Raises:
        InputError: the record is damaged.
    """
    path = record_path()
    if not path.exists():
        return {}
    try:
        content = read_object(path)
    except InputError as error:
        raise InputError(_damaged(path)) from error
    folders = content.get("folders") if content.get("version") == _VERSION else None
    if not isinstance(folders, dict):
        raise InputError(_damaged(path))
    if not all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in folders.values()):
        raise InputError(_damaged(path))
    return folders


def record_path() -> Path:
    """`trust.json` in the user's configuration.

    Raises:
        UsageError: there is no home folder.
    """
    base = os.environ.get("XDG_CONFIG_HOME", "")
    try:
        folder = Path(base) if os.path.isabs(base) else Path.home() / ".config"
    except RuntimeError as error:
        raise UsageError("there is no home folder for what you agree to: set HOME or XDG_CONFIG_HOME") from error
    return folder / "alignkit" / "trust.json"


def _of_spec(spec: str, base: Path) -> Iterator[tuple[Kind, str]]:
    """What a judge's SPEC names: the file whose code it runs, or a judge that costs."""
    target = spec.rpartition("=")[0] if "=" in spec else spec
    file = target.rpartition(":")[0]
    if file.endswith(".py") or target.endswith(".py"):
        yield "code", _absolute(file if file.endswith(".py") else target, base)
    for plugin in registry().found["judge"].get(target, []):
        if getattr(plugin.cls, "paid", False):
            yield "cost", target
            return


def _usual_addresses(path: tuple[str, ...]) -> list[str]:
    """The addresses that a plugin's own class has: they are not the file's."""
    kind = "judge" if path[0] == "judge" else "method"
    claims = registry().found[kind].get(path[1], [])
    field = claims[0].cls.Config.model_fields.get(path[2]) if claims and claims[0].cls is not None else None
    return [] if field is None else _texts(field.get_default(call_default_factory=True))


def _key_pairs(settings: Settings, path: tuple[str, ...], usual: Sequence[str]) -> Iterator[str]:
    """ "VARIABLE -> address" for each key that a file's word would send: either of the two may be the file's."""
    if path[0] != "judge" or path[2] not in ("base_url", "key_variable"):
        return
    cls = registry().find("judge", path[1])
    config = cls.Config(**settings.judges.get(path[1], {}))
    variable = config.variable_of_key() if hasattr(config, "variable_of_key") else None
    if variable is None:
        return
    urls = [url for url in _texts(config.base_url) if path[2] != "base_url" or url not in usual]
    yield from (f"{variable}{_ARROW}{url}" for url in urls)


def _is_split(settings: Settings, path: tuple[str, ...]) -> bool:
    """Whether the other half of a key, its address or its variable, was typed or stands in another file."""
    other = (*path[:2], "key_variable" if path[2] == "base_url" else "base_url")
    if other[2] not in settings.judges.get(path[1], {}):
        return False  # the judge's own
    given = settings.from_files.get(other)
    return given is None or given.file != settings.from_files[path].file


def _unknown(names: Sequence[Named]) -> list[Named]:
    """Those of the names that nobody agreed to."""
    if not names:
        return []
    known = recorded()
    return [one for one in names if one.recorded not in known.get(str(one.folder), ())]


def _once(names: Sequence[Named]) -> list[Named]:
    """The names without those that another key names too."""
    return list({one.recorded: one for one in reversed(names)}.values())[::-1]


def _refusal(missing: Sequence[Named]) -> str:
    """One line: what is named, and what to type: the commands that agree to just that, started in this folder."""
    lines = [str(one) for one in _once(missing)]
    said = "; ".join(lines[:3]) + (f"; and {len(lines) - 3} more" if len(lines) > 3 else "")
    ways = []
    if files := list(dict.fromkeys(one.file for one in missing if not one.is_split)):
        ways.append(f"look at it and agree once by `{' && '.join(map(_command, files))}`")
    for table in dict.fromkeys(".".join(one.path[:2]) for one in missing if one.is_split):
        both = f"`--set {table}.base_url=...` and `--set {table}.key_variable=...`"
        ways.append(f"no one file names both the key and its address: type {both}")
    return f"{said}: nothing is run or sent only because a file names it; {'; '.join(ways)}"


def _command(file: Path) -> str:
    """The command that agrees, in this working folder, to what a file names for commands started in it."""
    folder = file.parent
    is_here = _resolved(folder) == _resolved(Path())
    if file.name != RUN_FILE and not (file.name == FILE_NAME and is_here):
        return f"alignkit trust --config {_typed(file)}"
    if (folder / (FILE_NAME if file.name == RUN_FILE else RUN_FILE)).is_file():
        return f"alignkit trust {_typed(file)}"  # the folder would be both
    return "alignkit trust" if is_here else f"alignkit trust {_typed(folder)}"


def _typed(path: Path) -> str:
    """A path as a shell and an option parser take it."""
    text = on_one_line(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


@contextmanager
def _changing() -> Iterator[dict[str, list[str]]]:
    """Read the record, and write it again when it was changed; one process at a time."""
    path = record_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(path.with_name(".trust.lock"), "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            folders = recorded()
            yield folders
            text = json.dumps({"version": _VERSION, "folders": folders}, indent=1) + "\n"
            write_atomically(path, text, private=True)
    except (OSError, RunStopped) as error:
        raise UsageError(f"{path}: cannot be written; what you agree to is kept there") from error


def _damaged(path: Path) -> str:
    return f"{path}: not the record of what you agreed to; remove it, and agree again by `alignkit trust`"


def _texts(value: object) -> list[str]:
    return [one for one in (value if isinstance(value, list | tuple) else [value]) if isinstance(one, str)]


def _absolute(file: str, base: Path) -> str:
    """A file's own place, whatever the working folder is: the same relative name elsewhere is another file."""
    return str(_resolved(base / os.path.expanduser(file)))


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):
        return Path.cwd() / path
