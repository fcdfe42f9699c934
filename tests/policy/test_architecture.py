"""What a model folder's configuration says: sizes by any names, and what cannot be trained is refused first."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import tiny_model, tiny_tokenizer

from alignkit import api
from alignkit.cli.main import main
from alignkit.data.trees.packs import lay_out
from alignkit.data.trees.trees import tree
from alignkit.errors import InputError
from alignkit.policy.architecture import Architecture, read_architecture
from alignkit.policy.load import load_policy
from alignkit.policy.policy import Policy
from alignkit.pretrained.read import context_length
from alignkit.rollouts.batched import BatchedGeneration
from alignkit.rollouts.sampler import Request
from alignkit.training.run import self_checks as startup
from alignkit.training.run.plan import count_parameters

# Each kind with what its configuration needs, and the path that it takes.
TRAINED: dict[str, tuple[dict[str, Any], str]] = {
    "phi": ({}, "tree"),  # a head with bias
    "gemma2": ({"head_dim": 12}, "plain"),  # soft-caps head and attention
    "granite": ({"logits_scaling": 8.0}, "tree"),
    "cohere": ({"logit_scale": 0.0625}, "tree"),
    "gpt2": ({"attn_pdrop": 0.0}, "tree"),  # n_embd, n_layer, n_head, n_positions; Conv1D
    "opt": ({"ffn_dim": 96, "word_embed_proj_dim": 48}, "tree"),
    "bloom": ({}, "plain"),  # no positions that could be given
    "lfm2": ({"layer_types": ["conv", "full_attention"]}, "plain"),
    "qwen3_5_text": (
        {
            "head_dim": 12,
            "layer_types": ["linear_attention", "full_attention"],
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
        },
        "plain",
    ),
    "gemma3_text": ({"head_dim": 12, "sliding_window": 8}, "tree"),
}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "mamba": ({}, "keeps a state besides keys and values"),
    "mixtral": ({}, "a mixture of experts"),
    "bert": ({"is_decoder": True}, "does not take hidden states from its body"),
    "openai-gpt": ({}, "keeps no keys and values"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": f"{n}?", "chosen": f"yes {n}"}) for n in range(9)))
    return path


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "sound")


@pytest.fixture
def model(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "model"))


def train(model: Path, data: Path, out: Path, *more: object) -> int:
    given = ["--model", model, "--data", data, "--out", out, "--split", "0.2", "--max-steps", 1, "--max-new-tokens", 4]
    return main(["train", "sft", *map(str, [*given, "--precision", "fp32", *more])])


@pytest.mark.parametrize("kind", TRAINED)
def test_models_with_names_heads_and_positions_of_their_own_are_trained(kind: str, data: Path, tmp_path: Path) -> None:
    options, path = TRAINED[kind]
    model = tiny_model(tmp_path / "model", kind=kind, **options)
    assert train(model, data, tmp_path / "run") == 0
    checks = json.loads((tmp_path / "run" / "checks.json").read_text())
    names = [check["name"] for check in checks]
    assert all(check["ok"] for check in checks)
    assert ("packed rows with shared prompts = separate rows" in names) == (path == "tree")
    assert "samples' log-probs = the policy's" in names and "head on scored tokens in chunks" in "".join(names)


@pytest.mark.parametrize("kind", REFUSED)
def test_models_that_cannot_be_trained_are_refused_before_data_are_read(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], data: Path
) -> None:
    options, reason = REFUSED[kind]
    model = tiny_model(tmp_path / "model", kind=kind, **options)
    monkeypatch.setattr(
        "alignkit.training.inputs.setup.prepare_parts", lambda *_, **__: pytest.fail("data were prepared")
    )
    assert train(model, data, tmp_path / "run") == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "error" in line)
    assert f"a model of type {kind} cannot be trained: " in line and reason in line
    assert not (tmp_path / "run").exists()


def test_a_causal_model_is_not_refused_for_a_class_that_others_lack(tmp_path: Path) -> None:
    model = tiny_model(tmp_path, kind="granite")
    assert read_architecture(model).model_type == "granite"
    with pytest.raises(InputError, match="granite cannot be trained: transformers has no classifier"):
        read_architecture(model, scalar_head=True)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5", "is_encoder_decoder": False}))
    with pytest.raises(InputError, match=r"t5 cannot be trained: .*(gives no usable|no causal language model)"):
        read_architecture(model)


def test_sizes_are_those_of_the_layers_by_whatever_names(tmp_path: Path) -> None:
    gpt2 = read_architecture(tiny_model(tmp_path / "gpt2", kind="gpt2", num_key_value_heads=4))
    block = ((48, 144), (48, 48), (48, 192), (192, 48))
    assert gpt2 == Architecture("gpt2", 272, 48, 2, 192, 48, 48, 512, 512, block * 2, 0)
    llama = read_architecture(tiny_model(tmp_path / "llama", kind="llama"))
    block = ((48, 48), (48, 24), (48, 24), (48, 48), (48, 96), (48, 96), (96, 48))
    assert llama == Architecture(
        "llama", 272, 48, 2, 96, 48, 24, 512, None, block * 2, 2 * sum(a * b for a, b in block)
    )
    assert count_parameters(tmp_path / "llama") == llama.num_narrow + 272 * 48 + 5 * 48
    policy = load_policy(tmp_path / "gpt2", lora_rank=3, precision="fp32")
    trained = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    assert trained == 3 * sum(map(sum, gpt2.matrices))


def test_a_table_of_positions_ends_samples_and_bounds_rows(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_model(tmp_path / "model", kind="gpt2", n_positions=32, max_position_embeddings=32)
    policy = load_policy(model, precision="fp32")
    requests = [Request(list(range(n)), 1.0, n, 20) for n in (4, 28, 32)]
    drawn = BatchedGeneration(policy, end_ids=frozenset()).generate(requests)
    assert [len(one.ids) for one in drawn] == [20, 4, 1] and all(one.truncated for one in drawn)
    assert train(model, data, tmp_path / "run", "--max-length", 33) == 2
    assert "has a table of 32 positions; lower it" in capsys.readouterr().err


def test_ids_beyond_the_embedding_are_refused_with_both_numbers(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_tokens([f"<calc{n}>" for n in range(20)])
    tokenizer.save_pretrained(model)
    with monkeypatch.context() as patch:
        patch.setattr(
            "alignkit.training.inputs.setup.prepare_parts", lambda *_, **__: pytest.fail("data were prepared")
        )
        assert train(model, data, tmp_path / "run") == 2
    for command in (["data", "prepare", "--method", "sft"], ["generate", str(model)]):
        given = [] if command[0] == "generate" else ["--model", str(model)]
        assert main([*command, *given, "--data", str(data)]) == 2
    logged = capsys.readouterr().err
    assert logged.count("the tokenizer has ids up to 278, the embedding 272 rows") == 3


@pytest.mark.parametrize(
    ("file", "content"),
    [
        *((file, content) for file in ("config.json", "tokenizer_config.json") for content in ("[]", "null", '"text"')),
        ("config.json", {"num_hidden_layers": "text"}),
        ("config.json", {"num_hidden_layers": 10**9}),
        ("config.json", {"hidden_size": -1}),
        ("config.json", {"num_attention_heads": 0}),
        ("config.json", {"vocab_size": None}),
        ("config.json", {"max_position_embeddings": -5}),
        ("config.json", {"attention_dropout": 1.5}),
        ("config.json", {"attention_dropout": float("nan")}),
        ("config.json", {"dtype": {}}),
        ("config.json", {"model_type": []}),
        ("config.json", {"model_type": "mamba"}),
        ("tokenizer_config.json", {"eos_token": 5}),
        ("tokenizer_config.json", {"tokenizer_class": [1]}),
        ("tokenizer_config.json", {"extra_special_tokens": 3}),
        ("generation_config.json", "[]"),
        ("generation_config.json", {"eos_token_id": {}}),
        ("generation_config.json", '"text"'),
    ],
)
def test_a_damaged_configuration_is_one_line(
    file: str, content: Any, model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = model / file
    path.write_text(content if isinstance(content, str) else json.dumps(json.loads(path.read_text()) | content))
    code = train(model, data, tmp_path / "run")
    logged = capsys.readouterr().err
    if file == "generation_config.json" and code == 0:
        return  # transformers passes over it
    (line,) = (line for line in logged.splitlines() if "error:" in line)
    assert code == 2 and str(model) in line and "Traceback" not in logged and "[transformers]" not in logged
    assert not (tmp_path / "run").exists()


def test_a_tokenizers_folder_is_enough_for_the_data_commands(data: Path, tmp_path: Path) -> None:
    tiny_tokenizer(tmp_path / "tokenizer")
    given: dict[str, Any] = {"model": str(tmp_path / "tokenizer"), "data": str(data)}
    assert next(iter(api.show_rows(**given)))["prompt_ids"]
    assert api.data_lengths(**given)[0].count == 9
    assert api.data_prepare("sft", split="0.2", **given)["max_length"] == 2048
    assert main(["train", "sft", "--model", given["model"], "--data", given["data"]]) == 2
    assert context_length(tmp_path / "tokenizer") == 2048


def test_the_models_own_attention_is_computed_where_sdpa_leaves_a_part_out(tmp_path: Path) -> None:
    """Gemma 2 soft-caps its attention scores, which transformers' sdpa passes over."""
    model = tiny_model(tmp_path, kind="gemma2", head_dim=12, attn_logit_softcapping=0.01, query_pre_attn_scalar=1)
    policy = load_policy(model, precision="fp32").eval()
    ids = np.arange(20)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(4)
        ours = policy(lay_out([tree("r", ids[:5], [(ids[5:], np.ones(15, bool))])])).logprob_T
        capped = _logprobs(policy, ids)
        for module in policy.base.modules():
            if hasattr(module, "attn_logit_softcapping"):
                module.attn_logit_softcapping = None  # what sdpa computes
        free = _logprobs(policy, ids)
    assert (ours - capped).abs().max() < 1e-5 < 1e-3 < (ours - free).abs().max()


def _logprobs(policy: Policy, ids: np.ndarray) -> torch.Tensor:
    """Log-probs of ids 5 and later by the model's own attention as transformers writes it."""
    policy.base.set_attn_implementation("eager")
    logits = policy.model(input_ids=torch.as_tensor(ids)[None]).logits[0]
    return logits.log_softmax(-1)[4:-1].gather(-1, torch.as_tensor(ids)[5:, None])[:, 0]


def test_a_model_that_reads_later_tokens_fails_the_start_up_check(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = load_policy(sound, precision="fp32", attention="plain")
    trees = [tree("r", np.arange(5), [(np.arange(9), np.ones(9, bool))])]
    name = "log-probs read nothing behind their token"
    assert next(check for check in startup.run_checks(policy, trees) if check.name == name).ok
    original = type(policy.body).forward

    def reading_all(self: Any, **inputs: Any) -> Any:
        out = original(self, **inputs)
        out.last_hidden_state = out.last_hidden_state + out.last_hidden_state.mean(1, keepdim=True)
        return out

    monkeypatch.setattr(type(policy.body), "forward", reading_all)
    assert not next(check for check in startup.run_checks(policy, trees) if check.name == name).ok


@pytest.mark.parametrize("method", ["sft", "dpo", "grpo"])
def test_sizes_that_do_not_fit_each_other_are_one_line_for_every_method(
    method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_model(tmp_path / "model", kind="stablelm", partial_rotary_factor=0.25)  # 3 of 12 numbers turned
    data = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"q{n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(8)]
    data.write_text("\n".join(map(json.dumps, rows)))
    given = ["--model", model, "--data", data, "--out", tmp_path / "run", "--split", "0.2", "--max-new-tokens", 4]
    (tmp_path / "own.py").write_text("def score(completion, row):\n    return len(completion)\n")
    more = ["--reward", f"{tmp_path / 'own.py'}:score"] if method == "grpo" else []
    assert main(["train", method, *map(str, [*given, *more])]) == 3
    logged = capsys.readouterr().err
    assert "start-up check failed: a model of type stablelm cannot be computed: RuntimeError: " in logged
    assert "Traceback" not in logged
