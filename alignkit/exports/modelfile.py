"""Ollama's Modelfile: a template in Go's language that says what the model's Jinja template says.

The Jinja template is not translated. It is rendered for a few conversations, and what it puts before, between and
behind the turns is written down; then both are compared on other conversations. A template that does more than that
(it cuts texts, numbers turns, writes a date) is refused. Tools are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from alignkit.data.chat.chat import Chat
from alignkit.data.reading.messages import Message
from alignkit.errors import InputError

_SYSTEM, _USER, _REPLY, _AGAIN = "Qs1q", "Qu1q", "Qa1q", "Qu2q"
_CHECKED: tuple[tuple[tuple[str, str], ...], ...] = (
    (("user", "Hi"),),
    (("system", "Be short.\nBe kind."), ("user", "Name a river.")),
    (("user", "a < b {{ c }}"), ("assistant", "\u00e9\u4e2d"), ("user", "Why?\n\nSay it.")),
    (("system", "S"), ("user", "1"), ("assistant", "2"), ("user", "3"), ("assistant", "4"), ("user", "5")),
)


@dataclass(frozen=True)
class Parts:
    """What stands around the turns of a conversation.

    Args:
        head: before a conversation that has no system message.
        around: (before, behind) of a turn by its role.
        answer: what the model's answer begins behind.
    """

    head: str
    around: dict[str, tuple[str, str]]
    answer: str

    def render(self, messages: Sequence[Message]) -> str:
        """A conversation as Ollama will write it."""
        text = "" if messages[0]["role"] == "system" else self.head
        for message in messages:
            before, behind = self.around[str(message["role"])]
            text += before + str(message["content"]) + behind
        return text + self.answer

    def without(self, beginning: str) -> Parts:
        """The same without a text that llama.cpp puts first by itself."""
        before, behind = self.around["system"]
        around = self.around | {"system": (before.removeprefix(beginning), behind)}
        return Parts(self.head.removeprefix(beginning), around, self.answer)

    def in_go(self) -> str:
        """As a template of Go."""
        turns = [
            '{{ if eq .Role "' + role + '" }}' + _go(before) + "{{ .Content }}" + _go(behind) + "{{ end }}"
            for role, (before, behind) in self.around.items()
        ]
        head = '{{ if ne (index .Messages 0).Role "system" }}' + _go(self.head) + "{{ end }}"
        return head + "{{ range .Messages }}" + "".join(turns) + "{{ end }}" + _go(self.answer)


def parts_of(chat: Chat) -> Parts:
    """Find what a chat template puts around the turns.

    Raises:
        InputError: it does more than that.
    """
    bare = Chat(chat.tokenizer, template=None, template_kwargs=chat.template_kwargs)  # the system message stands apart
    bare_says = bare.prompt
    try:
        one = bare_says([{"role": "user", "content": _USER}])
        turns = [(_USER, "user"), (_REPLY, "assistant"), (_AGAIN, "user")]
        several = bare_says([{"role": role, "content": text} for text, role in turns])
        headed = bare_says([{"role": "system", "content": _SYSTEM}, {"role": "user", "content": _USER}])
        before, ending = _between(one, _USER)
        _, before_reply, behind_reply, _ = _between(several, _USER, _REPLY, _AGAIN)
        before_system, behind_system, _ = _between(headed, _SYSTEM, _USER)
    except (InputError, ValueError) as error:
        raise _refused(str(error)) from error
    opening = _common_end(before, behind_reply, behind_system)
    closing = _common_beginning(ending, before_reply)
    around = {
        "system": (before_system, behind_system.removesuffix(opening)),
        "user": (opening, closing),
        "assistant": (before_reply.removeprefix(closing), behind_reply.removesuffix(opening)),
    }
    parts = Parts(before.removesuffix(opening), around, ending.removeprefix(closing))
    for conversation in _CHECKED:
        messages: list[Message] = [{"role": role, "content": text} for role, text in conversation]
        if parts.render(messages) != bare_says(messages):
            raise _refused("it treats turns by more than their role")
    return parts


def modelfile(chat: Chat, *, gguf: str, end_ids: Iterable[int]) -> str:
    """Write the Modelfile that stands beside a GGUF file.

    Args:
        gguf: the file's name.
        end_ids: tokens that end an answer.

    Raises:
        InputError: the template cannot be said in Go, or a text holds three quotes.
    """
    parts, tokenizer = parts_of(chat), chat.tokenizer
    first = tokenizer("a")["input_ids"]
    if first and first[0] == tokenizer.bos_token_id:
        parts = parts.without(str(tokenizer.bos_token))
    ends = sorted(str(tokenizer.convert_ids_to_tokens(number)) for number in end_ids)
    template = parts.in_go()
    if '"""' in template + (chat.system or ""):
        raise InputError(
            "--ollama: the chat template or system message holds three quotes, which a Modelfile cannot say"
        )
    lines = [f"FROM ./{gguf}", f'TEMPLATE """{template}"""']
    if chat.system is not None:
        lines.append(f'SYSTEM """{chat.system}"""')
    return "\n".join([*lines, *(f'PARAMETER stop "{end}"' for end in ends)]) + "\n"


def _between(text: str, *marks: str) -> tuple[str, ...]:
    """The texts before, between and behind marks. Raises ValueError where one is missing or stands twice."""
    found = []
    for mark in marks:
        if text.count(mark) != 1:
            raise ValueError("it does not write each turn's text once")
        before, _, text = text.partition(mark)
        found.append(before)
    return (*found, text)


def _common_beginning(*texts: str) -> str:
    same = (len(set(letters)) == 1 for letters in zip(*texts, strict=False))
    return "".join(letter for letter, _ in zip(texts[0], takewhile(bool, same), strict=False))


def _common_end(*texts: str) -> str:
    return _common_beginning(*(text[::-1] for text in texts))[::-1]


def _go(text: str) -> str:
    return text.replace("{{", '{{ "{{" }}')


def _refused(why: Any) -> InputError:
    return InputError(
        f"--ollama: the chat template cannot be said in a Modelfile: {why}; take --gguf alone, which holds the "
        "template itself, and serve it by llama.cpp"
    )
