"""The shared chat templates with generation marks written into them by hand, and the special tokens each needs.

With marks transformers itself says which text an assistant wrote: a reference for masks that are found without any.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from places import BESIDE

FOLDER = BESIDE / "data" / "chat-templates"
ASSISTANT = (
    "{% if message['role'] == 'assistant' %}{% generation %}{{ TEXT }}{% endgeneration %}"
    "{% else %}{{ TEXT }}{% endif %}"
)


@dataclass(frozen=True)
class Known:
    """What is known of a template.

    Args:
        marks: special tokens, the beginning and end of text first.
        swaps: (old, new) texts that write generation marks into it.
        refused: what the refusal of every row says; None where rows are accepted.
        refuses: "system" or "turns" (roles that do not alternate) where such rows alone are refused.
    """

    marks: tuple[str, ...]
    swaps: tuple[tuple[str, str], ...] = ()
    refused: str | None = None
    refuses: tuple[str, ...] = ()


def _split(before: str, text: str, after: str = "") -> tuple[str, str]:
    """Swap an expression of three summed parts for its parts, the middle one marked where an assistant speaks."""
    old = "{{" + before + " + " + text + (" + " + after if after else "") + "}}"
    return old, "{{" + before + "}}" + ASSISTANT.replace("TEXT", text) + ("{{ " + after + "}}" if after else "")


_CHATML = ("<|endoftext|>", "<|im_end|>", "<|im_start|>")
_LLAMA = ("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|end_of_text|>")
_GEMMA = ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>")
_PHI = ("<s>", "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
_DEEPSEEK = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>")  # noqa: RUF001
_MISTRAL = ("<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]")
_CHATML_SWAP = _split("'<|im_start|>' + message['role'] + '\n'", "message['content'] + '<|im_end|>'", "'\n'")
_LLAMA_SWAP = (
    (
        "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim "
        "+ '<|eot_id|>' }}"
    ),
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
    + ASSISTANT.replace("TEXT", "message['content'] | trim + '<|eot_id|>'"),
)
_PHI_SWAP = (
    "{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}",
    "{{'<|assistant|>\n'}}{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}{{ '\n' }}",
)
_QWEN3_END = (
    "        {{- '<|im_end|>\\n' }}\n    {%- elif message.role == \"tool\" %}",
    "        {{- '\\n' }}\n    {%- elif message.role == \"tool\" %}",
)
_QWEN3_PLAIN = (
    "{{- '<|im_start|>' + message.role + '\\n' + content }}",
    "{{- '<|im_start|>' + message.role + '\\n' }}{% generation %}{{ content + '<|im_end|>' }}{% endgeneration %}",
)
_THOUGHT = "'<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n')"
_QWEN3_THOUGHT = (
    (
        "{{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') "
        "+ '\\n</think>\\n\\n' + content.lstrip('\\n') }}"
    ),
    # Without thoughts the block is the template's own.
    "{{- '<|im_start|>' + message.role + '\\n' }}{% if reasoning_content %}{% generation %}{{ "
    + _THOUGHT
    + " + '<|im_end|>' }}{% endgeneration %}{% else %}{{- '<think>\\n\\n</think>\\n\\n' }}{% generation %}"
    "{{ content.lstrip('\\n') + '<|im_end|>' }}{% endgeneration %}{% endif %}",
)


def _whole(old: str) -> tuple[str, str]:
    """Mark a whole expression."""
    return old, "{%- generation %}" + old + "{%- endgeneration %}"


NO_THOUGHTS = "no thoughts before an answer, though the chat template's prompt opens them with '<think>'"
KNOWN = {
    "chatml": Known(_CHATML, (_CHATML_SWAP,)),
    "deepseek-r1-distill-qwen": Known(_DEEPSEEK, refused=NO_THOUGHTS),
    "deepseek-v3": Known(_DEEPSEEK, refused=NO_THOUGHTS),
    "gemma-2-it": Known(
        _GEMMA,
        (
            (
                "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}",
                "{{ '<start_of_turn>' + role + '\n' }}"
                + ASSISTANT.replace("TEXT", "message['content'] | trim + '<end_of_turn>'")
                + "{{ '\n' }}",
            ),
        ),
        refuses=("system", "turns"),
    ),
    "gemma-3-it": Known(
        _GEMMA,
        (
            (
                "{{ message['content'] | trim }}",
                ASSISTANT.replace("TEXT", "message['content'] | trim + '<end_of_turn>'"),
            ),
            ("{{ '<end_of_turn>\n' }}", "{{ '\n' }}"),
        ),
        refuses=("turns",),
    ),
    "glm-4-moe": Known(
        ("[gMASK]", "<|endoftext|>", "<sop>", "<|system|>", "<|user|>", "<|assistant|>"), refused="no end token"
    ),
    "hermes-3-tool-use": Known(_CHATML, refused="needs a list of tools"),
    "llama-3-instruct": Known(
        _LLAMA,
        (
            ("+ message['content'] | trim + '<|eot_id|>' %}", "%}"),
            ("{{ content }}", "{{ content }}" + ASSISTANT.replace("TEXT", "message['content'] | trim + '<|eot_id|>'")),
        ),
    ),
    "llama-3.1-instruct": Known(_LLAMA, (_LLAMA_SWAP,)),
    "llama-3.2-instruct": Known(_LLAMA, (_LLAMA_SWAP,)),
    "mistral-nemo-instruct": Known(
        _MISTRAL, (_whole('{{- message["content"] + eos_token}}'),), refuses=("system", "turns")
    ),
    "mistral-v1": Known(("<s>", "</s>"), (_whole("{{- ' ' + content + eos_token }}"),), refuses=("turns",)),
    "mistral-v7-tekken": Known(_MISTRAL, (_whole("{{- message['content'] + eos_token }}"),)),
    "phi-3": Known(_PHI, (_PHI_SWAP,)),
    "phi-3.5-mini-instruct": Known(_PHI, (_PHI_SWAP,)),
    "phi-4": Known(("<|endoftext|>", "<|im_end|>", "<|im_start|>", "<|im_sep|>")),
    "qwen2.5-instruct": Known(
        _CHATML,
        (
            (
                "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}",
                "{{- '<|im_start|>' + message.role + '\\n' }}"
                + ASSISTANT.replace("TEXT", "message.content + '<|im_end|>'")
                + "{{ '\\n' }}",
            ),
        ),
    ),
    "qwen3": Known(_CHATML, (_QWEN3_PLAIN, _QWEN3_THOUGHT, _QWEN3_END)),
    "qwen3-instruct-2507": Known(_CHATML, (_QWEN3_PLAIN, _QWEN3_END)),
    "smollm2-instruct": Known(_CHATML, (_CHATML_SWAP,)),
}


def marked(name: str) -> str:
    """A template's text with generation marks."""
    text = (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
    for old, new in KNOWN[name].swaps:
        assert old in text, f"{name}: {old!r} is not in the template"
        text = text.replace(old, new)
    return text


def write_tokenizer(folder: Path, name: str, base: Path) -> None:
    """Write a tokenizer folder with a template and its special tokens on another folder's vocabulary."""
    import json

    known = KNOWN[name]
    content = json.loads((base / "tokenizer.json").read_text(encoding="utf-8"))
    present = {token["content"]: token for token in content["added_tokens"]}
    number = 1 + max([*content["model"]["vocab"].values(), *(token["id"] for token in content["added_tokens"])])
    for mark in known.marks:
        if mark in present:
            present[mark]["special"] = True
            continue
        content["added_tokens"].append(
            {
                "id": number,
                "content": mark,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
        )
        number += 1
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": known.marks[0], "eos_token": known.marks[1]}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "chat_template.jinja").write_bytes((FOLDER / f"{name}.jinja").read_bytes())
    (folder / "config.json").write_text('{"model_type": "qwen2"}', encoding="utf-8")
