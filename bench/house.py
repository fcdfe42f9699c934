"""How much of the code a reader must open: figures of its structure, read from the code and from two traced runs.

    python -m bench.house                 everything
    python -m bench.house --quick         without the traced runs; `make lint` prints this

`--before COMMIT` prints another commit's figures beside; both are counted as today's formatter lays code out, because
how many lines a call takes is the formatter's choice. There is no peer: these are goals of our own.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import threading
import tokenize
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGES = ("alignkit", "plugins/alignkit_plugins")
GOALS = {
    "dpo_step_files": 9,
    "grpo_step_files": 16,
    "dpo_start_files": 16,
    "grpo_start_files": 24,
    "loop_imports": 10,
    "atomic_writers": 1,
    "run_record_readers": 1,
    "plugin_imports": 1,
    "options": 45,
    "options_shown": 20,
    "circles": 0,
    "arrows_up": 0,
    "plugin_names_in_core": 0,
}
BEFORE = "a50456d"  # the last commit before the rooms
_CPU_ROOM = "policy/cpu"  # one seam: a reader of the GPU's way never meets it


def main() -> int:
    """Print the figures; exit code 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="leave the traced runs out")
    parser.add_argument("--before", metavar="COMMIT", help=f"count its lines too, such as {BEFORE}")
    parser.add_argument("--files", action="store_true", help="list the files of each traced part")
    parser.add_argument("--trace", choices=("dpo", "grpo"), help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    if given.trace:
        print(json.dumps(_trace(given.trace)))
        return 0
    figures: dict[str, int] = {}
    if not given.quick:
        for method in ("dpo", "grpo"):
            for part, files in _traced(method).items():
                figures[f"{method}_{part}_files"] = len(files)
                if given.files:
                    print(f"{method} {part}:", *files, sep="\n    ")
    figures |= static(ROOT)
    before = {} if given.before is None else _lines_of(given.before)
    for name, number in figures.items():
        beside = f"  goal {GOALS[name]:>6,}" if name in GOALS else ""
        if name in before:
            beside += f"  {100 * (number / before[name] - 1):+.1f} % of {before[name]:,} in {given.before}"
        print(f"{name:24} {number:>7,}{beside}")
    if given.json is not None:
        content = {"figures": figures, "goals": GOALS, "before": before, "commit": _git("rev-parse", "HEAD").strip()}
        given.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 0


# --- the code as text -------------------------------------------------------------------------------------------------


def static(root: Path) -> dict[str, int]:
    """Figures that the code's text gives."""
    modules = {path: ast.parse(path.read_text(encoding="utf-8")) for path in _modules(root)}
    core = {path: tree for path, tree in modules.items() if path.is_relative_to(root / "alignkit")}
    first_party = {path: tree for path, tree in modules.items() if path not in core}
    loop = next(tree for tree in core.values() if any(_is_class(node, "Loop") for node in tree.body))
    writers = [path for path, tree in modules.items() if any(map(_replaces, ast.walk(tree)))]
    readers = [path for path, tree in modules.items() if any(_is_text(node, "run.json") for node in ast.walk(tree))]
    named = {name for tree in first_party.values() for name in _imports(tree) if name.startswith("alignkit.")}
    return {
        "loop_imports": len({name for name in _imports(loop) if name.startswith("alignkit")}),
        "atomic_writers": len(writers),
        "run_record_readers": len(readers),
        "plugin_imports": len(named),
        "plugin_names_in_core": sum(_names_a_plugin(path) for path in core),
        **_options(),
        **_graph(root),
        "code_lines": sum(code_lines(path) for path in modules if "demo" not in str(path.relative_to(root))),
        "modules": len(modules),
    }


def code_lines(path: Path) -> int:
    """Count the lines that hold code: no blank one, no comment, no docstring."""
    source = path.read_bytes()
    lines: set[int] = set()
    skipped = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING)
    for token in tokenize.tokenize(io.BytesIO(source).readline):
        if token.type not in (*skipped, tokenize.ENDMARKER):
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def _modules(root: Path) -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted((root / package).rglob("*.py"))


def _imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names of what is imported anywhere in a module, for types too; a package's own names as its modules."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            package = ROOT / node.module.replace(".", "/")
            inside = [a.name for a in node.names if (package / a.name).is_dir() or (package / f"{a.name}.py").exists()]
            yield from (f"{node.module}.{name}" for name in inside)
            if len(inside) < len(node.names):
                yield node.module


def _is_class(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.ClassDef) and node.name == name


def _is_text(node: ast.AST, text: str) -> bool:
    return isinstance(node, ast.Constant) and node.value == text


def _replaces(node: ast.AST) -> bool:
    """Whether a call puts a file or folder in another's place: os.replace, Path.rename, Path.replace and their like."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return False
    is_os = isinstance(node.func.value, ast.Name) and node.func.value.id == "os"
    if node.func.attr == "replace":
        return is_os or (len(node.args) == 1 and not node.keywords)
    return node.func.attr == "rename" and not node.keywords


def _names_a_plugin(path: Path) -> int:
    if path.as_posix().endswith("data/reading/fields.py"):  # rows have a field of the name "rules"
        return 0
    return len(re.findall(r'"(?:sft|dpo|grpo|rules|nemotron|demo)"', path.read_text(encoding="utf-8")))


def _options() -> dict[str, int]:
    """How many options `train grpo` has, and how many its --help shows."""
    found = {}
    for name, flag in (("options", "--help-all"), ("options_shown", "--help")):
        command = [sys.executable, "-m", "alignkit", "train", "grpo", flag]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"COLUMNS": "200"}, check=False)
        rows = re.findall(r"^\W*(--[a-z0-9-]+)", done.stdout, re.MULTILINE)
        found[name] = len(set(rows) - {"--help", "--help-all"})
    return found


def _graph(root: Path) -> dict[str, int]:
    """Circles among the modules, and imports between rooms that run up; `alignkit.train` and its like are lazy."""
    import grimp

    graph = grimp.build_graph("alignkit", exclude_type_checking_imports=True, cache_dir=None)
    arrows = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    arrows["alignkit"] = set()
    contract = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ][0]
    floor = {room.strip(): n for n, layer in enumerate(contract["layers"]) for room in re.split(r"[|:]", layer)}

    def height(module: str) -> int:
        return floor.get(module.split(".")[1], 0) if "." in module else len(floor)

    up = sum(height(a) > height(b) for a in arrows for b in arrows[a] if "alignkit" not in (a, b))
    return {"circles": _circles(arrows), "arrows_up": up}


def _circles(arrows: dict[str, set[str]]) -> int:
    """Count the strongly connected components of more than one module (Tarjan)."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    circles = 0

    def visit(name: str) -> None:
        nonlocal circles
        number[name] = low[name] = len(number)
        stack.append(name)
        for other in arrows[name]:
            if other not in number:
                visit(other)
            if other in stack:
                low[name] = min(low[name], low[other])
        if low[name] == number[name]:
            at = stack.index(name)
            circles += len(stack) - at > 1
            del stack[at:]

    sys.setrecursionlimit(10_000)
    for name in arrows:
        if name not in number:
            visit(name)
    return circles


def _lines_of(commit: str) -> dict[str, int]:
    """Count another commit's lines of code, laid out as today's formatter does."""
    with tempfile.TemporaryDirectory(prefix="house-") as name:
        archive = subprocess.run(["git", "-C", str(ROOT), "archive", commit], capture_output=True, check=True).stdout
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            files.extractall(name, filter="data")
        modules = [path for path in _modules(Path(name)) if "demo" not in str(path.relative_to(name))]
        for path in modules:
            path.write_text(path.read_text(encoding="utf-8").replace("  # fmt: skip", ""), encoding="utf-8")
        ruff = [str(Path(sys.executable).with_name("ruff")), "--config", str(ROOT / "pyproject.toml")]
        subprocess.run([*ruff[:1], "format", "--quiet", *ruff[1:], name], check=True)
        return {"code_lines": sum(map(code_lines, modules)), "modules": len(modules)}


def _git(*arguments: str) -> str:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False).stdout


# --- the code as it runs ----------------------------------------------------------------------------------------------


def _traced(method: str) -> dict[str, list[str]]:
    """Train a few steps in a process of its own, and return the files that ran in each part of it."""
    command = [sys.executable, "-m", "bench.house", "--trace", method]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        raise SystemExit(f"the traced run of {method} failed:\n{done.stderr[-3000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


class _Tracer:
    """Notes the files of alignkit and its plugins in which a Python frame runs, while it is on.

    Modules are imported before, so an import is no reading; processes of its own (templates, reward functions) are
    not followed.
    """

    def __init__(self) -> None:
        self.files: set[str] = set()
        self._is_on = False

    def begin(self) -> None:
        self.files = set()
        self._is_on = True
        threading.setprofile(self._see)
        sys.setprofile(self._see)

    def end(self) -> list[str]:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
        self._is_on = False
        return sorted(self.files)

    def _see(self, frame: FrameType, event: str, _: Any) -> None:
        if event != "call" or not self._is_on or frame.f_code.co_name == "<module>":
            return
        path = Path(frame.f_code.co_filename)
        for package in PACKAGES:
            if path.is_relative_to(ROOT / package):
                name = str(path.relative_to(ROOT))
                self.files.add(f"alignkit/{_CPU_ROOM}/" if f"/{_CPU_ROOM}/" in name else name)


def _trace(method: str) -> dict[str, list[str]]:
    """Train on a tiny model; "start": from opening the rows to the first update, "step": from there to the second."""
    import importlib
    import pkgutil

    import alignkit_plugins
    from torch.optim.optimizer import register_optimizer_step_post_hook

    import alignkit
    from bench.attacks_ground import Ground, scratch, training

    for package in (alignkit, alignkit_plugins):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    tracer, parts, updates = _Tracer(), {}, 0
    with scratch() as name:
        ground = Ground(Path(name))
        os.environ |= {"HF_HUB_OFFLINE": "1", "ALIGNKIT_CACHE": f"{name}/cache", "XDG_CONFIG_HOME": f"{name}/config"}
        os.environ["ALIGNKIT_LEDGER"] = f"{name}/ledger.sqlite"
        ground.write_inputs()

        def opened(event: str, arguments: tuple[Any, ...]) -> None:
            if event == "open" and str(arguments[0]) == str(ground.rows) and not updates and "start" not in parts:
                parts["start"] = []
                tracer.begin()

        def updated(*_: Any) -> None:
            nonlocal updates
            updates += 1
            if updates == 1:
                parts["start"] = tracer.end()
                tracer.begin()
            elif updates == 2:
                parts["step"] = tracer.end()

        sys.addaudithook(opened)
        register_optimizer_step_post_hook(updated)
        from alignkit.cli.main import main as command

        os.chdir(name)
        with open(os.devnull, "w") as nowhere:
            shown, sys.stdout = sys.stdout, nowhere
            code = command(_quiet(training(method, ground, f"{name}/run", steps=3)))
            sys.stdout = shown
    if code:
        raise SystemExit(code)
    return parts


def _quiet(command: Sequence[str]) -> list[str]:
    """Without what is due every other step only: checkpoints, validations."""
    changed = {"--checkpoint-interval": "100", "--validation-interval": "100"}
    return [changed.get(before, word) for before, word in zip(["", *command], command, strict=False)]


if __name__ == "__main__":
    raise SystemExit(main())
