"""The frontier as a picture: what a budget buys, and where images leave."""

from __future__ import annotations

import io

import numpy as np

from anchornet.budget.frontier import Frontier
from anchornet.units import GIGA

_DOTS_PER_INCH = 120


def frontier_picture(frontier: Frontier, chosen_gflops: float | None = None) -> bytes:
    """A PNG: expected accuracy against GFLOPs per image (when labels were known), and below it the share of each exit.

    chosen_gflops: the budget per image to mark; beyond the useful maximum the mark is at the maximum.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # here: most jobs import this module and draw nothing
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 6.4 if frontier.labelled else 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2 if frontier.labelled else 1, 1, sharex=True, squeeze=False)[:, 0]
    gflops = frontier.costs_macs / GIGA
    shares = np.array([point.exit_fractions for point in frontier.points]).T
    panels[-1].stackplot(gflops, shares * 100, labels=frontier.exits)
    panels[-1].set(xlabel="GFLOPs per image (multiply-adds / 1e9)", ylabel="images leaving (%)", ylim=(0, 100))
    panels[-1].legend(loc="upper left", fontsize="small")
    if frontier.labelled:
        accuracy = np.array([point.accuracy for point in frontier.points], float)
        panels[0].plot(gflops, accuracy * 100, marker=".")
        panels[0].set(ylabel="expected accuracy (%), cross-fitted", title=f"{frontier.num_images:,} calibration images")
        panels[0].grid(visible=True, alpha=0.3)
    if chosen_gflops is not None:
        chosen = min(chosen_gflops, frontier.maximum_gflops)
        for panel in panels:
            panel.axvline(chosen, color="black", linestyle="--", linewidth=1)
        panels[0].annotate(f" {chosen:.4g}", (chosen, panels[0].get_ylim()[0]), va="bottom")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DOTS_PER_INCH)
    return buffer.getvalue()
