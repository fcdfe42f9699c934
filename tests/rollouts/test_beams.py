"""Beam search: against an exhaustive search, on real models against one without a cache, and as commands."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import tiny_model
from vllm_engines import needs_vllm

from alignkit import api
from alignkit.cli.main import main
from alignkit.policy.load import load_policy
from alignkit.rollouts.beam_generation import BeamGeneration
from alignkit.rollouts.beams import Candidates, beam_search
from alignkit.rollouts.sampler import Completion, Request, Sampler

END = 2


def request(ids: Sequence[int], max_new_tokens: int) -> Request:
    return Request(ids, 0.0, 0, max_new_tokens)


def chain(seed: int, num_tokens: int = 3) -> np.ndarray:
    """Log-probs of the next token given the last one, [V, V]."""
    table: np.ndarray = np.log(np.random.default_rng(seed).dirichlet(np.ones(num_tokens), size=num_tokens))
    return table


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("length_penalty", [0.0, 0.9, 2.0])
def test_a_beam_as_wide_as_everything_finds_the_best_of_all_completions(seed: int, length_penalty: float) -> None:
    table, longest = chain(seed), 4

    def expand(texts: Sequence[Sequence[int]]) -> list[Candidates]:
        return [list(enumerate(table[text[-1]].tolist())) for text in texts]

    def score(ids: tuple[int, ...]) -> float:
        return sum(table[a, b] for a, b in itertools.pairwise((0, *ids))) / len(ids) ** length_penalty

    every = [ids for n in range(1, longest + 1) for ids in itertools.product(range(3), repeat=n)]
    whole = [ids for ids in every if END not in ids[:-1] and (ids[-1] == END or len(ids) == longest)]
    (found,) = beam_search(
        [request([0], longest)], expand, num_beams=81, length_penalty=length_penalty, end_ids=frozenset({END})
    )
    assert tuple(found.ids.tolist()) == max(whole, key=score)
    assert found.truncated == (found.ids[-1] != END)
    assert float(found.logprobs.sum()) == pytest.approx(
        score(tuple(found.ids)) * len(found.ids) ** length_penalty, 1e-5
    )


def test_a_narrow_beam_keeps_the_likeliest_and_the_penalty_counts_generated_tokens_only() -> None:
    table = np.log(np.array([[0.1, 0.5, 0.4], [0.25, 0.35, 0.4], [1 / 3] * 3]))

    def expand(texts: Sequence[Sequence[int]]) -> list[Candidates]:
        return [list(enumerate(table[text[-1]].tolist())) for text in texts]

    def best(length_penalty: float, prompt: list[int]) -> list[int]:
        (found,) = beam_search(
            [request(prompt, 2)], expand, num_beams=1, length_penalty=length_penalty, end_ids=frozenset({END})
        )
        return list(found.ids.tolist())

    # at once: log 0.4; after token 1: log 0.5 + log 0.4 over 2 ^ penalty
    assert best(0.0, [0]) == [END] and best(1.0, [0]) == [1, END] and best(1.0, [0] * 50) == [1, END]
    assert math.log(0.4) > math.log(0.5 * 0.4) and math.log(0.4) < math.log(0.5 * 0.4) / 2


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("beams") / "model", seed=3, hidden_size=128)  # vLLM wants its heads


@pytest.mark.parametrize("num_beams", [1, 4])
def test_the_cache_finds_what_whole_texts_find_and_other_requests_change_nothing(model: Path, num_beams: int) -> None:
    policy = load_policy(model, precision="fp32", attention="plain").eval()
    end_ids = frozenset({256, 258, 10, 101})
    requests = [request(list((f"prompt {n} " * (n + 1)).encode()), 12) for n in range(3)]

    def expand(texts: Sequence[Sequence[int]]) -> list[Candidates]:
        with torch.no_grad():
            rows = [policy.model(torch.tensor([list(text)])).logits[0, -1].log_softmax(-1) for text in texts]
        return [list(enumerate(row.tolist())) for row in rows]

    options: dict[str, Any] = {"num_beams": num_beams, "length_penalty": 0.9}
    plain = beam_search(requests, expand, end_ids=end_ids, **options)
    generation = BeamGeneration(policy, end_ids=end_ids)
    together, alone = generation.search(requests, **options), [generation.search([r], **options)[0] for r in requests]
    for one, other, third in zip(plain, together, alone, strict=True):
        assert one.ids.tolist() == other.ids.tolist() == third.ids.tolist() and one.truncated == other.truncated
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-4)
    if (
        num_beams == 4
    ):  # a wider beam is never less likely by its own score than greedy decoding's first completion here
        greedy = generation.search(requests, num_beams=1, length_penalty=0.0)
        wide = generation.search(requests, num_beams=4, length_penalty=0.0)
        assert all(a.logprobs.sum() >= b.logprobs.sum() - 1e-5 for a, b in zip(wide, greedy, strict=True))


@needs_vllm
@pytest.mark.slow
def test_the_command_searches_alike_with_vllm(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = {}
    for sampler in ("transformers", "vllm"):
        command = ["generate", str(model), "--prompt", "Name a river.", "--prompt", "Why?", "--num-beams", "4"]
        options = ["--length-penalty", "0.9", "--max-new-tokens", "12", "--set", "model.precision=fp32"]
        assert main([*command, *options, "--sampler", sampler]) == 0
        lines[sampler] = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert len(lines["vllm"]) == 2 and lines["vllm"] == lines["transformers"]


def test_a_sampler_without_beams_says_so_and_beams_are_not_sampled(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Plain(Sampler):
        name = "plain"

        def generate(self, requests: Sequence[Request]) -> list[Completion]:
            return []

    with pytest.raises(Exception, match="'plain' has no beam search"):
        Plain(None, end_ids=frozenset()).beam_search([], num_beams=4, length_penalty=1.0)  # type: ignore[arg-type]
    assert main(["generate", str(model), "--prompt", "a", "--num-beams", "4", "--temperature", "0.5"]) == 2
    assert "beam search does not sample" in capsys.readouterr().err


def test_an_interrupted_file_of_answers_ends_up_the_same(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was drawn is kept, also beside a line that a killed process left torn; finished answers stay."""
    data = tmp_path / "prompts.jsonl"
    data.write_text("\n".join(json.dumps({"id": f"p{n}", "prompt": f"Say {n}" * (1 + n % 3)}) for n in range(150)))
    options: dict[str, Any] = {"data": str(data), "max_new_tokens": 4, "temperature": 0.6, "top_p": 0.95}
    whole = tmp_path / "whole.jsonl"
    api.generate_file(str(model), whole, **options)
    lines = [json.loads(line) for line in whole.read_text(encoding="utf-8").split("\n") if line]
    assert [line["id"] for line in lines] == [f"p{n}" for n in range(150)]
    assert all(line["finish"] in ("stop", "length") and 1 <= line["num_tokens"] <= 4 for line in lines)
    assert all(line["num_prompt_tokens"] > len("Say 1") for line in lines)

    from alignkit.judging.answers import Answering

    drawn = Answering._draw
    calls: list[int] = []

    def dies(self: Answering, requests: Sequence[Request]) -> list[Completion]:
        calls.append(len(requests))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return drawn(self, requests)

    monkeypatch.setattr(Answering, "_draw", dies)
    out = tmp_path / "out.jsonl"
    with pytest.raises(KeyboardInterrupt):
        api.generate_file(str(model), out, **options)
    part = tmp_path / ".out.jsonl.unfinished"
    with open(part, "a", encoding="utf-8") as file:
        file.write('{"id": "p1')  # torn
    assert not out.exists()
    command = [
        "generate",
        str(model),
        "--data",
        str(data),
        "--max-new-tokens",
        "4",
        "--top-p",
        "0.95",
        "--out",
        str(out),
    ]
    assert main([*command, "--temperature", "0.6"]) == 2
    assert "go on with --resume" in capsys.readouterr().err
    assert main([*command, "--temperature", "0.7", "--resume"]) == 2
    assert "temperature was 0.6, is 0.7" in capsys.readouterr().err
    assert main([*command, "--temperature", "0.6", "--resume"]) == 0
    assert out.read_bytes() == whole.read_bytes() and not part.exists()
    assert sum(calls[2:]) == 150 - 64  # the first part was not drawn again
    assert main([*command, "--temperature", "0.6", "--resume"]) == 0 and sum(calls[2:]) == 150 - 64
    assert main([*command, "--temperature", "0.6"]) == 2
    assert main(["generate", str(model), "--prompt", "a", "--resume"]) == 2
