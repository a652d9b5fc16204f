"""The pictures of README and docs: there, small, each with words for who does not see it."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)]+)\)")


def test_every_picture_is_there_with_words_and_none_is_left_over() -> None:
    shown = set()
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for words, path in PICTURE.findall(page.read_text()):
            assert len(words.split()) > 5, (page, path)
            shown.add((page.parent / path).resolve())
    assert shown == set((ROOT / "docs/pictures").glob("*.webp"))


def test_pictures_are_small() -> None:
    sizes = [path.stat().st_size for path in (ROOT / "docs/pictures").glob("*.webp")]
    assert max(sizes) < 120_000
    assert sum(sizes) < 1_500_000
