"""What a run shows while it trains: a table of all terms, a plot of them and sheets of samples."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

from checkpoints.io import atomic_write

MARGIN, LABEL = 4, 16


def _cells(step: int, row: Mapping[str, float]) -> list[str]:
    return [str(step)] + ["" if math.isnan(value) else f"{value:.8g}" for value in row.values()]


class LossTable:
    """CSV file with one line per step; terms that a step did not compute are empty.

    Args:
        path: the file.
        terms: column names after ``step``.
    """

    def __init__(self, path: Path, terms: Sequence[str]) -> None:
        self.path, self.terms = path, tuple(terms)

    def rewrite(self, history: Sequence[Mapping[str, float]]) -> None:
        """Replace the file by a history, so that a resumed run repeats no line of the run that was cut off."""
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(("step", *self.terms))
        writer.writerows(_cells(step, row) for step, row in enumerate(history))
        with atomic_write(self.path) as temporary:
            temporary.write_text(text.getvalue(), newline="")

    def append(self, step: int, row: Mapping[str, float]) -> None:
        """Add one line."""
        with open(self.path, "a", newline="") as file:
            csv.writer(file).writerow(_cells(step, row))


def plot_losses(path: Path, history: Sequence[Mapping[str, float]]) -> None:
    """Draw every term over the steps into one PNG, a panel each."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not history:
        return
    terms = [name for name in history[0] if any(math.isfinite(row[name]) for row in history)]
    rows = math.ceil(len(terms) / 3)
    figure = Figure(figsize=(12, 2.6 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for index, name in enumerate(terms):
        axis = figure.add_subplot(rows, 3, index + 1)
        points = [(step, row[name]) for step, row in enumerate(history) if math.isfinite(row[name])]
        steps, values = zip(*points, strict=True)
        axis.plot(steps, values, linewidth=1, marker="." if len(points) < 40 else "")
        axis.set_title(name, fontsize=10)
        axis.grid(alpha=0.3)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=80)


def to_row(images: Tensor, side: int) -> Image.Image:
    """Put images [N, 3, S, S] in [-1, 1] side by side at ``side`` px each."""
    if images.shape[3] != side:
        images = F.interpolate(images, size=(side, side), mode="bilinear", antialias=True)
    joined = torch.cat(list(images.float().cpu().clamp(-1, 1)), dim=2)  # N x [3, S, S] -> [3, S, N S]
    pixels = ((joined + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0)  # [3, S, N S] -> [S, N S, 3]
    return Image.fromarray(pixels.numpy())


def contact_sheet(path: Path, rows: Mapping[str, Tensor], *, side: int = 128) -> None:
    """Save labelled rows of images as one PNG.

    Args:
        path: the file.
        rows: {label: images [N, 3, S, S] in [-1, 1]}, top to bottom.
        side: side of one image on the sheet in px.
    """
    strips = {label: to_row(images, side) for label, images in rows.items()}
    width = max(strip.width for strip in strips.values()) + 2 * MARGIN
    height = sum(strip.height + LABEL + MARGIN for strip in strips.values()) + MARGIN
    sheet = Image.new("RGB", (width, height), "white")
    draw, top = ImageDraw.Draw(sheet), MARGIN
    for label, strip in strips.items():
        draw.text((MARGIN, top), label, fill="black")
        sheet.paste(strip, (MARGIN, top + LABEL))
        top += strip.height + LABEL + MARGIN
    with atomic_write(path) as temporary:
        sheet.save(temporary, format="PNG")
