"""What the length penalty is for: samples come nearer to the references' length, the likelihood stays."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from alignkit_plugins.sft_lenpen import SFTLengthPenalty, SFTLengthPenaltyConfig
from tabular import World, gradient
from tiny_models import tiny_model

import alignkit
from alignkit import api
from alignkit.methods import Batch

WORDS = ("river", "stone", "cloud", "lamp", "bread", "window", "garden", "music")
SHORT, LONG = "yes.", "yes, yes, yes, yes, yes, yes."
SHARE_OF_LONG = 0.3


def write_rows(path: Path, count: int, *, seed: int) -> Path:
    """Rows that are answered in short or at length without a reason to be seen in the prompt."""
    rng = random.Random(seed)
    rows = [
        {
            "id": f"{seed}-{n}",
            "prompt": f"Is it a {rng.choice(WORDS)}, {rng.randrange(1000)}?",
            "chosen": LONG if rng.random() < SHARE_OF_LONG else SHORT,
        }
        for n in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def excess(model: Path, data: Path) -> np.ndarray:
    """max(0, sampled length - reference length) of samples at temperature 1, in tokens; the references' end counts."""
    lines = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
    length = {row["id"]: len(row["chosen"]) + 1 for row in lines}  # a token a byte, and the end
    samples = [
        sample
        for seed in range(4)
        for sample in api.generate(str(model), data=str(data), temperature=1.0, max_new_tokens=48, seed=seed)
    ]
    return np.array([max(0, sample["num_tokens"] - length[sample["id"]]) for sample in samples], float)


def last(run: alignkit.Run, name: str) -> float:
    return float(run.metrics.filter(run.metrics["name"] == name)["value"][-1])


@pytest.mark.slow
def test_the_penalty_brings_sampled_length_towards_the_references_and_keeps_the_likelihood(tmp_path: Path) -> None:
    training, unseen = (write_rows(tmp_path / f"{seed}.jsonl", count, seed=seed) for seed, count in ((1, 400), (2, 64)))
    common: dict[str, Any] = {
        "data": str(training),
        "split": "0.1",
        "batch_size": 16,
        "max_new_tokens": 48,
        "precision": "fp32",
        "schedule": "constant",
        "early_stopping_steps": None,
        "validation_interval": 20,
        "sample_interval": 1000,
        "checkpoint_interval": 1000,
    }
    start = alignkit.train(
        "sft",
        model=str(tiny_model(tmp_path / "model")),
        out=str(tmp_path / "start"),
        max_steps=80,
        learning_rate=5e-3,
        **common,
    )
    again: dict[str, Any] = {"model": str(start.path), "max_steps": 30, "learning_rate": 1e-3, **common}
    plain = alignkit.train("sft", out=str(tmp_path / "plain"), **again)
    penalised = alignkit.train("sft-lenpen", out=str(tmp_path / "penalised"), penalty_interval=1, **again)
    before, with_likelihood, with_both = (excess(run.path, unseen) for run in (start, plain, penalised))
    assert before.mean() > 2 and with_likelihood.mean() > 2  # the model overruns as often as its data allow
    assert with_both.mean() < 0.6 * with_likelihood.mean()
    assert last(penalised, "validation/loss") < last(plain, "validation/loss") + 0.05
    excess_tokens = penalised.metrics.filter(penalised.metrics["name"] == "excess_tokens")["value"].to_list()
    assert np.mean(excess_tokens[-10:]) < np.mean(excess_tokens[:10])


@pytest.mark.parametrize(("num_samples", "target"), [(2, 0), (2, 1), (2, 2), (3, 1)])
def test_the_mean_gradient_of_the_penalty_is_that_of_equation_three(num_samples: int, target: int) -> None:
    """Every tuple of completions of at most three tokens, each with its probability."""
    world, completions = World(3), World(3).completions
    table = world.table(3)
    own = world.logprobs(table, 1.0)
    cost = [float(max(0, len(c) - target) ** 2) for c in completions]
    objective = 0.7 * sum(x.sum().exp() * c for x, c in zip(own, cost, strict=True))
    drawn = list(itertools.product(range(len(completions)), repeat=num_samples))
    chance_P = torch.stack([sum(own[n].sum() for n in one).detach().exp() for one in drawn])
    length_N = torch.tensor([len(completions[n]) for one in drawn for n in one])
    group_N = torch.arange(len(drawn)).repeat_interleave(num_samples)
    live_T = torch.cat([own[n] for one in drawn for n in one])
    leaf_T = live_T.detach().requires_grad_()

    def batch(logprob_T: torch.Tensor, length_N: torch.Tensor, group_N: torch.Tensor, **more: Any) -> Batch:
        return Batch(
            logprob_T=logprob_T,
            completion_T=torch.arange(len(length_N)).repeat_interleave(length_N),
            group_N=group_N,
            num_tokens_N=length_N,
            reference_length_N=torch.full_like(length_N, target),
            denominators={"tokens": 1, "completions": num_samples},
            **more,
        )

    slopes = []
    for some in torch.arange(len(drawn)).split(250):  # the baseline compares every token with every completion
        in_N, at = torch.isin(group_N, some), int(some[0])
        in_T = torch.isin(torch.arange(len(length_N)).repeat_interleave(length_N), in_N.nonzero().flatten())
        samples = batch(leaf_T[in_T], length_N[in_N], group_N[in_N] - at)
        rows = batch(torch.zeros(1), torch.tensor([1]), torch.tensor([0]), samples=samples)
        terms = SFTLengthPenalty().loss(rows, SFTLengthPenaltyConfig(penalty=0.7))
        assert isinstance(terms, dict)
        slopes.append(torch.autograd.grad(terms["penalty"], leaf_T)[0])
    slope_T = torch.stack(slopes).sum(0)
    found = gradient((chance_P[group_N].repeat_interleave(length_N) * slope_T * live_T).sum(), table)
    expected = gradient(objective, table)
    assert float((found - expected).norm() / expected.norm()) < 1e-10
