"""Presets: a method's own sets of options, where they stand among the other places, and who has which."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import Field
from small_runs import write_numbered_rows
from tiny_models import tiny_model

import alignkit
from alignkit import Method, MethodConfig
from alignkit.cli.main import main
from alignkit.config.file import Resolved, resolve
from alignkit.errors import UsageError
from alignkit.registry import Plugin, registry
from alignkit.training.run.resume import resume_command
from alignkit.units import Chosen, Unit


class OwnConfig(MethodConfig):
    gamma: float = Field(0.0, description="a number")


class Own(Method):
    """A third party's method with a preset."""

    name: ClassVar[str] = "own-method"
    Config: ClassVar[type[MethodConfig]] = OwnConfig
    trains_on: ClassVar[Unit] = Chosen()
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {"strong": {"gamma": 2.0, "epochs": 3}}

    def loss(self, batch, config):
        return batch.mean(-batch.logprob_T, over="tokens")


@pytest.fixture(autouse=True)
def own_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    registry().found["method"][Own.name] = [Plugin("method", Own.name, Own, "third-party", "1", __name__)]
    yield
    del registry().found["method"][Own.name]


def resolved(method: str, *settings: str, **options: object) -> Resolved:
    return resolve(registry().find("method", method), options=options, config=None, settings=settings)


def test_paper_is_the_papers_numbers_as_printed_whatever_the_file_says() -> None:
    Path("alignkit.toml").write_text("[train]\nlearning_rate = 0.5\nmax_new_tokens = 7\n[train.grpo]\nkl = 0.5\n")
    beside = {name: {"validation_interval": 250} for name in ("sft", "sft-lenpen", "dpo")}
    for name, quirks in (beside | {"grpo": {"num_prompts": 50, "max_steps": 1000, "validation_interval": 20}}).items():
        config = registry().find("method", name).Config
        assert resolved(name, preset="paper").method == config(**quirks)
        assert all(getattr(config(), key) is None for key in quirks)  # by default all rows, and about 20 validations
    assert resolved("grpo", preset="paper").method.kl == 0.1
    assert resolved("grpo", preset="paper").sources["train.grpo.kl"] == "preset paper"


def test_letter_is_equations_three_and_six_in_their_own_units() -> None:
    Path("alignkit.toml").write_text(
        "[train.grpo]\nkl = 0.1\nlearning_rate = 1e-5\n[train.sft-lenpen]\npenalty = 1.0\n"
    )
    grpo = resolved("grpo", preset="letter").method
    assert (grpo.kl, grpo.kl_estimator, grpo.zero_variance_groups) == (0.025, "k1-to-go", "keep")
    assert grpo.kl * grpo.group_size == 0.1 and grpo.learning_rate == 1e-5  # Eq. 6 sums over the group
    penalty = resolved("sft-lenpen", preset="letter").method
    assert (penalty.penalty, penalty.penalty_interval, penalty.max_penalty_ratio) == (1e-3, 100, None)
    assert penalty.reduction == resolved("sft", preset="letter").method.reduction == "example-sum"
    assert resolved("dpo", preset="letter").method.beta == 0.1


def test_a_preset_stands_over_the_file_and_under_what_is_typed_beside_it() -> None:
    Path("alignkit.toml").write_text("[train]\nepochs = 9\nseed = 9\n[train.own-method]\ngamma = 0.5\n")
    result = resolved("own-method", "train.own-method.epochs=4", preset="strong")
    assert (result.method.gamma, result.method.epochs, result.method.seed) == (2.0, 4, 9)
    places = {key: result.sources[f"train.own-method.{key}"] for key in ("gamma", "epochs", "seed")}
    assert places == {"gamma": "preset strong", "epochs": "--set", "seed": "alignkit.toml:3"}
    assert resolved("own-method", preset="strong", gamma=1.0).method.gamma == 1.0
    assert resolved("own-method").method.gamma == 0.5


@pytest.mark.parametrize(
    ("method", "preset", "said"),
    [
        ("grpo", "leter", "--preset leter: method 'grpo' has no preset of that name; did you mean 'letter'?"),
        ("own-method", "paper", "--preset paper: method 'own-method' has no preset of that name; known: strong"),
        ("reward", "paper", "--preset paper: method 'reward' has no presets; leave it out"),
        ("grpo", "", "--preset : method 'grpo' has no preset of that name"),
        ("grpo", 3, "--preset: 3 was given, text is allowed"),
    ],
)
def test_an_unknown_preset_is_refused_with_the_known_ones(method: str, preset: Any, said: str) -> None:
    with pytest.raises(UsageError) as raised:
        resolved(method, preset=preset)
    assert said in str(raised.value)


def test_a_value_that_a_preset_may_not_have_names_the_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Own, "presets", {"strong": {"epochs": -1}, "other": {"delta": 1}})
    with pytest.raises(UsageError, match="preset strong: epochs: -1 was given"):
        resolved("own-method", preset="strong")
    with pytest.raises(TypeError, match="its preset 'other' sets 'delta', which is none of its options"):
        resolved("own-method", preset="other")


def test_the_command_that_goes_on_with_a_run_names_its_preset() -> None:
    command = resume_command(resolved("grpo", preset="letter", group_size=8), Path("runs/one"))
    assert command == "alignkit train grpo --group-size 8 --preset letter --resume --out runs/one"


def test_config_show_says_what_a_preset_sets(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", "grpo", "--preset", "letter", "--json"]) == 0
    rows = {row["key"]: (row["value"], row["from"]) for row in json.loads(capsys.readouterr().out)}
    assert rows["train.grpo.kl"] == (0.025, "preset letter")
    assert rows["train.grpo.learning_rate"] == (5e-06, "default")
    assert main(["config", "show", "--preset", "letter", "--json"]) == 0  # of the methods that have one
    rows = {row["key"]: row["from"] for row in json.loads(capsys.readouterr().out)}
    assert (
        rows["train.grpo.kl"] == rows["train.dpo.beta"] == "preset letter" and rows["train.reward.epochs"] == "default"
    )
    assert main(["config", "show", "reward", "--preset", "letter"]) == 2
    assert main(["config", "show", "--preset", "leter"]) == 2
    assert "no method has a preset of that name" in capsys.readouterr().err


def test_a_run_takes_a_preset_and_says_so_in_run_json(tmp_path: Path) -> None:
    given = {"model": str(tiny_model(tmp_path / "model")), "data": str(write_numbered_rows(tmp_path / "rows.jsonl"))}
    run = alignkit.train(
        "sft-lenpen",
        preset="letter",
        penalty_interval=1,
        max_steps=1,
        max_new_tokens=20,
        split="0.2",
        precision="fp32",
        **given,
    )
    own = run.info["config"]["train"]["sft-lenpen"]
    assert run.info["preset"] == "letter"
    assert (own["reduction"], own["max_penalty_ratio"], own["penalty_interval"]) == ("example-sum", None, 1)
    again = resolve(registry().find("method", "sft-lenpen"), options={}, config=None, like=run.path)
    assert again.method.max_penalty_ratio is None
