"""How many faces are found, and how near their landmarks and parts are to the truth, by mesh and by dlib.

``python -m benchmarks.faces --photos FOLDER --labels landmarks68.npz`` prints one JSON line per figure. Photos are held-out
``photo_*`` of FFHQ crops at 256 px; landmarks of turned and shrunk photos are compared with the reading of the upright one, those
of drawings with the labels moved by the drawings' own warps; all errors are means of 68 points in eye distances.
"""

from __future__ import annotations

import json
import math
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from faces.find import FaceFinder
from faces.mesh import square
from pipeline import cli

ANGLES = (0, 15, 30, 45, 60, 90, 135, 180)
SHARES = (1.0, 0.5, 0.25, 0.125)
GREY, BIG, FAR = (110, 110, 110), 4000, 0.15
# Pictures of scikit-image without a face.
THINGS = ("brick", "chelsea", "clock", "coffee", "coins", "colorwheel", "grass", "gravel", "horse", "hubble_deep_field",
          "immunohistochemistry", "moon", "page", "retina", "rocket", "text")


def parse(argv: Sequence[str] | None) -> Namespace:
    parser = cli.ArgumentParser(prog="benchmarks.faces", description=__doc__)
    parser.add_argument("--photos", type=Path, required=True, help="folder of aligned faces")
    parser.add_argument("--labels", type=Path, required=True, help="npz: names [N], landmarks [N, 68, 2] in px of 256")
    parser.add_argument("--pictures", type=Path, default=None, help="folder of artworks, each with one face")
    parser.add_argument("--finders", choices=("mesh", "dlib", "both"), default="both", help="what is measured")
    parser.add_argument("--count", type=cli.positive_int, default=100, help="photos that are turned")
    parser.add_argument("--large", type=cli.positive_int, default=10, help="photos in pictures of 4000 px, at each size")
    parser.add_argument("--drawn", type=cli.positive_int, default=40, help="drawn faces")
    return parser.parse_args(argv)


def eyes(points: np.ndarray) -> float:
    from data.landmarks68 import eye_distance

    return float(eye_distance(points))


def summary(errors: list[float]) -> dict[str, float]:
    """Return shares found and far off, and the mean error of what was found; NaN stands for a face that was missed."""
    found = np.array([error for error in errors if not math.isnan(error)])
    return {"found": round(len(found) / len(errors), 3), "error": round(float(found.mean()), 4) if len(found) else None,
            "far": round(float((found > FAR).mean()), 3) if len(found) else None, "of": len(errors)}


def nearest(finder: FaceFinder, image: Image.Image, truth: np.ndarray) -> float:
    """Return the error of the face that lies where the true landmarks [68, 2] are, or NaN where none does."""
    unit = eyes(truth)
    errors = [float(np.linalg.norm(face.landmarks - truth, axis=1).mean()) / unit for face in finder.find(image)
              if np.linalg.norm(face.landmarks.mean(axis=0) - truth.mean(axis=0)) < unit]
    return min(errors, default=math.nan)


def turned(finder: FaceFinder, photos: list[Image.Image], angle: float) -> dict:
    """Return how photos on a grey canvas of 512 px are found when they are turned."""
    errors, spent = [], []
    for photo in photos:
        canvas = Image.new("RGB", (512, 512), GREY)
        canvas.paste(photo, (128, 128))
        upright = finder.find(canvas)
        if not upright:
            errors.append(math.nan)
            continue
        _, across, down = square(np.zeros(2), 1.0, -angle, 1)
        truth = (upright[0].landmarks - 255.5) @ np.stack([across, down]) + 255.5
        image = canvas.rotate(angle, Image.Resampling.BICUBIC, fillcolor=GREY)
        start = time.perf_counter()
        errors.append(nearest(finder, image, truth))
        spent.append(time.perf_counter() - start)
    return summary(errors) | {"milliseconds": round(1e3 * float(np.median(spent)), 1) if spent else None}


def shrunk(finder: FaceFinder, photos: list[Image.Image], share: float) -> dict:
    """Return how photos of 512 px are found, at a share of their size, in a picture of 4000 px."""
    errors, widths, spent = [], [], []
    for number, photo in enumerate(photos):
        photo, rng = photo.resize((512, 512), Image.Resampling.BICUBIC), np.random.default_rng(number)
        upright = finder.find(photo)
        if not upright:
            errors.append(math.nan)
            continue
        side = round(512 * share)
        place = rng.integers(0, [BIG - side, 3000 - side])
        canvas = Image.new("RGB", (BIG, 3000), GREY)
        canvas.paste(photo.resize((side, side), Image.Resampling.LANCZOS), tuple(place.tolist()))
        start = time.perf_counter()
        errors.append(nearest(finder, canvas, (upright[0].landmarks + 0.5) * share - 0.5 + place))
        spent.append(time.perf_counter() - start)
        widths.append(upright[0].width * share)
    return summary(errors) | {"width": round(float(np.mean(widths))), "milliseconds": round(1e3 * float(np.median(spent)), 1)}


def things() -> list[Image.Image]:
    """Return pictures without a face, whole and in quarters."""
    import skimage.data

    found = []
    for name in THINGS:
        try:
            picture = Image.fromarray(np.uint8(getattr(skimage.data, name)())).convert("RGB")
        except (AttributeError, OSError, ModuleNotFoundError, TypeError):  # those that come by download only
            continue
        width, height = picture.size
        halves = [(x, y, x + width // 2, y + height // 2) for x in (0, width // 2) for y in (0, height // 2)]
        found += [picture, *(picture.crop(half).resize((512, 512), Image.Resampling.BICUBIC) for half in halves)]
    return found


def drawn(args: Namespace, held: list[tuple[Image.Image, np.ndarray]]) -> list[tuple[np.ndarray, Image.Image, np.ndarray]]:
    """Return (sampling grid from the photo, drawing of 256 px, its landmarks in px) of held-out faces, deformed."""
    import torch

    from data.images import to_tensor
    from data.looks import LOOKS
    from data.random_drawings import drawing
    from data.warps import backward_grid

    made = []
    for seed, (photo, points) in enumerate(held[:args.drawn]):
        look = LOOKS[sorted(LOOKS)[seed % len(LOOKS)]]
        picture, moved = drawing(to_tensor(photo, 256), points / 256.0, look, seed=seed)
        grid = torch.as_tensor(backward_grid(points / 256.0, moved, 256)).float()
        made.append((grid, Image.fromarray(np.uint8(picture * 255.0 + 0.5)), moved * 256.0))
    return made


def agreement(faces: FaceFinder, photo: Image.Image, grid, picture: Image.Image) -> list[float]:  # noqa: ANN001
    """Return the intersection over union, by part, of a photo's parts in the drawing's shape and of those of the drawing."""
    from torch.nn import functional as F

    from data.images import to_tensor
    from faces.parts import face_parts

    maps = [face_parts(to_tensor(image, 256), [face.mesh for face in faces.find(image)]) for image in (photo, picture)]
    first = F.grid_sample(maps[0], grid, padding_mode="reflection", align_corners=False).argmax(dim=1)
    second = maps[1].argmax(dim=1)
    shares = []
    for part in range(4):
        one, other = first == part, second == part
        union = float((one | other).sum())
        shares.append(float((one & other).sum()) / union if union > 200 else math.nan)
    return shares


def run(args: Namespace) -> int:
    from data.images import list_images, read_image
    from training.pretrain.faces import held_out_names

    with np.load(args.labels) as table:
        rows = {Path(str(name)).stem: points.astype(np.float64)
                for name, points in zip(table["names"], table["landmarks"], strict=True)}
    held = [(read_image(args.photos / f"{name}.jpg"), rows[name]) for name in sorted(held_out_names(list(rows)))]
    photos, made = [photo for photo, _ in held], drawn(args, held)
    for kind in ("mesh", "dlib") if args.finders == "both" else (args.finders,):
        finder = FaceFinder(kind)
        for angle in ANGLES:
            print(json.dumps({"finder": kind, "angle": angle, **turned(finder, photos[:args.count], angle)}), flush=True)
        for share in SHARES:
            print(json.dumps({"finder": kind, "share": share, **shrunk(finder, photos[:args.large], share)}), flush=True)
        pictures = things()
        wrong = sum(len(finder.find(picture)) for picture in pictures)
        print(json.dumps({"finder": kind, "things": len(pictures), "false_faces": wrong}), flush=True)
        labels = [nearest(finder, photo, points) for photo, points in held[:args.count]]
        print(json.dumps({"finder": kind, "photos_by_labels": summary(labels)}), flush=True)
        errors = [nearest(finder, picture, points) for _, picture, points in made]
        print(json.dumps({"finder": kind, "drawn": summary(errors)}), flush=True)
        if args.pictures:
            found = [bool(finder.find(read_image(path))) for path in list_images(args.pictures)]
            print(json.dumps({"finder": kind, "artworks": len(found), "found": round(float(np.mean(found)), 3)}), flush=True)
        if kind == "mesh":
            shares = np.array([agreement(finder, photo, grid, picture)
                               for photo, (grid, picture, _) in zip(photos, made, strict=False)])
            named = dict(zip(("skin", "hair", "background", "rest"), np.nanmean(shares, axis=0).round(3).tolist(), strict=True))
            print(json.dumps({"parts_of_photo_and_drawing_agree": named}), flush=True)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
