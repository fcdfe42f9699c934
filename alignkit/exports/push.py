"""A folder to the hub, by huggingface_hub, whose own login is used: no token is read, kept or logged here."""

from __future__ import annotations

from pathlib import Path

from alignkit.display import as_typed, on_one_line
from alignkit.errors import RunStopped, UsageError, first_line


def check_name(name: str) -> None:
    """Refuse what is no OWNER/NAME. Raises UsageError."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UsageError(f"--push {name}: {first_line(error)}; write OWNER/NAME") from error
    if name.count("/") != 1:
        raise UsageError(f"--push {name}: write OWNER/NAME")


def push(folder: Path, name: str) -> str:
    """Upload a folder into a model repository, which is made private where there is none, and return its address.

    Raises:
        RunStopped: nobody is logged in, the hub refuses, or it cannot be reached; the folder stays as it is.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    api = HfApi(library_name="alignkit")
    try:
        made = api.create_repo(name, private=True, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Upload by alignkit export")
    except LocalTokenNotFoundError as error:
        raise RunStopped(f"--push {name}: nobody is logged in; type hf auth login and push {folder} again") from error
    except HfHubHTTPError as error:
        answer = error.response.status_code if error.response is not None else "no answer"
        raise RunStopped(
            f"--push {name}: the hub refused ({answer}): {on_one_line(first_line(error))}; {folder} is whole"
        ) from error
    except Exception as error:  # offline, no route, a proxy: many kinds, one meaning
        raise RunStopped(
            f"--push {name}: the hub cannot be reached ({type(error).__name__}); {folder} is whole, push it later: "
            f"{as_typed(['hf', 'upload', name, str(folder)])}"
        ) from error
    return str(made)
