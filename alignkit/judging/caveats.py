"""What weakens a verdict: prompts that the model was trained or chosen on, a judge that also gave the reward.

Each caveat is a sentence in the verdict; none changes the answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from alignkit.data.looking.overlap import overlap
from alignkit.data.prepared.selection import prompt_key
from alignkit.data.reading.read import is_data, read_rows
from alignkit.data.reading.rows import Row
from alignkit.data.reading.same_data import difference
from alignkit.errors import AlignkitError, InputError
from alignkit.runs import DataSettings, Reward, RunRecord, holds_run, read_run
from alignkit.scoring.ledger import judge_sha256
from alignkit.scoring.specs import NamedJudge

if TYPE_CHECKING:
    from alignkit.judging.answers import Answers
    from alignkit.judging.prompts import Prompts
    from alignkit.pretrained.names import ModelSource

# words of models' names that say nothing of who made them
_NO_FAMILY = frozenset(
    "instruct chat base model super mini small large tiny preview turbo meta fast pro lite latest sft dpo grpo reward "
    "bit awq gptq gguf fp16 bf16 int main the run final adapter merged".split()
)

_PRECISIONS = ("auto", "bf16", "fp32")


def caveats_of(
    source: ModelSource, vs: ModelSource, prompts: Prompts, named: NamedJudge, ours: Answers, theirs: Answers
) -> list[str]:
    """Say everything about this comparison that weakens its verdict, a sentence each, what matters most first."""
    gave_reward = judge_gave_reward(source.run, named)
    caveats = [] if named.judge.verifiable else gave_reward
    if source.folder.resolve() == vs.folder.resolve():
        caveats.append("a model against itself, under another sampling seed where it samples: what chance alone makes")
    if len(prompts.rows) == 1:
        caveats.append("one prompt only: nothing can be said of others")
    caveats += [*prompts.caveats, *judge_is_kin(source, vs, named)]
    if source.run is not None:
        caveats += judged_other_runs(source.run, fingerprint=prompts.fingerprint)
    repeated = len(prompts.rows) - len(set(prompts.keys))
    if repeated:
        caveats.append(f"{repeated} of {len(prompts.rows)} prompts repeat another; copies are resampled together")
    empty = [sum(not text.strip() for text in side.texts) for side in (ours, theirs)]
    if any(empty):
        caveats.append(
            f"empty answers: {empty[0]} of {source.name}, {empty[1]} of {vs.name}; they are judged as they are"
        )
    return caveats + (gave_reward if named.judge.verifiable else [])


def rows_of(settings: DataSettings, data: str | None = None) -> list[Row]:
    """Read a run's rows again: of its data, or of the validation data that its split names.

    Raises:
        InputError: its data is no longer there.
    """
    if data is not None:
        return read_rows(data, columns=settings.read_as)
    path = Path(settings.data)
    if path.suffix and not path.exists() and path.is_absolute():
        raise InputError(f"{path}: the data of the run is no longer there; give prompts with --data")
    return read_rows(settings.data, columns=settings.read_as, limit=settings.limit)


def seen_in_training(rows: Sequence[Row], run: Path, *, name: str) -> list[str]:
    """Say how many judged prompts the run was trained on, word for word or nearly, or its checkpoint chosen on."""
    record = read_run(run)
    try:
        settings = record.config.data
        rows_read = rows_of(settings)  # of a split by a file each part's ids are of its own file
        apart = rows_of(settings, settings.split) if settings.split and is_data(settings.split) else rows_read
        changed = difference(record)
    except AlignkitError as error:
        return [f"whether judged prompts were in the training set of {name} could not be checked: {error}"]
    keys = [prompt_key(row) for row in rows]
    trained, held = set(record.rows.training.ids), set(record.rows.validation.ids)
    parts = {
        "training": {prompt_key(row) for row in rows_read if row.id in trained},
        "validation": {prompt_key(row) for row in apart if row.id in held},
    }
    caveats = []
    if changed:
        caveats.append(f"{changed}; more of the judged prompts may be in the training set of {name} than are found")
    common = sum(key in parts["training"] for key in keys)
    if common:
        caveats.append(f"{common} of {len(rows)} judged prompts are in the training set of {name}")
    near = overlap((row for row in rows_read if row.id in trained), rows)
    others = len(
        {found.id for found in near.found}
        - {row.id for row, key in zip(rows, keys, strict=True) if key in parts["training"]}
    )
    if others:
        caveats.append(
            f"{others} of {len(rows)} judged prompts share at least {100 * near.threshold:.0f} % of their runs of "
            f"{near.size} words with the training set of {name} (alignkit data overlap lists them)"
        )
    if record.options.get("early_stopping_steps"):
        common = sum(key in parts["validation"] for key in keys)
        if common:
            caveats.append(
                f"{common} of {len(rows)} judged prompts also chose the checkpoint of {name} (early stopping)"
            )
    return caveats


def judge_gave_reward(run: Path | None, named: NamedJudge) -> list[str]:
    """A model whose training reward was a learned or remote judge needs another one to decide; so has its parents'."""
    caveats: list[str] = []
    seen: set[Path] = set()
    while run is not None and run not in seen and holds_run(run):
        seen.add(run)
        try:
            record = read_run(run)
        except InputError as error:
            return [*caveats, f"whether {named.label!r} also gave the training reward of {run} is not known: {error}"]
        same = [reward for reward in record.rewards if _is_same(reward, record, named)]
        whose = "the training reward" if len(seen) == 1 else f"the training reward of {run}, which it started from"
        if same and named.judge.verifiable:
            caveats.append(f"the judge {named.label!r} was also {whose}; it is a rule that can be checked")
        elif same:
            caveats.append(f"the judge {named.label!r} was also {whose}: this is no evidence; let another judge decide")
        run = Path(record.parent) if record.parent else None
    return caveats


def _is_same(reward: Reward, record: RunRecord, named: NamedJudge) -> bool:
    """Whether a judge gave a reward: by its label or kind; of a model in a folder by its files, whatever precision."""
    judge = named.judge
    if (reward.plain_name or reward.name) == named.label:
        return True
    if reward.judge != judge.name or judge.name == "function":
        return False
    own, before = judge.parameters(), record.fingerprints.get(f"reward {reward.name}")
    if "model_sha256" not in own or before is None:
        return True
    alike = [own, *({**own, "precision": precision} for precision in _PRECISIONS)]
    return before in [judge_sha256(judge.name, judge.version, parameters) for parameters in alike]


def judge_is_kin(source: ModelSource, vs: ModelSource, named: NamedJudge) -> list[str]:
    """Say where a language model judges its own family, by the models' names: judges tend to prefer what they write.

    Source: Panickssery, Bowman and Feng 2024, LLM evaluators recognize and favor their own generations.
    """
    judge = named.judge.parameters().get("model")
    if not isinstance(judge, str):
        return []
    own = _family(judge)
    kin = [(model.name, own & _family(_base(model))) for model in (source, vs)]
    names = [name for name, shared in kin if shared]
    if not names:
        return []
    family = min(word for _, shared in kin for word in shared)
    if len(set(names)) == 2:
        return [f"the judge {judge} and both models are of one family by name ({family}): it may favour what it writes"]
    advice = "it may favour it: let a judge of another family decide"
    return [f"the judge {judge} is of the family of {names[0]} by name ({family}), and {advice}"]


def _base(model: ModelSource) -> str:
    """The name of what a model was trained from; its own where no run says."""
    try:
        return model.name if model.run is None else read_run(model.run).model
    except AlignkitError:
        return model.name


def _family(name: str) -> set[str]:
    """The words of a model's name that name its family: "Qwen/Qwen2.5-7B-Instruct" has qwen."""
    return set(re.findall("[a-z]{3,}", name.lower().rstrip("/").rpartition("/")[2])) - _NO_FAMILY


def judged_other_runs(run: Path, *, fingerprint: str) -> list[str]:
    """Say which runs beside this one were judged on the same prompts: if the best was picked, they chose a setting."""
    names = []
    for other in sorted(run.parent.glob("*/verdicts")):
        if other.parent != run and any(_fingerprint(file) == fingerprint for file in other.glob("*.json")):
            names.append(other.parent.name)
    if not names:
        return []
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    runs = f"{len(names)} other run{'' if len(names) == 1 else 's'} ({shown})"
    advice = "if this one was picked for its verdict, judge it on fresh prompts with --data"
    return [f"the same prompts judged {runs}: {advice}"]


def _fingerprint(file: Path) -> str | None:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content.get("fingerprint") if isinstance(content, dict) else None
