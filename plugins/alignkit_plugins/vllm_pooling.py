"""vLLM's engine for reward models: token ids in, raw rewards out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from alignkit.plugin import InputError
from alignkit_plugins.reward_folder import Head, RewardFolder
from alignkit_plugins.vllm_engine import CPU_BLOCK, start_engine, stop_engine


class PoolingEngine:
    """A reward model's engine in this process.

    Args:
        head: which value is the reward.
        logit_of_token: the token, for head "logit".
        dtype: "float32" or "bfloat16"; the head computes in float32.
        max_length: most tokens of a conversation.
        gpu_memory: share of the GPU's memory it may take.

    Raises:
        InputError: vLLM cannot serve this model.
    """

    def __init__(
        self,
        folder: RewardFolder,
        head: Head,
        *,
        logit_of_token: int | None,
        dtype: str,
        max_length: int,
        gpu_memory: float,
    ) -> None:
        import torch
        from vllm import PoolingParams
        from vllm.config import PoolerConfig

        self._head = head
        self._params = PoolingParams(use_activation=False)
        overrides = {} if logit_of_token is None else _one_label(folder, logit_of_token)
        self._llm = start_engine(
            folder.source.folder,
            runner="pooling",
            dtype=dtype,
            gpu_memory=gpu_memory,
            hf_overrides=overrides,
            max_model_len=max_length,
            pooler_config=PoolerConfig(use_activation=False),
            block_size=None if torch.cuda.is_available() else CPU_BLOCK,  # two answers' prompt is computed once
        )

    def rewards(self, ids: Sequence[Sequence[int]]) -> list[float]:
        """Return one raw reward for each row of token ids, in order."""
        if not ids:
            return []
        prompts: Any = [{"prompt_token_ids": list(row)} for row in ids]
        if self._head == "token":
            rated = self._llm.encode(
                prompts, pooling_task="token_classify", pooling_params=self._params, use_tqdm=False
            )
            return [float(one.outputs.data.reshape(-1)[-1]) for one in rated]
        classified = self._llm.classify(prompts, pooling_params=self._params, use_tqdm=False)
        return [float(one.outputs.probs[0]) for one in classified]

    def close(self) -> None:
        """Free the model."""
        stop_engine(self._llm)
        del self._llm


def _one_label(folder: RewardFolder, token: int) -> dict[str, Any]:
    """Return the settings that let vLLM read one row of the LM head as a head of one label."""
    text = folder.chat.tokenizer.convert_ids_to_tokens(token)
    if text is None:
        raise InputError(f"{folder.source.folder}: its tokenizer has no token {token}; correct logit_of_token")
    architecture = folder.architectures[0].replace("ForCausalLM", "ForSequenceClassification")
    return {
        "architectures": [architecture],
        "classifier_from_token": [text],
        "method": "no_post_processing",
        "num_labels": 1,
    }
