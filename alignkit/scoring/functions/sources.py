"""What a reward file is made of: itself, and the files of its own folder that it imports, also inside functions.

Found by reading, nothing is run: `import a.b`, `from a import b`, `from . import b`, `from a import *`,
`importlib.import_module("a.b")` and `__import__("a")`, in the file and in what it imports. Names that are made while
the functions run, installed packages and data files that they read cannot be known.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.machinery
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from alignkit.errors import InputError

_ENDINGS = (
    *importlib.machinery.SOURCE_SUFFIXES,
    *importlib.machinery.EXTENSION_SUFFIXES,
    *importlib.machinery.BYTECODE_SUFFIXES,
)
_IMPORTERS = {"import_module", "__import__"}


@dataclass(frozen=True)
class Place:
    """Where a reward file is imported from: as module `name`, with `folders` first on sys.path."""

    file: Path
    name: str
    folders: tuple[Path, ...]

    @property
    def is_in_package(self) -> bool:
        return len(self.folders) > 1

    @property
    def root(self) -> Path:
        """The highest of its folders."""
        return self.folders[-1]


def place_of(path: Path) -> Place:
    """Return where a file is imported from.

    It is a module of its own; one that imports by `from .` is a part of the package around it.

    Raises:
        InputError: there is no such file, or it cannot be read.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file (a reward is FILE.py:function)")
    folder = path.parent.resolve()
    file = folder / path.name
    try:
        source = file.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    is_relative = any(isinstance(node, ast.ImportFrom) and node.level for node in _nodes(source))
    above, name = folder, path.stem
    while is_relative and (above / "__init__.py").is_file() and above.parent != above:
        above, name = above.parent, f"{above.name}.{name}"
    return Place(file, name, (folder,) if above == folder else (folder, above))


def sources_sha256(place: Place) -> str:
    """Hash a file with all that it imports from its own folders."""
    found: dict[str, bytes] = {}
    waiting = [place.file]
    while waiting:
        file = waiting.pop()
        name = str(file.relative_to(place.root))
        if name in found:
            continue
        try:
            found[name] = file.read_bytes()
        except OSError as error:
            raise InputError(f"{file}: cannot be read: {error.strerror or error}") from error
        if file.suffix == ".py":
            waiting += _imported(found[name], file, place.folders)
    digest = hashlib.sha256()
    for name in sorted(found):
        digest.update(f"{name}\0{hashlib.sha256(found[name]).hexdigest()}\0".encode())
    return digest.hexdigest()


def _nodes(source: bytes) -> Iterator[ast.AST]:
    try:
        return ast.walk(ast.parse(source))
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # it fails where it is imported
        return iter(())


def _imported(source: bytes, file: Path, folders: tuple[Path, ...]) -> list[Path]:
    """The files below the folders that a module may import."""
    found: dict[Path, None] = {}
    for node in _nodes(source):
        for level, name in _names(node):
            starts = folders if level == 0 else file.parents[level - 1 : level]
            for start in starts:
                if any(start == folder or folder in start.parents for folder in folders):
                    found |= dict.fromkeys(_files(start, name))
    return list(found)


def _names(node: ast.AST) -> Iterator[tuple[int, str]]:
    """The modules that a statement or call may import: how many dots before each, and its dotted name."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield 0, alias.name
    elif isinstance(node, ast.ImportFrom):
        for alias in node.names:
            yield node.level, f"{node.module}.{alias.name}" if node.module else alias.name
        if node.module:
            yield node.level, node.module
    elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
        named = node.args[0].value
        if called in _IMPORTERS and isinstance(named, str):
            name = named.lstrip(".")
            yield len(named) - len(name), name


def _files(start: Path, name: str) -> Iterator[Path]:
    """The files of a dotted name and of the packages on the way; `*` stands for all modules of a package."""
    parts = name.split(".")
    for length in range(1, len(parts) + 1):
        *above, last = parts[:length]
        folder = start.joinpath(*above)
        if last == "*":
            yield from (file for file in sorted(folder.glob("*.py")) if above and file.is_file())
            continue
        candidates = [folder / f"{last}{ending}" for ending in _ENDINGS] + [folder / last / "__init__.py"]
        yield from (file for file in candidates if last and file.is_file())
