"""Damaged and hostile photos, clips and checkpoints: readers understand them or say one clear line, in bounded memory.

FUZZ_EXAMPLES sets the number of files per reader (250 by default, so 500 in all); NIGHTLY=1 makes it 5,000.
"""

from __future__ import annotations

import functools
import io
import itertools
import json
import os
import pickle
import struct
import zipfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from icc_profiles import P3, WIDE
from PIL import Image

from checkpoints import CheckpointError, load_model, read_torch, save_model
from data.images import FORMATS, ImageError, read_photo
from models.deformable import DeformableGenerator
from models.stylegan2 import Generator, GeneratorConfig
from pipeline.cli import UserError
from pipeline.video_io import clip_info, read_frames
from styles.deformable import save_style
from styles.registry import load_style

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "5000" if os.environ.get("NIGHTLY") else "250"))
CONFIG = GeneratorConfig(size=64, style_dim=8, n_mlp=1, channels={4: 4, 8: 4, 16: 4, 32: 4, 64: 4})
MARKER = Path("/tmp") / f"fuzz_ran_code_{os.getpid()}"
FUZZ = settings(max_examples=EXAMPLES, deadline=None, derandomize=not os.environ.get("NIGHTLY"), database=None,
                suppress_health_check=list(HealthCheck))


class Code:
    """A pickle of this creates a file when it is loaded."""

    def __reduce__(self):
        return os.system, (f"touch {MARKER}",)


@functools.cache
def image_seeds() -> list[bytes]:
    """Return small valid files of every format and of the unusual modes."""
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 255, (24, 20, 3), dtype=np.uint8))
    deep = Image.fromarray(rng.integers(0, 65535, (9, 12), dtype=np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    jobs = [(rgb, "PNG", {}), (rgb, "JPEG", {"exif": exif}), (rgb, "WEBP", {}), (rgb, "BMP", {}), (rgb, "TIFF", {}),
            (rgb, "GIF", {}), (rgb, "PPM", {}), (rgb.convert("CMYK"), "JPEG", {}), (rgb.convert("P"), "PNG", {}),
            (rgb.convert("RGBA"), "PNG", {}), (deep, "PNG", {}), (deep, "TIFF", {}), (rgb.convert("1"), "TIFF", {}),
            (rgb, "TIFF", {"compression": "tiff_lzw"}), (rgb, "JPEG", {"progressive": True}),
            (rgb.convert("LA"), "PNG", {}), (rgb.convert("F"), "TIFF", {}), (rgb, "PNG", {"icc_profile": P3}),
            (rgb, "JPEG", {"icc_profile": WIDE}), (rgb.convert("RGBA"), "WEBP", {"lossless": True})]
    jobs += [(rgb, kind, {}) for kind in ("AVIF", "HEIF") if kind in FORMATS]
    blobs = []
    for picture, kind, options in jobs:
        buffer = io.BytesIO()
        picture.save(buffer, kind, **options)
        blobs.append(buffer.getvalue())
    # Postscript, a web page and a PNG header that promises terabytes.
    header = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + struct.pack(">IIBBBBB", 2**30, 2**30, 8, 2, 0, 0, 0)
    return [*blobs, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", b"<!DOCTYPE html><html>", header]


@pytest.fixture(scope="module")
def checkpoint_seeds(tmp_path_factory) -> list[bytes]:
    """Small valid files: a style, a model, a torch archive, a legacy archive; and two that want to run code."""
    folder = tmp_path_factory.mktemp("seeds")
    deformable = DeformableGenerator.for_generator(Generator(CONFIG), grid_size=3)
    save_style(folder / "style.safetensors", deformable, w_avg=torch.zeros(8), base={"name": "toy", "fingerprint": "0"},
               training={"steps": 1})
    save_model(folder / "model.safetensors", {"a": torch.ones(3, 2)}, {"kind": "generator"})
    torch.save(deformable.published_state(), folder / "style.pt")
    torch.save({"g": {"a": torch.ones(4)}}, folder / "zip.pt")
    torch.save({"g": {"a": torch.ones(4)}}, folder / "old.pt", _use_new_zipfile_serialization=False)
    (folder / "code.pt").write_bytes(pickle.dumps({"g": Code()}))
    torch.save({"g": Code()}, folder / "code_zip.pt")
    torch.save({"g": Code()}, folder / "code_old.pt", _use_new_zipfile_serialization=False)
    return [path.read_bytes() for path in sorted(folder.iterdir())] + [
        struct.pack("<Q", 2**62) + b"{}", b"<html><title>404</title></html>", b"version https://git-lfs.github.com/spec/v1\n"]


CHANGES = st.lists(
    st.tuples(st.sampled_from(["flip", "cut", "insert", "repeat", "zero", "number"]), st.floats(0, 1), st.integers(0, 2**32 - 1)),
    min_size=0, max_size=6)


def damaged(blob: bytes, changes: list[tuple[str, float, int]]) -> bytes:
    """Apply a list of (kind, place as a fraction, number) to a file; half of the places are drawn to the header."""
    data = bytearray(blob)
    for kind, place, number in changes:
        reach = min(len(data), 64) if number % 2 else len(data)
        at = min(int(place * reach), max(len(data) - 1, 0))
        if kind == "flip" and data:
            data[at] ^= 1 + number % 255
        elif kind == "cut":
            del data[at:]
        elif kind == "insert":
            data[at:at] = number.to_bytes(4, "big") * (1 + number % 7)
        elif kind == "repeat":
            data[at:at] = data[at:at + 1 + number % 64]
        elif kind == "zero":
            data[at:at + 1 + number % 16] = bytes(1 + number % 16)
        elif kind == "number":
            data[at:at + 4] = number.to_bytes(4, "little")
    return bytes(data)


def reset_peak() -> int:
    """Start counting the peak of resident memory anew and return the present value in MB."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")


def memory(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) // 1024
    raise AssertionError(f"no {name}")


@pytest.fixture()
def bounded():
    """Fail when the test's memory grows by more than 1.5 GB: a photo of 100 megapixels may take three copies."""
    if not os.access("/proc/self/clear_refs", os.W_OK):
        yield
        return
    before = reset_peak()
    yield
    assert memory("VmHWM") - before < 1500


def says_one_line(error: Exception, path: Path) -> None:
    text = str(error)
    assert "\n" not in text and str(path) in text and "Traceback" not in text and len(text) < 1200


@FUZZ
@given(index=st.integers(0, len(image_seeds()) - 1), changes=CHANGES)
def test_image_reader(bounded, tmp_path_factory, index, changes):
    path = tmp_path_factory.getbasetemp() / "fuzzed.png"
    path.write_bytes(damaged(image_seeds()[index], changes))
    try:
        image, origin = read_photo(path)
        if image.width * image.height < 10_000:
            assert origin.restored(image).size == image.size
    except ImageError as error:
        says_one_line(error, path)
    else:
        assert image.mode == "RGB" and min(image.size) > 0 and image.width * image.height <= 100_000_000


@functools.cache
def clip_seeds() -> list[tuple[str, bytes]]:
    """Return small valid clips: MP4, a transport stream, HDR in 10 bit, pixels of 4:3, an animated GIF."""
    rng = np.random.default_rng(0)
    blobs = []
    for suffix, codec, kind, transfer, aspect in (
            ("mp4", "libx264", "yuv420p", 1, None), ("ts", "libx264", "yuv420p", 1, None),
            ("mkv", "libx265", "yuv420p10le", 18, None), ("avi", "mpeg4", "yuv420p", 1, Fraction(4, 3)),
            ("gif", "gif", "rgb8", 1, None)):
        buffer = io.BytesIO()
        with av.open(buffer, "w", format={"ts": "mpegts", "mkv": "matroska"}.get(suffix, suffix)) as container:
            stream = container.add_stream(codec, rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 48, kind
            stream.codec_context.color_trc = transfer
            if codec == "libx265":
                stream.options = {"x265-params": "log-level=none"}
            if aspect:
                stream.codec_context.sample_aspect_ratio = aspect
            for index in range(3):
                frame = av.VideoFrame.from_ndarray(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8), format="rgb24")
                frame.pts, frame.time_base = index, Fraction(1, 10)
                container.mux(stream.encode(frame.reformat(format=kind)))
            container.mux(stream.encode(None))
        blobs.append((suffix, buffer.getvalue()))
    return blobs


@settings(FUZZ, max_examples=max(20, EXAMPLES // 5))
@given(index=st.integers(0, 4), changes=CHANGES)
def test_clip_reader(bounded, tmp_path_factory, index, changes):
    """Every damaged clip is read as far as it goes, upright in 8 bit of one size, or refused in one line."""
    suffix, blob = clip_seeds()[index]
    path = tmp_path_factory.getbasetemp() / f"fuzzed_clip.{suffix}"
    path.write_bytes(damaged(blob, changes))
    try:
        info = clip_info(path)
        last = -1
        for frame in itertools.islice(read_frames(path), 20):
            assert frame.image.mode == "RGB" and frame.image.size == (info.width, info.height) and frame.pts > last
            last = frame.pts
    except UserError as error:
        says_one_line(error, path)


@FUZZ
@given(index=st.integers(0, 20), suffix=st.sampled_from([".pt", ".safetensors"]), changes=CHANGES)
def test_checkpoint_readers(bounded, checkpoint_seeds, tmp_path_factory, index, suffix, changes):
    path = tmp_path_factory.getbasetemp() / f"fuzzed{suffix}"
    path.write_bytes(damaged(checkpoint_seeds[index % len(checkpoint_seeds)], changes))
    for reader in (load_model, load_style) if suffix == ".safetensors" else (read_torch, load_style):
        try:
            reader(path)
        except CheckpointError as error:
            says_one_line(error, path)
    assert not MARKER.exists(), "a checkpoint ran code"


def test_the_code_in_the_seeds_would_run(tmp_path):
    """Without a refusing reader the seeds do run code, so the assertion above can fail."""
    try:
        pickle.loads(pickle.dumps(Code()))
        assert MARKER.exists()
    finally:
        MARKER.unlink(missing_ok=True)


@pytest.mark.parametrize("name", ["code.pt", "renamed.safetensors"])
def test_pickle_with_code_is_refused(tmp_path, name):
    path = tmp_path / name
    torch.save({"g": Code(), "stns": {}, "rtstn": {}}, path)
    with pytest.raises(CheckpointError) as error:
        load_style(path)
    says_one_line(error.value, path)
    assert not MARKER.exists()


def test_archive_that_expands_is_refused(tmp_path):
    """A torch archive whose storage record inflates a thousandfold does not fill the memory."""
    good = tmp_path / "good.pt"
    torch.save({"g": {"a": torch.zeros(4)}}, good)
    bomb = tmp_path / "bomb.pt"
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as target:
        for item in source.namelist():
            data = source.read(item)
            target.writestr(item, bytes(400_000_000) if item.endswith("/data/0") else data)
    before = reset_peak()
    with pytest.raises(CheckpointError):
        load_style(bomb)
    assert memory("VmHWM") - before < 900


def test_seeds_are_read_when_intact(tmp_path, checkpoint_seeds):
    """The unchanged files are good ones, so that the fuzzing starts from what readers accept."""
    good = 0
    for number, blob in enumerate(image_seeds()):
        path = tmp_path / f"{number}.png"
        path.write_bytes(blob)
        try:
            read_photo(path)
            good += 1
        except ImageError:
            pass
    assert good == len(image_seeds()) - 3
    path = tmp_path / "style.safetensors"
    path.write_bytes(next(blob for blob in checkpoint_seeds if json.dumps("transformers")[1:5].encode() in blob[:4000]))
    assert load_style(path).deformable.config.grid_size == 3
