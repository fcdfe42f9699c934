"""A key that a service repeats is cut out of all that is kept or shown, however it is written.

Where it stands as it is, it alone is cut out. Where it stands in another writing (\\u006e, %6e, &#110;, base64, hex, or
one inside another), the place is not known, and the whole text is left out.
"""

from __future__ import annotations

import base64
import html
import re
from typing import Any
from urllib.parse import unquote

from pydantic import SecretStr

_MARK = "[key]"
_LEFT_OUT = "[a text that repeats the key is left out]"
_ROUNDS = 3  # writings inside one another
_SHORTEST = 8  # characters of a key that are looked for in other writings: a shorter one stands everywhere
_ESCAPE = re.compile(r"\\+(?:u\{?([0-9a-fA-F]{1,6})\}?|U([0-9a-fA-F]{8})|x([0-9a-fA-F]{2})|([0-7]{3})|(.))", re.S)


class KeyCleaner:
    """Cuts one key out of texts and JSON values; without a key it changes nothing."""

    def __init__(self, key: SecretStr | None) -> None:
        self._key = "" if key is None else key.get_secret_value()
        self._packed = _packed(self._key.encode()) if len(self._key) >= _SHORTEST else ()

    def plain(self, text: str) -> str:
        """A text without the key where it stands as it is; JSON stays JSON."""
        return text.replace(self._key, _MARK) if self._key else text

    def text(self, text: str) -> str:
        """A text without the key."""
        if not self._key:
            return text
        cut = self.plain(text)
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

    def _is_hidden_in(self, text: str) -> bool:
        for _ in range(_ROUNDS):
            before = text
            for decode in (_unescaped, html.unescape, unquote):
                text = decode(text)
                if self._key in text:
                    return True
            flat = "".join(text.split())
            if any(packed in flat for packed in self._packed) or self._packed[-1] in flat.lower():
                return True
            if text == before:
                return False
        return False


def _packed(key: bytes) -> tuple[str, ...]:
    """The key in base64, wherever in a group of three bytes it begins, and in hex (last)."""
    found = []
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + key).decode().rstrip("=")
        inner = encoded[(shift * 8 + 5) // 6 : (shift + len(key)) * 8 // 6]
        found += [inner, inner.replace("+", "-").replace("/", "_")]
    return (*found, key.hex())


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(_letter, text) if "\\" in text else text


def _letter(found: re.Match[str]) -> str:
    code, long, short, octal, plain = found.groups()
    if plain is not None:
        return plain
    number = int(octal, 8) if octal else int(code or long or short, 16)
    return chr(number) if number <= 0x10FFFF else ""
