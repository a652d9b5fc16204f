"""How tokens are shown: as their text, or where that is not whole characters as their bytes."""

from functools import cache

from tokenizers import Tokenizer


def piece(tokenizer: Tokenizer, token_id: int) -> str:
    """Decode one token; where that is not whole characters, show its bytes."""
    text: str = tokenizer.decode([token_id], skip_special_tokens=False)
    if text and "\ufffd" not in text:
        return text
    name: str = tokenizer.id_to_token(token_id) or str(token_id)
    if name.startswith("<") or not set(name) <= set(_byte_letters()):
        return name
    return f"<{bytes(_byte_letters()[letter] for letter in name).hex(' ').upper()}>"


@cache
def _byte_letters() -> dict[str, int]:
    """Map the letters in which byte-level BPE writes bytes to the bytes.

    Printable Latin-1 stands for itself, the other bytes in order for code points from 256 on.
    """
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = sorted(set(range(256)) - set(plain))
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(rest)}
