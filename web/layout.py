"""The page: its tabs, their controls, and what each control does."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from checkpoints.paths import style_names
from pipeline.cli import DEFAULT_STYLE
from styles.controls import Look
from styles.registry import TABS, named_function
from training.config import PROFILES
from web.controls import Kept, Panel, build_panel, look_of
from web.jobs import Trainer
from web.studio import MENDABLE, Studio, Wish

TITLE = "One-shot face stylization"
ONE_AT_A_TIME = {"concurrency_limit": 1, "concurrency_id": "networks"}
QUIETLY = {"trigger_mode": "always_last", "show_progress": "hidden", "api_visibility": "private"}
CSS = """
.gradio-container {max-width: 1240px !important; margin: auto} footer {display: none !important}
#restyled img, #random img, #sheet img {width: 100% !important; object-fit: contain !important; min-height: 240px}
"""
VIEWS = ("side by side", "face", "whole photo")


def theme() -> gr.themes.Base:
    """Return a theme whose fonts are on every machine, so that the page asks no other host for any."""
    return gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["monospace"], primary_hue="indigo")


def told(function: Callable) -> Callable:
    """Turn errors that the user can mend into one line on the page; works for generators too."""
    @functools.wraps(function)
    def call(*args: Any) -> Any:
        try:
            return function(*args)
        except MENDABLE as error:
            raise gr.Error(" ".join(str(error).split()), print_exception=False) from None

    return call


def default_style() -> str | None:
    names = style_names()
    return DEFAULT_STYLE if DEFAULT_STYLE in names else names[0] if names else None


def saved(picture: Image.Image) -> str:
    """Write a picture for download and return its path; Gradio deletes such files after a while."""
    with tempfile.NamedTemporaryFile(prefix="stylized_", suffix=".png", delete=False) as file:
        picture.save(file, "PNG")
    return file.name


def style_row() -> tuple[gr.Dropdown, gr.Button]:
    with gr.Row():
        style = gr.Dropdown(style_names(), value=default_style(), label="Style", scale=4)
        refresh = gr.Button("Refresh", scale=1, min_width=90)
    refresh.click(lambda: gr.Dropdown(style_names(), value=default_style()), None, style, api_visibility="private")
    return style, refresh


def truncation(value: float) -> gr.Slider:
    return gr.Slider(0.0, 1.0, value, step=0.05, label="Truncation (0: average face)")


def build_controls(studio: Studio, style: str | None, kept: Kept, *, samples: bool, prefix: str) -> Panel:
    """Make the widgets of a style's controls, or say in one line why there are none."""
    try:
        controls = studio.controls(style) if style else ()
        pictures = studio.pictures(style) if style else {}
        return build_panel(controls, kept, samples=samples, prefix=prefix, pictures=pictures)
    except MENDABLE as error:
        gr.Markdown(" ".join(str(error).split()))
        return Panel((), ())


def look_for(studio: Studio, style: str | None, kept: Kept, *, samples: bool) -> Look:
    """Return the look of values of the style's controls; raises gr.Error where no style is chosen."""
    if not style:
        raise gr.Error("There is no style yet; train one in the Train tab.", print_exception=False)
    return look_of(studio.controls(style), kept, samples=samples)


def photo_tab(studio: Studio, page: gr.Blocks) -> gr.Dropdown:
    # What the controls say, by name, so that the next style shows the same where it has the same control.
    kept = gr.State({})
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            photo = gr.Image(type="filepath", sources=["upload", "webcam", "clipboard"], label="Photo", height=260,
                             elem_id="photo", format="png")
            style, _ = style_row()
            view = gr.Radio(VIEWS, value=VIEWS[0], label="View", elem_id="view")
            refine = gr.Checkbox(False, label="Closer likeness: refine the face by 100 steps, slower")
            psi = truncation(1.0)
            own = gr.Column()
        with gr.Column(scale=3, min_width=300):
            result = gr.Image(type="pil", label="Restyled", show_label=False, format="png", interactive=False,
                              elem_id="restyled", buttons=["fullscreen"])
            download = gr.DownloadButton("Download PNG", interactive=False)

    @told
    def draw(path: str | None, style: str | None, view: str, refine: bool, psi: float, kept: Kept) -> tuple:
        if not path:
            return None, gr.DownloadButton(interactive=False)
        wish = Wish(look_for(studio, style, kept, samples=False), float(psi), view)
        picture = studio.draw(path, style, wish, refine=refine)
        return picture, gr.DownloadButton(value=saved(picture), interactive=True)

    # Only the last of many changes is drawn.
    drawing = {"fn": draw, "inputs": [photo, style, view, refine, psi, kept], "outputs": [result, download],
               "trigger_mode": "always_last", "show_progress": "minimal", "api_visibility": "private", **ONE_AT_A_TIME}
    gr.on([photo.change, style.change, view.change, refine.change, psi.change], **drawing)

    def show(chosen: str | None, known: Kept) -> None:
        panel = build_controls(studio, chosen, known, samples=False, prefix="photo")
        if panel.inputs:
            moved = gr.on([widget.change for widget in panel.inputs], lambda *values: panel.rows(values), panel.inputs, kept,
                          **QUIETLY)
            moved.then(**drawing)

    with own:
        gr.render([style, kept], [page.load, style.change], show_progress="hidden")(show)
    return style


def random_tab(studio: Studio, page: gr.Blocks) -> gr.Dropdown:
    kept = gr.State({})
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            style, _ = style_row()
            with gr.Row():
                seed = gr.Number(7, precision=0, minimum=0, maximum=2**31, label="Seed")
                count = gr.Slider(1, 12, 6, step=1, label="Faces")
            psi = truncation(0.7)
            own = gr.Column()
            make = gr.Button("Draw", variant="primary", elem_id="draw_random")
        with gr.Column(scale=3, min_width=300):
            result = gr.Image(type="pil", label="Restyled", show_label=False, format="png", interactive=False,
                              elem_id="random", buttons=["download", "fullscreen"])

    def show(chosen: str | None, known: Kept) -> None:
        panel = build_controls(studio, chosen, known, samples=True, prefix="random")

        @told
        def draw(seed: float, count: float, psi: float, *values: Any) -> Image.Image:
            wish = Wish(look_for(studio, chosen, panel.rows(values), samples=True), float(psi))
            return studio.random_faces(chosen, wish, seed=int(seed or 0), count=int(count))

        make.click(draw, [seed, count, psi, *panel.inputs], result, trigger_mode="always_last",
                   api_visibility="private", **ONE_AT_A_TIME)
        if panel.inputs:
            gr.on([widget.change for widget in panel.inputs], lambda *values: panel.rows(values), panel.inputs, kept,
                  **QUIETLY)

    with own:
        gr.render([style, kept], [page.load, style.change], show_progress="hidden")(show)
    return style


def train_tab(trainer: Trainer, styles: list[gr.Dropdown]) -> None:
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            with gr.Row():
                source = gr.Image(type="filepath", sources=["upload", "webcam"], label="Real face", height=190,
                                  elem_id="source", format="png", min_width=140)
                target = gr.Image(type="filepath", sources=["upload"], label="The same face, drawn", height=190,
                                  elem_id="target", format="png", min_width=140)
            name = gr.Textbox(label="Name of the new style", placeholder="letters, digits, - and _", elem_id="name")
            steps = gr.Slider(1, 500, PROFILES["starter"]["iterations"], step=1, label="Steps", elem_id="steps")
            align = gr.Checkbox(True, label="Find and align the face in both images")
            overwrite = gr.Checkbox(False, label="Replace a style of this name")
            with gr.Row():
                start = gr.Button("Train", variant="primary", elem_id="train")
                cancel = gr.Button("Cancel", variant="stop", elem_id="cancel")
        with gr.Column(scale=3, min_width=300):
            status = gr.Textbox("Nothing is being trained.", label="Progress", interactive=False, elem_id="status")
            sheet = gr.Image(type="filepath", label="Samples so far", show_label=False, interactive=False,
                             elem_id="sheet", buttons=["fullscreen"])

    def train(*values: Any) -> Iterator[tuple]:
        source, target, name, steps, align, overwrite = values
        shown = None
        try:
            for now in trainer.train(source, target, name, steps=int(steps), align=align, overwrite=overwrite):
                fresh = gr.skip() if now.sheet == shown else Image.open(now.sheet).convert("RGB")
                shown = now.sheet
                lists = [gr.Dropdown(style_names()) if now.done else gr.skip() for _ in styles]
                yield now.line, fresh, *lists
        except MENDABLE as error:
            raise gr.Error(" ".join(str(error).split()), print_exception=False) from None

    start.click(train, [source, target, name, steps, align, overwrite], [status, sheet, *styles], show_progress="minimal",
                api_visibility="private", concurrency_limit=1, concurrency_id="training")
    # Outside the queue, or it would wait for the training that it is to stop.
    cancel.click(lambda: gr.Info("Stopping …") if trainer.cancel() else gr.Info("Nothing is being trained."), None, None,
                 queue=False, api_visibility="private")


def build(studio: Studio, trainer: Trainer) -> gr.Blocks:
    """Return the page."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(3600, 86400), fill_width=True) as page:
        gr.Markdown(f"## {TITLE}")
        styles = []
        with gr.Tab("Photo"):
            styles.append(photo_tab(studio, page))
        with gr.Tab("Random faces"):
            styles.append(random_tab(studio, page))
        for title, place in TABS.items():
            with gr.Tab(title):
                named_function(place)(studio.device, shared=ONE_AT_A_TIME)
        with gr.Tab("Train"):
            train_tab(trainer, styles)
    return page.queue(max_size=32)


def blocked() -> list[str]:
    """Return folders that are never served, whatever else is allowed."""
    root = Path(__file__).resolve().parent.parent
    return [str(root / name) for name in ("checkpoints", ".git", ".venv")]
