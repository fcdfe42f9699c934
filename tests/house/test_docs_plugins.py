"""docs/plugins.md says what the code says: every hook, signature and attribute of the contract, no more and no less."""

from __future__ import annotations

import inspect
import re

import pytest
from places import ROOT
from pydantic import BaseModel

from alignkit import hookspecs, tracking
from alignkit.data.reading import dataset
from alignkit.judging import metric
from alignkit.methods import Batch, Method, MethodConfig
from alignkit.rollouts import sampler
from alignkit.scoring import judge
from alignkit.units import Unit

PAGE = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
HOOKS = [spec for name, spec in vars(hookspecs).items() if name.startswith("register_")]
CONTRACT = [
    *(Method, Unit, MethodConfig, Batch),
    *(judge.Judge, judge.Item, judge.Scored, judge.Missing),
    dataset.Dataset,
    *(sampler.Sampler, sampler.Request, sampler.Completion),
    tracking.Tracker,
    metric.Metric,
]


def section(heading: str) -> str:
    """What stands under the `### heading`, up to the next heading."""
    found = re.search(rf"^### `{re.escape(heading)}`\n(.*?)(?=^##|\Z)", PAGE, flags=re.M | re.S)
    assert found, f"docs/plugins.md has no section `{heading}`"
    return found[1]


def code_lines(text: str) -> set[str]:
    blocks = re.findall(r"^```python\n(.*?)^```", text, flags=re.M | re.S)
    return {line.strip() for block in blocks for line in block.splitlines() if line.strip()}


def table_names(text: str) -> list[str]:
    return re.findall(r"^\| `(\w+)` \|", text, flags=re.M)


def signature(function: object, name: str) -> str:
    return f"{name}{inspect.signature(function)}".replace("'", "")  # annotations are strings there


def contract_of(cls: type) -> tuple[set[str], set[str]]:
    """Return the signatures of a class's public methods, and the names of its other public attributes."""
    generated = cls.__dict__.get("__dataclass_fields__") is not None or issubclass(cls, BaseModel)
    attributes = {name for name in inspect.get_annotations(cls) if not name.startswith("_")} - {"model_config"}
    methods = set()
    for name, found in vars(cls).items():
        value = found.__func__ if isinstance(found, classmethod) else found
        if inspect.isfunction(value) and (not name.startswith("_") or (name == "__init__" and not generated)):
            methods.add(signature(value, name))
        elif isinstance(value, property):
            attributes.add(name)
    return methods, attributes


def test_every_hook_is_there_with_its_exact_signature() -> None:
    assert {signature(hook, hook.__name__) for hook in HOOKS} == code_lines(section("hookspecs"))


@pytest.mark.parametrize("cls", CONTRACT, ids=lambda cls: cls.__name__)
def test_every_method_of_a_contract_class_is_there_with_its_exact_signature(cls: type) -> None:
    assert code_lines(section(cls.__name__)) == contract_of(cls)[0]


@pytest.mark.parametrize("cls", CONTRACT, ids=lambda cls: cls.__name__)
def test_every_attribute_of_a_contract_class_is_named(cls: type) -> None:
    names = table_names(section(cls.__name__))
    assert len(names) == len(set(names))
    assert set(names) == contract_of(cls)[1]


@pytest.mark.parametrize(("language", "file"), [("python", "alignkit_simpo.py"), ("toml", "pyproject.toml")])
def test_the_worked_example_is_the_plugin_that_the_tests_install(language: str, file: str) -> None:
    source = (ROOT / "tests" / "third_party" / "good" / file).read_text(encoding="utf-8")
    assert f"```{language}\n{source}```\n" in PAGE
