"""The page's tab for another's expression: who, which expression, how far each part goes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from PIL import Image
from torch import Tensor

from checkpoints.paths import style_names
from data.images import ImageError, read_image
from drawing.expression import PARTS
from faces.find import FinderSettings
from pipeline.cli import UserError
from pipeline.stylize import build_stylizer
from projection.expressions import expression_names
from projection.stills import Person, Studio, row

PHOTO, PLAIN = "the second photo's", "none, as a photo"


class Expressions:
    """Networks and people of a running page; one thread at a time.

    Args:
        device: where styles are drawn.
        finder: how faces are found.
    """

    def __init__(self, device: torch.device | str, finder: FinderSettings = FinderSettings()) -> None:
        self.device, self.finder = device, finder
        # A person is the same whichever style draws and however far the parts go.
        self.person = functools.lru_cache(maxsize=8)(self._person)

    @functools.cached_property
    def plain(self) -> Studio:
        """What every run needs, loaded when it is first asked for."""
        return Studio(self.finder.make())

    def _person(self, digest: bytes, path: str) -> Person:
        return self.plain.person(Path(path))

    def project(self, look: str, target: str, shares: Sequence[float]) -> tuple[list[Image.Image | Tensor], Image.Image]:
        """Return the face, which expression, and the face with it; and the whole photo with it.

        Args:
            look: photo of who.
            target: name of an expression or a photo.
            shares: how far each of ``PARTS`` goes.

        Raises:
            UserError, ImageError: in one line.
        """
        person = self.person(read_image(look).tobytes(), look)
        studio = replace(self.plain, parts=dict(zip(PARTS, map(float, shares), strict=True)))
        expression, shown = studio.expression(target, person)
        return [person.aligned, shown, studio.face(person, expression)], studio.whole(person, expression)

    def drawn(self, face: Tensor, style: str) -> Image.Image:
        """Return an aligned face [1, 3, S, S] in a style."""
        stylizer = build_stylizer(style, device=self.device)
        return replace(self.plain, stylizer=stylizer, look=stylizer.style.default_look()).drawn(face)


def expression_tab(device: torch.device | str, *, finder: FinderSettings, shared: dict[str, Any],
                   photo_input: Callable[..., gr.Image], refusal: Callable[[object], gr.Error]) -> None:
    """Make the tab.

    Args:
        device: where to compute.
        finder: how faces are found.
        shared: options of events that use the networks, which wait for each other.
        photo_input: makes the page's input for photos, of a prompt.
        refusal: makes what the page shows of an error.
    """
    expressions = Expressions(device, finder)
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            with gr.Row():
                look, target = photo_input("Who", elem_id="who"), photo_input("Whose expression", elem_id="whose")
            name = gr.Radio([PHOTO, *expression_names()], value=PHOTO, label="Expression", elem_id="expression")
            shares = [gr.Slider(0.0, 2.0, 1.0, step=0.1, label=f"{part.capitalize()}: 0 stays, 1 goes", elem_id=f"part_{part}")
                      for part in PARTS]
            style = gr.Dropdown([PLAIN, *style_names()], value=PLAIN, label="Draw the face in a style")
            start = gr.Button("Go", variant="primary", elem_id="project")
        with gr.Column(scale=3, min_width=300, elem_classes="kept"):
            result = gr.Image(type="pil", show_label=False, format="png", interactive=False, elem_id="expressed",
                              buttons=["download", "fullscreen"])
    beside = gr.Image(type="pil", label="Who, expression, result", format="png", interactive=False, elem_id="projected",
                      buttons=["download", "fullscreen"])

    def project(look: str | None, target: str | None, name: str, style: str, *shares: float) -> tuple[Image.Image, Image.Image]:
        if not look or (name == PHOTO and not target):
            raise refusal("Give a photo of who, and one of whose expression or choose one by its name.")
        try:
            pictures, whole = expressions.project(look, target if name == PHOTO else name, shares)
            drawn = [] if style == PLAIN else [expressions.drawn(pictures[-1], style)]
            return whole, row([*pictures, *drawn], side=pictures[0].shape[3])
        except (UserError, ImageError, ValueError) as error:
            raise refusal(error) from None

    start.click(project, [look, target, name, style, *shares], [result, beside], show_progress="minimal",
                api_visibility="private", **shared)
