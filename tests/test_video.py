"""Clips: what is kept, and what is smoothed."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import astronaut

import inference
from data.landmarks68 import MEAN_FACE
from faces.find import Face
from faces.tracking import FaceTracker, overlap
from models.face import Face as InvertedFace
from pipeline.cli import UserError
from pipeline.clip_drawer import AHEAD, ClipDrawer, VideoSettings
from pipeline.smoothing import Jitter, OneEuro
from pipeline.video import stylize_video
from pipeline.video_io import ClipFrame, clip_info, is_clip, read_frames
from styles.controls import Look

ROOT = Path(__file__).resolve().parent.parent


def make_clip(path, *, frames=12, size=(96, 80), rate=Fraction(25), sound=True, stamps=None, face=False, codec="libx264"):
    """Write a clip with a square that moves, or the astronaut; its frame i has the time stamp stamps[i] / 1000 s."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        if stamps:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        tone = container.add_stream("aac", rate=8000, layout="mono") if sound else None
        for index in range(frames):
            pixels = np.full((size[1], size[0], 3), 90, np.uint8)
            if face:
                picture = Image.fromarray(astronaut()).crop((110 + index, 0, 110 + index + 220, 220)).resize(size)
                pixels = np.asarray(picture)
            else:
                pixels[20:50, 10 + 2 * index:40 + 2 * index] = (200, 60, 40)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            if stamps:
                frame.pts, frame.time_base = stamps[index], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if tone:
            wave = np.sin(np.arange(8000 * frames // 25) / 3).astype(np.float32)[None]
            frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 8000, 0, Fraction(1, 8000)
            container.mux(tone.encode(frame))
            container.mux(tone.encode(None))


class FakeFinder:
    """Finds one face of mean shape wherever the square is; counts its calls."""

    def __init__(self, noise=0.0):
        self.found, self.rng, self.noise = 0, np.random.default_rng(0), noise

    def _face(self, image):
        red = np.asarray(image, int)
        rows, columns = np.nonzero(red[..., 0] - red[..., 2] > 70)
        if len(rows) < 50:
            return None
        corner, side = np.array([columns.min(), rows.min()]), max(np.ptp(columns), 8)
        points = corner + (MEAN_FACE - 0.2) * side * 1.6 + self.rng.normal(0, self.noise, (68, 2))
        return Face((*corner.tolist(), *(corner + side).tolist()), 1.0, None, points, 0.0, 0.0)

    def find(self, image):
        self.found += 1
        face = self._face(image)
        return [face] if face else []

    def told(self, image, *, name):
        found = self.find(image)
        if not found:
            raise UserError(f"{name}: no face found")
        return found

    def follow(self, image, faces):
        found = [self._face(image) for _ in faces]
        return [face or Face((0.0, 0.0, 50.0, 50.0), 1.0, None, MEAN_FACE * 50, 0.0, 0.0) for face in found]


class FakeStylizer:
    """Draws every face blue."""

    size, faces, style = 32, "largest", SimpleNamespace(draws_pictures=False)

    def __init__(self, finder=None, pause=0.0):
        self.finder, self.pause = finder or FakeFinder(), pause

    def invert_frame(self, aligned, steady):
        time.sleep(self.pause)
        return InvertedFace(steady(torch.from_numpy(np.asarray(aligned.resize((4, 4)), np.float32)).reshape(1, 6, 8)))

    def outlines(self, crop, result):
        return crop.places(), crop.places() * 1.01

    def background(self, result, outline):
        return np.zeros((8, 8), np.float32)

    def known(self, crop, face):
        return face

    def restyle(self, face, *, look, landmarks=None):
        assert landmarks.shape == (68, 2)
        return torch.cat([torch.full((1, 2, 32, 32), -1.0), torch.full((1, 1, 32, 32), float(face.w_plus.mean() / 255))], 1)


def restyle(path, output, *, stylizer=None, look=None, progress=None, **settings):
    return stylize_video(path, stylizer or FakeStylizer(), output=output, look=look or Look(alpha=1.0), progress=progress,
                         settings=VideoSettings(**{"segment": 5, **settings}))


def decoded(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return [(float(frame.pts * stream.time_base), frame.to_ndarray(format="rgb24")) for frame in container.decode(stream)]


def sound_of(path):
    with av.open(str(path)) as container:
        return np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)


@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "libx264"), (".mkv", "mpeg4"), (".mov", "libx264")])
def test_rate_size_frames_and_sound_are_kept(tmp_path, suffix, codec):
    path, output = tmp_path / f"clip{suffix}", tmp_path / "out.mp4"
    make_clip(path, rate=Fraction(30000, 1001), codec=codec)
    counted = []
    report = restyle(path, output, progress=counted.append)
    before, after = decoded(path), decoded(output)
    assert report.frames == len(before) == len(after) == sum(counted) == 12 and report.faceless == 0
    assert np.allclose([t for t, _ in before], [t for t, _ in after], atol=2e-3)
    assert abs(clip_info(output).rate - Fraction(30000, 1001)) < Fraction(1, 10)
    assert after[0][1].shape == before[0][1].shape
    assert np.allclose(sound_of(path), sound_of(output), atol=1e-4)
    changed = np.abs(before[5][1].astype(int) - after[5][1].astype(int)).max(axis=2)
    assert changed[25:40, 25:45].mean() > 60 and changed[70:].mean() < 4
    assert not (tmp_path / "out.mp4.parts").exists() and not list(tmp_path.glob(".*.part"))


def test_uneven_time_stamps_are_kept(tmp_path):
    stamps = [0, 40, 47, 120, 200, 210, 300, 303, 390, 480]
    make_clip(tmp_path / "vfr.mkv", frames=10, stamps=stamps, sound=False)
    restyle(tmp_path / "vfr.mkv", tmp_path / "out.mp4", segment=4)
    assert np.allclose([t * 1000 for t, _ in decoded(tmp_path / "out.mp4")], stamps, atol=1.0)


def test_odd_sizes_and_moving_gifs(tmp_path):
    frames = [Image.fromarray(np.full((51, 77, 3), 20 * i, np.uint8)) for i in range(5)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=40)
    frames[0].save(tmp_path / "still.gif")
    assert is_clip(tmp_path / "a.gif") and not is_clip(tmp_path / "still.gif") and not is_clip(Path("a.png"))
    report = restyle(tmp_path / "a.gif", tmp_path / "out.mp4")
    after = decoded(tmp_path / "out.mp4")
    assert (report.frames, report.faceless, report.sound) == (5, 5, False) and math.isnan(report.jitter_ratio)
    assert after[0][1].shape == (51, 77, 3) and abs(after[3][1].mean() - 60) < 4


def test_face_alone(tmp_path):
    make_clip(tmp_path / "clip.mp4")
    restyle(tmp_path / "clip.mp4", tmp_path / "out.mp4", aligned=True)
    assert decoded(tmp_path / "out.mp4")[0][1].shape == (32, 32, 3)


def test_detector_runs_on_every_kth_frame(tmp_path):
    make_clip(tmp_path / "clip.mp4", frames=12, sound=False)
    stylizer = FakeStylizer()
    restyle(tmp_path / "clip.mp4", tmp_path / "out.mp4", stylizer=stylizer, every=4)
    assert stylizer.finder.found == 3


def test_cut_resets_the_filter():
    dark, light = Image.new("RGB", (64, 64), (90, 20, 5)), Image.new("RGB", (64, 64), (255, 255, 255))
    light.paste((200, 60, 40), (40, 40, 64, 64))
    dark.paste((200, 60, 40), (0, 0, 20, 20))
    tracker = FaceTracker(FakeFinder(), smooth=1.0)
    for _ in range(3):
        tracker.update(dark, seconds=0.04)
    tracks = tracker.update(light, seconds=0.04)
    assert tracker.cuts == 1 and np.allclose(tracks[0].landmarks, tracks[0].raw)


def test_smoothing_takes_noise_and_leaves_motion():
    rng = np.random.default_rng(0)
    still = rng.normal(0, 1.0, (200, 68, 2))
    quiet = OneEuro(0.5, scale=50.0)
    smoothed = np.stack([quiet(frame, seconds=0.04) for frame in still])
    assert smoothed[50:].std() < 0.5 * still[50:].std()
    ramp, moving = OneEuro(0.5, scale=50.0), []
    for index in range(100):
        moving.append(ramp(np.full((68, 2), 4.0 * index), seconds=0.04)[0, 0])
    # 100 px a second, two eye distances: the lag is less than a frame and a half.
    assert abs(moving[-1] - 4.0 * 99) < 6.0
    off = OneEuro(0.0)
    assert np.array_equal(off(still[0], seconds=0.04), still[0]) and np.array_equal(off(still[1], seconds=0.04), still[1])
    with pytest.raises(ValueError):
        OneEuro(1.5)


def test_jitter_measures_shaking_alone():
    even, shaking = Jitter(), Jitter()
    for index in range(20):
        even.add(MEAN_FACE * 100 + 3.0 * index, 30.0)
        shaking.add(MEAN_FACE * 100 + (-1.0) ** index * np.array([0.75, 0.0]), 30.0)
    assert even.mean < 1e-12 and abs(shaking.mean - 4 * 0.75 / 30.0) < 1e-9
    assert overlap((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3) and overlap((0, 0, 1, 1), (2, 2, 3, 3)) == 0


@pytest.fixture()
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_frames_drawn_beside_each_other_are_those_drawn_in_turn(threads):
    """With threads the drawer is frames ahead, calls on other threads, and gives the same pictures and state."""
    canvas = np.full((9, 80, 96, 3), 90, np.uint8)
    for index, pixels in enumerate(canvas):
        pixels[20:50, 10 + 2 * index:40 + 2 * index] = (200, 60, 40)
    frames = [(ClipFrame(i, i, Image.fromarray(pixels)), i / 25) for i, pixels in enumerate(canvas)]
    results, states, asked = [], [], []
    for count in (1, 2, 8):
        seen, stylizer = [], FakeStylizer(pause=0.002)
        begun = stylizer.restyle

        def restyle(face, begun=begun, seen=seen, **given):
            seen.append(threading.get_ident())
            return begun(face, **given)

        stylizer.restyle = restyle
        drawer = ClipDrawer(stylizer, Look(alpha=1.0), VideoSettings())
        threads(count)
        taken = []
        given = (taken.append(i) or frame for i, frame in enumerate(frames))
        pictures = drawer.pictures(given)
        first = next(pictures)
        asked.append(len(taken))
        results.append([np.asarray(one.image) for one in (first, *pictures)])
        assert torch.get_num_threads() == count
        states.append(json.dumps(drawer.state(), default=lambda value: np.asarray(value).tolist()))
        assert len(set(seen)) == 1 and (seen[0] == threading.get_ident()) == (count == 1)
    assert len(set(states)) == 1 and asked == [1 + AHEAD] * 3
    for result in results[1:]:
        assert len(result) == 9 and all((one == other).all() for one, other in zip(result, results[0], strict=True))


@pytest.mark.parametrize(("name", "content", "words"), [
    ("no.mp4", None, "not found"), ("text.mp4", b"hello", "no video that can be read"),
    ("empty.mov", b"", "no video that can be read"), ("html.webm", b"<!DOCTYPE html><html>", "no video that can be read"),
    ("sound.mp4", "sound", "has no video")])
def test_bad_clips_are_one_line(tmp_path, monkeypatch, capsys, name, content, words):
    path = tmp_path / name
    if content == "sound":
        with av.open(str(path), "w") as container:
            tone = container.add_stream("aac", rate=8000, layout="mono")
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 4000), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 8000
            container.mux(tone.encode(frame))
            container.mux(tone.encode(None))
    elif content is not None:
        path.write_bytes(content)
    monkeypatch.chdir(tmp_path)
    assert inference.main(["--input_image", name]) == 2
    printed = capsys.readouterr().err
    assert words in printed and name in printed and printed.count("\n") == 1


def test_truncated_clip_gives_what_decodes(tmp_path):
    path = tmp_path / "clip.mkv"
    make_clip(path, frames=40, size=(320, 240), sound=False)
    data = path.read_bytes()
    path.write_bytes(data[:len(data) * 2 // 3])
    report = restyle(path, tmp_path / "out.mp4")
    assert 3 < report.frames < 40 and len(decoded(tmp_path / "out.mp4")) == report.frames


def test_read_from_the_middle(tmp_path):
    make_clip(tmp_path / "clip.mp4", frames=9)
    all_frames, rest = list(read_frames(tmp_path / "clip.mp4")), list(read_frames(tmp_path / "clip.mp4", start=6))
    assert [f.number for f in rest] == [6, 7, 8] and [f.pts for f in rest] == [f.pts for f in all_frames[6:]]


def test_script_restyles_a_clip(tmp_path):
    """End to end with the starter, in a process of its own."""
    from checkpoints.builders import load_base
    from models.deformable import DeformableGenerator
    from styles.deformable import save_style

    base = load_base("starter")
    save_style(tmp_path / "toy.safetensors", DeformableGenerator.for_generator(base.generator), w_avg=base.w_avg,
               base={"name": "starter", "fingerprint": base.fingerprint}, training={})
    make_clip(tmp_path / "clip.mp4", frames=6, size=(320, 320), face=True)
    done = subprocess.run(
        [sys.executable, "inference.py", "--style", "toy", "--input_image", str(tmp_path / "clip.mp4"), "--output",
         str(tmp_path / "out"), "--alpha", "eyes=1.2,mouth=0.5"], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "CHECKPOINTS_DIR": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert "6 frames, 0 without a face" in done.stderr and (tmp_path / "out" / "toy_clip.mp4").is_file()
    assert len(decoded(tmp_path / "out" / "toy_clip.mp4")) == 6 and sound_of(tmp_path / "out" / "toy_clip.mp4").size > 0
