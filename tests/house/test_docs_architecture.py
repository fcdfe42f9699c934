"""docs/architecture.md names functions and files that are in the code."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest
from places import ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
FUNCTIONS = re.findall(r"`([\w/]+\.py):([\w.]+)`", PAGE)
FILES = re.findall(r"`((?:alignkit|plugins|rust_ext)/[\w/.]+)`", PAGE)


@cache
def defined_in(path: str) -> frozenset[str]:
    """Qualified names of the classes and functions that a module defines."""
    names: set[str] = set()

    def visit(node: ast.AST, before: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef | ast.FunctionDef):
                names.add(before + child.name)
                visit(child, f"{before}{child.name}.")

    visit(ast.parse((ROOT / path).read_text(encoding="utf-8")), "")
    return frozenset(names)


@pytest.mark.parametrize(("path", "name"), FUNCTIONS)
def test_every_function_on_the_way_is_in_its_file(path: str, name: str) -> None:
    assert (ROOT / path).is_file(), path
    assert name in defined_in(path)


def test_every_file_that_is_named_is_there() -> None:
    assert len(FUNCTIONS) > 40
    assert [name for name in FILES if not (ROOT / name).exists()] == []
