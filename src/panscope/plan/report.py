"""A plan as people read it: quiet tables that fit 80 columns, and a sentence."""

import itertools
from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table

from panscope.plan.cost import Cost, Prices
from panscope.plan.disk import TYPES, Held
from panscope.plan.run import Plan
from panscope.sites import Site

UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def report(plan: Plan, prices: Prices) -> Iterator[RenderableType]:
    """Yield what is printed, piece by piece."""
    yield _saes(plan)
    yield _activations(plan)
    yield _stages(plan)
    if plan.costs:
        yield _memory(plan)
        yield from _shortage(plan)
        yield _times(plan)
        yield verdict(plan, plan.costs[0], prices)


def verdict(plan: Plan, cost: Cost, prices: Prices) -> str:
    """Say whether streaming or storing is better on a machine, and why."""
    streaming, storing, machine = cost.streaming, cost.storing, cost.machine
    n, stored = streaming.model_passes, _size(plan.activation_bytes(plan.dtype))
    passes = f"{n:,} passes over the model" if n > 1 else "a pass over the model"
    rate = f"{_size(machine.read_bytes)}/s"
    if streaming.dollars is None or storing.dollars is None:
        better = "Streaming" if streaming.hours <= storing.hours else "Storing"
        return (
            f"{better} is faster on {machine.name}: {_hours(streaming.hours)} for {passes}, "
            f"against {_hours(storing.hours)} for one that writes {stored}, and reading that bank "
            f"by bank, at {rate}."
        )
    better = "Streaming" if streaming.dollars <= storing.dollars else "Storing"
    return (
        f"{better} is cheaper on {machine.name}: {_dollars(streaming.dollars)} for {passes}, "
        f"against {_dollars(storing.dollars)} for one that writes {stored}, reading that bank by "
        f"bank, at {rate}, and keeping it until all is trained, at {_dollars(prices.tib_month)} "
        "a TiB-month."
    )


def _saes(plan: Plan) -> Table:
    """Lay out what is trained: a row a part, and all of them."""
    table = _table("Saes", "sites", "width", "tokens", "products", "dense", "weights")
    for part in plan.parts:
        kind = "" if part.kind == "autoencoder" else f"{part.kind}: "
        table.add_row(
            f"{part.n_saes:,}",
            f"{kind}{part.sites}",
            ", ".join(f"{width:,}" for width in part.widths),
            _count(part.tokens),
            f"{part.train_flops:.2e}",
            f"{part.dense_flops:.2e}",
            _size(part.bytes),
        )
    if len(plan.parts) > 1:
        n_saes = f"{sum(part.n_saes for part in plan.parts):,}"
        flops = [f"{plan.flops[stage]:.2e}" for stage in ("train", "train, dense")]
        table.add_row(
            n_saes, "all", "", _count(plan.tokens), *flops, _size(plan.suite_bytes), style="bold"
        )
    return table


def _activations(plan: Plan) -> Table:
    """Lay out a store: a row for all sites of a kind that hold as much, and all by type."""
    title = plan.dtype if plan.is_stored else f"if stored, {plan.dtype}"
    table = _table(title, "sites", "d", "tokens", "a site", "all")
    by_kind = sorted(plan.activations, key=_kind)
    for (kind, d, tokens), group in itertools.groupby(by_kind, _kind):
        sites = list(group)
        one = sites[0].size(plan.dtype)
        sizes = (_size(one), _size(len(sites) * one))
        table.add_row(kind, str(len(sites)), f"{d:,}", _count(tokens), *sizes)
    for dtype in TYPES:
        total = _size(plan.activation_bytes(dtype))
        table.add_row(f"all in {dtype}", "", "", "", "", total, style="bold")
    return table


def _kind(site: Held) -> tuple[str, int, int]:
    return Site.parse(site.site).kind, site.d, site.tokens


def _stages(plan: Plan) -> Table:
    """Lay out operations, the memory that does not depend on the machine, and what is written."""
    table = _table("stage", "operations", "memory", "disk")
    suite = _size(plan.suite_bytes)
    memory = {"harvest": _size(plan.harvest_bytes), "evaluate": suite, "describe": suite}
    disk = {"train": suite, "describe": f"{_size(plan.log_bytes)} meanwhile"}
    if plan.is_stored:
        disk["harvest"] = _size(plan.activation_bytes(plan.dtype))
    for stage, flops in plan.flops.items():
        table.add_row(stage, f"{flops:.2e}", memory.get(stage, ""), disk.get(stage, ""))
    return table


def _memory(plan: Plan) -> Table:
    """Lay out how training fits on each machine: a row a machine."""
    table = _table("training on", "has", "banks", "takes", "Saes too large")
    for cost in plan.costs:
        sizes = _size(cost.machine.memory_bytes), f"{cost.banks:,}", _size(cost.train_bytes)
        table.add_row(cost.machine.name, *sizes, str(len(cost.too_large) or ""))
    return table


def _shortage(plan: Plan) -> Iterator[str]:
    """Name the machines on which training takes more memory than there is, if any."""
    short = [cost.machine.name for cost in plan.costs if not cost.fits]
    if short:
        yield (
            f"More than there is on {', '.join(short)}: lower harvest.bucket_tokens, whose bucket "
            "lies beside each bank, or train.memory_gb; for a Sae that is too large raise "
            "train.latent_shards."
        )


def _times(plan: Plan) -> Table:
    """Lay out hours, and dollars if the price is known: a row a machine."""
    first = "store" if plan.is_stored else "stream"
    is_priced = plan.costs[0].dollars is not None
    names = (first, "train", "evaluate", "describe", "all")
    table = _table("time on", *names, *["dollars"] * is_priced)
    for cost in plan.costs:
        hours = [_hours(hours) for hours in (*cost.hours.values(), cost.total_hours)]
        dollars = [] if cost.dollars is None else [_dollars(cost.dollars)]
        table.add_row(cost.machine.name, *hours, *dollars)
    return table


def _table(first: str, *names: str) -> Table:
    """Make a table whose columns but the first, and one of sites, are of numbers."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column(first)
    for name in names:
        if name == "sites":  # a path of a module may be longer than the column
            table.add_column(name, overflow="fold")
        else:
            table.add_column(name, justify="right")
    return table


def _count(n: int) -> str:
    """Print a number of tokens.

    >>> _count(655360), _count(15_000_000), _count(3_999_997_952)
    ('655,360', '15 million', '4 billion')
    """
    if n < 10**6:
        return f"{n:,}"
    return f"{n / 1e6:.3g} million" if n < 10**9 else f"{n / 1e9:.3g} billion"


def _size(n_bytes: float) -> str:
    """Print a number of bytes.

    >>> _size(8e9 * 3584 * 4), _size(1000)
    ('104 TiB', '1000 B')
    """
    steps = 0
    while n_bytes >= 1024 and steps + 1 < len(UNITS):
        n_bytes, steps = n_bytes / 1024, steps + 1
    return f"{n_bytes:.3g} {UNITS[steps]}" if n_bytes < 1000 else f"{n_bytes:.0f} {UNITS[steps]}"


def _hours(hours: float) -> str:
    """Print a time.

    >>> _hours(0.0001), _hours(0.05), _hours(12), _hours(12345)
    ('0.36 s', '3 min', '12 h', '12,345 h')
    """
    if hours < 1 / 60:
        return f"{hours * 3600:.2g} s"
    if hours < 1:
        return f"{hours * 60:.2g} min"
    return f"{hours:.3g} h" if hours < 100 else f"{hours:,.0f} h"


def _dollars(dollars: float) -> str:
    """Print dollars.

    >>> _dollars(20.0), _dollars(2.5), _dollars(1234.5)
    ('$20', '$2.50', '$1,234')
    """
    return f"${dollars:,.2f}" if dollars < 100 and dollars % 1 else f"${dollars:,.0f}"
