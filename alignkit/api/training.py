"""Train a model, or say what that needs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from alignkit.api.runs import Run, write_report
from alignkit.config import file as config_file
from alignkit.errors import AlignkitError, RunStopped, UsageError
from alignkit.progress import Progress, Silent, is_first_rank, phase, watched_by
from alignkit.registry import registry
from alignkit.runs import FILE as RUN_FILE
from alignkit.scoring.functions.given import names_of
from alignkit.units import Pairs


def train(
    method: str,
    *,
    config: Path | None = None,
    set: Sequence[str] = (),
    like: Path | None = None,
    progress: Progress | None = None,
    **options: object,
) -> Run:
    """Train a model with a method.

    Args:
        method: a method's name, as `alignkit train` takes it.
        config: the file to read instead of ./alignkit.toml.
        set: texts KEY=VALUE over the file.
        like: a run whose configuration this one starts from.
        options: any option of `alignkit train METHOD --help`, by its Python name; `preset` is one of the method's.
            `reward` may be a function (completion: str, row: dict) -> float | None, or a list with such: it runs in
            this process (alignkit.scoring.functions.given says what that means).

    Raises:
        AlignkitError: a wrong option or input, a stopped run, an interruption.
    """
    cls = registry().find("method", method)
    if "reward" in options:
        options["reward"] = names_of(options["reward"])
    resolved = config_file.resolve(cls, options=options, config=config, settings=set, like=like)
    if resolved.run.plan:
        text = f"call alignkit.api.plan({method!r}, ...), or type alignkit train {method} --plan"
        raise UsageError(f"train(plan=True) trains nothing: {text}")
    from alignkit.training.run.train_run import train_run

    progress = progress or Silent()
    is_judged = "scalar_head" not in cls.needs
    foresee = partial(_foreseen, is_default=resolved.data.split is None) if is_judged else _nothing
    run = Run(train_run(cls(), resolved, progress=progress, foresee=foresee))
    if is_first_rank() and _is_older(run.path / "report.html", run.path / RUN_FILE):
        with watched_by(progress), phase("writing the report"):
            write_report(run.path)
    return run


def _is_older(file: Path, other: Path) -> bool:
    """Whether a file is missing, or was last written before the other one."""
    return not file.exists() or file.stat().st_mtime_ns < other.stat().st_mtime_ns


def _foreseen(training: int, validation: int, *, is_default: bool) -> str | None:
    """Say before anything is trained what a verdict on the validation rows could find, where that is little.

    Args:
        is_default: the rows were split by default, so that another --split is worth a word.
    """
    from alignkit.judging.foresight import better_split, finds, validation_finds
    from alignkit.judging.planner import DIFFERENCE, prompts_for

    if validation >= prompts_for(DIFFERENCE):
        return None
    text = validation_finds(validation)
    num_all = training + validation
    if is_default and (share := better_split(num_all, validation)) is not None:
        more = round(share * num_all)
        text += f"; --split {share:g} holds back {more:,}, which find {finds(more)}"
    return f"{text}; `alignkit judge` also takes prompts of another file by --data"


def _nothing(training: int, validation: int) -> None:
    return None


def plan(
    method: str,
    *,
    config: Path | None = None,
    set: Sequence[str] = (),
    like: Path | None = None,
    longest: int | None = None,
    **options: object,
) -> list[str]:
    """Return lines that say what memory and disk a training run with these options needs; nothing is loaded.

    Args:
        longest: tokens of the data's longest row, prompt and completions, where it is known.
    """
    from alignkit.training.run.plan import plan as plan_lines

    cls = registry().find("method", method)
    resolved = config_file.resolve(cls, options=options, config=config, settings=set, like=like)
    return plan_lines(cls(), resolved, longest=longest)


def start_up_checks(model: str) -> list[dict[str, Any]]:
    """Run the start-up checks on a model with own rows: [{"name", "ok", "value", "tolerance", "unit"}].

    Raises:
        RunStopped: the model's code, a compiler or a kernel fails on the tree path.
    """
    from alignkit.config.settings import ModelSection
    from alignkit.data.chat.chat import make_chat
    from alignkit.data.prepared.tokens import prepare
    from alignkit.data.reading.rows import to_row
    from alignkit.gpu import lost_gpu
    from alignkit.memory import is_out_of_memory
    from alignkit.policy.load import load_policy, not_computed
    from alignkit.pretrained.names import find_model
    from alignkit.training.run.self_checks import run_checks

    source = find_model(model)
    chat = make_chat(source, ModelSection())
    texts = [("Name a river.", "The Rhine.", "I am not sure, there are many."), ("What is 2 + 3?", "5", "2 + 3 = 6")]
    rows = [to_row({"prompt": p, "chosen": c, "rejected": r}, where="doctor") for p, c, r in texts]
    trees = prepare(rows, chat, unit=Pairs(), max_length=512).trees
    policy = load_policy(source.folder)
    try:
        return [check.as_json() for check in run_checks(policy, trees)]
    except AlignkitError:
        raise
    except Exception as error:  # as in training: a model's code and a compiler may raise anything
        if is_out_of_memory(error) or lost_gpu(error):
            raise
        raise RunStopped(f"{model}: start-up checks failed: {not_computed(policy, error)}") from error
