"""The head by chunks of tokens gives what all logits at once give; its kernel gives what plain torch does."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from alignkit.policy.cuda.head import Sizes, chunked_logprobs, memory_bytes, sizes_for
from alignkit.policy.head import PLAIN, HeadForm
from alignkit.policy.in_place import accumulate_in_place
from alignkit.policy.logprobs import token_logprobs

FORMS = [PLAIN, HeadForm(scale=2.5), HeadForm(scale=0.3, softcap=2.0)]


def head_inputs(num_tokens: int, vocab: int, compute: torch.dtype, device: str = "cpu") -> tuple[torch.Tensor, ...]:
    """Hidden states, weight, bias, targets and temperatures; the weight is exact in the compute type."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(num_tokens, 8, generator=generator).to(compute)
    weight = torch.randn(vocab, 8, generator=generator).to(compute).float()
    bias = torch.randn(vocab, generator=generator)
    target = torch.randint(0, vocab, (num_tokens,), generator=generator)
    temperature = torch.rand(num_tokens, generator=generator) + 0.5
    return tuple(x.to(device) for x in (hidden, weight, bias, target, temperature))


def whole_logprobs(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    target: torch.Tensor,
    temperature: torch.Tensor,
    bias: torch.Tensor | None,
    form: HeadForm,
) -> torch.distributions.Categorical:
    """The distributions of all logits at once, in fp64."""
    inner = hidden.double() @ weight.double().t()
    inner = form.scale * (inner if bias is None else inner + bias.double())
    logits = inner if form.softcap is None else form.softcap * torch.tanh(inner / form.softcap)
    return torch.distributions.Categorical(logits=logits / temperature.double()[:, None], validate_args=False)


def assert_as_whole(
    num_tokens: int,
    vocab: int,
    compute: torch.dtype,
    form: HeadForm,
    has_bias: bool,
    sizes: Sizes | None,
    device: str = "cpu",
) -> None:
    hidden, weight, bias, target, temperature = head_inputs(num_tokens, vocab, compute, device)
    upstream = torch.linspace(-1, 2, num_tokens, device=device)
    results = []
    for whole in (False, True):
        leaves = [x.clone().requires_grad_() for x in (hidden, weight, bias)]
        used = leaves[2] if has_bias else None
        if whole:
            distributions = whole_logprobs(*leaves[:2], target, temperature, used, form)
            logprob, entropy = distributions.log_prob(target), distributions.entropy()
        elif sizes is None:
            logprob, entropy = token_logprobs(*leaves[:2], target, temperature, bias_V=used, form=form, entropy=True)
        else:
            logprob, entropy = chunked_logprobs(*leaves[:2], target, temperature, used, form, True, sizes)
        (logprob * upstream).sum().backward()
        assert entropy is not None and (whole or not entropy.requires_grad)
        gradients = [x.grad.double() for x in leaves if x.grad is not None]
        assert len(gradients) == 2 + has_bias
        results.append((logprob.detach().double(), entropy.detach().double(), gradients))
    (logprob, entropy, gradients), (expected_logprob, expected_entropy, expected_gradients) = results
    # Logits are fp32 sums of exact factors in either type; only the gradient's factors are rounded, each to 8 bits.
    assert torch.allclose(logprob, expected_logprob, atol=1e-5)
    assert torch.allclose(entropy, expected_entropy, atol=2e-5)
    bound = 1e-5 if compute == torch.float32 else 6e-3
    for found, expected in zip(gradients, expected_gradients, strict=True):
        assert (found - expected).norm() <= bound * expected.norm()


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(("num_tokens", "vocab"), [(0, 50), (1, 2051), (8, 50), (37, 300)])
def test_chunks_of_tokens_give_the_whole_heads_values_and_gradients(
    num_tokens: int, vocab: int, compute: torch.dtype, form: HeadForm
) -> None:
    for has_bias in (False, True):
        for sizes in (Sizes(chunk=4, block=8), Sizes(chunk=5, block=10), Sizes(chunk=64, block=64)):
            assert_as_whole(num_tokens, vocab, compute, form, has_bias, sizes)


@pytest.mark.parametrize("own", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_tied_weights_gradient_adds_up_in_place(own: torch.dtype) -> None:
    hidden, weight, _, target, temperature = head_inputs(12, 90, torch.bfloat16)
    weight = weight.to(own).requires_grad_()
    weight.grad = held = torch.ones_like(weight)

    def backward() -> None:
        chunked_logprobs(hidden, weight, target, temperature, None, PLAIN, False, Sizes(4, 8))[0].sum().backward()

    with accumulate_in_place():
        backward()
    assert weight.grad is held
    once = held.clone()
    assert (once - 1).norm() > 1
    backward()  # outside it is autograd that adds
    assert torch.allclose(
        weight.grad.float() - once.float(), once.float() - 1, atol=1e-6 if own == torch.float32 else 0.1
    )


def test_a_frozen_head_has_gradients_of_states_and_keeps_no_vocabulary() -> None:
    hidden, weight, _, target, temperature = head_inputs(40, 3000, torch.bfloat16)
    gradients = []
    for trained in (True, False):
        leaf, kept = hidden.clone().requires_grad_(), []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, kept=kept: (kept.append(x.numel()), x)[1], lambda x: x):
            logprob, _ = chunked_logprobs(
                leaf, weight.clone().requires_grad_(trained), target, temperature, None, PLAIN, False, Sizes(8, 16)
            )
        assert (max(kept) >= 3000) == trained
        logprob.sum().backward()
        gradients.append(leaf.grad)
    assert torch.equal(*gradients)


def test_without_gradient_the_values_are_the_same() -> None:
    hidden, weight, bias, target, temperature = head_inputs(9, 70, torch.bfloat16)
    args = hidden, weight.requires_grad_(), target, temperature, bias, FORMS[2], False, Sizes(4, 4)
    with torch.no_grad():
        logprob, entropy = chunked_logprobs(*args)
    assert entropy is None and not logprob.requires_grad
    assert torch.equal(logprob, chunked_logprobs(*args)[0].detach())


class Launches(TorchDispatchMode):
    """Counts calls that launch on a card: all but views and memory without content."""

    num = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not (func.is_view or "empty" in str(func)):
            self.num += 1
        return func(*args, **(kwargs or {}))


def test_three_thousand_tokens_take_few_launches() -> None:
    hidden, weight, _, target, temperature = head_inputs(3000, 64, torch.bfloat16)
    weight = torch.nn.Parameter(weight)
    sizes = sizes_for(151_936, 2, 80 * 2**30)
    assert -(-3000 // sizes.chunk) > 2
    with Launches() as launches, accumulate_in_place():
        chunked_logprobs(hidden.requires_grad_(), weight, target, temperature, None, PLAIN, True, sizes)[
            0
        ].sum().backward()
    assert 10 < launches.num <= 40  # a CPU's products need two casts each, which a card's do not


@pytest.mark.parametrize(("vocab", "card"), [(151_936, 80), (151_936, 24), (262_144, 8), (32_000, 24), (300, 24)])
def test_a_cards_memory_bounds_what_the_head_holds(vocab: int, card: int) -> None:
    chunk, block = sizes_for(vocab, 2, card * 2**30)
    assert chunk >= 128 and block >= chunk and chunk % 128 == 0
    held = memory_bytes(100_000, vocab, 2, card * 2**30)
    assert held <= 330 * 2**20 + max(card * 2**30 // 32, 2 * 128 * vocab) + 1
    assert memory_bytes(100, vocab, 2, card * 2**30) == vocab * (4 * min(512, chunk) + 2 * min(512, block))


KERNEL_CASES = """
import torch
from alignkit.policy.cuda.head import plain_rows
from alignkit.policy.cuda.head_kernel import launch
generator = torch.Generator().manual_seed(0)
num = 3
for vocab, scale, softcap, has_bias, narrow, has_entropy, has_share in (
    (50, 1.0, None, False, torch.bfloat16, False, True),
    (2048, 2.5, None, True, torch.float32, True, False),
    (5001, 0.3, 2.0, True, torch.bfloat16, True, True),
    (4097, 1.0, 30.0, False, torch.float32, False, True),
):
    logits = 6 * torch.randn(num, vocab + 14, generator=generator)[:, :vocab]  # rows that lie apart
    logits[1, vocab - 2] += 150  # far above the level that a first look at a row gives
    bias = torch.randn(vocab, generator=generator) if has_bias else None
    target = torch.tensor([0, vocab - 1, vocab // 2])
    temperature = torch.tensor([0.5, 1.0, 1.7])
    results = []
    for function in (plain_rows, launch):
        logprob, entropy, factor = (torch.full((num,), torch.nan) for _ in range(3))
        share = torch.full((num, vocab + 6), torch.nan, dtype=narrow)[:, :vocab]
        asked = entropy if has_entropy else None, *((share, factor) if has_share else (None, None))
        function(logits, bias, target, temperature, scale, softcap, logprob, *asked)
        results.append((logprob, entropy, factor[:, None] * share.float()))
    (logprob, entropy, share), (expected_logprob, expected_entropy, expected_share) = results
    assert logprob.isfinite().all() and torch.allclose(logprob, expected_logprob, atol=1e-4, rtol=1e-6), vocab
    assert entropy.isfinite().all() == has_entropy and share.isfinite().all() == has_share
    if has_entropy:
        assert torch.allclose(entropy, expected_entropy, atol=1e-4), (vocab, entropy, expected_entropy)
    if has_share:
        rounding = 2**-6 if narrow == torch.bfloat16 else 2e-5  # the interpreter rounds to bf16 towards zero
        assert torch.allclose(share, expected_share, atol=1e-6, rtol=rounding), vocab
    print("same", vocab)
"""


def test_the_kernel_gives_what_plain_torch_does() -> None:
    """By Triton's interpreter, which is chosen when triton is first imported: in a process of its own."""
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    run = subprocess.run([sys.executable, "-c", KERNEL_CASES], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["same", "50", "same", "2048", "same", "5001", "same", "4097"]


@pytest.mark.parametrize("capability", [80, 90])
def test_the_kernel_compiles_for_cards(capability: int) -> None:
    """Triton brings its own assembler; no card is needed."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from alignkit.policy.cuda.head_kernel import BLOCK, NUM_WARPS, rows_kernel

    types = {"target_ptr": "*i64", "share_ptr": "*bf16", "scale": "fp32", "softcap": "fp32", "BLOCK": "constexpr"}
    for name in rows_kernel.arg_names:
        types.setdefault(name, "*fp32" if name.endswith("_ptr") else "i32")
    source = ASTSource(rows_kernel, types, {"BLOCK": BLOCK})
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": NUM_WARPS})
    assert len(compiled.asm["cubin"]) > 1000


@pytest.mark.gpu
@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_card_gives_the_whole_heads_values_and_gradients(compute: torch.dtype, form: HeadForm) -> None:
    for sizes in (None, Sizes(chunk=128, block=256)):
        assert_as_whole(700, 5001, compute, form, True, sizes, device="cuda")


@pytest.mark.gpu
def test_the_host_does_not_wait_for_the_heads_kernels() -> None:
    hidden, weight, _, target, temperature = head_inputs(700, 5001, torch.bfloat16, device="cuda")
    hidden.requires_grad_()
    weight.requires_grad_()
    mode = torch.cuda.get_sync_debug_mode()
    for setting in (mode, "error"):  # the first time compiles
        torch.cuda.set_sync_debug_mode(setting)
        try:
            token_logprobs(hidden, weight, target, temperature, entropy=True)[0].sum().backward()
        finally:
            torch.cuda.set_sync_debug_mode(mode)
