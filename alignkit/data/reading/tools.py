"""Tools, calls of tools and their results -> one spelling, OpenAI's, which chat templates know.

A tool is {"type": "function", "function": {"name", "description", "parameters"}}; the function may stand bare or flat,
and the list be written as JSON text. A call is {"type": "function", "function": {"name", "arguments"}}, perhaps with an
"id"; it may stand bare, and its arguments be JSON text, as OpenAI writes them: templates want the object. Null stands
for absence in both: tables that unite rows fill what a row does not have with null.

The shapes are those that OpenAI's API, ShareGPT as LLaMA-Factory reads it, and ms-swift have documented.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json

from alignkit.data.reading.cells import is_missing, shown
from alignkit.errors import InputError

_MEANS_NULL = frozenset({"default", "const", "example"})  # keys of a JSON schema whose null says something


def read_tools(value: Any, where: str, name: str) -> list[dict[str, Any]]:
    """Read the list of a row's tools.

    Args:
        name: the field's, for errors.

    Raises:
        InputError: it is no list of functions with names, or broken JSON.
    """
    tools = from_json_text(value, where, name)
    if isinstance(tools, dict):
        tools = [tools]
    if not isinstance(tools, (list, tuple)):
        raise InputError(f"{where}: {name!r} must be a list of tools, or one written as JSON, found {shown(value)}")
    return [_tool(from_json_text(tool, where, name), where, name) for tool in tools if not is_missing(tool)]


def read_calls(value: Any, where: str, name: str) -> list[dict[str, Any]]:
    """Read calls of tools: a list of them, one alone, or JSON text of either. Raises as `read_tools`."""
    calls = from_json_text(value, where, name)
    if isinstance(calls, dict):
        calls = [calls]
    if not isinstance(calls, (list, tuple)):
        raise InputError(f"{where}: {name!r} must be a list of calls of tools, found {shown(value)}")
    return [_call(from_json_text(call, where, name), where, name) for call in calls if not is_missing(call)]


def without_filled_arguments(value: Any) -> Any:
    """The value of a table's cell, without the nulls that unite the arguments of all its calls."""
    if isinstance(value, dict):
        return {
            name: without_nulls(inner) if name == "arguments" else without_filled_arguments(inner)
            for name, inner in value.items()
        }
    return [without_filled_arguments(inner) for inner in value] if isinstance(value, list) else value


def without_undeclared(calls: list[dict[str, Any]], tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Calls without arguments that are null and that their tool has not: a table wrote them once."""
    known = {tool["function"]["name"]: tool["function"].get("parameters") for tool in tools}
    cleaned = []
    for call in calls:
        function = call["function"]
        parameters = known.get(function["name"])
        declared = parameters.get("properties") if isinstance(parameters, dict) else None
        if isinstance(declared, dict):
            kept = {name: v for name, v in function["arguments"].items() if v is not None or name in declared}
            call = {**call, "function": {**function, "arguments": kept}}
        cleaned.append(call)
    return cleaned


def without_nulls(value: Any) -> Any:
    """The value without what a table filled in."""
    if isinstance(value, Mapping):
        return {name: without_nulls(inner) for name, inner in value.items() if inner is not None or name in _MEANS_NULL}
    return [without_nulls(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def from_json_text(value: Any, where: str, name: str) -> Any:
    """A value that may be written as JSON text; anything else as it is. Raises InputError where it is broken."""
    if not isinstance(value, str):
        return value
    try:
        return from_json(value)
    except (ValueError, TypeError) as error:
        printed = "; this is how Python prints it: write it by json.dumps" * value.startswith(("[{'", "{'"))
        raise InputError(
            f"{where}: {name!r} is text, and no JSON: {error}: {shown(value)}{printed}; correct it, or leave it unread "
            f"by --ignore-fields {name}"
        ) from error


def _tool(tool: Any, where: str, name: str) -> dict[str, Any]:
    if isinstance(tool, dict):
        tool = without_nulls(tool)
        kind = tool.get("type", "function")
        function = tool.get("function")
        if function is None:  # bare, or flat as in OpenAI's Responses
            function = {key: inner for key, inner in tool.items() if key != "type" or kind != "function"}
        if kind == "function" and isinstance(function, dict) and _is_name(function.get("name")):
            if "input_schema" in function and "parameters" not in function:  # Anthropic's spelling
                named = {"input_schema": "parameters"}
                function = {named.get(key, key): inner for key, inner in function.items()}
            return {"type": "function", "function": function}
    raise InputError(
        f"{where}: {name!r} holds what is no function with a name: {shown(tool)}; write it as "
        '{"type": "function", "function": {"name": ..., "parameters": ...}}, or leave the field unread by '
        f"--ignore-fields {name}"
    )


_ARGUMENTS = ("arguments", "parameters", "args")


def _call(call: Any, where: str, name: str) -> dict[str, Any]:
    if isinstance(call, dict):
        function = call.get("function")
        if isinstance(function, str) and is_missing(call.get("name")):
            function = {**call, "name": function}
        function = call if is_missing(function) else function
        kind = call.get("type")
        if isinstance(function, dict) and _is_name(function.get("name")) and (is_missing(kind) or kind == "function"):
            given: Any = next((function[key] for key in _ARGUMENTS if not is_missing(function.get(key))), {})
            arguments = _arguments(given, where, function["name"])
            own = call.get("id")
            id_ = {} if is_missing(own) or own == "" else {"id": str(own)}
            return {**id_, "type": "function", "function": {"name": function["name"], "arguments": arguments}}
    raise InputError(
        f"{where}: {name!r} holds what is no call of a function with a name: {shown(call)}; write it as "
        '{"type": "function", "function": {"name": ..., "arguments": ...}}'
    )


def _arguments(value: Any, where: str, function: str) -> dict[str, Any]:
    arguments = value
    if isinstance(value, str):
        try:
            arguments = from_json(value) if value.strip() else {}
        except (ValueError, TypeError) as error:
            raise InputError(
                f"{where}: the arguments of a call of {function!r} are no JSON: {error}: {shown(value)}; correct them"
            ) from error
    if not isinstance(arguments, dict):
        raise InputError(
            f"{where}: the arguments of a call of {function!r} must be an object with a name for each, found "
            f"{shown(value)}; correct them"
        )
    return arguments


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and bool(name.strip())
