"""Who may import whom, and what may not be imported at all when a command starts or plugins are listed."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from places import ROOT

from alignkit import plugin

HEAVY = {"torch", "transformers", "vllm", "peft", "accelerate", "datasets", "trl"}
SLOW_TO_IMPORT = HEAVY | {"numpy", "polars", "scipy", "matplotlib", "huggingface_hub", "sacrebleu"}

IMPORT_PLUGINS = """
import pkgutil, alignkit_plugins, importlib
for module in pkgutil.walk_packages(alignkit_plugins.__path__, "alignkit_plugins."):
    importlib.import_module(module.name)
"""


def imported_by(code: str) -> set[str]:
    """Top-level packages in sys.modules after `code` ran in a fresh process."""
    script = f"{code}\nimport sys\nprint('modules:', *{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("modules:")[2].split())


def test_the_house_imports_one_way_and_never_a_plugin() -> None:
    lint_imports = Path(sys.executable).with_name("lint-imports")
    command = [str(lint_imports), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout


def test_plugins_import_the_public_surface_alone() -> None:
    private = {}
    for path in sorted((ROOT / "plugins" / "alignkit_plugins").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            else:
                modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for module in modules:
                if module.partition(".")[0] == "alignkit" and module != "alignkit.plugin":
                    private[f"{path.name}:{node.lineno}"] = module
    assert not private


def test_every_name_of_the_public_surface_is_there_and_no_other() -> None:
    assert all(getattr(plugin, name) is not None for name in plugin.__all__)
    with pytest.raises(ImportError, match=r"cannot import name 'load_any' from 'alignkit\.plugin'"):
        from alignkit.plugin import load_any  # noqa: F401
    with pytest.raises(AttributeError, match="a plugin may import what its __all__ lists"):
        plugin.load_any  # noqa: B018


def test_the_contract_modules_import_nothing_heavy() -> None:
    code = "import alignkit.methods, alignkit.hookspecs, alignkit.tracking, alignkit.registry, alignkit.errors"
    assert not imported_by(code) & SLOW_TO_IMPORT


def test_listing_plugins_imports_no_torch() -> None:
    code = "from alignkit.registry import registry; assert registry().names('method') and not registry().broken"
    assert not imported_by(code) & HEAVY


def test_no_plugin_module_imports_torch() -> None:
    assert not imported_by(IMPORT_PLUGINS) & HEAVY


@pytest.mark.parametrize("arguments", [["--help"], ["train", "grpo", "--help"], ["plugins", "list", "--json"]])
def test_the_command_line_starts_without_torch(arguments: list[str]) -> None:
    code = f"from alignkit.cli.main import main\nassert main({arguments!r}) == 0"
    assert not imported_by(code) & HEAVY


def test_the_core_crate_never_mentions_pyo3_and_forbids_unsafe_code() -> None:
    core = ROOT / "rust_ext" / "core"
    manifest = tomllib.loads((core / "Cargo.toml").read_text(encoding="utf-8"))
    sources = list(core.rglob("*.rs"))
    mentions = [path for path in sources if "pyo3" in path.read_text(encoding="utf-8")]
    assert "pyo3" not in str(manifest)
    assert sources
    assert not mentions
    assert "#![forbid(unsafe_code)]" in (core / "src" / "lib.rs").read_text(encoding="utf-8")


def test_python_m_alignkit_takes_nothing_from_the_working_folder(tmp_path: Path) -> None:
    """Neither a module of the name of one that alignkit or its packages import, nor a plugin's metadata."""
    names = ["__future__", "typing", "json", "logging", "pathlib", "dataclasses", "rich", "typer", "pydantic", "pluggy"]
    for name in [*names, "torch", "numpy", "evil_plugin"]:
        (tmp_path / f"{name}.py").write_text("from os import abort\nabort()\n", encoding="utf-8")
    metadata = tmp_path / "evil-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n", encoding="utf-8")
    (metadata / "entry_points.txt").write_text("[alignkit]\nevil = evil_plugin\n", encoding="utf-8")
    command = [sys.executable, "-m", "alignkit", "plugins", "list", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "grpo" in done.stdout and "evil" not in done.stdout + done.stderr


def test_importing_alignkit_leaves_the_path_alone() -> None:
    code = "import sys; before = list(sys.path); import alignkit; assert sys.path == before"
    assert "alignkit" in imported_by(code)
