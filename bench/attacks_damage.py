"""Damage to what lies on the disk: noticed, or the result is the same to the bit; and files of somebody else."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.attacks_ground import Ended, Ground, Tried, damaged, training

WAYS = ("bit", "cut", "zeros", "swap")
_WORDS_OF_DAMAGE = ("skipped", "damaged", "not what was written", "made again", "cannot be read")
_TIMES = ("seconds", "mfu", "memory_mib")
_RESULT = ("model/model.safetensors", "model/config.json", "samples.jsonl")


def corruption(ground: Ground, count: int, seed: int) -> tuple[Tried, Tried]:
    """Damage one file of a run that was killed, then go on with it; and go on with undamaged copies.

    The files are the checkpoints' weights, optimizer, state and manifest, the prepared data, the journal of rollouts
    and the ledger; every second try damages the checkpoint that the run goes on from.
    """
    chance = random.Random(f"{seed} corruption")
    tried, alarms = Tried("corruptions"), Tried("undamaged")
    whole = _result(ground, place := _copy(ground), _go_on(ground, place))
    if isinstance(whole, str):
        raise SystemExit(f"the undamaged run did not end: {whole}")
    for _ in range(max(5, count // 40)):
        place = _copy(ground)
        ended = _go_on(ground, place)
        said = [line for line in ended.text.splitlines() if any(word in line for word in _WORDS_OF_DAMAGE)]
        alarms.note(f"a false alarm: {said[0]}" if said else _other(whole, _result(ground, place, ended), "undamaged"))
        shutil.rmtree(place)
    for number in range(count):
        place = _copy(ground)
        file = chance.choice(_targets(place, chance))
        way = WAYS[number % len(WAYS)]
        before = file.read_bytes()
        after = damaged(before, chance, way)
        file.write_bytes(after)
        what = f"{way} of {file.relative_to(place)} ({len(before)} bytes)"
        ended = _go_on(ground, place)
        if ended.code in (2, 3) and "Traceback" not in ended.text:
            tried.note(None)  # noticed: the run refuses, in one line
        else:
            tried.note(_other(whole, _result(ground, place, ended), what))
        shutil.rmtree(place)
    return tried, alarms


def foreign_files(ground: Ground, count: int, seed: int) -> Tried:
    """Put other things in place of files of runs, ledgers, answers and models; then use them by a random command."""
    chance = random.Random(f"{seed} files")
    tried = Tried("files")
    for _ in range(count):
        place = ground.place("done", "stopped", "ledger.sqlite", "answers.jsonl", "model", "cache", "rows.jsonl")
        (place / "runs").mkdir()
        (place / "done").rename(place / "runs" / "done")
        (place / "stopped").rename(place / "runs" / "stopped")
        command, own = chance.choice(_uses(ground))
        files = sorted(f for part in own for f in (place / part).rglob("*") if f.is_file()) if own else []
        files += [place / part for part in own if (place / part).is_file()]
        file = chance.choice([f for f in files if f.name != ".lock"])
        what, content = _foreign(file.read_bytes(), chance)
        file.write_bytes(content)
        ended = ground.alignkit(command, place)
        tried.note(ended.problem(f"{' '.join(command)[:60]}: {file.relative_to(place)} is {what}"))
        shutil.rmtree(place)
    return tried


def _uses(ground: Ground) -> list[tuple[list[str], tuple[str, ...]]]:
    """Commands, and the files and folders that each reads."""
    small = ["--max-new-tokens", "2", "--num-prompts", "4"]
    rows, judge = ["--data", str(ground.rows)], ["--judge", f"{ground.rewards}:letters"]
    done, stopped, ledger = "runs/done", "runs/stopped", "ledger.sqlite"
    return [
        (["judge", "done", "--vs", str(ground.other), *rows, *judge, *small], (done, ledger)),
        (["judge", "--vs", str(ground.other), *judge, *small], (done, stopped)),
        (["judge", done, "--vs", done, *rows, *judge, *small], (done, ledger)),
        (["generate", "done", *rows, *small], (done,)),
        (["generate", "model", *rows, "--out", "answers.jsonl", "--resume", *small], ("answers.jsonl", "model")),
        (["evaluate", "done", *rows, *small], (done,)),
        (["ledger", "stats"], (ledger,)),
        (["ledger", "export"], (ledger,)),
        (["data", "show", "--model", "done", *rows, "--limit", "2"], (done,)),
        (["data", "show", "--model", "model", *rows, "--limit", "2"], ("model",)),
        (training("grpo", ground, stopped), (stopped, ledger)),
        (["train", "grpo", "--resume"], (stopped, done)),
        (training("sft", ground, done, steps=4), (done,)),
        ([*training("sft", ground, "new", steps=1), "--like", done], (done,)),
        ([*_without_model(training("sft", ground, "new", steps=1)), "--model", done], (done,)),
        ([*training("dpo", ground, "new", steps=1)], ("cache",)),
        (["judge", "--from", "answers.jsonl"], ("answers.jsonl",)),
    ]


def _without_model(command: list[str]) -> list[str]:
    at = command.index("--model")
    return command[:at] + command[at + 2 :]


def _foreign(content: bytes, chance: random.Random) -> tuple[str, bytes]:
    simple: dict[str, bytes] = {
        "empty": b"",
        "a list": b"[]",
        "null": b"null",
        "an object": b"{}",
        "a number": b"7",
        "text": b'"x"',
        "binary": bytes(chance.randrange(256) for _ in range(200)),
        "nested": b"[" * 100_000,
        "words": b"my notes\n",
    }
    if chance.random() < 0.4:
        what = chance.choice(list(simple))
        return what, simple[what]
    try:
        lines = content.decode().split("\n")
        changed = [_changed(json.loads(line), chance) if line.strip() else None for line in lines[:50]]
        return "of other types", "\n".join(json.dumps(x) for x in changed if x is not None).encode()
    except (ValueError, RecursionError):
        pass
    try:
        return "of other types", json.dumps(_changed(json.loads(content), chance)).encode()
    except (ValueError, RecursionError):
        way = chance.choice(WAYS)
        return f"damaged ({way})", damaged(content, chance, way)


def _changed(value: Any, chance: random.Random) -> Any:
    """Put another type, an absurd number or nothing at a few places of a JSON value."""
    odd = [None, True, -1, 10**30, 1e308, float("nan"), "", "x" * 3000, [], {}, [[]], {"a": {}}, "\u2028", "../../x"]
    places = list(_places(value))
    for _ in range(chance.choice((1, 1, 2, 4))):
        if not places:
            return chance.choice(odd)
        holder, key = chance.choice(places)
        try:
            if chance.random() < 0.25:
                del holder[key]
            else:
                holder[key] = chance.choice(odd)
        except (IndexError, KeyError):
            continue
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, (dict, list)):
        for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
            yield value, key
            yield from _places(inner)


def _copy(ground: Ground) -> Path:
    return ground.place("stopped", "cache", "ledger.sqlite")


def _go_on(ground: Ground, place: Path) -> Ended:
    return ground.alignkit(training("grpo", ground, "stopped"), place)


def _targets(place: Path, chance: random.Random) -> list[Path]:
    steps = sorted((place / "stopped" / "checkpoints").glob("step-*"))
    groups = [
        sorted(steps[-1].iterdir()),
        sorted(f for step in steps for f in step.iterdir()),
        sorted((place / "stopped" / "rollouts").rglob("*.safetensors")),
        sorted(f for f in (place / "cache").rglob("*") if f.is_file()),
        [place / "ledger.sqlite"],
        [place / "stopped" / "metrics.jsonl", place / "stopped" / "samples.jsonl"],
    ]
    return chance.choice([group for group in groups if group])


def _result(ground: Ground, place: Path, ended: Ended) -> dict[str, bytes] | str:
    """What a run that went on has made, or how it failed."""
    if problem := ended.problem("the run", codes=(0,)):
        return problem
    found = {name: (place / "stopped" / name).read_bytes() for name in _RESULT}
    return found | {"metrics.jsonl": "\n".join(_lasting(place / "stopped" / "metrics.jsonl")).encode()}


def _lasting(metrics: Path) -> Iterator[str]:
    """The metrics that two runs share: no seconds, no memory."""
    for line in metrics.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            name = str(json.loads(line)["name"])
        except (ValueError, KeyError, TypeError):
            yield line
        else:
            if not name.endswith("_s") and name not in _TIMES:
                yield line


def _other(whole: dict[str, bytes], found: dict[str, bytes] | str, what: str) -> str | None:
    if isinstance(found, str):
        return f"{what}: {found}"
    differing = [name for name in whole if whole[name] != found[name]]
    return f"{what}: not noticed, and {', '.join(differing)} differ" if differing else None
