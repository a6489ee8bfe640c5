"""``python -m benchmarks.encapsulated --trained FOLDER --held FOLDER --photos FOLDER --teacher FILE``: styles without images.

Photos are drawn by an encapsulated style, and are asked: how near to held-out style images as a set (Frechet distance of
SqueezeNet features, by which the painter has learned), as a share of the photos' own distance; whose face, without and with
test-time training, and how long that takes; how far versions of one photo are apart, as a share of the style images'; and
whether what is drawn comes nearer to an image of the training than to one that was held out.
"""

from __future__ import annotations

import json
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline import cli

VERSIONS = 4


def parse(argv: Sequence[str] | None) -> Namespace:
    parser = cli.ArgumentParser(prog="python -m benchmarks.encapsulated", description=__doc__)
    parser.add_argument("--style", default="encapsulated", help="encapsulated style")
    parser.add_argument("--trained", type=Path, required=True, help="folder of the style images it was trained on")
    parser.add_argument("--held", type=Path, required=True, help="folder of images of the same style that it was not")
    parser.add_argument("--photos", type=Path, required=True, help="folder of aligned photos")
    parser.add_argument("--count", type=cli.positive_int, default=100, help="photos")
    parser.add_argument("--adapted", type=cli.non_negative_int, default=8, help="photos with test-time training, 0 for none")
    parser.add_argument("--steps", type=cli.positive_int, default=50, help="steps of test-time training")
    parser.add_argument("--random", type=cli.positive_int, default=500, help="pictures by random versions, for privacy")
    parser.add_argument("--teacher", type=Path, required=True, help="SqueezeNet 1.1 features, .npz")
    parser.add_argument("--output", type=Path, default=Path("outputs/encapsulated_judged"), help="folder of the sheet")
    cli.add_common(parser, outdir=False)
    return parser.parse_args(argv)


def nearest_ratio(random: Any, trained: Any, held: Any) -> float:
    """Return how near the nearest of ``trained`` [T, D] is to features [N, D], as a share of that of ``held`` [H, D].

    More candidates come nearer by chance, so that as many of the first are taken at a time as there are of the second.
    """
    import torch

    own = torch.cdist(random, held).amin(dim=1).mean()
    parts = [part for part in trained.split(len(held)) if len(part) == len(held)]
    return float(torch.stack([torch.cdist(random, part).amin(dim=1).mean() for part in parts]).mean() / own)


def run(args: Namespace) -> int:
    import torch

    from benchmarks.pictures import grams, variety
    from benchmarks.quality_math import frechet_distance
    from checkpoints.features import load_face_id
    from data.grids import grid
    from data.images import list_images, read_image, save_image, to_tensor
    from losses.identity import IdentityLoss
    from pipeline.stylize import InversionSettings, build_stylizer
    from training.pretrain.teacher import SqueezeNetTeacher

    device = cli.resolve_device(args.device)
    stylizer = build_stylizer(args.style, inversion=InversionSettings("e4e"), align=False, device=device)
    style, teacher, size = stylizer.style, SqueezeNetTeacher(args.teacher).to(device), stylizer.size
    identity = IdentityLoss(load_face_id(device=device).module)
    look = style.default_look()

    def images(folder: Path, count: int | None = None) -> Any:
        return torch.cat([to_tensor(read_image(path), size) for path in list_images(folder)[:count]]).to(device)

    def features(pictures: Any) -> Any:
        return torch.cat([teacher(part)[-1].mean(dim=(2, 3)) for part in pictures.split(16)])

    def textures(pictures: Any) -> Any:
        return torch.cat([grams(teacher, part) for part in pictures.split(16)])

    def apart(one: Any, other: Any) -> float:
        return float((identity.embed(one) - identity.embed(other)).norm(dim=1).mean())

    figures: dict[str, float] = {}
    with torch.no_grad():
        photos, trained, held = images(args.photos, args.count), images(args.trained), images(args.held)
        paths = list_images(args.photos)[:args.count]
        faces = [stylizer.invert(read_image(path)) for path in paths]
        start = time.monotonic()
        drawn = torch.cat([style.draw(face, look).clamp(-1.0, 1.0) for face in faces])
        figures["seconds_drawing"] = (time.monotonic() - start) / len(faces)
        of = {"held": features(held), "photos": features(photos), "drawn": features(drawn), "trained": features(trained)}
        figures["frechet_share"] = frechet_distance(of["drawn"], of["held"]) / frechet_distance(of["photos"], of["held"])
        figures["frechet_share_of_trained"] = (frechet_distance(of["trained"], of["held"])
                                               / frechet_distance(of["photos"], of["held"]))
        figures["identity"] = apart(drawn, photos)
        versions = [torch.cat([style.draw(face, look.changed(version=float(version))).clamp(-1.0, 1.0)
                               for version in range(1, VERSIONS + 1)]) for face in faces[:20]]
        figures["versions_apart"] = (sum(variety(textures(part)) for part in versions) / len(versions)
                                     / variety(textures(held)))
        pairs = [(i, j) for i in range(VERSIONS) for j in range(i)]
        first, second = zip(*pairs, strict=True)
        figures["identity_between_versions"] = sum(apart(part[list(first)], part[list(second)]) for part in versions) / 20
        random = torch.cat([style.draw(style.random(style_z(seed, style), truncation_psi=0.7),
                                       look.changed(version=float(seed))).clamp(-1.0, 1.0) for seed in range(args.random)])
        figures["nearest_trained_over_held"] = nearest_ratio(features(random), of["trained"], of["held"])
    adapted = []
    start = time.monotonic()
    for face in faces[:args.adapted]:
        adapted.append(style.draw(face, look.changed(test_time=float(args.steps))).clamp(-1.0, 1.0))
    if adapted:
        figures["seconds_test_time"] = (time.monotonic() - start) / len(adapted)
        with torch.no_grad():
            count = len(adapted)
            figures["identity_without"] = apart(drawn[:count], photos[:count])
            figures["identity_test_time"] = apart(torch.cat(adapted), photos[:count])
    rows = [[photos[i], drawn[i], *(adapted[i] if i < len(adapted) else []), *versions[i]] for i in range(min(8, len(photos)))]
    save_image(args.output / "sheet.png", grid(rows, cell=128))
    save_image(args.output / "images.png", grid([list(part) for part in held[:32].split(8)], cell=96))
    print(json.dumps({"photos": len(photos), "held": len(held), **{name: round(value, 3) for name, value in figures.items()}}))
    return 0


def style_z(seed: int, style: Any) -> Any:
    """Return z [1, D] of a random face by its seed."""
    import torch

    return torch.randn(1, style.latent_shape[1], generator=torch.Generator().manual_seed(seed))


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
