"""Small pictures of the styles: one face drawn in each, made beside the page and kept on the disk."""

from __future__ import annotations

import threading
from pathlib import Path

import torch
from PIL import Image

from checkpoints import CheckpointError
from checkpoints.paths import find_style, style_names
from data.images import ImageError, read_image, save_image, to_pil
from pipeline.cli import UserError

FACE = Path(__file__).resolve().parent.parent / "data" / "test_inputs" / "001.png"
SIDE = 96


class Thumbnails:
    """Draws one face in each style, one after the other, in a thread of its own.

    Args:
        folder: where they are kept, by name and time of the style's file.
        device: where to compute.
    """

    def __init__(self, folder: Path, device: torch.device | str = "cpu") -> None:
        self.folder, self.device = folder, device
        self.failed: set[Path] = set()
        self.wanted = threading.Event()
        self._thread: threading.Thread | None = None

    def _file(self, style: str) -> Path:
        return self.folder / f"{style}-{find_style(style).stat().st_mtime_ns}.png"

    def ready(self) -> list[tuple[str, str]]:
        """Return file and name of the styles that are drawn already."""
        found = []
        for style in style_names():
            path = self._file(style)
            if path.is_file():
                found.append((str(path), style))
        return found

    def missing(self) -> list[str]:
        """Return the styles that are not drawn yet and can be."""
        return [style for style in style_names() if (path := self._file(style)) not in self.failed and not path.is_file()]

    def start(self) -> None:
        """Draw what is missing, now and whenever ``wanted`` is set."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            for style in self.missing():
                path = self._file(style)
                try:
                    save_image(path, self._drawn(style))
                except (UserError, ImageError, CheckpointError, OSError, ValueError, ArithmeticError):
                    self.failed.add(path)  # choosing the style tells what is wrong with it
            self.wanted.wait()
            self.wanted.clear()

    def _drawn(self, style: str) -> Image.Image:
        from pipeline.stylize import InversionSettings, build_stylizer

        stylizer = build_stylizer(style, inversion=InversionSettings("e4e"), device=self.device)
        crop = stylizer.crops(read_image(FACE), name=FACE.name)[0]
        drawn = stylizer.stylize(crop, look=stylizer.style.default_look()).result
        return to_pil(drawn).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
