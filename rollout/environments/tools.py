"""The environment of tools: calls found in a turn are made, and what they come to is read next.

turn -> find calls -> observe each -> Reply;  no call -> End
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from cost.ranges import SECONDS, count, require_ranges
from rollout.environments.bridge import ROLES
from rollout.environments.turns import End, Reply, TurnEnvironment, TurnPlayer
from rollout.stopping import Stopping
from rollout.tools.calls import BadCall, Call, find_calls
from rollout.tools.tool import Tool, observe, tools_by_name
from rollout.tools.vllm_calls import VllmCalls
from rollout.types import Prompt, Trajectory

_ASKED_FOR = {"<function=": "qwen3_coder", "<arg_key>": "glm45", "<|tool>declaration:": "gemma4"}
"""What chat templates that ask for calls in another form than JSON have, and a parser of that."""
FindCalls = Callable[[str], Sequence[Call | BadCall]]
"""Calls in the text of a turn, in their order."""
PLACES = ("template", "system", "none")
_SYSTEM = (
    "You may call these tools:\n<tools>\n{tools}\n</tools>\nTo call one, write\n<tool_call>\n"
    '{{"name": NAME, "arguments": {{...}}}}\n</tool_call>\nand wait for its answer.'
)


class ToolGame:
    """A conversation with tools; it ends with a turn that calls none."""

    def __init__(
        self, tools: Sequence[Tool], max_calls: int, find: FindCalls, *, reads_special_tokens: bool
    ) -> None:
        self._tools = tools_by_name(tools)
        self._max_calls = max_calls
        self._find = find
        self.reads_special_tokens = reads_special_tokens

    def __deepcopy__(self, memo: Any) -> ToolGame:
        """Return itself: it has no state, and tools may hold what cannot be copied."""
        return self

    async def reset(self, prompt: Prompt) -> None:
        """Do nothing."""

    async def step(self, response: str) -> Reply | End:
        """Make the calls of a turn, all at the same time."""
        calls = self._find(response)
        if not calls:
            return End()
        made = list(calls[: self._max_calls])
        left_out = len(calls) - len(made)
        if left_out:
            made.append(
                BadCall(f"at most {self._max_calls} calls a turn are made, {left_out} were not")
            )
        found = await asyncio.gather(*(observe(call, self._tools) for call in made))
        return Reply(
            texts=tuple(each.text for each in found),
            calls=len(calls),
            failed_calls=sum(each.failed for each in found) + max(left_out - 1, 0),
        )


@dataclass(frozen=True)
class ToolEnvironment:
    """The environment of a policy that may call tools before it answers.

    A tool that raises anything but a ToolError has failed, and so has the play; a bad call has not:
    the policy reads what was wrong with it.

    Raises:
        ValueError: If a setting is out of range, or a tool is none.
    """

    tools: list[Any] = field(default_factory=list)
    """The tools, of different names; see `rollout.tools.tool.Tool`."""
    max_turns: int = 8
    """Turns after which a play ends."""
    max_calls: int = 8
    """Calls of one turn that are made; the policy is told of others."""
    role: str = "tool"
    """Whose messages observations are in the chat template: "tool" or "user"."""
    describe: str = "template"
    """How the policy learns of the tools: by the chat template's own `tools`, by a `system` message
    with their schemas, or `none`, where it knows them already."""
    parser: str = ""
    """Which of vLLM's tool parsers finds the calls, by the name that `vllm serve
    --tool-call-parser` takes, such as "qwen3_coder" or "glm45"; "" for the forms of
    `rollout.tools.calls`."""
    step_timeout_seconds: float = 60.0
    """Longest time of a turn's calls, without what they wait for a thread or a sandbox; beyond it
    the play has failed."""

    def __post_init__(self) -> None:
        """Refuse settings that are out of range."""
        ranges = {
            "max_turns": count(10_000), "max_calls": count(1000), "step_timeout_seconds": SECONDS
        }  # fmt: skip
        require_ranges("environment.", self, ranges)
        if self.role not in ROLES:
            raise ValueError(f"environment.role must be tool or user, got {self.role!r}")
        if self.describe not in PLACES:
            raise ValueError(
                f"environment.describe must be one of {', '.join(PLACES)}, got {self.describe!r}"
            )
        if not self.tools or isinstance(self.tools, str):
            raise ValueError(
                "environment.tools must be a list of one tool or more, such as [my_file.py:add], "
                f"got {self.tools!r}"
            )
        tools_by_name(self.tools)

    def prompt_tokenizer(self, tokenizer: Any) -> Any:
        """Return the tokenizer that prompts are made with, which tells of the tools.

        Raises:
            ValueError: If the chat template does not.
        """
        if self.describe == "none":
            return tokenizer
        schemas = [dict(tool.schema) for tool in self.tools]
        telling = TellingTokenizer(tokenizer, schemas, self.describe)
        told = telling.told()
        if tokenizer.chat_template and self.tools[0].name not in told:
            raise ValueError(
                "environment.describe must be a way that the chat template of model.path shows "
                f"the tools in; set environment.describe="
                f"{'system' if self.describe == 'template' else 'none and say it in the prompts'}, "
                f"got {self.describe!r}"
            )
        asked_for = [name for mark, name in _ASKED_FOR.items() if mark in told]
        if asked_for and not self.parser:
            raise ValueError(
                "environment.parser must read the form in which the chat template of model.path "
                f"asks for calls; set environment.parser={asked_for[0]}, or "
                "environment.describe=system to ask for JSON, got ''"
            )
        return telling

    def for_policy(self, tokenizer: Any, stopping: Stopping) -> TurnPlayer:
        """Return what plays it with a policy; see `TurnEnvironment.for_policy`.

        Raises:
            SandboxError: If a tool needs a sandbox that this machine does not have.
            ValueError: If `parser` is none, or not for this policy.
        """
        for tool in self.tools:
            if hasattr(tool, "check"):
                tool.check()
        schemas = [tool.schema for tool in self.tools]
        find = VllmCalls(self.parser, tokenizer, schemas) if self.parser else find_calls
        return TurnEnvironment(
            ToolGame(self.tools, self.max_calls, find, reads_special_tokens=bool(self.parser)),
            max_turns=self.max_turns,
            role=self.role,
            step_timeout_seconds=self.step_timeout_seconds,
        ).for_policy(tokenizer, stopping)

    async def play(self, generate: Any, prompt: Prompt, max_tokens: int) -> Trajectory:
        """Refuse: only what `for_policy` returns knows the policy's tokens."""
        raise RuntimeError("ToolEnvironment.play needs the policy's tokens: call for_policy first")


class TellingTokenizer:
    """A tokenizer whose chat template tells of tools; all else is the policy's own."""

    def __init__(self, tokenizer: Any, schemas: Sequence[dict[str, Any]], describe: str) -> None:
        self._tokenizer = tokenizer
        self._schemas = list(schemas)
        self._describe = describe

    def __getattr__(self, name: str) -> Any:
        """Return what the policy's tokenizer has."""
        if name.startswith("_"):
            # Copies and pickles ask before there is a tokenizer to ask.
            raise AttributeError(name)
        return getattr(self._tokenizer, name)

    def apply_chat_template(self, messages: Sequence[dict[str, Any]], **settings: Any) -> Any:
        """Render a conversation as `transformers` does, with the tools."""
        if self._describe == "template":
            return self._tokenizer.apply_chat_template(
                list(messages), tools=self._schemas, **settings
            )
        told = (json.dumps(schema, ensure_ascii=False) for schema in self._schemas)
        said = _SYSTEM.format(tools="\n".join(told))
        messages = list(messages)
        if messages and messages[0]["role"] == "system":
            first = messages.pop(0)
            said = f"{first['content']}\n\n{said}"
        return self._tokenizer.apply_chat_template(
            [{"role": "system", "content": said}, *messages], **settings
        )

    def told(self) -> str:
        """Return a conversation as it is rendered; "" where the chat template refuses it."""
        question = [{"role": "user", "content": "question"}]
        try:
            text: str = self.apply_chat_template(
                question, tokenize=False, add_generation_prompt=True
            )
        except Exception:
            return ""
        return text
