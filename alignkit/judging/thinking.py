"""Takes thinking out of an answer: what stands between <think> and </think> is not said to the reader.

An opening mark without a closing one is thinking to the end (the answer was cut); a closing mark without an opening one
ends thinking that the chat template began.
"""

from __future__ import annotations

import re

_BLOCK = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)


def split_thinking(text: str) -> tuple[str, str]:
    """Return (answer, thinking), each stripped of outer white space where thinking was found; else (text, "")."""
    opened, closed = text.find("<think>"), text.find("</think>")
    head = ""
    if closed >= 0 and (opened < 0 or closed < opened):
        head, text = text[: closed + len("</think>")], text[closed + len("</think>") :]
    blocks = [head, *_BLOCK.findall(text)]
    thinking = "".join(blocks)
    if not thinking:
        return text, ""
    return _BLOCK.sub("", text).strip(), thinking.strip()
