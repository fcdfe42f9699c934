"""Which files hold a model's weights: what is loaded is checked before and hashed, and nothing else is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import tiny_model

from alignkit.errors import InputError
from alignkit.policy.load import load_policy
from alignkit.pretrained.names import find_model
from alignkit.pretrained.weights import (
    check_weights,
    folder_fingerprint,
    settings_fingerprint,
    weight_files,
    weights_fingerprint,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("whole") / "model")


def sharded(whole: Path, folder: Path, *, under: str = "") -> Path:
    """The same model in two shards, below `under`, with an index."""
    shutil.copytree(whole, folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    (folder / under).mkdir(exist_ok=True)
    names = sorted(tensors)
    halves = {f"{under}a.safetensors": names[: len(names) // 2], f"{under}b.safetensors": names[len(names) // 2 :]}
    for file, part in halves.items():
        save_file({name: tensors[name] for name in part}, folder / file, {"format": "pt"})
    write_index(folder, {name: file for file, part in halves.items() for name in part})
    return folder


def write_index(folder: Path, weight_map: Any, **more: Any) -> None:
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map} | more
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def change_a_value(file: Path) -> None:
    tensors = load_file(file)
    name = sorted(tensors)[0]
    tensors[name] = tensors[name] + 1
    save_file(tensors, file, {"format": "pt"})


@pytest.mark.parametrize("under", ["", "shards/"])
def test_shards_are_loaded_and_hashed_wherever_the_index_puts_them(whole: Path, tmp_path: Path, under: str) -> None:
    folder = sharded(whole, tmp_path / "model", under=under)
    assert list(weight_files(folder)) == [f"{under}a.safetensors", f"{under}b.safetensors"]
    loaded, expected = (load_policy(one, precision="fp32").model.state_dict() for one in (folder, whole))
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)
    before = weights_fingerprint(folder)
    change_a_value(folder / under / "b.safetensors")
    assert weights_fingerprint(folder) != before
    (folder / "more.safetensors").write_bytes(b"not read by anyone")
    again = weights_fingerprint(folder)
    check_weights(folder)
    (folder / "more.safetensors").unlink()
    assert weights_fingerprint(folder) == again


def test_a_single_file_beside_an_index_is_the_one_that_is_loaded_and_hashed(whole: Path, tmp_path: Path) -> None:
    folder = sharded(whole, tmp_path / "model")
    shutil.copy(whole / "model.safetensors", folder)
    assert list(weight_files(folder)) == ["model.safetensors"]
    assert weights_fingerprint(folder) == weights_fingerprint(whole)
    change_a_value(folder / "a.safetensors")
    assert weights_fingerprint(folder) == weights_fingerprint(whole)
    loaded, expected = (load_policy(one, precision="fp32").model.state_dict() for one in (folder, whole))
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"transformers_weights": "model.safetensors.index.json"}))
    assert list(weight_files(folder)) == ["a.safetensors", "b.safetensors"]


def _map(file: Any) -> Callable[[Path], None]:
    return lambda folder: write_index(folder, {"model.embed_tokens.weight": file})


def _text(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "model.safetensors.index.json").write_text(text) and None


def _link(folder: Path) -> None:
    (folder / "linked").symlink_to(folder.parent / "outside")
    write_index(folder, {"model.embed_tokens.weight": "linked/a.safetensors"})


def _circle(folder: Path) -> None:
    (folder / "c.safetensors").symlink_to("c.safetensors")
    write_index(folder, {"model.embed_tokens.weight": "c.safetensors"})


def _adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")


def _named(value: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"transformers_weights": value}))

    return write


@pytest.mark.parametrize(
    ("damage", "logged"),
    [
        (_map("x.bin"), "'x.bin' is no .safetensors file of this folder"),
        (_map("x.pt"), "no .safetensors file of this folder"),
        (_map(7), "7 is no .safetensors file of this folder"),
        (_map(["a.safetensors"]), "no .safetensors file of this folder"),
        (_map("../outside/a.safetensors"), "leads out of it"),
        (_map("shards/../../outside/a.safetensors"), "leads out of it"),
        (_map("/outside/a.safetensors"), "leads out of it"),
        (_map("a\0.safetensors"), "leads out of it"),
        (_link, "leads out of it"),
        (_circle, "which is not there|leads out of it"),
        (_map("c.safetensors"), "names 'c.safetensors', which is not there"),
        (_text(""), "cannot be read"),
        (_text('{"weight_map": {"a": "a.safe'), "cannot be read"),
        (_text("[" * 100_000), "cannot be read"),
        (_text("[]"), "no index of shards"),
        (_text("null"), "no index of shards"),
        (_text("{}"), "no index of shards"),
        (_text('{"metadata": {}, "weight_map": {}}'), "no index of shards"),
        (_text('{"metadata": {}, "weight_map": ["a.safetensors"]}'), "no index of shards"),
        (_text('{"weight_map": {"a": "a.safetensors"}}'), "no index of shards"),
        (_adapter, "an adapter lies in it"),
        (_named("x.bin"), "transformers_weights is 'x.bin'"),
        (_named("../outside/a.safetensors"), "leads out of it"),
        (_named({}), "transformers_weights is {}"),
    ],
)
def test_weights_that_are_not_whole_safetensors_of_the_folder_are_refused_before_anything_is_loaded(
    whole: Path, tmp_path: Path, damage: Callable[[Path], None], logged: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = sharded(whole, tmp_path / "model")
    shutil.copytree(folder, tmp_path / "outside")
    damage(folder)
    for look in (weight_files, check_weights, weights_fingerprint):
        with pytest.raises(InputError, match=logged) as caught:
            look(folder)
        assert "\n" not in str(caught.value)
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", None)  # never reached
    with pytest.raises(InputError, match=logged):
        load_policy(folder)


@pytest.mark.parametrize("stored", ["in the cache", "blobs are a link", "each blob is a link", "below the snapshot"])
def test_a_snapshot_of_the_hubs_cache_is_links_into_its_blobs_and_stays_usable(
    whole: Path, tmp_path: Path, stored: str
) -> None:
    plain = sharded(whole, tmp_path / "plain")
    cache, store = tmp_path / "cache" / "models--owner--name", tmp_path / "store"
    snapshot = cache / "snapshots" / "0a1b2c" / ("sub" if stored == "below the snapshot" else "")
    snapshot.mkdir(parents=True)
    store.mkdir()
    if stored == "blobs are a link":
        (cache / "blobs").symlink_to(store)
    else:
        (cache / "blobs").mkdir()
    up = "../../.." if stored == "below the snapshot" else "../.."
    for number, file in enumerate(sorted(plain.iterdir())):
        blob = cache / "blobs" / f"{number:040x}"
        shutil.copy(file, store / blob.name)
        if stored == "each blob is a link":
            blob.symlink_to(store / blob.name)
        elif stored != "blobs are a link":
            shutil.copy(file, blob)
        (snapshot / file.name).symlink_to(f"{up}/blobs/{blob.name}")
    assert weights_fingerprint(snapshot) == weights_fingerprint(plain)
    assert settings_fingerprint(snapshot) == settings_fingerprint(plain)
    load_policy(find_model(str(snapshot)).folder)
    (snapshot / "a.safetensors").unlink()
    (snapshot / "a.safetensors").symlink_to(plain / "a.safetensors")
    with pytest.raises(InputError, match="leads out of it"):
        weight_files(snapshot)


def test_a_change_of_config_tokenizer_or_template_is_another_model_of_the_same_weights(
    whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    assert folder_fingerprint(folder) == folder_fingerprint(whole)
    seen = {settings_fingerprint(folder)}
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_text((folder / name).read_text() + " ")
        seen.add(settings_fingerprint(folder))
    (folder / "notes.txt").write_text("mine")
    seen.add(settings_fingerprint(folder))
    assert len(seen) == 5
    assert weights_fingerprint(folder) == weights_fingerprint(whole)
    assert folder_fingerprint(folder) != folder_fingerprint(whole)
