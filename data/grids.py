"""Contact sheets: rows of pictures with labels."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from data.images import to_pil

Picture = Image.Image | Tensor


def grid(
    rows: Sequence[Sequence[Picture]], *, cell: int, row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None, gap: int = 2,
) -> Image.Image:
    """Lay pictures out in rows.

    Args:
        rows: PIL images or tensors [3, H, W] in [-1, 1]; rows may differ in length.
        cell: side of a picture in px; pictures are resized to it.
        row_labels: text left of each row.
        column_labels: text above each column.
        gap: white px between pictures.

    Returns:
        An RGB image.

    Raises:
        ValueError: without pictures, or with a wrong number of row labels.
    """
    columns = max((len(row) for row in rows), default=0)
    if columns == 0:
        raise ValueError("a grid needs at least one picture")
    if row_labels is not None and len(row_labels) != len(rows):
        raise ValueError(f"expected {len(rows)} row labels, got {len(row_labels)}")
    font = ImageFont.load_default(max(11, cell // 10))
    top = int(font.size * 1.5) if column_labels else 0
    left = int(max((font.getlength(label) for label in row_labels or ()), default=-8) + 8)
    sheet = Image.new("RGB", (left + columns * (cell + gap) - gap, top + len(rows) * (cell + gap) - gap), "white")
    pen = ImageDraw.Draw(sheet)
    for column, label in enumerate(column_labels or ()):
        x = left + column * (cell + gap) + cell / 2
        pen.text((x, top / 2), label, fill="black", font=font, anchor="mm")
    for index, row in enumerate(rows):
        y = top + index * (cell + gap)
        if row_labels is not None:
            pen.text((4, y + cell / 2), row_labels[index], fill="black", font=font, anchor="lm")
        for column, picture in enumerate(row):
            image = picture if isinstance(picture, Image.Image) else to_pil(picture)
            if image.size != (cell, cell):
                image = image.resize((cell, cell), Image.Resampling.LANCZOS)
            sheet.paste(image, (left + column * (cell + gap), y))
    return sheet
