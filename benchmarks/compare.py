"""``python -m benchmarks.compare --pairs FOLDER --photos FOLDER``: this project beside other ways to draw after one drawing.

Every method gets the same pairs (sourceNAME and targetNAME, aligned) and the same photos: ``colour`` (Reinhard's colour
transfer), ``jojogan`` (the starter fine-tuned on the drawing, rows of the encoder), ``published`` (train.py --profile
published), ``ours`` (train.py's defaults), all drawn by what users call. Each runs in a process of its own, so that its time
and memory are its own; what is done is kept, and the same command goes on. Writes ``table.md`` and ``sheet.png``.

lpips and identity are distances to the photo; look and frechet (features at all places of one image) are distances to the
drawing over the photo's own; alike is how much drawings of different people share their edges.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline import cli

METHODS = ("colour", "jojogan", "published", "ours")
FIGURES = ("lpips", "identity", "look", "frechet", "alike", "training_s", "photo_s", "memory_mb")


def parse(argv: Sequence[str] | None) -> Namespace:
    words = list(sys.argv[1:] if argv is None else argv)
    mark = words.index("--") if "--" in words else len(words)
    parser = cli.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__,
                                epilog="options after -- go to train.py for published and ours")
    parser.add_argument("--pairs", type=Path, required=True, help="folder of pairs sourceNAME and targetNAME, aligned")
    parser.add_argument("--names", default=None, help="which pairs, NAME,NAME; all if not given")
    parser.add_argument("--photos", type=Path, required=True, help="folder of photos; the largest face of each is taken")
    parser.add_argument("--count", type=cli.positive_int, default=8, help="photos")
    parser.add_argument("--methods", default=",".join(METHODS), help="which, separated by commas")
    parser.add_argument("--steps", type=cli.positive_int, default=300, help="of JoJoGAN")
    parser.add_argument("--size", type=cli.image_side, default=256, help="side in px at which drawings are compared")
    parser.add_argument("--outdir", type=Path, default=Path("outputs/compare"), help="folder of results")
    parser.add_argument("--one", default=None, metavar="METHOD:PAIR", help="do one piece of work in this process")
    args = parser.parse_args(words[:mark])
    args.training, args.words = words[mark + 1:], words[:mark]
    args.methods = args.methods.split(",")
    if unknown := [name for name in args.methods if name not in METHODS]:
        parser.error(f"argument --methods: there is no {unknown[0]!r}; choose from {', '.join(METHODS)}")
    return args


def pairs(args: Namespace) -> dict[str, tuple[Path, Path]]:
    """Return source and target of the pairs by name; raises UserError where one lacks its target or is not there."""
    from data.images import list_images

    found = {}
    for source in list_images(args.pairs):
        if source.name.startswith("source"):
            target = source.with_name("target" + source.name.removeprefix("source"))
            if not target.is_file():
                raise cli.UserError(f"{target}: not found; every source needs its target beside it")
            found[source.stem.removeprefix("source")] = source, target
    names = args.names.split(",") if args.names else list(found)
    if missing := [name for name in names if name not in found]:
        raise cli.UserError(f"--names {missing[0]}: there is no such pair; {args.pairs} has {', '.join(found) or 'none'}")
    return {name: found[name] for name in names}


def photos(args: Namespace) -> list[Path]:
    """Align the photos once and return the files."""
    from data.images import list_images, read_image, save_image
    from faces.find import face_aligner

    made = []
    aligner = None
    for path in list_images(args.photos)[:args.count]:
        made.append(args.outdir / "photos" / f"{path.stem}.png")
        if not made[-1].is_file():
            aligner = aligner or face_aligner(512)
            save_image(made[-1], aligner(read_image(path), str(path)))
    return made


def draw_colour(args: Namespace, source: Path, target: Path, faces: Sequence[Path]) -> tuple[float, list[Any]]:
    """Return the seconds of training, none here, and the drawings of aligned photos."""
    from benchmarks.baselines import colour_transfer
    from data.images import read_image, to_tensor

    drawing = to_tensor(read_image(target), args.size)
    return 0.0, [colour_transfer(to_tensor(read_image(path), args.size), drawing) for path in faces]


def draw_jojogan(args: Namespace, source: Path, target: Path, faces: Sequence[Path]) -> tuple[float, list[Any]]:
    """Likewise by a starter that was fine-tuned on the drawing."""
    import torch
    from tqdm import tqdm

    from benchmarks.baselines import jojogan
    from checkpoints.builders import load_base
    from checkpoints.features import load_encoder
    from data.images import read_image, to_tensor

    base, encoder = load_base(with_discriminator=True), load_encoder()

    @torch.no_grad()
    def rows(path: Path) -> torch.Tensor:
        return encoder.module(to_tensor(read_image(path), encoder.input_size)) + encoder.latent_avg

    start = time.monotonic()
    with tqdm(total=args.steps, desc="jojogan") as bar:
        generator = jojogan(base, rows(target), to_tensor(read_image(target), base.generator.config.size), steps=args.steps,
                            progress=lambda step: bar.update())
    seconds = time.monotonic() - start
    with torch.no_grad():
        return seconds, [generator.synthesis(rows(path), noise=generator.fixed_noise()) for path in faces]


def draw_trained(args: Namespace, source: Path, target: Path, faces: Sequence[Path], *, profile: str) -> tuple[float, list[Any]]:
    """Likewise by a style of ``train.py``, drawn as ``inference.py`` draws."""
    import train
    from data.images import read_image
    from pipeline.stylize import build_stylizer

    name = f"{profile}_{source.stem.removeprefix('source')}"
    start = time.monotonic()
    if train.main(["--style", name, "--source", str(source), "--target", str(target), "--overwrite", "--profile", profile,
                   "--outdir", str(args.outdir / "runs" / name), "--sheet_every", "0", *args.training]):
        raise cli.UserError(f"train.py could not train {name}; see above")
    seconds = time.monotonic() - start
    stylizer = build_stylizer(name, align=False)
    look = stylizer.style.default_look()
    stylizer.style.prepare(look)
    return seconds, [stylizer.stylize(read_image(path), look=look).result for path in faces]


DRAW = {"colour": draw_colour, "jojogan": draw_jojogan,
        "published": lambda *a: draw_trained(*a, profile="published"), "ours": lambda *a: draw_trained(*a, profile="auto")}


def work(args: Namespace, method: str, name: str) -> int:
    """Draw all photos after one drawing by one method, and write the pictures, times and memory."""
    from torch.nn import functional as F

    from benchmarks.measure import peak_rss_mb
    from checkpoints.io import atomic_write
    from data.images import save_image

    folder, faces = args.outdir / f"{method}_{name}", photos(args)
    start = time.monotonic()
    training, drawn = DRAW[method](args, *pairs(args)[name], faces)
    each = (time.monotonic() - start - training) / len(faces)
    for path, image in zip(faces, drawn, strict=True):
        if image.shape[3] != args.size:
            image = F.interpolate(image, size=(args.size, args.size), mode="bicubic", antialias=True)
        save_image(folder / path.name, image.clamp(-1, 1))
    with atomic_write(folder / "facts.json") as temporary:
        temporary.write_text(json.dumps({"training_s": training, "photo_s": each, "memory_mb": peak_rss_mb()}))
    return 0


def done(args: Namespace, method: str, name: str) -> Path:
    """Return the folder of one method's drawings after one pair; does the work in a process of its own where it is not done."""
    import os

    folder = args.outdir / f"{method}_{name}"
    if not (folder / "facts.json").is_file():
        command = [sys.executable, "-m", "benchmarks.compare", *args.words, "--one", f"{method}:{name}", "--", *args.training]
        environment = {**os.environ, "CHECKPOINTS_DIR": str((args.outdir / "styles").resolve())}
        if subprocess.run(command, env=environment).returncode:
            raise cli.UserError(f"{method} failed on the pair {name}; the same command goes on")
    return folder


def table(rows: dict[str, dict[str, float]]) -> str:
    """Return figures by method as a Markdown table."""
    head = ["method", "LPIPS to photo", "identity", "look", "Frechet", "alike", "training, s", "a photo, s", "memory, MB"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for method, row in rows.items():
        cells = [f"{row[name]:.0f}" if name in ("training_s", "memory_mb") else f"{row[name]:.3f}" for name in FIGURES]
        lines.append("| " + " | ".join([method, *cells]) + " |")
    return "\n".join(lines) + "\n"


def run(args: Namespace) -> int:
    cli.ensure_dir(args.outdir)
    if args.one:
        return work(args, *args.one.split(":", 1))
    import numpy as np
    import torch

    from benchmarks.judged import Judges, alike, judge
    from checkpoints.io import atomic_write
    from data.grids import grid
    from data.images import read_image, save_image, to_tensor

    judges, faces, chosen = Judges.load(), photos(args), pairs(args)
    shown = torch.cat([to_tensor(read_image(path), args.size) for path in faces])
    figures: dict[str, list[dict[str, float]]] = {method: [] for method in args.methods}
    sheet = []
    for name, (source, target) in chosen.items():
        drawing = to_tensor(read_image(target), args.size)
        sheet.append([read_image(source), drawing[0], *shown[:6]])
        for method in args.methods:
            folder = done(args, method, name)
            drawn = torch.cat([to_tensor(read_image(folder / path.name), args.size) for path in faces])
            figures[method].append(judge(judges, shown, drawn, drawing) | json.loads((folder / "facts.json").read_text()))
            sheet.append([torch.ones_like(drawing[0]), torch.ones_like(drawing[0]), *drawn[:6]])
    means = {method: {key: float(np.mean([row[key] for row in rows])) for key in FIGURES} for method, rows in figures.items()}
    save_image(args.outdir / "sheet.png", grid(sheet, cell=128, row_labels=["pair, photos", *args.methods] * len(chosen)))
    text = table(means) + (f"\n{len(chosen)} pairs, {len(faces)} photos, compared at {args.size} px; the photos' own alike is "
                           f"{alike(shown):.3f}.\n")
    with atomic_write(args.outdir / "table.md") as temporary:
        temporary.write_text(text)
    print(text)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
