"""alignkit.toml: precedence, the place of every mistake, and what goes to run.json."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import Field, model_validator

from alignkit import Method, MethodConfig
from alignkit.config.file import Resolved, dump, find, judge_settings, resolve, schema
from alignkit.errors import AlignkitError, InputError, UsageError
from alignkit.registry import Plugin, registry
from alignkit.scoring.judge import Judge, JudgeConfig
from alignkit.units import Chosen, Unit


class ProbeConfig(MethodConfig):
    learning_rate: float = Field(0.25, gt=0, description="peak learning rate")
    beta: float = Field(0.5, ge=0, le=1, description="a share")
    scales: tuple[float, ...] = Field((1.0, 2.0), description="a list of numbers")

    @model_validator(mode="after")
    def _scales_fit(self) -> ProbeConfig:
        if len(self.scales) > self.batch_size:
            raise ValueError("scales may not outnumber batch_size")
        return self


class Probe(Method):
    name: ClassVar[str] = "probe-method"
    Config: ClassVar[type[MethodConfig]] = ProbeConfig
    trains_on: ClassVar[Unit] = Chosen()

    def loss(self, batch, config):
        return batch.mean(-batch.logprob_T, over="tokens")


class ProbeJudgeConfig(JudgeConfig):
    url: str = "http://localhost"
    timeout_s: float = Field(30.0, gt=0)


class ProbeJudge(Judge):
    name: ClassVar[str] = "probe-judge"
    version: ClassVar[str] = "1"
    Config: ClassVar[type[JudgeConfig]] = ProbeJudgeConfig

    def score(self, items):
        raise NotImplementedError


@pytest.fixture(autouse=True)
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two plugins of a third party, and an empty working folder."""
    monkeypatch.chdir(tmp_path)
    found = registry().found
    for kind, cls in (("method", Probe), ("judge", ProbeJudge)):
        found[kind][cls.name] = [Plugin(kind, cls.name, cls, "third-party", "1", __name__)]
    yield
    del found["method"][Probe.name], found["judge"][ProbeJudge.name]


def write(text: str) -> None:
    Path("alignkit.toml").write_text(text)


def resolved(*settings: str, **options: object) -> Resolved:
    return resolve(Probe, options=options, config=None, settings=settings)


def test_defaults_are_the_classes_own() -> None:
    assert resolved().method == ProbeConfig()
    assert resolved().sources == {}


def test_each_layer_overrides_the_one_before_it() -> None:
    run = Path("runs/first")
    run.mkdir(parents=True)
    like = {"train": {"probe-method": {"learning_rate": 1.0, "seed": 1, "epochs": 1, "batch_size": 2, "beta": 0.9}}}
    (run / "run.json").write_text(json.dumps({"config": like | {"model": {"system": "be kind"}}}))
    write(
        '[train]\nseed = 2\nepochs = 2\nbatch_size = 3\nschedule = "cosine"\n'
        "[train.probe-method]\nepochs = 3\nbatch_size = 4\n"
    )

    result = resolve(
        Probe,
        options={"batch_size": 6},
        config=None,
        settings=["train.batch_size=5", "train.probe-method.epochs=4"],
        like=run,
    )

    method = result.method
    assert (method.learning_rate, method.seed, method.epochs, method.batch_size) == (1.0, 2, 4, 6)
    assert (method.schedule, method.beta, result.model.system) == ("cosine", 0.9, "be kind")
    sources = {key.rpartition(".")[2]: place for key, place in result.sources.items()}
    assert sources == {
        "learning_rate": "runs/first/run.json",
        "beta": "runs/first/run.json",
        "system": "runs/first/run.json",
        "seed": "alignkit.toml:2",
        "schedule": "alignkit.toml:5",
        "epochs": "--set",
        "batch_size": "option",
    }


def test_like_takes_a_name_below_runs_and_leaves_another_methods_options() -> None:
    Path("runs/other").mkdir(parents=True)
    config = {"data": {"limit": 7}, "train": {"long-gone": {"learning_rate": 9.0}}}
    Path("runs/other/run.json").write_text(json.dumps({"config": config}))
    result = resolve(Probe, options={}, config=None, like=Path("other"))
    assert (result.data.limit, result.method) == (7, ProbeConfig())


def test_what_is_dumped_is_read_back_by_like() -> None:
    write('[judge]\nmargin = 4.0\n[judge.probe-judge]\nurl = "http://there"\n[model.template_kwargs]\nthink = false\n')
    first = resolved(scales=[3.0], beta=1)
    Path("runs/a").mkdir(parents=True)
    Path("runs/a/run.json").write_text(json.dumps({"config": dump(first)}))
    Path("alignkit.toml").unlink()
    again = resolve(Probe, options={}, config=None, like=Path("runs/a"))
    assert dump(again) == dump(first)
    assert again.judges == {"probe-judge": {"url": "http://there"}}
    assert again.method == first.method
    assert again.model.template_kwargs == {"think": False}


def test_options_of_one_run_are_not_part_of_its_configuration() -> None:
    result = resolved(out="runs/x", resume=True, track=["wandb"])
    assert (result.run.out, result.run.resume, result.run.track) == ("runs/x", True, ["wandb"])
    assert set(dump(result)) == {"model", "data", "rollouts", "judge", "train"}
    write('[run]\nout = "x"\n')
    with pytest.raises(UsageError, match=r"alignkit.toml:1: run is not a known key"):
        resolved()


MISTAKES = [
    (
        "[train]\n\nlearning_rat = 1",
        "alignkit.toml:3: train.learning_rat is not a known key; did you mean 'learning_rate'?",
    ),
    ("[train]\nbeto = 1\n", "alignkit.toml:2: train.beto is not a known key"),
    (
        "[train.probe-method]\nbata = 1",
        "alignkit.toml:2: train.probe-method.bata is not a known key; did you mean 'beta'?",
    ),
    (
        "[train.probe-methud]\nbeta = 1",
        "alignkit.toml:1: [train.probe-methud]: no method is named 'probe-methud'; did you mean",
    ),
    ("[train]\nscales = [1.0]", "alignkit.toml:2: train.scales is not a known key; it belongs in [train.probe-method]"),
    ("seed = 1", "alignkit.toml:1: seed is not a known key; it belongs in [judge] or [train]"),
    ("model = 'x'", "alignkit.toml:1: model is a table: write [model]"),
    ("[modle]\nmodel = 'x'", "alignkit.toml:1: modle is not a known key; did you mean 'model'?"),
    ("[train]\nseed = true", "alignkit.toml:2: train.seed: true was given, a whole number, at least 0 is allowed"),
    ("[train]\nseed = '1'", 'alignkit.toml:2: train.seed: "1" was given, a whole number, at least 0 is allowed'),
    (
        "[train]\nlearning_rate = 0",
        "alignkit.toml:2: train.learning_rate: 0 was given, a number, above 0 and at most 1 is allowed",
    ),
    (
        "train.schedule = 'cubic'",
        'alignkit.toml:1: train.schedule: "cubic" was given, one of linear, cosine, constant is',
    ),
    (
        "[train.probe-method]\nbeta = 2",
        "train.probe-method.beta: 2 was given, a number, at least 0 and at most 1 is allowed",
    ),
    (
        "[train.probe-method]\nscales = 'a'",
        'alignkit.toml:2: train.probe-method.scales: "a" was given, a list of numbers is',
    ),
    ("[train]\nbatch_size = 1", "alignkit.toml:2: train.batch_size: scales may not outnumber batch_size"),
    ("[model.template_kwargs]\nx = [1]", 'alignkit.toml:1: model.template_kwargs: {"x": [1]} was given, a table'),
    (
        "[judge.probe-judge]\n\ntimeout_s = -1",
        "alignkit.toml:3: judge.probe-judge.timeout_s: -1 was given, a number, above 0",
    ),
    (
        "[judge.probe-judge]\nurll = 'a'",
        "alignkit.toml:2: judge.probe-judge.urll is not a known key; did you mean 'url'?",
    ),
    (
        "[judge.probe]\nurl = 'a'",
        "alignkit.toml:1: [judge.probe]: no judge is named 'probe'; did you mean 'probe-judge'?",
    ),
    ("[train\nseed = 1", "alignkit.toml:1: not valid TOML"),
    ("[model]\nmodel = 'a'\nmodel = 'b'", "alignkit.toml:3: not valid TOML"),
]


@pytest.mark.parametrize(("text", "said"), MISTAKES, ids=[said.partition(": ")[2][:40] for _, said in MISTAKES])
def test_a_mistake_in_the_file_is_one_line_with_its_place(text: str, said: str) -> None:
    write(text)
    with pytest.raises(AlignkitError) as caught:
        resolved()
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "pydantic" not in str(caught.value)


def test_judging_refuses_the_same_mistakes_also_in_training_tables() -> None:
    write("[train.probe-method]\nbeta = 2")
    with pytest.raises(UsageError, match=r"alignkit.toml:2: train.probe-method.beta: 2 was given"):
        judge_settings({})


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("seed", "--set seed: no '='"),
        ("sede=1", "--set sede=1: 'sede' is not a known key; did you mean 'seed'?"),
        ("train.seed=x", '--set: train.seed: "x" was given, a whole number, at least 0 is allowed'),
        ("train.sft.seed=1", "--set train.sft.seed=1: nothing reads train.sft here"),
        ("data.limits=1", "--set: data.limits is not a known key; did you mean 'limit'?"),
        ("out=x", "--set out=x: 'out' is not a known key"),
    ],
)
def test_a_mistake_in_set_is_refused(setting: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolved(setting)
    assert said in str(caught.value)


def test_a_wrong_option_is_named_as_it_is_typed() -> None:
    with pytest.raises(UsageError, match=r"^--batch-size: 0 was given, a whole number, at least 1 is allowed$"):
        resolved(batch_size=0)
    with pytest.raises(UsageError, match="unknown option 'learning_rat'; did you mean 'learning_rate'"):
        resolved(learning_rat=1)
    with pytest.raises(UsageError, match="cannot be stored"):
        resolved(seed=object())


def test_set_reads_every_kind_of_value() -> None:
    result = resolved("scales=3,4.5", "model.template_kwargs=a=1,b=x", "system=5", "limit=9", "lora_rank=4", "seed=7")
    assert result.method.scales == (3.0, 4.5)
    assert result.model.template_kwargs == {"a": 1, "b": "x"}
    assert (result.model.system, result.data.limit, result.model.lora_rank, result.method.seed) == ("5", 9, 4, 7)
    assert resolved("rollouts.reward=rules=2,f.py:g").rollouts.reward == ["rules=2", "f.py:g"]


ABSURD = [
    ("weight_decay", float("inf")),
    ("weight_decay", float("nan")),
    ("weight_decay", 1e30),
    ("max_grad_norm", float("inf")),
    ("learning_rate", float("inf")),
    ("learning_rate", 1e30),
    ("learning_rate", 2.0),
    ("scales", (1.0, float("nan"))),
    ("scales", (float("inf"),)),
    ("batch_size", 10**12),
    ("seed", 10**25),
    ("max_length", 10**30),
    ("limit", 2**31),
    ("train_timeout_s", 1e300),
]


@pytest.mark.parametrize(("option", "value"), ABSURD, ids=[f"{option}={value}" for option, value in ABSURD])
def test_a_number_that_no_option_can_mean_is_refused(option: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"^--{option.replace('_', '-')}: .* (is|was) (allowed|given)"):
        resolved(**{option: value})


def test_seeds_may_be_as_large_as_generators_take() -> None:
    assert resolved(seed=2**63 - 1).method.seed == 2**63 - 1


def test_judges_options_keep_the_same_bounds(tmp_path: Path) -> None:
    write("[judge.probe-judge]\ntimeout_s = inf")
    with pytest.raises(UsageError, match=r"alignkit.toml:2: judge.probe-judge.timeout_s: Infinity was given"):
        judge_settings({})


def test_a_long_wrong_value_is_shown_in_part() -> None:
    with pytest.raises(UsageError) as caught:
        resolved(schedule="x" * 5000)
    assert len(str(caught.value)) < 200


def test_python_options_may_be_paths_and_tuples() -> None:
    result = resolved(model=Path("a/b"), scales=(1.0,))
    assert (result.model.model, result.method.scales) == ("a/b", (1.0,))


def test_judge_settings_prefer_the_judges_key() -> None:
    write("[judge]\nseed = 3\n[data]\nlimit = 5\n[rollouts]\nsampler = 'other'\n")
    settings = judge_settings({"temperature": 0.5, "data": "x.jsonl"}, settings=["seed=4"])
    assert (settings.judge.seed, settings.judge.temperature) == (4, 0.5)
    assert (settings.data.data, settings.data.limit, settings.rollouts.sampler) == ("x.jsonl", 5, "other")


def test_a_method_may_not_hide_an_option_of_alignkit() -> None:
    class HidingConfig(MethodConfig):
        precision: str = "high"

    class Hiding(Probe):
        name = "hiding"
        Config = HidingConfig

    with pytest.raises(TypeError, match="'precision' is already one of alignkit's"):
        resolve(Hiding, options={}, config=None)


def test_find_reads_the_working_folder_or_what_is_named() -> None:
    assert find(None) is None
    write("")
    assert find(None) == Path("alignkit.toml")
    with pytest.raises(InputError, match=r"nowhere.toml: no such file"):
        find(Path("nowhere.toml"))


def test_a_file_that_is_not_text_is_refused() -> None:
    Path("alignkit.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="cannot be read"):
        resolved()


def test_the_schema_knows_every_table_and_refuses_others() -> None:
    found = schema()
    assert set(found["properties"]) == {"model", "data", "rollouts", "judge", "train", "tournament", "entrants"}
    train = found["properties"]["train"]["properties"]
    assert "learning_rate" in train
    assert train["probe-method"]["$ref"].rpartition("/")[2] in found["$defs"]
    assert "beta" in found["$defs"]["ProbeConfig"]["properties"]
    assert "probe-judge" in found["properties"]["judge"]["properties"]
    assert found["additionalProperties"] is found["properties"]["train"]["additionalProperties"] is False
    json.dumps(found)


def test_every_installed_methods_defaults_resolve() -> None:
    for name in registry().names("method"):
        cls = registry().find("method", name)
        assert resolve(cls, options={}, config=None).method == cls.Config()
    assert {"sft", "sft-lenpen", "dpo", "kto", "grpo", "reward"} <= set(registry().names("method"))
