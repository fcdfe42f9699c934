"""`alignkit demo`: every method on the demo tasks, one table, one report. What `make quickstart` runs.

base -> sft -> {dpo, grpo}, base -> sft-lenpen, all judged on families of tasks that no training row has, by the tasks'
own rules. A reward model trained on the demo pairs gives a second opinion; own prompts outside the grammar show what
training did elsewhere. The numbers below are the quickstart's own, chosen for two CPU cores; the paper's are the
methods' defaults.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alignkit.plugin import (
    Item,
    Missing,
    ModelSection,
    Progress,
    Row,
    Scored,
    UsageError,
    corpus_bleu,
    embedded,
    find_clusters,
    find_model,
    load_tokenizer,
    make_judge,
    mean_interval,
    outcomes,
    read_object,
    read_rows,
    repetition,
    train,
    write_atomically,
)
from alignkit_plugins.demo_preset import Demo

if TYPE_CHECKING:
    from alignkit.plugin import Answer, Answers

STARTS = {"base": None, "sft": "base", "sft-lenpen": "base", "dpo": "sft", "grpo": "sft"}
NUM_PROMPTS = 320
NUM_SECOND_OPINIONS = 100  # prompts; a reward model of the policy's size costs as much as answering
NUM_OWN_PROMPTS = 16
MAX_NEW_TOKENS = 48
LEVEL = 0.95  # of every interval in the table
TEMPERATURE = 1.0  # the policy itself is judged: what training changes is the distribution, not only its likeliest text
NOTE = (
    "A demonstration on tasks this project generates, one seed; not a quality benchmark. Judged by the tasks' own "
    f"rules, on {NUM_PROMPTS} prompts of families that no training row has; one answer per prompt, sampled at "
    f"temperature {TEMPERATURE:g}. Prompts of one template are won or lost together, so intervals are over templates. "
    f"The second opinion reads the first {NUM_SECOND_OPINIONS} of them."
)

_TABLES = Demo().tournament()
SETTINGS: dict[str, dict[str, Any]] = {
    name: {**_TABLES["data"], **_TABLES["train"], **{key: value for key, value in table.items() if key != "start"}}
    for name, table in _TABLES["entrants"].items()
}


@dataclass(frozen=True)
class Entrant:
    """What one model answered to the judged prompts, how both judges scored that, and its answers to own prompts.

    The reward model, `second`, scored the first `NUM_SECOND_OPINIONS` answers alone.
    """

    answers: Answers
    own: Answers
    scores: list[Scored | Missing]
    second: list[Scored | Missing]


def run_quickstart(*, seed: int, out: Path, progress: Progress) -> list[dict[str, Any]]:
    """Train, answer, judge and write OUT/table.json and OUT/report.html; returns the table's rows.

    Finished parts of an earlier call with the same seed are kept, an unfinished one goes on.

    Raises:
        UsageError: OUT holds another seed's quickstart.
        AlignkitError: as training and judging raise.
    """
    from alignkit_plugins.quickstart_report import write_quickstart_report

    _claim(out, seed)
    progress.note(f"model: {embedded.LICENCE}")
    finished = {name: _train(name, seed, out, progress) for name in SETTINGS}
    rows = [row for row in read_rows("demo:test") if row.fields["unseen"]]
    rows = [rows[n] for n in np.random.Generator(np.random.Philox(key=seed)).permutation(len(rows))[:NUM_PROMPTS]]
    own = read_rows("demo:own", limit=NUM_OWN_PROMPTS)
    answers = {name: _answer(name, rows, own, seed, out, progress) for name in STARTS}
    scores = _score("rules", {name: judged.answers for name, (judged, _) in answers.items()})
    second = _score(
        str(out / "reward"), {name: judged.answers[:NUM_SECOND_OPINIONS] for name, (judged, _) in answers.items()}
    )
    entrants = {name: Entrant(*answers[name], scores[name], second[name]) for name in STARTS}
    table = [_row(name, entrants, finished, rows, seed) for name in STARTS]
    write_atomically(out / "table.json", json.dumps(table, indent=1) + "\n")
    full = [row | _extra(row["entrant"], entrants, rows, seed) for row in table]
    write_quickstart_report(
        out,
        rows=full,
        prompts=rows,
        answers={name: e.answers for name, e in entrants.items()},
        scores={name: e.scores for name, e in entrants.items()},
        note=notes(full),
    )
    return full


def _claim(out: Path, seed: int) -> None:
    mark = out / "quickstart.json"
    if mark.exists():
        before = read_object(mark).get("seed")
        if before != seed:
            raise UsageError(f"{out} holds the quickstart of seed {before}; give another --out, or remove it")
        return
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} exists and is no quickstart; give another --out")
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(mark, json.dumps({"seed": seed}) + "\n")


def _train(name: str, seed: int, out: Path, progress: Progress) -> dict[str, Any]:
    """Train one entrant (or find it finished) and return what its run.json says of the end."""
    start = STARTS.get(name, "base")
    model = embedded.NAME if start == "base" else str(out / str(start))
    run = train(
        name,
        model=model,
        out=str(out / name),
        seed=seed,
        resume=(out / name).exists(),
        progress=progress,
        **SETTINGS[name],
    )
    gc.collect()  # the run's models must not count in the next one's peak memory
    end: dict[str, Any] = run.info["finished"]
    return end


def _answer(
    name: str, rows: Sequence[Row], own: Sequence[Row], seed: int, out: Path, progress: Progress
) -> tuple[Answers, Answers]:
    """Answer the judged and the own prompts, one sample each."""
    from alignkit.plugin import Answering, Answers, Generation

    source = find_model(embedded.NAME if name == "base" else str(out / name))
    generation = Generation(temperature=TEMPERATURE, max_new_tokens=MAX_NEW_TOKENS, seed=seed)
    model = Answering(source, ModelSection(), generation)
    progress.note(f"answers of {name}")
    judged, outside = (
        Answers(name, tuple(model.answer(asked, progress=progress)), model.perplexity(asked).perplexity)
        for asked in (rows, own)
    )
    return judged, outside


def _score(spec: str, answers: Mapping[str, Sequence[Answer]]) -> dict[str, list[Scored | Missing]]:
    """Score all entrants' answers at once: a reward model then computes each prompt once."""
    judge = make_judge(spec)
    items = [Item(a.row.prompt, a.text, {**a.row.fields, "id": a.row.id}) for one in answers.values() for a in one]
    scores = iter(judge.score(items))
    judge.judge.close()
    return {name: list(islice(scores, len(one))) for name, one in answers.items()}


def _row(
    name: str,
    entrants: Mapping[str, Entrant],
    finished: Mapping[str, Mapping[str, Any]],
    rows: Sequence[Row],
    seed: int,
) -> dict[str, Any]:
    """One row of table.json; rates in percent, differences in points, null where meaningless."""
    entrant, start = entrants[name], STARTS[name]
    against_base = _rate(entrant.scores, entrants["base"].scores, rows, seed) if name != "base" else None
    against_start = _rate(entrant.scores, entrants[start].scores, rows, seed) if start else None
    excess_P = _excess(entrant, rows)
    beyond = None
    if name not in {"base", "sft"}:
        beyond = mean_interval(excess_P - _excess(entrants["sft"], rows), seed=seed, clusters=_grouping(rows).clusters)
    bleu = corpus_bleu(entrant.answers.texts, [str(row.reference) for row in rows])
    end = finished.get(name)
    return {
        "entrant": name,
        "start": start,
        "win_rate": against_base.rate if against_base else 50.0,
        "low": against_base.low if against_base else None,
        "high": against_base.high if against_base else None,
        "vs_start": against_start.rate - 50 if against_start else None,
        "vs_start_low": against_start.low - 50 if against_start else None,
        "vs_start_high": against_start.high - 50 if against_start else None,
        "bleu4": bleu.bleu4 if bleu else None,
        "perplexity": entrant.answers.perplexity,
        "mean_length": float(np.mean([a.num_tokens for a in entrant.answers.answers])),
        "excess_length": float(excess_P.mean()),
        "excess_vs_sft": beyond.mean if beyond else None,
        "excess_vs_sft_low": beyond.low if beyond else None,
        "excess_vs_sft_high": beyond.high if beyond else None,
        "steps_clipped": _steps_clipped(end) if end else None,
        "minutes": end["seconds"] / 60 if end else None,
        "peak_mib": end["peak_mib"] if end else None,
    }


def _steps_clipped(end: Mapping[str, Any]) -> float | None:
    """Share of a finished run's steps whose gradient was clipped, in percent."""
    found = end.get("tally", {}).get("grad_clipped")
    return 100 * found["steps"] / found["of"] if found else None


def notes(table: Sequence[Mapping[str, Any]]) -> str:
    """What has to be said about the table."""
    whole = [row["entrant"] for row in table if row["steps_clipped"] == 100]
    if not whole:
        return NOTE
    return (
        f"{NOTE} Every step of {', '.join(whole)} was clipped to a gradient norm of 1: there the gradient's direction "
        "counted and its length did not."
    )


def _extra(name: str, entrants: Mapping[str, Entrant], rows: Sequence[Row], seed: int) -> dict[str, Any]:
    """What the printed table and the report show beside table.json's columns."""
    entrant = entrants[name]
    second = _rate(entrant.second, entrants["base"].second, rows, seed) if name != "base" else None
    return {
        "repetition": repetition(entrant.answers.texts),
        "second_opinion": second.rate if second else None,
        "second_low": second.low if second else None,
        "second_high": second.high if second else None,
        "own_length": float(np.mean([a.num_tokens for a in entrant.own.answers])),
        "own_repetition": repetition(entrant.own.texts),
        "own_perplexity": entrant.own.perplexity,
        "score": float(np.mean([s.value for s in entrant.scores if isinstance(s, Scored)])),
    }


def _rate(ours: Sequence[Scored | Missing], theirs: Sequence[Scored | Missing], rows: Sequence[Row], seed: int) -> Any:
    """The win rate on the first of the rows, as many as have scores; prompts of one template are resampled together."""
    from alignkit.plugin import values

    return _grouping(rows[: len(ours)]).rate(outcomes(values(ours), values(theirs)), seed=seed, level=LEVEL)


def _grouping(rows: Sequence[Row]) -> Any:
    return find_clusters([row.fields for row in rows], [row.id for row in rows], column=None)


def _excess(entrant: Entrant, rows: Sequence[Row]) -> np.ndarray:
    """max(0, length - reference length) of each answer, tokens, end tokens included."""
    chat = _tokenizer()
    reference_P = [len(chat(str(row.reference), add_special_tokens=False)["input_ids"]) + 1 for row in rows]
    return np.array(
        [max(0, a.num_tokens - r) for a, r in zip(entrant.answers.answers, reference_P, strict=True)], float
    )


def _tokenizer() -> Any:
    return load_tokenizer(embedded.folder())
