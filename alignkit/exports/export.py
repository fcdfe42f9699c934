"""The steps of an export, in order; the folder is written whole or not at all."""

from __future__ import annotations

import html
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from alignkit.config.settings import ModelSection
from alignkit.data.chat.chat import Chat, make_chat
from alignkit.data.trees.trees import Tree, tree
from alignkit.errors import InputError, RunStopped, UsageError
from alignkit.exports.card import model_card
from alignkit.exports.gguf_file import Kind, refuse_shape, write_gguf
from alignkit.exports.modelfile import modelfile
from alignkit.exports.proof import LIMITS, Difference, Expected, compare_folder, compare_gguf, expect
from alignkit.exports.push import check_name, push
from alignkit.exports.trained import ADAPTER, Trained, is_scorer, load_trained
from alignkit.judging import verdict_files
from alignkit.policy.policy import Policy
from alignkit.pretrained.names import ModelSource, find_adapter, find_model
from alignkit.pretrained.read import read_config
from alignkit.pretrained.saved_files import settle_tokenizer
from alignkit.progress import Progress
from alignkit.runs import RunRecord, read_run
from alignkit.storage import new_folder, read_object, what_helps
from alignkit.training.run.export import export, save_adapter, source_dtype

Dtype = Literal["fp32", "bf16", "fp16"]
_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_PROOF, _GENERATION = "export.json", "generation_config.json"


@dataclass(frozen=True)
class Wanted:
    """What is to be written.

    Args:
        dtype: of the weights; None: as the model came.
        adapter: the adapter alone.
        gguf: a GGUF file of this kind too.
        ollama: a Modelfile beside it; the GGUF file is q8_0 where no kind is named.
        push: OWNER/NAME on the hub, afterwards.

    Raises:
        UsageError: an adapter alone was asked for as GGUF, or `push` is no name.
    """

    dtype: Dtype | None = None
    adapter: bool = False
    gguf: Kind | None = None
    ollama: bool = False
    push: str | None = None

    def __post_init__(self) -> None:
        if self.adapter and (self.gguf or self.ollama):
            raise UsageError("--adapter: an adapter alone is not written as GGUF; leave one of them out")
        if self.push is not None:
            check_name(self.push)

    @property
    def gguf_kind(self) -> Kind | None:
        """The kind of GGUF file, None where there is none."""
        return self.gguf or ("q8_0" if self.ollama else None)


@dataclass(frozen=True)
class Export:
    """What was written.

    Args:
        folder: where.
        differences: from the trained policy, by what was read again.
        notes: what has to be said about them.
        address: on the hub, where it was pushed.
    """

    folder: Path
    differences: tuple[Difference, ...]
    notes: tuple[str, ...] = ()
    address: str | None = None

    def _repr_html_(self) -> str:
        """What a notebook shows, escaped."""
        lines = [*self.notes, *(one.line() for one in self.differences), *([self.address] if self.address else [])]
        listed = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
        return f"<p><b>written: {html.escape(str(self.folder))}</b></p><ul>{listed}</ul>"


def export_model(name: str, to: Path, wanted: Wanted, *, progress: Progress) -> Export:
    """Write a run's model, or a model's folder, into a new folder.

    Raises:
        UsageError: `to` is there already, or the run has no adapter that was asked for.
        InputError: the model cannot be read, or is not written in this form.
        RunStopped: the disk refuses, what was written is not what was trained, or the hub refuses.
    """
    source = find_model(name)
    record = None if source.run is None else read_run(source.run)
    _refuse(source, record, to, wanted)
    chat = make_chat(source, ModelSection())
    if wanted.gguf_kind is not None:
        refuse_shape(read_config(source.folder), chat.tokenizer)
    text = None
    if wanted.ollama:
        text = modelfile(chat, gguf=_gguf_name(name, wanted.gguf_kind), end_ids=_end_ids(source.folder, chat))
    progress.start("loading what was trained", None)
    trained = load_trained(source, record)
    if wanted.adapter and trained.base is None:
        raise InputError(f"{name}: its adapter cannot be exported alone: {trained.note}; export it merged")
    notes = [] if trained.note is None else [f"{trained.note}: compared with the run's merged model"]
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        with new_folder(to) as working:
            differences = _write(working, name, source, chat, trained, wanted, progress)
            if text is not None:
                (working / "Modelfile").write_text(text, encoding="utf-8")
            (working / _PROOF).write_text(json.dumps([one.as_json() for one in differences], indent=1) + "\n")
            (working / "README.md").write_text(
                _card(name, source, record, chat, trained, wanted, differences), encoding="utf-8"
            )
            working.chmod(0o755)
    except OSError as error:
        raise RunStopped(f"{to}: cannot be written: {error.strerror or error}; {what_helps(error)}") from error
    finally:
        progress.stop()
    address = None if wanted.push is None else push(to, wanted.push)
    return Export(to, tuple(differences), tuple(notes), address)


def _refuse(source: ModelSource, record: RunRecord | None, to: Path, wanted: Wanted) -> None:
    if to.exists():
        raise UsageError(f"--to {to}: is there already; give another, or remove it")
    if wanted.adapter and source.adapter is not None:
        raise UsageError(f"--adapter: {source.name} is one already; leave it out, to write it merged into its base")
    if wanted.adapter and (record is None or record.content["config"]["model"].get("lora_rank") is None):
        raise UsageError(f"--adapter: {source.name} has no adapter, all its weights were trained; leave it out")
    if (wanted.gguf or wanted.ollama) and is_scorer(source.folder):
        raise InputError(f"--gguf: {source.name} gives scores, no texts, which GGUF does not hold; take the folder")


def _write(
    working: Path, name: str, source: ModelSource, chat: Chat, trained: Trained, wanted: Wanted, progress: Progress
) -> list[Difference]:
    """Write the files, and load each again; the policy is merged and rounded at the end."""
    policy, found = trained.policy, list[Difference]()
    config = read_config(source.folder)
    dtype = _TYPES[wanted.dtype] if wanted.dtype is not None else source_dtype(source.base or source.folder)
    progress.start("answers of the trained policy", None)
    expected = None if policy.scalar_head else expect(policy, chat)
    if wanted.adapter:
        assert trained.base is not None
        progress.start("writing the adapter", None)
        _write_adapter(policy, chat, working, source, None if wanted.dtype is None else dtype)
        if expected is not None:
            limit = LIMITS["adapter"] if wanted.dtype in (None, "fp32") else LIMITS[_name(dtype)]
            found.append(
                compare_folder(
                    working,
                    expected,
                    what="adapter",
                    limit=limit,
                    template_kwargs=chat.template_kwargs,
                    adapter_on=trained.base,
                )
            )
        return found
    file, kind = None, wanted.gguf_kind
    if kind is not None:
        progress.start(f"writing GGUF, {kind}", None)
        file = working.with_name(f"{working.name}.gguf")  # the folder itself is put in place by `export`
        write_gguf(file, policy.merged_weights(), config=config, tokenizer=chat.tokenizer, kind=kind, name=_slug(name))
    try:
        progress.start(f"writing the folder, {_name(dtype)}", None)
        written = export(
            policy,
            chat,
            working,
            trees=_trees(chat, expected),
            source=source.folder,
            dtype=dtype,
            go_on=lambda: "the same command",
        )
        _copy_generation_config(source.folder, working)
        if expected is None:
            found.append(
                Difference("folder, scores", "transformers", written.rounding, written.rounding, 2, 2, None, None, 1.0)
            )
        else:
            limit, kwargs = LIMITS[_name(dtype)], chat.template_kwargs
            found.append(
                compare_folder(working, expected, what=f"folder, {_name(dtype)}", limit=limit, template_kwargs=kwargs)
            )
        if file is not None and kind is not None and expected is not None:
            progress.start("reading GGUF again", None)
            file = Path(shutil.move(file, working / _gguf_name(name, kind)))
            rows = policy.model.get_input_embeddings().weight.shape[0]
            found.append(
                compare_gguf(file, expected, limit=LIMITS[kind], vocab_size=rows, template_kwargs=chat.template_kwargs)
            )
    finally:
        if file is not None and file.parent != working:
            file.unlink(missing_ok=True)
    return found


def _write_adapter(policy: Policy, chat: Chat, folder: Path, source: ModelSource, dtype: torch.dtype | None) -> None:
    """Write a PEFT folder with the tokenizer that the run's model has."""
    from safetensors.torch import load_file, save_file

    save_adapter(policy, folder / ADAPTER)
    for file in (folder / ADAPTER).iterdir():
        shutil.move(file, folder / file.name)
    (folder / ADAPTER).rmdir()
    if dtype is not None:
        weights = folder / "adapter_model.safetensors"
        tensors = {key: value.to(dtype) for key, value in load_file(weights).items()}
        save_file(tensors, weights, metadata={"format": "pt"})
    settings: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    assert source.run is not None
    model = read_run(source.run).model
    if (under := find_adapter(model)) is not None:  # a scorer was trained on it merged
        model = str(find_model(model).folder) if policy.scalar_head else under.base_name
    settings["base_model_name_or_path"] = model
    (folder / "adapter_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    chat.tokenizer.chat_template = chat.template
    chat.tokenizer.save_pretrained(folder)
    settle_tokenizer(folder, source.folder, chat.tokenizer, added=False)
    _copy_generation_config(source.folder, folder)


def _copy_generation_config(source: Path, folder: Path) -> None:
    """Keep all the end tokens that the run found: its tokenizer names one of them alone."""
    if (source / _GENERATION).is_file():
        shutil.copyfile(source / _GENERATION, folder / _GENERATION)


def _end_ids(source: Path, chat: Chat) -> list[int]:
    """Every token that ends an answer."""
    content = read_object(source / _GENERATION) if (source / _GENERATION).is_file() else {}
    named = content.get("eos_token_id")
    listed = named if isinstance(named, list) else [named]
    return sorted(chat.end_ids | {number for number in listed if isinstance(number, int)})


def _trees(chat: Chat, expected: Expected | None) -> list[Tree]:
    """Rows for the proof that the merged model is the policy; of a scorer, a question and an answer."""
    import numpy as np

    if expected is None:
        prompt = chat.prompt_ids([{"role": "user", "content": "Name a river."}])
        ids = chat.answer_ids(
            [{"role": "user", "content": "Name a river."}], [{"role": "assistant", "content": "Rhine."}]
        )
        pairs = [(prompt, ids)]
    else:
        pairs = [(list(p), list(a)) for p, a in zip(expected.prompts[:2], expected.answers[:2], strict=True)]
    return [
        tree(str(number), np.array(prompt), [(np.array(answer), np.ones(len(answer), bool))])
        for number, (prompt, answer) in enumerate(pairs)
    ]


def _card(
    name: str,
    source: ModelSource,
    record: RunRecord | None,
    chat: Chat,
    trained: Trained,
    wanted: Wanted,
    differences: list[Difference],
) -> str:
    verdicts = [] if source.run is None else verdict_files.read(source.run)
    base = trained.base
    if base is None and record is not None:
        try:
            base = find_model(record.model).folder
        except InputError:
            base = None
    return model_card(
        name=_slug(name),
        record=record,
        base=base if record is not None else source.folder,
        verdict=verdicts[-1] if verdicts else None,
        differences=differences,
        files=(f"{_PROOF}: these differences as numbers",),
        is_adapter=wanted.adapter,
        system=chat.system,
    )


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", Path(name.partition("@")[0]).name).strip("-.") or "model"


def _gguf_name(name: str, kind: Kind | None) -> str:
    return f"{_slug(name)}.{kind}.gguf"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
