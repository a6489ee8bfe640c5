"""Landmark projection on pairs of photos: how far landmarks come to the target's, whose face it stays, how long it takes.

``python -m benchmarks.projection --photos FOLDER --pairs 40`` prints one JSON line and writes a contact sheet. Photo i gets
the expression of photo i + 1. Landmarks are found by the heat-map network that the projection follows, and, as a check, by
the dlib predictor that it does not know.
"""

from __future__ import annotations

import json
import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline import cli

PARTS = {"brows": slice(17, 27), "eyes": slice(36, 48), "mouth": slice(48, 68)}


def parse(argv: Sequence[str] | None) -> Namespace:
    parser = cli.ArgumentParser(prog="benchmarks.projection", description=__doc__)
    parser.add_argument("--photos", type=Path, required=True, help="folder of photos of one face each")
    parser.add_argument("--pairs", type=cli.positive_int, default=40, help="number of pairs")
    parser.add_argument("--sheet", type=cli.positive_int, default=12, help="pairs on the contact sheet")
    parser.add_argument("--inversion", choices=("e4e", "e4e+optimize"), default="e4e+optimize",
                        help="how the look becomes a face")
    parser.add_argument("--steps", type=cli.positive_int, default=30, help="steps of the projection")
    parser.add_argument("--mouth", type=cli.str2bool, nargs="?", const=True, default=False,
                        help="project once more with weights on the mouth alone")
    parser.add_argument("--output", type=Path, default=Path("outputs/projection"), help="output folder")
    cli.add_common(parser, outdir=False)
    return parser.parse_args(argv)


@dataclass
class Figures:
    """What is measured of every pair, see ``summary``."""

    rows: list[dict[str, float]] = field(default_factory=list)

    def mean(self, name: str) -> float | None:
        """Return the mean over the pairs that have a figure."""
        found = [row[name] for row in self.rows if name in row]
        return sum(found) / len(found) if found else None

    def summary(self) -> dict[str, float | None]:
        """Return the figures over all pairs.

        ``landmarks_left`` and ``landmarks_left_dlib`` are the mean distance of brows, eyes and mouth from the target's after
        the projection over that before; ``identity_look`` and ``identity_target`` distances from both photos.
        """
        def ratio(after: str, before: str) -> float | None:
            values = self.mean(after), self.mean(before)
            return None if None in values else round(values[0] / values[1], 3)

        nearer = [row["identity_look"] < row["identity_target"] for row in self.rows]
        means = {name: None if self.mean(name) is None else round(self.mean(name), 3) for name in
                 ("identity_look", "identity_target", "identity_inversion", "seconds")}
        return {"pairs": len(self.rows), "landmarks_left": ratio("after", "before"),
                "landmarks_left_dlib": ratio("after_dlib", "before_dlib"), **means,
                "nearer_to_look": round(sum(nearer) / len(nearer), 3),
                **{f"mouth_alone_{part}": ratio(f"alone_{part}", f"even_{part}") for part in PARTS}}


def run(args: Namespace) -> int:
    import torch

    from checkpoints.features import load_face_id
    from data.grids import grid
    from data.images import list_images, save_image
    from losses.identity import IdentityLoss
    from pipeline.stylize import InversionSettings
    from projection.stills import build_studio
    from training.projection import STARTER_WEIGHTS, ProjectionSettings, Projector, named_weights

    cli.ensure_dir(args.output)
    device = cli.resolve_device(args.device)
    studio = build_studio(ProjectionSettings(steps=args.steps), device=device, cache=args.output / "latents",
                          inversion=InversionSettings(args.inversion, 50))
    identity = IdentityLoss(load_face_id(device=device).module)
    paths, figures, rows = list_images(args.photos)[:args.pairs + 1], Figures(), []
    projectors = {"even": studio.projector}
    if args.mouth:
        for name, weights in (("even", (1.0,) * 9), ("alone", named_weights([("all", 0.0), ("mouth", 1.0)],
                                                                           default=STARTER_WEIGHTS))):
            settings = replace(studio.projector.settings, weights=weights)
            projectors[name] = Projector(studio.projector.generator, studio.projector.network, settings,
                                         identity=studio.projector.identity)
    for look, target in zip(paths, [*paths[1:], paths[0]], strict=True):
        if len(rows) == args.pairs:
            break
        start = time.monotonic()
        person = studio.person(look)
        expression = studio.expression(str(target), person)
        done = studio.projector.project(person, expression)
        seconds = time.monotonic() - start
        with torch.no_grad():
            inverted = studio.projector.draw(person.face)
            measured = {f"identity_{name}": float(identity(done.image if name != "inversion" else inverted, photo))
                        for name, photo in (("look", person.photo), ("target", expression.donor), ("inversion", person.photo))}
        measured["seconds"] = seconds
        measured |= distances(studio, inverted, done.image, expression.donor)
        if args.mouth:
            measured |= movements(projectors, person, expression)
        figures.rows.append(measured)
        rows.append([person.photo[0], expression.donor[0], inverted[0], done.moved[0], done.image[0]])
        cli.report(f"{look.name} as {target.name}: " + ", ".join(f"{name} {value:.3f}" for name, value in measured.items()))
    titles = ["look", "landmarks", "inversion", "moved photo", "result"]
    save_image(args.output / "sheet.png", grid(rows[:args.sheet], cell=128, column_labels=titles))
    print(json.dumps(figures.summary()))
    return 0


def distances(studio, inverted, result, target) -> dict[str, float]:  # noqa: ANN001 - images [1, 3, S, S]
    """Return the mean distance of brows, eyes and mouth from the target's, in its eye distances, before and after."""
    import torch

    from data.images import to_pil
    from training.projection import EXPRESSIVE, eye_unit

    def by_network(image):  # noqa: ANN001, ANN202
        return studio.projector.points(image)

    def by_dlib(image):  # noqa: ANN001, ANN202
        found = studio.stylizer.finder.find(to_pil(image))
        return torch.from_numpy(found[0].landmarks / image.shape[3]).float() if found else None

    measured = {}
    for ending, finder in (("", by_network), ("_dlib", by_dlib)):
        points = [finder(image) for image in (inverted, result, target)]
        if any(found is None for found in points):
            continue
        for name, found in zip(("before", "after"), points, strict=False):
            gap = (found - points[2])[EXPRESSIVE].norm(dim=1).mean() / eye_unit(points[2])
            measured[f"{name}{ending}"] = float(gap)
    return measured


def movements(projectors, person, expression) -> dict[str, float]:  # noqa: ANN001 - see run
    """Return how far brows, eyes and mouth move from where the photo has them, with even weights and with weights on the
    mouth alone."""
    measured = {}
    for name, projector in projectors.items():
        end = projector.points(projector.project(person, expression).image)
        for part, where in PARTS.items():
            measured[f"{name}_{part}"] = float((end - person.points)[where].norm(dim=1).mean())
    return measured


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
