"""The page: its tabs, their controls, and what each control does."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from checkpoints.paths import style_names
from data.images import read_photo, save_image
from data.origin import Origin
from faces.find import KINDS, FinderSettings
from pipeline.cli import DEFAULT_STYLE
from styles.controls import Look
from styles.registry import TABS, named_function
from training.config import PROFILES
from web.clips import clip_tab, live_tab
from web.controls import Kept, Panel, build_panel, look_of
from web.jobs import Trainer
from web.studio import MENDABLE, Studio, Wish
from web.thumbs import Thumbnails
from web.uploads import breakable, photo_input, plain, refusal

TITLE = "One-shot face stylization"
ONE_AT_A_TIME = {"concurrency_limit": 1, "concurrency_id": "networks"}
# Panels of controls are made one after the other: the page's library fails where two are made at once, and leaves one out.
IN_TURN = {"concurrency_limit": 1, "concurrency_id": "panels", "show_progress": "hidden"}
QUIETLY = {"trigger_mode": "always_last", "show_progress": "hidden", "api_visibility": "private"}
# What is made stays in view beside the controls, on a narrow screen above them; names of pictures are not cut.
CSS = """
.gradio-container {max-width: 1240px !important; width: 100% !important; margin: auto; overflow: visible !important}
footer {display: none !important}
#restyled img, #random img, #sheet img, #live img, #expressed img {width: 100% !important; min-width: 100%;
  height: auto !important; max-height: 82vh; object-fit: contain !important}
.styles .grid-container {grid-template-columns: repeat(5, 1fr) !important; grid-auto-rows: auto !important; gap: 4px !important}
.styles.broad .grid-container {grid-template-columns: repeat(4, 1fr) !important}
.styles .grid-wrap {padding: 4px !important}
#restyled button:has(img), #restyled .image-frame {width: 100% !important}
.kept {position: sticky !important; top: 8px; align-self: flex-start; z-index: 5}
.tabs, .tabitem, .tabitem > div, .row {overflow: visible !important}
.kept .image-container, .kept video {min-height: 200px}
.caption-label, .gallery-item .caption-label {white-space: normal !important; overflow: visible !important;
  text-overflow: clip !important; overflow-wrap: anywhere; max-width: 100% !important; left: 0; right: 0; bottom: 0;
  text-align: center; line-height: 1.1; font-size: 10px; padding: 1px; border-radius: 0 0 8px 8px}
@media (max-width: 760px) {
  .kept {order: -1; top: 0; z-index: 60; background: var(--body-background-fill); padding-bottom: 4px}
  .kept img, .kept video {max-height: 36vh} .kept .image-container {min-height: 90px}
  .styles .grid-container, .styles.broad .grid-container {grid-template-columns: repeat(3, 1fr) !important}
  .kept [aria-label="Empty value"] {height: 72px !important; min-height: 0 !important}
}
"""
NO_STYLE = "none"
VIEWS = ("photo and result", "with inversion", "face", "whole photo")
THUMBNAIL_SECONDS = 3.0


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
            raise refusal(error) from None

    return call


def default_style() -> str | None:
    names = style_names()
    return DEFAULT_STYLE if DEFAULT_STYLE in names else names[0] if names else None


def saved(picture: Image.Image, origin: Origin | None = None) -> str:
    """Write a picture for download and return its path; Gradio deletes such files after a while."""
    with tempfile.NamedTemporaryFile(prefix="stylized_", suffix=".png", delete=False) as file:
        pass
    save_image(file.name, picture, origin=origin)
    return file.name


class StyleLists:
    """The lists of styles on all tabs, and the pictures above them.

    Args:
        thumbs: makes the pictures; None shows none.
    """

    def __init__(self, thumbs: Thumbnails | None) -> None:
        self.thumbs, self.galleries = thumbs, []

    def row(self) -> tuple[gr.Dropdown, gr.Button]:
        """Make a list of styles with a button that reads the folder again."""
        gallery = None
        if self.thumbs is not None:
            gallery = gr.Gallery(self.pictures(), columns=5, height=190, allow_preview=False, show_label=False,
                                 interactive=False, buttons=[], elem_classes="styles", object_fit="cover")
            self.galleries.append(gallery)
        with gr.Row():
            style = gr.Dropdown(style_names(), value=default_style(), label="Style", scale=4, interactive=True)
            refresh = gr.Button("Refresh", scale=1, min_width=90)

        def again() -> gr.Dropdown:
            if self.thumbs is not None:
                self.thumbs.wanted.set()
            return gr.Dropdown(style_names(), value=default_style())

        def chosen(event: gr.SelectData) -> str:
            return event.value["caption"].replace(breakable("_"), "_")

        refresh.click(again, None, style, api_visibility="private")
        if gallery is not None:
            gallery.select(chosen, None, style, api_visibility="private", show_progress="hidden")
        return style, refresh

    def pictures(self) -> list[tuple[Image.Image, str]]:
        """Return the pictures that are there."""
        return [(Image.open(path), breakable(name)) for path, name in self.thumbs.ready()]

    def keep_fresh(self) -> None:
        """Show pictures of styles as they are made."""
        if self.thumbs is None:
            return
        shown = gr.State(-1)
        timer = gr.Timer(THUMBNAIL_SECONDS)

        def look(count: int) -> list:
            ready = len(self.thumbs.ready())
            if ready == count:
                return [count, *(gr.skip() for _ in self.galleries)]
            pictures = self.pictures()
            return [ready, *(gr.Gallery(pictures) for _ in self.galleries)]

        timer.tick(look, shown, [shown, *self.galleries], api_visibility="private", show_progress="hidden", queue=False)


def mixture() -> tuple[gr.Dropdown, gr.Slider]:
    """Make the widgets of a second style and its share."""
    with gr.Accordion("Mix with a second style", open=False):
        second = gr.Dropdown([NO_STYLE, *style_names()], value=NO_STYLE, label="Second style", interactive=True, elem_id="second")
        share = gr.Slider(0.0, 1.0, 0.5, step=0.05, label="Share of the second style", interactive=True, elem_id="share")
    return second, share


def searching(finder: FinderSettings) -> tuple[gr.Radio, gr.Slider]:
    """Make the widgets that say which faces of a photo are found, set as the page was started."""
    with gr.Accordion("Which faces are found", open=False):
        kind = gr.Radio(list(KINDS), value=finder.kind, label="Finder", interactive=True, elem_id="finder",
                        info="mesh: at every angle and in drawings too; dlib: as published")
        least = gr.Slider(20, 400, finder.min_face, step=5, label="Smallest face, px", interactive=True, elem_id="min_face")
    return kind, least


def recipe(style: str | None, second: str | None, share: float) -> str | None:
    """Return the name of a style, or of the mixture that is asked for."""
    if not style or second in (None, NO_STYLE, style):
        return style
    return f"{style}:{1.0 - share:.2f},{second}:{share:.2f}"


def truncation(value: float, prefix: str) -> gr.Slider:
    return gr.Slider(0.0, 1.0, value, step=0.05, label="Truncation (0: average face)", interactive=True,
                     elem_id=f"{prefix}_truncation")


def build_controls(studio: Studio, style: str | None, kept: Kept, *, samples: bool, prefix: str) -> Panel:
    """Make the widgets of a style's controls, or say in one line why there are none."""
    try:
        controls = studio.controls(style) if style else ()
        pictures = studio.pictures(style) if style else {}
        return build_panel(controls, kept, samples=samples, prefix=prefix, pictures=pictures)
    except MENDABLE as error:
        gr.Markdown(plain(error))
        return Panel((), ())


def look_for(studio: Studio, style: str | None, kept: Kept, *, samples: bool) -> Look:
    """Return the look of values of the style's controls; raises gr.Error where no style is chosen."""
    if not style:
        raise gr.Error("There is no style yet; train one in the Train tab.", print_exception=False)
    return look_of(studio.controls(style), kept, samples=samples)


def photo_tab(studio: Studio, page: gr.Blocks, lists: StyleLists) -> gr.Dropdown:
    # What the controls say, by name, so that the next style shows the same where it has the same control.
    kept = gr.State({})
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            photo = photo_input("A photo with a face: drop it here, or click", elem_id="photo", height=260,
                                sources=("upload", "webcam", "clipboard"))
            style, _ = lists.row()
            view = gr.Radio(VIEWS, value=VIEWS[0], label="View", elem_id="view", interactive=True)
            refine = gr.Checkbox(False, label="Closer likeness: refine the face by 100 steps, slower", interactive=True)
            psi = truncation(1.0, "photo")
            second, share = mixture()
            kind, least = searching(studio.finder)
            own = gr.Column()
        with gr.Column(scale=3, min_width=300, elem_classes="kept"):
            result = gr.Image(type="pil", label="Restyled", show_label=False, format="png", interactive=False,
                              elem_id="restyled", buttons=["fullscreen"])
            download = gr.DownloadButton("Download PNG", interactive=False)

    @told
    def draw(path: str | None, style: str | None, second: str, share: float, view: str, refine: bool, psi: float, kind: str,
             least: float, kept: Kept) -> tuple:
        if not path:
            return None, gr.DownloadButton(interactive=False)
        finder = replace(studio.finder, kind=kind, min_face=float(least))
        wish = Wish(look_for(studio, style, kept, samples=False), float(psi), view, finder)
        picture = studio.draw(path, recipe(style, second, share), wish, refine=refine)
        origin = read_photo(path)[1] if view == "whole photo" else None
        return picture, gr.DownloadButton(value=saved(picture, origin), interactive=True)

    # Only the last of many changes is drawn.
    moved = [photo, style, second, share, view, refine, psi, kind, least]
    drawing = {"fn": draw, "inputs": [*moved, kept], "outputs": [result, download],
               "trigger_mode": "always_last", "show_progress": "minimal", "api_visibility": "private", **ONE_AT_A_TIME}
    gr.on([widget.change for widget in moved], **drawing)

    def show(chosen: str | None, known: Kept) -> None:
        panel = build_controls(studio, chosen, known, samples=False, prefix="photo")
        if panel.inputs:
            gr.on([widget.change for widget in panel.inputs], lambda *values: panel.rows(values), panel.inputs, kept,
                  **QUIETLY).then(**drawing)

    with own:
        gr.render([style, kept], [page.load, style.change], **IN_TURN)(show)
    return style


def random_tab(studio: Studio, page: gr.Blocks, lists: StyleLists) -> gr.Dropdown:
    kept = gr.State({})
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            style, _ = lists.row()
            with gr.Row():
                seed = gr.Number(7, precision=0, minimum=0, maximum=2**31, label="Seed", interactive=True, elem_id="seed")
                count = gr.Slider(1, 12, 6, step=1, label="Faces", interactive=True, elem_id="faces")
            psi = truncation(0.7, "random")
            own = gr.Column()
            make = gr.Button("Draw", variant="primary", elem_id="draw_random")
        with gr.Column(scale=3, min_width=300, elem_classes="kept"):
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
        gr.render([style, kept], [page.load, style.change], **IN_TURN)(show)
    return style


def train_tab(trainer: Trainer, styles: list[gr.Dropdown]) -> None:
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            with gr.Row():
                source = photo_input("Real face", elem_id="source")
                target = photo_input("The same face, drawn", elem_id="target")
            name = gr.Textbox(label="Name of the new style", placeholder="letters, digits, - and _", elem_id="name",
                              interactive=True)
            steps = gr.Slider(1, 500, PROFILES["starter"]["iterations"], step=1, label="Steps", elem_id="steps",
                              interactive=True)
            align = gr.Checkbox(True, label="Find and align the face in both images", interactive=True)
            overwrite = gr.Checkbox(False, label="Replace a style of this name", interactive=True)
            force = gr.Checkbox(False, label="Train even if the images look wrong", interactive=True)
            with gr.Row():
                start = gr.Button("Train", variant="primary", elem_id="train")
                cancel = gr.Button("Cancel", variant="stop", elem_id="cancel")
        with gr.Column(scale=3, min_width=300, elem_classes="kept"):
            status = gr.Textbox("Nothing is being trained.", label="Progress", interactive=False, elem_id="status")
            sheet = gr.Image(type="filepath", label="Samples so far", show_label=False, interactive=False,
                             elem_id="sheet", buttons=["fullscreen"])

    def train(*values: Any) -> Iterator[tuple]:
        source, target, name, steps, align, overwrite, force = values
        shown = None
        try:
            for now in trainer.train(source, target, name, steps=int(steps), align=align, overwrite=overwrite,
                                     force=force):
                fresh = gr.skip() if now.sheet == shown else Image.open(now.sheet).convert("RGB")
                shown = now.sheet
                lists = [gr.Dropdown(style_names()) if now.done else gr.skip() for _ in styles]
                yield plain(now.line), fresh, *lists
        except MENDABLE as error:
            raise refusal(error) from None

    start.click(train, [source, target, name, steps, align, overwrite, force], [status, sheet, *styles], show_progress="minimal",
                api_visibility="private", concurrency_limit=1, concurrency_id="training")
    # Outside the queue, or it would wait for the training that it is to stop.
    cancel.click(lambda: gr.Info("Stopping …") if trainer.cancel() else gr.Info("Nothing is being trained."), None, None,
                 queue=False, api_visibility="private")


def build(studio: Studio, trainer: Trainer, thumbs: Thumbnails | None = None) -> gr.Blocks:
    """Return the page; ``thumbs`` makes the pictures of styles, None shows none."""
    lists = StyleLists(thumbs)
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(3600, 86400), fill_width=True) as page:
        gr.Markdown(f"## {TITLE}")
        styles = []
        with gr.Tab("Photo"):
            styles.append(photo_tab(studio, page, lists))
        with gr.Tab("Clip"):
            styles.append(clip_tab(studio, lists.row, MENDABLE, ONE_AT_A_TIME))
        with gr.Tab("Webcam"):
            styles.append(live_tab(studio, lists.row, MENDABLE, ONE_AT_A_TIME))
        with gr.Tab("Random faces"):
            styles.append(random_tab(studio, page, lists))
        for title, place in TABS.items():
            with gr.Tab(title):
                named_function(place)(studio.device, finder=studio.finder, shared=ONE_AT_A_TIME, photo_input=photo_input,
                                      refusal=refusal)
        with gr.Tab("Train"):
            train_tab(trainer, styles)
        lists.keep_fresh()
    return page.queue(max_size=32)


def blocked() -> list[str]:
    """Return folders that are never served, whatever else is allowed."""
    root = Path(__file__).resolve().parent.parent
    return [str(root / name) for name in ("checkpoints", ".git", ".venv")]
