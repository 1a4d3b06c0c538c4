"""The tool `search`: passages of a local corpus by BM25, without a server."""

from __future__ import annotations

from rlcore.environments.passages import index
from rlcore.errors import RecipeError


class Search:
    """In a recipe: `env: {tools: [{use: search, corpus: texts.jsonl, k: 3}]}`."""

    name = "search"

    def __init__(self, corpus: str, k: int = 3, chars: int = 600, column: str = "text") -> None:
        """corpus: txt, jsonl or parquet file, folder, hub data set or package.module:function. k: passages in a reply.
        chars: longest passage. column: where the text of a row is. The index is built when the environment is imported.
        """
        if k < 1 or chars < 10:
            raise RecipeError(f"search needs k >= 1 and chars >= 10, got k={k}, chars={chars}")
        self._index = index(corpus, column=column, chars=chars)
        self._k = k

    def __call__(self, query: str) -> str:
        """Search the texts for passages that have the words of a query.

        Args:
            query: A few words, the rarer the better.
        """
        return "\n\n".join(self._index.search(query, self._k)) or "No passage has these words."
