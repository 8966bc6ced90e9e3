"""Variables of a chat template that a run sets, such as `enable_thinking` of Qwen3's."""

import re
from collections.abc import Mapping
from typing import Any


def set_variables(tokenizer: Any, variables: Mapping[str, Any]) -> None:
    """Let the tokenizer's chat template begin with these variables.

    So they hold wherever it is applied: to prompts, between turns, and to tools.

    Args:
        tokenizer: Of `transformers`; its template, or each of several, is replaced.
        variables: Plain values by name.

    Raises:
        ValueError: If there is no template, or none that mentions a variable.
    """
    if not variables:
        return
    template = tokenizer.chat_template
    if not template:
        raise ValueError("the tokenizer has no chat template")
    named = template if isinstance(template, dict) else {"default": template}
    for name in variables:
        mention = re.compile(rf"\b{re.escape(name)}\b")
        if not name.isidentifier() or not any(map(mention.search, named.values())):
            raise ValueError(f"the chat template mentions no {name}")
    # Python's notation of plain values is Jinja's too.
    begun = "".join(f"{{% set {name} = {value!r} %}}" for name, value in variables.items())
    replaced = {name: begun + text for name, text in named.items()}
    tokenizer.chat_template = replaced if isinstance(template, dict) else replaced["default"]
