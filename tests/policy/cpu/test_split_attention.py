"""Tree attention on a CPU against torch's own over one dense mask: outputs, gradients, and how far bf16 lies off."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from alignkit.data.trees.packs import Span
from alignkit.policy.cpu.split_attention import BLOCK, SegmentLayout, attend

SHORT = [Span(0, 4, ((4, 9), (9, 10))), Span(10, 10, ((10, 16),)), Span(16, 17, ((17, 20),))]
LONG = [Span(0, BLOCK + 40, ((BLOCK + 40, 2 * BLOCK + 60), (2 * BLOCK + 60, 2 * BLOCK + 63)))]


def plain(
    query: Tensor, key: Tensor, value: Tensor, spans: list[Span], scale: float | None, window: int | None = None
) -> Tensor:
    """One call over the whole row, with every pair of tokens marked by hand."""
    size = query.shape[2]
    seen = torch.zeros(size, size, dtype=torch.bool)
    for span in spans:
        for start, end in ((span.start, span.prompt_end), *span.completions):
            before = [*range(span.start, span.prompt_end)] if start >= span.prompt_end else []
            for token in range(start, end):
                path = [*before, *range(start, token + 1)]
                seen[token, path if window is None else path[-window:]] = True
    return scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=scale, enable_gqa=True).transpose(1, 2)


def inputs(spans: list[Span], dtype: torch.dtype, *, heads: int, key_heads: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    end = max(stop for span in spans for _, stop in span.completions)
    shapes = [(1, heads, end, 8), (1, key_heads, end, 8), (1, key_heads, end, 8), (1, end, heads, 8)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def results(
    function: object, spans: object, given: list[Tensor], scale: float | None, window: int | None = None
) -> list[Tensor]:
    query, key, value = (x.clone().requires_grad_() for x in given[:3])
    out = function(query, key, value, spans, scale, window=window)  # type: ignore[operator]
    out.backward(given[3])
    return [x.detach().double() for x in (out, query.grad, key.grad, value.grad)]


@pytest.mark.parametrize("spans", [SHORT, LONG], ids=["short", "longer than a block"])
@pytest.mark.parametrize(("heads", "key_heads"), [(6, 2), (3, 3), (4, 1)])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_outputs_and_gradients_are_those_of_one_dense_mask(
    spans: list[Span], heads: int, key_heads: int, scale: float | None
) -> None:
    given = inputs(spans, torch.float64, heads=heads, key_heads=key_heads)
    found = results(attend, SegmentLayout.of(spans), given, scale)
    for ours, theirs in zip(found, results(plain, spans, given, scale), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("spans", "window"), [(SHORT, 1), (SHORT, 4), (LONG, 30), (LONG, BLOCK + 50), (LONG, 10_000)])
def test_a_window_sees_the_last_positions_of_a_tokens_path(spans: list[Span], window: int) -> None:
    given = inputs(spans, torch.float64, heads=4, key_heads=2)
    found = results(attend, SegmentLayout.of(spans), given, None, window)
    for ours, theirs in zip(found, results(plain, spans, given, None, window), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("spans", [SHORT, LONG], ids=["short", "longer than a block"])
def test_bf16_lies_no_further_from_the_exact_gradient_than_torchs_kernel(spans: list[Span]) -> None:
    given = inputs(spans, torch.bfloat16, heads=6, key_heads=2)
    exact = results(plain, spans, [x.double() for x in given], None)
    ours = results(attend, SegmentLayout.of(spans), given, None)
    theirs = results(plain, spans, given, None)
    for mine, torchs, true in zip(ours, theirs, exact, strict=True):
        assert (mine - true).norm() <= 1.5 * (torchs - true).norm() <= 0.02 * true.norm()


def test_a_mask_is_made_once_for_all_layers() -> None:
    layout = SegmentLayout.of(SHORT)
    first, same = (layout.mask(layout.segments[1], torch.float32) for _ in range(2))
    assert first is same and layout.mask(layout.segments[0], torch.float32) is None
