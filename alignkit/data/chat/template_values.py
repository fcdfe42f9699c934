"""Which values a chat template reads beside the conversation, found in its syntax tree: nothing of it is run.

A name that is surely set in the template where it is read, in whichever branch, is the template's own: a value given
for it would do nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import jinja2
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from alignkit.data.chat.template_worker import Generation
from alignkit.errors import nearest

_CLOCK = "strftime_now"
_FUNCTIONS = frozenset({"raise_exception", _CLOCK, *ImmutableSandboxedEnvironment().globals})
_OURS = frozenset({"messages", "add_generation_prompt", *_FUNCTIONS})
_Known = frozenset[str] | None  # names surely set so far; None where the template has stopped with an error


class TemplateValues:
    """What a template reads.

    Args:
        template: Jinja; one that cannot be parsed reads anything, since rendering says what is wrong with it.
    """

    def __init__(self, template: str) -> None:
        self._read: set[str] = set()
        self._defaults: dict[str, str] = {}
        self._is_valid = True
        environment = ImmutableSandboxedEnvironment(extensions=[Generation, "jinja2.ext.loopcontrols"])
        try:
            self._follow(environment.parse(template).body, frozenset())
        except (jinja2.TemplateError, RecursionError, ValueError):
            self._is_valid = False

    def reads(self, name: str) -> bool:
        """Whether a value of this name reaches the template; `today` is the date that its clock shows."""
        has_clock = name == "today" and _CLOCK in self._read
        return has_clock or not self._is_valid or name in self._read - _OURS

    @property
    def has_clock(self) -> bool:
        """Whether the template may write today's date."""
        return _CLOCK in self._read

    @property
    def fixed_dates(self) -> Mapping[str, str]:
        """The dates that the template writes where none is given, by the name of the value."""
        if self.has_clock:
            return {}
        return {name: text for name, text in self._defaults.items() if "date" in name and name in self._read}

    def why_unread(self, name: str, special: Iterable[str] = ()) -> str | None:
        """Say that a value is never read, and the nearest that is; None for one that is read.

        Args:
            special: names of special tokens, which nobody needs to give.
        """
        if self.reads(name):
            return None
        known = sorted(self._read - _OURS - {*special, "tools", "documents"}) + ["today"] * self.has_clock
        dates = [own for own in known if "date" in own] if name == "today" else []
        hint = f"; did you mean {dates[0]!r}?" if dates else nearest(name, known)
        read = f"it reads {', '.join(known)}" if known else "nor any other value"
        return f"the chat template never reads {name!r} ({read}){hint}"

    def _follow(self, body: Iterable[nodes.Node], known: _Known) -> _Known:
        """Go through statements in their order; returns the names that are surely set behind them."""
        for node in body:
            if known is None:
                break
            known = self._statement(node, known)
        return known

    def _statement(self, node: nodes.Node, known: frozenset[str]) -> _Known:
        own: Iterable[str] = ()  # names that are set inside the node alone
        match node:
            case nodes.If():
                ways = []
                for way in (node, *node.elif_):
                    self._expression(way.test, known)
                    ways.append(self._follow(way.body, known))
                return _in_all([*ways, self._follow(node.else_, known)])
            case nodes.Assign():
                self._expression(node.node, known)
                for name in _targets(node.target):
                    self._note_default(name, node.node)
                return known | _targets(node.target)
            case nodes.AssignBlock():
                self._follow(node.body, known)
                return known | _targets(node.target)
            case nodes.For():
                self._expression(node.iter, known)
                own = _targets(node.target) | {"loop"}
                self._follow(node.else_, known)
                if node.test is not None:
                    self._expression(node.test, known.union(own))
            case nodes.Macro() | nodes.CallBlock():
                own = {*(argument.name for argument in node.args), "varargs", "kwargs", "caller"}
                own |= {node.name} if isinstance(node, nodes.Macro) else set()
                for inner in (*node.defaults, *([node.call] if isinstance(node, nodes.CallBlock) else [])):
                    self._expression(inner, known)
            case nodes.With():
                own = {name for target in node.targets for name in _targets(target)}
                for inner in node.values:
                    self._expression(inner, known)
            case nodes.FilterBlock():
                self._expression(node.filter, known)
            case nodes.Scope() | nodes.Block():
                pass
            case _:
                self._expression(node, known)
                return None if _raises(node) else known
        self._follow(node.body, known.union(own))
        return known | {node.name} if isinstance(node, nodes.Macro) else known

    def _expression(self, node: nodes.Node, known: frozenset[str]) -> None:
        names = [node] if isinstance(node, nodes.Name) else node.find_all(nodes.Name)
        self._read.update(name.name for name in names if name.ctx == "load" and name.name not in known)
        for call in [node] if isinstance(node, nodes.Filter) else node.find_all(nodes.Filter):
            if call.name in ("default", "d") and isinstance(call.node, nodes.Name) and call.args:
                self._note_default(call.node.name, call.args[0])

    def _note_default(self, name: str, value: nodes.Node) -> None:
        if isinstance(value, nodes.Const):
            self._defaults.setdefault(name, str(value.value))


def _in_all(ways: Iterable[_Known]) -> _Known:
    """What is set whichever way was gone; ways that stop with an error do not count."""
    going_on = [way for way in ways if way is not None]
    return frozenset.intersection(*going_on) if going_on else None


def _raises(node: nodes.Node) -> bool:
    """Whether a statement does nothing but stop with an error."""
    return isinstance(node, nodes.Output) and any(
        isinstance(part, nodes.Call) and isinstance(part.node, nodes.Name) and part.node.name == "raise_exception"
        for part in node.nodes
    )


def _targets(node: nodes.Node) -> frozenset[str]:
    """The names that an assignment sets; a namespace's attribute is none."""
    names = [node] if isinstance(node, nodes.Name) else node.find_all(nodes.Name)
    return frozenset(name.name for name in names)
