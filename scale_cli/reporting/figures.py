"""Figures by matplotlib, in the manner of the paper's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np

COLOURS = {
    "fft": "#d62728",
    "lora": "#ff7f0e",
    "freeze": "#8c564b",
    "llama-pro": "#7f7f7f",
    "scale-preserve": "#2ca02c",
    "scale-adapt": "#17becf",
    "scale-route": "#1f77b4",
}
"""One colour a method, the same in every figure."""

Curves = Mapping[str, Mapping[int, Sequence[tuple[int, float, float]]]]


def accuracy_curves(curves: Curves, file: Path) -> None:
    """Accuracy against steps of Task 1 (the paper's Fig. 8): Task 0 on the left, Task 1 on the right.

    curves: {method: {seed: [(step, Task 0 accuracy, Task 1 accuracy), ...]}}, accuracies 0 to 1; of several seeds the
        mean is drawn, and a band of one standard deviation.
    file: .png or .svg.
    """
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True, layout="constrained")
    for column, (axis, title) in enumerate(
        zip(axes, ("Task 0, held-out people (stability)", "Task 1 (plasticity)"), strict=True)
    ):
        for method, runs in curves.items():
            points = [np.array(run, dtype=float) for run in runs.values()]
            steps = points[0][:, 0]
            values = 100 * np.stack([run[:, 1 + column] for run in points])
            colour = COLOURS.get(method)
            axis.plot(steps, values.mean(0), label=method, color=colour, linewidth=1.8, marker="o", markersize=2.5)
            if len(values) > 1:
                spread = values.std(0, ddof=1)
                axis.fill_between(
                    steps, values.mean(0) - spread, values.mean(0) + spread, color=colour, alpha=0.15, linewidth=0
                )
        axis.set_title(title)
        axis.set_xlabel("steps of Task 1")
        axis.set_ylim(-3, 103)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("hard first-token accuracy, %")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.savefig(file, dpi=160)
    plt.close(figure)
