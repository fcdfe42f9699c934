"""What a tournament found, on disk and back."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alignkit.errors import InputError
from alignkit.tournaments.results import START, Beside, Entry, Health, Results, Rung

PER_RUN = ("minutes_ES", "answer_minutes_ES", "peak_mib_ES", "tokens_ES", "clipped_ES", "kl_ES")


def found(num_entrants: int = 2, num_seeds: int = 3, num_prompts: int = 4) -> Results:
    rng = np.random.default_rng(0)
    shape, opponents = (num_entrants, num_seeds, num_prompts), ("base", START)
    outcome = rng.integers(0, 3, (num_entrants, num_seeds, 2, num_prompts)) / 2
    outcome[0] = np.nan
    per_run: dict[str, Any] = {name: rng.normal(size=shape[:2]) for name in PER_RUN}
    return Results(
        entrants=(Entry("base", None, "m"), Entry("dpo", "dpo", "m", "base", {"beta": 0.1})),
        seeds=tuple(range(num_seeds)),
        opponents=opponents,
        judge="rules",
        prompt_ids=tuple(f"r{n}" for n in range(num_prompts)),
        prompts=tuple(f"Say {n}" for n in range(num_prompts)),
        references=(None, "b", "c", "d"),
        cluster_P=np.array([0, 0, 1, 1]),
        cluster_words="prompts",
        outcome_ESVP=outcome,
        score_ESP=rng.normal(size=shape),
        length_ESP=rng.normal(size=shape),
        rival_length_ESVP=rng.normal(size=outcome.shape),
        reference_length_P=rng.normal(size=num_prompts),
        nats_ESP=rng.normal(size=shape) / 3,
        reference_tokens_ESP=rng.normal(size=shape),
        reference_cut_ESP=np.zeros(shape),
        kl_nats_ESP=rng.normal(size=shape),
        kl_tokens_ESP=np.full(shape, 7.0),
        paid={"dpo": (12, None), "base": (3, 0.5)},
        text_ESP=np.full(shape, "schön\n<b>", dtype=object),
        health={"repetition": Health(rng.normal(size=shape), "repeated, %", 1, False)},
        failed={("dpo", 2): "no memory"},
        runs={("dpo", 0): "dpo-0"},
        **per_run,
    )


def test_results_come_back_from_disk_to_the_last_bit(tmp_path: Path) -> None:
    whole = replace(
        found(),
        tuning=found(),
        rungs=(Rung(("dpo-beta=0.1",), ("dpo",), (4,), found().outcome_ESVP[:1, :, 0]),),
        picked={"dpo": "dpo-beta=0.1"},
        beside=Beside("printed", {"bleu4": {"dpo": "19.7"}}, ("once",)),
    )
    whole.write(tmp_path / "results.json")
    back = Results.read(tmp_path / "results.json")
    for one, other in ((whole, back), (whole.tuning, back.tuning)):
        for each in fields(Results):
            ours, theirs = getattr(one, each.name), getattr(other, each.name)
            if isinstance(ours, np.ndarray):
                assert ours.dtype == theirs.dtype, each.name
                np.testing.assert_array_equal(ours, theirs, err_msg=each.name)
            elif each.name not in {"health", "tuning", "rungs"}:
                assert ours == theirs, each.name
    np.testing.assert_array_equal(whole.rungs[0].outcome_KSP, back.rungs[0].outcome_KSP)
    assert replace(whole.rungs[0], outcome_KSP=back.rungs[0].outcome_KSP) == back.rungs[0]
    np.testing.assert_array_equal(whole.health["repetition"].x_ESP, back.health["repetition"].x_ESP)
    assert back.health["repetition"].label == "repeated, %"


def test_damaged_results_are_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('{"entrants": 3}')
    with pytest.raises(InputError, match="no results of a tournament"):
        Results.read(tmp_path / "results.json")
