"""Mutated rows and mutated alignkit.toml files, through the reading functions and through commands."""

from __future__ import annotations

import json
import random
import shutil
from typing import Any

from bench.attacks_ground import Ground, Tried

_USER, _ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
GOOD_ROWS: list[dict[str, Any]] = [
    {"id": "a", "prompt": "Say one.", "chosen": "one", "rejected": "two", "score_chosen": 5.0, "score_rejected": 3.0},
    {"prompt": [{"role": "user", "content": "Hi"}], "chosen": [{"role": "assistant", "content": "Ho", "weight": 1}]},
    {
        "prompt": "q",
        "prompt_id": "1",
        "chosen": [_USER, _ANSWER],
        "rejected": [_USER, _ANSWER | {"content": "b"}],
        "messages": [_USER, _ANSWER],
        "score_chosen": 7.5,
        "score_rejected": 7.5,
    },
    {"messages": [{"role": "system", "content": "s"}, _USER, _ANSWER]},
    {"messages": [_USER, {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]},
    {"instruction": "Do", "input": "this", "output": "done", "history": [["q", "a"]], "system": "s"},
    {"conversations": [{"from": "human", "value": "h"}, {"from": "gpt", "value": "g"}], "chosen": "x", "rejected": "y"},
    {"prompt": "p", "completion": "c", "label": True},
    {"prompt": "p", "reference": "r", "rules": [{"kind": "equals", "value": "1"}]},
]
GOOD_SETTINGS = """
[model]
model = "model"
precision = "fp32"
template_kwargs = {}
[data]
data = "rows.jsonl"
max_length = 128
columns = {prompt = "question"}
[train]
learning_rate = 1e-3
batch_size = 2
seed = 3
[train.grpo]
group_size = 4
temperatures = [0.6, 1.2]
kl = 0.1
[train.dpo]
beta = 0.1
[rollouts]
reward = ["rules"]
max_missing = 0.1
[judge]
judge = "rules"
margin = 3.0
[judge.nemotron]
base_url = ["http://127.0.0.1:9/v1"]
timeout_s = 3
"""
_ODD: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1e308,
    -1e-320,
    10**30,
    "",
    " ",
    "\0",
    "\ud800",
    "\u2028",
    "a" * 5000,
    [],
    {},
    [[]],
    [None],
    {"a": {}},
    [{"role": "user"}],
    [{"role": "assistant", "content": None}],
    [{"role": 1, "content": "x"}],
    [{"role": "assistant", "content": [{"type": "text", "text": "x"}, {"type": "image_url"}]}],
    [{"role": "tool", "content": "x"}],
    [{"role": "user", "content": "x"}] * 3,
    "<|im_end|>",
    "{{ 7*7 }}",
    float("nan"),
    float("inf"),
    [{"role": "user", "content": "x", "weight": "0"}],
    [{"from": ["gpt"], "value": "x"}],
]
_NAMES = (
    "id prompt chosen rejected messages reference completion label conversations instruction output input rules "
    "history system images tools score_chosen score_rejected role content weight from value loss train"
).split()


def rows(ground: Ground, count: int, seed: int) -> Tried:
    """Read mutated rows, one file each; every tenth one also through `data show`."""
    from alignkit.data.reading.read import Source
    from alignkit.errors import AlignkitError

    chance = random.Random(f"{seed} rows")
    tried = Tried("rows")
    place = ground.place()
    file = place / "x.jsonl"
    for number in range(count):
        lines = [_line(_mutated(chance.choice(GOOD_ROWS), chance), chance) for _ in range(chance.choice((1, 1, 3)))]
        file.write_bytes(b"\n".join(lines) + chance.choice((b"\n", b"", b"\r\n")))
        if number % 10 == 0:
            trains_on = chance.choice((["--train-on", "all-assistant"], ["--max-length", "12"], []))
            ended = ground.alignkit(["data", "show", "--model", ground.model, "--data", file, *trains_on], place)
            tried.note(ended.problem(f"data show {lines[0][:300]!r}"))
            continue
        try:
            list(Source(str(file)).rows())
            problem = None
        except AlignkitError:
            problem = None
        except Exception as error:
            problem = f"{type(error).__name__}: {error}: {lines[0][:300]!r}"
        tried.note(problem)
    shutil.rmtree(place)
    return tried


def settings(ground: Ground, count: int, seed: int) -> Tried:
    """Read mutated alignkit.toml files for training and for judging."""
    from alignkit.config.file import judge_settings, resolve
    from alignkit.errors import AlignkitError
    from alignkit.registry import registry

    chance = random.Random(f"{seed} settings")
    tried = Tried("settings")
    place = ground.place()
    file = place / "alignkit.toml"
    methods: list[Any] = [registry().find("method", name) for name in ("sft", "dpo", "grpo")]
    for number in range(count):
        text = _changed_toml(chance)
        file.write_bytes(text)
        if number % 10 == 0:
            ended = ground.alignkit(["config", "show", "--config", file], place)
            tried.note(ended.problem(f"config show {text[:300]!r}"))
            continue
        try:
            resolve(chance.choice(methods), options={}, config=file)
            judge_settings({}, file)
            problem = None
        except AlignkitError:
            problem = None
        except Exception as error:
            problem = f"{type(error).__name__}: {error}: {text[:300]!r}"
        tried.note(problem)
    shutil.rmtree(place)
    return tried


def _mutated(good: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    row: dict[str, Any] = json.loads(json.dumps(good))
    for _ in range(chance.randrange(1, 4)):
        key = chance.choice(list(row) or ["id"])
        odd = json.loads(json.dumps(chance.choice(_ODD)))
        way = chance.randrange(6)
        if way == 0:
            row[key] = odd
        elif way == 1:
            row.pop(key, None)
        elif way == 2:
            row[chance.choice(_NAMES)] = odd
        elif way == 3 and isinstance(row.get(key), list):
            row[key].insert(chance.randrange(len(row[key]) + 1), odd)
        elif way == 4 and isinstance(row.get(key), list) and row[key] and isinstance(row[key][0], dict):
            row[key][0][chance.choice(_NAMES)] = odd
        elif way == 5:
            row |= json.loads(json.dumps(chance.choice(GOOD_ROWS)))
    return row


def _line(row: dict[str, Any], chance: random.Random) -> bytes:
    line = json.dumps(row, ensure_ascii=chance.random() < 0.7).encode("utf-8", "surrogatepass")
    for _ in range(chance.choice((0, 0, 0, 1, 3))):
        at = chance.randrange(len(line) or 1)
        line = chance.choice((line[:at] + line[at + 1 :], line[:at] + bytes([chance.randrange(256)]) + line[at:]))
    return line


def _changed_toml(chance: random.Random) -> bytes:
    lines = GOOD_SETTINGS.strip().split("\n")
    odd = [
        "-1",
        "0",
        "nan",
        "inf",
        "1e30",
        "true",
        '""',
        '"x"',
        "[]",
        "{}",
        "[[]]",
        "[1, 'a']",
        "'" + "a" * 5000 + "'",
        "1979-05-27",
        '"\\u0000"',
        "[nan]",
        "9" * 40,
        "{a = 1}",
        "",
        "'../../x'",
    ]
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(len(lines))
        key, equals, _value = lines[at].partition(" = ")
        way = chance.randrange(5)
        if way == 0 and equals:
            lines[at] = f"{key} = {chance.choice(odd)}"
        elif way == 1 and equals:
            lines[at] = f"{key}{chance.choice(('x', '.a', '_', ' b', ''))} = {chance.choice(odd)}"
        elif way == 2:
            lines.insert(at, chance.choice(("[train.nothing]", "[judge.x.y]", "[[model]]", "a", "= 3", "[rollouts]")))
        elif way == 3:
            lines.pop(at)
            lines = lines or ["a"]
        elif way == 4:
            lines[at] = lines[at][: chance.randrange(len(lines[at]) + 1)]
    text = "\n".join(lines).encode()
    if chance.random() < 0.1:
        at = chance.randrange(len(text) + 1)
        text = text[:at] + bytes([chance.randrange(256)]) + text[at:]
    return text
