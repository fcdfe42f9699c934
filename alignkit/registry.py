"""Finds what plugins add, by the entry-point group `alignkit`.

Plugins are loaded one entry point at a time, and only when something is asked for of a kind that they may add: `--help`
need not wait for all of them. One that fails to import is a loud warning that names its distribution, not the end of
every command; a name claimed by two distributions is an error that names both. (pluggy's own
`load_setuptools_entrypoints` does none of it.)
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import logging
import threading
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pluggy

from alignkit import hookspecs
from alignkit.errors import AlignkitError, UsageError, nearest

GROUP = "alignkit"
KINDS = {
    "method": "register_methods",
    "judge": "register_judges",
    "dataset": "register_datasets",
    "sampler": "register_samplers",
    "tracker": "register_trackers",
    "metric": "register_metrics",
    "preset": "register_presets",
    "command": "register_commands",
}
COMMANDS = {
    "train": "Train a model with a method; `alignkit train METHOD --help` shows its options, "
    "`alignkit train --resume RUN` goes on with a run.",
    "runs": "List the runs, compare two of them, or remove some.",
    "judge": "Compare models' answers on the same prompts: better, worse, no difference that matters, not enough "
    "evidence.",
    "tournament": "Train several ways on the same rows, over seeds, judge all alike, and say which are better.",
    "vote": "Vote on two models' answers, blind, on a local page; Ctrl-C ends it, the same command goes on.",
    "report": "Write a run's report.html again: verdicts, answers, what it was, curves; also while it trains.",
    "generate": "Answer prompts; one JSON object per line, with token counts and the reason each answer ended.",
    "evaluate": "Measure BLEU and perplexity on reference answers, mean length, and repetition, boilerplate and "
    "format.",
    "chat": "Talk to a model in the terminal; with --vs two models hear the same questions.",
    "export": "Write a trained model into a folder, load it again, and say how far it is from what was trained.",
    "probe": "Measure how often a judge prefers the right answer, and a plain one over empty, copied or padded ones.",
    "ledger": "Look at the scores that judges and rewards gave; none is asked for twice.",
    "data": "Look at data as the model will see it.",
    "plugins": "What plugins add: methods, judges, data sets, samplers, trackers.",
    "init": "Write alignkit.toml: for this machine, or a preset's set-up.",
    "config": "What alignkit.toml may hold, and what holds now.",
    "trust": "Agree to the code, addresses, keys, costs and folders that a folder's files name; what is typed needs "
    "none.",
    "doctor": "Look at the installation and the machine, then run the start-up checks on a small model.",
}
"""The commands that alignkit itself has, in the order in which they are used, with their lines in `alignkit --help`,
where none of their modules is imported."""
hookimpl = pluggy.HookimplMarker(GROUP)
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plugin:
    """One class (or command) that a plugin added, or (`error` set) an entry point that could not be loaded."""

    kind: str
    name: str
    cls: Any
    distribution: str
    version: str
    module: str
    error: str | None = None


class Found(dict[str, dict[str, list[Plugin]]]):
    """What plugins add: `found[kind][name]`. Asking for a kind imports the plugins that may add something of it."""

    def __init__(self, load: Callable[[str], None]) -> None:
        super().__init__({kind: {} for kind in KINDS})
        self._load = load

    def __getitem__(self, kind: str) -> dict[str, list[Plugin]]:
        self._load(kind)
        return super().__getitem__(kind)

    def add(self, plugin: Plugin) -> None:
        """Keep a plugin, without asking for others of its kind."""
        super().__getitem__(plugin.kind).setdefault(plugin.name, []).append(plugin)


class Registry:
    """All that plugins add, and the entry points that failed.

    Args:
        points: the entry points of plugins, none of them imported yet.
    """

    def __init__(self, points: Iterable[EntryPoint] = ()) -> None:
        self.found = Found(self._load)
        self._waiting = list(points)
        self._broken: list[Plugin] = []
        self._lock = threading.RLock()  # a judge's thread may be the first to ask for a kind

    @property
    def broken(self) -> list[Plugin]:
        """Every entry point that cannot be loaded."""
        self._load(None)
        return self._broken

    def _load(self, kind: str | None) -> None:
        """Import the plugins that may add something of a kind; all of them where it is None."""
        with self._lock:
            wanted = [point for point in self._waiting if kind is None or _may_add(point, KINDS[kind])]
            for point in wanted:
                self._waiting.remove(point)
                self._import(point)

    def _import(self, point: EntryPoint) -> None:
        distribution, version = (point.dist.name, point.dist.version) if point.dist else ("unknown", "0")
        try:
            self.add_module(point.load(), distribution=distribution, version=version)
        except Exception as error:  # a third party's code may raise anything; it must not end every command
            reason = str(error) if isinstance(error, AlignkitError) else f"{type(error).__name__}: {error}"
            _logger.warning("plugin %s of %s %s cannot be loaded: %s", point.value, distribution, version, reason)
            self._broken.append(Plugin("broken", point.name, None, distribution, version, point.value, reason))

    def add_module(self, module: Any, *, distribution: str, version: str) -> None:
        """Call every hook of one plugin module and keep all that it registers, or nothing where a hook fails."""
        manager = pluggy.PluginManager(GROUP)
        manager.add_hookspecs(hookspecs)
        manager.register(module)
        manager.check_pending()
        added: list[Plugin] = []

        def register(kind: str, cls: Any) -> None:
            if kind != "command" and (found := _findings(kind, cls)):
                raise UsageError(f"{KINDS[kind]}: {'; '.join(found)}")
            name = _command_name(cls) if kind == "command" else cls.name
            added.append(Plugin(kind, name, cls, distribution, version, module.__name__))

        for kind, hook in KINDS.items():
            getattr(manager.hook, hook)(register=functools.partial(register, kind))
        for plugin in added:
            self.found.add(plugin)

    def find(self, kind: str, name: str) -> Any:
        """Return the class (or the command) of that kind and name.

        Raises:
            UsageError: no plugin adds it (the nearest name is given), or two distributions do (both are named).
        """
        claims = self.found[kind].get(name, [])
        if not claims:
            self._load(None)  # a module may add it in a way that its text does not show
        if len(claims) > 1:
            owners = " and ".join(f"{p.distribution} {p.version} ({p.module})" for p in claims)
            raise UsageError(f"the {kind} name {name!r} is claimed by {owners}: uninstall one of them")
        if not claims:
            known = sorted(self.found[kind])
            failed = (
                f" ({len(self.broken)} plugin(s) failed to load: see `alignkit plugins list`)" if self.broken else ""
            )
            raise UsageError(
                f"no {kind} is named {name!r}{nearest(name, known)}; known: {', '.join(known) or 'none'}{failed}"
            )
        return claims[0].cls

    def fault_of(self, error: BaseException) -> str | None:
        """Say whose code an unexpected error came from, where that is a plugin's; None where it is alignkit's.

        The deepest frame that is not a library's decides. `Batch` counts as its caller: a loss that hands it the wrong
        shape fails inside.
        """
        owners = {p.module.partition(".")[0]: p for p in self.plugins()}
        deepest: tuple[Plugin, str] | None = None
        for frame, line in traceback.walk_tb(error.__traceback__):
            module = frame.f_globals.get("__name__", "")
            package = module.partition(".")[0]
            if package in owners:
                code = frame.f_code
                deepest = owners[package], f"{code.co_qualname} ({Path(code.co_filename).name}:{line})"
            elif package == "alignkit" and module != "alignkit.methods":
                deepest = None
        if deepest is None:
            return None
        plugin, place = deepest
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        return f"{place} of the plugin {plugin.distribution} {plugin.version} failed: {what}"

    def plugins(self) -> list[Plugin]:
        """Return all that there is, then what is broken, in a stable order."""
        self._load(None)
        listed = [p for names in self.found.values() for claims in names.values() for p in claims]
        return sorted(listed, key=lambda p: (list(KINDS).index(p.kind), p.name, p.distribution)) + self.broken

    def names(self, kind: str) -> list[str]:
        """Return the names that one distribution alone claims."""
        return sorted(name for name, claims in self.found[kind].items() if len(claims) == 1)


@functools.cache
def registry() -> Registry:
    """Return what the installed plugins add."""
    points = importlib.metadata.entry_points(group=GROUP)
    return Registry(sorted(points, key=lambda point: (point.dist.name if point.dist else "", point.name)))


def _may_add(point: EntryPoint, hook: str) -> bool:
    """Whether a plugin may implement a hook: not where the text of its module names other hooks alone."""
    module, _, inside = point.value.partition(":")
    try:
        source = Path(str(importlib.util.find_spec(module).origin)).read_text(encoding="utf-8")  # type: ignore[union-attr]
    except Exception:  # no such module, or its package fails: importing it says so
        return True
    named = [one for one in KINDS.values() if one in source]
    return bool(inside) or hook in named or not named or "import *" in source


def _findings(kind: str, cls: Any) -> list[str]:
    from alignkit.contract import findings  # needs pydantic, which a list of commands does not

    return findings(kind, cls)


def _command_name(command: Any) -> str:
    """The name of a Typer app, or of a function as a command: `show_rows` is typed show-rows.

    Raises:
        UsageError: it has none, or one of alignkit's own.
    """
    name = command.info.name if hasattr(command, "info") else command.__name__.replace("_", "-")
    if not isinstance(name, str):
        raise UsageError("register_commands was given a Typer app without a name: make it with typer.Typer(name=...)")
    if name in COMMANDS:
        raise UsageError(f"register_commands was given {name!r}, which alignkit has itself: name it otherwise")
    return name
