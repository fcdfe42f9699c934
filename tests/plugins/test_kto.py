"""KTO's loss by hand and against its formula, its gradient's signs, its z_0 over a whole step, and a run of it."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from alignkit_plugins.kto import KTO, KTOConfig
from tiny_models import tiny_model

import alignkit
from alignkit.data.trees.flat import FlatTrees
from alignkit.data.trees.mismatched import Mismatched
from alignkit.data.trees.packs import lay_out, pack_lengths
from alignkit.data.trees.trees import Tree, tree
from alignkit.errors import InputError
from alignkit.methods import Batch
from alignkit.policy.load import load_policy
from alignkit.policy.policy import Policy
from alignkit.progress import Silent
from alignkit.testing import batch
from alignkit.training.gradient.reference import Reference
from alignkit.training.gradient.step import MicroBatch, accumulate, evaluate
from alignkit.training.loop.source import RowSource, run_rows


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def answers(labels: list[float], kl: float, log_ratios: list[float]) -> Batch:
    """Answers of one token, of these log-ratios to the reference."""
    return batch(
        [[-1.0] for _ in labels],
        groups=list(range(len(labels))),
        reference_T=torch.tensor([-1.0 - ratio for ratio in log_ratios]),
        label_N=torch.tensor(labels),
        mismatched_kl=torch.tensor(kl),
    )


def test_the_loss_is_its_formula_on_a_case_computed_by_hand() -> None:
    given = answers([1.0, 0.0, 1.0], 2.0, [3.0, 1.0, -1.0])
    config = KTOConfig(beta=0.5, desirable_weight=1.5, undesirable_weight=0.5)
    # beta (r - z_0) = 0.5, -0.5, -1.5
    expected = (1.5 * (1 - sigma(0.5)) + 0.5 * (1 - sigma(0.5)) + 1.5 * (1 - sigma(-1.5))) / 3
    assert KTO().loss(given, config).item() == pytest.approx(expected, rel=1e-6)
    elements, counts = given.logged["desirable_reward"][0]
    assert elements.tolist() == [1.5, 0.0, -0.5] and counts.tolist() == [1, 0, 1]
    elements, counts = given.logged["undesirable_reward"][0]
    assert elements.tolist() == [0.0, 0.5, 0.0] and counts.tolist() == [0, 1, 0]
    assert given.logged["accuracy"][0].tolist() == [1.0, 1.0, 0.0]
    assert given.logged["z_0"][0].tolist() == [2.0]


def test_a_negative_estimate_of_the_kl_counts_as_none() -> None:
    below, none = answers([1.0, 0.0], -3.0, [0.5, 0.25]), answers([1.0, 0.0], 0.0, [0.5, 0.25])
    assert KTO().loss(below, KTOConfig()).item() == KTO().loss(none, KTOConfig()).item()
    assert below.logged["z_0"][0].tolist() == [0.0]


@pytest.mark.parametrize("labels", [[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]], ids=["both", "all good", "all bad"])
def test_a_good_answer_rises_a_bad_one_falls_and_z_0_has_no_gradient(labels: list[float]) -> None:
    given = answers(labels, 0.3, [0.4, -0.2])
    given.mismatched_kl.requires_grad_()
    loss = KTO().loss(given, KTOConfig())
    loss.backward()
    assert 0 < loss.item() < 1
    assert ((given.logprob_T.grad < 0) == (given.label_N == 1)).all() and given.logprob_T.grad.all()
    assert given.mismatched_kl.grad is None


def test_an_answer_at_z_0_counts_half_and_its_loss_is_half_its_weight() -> None:
    given = answers([1.0, 0.0], 0.0, [0.0, 0.0])
    loss = KTO().loss(given, KTOConfig(desirable_weight=3.0))
    assert loss.item() == pytest.approx((3.0 / 2 + 1.0 / 2) / 2)
    assert given.logged["accuracy"][0].tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("num", "weights", "advice"),
    [
        ((30, 30), {}, None),
        ((40, 30), {}, None),
        ((30, 40), {}, "0.75 to 1, .* --desirable-weight 1.33 to 1.78 "),
        ((30, 40), {"desirable_weight": 1.34}, None),
        ((41, 30), {}, "1.37 to 1, .* --desirable-weight 0.732 to 0.976 "),
        ((30, 30), {"undesirable_weight": 2.0}, "0.5 to 1, .* --desirable-weight 2 to 2.67 "),
        ((30, 0), {}, "30 good and 0 bad answers: every answer is marked good: nothing is compared; add bad ones, or"),
        ((0, 30), {}, "every answer is marked bad: nothing is compared; add good ones$"),
    ],
)
def test_weights_that_leave_good_and_bad_out_of_balance_are_said(
    num: tuple[int, int], weights: dict[str, float], advice: str | None
) -> None:
    (line,) = KTO().remarks(np.repeat([1.0, 0.0], num).astype(np.float32), KTOConfig(**weights))
    if advice is None:
        assert line == f"labels: {num[0]} good and {num[1]} bad answers"
    else:
        assert re.search(advice, line)


def labelled(count: int) -> FlatTrees:
    rng = np.random.default_rng(4)
    made = []
    for n in range(count):
        answer = rng.integers(0, 256, int(rng.integers(2, 12)))
        one = tree(f"r{n}", rng.integers(0, 256, int(rng.integers(2, 9))), [(answer, np.ones(len(answer), bool))])
        made.append(Tree(one.row_id, one.segments, 0, (float(n % 3 > 0),)))
    return FlatTrees.of(made)


def moved(model: Path) -> tuple[Policy, Policy]:
    """A policy, and a reference away from it that gives random tokens less."""
    policy, frozen = load_policy(model, precision="fp32"), load_policy(model, precision="fp32")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in frozen.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return policy, frozen


def log_ratio(policy: Policy, frozen: Policy, one: Tree) -> torch.Tensor:
    """log pi(y|x) - log pi_ref(y|x) by each model's own logits, the completion by itself."""
    ids = torch.as_tensor(np.concatenate([one.prompt.ids, one.completions[0].ids]).astype(np.int64))
    at = torch.arange(len(one.prompt), len(ids))
    parts = []
    for model in (policy, frozen):
        with model.on_path("plain"):
            logits = model.model(input_ids=ids[None], use_cache=False).logits[0]
        parts.append(logits[at - 1].log_softmax(-1).gather(-1, ids[at, None]).sum())
    return parts[0] - parts[1]


def reference_loss(policy: Policy, frozen: Policy, trees: Any, others: Any, config: KTOConfig) -> tuple[Any, float]:
    """The loss row by row, by the formula; and z_0."""
    with torch.no_grad():
        z_0 = max(0.0, float(torch.stack([log_ratio(policy, frozen, one) for one in others]).mean()))
    terms = []
    for one in trees:
        margin = config.beta * (log_ratio(policy, frozen, one) - z_0)
        good, weights = one.labels[0], (config.undesirable_weight, config.desirable_weight)
        terms.append(weights[int(good)] * (1 - torch.sigmoid(margin if good else -margin)))
    return torch.stack(terms).mean(), z_0


def gradient(policy: Policy) -> torch.Tensor:
    found = torch.cat([p.grad.flatten().double() for p in policy.parameters()])
    policy.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("capacity", [16, 40, 400])
def test_a_step_is_the_formula_whatever_its_micro_batches(model: Path, capacity: int) -> None:
    policy, frozen = moved(model)
    trees = labelled(9)
    others = Mismatched(trees, [np.arange(9)], seed=3, max_length=16)
    config = KTOConfig(beta=0.3, desirable_weight=1.2, undesirable_weight=0.7)
    expected, z_0 = reference_loss(policy, frozen, trees, others, config)
    expected.backward()
    theirs = gradient(policy)
    rows = [
        [MicroBatch(lay_out(part, row)) for row in pack_lengths(part.lengths(), capacity)] for part in (trees, others)
    ]
    assert (len(rows[0]) > 1) == (len(rows[1]) > 1) == (capacity < 400)
    assert z_0 > 0.05
    given: dict[str, Any] = {"reference": Reference(policy, frozen=frozen), "mismatched": rows[1]}
    result, _ = accumulate(policy, KTO(), config, rows[0], **given).read()
    assert result.loss == pytest.approx(expected.item(), rel=1e-5)
    assert result.logged["z_0"] == pytest.approx(z_0, abs=1e-5)
    ours = gradient(policy)
    assert (ours - theirs).norm() <= 1e-5 * theirs.norm()
    validated = evaluate(policy, KTO(), config, rows[0], **given)
    assert validated.loss == pytest.approx(expected.item(), rel=1e-5)
    assert validated.logged["z_0"] == pytest.approx(z_0, abs=1e-5)


def test_a_step_exchanges_the_answers_of_its_own_rows() -> None:
    trees, config = labelled(10), KTOConfig(batch_size=4, epochs=2)
    others = Mismatched(trees, run_rows(10, config), seed=3, max_length=99)
    source = RowSource(trees, config, micro_batch_tokens=20, mismatched=others)
    for step in range(1, 7):
        own = [one for row in source.step(step)[0] for one in row.pack.trees]
        beside = [one for row in source.mismatched or () for one in row.pack.trees]
        assert {one.row_id for one in own} == {trees[n].row_id for n in source.numbers(step)}
        for part in (0, 1):  # the same prompts, and the same answers
            assert sorted(one.segments[part].ids.tobytes() for one in own) == sorted(
                one.segments[part].ids.tobytes() for one in beside
            )
        answers = {one.row_id: one.completions[0].ids.tobytes() for one in own}
        assert all(answers[one.row_id] != one.completions[0].ids.tobytes() for one in beside)
        assert all(len(row.pack.ids_S) <= 20 or len(row.pack.trees) == 1 for row in source.mismatched or ())
    assert RowSource(trees, KTOConfig()).mismatched is None


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def train(model: Path, data: Path, out: Path, **more: Any) -> alignkit.Run:
    given = {
        "batch_size": 8,
        "epochs": 9,
        "max_steps": 12,
        "schedule": "constant",
        "max_new_tokens": 4,
        "precision": "fp32",
        "learning_rate": 1e-3,
    }
    return alignkit.train("kto", model=str(model), data=str(data), out=str(out), warmup_steps=1, **given | more)


LABELLED = [
    {"prompt": f"Say {n}.", "completion": f"{n} it is" if n % 2 else f"I will not say {n}, no", "label": n % 2}
    for n in range(48)
]


def test_a_run_tells_good_answers_from_bad_ones(model: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "rows.jsonl", LABELLED)
    run = train(model, data, tmp_path / "run", validation_interval=6, split="0.25")
    found = {(row["step"], row["name"]): row["value"] for row in run.metrics.to_dicts()}
    # before the first step policy and reference are the same, to the bit
    assert found[1, "loss"] == found[0, "validation/loss"] == 0.5
    assert found[1, "z_0"] == found[1, "desirable_reward"] == found[1, "undesirable_reward"] == 0.0
    assert found[12, "validation/desirable_reward"] > 0.1 > -0.1 > found[12, "validation/undesirable_reward"]
    assert found[12, "validation/loss"] < 0.47 and found[12, "validation/kl"] > 0
    assert {(12, "validation/z_0"), (12, "validation/accuracy")} <= found.keys()
    train(model, data, tmp_path / "online", reference="online", max_steps=3, split="0.25")
    online = alignkit.Run(tmp_path / "online").metrics
    for row in online.filter(online["name"].is_in(["loss", "z_0"]) & (online["step"] == 3)).to_dicts():
        assert row["value"] == pytest.approx(found[3, row["name"]], rel=1e-3)


def test_preferences_train_as_two_labelled_answers(model: Path, tmp_path: Path) -> None:
    pairs = [
        {"id": f"r{n}", "prompt": f"Say {n}.", "chosen": f"{n} it is", "rejected": f"I will not say {n}, no"}
        for n in range(24)
    ]
    tie = pairs[0] | {"id": "tie", "score_chosen": 2, "score_rejected": 2}
    pairs[1] |= {"score_chosen": 1, "score_rejected": 2}
    run = train(model, write(tmp_path / "rows.jsonl", [*pairs, tie]), tmp_path / "run", split="0.2")
    rows = run.info["rows"]
    assert rows["training"]["used"] + rows["validation"]["used"] == 48
    assert all(ids.count(one) == 2 for ids in (rows["training"]["ids"],) for one in ids)
    left_out = [*rows["training"]["left_out"].items(), *rows["validation"]["left_out"].items()]
    assert left_out == [("tie", "tie: equal scores")]
    assert rows["training"]["reversed"] + rows["validation"]["reversed"] == 1
    assert set(run.metrics["name"]) >= {"desirable_reward", "undesirable_reward"}


def test_answers_without_a_label_are_refused_by_name(model: Path, tmp_path: Path) -> None:
    unlabelled = [{"id": f"u{n}", "prompt": f"Say {n}.", "completion": "yes"} for n in range(6)]
    data = write(tmp_path / "rows.jsonl", [*LABELLED, *unlabelled])
    with pytest.raises(InputError, match=r"[56] of 5\d rows .* [56] no label \(u"):
        train(model, data, tmp_path / "run")
    with pytest.raises(InputError, match="all training rows have the same prompt"):
        train(
            model,
            write(tmp_path / "one.jsonl", [row | {"prompt": "Say."} for row in LABELLED]),
            tmp_path / "run",
            split=str(write(tmp_path / "held.jsonl", LABELLED[:2])),
        )


class Noting(Silent):
    """Keeps what a run says."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, line: str) -> None:
        self.said.append(line)


def test_a_run_says_its_labels_and_plans_for_the_longest_prompt_with_the_longest_answer(
    model: Path, tmp_path: Path
) -> None:
    rows = [{"prompt": "a" * 80 + str(n), "completion": "b", "label": True} for n in range(20)]
    rows += [{"prompt": str(n), "completion": "b" * 90, "label": False} for n in range(40)]
    said = Noting()
    data = write(tmp_path / "rows.jsonl", rows)
    given = {"batch_size": 12, "max_steps": 2, "micro_batch_tokens": 64, "split": "first-1"}
    run = train(model, data, tmp_path / "run", progress=said, **given)
    columns = {column["column"]: column["max"] for column in run.info["rows"]["training"]["lengths"]}
    assert columns["prompt + longest answer"] < columns["prompt"] + columns["answer"]
    (plan,) = (line for line in said.said if line.startswith("plan: "))
    assert plan.endswith(f"up to {columns['prompt'] + columns['answer']} tokens at once")
    assert any(
        line.startswith("labels: 19 good and 40 bad answers: with their weights 0.475 to 1") for line in said.said
    )
