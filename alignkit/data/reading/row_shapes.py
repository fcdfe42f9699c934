"""Which fields of a row are its prompt and its answers: the shapes that data sets are published in.

A preference (`chosen`, `rejected` under any of their names) goes before all else: what stands beside it as `prompt`,
`messages` or `instruction` is its prompt. Nothing is taken silently from two places that disagree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic_core import from_json

from alignkit.data.reading.cells import TEXT_OF_MISSING, is_missing, kind_of, says_nothing, shown
from alignkit.data.reading.fields import (
    ALONE,
    BESIDE_PAIR,
    FURTHER,
    REFUSED,
    SHAPE,
    Field,
    FieldRefused,
    by_name,
    names,
    used,
)
from alignkit.data.reading.messages import (
    RIDING,
    Message,
    Messages,
    are_alike,
    read_messages,
    text_of_turn,
    with_riders,
)
from alignkit.data.reading.scores import are_scored, scored_completions
from alignkit.data.reading.tools import read_tools, without_undeclared
from alignkit.data.reading.written_turns import read_transcript, read_transcript_prompt, refuse_written_turns
from alignkit.errors import InputError

_CHOSEN, _REJECTED = names(SHAPE, "chosen"), names(SHAPE, "rejected")
_CONVERSATION = names(SHAPE, "messages")
_PROMPT = ("prompt", "instruction", "question", "input")
_SYSTEM, _LABEL = names(SHAPE, "system"), names(SHAPE, "label")
_ALONE = by_name(FURTHER, ALONE)
_TOOLS = names(SHAPE, "tools")
_VALUES = frozenset({"chat_template_kwargs", "enable_thinking", "date_string"})
_THOUGHTS_OF: Mapping[tuple[str, ...], str | None] = {
    names(SHAPE, "reasoning_content"): None,
    names(SHAPE, "chosen_reasoning"): "chosen",
    names(SHAPE, "rejected_reasoning"): "rejected",
}
_THOUGHTS = frozenset(name for group in _THOUGHTS_OF for name in group)
_MAY_SAY_WHICH = used(SHAPE, BESIDE_PAIR).union(_LABEL)
_PROMPT_READ = "the prompt read"
_OTHER_PROMPTS = "chosen and rejected have different prompts"
_ANSWERS = ("output", "completion")
_OF_SHAPES = (*_CONVERSATION, "prompt", "instruction", "chosen", "rejected", *_ANSWERS)
_UNREAD = "name the one to read in [data.columns], and leave the other unread by --ignore-fields {}"

SHAPES = (
    "prompt + chosen [+ rejected]",
    "chosen + rejected as whole conversations",
    "chosen + rejected as one text with Human: and Assistant: turns",
    "messages + chosen [+ rejected], or rejected_response",
    "instruction [+ input] + chosen [+ rejected], or chosen_response",
    "input.messages + preferred_output + non_preferred_output",
    "instruction + completions with scores",
    "prompt alone",
    "messages",
    "instruction [+ input] + output",
    "conversations (ShareGPT)",
    "prompt (or question, input) + completion [+ label (KTO)]",
)


class Split(NamedTuple):
    """What a row's fields say.

    Args:
        prompt: messages before the answer.
        chosen, rejected: the answers, None where there is none.
        is_conversation: a list of turns whose assistant turns are all scored.
        not_a_pair: why chosen and rejected are no preference.
        label: whether the one answer is good, where the row has a label.
    """

    prompt: Messages
    chosen: Messages | None
    rejected: Messages | None
    is_conversation: bool = False
    not_a_pair: str | None = None
    label: bool | None = None


def split_row(fields: Mapping[str, Any], where: str, columns: Mapping[str, str] | None) -> Split:
    """Read any shape.

    Raises:
        InputError: the shape is unknown, fields disagree, or a field cannot be read as it is.
    """
    return _Shape(fields, where, columns).split()


class _Shape:
    """One row's fields on their way to a `Split`."""

    def __init__(self, fields: Mapping[str, Any], where: str, columns: Mapping[str, str] | None) -> None:
        self.fields, self.where, self.columns = fields, where, columns
        self.given = {name: value for name, value in fields.items() if type(value) is str or not is_missing(value)}

    def split(self) -> Split:
        split = self._split()
        if not _THOUGHTS.isdisjoint(self.given):
            split = self._with_thoughts(split)
        riders: dict[str, Any] = {}
        if (tools := self._tools(split)) is not None:
            riders["tools"] = tools
        if not _VALUES.isdisjoint(self.given) and (values := self._values()):
            riders["template_values"] = values
        if not riders:
            return split
        prompt = _bare(split.prompt, tools)
        chosen, rejected = (answer and _bare(answer, tools) for answer in (split.chosen, split.rejected))
        if not prompt:
            chosen, rejected = (answer and with_riders(answer, riders) for answer in (chosen, rejected))
        return split._replace(prompt=with_riders(prompt, riders), chosen=chosen, rejected=rejected)

    def _values(self) -> dict[str, Any]:
        """The row's own values for the template."""
        given = self.given.get("chat_template_kwargs", {})
        if isinstance(given, str):
            try:
                given = from_json(given) if given.strip() else {}
            except ValueError as error:
                raise InputError(
                    f"{self.where}: 'chat_template_kwargs' is text, and no JSON: {error}; correct it, or leave it "
                    "unread by --ignore-fields chat_template_kwargs"
                ) from error
        if not isinstance(given, dict):
            raise InputError(
                f"{self.where}: 'chat_template_kwargs' must be an object, found {kind_of(given)}; correct it"
            )
        values = {name: value for name, value in given.items() if not is_missing(value)}
        for name, kind in (("enable_thinking", bool), ("date_string", str)):
            value = self.given.get(name)
            if value is None or value == "":
                continue
            if not isinstance(value, kind):
                wanted = "true or false" if kind is bool else "text"
                raise InputError(
                    f"{self.where}: {name!r} must be {wanted}, found {kind_of(value)}; correct it, or leave it unread "
                    f"by --ignore-fields {name}"
                )
            if values.setdefault(name, value) != value:
                raise InputError(
                    f"{self.where}: {name!r} differs from the one in 'chat_template_kwargs': {_UNREAD.format(name)}"
                )
        return values

    def _with_thoughts(self, split: Split) -> Split:
        """Put thoughts that stand beside an answer into its last message."""
        for names_, own in _THOUGHTS_OF.items():
            name = self._one_of([n for n in names_ if not says_nothing(self.given.get(n))])
            if name is None:
                continue
            which = own or ("rejected" if split.chosen is None else "chosen")
            answer: Messages | None = getattr(split, which)
            if answer is None or (own is None and split.chosen is not None and split.rejected is not None):
                why = f"there is no {own or 'single'} answer that these thoughts would stand before"
                raise FieldRefused(self.where, name, Field(name, REFUSED, why))
            value = self.given[name]
            if not isinstance(value, str):
                raise InputError(f"{self.where}: {name!r} must be text, found {kind_of(value)}; correct it")
            *before, last = answer
            if last.get("reasoning_content", value) != value:
                raise InputError(
                    f"{self.where}: {name!r} and the thoughts in the answer's message differ: {_UNREAD.format(name)}"
                )
            answer = (*before, {**last, "reasoning_content": value})
            split = split._replace(chosen=answer) if which == "chosen" else split._replace(rejected=answer)
        return split

    def _tools(self, split: Split) -> list[Any] | None:
        """The tools of the row, or of the first message of its conversation."""
        name = self._one_of([n for n in _TOOLS if n in self.given and not says_nothing(self.given[n])])
        turns = split.prompt or split.chosen or split.rejected or ()
        in_turns = next((turn["tools"] for turn in turns if "tools" in turn), None)
        if name is None:
            return in_turns
        tools = read_tools(self.given[name], self.where, name)
        if in_turns is not None and in_turns != tools:
            raise InputError(
                f"{self.where}: {name!r} and the tools in the first message differ: {_UNREAD.format('message.tools')}"
            )
        return tools

    def _split(self) -> Split:
        chosen_name, rejected_name = self._one_of(_CHOSEN), self._one_of(_REJECTED)
        if chosen_name is None and rejected_name is None:
            return self._without_preference()
        chosen = None if chosen_name is None else self._answer(chosen_name)
        rejected = None if rejected_name is None else self._answer(rejected_name)
        if chosen is not None and _is_whole(chosen):
            prompt, chosen = _cut(chosen)
            prompt = self._agreed(prompt, chosen)
        else:
            prompt, chosen = self._prompt_beside(chosen, rejected)
            self._refuse_other_prompts(prompt, _PROMPT_READ)
            if prompt and prompt[-1]["role"] == "assistant":
                raise InputError(self._ends_with_answer())
        self._refuse_other_answers(chosen)
        prompt = self._with_system(prompt)
        not_a_pair: str | None = None
        if rejected is not None and _is_whole(rejected):
            own, rejected = _cut(rejected)
            if not _are_alike(_without_system(own), _without_system(prompt)) or _have_other_systems(own, prompt):
                parted = _parted((*prompt, *(chosen or ())), (*own, *(rejected or ())))
                if parted is None:
                    not_a_pair = _OTHER_PROMPTS
                else:
                    prompt, chosen, rejected = parted
        if chosen is None and rejected is None:
            return Split(prompt, None, None, True)
        label: bool | None = None
        if chosen is not None and rejected is not None:
            self._refuse_beside_pair()
        elif rejected is None:
            label = self._label()
            if label is False:
                chosen, rejected = None, chosen
        return Split(prompt, chosen, rejected, False, not_a_pair, label)

    def _without_preference(self) -> Split:
        given, fields = self.given, self.fields
        if are_scored(given.get("completions")) and ("instruction" in given or "prompt" in given):
            return self._best_and_worst()
        turns = self._conversation()
        if turns is not None:
            self._refuse_history()
            self._refuse_other_prompts(turns, "the conversation")
            if turns and turns[-1]["role"] == "assistant":
                self._refuse_other_answers(turns[-1:])
            turns = self._with_system(turns)
            if not turns or turns[-1]["role"] != "assistant":
                return Split(turns, None, None, True)
            label = self._label()
            if label is False:
                return Split(turns[:-1], None, turns[-1:], label=label)
            return Split(turns[:-1], turns[-1:], None, True, label=label)
        names = [name for name in _ANSWERS if name in given]
        if "instruction" in given and ("output" in fields or any(n in fields for n in (*_CHOSEN, "completion"))):
            prompt = self._instruction()
        elif "prompt" in given or ("prompt" in fields and names):
            prompt = self._prompt_field("prompt") if "prompt" in given else ()
            self._refuse_other_completions()
            names = [name for name in names if name == "completion"]
            self._refuse_input_beside_prompt(is_answered=bool(names))
        elif not {"prompt", "instruction"} & fields.keys() and self._asks() and not fields.keys().isdisjoint(_ANSWERS):
            prompt = self._prompt_field(self._asks())
        else:
            raise InputError(self._unknown())
        self._refuse_other_prompts(prompt, _PROMPT_READ)
        if prompt and prompt[-1]["role"] == "assistant":
            raise InputError(self._ends_with_answer())
        prompt = self._with_system(prompt)
        if not names:
            return Split(prompt, None, None)
        answer = self._last_turns(names[0])
        self._refuse_other_answers(answer)
        label = self._label()
        return Split(prompt, None, answer, label=label) if label is False else Split(prompt, answer, None, label=label)

    def _unknown(self) -> str:
        """Say what to do with the fields that are there; where none of them is known, which shapes are."""
        found = ", ".join(sorted(map(str, self.given))) or "none"
        known = [
            f"{name!r}: {_ALONE[name].says}; {_ALONE[name].instead.format(name)}"
            for name in self.given
            if name in _ALONE
        ]
        known += [
            f"{name!r} is an answer without a prompt; write a whole conversation as 'messages'"
            for name in _ANSWERS
            if name in self.given
        ]
        if known:
            return f"{self.where}: the row has no prompt and answer that are read, but {', and '.join(known)}"
        return (
            f"{self.where}: unknown row shape; fields found: {found}; shapes known: {'; '.join(SHAPES)}; "
            "map foreign names in [data.columns]"
        )

    def _one_of(self, names: Sequence[str]) -> str | None:
        """The name under which a thing is given, an empty list being nothing; two that differ are refused."""
        found = [name for name in names if name in self.given and self.given[name] not in ([], ())]
        for other in found[1:]:
            if self.given[other] != self.given[found[0]]:
                unread = _UNREAD.format(other)
                raise InputError(f"{self.where}: the row has both {found[0]!r} and {other!r}: {unread}")
        return found[0] if found else None

    def _read(self, name: str, *, role: str = "user") -> Messages:
        return read_messages(self.given[name], self.where, name, role=role, columns=self.columns)

    def _answer(self, name: str) -> Messages:
        """Read an answer, or a whole conversation that ends with one."""
        value = self.given[name]
        turns = read_transcript(value) if isinstance(value, str) else None
        if turns is None or (len(turns) == 1 and any(field in self.given for field in (*_PROMPT, *_CONVERSATION))):
            return self._last_turns(name)
        return turns

    def _last_turns(self, name: str) -> Messages:
        """Read an answer; where its prompt is a transcript, the space behind "Assistant:" is none of it."""
        turns = self._read(name, role="assistant") or ({"role": "assistant", "content": ""},)
        may_be_whole = name not in _ANSWERS
        if turns[-1]["role"] != "assistant" and not (may_be_whole and _is_whole(turns)):
            raise InputError(f"{self.where}: {name!r} ends with the {turns[-1]['role']}: it is no answer")
        if _is_whole(turns) and not may_be_whole:
            raise InputError(f"{self.where}: {name!r} holds a whole conversation: write it as 'messages'")
        if isinstance(self.given[name], str) and read_transcript_prompt(self.given.get("prompt")) is not None:
            return ({"role": "assistant", "content": turns[0]["content"].strip()},)
        return turns

    def _conversation(self) -> Messages | None:
        """The turns of `messages` or `conversations`, None where there are none."""
        found = [self._turns(name) for name in _CONVERSATION if name in self.given]
        if len(found) == 2 and found[0] != found[1]:
            unread = _UNREAD.format(_CONVERSATION[1])
            raise InputError(f"{self.where}: 'messages' and 'conversations' hold different turns: {unread}")
        return found[0] if found else None

    def _turns(self, name: str) -> Messages:
        value = self.given[name]
        if not isinstance(value, (list, tuple)):
            raise InputError(f"{self.where}: {name!r} must be a list of messages, found {kind_of(value)}")
        return self._read(name)

    def _prompt_beside(self, chosen: Messages | None, rejected: Messages | None) -> tuple[Messages, Messages | None]:
        """The prompt of a preference whose answers are only answers, and the chosen one where the prompt holds it."""
        given = self.given
        turns = self._conversation()
        if turns is not None:
            self._refuse_history()
            if chosen is None:  # beside a rejected answer, the conversation's last one is the chosen
                return _cut(turns)
            if turns and turns[-1]["role"] == "assistant" and text_of_turn(turns[-1]) == text_of_turn(chosen[-1]):
                return turns[:-1], chosen
            return self._asked(turns), chosen
        if "instruction" in given:
            prompt = self._instruction()
            return prompt, self._last_turns("output") if chosen is None and "output" in given else chosen
        if "prompt" in given:
            self._refuse_input_beside_prompt(is_answered=True)
            prompt = self._prompt_field("prompt")
            is_completed = chosen is None and "completion" in given
            return prompt, self._last_turns("completion") if is_completed else chosen
        if self._asks():
            return self._prompt_field(self._asks()), chosen
        if "prompt" in self.fields or "instruction" in self.fields:
            return (), chosen
        if rejected is not None and _is_whole(rejected):
            return _cut(rejected)[0], None
        raise InputError(f"{self.where}: 'chosen' holds only the answer and there is no 'prompt'")

    def _asked(self, turns: Messages) -> Messages:
        """A conversation up to the turn that `prompt` repeats, where the row has one."""
        asked = self.given.get("prompt")
        if asked is None or not turns or turns[-1]["role"] != "assistant":
            return turns
        prompt = self._prompt_field("prompt")
        if not prompt or _without_system(prompt) == _without_system(turns[:-1]) or prompt[-1] == turns[-2:-1][-1]:
            return turns[:-1]
        raise InputError(
            f"{self.where}: 'prompt' is not what the conversation's last answer answers: {_UNREAD.format('prompt')}"
        )

    def _agreed(self, prompt: Messages, chosen: Messages | None) -> Messages:
        """The prompt inside a whole conversation, with the system message of a prompt beside it.

        Raises:
            InputError: a prompt or a conversation beside it is another.
        """
        self._refuse_history()
        turns = self._conversation()
        if turns is not None:
            self._refuse_other_turns(turns, prompt, chosen)
        self._refuse_other_prompts(prompt, "what 'chosen' begins with")
        beside = self.given.get("prompt")
        if not isinstance(beside, (list, tuple)):
            return prompt
        own = self._read("prompt")
        both = _has_system(own) and _has_system(prompt)
        if _without_system(own) == _without_system(prompt) and not (both and _have_other_systems(own, prompt)):
            return own if _has_system(own) else prompt
        unread = "leave the one unread by --ignore-fields prompt"
        raise InputError(f"{self.where}: 'prompt' is not what 'chosen' begins with: {unread}")

    def _refuse_other_turns(self, turns: Messages, prompt: Messages, chosen: Messages | None) -> None:
        """Refuse a conversation beside whole answers that is neither of them, nor their prompt."""
        own, answer = _cut(_without_system(turns))
        asked = _without_system(prompt)
        if own == asked and (answer is None or chosen is None or _same(answer, chosen) or "rejected" in self.given):
            return
        if answer is not None and (*own, *answer) == asked:
            return
        name = next(name for name in _CONVERSATION if name in self.given)
        raise InputError(f"{self.where}: {name!r} and 'chosen' hold different turns: {_UNREAD.format(name)}")

    def _refuse_other_prompts(self, prompt: Messages, read: str) -> None:
        """Refuse a question beside a prompt that does not hold it."""
        texts = [turn["content"].strip() for turn in prompt]
        for name in _PROMPT if read != _PROMPT_READ else ("prompt", "instruction", "question"):
            value = self.given.get(name)
            if not isinstance(value, str) or not value.strip() or any(value.strip() in text for text in texts):
                continue
            transcript = read_transcript_prompt(value)
            if transcript is not None and _without_system(transcript) == _without_system(prompt):
                continue
            raise InputError(
                f"{self.where}: {name!r} is not in {read}: write it into the prompt, or leave it unread "
                f"by --ignore-fields {name}"
            )

    def _refuse_other_answers(self, chosen: Messages | None) -> None:
        """Refuse an `output` or `completion` beside the answer that is read which is another."""
        for name in _ANSWERS:
            if chosen is None or name not in self.given:
                continue
            if isinstance(self.given[name], (str, list, tuple, dict)) and not _same(self._last_turns(name), chosen):
                raise InputError(
                    f"{self.where}: the row has {name!r} and another answer, which differ: {_UNREAD.format(name)}"
                )

    def _ends_with_answer(self) -> str:
        return (
            f"{self.where}: the prompt ends with an assistant message: answers that go on from it are not rendered; "
            "write it into the answer, or end the prompt with the user"
        )

    def _prompt_field(self, name: str) -> Messages:
        """Read a prompt: text (also a transcript that stops before the answer), or messages, with `history` before."""
        if isinstance(self.given[name], str) and self.given[name] in TEXT_OF_MISSING:
            raise InputError(self._missing_as_text(name))
        transcript = read_transcript_prompt(self.given[name])
        return self._history() + (self._read(name) if transcript is None else transcript)

    def _asks(self) -> str:
        """The field that is the prompt where there is neither `prompt` nor `instruction`, "" where none is.

        Raises:
            InputError: there are two.
        """
        found = [name for name in ("question", "input") if not says_nothing(self.given.get(name))]
        if len(found) == 2 and self.given["question"] != self.given["input"]:
            raise InputError(f"{self.where}: the row has both 'question' and 'input': {_UNREAD.format('input')}")
        return found[0] if found else ""

    def _instruction(self) -> Messages:
        """`instruction` and `input`, which are text, with `history` before."""
        parts = []
        for name in ("instruction", "input"):
            value = self.given.get(name)
            if value is None:
                continue
            if not isinstance(value, str):
                if name == "instruction":
                    return self._prompt_field(name)
                raise InputError(f"{self.where}: 'input' must be text, found {kind_of(value)}; write it as text")
            if value in TEXT_OF_MISSING:
                raise InputError(self._missing_as_text(name))
            if value:
                refuse_written_turns(value, self.where, name)
                parts.append(value)
        text = "\n\n".join(parts)
        return (*self._history(), *(({"role": "user", "content": text},) if text else ()))

    def _missing_as_text(self, name: str) -> str:
        return (
            f"{self.where}: {name!r} is {self.given[name]!r}, as tables write a missing cell: write null, or leave the "
            f"field unread by --ignore-fields {name}"
        )

    def _refuse_input_beside_prompt(self, *, is_answered: bool) -> None:
        """`input` belongs to `instruction`; beside a prompt nobody knows whether it belongs to that."""
        value = self.given.get("input")
        renamed = bool(self.columns) and "prompt" in (self.columns or ())
        if says_nothing(value) or not (is_answered or renamed) or value == self.given.get("prompt"):
            return
        raise InputError(
            f"{self.where}: the row has an 'input' beside its 'prompt': map the prompt to instruction to join them, or "
            "leave the one unread by --ignore-fields input"
        )

    def _history(self) -> Messages:
        """Turns before the question: [[question, answer], ...], or messages."""
        value = self.given.get("history")
        if says_nothing(value):
            return ()
        if not isinstance(value, (list, tuple)):
            raise InputError(self._wrong_history())
        if all(isinstance(turn, dict) for turn in value):
            return read_messages(value, self.where, "history", columns=self.columns)
        turns: list[Message] = []
        for pair in value:
            if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not all(isinstance(t, str) for t in pair):
                raise InputError(self._wrong_history())
            turns += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
        return tuple(turns)

    def _wrong_history(self) -> str:
        return (
            f"{self.where}: 'history' must be a list of [question, answer], found {shown(self.given.get('history'))}; "
            "leave it unread by --ignore-fields history"
        )

    def _refuse_history(self) -> None:
        if not says_nothing(self.given.get("history")):
            raise InputError(
                f"{self.where}: the row has a 'history' beside a whole conversation: write its turns into the "
                "conversation, or leave it unread by --ignore-fields history"
            )

    def _with_system(self, turns: Messages) -> Messages:
        """Put the row's system message first, where it has one beside its turns."""
        name = self._one_of([n for n in _SYSTEM if n in self.given and not says_nothing(self.given[n])])
        if name is None:
            return turns
        text = self.given[name]
        if not isinstance(text, str):
            raise InputError(
                f"{self.where}: {name!r} must be text, found {kind_of(text)}; leave it unread by --ignore-fields {name}"
            )
        if text in {*TEXT_OF_MISSING, "None"}:
            raise InputError(self._missing_as_text(name))
        if not _has_system(turns):
            return ({"role": "system", "content": text}, *turns)
        if turns[0]["content"].strip() != text.strip():
            raise InputError(
                f"{self.where}: {name!r} and the conversation's own system message differ: leave the one unread by "
                f"--ignore-fields {name}"
            )
        return turns

    def _label(self) -> bool | None:
        """Whether the row's one answer is good by every label that it carries; None where it carries none.

        Raises:
            InputError: a label is neither true nor false, nor 1 nor 0.
        """
        label: bool | None = None
        for name in _LABEL:
            if name not in self.fields:
                continue
            value = self.fields[name]
            if value is None and any(self.fields.get(field, "") is None for field in _OF_SHAPES):
                continue  # a table of several shapes: each row has every column, and null in those of the others
            if not isinstance(value, (bool, int, float)) or value not in (0, 1):
                found = "nothing" if is_missing(value) else kind_of(value)
                raise InputError(
                    f"{self.where}: {name!r} must be true or false (or 1 or 0), found {found}; correct it, or leave it "
                    f"unread by --ignore-fields {name}"
                )
            if label is not None and label is not bool(value):
                raise InputError(f"{self.where}: the row has two labels that differ: {_UNREAD.format(name)}")
            label = bool(value)
        return label

    def _refuse_other_completions(self) -> None:
        """Refuse ranked completions, and steps with a label each, beside a prompt; other lists are the user's own."""
        found = self.given.get("completions")
        if not isinstance(found, (list, tuple)) or not found:
            return
        have_ranks = all(isinstance(one, dict) and "rank" in one for one in found)
        if have_ranks or isinstance(self.given.get("labels"), (list, tuple)):
            what = "completions with ranks" if have_ranks else "steps with labels"
            raise InputError(
                f"{self.where}: {what} are not read: write 'chosen' and 'rejected', or leave them unread by "
                "--ignore-fields completions"
            )

    def _refuse_beside_pair(self) -> None:
        """Refuse what may say that the rejected answer is the better one."""
        if _MAY_SAY_WHICH.isdisjoint(self.given):
            return
        for name in sorted(_MAY_SAY_WHICH.intersection(self.given)):
            value = self.given[name]
            if (name in _LABEL and value is False) or not (says_nothing(value) or (value is True and name in _LABEL)):
                raise InputError(
                    f"{self.where}: the row has {name!r} beside 'chosen' and 'rejected': it may say which is "
                    f"better, and is not read; leave it unread by --ignore-fields {name}"
                )

    def _best_and_worst(self) -> Split:
        """openbmb's UltraFeedback: the completion with the highest score against the one with the lowest."""
        prompt = self._instruction() if "instruction" in self.given else self._prompt_field("prompt")
        for completion in self.given["completions"]:
            if not isinstance(completion["response"], str):
                raise InputError(f"{self.where}: a completion needs 'response' as text, found {shown(completion)}")
        scored = scored_completions(self.given["completions"])
        prompt = self._with_system(prompt)
        if not scored:
            return Split(prompt, None, None)
        best, worst = max(scored, key=lambda pair: pair[0]), min(scored, key=lambda pair: pair[0])
        chosen, rejected = (({"role": "assistant", "content": text},) for _, text in (best, worst))
        if len(scored) == 1:
            return Split(prompt, chosen, None)
        return Split(prompt, chosen, rejected)


def _is_whole(turns: Messages) -> bool:
    return bool(turns) and turns[0]["role"] != "assistant"


def _cut(turns: Messages) -> tuple[Messages, Messages | None]:
    """A conversation as the prompt and its last answer; it has none where it ends with the user."""
    return (turns[:-1], turns[-1:]) if turns and turns[-1]["role"] == "assistant" else (turns, None)


def _same(answer: Messages, other: Messages) -> bool:
    return text_of_turn(answer[-1]).strip() == text_of_turn(other[-1]).strip()


def _bare(turns: Messages, tools: list[Any] | None) -> Messages:
    """Turns without what rides with the first, and without null for what the tools that they call do not take."""
    bare: list[Message] = []
    for turn in turns:
        own = {name: value for name, value in turn.items() if name not in RIDING}
        if "tool_calls" in own and tools:
            own["tool_calls"] = without_undeclared(own["tool_calls"], tools)
        bare.append(own)
    return tuple(bare)


def _are_alike(turns: Messages, others: Messages) -> bool:
    return turns == others or are_alike(turns, others)


def _parted(better: Messages, worse: Messages) -> tuple[Messages, Messages, Messages] | None:
    """Two conversations with tools as what they share, and the rest of each, where both go on with the assistant."""
    if not any(turn["role"] == "tool" for turn in (*better, *worse)):
        return None
    system = better[: len(better) - len(_without_system(better))]
    better, worse = _without_system(better), _without_system(worse)
    pairs = enumerate(zip(better, worse, strict=False))
    shared = next((n for n, (one, other) in pairs if not are_alike([one], [other])), 0)
    if not shared or better[shared]["role"] != "assistant" or worse[shared]["role"] != "assistant":
        return None
    return (*system, *better[:shared]), better[shared:], worse[shared:]


def _has_system(turns: Messages) -> bool:
    return bool(turns) and turns[0]["role"] == "system"


def _have_other_systems(turns: Messages, prompt: Messages) -> bool:
    """Whether turns have a system message that the prompt has not."""
    if not _has_system(turns):
        return False
    return not _has_system(prompt) or turns[0]["content"].strip() != prompt[0]["content"].strip()


def _without_system(turns: Messages) -> Messages:
    return turns[1:] if _has_system(turns) else turns
