"""Several answers that are all right, in the one text that a prompt has for its answer.

["1/2", "0.5"]   a JSON list of texts; any other text is the one answer it looks like
"""

import json
from collections.abc import Sequence


def joined(answers: Sequence[str]) -> str:
    """Return answers as one text; of one answer, itself."""
    flat = [one for answer in answers for one in accepted(answer)]
    distinct = list(dict.fromkeys(flat))
    return distinct[0] if len(distinct) == 1 else json.dumps(distinct, ensure_ascii=False)


def accepted(answer: str) -> tuple[str, ...]:
    """Return the answers that a text allows: those of a JSON list of texts, or itself."""
    if not answer.lstrip().startswith('["'):
        return (answer,)
    try:
        found = json.loads(answer)
    except (ValueError, RecursionError):
        return (answer,)
    texts = isinstance(found, list) and all(isinstance(one, str) for one in found)
    return tuple(found) if texts and found else (answer,)
