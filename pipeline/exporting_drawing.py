"""One file that runs without this project, of a style that draws photos: its drawing stages for one aligned face.

What is known of a face is input: its parts, the sampling grid of its warp, and the drawing's tones at its places. They are found
here, once for each photo and degree of deformation, and kept as an ``.npz`` file beside the graph.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from checkpoints import atomic_write
from checkpoints.builders import Base
from data.images import read_image, to_tensor
from drawing.compose import Strengths, draw_mapped, maps_of
from drawing.context import landmarks_in, read_context
from drawing.style import FRAME, enlarged_picture
from models.face import Face
from pipeline.exporting import LICENCES, ONNX_PACKAGES, OTHER_LICENCE, VERSION, ExportConfig, Exported, checked_file, require
from pipeline.sampling import base_faces, undeformed
from styles.protocol import Style

# Degrees of deformation at which a file is compared with PyTorch, and the seed of the faces.
DEGREES, SEED = (0.0, 0.5, 1.0), 5
INPUTS = {"photo": "aligned RGB face, [-1, 1]", "parts": "how far pixels are skin, hair, background, the rest",
          "grid": "where the warp reads, (x, y) in [-1, 1]", "placed": "tones of the drawing at the face's places"}


def face_inputs(style: Style, image: Tensor, face: Face, *, alpha: float) -> dict[str, Tensor]:
    """Return what the graph takes for one aligned face.

    Args:
        style: which draws photos.
        image: of the face, [1, 3, S, S] in [-1, 1].
        face: its inversion, which the transformers see.
        alpha: degree of deformation.
    """
    context = read_context(image)
    grids = style.grids(face, alpha, landmarks_in(context.mesh))
    grid, placed = maps_of(context.points, style.drawn, Strengths(alpha), grids=grids)
    return {"photo": image, "parts": context.parts, "grid": grid, "placed": placed}


def random_inputs(style: Style, base: Base, side: int) -> list[dict[str, Tensor]]:
    """Return inputs of one random face of the style's base for every degree of ``DEGREES``."""
    sets = []
    for index, alpha in enumerate(DEGREES):
        face = base_faces(base, SEED, [index], truncation_psi=0.7)
        image = enlarged_picture(undeformed(base, face).clamp(-1.0, 1.0), side)
        sets.append(face_inputs(style, image, face, alpha=alpha))
    return sets


def save_face(path: Path, style: Style, photo: Path, face: Face, *, side: int, alpha: float) -> None:
    """Write what the graph takes for an aligned photo beside the photo itself as an ``.npz`` file."""
    inputs = face_inputs(style, to_tensor(read_image(photo), side), face, alpha=alpha)
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **{name: value.numpy() for name, value in inputs.items() if name != "photo"})


@torch.no_grad()
def export_drawing(path: Path, style: Style, *, config: ExportConfig) -> Exported:
    """Write the drawing stages of a style, check the file against PyTorch, and only then give it its name.

    Args:
        path: the file.
        style: which draws photos, on the CPU.
        config: its format and side of the photo in px, ``drawing.style.FRAME`` where None.

    Raises:
        UserError: if a package is missing, or the file differs from PyTorch by more than ``TOLERANCE``.
    """
    if config.format == "onnx":
        require(*ONNX_PACKAGES)
    side = config.size or FRAME
    sets, graph = random_inputs(style, style.base, side), style.graph().eval()
    shapes = {name: f"float32 {list(value.shape)}: {INPUTS[name]}" for name, value in sets[0].items()}
    facts = {name: str(value) for name, value in style.facts().items()} | {
        "part": "drawing", "version": VERSION, "inputs": json.dumps(shapes),
        "output": f"float32 [1, 3, {side}, {side}]: RGB, [-1, 1]", "licence": LICENCES.get(style.base_name, OTHER_LICENCE)}

    def reference(inputs: dict[str, Tensor]) -> Tensor:
        return draw_mapped(inputs["photo"], inputs["parts"], inputs["grid"], inputs["placed"], style.drawn, Strengths())

    graph(*sets[-1].values())  # what is told of the drawing alone is kept from here on, and becomes a constant
    return checked_file(path, graph, sets, kind=config.format, facts=facts, reference=reference)
