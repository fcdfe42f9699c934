"""The two wheels, installed where there is no Rust and nothing of this checkout."""

from __future__ import annotations

import email
import email.message
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from places import ROOT

pytestmark = pytest.mark.slow
LISTING_NEEDS = ("numpy", "pluggy", "pydantic", "rich", "typer")  # what `alignkit plugins list` imports; no torch


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both wheels as `make wheels` builds them, by distribution."""
    folder = tmp_path_factory.mktemp("wheels")
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    subprocess.run(["make", "wheels", f"WHEELS={folder}"], cwd=ROOT, env=env, check=True, timeout=280)
    return {path.name.partition("-")[0]: path for path in folder.glob("*.whl")}


def test_the_wheels_say_where_they_run(wheels: dict[str, Path]) -> None:
    assert sorted(wheels) == ["alignkit", "alignkit_plugins"]
    assert re.fullmatch(r"alignkit-[\d.]+-cp311-abi3-manylinux_2_\d+_x86_64\.whl", wheels["alignkit"].name)
    assert wheels["alignkit_plugins"].name.endswith("-py3-none-any.whl")


def test_the_wheels_carry_types_and_licence_and_nothing_of_the_checkout(wheels: dict[str, Path]) -> None:
    for distribution, path in wheels.items():
        files = _files(path)
        assert {name.partition("/")[0].partition("-")[0] for name in files} == {distribution}
        assert any(name.endswith("licenses/LICENSE") for name in files)
    assert {"alignkit/_native.abi3.so", "alignkit/_native.pyi", "alignkit/py.typed"} <= _files(wheels["alignkit"])


def test_the_wheels_carry_every_file_of_their_packages(wheels: dict[str, Path]) -> None:
    for distribution, folder in (("alignkit", ROOT), ("alignkit_plugins", ROOT / "plugins")):
        sources = [path for path in (folder / distribution).rglob("*") if path.is_file()]
        there = {str(path.relative_to(folder)) for path in sources if "__pycache__" not in path.parts}
        assert there == {name for name in _files(wheels[distribution]) if ".dist-info/" not in name}


def test_each_wheel_asks_for_the_other_in_its_own_version(wheels: dict[str, Path]) -> None:
    metadata = {name: _metadata(path) for name, path in wheels.items()}
    assert metadata["alignkit"]["Version"] == metadata["alignkit_plugins"]["Version"]
    version = metadata["alignkit"]["Version"]
    assert f"alignkit-plugins=={version}" in metadata["alignkit"].get_all("Requires-Dist")
    assert f"alignkit=={version}" in metadata["alignkit_plugins"].get_all("Requires-Dist")


def test_an_empty_environment_without_cargo_lists_the_methods(wheels: dict[str, Path], tmp_path: Path) -> None:
    uv, venv = str(Path(sys.executable).with_name("uv")), tmp_path / "venv"
    python = str(venv / "bin" / "python")
    (tmp_path / "needed.txt").write_text(_locked(_closure(LISTING_NEEDS)), encoding="utf-8")
    install = [uv, "pip", "install", "--quiet", "--python", python, "--no-deps"]
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(venv)], check=True)
    subprocess.run([*install, "--require-hashes", "-r", str(tmp_path / "needed.txt")], check=True)
    subprocess.run([*install, *map(str, wheels.values())], check=True)

    env = {"PATH": str(venv / "bin"), "HOME": str(tmp_path)}
    run = {"env": env, "cwd": tmp_path, "capture_output": True, "text": True, "timeout": 60, "check": False}
    native = subprocess.run([python, "-c", "import alignkit._native as n; print(n.__file__)"], **run)
    assert str(venv) in native.stdout, native.stderr
    listing = subprocess.run([str(venv / "bin" / "alignkit"), "plugins", "list", "--json"], **run)
    assert listing.returncode == 0, listing.stderr
    rows = json.loads(listing.stdout)
    assert [row for row in rows if row["error"]] == []
    assert {"sft", "sft-lenpen", "dpo", "kto", "grpo", "reward"} <= {
        row["name"] for row in rows if row["kind"] == "method"
    }


def _files(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def _metadata(wheel: Path) -> email.message.Message:
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return email.message_from_bytes(archive.read(name))


def _closure(names: tuple[str, ...]) -> set[str]:
    """The named distributions and all that they require on this machine."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found:
            continue
        found.add(name)
        requirements = map(Requirement, importlib.metadata.requires(name) or [])
        waiting += [r.name for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found


def _locked(names: set[str]) -> str:
    """The entries of those distributions in the runtime lock, hashes included."""
    entries = re.split(r"^(?=\S)", (ROOT / "requirements" / "runtime.txt").read_text(encoding="utf-8"), flags=re.M)
    kept = {name: entry for entry in entries if (name := entry.partition("==")[0].partition("[")[0]) in names}
    assert set(kept) == names
    return "".join(kept.values())
