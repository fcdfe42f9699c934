"""A real model judged against itself, ten looks with prompts added: python -m bench.verdict_same_model

SmolLM2 answers the demo's prompts twice, under two seeds, so that both sides are equal in distribution. Each look is
the product's own `alignkit.judge`: prompts, judge by the rows' rules, clusters, the ledger's count of looks. Answers
are drawn once and found again at the next look, which changes nothing: an answer follows from its request alone.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

NUM_LOOKS, ADDED, NUM_TOKENS = 10, 64, 16


def main() -> None:
    """Print each look: prompts, rate, interval, answer."""
    folder = tempfile.mkdtemp()
    os.environ["ALIGNKIT_LEDGER"] = str(Path(folder) / "ledger.sqlite")
    os.chdir(folder)
    from alignkit_plugins.transformers_sampler import TransformersSampler

    import alignkit
    from alignkit.plugin import Completion, Request
    from alignkit.pretrained import embedded

    drawn: dict[tuple[tuple[int, ...], int], Completion] = {}
    generate: Callable[[TransformersSampler, Sequence[Request]], list[Completion]] = TransformersSampler.generate

    def generate_once(sampler: TransformersSampler, requests: Sequence[Request]) -> list[Completion]:
        keys = [(tuple(request.prompt_ids), request.seed) for request in requests]
        new = {key: request for key, request in zip(keys, requests, strict=True) if key not in drawn}
        drawn.update(zip(new, generate(sampler, list(new.values())), strict=True))
        return [drawn[key] for key in keys]

    TransformersSampler.generate = generate_once  # type: ignore[method-assign]
    alarms = 0
    for look in range(1, NUM_LOOKS + 1):
        verdict = alignkit.judge(
            embedded.NAME,
            vs=embedded.NAME,
            data="demo",
            judge="rules",
            num_prompts=ADDED * look,
            difference=10.0,
            temperature=1.0,
            max_new_tokens=NUM_TOKENS,
        )
        rate = verdict.win_rate
        assert verdict.look == look and rate.rate is not None
        alarms += verdict.answer in ("better", "worse")
        interval = f"{rate.low:5.1f} to {rate.high:5.1f} ({100 * rate.level:.4g} %)"
        print(
            f"look {look:2}: {rate.num_prompts:3} prompts, {rate.rate:5.1f} %, {interval}, {verdict.answer}", flush=True
        )
    print(f"{alarms} of {NUM_LOOKS} looks say better or worse")


if __name__ == "__main__":
    main()
