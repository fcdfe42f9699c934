"""Prompts of one data set that stand in another's: runs of words against a plain reference."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignkit import _native
from alignkit.cli.main import main
from alignkit.data.looking.overlap import overlap
from alignkit.data.reading.rows import Row, to_row

TEXTS = st.lists(st.lists(st.sampled_from("ab B c. ä, Ä 写 诗 1".split()), max_size=12).map(" ".join), max_size=6)


def rows(*prompts: str) -> list[Row]:
    return [to_row({"id": f"{n}", "prompt": prompt}, where="x") for n, prompt in enumerate(prompts)]


def reference(small: list[str], large: list[str], size: int) -> list[tuple[int, int, int]]:
    """Distinct runs of each small text, those in some large text, and the first large text with one."""
    result = []
    for text in small:
        own = words(text)
        length = min(size, len(own))
        runs = windows(own, length)
        homes = [{n for n, other in enumerate(large) if run in windows(words(other), length)} for run in runs]
        seen = [home for home in homes if home]
        result.append((len(runs), len(seen), min(map(min, seen), default=-1)))
    return result


def words(text: str) -> list[str]:
    return re.findall(r"[写诗]|[^\W_写诗]+", text.lower())


def windows(own: list[str], length: int) -> set[tuple[str, ...]]:
    return {tuple(own[n : n + length]) for n in range(len(own) - length + 1)} if length else set()


@given(TEXTS, TEXTS, st.integers(1, 5))
def test_runs_equal_the_reference(small: list[str], large: list[str], size: int) -> None:
    index = _native.OverlapIndex(small, size)
    half = len(large) // 2
    index.scan(large[:half])
    index.scan(large[half:])
    found = [array.tolist() for array in index.overlaps()]
    assert list(zip(*found, strict=True)) == reference(small, large, size)


def test_the_largest_share_comes_first_with_the_row_that_has_it() -> None:
    training = rows("Write a poem about the sea at night.", "Tell me a joke about two cats and a dog.")
    asked = rows("What is 2 + 3?", "Write a POEM about the sea, at dawn!", "tell me a joke about two cats and a dog")
    found = overlap(training, asked, size=4, threshold=0.5)
    assert (found.num_rows, found.num_prompts) == (2, 3)
    assert [(f.id, f.share, f.first) for f in found.found] == [("2", 1.0, "1"), ("1", 0.8, "0")]


def test_a_system_message_that_all_rows_share_is_no_overlap() -> None:
    system = {"role": "system", "content": "You are a helpful assistant who answers in a friendly tone."}
    made = [
        to_row({"id": text, "prompt": [system, {"role": "user", "content": text}]}, where="x")
        for text in ("Name a river in Europe.", "Name a tree.")
    ]
    assert overlap(made[:1], made[1:]).found == ()


def test_the_command_lists_what_it_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, texts in (("a", ["one two three four", "five six"]), ("b", ["zero one two three four", "six five"])):
        lines = [json.dumps({"id": f"{name}{n}", "prompt": text}) for n, text in enumerate(texts)]
        Path(f"{name}.jsonl").write_text("\n".join(lines))
    command = ["data", "overlap", "--data", "a.jsonl", "--with", "b.jsonl", "--words", "3"]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["found"] == [{"id": "b0", "share": pytest.approx(2 / 3), "first": "a0"}]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert re.search(r"b0 .* 67 % .* a0 ", shown)
    assert "1 of 2 prompts share at least 50 % of their runs of 3 words with the 2 rows" in shown
    assert main([*command, "--share", "0.7"]) == 0
    assert "0 of 2 prompts" in capsys.readouterr().out


def test_a_long_stream_of_rows_leaves_the_index_as_it_was() -> None:
    random = np.random.default_rng(0)
    vocabulary = [f"w{n}" for n in range(50)]
    texts = [" ".join(random.choice(vocabulary, 30)) for _ in range(300)]
    together, apart = _native.OverlapIndex(texts[:20], 3), _native.OverlapIndex(texts[:20], 3)
    together.scan(texts[20:])
    for text in texts[20:]:
        apart.scan([text])
    for one, other in zip(together.overlaps(), apart.overlaps(), strict=True):
        assert one.tolist() == other.tolist()
