"""``python -m benchmarks.looks``: how styles of known looks draw unseen faces, against the known warps and filters.

With ``--teacher`` also how near a result is to the look's own filter and warp of that face: the perceptual distance as a share
of the undrawn face's, with ``--photos`` for photos too. ``--styles`` names files of looks, by default the bundled ones; a
file is called as its look.
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
    parser.add_argument("--photos", type=Path, default=None, help="folder of aligned photos")
    parser.add_argument("--count", type=cli.positive_int, default=8, help="photos of it")
    parser.add_argument("--inversion", choices=("e4e", "e4e+optimize"), default="e4e+optimize", help="how photos become faces")
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


def photo_figures(style: Any, faces: Any, points: Any, *, name: str, teacher: Any, identity: Any) -> dict[str, float]:
    """Return the share of the distance for photos at alpha 1, and the identity distance to the photo, also at alpha 0.8."""
    look, found = style.default_look(), {}
    for alpha in (1.0, 0.8):
        drawn = style.draw(faces, look.changed(alpha=alpha)).clamp(-1.0, 1.0)
        if alpha == 1.0:
            found["share_of_distance"] = nearness(faces.photo, drawn, points, name, teacher)
        away = (identity.embed(drawn) - identity.embed(faces.photo)).norm(dim=1).mean()
        found[f"identity_at_{alpha:g}"] = round(float(away), 3)
    return found


def inverted(args: Namespace, style: str, device: Any) -> Any:
    """Return the photos' faces in one batch."""
    from data.images import list_images, read_image
    from models.face import Face
    from pipeline.stylize import InversionSettings, build_stylizer

    stylizer = build_stylizer(style, inversion=InversionSettings(args.inversion), align=False, device=device)
    return Face.join([stylizer.invert(read_image(path)) for path in list_images(args.photos)[:args.count]])


def run(args: Namespace) -> int:
    import torch

    from benchmarks.quality_math import steady_landmarks
    from checkpoints.features import load_face_id, load_landmark_net
    from checkpoints.paths import bundled_styles_dir
    from data.looks import READY, look_named
    from losses.identity import IdentityLoss
    from styles.registry import load_style

    device, teacher = cli.resolve_device(args.device), None
    if args.teacher is not None:
        from training.pretrain.teacher import SqueezeNetTeacher

        teacher = SqueezeNetTeacher(args.teacher)
    elif args.photos is not None:
        raise cli.UserError("--photos: photos are judged by their distance alone; give --teacher too")
    net, found = load_landmark_net(device=device).module, {}
    paths = args.styles or [path for name in READY if (path := bundled_styles_dir() / f"{name}.safetensors").is_file()]
    faces = None if args.photos is None else inverted(args, str(paths[0]), device)
    with torch.no_grad():
        if faces is not None:
            points, identity = steady_landmarks(net, faces.photo), IdentityLoss(load_face_id(device=device).module)
        for path in paths:
            look, style = look_named(path.stem), load_style(path, device=device)
            found[path.stem] = figures(style, look.warp.scaled(look.strength), args, net, name=path.stem, teacher=teacher)
            if faces is not None:
                found[path.stem]["photos"] = photo_figures(style, faces, points, name=path.stem, teacher=teacher,
                                                           identity=identity)
            cli.report(f"{path.stem}: {json.dumps(found[path.stem])}")
    print(json.dumps(found))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
