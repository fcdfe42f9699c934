"""A key that a service repeats: in which writings it is cut out, in which its text is left out, and what is kept."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from alignkit.scoring.remote.keys import KeyCleaner
from alignkit.scoring.remote.replies import Rejected, Retry, read_reply

KEY = "nvapi-canary-0123456789"
CLEANER = KeyCleaner(SecretStr(KEY))
LIKES = {
    "another dash": KEY.replace("-", "\u2011"),
    "no dash": KEY.replace("-", ""),
    "upper case": KEY.upper(),
    "full width": "".join(chr(ord(one) + 0xFEE0) for one in KEY),
    "bold": "".join(chr(0x1D41A + ord(one) - ord("a")) if one.isalpha() else one for one in KEY),
    "accents": KEY.replace("a", "a\u0308").replace("y", "\u00fd"),
} | {
    f"{name} between": joint.join(KEY)
    for name, joint in {
        "zero-width space": "\u200b",
        "zero-width joiner": "\u200d",
        "byte-order mark": "\ufeff",
        "soft hyphen": "\u00ad",
        "right-to-left mark": "\u202e",
        "space": " ",
        "newline": "\n",
        "dots": " . ",
        "iota": "\u0345",
        "Chinese": "\u4e2d",
    }.items()
}


@pytest.mark.parametrize("name", LIKES)
def test_what_looks_like_the_key_is_cut_out_and_the_rest_is_kept(name: str) -> None:
    like = LIKES[name]
    assert CLEANER.text(f"Straße, 5: {like}, and\n{like}!") == "Straße, 5: [key], and\n[key]!"
    assert CLEANER.value({like: [like, 1.5, None]}) == {"[key]": ["[key]", 1.5, None]}
    escaped = json.dumps({"a": like})
    assert CLEANER.text(escaped) in ('{"a": "[key]"}', CLEANER.text("".join(f"\\u{ord(one):04x}" for one in KEY)))


@pytest.mark.parametrize("joint", ["\u200b", ":", " ", "\n", "-"])
def test_an_encoded_key_that_is_spread_leaves_its_text_out(joint: str) -> None:
    for text in (joint.join(KEY.encode().hex()), joint.join("bnZhcGktY2FuYXJ5LTAxMjM0NTY3ODk")):
        assert CLEANER.text(f"so: {text}.") == "[a text that repeats the key is left out]"


def test_halves_of_characters_leave_their_text_out() -> None:
    halves = "".join(map(chr, memoryview(LIKES["bold"].encode("utf-16-le")).cast("H")))
    assert CLEANER.text(f"so: {halves}.") == "[a text that repeats the key is left out]"


def test_a_letter_that_stands_for_several_is_cut_whole() -> None:
    cleaner = KeyCleaner(SecretStr("ice-cold-0123456789"))  # begins in the middle of a ligature, ends in one of another
    assert cleaner.text("the of\ufb01ce-cold-012345678\u2468 door") == "the of[key] door"


@pytest.mark.parametrize("key", ["not-needed", "EMPTY", "key-to-all", "sk-1234"])
def test_a_short_key_is_cut_only_as_it_is(key: str) -> None:
    words = key.replace("-", " ")
    assert KeyCleaner(SecretStr(key)).text(f"{words}, {key}.") == f"{words.replace(key, '[key]')}, [key]."


@given(st.text())
def test_a_text_without_the_key_is_kept(text: str) -> None:
    assert CLEANER.text(text) == text
    assert CLEANER.text(f"{text}{KEY}") == f"{text}[key]"


@pytest.mark.parametrize(
    "filler", ["nvapi-canary-012345678 ", "\u2011n", "\ufb01", f"{KEY}\u200b", LIKES["full width"]]
)
def test_a_megabyte_is_cleaned_in_linear_time(filler: str) -> None:
    began = time.process_time()
    CLEANER.text(filler * (1_000_000 // len(filler)))
    assert time.process_time() - began < 10.0


def test_no_half_of_a_key_is_left_where_an_error_is_shortened() -> None:
    like = LIKES["another dash"]
    for at in range(150, 200):
        for status in (200, 400):
            for body in (
                f"{'.' * at}{like}",
                json.dumps({"detail": f"{'.' * at}{like}"}),
                json.dumps(["." * at, like]),
            ):
                reply = read_reply(status, {}, body.encode(), clean=CLEANER.text)
                assert not isinstance(reply, Retry | Rejected) or "nvapi" not in reply.reason
