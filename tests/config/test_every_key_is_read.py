"""Every key of alignkit.toml is read by something: one that is not would be accepted and ignored."""

from __future__ import annotations

import re

import pytest
from places import ROOT

from alignkit.config.settings import SECTIONS, RunOptions
from alignkit.registry import registry

FILES = [*(ROOT / "alignkit").rglob("*.py"), *(ROOT / "plugins" / "alignkit_plugins").rglob("*.py")]
CODE = "\n".join(file.read_text(encoding="utf-8") for file in FILES)
KEYS = [(table, key) for table, section in SECTIONS.items() for key in section.model_fields]
KEYS += [("run", key) for key in RunOptions.model_fields]
OWN = [
    (name, key)
    for name in ("sft", "sft-lenpen", "dpo", "kto", "grpo", "reward")
    for key in registry().find("method", name).Config.model_fields  # type: ignore[attr-defined]
]


def is_read(key: str) -> bool:
    """Whether some code takes the attribute of that name, or the item, or names it to a function that does.

    A timeout is read by its phase, and a bound on a term's gradient where the method names its terms.
    """
    if key.endswith("_timeout_s"):
        return "timeouts_s" in CODE
    if re.fullmatch(r"max_[a-z]+_ratio", key):
        return re.search(rf'def term_ratios.{{0,400}}"{key}"', CODE, re.DOTALL) is not None
    return re.search(rf"\.{key}\b(?!\s*=[^=])|\[\"{key}\"\]|\.pop\(\"{key}\"", CODE) is not None


@pytest.mark.parametrize(("table", "key"), KEYS + OWN)
def test_a_key_of_the_configuration_is_read(table: str, key: str) -> None:
    assert is_read(key), f"{table}.{key} is accepted, and nothing reads it"


def test_a_key_that_nothing_reads_is_found() -> None:
    assert not is_read("number_of_nothing")
