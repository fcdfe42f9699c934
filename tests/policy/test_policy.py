"""The policy's log-probs: tree path, plain path and the model's own logits agree, with gradients."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import tiny_model
from torch.nn.attention.flex_attention import create_block_mask

from alignkit.data.trees.packs import lay_out, pack, pack_evenly
from alignkit.data.trees.trees import Tree, tree
from alignkit.errors import InputError
from alignkit.policy.attention import DenseLayout, FlexLayout, marks, sees, tree_refusal
from alignkit.policy.cpu.split_attention import SegmentLayout
from alignkit.policy.load import load_policy
from alignkit.policy.logprobs import token_logprobs
from alignkit.policy.policy import Policy


def random_tree(prompt: int, completions: tuple[int, ...], rng: np.random.Generator) -> Tree:
    parts = [(rng.integers(0, 256, n), rng.random(n) < 0.8 if n > 2 else np.ones(n, bool)) for n in completions]
    return tree(f"row-{prompt}", rng.integers(0, 256, prompt), parts)


def scores_and_gradient(
    policy: Policy, trees: list[Tree], temperatures: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    policy.zero_grad()
    pack_ = lay_out(trees)
    logprob_T = policy(pack_, temperatures).logprob_T
    (logprob_T * torch.linspace(-1, 1, len(logprob_T))).sum().backward()
    return logprob_T.detach(), torch.cat([p.grad.flatten().double() for p in policy.parameters()])


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    return load_policy(tiny_model(tmp_path_factory.mktemp("qwen2")), precision="fp32")


# Options that make a configuration dense and full: without them it has a window or heads of another size.
DENSE: dict[str, dict[str, object]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {"head_dim": 12},
    "mistral": {"sliding_window": None},
    "phi3": {"sliding_window": None},
    "olmo2": {},
    "smollm3": {"no_rope_layers": [1, 0]},
    "gpt_neox": {},
    "gemma": {"head_dim": 12},
}


# Windows of 4 tokens, in some layers or in all.
SLIDING: dict[str, dict[str, object]] = {
    "mistral": {"sliding_window": 4},
    "phi3": {"sliding_window": 4},
    "starcoder2": {"sliding_window": 4},
    "qwen2": {"sliding_window": 4, "use_sliding_window": True, "max_window_layers": 1},
    "qwen3": {"sliding_window": 4, "use_sliding_window": True, "max_window_layers": 0, "head_dim": 12},
    "smollm3": {"sliding_window": 4, "use_sliding_window": True, "max_window_layers": 1, "no_rope_layers": [1, 0]},
    **{
        kind: {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}
        for kind in ("cohere2", "olmo3", "exaone4")
    },
    "gemma3_text": {
        "sliding_window": 4,
        "layer_types": ["sliding_attention", "full_attention"],
        "head_dim": 12,
        "query_pre_attn_scalar": 7,
    },
}


@pytest.mark.parametrize("kind", DENSE)
def test_shared_prompts_give_what_separate_rows_give(kind: str, tmp_path: Path) -> None:
    policy = load_policy(tiny_model(tmp_path, kind=kind, **DENSE[kind]), precision="fp32", attention="tree").eval()
    rng = np.random.default_rng(0)
    trees = [random_tree(9, (5, 7, 1), rng), random_tree(4, (3,), rng), random_tree(1, (2, 6), rng)]
    temperatures = np.linspace(0.6, 1.3, 6)
    found, gradient = scores_and_gradient(policy, trees, temperatures)
    with policy.on_path("plain"):
        expected, expected_gradient = scores_and_gradient(policy, trees, temperatures)
    assert (found - expected).norm() <= 1e-5 * expected.norm()
    assert (gradient - expected_gradient).norm() <= 1e-5 * expected_gradient.norm()


@pytest.mark.parametrize("kind", SLIDING)
def test_sliding_windows_count_positions_along_each_completions_own_path(kind: str, tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "short", kind=kind, **SLIDING[kind])
    policy = load_policy(folder, precision="fp32", attention="tree").eval()
    rng = np.random.default_rng(0)
    trees = [random_tree(9, (5, 7, 1), rng), random_tree(2, (8,), rng), random_tree(6, (3, 9), rng)]
    ones = np.ones(6)
    found, gradient = scores_and_gradient(policy, trees, ones)
    with policy.on_path("plain"):
        expected, expected_gradient = scores_and_gradient(policy, trees, ones)
    assert (found - expected).norm() <= 1e-5 * expected.norm()
    assert (gradient - expected_gradient).norm() <= 1e-5 * expected_gradient.norm()
    wide = load_policy(
        tiny_model(tmp_path / "wide", kind=kind, **SLIDING[kind] | {"sliding_window": 64}), precision="fp32"
    )
    assert (scores_and_gradient(wide.eval(), trees, ones)[0] - expected).norm() > 1e-4 * expected.norm()


def test_plain_path_equals_the_models_own_logits(policy: Policy) -> None:
    rng = np.random.default_rng(1)
    one = random_tree(6, (5,), rng)
    ids = torch.as_tensor(np.concatenate([one.prompt.ids, one.completions[0].ids]).astype(np.int64))
    with policy.on_path("plain"), torch.no_grad():
        logits = policy.model(input_ids=ids[None]).logits[0].float() / 0.7
        found = policy(lay_out([one]), np.array([0.7])).logprob_T
    at = torch.as_tensor(6 + np.flatnonzero(one.completions[0].scored))
    expected = logits[at - 1].log_softmax(-1).gather(-1, ids[at, None])[:, 0]
    assert (found - expected).abs().max() < 1e-5


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_scores_do_not_depend_on_how_trees_are_packed(policy: Policy, data: st.DataObject) -> None:
    shapes = data.draw(
        st.lists(
            st.tuples(st.integers(1, 12), st.lists(st.integers(1, 9), min_size=1, max_size=3)), min_size=1, max_size=4
        )
    )
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    trees = [random_tree(prompt, tuple(completions), rng) for prompt, completions in shapes]
    with torch.no_grad():
        whole = policy(lay_out(trees)).logprob_T
        apart = torch.cat([policy(lay_out([one])).logprob_T for one in trees])
        reversed_parts = list(reversed([policy(lay_out([one])).logprob_T for one in reversed(trees)]))
    assert (whole - apart).abs().max() < 1e-5
    assert (whole - torch.cat(reversed_parts)).abs().max() < 1e-5


def test_a_conversation_without_prompt_scores_its_later_tokens(policy: Policy) -> None:
    ids = np.arange(8)
    scored = np.array([False, False, True, True, False, True, True, True])
    one = tree("conversation", ids[:0], [(ids, scored)])
    with torch.no_grad():
        found = policy(lay_out([one])).logprob_T
        with policy.on_path("plain"):
            expected = policy(lay_out([one])).logprob_T
    assert len(found) == 5 and (found - expected).abs().max() < 1e-5


def torchs_logprobs(
    hidden: torch.Tensor, weight: torch.Tensor, target: torch.Tensor, temperature: torch.Tensor
) -> torch.Tensor:
    """The head in one piece, by torch's own log-softmax."""
    logits = torch.nn.functional.linear(hidden, weight) / temperature[:, None]
    return logits.log_softmax(-1).gather(-1, target[:, None])[:, 0]


@pytest.mark.parametrize("chunk_bytes", [1, 4 * 50 * 3, 2**20])
def test_chunked_head_equals_torchs_log_softmax_with_its_gradients(chunk_bytes: int) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(11, 8, generator=generator, dtype=torch.float64).float()
    weight = torch.randn(50, 8, generator=generator)
    target, temperature = torch.randint(0, 50, (11,), generator=generator), torch.rand(11, generator=generator) + 0.5
    results = []
    for function in (lambda *a: token_logprobs(*a, chunk_bytes=chunk_bytes)[0], torchs_logprobs):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        logprob = function(h, w, target, temperature)
        (logprob * torch.linspace(-1, 2, 11)).sum().backward()
        results.append((logprob.detach(), h.grad, w.grad))
    for found, expected in zip(*results, strict=True):
        assert torch.allclose(found, expected, atol=1e-6)


def head_inputs(num_tokens: int, hidden: int, vocab: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(num_tokens, hidden, generator=generator)
    weight = torch.randn(vocab, hidden, generator=generator) * hidden**-0.5
    return states, weight, torch.randint(0, vocab, (num_tokens,), generator=generator), torch.ones(num_tokens)


def test_head_gradients_are_as_exact_in_many_tiles_as_in_one_under_bf16() -> None:
    states, weight, target, ones = head_inputs(512, 16, 2000)

    def gradients(compute: torch.dtype, **options: int) -> tuple[torch.Tensor, torch.Tensor]:
        w = weight.to(torch.bfloat16).to(torch.promote_types(compute, torch.float32)).requires_grad_()
        h = states.to(torch.bfloat16).to(compute).requires_grad_()
        (token_logprobs(h, w, target, ones, **options)[0] * torch.linspace(-1, 2, 512)).sum().backward()
        return w.grad, h.grad

    exact = gradients(torch.float64)
    whole = gradients(torch.bfloat16, chunk_bytes=2**30)
    tiled = gradients(torch.bfloat16, chunk_bytes=1)
    assert tiled[0].dtype == torch.float32
    for one, many, true in zip(whole, tiled, exact, strict=True):
        assert (many.double() - true).norm() <= 1.02 * (one.double() - true).norm() <= 2**-7 * true.norm()


def test_entropy_is_the_tempered_distributions() -> None:
    states, weight, target, _ = head_inputs(9, 8, 700)
    temperature = torch.linspace(0.5, 2, 9)
    logprob, entropy = token_logprobs(states, weight, target, temperature, entropy=True, chunk_bytes=1)
    expected = torch.distributions.Categorical(logits=states @ weight.t() / temperature[:, None])
    assert torch.allclose(entropy, expected.entropy(), atol=1e-5)
    assert torch.allclose(logprob, expected.log_prob(target), atol=1e-5)


@pytest.mark.slow
def test_head_holds_little_beyond_its_gradient_at_a_large_vocabulary() -> None:
    """In a process of its own, whose resident set is watched: 256 tokens, Qwen2.5-0.5B's head, bf16.

    The allocator's own pages come on top and vary by 15 MiB, so the least of three processes counts.
    """
    code = """
import torch
from alignkit.memory import give_back, peak_mib, reset_peak
from alignkit.policy.logprobs import token_logprobs
weight = torch.nn.Parameter(torch.full((151_936, 896), 0.01))
states = torch.randn(256, 896, dtype=torch.bfloat16, requires_grad=True)
target, ones = torch.randint(0, 151_936, (256,)), torch.ones(256)
def step(n):
    weight.grad = states.grad = None
    token_logprobs(states[:n], weight, target[:n], ones[:n], entropy=True)[0].sum().backward()
step(8)
weight.grad = None
give_back()
reset_peak()
before = peak_mib()
step(256)
print(peak_mib() - before - 4 * weight.numel() / 2**20)
"""
    run = [sys.executable, "-c", code]
    held = [float(subprocess.run(run, capture_output=True, text=True, check=True).stdout) for _ in range(3)]
    assert min(held) <= 64


@pytest.mark.parametrize("window", [None, 1, 3])
def test_flex_mask_function_marks_what_the_split_kernels_see(window: int | None) -> None:
    rng = np.random.default_rng(2)
    layout = lay_out([random_tree(3, (2, 3), rng), random_tree(2, (1,), rng)])
    mask = sees(*map(torch.from_numpy, marks(layout.spans)), window)
    size = len(layout.ids_S)
    index = torch.arange(size)
    seen = mask(torch.tensor(0), torch.tensor(0), index[:, None], index[None])
    expected = torch.zeros(size, size, dtype=torch.bool)
    for span in layout.spans:
        prompt = [*range(span.start, span.prompt_end)]
        for row in prompt:
            expected[row, prompt[: row - span.start + 1][-(window or size) :]] = True
        for start, end in span.completions:
            for row in range(start, end):
                expected[row, [*prompt, *range(start, row + 1)][-(window or size) :]] = True
    assert torch.equal(seen, expected)


def test_block_lists_made_from_the_spans_are_those_that_torch_makes_of_the_whole_mask() -> None:
    rng = np.random.default_rng(4)
    shapes: list[list[tuple[int, tuple[int, ...]]]] = [
        [(1, (1,))],
        [(1, (126,)), (1, (1,))],
        [(1, (127, 1)), (1, (300,))],
        [(256, (128, 128)), (384, (512,))],  # edges of trees on edges of blocks
        [(700, (300, 40, 1)), (3, (600,))],
        *([(int(n), tuple(rng.integers(1, 400, 3))) for n in rng.integers(1, 500, 4)] for _ in range(6)),
    ]
    num_full = 0
    for trees in shapes:
        spans = lay_out([random_tree(prompt, lengths, rng) for prompt, lengths in trees]).spans
        size = spans[-1].completions[-1][1]
        layout = FlexLayout.of(spans, torch.device("cpu"), (None, 200))
        whole, windowed = (
            create_block_mask(sees(*map(torch.from_numpy, marks(spans)), window), None, None, size, size, "cpu")
            for window in (None, 200)
        )
        for x, expected in zip(layout.masks[None].as_tuple(), whole.as_tuple(), strict=True):
            assert torch.equal(x, expected) if isinstance(x, torch.Tensor) else callable(x) or x == expected
        num_full += int(whole.full_kv_num_blocks.sum())
        # With a window a block may be listed in vain, never left out; it counts as full exactly where it is.
        mine = layout.masks[200]
        for name in ("full_kv", "full_q"):
            assert torch.equal(getattr(mine, f"{name}_num_blocks"), getattr(windowed, f"{name}_num_blocks"))
            assert torch.equal(getattr(mine, f"{name}_indices"), getattr(windowed, f"{name}_indices"))
        assert bool((mine.to_dense() >= windowed.to_dense()).all())
        assert mine.to_dense().sum() <= whole.to_dense().sum()
    assert num_full > 20


@pytest.mark.parametrize("window", [None, 1, 3])
def test_a_dense_mask_attends_as_the_split_kernels_do(window: int | None) -> None:
    rng = np.random.default_rng(2)
    spans = lay_out([random_tree(6, (5, 3), rng), random_tree(1, (3,), rng), random_tree(2, (1, 7, 2), rng)]).spans
    generator = torch.Generator().manual_seed(0)
    given = [torch.randn(1, heads, 30, 8, generator=generator, dtype=torch.float64) for heads in (4, 2, 2)]
    found = []
    for layout in (DenseLayout.of(spans, torch.device("cpu"), {None, window}), SegmentLayout.of(spans)):
        tensors = [x.clone().requires_grad_() for x in given]
        attended = layout.attend(*tensors, None, window)
        (attended * torch.linspace(-1, 1, attended.numel()).view(attended.shape)).sum().backward()
        found.append([attended.detach(), *(x.grad for x in tensors)])
    assert all(torch.allclose(ours, theirs, atol=1e-12) for ours, theirs in zip(*found, strict=True))


def test_rows_hold_every_tree_once_and_nothing_beyond_capacity() -> None:
    rng = np.random.default_rng(3)
    trees = [random_tree(int(n), (int(m),), rng) for n, m in rng.integers(1, 30, (40, 2))]
    rows = pack(trees, 64)
    assert sorted(number for row in rows for number in row) == list(range(40))
    assert max(sum(len(trees[n]) for n in row) for row in rows) <= 64


def test_even_rows_are_as_many_as_packed_ones_and_none_is_longer() -> None:
    rng = np.random.default_rng(5)
    for count in (0, 1, 7, 40):
        trees = [random_tree(int(n), (int(m),), rng) for n, m in rng.integers(1, 40, (count, 2))]
        even, packed = pack_evenly(trees, 64), pack(trees, 64)
        assert sorted(number for row in even for number in row) == list(range(count))
        sizes, before = ([sum(len(trees[n]) for n in row) for row in rows] for rows in (even, packed))
        assert len(even) <= len(packed) and max(sizes, default=0) <= max(before, default=0)
    trees = [random_tree(10, (10,), rng) for _ in range(4)]
    assert [len(row) for row in pack(trees, 60)] == [3, 1] and [len(row) for row in pack_evenly(trees, 60)] == [2, 2]


def test_a_tree_longer_than_the_capacity_has_a_row_of_its_own() -> None:
    rng = np.random.default_rng(4)
    trees = [random_tree(5, (4,), rng), random_tree(50, (40,), rng)]
    assert sorted(map(tuple, pack(trees, 32))) == [(0,), (1,)]


OTHER_LAYERS: dict[str, tuple[dict[str, object], str]] = {
    "gemma2": ({"head_dim": 12}, "soft-capped attention"),
    "lfm2": ({"layer_types": ["conv", "full_attention"]}, "layers of kind conv"),
    "granite_swa": ({}, "attention sinks"),
}


@pytest.mark.parametrize("kind", OTHER_LAYERS)
def test_a_model_with_other_layers_takes_the_plain_path_and_logs_it(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options, reason = OTHER_LAYERS[kind]
    folder = tiny_model(tmp_path, kind=kind, **options)
    policy = load_policy(folder, precision="fp32")
    assert policy.path == "plain"
    assert reason in caplog.text
    with pytest.raises(InputError, match="--set attention=plain"):
        load_policy(folder, attention="tree")
    rng = np.random.default_rng(1)
    found, gradient = scores_and_gradient(policy, [random_tree(9, (5, 7), rng)], np.ones(2))
    assert found.isfinite().all() and gradient.norm() > 0


def test_chunked_attention_and_attention_to_later_tokens_take_the_plain_path(policy: Policy) -> None:
    """As in Llama 4's configuration, and in that of an embedding model made of Gemma 3."""
    for name, value, reason in (
        ("layer_types", ["chunked_attention", "full_attention"], "layers of kind chunked_attention"),
        ("use_bidirectional_attention", True, "attention to later tokens"),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(policy.base.config, name, value, raising=False)
            assert tree_refusal(policy.base) == reason
    assert tree_refusal(policy.base) is None


def test_a_scalar_head_reads_the_last_token_of_each_completion(tmp_path: Path) -> None:
    policy = load_policy(tiny_model(tmp_path), precision="fp32", scalar_head=True, seed=3)
    rng = np.random.default_rng(5)
    trees = [random_tree(4, (3, 5), rng)]
    with torch.no_grad():
        found = policy(lay_out(trees)).value_N
        with policy.on_path("plain"):
            expected = policy(lay_out(trees)).value_N
    assert found.shape == (2,) and (found - expected).abs().max() < 1e-5
