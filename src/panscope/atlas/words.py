"""What a reader typed, as a query of FTS5 in which nothing of it is syntax."""

import re


def words_of(text: str) -> str:
    """Turn what a reader typed into a query of FTS5 in which nothing of it is syntax.

    >>> words_of('blue "dark river" OR na')
    '"blue" "dark river" "OR" "na" *'
    >>> words_of("vitamin c")
    '"vitamin" "c"'
    >>> words_of("-- * ()")
    ''
    """
    parts = re.findall(r'"([^"]*)"|([^\s"]+)', text.replace("\0", " "))
    kept = [(phrase or word, bool(word)) for phrase, word in parts if _has_word(phrase or word)]
    # A single letter begins too much: ranking all of that takes 0.4 s among 200,000 labels.
    open_end = " *" if kept and kept[-1][1] and len(kept[-1][0]) > 1 else ""
    return " ".join(f'"{part}"' for part, _ in kept) + open_end


def _has_word(text: str) -> bool:
    return any(character.isalnum() for character in text)
