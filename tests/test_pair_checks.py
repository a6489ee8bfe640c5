"""Wrong pairs are told by one line each, right ones by none; a finder is anything that gives landmarks."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from test_video import MEAN_FACE

from training.pair_checks import drawing_problems, off_of, pair_problems, roll_of, yaw_of

SIDE = 100
ALIGNED = np.asarray(MEAN_FACE) * SIDE


def turned(points, degrees):
    a = np.radians(degrees)
    return (points - 50) @ np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]]) + 50


def looking_aside(points):
    moved = points.copy()
    moved[27:36, 0] += 0.3 * (points[16, 0] - points[0, 0])
    return moved


def image(size=(SIDE, SIDE), tone=90):
    return Image.new("RGB", size, (tone, tone, tone))


def problems(source, target, *, align=False, size=(SIDE, SIDE)):
    """Problems of a pair whose landmarks are given."""
    found = iter([source, target])
    return pair_problems([("s.png", image()), ("t.png", image(size, 200))],
                         lambda picture: [SimpleNamespace(landmarks=points) for points in [next(found)] if points is not None],
                         align=align)


def test_a_right_pair_has_none():
    assert problems(ALIGNED, ALIGNED) == [] and problems(turned(ALIGNED, 8), ALIGNED) == []
    assert problems(turned(ALIGNED, 40), ALIGNED, align=True) == []
    assert problems(ALIGNED * 0.4 + 50, ALIGNED, align=True) == []


@pytest.mark.parametrize(("source", "target", "settings", "word"), [
    (ALIGNED, None, {}, "t.png: no face"), (None, ALIGNED, {"align": True}, "s.png: no face"),
    (ALIGNED, turned(ALIGNED, 180), {}, "turned by"), (ALIGNED, turned(ALIGNED, 180), {"align": True}, "turned by"),
    (ALIGNED, turned(ALIGNED, -60), {}, "turned by -60"),
    (turned(ALIGNED, 10), turned(ALIGNED, -10), {}, "another way"),
    (ALIGNED, looking_aside(ALIGNED), {"align": True}, "another way"),
    (ALIGNED, ALIGNED, {"size": (200, SIDE)}, "200 x 100"), (ALIGNED * 0.4 + 50, ALIGNED, {}, "s.png: the face is not where"),
])
def test_each_wrong_pair_has_its_line(source, target, settings, word):
    found = problems(source, target, **settings)
    assert len(found) == 1 and word in found[0]


def test_the_same_picture_twice_in_any_size():
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).resize((128, 128), Image.Resampling.BICUBIC)
    for other in (picture, picture.resize((256, 256))):
        assert "same picture" in pair_problems([("s.png", picture), ("t.png", other)], lambda _: [], align=True)[0]


def test_measures_have_known_values():
    assert abs(roll_of(turned(ALIGNED, 30)) - 30 - roll_of(ALIGNED)) < 1e-6
    assert abs(yaw_of(ALIGNED)) < 0.05 and yaw_of(looking_aside(ALIGNED)) > 0.5
    assert off_of(ALIGNED, (SIDE, SIDE)) < 0.06 and off_of(ALIGNED + 30, (SIDE, SIDE)) > 0.3


def test_a_drawn_face_that_the_finder_misses_will_do_in_its_place():
    portraits = Path(__file__).parent.parent / "data" / "portraits"
    woodcut = Image.open(portraits / "sharaku_oniji.jpg").convert("RGB")
    assert drawing_problems("w", woodcut, lambda _: [], align=False) == []
    for picture, align in ((woodcut, True), (image(), False), (woodcut.rotate(180), False)):
        assert drawing_problems("w", picture, lambda _: [], align=align)[0].startswith("w: no face found")
