"""`headrace cache`: figures of the caches, and dropping entries in every process."""

from __future__ import annotations

from typing import Annotated

import typer

from core.cache.figures import CacheFigures, Figures
from headrace.cli.acts import acting
from headrace.cli.output import EXIT_CODES, AsJson, DataDir, Exit, ago, complain, note, opened, say_json, say_table

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Show and reset the figures of the caches, and drop entries.",
)


@app.command(epilog=EXIT_CODES)
def stats(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """
    Show hits, misses and loads of every cache, over all processes.

    Example: headrace cache stats
    """
    with opened(data_dir) as headrace:
        figures = headrace.access.caches.statistics.read()
    _say(figures, as_json=as_json)


@app.command(epilog=EXIT_CODES)
def reset(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """
    Count from zero; shows the figures up to now.

    Example: headrace cache reset
    """
    with acting(data_dir, "cache reset") as headrace:
        figures = headrace.access.caches.statistics.reset()
    _say(figures, as_json=as_json)


@app.command(epilog=EXIT_CODES)
def drop(
    name: Annotated[str, typer.Argument(metavar="CACHE", help="Its name, as `headrace cache stats` shows it.")],
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Of its entries, as their Redis keys end.")],
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """
    Drop entries from Redis and from the memory of every process; they are loaded again when they are asked for.

    Example: headrace cache drop ip_filters all
    """
    with acting(data_dir, "cache drop", name) as headrace:
        everywhere = headrace.access.caches.drop_everywhere(name, ids)
    if as_json:
        say_json({"cache": name, "ids": len(ids), "everywhere": everywhere})
    elif everywhere:
        typer.echo(f"{len(ids)} entries of {name} are dropped")
    if not everywhere:
        complain("Redis is away or switched off: the web processes were not told; try again when it is back")
        raise typer.Exit(Exit.UNAVAILABLE)


def _say(figures: Figures, *, as_json: bool) -> None:
    if as_json:
        say_json(figures.to_document())
        return
    headings = ("CACHE", "HITS", "MISSES", "RATIO", "MEMORY", "REDIS", "NEGATIVE", "LOADS", "MEAN MS", "INVALIDATIONS")
    rows = [_row(cache) for cache in figures.caches]
    ratio = _percent(figures.hits, figures.misses)
    blank = ("",) * 5
    total = ("(all)", str(figures.hits), str(figures.misses), ratio, *blank, str(figures.invalidations))
    say_table(headings, [*rows, total])
    if figures.reset_at is not None:
        note(f"Counted for {ago(figures.reset_at)}; up to {figures.age_s:g} s ago in every process.")
    if not figures.is_complete:
        note("Redis is away or switched off: this is the count of this command alone.")


def _row(cache: CacheFigures) -> tuple[str, ...]:
    counts = cache.counts
    loads = counts.get("loads", 0)
    return (
        cache.name,
        str(cache.hits),
        str(cache.misses),
        _percent(cache.hits, cache.misses),
        *(str(counts.get(name, 0)) for name in ("memory", "redis", "negative")),
        str(loads),
        f"{counts.get('load_us', 0) / loads / 1000:.2f}" if loads else "-",
        str(cache.invalidations),
    )


def _percent(hits: int, misses: int) -> str:
    return f"{100 * hits / (hits + misses):.1f} %" if hits + misses else "-"
