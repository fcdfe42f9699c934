"""Who takes part: [tournament] and [entrants.NAME] of alignkit.toml, a plugin's preset, or entrants given in Python.

    [tournament]
    seeds = 3
    vs = ["base", "start"]

    [entrants.first]
    method = "..."
    [entrants.second]
    start = "first"
    beta = 0.05

An entrant's method is its name's where it names none. Everything else in its table is an option of `alignkit train
METHOD`, by its Python name, over what the file says for all. Entrants form a graph by their starts, and by rewards that
name an entrant; a cycle is refused. No torch here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from alignkit.config import fields as config_fields
from alignkit.config import file as config_file
from alignkit.config import source as config_source
from alignkit.config.file import Resolved, Settings
from alignkit.config.settings import DataSection, JudgeSection, ModelSection, RolloutsSection, TournamentSection
from alignkit.errors import UsageError, nearest
from alignkit.methods import Method
from alignkit.registry import registry
from alignkit.tournaments.results import BASE, START, Beside, Entry
from alignkit.tournaments.sweeps import FOR_ALL, NAME, part_steps, swept

_SECTIONS: dict[str, type[BaseModel]] = {
    "model": ModelSection,
    "data": DataSection,
    "rollouts": RolloutsSection,
    "judge": JudgeSection,
}
_OWN = ("method", "start", "model")  # keys of an entrant that are no options
_FOR_TABLE = {
    key: f"[{name}]"
    for name, section in (("judge", JudgeSection), ("tournament", TournamentSection))
    for key in section.model_fields
}
_CODE = {"servers", "server_weights"}  # what only typed options and agreed files may name


@dataclass(frozen=True)
class Tournament:
    """A whole tournament, resolved: what `run_tournament` runs.

    Args:
        entrants: in an order in which a start stands before what starts from it.
        section: [tournament].
        seeds: of training.
        settings: [judge], [data], [model] and [rollouts], which all entrants share.
        config: the alignkit.toml that was read; None: the one in the working folder.
        common: options of every training run, by their Python names.
        sets: texts KEY=VALUE.
        notes, beside: what a preset says of its table, and a published one.
        halvings: how often the worse half of each sweep is left behind on the way.
        budget: steps by entrant, where the budget is in tokens or minutes and was measured.
    """

    entrants: tuple[Entry, ...]
    section: TournamentSection
    seeds: tuple[int, ...]
    settings: Settings
    config: Path | None = None
    common: Mapping[str, Any] = field(default_factory=dict)
    sets: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    beside: Beside | None = None
    halvings: int = 0
    budget: Mapping[str, int] = field(default_factory=dict)

    def entrant(self, name: str) -> Entry:
        """The entrant or the opponent of that name."""
        return next(entry for entry in (*self.entrants, *self.opponents) if entry.name == name)

    @property
    def opponents(self) -> tuple[Entry, ...]:
        """The models of `vs` that take part in nothing else."""
        names = {entry.name for entry in self.entrants} | {START}
        return tuple(Entry(model, None, model) for model in dict.fromkeys(self.section.vs) if model not in names)

    @property
    def judged(self) -> tuple[Entry, ...]:
        """The entrants that answer: all but reward models."""
        return tuple(entry for entry in self.entrants if not is_reward(entry))

    @property
    def sweeps(self) -> dict[str, list[str]]:
        """The entrants that each sweep made, by the name that they had before."""
        found: dict[str, list[str]] = {}
        for entry in self.entrants:
            if entry.sweep is not None:
                found.setdefault(entry.sweep, []).append(entry.name)
        return found

    def seeds_of(self, entry: Entry) -> tuple[int, ...]:
        """The seeds that an entrant is made with: of what is not trained the first alone."""
        return self.seeds if entry.method is not None else self.seeds[:1]

    def parts(self, entry: Entry) -> list[int] | None:
        """The steps of each part of an entrant's runs, one more than there are halvings; None: they have one part.

        Raises:
            UsageError: how many steps they have is not said.
        """
        if entry.sweep is None or not self.halvings:
            return None
        total = self.budget.get(entry.name) or self.resolved(entry)[1].method.max_steps
        if total is None:
            raise UsageError(f"--halvings {self.halvings}: say how many steps {entry.sweep} is trained: --steps N")
        return part_steps(total, self.halvings)

    def is_from_base(self, entry: Entry) -> bool:
        """Whether an entrant's first model, through its starts, is the base."""
        while entry.start is not None:
            entry = self.entrant(entry.start)
        return entry.model == self.entrant(BASE).model

    def needs(self, entry: Entry) -> tuple[str, ...]:
        """The entrants whose runs it needs: its start, and the reward models that its reward names."""
        names = [entry.start] if entry.start is not None else []
        return (*names, *(name for name in entry.rewards if name in {e.name for e in self.entrants}))

    def resolved(self, entry: Entry, **more: object) -> tuple[Method, Resolved]:
        """The method of an entrant and its whole configuration.

        Args:
            more: options over its own, such as seed, out and model.

        Raises:
            UsageError: an option is unknown or not allowed; it names the entrant.
        """
        assert entry.method is not None
        cls = registry().find("method", entry.method)
        dotted = [text for text in self.sets if not _is_of_other_method(text, entry.method)]
        options = {**self.common, "model": entry.model, **entry.options, **more}
        try:
            return cls(), config_file.resolve(cls, options=options, config=self.config, settings=dotted)
        except UsageError as error:
            raise UsageError(f"entrant {entry.name}: {error}") from error


def read_tournament(
    config: Path | None = None,
    *,
    entrants: Mapping[str, Mapping[str, Any]] | None = None,
    preset: str | None = None,
    options: Mapping[str, Any] | None = None,
    sets: Sequence[str] = (),
    sweeps: Sequence[str] = (),
    draws: int | None = None,
    halvings: int = 0,
) -> Tournament:
    """Put together a tournament of a file, a preset and what was typed.

    Args:
        config: the file to read instead of ./alignkit.toml.
        entrants: tables by name, in place of the file's.
        preset: a plugin's preset; it counts for more than the file. Without entrants anywhere it is "paper".
        options: keys of [tournament], and options of training and judging for all.
        sweeps: texts train.METHOD.OPTION=VALUE,VALUE,... or OPTION=LOW..HIGH, each a further dimension of a grid.
        draws: so many random points in place of the whole grid.
        halvings: how often the worse half of each sweep is left behind on the way (sweeps.py).

    Raises:
        UsageError: an unknown entrant, method or option, a cycle of starts, or a value that is not allowed.
        InputError: the file cannot be read.
    """
    options = dict(options or {})
    path = config_file.find(config)
    source = None if path is None else config_source.read(path)
    tables: Mapping[str, Any] = {} if source is None else source.tables
    found = dict(entrants) if entrants is not None else _tables(tables.get("entrants", {}), source)
    is_default = preset is None and not found  # then the file counts for more
    own = _preset(preset or "paper") if preset is not None or is_default else {}
    if entrants is None and own:
        found = dict(own["entrants"])
    layers = [tables.get("tournament", {}), own.get("tournament", {})][:: -1 if is_default else 1]
    section = _section({**layers[0], **layers[1], **_keys_of(TournamentSection, options)}, source)
    if "second" not in options and section.second == tables.get("tournament", {}).get("second"):
        _refuse_unagreed(section.second, source)
    shared = {
        key: value
        for name in _SECTIONS
        for key, value in own.get(name, {}).items()
        if not (is_default and key in tables.get(name, {}))
    }
    typed = shared | {key: value for key, value in options.items() if key not in TournamentSection.model_fields}
    known = {key for model in _SECTIONS.values() for key in model.model_fields}
    judging = {key: value for key, value in typed.items() if key in known}
    settings = config_file.judge_settings(judging, config, settings=[t for t in sets if not t.startswith("train.")])
    only_judging = set(JudgeSection.model_fields)
    common = {**own.get("train", {}), **{key: value for key, value in typed.items() if key not in only_judging}}
    if "max_new_tokens" in options:  # as long in training as where it is judged
        common["max_new_tokens"] = options["max_new_tokens"]
    common |= {"max_steps": section.steps} if section.steps is not None else {}
    model = common.pop("model", settings.model.model)
    entries = _entries(found, str(model))
    _refuse_unknown_for_all(options, entries)
    entries = swept(entries, sweeps, draws, halvings, seed=settings.judge.seed)
    seeds = tuple(range(1, section.seeds + 1)) if isinstance(section.seeds, int) else tuple(section.seeds)
    of_preset = own if entrants is None else {}
    made = Tournament(
        _in_order(entries),
        section,
        seeds,
        settings,
        config,
        common,
        tuple(sets),
        tuple(of_preset.get("notes", ())),
        Beside(**of_preset["beside"]) if "beside" in of_preset else None,
        halvings,
    )
    _check(made)
    return made


def is_reward(entry: Entry) -> bool:
    """Whether an entrant is a reward model: it gives rewards or opinions, and answers nothing."""
    return entry.method is not None and "scalar_head" in registry().find("method", entry.method).needs


def _tables(tables: Any, source: config_source.Source | None) -> dict[str, dict[str, Any]]:
    """[entrants] of a file; what could run code or send texts is refused there, because no file is agreed to by it."""
    found: dict[str, dict[str, Any]] = {}

    def place(*path: str) -> str:
        return "entrants" if source is None else source.place("entrants", *path)

    if not isinstance(tables, dict):
        raise UsageError(f"{place()}: entrants is a table of tables: write [entrants.NAME]")
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise UsageError(f"{place(name)}: {name} is a table: write [entrants.{name}] and its options below it")
        for key in _CODE & table.keys():
            raise UsageError(f"{place(name, key)}: {key} stands in [rollouts], for all entrants")
        for target in Entry(name, None, "", options=table).rewards:
            if target not in tables:
                raise UsageError(
                    f"{place(name, 'reward')}: reward {target!r} is no entrant: another stands in [rollouts], for all, "
                    "where `alignkit trust` sees it"
                )
        found[name] = dict(table)
    return found


def _preset(name: str) -> Mapping[str, Any]:
    """A preset's tables.

    Raises:
        UsageError: there is none of that name, or it is for `alignkit init` alone.
    """
    made = registry().find("preset", name)().tournament()
    if made is None:
        known = [p for p in registry().names("preset") if registry().find("preset", p)().tournament() is not None]
        raise UsageError(
            f"--preset {name}: it is a set-up without a tournament; with one: {', '.join(known) or 'none'}"
        )
    return dict(made)


def _section(given: Mapping[str, Any], source: config_source.Source | None) -> TournamentSection:
    for key in given:
        if key not in TournamentSection.model_fields:
            place = source.place("tournament", key) if source is not None else "tournament"
            hint = nearest(key, list(TournamentSection.model_fields))
            raise UsageError(f"{place}: tournament.{key} is not a known key{hint}")
    try:
        return TournamentSection.model_validate(dict(given))
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0]) if first["loc"] else "tournament"
        what = str(first["msg"]).removeprefix("Value error, ")
        if first["type"] != "value_error" and (field := TournamentSection.model_fields.get(key)) is not None:
            what = f"give {'a number of seeds, or a list of them' if key == 'seeds' else config_fields.allowed(field)}"
        raise UsageError(f"tournament.{key}: {given.get(key)!r} was given: {what}") from error


def _refuse_unagreed(spec: str | None, source: config_source.Source | None) -> None:
    """Refuse a second judge that runs code or costs money only because a file names it (trust.py)."""
    known = registry().found["judge"].get(spec or "", [])
    if spec is not None and (".py" in spec or any(plugin.cls.paid for plugin in known)):
        place = "tournament" if source is None else source.place("tournament", "second")
        raise UsageError(f"{place}: second judge {spec!r} runs code or costs money: type --second {spec}")


def _keys_of(model: type[BaseModel], options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key in model.model_fields}


def _entries(tables: Mapping[str, Mapping[str, Any]], model: str) -> list[Entry]:
    """Entrants of their tables; the model that others start from is there too, as `base`."""
    entries = []
    for name, table in tables.items():
        if not NAME.fullmatch(name) or name == START:
            raise UsageError(f"entrant {name!r}: give it letters, digits, '.', '-' or '_', and not {START!r}")
        for key in _OWN:
            if not isinstance(table.get(key, ""), str):
                raise UsageError(f"entrant {name}: {key} = {table[key]!r}: give one name, in quotes")
        method = table.get("method", None if set(table) == {"model"} or name == BASE else name)
        _refuse_unknown(name, table, method)
        if method is not None:
            _find_method(name, method)
        start, own = table.get("start"), table.get("model")
        if start is not None and own is not None:
            raise UsageError(f"entrant {name}: it has a start and a model: leave one of them out")
        if start is not None and start not in tables and start != BASE:
            known = [other for other in (BASE, *tables) if other != name]
            raise UsageError(f"entrant {name}: no entrant is named {start!r}{nearest(str(start), known)}")
        options = {key: value for key, value in table.items() if key not in _OWN}
        if method is None and options:
            raise UsageError(f"entrant {name}: it is not trained, and {next(iter(options))!r} is an option of training")
        for key in options:
            if key in FOR_ALL:
                raise UsageError(f"entrant {name}: {key} is the same for all entrants: give it in [data] or typed")
        starts_here = start is None and own is None and method is not None and name != BASE
        entries.append(Entry(name, method, str(own or model), BASE if starts_here else start, options))
    if not any(entry.name == BASE for entry in entries):
        entries.insert(0, Entry(BASE, None, model))
    return entries


def _refuse_unknown(name: str, table: Mapping[str, Any], method: str | None) -> None:
    """Refuse a key that nothing reads, before a method is missed that a misspelt `method` names."""
    methods = registry().names("method")
    known = _options_of([method] if method in methods else methods)
    for key in table:
        if key in _OWN or key in known:
            continue
        if key in _FOR_TABLE:
            raise UsageError(
                f"entrant {name}: {key} is the same for all entrants: give it in {_FOR_TABLE[key]} or typed"
            )
        raise UsageError(f"entrant {name}: unknown option {key!r}{nearest(key, [*_OWN, *known])}")


def _refuse_unknown_for_all(options: Mapping[str, Any], entries: Sequence[Entry]) -> None:
    """Refuse an option for all that nothing reads, or that only some entrants have."""
    methods = list(dict.fromkeys(entry.method for entry in entries if entry.method is not None))
    of = {method: _options_of([method]) for method in methods}
    shared = [*_FOR_TABLE, *(key for keys in of.values() for key in keys)]
    for key in options:
        if key not in shared:
            raise UsageError(f"unknown option {key!r}{nearest(key, shared)}")
        if key not in _FOR_TABLE and not all(key in keys for keys in of.values()):
            readers = [method for method in methods if key in of[method]]
            raise UsageError(f"{key} is an option of {', '.join(readers)} alone: give it to these entrants")


def _options_of(methods: Sequence[str]) -> list[str]:
    """The options of training of any of these methods."""
    return [key for method in methods for key in config_file.option_places(registry().find("method", method))]


def _find_method(name: str, method: str) -> None:
    try:
        registry().find("method", method)
    except UsageError as error:
        raise UsageError(f'entrant {name}: {error}; name its method: method = "..."') from error


def _in_order(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """The entrants, each behind what it needs, otherwise as they were given.

    Raises:
        UsageError: a cycle.
    """
    named = {entry.name: entry for entry in entries}
    done: dict[str, Entry] = {}
    on_the_way: list[str] = []

    def visit(name: str) -> None:
        if name in done:
            return
        if name in on_the_way:
            cycle = " from ".join([*on_the_way[on_the_way.index(name) :], name])
            raise UsageError(f"entrants start from each other: {cycle}; let one of them start from {BASE}")
        on_the_way.append(name)
        entry = named[name]
        for needed in [entry.start, *entry.rewards]:
            if needed is not None and needed in named:
                visit(needed)
        on_the_way.pop()
        done[name] = entry

    for entry in entries:
        visit(entry.name)
    return tuple(done.values())


def _check(made: Tournament) -> None:
    """Resolve every entrant, and the names of opponents and of the second judge, before anything is computed."""
    swept = {*made.sweeps, *(name for names in made.sweeps.values() for name in names)}
    rewards = {entry.name for entry in made.entrants if is_reward(entry)}
    if len(set(made.seeds)) < len(made.seeds):
        raise UsageError(f"tournament.seeds: {list(made.seeds)} names one twice: give each once")
    _refuse_unread_sets(made)
    for entry in made.entrants:
        if entry.start is not None and is_reward(made.entrant(entry.start)):
            raise UsageError(f"entrant {entry.name}: it starts from {entry.start}, which is a reward model")
        if entry.method is not None:
            made.resolved(entry)
        if entry.sweep is not None and is_reward(entry):
            raise UsageError(f"--sweep of {entry.sweep}: a reward model answers nothing that could be compared")
        if not (made.section.tokens or made.section.minutes):
            made.parts(entry)
    if not any(entry.method is not None for entry in made.judged):
        raise UsageError("no entrant is trained: name some by [entrants.NAME], or --preset paper")
    for opponent in made.section.vs:
        if not opponent.strip():
            raise UsageError("tournament.vs: an empty name; name an entrant, a model, or start")
        if opponent in swept or opponent in rewards:
            what = "swept: its winner is not known before" if opponent in swept else "a reward model"
            raise UsageError(f"tournament.vs: {opponent} is {what}; name another opponent")


def _refuse_unread_sets(made: Tournament) -> None:
    """Refuse a typed --set of a method's option that nothing reads, as each of its entrants has its own.

    Raises:
        UsageError: names both.
    """
    for text in made.sets:
        section, *rest = text.partition("=")[0].strip().split(".")
        if section != "train" or len(rest) != 2:
            continue
        method, option = rest
        entrants = [entry for entry in made.entrants if entry.method == method]
        if entrants and all(option in entry.options for entry in entrants):
            own = ", ".join(f"{entry.name} {entry.options[option]!r}" for entry in entrants)
            raise UsageError(
                f"--set {text}: nothing reads it, as each entrant of {method} has its own {option} ({own}): change it "
                f"there, or compare: --sweep {entrants[0].name}.{option}=..."
            )


def _is_of_other_method(text: str, method: str) -> bool:
    """Whether a --set names another method's table, or judging's."""
    path = text.partition("=")[0].strip().split(".")
    return path[0] == "judge" or (path[0] == "train" and len(path) == 3 and path[1] != method)
