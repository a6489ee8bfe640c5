"""Whose faces a sweep shows: random ones, those of a photo, or those of files of latents."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from checkpoints.builders import Base
from data.images import read_image, to_tensor
from faces.find import FaceFinder
from models.face import Face
from pipeline import cli, sampling
from pipeline.latent_files import read_faces
from styles.protocol import Style


@dataclass(frozen=True)
class Subject:
    """Faces that are shown in one strip file.

    Attributes:
        name: of the file.
        face: [N] faces.
        original: what they are before, [N, 3, S, S] on the CPU.
        landmarks: [N, 68, 2] as fractions of the side, or None.
    """

    name: str
    face: Face
    original: Tensor
    landmarks: np.ndarray | None


def subjects(args: Namespace, style: Style, base: Base, *, marked: bool) -> Iterator[Subject]:
    """Yield what a sweep shows.

    Args:
        args: with ``input_image``, ``latents``, ``inversion``, ``seed``, ``n_sample``, ``n_each``, ``truncation`` and the options
            of ``cli.add_finder``.
        style, base: of the sweep.
        marked: landmarks are needed, for values by region.

    Raises:
        UserError: for a photo without a face, or latents of another generator.
    """
    if args.input_image is not None:
        yield from _photo_subjects(args, style, base)
    elif args.latents is not None:
        for stored in read_faces(args.latents, shape=style.latent_shape, fingerprint=base.fingerprint, device=style.device):
            shown = stored.face.photo if stored.face.photo is not None else sampling.undeformed(base, stored.face)
            marks = stored.landmarks[None] if stored.landmarks is not None else \
                sampling.face_landmarks(shown.float().cpu(), FaceFinder()) if marked else None
            yield Subject(stored.name, stored.face, shown.float().cpu(), marks)
    else:
        for number in range(args.n_sample):
            indices = list(range(number * args.n_each, (number + 1) * args.n_each))
            face = sampling.random_faces(style, args.seed, indices, truncation_psi=args.truncation)
            shown = sampling.base_images(base, args.seed, indices, truncation_psi=args.truncation).float().cpu()
            marks = sampling.face_landmarks(shown, FaceFinder()) if marked else None
            yield Subject(f"{args.seed}_{number:04d}", face, shown, marks)


def _photo_subjects(args: Namespace, style: Style, base: Base) -> Iterator[Subject]:
    from pipeline.stylize import InversionSettings, build_stylizer

    photo = read_image(args.input_image)
    stylizer = build_stylizer(args.style, base=args.base, inversion=InversionSettings(args.inversion), faces="all",
                              finder=cli.finder_of(args), device=style.device)
    if stylizer.rows_alone:
        cli.report(cli.ROWS_ALONE)
    crops = stylizer.crops(photo, name=str(args.input_image))
    for number, crop in enumerate(crops):
        name = Path(args.input_image).stem + (f"_face{number}" if len(crops) > 1 else "")
        yield Subject(name, stylizer.invert(crop.image), to_tensor(crop.image, stylizer.size), crop.places()[None])
