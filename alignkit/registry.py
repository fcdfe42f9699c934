"""Finds what plugins add, by the entry-point group `alignkit`.

Plugins are loaded one entry point at a time. One that fails to import is a loud warning that names its distribution,
not the end of every command; a name claimed by two distributions is an error that names both. (pluggy's own
`load_setuptools_entrypoints` does neither.)
"""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pluggy

from alignkit import hookspecs
from alignkit.contract import findings
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
COMMANDS = tuple(
    "train runs judge tournament vote report generate evaluate chat export probe ledger data plugins init config trust "
    "doctor".split()
)
"""The commands that alignkit itself has, in the order in which they are used."""
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


@dataclass
class Registry:
    """All that was found: `found[kind][name]` and the entry points that failed."""

    found: dict[str, dict[str, list[Plugin]]] = field(default_factory=lambda: {kind: {} for kind in KINDS})
    broken: list[Plugin] = field(default_factory=list)

    def add_module(self, module: Any, *, distribution: str, version: str) -> None:
        """Call every hook of one plugin module and keep all that it registers, or nothing where a hook fails."""
        manager = pluggy.PluginManager(GROUP)
        manager.add_hookspecs(hookspecs)
        manager.register(module)
        manager.check_pending()
        added: list[Plugin] = []

        def register(kind: str, cls: Any) -> None:
            if kind != "command" and (found := findings(kind, cls)):
                raise UsageError(f"{KINDS[kind]}: {'; '.join(found)}")
            name = _command_name(cls) if kind == "command" else cls.name
            added.append(Plugin(kind, name, cls, distribution, version, module.__name__))

        for kind, hook in KINDS.items():
            getattr(manager.hook, hook)(register=functools.partial(register, kind))
        for plugin in added:
            self.found[plugin.kind].setdefault(plugin.name, []).append(plugin)

    def find(self, kind: str, name: str) -> Any:
        """Return the class (or the command) of that kind and name.

        Raises:
            UsageError: no plugin adds it (the nearest name is given), or two distributions do (both are named).
        """
        claims = self.found[kind].get(name, [])
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
        """Return everything found, then what is broken, in a stable order."""
        listed = [p for names in self.found.values() for claims in names.values() for p in claims]
        return sorted(listed, key=lambda p: (list(KINDS).index(p.kind), p.name, p.distribution)) + self.broken

    def names(self, kind: str) -> list[str]:
        """Return the names that one distribution alone claims."""
        return sorted(name for name, claims in self.found[kind].items() if len(claims) == 1)


@functools.cache
def registry() -> Registry:
    """Load every installed plugin once."""
    loaded = Registry()
    entry_points = importlib.metadata.entry_points(group=GROUP)
    for point in sorted(entry_points, key=lambda p: (p.dist.name if p.dist else "", p.name)):
        distribution, version = (point.dist.name, point.dist.version) if point.dist else ("unknown", "0")
        try:
            loaded.add_module(point.load(), distribution=distribution, version=version)
        except Exception as error:  # a third party's code may raise anything; it must not end every command
            reason = str(error) if isinstance(error, AlignkitError) else f"{type(error).__name__}: {error}"
            _logger.warning("plugin %s of %s %s cannot be loaded: %s", point.value, distribution, version, reason)
            loaded.broken.append(Plugin("broken", point.name, None, distribution, version, point.value, reason))
    return loaded


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
