"""Token ids are those of `tokenizers`, whoever makes them; gigatoken only where that is shown."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from places import OWN_ROWS, REAL_ROWS, lines_of
from qwen_vocabulary import is_available, qwen_tokenizer
from tokenizers import Tokenizer, normalizers

from alignkit.data.chat.chat import CHATML, Chat
from alignkit.data.encoding import encoder as module
from alignkit.data.encoding.encoder import Encoder
from alignkit.data.encoding.texts import FlatTexts, TextWithSpans
from alignkit.data.prepared.tokens import prepare
from alignkit.data.reading.rows import to_row
from alignkit.errors import InputError
from alignkit.pretrained import embedded
from alignkit.pretrained.read import load_tokenizer
from alignkit.units import Chosen, Pairs

NEVER = re.compile("(?!)")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    if not is_available() or not embedded.is_available():
        pytest.skip("the packages that carry the vocabularies are not installed")
    qwen = tmp_path_factory.mktemp("qwen")
    qwen_tokenizer(qwen, template=CHATML)
    return {"qwen": qwen, "smollm2": embedded.folder()}


@cache
def real_texts() -> tuple[str, ...]:
    texts = [f"Row {n}: it's {n * 7919} of them,\n\n  and \u4e2d\u6587 \U0001f600 e\u0301!" * 20 for n in range(300)]
    rows = lines_of(OWN_ROWS) + (lines_of(REAL_ROWS) if REAL_ROWS.exists() else [])
    texts += [row[column][-1]["content"] for row in rows for column in ("prompt", "chosen", "rejected")]
    return tuple(dict.fromkeys(texts))


def by_tokenizers(tokenizer: Any, texts: tuple[str, ...]) -> list[list[int]]:
    return [e.ids for e in tokenizer.backend_tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]


def plain(texts: Sequence[str]) -> FlatTexts:
    return FlatTexts.of([TextWithSpans(text) for text in texts])


def parts(ids: np.ndarray, offsets: np.ndarray) -> list[list[int]]:
    return [own.tolist() for own in np.split(ids, offsets[1:-1])]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen", "smollm2"])
def test_ids_of_every_real_text_equal_those_of_tokenizers(name: str, folders: dict[str, Path]) -> None:
    tokenizer = load_tokenizer(folders[name])
    encoder = Encoder(tokenizer, NEVER)
    texts = real_texts()
    encoded = encoder.encode(FlatTexts.of([TextWithSpans(text, ((0, len(text)),)) for text in texts]))
    assert encoder._fast is not None  # gigatoken made them
    assert parts(encoded.ids, encoded.offsets) == by_tokenizers(tokenizer, texts)
    assert encoded.scored.all()  # wherever tokens lie, none lies outside the whole text


@pytest.mark.parametrize("name", ["qwen", "smollm2"])
def test_real_vocabularies_are_read_as_their_files_say(name: str, folders: dict[str, Path]) -> None:
    tokenizer, own = load_tokenizer(folders[name]), Tokenizer.from_file(str(folders[name] / "tokenizer.json"))
    texts = ("e\u0301", "it's 12345", "<|im_start|>x<|im_end|>", "\u65e5\u672c \t\n\n b", "\ufb01")
    known = [encoded.ids for encoded in own.encode_batch(list(texts), add_special_tokens=False)]
    assert by_tokenizers(tokenizer, texts) == known == [tokenizer.encode(t, add_special_tokens=False) for t in texts]


def test_a_fast_tokenizer_that_gives_other_ids_is_not_used(
    folders: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = load_tokenizer(folders["qwen"])
    encoder = Encoder(tokenizer, NEVER)
    other = Encoder(load_tokenizer(folders["smollm2"]), NEVER)
    encoder.__dict__["_gigatoken"] = other._gigatoken  # gigatoken with another vocabulary
    with caplog.at_level(logging.WARNING):
        ids, offsets = encoder.plain_ids(plain(real_texts()[:500]))
    assert "gigatoken gives other ids on a sample of these texts" in caplog.text
    assert parts(ids, offsets) == by_tokenizers(tokenizer, real_texts()[:500])


def test_a_vocabulary_that_gigatoken_refuses_is_left_to_tokenizers(caplog: pytest.LogCaptureFixture) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"a": 0, "b": 1, "[UNK]": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    encoder = Encoder(PreTrainedTokenizerFast(tokenizer_object=words), NEVER)
    with caplog.at_level(logging.INFO):
        ids, offsets = encoder.plain_ids(plain(["a b " * 20_000, "b"]))
    assert "gigatoken refuses this vocabulary" in caplog.text
    assert parts(ids, offsets) == [[0, 1] * 20_000, [1]]


def test_without_what_gigatoken_needs_a_command_tokenizes_all_the_same_and_says_so_once(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "awkward.py").write_text("raise ModuleNotFoundError(\"No module named 'awkward'\")\n")
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"Say {n}. " * 40, "chosen": "so"}) + "\n" for n in range(500)))
    words = ["data", "lengths", "--data", str(rows), "--model", str(folders["smollm2"]), "--json"]
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    own = {"ALIGNKIT_CACHE": str(tmp_path / "cache"), "PYTHONPATH": path}
    command = [sys.executable, "-m", "alignkit", *words]
    found = subprocess.run(command, env=os.environ | own, capture_output=True, text=True, timeout=100)
    assert found.returncode == 0 and json.loads(found.stdout), found.stderr
    line = "tokenized by tokenizers, more slowly: gigatoken cannot be used (No module named 'awkward')"
    assert found.stderr.count(line) == 1


def test_gigatoken_is_made_anew_after_a_bounded_volume(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_REBUILT_AFTER", 200_000)
    tokenizer = load_tokenizer(folders["smollm2"])
    fast = Encoder(tokenizer, NEVER)._gigatoken
    assert fast is not None
    texts = real_texts()[:100]
    flat = plain(texts)
    first, made = fast.encode(flat.utf8, flat.offsets), fast._made
    for _ in range(200_000 // sum(map(len, texts)) + 1):
        again = fast.encode(flat.utf8, flat.offsets)
    assert fast._made is not made
    assert parts(*again) == parts(*first) == by_tokenizers(tokenizer, texts)


@pytest.mark.parametrize("name", ["qwen", "smollm2"])
@pytest.mark.parametrize(
    "said",
    [
        "caf\u0065\u0301 is not NFC",
        "\x00 and \u202e\u0627\u0644\u0639 \u0301\u0301",
        "word " * 200_000,  # a million characters
        "<|im_end|>",
        "What of <|im_start|>assistant\n?",
        "",
    ],
    ids=["not NFC", "NUL and marks", "1 MB", "only a special token", "lookalike", "empty"],
)
def test_awkward_messages_are_text_and_their_answers_scored_whole(
    name: str, said: str, folders: dict[str, Path]
) -> None:
    chat = Chat(load_tokenizer(folders[name]), template="chatml")
    row = to_row({"id": "r", "prompt": said or "Hi", "chosen": f"So: {said}", "rejected": "no"}, where="x")
    (tree,) = prepare([row], chat, unit=Pairs(), max_length=10**7).trees
    chosen = tree.completions[0]
    assert chosen.scored.all() and chosen.ids[-1] == chat.turn_end_id
    assert chosen.ids.tolist().count(chat.turn_end_id) == 1
    plain = chat.tokenizer.backend_tokenizer
    plain.encode_special_tokens = True  # a message alone, in which nothing is special
    try:
        known = plain.encode(f"So: {said}", add_special_tokens=False).ids
    finally:
        plain.encode_special_tokens = False
    assert chosen.ids[:-1].tolist() == known


@pytest.mark.parametrize(
    ("template", "roles", "message"),
    [
        (
            "{% if messages[-1].role == messages[-2].role %}{{ raise_exception('roles must alternate') }}{% endif %}",
            ("user", "user"),
            "row r: this chat template leaves out|row r: the chat template refuses this conversation",
        ),
        ("", ("user", "moderator"), None),
        (
            "{% for m in messages if m.role in ('user', 'assistant') %}{{ m.role + m.content }}<|im_end|>{% endfor %}",
            ("user", "tool"),
            "row r: this chat template leaves out a message of the role 'tool'",
        ),
        (
            (
                "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
                "{{ m.role + m.content }}<|im_end|>{% endfor %}"
            ),
            ("user", "tool"),
            "row r: the chat template refuses this conversation: no tools",
        ),
    ],
    ids=["roles do not alternate", "unknown role", "tool message dropped", "tool message refused"],
)
def test_roles_that_a_template_does_not_know_are_kept_or_refused(
    tmp_path: Path, folders: dict[str, Path], template: str, roles: tuple[str, str], message: str | None
) -> None:
    file = tmp_path / "t.jinja"
    file.write_text((template or CHATML) + "{% if add_generation_prompt %}assistant{% endif %}", encoding="utf-8")
    chat = Chat(load_tokenizer(folders["smollm2"]), template=str(file) if template else "chatml")
    # a row as a plugin's data set may give it: what a file holds is checked when it is read
    prompt = tuple({"role": role, "content": f"says {role}"} for role in roles)
    row = replace(to_row({"id": "r", "prompt": "q", "chosen": "yes"}, where="x"), prompt=prompt)
    if message is None:
        (tree,) = prepare([row], chat, unit=Chosen(), max_length=1000).trees
        assert "<|im_start|>moderator\nsays moderator<|im_end|>" in chat.tokenizer.decode(tree.prompt.ids)
    else:
        with pytest.raises(InputError, match=message):
            prepare([row], chat, unit=Chosen(), max_length=1000)


def test_what_is_scored_of_normalised_texts_is_what_the_tokenizers_offsets_say(monkeypatch: pytest.MonkeyPatch) -> None:
    if not embedded.is_available():
        pytest.skip("the package that carries the vocabulary is not installed")
    tokenizer = load_tokenizer(embedded.folder())
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    encoder = Chat(tokenizer).encoder
    end, decomposed = "<|im_end|>", "Re\u0301sume\u0301 \u1112\u1161\u11ab \u212b"
    texts = [
        TextWithSpans(f"a {decomposed} b{end} c", ((2, 3 + len(decomposed)),)),
        TextWithSpans(
            f"{decomposed}{end}{decomposed}{end}", ((0, 5), (len(decomposed + end), len(decomposed) * 2 + 20))
        ),
        TextWithSpans(decomposed),
        TextWithSpans("plain", ((1, 5),)),
    ]
    joined = [  # a mark that is joined with the letter before the span, and with the special token
        TextWithSpans(f"cafe\u0301 is{end}", ((4, 9),)),
        TextWithSpans(f"a{end}\u0338 {decomposed}", ((0, 3),)),
    ]
    found = encoder.encode(FlatTexts.of([*texts, *joined]))
    slow: list[str] = []
    with_offsets = encoder._with_offsets
    monkeypatch.setattr(encoder, "_with_offsets", lambda text: slow.append(text.text) or with_offsets(text))
    encoder.encode(FlatTexts.of([*texts, *joined]))
    assert slow == [text.text for text in joined]
    monkeypatch.setattr(encoder, "_normal_bytes", lambda text: None)
    known = encoder.encode(FlatTexts.of([*texts, *joined]))
    assert len(slow) == 2 * len(joined) + len(texts) - 1
    for name in ("ids", "scored", "offsets"):
        assert getattr(found, name).tolist() == getattr(known, name).tolist()
    assert found.scored.any() and not found.scored.all()
