"""The export's proof is of the trained policy, and a folder that fails it takes nobody's place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import tiny_model

from alignkit.config import ModelSection
from alignkit.data.trees import Tree, tree
from alignkit.errors import RunStopped
from alignkit.policy.chat_settings import make_chat
from alignkit.policy.load import load_policy
from alignkit.policy.names import find_model
from alignkit.policy.policy import Policy
from alignkit.training.export import export


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


def _trees() -> list[Tree]:
    return [tree("0", np.arange(5, 12), [(np.array([7, 8, 9, 258]), np.ones(4, bool))])]


def _adapted(model: Path) -> Policy:
    policy = load_policy(model, precision="fp32", lora_rank=4)
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3)
    return policy


def _export(policy: Policy, model: Path, folder: Path) -> float:
    return export(policy, make_chat(find_model(str(model)), ModelSection()), folder, trees=_trees())


def test_a_merged_adapter_gives_the_policy_that_was_trained(model: Path, tmp_path: Path) -> None:
    assert _export(_adapted(model), model, tmp_path / "out") < 1e-5
    assert (tmp_path / "out" / "config.json").exists()


def test_an_adapter_lost_in_merging_fails_the_proof(model: Path, tmp_path: Path) -> None:
    policy = _adapted(model)
    policy.model.merge_and_unload = policy.model.unload  # drops the adapter
    with pytest.raises(RunStopped, match=r"differs by 0\.\d+ nats from the trained model; not used"):
        _export(policy, model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_of_nan_fails_the_proof_and_the_one_before_stays(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = load_policy(model, precision="fp32")
    _export(policy, model, tmp_path / "out")
    before = (tmp_path / "out" / "model.safetensors").read_bytes()
    with torch.no_grad():
        policy.base.model.norm.weight[0] = float("nan")
    with pytest.raises(RunStopped):
        _export(policy, model, tmp_path / "out")
    original = Policy.forward

    def spoilt(self: Policy, *given: Any, **more: Any) -> Any:
        output = original(self, *given, **more)
        return output._replace(logprob_T=output.logprob_T * float("nan"))

    with monkeypatch.context() as patch:
        patch.setattr(Policy, "forward", spoilt)
        with pytest.raises(RunStopped, match="differs by nan nats"):
            _export(load_policy(model, precision="fp32"), model, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before
