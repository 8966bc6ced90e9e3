"""Calls of tools in the form of a model's family, which one of vLLM's tool parsers reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rollout.loading import expect_no_triton
from rollout.tools.calls import BadCall, Call, as_call, said_of


class VllmCalls:
    """Finds calls as `vllm serve --tool-call-parser NAME` does.

    Args:
        name: Of the parser, such as "qwen3_coder" or "glm45".
        tokenizer: The policy's.
        schemas: Of the tools, see `rollout.tools.tool.Tool`; they say of what types arguments are.

    Raises:
        ValueError: If vLLM has no such parser, or it needs tokens that the policy does not have, or
            does not read whole texts.
    """

    def __init__(self, name: str, tokenizer: Any, schemas: Sequence[Mapping[str, Any]]) -> None:
        expect_no_triton()
        # Some seconds, for those who want it.
        from vllm.entrypoints.openai.chat_completion.protocol import (
            ChatCompletionRequest,
            ChatCompletionToolsParam,
        )
        from vllm.tool_parsers import ToolParserManager

        if name not in (known := ToolParserManager.list_registered()):
            raise ValueError(
                f"environment.parser must be empty or one of vLLM's tool parsers, "
                f"{', '.join(known)}, got {name!r}"
            )
        self._parser = ToolParserManager.get_tool_parser(name)
        self._tokenizer = tokenizer
        self._tools = [ChatCompletionToolsParam(**schema) for schema in schemas]
        self._request = ChatCompletionRequest.model_validate(
            {"messages": [{"role": "user", "content": ""}], "tools": [dict(s) for s in schemas]}
        )
        try:
            self._read("")
        except Exception as error:
            raise ValueError(
                f"environment.parser must be one that reads what the policy of model.path writes; "
                f"choose the one of its family, got {name!r} ({' '.join(str(error).split())[:200]})"
            ) from error

    def __call__(self, text: str) -> tuple[Call | BadCall, ...]:
        """Find the calls of a response, as `rollout.tools.calls.find_calls`.

        What the parser does not read is no call.

        Args:
            text: The decoded response with its special tokens.
        """
        try:
            return self._read(said_of(text))
        except Exception as error:
            # Whatever a policy writes is its own fault, and no reason to leave out the play.
            return (BadCall(f"the call cannot be read ({type(error).__name__})"),)

    def _read(self, text: str) -> tuple[Call | BadCall, ...]:
        # A parser keeps what it has read.
        parser = self._parser(self._tokenizer, self._tools)
        found = parser.extract_tool_calls(text, self._request)
        calls = found.tool_calls if found.tools_called else []
        return tuple(as_call(call.function.model_dump()) for call in calls)
