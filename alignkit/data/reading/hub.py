"""Finds the files of one split of a hub data set, downloading them where they are not here yet.

Where the hub cannot be reached, what was downloaded before (also by other tools, into the hub's cache) is taken, if it
holds every part of the split.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

from alignkit.data.reading.files import is_data_file
from alignkit.errors import InputError

_PART = re.compile(r"-(\d+)-of-(\d+)\.")
_KINDS = ("parquet", "jsonl", "ndjson", "json", "arrow", "feather", "csv", "tsv")
_logger = logging.getLogger(__name__)


def hub_files(name: str, split: str | None) -> list[Path]:
    """Return the local files of OWNER/NAME's split (default: train, or UltraFeedback's train_prefs).

    A split's files are SPLIT.jsonl, SPLIT-00000-of-00002.parquet, or whatever lies in a folder SPLIT/.

    Raises:
        InputError: there is no such data set or split, or the hub cannot be reached.
    """
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

    wanted = split or ("train_prefs" if name.endswith("ultrafeedback_binarized") else "train")
    try:
        files = sorted(f for f in HfApi().list_repo_files(name, repo_type="dataset") if is_data_file(Path(f)))
        chosen = _of_one_kind([f for f in files if _is_of(Path(f), wanted)], name)
        if not chosen:
            raise InputError(f"hub data set {name}: no data file of {wanted!r}; it has {', '.join(files) or 'none'}")
        return [Path(hf_hub_download(name, f, repo_type="dataset")) for f in chosen]
    except RepositoryNotFoundError as error:
        raise InputError(f"hub data set {name}: not found, or private without a token") from error
    except (OfflineModeIsEnabled, HfHubHTTPError, OSError) as error:
        return _cached(name, wanted) or _unreachable(name, error)
    except Exception as error:
        if type(error).__module__.startswith(("httpx", "httpcore")):
            return _cached(name, wanted) or _unreachable(name, error)
        raise


def _cached(name: str, wanted: str) -> list[Path]:
    """Return the split's files in the hub's cache; none where a part of them is missing."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, repo_type="dataset", local_files_only=True))
    except (LocalEntryNotFoundError, OSError):
        return []
    files = sorted(file for file in folder.rglob("*") if is_data_file(file))
    names = [file.relative_to(folder).as_posix() for file in files]
    chosen = [folder / file for file in _of_one_kind([file for file in names if _is_of(Path(file), wanted)], name)]
    parts = [found for file in chosen if (found := _PART.search(file.name))]
    if any({int(part[1]) for part in parts} != set(range(int(part[2]))) for part in parts):
        return []
    if chosen:
        _logger.warning("the hub cannot be reached: %s is taken as it was downloaded before, from %s", name, folder)
    return chosen


def _of_one_kind(files: list[str], name: str) -> list[str]:
    """Those of the first kind that there is: a split in several kinds holds the same rows in each."""
    kinds = [file.removesuffix(".gz").removesuffix(".zst").rpartition(".")[2] for file in files]
    kind = next((kind for kind in _KINDS if kind in kinds), "")
    left = [file for file, own in zip(files, kinds, strict=True) if own != kind]
    if left:
        _logger.warning("hub data set %s: its .%s files are read, not %s", name, kind, ", ".join(left))
    return [file for file in files if file not in left]


def _is_of(file: Path, split: str) -> bool:
    return file.name.startswith((f"{split}-", f"{split}.")) or file.parent.name == split


def _unreachable(name: str, error: Exception) -> list[Path]:
    raise InputError(
        f"hub data set {name}: the hub cannot be reached; give a file with --data FILE.jsonl, or --data demo "
        f"for the tasks that alignkit makes itself ({type(error).__name__})"
    ) from error
