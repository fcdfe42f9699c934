"""Finds the files of one split of a hub data set, downloading them where they are not here yet."""

from __future__ import annotations

from pathlib import Path

from alignkit.data.files import SUFFIXES
from alignkit.errors import InputError


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
        files = sorted(f for f in HfApi().list_repo_files(name, repo_type="dataset") if f.endswith(SUFFIXES))
        chosen = [f for f in files if _is_of(Path(f), wanted)]
        if not chosen:
            raise InputError(
                f"hub data set {name}: no Parquet or JSONL file of {wanted!r}; it has {', '.join(files) or 'none'}"
            )
        return [Path(hf_hub_download(name, f, repo_type="dataset")) for f in chosen]
    except RepositoryNotFoundError as error:
        raise InputError(f"hub data set {name}: not found, or private without a token") from error
    except (OfflineModeIsEnabled, HfHubHTTPError, OSError) as error:
        raise _unreachable(name, error) from error
    except Exception as error:
        if type(error).__module__.startswith(("httpx", "httpcore")):
            raise _unreachable(name, error) from error
        raise


def _is_of(file: Path, split: str) -> bool:
    return file.name.startswith((f"{split}-", f"{split}.")) or file.parent.name == split


def _unreachable(name: str, error: Exception) -> InputError:
    return InputError(
        f"hub data set {name}: the hub cannot be reached; give a file with --data FILE.jsonl, or --data demo "
        f"for the tasks that alignkit makes itself ({type(error).__name__})"
    )
