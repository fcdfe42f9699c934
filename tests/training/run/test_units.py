"""Units of training: what they take of a row, what registering refuses, and a labelled one trained end to end."""

from __future__ import annotations

import json
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tiny_models import tiny_model

import alignkit
from alignkit import Batch, Method, MethodConfig
from alignkit.data.reading.rows import Row, to_row, unusable_reason
from alignkit.data.trees.flat import FlatTrees
from alignkit.data.trees.packs import lay_out
from alignkit.data.trees.trees import Tree, tree
from alignkit.errors import UsageError
from alignkit.registry import Plugin, Registry, hookimpl, registry
from alignkit.training.inputs.pair_accuracy import PairAccuracy, pair_accuracy
from alignkit.units import Labelled, Pairs


class KTOLike(Method):
    """Raises good answers' log-probs and lowers bad ones'; checks that each answer came with its own label."""

    name, Config, trains_on = "kto-like", MethodConfig, Labelled()
    seen: list[float]

    def loss(self, batch: Batch, config):
        assert batch.label_N is not None and len(batch.label_N) == len(batch.num_tokens_N)
        # In the rows below a bad answer is longer than a good one: the label must be its own answer's.
        assert ((batch.num_tokens_N > 8) == (batch.label_N == 0)).all()
        half = batch.select(slice(0, None, 2))
        assert half.label_N is not None and half.label_N.tolist() == batch.label_N[::2].tolist()
        KTOLike.seen += batch.label_N.tolist()
        return batch.mean(-(2 * batch.label_N - 1) * batch.logprob_N, over="completions")


@pytest.fixture
def kto(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    KTOLike.seen = []
    registry().found["method"][KTOLike.name] = [Plugin("method", KTOLike.name, KTOLike, "third-party", "1", __name__)]
    yield
    del registry().found["method"][KTOLike.name]


def test_a_method_on_labelled_answers_trains_with_each_answers_label(kto: None, tmp_path: Path) -> None:
    tiny_model(tmp_path / "model")
    rows = [
        {"prompt": f"Say {n}.", "completion": f"{n}" if n % 3 else f"I will not say {n}.", "label": bool(n % 3)}
        for n in range(24)
    ]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = {"model": "model", "data": "rows.jsonl", "batch_size": 4, "epochs": 1}
    alignkit.train("kto-like", out="run", **common)
    first = list(KTOLike.seen)
    assert set(first) == {0.0, 1.0}
    alignkit.train("kto-like", out="again", **common)  # now from the prepared rows in the cache
    assert KTOLike.seen[len(first) :] == first


@pytest.mark.parametrize("wrong", ["pairs", "paris", None, Pairs, 2])
def test_a_method_whose_unit_is_none_is_refused_when_it_registers(wrong: object) -> None:
    plugin = types.ModuleType("plugin")

    @hookimpl
    def register_methods(register):
        register(type("Wrong", (KTOLike,), {"name": "wrong", "trains_on": wrong}))

    plugin.register_methods = register_methods
    found = Registry()
    with pytest.raises(UsageError, match=r"Wrong: trains_on is .*Pairs\(\)"):
        found.add_module(plugin, distribution="theirs", version="1")
    assert not found.found["method"]


@pytest.mark.parametrize(
    ("fields", "reason", "label"),
    [
        ({"prompt": "Hi", "completion": "yes", "label": True}, None, 1.0),
        ({"prompt": "Hi", "completion": "no", "label": 0}, None, 0.0),
        (
            {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "no"}], "label": 0},
            None,
            0.0,
        ),
        ({"prompt": "Hi", "completion": "yes"}, "no label", None),
        ({"prompt": "Hi", "chosen": "yes", "rejected": "yes"}, "chosen equals rejected", None),
        (
            {"prompt": "Hi", "chosen": "yes", "rejected": "no", "score_chosen": 1, "score_rejected": 1},
            "tie: equal scores",
            None,
        ),
        ({"prompt": "Hi", "completion": " ", "label": False}, "empty labelled answer", None),
        ({"prompt": "", "completion": "yes", "label": True}, "empty prompt", None),
    ],
)
def test_labelled_takes_rows_with_one_answer_and_its_label(fields: dict, reason: str | None, label: float) -> None:
    row, unit = to_row(fields, where="here"), Labelled()
    assert unusable_reason(row, unit) == reason
    if reason is None:
        assert unit.labels(row) == (label,)
        assert unit.answers(row)[0][-1]["content"] in ("yes", "no")


def test_a_preference_is_a_good_and_a_bad_answer() -> None:
    row, unit = to_row({"id": "r", "prompt": "Hi", "chosen": "yes", "rejected": "no"}, where="here"), Labelled()
    parts = unit.rows(row)
    assert [unusable_reason(part, unit) for part in parts] == [None, None]
    assert [(part.id, unit.answers(part)[0][-1]["content"], unit.labels(part)) for part in parts] == [
        ("r", "yes", (1.0,)),
        ("r", "no", (0.0,)),
    ]
    assert Pairs().rows(row) == (row,)


def test_labels_stay_with_their_completions_in_any_order() -> None:
    def one(number: int, labels: tuple[float, ...]) -> Tree:
        ones = np.ones(2, bool)
        made = tree(f"t{number}", np.arange(3), [(np.arange(2), ones) for _ in labels])
        return Tree(made.row_id, made.segments, 0, labels)

    trees = [one(0, (0.0, 0.25)), one(1, (0.5,)), one(2, (1.0, 2.0, 4.0))]
    flat = FlatTrees.of(trees)
    assert [t.labels for t in flat] == [t.labels for t in trees]
    assert lay_out(flat, [2, 0]).label_N.tolist() == [1.0, 2.0, 4.0, 0.0, 0.25]
    assert lay_out([tree("t", np.arange(3), [(np.arange(2), np.ones(2, bool))])]).label_N is None


def test_scores_reach_the_loss_as_margins_and_ties_are_no_held_out_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_out: list[Row] = []

    def measured(margin_P: np.ndarray, rows: list[Row], training: list[Row]) -> PairAccuracy:
        held_out.extend(rows)
        return pair_accuracy(margin_P, rows, training)

    monkeypatch.setattr("alignkit.training.rollouts.eval_loss.pair_accuracy", measured)
    monkeypatch.chdir(tmp_path)
    tiny_model(tmp_path / "model")
    rows = [
        {"prompt": f"Say {n}.", "chosen": f"{n}", "rejected": "I will not.", "score_chosen": 5, "score_rejected": 3}
        for n in range(12)
    ]
    rows[0]["score_rejected"] = 5  # a tie among the three that validate
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = {"model": "model", "data": "rows.jsonl", "split": "first-3", "batch_size": 1, "max_steps": 1}
    run = alignkit.train("reward", out="run", ties="half", margin=0.5, **common)
    found = {name: run.metrics.filter(name=name)["value"][0] for name in ("loss", "margin")}
    assert found["loss"] == pytest.approx(np.logaddexp(0, -(found["margin"] - 0.5 * 2)), rel=1e-3)
    assert json.loads(Path("run/run.json").read_text())["rows"]["validation"]["ties"] == 1
    assert [row.prompt[0]["content"] for row in held_out] == ["Say 1.", "Say 2."]
