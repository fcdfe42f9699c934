"""The line of every key of alignkit.toml."""

from __future__ import annotations

import json
import tomllib

from hypothesis import given
from hypothesis import strategies as st

from alignkit.config.source import key_lines


def test_lines_are_found_around_strings_that_look_like_keys() -> None:
    text = 'a = """\nb = 1\n[t]\n"""\n# """\n[t."x.y"]\n  k.l = {m = 1}\nlist = [\n  "c = 1",\n]\n\'q\' = 2\n'
    assert tomllib.loads(text)["t"]["x.y"]["q"] == 2
    assert key_lines(text) == {
        ("a",): 1,
        ("t", "x.y"): 6,
        ("t", "x.y", "k"): 7,
        ("t", "x.y", "k", "l"): 7,
        ("t", "x.y", "list"): 8,
        ("t", "x.y", "q"): 11,
    }


KEYS = st.text(st.sampled_from('ab-_.= #"é'), min_size=1, max_size=4)
VALUES = st.one_of(
    st.integers(), st.booleans(), st.text(st.sampled_from("ab='\"[]#\n"), max_size=6), st.lists(st.text("a='\n"))
)


@given(st.dictionaries(KEYS, st.dictionaries(KEYS, VALUES, max_size=4), max_size=4), st.integers(0, 2))
def test_every_key_of_any_file_has_its_line(tables: dict[str, dict[str, object]], gap: int) -> None:
    lines: list[str] = []
    expected = {}
    for table, keys in tables.items():
        lines += [""] * gap + [f"[{json.dumps(table)}] # a table"]
        expected[(table,)] = len(lines)
        for key, value in keys.items():
            lines += ["# key = 1", f"{json.dumps(key)} = {json.dumps(value)}  # a = b"]
            expected[table, key] = len(lines)
    text = "\n".join(lines)
    assert tomllib.loads(text) == tables
    assert key_lines(text) == expected
