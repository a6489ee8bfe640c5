"""What users reported of drawn pictures: a grey target stains nothing, a narrower jaw leaves no bright rim."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from skimage.data import astronaut
from torch.nn import functional as F

import train
from data.images import read_image, to_tensor
from drawing.compose import PlacedFace, Strengths, around_faces, draw_aligned, draw_picture
from drawing.context import read_context
from drawing.reading import style_of_drawing
from drawing.style import FRAME, DrawnStyle
from drawing.warp import with_rings
from faces.align import align_face
from faces.find import FaceFinder

MOUTH = [61, 291]  # its corners in the mesh
TARGET = Path(train.__file__).parent / "data" / "style_images_aligned" / "target_sample.png"


@pytest.fixture(scope="module")
def face():
    """The astronaut's aligned face, and what the drawing stages know of it."""
    image = Image.fromarray(astronaut())
    found = FaceFinder().find(image)[0]
    aligned = to_tensor(align_face(image, found.landmarks, output_size=FRAME), FRAME)
    return aligned, read_context(aligned)


@pytest.fixture(scope="module")
def grey():
    """The style of the bundled drawing, made grey."""
    image = to_tensor(read_image(TARGET).convert("L").convert("RGB"), FRAME)
    return style_of_drawing(image, read_context(image))


def chroma(image):
    """How far pixels are from grey, of 255."""
    return (image.amax(dim=1) - image.amin(dim=1)) * 127.5


def test_a_grey_target_gives_grey_pictures(face, grey):
    aligned, context = face
    made = chroma(draw_aligned(aligned, context, grey, Strengths()))
    assert chroma(aligned).mean() > 20, "the photo has colours"
    assert made.mean() < 6 and (made > 40).float().mean() < 0.005


@pytest.mark.parametrize("alone", [False, True], ids=["whole photo", "face alone"])
def test_a_narrower_jaw_leaves_no_bright_rim(face, grey, alone):
    """Where the drawn face ends before the photo's, what lay around it is drawn: nothing brighter than that was."""
    aligned, context = face
    mesh = context.mesh.clone()
    middle, mouth = mesh[..., 0].mean(), mesh[:, MOUTH, 1].mean()
    below = (mesh[..., 1] > mouth).float()
    mesh[..., 0] -= 0.25 * below * (mesh[..., 0] - middle)
    style = DrawnStyle.of_points(with_rings(context.mesh), with_rings(mesh), grey.tone)
    corners = torch.tensor([[0.0, 0.0], [FRAME, 0.0], [0.0, FRAME]])
    placed = PlacedFace(context.points, (), corners)
    inside = around_faces([placed], aligned) if alone else None
    made = draw_picture(aligned, context.parts, [placed], style, [Strengths(1.0, 0.0, 0.0)], inside=inside)
    light, before = made.mean(dim=1, keepdim=True), aligned.mean(dim=1, keepdim=True)
    assert (made - aligned).abs().mean() > 0.01, "the jaw moves"
    around = F.max_pool2d(before, 97, stride=1, padding=48)
    assert ((light - around) > 0.05).float().mean() < 1e-4
