"""Model folders that want to run code, or hold files of a wrong kind: no code runs, and one line says why."""

from __future__ import annotations

import ast
import contextlib
import gc
import io
import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from places import ROOT
from tiny_models import tiny_model
from tokenizers import Tokenizer

from alignkit.data.encoding.encoder import Encoder
from alignkit.data.encoding.texts import TextWithSpans
from alignkit.errors import InputError
from alignkit.policy.load import load_policy
from alignkit.pretrained.read import load_tokenizer, read_config
from alignkit.pretrained.weights import check_weights

SOURCES = [*(ROOT / "alignkit").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")]
LOADERS = ("from_pretrained", "from_config", "load_dataset", "snapshot_download_and_load")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "sound")


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "model"))


def edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def calls() -> list[tuple[Path, str, ast.Call]]:
    """Every call in alignkit and its plugins, by the last part of the called name."""
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                found.append((path, name, node))
    return found


def test_transformers_loads_folders_in_one_place_and_never_with_their_code() -> None:
    loading = [(path, name, node) for path, name, node in calls() if name in LOADERS or name == "LLM"]
    adapters = [call for call in loading if "PeftModel" in ast.unparse(call[2].func)]  # weights alone, no code
    assert {path.name for path, _, _ in adapters} == {"adapters.py", "load.py", "proof.py"}
    loading = [call for call in loading if call not in adapters]
    assert {path.name for path, name, _ in loading if name in LOADERS} == {"read.py"}
    for path, name, node in loading:
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        value = given.get("trust_remote_code")
        assert isinstance(value, ast.Constant) and value.value is False, f"{path}: {name} line {node.lineno}"


def evil_config(folder: Path, code: str) -> None:
    names = {"AutoConfig": "configuration_evil.C", "AutoModelForCausalLM": "modeling_evil.M"}
    edit(folder / "config.json", model_type="evil", auto_map=names)
    for name in ("configuration_evil.py", "modeling_evil.py"):
        (folder / name).write_text(code, encoding="utf-8")


def evil_tokenizer(folder: Path, code: str) -> None:
    edit(folder / "config.json", model_type="evil2")
    names = {"AutoTokenizer": ["tokenization_evil.T", "tokenization_evil.T"]}
    edit(folder / "tokenizer_config.json", tokenizer_class="T", auto_map=names)
    (folder / "tokenization_evil.py").write_text(code, encoding="utf-8")


@pytest.mark.parametrize(("spoil", "load"), [(evil_config, load_policy), (evil_tokenizer, load_tokenizer)])
def test_a_folder_that_wants_to_run_code_is_refused_without_a_question(
    spoil: Callable[[Path, str], None],
    load: Callable[..., Any],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    canary = tmp_path / "canary"
    spoil(folder, f"open({str(canary)!r}, 'w').close()\nclass C: pass\nM = T = C\n")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 50))
    with pytest.raises(InputError, match="model: the folder wants to run its own code; alignkit never does"):
        load(folder)
    assert not canary.exists()
    assert "[y/N]" not in "".join(capfd.readouterr())


def test_what_transformers_says_of_a_folder_steers_no_terminal(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    edit(folder / "config.json", model_type="evil\x1b[2J\nalignkit: error: x")
    with contextlib.suppress(InputError):
        load_tokenizer(folder)
    assert "\x1b" not in (logged := "".join(capfd.readouterr())) and "\nalignkit: error" not in logged


def assert_loads_or_is_named(load: Callable[..., Any], folder: Path) -> None:
    """Any other exception than one line about the folder fails the test."""
    logged = None
    try:
        load(folder)
    except InputError as error:
        logged = str(error)
    assert logged is None or (str(folder) in logged and "\n" not in logged)


@pytest.mark.parametrize("key", ["vocab_size", "hidden_size", "model_type", "layer_types", "rope_parameters", "dtype"])
@pytest.mark.parametrize("value", [{"a": 1}, [[1]], "text", -1])
def test_a_wrong_type_in_config_json_is_the_folders_fault(key: str, value: object, folder: Path) -> None:
    edit(folder / "config.json", **{key: value})
    assert_loads_or_is_named(load_policy, folder)


@pytest.mark.parametrize("content", ["[]", "null", "3", "{", "\0", '{"a":' * 5000])
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"])
def test_a_file_of_another_kind_is_the_folders_fault(name: str, content: str, folder: Path) -> None:
    (folder / name).write_text(content, encoding="utf-8")
    assert_loads_or_is_named(load_tokenizer, folder)
    assert_loads_or_is_named(load_policy, folder)


@pytest.mark.parametrize("file", ["x.bin", "../model.safetensors", "/etc/passwd", "a/../../b.safetensors", 3, None])
def test_an_index_names_safetensors_of_its_own_folder_only(file: object, folder: Path) -> None:
    (folder / "x.bin").write_bytes(pickle.dumps({}))
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"model.embed_tokens.weight": file}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(InputError, match=r"no \.safetensors file of this folder"):
        load_policy(folder)


@pytest.mark.parametrize("content", ["[]", "null", "{", "{}", '{"weight_map": []}', '{"weight_map": {"a": [1]}}'])
def test_an_index_that_is_none_is_refused(content: str, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"model\.safetensors\.index\.json"):
        check_weights(folder)


def test_an_attention_from_the_hub_is_code_and_left_out(folder: Path) -> None:
    edit(folder / "config.json", attn_implementation="evil/kernel")
    assert read_config(folder)._attn_implementation is None


ODD = (
    "e\u0301",
    "  a  b\n\n c",
    "it's 12345",
    "<|im_start|>x<|im_end|>",
    "\u00a0\t\r\n",
    "\u65e5\u672c",
    "\ufb01",
    "a\0b",
)


def assert_follows_the_file(folder: Path) -> None:
    own = Tokenizer.from_file(str(folder / "tokenizer.json"))
    own.no_padding()
    own.no_truncation()
    tokenizer = load_tokenizer(folder)
    assert [tokenizer.encode(text, add_special_tokens=False) for text in ODD] == [
        own.encode(text, add_special_tokens=False).ids for text in ODD
    ]
    assert tokenizer.backend_tokenizer.to_str() == own.to_str()
    encoder = Encoder(tokenizer, re.compile("(?!)"))
    assert [encoder.ids(TextWithSpans(text, ())).tolist() for text in ODD] == [own.encode(t).ids for t in ODD]


@pytest.mark.parametrize("kind", ["qwen2", "llama", "gpt2", "gemma2", "mistral"])
def test_ids_are_those_of_the_file_whatever_the_models_type(kind: str, tmp_path: Path) -> None:
    assert_follows_the_file(tiny_model(tmp_path, kind=kind))


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("normalizer", {"type": "Lowercase"}),
        ("pre_tokenizer", {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": False}),
        ("decoder", None),
        ("truncation", {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}),
        (
            "padding",
            {
                "strategy": {"Fixed": 9},
                "direction": "Left",
                "pad_to_multiple_of": None,
                "pad_id": 256,
                "pad_type_id": 0,
                "pad_token": "<|endoftext|>",
            },
        ),
    ],
)
def test_each_part_of_the_file_counts_but_for_padding_and_cutting(part: str, value: object, folder: Path) -> None:
    edit(folder / "tokenizer.json", **{part: value})
    assert_follows_the_file(folder)


def test_a_token_that_the_settings_name_is_added_and_one_that_only_the_class_names_is_none(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    edit(folder / "tokenizer.json", added_tokens=content["added_tokens"][1:])  # without <|endoftext|>
    edit(folder / "tokenizer_config.json", eos_token="<|im_end|>", pad_token="[PAD]")
    tokenizer = load_tokenizer(folder)
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token) == ("<|im_end|>", "[PAD]", None)
    assert "<|endoftext|>" not in tokenizer.get_vocab() and tokenizer.pad_token_id is not None
    assert tokenizer.chat_template


def test_a_vocabulary_is_read_without_searches_for_cycles_and_they_go_on_afterwards(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_without(*args: object, **options: object) -> Any:
        assert not gc.isenabled()
        raise OSError("cut short")

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", read_without)
    with pytest.raises(InputError, match="cut short"):
        load_tokenizer(folder)
    assert gc.isenabled()
