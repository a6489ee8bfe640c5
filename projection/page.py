"""The page's tab for landmark projection: who, which expression, how far each part goes, and the optimisation live."""

from __future__ import annotations

import functools
import queue
import threading
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from PIL import Image
from torch import Tensor

from checkpoints.paths import style_names
from data.images import ImageError, read_image, to_pil
from pipeline.cli import UserError
from pipeline.stylize import InversionSettings
from projection.expressions import expression_names, with_landmarks
from projection.stills import Studio, build_studio, row
from styles.registry import load_style
from training.projection import STARTER_WEIGHTS, Person, Projection, ProjectionSettings, named_weights

PARTS = ("brows", "eyes", "nose", "mouth", "jaw")
PHOTO, PLAIN = "the second photo's", "none, as a photo"
# Pictures of the optimisation that the page shows, at the most.
SHOWN = 10


class Expressions:
    """Networks and people of a running page; one thread at a time.

    Args:
        device: where to compute.
    """

    def __init__(self, device: torch.device | str) -> None:
        self.device = device
        # A person is the same whichever style draws and however far the parts go.
        self.person = functools.lru_cache(maxsize=8)(self._person)

    @functools.cached_property
    def plain(self) -> Studio:
        """The networks, without a style; loaded when they are first asked for."""
        return build_studio(ProjectionSettings(), device=self.device, inversion=InversionSettings("e4e+optimize", 50))

    def _person(self, digest: bytes, path: str) -> Person:
        return self.plain.person(Path(path))

    def settings(self, shares: Sequence[float], steps: int) -> ProjectionSettings:
        """Return settings of weights by part: a share multiplies the default of each of its groups."""
        families = [named_weights([(part, 0.0)], default=STARTER_WEIGHTS) for part in PARTS]
        weights = list(STARTER_WEIGHTS)
        for family, share in zip(families, shares, strict=True):
            for index, (without, whole) in enumerate(zip(family, STARTER_WEIGHTS, strict=True)):
                if without != whole:
                    weights[index] = whole * float(share)
        return ProjectionSettings(steps=steps, weights=tuple(weights))

    def project(self, look: str, target: str, settings: ProjectionSettings) -> Iterator[tuple[Image.Image, Projection | None]]:
        """Yield pictures of the optimisation, and the projection with the last one.

        Raises:
            UserError, ImageError, CheckpointError: in one line.
        """
        person = self.person(read_image(look).tobytes(), look)
        expression = self.plain.expression(target, person)
        projector = self.plain.projector
        before, projector.settings = projector.settings, settings
        every, told = max(1, settings.steps // SHOWN), queue.SimpleQueue()

        def work() -> None:
            def note(step: int, image: Tensor) -> None:
                if step % every == 0:
                    told.put(image)

            try:
                told.put(projector.project(person, expression, progress=note))
            except BaseException as error:  # noqa: BLE001 - raised again where the page waits
                told.put(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            while True:
                found = told.get()
                if isinstance(found, BaseException):
                    raise found
                image = found.image if isinstance(found, Projection) else found
                shown = row([person.photo, with_landmarks(None, expression.points), image])
                yield shown, found if isinstance(found, Projection) else None
                if isinstance(found, Projection):
                    return
        finally:
            thread.join()
            projector.settings = before

    def drawn(self, done: Projection, style: str) -> Image.Image:
        """Return the projected face in a style."""
        loaded = load_style(style, device=self.device)
        if loaded.base_name != self.plain.stylizer.base.name:
            raise UserError(f"the style {style!r} has the base {loaded.base_name!r}; choose one of the starter's")
        stylizer = copy(self.plain.stylizer)
        stylizer.style = loaded
        studio = replace(self.plain, stylizer=stylizer)
        return to_pil(studio.drawn(done.face, done.goal))


def expression_tab(device: torch.device | str, *, shared: dict[str, Any]) -> None:
    """Make the tab.

    Args:
        device: where to compute.
        shared: options of events that use the networks, which wait for each other.
    """
    expressions = Expressions(device)
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            with gr.Row():
                look = gr.Image(type="filepath", sources=["upload", "webcam"], label="Who", height=190, elem_id="who",
                                format="png", min_width=140)
                target = gr.Image(type="filepath", sources=["upload", "webcam"], label="Whose expression", height=190,
                                  elem_id="whose", format="png", min_width=140)
            name = gr.Radio([PHOTO, *expression_names()], value=PHOTO, label="Expression", elem_id="expression")
            shares = [gr.Slider(0.0, 3.0, 1.0, step=0.1, label=f"{part.capitalize()}: 0 stays, 1 goes", elem_id=f"part_{part}")
                      for part in PARTS]
            steps = gr.Slider(5, 100, ProjectionSettings.steps, step=1, label="Steps")
            style = gr.Dropdown([PLAIN, *style_names()], value=PLAIN, label="Draw the result in a style")
            start = gr.Button("Project", variant="primary", elem_id="project")
        with gr.Column(scale=3, min_width=300):
            result = gr.Image(type="pil", label="Who, expression, result", show_label=False, format="png", interactive=False,
                              elem_id="projected", buttons=["download", "fullscreen"])

    def project(
        look: str | None, target: str | None, name: str, steps: float, style: str, *shares: float,
    ) -> Iterator[Image.Image]:
        if not look or (name == PHOTO and not target):
            raise gr.Error("Give a photo of who, and one of whose expression or choose one by its name.", print_exception=False)
        try:
            settings = expressions.settings(shares, int(steps))
            for picture, done in expressions.project(look, target if name == PHOTO else name, settings):
                if done is not None and style != PLAIN:
                    picture = row([picture.crop((i * picture.height, 0, (i + 1) * picture.height, picture.height))
                                   for i in range(3)] + [expressions.drawn(done, style)])
                yield picture
        except (UserError, ImageError, ValueError, ArithmeticError) as error:
            raise gr.Error(" ".join(str(error).split()), print_exception=False) from None

    start.click(project, [look, target, name, steps, style, *shares], result, show_progress="minimal",
                api_visibility="private", **shared)
