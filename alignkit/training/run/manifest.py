"""What is known of a run before it begins: run.json, and the lines that account for its rows."""

from __future__ import annotations

import importlib.metadata
import math
import platform
from collections import Counter
from dataclasses import asdict
from typing import Any

import numpy as np

from alignkit.config import file as config_file
from alignkit.config.file import Resolved
from alignkit.data.looking.lengths import of_prepared
from alignkit.data.prepared.store import Stored
from alignkit.display import listed
from alignkit.distributed.ranks import World
from alignkit.methods import Method, sampled_options
from alignkit.registry import registry
from alignkit.training.inputs.setup import Inputs
from alignkit.training.loop.source import steps_per_epoch
from alignkit.training.run.resume import code_fingerprint, hardware
from alignkit.units import SAID_TIE, TIES

_SHOWN = 3  # rows that repeat others
_PACKAGES = ("alignkit", "alignkit-plugins", "torch", "transformers", "tokenizers", "peft", "safetensors", "numpy")


def describe(method: Method, resolved: Resolved, inputs: Inputs, world: World) -> dict[str, Any]:
    """What run.json holds."""
    parts: dict[str, Stored] = {"training": inputs.training, "validation": inputs.validation}
    return {
        "method": method.name,
        "config": config_file.dump(resolved),
        "preset": resolved.run.preset,
        "track": resolved.run.track,
        "sources": resolved.sources,
        "config_file": None if resolved.config_file is None else str(resolved.config_file),
        "fingerprints": {**inputs.fingerprints, "code": code_fingerprint(type(method).__module__)},
        "data_files": dict(inputs.training.notes["files"]),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "plugins": sorted({f"{p.distribution} {p.version}" for p in registry().plugins()}),
        "python": platform.python_version(),
        "hardware": hardware(world.size),
        "parent": str(inputs.source.run) if inputs.source.run else None,
        "model": str(inputs.source.adapter.folder if inputs.source.adapter else inputs.source.folder),
        "max_length": inputs.max_length,
        "rewards": [
            {
                "name": n.label,
                "judge": n.judge.name,
                "version": n.judge.version,
                "weight": n.weight,
                "verifiable": n.judge.verifiable,
                "plain_name": n.plain_label or n.label,
            }
            for n in inputs.judges
        ],
        "rows": {
            name: {
                "used": len(part.trees),
                "skipped": dict(part.skipped),
                "left_out": dict(part.left_out),
                "cut": part.num_cut,
                "dropped": part.num_dropped,
                "paired": part.num_paired,
                "ties": part.num_ties,
                "tokenized_otherwise": part.num_tokenized_otherwise,
                "ends_with_user": part.num_ends_with_user,
                "user_twice": part.num_user_twice,
                "reversed": part.num_reversed,
                "unscored": part.num_unscored,
                "lengths": [asdict(column) for column in of_prepared(part.lengths)],
                "ids": part.trees.ids(),
            }
            for name, part in parts.items()
        },
    }


def account(inputs: Inputs) -> list[str]:
    """Say what was read, cut and skipped before anything is trained."""
    lines = []
    if duplicates := inputs.training.notes["duplicates"]:
        shown = listed(inputs.training.notes["duplicate_ids"], _SHOWN, num_all=duplicates)
        done = "left out" if inputs.drops_duplicates else "kept: --set duplicates=drop leaves them out"
        repeat = "1 row repeats" if duplicates == 1 else f"{duplicates} rows repeat"
        lines.append(f"data: {repeat} an earlier one exactly ({shown}), {done}")
    for name, part in (("training", inputs.training), ("validation", inputs.validation)):
        text = f"{name}: {_taken(inputs, part) if name == 'training' else f'{len(part.trees)} rows'}"
        text += " (prepared before)" if part.from_cache else ""
        if part.num_cut:
            text += f", {part.num_cut} answers cut at {inputs.max_length} tokens"
        if part.num_dropped:
            text += f", {part.num_dropped} dropped as longer than {inputs.max_length} tokens"
        if part.num_tokenized_otherwise:
            text += f", {part.num_tokenized_otherwise} whose whole text tokenizes otherwise"
        if part.num_ends_with_user:
            text += f", {part.num_ends_with_user} conversations that end with the user (their answers are trained on)"
        if part.num_user_twice:
            text += f", {part.num_user_twice} with two user turns in a row"
        if count := part.num_reversed:
            pairs = "1 pair" if count == 1 else f"{count} pairs"
            text += f", {pairs} whose scores (or margin) prefer the rejected answer; they are trained as they stand"
        if part.num_paired:
            text += f", {part.num_paired} of them a good and a bad answer to the same prompt (labelled rows)"
        if part.num_unscored:
            text += f", {part.num_unscored} of them without the scores that --min-margin reads"
        if ties := part.num_ties:
            done = "trained on" if part.num_ties_kept else "left out"
            why = "equal scores"
            if part.num_ties_kept or SAID_TIE in part.left_out.values():
                why += ", or the row says so"
            text += f", {ties} tie{'' if ties == 1 else 's'} ({why}) {done}"
        if others := Counter(reason for reason in part.left_out.values() if reason not in TIES):
            said = "; ".join(f"{count} {reason}" for reason, count in others.most_common())
            text += f", {others.total()} left out on purpose ({said})"
        if part.skipped:
            found = [f"{count} {reason}" for reason, count in Counter(part.skipped.values()).most_common(3)]
            text += f", {len(part.skipped)} skipped ({'; '.join(found)}; listed in run.json)"
        if not part.trees:
            text += ": nothing is validated; --split holds other rows back"
        lines.append(text)
    for column, lengths in inputs.training.lengths.items():
        middle, high, highest = np.quantile(lengths, [0.5, 0.9, 0.99])
        lines.append(
            f"{column}: {middle:.0f} tokens at the median, {high:.0f} at 90 %, {highest:.0f} at 99 %, "
            f"{lengths.max()} longest"
        )
    return lines


def steps_line(method: Method, resolved: Resolved, inputs: Inputs) -> str:
    """Say how long the run is, and which rows it leaves out or sees several times."""
    config, num_rows = resolved.method, len(inputs.training.trees)
    updates = sampled_options(config).updates_per_batch if method.trains_on.is_sampled else 1
    planned = config.planned_steps(steps_per_epoch(num_rows, config.batch_size) * updates)
    seen = math.ceil(planned / updates) * config.batch_size
    if seen < num_rows:
        left = f"--max-steps {config.max_steps} leaves {num_rows - seen:,} of {num_rows:,} rows out"
        return f"steps: {planned:,} of {config.batch_size} rows; {left}"
    passes = f"{config.epochs:g}" if config.max_steps is None else f"{seen / num_rows:.3g}"
    why = "" if config.max_steps is None else f", by --max-steps; --epochs {config.epochs} is not read"
    times = "once" if passes == "1" else f"{passes} times"
    return f"steps: {planned:,} of {config.batch_size} rows; each row is seen {times}{why}"


def _taken(inputs: Inputs, training: Stored) -> str:
    """How many rows train, of how many, where an option leaves some out; rows past --limit are not read, nor counted.

    Rows that an older version prepared have no such counts.
    """
    of, options = "", []
    available, limit = training.notes.get("num_drawn_from", 0), inputs.limit
    if inputs.num_prompts is not None and inputs.num_prompts < available:
        of = f" of {available}"
        options.append(f"--num-prompts {inputs.num_prompts}")
    if limit is not None and training.notes.get("num_read", 0) == limit:
        options.append(f"--limit {limit}: only the first {limit} were read")
    return f"{len(training.trees)}{of} rows" + (f" ({'; '.join(options)})" if options else "")
