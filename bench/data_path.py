"""How fast rows become packed batches, against TRL 1.16's preparation and bare `tokenizers`.

    python -m bench.data_path [--quick] [--json FILE]

    prepare_vs_trl           rows/s, JSONL to packed rows, over TRL's in one process (at least 20)
    prepare_vs_trl_2proc     the same over TRL's with num_proc=2 (at least 8)
    prepare_vs_tokenizers    the same over bare encode_batch_fast on 2 threads on the same texts (above 1)
    pack_rows_per_s          trees packed a second, one core (at least 10 million)
    pack_fill                share of 4,096-token rows filled, all trees packed together (at least 0.999)
    mask_mb_per_s            MB of text masked a second, one core (at least 200)
    first_batch_cold_s       60,000 preference rows: from the settings to the first step's batch (at most 15)
    first_batch_cached_s     the same from the cache (at most 2)
    peak_extra_mib           peak memory of the cold one above the interpreter with its imports (at most 1,024)

FlatTexts are real sentences recombined (bench/texts.py): no whole text repeats. Each figure is the worse of SmolLM2's
and Qwen2.5's vocabulary; both are printed. Own and peer alternate, each in a fresh process; a figure is the median of
the blocks, with a 90 % interval (Student's t) in the full run. Both sides must come to the same number of tokens,
within 1 % (TRL renders what follows the end token too), or there is no figure. The peak at 20,000 and 200,000 rows
shows whether memory is flat. CPU figures: on 2 CPU cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.commit import commit
from bench.texts import ROOT, VOCABULARIES, write_answers, write_rows, write_tokenizer

HIGHER_IS_WORSE = {"first_batch_cold_s", "first_batch_cached_s", "peak_extra_mib"}
Measures = dict[str, list[float]]


def part(name: str, *, cache: Path, **arguments: Any) -> dict[str, float]:
    """Run one part of bench/data_parts.py in a fresh process."""
    code = f"from bench.data_parts import call; call({name!r}, {json.dumps(arguments)!r})"
    environment = os.environ | {"ALIGNKIT_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(model: Path, folder: Path, *, blocks: int, num_trees: int) -> Measures:
    """Measure everything with one vocabulary."""
    found: Measures = {}
    cache, answers, rows = folder / "cache", folder / "answers.jsonl", folder / "rows.jsonl"

    def add(name: str, value: float) -> None:
        found.setdefault(name, []).append(value)
        print(f"{model.name}: {name} {value:,.4g}", file=sys.stderr, flush=True)

    for _ in range(blocks):
        own = part("own", cache=cache, model=str(model), data=str(answers))
        peer = part("trl", cache=cache, model=str(model), data=str(answers), num_proc=None)
        peer_2 = part("trl", cache=cache, model=str(model), data=str(answers), num_proc=2)
        bare = part("tokenizers", cache=cache, model=str(model), data=str(answers))
        if abs(own["tokens"] / peer["tokens"] - 1) > 0.01:
            raise SystemExit(f"no figure: {own['tokens']:.0f} tokens here, {peer['tokens']:.0f} in TRL")
        add("own_rows_per_s", own["rows_per_s"])
        add("trl_rows_per_s", peer["rows_per_s"])
        add("trl_2proc_rows_per_s", peer_2["rows_per_s"])
        add("tokenizers_rows_per_s", bare["rows_per_s"])
        add("prepare_vs_trl", own["rows_per_s"] / peer["rows_per_s"])
        add("prepare_vs_trl_2proc", own["rows_per_s"] / peer_2["rows_per_s"])
        add("prepare_vs_tokenizers", own["rows_per_s"] / bare["rows_per_s"])
        for name, value in part(
            "kernels", cache=cache, model=str(model), data=str(answers), num_trees=num_trees
        ).items():
            add(name, value)
    for _ in range(max(1, blocks // 2)):
        shutil.rmtree(cache, ignore_errors=True)
        cold = part("first_batch", cache=cache, model=str(model), data=str(rows))
        warm = part("first_batch", cache=cache, model=str(model), data=str(rows))
        assert (cold["from_cache"], warm["from_cache"]) == (0.0, 1.0)
        add("first_batch_cold_s", cold["seconds"])
        add("first_batch_cached_s", warm["seconds"])
        add("peak_extra_mib", cold["peak_extra_mib"])
    return found


def memory(model: Path, folder: Path, counts: tuple[int, ...]) -> dict[str, float]:
    """Peak memory of a cold first batch at several sizes, MiB above the interpreter with its imports."""
    peaks = {}
    for count in counts:
        rows = folder / f"{count}.jsonl"
        write_rows(rows, count, seed=1)
        peaks[str(count)] = part("first_batch", cache=folder / f"cache-{count}", model=str(model), data=str(rows))[
            "peak_extra_mib"
        ]
        rows.unlink()
        shutil.rmtree(folder / f"cache-{count}")
    return peaks


def interval(values: list[float]) -> list[float] | None:
    """90 % interval of the mean by Student's t; None for fewer than 5 values."""
    if len(values) < 5:
        return None
    from scipy.stats import t

    half = t.ppf(0.95, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return [statistics.mean(values) - half, statistics.mean(values) + half]


def show(
    measured: dict[str, Measures], medians: dict[str, dict[str, float]], peaks: dict[str, float]
) -> dict[str, float]:
    """Print the table; returns the figures, each the worse of the vocabularies."""
    figures = {}
    print(f"{'':<24}" + "".join(f"{v:>14}" for v in VOCABULARIES) + f"{'figure':>14}   90 % interval")
    for name in medians[VOCABULARIES[0]]:
        values = [medians[v][name] for v in VOCABULARIES]
        worse = max(values) if name in HIGHER_IS_WORSE else min(values)
        if not name.endswith("rows_per_s") or name == "pack_rows_per_s":
            figures[name] = worse
        bounds = interval(measured[VOCABULARIES[values.index(worse)]][name])
        shown = "" if bounds is None else f"   {bounds[0]:,.4g} to {bounds[1]:,.4g}"
        print(f"{name:<24}" + "".join(f"{x:>14,.4g}" for x in values) + f"{worse:>14,.4g}{shown}")
    for count, peak in peaks.items():
        print(f"peak at {int(count):,} rows: {peak:,.0f} MiB above the interpreter with its imports")
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one block instead of five")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--rows", type=int, default=60_000, help="preference rows of the first batch")
    parser.add_argument("--peer-rows", type=int, default=20_000, help="rows prepared by both sides")
    given = parser.parse_args()
    blocks = 1 if given.quick else 5
    folder = Path(tempfile.mkdtemp(prefix="bench-data-"))
    try:
        write_rows(folder / "rows.jsonl", given.rows)
        write_answers(folder / "answers.jsonl", folder / "rows.jsonl", given.peer_rows)
        measured: dict[str, Measures] = {}
        peaks: dict[str, float] = {}
        for vocabulary in VOCABULARIES:
            model = write_tokenizer(folder / vocabulary, vocabulary)
            measured[vocabulary] = measure(model, folder, blocks=blocks, num_trees=10_000_000)
            if vocabulary == VOCABULARIES[0]:
                peaks = memory(model, folder, (20_000, 200_000))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    medians = {v: {name: statistics.median(x) for name, x in found.items()} for v, found in measured.items()}
    figures = show(measured, medians, peaks)
    content = {
        "figures": figures,
        "settings": {
            "quick": given.quick,
            "blocks": blocks,
            "rows": given.rows,
            "peer_rows": given.peer_rows,
            "by_vocabulary": medians,
            "intervals": {v: {n: interval(x) for n, x in found.items()} for v, found in measured.items()},
            "peak_mib_by_rows": peaks,
        },
        "commit": commit(),
        "versions": {
            "python": platform.python_version(),
            **{p: version(p) for p in ("alignkit", "tokenizers", "transformers", "trl", "datasets")},
        },
        "machine": {"machine": platform.machine(), "cpus": os.cpu_count()},
    }
    if given.json is not None:
        given.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
