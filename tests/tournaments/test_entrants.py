"""Who takes part in a tournament: files, presets, sweeps, and what is refused before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import alignkit
from alignkit.cli.main import main
from alignkit.errors import UsageError
from alignkit.tournaments.entrants import read_tournament
from alignkit.tournaments.results import START, Entry

FILE = """
[data]
data = "rows.jsonl"

[tournament]
seeds = [7, 9]
vs = ["base", "start", "other/model"]

[entrants.dpo]
start = "sft"
beta = 0.05

[entrants.sft]

[entrants.quick]
method = "sft"
learning_rate = 1e-3
"""


def written(folder: Path, text: str = FILE) -> Path:
    (folder / "own.toml").write_text(text)
    return folder / "own.toml"


def test_entrants_stand_behind_what_they_start_from(tmp_path: Path) -> None:
    made = read_tournament(written(tmp_path), options={"learning_rate": 2e-5, "judge": "rules", "temperature": 0.5})
    assert [(e.name, e.method, e.start) for e in made.entrants] == [
        ("base", None, None),
        ("sft", "sft", "base"),
        ("dpo", "dpo", "sft"),
        ("quick", "sft", "base"),
    ]
    assert made.seeds == (7, 9) and made.seeds_of(made.entrants[0]) == (7,)
    assert [e.name for e in made.opponents] == ["other/model"] and START in made.section.vs
    _, resolved = made.resolved(made.entrant("dpo"), seed=7)
    assert (resolved.method.model_dump()["beta"], resolved.method.learning_rate, resolved.method.seed) == (
        0.05,
        2e-5,
        7,
    )
    _, resolved = made.resolved(made.entrant("quick"))
    assert resolved.method.learning_rate == 1e-3  # an entrant's own counts for more than what is for all
    assert made.settings.judge.temperature == 0.5 and made.settings.data.data == "rows.jsonl"


def test_a_typed_number_of_seeds_and_a_budget_count_for_more_than_the_file(tmp_path: Path) -> None:
    made = read_tournament(written(tmp_path), options={"seeds": 3, "steps": 5})
    assert made.seeds == (1, 2, 3)
    assert made.resolved(made.entrant("dpo"))[1].method.max_steps == 5


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (
            "[entrants.dpo]\nstart = 'grpo'\n[entrants.grpo]\nstart = 'dpo'",
            "start from each other: dpo from grpo from dpo",
        ),
        ("[entrants.dpo]\nstart = 'sfd'\n[entrants.sft]", "no entrant is named 'sfd'; did you mean 'sft'?"),
        ("[entrants.ppo]", "entrant ppo: no method is named 'ppo'"),
        ("[entrants.dpo]\nbetta = 0.1", "entrant dpo: unknown option 'betta'; did you mean 'beta'?"),
        ("[entrants.dpo]\nstrat = 'sft'\n[entrants.sft]", "entrant dpo: unknown option 'strat'; did you mean 'start'?"),
        ("[entrants.a]\nmethd = 'sft'", "entrant a: unknown option 'methd'; did you mean 'method'?"),
        ("[entrants.sft]\njudge = 'rules'", "entrant sft: judge is the same for all entrants: give it in [judge]"),
        ("[entrants.sft]\nseeds = 3", "seeds is the same for all entrants: give it in [tournament]"),
        ("[entrants.dpo]\ndata = 'x.jsonl'", "data is the same for all entrants"),
        ("[entrants.dpo]\nbeta = -1", "entrant dpo: --beta: -1 was given"),
        ("[tournament]\nvs = 'base'\n[entrants.sft]", "tournament.vs: 'base' was given: give a list of texts"),
        ("[tournament]\nseeds = 'a'\n[entrants.sft]", "tournament.seeds: 'a' was given: give a number of seeds, or a"),
        ("[entrants.grpo]\nreward = ['./evil.py:f']", "reward './evil.py:f' is no entrant"),
        ("[entrants.base]\nmodel = 'x'", "no entrant is trained"),
        ("[entrants.reward]\n[entrants.dpo]\nstart = 'reward'", "starts from reward, which is a reward model"),
        ("[entrants.sft]\n[tournament]\nseed = 3", "tournament.seed is not a known key; did you mean 'seeds'?"),
        ("[entrants.sft]\n[tournament]\nseeds = 0", "at least one seed is needed"),
        ("[entrants.sft]\n[tournament]\nseeds = [3, 3]", "names one twice"),
        ("[entrants.sft]\n[tournament]\nsecond = 'evil.py:f'", "second judge 'evil.py:f' runs code"),
        ("[entrants.sft]\nmethod = 3", "entrant sft: method = 3: give one name"),
        ("[entrants.sft]\nstart = ['base']", "entrant sft: start = ['base']: give one name"),
        ("[entrants.'a b']\nmethod = 'sft'", "entrant 'a b': give it letters"),
    ],
)
def test_what_cannot_be_run_is_refused_with_what_to_do(table: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        read_tournament(written(tmp_path, table))
    assert said in caught.value.line


@pytest.mark.parametrize(
    ("entrants", "options", "said"),
    [
        ({"sft": {"learning_rat": 1}}, {}, "entrant sft: unknown option 'learning_rat'; did you mean 'learning_rate'?"),
        ({"dpo": {"strat": "base"}}, {}, "entrant dpo: unknown option 'strat'; did you mean 'start'?"),
        ({"sft": {}}, {"step": 3}, "unknown option 'step'; did you mean 'steps'?"),
        ({"sft": {}, "dpo": {}}, {"beta": 0.1}, "beta is an option of dpo alone: give it to these entrants"),
        ([{"sft": {}}], {}, "entrants: {'sft': {}} is no name of a method; with options give {NAME: OPTIONS}"),
        ({"sft": 3}, {}, "entrant sft: 3 was given: give its options by name, {} for none"),
        ("sft", {}, "entrants: 'sft' was given: give {NAME: OPTIONS} or a list of methods"),
    ],
)
def test_what_python_cannot_give_is_refused_by_name(
    entrants: Any, options: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        alignkit.tournament(entrants, **options)
    assert caught.value.line == said and not [*tmp_path.iterdir()]


def test_a_set_of_a_method_that_each_of_its_entrants_overrides_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path, "[entrants.dpo]\nbeta = 0.05\n")
    with pytest.raises(UsageError, match=r"--set train.dpo.beta=0.2: nothing reads it, .* own beta \(dpo 0.05\)"):
        read_tournament(file, sets=["train.dpo.beta=0.2"])
    read_tournament(file, sets=["train.dpo.learning_rate=1e-5", "train.sft.epochs=2", "judge.seed=3"])
    both = written(tmp_path, "[entrants.dpo]\nbeta = 0.05\n[entrants.other]\nmethod = 'dpo'\n")
    assert read_tournament(both, sets=["train.dpo.beta=0.2"]).resolved(Entry("other", "dpo", "m"))[1].method.beta == 0.2


def test_a_sweep_makes_an_entrant_of_each_point(tmp_path: Path) -> None:
    sweeps = ["train.dpo.beta=0.05,0.1", "dpo.learning_rate=1e-5,2e-5"]
    made = read_tournament(written(tmp_path), sweeps=sweeps)
    assert made.sweeps == {
        "dpo": [f"dpo-beta={beta},learning_rate={rate}" for beta in ("0.05", "0.1") for rate in ("1e-05", "2e-05")]
    }
    assert made.entrant("dpo-beta=0.1,learning_rate=2e-05").options == {"beta": 0.1, "learning_rate": 2e-5}
    drawn = read_tournament(written(tmp_path), sweeps=["train.dpo.beta=0.01..1"], draws=4)
    betas = [drawn.entrant(name).options["beta"] for name in drawn.sweeps["dpo"]]
    assert len(set(betas)) == 4 and all(0.01 <= beta <= 1 for beta in betas)
    assert drawn.sweeps == read_tournament(written(tmp_path), sweeps=["train.dpo.beta=0.01..1"], draws=4).sweeps
    drawn = read_tournament(written(tmp_path), sweeps=sweeps, draws=3)  # no point of a grid twice
    assert set(drawn.sweeps["dpo"]) < set(made.sweeps["dpo"]) and len(drawn.sweeps["dpo"]) == 3


def test_any_option_can_be_swept(tmp_path: Path) -> None:
    file = written(tmp_path, "[entrants.'v1.5']\nmethod = 'grpo'\n")
    made = read_tournament(file, sweeps=["v1.5.temperatures=[1.0,0.5],[1.0,1.0]", "train.grpo.preset=paper,letter"])
    assert [entry.options for entry in made.entrants if entry.sweep] == [
        {"temperatures": temperatures, "preset": preset}
        for temperatures in ([1.0, 0.5], [1.0, 1.0])
        for preset in ("paper", "letter")
    ]
    assert made.sweeps["v1.5"][0] == "v1.5-temperatures=1.0,0.5,preset=paper"


def test_a_halved_sweep_trains_the_steps_in_parts(tmp_path: Path) -> None:
    sweeps = ["train.dpo.beta=0.05,0.1,0.2"]
    made = read_tournament(written(tmp_path), sweeps=sweeps, options={"steps": 10}, halvings=2)
    assert [made.parts(entry) for entry in made.entrants if entry.sweep] == [[2, 3, 5]] * 3
    assert made.parts(made.entrant("sft")) is None


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        ("train.dpo.betta=1,2", "dpo has no option 'betta'; did you mean 'beta'?"),
        ("train.ppo.beta=1", "no entrant is 'ppo'"),
        ("train.sft.learning_rate=1e-5,2e-5", "dpo starts from it"),
        ("train.dpo.beta=1..2", "say how often by --draws"),
        ("beta", "write train.METHOD.OPTION=VALUE"),
        ("train.dpo.beta=a,b", "was given"),
        ("train.dpo.data=a,b", "data is the same for all entrants"),
    ],
)
def test_a_sweep_of_nothing_is_refused(sweep: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        read_tournament(written(tmp_path), sweeps=[sweep])
    assert said in caught.value.line


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"halvings": 1}, "--halvings 1 without --sweep"),
        ({"halvings": 1, "sweeps": ["train.dpo.beta=1,2"]}, "say how many steps dpo is trained: --steps N"),
        (
            {"halvings": 3, "sweeps": ["train.dpo.beta=1,2"], "options": {"steps": 4}},
            "4 steps cannot be halved so often",
        ),
        ({"sweeps": ["reward.learning_rate=1e-5,1e-4"]}, "a reward model answers nothing"),
        ({"sweeps": ["train.dpo.beta=1,2", "dpo.beta=3,4"]}, "beta of dpo is swept twice"),
    ],
)
def test_a_sweep_that_cannot_be_halved_or_compared_is_refused(given: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        read_tournament(written(tmp_path, FILE + "[entrants.reward]\n"), **given)
    assert said in caught.value.line


def test_tables_of_a_tournament_disturb_no_other_command(tmp_path: Path) -> None:
    from alignkit.config.file import resolve
    from alignkit.registry import registry

    options: dict[str, Any] = {}
    resolved = resolve(registry().find("method", "dpo"), options=options, config=written(tmp_path))
    assert resolved.data.data == "rows.jsonl" and resolved.method.model_dump()["beta"] != 0.05


def test_without_entrants_it_is_the_papers_five_on_what_the_file_configures(tmp_path: Path) -> None:
    config = written(tmp_path, '[data]\ndata = "rows.jsonl"\n[model]\nmodel = "own"\n[judge]\nnum_beams = 2\n')
    made = read_tournament(config, options={"seeds": 3})
    assert [(e.name, e.start) for e in made.entrants] == [
        ("base", None),
        ("sft", "base"),
        ("sft-lenpen", "base"),
        ("dpo", "sft"),
        ("grpo", "sft"),
    ]
    assert made.section.vs == ["Qwen/Qwen2.5-0.5B-Instruct", "base", "start"] and made.entrants[0].model == "own"
    assert (made.settings.judge.num_beams, made.settings.judge.length_penalty) == (2, 0.9)  # the file's, the paper's
    typed = read_tournament(config, preset="paper")
    assert typed.settings.judge.num_beams == 4  # a preset that is typed counts for more than the file


def test_the_quickstarts_preset_is_a_tournament_with_a_reward_model_as_the_second_judge(tmp_path: Path) -> None:
    made = read_tournament(written(tmp_path), preset="demo", options={"seeds": [16]})
    assert {e.name for e in made.entrants} - {e.name for e in made.judged} == {made.section.second} == {"reward"}
    assert made.settings.data.data == "demo" and made.settings.judge.judge == "rules" and made.seeds == (16,)
    steps = {e.name: made.resolved(e)[1].method.max_steps for e in made.entrants if e.method is not None}
    assert steps == {"sft": 16, "sft-lenpen": 16, "dpo": 26, "grpo": 16, "reward": 10}
    with pytest.raises(UsageError, match="a set-up without a tournament; with one: demo, paper"):
        read_tournament(written(tmp_path), preset="offline")


def test_demo_is_the_tournament_of_its_preset_with_one_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, Path, Any]] = []

    def run_made(made: Any, out: Path, *, words: Any, **_: Any) -> Any:
        asked.append((made, out, words))
        raise UsageError("seen")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("alignkit.api.tournaments.run_made", run_made)
    assert main(["demo", "--seed", "7", "--out", "here"]) == 2
    ((made, out, words),) = asked
    assert out == Path("here") and made.seeds == (7,) and made.settings.data.data == "demo"
    assert words == ["--preset=demo", "--seeds=7,"]  # the page's commands
    assert any("not a quality benchmark" in note for note in made.notes)
