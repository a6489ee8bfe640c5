"""``python -m benchmarks.pairs``: train on many pairs, artists' and made ones, and look whether any style folds or breaks down.

Made pairs show faces of the generator in the looks of ``data.looks``, deformed up to twice as strongly as those are. Every run
is trained by ``train.py`` with its defaults (options after ``--`` go there), measured and shown on a sheet; what is done is
kept, and the same command goes on. Prints one JSON line.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import Namespace
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from pipeline import cli

ROOT = Path(__file__).parent.parent
DEGREES = (-0.5, 0.6, 1.0, 1.2)
# Strength of a made pair's warp where it does not fold, from the first pair to the last.
WEAKEST, STRONGEST = 1.0, 2.0
PSI, SEED = 0.7, 77


def parse(argv: Sequence[str] | None) -> Namespace:
    words = list(sys.argv[1:] if argv is None else argv)
    mark = words.index("--") if "--" in words else len(words)
    parser = cli.ArgumentParser(prog="python -m benchmarks.pairs", description=__doc__)
    parser.add_argument("--pairs", type=Path, default=None, help="folder of pairs sourceNAME and targetNAME, aligned")
    parser.add_argument("--made", type=cli.non_negative_int, default=26, help="number of made pairs")
    parser.add_argument("--seeds", type=cli.positive_int, default=2, help="trainings of each pair")
    parser.add_argument("--samples", type=cli.positive_int, default=16, help="random faces that are drawn by each style")
    parser.add_argument("--outdir", type=Path, default=Path("outputs/pairs"), help="folder of results and sheets")
    parser.add_argument("--keep", action="store_true", help="keep the trained styles")
    args = parser.parse_args(words[:mark])
    args.training = words[mark + 1:]
    return args


def made_pair(number: int, count: int, folder: Path) -> tuple[str, Path, Path]:
    """Draw a made pair and return its name and files."""
    import numpy as np
    from torch.nn import functional as F

    from checkpoints.builders import load_base
    from data.images import save_image
    from data.looks import LOOKS, draw_look
    from data.make_portraits import find_landmarks
    from data.random_drawings import LEAST_AREA
    from data.sample_pairs import SIDE
    from data.warps import backward_grid, least_area
    from faces.find import FaceFinder
    from pipeline.sampling import base_images

    look = list(LOOKS)[number % len(LOOKS)]
    name = f"{number:02d}_{look}"
    paths = folder / f"source{name}.png", folder / f"target{name}.png"
    if all(path.is_file() for path in paths):
        return name, *paths
    image = base_images(load_base("starter"), SEED + 1, [number], truncation_psi=PSI)
    image = F.interpolate(image, size=(SIDE, SIDE), mode="bicubic", antialias=True).clamp(-1.0, 1.0)
    points, most = find_landmarks(FaceFinder(), image), WEAKEST + (STRONGEST - WEAKEST) * number / max(1, count - 1)
    for strength in np.linspace(most, 0.0, 9):
        if least_area(backward_grid(points, LOOKS[look].warp.scaled(strength).displace(points), 64)) > LEAST_AREA:
            break
    for path, picture in zip(paths, (image, draw_look(look, image, points, strength=float(strength))), strict=True):
        save_image(path, picture)
    return name, *paths


def every_pair(args: Namespace) -> list[tuple[str, Path, Path]]:
    """Return name, source and target of all pairs.

    Raises:
        UserError: for a source without its target.
    """
    from data.images import list_images

    found = []
    for source in list_images(args.pairs) if args.pairs is not None else ():
        if source.name.startswith("source"):
            target = source.with_name("target" + source.name.removeprefix("source"))
            if not target.is_file():
                raise cli.UserError(f"{target}: not found; every source needs its target beside it")
            found.append((source.stem.removeprefix("source"), source, target))
    return found + [made_pair(number, args.made, args.outdir / "pairs") for number in range(args.made)]


def trained(name: str, source: Path, target: Path, seed: int, args: Namespace) -> tuple[Path, int, str]:
    """Run ``train.py``; return the style's file, its exit code and what it printed last."""
    from training.state import STATE_FILE

    run = args.outdir / "runs" / name
    again = "--resume" if (run / STATE_FILE).exists() else "--overwrite"
    command = [sys.executable, str(ROOT / "train.py"), "--style", name, "--source", str(source), "--target", str(target),
               "--outdir", str(run), "--seed", str(seed), again, *args.training]
    environment = {**os.environ, "CHECKPOINTS_DIR": str(args.outdir / "styles")}
    done = subprocess.run(command, env=environment, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    if done.returncode < 0:
        raise cli.UserError(f"{name}: train.py was stopped; the same command goes on with it")
    return args.outdir / "styles" / f"{name}.safetensors", done.returncode, done.stderr.strip().splitlines()[-1:]


def figures(path: Path, source: Path, target: Path, sheet: Path, count: int) -> dict[str, Any]:
    """Measure a style on random faces, and write them as a sheet: for every degree a row."""
    import numpy as np
    import torch

    from data.grids import grid
    from data.images import read_image, save_image, to_pil, to_tensor
    from data.warps import least_area
    from faces.find import FaceFinder
    from models.sampling_grids import composed
    from pipeline.sampling import random_faces
    from styles.registry import load_style

    style, finder, shown = load_style(path, device=torch.device("cpu")), FaceFinder(), []
    faces, look = random_faces(style, SEED, list(range(count)), truncation_psi=PSI), style.default_look(samples=True)
    found, least, grain = {}, np.inf, []

    def rough(images: torch.Tensor) -> torch.Tensor:
        """Return the mean change from pixel to pixel of images [N, 3, S, S], [N]."""
        return sum(images.clamp(-1.0, 1.0).diff(dim=axis).abs().mean(dim=(1, 2, 3)) for axis in (2, 3))

    with torch.no_grad():
        rows = style.colored(faces.w_plus, look.get("color_strength"))
        for alpha in DEGREES:
            images = style.draw(faces, look.changed(alpha=alpha)).clamp(-1.0, 1.0)
            drawing, passed = to_tensor(read_image(target), images.shape[3]), []
            style.deformable.synthesis(rows, alpha=alpha, noise=style.deformable.generator.fixed_noise(), passed=passed)
            least = min([least] + [least_area(one[None]) for one in (composed(passed, 64) if passed else ())])
            pictures = [to_pil(image) for image in images]
            found[f"{alpha:g}"] = sum(bool(finder.find(picture)) for picture in pictures)
            grain.append(float((rough(images) / rough(drawing)).max()))
            shown.append([read_image(source), read_image(target), *pictures[:8]])
    save_image(sheet, grid(shown, cell=128, row_labels=[f"{alpha:g}" for alpha in DEGREES]))
    return {"least_determinant": round(float(least), 4), "faces_found": found, "roughest_to_drawing": round(max(grain), 3)}


def run(args: Namespace) -> int:
    cli.ensure_dir(args.outdir)
    results = args.outdir / "results.jsonl"
    lines = results.read_text().splitlines() if results.is_file() else []
    done = {row["run"]: row for row in map(json.loads, lines)}
    runs = [(f"{name}_{seed}", seed, source, target)
            for seed, (name, source, target) in product(range(args.seeds), every_pair(args))]
    for name, seed, source, target in runs:
        if name in done:
            continue
        path, code, last = trained(name, source, target, seed, args)
        row: dict[str, Any] = {"run": name, "exit_code": code, "said": " ".join(last)[:200] if code else ""}
        if path.is_file():
            row |= figures(path, source, target, args.outdir / f"sheet_{name}.png", args.samples)
            if not args.keep:
                path.unlink()
        with open(results, "a") as file:
            file.write(json.dumps(row) + "\n")
        done[name] = row
        cli.report(f"{name}: {json.dumps(row)}")
    rows = [done[name] for name, *_ in runs]
    measured = [row for row in rows if "least_determinant" in row]
    print(json.dumps({
        "runs": len(rows), "failed": sum(row["exit_code"] != 0 for row in rows),
        "least_determinant": min((row["least_determinant"] for row in measured), default=None),
        "faces_found": {f"{alpha:g}": sum(row["faces_found"][f"{alpha:g}"] for row in measured) for alpha in DEGREES},
        "faces": args.samples * len(measured),
        "roughest_to_drawing": max((row["roughest_to_drawing"] for row in measured), default=None)}))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
