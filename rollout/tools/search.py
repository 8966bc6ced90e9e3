"""A search over a user's own texts: a JSONL file, ranked by BM25 (`pip install -e ".[search]"`).

{"text": "Paris is the capital of France.", "title": "Paris"}
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rollout.tools.tool import ToolError, shortened

SHOWN = 1000
"""Characters of a text that are shown."""


@dataclass(frozen=True, slots=True)
class SearchTool:
    """The tool `search`."""

    path: str
    """The corpus: a JSON object a line, with `text` and, if it has one, `title`."""
    most_results: int = 3
    """Texts that a search returns, at least 1."""
    name: str = "search"

    def __post_init__(self) -> None:
        """Refuse a corpus that cannot be searched."""
        if self.most_results < 1:
            raise ValueError(f"search.most_results must be at least 1, got {self.most_results!r}")
        object.__setattr__(self, "path", str(Path(self.path).absolute()))
        _index(self.path)

    @property
    def schema(self) -> Mapping[str, Any]:
        """See `rollout.tools.tool.Tool`."""
        query = {"type": "string", "description": "Words to look for."}
        parameters = {"type": "object", "properties": {"query": query}, "required": ["query"]}
        about = "Finds texts about something."
        described = {"name": self.name, "description": about, "parameters": parameters}
        return {"type": "function", "function": described}

    async def call(self, arguments: Mapping[str, Any]) -> str:
        """Find texts; see `rollout.tools.tool.Tool`."""
        index, texts = _index(self.path)
        tokens = _tokens([arguments["query"]])
        if not tokens[0]:
            raise ToolError("there is no word to look for")
        most = min(self.most_results, len(texts))
        found, scores = index.retrieve(tokens, k=most, show_progress=False)
        good = [texts[i][:SHOWN] for i, s in zip(found[0], scores[0], strict=True) if s > 0]
        return shortened("\n\n".join(good)) if good else "(nothing found)"


def _tokens(texts: list[str]) -> Any:
    import bm25s

    return bm25s.tokenize(texts, stopwords="en", return_ids=False, show_progress=False)


@cache
def _index(path: str) -> tuple[Any, list[str]]:
    """Read and index a corpus, once in every process."""
    try:
        import bm25s
    except ImportError as error:
        raise ValueError(
            f'search needs the package bm25s: pip install -e ".[search]", got {error}'
        ) from error
    texts = _read(Path(path))
    index = bm25s.BM25()
    index.index(_tokens(texts), show_progress=False)
    return index, texts


def _read(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"search.path cannot be read ({error}), got {str(path)!r}") from error
    texts = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise ValueError(
                f"{path}:{number} must be a JSON object with a text, got {line[:80]!r}"
            )
        title = row.get("title")
        texts.append(f"{title}: {row['text']}" if isinstance(title, str) else row["text"])
    if not any(text.strip() for text in texts):
        raise ValueError(f"search.path names a corpus without a text, got {str(path)!r}")
    return texts
