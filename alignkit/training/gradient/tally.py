"""In how many of a run's steps something else than its options' weights decided: counted, kept, and said at its end.

    no_update           1 where a step had nothing to compute, so that no weight changed
    grad_clipped        1 where the gradient was longer than max_grad_norm and was scaled down to it
    grad_limited/NAME   1 where the further term NAME of a loss was scaled down to max_NAME_ratio

Each is a metric of the steps where it can happen; the tally of one is [steps where it was 1, steps that had it].
"""

from __future__ import annotations

from collections.abc import Mapping

from alignkit.methods import MethodConfig

Tally = dict[str, list[int]]
LIMITED = "grad_limited/"


def count(tally: Tally, metrics: Mapping[str, float]) -> None:
    """Add a step's metrics to the tally, in place."""
    for name, x in metrics.items():
        if name in ("no_update", "grad_clipped") or name.startswith(LIMITED):
            happened, steps = tally.get(name, [0, 0])
            tally[name] = [happened + int(x), steps + 1]


def as_json(tally: Tally) -> dict[str, dict[str, int]]:
    """What run.json says of it."""
    return {name: {"steps": happened, "of": steps} for name, (happened, steps) in tally.items()}


def lines(tally: Tally, config: MethodConfig) -> list[str]:
    """Say it, a line each; nothing of what never happened, but for the ratios, which are to be known either way."""
    said = []
    for name, (happened, steps) in tally.items():
        where = f"in {happened} of {steps} steps"
        if name.startswith(LIMITED):
            term = name.removeprefix(LIMITED)
            ratio, weight = getattr(config, f"max_{term}_ratio"), f"--{term}" if hasattr(config, term) else "its weight"
            if ratio is not None:
                option = f"--max-{term}-ratio {ratio:g}"
                said.append(f"{term}: {where} with it {option}, not {weight}, decided how strongly it pulled")
        elif name == "grad_clipped" and happened:
            alone = ": in every one its direction counted and its length did not" if happened == steps else ""
            said.append(f"the gradient was clipped to max_grad_norm {config.max_grad_norm:g} {where}{alone}")
        elif name == "no_update" and happened:
            said.append(f"no weight was changed {where}: none of their groups had different rewards")
    return said
