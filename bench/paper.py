"""The paper's five on rows of UltraFeedback's shape, at its ratios, and what can be told of its claims.

    python -m bench.paper --data ROWS --out DIR [--judge-data ROWS] [--seeds 3] [--plan] [--tiny] [--json FILE]

ROWS is a file or a hub name; nothing of it is kept outside DIR. Three parts of it share no prompt: a third of the
prompts trains a reward model that judges, a sixth is asked for the table, the rest trains the five. GRPO's reward is
another reward model, of the training rows. --judge-data are further rows that train the judge: a few hundred pairs
teach it little. Everything goes on by the same command after a kill, a seed a night if need be: `--seeds 1`, then 2,
then 3 into the same DIR.

Kept at the paper's ratios: epochs (10 and 3), steps with the length penalty while early stopping waits (20), the
equations by the letter, four samples of 50 prompts, batches of 2 and 4, learning rates, beams. Smaller: rows, prompts,
GRPO's steps, tokens; early stopping waits one epoch (the paper's 2,000 steps are an eighth of one: fewer than a
validation here). Rows whose prompt takes more than half of a row are left out, and all columns but UltraFeedback's.

--plan measures steps and says the minutes of one seed, on this machine, before anything is trained. --tiny is the same
in a few steps, to see that it works; what it says of the claims is nothing.

A claim is a difference of two entrants' win rates by the tournament's own interval (family-wise over all pairs), or, of
the base where it is the opponent itself, the distance of a win rate from 50. "holds" and "does not hold" need an
interval that leaves 0 out; else it cannot be told at this size. Noisier is the ratio of two variances over seeds, with
its F interval (normal runs), which needs three seeds.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import f

from alignkit.data.prepared.selection import prompt_key
from alignkit.data.reading.read import read_rows
from alignkit.data.reading.rows import Row
from alignkit.pretrained.names import find_model
from alignkit.pretrained.read import load_tokenizer
from alignkit.registry import registry
from alignkit.runs import is_finished, read_run
from bench.commit import commit

MODEL = "SmolLM2-135M-Instruct"
MOST_MINUTES = 150
_PARTS = ("judge-rows", "judge-rows", "test-rows", "rows", "rows", "rows")  # a sixth of the prompts each
_COLUMNS = ("id", "prompt", "prompt_id", "chosen", "rejected", "messages", "score_chosen", "score_rejected")
_PENALTIES_OF_PATIENCE = 20  # steps with the penalty while early stopping waits: 2,000 / 100
_TEMPLATE_TOKENS = 12  # of a message, about


@dataclass(frozen=True)
class Size:
    """How much smaller than the paper it is."""

    rows: int = 120
    judge_rows: int = 1600
    prompts: int = 96
    grpo_steps: int = 100
    max_length: int = 256
    max_new_tokens: int = 128
    num_beams: int = 4
    epochs: tuple[int, int] = (10, 3)


TINY = Size(32, 24, 6, 2, 128, 8, 2, (1, 1))


@dataclass(frozen=True)
class Claim:
    """One of the paper's claims, and what the table says of it: in points, or a ratio of variances."""

    claim: str
    printed: str
    answer: str
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    prompts: int = 0
    seeds: int = 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="rows: a file or a hub name")
    parser.add_argument("--judge-data", help="further rows that train the judge")
    parser.add_argument("--out", type=Path, required=True, help="where everything lies")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--vs", default="base", help="the opponent; the paper's is Qwen/Qwen2.5-0.5B-Instruct")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, help="training rows")
    parser.add_argument("--plan", action="store_true", help="say the minutes of a seed, and train nothing")
    parser.add_argument("--tiny", action="store_true", help="a few steps of everything")
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    size = TINY if given.tiny else Size()
    size = size if given.rows is None else Size(**asdict(size) | {"rows": given.rows})
    given.out.mkdir(parents=True, exist_ok=True)
    num_rows, num_judge = write_rows(given.data, given.judge_data, given.out, size, model=given.model)
    text = tournament_file(given.out, size, model=given.model, vs=given.vs, num_rows=num_rows)
    file = given.out / "paper.toml"
    file.write_text(text, encoding="utf-8")
    if given.plan:
        return plan(given.out, file, size, num_judge)
    accuracy = train_judge(given.out, size, model=given.model)
    folder, code = given.out / "tournament", 0
    for seeds in range(1, given.seeds + 1):
        words = ["tournament", str(file), "--out", str(folder), "--seeds", str(seeds)]
        code = _alignkit(*words, "--judge", str(given.out / "judge"))
        if code not in (0, 3) or not (folder / "table.json").exists():  # 3: a run failed, and the table says so
            return code
        drop_checkpoints(folder)
    claims = claims_of(folder, vs=given.vs)
    print(f"\nThe judge orders {100 * accuracy:.0f} % of the pairs that it was validated on as the rows do.")
    for claim in claims:
        print(_line(claim))
    content = {"claims": [asdict(claim) for claim in claims], "judge_accuracy": accuracy, "commit": commit()}
    content |= {"size": asdict(size), "model": given.model, "vs": given.vs, "tiny": given.tiny}
    for path in (given.out / "claims.json", given.json):
        if path is not None:
            path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return code


def write_rows(data: str, judge_data: str | None, out: Path, size: Size, *, model: str) -> tuple[int, int]:
    """Write the rows that train, those of the judge and those of the table; they share no prompt.

    Returns:
        How many rows train, and how many train the judge.
    """
    kept: dict[str, list[str]] = {part: [] for part in _PARTS}
    wanted = {"judge-rows": size.judge_rows, "test-rows": size.prompts, "rows": size.rows}
    tokenizer = load_tokenizer(find_model(model, tokenizer_is_enough=True).folder)

    def num_tokens(message: Mapping[str, Any]) -> int:
        return len(tokenizer(str(message["content"]), add_special_tokens=False)["input_ids"]) + _TEMPLATE_TOKENS

    def add(row: Row, part: str) -> None:
        if row.rejected is None or row.chosen == row.rejected or len(kept[part]) >= wanted[part]:
            return
        if sum(map(num_tokens, row.prompt)) <= size.max_length // 2:
            columns = {name: row.fields[name] for name in _COLUMNS if name in row.fields}
            kept[part].append(json.dumps(columns, ensure_ascii=False) + "\n")

    asked = set()
    for row in read_rows(data):
        asked.add(key := prompt_key(row))
        add(row, _PARTS[int(hashlib.sha256(key.encode()).hexdigest(), 16) % len(_PARTS)])
    for row in read_rows(judge_data) if judge_data else ():
        if prompt_key(row) not in asked:
            add(row, "judge-rows")
    for part, lines in kept.items():
        (out / f"{part}.jsonl").write_text("".join(lines), encoding="utf-8")
    return len(kept["rows"]), len(kept["judge-rows"])


def tournament_file(out: Path, size: Size, *, model: str, vs: str, num_rows: int) -> str:
    """The tournament: each method's presets "paper" and "letter", and what is smaller over them."""
    epoch = max(2, num_rows // 4)
    sft_epochs, dpo_epochs = size.epochs
    penalty_interval = max(2, epoch // _PENALTIES_OF_PATIENCE)
    halves = {"validation_interval": epoch // 2, "checkpoint_interval": epoch // 2, "early_stopping_steps": epoch}
    own: dict[str, dict[str, object]] = {
        "sft": halves | {"epochs": sft_epochs},
        "sft-lenpen": halves | {"epochs": sft_epochs, "penalty_interval": penalty_interval},
        "dpo": halves | {"epochs": dpo_epochs, "start": "sft"},
        "reward": {"epochs": 1},
        "grpo": {"max_steps": size.grpo_steps, "start": "sft", "reward": ["reward"], "validation_interval": 20},
    }
    lines = [
        f"[model]\nmodel = {json.dumps(model)}",
        f'[data]\ndata = {json.dumps(str((out / "rows.jsonl").resolve()))}\nsplit = "0.1"',
        f'max_length = {size.max_length}\ntruncation = "cut-completion"\nmax_skipped = 0.2',
        f"[judge]\nnum_prompts = {size.prompts}\nnum_beams = {size.num_beams}\nlength_penalty = 0.9",
        f"max_new_tokens = {size.max_new_tokens}\ntemperature = 0.0",
        f"[tournament]\nvs = {json.dumps(list(dict.fromkeys([vs, 'base', 'start'])))}",
        f"test = {json.dumps(str((out / 'test-rows.jsonl').resolve()))}",
    ]
    for name, options in own.items():
        presets = registry().find("method", name).presets
        table = {**presets.get("paper", {}), **presets.get("letter", {}), **options}
        table |= {"max_new_tokens": size.max_new_tokens, "sample_interval": 10_000}
        table = {key: value for key, value in table.items() if key != "seed" and value is not None}
        lines += [f"[entrants.{name}]", *(f"{key} = {_toml(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def train_judge(out: Path, size: Size, *, model: str) -> float:
    """Train the judge on its own rows, or take it as it is; returns its accuracy on the rows that it validated on."""
    words = ["train", "reward", "--model", model, "--data", str(out / "judge-rows.jsonl"), "--out", str(out / "judge")]
    words += ["--max-length", str(size.max_length), "--truncation", "cut-completion", "--max-skipped", "0.2"]
    resume = ["--resume"] if (out / "judge").exists() else []
    if (code := _alignkit(*words, "--split", "0.2", "--epochs", "1", "--learning-rate", "5e-5", *resume)) != 0:
        raise SystemExit(code)
    lines = [json.loads(line) for line in (out / "judge" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    found = [line["value"] for line in lines if line["name"] == "validation/accuracy"]
    return float(found[-1]) if found else float("nan")


def plan(out: Path, file: Path, size: Size, num_judge: int) -> int:
    """Print the tournament's plan for one seed, and the minutes with the judge; 3 where that is too long."""
    from alignkit.api import tournaments
    from alignkit.progress import Silent

    made = tournaments.made_of(file, options={"judge": "reward", "seeds": 1})  # its own judge is not trained yet
    folder = out / "tournament"
    lines = tournaments.tournament_plan(made, folder, jobs=1, yes=False, progress=Silent())
    print(*lines, sep="\n")
    measured = json.loads((folder / "measured.json").read_text(encoding="utf-8"))
    step = next(step for key, step in measured.items() if json.loads(key)[0] == "reward")
    batch_size = registry().find("method", "reward").Config().batch_size
    judge_s = num_judge / batch_size * step["seconds"] + step["beside_s"]
    whole = next(line for line in lines if line.startswith("in all about "))
    minutes = judge_s / 60 + _minutes(whole.removeprefix("in all about ").partition(",")[0])
    print(f"one seed with the judge, which is trained once: {minutes:.0f} minutes on this machine")
    if minutes > MOST_MINUTES:
        print(f"that is more than {MOST_MINUTES}: give fewer --rows")
    return 0 if minutes <= MOST_MINUTES else 3


def _minutes(said: str) -> float:
    """Minutes of a duration in words: "1 h 20 min"."""
    unit = {"d": 1440, "h": 60, "min": 1, "s": 1 / 60}
    words = said.split()
    return sum(float(number) * unit[name] for number, name in zip(words[::2], words[1::2], strict=True))


def drop_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of finished runs: of one seed they take some 20 GB, and nothing reads them again."""
    for run in folder.glob("*/run.json"):
        if is_finished(run.parent, read_run(run.parent)):
            shutil.rmtree(run.parent / "checkpoints", ignore_errors=True)


def claims_of(folder: Path, *, vs: str) -> list[Claim]:
    """What a finished table says of the paper's claims."""
    from alignkit.tournaments.results import Results

    table = json.loads((folder / "table.json").read_text(encoding="utf-8"))
    results = Results.read(folder / "results.json")
    return [
        _lower(table, "SFT is below the base", "43.8 against 50.0", vs=vs),
        _difference(table, "the length penalty helps SFT", "54.9 against 43.8", "sft-lenpen", "sft"),
        _difference(table, "DPO is over SFT", "59.3 against 43.8", "dpo", "sft"),
        _difference(table, "GRPO is over DPO", "61.1 against 59.3", "grpo", "dpo"),
        _noisier(results, "GRPO is noisier than DPO", "in words"),
    ]


def _difference(table: Mapping[str, Any], claim: str, printed: str, better: str, worse: str) -> Claim:
    """A difference of two win rates by the table's own interval."""
    pair = next((p for p in table["pairs"] if {p["first"], p["second"]} == {better, worse}), None)
    if pair is None:
        return Claim(claim, printed, "cannot be told: one of them has no outcomes")
    sign = 1 if pair["first"] == better else -1
    low, high = sorted((sign * pair["low"], sign * pair["high"]))
    is_first = pair["first"] == better
    answer = "cannot be told at this size"
    if pair["is_told_apart"]:
        answer = "holds" if is_first else "does not hold"
    return Claim(claim, printed, answer, sign * pair["difference"], low, high, pair["num_prompts"], pair["num_seeds"])


def _lower(table: Mapping[str, Any], claim: str, printed: str, *, vs: str) -> Claim:
    if vs != "base":
        return _difference(table, claim, printed, "base", "sft")
    cell = next(m for m in table["measures"] if m["key"] == "win_rate")["cells"].get("sft")
    if cell is None or cell["mean"] is None:
        return Claim(claim, printed, "cannot be told: sft has no outcomes")
    low, high = cell["low"] - 50, cell["high"] - 50
    answer = "holds" if high < 0 else "does not hold" if low > 0 else "cannot be told at this size"
    return Claim(claim, printed, answer, cell["mean"] - 50, low, high, cell["num_prompts"], cell["num_seeds"])


def _noisier(results: Any, claim: str, printed: str) -> Claim:
    """The ratio of two entrants' variances over seeds: its 95 % interval by the F distribution."""
    rates = {}
    for name in ("grpo", "dpo"):
        run_SP = results.outcome_ESVP[results.names.index(name), :, 0]
        rates[name] = np.array([np.nanmean(x) for x in run_SP if not np.isnan(x).all()])
    num = min(map(len, rates.values()))
    if num < 3 or rates["dpo"].var() == 0:
        return Claim(claim, printed, "cannot be told: three seeds are needed", seeds=num, prompts=len(results.prompts))
    ratio = float(rates["grpo"].var(ddof=1) / rates["dpo"].var(ddof=1))
    freedom = len(rates["grpo"]) - 1, len(rates["dpo"]) - 1
    low, high = (ratio / float(f.ppf(q, *freedom)) for q in (0.975, 0.025))
    answer = "holds" if low > 1 else "does not hold" if high < 1 else "cannot be told at this size"
    return Claim(claim, printed, answer, ratio, low, high, len(results.prompts), num)


def _line(claim: Claim) -> str:
    if claim.difference is None or claim.low is None or claim.high is None:
        return f"{claim.claim}: {claim.answer} (printed: {claim.printed})"
    shown = (f"{x + 0.0:.2f}" for x in (claim.difference, claim.low, claim.high))  # 0, not -0
    interval = "{} ({} to {})".format(*shown)
    size = f"{claim.prompts} prompts, {claim.seeds} seeds"
    return f"{claim.claim}: {claim.answer}; {interval}; {size} (printed: {claim.printed})"


def _alignkit(*words: str) -> int:
    """Call the command line; what it says goes where this script's own output goes."""
    sys.stdout.flush()
    return subprocess.run([sys.executable, "-m", "alignkit", *words], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
