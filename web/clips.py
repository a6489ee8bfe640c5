"""Tabs for what moves: clips, and the webcam as it goes."""

from __future__ import annotations

import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from data.listing import CLIP_SUFFIXES
from pipeline.cli import UserError
from pipeline.clip_drawer import ClipDrawer, VideoSettings
from pipeline.video import stylize_video
from pipeline.video_io import ClipFrame, clip_info
from web.studio import Studio
from web.uploads import plain, refusal

LIVE_SIDE = 480
LIVE_SECONDS = 0.1
RATE_OVER = 10  # frames over which the rate is measured


class Stopped(Exception):
    """The clip's drawing was stopped by the person."""


class ClipJob:
    """Restyles one clip in a thread and tells how far it is.

    Args:
        studio: gives the networks.
        path: of the clip.
        style: its name.
        face_alone: write the restyled face instead of the whole frame.
    """

    def __init__(self, studio: Studio, path: str, style: str, *, face_alone: bool) -> None:
        self.studio, self.path, self.style, self.face_alone = studio, Path(path), style, face_alone
        self.stop = threading.Event()
        self.news: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def run(self) -> Iterator[tuple[str, str | None]]:
        """Yield a line to show, and in the end the file; raises UserError and the like."""
        total, done, begin = clip_info(self.path).frames, 0, time.monotonic()
        threading.Thread(target=self._work, daemon=True).start()
        while not isinstance(news := self.news.get(), (Exception, tuple)):
            done += news
            rate = done / max(time.monotonic() - begin, 1e-3)
            yield f"Frame {done}{f' of {total}' if total else ''}, {rate:.1f} a second", None
        if isinstance(news, Stopped):
            yield f"Stopped after frame {done}.", None
        elif isinstance(news, Exception):
            raise news
        else:
            yield f"Done: {plain(news[0])}.", news[1]

    def _progress(self, count: int) -> None:
        if self.stop.is_set():
            raise Stopped
        self.news.put(count)

    def _work(self) -> None:
        try:
            stylizer = self.studio.stylizer(self.style)
            folder = Path(tempfile.mkdtemp(prefix="clip_"))
            output = folder / f"{self.style}_{self.path.stem}.mp4"
            report = stylize_video(self.path, stylizer, output=output, look=stylizer.style.default_look(),
                                   settings=VideoSettings(aligned=self.face_alone), progress=self._progress)
            self.news.put((str(report), str(output)))
        except Exception as error:  # noqa: BLE001 - it is raised again in the page's own thread
            self.news.put(error)


def clip_tab(studio: Studio, style_row: Callable[[], tuple], mendable: tuple, shared: dict) -> gr.Dropdown:
    """Build the tab for clips and return its list of styles."""
    jobs: dict[str, ClipJob] = {}
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            clip = gr.File(show_label=False, type="filepath", file_types=[*sorted(CLIP_SUFFIXES), ".gif"],
                           elem_id="clip", interactive=True, height=140)
            style, _ = style_row()
            face_alone = gr.Checkbox(False, label="The face alone, not the whole frame", interactive=True)
            with gr.Row():
                start = gr.Button("Draw the clip", variant="primary", elem_id="draw_clip")
                stop = gr.Button("Stop", variant="stop", elem_id="stop_clip")
        with gr.Column(scale=3, min_width=300, elem_classes="kept"):
            status = gr.Textbox("No clip yet.", label="Progress", interactive=False, elem_id="clip_status")
            result = gr.Video(label="Restyled clip", show_label=False, interactive=False, elem_id="clip_result", buttons=[])
            download = gr.DownloadButton("Download MP4", interactive=False, elem_id="clip_download")

    def draw(path: str | None, style: str | None, face_alone: bool, request: gr.Request) -> Iterator[tuple]:
        try:
            if not path:
                raise UserError("give a clip first")
            if not style:
                raise UserError("there is no style yet; train one in the Train tab")
            job = jobs[request.session_hash] = ClipJob(studio, path, style, face_alone=face_alone)
            for line, file in job.run():
                yield line, file or gr.skip(), gr.DownloadButton(value=file, interactive=True) if file else gr.skip()
        except mendable as error:
            raise refusal(error) from None
        finally:
            jobs.pop(request.session_hash, None)

    def halt(request: gr.Request) -> None:
        if job := jobs.get(request.session_hash):
            job.stop.set()
        else:
            gr.Info("No clip is being drawn.")

    start.click(draw, [clip, style, face_alone], [status, result, download], show_progress="hidden", api_visibility="private",
                **shared)
    # Outside the queue, or it would wait for the clip that it is to stop.
    stop.click(halt, None, None, queue=False, api_visibility="private")
    return style


class Live:
    """One person's webcam: frames are restyled as they come, the face followed from one to the next."""

    def __init__(self, studio: Studio, style: str) -> None:
        stylizer = studio.stylizer(style)
        self.style, self.count, self.times = style, 0, [time.monotonic()]
        self.drawer = ClipDrawer(stylizer, stylizer.style.default_look(), VideoSettings())

    def picture(self, image: Image.Image) -> tuple[Image.Image, str]:
        """Return a restyled frame and the rate in words."""
        image = image.convert("RGB")
        image.thumbnail((LIVE_SIDE, LIVE_SIDE))
        frame = ClipFrame(self.count, self.count, image)
        (drawn,) = self.drawer.pictures([(frame, time.monotonic())])
        self.count += 1
        self.times = [*self.times[-RATE_OVER:], time.monotonic()]
        rate = (len(self.times) - 1) / max(self.times[-1] - self.times[0], 1e-6)
        faceless = "" if self.drawer.tracker.tracks else ", no face seen"
        return drawn.image, f"{rate:.1f} frames a second{faceless}"


def live_tab(studio: Studio, style_row: Callable[[], tuple], mendable: tuple, shared: dict) -> gr.Dropdown:
    """Build the tab for the webcam and return its list of styles."""
    people: dict[str, Live] = {}
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            camera = gr.Image(sources=["webcam"], type="pil", streaming=True, show_label=False, height=280, elem_id="camera",
                              interactive=True)
            style, _ = style_row()
        with gr.Column(scale=3, min_width=300, elem_classes="kept"):
            result = gr.Image(type="pil", label="Restyled", show_label=False, format="jpeg", interactive=False, elem_id="live",
                              buttons=["fullscreen"])
            rate = gr.Textbox("Start the webcam.", label="Rate", interactive=False, elem_id="live_rate")

    def draw(image: Image.Image | None, style: str | None, request: gr.Request) -> tuple:
        if image is None or not style:
            return gr.skip(), gr.skip()
        try:
            known = people.get(request.session_hash)
            if known is None or known.style != style:
                known = people[request.session_hash] = Live(studio, style)
            return known.picture(image)
        except mendable as error:
            raise refusal(error) from None

    camera.stream(draw, [camera, style], [result, rate], stream_every=LIVE_SECONDS, time_limit=None, show_progress="hidden",
                  api_visibility="private", **shared)
    return style
