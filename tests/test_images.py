"""The image reader takes what cameras and artists make and refuses the rest in one line."""

from __future__ import annotations

import io
import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from data.animation import save_animation
from data.grids import grid
from data.images import ImageError, list_images, read_image, save_image, to_pil, to_tensor


@pytest.fixture
def picture():
    values = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.mark.parametrize(("mode", "suffix"), [
    ("CMYK", "jpg"), ("CMYK", "tif"), ("L", "png"), ("RGBA", "png"), ("LA", "png"), ("P", "png"), ("1", "png"),
    ("RGB", "webp"), ("RGB", "bmp"), ("YCbCr", "jpg"),
])
def test_every_mode_becomes_rgb(tmp_path, picture, mode, suffix):
    path = tmp_path / f"x.{suffix}"
    picture.convert(mode).save(path)
    image = read_image(path)
    assert image.mode == "RGB" and image.size == (60, 40)


def test_sixteen_bit_greys_keep_their_brightness(tmp_path):
    values = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    image = np.asarray(read_image(tmp_path / "deep.png")).astype(float)
    assert abs(image[..., 0] - values / 257.0).max() <= 1.0


def test_transparency_lies_on_white(tmp_path):
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "x.png")
    assert read_image(tmp_path / "x.png").getpixel((3, 3)) == (255, 255, 255)


def test_exif_rotation_is_applied(tmp_path, picture):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "x.jpg", exif=exif)
    assert read_image(tmp_path / "x.jpg").size == (40, 60)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds one row."""
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 10)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("name", "content", "word"), [
    ("empty.png", b"", "empty"), ("text.png", b"hello there", "not an image"),
    ("huge.png", png_header(30_000, 30_000), "too large"), ("wide.png", png_header(21_000, 10), "too large"),
    ("short.png", png_header(50, 50), "damaged"),
])
def test_bad_files_are_one_clear_line(tmp_path, name, content, word):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ImageError) as error:
        read_image(path)
    assert word in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)


def test_truncated_jpeg_is_damaged(tmp_path, picture):
    buffer = io.BytesIO()
    picture.resize((300, 300)).save(buffer, "JPEG")
    (tmp_path / "x.jpg").write_bytes(buffer.getvalue()[:2000])
    with pytest.raises(ImageError, match="damaged"):
        read_image(tmp_path / "x.jpg")


def test_missing_file_and_empty_folder(tmp_path):
    for call in (read_image, list_images):
        with pytest.raises(ImageError, match="not found"):
            call(tmp_path / "nothing.png")
    with pytest.raises(ImageError, match="no images"):
        list_images(tmp_path)


def test_listing_is_sorted_and_leaves_out_other_files(tmp_path, picture):
    for name in ("b.png", "a.JPG", ".hidden.png"):
        picture.save(tmp_path / name, "PNG")
    (tmp_path / "notes.txt").write_text("x")
    assert [path.name for path in list_images(tmp_path)] == ["a.JPG", "b.png"]


def test_tensor_round_trip_is_exact(picture):
    square = picture.resize((32, 32))
    tensor = to_tensor(square, 32)
    assert tensor.shape == (1, 3, 32, 32) and -1.0 <= tensor.min() and tensor.max() <= 1.0
    assert np.array_equal(np.asarray(to_pil(tensor)), np.asarray(square))
    with pytest.raises(ValueError, match="expected an image"):
        to_pil(torch.zeros(2, 3, 4, 4))


def test_saving_is_atomic_and_clear_about_unwritable_places(tmp_path, picture):
    save_image(tmp_path / "new" / "x.png", picture)
    assert os.listdir(tmp_path / "new") == ["x.png"]
    (tmp_path / "file").write_text("")
    with pytest.raises(ImageError, match="cannot be written"):
        save_image(tmp_path / "file" / "x.png", picture)


def test_grid_places_pictures_and_labels(picture):
    sheet = grid([[picture, torch.zeros(3, 8, 8)], [picture]], cell=50, row_labels=["a", "b"], column_labels=["c", "d"])
    assert sheet.width >= 2 * 50 and sheet.height >= 2 * 50
    with pytest.raises(ValueError, match="row labels"):
        grid([[picture]], cell=10, row_labels=["a", "b"])
    with pytest.raises(ValueError, match="at least one"):
        grid([], cell=10)


@pytest.mark.parametrize("suffix", ["gif", "mp4"])
def test_animation_has_every_frame(tmp_path, suffix):
    import av

    frames = [Image.new("RGB", (33, 32), (i * 20, 0, 90)) for i in range(6)]
    path = tmp_path / f"x.{suffix}"
    save_animation(path, frames, fps=10)
    with av.open(str(path)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 6
    assert os.listdir(tmp_path) == [path.name]


def test_names_that_no_file_can_have_are_not_found():
    for call in (read_image, list_images):
        for name in ("x" * 5000, "a\0b"):
            with pytest.raises(ImageError, match="not found|too long") as error:
                call(name)
            assert len(str(error.value)) < 300


def test_postscript_is_never_interpreted(tmp_path):
    (tmp_path / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n%%EndComments\nshowpage\n")
    with pytest.raises(ImageError, match="not an image"):
        read_image(tmp_path / "x.png")


def test_float_greys_with_holes_are_read_in_silence(tmp_path, recwarn):
    values = np.full((8, 8), 0.5, np.float32)
    values[0, 0] = np.nan
    Image.fromarray(values).save(tmp_path / "x.tif")
    image = read_image(tmp_path / "x.tif")
    assert image.getpixel((5, 5)) == (128, 128, 128) and image.getpixel((0, 0)) == (0, 0, 0) and not recwarn.list


def test_damaged_exif_is_left_aside_in_silence(tmp_path, picture, recwarn):
    picture.save(tmp_path / "x.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x05\0\0\xff\xff")
    assert read_image(tmp_path / "x.jpg").size == (60, 40) and not recwarn.list


def test_hidden_folders_are_left_out(tmp_path, picture):
    (tmp_path / ".cache").mkdir()
    picture.save(tmp_path / ".cache" / "b.png")
    picture.save(tmp_path / "a.png")
    assert [path.name for path in list_images(tmp_path, recursive=True)] == ["a.png"]


def test_transparent_picture_becomes_a_jpeg(tmp_path, picture):
    save_image(tmp_path / "x.jpg", picture.convert("RGBA"))
    assert Image.open(tmp_path / "x.jpg").mode == "RGB"


def test_stereo_jpegs_of_cameras_are_read(tmp_path, picture):
    picture.save(tmp_path / "x.jpg", "MPO", save_all=True, append_images=[picture])
    assert read_image(tmp_path / "x.jpg").size == (60, 40)
