"""Which fields of a row are its prompt and its answers: the shapes that data sets are published in.

A preference (`chosen`, `rejected` under any of their names) goes before all else: what stands beside it as `prompt`,
`messages` or `instruction` is its prompt. Nothing is taken silently from two places that disagree.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alignkit.data.reading.carried import with_carried
from alignkit.data.reading.cells import is_missing, kind_of, says_nothing, shown, truth_of
from alignkit.data.reading.fields import BESIDE_PAIR, FALSE_MEANS, SHAPE, names, under_other_names, used
from alignkit.data.reading.given import UNREAD, Given, Split
from alignkit.data.reading.messages import Messages, are_alike, text_of_turn
from alignkit.data.reading.prompt_fields import (
    asks,
    has_system,
    instruction,
    prompt_field,
    refuse_history,
    refuse_input_beside_prompt,
    with_system,
)
from alignkit.data.reading.scores import are_scored, scored_completions
from alignkit.data.reading.tools import from_json_text
from alignkit.data.reading.written_turns import read_transcript, read_transcript_prompt
from alignkit.errors import InputError

_CHOSEN, _REJECTED = names(SHAPE, "chosen"), names(SHAPE, "rejected")
_CONVERSATION = names(SHAPE, "messages")
_PROMPT = ("prompt", "instruction", "question", "input")
_LABEL = names(SHAPE, "label")
_RANKS = frozenset({"rank", "ranks", "ranking", "rankings"})  # of `completions`
_MAY_SAY_WHICH = used(SHAPE, BESIDE_PAIR).union(_LABEL)
_PROMPT_READ = "the prompt read"
_OTHER_PROMPTS = "chosen and rejected have different prompts"
_OTHER_SYSTEMS = "chosen and rejected have different system messages"
_ANSWERS = ("output", "completion")
_OF_SHAPES = (*_CONVERSATION, "prompt", "instruction", "chosen", "rejected", *_ANSWERS)

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


def split_row(fields: Mapping[str, Any], where: str, columns: Mapping[str, str] | None) -> Split:
    """Read any shape.

    Raises:
        InputError: the shape is unknown, fields disagree, or a field cannot be read as it is.
    """
    row = Given(fields, where, columns)
    return with_carried(row, _split(row))


def _split(row: Given) -> Split:
    chosen_name, rejected_name = row.one_of(_CHOSEN), row.one_of(_REJECTED)
    if chosen_name is None and rejected_name is None:
        return _without_preference(row)
    chosen = None if chosen_name is None else _answer(row, chosen_name)
    rejected = None if rejected_name is None else _answer(row, rejected_name)
    is_own_system = False
    if chosen is not None and _is_whole(chosen):
        is_own_system = has_system(chosen) and not _has_system_beside(row)
        prompt, chosen = _cut(chosen)
        answer = next((name for name in _ANSWERS if name in row.given), None)
        if chosen is None and rejected is None and answer is not None:  # Axolotl: the prompt stands in `chosen`
            chosen = _last_turns(row, answer)
        prompt = _agreed(row, prompt, chosen)
    else:
        prompt, chosen = _prompt_beside(row, chosen, rejected)
        _refuse_other_prompts(row, prompt, _PROMPT_READ)
        if prompt and prompt[-1]["role"] == "assistant":
            raise InputError(_ends_with_answer(row))
    _refuse_other_answers(row, chosen)
    prompt = with_system(row, prompt)
    not_a_pair: str | None = None
    if rejected is not None and _is_whole(rejected):
        own, rejected = _cut(rejected)
        if _have_other_systems(own, prompt) or (is_own_system and not has_system(own)):
            not_a_pair = _OTHER_SYSTEMS
        elif not _are_alike(_without_system(own), _without_system(prompt)):
            parted = _parted((*prompt, *(chosen or ())), (*own, *(rejected or ())))
            if parted is None:
                not_a_pair = _OTHER_PROMPTS
            else:
                prompt, chosen, rejected = parted
    if chosen is None and rejected is None:
        return Split(prompt, None, None, True)
    label: bool | None = None
    if chosen is not None and rejected is not None:
        _refuse_beside_pair(row)
        if not any(turn["role"] == "tool" for turn in (*chosen, *rejected)):
            if not _are_alike(chosen[:-1], rejected[:-1]):
                not_a_pair = not_a_pair or _OTHER_PROMPTS
            else:  # what both answers begin with is their context
                prompt, chosen, rejected = (*prompt, *chosen[:-1]), chosen[-1:], rejected[-1:]
    elif rejected is None:
        label = _label(row)
        if label is False:
            chosen, rejected = None, chosen
    return Split(prompt, chosen, rejected, False, not_a_pair, label)


def _without_preference(row: Given) -> Split:
    given, fields = row.given, row.fields
    if are_scored(given.get("completions")) and ("instruction" in given or "prompt" in given):
        return _best_and_worst(row)
    turns = _conversation(row)
    if turns is not None:
        refuse_history(row)
        _refuse_other_prompts(row, turns, "the conversation")
        if turns and turns[-1]["role"] == "assistant":
            _refuse_other_answers(row, turns[-1:])
        turns = with_system(row, turns)
        if not turns or turns[-1]["role"] != "assistant":
            beside = next((name for name in _ANSWERS if not says_nothing(given.get(name))), None)
            if not turns or beside is None or not isinstance(given[beside], (str, list, tuple, dict)):
                return Split(turns, None, None, True)
            answer = _last_turns(row, beside)  # the conversation is its prompt
            _refuse_other_answers(row, answer)
            label = _label(row)
            return (
                Split(turns, None, answer, label=label) if label is False else Split(turns, answer, None, label=label)
            )
        label = _label(row)
        if label is False:
            return Split(turns[:-1], None, turns[-1:], label=label)
        return Split(turns[:-1], turns[-1:], None, True, label=label)
    names = [name for name in _ANSWERS if name in given]
    if "instruction" in given and ("output" in fields or any(n in fields for n in (*_CHOSEN, "completion"))):
        prompt = instruction(row)
    elif "prompt" in given or ("prompt" in fields and names):
        prompt = prompt_field(row, "prompt") if "prompt" in given else ()
        _refuse_other_completions(row)
        names = [name for name in names if name == "completion"]
        refuse_input_beside_prompt(row, is_answered=bool(names))
    elif not {"prompt", "instruction"} & fields.keys() and asks(row) and not fields.keys().isdisjoint(_ANSWERS):
        prompt = prompt_field(row, asks(row))
    else:
        raise InputError(_unknown(row))
    _refuse_other_prompts(row, prompt, _PROMPT_READ)
    if prompt and prompt[-1]["role"] == "assistant":
        raise InputError(_ends_with_answer(row))
    prompt = with_system(row, prompt)
    if not names:
        return Split(prompt, None, None)
    answer = _last_turns(row, names[0])
    _refuse_other_answers(row, answer)
    label = _label(row)
    return Split(prompt, None, answer, label=label) if label is False else Split(prompt, answer, None, label=label)


def _unknown(row: Given) -> str:
    """Say what to do with the fields that are there; where none of them is known, which shapes are."""
    found = ", ".join(sorted(map(str, row.given))) or "none"
    known = under_other_names(row.given)
    known += [
        f"{name!r} is an answer without a prompt; write a whole conversation as 'messages'"
        for name in _ANSWERS
        if name in row.given
    ]
    if known:
        return f"{row.where}: the row has no prompt and answer that are read, but {', and '.join(known)}"
    return (
        f"{row.where}: unknown row shape; fields found: {found}; shapes known: {'; '.join(SHAPES)}; "
        "map foreign names in [data.columns]"
    )


def _answer(row: Given, name: str) -> Messages:
    """Read an answer, or a whole conversation that ends with one."""
    value = row.given[name]
    turns = read_transcript(value) if isinstance(value, str) else None
    if turns is None or (len(turns) == 1 and any(field in row.given for field in (*_PROMPT, *_CONVERSATION))):
        return _last_turns(row, name)
    return turns


def _last_turns(row: Given, name: str) -> Messages:
    """Read an answer; where its prompt is a transcript, the space behind "Assistant:" is none of it."""
    turns = row.read(name, role="assistant") or ({"role": "assistant", "content": ""},)
    may_be_whole = name not in _ANSWERS
    if turns[-1]["role"] != "assistant" and not (may_be_whole and _is_whole(turns)):
        raise InputError(f"{row.where}: {name!r} ends with the {turns[-1]['role']}: it is no answer")
    if _is_whole(turns) and not may_be_whole:
        raise InputError(f"{row.where}: {name!r} holds a whole conversation: write it as 'messages'")
    if isinstance(row.given[name], str) and read_transcript_prompt(row.given.get("prompt")) is not None:
        return ({"role": "assistant", "content": turns[0]["content"].strip()},)
    return turns


def _conversation(row: Given) -> Messages | None:
    """The turns of `messages` or `conversations`, None where there are none."""
    found = [_turns(row, name) for name in _CONVERSATION if name in row.given]
    if len(found) == 2 and found[0] != found[1]:
        unread = UNREAD.format(_CONVERSATION[1])
        raise InputError(f"{row.where}: 'messages' and 'conversations' hold different turns: {unread}")
    return found[0] if found else None


def _turns(row: Given, name: str) -> Messages:
    row.given[name] = value = from_json_text(row.given[name], row.where, name)
    if not isinstance(value, (list, tuple)):
        raise InputError(
            f"{row.where}: {name!r} must be a list of messages, or one written as JSON text, found {kind_of(value)}; "
            f"leave it unread by --ignore-fields {name}"
        )
    return row.read(name)


def _prompt_beside(row: Given, chosen: Messages | None, rejected: Messages | None) -> tuple[Messages, Messages | None]:
    """The prompt of a preference whose answers are only answers, and the chosen one where the prompt holds it."""
    given = row.given
    turns = _conversation(row)
    if turns is not None:
        refuse_history(row)
        if chosen is None:  # beside a rejected answer, the conversation's last one is the chosen
            return _cut(turns)
        if turns and turns[-1]["role"] == "assistant" and text_of_turn(turns[-1]) == text_of_turn(chosen[-1]):
            return turns[:-1], chosen
        return _asked(row, turns), chosen
    if "instruction" in given:
        prompt = instruction(row)
        return prompt, _last_turns(row, "output") if chosen is None and "output" in given else chosen
    if "prompt" in given:
        refuse_input_beside_prompt(row, is_answered=True)
        prompt = prompt_field(row, "prompt")
        is_completed = chosen is None and "completion" in given
        return prompt, _last_turns(row, "completion") if is_completed else chosen
    if asks(row):
        return prompt_field(row, asks(row)), chosen
    if "prompt" in row.fields or "instruction" in row.fields:
        return (), chosen
    if rejected is not None and _is_whole(rejected):
        return _cut(rejected)[0], None
    others = "".join(f"; {other}" for other in under_other_names(row.given))
    name = row.one_of(_CHOSEN) or row.one_of(_REJECTED)
    raise InputError(f"{row.where}: {name!r} holds only the answer and there is no 'prompt'{others}")


def _asked(row: Given, turns: Messages) -> Messages:
    """A conversation up to the turn that `prompt` repeats, where the row has one."""
    asked = row.given.get("prompt")
    if asked is None or not turns or turns[-1]["role"] != "assistant":
        return turns
    prompt = prompt_field(row, "prompt")
    if not prompt or _without_system(prompt) == _without_system(turns[:-1]) or prompt[-1] == turns[-2:-1][-1]:
        return turns[:-1]
    raise InputError(
        f"{row.where}: 'prompt' is not what the conversation's last answer answers: {UNREAD.format('prompt')}"
    )


def _agreed(row: Given, prompt: Messages, chosen: Messages | None) -> Messages:
    """The prompt inside a whole conversation, with the system message of a prompt beside it.

    Raises:
        InputError: a prompt or a conversation beside it is another.
    """
    refuse_history(row)
    turns = _conversation(row)
    if turns is not None:
        _refuse_other_turns(row, turns, prompt, chosen)
    _refuse_other_prompts(row, prompt, "what 'chosen' begins with")
    beside = row.given.get("prompt")
    if not isinstance(beside, (list, tuple)):
        return prompt
    own = row.read("prompt")
    both = has_system(own) and has_system(prompt)
    if _without_system(own) == _without_system(prompt) and not (both and _have_other_systems(own, prompt)):
        return own if has_system(own) else prompt
    unread = "leave the one unread by --ignore-fields prompt"
    raise InputError(f"{row.where}: 'prompt' is not what 'chosen' begins with: {unread}")


def _refuse_other_turns(row: Given, turns: Messages, prompt: Messages, chosen: Messages | None) -> None:
    """Refuse a conversation beside whole answers that is neither of them, nor their prompt."""
    own, answer = _cut(_without_system(turns))
    asked = _without_system(prompt)
    if own == asked and (answer is None or chosen is None or _same(answer, chosen) or "rejected" in row.given):
        return
    if answer is not None and (*own, *answer) == asked:
        return
    name = next(name for name in _CONVERSATION if name in row.given)
    raise InputError(f"{row.where}: {name!r} and 'chosen' hold different turns: {UNREAD.format(name)}")


def _refuse_other_prompts(row: Given, prompt: Messages, read: str) -> None:
    """Refuse a question beside a prompt that does not hold it."""
    texts = [turn["content"].strip() for turn in prompt]
    for name in _PROMPT if read != _PROMPT_READ else ("prompt", "instruction", "question"):
        value = row.given.get(name)
        if not isinstance(value, str) or not value.strip() or any(value.strip() in text for text in texts):
            continue
        transcript = read_transcript_prompt(value)
        if transcript is not None and _without_system(transcript) == _without_system(prompt):
            continue
        raise InputError(
            f"{row.where}: {name!r} is not in {read}: write it into the prompt, or leave it unread "
            f"by --ignore-fields {name}"
        )


def _refuse_other_answers(row: Given, chosen: Messages | None) -> None:
    """Refuse an `output` or `completion` beside the answer that is read which is another."""
    for name in _ANSWERS:
        if chosen is None or name not in row.given:
            continue
        if isinstance(row.given[name], (str, list, tuple, dict)) and not _same(_last_turns(row, name), chosen):
            raise InputError(
                f"{row.where}: the row has {name!r} and another answer, which differ: {UNREAD.format(name)}"
            )


def _ends_with_answer(row: Given) -> str:
    return (
        f"{row.where}: the prompt ends with an assistant message: answers that go on from it are not rendered; "
        "write it into the answer, or end the prompt with the user"
    )


def _label(row: Given) -> bool | None:
    """Whether the row's one answer is good by every label that it carries; None where it carries none.

    Raises:
        InputError: a label is neither true nor false, nor 1 nor 0.
    """
    label: bool | None = None
    for name in _LABEL:
        if name not in row.fields:
            continue
        value = row.fields[name]
        if isinstance(value, str) and (row.columns or {}).get(name):
            value = truth_of(value) if value.strip() else None  # a cell of CSV in a column of another name is text
        if value is None and any(row.fields.get(field, "") is None for field in _OF_SHAPES):
            continue  # a table of several shapes: each row has every column, and null in those of the others
        if not isinstance(value, (bool, int, float)) or value not in (0, 1):
            found = "nothing" if is_missing(value) else kind_of(value)
            raise InputError(
                f"{row.where}: {name!r} must be true or false (or 1 or 0), found {found}: write true for good answers, "
                f"false for bad ones; with it unread by --ignore-fields {name}, bad answers are read as good ones"
            )
        if label is not None and label is not bool(value):
            raise InputError(f"{row.where}: the row has two labels that differ: {UNREAD.format(name)}")
        label = bool(value)
    return label


def _refuse_other_completions(row: Given) -> None:
    """Refuse ranked completions, and steps with a label each, beside a prompt; other lists are the user's own."""
    found = row.given.get("completions")
    if not isinstance(found, (list, tuple)) or not found:
        return
    have_ranks = all(isinstance(one, dict) and "rank" in one for one in found)
    have_ranks = have_ranks or not _RANKS.isdisjoint(row.given)
    if have_ranks or isinstance(row.given.get("labels"), (list, tuple)):
        what = "completions with ranks" if have_ranks else "steps with labels"
        raise InputError(
            f"{row.where}: {what} are not read: write 'chosen' and 'rejected', or leave them unread by "
            "--ignore-fields completions"
        )


def _refuse_beside_pair(row: Given) -> None:
    """Refuse what may say that the rejected answer is the better one."""
    if _MAY_SAY_WHICH.isdisjoint(row.given):
        return
    for name in sorted(_MAY_SAY_WHICH.intersection(row.given)):
        value = row.given[name]
        means = name in FALSE_MEANS and value is False
        if means or not (says_nothing(value) or (value is True and name in _LABEL)):
            raise InputError(
                f"{row.where}: the row has {name!r} beside 'chosen' and 'rejected': it may say which is "
                f"better, and is not read; leave it unread by --ignore-fields {name}"
            )


def _best_and_worst(row: Given) -> Split:
    """openbmb's UltraFeedback: the completion with the highest score against the one with the lowest."""
    prompt = instruction(row) if "instruction" in row.given else prompt_field(row, "prompt")
    for completion in row.given["completions"]:
        if not isinstance(completion["response"], str):
            raise InputError(f"{row.where}: a completion needs 'response' as text, found {shown(completion)}")
        row.refuse_missing("response", completion["response"], "take such completions out")
    scored = scored_completions(row.given["completions"])
    prompt = with_system(row, prompt)
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


def _have_other_systems(turns: Messages, prompt: Messages) -> bool:
    """Whether turns have a system message that the prompt has not."""
    if not has_system(turns):
        return False
    return not has_system(prompt) or turns[0]["content"].strip() != prompt[0]["content"].strip()


def _has_system_beside(row: Given) -> bool:
    """Whether the row has a system message beside its answers, for both of them."""
    if any(not says_nothing(row.given.get(name)) for name in names(SHAPE, "system")):
        return True
    beside = row.given.get("prompt")
    return isinstance(beside, (list, tuple)) and has_system(row.read("prompt"))


def _without_system(turns: Messages) -> Messages:
    return turns[1:] if has_system(turns) else turns
