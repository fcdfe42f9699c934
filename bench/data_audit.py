"""What `alignkit data audit` finds of what was planted, and how long it takes.

    python -m bench.data_audit [--quick] [--json FILE]
    python -m bench.data_audit --thorough ROWS     # what running a model over so many real rows adds, and takes

    audit_s                    the command on 60,000 pairs of the real rows' lengths, no text twice, with SmolLM2-135M's
                               tokenizer and embeddings (at most 120)
    flip_precision             share of planted flips in the 5 % of pairs ranked first (at least 0.25; chance: 0.1)
    flip_lift                  planted flips in the first 10 % of pairs over those in as many drawn ones (at least 1.8)
    expected_precision_error   expected less found share of flips in the first 10 % of pairs, points (at most 5)
    duplicates_found           share of planted near-duplicates that are found (at least 0.95)
    length_bias_error          found less planted share of pairs whose longer answer is chosen, points (at most 2)

Flips are planted among the real rows: of one pair in ten, drawn by a seed, the answers are swapped, and all scores are
dropped. Figures are means over the plantings (`--quick`: 3, else 20); the mean size of the error of one planting, and
what is found where another share is flipped, stand under "settings". Near-duplicates are real rows with answers of at
least twenty words, again, with one word in ten of each answer changed for another of its words. Pairs for the length
bias are recombined real sentences (bench/texts.py), of which the longer answer is chosen in a given share; the figure
is the worst of four shares. CPU figures: on 2 CPU cores.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from alignkit.audit.surface import Compared
from bench.commit import commit
from bench.texts import ROOT, TEXTS, real_rows, write_rows

RATE = 0.1
OTHER_RATES = (0.0, 0.05, 0.2)
BIASES = (0.5, 0.6, 0.7, 0.9)
_KEPT = ("id", "prompt", "chosen", "rejected", "source")
Planting = dict[str, float]


def audit_seconds(folder: Path, count: int) -> dict[str, float]:
    """Audit generated pairs by the command, with a model: its seconds, and its peak memory."""
    from alignkit.pretrained import embedded

    write_rows(folder / "rows.jsonl", count, seed=1)
    command = [sys.executable, "-m", "alignkit", "data", "audit", "--data", str(folder / "rows.jsonl"), "--json"]
    command += ["--model", str(embedded.folder())]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    seconds, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    (folder / "rows.jsonl").unlink()
    assert json.loads(done.stdout)["rows"] == count
    return {
        "seconds": seconds,
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "peak_mib": after.ru_maxrss / 1024,
    }


def plant(folder: Path, rate: float, seed: int) -> Planting:
    """Swap the answers of a share of the real pairs, and audit the set."""
    from alignkit.audit.audit import audit

    generator = np.random.default_rng(seed)
    flipped, num_pairs = set(), 0
    with open(folder / "planted.jsonl", "w", encoding="utf-8") as file:
        for row in real_rows():
            row = {name: row[name] for name in _KEPT}
            chosen, rejected = (row[name][-1]["content"] for name in ("chosen", "rejected"))
            if chosen.strip() and rejected.strip() and chosen != rejected:
                num_pairs += 1
                if generator.random() < rate:
                    flipped.add(row["id"])
                    row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    flips = audit(str(folder / "planted.jsonl")).flips
    assert flips is not None
    is_flip = np.array([pair.id in flipped for pair in flips.listed])
    likely = is_flip[: flips.likely]
    return {
        "flip_precision": float(is_flip[: round(0.05 * num_pairs)].mean()),
        "flip_lift": float(is_flip[: round(0.1 * num_pairs)].mean()) / (len(flipped) / num_pairs) if flipped else 1.0,
        "expected": 100 * flips.expected_precision,
        "found": 100 * float(is_flip[: round(0.1 * flips.pairs)].mean()),
        "estimated_rate": flips.estimated_rate,
        "likely": float(len(likely)),
        "likely_precision": float(likely.mean()) if len(likely) else 1.0,
    }


def thorough(folder: Path, count: int) -> None:
    """Rank flips among the first real rows by the surface alone, with the model's embeddings, and with its body."""
    from alignkit.audit.body import read_body
    from alignkit.audit.embeddings import read_tokens
    from alignkit.audit.flips import suspect
    from alignkit.audit.pairs import read_pairs
    from alignkit.audit.surface import compare
    from alignkit.data.reading.read import Source
    from alignkit.pretrained import embedded
    from alignkit.progress import Silent

    rows = [{name: row[name] for name in _KEPT} for row in itertools.islice(real_rows(), count)]

    def compared(flipped: set[int]) -> Compared:
        with open(folder / "planted.jsonl", "w", encoding="utf-8") as file:
            for number, row in enumerate(rows):
                swapped = {"chosen": row["rejected"], "rejected": row["chosen"]} if number in flipped else {}
                file.write(json.dumps(row | swapped, ensure_ascii=False) + "\n")
        return compare(read_pairs(Source(str(folder / "planted.jsonl")).rows()))

    unflipped = compared(set())
    pairs, began = read_pairs(Source(str(folder / "planted.jsonl")).rows()), time.monotonic()
    body = read_body(pairs, unflipped, embedded.folder(), Silent())
    seconds = time.monotonic() - began
    tokens = read_tokens(pairs, unflipped, embedded.folder())[1]
    means = {"surface": None, "embeddings": tokens.means_PE, "body": body.means_PE}
    precision: dict[str, list[float]] = {name: [] for name in means}
    for seed in range(4):
        generator = np.random.default_rng(seed)
        flipped = set(generator.choice(unflipped.rows, round(RATE * len(unflipped.rows)), replace=False).tolist())
        planted = compared(flipped)
        is_flip_P = np.isin(planted.rows, list(flipped))
        for name, means_PE in means.items():  # a flipped pair's difference has the other sign
            side = {} if means_PE is None else {"means_PE": means_PE * np.where(is_flip_P, -1, 1)[:, None]}
            order_P = np.argsort(-suspect(replace(planted, **side)).probability_P, kind="stable")
            precision[name].append(float(is_flip_P[order_P[: round(0.05 * len(order_P))]].mean()))
    print(f"{len(unflipped.rows)} pairs, one in ten flipped; the model's body read them in {seconds:.0f} s")
    for name, found in precision.items():
        print(f"flips in the 5 % ranked first, {name:<12} {100 * np.mean(found):5.1f} %")


def duplicates(folder: Path, count: int) -> dict[str, float]:
    """Add rows that say nearly what others say, and count those that are found, and how many others are."""
    from alignkit.audit.pairs import read_pairs
    from alignkit.audit.repeats import find_repeats
    from alignkit.data.reading.read import Source

    generator = np.random.default_rng(4)
    rows = [{name: row[name] for name in _KEPT} for row in real_rows()]
    long = [row for row in rows if all(len(row[name][-1]["content"].split()) >= 20 for name in ("chosen", "rejected"))]
    with open(folder / "repeated.jsonl", "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")
        for number in generator.permutation(len(long))[:count].tolist():
            copy = long[number] | {"id": f"copy-{number}"}
            for name in ("chosen", "rejected"):
                copy[name] = [{"role": "assistant", "content": reworded(copy[name][-1]["content"], generator)}]
            file.write(json.dumps(copy) + "\n")
    pairs = read_pairs(Source(str(folder / "repeated.jsonl")).rows())
    is_found_P = find_repeats(pairs).is_duplicate_P
    return {"found": float(is_found_P[len(rows) :].mean()), "others_found": float(is_found_P[: len(rows)].sum())}


def reworded(text: str, generator: np.random.Generator) -> str:
    """Put other words of the text in the place of one in ten."""
    parts = text.split(" ")
    for place in generator.permutation(len(parts))[: max(1, len(parts) // 10)].tolist():
        parts[place] = parts[int(generator.integers(len(parts)))]
    return " ".join(parts)


def length_bias(folder: Path, share: float, count: int) -> float:
    """Found less planted share of pairs whose longer answer is chosen, in points."""
    from alignkit.audit.audit import audit

    write_rows(folder / "unbiased.jsonl", count, seed=2)
    generator = np.random.default_rng(3)
    num_longer = num_different = 0
    with open(folder / "unbiased.jsonl", encoding="utf-8") as read, open(folder / "biased.jsonl", "w") as written:
        for line in read:
            row = json.loads(line)
            answers = sorted((row.pop("chosen"), row.pop("rejected")), key=lambda answer: len(answer[0]["content"]))
            is_longer = bool(generator.random() < share)
            if len(answers[0][0]["content"]) != len(answers[1][0]["content"]):
                num_different += 1
                num_longer += is_longer
            row["rejected"], row["chosen"] = answers if is_longer else answers[::-1]
            written.write(json.dumps(row) + "\n")
    found = audit(str(folder / "biased.jsonl")).biases
    assert found is not None
    longer = next(bias for bias in found if bias.source is None and bias.feature == "longer")
    return 100 * (longer.chosen.share - num_longer / num_different)


def mean(plantings: list[Planting]) -> Planting:
    """Mean of each number over plantings."""
    return {name: float(np.mean([planting[name] for planting in plantings])) for name in plantings[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 plantings instead of 20, at one rate alone")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--rows", type=int, default=60_000, help="pairs of the timed audit")
    parser.add_argument("--thorough", type=int, metavar="ROWS", help="this alone")
    given = parser.parse_args()
    if not TEXTS.exists():
        raise SystemExit(f"{TEXTS}: the real rows are not here")
    if given.thorough is not None:
        with tempfile.TemporaryDirectory(prefix="bench-audit-") as name:
            thorough(Path(name), given.thorough)
        return
    with tempfile.TemporaryDirectory(prefix="bench-audit-") as name:
        folder = Path(name)
        timed = audit_seconds(folder, given.rows)
        print(f"{given.rows:,} pairs: {timed}", file=sys.stderr, flush=True)
        plantings = [plant(folder, RATE, seed) for seed in range(3 if given.quick else 20)]
        others = {
            str(rate): mean([plant(folder, rate, seed) for seed in range(5)])
            for rate in (() if given.quick else OTHER_RATES)
        }
        repeated = duplicates(folder, 500)
        biases = {str(share): length_bias(folder, share, 2_000) for share in BIASES}
    found = mean(plantings)
    figures = {
        "audit_s": timed["seconds"],
        "flip_precision": found["flip_precision"],
        "flip_lift": found["flip_lift"],
        "expected_precision_error": abs(found["expected"] - found["found"]),
        "duplicates_found": repeated["found"],
        "length_bias_error": max(abs(error) for error in biases.values()),
    }
    for name, value in figures.items():
        print(f"{name:<28} {value:8.3f}")
    sizes = [abs(planting["expected"] - planting["found"]) for planting in plantings]
    settings: dict[str, Any] = {
        "quick": given.quick,
        "rows": given.rows,
        "audit": timed,
        "plantings": len(plantings),
        "of_one_planting": {"expected_precision_error": float(np.mean(sizes)), **found},
        "at_other_rates": others,
        "length_bias_errors": biases,
        "duplicates": repeated,
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }
    print(f"expected precision of one planting is off by {np.mean(sizes):.1f} points; at other rates: {others}")
    if given.json is not None:
        content = {
            "figures": figures,
            "settings": settings,
            "commit": commit(),
            "versions": {
                "python": platform.python_version(),
                **{p: version(p) for p in ("alignkit", "numpy", "scipy")},
            },
            "machine": {"machine": platform.machine(), "cpus": os.cpu_count()},
        }
        given.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
