"""What `import alignkit` offers: the commands as functions that take and give objects.

Where the command line has names, these take what stands for them: a `Run` or a loaded `Model` where a model is named,
rows in memory where data are (rows.py), functions where rewards and judges are. Errors speak of arguments: where the
command line would say `--max-length`, they say `max_length`. Each call says how far it is (showing.py).

    run = alignkit.train(METHOD, model="Qwen/Qwen2.5-0.5B", data=[{"prompt": "Hi", "chosen": "Hello."}])
    alignkit.judge(run, vs="Qwen/Qwen2.5-0.5B")
    alignkit.load(run).reply("Hi")
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from alignkit.api import answers, exports, tournaments, training, verdicts
from alignkit.api.rows import name_of_rows
from alignkit.api.runs import Run
from alignkit.api.showing import progress_of
from alignkit.api.tables import Figures, Table
from alignkit.api.wording import in_python
from alignkit.data.reading.said import say_anew
from alignkit.errors import AlignkitError, UsageError, nearest
from alignkit.progress import Progress

if TYPE_CHECKING:
    from alignkit.exports.export import Export
    from alignkit.judging.verdict import Verdict
    from alignkit.tournaments.table import Table as TournamentTable

_Given = ParamSpec("_Given")
_Found = TypeVar("_Found")
_ROWS = ("data", "split")  # options that name rows
_MODELS = ("model", "vs", "like")


def _speaks_python(function: Callable[_Given, _Found]) -> Callable[_Given, _Found]:
    @functools.wraps(function)
    def call(*args: _Given.args, **options: _Given.kwargs) -> _Found:
        shows: Any = None
        if "progress" in signature(function).parameters:
            options["progress"] = shows = progress_of(options.get("progress"))
        say_anew()
        try:
            return function(*args, **options)
        except AlignkitError as error:
            error.args = (in_python(error.line),)
            raise
        finally:
            if shows is not None:
                shows.stop()

    return call


class Model:
    """A model that is loaded and answers.

    Args:
        model: a run, a folder or a hub name.
        options: of answers: temperature, top_p, max_new_tokens, seed, system, chat_template, ...
    """

    def __init__(self, model: object, **options: object) -> None:
        self.name = _model_name(model, "model")
        self._answering = answers.chat_session(self.name, **options)  # type: ignore[arg-type]

    @property
    def folder(self) -> Path:
        """Its Hugging Face folder."""
        return self._answering.source.folder

    def reply(self, messages: str | Sequence[Mapping[str, Any]]) -> str:
        """Answer a question, or a conversation of {"role", "content"} that ends with the user's turn."""
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        return self._answering.reply([dict(message) for message in messages])

    def __repr__(self) -> str:
        return f"Model({self.name!r})"


@_speaks_python
def train(method: str | None = None, *, progress: Progress | bool | None = None, **options: object) -> Run:
    """Train a model with a method, or go on with a run: `train(resume=run)`.

    Args:
        method: sft, dpo, kto, grpo, reward, ... as `alignkit plugins list` shows them; a run that goes on knows it.
        progress: shows how far it is; default: a line that is rewritten in a notebook, plain lines in a script; False:
            nothing.
        options: those of `alignkit train METHOD --help-all`, with underscores. `model` may be a `Run`; `data` and
            `split` rows in memory; `reward` a function (completion: str, row: dict) -> float | None, or a list with
            such.

    Raises:
        UsageError, InputError: an option, a name or a row that cannot be used.
        RunStopped, Interrupted: the run ended early; `train(resume=run)` goes on.
    """
    if not isinstance(options.get("resume", False), bool):
        if options.get("out") is not None:
            raise UsageError("resume names a run, which goes on in its own folder; leave out=... out")
        run = Run(_model_name(options["resume"], "resume"))
        method, options = method or run.info["method"], options | {"resume": True, "out": str(run.path)}
    if method is None:
        raise UsageError("method: none was given; name one, as train('sft', ...), or a run by resume=RUN")
    return training.train(method, progress=progress_of(progress), **_named(options))  # type: ignore[arg-type]


@_speaks_python
def judge(
    run: object = None, *, vs: object = None, progress: Progress | bool | None = None, **options: object
) -> Verdict:
    """Judge a run or model against another; default: the newest finished run against its own start.

    Args:
        run, vs: a `Run`, a folder or a name.
        options: judge (also a function, as a reward), data (also rows in memory), num_prompts, margin, ...
    """
    named = _named(options | ({} if vs is None else {"vs": vs}))
    model = None if run is None else _model_name(run, "run")
    return verdicts.judge(model, progress=progress_of(progress), **named)  # type: ignore[arg-type]


@_speaks_python
def tournament(
    entrants: Mapping[str, Mapping[str, Any]] | Sequence[str] | None = None,
    *,
    vs: object = None,
    progress: Progress | bool | None = None,
    **options: object,
) -> TournamentTable:
    """Train every entrant with every seed, judge all of them alike, and return the table.

    Args:
        entrants: options of each by its name ({NAME: {}, OTHER: {"start": NAME, "beta": 0.05}}), or names of methods;
            default: those of alignkit.toml, else the paper's five.
        vs: opponents, the headline's first: "base", "start", an entrant's name, a `Run`, a folder or a name.
        options: out, the tournament's folder (one that is there goes on); preset, the name of one; sweep, draws and
            halvings; fresh, entrants to train anew; yes; seeds, steps, test and the other keys of [tournament];
            model, data (also rows in memory), judge (also a function), num_prompts and other options of training and
            judging, for all.

    Raises:
        UsageError, InputError: an entrant, an option or a row that cannot be used.
        RunStopped, Interrupted: no entrant came to anything, or it was interrupted; the same call goes on.
    """
    named: dict[str, Any] = _named(options)
    if vs is not None:
        named["vs"] = [_model_name(one, "vs") for one in (vs if isinstance(vs, list | tuple) else [vs])]
    return tournaments.tournament(entrants, progress=progress_of(progress), **named)


@_speaks_python
def evaluate(model: object, *, progress: Progress | bool | None = None, **options: object) -> Figures:
    """Measure a model without a judge: BLEU, perplexity, length, text health.

    Args:
        model: a `Run`, a folder or a name.
        options: data (also rows in memory), num_prompts, temperature, max_new_tokens, seed, ...
    """
    name = _model_name(model, "model")
    return Figures(answers.evaluate(name, progress=progress_of(progress), **_named(options)))  # type: ignore[arg-type]


@_speaks_python
def generate(
    model: object, prompt: str | Sequence[str] = (), *, progress: Progress | bool | None = None, **options: object
) -> Table:
    """Answer prompts: {"id", "prompt", "completion", "num_tokens", "num_prompt_tokens", "finish"} of each.

    Args:
        model: a `Run`, a folder or a name.
        prompt: a text or several; default: the prompts of `data`.
        options: data (also rows in memory), num_prompts, temperature, max_new_tokens, seed, ...
    """
    asked = [prompt] if isinstance(prompt, str) else list(prompt)
    name = _model_name(model, "model")
    return Table(answers.generate(name, prompt=asked, progress=progress_of(progress), **_named(options)))  # type: ignore[arg-type]


@_speaks_python
def load(model: object, **options: object) -> Model:
    """Load a model to talk to: `.reply("Hello")`. Takes what `Model` takes."""
    return Model(model, **options)


@_speaks_python
def chat(model: object, messages: str | Sequence[Mapping[str, Any]], **options: object) -> str:
    """Answer one question or conversation. To ask more than once, `load` the model and give that here.

    Args:
        model: a loaded `Model`; or a `Run`, a folder or a name, with options as `load` takes them.
        messages: a text, or {"role", "content"} of each turn.
    """
    if isinstance(model, Model):
        if options:
            raise UsageError(f"{next(iter(options))}: the model is loaded already; give it to alignkit.load")
        return model.reply(messages)
    return Model(model, **options).reply(messages)


@_speaks_python
def export(model: object, to: str | Path, *, progress: Progress | bool | None = None, **options: Any) -> Export:
    """Write a model into a new folder, load it again, and say how far it is from what was trained.

    Args:
        model: a `Run`, a folder or a name.
        options: dtype, adapter, gguf, ollama, push, as `alignkit export` has them.

    Raises:
        UsageError, InputError, RunStopped: as `alignkit.api.export`.
    """
    known = ["dtype", "adapter", "gguf", "ollama", "push"]
    for name in options:
        if name not in known:
            raise UsageError(f"unknown option {name!r}{nearest(name, known) or '; known: ' + ', '.join(known)}")
    return exports.export(_model_name(model, "model"), to, progress=progress_of(progress), **options)


def _named(options: Mapping[str, object]) -> dict[str, object]:
    """Options as the command line has them: with names for objects."""
    named = dict(options)
    for name in _ROWS:
        if isinstance(named.get(name), float):  # a share
            named[name] = str(named[name])
        elif named.get(name) is not None:
            named[name] = name_of_rows(named[name], name)
    for name in _MODELS:
        if named.get(name) is not None:
            named[name] = _model_name(named[name], name)
    for name in ("config", "like"):
        if isinstance(named.get(name), str):
            named[name] = Path(str(named[name]))
    if isinstance(named.get("out"), Path):
        named["out"] = str(named["out"])
    return named


def _model_name(given: object, argument: str) -> str:
    if isinstance(given, Run):
        return str(given.path)
    if isinstance(given, Model):
        return given.name
    if isinstance(given, str | Path):
        return str(given)
    raise UsageError(f"{argument}: {type(given).__name__} was given; a Run, a folder or a name is taken")
