"""``python -m benchmarks.looks``: how styles of known looks draw unseen faces, against the known warps and filters.

With ``--teacher`` also how near a result is to the look's own filter and warp of that face: the perceptual distance as a share
of the undrawn face's. ``--styles`` names files of looks, by default the bundled ones; a file is called as its look.
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline import cli


def parse(argv: Sequence[str] | None) -> Namespace:
    parser = cli.ArgumentParser(prog="python -m benchmarks.looks", description=__doc__)
    parser.add_argument("--faces", type=cli.positive_int, default=24, help="random faces per style")
    parser.add_argument("--styles", type=Path, nargs="*", default=None, help="style files; the bundled ones if not given")
    parser.add_argument("--teacher", type=Path, default=None, help="SqueezeNet 1.1 features, .npz, for the distance")
    parser.add_argument("--drawn", type=cli.positive_int, default=8, help="faces that are drawn by the filter for it")
    parser.add_argument("--truncation", type=cli.finite_float, default=0.7, help="truncation psi")
    cli.add_common(parser, outdir=False, seed=77)
    return parser.parse_args(argv)


def nearness(images: Any, drawn: Any, points: Any, name: str, teacher: Any) -> float:
    """Return the mean distance of drawn faces from the look's filter of them, as a share of the undrawn faces'."""
    import torch
    from torch.nn import functional as F

    from data.looks import draw_look
    from training.pretrain.teacher import feature_distance

    large = F.interpolate(images, size=(512, 512), mode="bicubic", antialias=True).clamp(-1.0, 1.0)
    truth = torch.cat([draw_look(name, image[None], p.double().numpy()) for image, p in zip(large, points, strict=True)])
    truth = F.interpolate(truth, size=images.shape[2:], mode="bilinear", antialias=True)
    of = teacher(truth)
    before, after = (feature_distance(teacher(pictures), of).sum() for pictures in (images, drawn))
    return round(float(after / before), 3)


def figures(style: Any, warp: Any, args: Namespace, net: Any, *, name: str, teacher: Any = None) -> dict[str, Any]:
    """Return cosine and length of the displacement at alpha 1, detected against alpha 0 and by the grids alone."""
    import torch

    from benchmarks.quality_deformation import model_displacement
    from benchmarks.quality_math import displacement_cosine, magnitude_ratio, steady_landmarks
    from pipeline.sampling import random_faces, undeformed

    faces = random_faces(style, args.seed, list(range(args.faces)), truncation_psi=args.truncation)
    points = steady_landmarks(net, undeformed(style.base, faces).clamp(-1.0, 1.0))
    truth = torch.stack([torch.from_numpy(warp.displace(p.numpy())).float() - p for p in points])
    look = style.default_look(samples=True)
    still_images, moved_images = (style.draw(faces, look.changed(alpha=alpha)).clamp(-1.0, 1.0) for alpha in (0.0, 1.0))
    still, moved = (steady_landmarks(net, images) for images in (still_images, moved_images))
    grids = model_displacement(style.deformable, style.colored(faces.w_plus, 1.0), points, alpha=1.0)
    found: dict[str, Any] = {}
    if teacher is not None:
        some = slice(0, args.drawn)
        images = undeformed(style.base, faces).clamp(-1.0, 1.0)
        found["share_of_distance"] = nearness(images[some], moved_images[some], points[some], name, teacher)
    return found | {way: {"cosine": round(float(displacement_cosine(field, truth).mean()), 3),
                  "length": round(float(magnitude_ratio(field, truth).mean()), 3)}
            for way, field in (("detected", moved - still), ("grids", grids))}


def run(args: Namespace) -> int:
    import torch

    from checkpoints.features import load_landmark_net
    from checkpoints.paths import bundled_styles_dir
    from data.looks import READY, look_named
    from styles.registry import load_style

    device, teacher = cli.resolve_device(args.device), None
    if args.teacher is not None:
        from training.pretrain.teacher import SqueezeNetTeacher

        teacher = SqueezeNetTeacher(args.teacher)
    net, found = load_landmark_net(device=device).module, {}
    paths = args.styles or [path for name in READY if (path := bundled_styles_dir() / f"{name}.safetensors").is_file()]
    with torch.no_grad():
        for path in paths:
            look = look_named(path.stem)
            found[path.stem] = figures(load_style(path, device=device), look.warp.scaled(look.strength), args, net,
                                       name=path.stem, teacher=teacher)
            cli.report(f"{path.stem}: {json.dumps(found[path.stem])}")
    print(json.dumps(found))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
