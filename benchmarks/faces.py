"""How many faces are found, and how near their landmarks and parts are to the truth, by mesh and by dlib.

``python -m benchmarks.faces --photos FOLDER --labels landmarks68.npz`` prints one JSON line per figure, and last the floors.
Photos are held-out ``photo_*`` of FFHQ crops at 256 px; landmarks of turned and shrunk photos are compared with the reading of
the upright one, those of drawings with the labels moved by the drawings' own warps; all errors are means of 68 points in eye
distances. The pictures without a face, the drawings and the parts that are known are of ``benchmarks.face_pictures``.
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

from benchmarks.face_pictures import contours, drawn, drawn_contours, things
from data.images import list_images, read_image, to_tensor
from data.landmarks68 import eye_distance
from faces.find import FaceFinder
from faces.mesh import square
from faces.parts import PARTS, face_parts
from pipeline import cli
from training.pretrain.faces import held_out_names

ANGLES = (0, 15, 30, 45, 60, 90, 135, 180)
SHARES = (1.0, 0.5, 0.25, 0.125)
GREY, BIG, FAR = (110, 110, 110), 4000, 0.15
# Faces narrower than this in px, and parts of fewer px of a picture of 512 px, are not asked for.
LEAST_WIDTH, LEAST_PART = 60, 2000
Figures = list[dict]


def parse(argv: Sequence[str] | None) -> Namespace:
    parser = cli.ArgumentParser(prog="benchmarks.faces", description=__doc__)
    parser.add_argument("--photos", type=Path, required=True, help="folder of aligned faces")
    parser.add_argument("--labels", type=Path, required=True, help="npz: names [N], landmarks [N, 68, 2] in px of 256")
    parser.add_argument("--pictures", type=Path, nargs="*", default=[], help="folders of artworks, each with one face")
    parser.add_argument("--finders", choices=("mesh", "dlib", "both"), default="both", help="what is measured")
    parser.add_argument("--count", type=cli.positive_int, default=100, help="photos that are turned, and faces that are drawn")
    parser.add_argument("--large", type=cli.positive_int, default=10, help="photos in pictures of 4000 px, at each size")
    parser.add_argument("--only", choices=("finding", "parts"), default=None, help="one half of it")
    return parser.parse_args(argv)


def summary(errors: list[float]) -> dict[str, float]:
    """Return shares found and far off, and the mean error of what was found; NaN stands for a face that was missed."""
    found = np.array([error for error in errors if not math.isnan(error)])
    return {"found": round(len(found) / len(errors), 3), "error": round(float(found.mean()), 4) if len(found) else None,
            "far": round(float((found > FAR).mean()), 3) if len(found) else None, "of": len(errors)}


def nearest(finder: FaceFinder, image: Image.Image, truth: np.ndarray) -> float:
    """Return the error of the face that lies where the true landmarks [68, 2] are, or NaN where none does."""
    unit = float(eye_distance(truth))
    errors = [float(np.linalg.norm(face.landmarks - truth, axis=1).mean()) / unit for face in finder.find(image)
              if np.linalg.norm(face.landmarks.mean(axis=0) - truth.mean(axis=0)) < unit]
    return min(errors, default=math.nan)


def turned(finder: FaceFinder, photos: list[Image.Image]) -> Figures:
    """Return how photos on a grey canvas of 512 px are found at each angle."""
    canvases = [Image.new("RGB", (512, 512), GREY) for _ in photos]
    for canvas, photo in zip(canvases, photos, strict=True):
        canvas.paste(photo, (128, 128))
    upright, figures = [finder.find(canvas) for canvas in canvases], []
    for angle in ANGLES:
        _, across, down = square(np.zeros(2), 1.0, -angle, 1)
        errors = []
        for canvas, faces in zip(canvases, upright, strict=True):
            image = canvas.rotate(angle, Image.Resampling.BICUBIC, fillcolor=GREY)
            errors.append(nearest(finder, image, (faces[0].landmarks - 255.5) @ np.stack([across, down]) + 255.5)
                          if faces else math.nan)
        figures.append({"angle": angle, **summary(errors)})
    return figures


def shrunk(finder: FaceFinder, photos: list[Image.Image]) -> Figures:
    """Return how photos of 512 px are found, at shares of their size, in pictures of 4000 px."""
    figures = []
    for share in SHARES:
        errors, widths = [], []
        for number, photo in enumerate(photos):
            photo, rng = photo.resize((512, 512), Image.Resampling.BICUBIC), np.random.default_rng(number)
            upright, side = finder.find(photo), round(512 * share)
            if not upright:
                errors.append(math.nan)
                continue
            place = rng.integers(0, [BIG - side, 3000 - side])
            canvas = Image.new("RGB", (BIG, 3000), GREY)
            canvas.paste(photo.resize((side, side), Image.Resampling.LANCZOS), tuple(place.tolist()))
            errors.append(nearest(finder, canvas, (upright[0].landmarks + 0.5) * share - 0.5 + place))
            widths.append(upright[0].width * share)
        figures.append({"share": share, "width": round(float(np.mean(widths))) if widths else None, **summary(errors)})
    return figures


def spent(finder: FaceFinder, photo: Image.Image) -> dict:
    """Return the milliseconds, least and middle of 30 times, for a photo of 1000 px with one face of 500 px."""
    canvas = Image.new("RGB", (1000, 1000), GREY)
    canvas.paste(photo.resize((900, 900), Image.Resampling.BICUBIC), (50, 50))
    times = []
    for _ in range(31):
        start = time.perf_counter()
        finder.find(canvas)
        times.append(1e3 * (time.perf_counter() - start))
    return {"milliseconds": round(min(times[1:]), 1), "median": round(float(np.median(times[1:])), 1)}


def finding(kind: str, args: Namespace, held: list[tuple[Image.Image, np.ndarray]]) -> Figures:
    """Return what one finder does."""
    finder, photos = FaceFinder(kind), [photo for photo, _ in held]
    figures = turned(finder, photos) + shrunk(finder, photos[:args.large]) + [spent(finder, photos[0])]
    pictures = things()
    figures.append({"things": len(pictures), "false_faces": sum(len(finder.find(picture)) for picture in pictures)})
    figures.append({"photos_by_labels": summary([nearest(finder, photo, points) for photo, points in held])})
    made = [drawn(photo, points / 256.0, seed)[1:] for seed, (photo, points) in enumerate(held)]
    figures.append({"drawn": summary([nearest(finder, picture, points) for picture, points in made])})
    for folder in args.pictures:
        found = [bool(finder.find(read_image(path))) for path in list_images(folder)]
        figures.append({"artworks": folder.name, "found": round(float(np.mean(found)), 3), "of": len(found)})
    return [{"finder": kind, **figure} for figure in figures]


def shares(finder: FaceFinder, picture: Image.Image, truth: np.ndarray) -> list[float]:
    """Return the intersection over union, by part, of a picture's parts and the true ones [S, S]; NaN for absent parts."""
    told = face_parts(to_tensor(picture, picture.width), [face.mesh for face in finder.find(picture)])[0].argmax(dim=0).numpy()
    both = [((told == part) & (truth == part)).sum() / ((told == part) | (truth == part)).sum().clip(1)
            for part in range(len(PARTS))]
    return [float(share) if (truth == part).sum() > LEAST_PART else math.nan for part, share in enumerate(both)]


def parts(args: Namespace) -> Figures:
    """Return how near parts are to those outlined by hand, on photos and on 30 drawings of them."""
    finder, outlined = FaceFinder(), []
    rows = {"photos": [], "drawings": []}
    for name, picture, truth in contours(args.photos):
        rows["photos"].append(shares(finder, picture, truth))
        if name.startswith("photo_"):
            outlined.append((picture, truth, finder.find(picture)[0].landmarks))
    rows["drawings"] = [shares(finder, picture, truth) for picture, truth in drawn_contours(outlined, 30)]
    return [{"parts_of": what, "of": len(values), **dict(zip(PARTS, np.nanmean(values, axis=0).round(3).tolist(), strict=True)),
             "medians": np.nanmedian(values, axis=0).round(3).tolist()} for what, values in rows.items()]


def floors(figures: Figures) -> dict[str, bool]:
    """Return which floors the mesh finder and the parts keep."""
    ours = [figure for figure in figures if figure.get("finder") == "mesh"]
    placed = [f for f in ours if "angle" in f or ("share" in f and f["width"] >= LEAST_WIDTH)]
    told = [figure for figure in figures if "parts_of" in figure]
    kept = {}
    if ours:
        kept["found >= .98, far <= .02"] = all(f["found"] >= 0.98 and f["far"] <= 0.02 for f in placed)
        kept["no false face"] = not any(figure.get("false_faces") for figure in ours)
        kept["<= 60 ms"] = all(figure["milliseconds"] <= 60.0 for figure in ours if "milliseconds" in figure)
        kept["drawn: found >= .95, error <= .05"] = all(f["drawn"]["found"] >= 0.95 and f["drawn"]["error"] <= 0.05
                                                       for f in ours if "drawn" in f)
        kept["artworks: found >= .95"] = all(figure["found"] >= 0.95 for figure in ours if "artworks" in figure)
    for part, floor in (("hair", 0.85), ("background", 0.95), ("skin", 0.93)) if told else ():
        kept[f"{part} >= {floor}"] = all(figure[part] >= floor for figure in told)
    return kept


def run(args: Namespace) -> int:
    with np.load(args.labels) as table:
        rows = {Path(str(name)).stem: points.astype(np.float64)
                for name, points in zip(table["names"], table["landmarks"], strict=True)}
    names = sorted(held_out_names(list(rows)))[:args.count]
    held = [(read_image(args.photos / f"{name}.jpg"), rows[name]) for name in names]
    figures = []
    for kind in ("mesh", "dlib") if args.finders == "both" else (args.finders,):
        if args.only != "parts":
            figures += finding(kind, args, held)
    if args.only != "finding":
        figures += parts(args)
    for figure in figures:
        print(json.dumps(figure))
    print(json.dumps({"floors": floors(figures)}))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
