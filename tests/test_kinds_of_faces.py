"""Dark skin is not paled, glasses stay on, and turned heads get no dark blobs: a small set of faces of each kind, drawn."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image, ImageFilter
from skimage.data import astronaut

from data.images import image_tensor
from faces.face import Face
from faces.find import FaceFinder
from faces.parts import face_parts
from pipeline.api import Stylizer

ROOT = Path(__file__).resolve().parent
PROFILE = ROOT.parent / "data" / "portraits" / "vangogh_arlesienne.jpg"

TURNED = 20.0  # degrees


class Seen(NamedTuple):
    """A face, where its skin is, and the light of the photo and of what is drawn of it, [H, W] of 255."""

    face: Face
    skin: np.ndarray
    before: np.ndarray
    after: np.ndarray

    @property
    def tones(self) -> tuple[float, float]:
        """Mean light of the skin before and after."""
        return self.before[self.skin].mean(), self.after[self.skin].mean()


@pytest.fixture(scope="module")
def seen():
    """Everything by name, drawn in ink, which has the strongest contrasts; of these turned heads alone are deformed."""
    ink, finder, found = Stylizer("ink"), FaceFinder(), {}
    photos = {path.stem: Image.open(path).convert("RGB") for path in [*(ROOT / "fixtures" / "faces").glob("*.jpg"), PROFILE]}
    photos[PROFILE.stem].thumbnail((400, 400))
    photos["light"] = Image.fromarray(astronaut()).crop((90, 0, 350, 260))
    for name, photo in photos.items():
        face = finder.find(photo)[0]
        skin = face_parts(image_tensor(photo), [face.mesh])[0, 0].numpy() > 0.8
        drawn = ink.photo(photo, alpha=float(abs(face.yaw) > TURNED)).image
        found[name] = Seen(face, skin, *(np.asarray(image.convert("L"), float) for image in (photo, drawn)))
    return found


@pytest.mark.parametrize("name", ["dark_1", "dark_2", "dark_3"])
def test_dark_skin_is_not_paled(seen, name):
    """At least two thirds of how much darker it is than light skin is drawn."""
    (dark, drawn), (light, light_drawn) = seen[name].tones, seen["light"].tones
    assert dark < 120 and light - dark > 40
    assert light_drawn - drawn > (light - dark) * 2 / 3


def blurred(light, radius):
    return np.asarray(Image.fromarray(light.astype(np.uint8)).filter(ImageFilter.GaussianBlur(radius)), float)


@pytest.mark.parametrize("name", ["glasses_1", "glasses_2", "glasses_3"])
def test_glasses_stay_on(seen, name):
    """Between brows and nose, lines and dark glass of the drawing lie where they are in the photo."""
    face, skin, before, after = seen[name]
    left, top = face.landmarks[17:48].min(axis=0).astype(int)
    right, bottom = face.landmarks[17:48].max(axis=0).astype(int)
    area = np.s_[top:bottom, left:right]
    fine = [(blurred(light, 1) - blurred(light, 8))[area].ravel() for light in (before, after)]
    assert np.corrcoef(fine)[0, 1] > 0.85
    if name == "glasses_1":  # dark ones
        assert after[skin].mean() - after[area].mean() > 0.9 * (before[skin].mean() - before[area].mean()) > 10


@pytest.mark.parametrize("name", ["turned_1", "turned_2", "turned_3", "vangogh_arlesienne"])
def test_turned_heads_get_no_dark_blobs(seen, name):
    """Nothing of the skin that is light in the photo is dark in the drawing over more than lines."""
    face, skin, before, after = seen[name]
    assert abs(face.yaw) > TURNED
    dark = skin & (blurred(before, 4) > 90) & (blurred(after, 4) < 60)
    assert dark.sum() < 0.01 * skin.sum()
