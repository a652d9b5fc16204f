"""What a server's answer holds: what was said, what it cost, or why it gave none.

Servers that speak OpenAI's protocol differ. Content is a text, a list of parts, or null; thoughts
come in a field of their own, as parts, or within the text; a refusal is JSON, HTML, or both.
"""

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

# Templates that open the thought themselves leave only its end; one cut off has only a beginning.
THOUGHT = re.compile(r"^.*</think(?:ing)?>|<think(?:ing)?>.*$", re.DOTALL | re.IGNORECASE)
REASON_CHARACTERS = 200
READ_CHARACTERS = 20_000  # of what a server sent instead of an answer


class Usage(NamedTuple):
    """Tokens that were asked and answered, which is what a server charges for."""

    tokens_in: int
    tokens_out: int


def text_in(tree: Any) -> str:
    """Return what was said after all thinking; empty where nothing was.

    Raises LookupError, TypeError or AttributeError for what is no answer.

    >>> text_in({"choices": [{"message": {"content": "<think>Names ...</think>\\nMonths"}}]})
    'Months'
    """
    content = tree["choices"][0]["message"].get("content") or ""
    parts = [{"text": content}] if isinstance(content, str) else content
    said = "".join(str(part.get("text") or "") for part in parts)
    return THOUGHT.sub("", said).strip()


def was_cut(tree: Any) -> bool:
    """Whether an answer ended because it was as long as allowed."""
    return bool(tree["choices"][0].get("finish_reason") == "length")


def usage_in(tree: Any) -> Usage:
    """Read what an answer cost; zeros where the server does not say."""
    told = tree.get("usage") if isinstance(tree, dict) else None
    counts = told if isinstance(told, dict) else {}
    return Usage(*(_count(counts.get(f"{which}_tokens")) for which in ("prompt", "completion")))


def reason_in(text: str) -> str:
    """Say in one line what a server sent instead of an answer.

    >>> reason_in("<html><head><style>p {}</style></head><h1>502</h1>\\nBad Gateway</html>")
    '502 Bad Gateway'
    """
    shown = re.sub(
        r"<(style|script)\b.*?</\1>|<[^>]*>", " ", text[:READ_CHARACTERS], flags=re.DOTALL
    )
    return " ".join(shown.split())[:REASON_CHARACTERS]


def vectors_in(tree: Any, n: int) -> list[list[float]]:
    """Read embeddings, in the order of the texts; ValueError for another number of them."""
    by_index = {int(one["index"]): [float(v) for v in one["embedding"]] for one in tree["data"]}
    if sorted(by_index) != list(range(n)) or len({len(v) for v in by_index.values()}) != 1:
        raise ValueError
    return [by_index[i] for i in range(n)]


def seconds_in(retry_after: str) -> float:
    """Read a Retry-After header, which is a number of seconds or a date.

    >>> seconds_in("2.5"), seconds_in(""), seconds_in("Wed, 21 Oct 2015 07:28:00 GMT")
    (2.5, 0.0, 0.0)
    """
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        left = parsedate_to_datetime(retry_after) - datetime.now(UTC)
    except ValueError:
        return 0.0
    return max(0.0, left.total_seconds())


def _count(told: Any) -> int:
    return told if isinstance(told, int) else 0
