"""Clips keep colours, shape and time: every matrix and range, HDR, pixels that are not square, containers, the last frame."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image
from test_video import FakeStylizer, decoded, make_clip, restyle

from pipeline import video_io
from pipeline.video_colour import HLG, PQ, SDR, Colours, coded_frame, toned_down

BARS = [(254, 254, 254), (254, 254, 0), (0, 254, 254), (0, 254, 0), (254, 0, 254), (254, 0, 0), (0, 0, 254), (90, 130, 60)]


class NoFace:
    def find(self, image):
        return []


class Blind(FakeStylizer):
    """Finds no face, so that nothing but the way through is seen."""

    def __init__(self):
        super().__init__(NoFace())


def bars(width, height):
    row = np.repeat(np.array(BARS, np.uint8), width // len(BARS), axis=0)
    return np.broadcast_to(row, (height, *row.shape)).copy()


def write(path, frames, *, colours=SDR, sar=None, kind="yuv420p", codec="libx264", options=None):
    """Encode yuv frames or RGB arrays with the colours' tags, nearly without loss."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options=options or ({"crf": "1"} if codec == "libx264" else {}))
        first = frames[0]
        stream.height, stream.width = first.shape[:2] if isinstance(first, np.ndarray) else (first.height, first.width)
        stream.pix_fmt = kind
        context = stream.codec_context
        context.colorspace, context.color_range = colours.matrix, colours.range
        context.color_primaries, context.color_trc = colours.primaries, colours.transfer
        if sar:
            context.sample_aspect_ratio = sar
        for index, frame in enumerate(frames):
            made = coded_frame(Image.fromarray(frame), colours, kind) if isinstance(frame, np.ndarray) else frame
            made.pts, made.time_base = index, Fraction(1, 10)
            container.mux(stream.encode(made))
        container.mux(stream.encode(None))


def tags(path):
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        return context.colorspace, context.color_primaries, context.color_trc, max(1, context.color_range)


def shown(path, colours=SDR):
    """The first frame [H, W, 3] as a player shows it: computed from its planes of 8 bit, chroma doubled."""
    red, blue = {1: (0.2126, 0.0722), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}[colours.coding]
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        luma, *chroma = (np.frombuffer(p, np.uint8).reshape(p.height, p.line_size)[:, :p.width].astype(float)
                         for p in frame.planes)
    cb, cr = (plane.repeat(2, axis=0).repeat(2, axis=1) - 128 for plane in chroma)
    if colours.range != 2:
        luma, cb, cr = (luma - 16) * 255 / 219, cb * 255 / 224, cr * 255 / 224
    r, b = luma + 2 * (1 - red) * cr, luma + 2 * (1 - blue) * cb
    return np.stack([r, (luma - red * r - blue * b) / (1 - red - blue), b], axis=2).round().clip(0, 255)


def inner(picture, colours):
    """The inside of each bar of a picture, [bars, rows, columns, 3]."""
    step = picture.shape[1] // len(colours)
    return np.stack([picture[20:-20, step * place + 8:step * (place + 1) - 8] for place in range(len(colours))])


def planes(path):
    with av.open(str(path)) as container:
        return [np.concatenate([np.frombuffer(p, np.uint8).reshape(p.height, p.line_size)[:, :p.width].ravel()
                                for p in frame.planes]).astype(int) for frame in container.decode(video=0)]


@pytest.mark.parametrize(("colours", "size"), [
    (SDR, (320, 96)), (Colours(6, 6, 6, 1, 6), (320, 96)), (Colours(1, 1, 1, 2), (320, 96)), (Colours(6, 6, 6, 2, 6), (320, 96)),
    (Colours(9, 9, 14, 1, 9), (320, 96)), (Colours(2, 2, 2, 0, 1), (1280, 64)), (Colours(2, 2, 2, 0, 6), (320, 96)),
], ids=["709", "601", "709 full", "601 full", "2020", "untagged HD", "untagged SD"])
def test_untouched_planes_and_tags_stay(tmp_path, colours, size):
    """The planes of the whole frame, at the borders of bars too, differ by what two rounds of coding cost."""
    write(tmp_path / "a.mp4", [bars(*size)] * 3, colours=colours)
    restyle(tmp_path / "a.mp4", tmp_path / "b.mp4", stylizer=Blind())
    assert tags(tmp_path / "a.mp4") == tags(tmp_path / "b.mp4")
    for before, after in zip(planes(tmp_path / "a.mp4"), planes(tmp_path / "b.mp4"), strict=True):
        assert abs(after - before).max() <= 4 and abs(after - before).mean() < 0.5
    # What is found and drawn has the colours that a player shows, and so has the result.
    read = np.asarray(next(video_io.read_frames(tmp_path / "a.mp4")).image, int)
    for seen in (read, shown(tmp_path / "b.mp4", colours)):
        assert abs(inner(seen, BARS) - np.array(BARS)[:, None, None]).max() <= 2


@pytest.mark.parametrize("colours", [SDR, Colours(6, 6, 6, 1, 6), Colours(1, 1, 1, 2)], ids=["709", "601", "full"])
def test_drawn_colours_are_what_was_drawn(tmp_path, colours):
    """A changed picture is coded with the clip's own matrix and range; unchanged blocks keep their planes to the bit."""
    write(tmp_path / "a.mp4", [np.full((96, 160, 3), 90, np.uint8)], colours=colours)
    frame = next(video_io.read_frames(tmp_path / "a.mp4"))
    pixels = np.array(frame.image)
    pixels[32:64, 40:80] = (10, 200, 120)
    made = coded_frame(Image.fromarray(pixels), colours, "yuv420p", frame.coded)
    inside = np.zeros((96, 160), bool)
    inside[32:64, 40:80] = True
    luma = np.frombuffer(made.planes[0], np.uint8).reshape(96, -1)[:, :160]
    assert np.array_equal(luma[~inside], frame.coded.planes[0][~inside])
    video_io.write_segment(tmp_path / "b.nut", [video_io.ClipFrame(0, 0, Image.fromarray(pixels), 1, frame.coded)],
                           video_io.ClipInfo(160, 96, Fraction(10), Fraction(1, 10), 1, False, colours), quality=1)
    drawn = np.asarray(next(video_io.read_frames(tmp_path / "b.nut")).image, int)
    assert abs(drawn[36:60, 44:76] - (10, 200, 120)).max() <= 2 and abs(drawn[:28] - 90).max() <= 2


def hdr_frame(code, size=(64, 64)):
    """A frame of yuv420p10le with one luma level in 0..1 of the nominal range and no colour."""
    luma = np.full(size, round(64 + 876 * code), np.uint16)
    array = np.concatenate([luma, np.full((size[0] // 2, size[1]), 512, np.uint16)])
    return av.VideoFrame.from_ndarray(array, format="yuv420p10le")


@pytest.mark.parametrize(("transfer", "white", "name"), [(HLG, 0.75, "HLG"), (PQ, 0.5807, "PQ")])
def test_hdr_becomes_sdr_with_a_word(tmp_path, transfer, white, name):
    """White of HDR graphics, 203 cd/m^2 (BT.2408), is SDR's white; black stays black; what is brighter stays white."""
    path, output = tmp_path / "a.mkv", tmp_path / "b.mp4"
    write(path, [hdr_frame(code) for code in (white, 0.0, 1.0)], colours=Colours(9, 9, transfer, 1, 9), kind="yuv420p10le",
          codec="libx265", options={"crf": "1", "x265-params": "log-level=none"})
    report = restyle(path, output, stylizer=Blind())
    levels = [frame.mean() for _, frame in decoded(output)]
    assert abs(levels[0] - 255) <= 2 and levels[1] <= 2 and abs(levels[2] - 255) <= 2
    assert name in report.notes[0] and "SDR" in str(report) and tags(output) == (1, 1, 1, 1)


def pq(light):
    """PQ's signal of light in cd/m^2 (BT.2100)."""
    power = (light / 10000.0) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * power) / (1.0 + 18.6875 * power)) ** 78.84375


def hdr_bars(colours, size, transfer):
    """SDR colours as a frame of HDR, by BT.1886, BT.2087, white at 203 cd/m^2 (BT.2408) and the inverse of HLG's display."""
    wide, luma = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]]), [0.2627, 0.678, 0.0593]
    light = (np.array(colours) / 255) ** 2.4 @ wide.T
    scene = 0.203 * light * np.maximum(0.203 * light @ luma, 1e-9)[:, None] ** (1 / 1.2 - 1)
    bright = 0.17883277 * np.log(np.maximum(12 * scene, 1) - 0.28466892) + 0.55991073
    signal = pq(203.0 * light) if transfer == PQ else np.where(scene <= 1 / 12, np.sqrt(3 * scene), bright)
    y = signal @ luma
    coded = 64 + 876 * y, 512 + 896 * (signal[:, 2] - y) / 1.8814, 512 + 896 * (signal[:, 0] - y) / 1.4746
    rows = [np.tile(np.repeat(np.round(value), size[0] // len(colours) // half), (size[1] // half, 1)).reshape(-1, size[0])
            for value, half in zip(coded, (1, 2, 2), strict=True)]
    return av.VideoFrame.from_ndarray(np.concatenate(rows).astype(np.uint16), format="yuv420p10le")


MIXED = [(200, 60, 50), (90, 160, 70), (60, 80, 190), (128, 128, 128), (230, 200, 170), (90, 60, 45), (190, 190, 60), (0, 0, 0)]


@pytest.mark.parametrize("transfer", [HLG, PQ], ids=["HLG", "PQ"])
@pytest.mark.parametrize("colours", [MIXED, BARS, [tuple(3 * v // 4 for v in bar) for bar in BARS]], ids=["mixed", "full", "75"])
def test_colours_of_hdr_are_those_that_were_meant(tmp_path, transfer, colours):
    """Bars of full colours too, though one code of 10 bit in red is 8 of 255 in its green: what may be none is none."""
    write(tmp_path / "a.mkv", [hdr_bars(colours, (320, 96), transfer)] * 2, colours=Colours(9, 9, transfer, 1, 9),
          kind="yuv420p10le", codec="ffv1")
    restyle(tmp_path / "a.mkv", tmp_path / "b.mp4", stylizer=Blind())
    assert abs(inner(shown(tmp_path / "b.mp4"), colours) - np.array(colours)[:, None, None]).max() <= 2


def test_hdr_tones_have_the_right_values():
    """Half of white's light is SDR's level .5 ** (1 / 2.4) by BT.1886; pure BT.709 red comes back as pure red."""
    grey = np.full((1, 1, 3), round(pq(101.5) * 65280), np.uint16)
    assert abs(int(toned_down(grey, PQ)[0, 0, 0]) - 255 * 0.5 ** (1 / 2.4)) <= 1
    red = np.array([0.6274, 0.0691, 0.0164]) * 203.0  # in BT.2020 (BT.2087)
    seen = toned_down(np.array([[[round(pq(v) * 65280) for v in red]]], np.uint16), PQ)[0, 0]
    assert seen[0] >= 254 and seen[1:].max() <= 2
    # What its codes tell stays: 30 of 255 in red's green.
    light = red + (30 / 255) ** 2.4 * np.array([0.3293, 0.9195, 0.0880]) * 203.0
    seen = toned_down((pq(light) * 65280).round().astype(np.uint16)[None, None], PQ)[0, 0]
    assert abs(seen.astype(int) - (255, 30, 0)).max() <= 2


def circle(size):
    y, x = np.mgrid[:size[1], :size[0]]
    return x, y


@pytest.mark.parametrize(("sar", "stored", "shown"), [
    (Fraction(4, 3), (144, 144), (192, 144)), (Fraction(1, 2), (96, 48), (96, 96)), (Fraction(16, 11), (352, 288), (512, 288))])
def test_pixels_become_square(tmp_path, sar, stored, shown):
    """A disc is round for the finder and in the result, whose pixels are square."""
    x, y = circle(stored)
    aspect = float(sar)
    disc = ((x + 0.5 - stored[0] / 2) * aspect) ** 2 + (y + 0.5 - stored[1] / 2) ** 2 < (0.3 * stored[1]) ** 2
    write(tmp_path / "a.mkv", [np.where(disc[..., None], 200, 30).astype(np.uint8).repeat(3, 2)] * 2, sar=sar)
    report = restyle(tmp_path / "a.mkv", tmp_path / "b.mp4", stylizer=Blind())
    frame = decoded(tmp_path / "b.mp4")[0][1]
    assert frame.shape[:2] == shown[::-1] and "square" in report.notes[0]
    with av.open(str(tmp_path / "b.mp4")) as container:
        assert container.streams.video[0].sample_aspect_ratio in (None, 1)
    rows, columns = np.nonzero(frame[..., 0] > 115)
    assert abs(np.ptp(rows) - np.ptp(columns)) <= 2


@pytest.mark.parametrize(("suffix", "codec"), [
    (".ts", "libx264"), (".m2ts", "libx264"), (".mts", "libx264"), (".mpg", "mpeg2video"), (".3gp", "libx264"),
    (".wmv", "msmpeg4"), (".ogv", "libvpx"), (".avi", "mpeg4"), (".flv", "libx264"), (".webm", "libvpx"), (".vob", "mpeg2video")])
def test_containers_are_clips(tmp_path, suffix, codec):
    path, output = tmp_path / f"a{suffix}", tmp_path / "b.mp4"
    # What the writer guesses from names; there is no Theora in it, and what counts is the content.
    written = {".m2ts": ".ts", ".mts": ".ts", ".ogv": ".webm", ".vob": ".mpg"}.get(suffix, suffix)
    temporary = tmp_path / f"x{written}"
    make_clip(temporary, codec=codec, frames=8, sound=written not in (".webm", ".mpg"))
    temporary.rename(path)
    assert video_io.is_clip(path)
    report = restyle(path, output)
    times = [at for at, _ in decoded(output)]
    assert report.frames >= 7 and times[0] < 0.15 and report.faceless == 0


def test_broadcasts_begin_at_zero_with_their_sound(tmp_path):
    """A transport stream begins at 1.4 s; pictures and sound of the result begin together, at 0."""
    make_clip(tmp_path / "a.ts", frames=25, sound=True)
    report = restyle(tmp_path / "a.ts", tmp_path / "b.mp4")
    assert report.sound
    with av.open(str(tmp_path / "b.mp4")) as container:
        assert container.start_time / av.time_base < 0.1
        begin = [next(container.decode(stream)).time for stream in (container.streams.audio[0], container.streams.video[0])]
    assert max(begin) < 0.15  # the coder of sound begins 0.128 s early


def test_frames_of_a_gif_last_as_long(tmp_path):
    frames = [Image.fromarray(np.full((40, 60, 3), tone, np.uint8)) for tone in (10, 90, 170, 250)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=[100, 300, 200, 700], loop=0)
    restyle(tmp_path / "a.gif", tmp_path / "b.mp4", stylizer=Blind())
    with av.open(str(tmp_path / "b.mp4")) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.dts is not None]
        lengths = [float(packet.duration * packet.time_base) for packet in packets]
        assert np.allclose(lengths, [0.1, 0.3, 0.2, 0.7], atol=0.011)
        assert abs(float(stream.duration * stream.time_base) - 1.3) < 0.011


def test_the_last_frame_lasts_after_a_kill_too(tmp_path):
    """All segments are there but the result: the time at which the last frame ends is kept beside them."""
    frames = [Image.fromarray(np.full((40, 60, 3), tone, np.uint8)) for tone in (10, 90, 170, 250)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=[100, 300, 200, 700])

    class Stop(Exception):
        pass

    original = video_io.assemble

    def killed(*args, **settings):
        raise Stop

    video_io.assemble = killed
    try:
        with pytest.raises(Stop):
            restyle(tmp_path / "a.gif", tmp_path / "b.mp4", stylizer=Blind())
    finally:
        video_io.assemble = original
    restyle(tmp_path / "a.gif", tmp_path / "b.mp4", stylizer=Blind())
    with av.open(str(tmp_path / "b.mp4")) as container:
        stream = container.streams.video[0]
        assert abs(float(stream.duration * stream.time_base) - 1.3) < 0.011


def test_transparent_animations_lie_on_white(tmp_path):
    frames = []
    for tone in (40, 80):
        picture = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
        picture.paste((tone, 0, 0, 255), (10, 10, 30, 30))
        frames.append(picture)
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=100, disposal=2)
    image = next(video_io.read_frames(tmp_path / "a.gif")).image
    assert image.getpixel((2, 2)) == (255, 255, 255) and image.getpixel((20, 20))[0] < 60


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_turned_clips_keep_their_planes(turns):
    """What is turned upright is coded upright again, block by block the same."""
    rng = np.random.default_rng(0)
    planes_ = [rng.integers(30, 200, shape, dtype=np.uint8) for shape in ((16, 24), (8, 12), (8, 12))]
    frame = av.VideoFrame.from_ndarray(np.concatenate([plane.reshape(-1, 24) for plane in planes_]), format="yuv420p")

    class Turned:
        def __getattr__(self, name):
            return 90 * turns if name == "rotation" else getattr(frame, name)

    image, coded = video_io._upright(Turned(), SDR, (24, 16))
    again = coded_frame(image, SDR, "yuv420p", coded)
    for plane, before in zip(again.planes, planes_, strict=True):
        seen = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, :plane.width]
        assert np.array_equal(seen, np.rot90(before, turns))


@pytest.mark.parametrize("frames", [1, 2])
def test_short_clips_say_no_nan(tmp_path, frames):
    make_clip(tmp_path / "a.mp4", frames=frames)
    text = str(restyle(tmp_path / "a.mp4", tmp_path / "b.mp4"))
    assert "nan" not in text and f"{frames} frames" in text
