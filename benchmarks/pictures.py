"""``python -m benchmarks.pictures --styles FOLDER --photos FOLDER --teacher FILE``: photos in the style of any picture.

Without ``--styles`` the pictures are faces of the photos' folder drawn by ``benchmarks.families``, one each, which nothing was
trained on; what a photo should come to is known then, and asked for too: the perceptual distance, as a share of the photo's,
how near that truth itself comes to its reference by Gram matrices, and whose face the network sees in it.

Every photo is drawn in every style, and is asked: is it nearest to its own reference among all, by the style encoder and by
Gram matrices of SqueezeNet, by which the painter has learned; how near, as a share of the photo's own distance; whose face is
it, and whether it is less so with every step of the strength. Random codes: how far apart, as a share of the pictures'
distances.
"""

from __future__ import annotations

import json
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline import cli


STRENGTHS = (0.25, 0.5, 0.75, 1.0)


def parse(argv: Sequence[str] | None) -> Namespace:
    parser = cli.ArgumentParser(prog="python -m benchmarks.pictures", description=__doc__)
    parser.add_argument("--style", default="any", help="style that takes pictures")
    parser.add_argument("--styles", type=Path, default=None,
                        help="folder of style pictures, aligned faces; the families of looks that are held out if not given")
    parser.add_argument("--photos", type=Path, required=True, help="folder of aligned photos")
    parser.add_argument("--count", type=cli.positive_int, default=12, help="photos")
    parser.add_argument("--teacher", type=Path, required=True, help="SqueezeNet 1.1 features, .npz")
    parser.add_argument("--inversion", choices=("e4e", "e4e+optimize"), default="e4e", help="how photos become faces")
    parser.add_argument("--output", type=Path, default=Path("outputs/pictures"), help="folder of the sheet")
    cli.add_common(parser, outdir=False)
    return parser.parse_args(argv)


def grams(teacher: Any, images: Any) -> Any:
    """Return the Gram matrices of all maps of images [N, 3, S, S] as one vector each."""
    import torch

    from models.style_encoder import gram_matrix

    return torch.cat([gram_matrix(maps).flatten(1) for maps in teacher(images)], dim=1)


def family_pictures(photos: Sequence[Path], folder: Path, landmarks: Any) -> list[Path]:
    """Draw one photo per family, write the drawings into a folder, and return their paths."""
    from benchmarks.families import FAMILIES
    from data.images import read_image, save_image, to_pil

    made = []
    for photo, name in zip(photos, FAMILIES, strict=False):
        made.append(folder / f"{name}.png")
        save_image(made[-1], to_pil(family_truth(name, read_image(photo), landmarks)[0]))
    return made


def family_truth(name: str, photo: Any, landmarks: Any) -> Any:
    """Return a photo as a family draws it, [1, 3, 128, 128] in [-1, 1]."""
    import torch
    from torch.nn import functional as F

    from benchmarks.families import drawn
    from data.images import to_tensor

    points = landmarks(to_tensor(photo, 128)).points[0].double().numpy()
    picture = to_tensor(photo, 256)[0].permute(1, 2, 0).double().numpy() / 2.0 + 0.5  # [1, 3, S, S] -> [S, S, 3]
    made = torch.from_numpy(drawn(name, picture, points, seed=len(name))).permute(2, 0, 1)[None].float() * 2.0 - 1.0
    return F.interpolate(made, size=(128, 128), mode="area")


def variety(codes: Any) -> float:
    """Return the mean distance of any two codes [N, D]."""
    import torch

    return float(torch.nn.functional.pdist(codes).mean())


def run(args: Namespace) -> int:
    import torch

    from checkpoints.features import load_face_id
    from data.grids import grid
    from data.images import list_images, read_image, save_image, to_tensor
    from losses.identity import IdentityLoss
    from pipeline.stylize import InversionSettings, build_stylizer
    from styles.controls import FileValue
    from training.pretrain.teacher import SqueezeNetTeacher, feature_distance

    device = cli.resolve_device(args.device)
    stylizer = build_stylizer(args.style, inversion=InversionSettings(args.inversion), align=False, device=device)
    style, teacher = stylizer.style, SqueezeNetTeacher(args.teacher).to(device)
    identity = IdentityLoss(load_face_id(device=device).module)
    photos = list_images(args.photos)
    with torch.no_grad():
        pictures = (list_images(args.styles) if args.styles is not None
                    else family_pictures(photos, args.output / "styles", style.reader.landmarks))
    photos = photos[0 if args.styles is not None else len(pictures):][:args.count]
    looks = [style.default_look().changed(style_image=FileValue.read(path)) for path in pictures]
    start = time.monotonic()
    style.prepare(looks[0])
    seconds = {"first_picture_with_loading": time.monotonic() - start}
    start = time.monotonic()
    for look in looks[1:]:
        style.prepare(look)
    seconds["picture"] = (time.monotonic() - start) / max(len(looks) - 1, 1)
    size, rows, drawing, facts = stylizer.size, [], 0.0, []
    with torch.no_grad():
        references = torch.cat([to_tensor(read_image(path), size) for path in pictures]).to(device)
        of = {"encoder": style.encoder(references), "gram": grams(teacher, references)}
        for path in photos:
            image = read_image(path)
            photo, face = to_tensor(image, size).to(device), stylizer.invert(image)
            start = time.monotonic()
            drawn = torch.cat([style.draw(face, look).clamp(-1.0, 1.0) for look in looks])
            drawing += (time.monotonic() - start) / (len(looks) * len(photos))
            found = {"encoder": style.encoder(drawn), "gram": grams(teacher, drawn)}
            own = torch.arange(len(looks), device=device)
            distances = {name: torch.cdist(found[name], of[name]) for name in of}
            before = (grams(teacher, photo) - of["gram"]).norm(dim=1)
            facts.append({
                **{f"nearest_by_{name}": (values.argmin(dim=1) == own).float().mean() for name, values in distances.items()},
                "gram_share": (distances["gram"].diagonal() / before).mean(),
                "identity": (identity.embed(drawn) - identity.embed(photo)).norm(dim=1).mean()})
            if args.styles is None:
                truth = torch.cat([family_truth(path.stem, image, style.reader.landmarks) for path in pictures])
                to = teacher(truth)
                facts[-1]["truth_share"] = (feature_distance(teacher(drawn), to) / feature_distance(
                    teacher(photo.expand_as(truth)), to)).mean()
                facts[-1]["identity_of_truth"] = (identity.embed(truth) - identity.embed(photo)).norm(dim=1).mean()
                facts[-1]["gram_share_of_truth"] = ((grams(teacher, truth) - of["gram"]).norm(dim=1) / before).mean()
            steps = [torch.cat([style.draw(face, look.changed(strength=strength, color_strength=strength)).clamp(-1.0, 1.0)
                                for look in looks[:5]]) for strength in STRENGTHS]
            away = torch.stack([(identity.embed(images) - identity.embed(photo)).norm(dim=1) for images in steps])
            facts[-1] |= {f"identity_at_{strength:g}": values.mean() for strength, values in zip(STRENGTHS, away, strict=True)}
            facts[-1]["monotone_in_strength"] = (away.diff(dim=0) > 0).all(dim=0).float().mean()
            random = torch.cat([style.draw(face, style.default_look().changed(style_seed=seed)).clamp(-1.0, 1.0)
                                for seed in range(len(looks))])
            facts[-1]["variety_of_random"] = variety(style.encoder(random)) / variety(of["encoder"])
            facts[-1]["variety_of_drawn"] = variety(found["encoder"]) / variety(of["encoder"])
            rows.append([photo[0], *drawn])
    figures = {name: round(float(sum(row[name] for row in facts) / len(facts)), 3) for name in facts[0]}
    cells = [[torch.ones_like(references[0]), *references], *rows]
    save_image(args.output / "sheet.png", grid([list(column) for column in zip(*cells, strict=True)], cell=96))
    print(json.dumps({"photos": len(photos), "styles": len(pictures), **figures,
                      "seconds": {**{name: round(value, 2) for name, value in seconds.items()}, "drawing": round(drawing, 3)}}))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
