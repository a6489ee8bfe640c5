"""``python -m benchmarks.looks``: how the bundled styles deform unseen faces, against the known warps of their pairs."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from pipeline import cli


def parse(argv: Sequence[str] | None) -> Namespace:
    parser = cli.ArgumentParser(prog="python -m benchmarks.looks", description=__doc__)
    parser.add_argument("--faces", type=cli.positive_int, default=24, help="random faces per style")
    parser.add_argument("--truncation", type=cli.finite_float, default=0.7, help="truncation psi")
    cli.add_common(parser, outdir=False, seed=77)
    return parser.parse_args(argv)


def figures(style: Any, warp: Any, args: Namespace, net: Any) -> dict[str, dict[str, float]]:
    """Return cosine and length of the displacement at alpha 1, detected against alpha 0 and by the grids alone."""
    import torch

    from benchmarks.quality_deformation import model_displacement
    from benchmarks.quality_math import displacement_cosine, magnitude_ratio
    from data.landmarks68 import MIRROR
    from pipeline.sampling import random_faces, undeformed
    from styles.controls import Look

    def landmarks(images: Any) -> Any:
        """Return landmarks [N, 68, 2], the means of the images' and their mirrored ones'."""
        turned = net(images.flip(3)).points[:, torch.from_numpy(MIRROR)]
        return (net(images).points + turned * torch.tensor([-1.0, 1.0]) + torch.tensor([1.0, 0.0])) / 2.0

    faces = random_faces(style, args.seed, list(range(args.faces)), truncation_psi=args.truncation)
    points = landmarks(undeformed(style.base, faces).clamp(-1.0, 1.0))
    truth = torch.stack([torch.from_numpy(warp.displace(p.numpy())).float() - p for p in points])
    still, moved = (landmarks(style.draw(faces, Look(alpha=alpha, look_strength=1.0, color_strength=1.0)).clamp(-1.0, 1.0)) for alpha in (0.0, 1.0))
    grids = model_displacement(style.deformable, style.colored(faces.w_plus, 1.0), points, alpha=1.0)
    return {way: {"cosine": round(float(displacement_cosine(field, truth).mean()), 3),
                  "length": round(float(magnitude_ratio(field, truth).mean()), 3)}
            for way, field in (("detected", moved - still), ("grids", grids))}


def run(args: Namespace) -> int:
    import torch

    from checkpoints.features import load_landmark_net
    from checkpoints.paths import bundled_styles_dir
    from data.looks import READY, look_named
    from styles.registry import load_style

    device = cli.resolve_device(args.device)
    net, found = load_landmark_net(device=device).module, {}
    with torch.no_grad():
        for name in READY:
            path = bundled_styles_dir() / f"{name}.safetensors"
            if path.is_file():
                look = look_named(name)
                found[name] = figures(load_style(path, device=device), look.warp.scaled(look.strength), args, net)
    print(json.dumps(found))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
