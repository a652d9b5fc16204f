"""A label read by a language model: what it foretells, asked a few windows at a time."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from panscope.stages.explain import prompts
from panscope.stages.explain.prompts import Messages
from panscope.stages.explain.windows import Window

Item = TypeVar("Item")
TOGETHER = 5  # windows in a question: more, and small models lose count

Ask = Callable[[Messages], str | None]
"""Send messages to a model; None where no answer came."""


@dataclass(frozen=True, slots=True)
class Judge:
    """A label, and a model to be asked what it means for some windows."""

    text: str
    ask: Ask

    def fires_in(self, windows: Sequence[Window]) -> list[bool | None]:
        """Ask in which windows the feature fires."""
        return [
            told
            for part in _parts(windows)
            for told in self._yes_or_no(prompts.detection(self.text, part), len(part))
        ]

    def fires_at(
        self, windows: Sequence[Window], marked: Sequence[Sequence[int]]
    ) -> list[bool | None]:
        """Ask of marked tokens of some windows whether the feature fires at them."""
        return [
            told
            for part, marks in zip(_parts(windows), _parts(marked), strict=True)
            for told in self._yes_or_no(prompts.fuzzing(self.text, part, marks), len(part))
        ]

    def strengths(self, windows: Sequence[Window]) -> list[list[float] | None]:
        """Ask for the activation at each token of each window, from 0 to 10."""
        asked = (self.ask(prompts.simulation(self.text, window)) for window in windows)
        return [
            None if answer is None else prompts.strengths_in(answer, len(window.pieces))
            for answer, window in zip(asked, windows, strict=True)
        ]

    def _yes_or_no(self, question: Messages, n: int) -> Sequence[bool | None]:
        answer = self.ask(question)
        found = None if answer is None else prompts.yes_or_no_in(answer, n)
        return [None] * n if found is None else found


def explain(windows: Sequence[Window], ask: Ask) -> Judge | None:
    """Ask a model what a feature means that fires in these windows; None for no usable answer."""
    answer = ask(prompts.explanation(windows))
    text = None if answer is None else prompts.label_in(answer)
    return None if text is None else Judge(text, ask)


def _parts(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), TOGETHER):
        yield items[start : start + TOGETHER]
