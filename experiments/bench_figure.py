"""The table and the plot of what `experiments.bench` measured."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

COLUMNS = {
    "case": ("case", "{}"), "tokens_per_s": ("tokens/s", "{:,.0f}"), "step_s": ("step, s", "{:.3f}"),
    "cpu_s": ("CPU, s", "{:.2f}"),
    "compile_s": ("compile, s", "{:.1f}"), "peak_mb": ("peak, MB", "{:,.0f}"), "gflops": ("useful GFLOP/s", "{:.0f}"),
    "utilisation": ("of matmul rate", "{:.0%}"), "speed_ratio": ("tokens/s to peer's", "{:.2f}x"),
    "memory_ratio": ("memory to peer's", "{:.2f}x"),
}  # fmt: skip


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a table, without the columns that none has."""
    shown = {name: column for name, column in COLUMNS.items() if any(name in row for row in rows)}
    lines = [[title for title, _ in shown.values()], ["---", *["---:"] * (len(shown) - 1)]]
    lines += [[form.format(row[name]) if name in row else "" for name, (_, form) in shown.items()] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def plot(rows: Sequence[dict[str, Any]], grown: Mapping[str, Sequence[tuple[int, float]]], path: pathlib.Path) -> None:
    """Tokens a second of every case, and against each size that grows.

    Args:
      grown: {size: [(how large, tokens a second), ...]}.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    # Bars to the left, a small panel for each size that grows to the right, two beside each other
    deep = max(1, -(-len(grown) // 2))
    figure = pyplot.figure(figsize=(13 if grown else 9, max(2 + 0.3 * len(rows), 2.6 * deep)), layout="constrained")
    grid = figure.add_gridspec(deep, 4)
    bars = figure.add_subplot(grid[:, :2] if grown else grid[:, :])
    names, rates = [row["case"] for row in rows][::-1], [row["tokens_per_s"] for row in rows][::-1]
    bars.bar_label(bars.barh(names, rates), fmt="{:,.0f}", padding=3, fontsize=8)
    bars.set(xlabel="useful tokens a second", xlim=(0, 1.15 * max(rates)))
    bars.xaxis.set_major_locator(ticker.MaxNLocator(5))
    bars.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
    bars.spines[["top", "right"]].set_visible(False)
    for i, (name, points) in enumerate(grown.items()):
        axis = figure.add_subplot(grid[i // 2, 2 + i % 2])
        axis.plot(*zip(*points, strict=True), marker="o")
        axis.set(title=f"tokens/s by {name}", ylim=(0, 1.1 * max(rate for _, rate in points)), xscale="log")
        axis.set_xticks([size for size, _ in points], [f"{size:,}" for size, _ in points], fontsize=7)
        axis.minorticks_off()
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
