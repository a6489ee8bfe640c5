"""Expressions of photos: how far landmarks come to their goals, whose face it stays, how long it takes.

``python -m benchmarks.projection --photos FOLDER --drivers PHOTO PHOTO`` prints one JSON line and writes a contact sheet: photos
by row, the named expressions and those of the driving photos by column. Landmarks are found in the result anew; how far they are
left from their goals is told over all photos, the sum of distances after over that before, for a face that smiles already has
nowhere to go.
"""

from __future__ import annotations

import json
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from pipeline import cli

NAMES = ("smile", "open mouth", "raised brows", "wink")


def parse(argv: Sequence[str] | None) -> Namespace:
    parser = cli.ArgumentParser(prog="benchmarks.projection", description=__doc__)
    parser.add_argument("--photos", type=Path, required=True, help="folder of photos of one face each")
    parser.add_argument("--drivers", type=Path, nargs="*", default=[], help="photos whose expressions are taken")
    parser.add_argument("--count", type=cli.positive_int, default=10, help="number of photos")
    parser.add_argument("--output", type=Path, default=Path("outputs/projection"), help="output folder")
    cli.add_common(parser, outdir=False)
    return parser.parse_args(argv)


def run(args: Namespace) -> int:
    import numpy as np
    import torch

    from checkpoints.features import load_face_id
    from data.grids import grid
    from data.images import list_images, save_image
    from drawing.context import aligned_mesh
    from faces.find import FaceFinder
    from faces.mesh import landmarks_of
    from losses.identity import IdentityLoss, identity_distance
    from projection.stills import Studio

    cli.ensure_dir(args.output)
    studio, loss = Studio(FaceFinder()), IdentityLoss(load_face_id(device=torch.device("cpu")).module)
    figures: dict[str, list[tuple[float, ...]]] = {}
    rows = []
    for path in list_images(args.photos)[:args.count]:
        person, pictures = studio.person(path), []
        for target in (*NAMES, *map(str, args.drivers)):
            start = time.monotonic()
            expression, _ = studio.expression(target, person)
            face = studio.face(person, expression)
            seconds = time.monotonic() - start
            goal = studio.wanted(person, expression)
            before, after, there = (landmarks_of(mesh)[17:] for mesh in (
                person.mesh, aligned_mesh(face)[0][0].numpy().astype(np.float64), goal))
            gaps = [face.shape[3] * float(np.linalg.norm(points - there, axis=1).mean()) for points in (after, before)]
            with torch.no_grad():
                identity = float(identity_distance(loss.embed(face), loss.embed(person.aligned)))
            figures.setdefault(Path(target).name, []).append((*gaps, identity, seconds))
            pictures.append(face[0])
        rows.append([person.aligned[0], *pictures])
        cli.report(f"{path.name}: " + ", ".join(
            f"{name} {values[-1][0]:.1f} of {values[-1][1]:.1f} px, {values[-1][2]:.2f}" for name, values in figures.items()))
    save_image(args.output / "sheet.png", grid(rows, cell=256, column_labels=["photo", *figures]))
    means = {name: np.mean(values, axis=0) for name, values in figures.items()}
    print(json.dumps({name: {"landmarks_left": round(after / before, 3), "identity": round(who, 3), "seconds": round(took, 2)}
                      for name, (after, before, who, took) in means.items()}))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
