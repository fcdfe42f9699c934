"""What the command line says, in Python's words: `max_length=512` for `--max-length 512`.

Commands that are to be typed stay as they are, up to a semicolon, a comma or a backquote.
"""

from __future__ import annotations

import re

_VALUE = r"\d[\w.-]*\w|\d|[A-Z][A-Z/]+\b"  # a number, 4bit, or the name of what is to be put there, as in FILE
_SAID = re.compile(
    r"(?P<command>\balignkit [a-z].*?(?=[;`]|, |$))"
    r"|(?<![\w-])--set (?P<key>[a-z][\w.]*)=(?P<text>[\w./:-]*\w)"
    r"|(?<![\w-])(?P<allowed>--allow-changed [^\s,;]+(?: --allow-changed [^\s,;]+)*)"
    r"|(?<![\w-])--no-(?P<off>[a-z][a-z0-9-]*)"
    rf"|(?<![\w-])--(?P<flag>[a-z][a-z0-9-]*)(?: (?P<value>{_VALUE}))?",
    re.DOTALL,
)
_NUMBER = re.compile(r"-?\d+(\.\d+)?(e-?\d+)?")


def in_python(message: str) -> str:
    """Return a text of the command line with arguments for its options.

    >>> in_python("add --lora-rank 16, or --set duplicates=drop; --allow-changed data --allow-changed seed")
    "add lora_rank=16, or duplicates='drop'; allow_changed=['data', 'seed']"
    """
    return _SAID.sub(_said, message)


def _said(found: re.Match[str]) -> str:
    if found["command"]:
        return found["command"]
    if found["key"]:
        key, text = found["key"], found["text"]
        return f"set=[{f'{key}={text}'!r}]" if "." in key else f"{key}={_literal(text)}"
    if found["allowed"]:
        return f"allow_changed={found['allowed'].split()[1::2]}"
    if found["off"]:
        return found["off"].replace("-", "_") + "=False"
    name = found["flag"].replace("-", "_")
    return name if found["value"] is None else f"{name}={_literal(found['value'])}"


def _literal(text: str) -> str:
    """A number, a switch, or the name of what is to be put there as it stands; other text in quotes."""
    is_plain = _NUMBER.fullmatch(text) or re.fullmatch("[A-Z/]+", text)
    return {"true": "True", "false": "False"}.get(text, text if is_plain else repr(text))
