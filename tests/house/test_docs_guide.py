"""The guide and the methods' pages say what the code says. Run as a script, this file writes their tables."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic.fields import FieldInfo

from alignkit.config.fields import allowed
from alignkit.data.reading.fields import READ, TABLES, Field
from alignkit.data.reading.read import SUFFIXES
from alignkit.data.reading.rows import SHAPES, Row, to_row, unusable_reason
from alignkit.methods import MethodConfig
from alignkit.options import typed_name
from alignkit.registry import registry
from alignkit.units import Chosen, Pairs, Samples

DOCS = Path(__file__).parents[2] / "docs"  # this file also runs as a script
METHODS = ("sft", "sft-lenpen", "dpo", "kto", "grpo", "reward")
OPTIONS = re.compile(
    r"(?<=<!-- options: made from the class by `python tests/house/test_docs_guide.py` -->\n).*?(?=<!-- end)", re.S
)
FIELDS = re.compile(
    r"(?<=<!-- fields: made from alignkit/data/reading/fields.py by `python tests/house/test_docs_guide.py` -->\n).*?"
    r"(?=<!-- end)",
    re.S,
)
DATA = (DOCS / "guide" / "data.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```json (\w+)\n(.*?)^```", DATA, flags=re.M | re.S)


def page(method: str) -> Path:
    return DOCS / "methods" / f"{method}.md"


def options_table(method: str) -> str:
    """The options of a method as a table: its own first, then those that every method has."""
    config = registry().find("method", method).Config  # type: ignore[attr-defined]
    fields = config.model_fields
    names = sorted(fields, key=lambda name: name in MethodConfig.model_fields)
    rows = [f"| `{typed_name(config, name)}` | {shown(fields[name])} | {meaning(fields[name])} |" for name in names]
    return "\n".join(["", "| option | default | meaning |", "| --- | --- | --- |", *rows, "", ""])


def fields_tables() -> str:
    """The fields of rows and messages as tables: their names, and what is done with them."""
    lines = [""]
    for title, table in TABLES.items():
        lines += [
            f"| {title} | what is done with it |",
            "| --- | --- |",
            *(f"| {spelt(field)} | {done(field)} |" for field in table),
            "",
        ]
    return "\n".join([*lines, ""])


def spelt(field: Field) -> str:
    return ", ".join(f"`{name}`" for name in field.names)


def done(field: Field) -> str:
    if field.use is READ:
        return field.says
    but = "" if field.neutral is None else f", unless it is {json.dumps(field.neutral)}"
    why = f": {field.says}" if field.says else ""
    return f"{field.use.value}{but}{why}"


def shown(field: FieldInfo) -> str:
    default: Any = field.default
    if default is None:
        return "none"
    if isinstance(default, tuple):
        return ", ".join(f"{x:g}" for x in default)
    return f"{default:g}" if isinstance(default, float) else str(default)


def spaced(text: str) -> str:
    return " ".join(text.split())


def meaning(field: FieldInfo) -> str:
    return f"{field.description}; {allowed(field)}".replace("|", r"\|")


@pytest.mark.parametrize("method", METHODS)
def test_a_methods_page_has_every_option_with_its_default(method: str) -> None:
    (found,) = OPTIONS.findall(page(method).read_text(encoding="utf-8"))
    assert found == options_table(method), "the options changed: run python tests/house/test_docs_guide.py"


def test_the_guide_has_every_field_with_what_is_done_with_it() -> None:
    (found,) = FIELDS.findall(DATA)
    assert found == fields_tables(), "the fields changed: run python tests/house/test_docs_guide.py"
    assert len(re.findall(r"^\| `", found, flags=re.M)) == sum(map(len, TABLES.values()))


@pytest.mark.parametrize("method", METHODS)
def test_a_methods_page_has_its_equations_and_its_module(method: str) -> None:
    module = registry().find("method", method).__module__
    source = sys.modules[module].__doc__ or ""
    equations = re.findall(r"^    L.* = .*$|^ .*\(Eq\. \d\)$", source, flags=re.M)
    text = page(method).read_text(encoding="utf-8")
    assert text.startswith(f"# {method}: ")
    assert f"plugins/{module.replace('.', '/')}.py" in text
    assert equations
    for line in equations:
        assert spaced(line) in spaced(text)


def test_the_learning_rate_has_both_its_bounds() -> None:
    for name in METHODS:
        (row,) = [line for line in options_table(name).splitlines() if line.startswith("| `--learning-rate`")]
        assert row.endswith("a number, above 0 and at most 1 |")


def test_every_method_of_ours_has_a_page() -> None:
    ours = [p.name for p in registry().plugins() if p.kind == "method" and p.distribution == "alignkit-plugins"]
    assert sorted(ours) == sorted(METHODS) == sorted(file.stem for file in (DOCS / "methods").glob("*.md"))


UNITS = {"chosen": Chosen(), "pairs": Pairs(), "samples": Samples()}


@pytest.mark.parametrize(("use", "line"), EXAMPLES, ids=[f"{use} {n}" for n, (use, _) in enumerate(EXAMPLES)])
def test_the_guides_example_rows_are_read_as_it_says(use: str, line: str) -> None:
    row: Row = to_row(json.loads(line), where="the guide")
    usable = {kind for kind, unit in UNITS.items() if unusable_reason(row, unit) is None}
    expected = {"preference": {"chosen", "pairs", "samples"}, "answer": {"chosen", "samples"}, "prompt": {"samples"}}
    assert usable == (expected | {"labelled": {"chosen"}})[use]


def test_the_guide_shows_every_shape_suffix_and_truncation() -> None:
    from alignkit.config.fields import choices
    from alignkit.config.settings import DataSection

    assert (
        len(EXAMPLES) == len(SHAPES) + 3
    )  # answers as text and as messages; with and without a rejected one, with tools
    for name in (*SUFFIXES, *choices(DataSection.model_fields["truncation"].annotation)):
        assert f"`{name}`" in DATA


if __name__ == "__main__":
    (DOCS / "guide" / "data.md").write_text(FIELDS.sub(lambda _: fields_tables(), DATA), encoding="utf-8")
    for name in METHODS:
        text = page(name).read_text(encoding="utf-8")
        page(name).write_text(OPTIONS.sub(lambda _, name=name: options_table(name), text), encoding="utf-8")
