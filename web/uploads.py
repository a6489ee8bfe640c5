"""Pictures that people give to the page, read by this project and not by the page's library, and words for the page."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from data.images import ImageError, read_image
from pipeline.cli import UserError

# What every browser shows; of everything else a picture is made for it to show.
SHOWN = {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp"}
# A part of a message that speaks of options of a command line: from the mark before it to the next one or the end.
OPTION = re.compile(r"(?:,? or |, | ?\(|; (?:use |or |give )?)(?:[^,;()]*? )?--[a-z][^;,()]*\)?")
FOLDERS = re.compile(r"(?<![\w.])(?:[A-Za-z]:)?[/\\](?:[^/\\\s:;,'\"]+[/\\])+")
PREVIEW_SIDE = 1024


def breakable(name: str) -> str:
    """Return a name that may go on in the next line after each of its underscores, and nowhere else."""
    return name.replace("_", "_\u200b")


def plain(error: object) -> str:
    """Return a message in one line, without folders of this machine and without advice for command lines."""
    text = " ".join(str(error).split())
    return FOLDERS.sub("", OPTION.sub("", text)).strip()


def refusal(error: object) -> gr.Error:
    """Return what the page shows of an error that the user can mend."""
    return gr.Error(plain(error), print_exception=False)


class Previews:
    """Pictures for the browser of files that it cannot show, and which file each was made of."""

    def __init__(self) -> None:
        self.origins: dict[str, str] = {}

    def of(self, path: str | None) -> str | None:
        """Return a picture that every browser shows, the file itself where it does.

        Raises:
            UserError: if the file cannot be read.
        """
        if not path or path in self.origins or Path(path).suffix.lower() in SHOWN:
            return path
        try:
            image = read_image(path)
        except ImageError as error:
            raise UserError(str(error)) from error
        image.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
        with tempfile.NamedTemporaryFile(prefix=f"{Path(path).stem}_", suffix=".png", delete=False) as file:
            image.save(file, "PNG")
        self.origins[file.name] = path
        return file.name

    def original(self, path: str | None) -> str | None:
        """Return the file that a preview was made of; any other path is its own."""
        if path is None:
            return None
        return next((origin for preview, origin in self.origins.items() if Path(preview).name == Path(path).name), path)


PREVIEWS = Previews()


class Picture(gr.Image):
    """An image input that gives the path of the file as it was uploaded: 16 bit, profile, transparency and all."""

    is_template = True  # the page shows it as it shows gr.Image

    def preprocess(self, payload: Any) -> str | None:
        """Return the path of what was uploaded."""
        return PREVIEWS.original(payload.path) if payload else None


def photo_input(
    prompt: str, *, elem_id: str, sources: Sequence[str] = ("upload", "webcam"), height: int = 220, value: str | None = None
) -> Picture:
    """Make an input for a photo of any format; its prompt says what is wanted, for a label would lie over it."""
    made = Picture(value, type="filepath", sources=list(sources), show_label=False, height=height, placeholder=prompt,
                   elem_id=elem_id, format="png", min_width=140, interactive=True)

    def preview(path: str | None) -> Any:
        try:
            shown = PREVIEWS.of(path)
        except UserError as error:
            raise refusal(error) from None
        return gr.skip() if shown == path else shown

    made.upload(preview, made, made, api_visibility="private", show_progress="hidden")
    return made
