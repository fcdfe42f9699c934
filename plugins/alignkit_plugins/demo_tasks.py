"""The data set `demo`: short, checkable instructions that a seeded grammar makes, with good and bad answers.

Every row has a prompt, a right chosen answer, a rejected one of a real kind (`rejected_kind`), the reference (the
chosen text) and `rules` for the judge `rules`: chosen scores 1 by them, rejected less. More than a third of the
families appear in the part `test` alone (`unseen`), and no prompt of `train` is in `test`. The part `own` holds
everyday questions outside the grammar, with a plain reference and no rules; `unseen` is test without the families that
train has too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from random import Random
from typing import Any, ClassVar

from alignkit.plugin import Dataset, Preset, UsageError, hookimpl, nearest
from alignkit_plugins.demo import answers, closed, forms, free_text
from alignkit_plugins.demo.grammar import Family, Task
from alignkit_plugins.demo.own import OWN

FAMILIES: tuple[Family, ...] = (*closed.FAMILIES, *forms.FAMILIES, *free_text.FAMILIES)
NUM_TRAIN = 3000
NUM_TEST_SEEN = 200
NUM_TEST_UNSEEN = 400
OPEN_SHARE = 3  # rows of an open family in train for each row of a closed one: there are few open families
_MAX_DRAWS_PER_ROW = 100

Row = dict[str, Any]


@dataclass(frozen=True)
class _Answered:
    """A task with the rejected answer drawn for it."""

    task: Task
    rejected: str
    kind: str


class DemoTasks(Dataset):
    """Rows of the demo tasks. The same seed gives the same rows, in the same order.

    Args:
        seed: the whole randomness of the grammar.
    """

    name: ClassVar[str] = "demo"
    parts: ClassVar[tuple[str, ...]] = ("train", "test", "unseen", "own")

    def __init__(self, seed: int = 20250) -> None:
        self.seed = seed

    def rows(self, part: str) -> Iterator[Mapping[str, Any]]:
        """Yield the rows of `part`: train in random order, test with the families in turn, own as written.

        Raises:
            UsageError: there is no such part.
        """
        if part not in self.parts:
            raise UsageError(
                f"data set demo has no part {part!r}{nearest(part, list(self.parts))}; parts: {', '.join(self.parts)}"
            )
        yield from map(dict, _made(self.seed, part))

    def _train(self) -> list[Row]:
        rows = [
            _row("train", family, answered, place)
            for family, size in _train_sizes().items()
            for place, answered in enumerate(self._draw(family, size))
        ]
        Random(f"{self.seed}:order").shuffle(rows)
        return rows

    def _test(self) -> list[Row]:
        seen, unseen = _families(unseen=False), _families(unseen=True)
        sizes = _shares(NUM_TEST_SEEN, len(seen)) + _shares(NUM_TEST_UNSEEN, len(unseen))
        in_train = _train_sizes()
        columns = []
        for family, size in zip((*seen, *unseen), sizes, strict=True):
            start = in_train.get(family, 0)
            drawn = self._draw(family, start + size)[start:]
            columns.append([_row("test", family, answered, place) for place, answered in enumerate(drawn)])
        return [row for turn in zip_longest(*columns) for row in turn if row is not None]

    def _unseen(self) -> list[Row]:
        return [row for row in self._test() if row["unseen"]]

    def _draw(self, family: Family, size: int) -> list[_Answered]:
        """Return the family's first `size` tasks, each prompt once; a longer draw begins with a shorter one."""
        rng = Random(f"{self.seed}:{family.name}")
        bad_rng = Random(f"{self.seed}:{family.name}:rejected")  # apart: the tasks do not depend on the bad answers
        drawn: dict[str, _Answered] = {}
        for _ in range(_MAX_DRAWS_PER_ROW * size):
            if len(drawn) == size:
                return list(drawn.values())
            answered = _answer_badly(family.make(rng), bad_rng, is_open=family.open)
            drawn.setdefault(answered.task.prompt, answered)
        raise AssertionError(f"family {family.name} makes only {len(drawn)} of {size} prompts: give it more words")


@lru_cache(maxsize=8)
def _made(seed: int, part: str) -> tuple[Row, ...]:
    """Make the rows once: a run reads them some ten times, to hash, split and prepare them."""
    demo = DemoTasks(seed)
    make = {"train": demo._train, "test": demo._test, "unseen": demo._unseen, "own": _own}[part]
    return tuple(make())


@hookimpl
def register_datasets(register: Callable[[type[Dataset]], None]) -> None:
    """Add the data set `demo`."""
    register(DemoTasks)


def _families(*, unseen: bool) -> tuple[Family, ...]:
    return tuple(family for family in FAMILIES if family.unseen == unseen)


def _train_sizes() -> dict[Family, int]:
    """Rows of each family in train."""
    seen = _families(unseen=False)
    slots = [family for family in seen for _ in range(OPEN_SHARE if family.open else 1)]
    sizes = dict.fromkeys(seen, 0)
    for family, size in zip(slots, _shares(NUM_TRAIN, len(slots)), strict=True):
        sizes[family] += size
    return sizes


def _shares(total: int, num_shares: int) -> list[int]:
    """Divide total into parts that differ by at most one."""
    size, larger = divmod(total, num_shares)
    return [size + (place < larger) for place in range(num_shares)]


def _answer_badly(task: Task, rng: Random, *, is_open: bool) -> _Answered:
    """Draw a kind of bad answer, and others until the rules score it below the chosen answer's 1."""
    weights = answers.WEIGHTS[is_open]
    while True:
        kind = rng.choices(list(weights), list(weights.values()))[0]
        rejected = answers.KINDS[kind](task, rng)
        if not _satisfies(rejected, task.rules):
            return _Answered(task, rejected, kind)


def _satisfies(text: str, rules: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a text satisfies all rules of the grammar's own, which need no check of their fields."""
    from alignkit_plugins.rule_kinds import KINDS  # pydantic, which `alignkit --help` does not wait for

    fields = ((rule["kind"], {n: v for n, v in rule.items() if n not in ("kind", "weight")}) for rule in rules)
    return bool(text.strip()) and all(KINDS[kind](text, **own) == 1 for kind, own in fields)


def _row(part: str, family: Family, answered: _Answered, place: int) -> Row:
    task = answered.task
    return {
        "id": f"{part}-{family.name}-{place:03d}",
        "template": family.name,
        "unseen": family.unseen,
        "open": family.open,
        "prompt": _message("user", task.prompt),
        "chosen": _message("assistant", task.chosen),
        "rejected": _message("assistant", answered.rejected),
        "reference": task.chosen,
        "rules": task.rules,
        "rejected_kind": answered.kind,
    }


def _own() -> list[Row]:
    return [
        {"id": f"own-{place:03d}", "unseen": True, "prompt": _message("user", prompt), "reference": reference}
        for place, (prompt, reference) in enumerate(OWN)
    ]


def _message(role: str, content: str) -> Sequence[Mapping[str, str]]:
    return [{"role": role, "content": content}]


@hookimpl
def register_commands(register: Callable[[Callable[..., None]], None]) -> None:
    """Add `alignkit demo`."""
    from alignkit_plugins.demo_command import demo

    register(demo)


@hookimpl
def register_presets(register: Callable[[type[Preset]], None]) -> None:
    """Add `alignkit init --offline`, and the quickstart's tournament."""
    from alignkit_plugins.demo_preset import Demo
    from alignkit_plugins.offline_preset import Offline

    register(Offline)
    register(Demo)
