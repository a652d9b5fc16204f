"""A report in Markdown on the terminal, whose tables keep what they name in one piece."""

from collections.abc import Iterator
from typing import ClassVar

from rich.console import Console, ConsoleOptions
from rich.markdown import Markdown, MarkdownElement, TableElement
from rich.table import Table


class _Named(TableElement):
    """A table whose first column is never cut: several cut names of Saes would be the same."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        for table in super().__rich_console__(console, options):
            assert isinstance(table, Table)
            table.columns[0].no_wrap = True
            yield table


class Report(Markdown):
    """Markdown with such tables."""

    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "table_open": _Named,
    }
