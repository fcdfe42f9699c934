"""Answers that must have a form: JSON, lists, letters, lengths."""

from __future__ import annotations

import json

from alignkit_plugins.general.task import Task, counts, has, has_all, has_format

_NUMBERS = {3: "three", 4: "four", 5: "five"}
_KEYS = (
    ("cat", {"name": "Tom", "colour": "grey", "age": 4}),
    ("book", {"title": "The Long Road", "author": "A. Reed", "pages": 210}),
    ("train", {"from": "Graz", "to": "Linz", "minutes": 175}),
    ("recipe", {"dish": "soup", "minutes": 30, "portions": 2}),
    ("house", {"street": "Mill Lane", "floors": 2, "garden": True}),
)
_THINGS = (
    ("vegetables", ("carrot", "leek", "onion", "pea", "bean")),
    ("tools of a carpenter", ("hammer", "saw", "plane", "drill", "chisel")),
    ("animals that live in water", ("otter", "trout", "crab", "whale", "seal")),
    ("musical instruments", ("violin", "flute", "drum", "harp", "oboe")),
    ("things found in a kitchen", ("pan", "stove", "spoon", "kettle", "oven")),
)
_WORDS = (
    ("What do bees make?", "honey", "milk"),
    ("Which season follows winter?", "spring", "autumn"),
    ("What colour is a ripe banana?", "yellow", "blue"),
    ("Which animal says meow?", "cat", "cow"),
    ("What falls from clouds when it is wet?", "rain", "sand"),
)
_TOPICS = (
    ("a library", "books", "A library lends books.", "Its rooms are quiet."),
    ("a bridge", "river", "A bridge crosses a river.", "People walk over it."),
    ("the moon", "night", "The moon shines at night.", "It circles our planet."),
    ("a bakery", "bread", "A bakery sells bread.", "It opens early."),
    ("a bicycle", "wheels", "A bicycle has two wheels.", "It needs no fuel."),
)


def tasks() -> list[Task]:
    return [*_json(), *_lists(), *_letters(), *_lengths()]


def _task(template: str, prompt: str, rules: list[dict[str, object]], right: str, wrong: str) -> Task:
    return Task("formats", template, prompt, tuple(rules), right, wrong)


def _json() -> list[Task]:
    return [
        _task(
            "json",
            f"Describe a {thing} as a JSON object with the keys {', '.join(example)}. Write only the JSON.",
            [has_format("json"), {"kind": "json_keys", "values": list(example)}],
            json.dumps(example),
            f"Here is a {thing}: {', '.join(map(str, example.values()))}.",
        )
        for thing, example in _KEYS
    ]


def _lists() -> list[Task]:
    found = []
    for place, (things, names) in enumerate(_THINGS):
        n = 3 + place % 3
        numbered = "\n".join(f"{k}. {name}" for k, name in enumerate(names[:n], start=1))
        bullets = "\n".join(f"- {name}" for name in names[:n])
        flat = f"There are {' and '.join(names[:n])}."
        lines = counts("num_lines", least=n, most=n)
        ask = f"{_NUMBERS[n]} {things}"
        found += [
            _task("numbered", f"List {ask} as a numbered list.", [has_format("numbered-list"), lines], numbered, flat),
            _task("bullets", f"List {ask}, each after a dash.", [has_format("bullet-list"), lines], bullets, flat),
            _task(
                "commas",
                f"Name {ask} on one line, separated by commas, and nothing else.",
                [has_format("comma-list"), counts("num_items", least=n, most=n)],
                ", ".join(names[:n]),
                numbered,
            ),
        ]
    return found


def _letters() -> list[Task]:
    found = []
    for question, right, wrong in _WORDS:
        found += [
            _task(
                "capitals",
                f"{question} Answer in capital letters only.",
                [has_format("uppercase"), has(right)],
                f"{right.upper()}.",
                f"it is {wrong}",
            ),
            _task(
                "small",
                f"{question} Answer in small letters only, without any capital.",
                [has_format("lowercase"), has(right)],
                right,
                f"IT IS {wrong.upper()}",
            ),
            _task(
                "one-word",
                f"{question} Answer with one word.",
                [counts("num_words", least=1, most=1), has(right)],
                f"{right.capitalize()}.",
                f"I think that it may well be {wrong}.",
            ),
        ]
    return found


def _lengths() -> list[Task]:
    found = []
    for thing, word, one, two in _TOPICS:
        long = f"{one} {two} It is old. It is new. Many people know it, and many people like it very much indeed today."
        found += [
            _task(
                "two-sentences",
                f"Describe {thing} in exactly two sentences.",
                [counts("num_sentences", least=2, most=2)],
                f"{one} {two}",
                long,
            ),
            _task(
                "short",
                f"Say in at most twelve words what {thing} is, and use the word {word}.",
                [counts("num_words", most=12), has_all(word)],
                one,
                long.replace(word, "things"),
            ),
            _task(
                "ending",
                f'Write one sentence about {thing} that ends with the word "{word}".',
                [{"kind": "ends_with", "values": [word, f"{word}."]}, counts("num_sentences", least=1, most=1)],
                one.removesuffix(".") + "." if one.endswith(f"{word}.") else f"Whoever sees {thing} thinks of {word}.",
                two,
            ),
        ]
    return found
