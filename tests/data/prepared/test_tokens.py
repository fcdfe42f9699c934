"""Prompts, answers and their masks under chat templates; what does not fit; what cannot be right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import BESIDE, OWN_ROWS, REAL_ROWS, lines_of
from tiny_models import tiny_tokenizer

from alignkit.data.chat.chat import CHATML, Chat
from alignkit.data.prepared.tokens import prepare
from alignkit.data.reading.read import read_rows
from alignkit.data.reading.rows import Row, to_row
from alignkit.display import is_blank
from alignkit.errors import InputError
from alignkit.pretrained.read import load_tokenizer
from alignkit.units import Chosen, Pairs

IM_START, IM_END = 257, 258


def chat(folder: Path, own: str | None = CHATML, **given: Any) -> Chat:
    tiny_tokenizer(folder, template=own)
    return Chat(load_tokenizer(folder), **given)


def rows(*answers: str) -> list[Row]:
    return [
        to_row({"id": f"r{n}", "prompt": "Hi", "chosen": a, "rejected": f"not {a}"}, where="x")
        for n, a in enumerate(answers)
    ]


def ids_of(text: str, tokenizer: Any) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_prompt_tokens_carry_no_loss_and_the_end_token_does(tmp_path: Path) -> None:
    made = chat(tmp_path)
    tree = prepare(rows("yes"), made, unit=Chosen(), max_length=100).trees[0]
    assert tree.prompt.ids.tolist() == ids_of("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", made.tokenizer)
    assert tree.completions[0].ids.tolist() == [*ids_of("yes", made.tokenizer), IM_END]
    assert tree.completions[0].scored.all() and not tree.prompt.scored.any()
    assert tree.reference_length == 4


def test_a_pairs_completions_are_chosen_then_rejected(tmp_path: Path) -> None:
    made = chat(tmp_path)
    chosen, rejected = prepare(rows("yes"), made, unit=Pairs(), max_length=100).trees[0].completions
    assert (
        made.tokenizer.decode(chosen.ids) == "yes<|im_end|>"
        and made.tokenizer.decode(rejected.ids) == "not yes<|im_end|>"
    )


def test_every_assistant_turn_of_a_conversation_is_scored_and_nothing_else(tmp_path: Path) -> None:
    made = chat(tmp_path)
    turns = [("user", "a"), ("assistant", "first"), ("user", "b"), ("assistant", "second")]
    row = to_row({"messages": [{"role": role, "content": text} for role, text in turns]}, where="x")
    tree = prepare([row], made, unit=Chosen(), max_length=500).trees[0]
    assert len(tree.prompt) == 0
    completion = tree.completions[0]
    scored = made.tokenizer.decode(completion.ids[completion.scored])
    assert scored == "first<|im_end|>second<|im_end|>"
    last = prepare([row], made, unit=Chosen(), max_length=500, train_on="last").trees[0]
    assert made.tokenizer.decode(last.completions[0].ids) == "second<|im_end|>"
    assert "first" in made.tokenizer.decode(last.prompt.ids)


def test_all_assistant_turns_of_a_preference_rows_prompt_are_scored_where_asked(tmp_path: Path) -> None:
    made = chat(tmp_path)
    turns = [("user", "a"), ("assistant", "first"), ("user", "b")]
    prompt = [{"role": role, "content": text} for role, text in turns]
    row = to_row({"prompt": prompt, "chosen": "second", "rejected": "no"}, where="x")
    for train_on, scored in (("all-assistant", "first<|im_end|>second<|im_end|>"), (None, "second<|im_end|>")):
        tree = prepare([row], made, unit=Chosen(), max_length=500, train_on=train_on).trees[0]
        completion = tree.completions[0]
        assert made.tokenizer.decode(completion.ids[completion.scored]) == scored


TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)


def shows(text: str) -> bool:
    return not is_blank(text)


@pytest.fixture(scope="module")
def shared_chat(tmp_path_factory: pytest.TempPathFactory) -> Chat:
    return chat(tmp_path_factory.mktemp("tokenizer"))


@given(st.lists(st.tuples(TEXTS, TEXTS.filter(shows)), min_size=1, max_size=4).filter(lambda own: shows(own[0][0])))
def test_scored_and_unscored_tokens_together_are_the_text_and_the_scored_ones_the_answers(
    shared_chat: Chat, turns: list[tuple[str, str]]
) -> None:
    """unmask(mask(x)) = x: nothing of a conversation is lost, and exactly its answers with their ends are scored."""
    texts = [(role, text) for turn in turns for role, text in zip(("user", "assistant"), turn, strict=True)]
    messages = [{"role": role, "content": text} for role, text in texts]
    row = to_row({"messages": messages}, where="x")
    (tree,) = prepare([row], shared_chat, unit=Chosen(), max_length=10_000).trees
    ids, scored = tree.completions[0].ids, tree.completions[0].scored
    text = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
    decode = shared_chat.tokenizer.decode
    assert decode(ids) == text.removesuffix("\n")
    borders = np.flatnonzero(np.diff(scored, prepend=False, append=False)).reshape(-1, 2)
    assert [decode(ids[start:end]) for start, end in borders] == [f"{a}<|im_end|>" for _, a in turns]


def test_an_assistant_turn_of_weight_0_is_not_scored(tmp_path: Path) -> None:
    made = chat(tmp_path)
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "first", "weight": 0},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "second"},
    ]
    row = to_row({"messages": turns}, where="test")
    completion = prepare([row], made, unit=Chosen(), max_length=500).trees[0].completions[0]
    assert made.tokenizer.decode(completion.ids[completion.scored]) == "second<|im_end|>"


def test_a_whole_answer_keeps_what_follows_the_end_token_unscored(tmp_path: Path) -> None:
    made = chat(tmp_path)
    completion = prepare(rows("yes"), made, unit=Chosen(), max_length=100, whole_answer=True).trees[0].completions[0]
    assert made.tokenizer.decode(completion.ids) == "yes<|im_end|>\n"
    assert completion.scored.tolist() == [True, True, True, True, False]


def test_a_cut_answer_gets_no_forged_end_token_and_its_prompt_is_whole(tmp_path: Path) -> None:
    made = chat(tmp_path)
    long = rows(*["y" * 40] + ["yes"] * 200)
    room = len(prepare(long, made, unit=Chosen(), max_length=100).trees[0].prompt) + 10
    prepared = prepare(long, made, unit=Chosen(), max_length=room)
    assert prepared.num_cut == 1
    assert made.tokenizer.decode(prepared.trees[0].completions[0].ids) == "y" * 10
    assert prepared.trees[0].reference_length == 41


@pytest.mark.parametrize("case", [None, "12-nothing-left-of-the-answer/rows.jsonl"], ids=["own", "reported"])
def test_where_nothing_of_an_answer_is_left_its_row_trains_nothing(case: str | None, tmp_path: Path) -> None:
    asked = " ".join(["Count."] * 20)
    own = [{"id": f"l{n}", "prompt": f"{asked} {n}", "chosen": f"It is {n}.", "rejected": "No."} for n in range(7)]
    read = [to_row(row, where="x") for row in (own if case is None else lines_of(BESIDE / "cases" / case))]
    made = chat(tmp_path)
    length = max(len(tree.prompt) for tree in prepare(read, made, unit=Pairs(), max_length=10_000).trees)
    options: dict[str, Any] = {"unit": Pairs(), "truncation": "cut-completion", "is_part": True, "max_skipped": 1.0}
    for max_length in (1, length // 2, length):
        skipped = prepare(read, made, max_length=max_length, **options).skipped
        assert set(skipped.values()) == {f"prompt does not fit --max-length {max_length} tokens"}
        assert len(skipped) == len(read)
    kept = prepare(read, made, max_length=length + 1, **options)
    assert len(kept.trees) == kept.num_cut == len(read) and not kept.skipped
    assert all(completion.scored.tolist() == [True] for tree in kept.trees for completion in tree.completions)
    with pytest.raises(InputError, match=f"{len(read)} of {len(read)} rows .* cannot be used, more than --max-skipped"):
        prepare(read, made, unit=Pairs(), truncation="cut-completion", max_length=length)


def test_more_than_one_percent_too_long_stops_unless_a_policy_is_named(tmp_path: Path) -> None:
    made = chat(tmp_path)
    with pytest.raises(InputError, match=r"1 of 2 rows \(50.0 %\) are longer than --max-length 60"):
        prepare(rows("y" * 90, "yes"), made, unit=Chosen(), max_length=60)
    with pytest.raises(InputError, match=r"1 of 3 rows .* are longer .*; 1 of 3 rows cannot be used either: 1 empty"):
        prepare(rows("y" * 90, "yes", ""), made, unit=Chosen(), max_length=60)
    dropped = prepare(rows("y" * 90, "yes"), made, unit=Chosen(), max_length=60, truncation="drop-row")
    assert [row.id for row in dropped.rows] == ["r1"] and dropped.num_dropped == 1


def test_unusable_rows_are_skipped_counted_and_stop_beyond_their_share(tmp_path: Path) -> None:
    made = chat(tmp_path)
    some = rows("", *["yes"] * 9)
    prepared = prepare(some, made, unit=Chosen(), max_length=100, max_skipped=0.1)
    assert prepared.skipped == {"r0": "empty chosen answer"} and len(prepared.trees) == 9
    with pytest.raises(
        InputError,
        match=r"1 of 10 rows \(10.0 %\) cannot be used, more than --max-skipped 0.01: 1 empty chosen answer \(r0\)",
    ):
        prepare(some, made, unit=Chosen(), max_length=100)


def test_rows_without_an_id_are_named_by_file_and_line(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    lines = [{"prompt": "Hi", "chosen": "" if n in (1, 3) else f"yes {n}"} for n in range(5)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(InputError, match=r"2 empty chosen answer \(.*rows.jsonl, lines 2, 4\); correct them"):
        prepare(read_rows(str(file)), chat(tmp_path), unit=Chosen(), max_length=100)
    named = read_rows(str(file), columns={"id": "chosen"})
    assert [row.name for row in named[::2]] == ["yes 0", "yes 2", "yes 4"]


def test_rows_whose_whole_text_tokenizes_otherwise_are_counted(tmp_path: Path) -> None:
    from tokenizers import AddedToken

    tiny_tokenizer(tmp_path, template=CHATML)
    tokenizer = load_tokenizer(tmp_path)
    tokenizer.add_tokens([AddedToken("assistant\nyes", special=False, normalized=False)])
    prepared = prepare(rows("yes", "no"), Chat(tokenizer), unit=Chosen(), max_length=100)
    assert prepared.num_tokenized_otherwise == 1


def test_a_system_message_is_put_before_conversations_that_have_none(tmp_path: Path) -> None:
    made = chat(tmp_path, system="Be brief.")
    assert made.prompt([{"role": "user", "content": "Hi"}]).startswith("<|im_start|>system\nBe brief.<|im_end|>")
    own = [{"role": "system", "content": "Mine."}, {"role": "user", "content": "Hi"}]
    assert "Be brief." not in made.prompt(own)


def opening(text: str) -> str:
    """The end of a chat template that opens the answer with a text."""
    return "{% if add_generation_prompt %}" + text + "{% endif %}"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}a{{ m.content }}<|im_end|>{% endfor %}" + opening("b"), "no right mask"),
        ("{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}" + opening("assistant:"), "no end token"),
        ("{{ raise_exception('roles must alternate') }}", "refuses this conversation: roles must alternate"),
    ],
)
def test_a_template_that_allows_no_right_mask_is_refused(tmp_path: Path, template: str, message: str) -> None:
    made = chat(tmp_path, template)
    with pytest.raises(InputError, match=f"row r0: .*{message}"):
        prepare(rows("yes"), made, unit=Chosen(), max_length=100)


def test_no_template_is_refused_with_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="no chat template; give one with --chat-template FILE or --chat-template chatml"
    ):
        chat(tmp_path, None)
    assert chat(tmp_path, None, template="chatml").turn_end_id == IM_END


@pytest.mark.parametrize(("file", "at_least"), [(OWN_ROWS, 20), (REAL_ROWS, 281)], ids=["own", "real"])
def test_masks_of_rows_cover_the_answer_and_its_end_token_exactly(file: Path, at_least: int, tmp_path: Path) -> None:
    real = [to_row(line, where="x") for line in lines_of(file)[:300]]
    made = chat(tmp_path)
    prepared = prepare(real, made, unit=Chosen(), max_length=100_000, max_skipped=1.0)
    assert len(prepared.trees) >= at_least
    for row, tree in zip(prepared.rows, prepared.trees, strict=True):
        completion = tree.completions[0]
        assert completion.scored.all() and completion.ids[-1] == IM_END
        assert made.tokenizer.decode(completion.ids[:-1], skip_special_tokens=False) == row.chosen[-1]["content"]
        assert tree.reference_length == len(completion)
        assert np.count_nonzero(tree.prompt.ids == IM_END) == len(row.prompt)


def test_conversations_that_begin_with_the_assistant_are_scored_or_refused_with_their_number(tmp_path: Path) -> None:
    said = [{"from": "gpt", "value": "Hello."}, {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "yes"}]
    read = [to_row({"id": f"r{n}", "conversations": said[n % 2 :]}, where="x") for n in range(4)]
    trees = prepare(read, chat(tmp_path / "chatml"), unit=Chosen(), max_length=1000).trees
    tokenizer = load_tokenizer(tmp_path / "chatml")
    scored = [tokenizer.decode(tree.completions[0].ids[tree.completions[0].scored]) for tree in trees]
    assert scored == ["Hello.<|im_end|>yes<|im_end|>", "yes<|im_end|>"] * 2
    looks_at_first = CHATML + "{% if messages[0].role == 'tool' %}x{% endif %}"
    alternates = CHATML + "{% if messages[0].role != 'user' %}{{ raise_exception('the user first') }}{% endif %}"
    begins = (
        "row r0: .*begins with the assistant, as 2 of 4 rows .*take such rows out, or put a message of the user first"
    )
    for name, template in (("looks", looks_at_first), ("strict", alternates)):
        made = chat(tmp_path / name, template)
        with pytest.raises(InputError, match=begins) as refused:
            prepare(read, made, unit=Chosen(), max_length=1000)
        assert ("--train-on last" in str(refused.value)) == (name == "looks")
        if name == "looks":
            assert len(prepare(read, made, unit=Chosen(), max_length=1000, train_on="last").trees) == 4
