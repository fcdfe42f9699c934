"""Chat templates of our own that know tools, in four common styles, with generation marks; and rows with tools.

alignkit renders the marks as nothing; transformers says by them what an assistant wrote, a reference for masks.
"""

from __future__ import annotations

from typing import Any

# As Hermes and Qwen2.5 write them: calls as JSON in tags, results in a turn of the user.
TAGS = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
    {{- 'Functions:' }}
    {%- for tool in tools %}{{- '\\n' + (tool | tojson) }}{%- endfor %}
    {{- '\\nCall them so: <tool_call>{"name": ..., "arguments": ...}</tool_call><|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {{- '<|im_start|>user\\n' + message.content + '<|im_end|>\\n' }}
    {%- elif message.role == 'assistant' %}
        {{- '<|im_start|>assistant\\n' }}
        {%- generation %}
        {{- message.content }}
        {%- for call in message.tool_calls or [] %}
            {%- if message.content or not loop.first %}{{- '\\n' }}{%- endif %}
            {{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
            {{- call.function.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>' }}
        {%- endgeneration %}
        {{- '\\n' }}
    {%- elif message.role == 'tool' %}
        {%- if messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""
# As Llama 3.1 writes them: tools in the first question, one call without a text, results in a turn of their own.
HEADERS = """\
{{- bos_token }}
{%- if messages[0].role == 'system' %}
    {{- '<|start_header_id|>system<|end_header_id|>\\n\\n' + (messages[0].content | trim) + '<|eot_id|>' }}
    {%- set messages = messages[1:] %}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {{- '<|start_header_id|>user<|end_header_id|>\\n\\n' }}
        {%- if tools is not none and loop.first %}
            {%- for tool in tools %}{{- (tool | tojson(indent=2)) + '\\n\\n' }}{%- endfor %}
        {%- endif %}
        {{- (message.content | trim) + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if message.tool_calls | length > 1 %}{{- raise_exception('only one call at once') }}{%- endif %}
        {%- set function = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
        {%- generation %}
        {{- '{"name": "' + function.name + '", "parameters": ' + (function.arguments | tojson) + '}<|eot_id|>' }}
        {%- endgeneration %}
    {%- elif message.role == 'assistant' %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
        {%- generation %}{{- (message.content | trim) + '<|eot_id|>' }}{%- endgeneration %}
    {%- else %}
        {{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' + (message.content | tojson) + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}
"""
# As Mistral writes them: a list of calls in square brackets, ids of nine letters, no text beside a call.
BRACKETS = """\
{{- bos_token }}
{%- for message in messages %}
    {%- if message.role == 'system' %}
        {{- '[SYSTEM_PROMPT]' + message.content + '[/SYSTEM_PROMPT]' }}
    {%- elif message.role == 'user' %}
        {%- if tools is not none and not messages[:loop.index0] | selectattr('role', 'equalto', 'user') | list %}
            {{- '[AVAILABLE_TOOLS]' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}
        {%- endif %}
        {{- '[INST]' + message.content + '[/INST]' }}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {%- generation %}
        {{- '[TOOL_CALLS][' }}
        {%- for call in message.tool_calls %}
            {%- if call.id is not defined or call.id | length != 9 %}
                {{- raise_exception('ids of calls have 9 letters') }}
            {%- endif %}
            {{- (call.function | tojson)[:-1] + ', "id": "' + call.id + '"}' + ('' if loop.last else ', ') }}
        {%- endfor %}
        {{- ']' + eos_token }}
        {%- endgeneration %}
    {%- elif message.role == 'assistant' %}
        {%- generation %}{{- message.content + eos_token }}{%- endgeneration %}
    {%- else %}
        {%- if message.tool_call_id is not defined or message.tool_call_id | length != 9 %}
            {{- raise_exception('ids of calls have 9 letters') }}
        {%- endif %}
        {{- '[TOOL_RESULTS]{"content": ' + (message.content | tojson) + ', "call_id": "' + message.tool_call_id }}
        {{- '"}[/TOOL_RESULTS]' }}
    {%- endif %}
{%- endfor %}
"""
# As DeepSeek writes them: special tokens around each part of a call, arguments as the JSON text that a row has.
TOKENS = """\
{{- bos_token }}
{%- if tools %}{{- 'Tools: ' + (tools | tojson) + '\\n' }}{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'system' %}{{- message.content + '\\n' }}
    {%- elif message.role == 'user' %}{{- '<|User|>' + message.content }}
    {%- elif message.role == 'assistant' %}
        {{- '<|Assistant|>' }}
        {%- generation %}
        {{- message.content or '' }}
        {%- if message.tool_calls is defined %}
            {{- '<|calls|>' }}
            {%- for call in message.tool_calls %}
                {{- '<|call|>' + call.function.name + '<|sep|>' + call.function.arguments + '<|end_call|>' }}
            {%- endfor %}
            {{- '<|end_calls|>' }}
        {%- endif %}
        {{- eos_token }}
        {%- endgeneration %}
    {%- else %}{{- '<|output|>' + message.content + '<|end_output|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|Assistant|>' }}{%- endif %}
"""
_HEADER_MARKS = ("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>")
_BRACKET_MARKS = ("[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]")
_TOKEN_MARKS = ("<|User|>", "<|Assistant|>", "<|calls|>", "<|call|>", "<|sep|>", "<|end_call|>", "<|end_calls|>")
STYLES: dict[str, tuple[str, tuple[str, ...]]] = {
    "tags": (TAGS, ("<|endoftext|>", "<|im_end|>", "<|im_start|>")),
    "headers": (HEADERS, _HEADER_MARKS),
    "brackets": (BRACKETS, ("<s>", "</s>", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[/TOOL_RESULTS]", *_BRACKET_MARKS)),
    "tokens": (TOKENS, ("<|bos|>", "<|eos|>", "<|output|>", "<|end_output|>", *_TOKEN_MARKS)),
}
"""Each template with its special tokens, the beginning and end of text first."""
TEXT_BESIDE_CALLS = frozenset({"tags", "tokens"})
SEVERAL_CALLS = frozenset({"tags", "brackets", "tokens"})


def tool(name: str, **properties: str) -> dict[str, Any]:
    schema = {key: {"type": kind} for key, kind in properties.items()}
    function = {"name": name, "description": f'The "{name}" of a port', "parameters": {"type": "object"}}
    function["parameters"] = {"type": "object", "properties": schema}
    return {"type": "function", "function": function}


TOOLS = [tool("tide", port="string", days="integer"), tool("depth", place="object")]


def call(number: int, name: str, **arguments: Any) -> dict[str, Any]:
    return {"id": f"call{number:05d}", "type": "function", "function": {"name": name, "arguments": arguments}}


def calls(*made: dict[str, Any], content: str = "") -> dict[str, Any]:
    return {"role": "assistant", "content": content, "tool_calls": list(made)}


def result(number: int, content: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": f"call{number:05d}", "content": content}


SYSTEM, USER = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "When is high water?"}
DONE = {"role": "assistant", "content": "At six."}
ODD = call(2, "tide", port='Ål"es\\und\n{{ x }}', days=-3)
NESTED = call(3, "depth", place={"at": [1.5, None, {"deep": True}], "": "<b>"})
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "a call and its result": [USER, calls(call(1, "tide", port="Dover")), result(1, "06:00"), DONE],
    "a call last": [SYSTEM, USER, calls(call(1, "tide", port="Dover", days=2))],
    "no arguments": [USER, calls(call(1, "tide")), result(1, ""), DONE],
    "odd arguments": [USER, calls(ODD), result(2, '{"high": "06:00"}'), DONE],
    "nested arguments": [USER, calls(NESTED), result(3, "null"), DONE, USER, DONE],
    "calls one after another": [USER, calls(ODD), result(2, "a"), calls(NESTED), result(3, "b"), DONE],
    "no call": [SYSTEM, USER, DONE],
    "text beside a call": [USER, calls(call(1, "tide"), content="Let me look."), result(1, "x"), DONE],
    "text with edges": [USER, calls(NESTED, content="I\nlook:"), result(3, "x"), DONE],
    "two calls": [USER, calls(ODD, NESTED), result(2, "one"), result(3, "two"), DONE],
    "twice the same call": [USER, calls(call(1, "tide"), call(2, "tide")), result(1, "x"), result(2, "x"), DONE],
}
