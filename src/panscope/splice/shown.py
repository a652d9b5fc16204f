"""Two texts beside each other, for a terminal."""

from collections.abc import Sequence
from statistics import fmean

from rich.table import Table
from rich.text import Text

from panscope.edits import Edit, described
from panscope.model.load import Model
from panscope.splice.beside import Beside


def texts(model: Model, written: Sequence[Beside]) -> Table:
    """Lay both texts out in two columns, with how far the prediction moved."""
    divergences = [one.kl_nats for one in written if one.kl_nats is not None]
    about = f"steered: KL {fmean(divergences):.3f} nats a token" if divergences else "steered"
    table = Table(box=None, header_style="bold", pad_edge=False, expand=True)
    for heading in ("normal", about):
        table.add_column(heading, ratio=1, overflow="fold")
    normal = [one.normal.token for one in written if one.normal]
    steered = [one.steered.token for one in written if one.steered]
    table.add_row(*(model.tokenizer.decode(ids) for ids in (normal, steered)))
    return table


def strengths(edits: Sequence[Edit], written: Sequence[Beside]) -> Table:
    """Say of each edit how long what it added was: a share of the value, the largest median."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("edit")
    table.add_column("share of the stream", justify="right")
    for number, edit in enumerate(edits):
        largest = max((one.shares[number] for one in written if one.shares), default=0.0)
        table.add_row(Text(described(edit)), f"{largest:.1%}")
    return table
