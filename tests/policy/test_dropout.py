"""Dropout of any name is found; it is off where log-probs are compared, on in sft, and kept in the saved model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import random_pairs, write_numbered_rows
from tiny_models import tiny_model
from torch import nn

import alignkit
from alignkit.data.trees.packs import lay_out
from alignkit.policy import dropout
from alignkit.policy.load import load_policy

OPT = {"kind": "opt", "ffn_dim": 96, "dropout": 0.1, "attention_dropout": 0.0, "word_embed_proj_dim": 48}
BLOOM = {"kind": "bloom", "n_layer": 2, "n_head": 4, "hidden_dropout": 0.2, "attention_dropout": 0.1}


def _gaps(policy: Any) -> float:
    """How far two passes in training mode lie apart, nats."""
    torch.manual_seed(5)
    pack = lay_out(random_pairs(4))
    policy.train()
    with torch.no_grad():
        one, other = (policy(pack).logprob_T for _ in range(2))
    return float((one - other).abs().max())


@pytest.mark.parametrize(
    ("options", "rates", "path"),
    [
        (OPT, {"dropout": 0.1}, "tree"),
        (OPT | {"attention_dropout": 0.3}, {"dropout": 0.3}, "plain"),
        (BLOOM, {"hidden_dropout": 0.2, "attention_dropout": 0.1}, "plain"),
        ({"kind": "llama", "attention_dropout": 0.25}, {"attention_dropout": 0.25}, "plain"),
        ({"kind": "gpt_neox", "hidden_dropout": 0.1}, {"post_mlp_dropout": 0.1}, "tree"),
        ({"kind": "gpt2", "resid_pdrop": 0.0}, {"attn_dropout": 0.1, "drop": 0.1}, "plain"),
    ],
    ids=["opt", "opt-attention", "bloom", "llama", "gpt_neox", "gpt2"],
)
def test_dropout_of_any_name_is_found_and_switched_off_in_training_mode(
    options: dict[str, Any], rates: dict[str, float], path: str, tmp_path: Path
) -> None:
    model = tiny_model(tmp_path, **options)
    on, off = (
        load_policy(model, precision="fp32", dropout=kept, gradient_checkpointing=True) for kept in (True, False)
    )
    assert {name: rate for name, rate in on.dropout.rates.items() if name in rates} == rates
    assert on.dropout.is_on and on.path == path
    assert _gaps(on) > 1e-3 and _gaps(off) == 0.0
    assert off.training and off.computes_again and not off.dropout.is_on
    assert dropout.find_dropout(off).rates == {} and dropout.config_rates(off.config) == {}
    before = json.loads((model / "config.json").read_text())
    with off.dropout.as_configured():
        assert {name: x for name, x in off.config.to_dict().items() if "drop" in name} == {
            name: x for name, x in before.items() if "drop" in name
        }
    assert dropout.config_rates(off.config) == {}


def test_rates_in_modules_and_in_configurations_within_configurations_are_found() -> None:
    class Inner:
        attn_pdrop, drop_last = 0.1, True

        def __init__(self) -> None:
            self.attn_pdrop, self.drop_last = 0.1, True

        def to_dict(self) -> dict[str, Any]:
            return vars(self)

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn_dropout, self.resid_dropout = nn.Dropout(0.2), nn.Dropout(0.3)
            self.layers = nn.Sequential(nn.Linear(2, 2), nn.Dropout1d(0.4))
            self.config = Inner()
            self.config.inner = Inner()  # type: ignore[attr-defined]

    model = Attention()
    found = dropout.find_dropout(model)
    assert found.rates == {"attn_dropout": 0.2, "resid_dropout": 0.3, "dropout": 0.4} and found.attention == 0.2
    dropout.switch_off_dropout(model)
    assert dropout.find_dropout(model).rates == {} and dropout.config_rates(model.config) == {}


@pytest.mark.parametrize("method", ["dpo", "sft", "sft-lenpen", "grpo"])
def test_dropout_is_on_in_sft_alone_and_logged(
    method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from alignkit.cli.main import main

    model, data = tiny_model(tmp_path / "model", **OPT), write_numbered_rows(tmp_path / "rows.jsonl")
    (tmp_path / "rewards.py").write_text("def length(completion, row):\n    return len(completion)\n")
    options = {"precision": "fp32", "max_steps": 1, "max_new_tokens": 4, "split": "0.2", "warmup_steps": 0}
    given = [text for name, x in options.items() for text in (f"--{name.replace('_', '-')}", str(x))]
    given += ["--reward", f"{tmp_path / 'rewards.py'}:length"] if method == "grpo" else []
    run = tmp_path / "run"
    assert main(["train", method, "--model", str(model), "--data", str(data), "--out", str(run), *given]) == 0
    logged = " ".join(capsys.readouterr().err.split())
    if method == "sft":
        assert "dropout: dropout 0.1, as the model's config.json has it" in logged
    else:
        assert f"dropout: the model's own (dropout 0.1) is off in {method}" in logged
    if method == "dpo":
        metrics = alignkit.Run(run).metrics
        assert abs(metrics.filter((metrics["name"] == "margin") & (metrics["step"] == 1))["value"][0]) < 1e-5
    assert json.loads((run / "model" / "config.json").read_text())["dropout"] == 0.1
