"""Draws docs/figures/winograd-error.png: python docs/winograd_figure.py

Each point is F(m, r) on both axes: its share of the direct multiplications, and how much more rounding errors grow.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from minigan.kernels.cpu.choose import GROWTH, WIDEST
from minigan.kernels.cpu.toom_cook import LARGEST, error_growth, growth_of, matrices

USUAL = {(4, 2): (0, 1, -1, 2), (3, 2): (0, 1, -1), (2, 2): (0, 1), (4, 3): (0, 1, -1, 2, -2), (3, 3): (0, 1, -1, 2)}


def main() -> None:
    figure, axes = plt.subplots(figsize=(7, 4))
    for r, colour in ((2, "#1f77b4"), (3, "#d62728")):
        for m in range(2, WIDEST + 1):
            share = ((m + r - 1) / (m * r)) ** 2
            if m + r - 1 <= LARGEST:
                axes.scatter(share, error_growth(m, r) ** 2, color=colour, zorder=3)
                place = (6, 5 if r == 2 else -11)  # F(3, 2) and F(2, 3) share a point
                axes.annotate(f"F({m}, {r})", (share, error_growth(m, r) ** 2), place, textcoords="offset points")
            if (m, r) in USUAL:
                axes.scatter(share, growth_of(*matrices(m, r, USUAL[m, r])) ** 2, edgecolor=colour, facecolor="none")
    axes.axhline(GROWTH, color="#888888", linewidth=1)
    axes.set(
        yscale="log",
        xlim=(0.22, 0.62),
        xlabel="share of the direct multiplications",
        ylabel="error growth, worst place",
    )
    axes.set_yticks([1, 2, 4, 8, 16, 32], ["1", "2", "4", "8", "16", "32"])
    axes.set_title("dots: nodes used here; circles: 0, ±1, ±2; line: the most that is taken", fontsize=9)
    axes.minorticks_off()
    figure.tight_layout()
    figure.savefig(Path(__file__).parent / "figures" / "winograd-error.png", dpi=110)


if __name__ == "__main__":
    np.seterr(all="raise")
    main()
