"""What a tournament found: every entrant's and seed's answers and how they were judged, as arrays.

    E entrants, S training seeds, V opponents, P test prompts

An entrant that is not trained answers once: its row is the same for every seed. Whatever is not there (a failed run, a
missing score, a model against itself) is nan, never a number.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alignkit.errors import InputError
from alignkit.storage import read_object, write_atomically

BASE = "base"
"""The entrant that is the model which others start from."""
START = "start"
"""The opponent that is each entrant's own start: the same seed's run of the entrant that it starts from."""


@dataclass(frozen=True)
class Entry:
    """One entrant: how its model was made.

    Args:
        method: None where the model is taken as it is.
        model: the model that it starts from, where that is no other entrant.
        start: the entrant that it starts from.
        options: the method's options as they were given.
        sweep: the name that it had before --sweep made several of it.
    """

    name: str
    method: str | None
    model: str
    start: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    sweep: str | None = None

    @property
    def rewards(self) -> list[str]:
        """What its rewards name, without their weights."""
        given = self.options.get("reward", [])
        specs = [str(spec) for spec in (given if isinstance(given, list | tuple) else [given])]
        return [spec.rpartition("=")[0] if "=" in spec else spec for spec in specs]


@dataclass(frozen=True)
class Health:
    """One metric of the answers (judging/metrics.py) in its label's unit: float64 [E, S, P], nan where it has none.

    `more_is_better` None: neither end is.
    """

    x_ESP: np.ndarray
    label: str
    digits: int = 1
    more_is_better: bool | None = None


@dataclass(frozen=True)
class Beside:
    """Another table of the same entrants, shown beside ours as it was published: never compared by a test.

    Args:
        rows: by the key of one of our measures and by entrant the number as it was printed.
    """

    title: str
    rows: Mapping[str, Mapping[str, str]]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rung:
    """What was left of a sweep at one of its halvings, or at its end, on the tuning prompts.

    Args:
        names: K entrants; `sweeps` has of each the name that it had before.
        steps: of each one's runs so far; None: of all of them, nothing is halved.
        outcome_KSP: against the first opponent, as `Results.outcome_ESVP`.
    """

    names: tuple[str, ...]
    sweeps: tuple[str, ...]
    steps: tuple[int | None, ...]
    outcome_KSP: np.ndarray


@dataclass(frozen=True)
class Results:
    """One judge's and all metrics' findings on one set of prompts.

    Args:
        entrants: E of them, in the order of the file; a start stands before what starts from it.
        seeds: S training seeds.
        opponents: V names: of a model, of an entrant such as "base", or `START`. The first one is the headline's.
        judge: the label of the judge.
        prompt_ids, prompts, references: of each prompt its row's id, its last message, its reference (None: has none).
        cluster_P: int64 [P], 0 .. G - 1; prompts of one cluster are no independent evidence of each other.
        cluster_words: what the clusters are, "clusters of prompts with the same template (40)".
        outcome_ESVP: float64 [E, S, V, P]: 1 the entrant wins, 0.5 a tie, 0 it loses; between them where the judge has
            soft outcomes; nan where a score is missing, a run failed, or the opponent is the entrant itself.
        score_ESP: float64 [E, S, P], the judge's score of the answer; nan where missing, all of it where the judge
            compares pairs.
        length_ESP: float64 [E, S, P], tokens of the answer without thinking, end token included.
        rival_length_ESVP: float64 [E, S, V, P], the same of the opponent's answer.
        reference_length_P: float64 [P], tokens of the reference, end token included; nan without one.
        nats_ESP: float64 [E, S, P], -sum log p of the reference's tokens; perplexity is exp(sum nats / sum tokens).
        reference_tokens_ESP: float64 [E, S, P], the tokens that it sums over, end token included; nan where the
            reference is left out: its prompt leaves no room for it.
        reference_cut_ESP: float64 [E, S, P], 1 where the reference was cut at the end of its row.
        kl_nats_ESP, kl_tokens_ESP: float64 [E, S, P], KL of a trained entrant to the base summed over its answer's
            tokens, and their number (answer_kl.py); nan where it is not measured: on prompts behind the first,
            and of an entrant that did not begin with the base.
        text_ESP: object [E, S, P], the answer's text; "" where there is none.
        health: by name every metric with one number per answer (repetition, loops, empty, truncated_share, ...).
        failed: why an entrant's run of a seed, or an opponent, has no answers, by (entrant, seed).
        runs: the run's folder by (entrant, seed), relative to the tournament's; none where nothing was trained.
        parents: the run it started from by (entrant, seed), likewise; pairs of these share what the parent learnt.
        minutes_ES: float64 [E, S], wall time of training, sampling and validation included; nan where not trained.
        answer_minutes_ES: float64 [E, S], of answering the prompts.
        peak_mib_ES: float64 [E, S], MiB at the fullest moment of training.
        tokens_ES: float64 [E, S], tokens that training saw, samples included.
        clipped_ES: float64 [E, S], share of the steps whose gradient was clipped.
        kl_ES: float64 [E, S], KL of the trained policy to its start in nats a token, by the run's last validation that
            measured it; nan where the method has no reference.
        paid: by entrant the requests that its answers and rewards cost at most, all runs together, and their price in
            the user's currency (None: not known).
        money: what requests of judges and rewards cost, a text such as "judge nemotron about 2.00 USD"; "" where
            nothing costs.
        drawn: how answers were drawn, in words.
        stamps: by entrant what its win rates are not evidence of: its judge also gave its reward.
        caveats: sentences about the whole table.
        tuning: the same of the entrants that were left of sweeps to the end, on the tuning prompts, which no other
            table shares.
        rungs: what they were at each halving before, and at the end.
        picked: by a sweep's name the entrant that won on the tuning prompts.
        second: another judge's opinion: the same answers, perhaps of the first prompts alone (the rest is nan).
        off_task: answers to other prompts, measured and not judged.
        beside: a published table of the same entrants.
    """

    entrants: tuple[Entry, ...]
    seeds: tuple[int, ...]
    opponents: tuple[str, ...]
    judge: str
    prompt_ids: tuple[str, ...]
    prompts: tuple[str, ...]
    references: tuple[str | None, ...]
    cluster_P: np.ndarray
    cluster_words: str
    outcome_ESVP: np.ndarray
    score_ESP: np.ndarray
    length_ESP: np.ndarray
    rival_length_ESVP: np.ndarray
    reference_length_P: np.ndarray
    nats_ESP: np.ndarray
    reference_tokens_ESP: np.ndarray
    reference_cut_ESP: np.ndarray
    kl_nats_ESP: np.ndarray
    kl_tokens_ESP: np.ndarray
    text_ESP: np.ndarray
    minutes_ES: np.ndarray
    answer_minutes_ES: np.ndarray
    peak_mib_ES: np.ndarray
    tokens_ES: np.ndarray
    clipped_ES: np.ndarray
    kl_ES: np.ndarray
    health: Mapping[str, Health] = field(default_factory=dict)
    failed: Mapping[tuple[str, int], str] = field(default_factory=dict)
    runs: Mapping[tuple[str, int], str] = field(default_factory=dict)
    parents: Mapping[tuple[str, int], str] = field(default_factory=dict)
    paid: Mapping[str, tuple[int, float | None]] = field(default_factory=dict)
    money: str = ""
    drawn: str = ""
    stamps: Mapping[str, str] = field(default_factory=dict)
    caveats: tuple[str, ...] = ()
    tuning: Results | None = None
    rungs: tuple[Rung, ...] = ()
    picked: Mapping[str, str] = field(default_factory=dict)
    second: Results | None = None
    off_task: Results | None = None
    beside: Beside | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The entrants' names, E of them."""
        return tuple(entry.name for entry in self.entrants)

    def write(self, path: Path) -> None:
        """Write it as JSON, whole or not at all; numbers come back to the last bit, nan as null."""
        write_atomically(path, json.dumps(_as_json(self), ensure_ascii=False, allow_nan=False) + "\n", private=True)

    @classmethod
    def read(cls, path: Path) -> Results:
        """Read what `write` wrote.

        Raises:
            InputError: it cannot be read, or is none.
        """
        try:
            return _results(read_object(path))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise InputError(f"{path}: holds no results of a tournament ({reason}); remove it and go on") from error


def _as_json(value: Any) -> Any:
    if is_dataclass(value):
        return {f.name: _as_json(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, np.ndarray):
        return _as_json(value.tolist())
    if isinstance(value, Mapping):
        return [[list(k) if isinstance(k, tuple) else k, _as_json(v)] for k, v in value.items()]
    if isinstance(value, list | tuple):
        return [_as_json(each) for each in value]
    return None if isinstance(value, float) and value != value else value


def _results(content: Mapping[str, Any]) -> Results:
    named: dict[str, Any] = dict(content)
    for name in ("seeds", "opponents", "prompt_ids", "prompts", "references", "caveats"):
        named[name] = tuple(named[name])
    named["entrants"] = tuple(Entry(**each | {"options": dict(each["options"])}) for each in named["entrants"])
    for name in ("failed", "runs", "parents"):
        named[name] = {(entrant, seed): text for (entrant, seed), text in named[name]}
    for name in ("stamps", "picked"):
        named[name] = dict(named[name])
    named["paid"] = {name: (requests, price) for name, (requests, price) in named["paid"]}
    for name in named:
        if name.rpartition("_")[2] in ("P", "ES", "ESP", "ESVP"):
            kind: Any = object if name == "text_ESP" else np.int64 if name == "cluster_P" else np.float64
            named[name] = np.array(named[name], dtype=kind)
    named["health"] = {
        name: Health(**one | {"x_ESP": np.array(one["x_ESP"], dtype=np.float64)}) for name, one in named["health"]
    }
    if (beside := named["beside"]) is not None:
        rows = {key: dict(row) for key, row in beside["rows"]}
        named["beside"] = Beside(beside["title"], rows, tuple(beside["notes"]))
    named["rungs"] = tuple(
        Rung(
            tuple(one["names"]),
            tuple(one["sweeps"]),
            tuple(one["steps"]),
            np.array(one["outcome_KSP"], dtype=np.float64),
        )
        for one in named["rungs"]
    )
    for name in ("tuning", "second", "off_task"):
        named[name] = None if named[name] is None else _results(named[name])
    return Results(**named)
