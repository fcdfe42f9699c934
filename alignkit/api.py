"""What `import alignkit` offers and the command line calls: train, judge, and the smaller commands."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignkit import config_file
from alignkit.config_file import Settings
from alignkit.errors import InputError, UsageError
from alignkit.progress import Progress, Silent, is_first_rank
from alignkit.registry import registry

if TYPE_CHECKING:
    import polars

    from alignkit.data.lengths import ColumnLengths
    from alignkit.data.overlap import Overlap
    from alignkit.data.rows import Row
    from alignkit.judging.answers import Answer, Answering, Generation
    from alignkit.judging.verdict import Verdict
    from alignkit.policy.names import ModelSource
    from alignkit.scoring.ledger import Ledger
    from alignkit.scoring.probes import Accuracy

_SHOWN_ROWS = 5
_TOKENS_A_CHARACTER = 4  # bytes of the longest in UTF-8


class Run:
    """A run's folder, to look at.

    Args:
        path: the folder, or the run's name under runs/.

    Raises:
        InputError: it is no run.
    """

    def __init__(self, path: str | Path) -> None:
        candidates = [Path(path), Path("runs") / str(path)]
        found = [folder for folder in candidates if (folder / "run.json").exists()]
        if not found:
            raise InputError(f"{path}: no run (no run.json there)")
        self.path = found[0]

    @property
    def info(self) -> dict[str, Any]:
        """run.json."""
        content: dict[str, Any] = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
        return content

    @property
    def metrics(self) -> polars.DataFrame:
        """metrics.jsonl with columns step, name, value, tokens."""
        import polars

        return polars.read_ndjson(self.path / "metrics.jsonl")

    @property
    def samples(self) -> list[dict[str, Any]]:
        """samples.jsonl, a line each."""
        return _json_lines(self.path / "samples.jsonl")

    @property
    def verdicts(self) -> list[Verdict]:
        """The verdicts on this run, oldest first."""
        from alignkit.judging.verdict import Verdict

        files = sorted((self.path / "verdicts").glob("*.json"))
        return [Verdict.model_validate_json(file.read_text(encoding="utf-8")) for file in files]

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"


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
        method: a method's name, such as "dpo".
        config: the file to read instead of ./alignkit.toml.
        set: texts KEY=VALUE over the file.
        like: a run whose configuration this one starts from.
        options: any option of `alignkit train METHOD --help`, by its Python name.

    Raises:
        AlignkitError: a wrong option or input, a stopped run, an interruption.
    """
    cls = registry().find("method", method)
    resolved = config_file.resolve(cls, options=options, config=config, settings=set, like=like)
    if resolved.run.plan:
        text = f"call alignkit.api.plan({method!r}, ...), or type alignkit train {method} --plan"
        raise UsageError(f"train(plan=True) trains nothing: {text}")
    from alignkit.reports.run_report import write_training_report
    from alignkit.training.run import train_run

    run = Run(train_run(cls(), resolved, progress=progress or Silent()))
    if is_first_rank() and not (run.path / "report.html").exists():
        write_training_report(run.path, method=method, settings=run.info["config"]["train"][method])
    return run


def plan(
    method: str, *, config: Path | None = None, set: Sequence[str] = (), like: Path | None = None, **options: object
) -> list[str]:
    """Return lines that say what memory and disk a training run with these options needs; nothing is loaded."""
    from alignkit.training.plan import plan as plan_lines

    cls = registry().find("method", method)
    resolved = config_file.resolve(cls, options=options, config=config, settings=set, like=like)
    return plan_lines(cls(), resolved)


def judge(
    run: str | Path | None = None,
    *,
    vs: str | None = None,
    config: Path | None = None,
    set: Sequence[str] = (),
    yes: bool = False,
    progress: Progress | None = None,
    **options: object,
) -> Verdict:
    """Judge a run or model against another; default: the newest finished run against its own start.

    Args:
        vs: the model to compare with.
        yes: agree to a judge that costs money.
        options: judge, data, num_prompts, margin, temperature, top_p, max_new_tokens, seed, sampler, ...
    """
    from alignkit.judging.compare import judge_model

    given = dict(options) | ({"vs": vs} if vs is not None else {})
    settings = config_file.judge_settings(given, config, settings=set)
    return judge_model(
        None if run is None else str(run), settings, data_given="data" in given, yes=yes, progress=progress or Silent()
    )


def judge_file(path: str | Path, *, config: Path | None = None, set: Sequence[str] = (), **options: object) -> Verdict:
    """Reach the verdict on judgements made elsewhere, without a model.

    Args:
        path: CSV or JSONL with the columns row, preference (or score_model, score_baseline), and where known
            baseline_chars, model_chars.
        options: difficulties, regularisation (AlpacaEval's tables), margin, seed, cluster.
    """
    from alignkit.judging.elsewhere import judge_file as read_and_judge

    tables = {name: options.pop(name, None) for name in ("difficulties", "regularisation")}
    section = config_file.judge_settings(options, config, settings=set).judge
    files = {name: None if file is None else Path(str(file)) for name, file in tables.items()}
    return read_and_judge(Path(path), **files, margin=section.margin, seed=section.seed, cluster=section.cluster)


def generate(
    model: str,
    *,
    prompt: Sequence[str] = (),
    config: Path | None = None,
    set: Sequence[str] = (),
    progress: Progress | None = None,
    **options: object,
) -> Iterator[dict[str, Any]]:
    """Answer prompts, given as text or read from `data`.

    Yields {"id", "prompt", "completion", "num_tokens", "num_prompt_tokens", "finish"}, in the order of the prompts;
    "finish" is "stop" or "length", and a completion is as it was drawn, thinking included.
    """
    answering, rows = _to_generate(model, prompt, config, set, options)
    for answer in answering.answer(rows, progress=progress or Silent()):
        yield _generated(answer)


def generate_file(
    model: str,
    out: str | Path,
    *,
    resume: bool = False,
    prompt: Sequence[str] = (),
    config: Path | None = None,
    set: Sequence[str] = (),
    progress: Progress | None = None,
    **options: object,
) -> Path:
    """Write what `generate` yields into a file of JSON lines; what was drawn is kept when the process ends early.

    Args:
        resume: go on with an unfinished file; nothing to do where it is whole.

    Raises:
        UsageError: the file is there already, or was begun with other settings.
    """
    import dataclasses

    from alignkit.judging.answer_file import AnswerFile
    from alignkit.policy.names import weights_fingerprint

    settings = config_file.judge_settings(options, config, settings=set)
    source = _found(model)
    how = dataclasses.asdict(_raw(settings)) | settings.model.model_dump(mode="json", exclude={"model"})
    file = AnswerFile(Path(out), how | {"weights": weights_fingerprint(source.folder)}, resume=resume)
    if file.is_finished:
        return file.path
    answering, rows = _to_generate(model, prompt, config, set, options)
    file.begin()
    ids = [row.id for row in rows]
    left = [row for row in rows if file.known.get(row.id, {}).get("prompt") != list(row.prompt)]
    for part in answering.stream(left, progress=progress or Silent()):
        file.add([_generated(answer) for answer in part.values()])
    file.finish(ids)
    return file.path


def evaluate(
    model: str,
    *,
    config: Path | None = None,
    set: Sequence[str] = (),
    progress: Progress | None = None,
    **options: object,
) -> dict[str, Any]:
    """Measure a model without a judge (judging/evaluation.py says what): BLEU, perplexity, length, text health.

    Args:
        options: data, num_prompts, temperature, top_p, max_new_tokens, seed, sampler, strip_thinking, ...
    """
    from alignkit.judging.evaluation import evaluate_answers

    settings = config_file.judge_settings(options, config, settings=set)
    answering = _answering(model, settings)
    rows = _rows(answering.source, settings, data_given="data" in options)
    answers = answering.answer(rows, progress=progress or Silent())
    return evaluate_answers(answers, answering.fit(rows), seed=settings.judge.seed)


def chat_session(model: str, *, config: Path | None = None, set: Sequence[str] = (), **options: object) -> Answering:
    """Load a model to talk to: `.reply(messages) -> str`."""
    return _answering(model, config_file.judge_settings(options, config, settings=set))


def probe(
    judge: str, *, data: Path | None = None, config: Path | None = None, set: Sequence[str] = (), yes: bool = False
) -> list[Accuracy]:
    """Measure a judge on rows with a right and a wrong answer, and on tricks: `Accuracy` by subset.

    Args:
        judge: a judge's name, a reward run or folder, or FILE.py:function.
        data: JSONL rows of prompt, chosen, rejected and subset, as RewardBench's; default: twelve of alignkit's own.
        yes: agree to a judge that costs money.
    """
    from alignkit.scoring import probes
    from alignkit.scoring.probe_rows import ROWS
    from alignkit.scoring.specs import make_judge
    from alignkit.scoring.spending import agree

    settings = config_file.judge_settings({}, config, settings=set)
    rows = ROWS if data is None else probes.read_probe_rows(data)
    named = make_judge(judge, settings.judges)
    rows = [*rows, *probes.adversarial_rows(rows)]
    ours, theirs = probes.probe_items(rows)
    agree([named], len(ours) + len(theirs), yes=yes)
    with closing(named.judge):
        named.judge.ready([row.model_dump() for row in rows])
        return probes.probe(named, rows)


def ledger_stats() -> list[dict[str, Any]]:
    """Scores in the ledger by judge, version and parameters.

    Raises:
        InputError: there is no ledger yet.
    """
    return _ledger().stats()


def ledger_export() -> Iterator[dict[str, Any]]:
    """Every score in the ledger, then everything missing with its reason. Raises as `ledger_stats`."""
    return _ledger().export()


def show_rows(*, config: Path | None = None, set: Sequence[str] = (), **options: object) -> Iterator[dict[str, Any]]:
    """Yield {"id", "prompt_ids", "completions": [{"ids", "scored"}], "tokens"} of each row, the chosen one first.

    A completion is whole: also what the template puts behind the end token, which is never scored. Of a row that does
    not fit `max_length`, {"id", "skipped": the reason}.
    """
    from alignkit.data.read import read_rows
    from alignkit.data.tokens import prepare
    from alignkit.policy.chat_settings import make_chat
    from alignkit.policy.names import find_model

    settings = config_file.judge_settings(options, config, settings=set)
    chat = make_chat(find_model(settings.model.model), settings.model)
    section = settings.data
    for row in read_rows(section.data, columns=section.columns, limit=section.limit or _SHOWN_ROWS):
        is_pair = row.rejected is not None and section.train_on != "all-assistant"  # all turns of the chosen one
        trains_on = "samples" if row.chosen is None else "pairs" if is_pair else "chosen"
        prepared = prepare(
            [row], chat, trains_on=trains_on, max_length=section.max_length or 1_000_000,
            truncation=section.truncation or "cut-completion", max_skipped=1.0, train_on=section.train_on,
            whole_answer=True, keep_unusable=True, is_part=True,
        )  # fmt: skip
        if not prepared.trees:
            yield {"id": row.id, "skipped": prepared.skipped.get(row.id, "dropped as too long")}
            continue
        tree = prepared.trees[0]
        yield {
            "id": row.id,
            "prompt_ids": tree.prompt.ids.tolist(),
            "completions": [{"ids": c.ids.tolist(), "scored": c.scored.tolist()} for c in tree.completions],
            "tokens": [_token_texts(chat.tokenizer, segment.ids.tolist()) for segment in tree.segments],
        }


def _token_texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """Each token's text; a character of several tokens stands with its last."""
    texts, pending = [], []
    for number in ids:
        pending.append(number)
        text: str = tokenizer.decode(pending)
        is_part = text.endswith("\N{REPLACEMENT CHARACTER}") and len(pending) < _TOKENS_A_CHARACTER
        texts.append("" if is_part else text)
        pending = pending if is_part else []
    return texts


def data_lengths(*, config: Path | None = None, set: Sequence[str] = (), **options: object) -> list[ColumnLengths]:
    """Token counts of prompts and answers, by column; of whole rows; and of pairs, how they differ."""
    from alignkit.data.lengths import measure, summarise
    from alignkit.data.read import Source
    from alignkit.policy.chat_settings import make_chat
    from alignkit.policy.names import find_model

    settings = config_file.judge_settings(options, config, settings=set)
    chat = make_chat(find_model(settings.model.model), settings.model)
    section = settings.data
    rows = Source(section.data, section.columns, section.limit).rows(numbered=False)
    return summarise(measure(rows, chat))


def data_prepare(
    method: str = "sft",
    *,
    shard: str | None = None,
    ranks: int = 1,
    config: Path | None = None,
    set: Sequence[str] = (),
    **options: object,
) -> dict[str, Any]:
    """Prepare what `train(method, ...)` with the same options trains on, and return the account.

    Args:
        shard: "i/n", i from 1: every n-th row only; when all n are there, training puts them together.
        ranks: over how many ranks to share rows when their balance is measured.
    """
    from alignkit.training.prepare import prepare_data

    cls = registry().find("method", method)
    resolved = config_file.resolve(cls, options=options, config=config, settings=set)
    return prepare_data(cls(), resolved, shard=shard, ranks=ranks)


def data_overlap(
    other: str,
    *,
    size: int | None = None,
    threshold: float | None = None,
    config: Path | None = None,
    set: Sequence[str] = (),
    **options: object,
) -> Overlap:
    """Find prompts of `other` whose runs of `size` words stand in prompts of `data`."""
    from alignkit.data.overlap import SIZE, THRESHOLD, overlap
    from alignkit.data.read import Source

    section = config_file.judge_settings(options, config, settings=set).data
    rows = Source(section.data, section.columns, section.limit).rows()
    prompts = Source(other, section.columns).rows()
    return overlap(rows, prompts, size=size or SIZE, threshold=threshold or THRESHOLD)


def start_up_checks(model: str) -> list[dict[str, Any]]:
    """Run the start-up checks on a model with own rows: [{"name", "ok", "value", "tolerance", "unit"}]."""
    from alignkit.config import ModelSection
    from alignkit.data.rows import to_row
    from alignkit.data.tokens import prepare
    from alignkit.policy.chat_settings import make_chat
    from alignkit.policy.load import load_policy
    from alignkit.policy.names import find_model
    from alignkit.training.startup import run_checks

    source = find_model(model)
    chat = make_chat(source, ModelSection())
    texts = [("Name a river.", "The Rhine.", "I am not sure, there are many."), ("What is 2 + 3?", "5", "2 + 3 = 6")]
    rows = [to_row({"prompt": p, "chosen": c, "rejected": r}, where="doctor") for p, c, r in texts]
    trees = prepare(rows, chat, trains_on="pairs", max_length=512).trees
    return [check.as_json() for check in run_checks(load_policy(source.folder), trees)]


def _ledger() -> Ledger:
    from alignkit.scoring import ledger

    opened = ledger.open_ledger()
    if not opened.exists:
        raise InputError(
            f"{ledger.ledger_path()}: no ledger yet; the first score makes it ({ledger.VARIABLE} moves it)"
        )
    return opened


def _answering(model: str, settings: Settings) -> Answering:
    from alignkit.judging.answers import Answering, Generation

    return Answering(_found(model), settings.model, Generation.of(settings))


def _found(model: str) -> ModelSource:
    from alignkit.policy.names import find_model

    return find_model(model)


def _raw(settings: Settings) -> Generation:
    """How answers are drawn where every token is to be seen."""
    import dataclasses

    from alignkit.judging.answers import Generation

    return dataclasses.replace(Generation.of(settings), strip_thinking=False)


def _to_generate(
    model: str, prompt: Sequence[str], config: Path | None, set: Sequence[str], options: dict[str, object]
) -> tuple[Answering, Sequence[Row]]:
    """The model that `generate` answers with, and its prompts: the texts, or those of the data."""
    from alignkit.judging.answers import Answering

    settings = config_file.judge_settings(options, config, settings=set)
    source = _found(model)
    if prompt:
        rows: Sequence[Row] = [_text_row(number, text) for number, text in enumerate(prompt, start=1)]
    else:
        rows = _rows(source, settings, data_given="data" in options)
    return Answering(source, settings.model, _raw(settings)), rows


def _generated(answer: Answer) -> dict[str, Any]:
    return {
        "id": answer.row.id,
        "prompt": list(answer.row.prompt),
        "completion": answer.text,
        "num_tokens": answer.num_tokens,
        "num_prompt_tokens": answer.num_prompt_tokens,
        "finish": "length" if answer.cut else "stop",
    }


def _rows(source: ModelSource, settings: Settings, *, data_given: bool) -> Sequence[Row]:
    from alignkit.judging.prompts import choose_prompts

    section = settings.judge
    prompts = choose_prompts(
        source, settings.data, data_given=data_given, num_prompts=section.num_prompts, seed=section.seed
    )
    return prompts.rows


def _text_row(number: int, text: str) -> Row:
    from alignkit.data.rows import to_row

    if not text.strip():
        raise UsageError("--prompt: an empty prompt")
    return to_row({"id": f"prompt-{number}", "prompt": text}, where="--prompt")


def _json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
