"""What a model answers, and how good that is by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignkit.config import file as config_file
from alignkit.config.file import Settings
from alignkit.errors import UsageError
from alignkit.progress import Progress, Silent

if TYPE_CHECKING:
    from alignkit.data.reading.rows import Row
    from alignkit.judging.answers import Answering, Generation
    from alignkit.pretrained.names import ModelSource


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
    from alignkit.judging.answers import Answering

    settings = config_file.judge_settings(options, config, settings=set)
    source = _found(model)
    rows = _asked(source, settings, prompt, options)
    answering = Answering(source, settings.model, _raw(settings))
    for answer in answering.answer(rows, progress=progress or Silent()):
        yield answer.as_json()


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
        resume: go on with an unfinished file; nothing to do where it is whole and just what this call would write.

    Raises:
        UsageError: the file is there already, was drawn by another model, with other settings or for other prompts, or
            is none that alignkit wrote.
    """
    import dataclasses

    from alignkit.data.chat.chat import make_chat, settings_identity
    from alignkit.data.reading.read import refuse_among_data
    from alignkit.judging.answer_file import AnswerFile
    from alignkit.judging.answers import Answering
    from alignkit.pretrained.weights import weights_fingerprint

    settings = config_file.judge_settings(options, config, settings=set)
    refuse_among_data("--out", Path(out), () if prompt else (settings.data.data,))
    source = _found(model)
    rows = _asked(source, settings, prompt, options)
    how = dataclasses.asdict(_raw(settings)) | settings.model.model_dump(mode="json", exclude={"model"})
    made_by = {"weights": weights_fingerprint(source.folder)}
    made_by |= settings_identity(source.folder, make_chat(source, settings.model))
    file = AnswerFile(Path(out), how | made_by, [(row.id, list(row.prompt)) for row in rows], resume=resume)
    if file.is_finished:
        return file.path
    answering = Answering(source, settings.model, _raw(settings))
    file.begin()
    left = [row for row in rows if file.known.get(row.id, {}).get("prompt") != list(row.prompt)]
    for part in answering.stream(left, progress=progress or Silent()):
        file.add([answer.as_json() for answer in part.values()])
    file.finish()
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
    return evaluate_answers(
        answers, answering.perplexity(rows), seed=settings.judge.seed, column=settings.judge.cluster
    )


def chat_session(model: str, *, config: Path | None = None, set: Sequence[str] = (), **options: object) -> Answering:
    """Load a model to talk to: `.reply(messages) -> str`."""
    return _answering(model, config_file.judge_settings(options, config, settings=set))


def _answering(model: str, settings: Settings) -> Answering:
    from alignkit.judging.answers import Answering, Generation

    return Answering(_found(model), settings.model, Generation.of(settings))


def _found(model: str) -> ModelSource:
    from alignkit.pretrained.names import find_model

    return find_model(model)


def _raw(settings: Settings) -> Generation:
    """How answers are drawn where every token is to be seen."""
    import dataclasses

    from alignkit.judging.answers import Generation

    return dataclasses.replace(Generation.of(settings), strip_thinking=False)


def _asked(source: ModelSource, settings: Settings, prompt: Sequence[str], options: dict[str, object]) -> Sequence[Row]:
    """What `generate` answers: the texts, or the prompts of the data."""
    if prompt:
        return [_text_row(number, text) for number, text in enumerate(prompt, start=1)]
    return _rows(source, settings, data_given="data" in options)


def _rows(source: ModelSource, settings: Settings, *, data_given: bool) -> Sequence[Row]:
    from alignkit.judging.prompts import choose_prompts

    section = settings.judge
    prompts = choose_prompts(
        source, settings.data, data_given=data_given, num_prompts=section.num_prompts, seed=section.seed
    )
    return prompts.rows


def _text_row(number: int, text: str) -> Row:
    from alignkit.data.reading.rows import to_row

    if not text.strip():
        raise UsageError("--prompt: an empty prompt")
    return to_row({"id": f"prompt-{number}", "prompt": text}, where="--prompt")
