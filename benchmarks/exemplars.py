"""``python -m benchmarks.exemplars --portraits FOLDER --photos FOLDER --teacher FILE``: photos in the style of known portraits.

The portraits are those that a style was trained on, with the ``truth.npz`` of ``pretrain.py drawings``. Every photo is drawn
after every exemplar, and is asked: is it nearest to its own exemplar by colours and texture; do its landmarks go where the
exemplar's true deformation points, further with every step of the weight; does a weight of 0 leave shape or colours; whose
face is it. Random exemplars: how far apart their codes are, and whether a face is found in what is drawn with them.
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline import cli

STRUCTURES = (0.0, 0.25, 0.5, 0.75, 1.0)


def parse(argv: Sequence[str] | None) -> Namespace:
    parser = cli.ArgumentParser(prog="python -m benchmarks.exemplars", description=__doc__)
    parser.add_argument("--style", default="exemplars", help="style with a gallery")
    parser.add_argument("--portraits", type=Path, required=True, help="folder of its portraits with truth.npz")
    parser.add_argument("--photos", type=Path, required=True, help="folder of aligned photos")
    parser.add_argument("--count", type=cli.positive_int, default=12, help="photos")
    parser.add_argument("--exemplars", type=cli.positive_int, default=20, help="exemplars")
    parser.add_argument("--stepped", type=cli.positive_int, default=4, help="photos that are drawn at every weight too")
    parser.add_argument("--random", type=cli.positive_int, default=40, help="random exemplars")
    parser.add_argument("--teacher", type=Path, required=True, help="SqueezeNet 1.1 features, .npz")
    parser.add_argument("--inversion", choices=("e4e", "e4e+optimize"), default="e4e+optimize", help="how photos become faces")
    parser.add_argument("--run", type=Path, default=None, help="folder of the training, to judge its destylised faces too")
    parser.add_argument("--faces", type=Path, default=None, help="pack of the faces that were drawn, for the same")
    parser.add_argument("--output", type=Path, default=Path("outputs/exemplars_judged"), help="folder of the sheet")
    cli.add_common(parser, outdir=False)
    return parser.parse_args(argv)


def colours(images: Any) -> Any:
    """Return means and covariances of the opponent colours of images [N, 3, S, S], [N, 12]."""
    import torch

    from models.tones import opponent

    flat = opponent(images).flatten(2)
    centred = flat - flat.mean(dim=2, keepdim=True)
    covariance = centred @ centred.transpose(1, 2) / flat.shape[2]
    # Deviations count like means: the square root of the variances, the rest as correlations times both.
    scale = covariance.diagonal(dim1=1, dim2=2).clamp_min(1e-8).sqrt().sqrt()
    return torch.cat([flat.mean(dim=2), (covariance / (scale[:, :, None] * scale[:, None])).flatten(1)], dim=1)


def own_nearest(drawn: Any, references: Any) -> Any:
    """Return for drawn [K, D], the k-th after reference k of [K, D], whether its own is nearest, and all distances."""
    import torch

    distances = torch.cdist(drawn, references)
    return distances.argmin(dim=1) == torch.arange(len(drawn), device=drawn.device), distances / distances.mean()


def run(args: Namespace) -> int:
    import numpy as np
    import torch

    from benchmarks.pictures import grams
    from benchmarks.quality_math import steady_landmarks
    from checkpoints.features import load_face_id
    from data.grids import grid
    from data.images import list_images, read_image, save_image, to_tensor
    from data.landmarks68 import eye_distance
    from losses.identity import IdentityLoss
    from pipeline.stylize import InversionSettings, build_stylizer
    from training.pretrain.teacher import SqueezeNetTeacher

    device = cli.resolve_device(args.device)
    stylizer = build_stylizer(args.style, inversion=InversionSettings(args.inversion), align=False, device=device)
    style, teacher, size = stylizer.style, SqueezeNetTeacher(args.teacher).to(device), stylizer.size
    identity = IdentityLoss(load_face_id(device=device).module)
    truth = np.load(args.portraits / "truth.npz")
    stems = [Path(str(name)).stem for name in truth["names"]]
    rows = [(name, stems.index(Path(name).stem)) for name in style.gallery.names if Path(name).stem in stems]
    # Spread over the gallery, whose names may begin with their looks.
    rows = [rows[i * len(rows) // args.exemplars] for i in range(min(args.exemplars, len(rows)))]
    warps = torch.from_numpy(np.stack([truth["moved"][row] - truth["points"][row] for _, row in rows])).float().to(device)
    base = style.default_look()
    looks, facts, sheet = [base.changed(exemplar=name) for name, _ in rows], [], []

    def points(images: Any) -> Any:
        return steady_landmarks(style.finder.net, images)

    with torch.no_grad():
        references = torch.cat([to_tensor(read_image(args.portraits / str(truth["names"][row])), size) for _, row in rows])
        references = references.to(device)
        of = {"colours": colours(references), "texture": grams(teacher, references)}
        for path in list_images(args.photos)[:args.count]:
            image = read_image(path)
            photo, face = to_tensor(image, size).to(device), stylizer.invert(image)

            def draw(face: Any = face, **changes: Any) -> Any:
                return torch.cat([style.draw(face, look.changed(**changes)).clamp(-1.0, 1.0) for look in looks])

            plain, drawn, fact = style.draw(face, looks[0].changed(structure=0.0, color=0.0)).clamp(-1.0, 1.0), draw(), {}
            found = {"colours": own_nearest(colours(drawn), of["colours"]),
                     "texture": own_nearest(grams(teacher, drawn), of["texture"])}
            both = sum(distances for _, distances in found.values())
            if len(facts) < args.stepped:
                steps = [points(draw(structure=weight)) for weight in STRUCTURES]
                still, unit = points(plain), float(eye_distance(points(plain)[0].cpu().numpy()))
                moves = torch.stack([(places - steps[0]).flatten(1) for places in steps])  # [W, K, 136]
                wanted = warps.flatten(1)
                along = (moves * wanted).sum(dim=2)
                colourless = draw(color=0.0)
                fact = {"cosine": torch.nn.functional.cosine_similarity(moves[-2], wanted, dim=1).mean(),
                        "monotone": (along.diff(dim=0) > 0).all(dim=0).float().mean(),
                        "way": (along[-2] / wanted.square().sum(dim=1)).mean(),
                        "landmarks_at_structure_0": (steps[0] - still).norm(dim=2).mean() / unit,
                        "colours_at_color_0": (colours(colourless) - colours(plain))[:, :3].norm(dim=1).mean()
                        / (of["colours"] - colours(plain))[:, :3].norm(dim=1).mean()}
            facts.append({
                **{f"nearest_by_{name}": own.float().mean() for name, (own, _) in found.items()},
                "nearest_by_both": (both.argmin(dim=1).cpu() == torch.arange(len(rows))).float().mean(),
                "identity": (identity.embed(drawn) - identity.embed(photo)).norm(dim=1).mean(),
                "identity_inversion": (identity.embed(plain) - identity.embed(photo)).norm(dim=1).mean(), **fact})
            cli.report(f"{path.name}: " + ", ".join(f"{name} {float(value):.3f}" for name, value in facts[-1].items()))
            sheet.append([photo[0], plain[0], *drawn])
        random = randoms(style, stylizer, face, args.random)
    figures = {name: round(float(sum(row[name] for row in facts if name in row) / sum(name in row for row in facts)), 3)
               for name in facts[0]}
    if args.run is not None and args.faces is not None:
        figures |= destylised(args, identity, truth, stylizer)
    blank = torch.ones_like(references[0])
    cells = [[blank, blank, *references], *sheet]
    save_image(args.output / "sheet.png", grid([list(column) for column in zip(*cells, strict=True)], cell=96))
    print(json.dumps({"photos": len(facts), "exemplars": len(rows), **figures, **random}))
    return 0


def randoms(style: Any, stylizer: Any, face: Any, count: int) -> dict[str, float]:
    """Return how far random codes are apart, as a share of the gallery's, and in how many pictures a face is found."""
    import torch

    from data.images import to_pil
    from faces.find import FaceFinder

    codes = torch.cat([style.random_code(seed) for seed in range(count)]).flatten(1)
    apart = torch.pdist(codes).mean() / torch.pdist(style.gallery.codes.to(codes).flatten(1)).mean()
    drawn = [style.draw(face, style.default_look().changed(exemplar="random", style_seed=seed)) for seed in range(count)]
    finder = FaceFinder()
    found = [bool(finder.find(to_pil(image.clamp(-1.0, 1.0)))) for image in drawn]
    return {"random_codes_apart": round(float(apart), 3), "random_faces_found": round(sum(found) / count, 3)}


def destylised(args: Namespace, identity: Any, truth: Any, stylizer: Any) -> dict[str, float]:
    """Return the identity distance from the true photo of portraits, their plain inversions, and the faces behind them."""
    import torch

    from checkpoints.features import load_encoder
    from data.images import read_image, to_tensor
    from training.pretrain.faces import FacePack

    pack, size, style = FacePack.load(args.faces), stylizer.size, stylizer.style
    state = torch.load(args.run / "destylize.pt", map_location="cpu", weights_only=True)["result"]
    photos = torch.cat([pack.batch(torch.tensor([pack.names.index(str(name))])) for name in truth["faces"]])
    portraits = torch.cat([to_tensor(read_image(args.portraits / str(name)), size) for name in truth["names"]])
    encoder, generator = load_encoder(style.encoder_name), style.base.generator
    rows = torch.cat([encoder.module(part) + encoder.latent_avg for part in portraits.split(8)])

    def drawn(rows: Any) -> Any:
        return torch.cat([generator.synthesis(part, noise=generator.fixed_noise()) for part in rows.split(8)])

    with torch.no_grad():
        of = identity.embed(photos)
        faces = {"portrait": portraits, "encoded": drawn(rows), "destylised": state["face"],
                 "content": drawn(state["intrinsic"])}
        return {f"true_{name}": round(float((identity.embed(image.clamp(-1.0, 1.0)) - of).norm(dim=1).mean()), 3)
                for name, image in faces.items()}


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
