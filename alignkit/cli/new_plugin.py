"""The files that `alignkit plugins new` writes: a package with one class, its entry point and a test that passes."""

from __future__ import annotations

import json

_MODULES = {
    "method": '''"""NAME: say in one sentence what it trains on, and write its formula here."""

from pydantic import Field

from alignkit.plugin import Method, MethodConfig, Pairs, hookimpl


class CLASSConfig(MethodConfig):
    beta: float = Field(0.1, gt=0, description="scale of the margin between chosen and rejected")


class CLASS(Method):
    name, Config, trains_on = "NAME", CLASSConfig, Pairs()

    def loss(self, batch, config):
        from torch.nn.functional import logsigmoid

        chosen, rejected = batch.pairs()
        margin_P = config.beta * (chosen.logprob_N - rejected.logprob_N)
        batch.log(margin=margin_P)
        return batch.mean(-logsigmoid(margin_P), over="pairs")


@hookimpl
def register_methods(register):
    register(CLASS)
''',
    "judge": '''"""NAME: say in one sentence what it scores."""

from pydantic import Field

from alignkit.plugin import Judge, JudgeConfig, Missing, Scored, hookimpl


class CLASSConfig(JudgeConfig):
    max_words: int = Field(50, ge=1, description="words that a completion may have")


class CLASS(Judge):
    name, version, Config = "NAME", "1", CLASSConfig

    def score(self, items):
        return [self._score_one(item.completion.split()) for item in items]

    def _score_one(self, words):
        return Scored(float(len(words) <= self.config.max_words)) if words else Missing("the completion is empty")


@hookimpl
def register_judges(register):
    register(CLASS)
''',
    "dataset": '''"""NAME: say in one sentence which rows it has."""

from alignkit.plugin import Dataset, hookimpl


class CLASS(Dataset):
    name, parts = "NAME", ("train", "test")

    def rows(self, part):
        for n in range(100 if part == "train" else 20):
            yield {"prompt": f"Count to {n}.", "chosen": f"{n}", "rejected": "No."}


@hookimpl
def register_datasets(register):
    register(CLASS)
''',
    "tracker": '''"""NAME: say in one sentence where a run's metrics are sent."""

from alignkit.plugin import Tracker, hookimpl


class CLASS(Tracker):
    name = "NAME"

    def log(self, step, metrics, *, tokens_seen):
        with open(self.run_folder / "NAME.txt", "a", encoding="utf-8") as file:
            file.writelines(f"{step} {name} {value}\\n" for name, value in metrics.items())


@hookimpl
def register_trackers(register):
    register(CLASS)
''',
}
_TEST = """from MODULE import CLASS

from alignkit.testing import check_KIND


def test_it_is_a_KIND():
    assert check_KIND(CLASS) == []
"""
_PROJECT = """[build-system]
requires = ["setuptools>=78"]
build-backend = "setuptools.build_meta"

[project]
name = DISTRIBUTION
version = "0.1.0"
dependencies = ["alignkit"]

[project.entry-points.alignkit]
NAME = "MODULE"

[tool.setuptools]
py-modules = ["MODULE"]
"""
KINDS = tuple(_MODULES)


def files(name: str, kind: str) -> dict[str, str]:
    """Return the text of each file, by its path in the package's folder.

    Args:
        name: of the method or its like, small letters, digits and hyphens.
        kind: one of KINDS.
    """
    module = f"alignkit_{name.replace('-', '_')}"
    names = {
        "DISTRIBUTION": json.dumps(f"alignkit-{name}"),
        "MODULE": module,
        "CLASS": "".join(part.capitalize() for part in name.split("-")),
        "KIND": kind,
        "NAME": name,
    }
    texts = {"pyproject.toml": _PROJECT, f"{module}.py": _MODULES[kind], f"test_{module}.py": _TEST}
    for old, new in names.items():
        texts = {path: text.replace(old, new) for path, text in texts.items()}
    return texts
