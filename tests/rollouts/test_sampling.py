"""Every sampler: a completion depends on its own request alone, and its log-probs are the policy's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import tiny_model
from vllm_engines import needs_vllm

from alignkit.data.trees.packs import lay_out
from alignkit.data.trees.trees import tree
from alignkit.policy.architecture import cache_argument
from alignkit.policy.load import load_policy
from alignkit.policy.policy import Policy
from alignkit.registry import registry
from alignkit.rollouts.agreement import distance
from alignkit.rollouts.batched import BatchedGeneration
from alignkit.rollouts.beams import beam_search
from alignkit.rollouts.decoding import make_cache
from alignkit.rollouts.sampler import Completion, Request, Sampler


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    return load_policy(tiny_model(tmp_path_factory.mktemp("model"), hidden_size=128), precision="fp32")


VLLM = [needs_vllm, pytest.mark.slow]


@pytest.fixture(scope="module", params=["transformers", pytest.param("vllm", marks=VLLM)])
def sampler(request: pytest.FixtureRequest, policy: Policy) -> Iterator[Sampler]:
    made = registry().find("sampler", request.param)(policy, end_ids=frozenset())
    yield made
    made.close()


def drawn_by(sampler: Sampler, end_ids: set[int], asked: list[Request]) -> list[Completion]:
    if sampler.name == "transformers":
        return type(sampler)(sampler.policy, end_ids=frozenset(end_ids)).generate(asked)
    sampler.end_ids = frozenset(end_ids)  # vLLM is told with each request: one engine serves all
    return sampler.generate(asked)


def requests(count: int, *, max_new_tokens: int = 12) -> list[Request]:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 20, count)
    prompts = [rng.integers(0, 256, n).tolist() for n in lengths]
    temperatures = [0.0, 0.6, 1.0, 1.4]
    return [
        Request(
            prompts[n // 2],
            temperature=temperatures[n % 4],
            seed=n,
            top_p=0.9 if n % 3 == 0 else 1.0,
            max_new_tokens=max_new_tokens,
        )
        for n in range(count)
    ]


def same(a: Completion, b: Completion) -> bool:
    return (
        a.ids.tolist() == b.ids.tolist()
        and a.truncated == b.truncated
        and np.allclose(a.logprobs, b.logprobs, atol=1e-5, equal_nan=True)
    )


def test_a_completion_does_not_depend_on_its_batch_or_order(sampler: Sampler) -> None:
    asked = requests(10)
    together = drawn_by(sampler, {7, 200}, asked)
    backwards = drawn_by(sampler, {7, 200}, asked[::-1])[::-1]
    for request, one, other in zip(asked, together, backwards, strict=True):
        assert same(one, other) and same(one, drawn_by(sampler, {7, 200}, [request])[0])


def test_prompts_of_more_tokens_than_an_engine_computes_at_once_are_no_trouble(sampler: Sampler) -> None:
    rng = np.random.default_rng(1)
    asked = [Request(rng.integers(0, 256, 400).tolist(), 1.0, n, 3) for n in range(24)]
    together = drawn_by(sampler, {7}, asked)
    assert all(same(together[n], drawn_by(sampler, {7}, [asked[n]])[0]) for n in (0, 11, 23))


def test_log_probs_are_the_policys_at_the_requests_temperature(sampler: Sampler, policy: Policy) -> None:
    """vLLM's are after top-p, so that below 1 they are said to be unknown."""
    asked = [request for request in requests(12) if request.temperature > 0]
    for request, drawn in zip(asked, drawn_by(sampler, {7}, asked), strict=True):
        if sampler.name == "vllm" and request.top_p < 1:
            assert np.isnan(drawn.logprobs).all()
            continue
        one = tree("row", request.prompt_ids, [(drawn.ids, np.ones(len(drawn.ids), bool))])
        with torch.no_grad():
            expected = policy(lay_out([one]), np.array([request.temperature])).logprob_T.numpy()
        assert np.allclose(drawn.logprobs, expected, atol=1e-4)


def test_cached_keys_have_the_type_that_attention_computes_in(policy: Policy) -> None:
    cache = make_cache(policy)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), policy.on_path("plain"):
        given = {str(cache_argument(policy.base)): cache}
        policy.model(input_ids=torch.tensor([[1, 2, 3]]), use_cache=True, **given)
    assert {layer.keys.dtype for layer in cache.layers} == {layer.values.dtype for layer in cache.layers}
    assert cache.layers[0].keys.dtype == torch.bfloat16


def test_an_end_token_ends_a_completion_and_belongs_to_it(sampler: Sampler) -> None:
    plain = drawn_by(sampler, set(), requests(6))
    end = int(plain[1].ids[3])
    ended = drawn_by(sampler, {end}, requests(6))
    for free, stopped in zip(plain, ended, strict=True):
        place = free.ids.tolist().index(end) + 1 if end in free.ids else len(free.ids)
        assert stopped.ids.tolist() == free.ids[:place].tolist()
        assert stopped.truncated == (end not in free.ids)
    assert not ended[1].truncated and all(completion.truncated for completion in plain)


@pytest.mark.parametrize(("num_beams", "length_penalty"), [(1, 0.9), (4, 0.9), (4, 2.0)])
def test_beam_search_finds_the_same_on_every_engine(
    sampler: Sampler, policy: Policy, num_beams: int, length_penalty: float
) -> None:
    """The reference reads whole texts without a cache; prompts longer than a block of the engine's cache too."""
    end_ids = frozenset({7, 10, 101, 200})
    asked = [Request((list(range(256)) * 2)[n : n + 40 * n + 3], 0.6, n, 16) for n in range(4)]

    def expand(texts: Sequence[Sequence[int]]) -> list[list[tuple[int, float]]]:
        with torch.no_grad(), policy.on_path("plain"):
            rows = [policy.model(input_ids=torch.tensor([list(text)])).logits[0, -1].log_softmax(-1) for text in texts]
        return [list(enumerate(row.tolist())) for row in rows]

    options: dict[str, Any] = {"num_beams": num_beams, "length_penalty": length_penalty}
    expected = beam_search(asked, expand, end_ids=end_ids, **options)
    if sampler.name == "transformers":
        sampler = type(sampler)(policy, end_ids=end_ids)
    sampler.end_ids = end_ids
    found = sampler.beam_search(asked, **options)
    for one, other in zip(expected, found, strict=True):
        assert one.ids.tolist() == other.ids.tolist() and one.truncated == other.truncated
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-4)
    assert sampler.beam_search(asked[:1], **options)[0].ids.tolist() == found[0].ids.tolist()


HYBRID: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": 4},
    "gemma3_text": {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"], "head_dim": 12},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "qwen3_5_text": {
        "head_dim": 12,
        "layer_types": ["linear_attention", "full_attention"],
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
    },
}


@pytest.mark.parametrize("kind", HYBRID)
def test_samples_of_layers_with_windows_and_states_have_the_policys_logprobs(kind: str, tmp_path: Path) -> None:
    hybrid = load_policy(tiny_model(tmp_path, kind=kind, **HYBRID[kind]), precision="fp32").eval()
    asked = requests(12)
    drawn = BatchedGeneration(hybrid, end_ids=frozenset(range(40))).generate(asked)
    lengths = [len(completion.ids) for completion in drawn]
    assert max(lengths) > 4 and min(lengths) < max(lengths)  # beyond the windows; rows that ended have left the batch
    assert distance(hybrid, list(zip(asked, drawn, strict=True))) < 1e-5


def test_samples_follow_the_tempered_distribution(sampler: Sampler, policy: Policy) -> None:
    prompt = [10, 20, 30]
    with torch.no_grad(), policy.on_path("plain"):
        logits = policy.model(input_ids=torch.tensor([prompt])).logits[0, -1]
    expected = (logits / 0.7).softmax(-1).numpy()
    asked = [Request(prompt, temperature=0.7, seed=n, max_new_tokens=1) for n in range(4000)]
    drawn = drawn_by(sampler, set(), asked)
    counts = np.bincount([int(c.ids[0]) for c in drawn], minlength=len(expected))
    top = np.argsort(-expected)[:20]
    chi2 = ((counts[top] - 4000 * expected[top]) ** 2 / (4000 * expected[top])).sum()
    assert chi2 < 45.3  # 99.9 % quantile of chi-squared with 20 degrees of freedom


def test_top_p_keeps_the_smallest_set_that_reaches_it(sampler: Sampler, policy: Policy) -> None:
    prompt = [1, 2, 3, 4]
    with torch.no_grad(), policy.on_path("plain"):
        prob = policy.model(input_ids=torch.tensor([prompt])).logits[0, -1].softmax(-1)
    order = prob.argsort(descending=True)
    kept = set(order[: int((prob[order].cumsum(0) < 0.3).sum()) + 1].tolist())
    asked = [Request(prompt, temperature=1.0, seed=n, max_new_tokens=1, top_p=0.3) for n in range(500)]
    drawn = {int(c.ids[0]) for c in drawn_by(sampler, set(), asked)}
    assert drawn <= kept


def test_a_sampler_leaves_the_policys_mode_and_path_alone(sampler: Sampler, policy: Policy) -> None:
    policy.train()
    policy.use_path("tree")
    sampler.sync()
    assert len(drawn_by(sampler, {7}, requests(2))) == 2
    assert policy.training and policy.path == "tree"
