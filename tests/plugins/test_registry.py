"""The registry: what plugins register is found by name, and what cannot be used is named."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from types import FunctionType, ModuleType, SimpleNamespace

import pluggy
import pytest
import typer
from pydantic import Field

from alignkit.errors import UsageError
from alignkit.judging.metric import Metric
from alignkit.plugin import Dataset, Judge, Method, MethodConfig, Preset, Sampler, Tracker, hookimpl
from alignkit.registry import KINDS, Registry
from alignkit.units import Chosen

BASES = {
    "register_methods": Method,
    "register_judges": Judge,
    "register_datasets": Dataset,
    "register_samplers": Sampler,
    "register_trackers": Tracker,
    "register_metrics": Metric,
    "register_presets": Preset,
}


def a_class(hook: str, name: str, **own: object) -> type:
    """A class that may be registered: what its base leaves open is there, `own` beside or in its place."""
    base = BASES.get(hook, Method)
    given = {abstract: getattr(base, abstract) for abstract in getattr(base, "__abstractmethods__", ())}
    for abstract, function in given.items():
        given[abstract] = FunctionType(function.__code__, {})
        given[abstract].__defaults__, given[abstract].__kwdefaults__ = function.__defaults__, function.__kwdefaults__
    told = {"name": name, "version": "1", "trains_on": Chosen(), "label": name}
    told |= {"help": "a set-up", "model": "m", "data": "d"}
    if base is Method:
        told["Config"] = MethodConfig
    return type(name.title(), (base,), given | told | own)


def plugin_module(module_name: str, *, hook: str = "register_methods", names: tuple[str, ...] = ()) -> ModuleType:
    """A plugin module that registers one class for each name."""
    module = ModuleType(module_name)

    def implementation(register):
        for name in names:
            register(a_class(hook, name))

    implementation.__name__ = hook
    setattr(module, hook, hookimpl(implementation))
    return module


@pytest.fixture
def registry() -> Registry:
    registry = Registry()
    registry.add_module(plugin_module("one", names=("sft", "dpo")), distribution="dist-one", version="1.0")
    return registry


@pytest.mark.parametrize(("kind", "hook"), [item for item in KINDS.items() if item[0] != "command"])
def test_each_kind_of_thing_is_registered_by_its_own_hook(kind: str, hook: str) -> None:
    registry = Registry()
    registry.add_module(plugin_module("m", hook=hook, names=("thing",)), distribution="d", version="1")
    assert registry.find(kind, "thing").__name__ == "Thing"
    assert [(plugin.kind, plugin.name) for plugin in registry.plugins()] == [(kind, "thing")]


def command_module(command: object) -> ModuleType:
    module = ModuleType("m")
    module.register_commands = hookimpl(lambda register: register(command), specname="register_commands")
    return module


def test_a_command_is_a_function_or_a_named_app() -> None:
    def count_rows() -> None: ...

    registry, app = Registry(), typer.Typer(name="league")
    for command in (count_rows, app):
        registry.add_module(command_module(command), distribution="d", version="1")
    assert registry.names("command") == ["count-rows", "league"]
    assert registry.find("command", "count-rows") is count_rows and registry.find("command", "league") is app


def test_a_command_without_a_name_or_with_one_of_alignkits_own_is_refused() -> None:
    with pytest.raises(UsageError, match=r"a Typer app without a name: make it with typer\.Typer\(name=\.\.\.\)"):
        Registry().add_module(command_module(typer.Typer()), distribution="d", version="1")
    with pytest.raises(UsageError, match="given 'judge', which alignkit has itself"):
        Registry().add_module(command_module(typer.Typer(name="judge")), distribution="d", version="1")


def test_a_preset_named_as_an_option_of_init_or_without_data_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"Out\.name is 'out', which is an option of `alignkit init`: name it otherwise"
    ):
        Registry().add_module(
            plugin_module("m", hook="register_presets", names=("out",)), distribution="d", version="1"
        )
    without = a_class("register_presets", "lab", data=None)
    module = ModuleType("m")
    module.register_presets = hookimpl(lambda register: register(without), specname="register_presets")
    with pytest.raises(UsageError, match=r"Lab\.data must be a text"):
        Registry().add_module(module, distribution="d", version="1")


def test_a_name_nobody_has_gets_the_nearest_one_and_the_known_ones(registry: Registry) -> None:
    with pytest.raises(UsageError, match=r"no method is named 'dpq'; did you mean 'dpo'\?; known: dpo, sft"):
        registry.find("method", "dpq")
    with pytest.raises(UsageError, match=r"no judge is named 'dpo'.*known: none"):
        registry.find("judge", "dpo")


def test_a_name_claimed_twice_is_refused_naming_both_and_spares_the_others(registry: Registry) -> None:
    registry.add_module(plugin_module("two", names=("sft",)), distribution="dist-two", version="2.0")
    with pytest.raises(UsageError, match=r"'sft' is claimed by dist-one 1\.0 \(one\) and dist-two 2\.0 \(two\)"):
        registry.find("method", "sft")
    assert registry.find("method", "dpo").__name__ == "Dpo"
    assert registry.names("method") == ["dpo"]


def test_a_name_may_stand_for_a_method_and_a_judge(registry: Registry) -> None:
    registry.add_module(plugin_module("two", hook="register_judges", names=("sft",)), distribution="d", version="2")
    assert registry.find("method", "sft") is not registry.find("judge", "sft")


def test_a_misspelt_hook_is_an_error_rather_than_silence(registry: Registry) -> None:
    with pytest.raises(pluggy.PluginValidationError, match="register_method"):
        registry.add_module(plugin_module("two", hook="register_method", names=("x",)), distribution="d", version="1")


def test_a_plugin_that_fails_in_its_second_hook_leaves_nothing_behind(registry: Registry) -> None:
    module = plugin_module("two", names=("simpo", "sft"))

    def register_judges(register):
        register(a_class("register_judges", "brevity"))
        raise RuntimeError("no such card")

    module.register_judges = hookimpl(register_judges)
    with pytest.raises(RuntimeError, match="no such card"):
        registry.add_module(module, distribution="dist-two", version="2.0")
    assert registry.names("method") == ["dpo", "sft"]
    assert registry.names("judge") == []
    assert registry.find("method", "sft").__name__ == "Sft"


def test_plugins_are_listed_by_kind_then_name_whatever_the_order_of_loading() -> None:
    modules = [plugin_module("b", hook="register_judges", names=("rules",)), plugin_module("a", names=("sft", "dpo"))]
    listings = []
    for order in (modules, modules[::-1]):
        registry = Registry()
        for module in order:
            registry.add_module(module, distribution=module.__name__, version="1")
        listings.append([(plugin.kind, plugin.name) for plugin in registry.plugins()])
    assert listings[0] == listings[1] == [("method", "dpo"), ("method", "sft"), ("judge", "rules")]


def test_a_broken_plugin_is_warned_of_by_distribution_and_the_rest_is_loaded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from alignkit import registry as registry_module

    def fails() -> ModuleType:
        raise RuntimeError("no such card")

    def entry_point(distribution: str, load: object) -> SimpleNamespace:
        dist = SimpleNamespace(name=distribution, version="1.5")
        return SimpleNamespace(name=distribution, value=f"{distribution}.module", dist=dist, load=load)

    points = [entry_point("bad", fails), entry_point("good", lambda: plugin_module("good", names=("sft",)))]
    monkeypatch.setattr(registry_module.importlib.metadata, "entry_points", lambda group: points)
    loaded = registry_module.registry.__wrapped__()
    assert loaded.names("method") == ["sft"]  # both modules are nowhere to be read, so both are imported
    assert [(p.distribution, p.error) for p in loaded.broken] == [("bad", "RuntimeError: no such card")]
    assert "plugin bad.module of bad 1.5 cannot be loaded: RuntimeError: no such card" in caplog.text
    with pytest.raises(UsageError, match=r"1 plugin\(s\) failed to load: see `alignkit plugins list`"):
        loaded.find("method", "missing")


def test_a_kind_asked_for_imports_the_plugins_whose_text_names_its_hook_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = "from alignkit.plugin import hookimpl\n"
    texts = {
        "lazy_scorer": f"{body}@hookimpl\ndef register_judges(register): pass\n",
        "lazy_teacher": f"{body}@hookimpl\ndef register_methods(register): pass\n",
        "lazy_all": "from lazy_teacher import *\n",
        "lazy_broken": "register_methods = 1 / 0\n",
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry([EntryPoint(name, name, "alignkit") for name in texts])
    assert not registry.names("judge")
    assert {name for name in texts if name in sys.modules} == {"lazy_scorer", "lazy_all", "lazy_teacher"}
    assert [plugin.name for plugin in registry.broken] == ["lazy_broken"]


class Undescribed(MethodConfig):
    gamma: float = 1.0


class Described(MethodConfig):
    gamma: float = Field(1.0, description="a number")


def loss_of_batch_alone(self, batch): ...


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: type("Loose", (), {"name": "loose"}), "Loose is no class that derives from alignkit.plugin.Method"),
        (lambda: Described(), "is no class that derives from alignkit.plugin.Method"),
        (lambda: type("Idle", (Method,), {"name": "idle", "Config": Described}), r"Idle must define loss\(\)"),
        (lambda: a_class("", "My Method"), "give it small letters, digits and hyphens, such as 'my-method'"),
        (lambda: a_class("", "own", trains_on="paris"), "trains_on is 'paris': it must be a unit"),
        (lambda: a_class("", "own", needs=frozenset({"critic"})), "needs names 'critic': known are mismatched_kl, ref"),
        (lambda: a_class("", "own", needs=frozenset({"mismatched_kl"})), "'mismatched_kl': it needs 'reference' too"),
        (lambda: a_class("", "own", Config=dict), "Own.Config must be a class that derives from .*MethodConfig"),
        (lambda: a_class("", "own", Config=Undescribed), "option 'gamma' of Undescribed has no description"),
        (lambda: a_class("", "own", loss=loss_of_batch_alone), r"Own.loss\(self, batch\) must take what loss\(self, b"),
    ],
)
def test_a_class_that_is_no_method_is_refused_with_what_to_change(make: Callable[[], object], said: str) -> None:
    module = ModuleType("m")
    module.register_methods = hookimpl(lambda register: register(make()), specname="register_methods")
    with pytest.raises(UsageError, match=rf"register_methods: .*{said}"):
        Registry().add_module(module, distribution="d", version="1")


def test_a_method_whose_options_are_described_is_taken() -> None:
    module = ModuleType("m")
    register = hookimpl(lambda register: register(a_class("", "own", Config=Described)), specname="register_methods")
    module.register_methods = register
    registry = Registry()
    registry.add_module(module, distribution="d", version="1")
    assert registry.names("method") == ["own"]


def error_of(code: str, module: str) -> ZeroDivisionError:
    """The error of `code` run as a module of that name."""
    namespace = {"__name__": module}
    try:
        exec(compile(code, f"/site/{module}.py", "exec"), namespace)
    except ZeroDivisionError as error:
        return error
    raise AssertionError("nothing was raised")


def test_an_error_in_a_plugins_code_names_it_and_one_in_alignkits_does_not(registry: Registry) -> None:
    code = "class SimPO:\n    def loss(self):\n        return 1 / 0\nSimPO().loss()"
    said = "SimPO.loss (one.py:3) of the plugin dist-one 1.0 failed: ZeroDivisionError: division by zero"
    assert registry.fault_of(error_of(code, "one")) == said
    assert registry.fault_of(error_of(code, "alignkit.training.loop")) is None
    assert registry.fault_of(error_of(code, "numpy")) is None
