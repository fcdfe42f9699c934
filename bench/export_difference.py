"""How far an exported model is from the one that was trained, read again by each format's own reader.

    python -m bench.export_difference [--quick] [--json FILE]

Two random models with an adapter (a Llama and a Qwen2) and SmolLM2-135M-Instruct, not trained (--quick leaves it out),
are written in every form. Nats per token: the mean, and beside it the largest. `export_difference_nats` is the largest
mean of forms that lose nothing, the others are those of their form.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
GOALS = {
    "export_difference_nats": 1e-3,
    "export_difference_nats_bf16": 0.02,
    "export_difference_nats_f16": 0.02,
    "export_difference_nats_q8_0": 0.05,
}
_FORMS: dict[str, dict[str, Any]] = {
    "": {"dtype": "fp32"},
    "adapter": {"adapter": True},
    "bf16": {"dtype": "bf16"},
    "fp16": {"dtype": "fp16"},
    "f16": {"gguf": "f16", "dtype": "fp32"},
    "q8_0": {"gguf": "q8_0", "dtype": "fp32"},
}
_FIGURE = {"": "", "adapter": "", "bf16": "_bf16", "fp16": "_f16", "f16": "_f16", "q8_0": "_q8_0"}


def export_figures(folder: Path, *, quick: bool) -> dict[str, float]:
    """The largest mean of each kind of form, nats per token."""
    import alignkit

    models = {kind: _trained(folder, kind) for kind in ("llama", "qwen2")}
    if not quick:
        models["SmolLM2-135M-Instruct"] = "SmolLM2-135M-Instruct"
    found: dict[str, float] = {}
    for name, model in models.items():
        for form, options in _FORMS.items():
            if form == "adapter" and name not in ("llama", "qwen2"):
                continue
            written = alignkit.export(model, folder / f"{name}-{form}", progress=False, **options)
            last = written.differences[-1]
            print(f"{name}: {last.line()}")
            figure = f"export_difference_nats{_FIGURE[form]}"
            found[figure] = max(found.get(figure, 0.0), last.mean)
    return found


def _trained(folder: Path, kind: str) -> object:
    """A run of a random model whose adapter is far from nothing."""
    import alignkit

    sys.path.insert(0, str(ROOT / "tests" / "helpers"))
    from tiny_models import tiny_model

    sizes = {"hidden_size": 64, "intermediate_size": 96, "initializer_range": 0.15}
    base = tiny_model(folder / f"base-{kind}", kind=kind, merges=[("t", "h"), ("th", "e"), ("Ġ", "a")], **sizes)
    rows = [{"id": f"r{n}", "prompt": f"Say {n}.", "chosen": f"it is {n}"} for n in range(24)]
    out = folder / f"run-{kind}"
    options: dict[str, Any] = {"max_steps": 6, "batch_size": 8, "max_new_tokens": 4, "learning_rate": 2e-2}
    return alignkit.train(
        "sft", model=base, data=rows, split=0.3, out=out, lora_rank=4, precision="fp32", progress=False, **options
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = export_figures(Path(folder), quick=given.quick)
    for name, value in figures.items():
        print(f"{name:<30} {value:10.2g}  goal {GOALS[name]:g}: {'met' if value <= GOALS[name] else 'MISSED'}")
    if given.json is not None:
        from importlib.metadata import version

        from bench.commit import commit

        versions = {name: version(name) for name in ("torch", "transformers", "peft", "gguf")}
        content = {"figures": figures, "goals": GOALS, "settings": {"quick": given.quick}, "versions": versions}
        given.json.write_text(json.dumps(content | {"commit": commit()}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
