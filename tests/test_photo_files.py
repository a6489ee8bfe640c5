"""Photo files: every format of phones, colours by profile and back, camera's data, transparency, folders without gaps."""

from __future__ import annotations

import csv
import io
import os

import numpy as np
import pytest
from icc_profiles import ADOBE, GREY, P3, WIDE
from PIL import ExifTags, Image, ImageCms

import face_align
from data import images
from data.images import ImageError, list_images, read_image, read_photo, save_image
from data.listing import is_clip, list_folder, natural_key
from pipeline.batch import Ledger, Report, folder_inputs

# Of linear light, what the three spaces make of it: seen colours within sRGB, as numbers of each.
SEEN = np.array([(200, 60, 50), (90, 160, 70), (60, 80, 190), (128, 128, 128), (230, 200, 170), (90, 60, 45)], np.uint8)


def encoded(profile):
    """Return the seen colours as numbers of a profile, computed from its matrix and gamma without a colour library."""
    columns = {P3: [(0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841)],
               ADOBE: [(0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446)],
               WIDE: [(0.7977, 0.2880, 0.0), (0.1352, 0.7119, 0.0), (0.0313, 0.0001, 0.8249)]}[profile]
    srgb = np.array([(0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)]).T  # D50 (IEC 61966-2-1)
    value = SEEN / 255.0
    light = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    own = np.clip(light @ srgb.T @ np.linalg.inv(np.array(columns).T).T, 0, 1)
    return np.round(own ** (1 / (1.8 if profile == WIDE else 2.2)) * 255).astype(np.uint8)


def patches(colours):
    return Image.fromarray(np.repeat(np.repeat(colours[None], 8, axis=0), 8, axis=1))


@pytest.mark.parametrize("profile", [P3, ADOBE, WIDE], ids=["P3", "Adobe RGB", "ProPhoto"])
def test_colours_are_seen_by_their_profile(tmp_path, profile):
    patches(encoded(profile)).save(tmp_path / "a.png", icc_profile=profile)
    seen = np.asarray(read_image(tmp_path / "a.png"), int)[4, 4::8]
    assert abs(seen - SEEN).max() <= 2


@pytest.mark.parametrize("profile", [P3, ADOBE, WIDE], ids=["P3", "Adobe RGB", "ProPhoto"])
def test_photos_go_back_in_their_own_colours(tmp_path, profile):
    """Pixels that were not drawn on stay to the bit, vivid ones too; drawn ones are seen as drawn."""
    own = np.random.default_rng(0).integers(0, 256, (80, 60, 3), dtype=np.uint8)
    Image.fromarray(own).save(tmp_path / "a.png", icc_profile=profile)
    image, origin = read_photo(tmp_path / "a.png")
    drawn = np.array(image)
    drawn[10:30] = (200, 120, 90)
    save_image(tmp_path / "b.png", Image.fromarray(drawn), origin=origin)
    result = Image.open(tmp_path / "b.png")
    assert result.info["icc_profile"] == profile
    assert np.array_equal(np.asarray(result)[30:], own[30:]) and np.array_equal(np.asarray(result)[:10], own[:10])
    assert abs(np.asarray(read_image(tmp_path / "b.png"), int)[10:30] - (200, 120, 90)).max() <= 2
    save_image(tmp_path / "b.jpg", Image.fromarray(drawn), origin=origin)
    assert Image.open(tmp_path / "b.jpg").info["icc_profile"] == profile


def test_srgb_profile_changes_nothing(tmp_path):
    own = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(own).save(tmp_path / "a.png", icc_profile=srgb)
    image, origin = read_photo(tmp_path / "a.png")
    assert np.array_equal(np.asarray(image), own) and origin.pixels is None and origin.profile == srgb


def test_profiles_of_greys_are_used_and_not_written(tmp_path):
    """Linear grey 55 of 255 is sRGB 128; a result in colour cannot have a grey's profile."""
    for mode in ("L", "LA"):
        Image.new("L", (8, 8), 55).convert(mode).save(tmp_path / "a.png", icc_profile=GREY)
        image, origin = read_photo(tmp_path / "a.png")
        assert abs(image.getpixel((4, 4))[0] - 128) <= 1 and origin.profile is None


@pytest.mark.parametrize("profile", [b"a profile", P3[:300], GREY])
def test_useless_profiles_are_told_of(tmp_path, profile):
    Image.new("RGB", (8, 8), (10, 20, 30)).save(tmp_path / "a.png", icc_profile=profile)
    image, origin = read_photo(tmp_path / "a.png")
    assert image.getpixel((4, 4)) == (10, 20, 30) and "profile" in origin.notes[0] and origin.profile is None


@pytest.mark.parametrize("profile", [None, P3], ids=["sRGB", "P3"])
def test_transparency_goes_through(tmp_path, profile):
    """Untouched pixels keep colour and transparency to the bit; drawn ones are seen as drawn where they lie on white."""
    rng = np.random.default_rng(0)
    own = np.concatenate([rng.integers(0, 256, (40, 40, 3)), rng.choice([0, 128, 255], (40, 40, 1))], axis=2).astype(np.uint8)
    Image.fromarray(own).save(tmp_path / "a.png", icc_profile=profile)
    image, origin = read_photo(tmp_path / "a.png")
    assert image.mode == "RGB" and (np.asarray(image)[own[..., 3] == 0] == 255).all()
    drawn = np.array(image)
    drawn[:20] = (220, 200, 190)
    save_image(tmp_path / "b.png", Image.fromarray(drawn), origin=origin)
    result = np.asarray(Image.open(tmp_path / "b.png"))
    assert np.array_equal(result[20:], own[20:]) and np.array_equal(result[..., 3], own[..., 3])
    seen = np.asarray(read_image(tmp_path / "b.png"), int)
    assert abs(seen[:20][own[:20, :, 3] > 0] - (220, 200, 190)).max() <= 2


@pytest.mark.parametrize(("kind", "output"), [("jpg", "jpg"), ("png", "png"), ("webp", "png"), ("tif", "png")])
def test_camera_data_goes_through_upright(tmp_path, kind, output):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation], exif[ExifTags.Base.DateTime] = 6, "2020:01:02 03:04:05"
    exif[ExifTags.Base.Make] = "Maker"
    exif[ExifTags.Base.DateTimeDigitized] = "2020:01:02 03:04:06"  # where some programs put it, beside the camera's part
    if kind != "tif":  # into which Pillow writes no such parts
        exif[ExifTags.IFD.Exif] = {ExifTags.Base.DateTimeOriginal: "2020:01:02 03:04:05", ExifTags.Base.ExifImageWidth: 60,
                                   ExifTags.Base.FNumber: 2.0}
        exif[ExifTags.IFD.GPSInfo] = {ExifTags.GPS.GPSLatitudeRef: "N"}
    options = {"dpi": (300, 300)} if kind != "webp" else {}
    if kind in ("jpg", "webp"):
        options["xmp"] = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a>title</a></x:xmpmeta>'
    Image.new("RGB", (60, 40)).save(tmp_path / f"a.{kind}", exif=exif, **options)
    image, origin = read_photo(tmp_path / f"a.{kind}")
    assert image.size == (40, 60)
    save_image(tmp_path / f"b.{output}", image, origin=origin)
    result = Image.open(tmp_path / f"b.{output}")
    found = result.getexif()
    assert found[ExifTags.Base.Orientation] == 1 and found[ExifTags.Base.DateTime] == "2020:01:02 03:04:05"
    assert found[ExifTags.Base.Make] == "Maker" and found[ExifTags.Base.DateTimeDigitized].endswith("06")
    inner = found.get_ifd(ExifTags.IFD.Exif)
    assert kind == "tif" or inner[ExifTags.Base.DateTimeOriginal].startswith("2020")
    assert ExifTags.Base.ExifImageWidth not in inner
    assert kind == "tif" or found.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] == "N"
    assert kind == "webp" or np.allclose(result.info["dpi"], 300, atol=0.1)
    if "xmp" in options:
        assert b"title" in (result.info.get("xmp") or b"")


@pytest.mark.parametrize(("suffix", "kind"), [("jfif", "JPEG"), ("avif", "AVIF"), ("heic", "HEIF"), ("heif", "HEIF"),
                                              ("pgm", "PPM")])
def test_formats_of_phones(tmp_path, suffix, kind):
    if kind == "HEIF":
        pytest.importorskip("pillow_heif", reason="the optional reader of HEIC is not installed")
    picture = Image.new("RGB", (64, 48), (200, 60, 40))
    (picture.convert("L") if kind == "PPM" else picture).save(tmp_path / f"a.{suffix}", kind)
    assert [path.name for path in list_images(tmp_path)] == [f"a.{suffix}"]
    image = read_image(tmp_path / f"a.{suffix}")
    assert image.size == (64, 48) and (kind == "PPM" or abs(np.subtract(image.getpixel((9, 9)), (200, 60, 40))).max() <= 6)


def test_a_missing_reader_is_named_with_its_remedy(tmp_path, monkeypatch):
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 100)
    (tmp_path / "a.avif").write_bytes(b"\0\0\0\x18ftypavif" + b"\0" * 100)
    monkeypatch.setattr(images, "FORMATS", ["PNG", "JPEG"])
    for name, word in (("a.heic", "pip install pillow-heif"), ("a.avif", "pillow")):
        with pytest.raises(ImageError, match=word):
            read_image(tmp_path / name)


@pytest.mark.parametrize("head", [b"\0\0\0\x18ftypisom", b"\x1aE\xdf\xa3", b"RIFF\0\0\0\0AVI LIST", b"G" + b"\0" * 187 + b"G"])
def test_a_video_is_called_a_video(tmp_path, head):
    (tmp_path / "a.jpg").write_bytes(head.ljust(400, b"\0"))
    with pytest.raises(ImageError, match="is a video"):
        read_image(tmp_path / "a.jpg")


def test_pictures_in_one_file_are_counted(tmp_path):
    pages = [Image.new("RGB", (16, 16), (tone, 0, 0)) for tone in (250, 10, 30)]
    for name in ("a.webp", "a.tif", "a.png"):
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
        image, origin = read_photo(tmp_path / name)
        assert "holds 3 pictures" in origin.notes[0] and image.getpixel((3, 3))[0] > 240


def test_natural_order(tmp_path):
    names = ["1.png", "2.png", "10.png", "a1.png", "A2.png", "a10.png", "b.png"]
    for name in names[::-1]:
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    assert [path.name for path in list_images(tmp_path)] == names
    assert sorted(["x/10/a", "x/9/b", "x/9/a"], key=natural_key) == ["x/9/a", "x/9/b", "x/10/a"]
    assert sorted(["²", "01", "1", "" + "9" * 200], key=natural_key) == ["01", "1", "9" * 200, "²"]


@pytest.fixture
def mixed(tmp_path):
    """A folder of everything that people have in folders."""
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    picture = Image.new("RGB", (16, 16))
    picture.save(folder / "a.png")
    picture.save(folder / "a.gif")
    picture.save(folder / "moving.gif", save_all=True, append_images=[Image.new("RGB", (16, 16), (9, 9, 200))])
    picture.save(folder / "sub" / "b.png")
    for name in ("clip.MOV", "empty.jpg", "notes.txt", ".hidden.png", "no suffix"):
        (folder / name).write_bytes(b"")
    (folder / "gone.png").symlink_to(folder / "nothing.png")
    (folder / "link.png").symlink_to(folder / "a.png")
    (folder / "circle").symlink_to(folder)
    os.mkfifo(folder / "pipe.png")
    (folder / os.fsdecode(b"\xff.png")).write_bytes((folder / "a.png").read_bytes())
    return folder


@pytest.mark.parametrize("recursive", [False, True])
def test_nothing_of_a_folder_is_missing_in_the_report(mixed, tmp_path, recursive):
    """Every entry is a photo, a clip, or passed over with a reason that is in the report."""
    found = folder_inputs(mixed, recursive=recursive, output=tmp_path / "out")
    everything = {path for path in (mixed.rglob("*") if recursive else mixed.iterdir())
                  if not (recursive and path.name == "sub")}
    drawn = {*map(str, (one.path for one in [*found.photos, *found.clips]))}
    assert {*drawn, *(str(path) for path, _ in found.others)} == set(map(str, everything))
    assert {os.path.basename(one.path) for one in found.clips} == {"clip.MOV", "moving.gif"}
    reasons = {path.name: reason for path, reason in found.others}
    assert reasons["gone.png"] == "a link to nothing" and reasons["circle"] == "a link to a folder"
    assert reasons["pipe.png"] == "no regular file" and reasons[".hidden.png"] == "hidden"
    with Report(Ledger(tmp_path / "out", "x")) as report:
        report.pass_over(found.others)
    with open(tmp_path / "out" / "report.csv", newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    assert {row["file"] for row in rows} == {str(path) for path, _ in found.others}
    assert all(row["status"] == "passed over" and row["error"] for row in rows)


def test_a_still_gif_is_a_photo(mixed):
    assert is_clip(mixed / "moving.gif") and not is_clip(mixed / "a.gif") and not is_clip(mixed / "notes.txt")


def test_output_inside_the_folder_is_left_out(mixed):
    (mixed / "sub" / "out").mkdir()
    Image.new("RGB", (8, 8)).save(mixed / "sub" / "out" / "c.png")
    listing = list_folder(mixed, recursive=True, without=mixed / "sub" / "out")
    assert not any("out" in str(path.relative_to(mixed)) for path in [*listing.images, *(p for p, _ in listing.others)])


def test_align_reports_names_of_any_kind(mixed, tmp_path, capsys, monkeypatch):
    """The table is UTF-8 whatever the system's encoding is, and a broken name is written as it is."""
    (mixed / "写真é.png").write_bytes((mixed / "a.png").read_bytes())
    code = face_align.main(["--path", str(mixed), "--output", str(tmp_path / "out"), "--size", "64"])
    with open(tmp_path / "out" / "report.csv", newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = {os.path.basename(row["file"]): row["reason"] for row in csv.DictReader(file)}
    assert code == 2 and "写真é.png" in rows and os.fsdecode(b"\xff.png") in rows and "notes.txt" in rows


def test_terminals_that_lack_letters_get_them_spelled(monkeypatch):
    from pipeline import cli

    stream = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr("sys.stdout", stream)
    assert cli.run(lambda args: print("写真") or 0, lambda: None) == 0
    stream.flush()
    assert stream.buffer.getvalue() == b"\\u5199\\u771f\n"
