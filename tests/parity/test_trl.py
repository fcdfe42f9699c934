"""TRL 1.16's losses from the same weights, rows and optimizer, in fp32, over twenty steps.

Matched by option: no weight decay, a constant learning rate, AdamW, clipping to 1, beta 0.1, completion-only loss
averaged over the step's scored tokens (SFT), and for GRPO `dr_grpo`, which sums tokens and divides by completions x the
longest completion allowed, where ours divides by completions. TRL's trainers run as they are, on rows that were
tokenized before (tests/helpers/trl_trainers.py).
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from alignkit_plugins.dpo import DPO, DPOConfig
from alignkit_plugins.grpo import GRPO, GRPOConfig
from alignkit_plugins.kto import KTO, KTOConfig
from alignkit_plugins.sft import SFT, SFTConfig
from tiny_models import tiny_model

from alignkit.data.trees.flat import FlatTrees
from alignkit.data.trees.mismatched import Mismatched
from alignkit.data.trees.packs import lay_out, pack
from alignkit.data.trees.trees import Tree, tree
from alignkit.methods import Method, MethodConfig
from alignkit.policy.load import load_policy
from alignkit.training.gradient.optimizer import make_optimizer
from alignkit.training.gradient.reference import Reference
from alignkit.training.gradient.step import MicroBatch, accumulate

pytestmark = pytest.mark.slow
RATE = 1e-3
STEPS = 20
METHODS: dict[str, tuple[Method, MethodConfig]] = {
    "sft": (SFT(), SFTConfig(learning_rate=RATE, optimizer="adamw")),
    "dpo": (DPO(), DPOConfig(learning_rate=RATE, optimizer="adamw", beta=0.1)),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


def rows(num_completions: int, count: int = 4) -> list[dict[str, Any]]:
    rng = np.random.default_rng(3)
    return [
        {
            "id": f"row-{n}",
            "prompt": rng.integers(0, 256, int(rng.integers(3, 12))).tolist(),
            "completions": [rng.integers(0, 256, int(size)).tolist() for size in rng.integers(2, 14, num_completions)],
        }
        for n in range(count)
    ]


def trl_losses(
    name: str,
    data: list[dict[str, Any]],
    model: Path,
    folder: Path,
    logged: list[dict[str, float]] | None = None,
    **given: Any,
) -> list[float]:
    """The loss of every step, by TRL's own trainer, which adds what it logs to `logged`."""
    from trl_trainers import make_trainer

    steps = given.pop("steps", STEPS)
    options = {"learning_rate": RATE, "bf16": False, "logging_steps": 1, "max_grad_norm": 1.0, "seed": 0}
    options |= given.pop("options", {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TRL's own, of its dependencies
        trainer = make_trainer(
            name, data, str(model), str(folder), steps=steps, variant="padded", options=options, **given
        )
        losses: list[float] = []
        step = trainer.training_step
        trainer.training_step = lambda *a, **k: losses.append(float(found := step(*a, **k))) or found
        trainer.train()
    if logged is not None:
        logged += trainer.state.log_history[: len(losses)]
    return losses


def our_losses(name: str, data: list[dict[str, Any]], model: Path, *, lora_rank: int | None = None) -> list[float]:
    """The loss of every step, rows packed and prompts shared."""
    method, config = METHODS[name]
    policy = load_policy(model, precision="fp32", lora_rank=lora_rank)
    reference = None
    if name == "dpo":
        reference = Reference(policy, frozen=None if lora_rank else load_policy(model, precision="fp32"))
    optimizer = make_optimizer(policy.parameters(), config)
    trees = [
        tree(row["id"], np.array(row["prompt"]), [(np.array(c), np.ones(len(c), bool)) for c in row["completions"]])
        for row in data
    ]
    micro_batches = [MicroBatch(lay_out([trees[n] for n in numbers])) for numbers in pack(trees, 40)]
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        losses.append(accumulate(policy, method, config, micro_batches, reference=reference).read()[0].loss)
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
    return losses


@pytest.mark.parametrize("name", ["sft", "dpo"])
def test_twenty_steps_have_trls_losses(name: str, model: Path, tmp_path: Path) -> None:
    data = rows(1 if name == "sft" else 2)
    expected = trl_losses(name, data, model, tmp_path)
    found = our_losses(name, data, model)
    assert len(expected) == STEPS and found[-1] < 0.9 * found[0]
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["sft", "dpo"])
def test_twenty_steps_of_lora_have_trls_losses(
    name: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both start from the same random adapter: drawn by one seed on both sides."""
    from peft import LoraConfig
    from peft.tuners.lora import LoraLayer

    reset = LoraLayer.reset_lora_parameters

    def seeded(self: Any, adapter: str, init: Any) -> None:
        torch.manual_seed(self.in_features * 1000 + self.out_features)
        reset(self, adapter, init)

    monkeypatch.setattr(LoraLayer, "reset_lora_parameters", seeded)
    data = rows(1 if name == "sft" else 2)
    adapter = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    expected = trl_losses(name, data, model, tmp_path, peft_config=adapter)
    found = our_losses(name, data, model, lora_rank=4)
    assert found[-1] < found[0]
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("weights", [{}, {"desirable_weight": 1.3, "undesirable_weight": 0.6}], ids=["even", "uneven"])
def test_twenty_steps_of_kto_have_trls_losses_rewards_and_kl(
    weights: dict[str, float], model: Path, tmp_path: Path
) -> None:
    """On the same mismatched answers: ours, which change places as TRL's do, in another order."""
    data = rows(1, count=7)
    trees = FlatTrees.of(
        [
            Tree(row["id"], tree("", np.array(row["prompt"]), [(np.array(c), np.ones(len(c), bool))]).segments, 0, (x,))
            for row, x in zip(data, (1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0), strict=True)
            for c in row["completions"]
        ]
    )
    others = Mismatched(trees, [np.arange(7)], seed=5, max_length=2048)
    for row, one, other in zip(data, trees, others, strict=True):
        row |= {"label": bool(one.labels[0]), "other": other.completions[0].ids.tolist()}
    theirs: list[dict[str, float]] = []
    expected = trl_losses("kto", data, model, tmp_path, logged=theirs, options={"beta": 0.1, **weights})
    config = KTOConfig(learning_rate=RATE, optimizer="adamw", beta=0.1, **weights)
    policy = load_policy(model, precision="fp32")
    reference = Reference(policy, frozen=load_policy(model, precision="fp32"))
    optimizer = make_optimizer(policy.parameters(), config)
    own, mismatched = ([MicroBatch(lay_out(part, row)) for row in pack(part, 40)] for part in (trees, others))
    found = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        found.append(accumulate(policy, KTO(), config, own, reference=reference, mismatched=mismatched).read()[0])
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
    assert len(expected) == STEPS and found[-1].loss < 0.9 * found[0].loss
    assert [step.loss for step in found] == pytest.approx(expected, rel=1e-4)
    names = {"kl": "z_0", "rewards/chosen": "desirable_reward", "rewards/rejected": "undesirable_reward"}
    for named, name in names.items():
        assert any(abs(step[named]) > 0.1 for step in theirs)
        assert [step.logged[name] for step in found] == pytest.approx([s[named] for s in theirs], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    ("ours", "theirs", "in_completion_lengths"),
    [
        ({"aggregation": "completion-sum"}, {"loss_type": "dr_grpo"}, True),
        ({"aggregation": "constant"}, {"loss_type": "dr_grpo"}, False),
        ({"aggregation": "token"}, {"loss_type": "dapo"}, False),
        ({"aggregation": "token"}, {"loss_type": "bnpo"}, False),
        ({"aggregation": "sequence"}, {"loss_type": "grpo"}, False),
        ({"aggregation": "sequence", "clip_ratio": 0.05}, {"loss_type": "grpo", "epsilon": 0.05}, False),
        (
            {"aggregation": "token", "kl": 0.3, "kl_estimator": "k3"},
            {"loss_type": "dapo", "beta": 0.3, "use_bias_correction_kl": True},
            False,
        ),
    ],
    ids=["completion-sum", "constant", "token", "token-bnpo", "sequence", "clip-ratio", "kl-k3"],
)
def test_the_grpo_loss_on_fixed_rollouts_is_trls(
    ours: dict[str, Any], theirs: dict[str, Any], in_completion_lengths: bool, model: Path, tmp_path: Path
) -> None:
    """Every variant that both have; TRL's dr_grpo divides by the longest completion allowed, as our `constant` does."""
    data = rows(4, count=2)
    rng = np.random.default_rng(5)
    for row in data:
        row["advantages"] = rng.normal(size=4).astype(np.float32).tolist()
        row["noise"] = [(0.3 * rng.normal(size=len(c))).tolist() for c in row["completions"]]
        row["reference_noise"] = [(0.5 * rng.normal(size=len(c))).tolist() for c in row["completions"]]
    longest = max(len(c) for row in data for c in row["completions"])
    (expected,) = trl_losses("grpo_train", data, model, tmp_path, steps=1, options=theirs)
    policy = load_policy(model, precision="fp32")
    trees = [
        tree(row["id"], np.array(row["prompt"]), [(np.array(c), np.ones(len(c), bool)) for c in row["completions"]])
        for row in data
    ]
    micro_batches = []
    for one, row in zip(trees, data, strict=True):
        packed = lay_out([one])
        with torch.no_grad():
            fresh = policy(packed).logprob_T.numpy()
        behaviour, reference = (fresh + np.concatenate(row[name]) for name in ("noise", "reference_noise"))
        micro_batches.append(
            MicroBatch(
                packed, sampler_logprob_T=behaviour, advantage_N=np.array(row["advantages"]), reference_T=reference
            )
        )
    config = GRPOConfig(**{"kl": 0.0, "clip_ratio": 0.2, "max_new_tokens": longest, **ours})
    found, _ = accumulate(policy, GRPO(), config, micro_batches).read()
    assert found.logged["clipped"] > 0
    assert found.loss / (longest if in_completion_lengths else 1) == pytest.approx(expected, rel=1e-4)
