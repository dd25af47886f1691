"""Draws docs/figures/*.svg from the JSON beside them. The same figures give the same files, byte for byte."""

from __future__ import annotations

import argparse
import json
import sys
from itertools import cycle
from pathlib import Path

import matplotlib
from figures import ROOT, command
from matplotlib import pyplot
from matplotlib.ticker import LogLocator

FIGURES = ROOT / "docs/figures"


def draw(figures: Path) -> Path:
    """One plot. Returns its path."""
    found = json.loads(figures.read_text())
    figure, axes = pyplot.subplots(figsize=(5.5, 3.3), layout="constrained")
    for marker, (label, points) in zip(cycle("os^Dv"), found["curves"].items(), strict=False):
        axes.plot(*zip(*points, strict=True), marker=marker, markersize=4, label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_title(found["title"], fontsize=10)
    axes.set_xlabel(found["x"])
    axes.set_ylabel(found["y"])
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axes.grid(True, which="major", alpha=0.4)
    if len(found["curves"]) > 1:
        axes.legend(fontsize=8)
    figure.text(0.995, 0.005, f"{found['machine']}, {found['date']}", ha="right", fontsize=6, color="grey")
    path = figures.with_suffix(".svg")
    pyplot.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    # matplotlib ends lines with spaces.
    path.write_text("".join(f"{line.rstrip()}\n" for line in path.read_text().splitlines()))
    return path


def measure(options: argparse.Namespace) -> None:
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "study-operator"
    matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text
    for figures in sorted(FIGURES.glob("*.json")):
        print(draw(figures).relative_to(ROOT))


if __name__ == "__main__":
    sys.exit(command(__doc__ or "", measure))
