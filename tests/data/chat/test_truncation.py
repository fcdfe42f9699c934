"""Old turns are left out where that is asked for; what looks like a special token in a message is text."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_models import tiny_tokenizer

from alignkit.data.chat.chat import Chat
from alignkit.data.prepared.tokens import prepare, without_oldest_turn
from alignkit.data.reading.rows import Row, to_row
from alignkit.errors import InputError
from alignkit.pretrained.read import load_tokenizer
from alignkit.units import Pairs

IM_START, IM_END = 257, 258


@pytest.fixture
def chat(tmp_path: Path) -> Chat:
    tiny_tokenizer(tmp_path)
    return Chat(load_tokenizer(tmp_path))


def conversation(num_turns: int) -> Row:
    turns = [{"role": "system", "content": "Be brief."}]
    for number in range(num_turns):
        turns += [{"role": "user", "content": f"q{number}"}, {"role": "assistant", "content": f"a{number}"}]
    return to_row({"id": "r", "prompt": turns[:-1], "chosen": "yes", "rejected": "no"}, where="x")


def contents(row: Row) -> list[str]:
    return [message["content"] for message in row.prompt]


def test_the_oldest_turn_goes_first_and_system_message_and_last_question_stay() -> None:
    row: Row | None = conversation(3)
    seen = []
    while row is not None:
        seen.append(contents(row))
        row = without_oldest_turn(row)
    assert seen == [["Be brief.", "q0", "a0", "q1", "a1", "q2"], ["Be brief.", "q1", "a1", "q2"], ["Be brief.", "q2"]]


def test_no_more_turns_are_cut_than_it_takes(chat: Chat) -> None:
    row = conversation(3)
    whole = prepare([row], chat, unit=Pairs(), max_length=10_000)
    num_tokens = len(whole.trees[0].prompt) + 4
    cut = prepare([row], chat, unit=Pairs(), max_length=num_tokens - 1, truncation="cut-old-turns")
    assert contents(cut.rows[0]) == ["Be brief.", "q1", "a1", "q2"]
    assert cut.num_cut == 1 and whole.num_cut == 0
    assert cut.trees[0].completions[0].ids.tolist() == whole.trees[0].completions[0].ids.tolist()


def test_an_answer_is_cut_where_the_last_question_alone_is_too_long(chat: Chat) -> None:
    row = to_row({"id": "r", "prompt": "Hi", "chosen": "y" * 40, "rejected": "no"}, where="x")
    length = len(prepare([row], chat, unit=Pairs(), max_length=1000).trees[0].prompt) + 10
    cut = prepare([row], chat, unit=Pairs(), max_length=length, truncation="cut-old-turns")
    assert chat.tokenizer.decode(cut.trees[0].completions[0].ids) == "y" * 10
    assert cut.num_cut == 1 and cut.rows == [row]


def test_lookalikes_of_special_tokens_in_messages_are_text(chat: Chat) -> None:
    said = "It ends a turn: <|im_end|>, after <|im_start|>."
    row = to_row({"id": "r", "prompt": "What is <|im_end|>?", "chosen": said, "rejected": "no"}, where="x")
    tree = prepare([row], chat, unit=Pairs(), max_length=1000).trees[0]
    chosen = tree.completions[0]
    assert chosen.ids.tolist().count(IM_END) == 1 and chosen.ids[-1] == IM_END and IM_START not in chosen.ids
    assert chosen.scored.all() and chat.tokenizer.decode(chosen.ids) == f"{said}<|im_end|>"
    assert tree.prompt.ids.tolist().count(IM_END) == 1
    assert chat.prompt_ids(row.prompt) == tree.prompt.ids.tolist()


def test_half_a_character_is_refused_with_its_row(chat: Chat) -> None:
    row = to_row({"id": "r", "prompt": "a\ud800", "chosen": "b", "rejected": "c"}, where="x")
    with pytest.raises(InputError, match="row r: half a character"):
        prepare([row], chat, unit=Pairs(), max_length=1000)


@pytest.mark.parametrize("text", ["\x00", "e\u0301", "\u202e\u0627\u0644", "<|im_end|>", " \n ", "\U0001f600"])
def test_awkward_text_is_kept_and_scored_whole(chat: Chat, text: str) -> None:
    row = to_row({"id": "r", "prompt": text if text.strip() else "a", "chosen": f"b{text}", "rejected": "c"}, where="x")
    completion = prepare([row], chat, unit=Pairs(), max_length=1000).trees[0].completions[0]
    assert completion.scored.all() and chat.tokenizer.decode(completion.ids[:-1]) == f"b{text}"
