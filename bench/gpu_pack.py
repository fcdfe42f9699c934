"""Packs what a machine without a network lacks for bench/gpu.py, and installs it there.

    python -m bench.gpu_pack        here: fills .gpu/, which git ignores (`make gpu-pack`)

The repository travels as it is; .gpu/ holds the rest: the extension module of alignkit, both distributions' metadata
(entry points), Qwen2.5's tokenizer, and wheels for a machine that has Python 3.12, torch and transformers. All that
travels stays below 64 MiB.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import distribution
from pathlib import Path

from bench.commit import commit
from bench.texts import ROOT, write_tokenizer

PACKED = ROOT / ".gpu"
LIMIT = 64 * 2**20
PYTHON = "3.12"
LACKING = (
    "pydantic pydantic-core annotated-types typing-inspection tenacity plotly gguf gigatoken awkward awkward-cpp "
    "trl datasets dill multiprocess liger-kernel"
).split()
_GLIBC = (39, 35, 34, 31, 28, 27, 24, 17)  # pip takes a platform tag to the letter


def main() -> None:
    """Fill the folder; what is there at the locked version is not fetched again.

    Raises:
        SystemExit: more would travel than may.
    """
    (PACKED / "wheels").mkdir(parents=True, exist_ok=True)
    for name in LACKING:
        _fetch(name)
    site = PACKED / "site"
    shutil.rmtree(site, ignore_errors=True)
    for name in ("alignkit", "alignkit-plugins"):  # as they are installed here
        metadata = next(f for f in distribution(name).files or [] if f.name == "METADATA").locate()
        shutil.copytree(Path(str(metadata)).parent, site / Path(str(metadata)).parent.name)
    shutil.copy(_native(), PACKED)
    if not (PACKED / "tokenizer").exists():
        write_tokenizer(PACKED / "tokenizer", "qwen2.5")
    (PACKED / "COMMIT").write_text(commit() + "\n")
    size = sum(path.stat().st_size for path in _travelling())
    print(f"{commit()[:9]}: {len(list((PACKED / 'wheels').iterdir()))} wheels; {size / 2**20:.0f} MiB travel")
    if size > LIMIT:
        raise SystemExit(f"more than {LIMIT // 2**20} MiB: leave something out of LACKING in {__file__}")


def packed_commit() -> str:
    """The commit that was packed, or ""."""
    return (PACKED / "COMMIT").read_text().strip() if (PACKED / "COMMIT").exists() else ""


def installed() -> Path | None:
    """Install the pack where alignkit's needs are missing; returns the folder to import from, or None.

    Raises:
        SystemExit: pip could not install it.
    """
    there = [importlib.util.find_spec(name) is not None for name in ("pydantic", "gigatoken", "tenacity")]
    if not PACKED.exists() or (all(there) and list((ROOT / "alignkit").glob("_native*.so"))):
        return None
    site = Path(tempfile.gettempdir()) / "alignkit-gpu-site"
    wheels = sorted(map(str, (PACKED / "wheels").glob("*.whl")))
    options = "--quiet --no-index --no-deps --no-compile --no-cache-dir --upgrade".split()
    done = subprocess.run([sys.executable, "-m", "pip", "install", *options, "--target", str(site), *wheels])
    if done.returncode:
        raise SystemExit("the packed wheels cannot be installed")
    shutil.copytree(PACKED / "site", site, dirs_exist_ok=True)
    for extension in PACKED.glob("_native*.so"):
        shutil.copy(extension, ROOT / "alignkit")
    sys.path.append(str(site))  # for the versions
    return site


def _fetch(name: str) -> None:
    locks = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "requirements").glob("*.txt")))
    locked = re.search(rf"^{name}==(\S+)", locks, re.MULTILINE | re.IGNORECASE)
    stem, there = name.replace("-", "_"), sorted((PACKED / "wheels").glob(f"{name.replace('-', '_')}-[0-9]*.whl"))
    if there and (locked is None or there[0].name.startswith(f"{stem}-{locked[1]}-")):
        return
    for wheel in there:
        wheel.unlink()
    wanted = name if locked is None else f"{name}=={locked[1]}"
    platforms = [f"--platform=manylinux_2_{minor}_x86_64" for minor in _GLIBC]
    options = ["--no-deps", "--only-binary=:all:", f"--python-version={PYTHON}", "--implementation=cp", *platforms]
    options += ["--platform=manylinux2014_x86_64", "--platform=manylinux1_x86_64", "--dest", str(PACKED / "wheels")]
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", *options, wanted], check=True)


def _native() -> Path:
    found = importlib.util.find_spec("alignkit._native")
    assert found is not None and found.origin is not None
    return Path(found.origin)


def _travelling() -> set[Path]:
    """The files that git does not ignore, and the pack."""
    asked = ["git", "-C", str(ROOT), "ls-files", "-coz", "--exclude-standard"]
    listed = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split("\0")
    files = {ROOT / name for name in listed if name} | set(PACKED.rglob("*"))
    return {path for path in files if path.is_file()}


if __name__ == "__main__":
    main()
