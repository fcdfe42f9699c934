"""Results of a made tournament: five entrants as in the paper, wins with known rates, no model and no run."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from alignkit.tournaments.results import START, Entry, Health, Results

ENTRANTS = (
    Entry("base", None, "tiny"),
    Entry("sft", "sft", "tiny", "base"),
    Entry("lenpen", "sft-lenpen", "tiny", "base"),
    Entry("dpo", "dpo", "tiny", "sft"),
    Entry("grpo", "grpo", "tiny", "sft"),
)
RATES = (40, 50, 50, 75, 75)


def made_results(num_seeds: int = 3, num_prompts: int = 120, **changed: Any) -> Results:
    """Every array of the right shape; the base's rows are the same for every seed."""
    rng = np.random.default_rng(1)
    shape = (len(ENTRANTS), num_seeds, num_prompts)

    def same_base(x: np.ndarray) -> np.ndarray:
        x[0] = x[0, :1]
        return x

    win = same_base((rng.random(shape) < np.array(RATES)[:, None, None] / 100).astype(float))
    outcome = np.stack([win, same_base((rng.random(shape) < 0.6).astype(float))], axis=2)
    outcome[0, :, 1] = math.nan
    length = same_base(rng.integers(20, 80, shape).astype(float))
    times = np.full(shape[:2], math.nan)
    trained = rng.random(shape[:2]) + 1
    trained[0] = math.nan
    text = np.empty(shape, dtype=object)
    for index in np.ndindex(shape):
        text[index] = f"The sum of {index[2]} and <b>two</b> is {index[2] + 2}. I am {ENTRANTS[index[0]].name}."
    fields: dict[str, Any] = {
        "entrants": ENTRANTS,
        "seeds": tuple(range(num_seeds)),
        "opponents": ("instruct", START),
        "judge": "made judge",
        "prompt_ids": tuple(f"row-{p}" for p in range(num_prompts)),
        "prompts": tuple(f"What is {p} plus two?" for p in range(num_prompts)),
        "references": tuple(f"The sum of {p} and two is {p + 2}." for p in range(num_prompts)),
        "cluster_P": np.arange(num_prompts) // 2,
        "cluster_words": f"clusters of prompts with the same template ({num_prompts // 2})",
        "outcome_ESVP": outcome,
        "score_ESP": same_base(rng.normal(size=shape)),
        "length_ESP": length,
        "rival_length_ESVP": np.repeat(same_base(rng.integers(20, 80, shape).astype(float))[:, :, None], 2, axis=2),
        "reference_length_P": np.full(num_prompts, 40.0),
        "nats_ESP": np.full(shape, 20.0 * math.log(7.0)),
        "reference_tokens_ESP": np.full(shape, 20.0),
        "reference_cut_ESP": np.zeros(shape),
        "kl_nats_ESP": times[..., None] * np.ones(shape),
        "kl_tokens_ESP": np.full(shape, math.nan),
        "text_ESP": text,
        "minutes_ES": trained,
        "answer_minutes_ES": times,
        "peak_mib_ES": 100 * trained,
        "tokens_ES": 1000 * trained,
        "clipped_ES": times,
        "kl_ES": times,
        "health": {"repetition": Health(same_base(10 * rng.random(shape)), "repeated 4-grams, %", 1, False)},
        "runs": {(e.name, s): f"runs/{e.name}-{s}" for e in ENTRANTS[1:] for s in range(num_seeds)},
    }
    return Results(**fields | changed)
