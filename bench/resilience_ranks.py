"""Kills one of several ranks at random moments: the others end and say so, and what goes on ends as if none was killed.

    python -m bench.resilience_ranks --kills 40 --json bench/results/resilience_ranks.json

As `bench.resilience`, on two gloo ranks: a random rank is killed (SIGKILL) either after a random while or at a random
file operation on checkpoints; the other must end by itself, with exit code 3, unless it still waits for the killed one
to join: there torchrun ends it, and so does this. Resumed on two ranks, weights and metrics
(but for times) must equal the run's that was never killed, to the bit. Runs of sft, dpo, sft-lenpen and reward.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from bench.resilience import Outcome, difference, report, work, write_inputs
from tests.helpers.fork_ranks import fork_ranks
from tests.helpers.forked import die_before, import_same, in_child, last_line

RANKS = 2
METHODS = ("sft", "sft-lenpen", "dpo", "reward")
_MAX_EVENTS = 40  # file operations of one rank on checkpoints, about


def main() -> int:
    """Run the campaign; exit code 1 where a killed run ended otherwise than its twin, or a rank did not end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=40, help="over all methods together")
    parser.add_argument("--quick", action="store_true", help="8 kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    given.kills = 8 if given.quick else given.kills
    started = time.monotonic()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ |= {"ALIGNKIT_LEDGER": str(folder / "ledger.sqlite"), "ALIGNKIT_CACHE": str(folder / "cache")}
        in_child(partial(write_inputs, folder), log=folder / "inputs.log")
        shares = [given.kills // len(METHODS) + (n < given.kills % len(METHODS)) for n in range(len(METHODS))]
        outcomes: dict[str, Outcome] = {}
        for method, share in zip(METHODS, shares, strict=True):
            outcomes[method] = _campaign(method, share, folder, random.Random(f"{given.seed} {method}"))
            print(method, outcomes[method], file=sys.stderr, flush=True)
    return report(outcomes, time.monotonic() - started, given)


def _campaign(method: str, kills: int, folder: Path, chance: random.Random) -> Outcome:
    """Kill ranks of one method's runs `kills` times in all; each run at most four times before it may end."""
    outcome = Outcome()
    warm, modules = partial(work, method, folder, folder / f"{method}-warm"), folder / "modules.txt"
    in_child(warm, log=folder / "log.txt", modules=modules)
    import_same(modules)

    def log(rank: int) -> Path:
        return folder / f"log.{rank}.txt"

    whole = folder / f"{method}-whole"
    began = time.monotonic()
    if fork_ranks(RANKS, partial(work, method, folder, whole), log=log) != [0] * RANKS:
        raise SystemExit(f"{method}: the run that is not killed failed:\n{log(0).read_text(encoding='utf-8')}")
    length_s = time.monotonic() - began
    while outcome.kills < kills:
        outcome.runs += 1
        out = folder / f"{method}-{outcome.runs}"
        training = partial(work, method, folder, out)
        for _ in range(min(chance.randint(1, 4), kills - outcome.kills)):
            rank = chance.randrange(RANKS)
            in_folder = chance.random() < 0.5
            if in_folder:
                dying = partial(die_before, chance.randint(1, _MAX_EVENTS), str(out / "checkpoints"))
                codes = fork_ranks(RANKS, training, log=log, before={rank: dying})
            else:
                codes = fork_ranks(RANKS, training, log=log, kill=(rank, chance.uniform(0, 1.1 * length_s)))
            was_killed = codes[rank] == -signal.SIGKILL
            outcome.kills += was_killed
            outcome.in_folder += was_killed and in_folder
            if problem := _wrong_end(codes, rank):
                outcome.failures.append(f"run {outcome.runs} {problem}: {last_line(log(1 - rank))}")
        codes = fork_ranks(RANKS, training, log=log)
        problem = f"ended with {codes}: {last_line(log(0))}" if any(codes) else difference(whole, out)
        if problem:
            outcome.failures.append(f"run {outcome.runs} {problem}")
    return outcome


def _wrong_end(codes: list[int], killed: int) -> str | None:
    """Say where ranks ended otherwise than they should: killed and 3, or all done."""
    if codes[killed] == -signal.SIGKILL:
        others = [code for rank, code in enumerate(codes) if rank != killed]
        return None if set(others) <= {0, 3, -signal.SIGKILL} else f"left {others}"
    return f"ended with {codes}" if any(codes) else None


if __name__ == "__main__":
    sys.exit(main())
