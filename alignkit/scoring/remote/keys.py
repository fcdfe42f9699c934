"""Keys of services: read from the environment, sent to https or this machine only, and cut out of what comes back.

Where a service repeats a key as it is, the key alone is cut out. So is what only looks like it: its ASCII letters and
digits in their order, in either case, full-width or otherwise styled, with other dashes, spaces, line ends, invisible
or other characters between them. Where it stands in another writing (\\u006e, %6e, &#110;, base64, hex, or one inside
another), the place is not known, and the whole text is left out.
"""

from __future__ import annotations

import base64
import html
import os
import re
import unicodedata
from typing import Any
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

from alignkit.errors import UsageError
from alignkit.services.addresses import is_this_machine

_MARK = "[key]"
_LEFT_OUT = "[a text that repeats the key is left out]"
_ROUNDS = 3  # writings inside one another
_SHORTEST = 8  # characters of a key that are looked for in other writings: a shorter one stands everywhere
_SHORTEST_FOLDED = 12  # letters and digits that are looked for without what is between them: "not-needed" is also words
_BLANK = re.compile(r"\\+[bfnrtv]")  # escaped, it is between letters; taken for a letter it would hide the key
_HALVES = re.compile("[\ud800-\udbff][\udc00-\udfff]")  # of one character, as JSON escapes them
_BETWEEN = re.compile(r"[^0-9A-Za-z]+")
_ESCAPE = re.compile(
    r"\\+(?:u\{([0-9a-fA-F]{1,6})\}|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|x([0-9a-fA-F]{2})|([0-7]{3})|(.))", re.S
)


def read_key(variable: str) -> SecretStr | None:
    """Read a key from the environment; None where it is not set.

    Raises:
        UsageError: it has characters that no key has, which would be refused on its way with the key in the message.
    """
    key = os.environ.get(variable, "").strip()
    if not key:
        return None
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise UsageError(f"{variable} holds spaces or characters that no key has: set it again, the key alone")
    return SecretStr(key)


def may_carry_key(url: str) -> bool:
    """Whether a key may be sent there: encrypted, or not leaving this machine."""
    return urlsplit(url).scheme == "https" or is_this_machine(url)


class KeyCleaner:
    """Cuts one key out of texts and JSON values; without a key it changes nothing."""

    def __init__(self, key: SecretStr | None) -> None:
        self._key = "" if key is None else key.get_secret_value()
        self._packed = _packed(self._key.encode()) if len(self._key) >= _SHORTEST else ()
        folded = _letters(self._key).lower()
        self._folded = folded if len(folded) >= _SHORTEST_FOLDED else ""

    def plain(self, text: str) -> str:
        """A text without the key where it stands as it is; JSON stays JSON."""
        return text.replace(self._key, _MARK) if self._key else text

    def text(self, text: str) -> str:
        """A text without the key."""
        if not self._key:
            return text
        cut = self.plain(text)
        if self._folded and self._folded in _letters(cut).lower():
            cut = self._without_likes(cut)
        return _LEFT_OUT if self._packed and self._is_hidden_in(cut) else cut

    def value(self, value: Any) -> Any:
        """A JSON value without the key, in names too."""
        if not self._key:
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.value(one) for one in value]
        if isinstance(value, dict):
            return {self.text(name): self.value(one) for name, one in value.items()}
        return value

    def _without_likes(self, text: str) -> str:
        """Cut out each place, from its first letter to its last, where the text's letters are the key's."""
        each = [_letters(one).lower() for one in text]
        owners = [place for place, letters in enumerate(each) for _ in letters]  # a ligature is several letters
        kept: list[str] = []
        folded, end, at = "".join(each), 0, 0
        while (at := folded.find(self._folded, at)) >= 0:
            kept += [text[end : owners[at]], _MARK]
            at += len(self._folded)
            end = owners[at - 1] + 1
        return "".join([*kept, text[end:]])

    def _is_hidden_in(self, text: str) -> bool:
        for _ in range(_ROUNDS):
            before = text
            if self._folded and self._folded in _letters(_unescaped(_BLANK.sub(" ", text))).lower():
                return True
            for decode in (_unescaped, html.unescape, unquote):
                text = decode(text)
                if self._key in text:
                    return True
            letters = _letters(text)
            lower = letters.lower()
            if any(packed in letters for packed in self._packed[:-1]) or self._packed[-1] in lower:
                return True
            if self._folded and self._folded in lower:
                return True
            if text == before:
                return False
        return False


def _packed(key: bytes) -> tuple[str, ...]:
    """The key's letters in base64, wherever in a group of three bytes it begins, and in hex (last)."""
    found = []
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + key).decode().rstrip("=")
        found.append(_letters(encoded[(shift * 8 + 5) // 6 : (shift + len(key)) * 8 // 6]))
    return (*(one for one in found if len(one) >= _SHORTEST), key.hex())


def _letters(text: str) -> str:
    """The ASCII letters and digits of a text, styled ones too (full-width, bold, with accents), in their order.

    But for halves of one character, a text's letters are those of its characters, one after another.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKD", _HALVES.sub(_joined, text))
    return _BETWEEN.sub("", text)


def _joined(halves: re.Match[str]) -> str:
    return halves[0].encode("utf-16-le", "surrogatepass").decode("utf-16-le")


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(_letter, text) if "\\" in text else text


def _letter(found: re.Match[str]) -> str:
    braced, code, long, short, octal, plain = found.groups()
    if plain is not None:
        return plain
    number = int(octal, 8) if octal else int(braced or code or long or short, 16)
    return chr(number) if number <= 0x10FFFF else ""
