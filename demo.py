#!/usr/bin/env python3
"""Show everything on this machine in minutes: train on the bundled pair, then draw a photo, samples and a sweep."""

from __future__ import annotations

import html
import os
import shutil
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from pipeline import cli
from training.config import PROFILES

ROOT = Path(__file__).parent
STYLE = "demo"
READY = ("cartoon", "ink", "vangogh")  # bundled styles that restyle the photo too
# Inputs are named from the root of the project, as README does.
PAIR = ROOT / "data" / "style_images_aligned"


def parse(argv: Sequence[str] | None) -> Namespace:
    parser = cli.ArgumentParser(prog="demo.py", description=__doc__)
    parser.add_argument("--source", type=Path, default=PAIR / "source_sample.png", help="real face of the pair")
    parser.add_argument("--target", type=Path, default=PAIR / "target_sample.png", help="drawn face of the pair")
    parser.add_argument("--num_iter", type=cli.positive_int, default=PROFILES["starter"]["iterations"],
                        help="training steps of the transformers")
    parser.add_argument("--photo", type=Path, default=None, help="photo to draw; default is scikit-image's astronaut")
    cli.add_common(parser)
    return parser.parse_args(argv)


def astronaut(path: Path) -> Path:
    """Write the public-domain portrait of scikit-image and return its path."""
    from PIL import Image
    from skimage.data import astronaut as pixels

    from data.images import save_image

    save_image(path, Image.fromarray(pixels()))
    return path


def call(name: str, script: Sequence[str], main) -> float:  # noqa: ANN001
    """Run one script as a user would type it and return its seconds; raises UserError when it fails."""
    print(f"\n$ python {name} {' '.join(script)}", flush=True)
    start = time.monotonic()
    code = main(list(script))
    if code:
        raise cli.UserError(f"{name}: ended with code {code}; see the lines above")
    return time.monotonic() - start


def last_sheet(folder: Path) -> list[Path]:
    """Return the last contact sheet and the plot of the losses of a training, those that are there."""
    return sorted(folder.glob("sheet_*.png"))[-1:] + sorted(folder.glob("loss*.png"))


def figure(outdir: Path, title: str, text: str, files: Sequence[Path]) -> str:
    """Return one section of the page."""
    images = "".join(f'<img src="{html.escape(str(f.relative_to(outdir)))}" alt="{html.escape(f.stem)}">' for f in files)
    return f"<section><h2>{html.escape(title)}</h2><p>{html.escape(text)}</p>{images}</section>"


def write_page(outdir: Path, sections: Sequence[str], seconds: dict[str, float]) -> Path:
    """Write ``index.html`` and return its path."""
    times = "".join(f"<tr><td>{html.escape(k)}</td><td>{v:.0f} s</td></tr>" for k, v in seconds.items())
    page = (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>One-shot face stylization</title><style>"
        "body{font:16px/1.5 system-ui,sans-serif;max-width:1100px;margin:2rem auto;padding:0 1rem;color:#222}"
        "img{max-width:100%;margin:.3rem;border-radius:4px}td{padding:0 1rem 0 0}</style></head><body>"
        "<h1>One-shot face stylization</h1><p>Everything below was made on this machine by the bundled starter "
        f"weights.</p>{''.join(sections)}<section><h2>Time</h2><table>{times}</table></section></body></html>"
    )
    path = outdir / "index.html"
    from checkpoints import atomic_write

    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def run(args: Namespace) -> int:
    import deformation_control
    import generate_samples
    import inference
    import train

    outdir = args.outdir or Path("outputs/demo")
    cli.ensure_dir(outdir)
    for name in ("pair", "training", "inference", "samples", "sweep", "checkpoints"):
        shutil.rmtree(outdir / name, ignore_errors=True)
    os.environ["CHECKPOINTS_DIR"] = str(outdir / "checkpoints")
    pair = [outdir / "pair" / "source.png", outdir / "pair" / "target.png"]
    pair[0].parent.mkdir(parents=True)
    for source, copy in zip((args.source, args.target), pair, strict=True):
        if not source.is_file():
            raise cli.UserError(f"{source}: not found; check the path")
        shutil.copyfile(source, copy)
    photo = args.photo or astronaut(outdir / "inference" / "astronaut.png")
    machine = ["--device", args.device, "--dtype", args.dtype]
    seconds = {}
    seconds["training"] = call("train.py", [
        "--style", STYLE, "--source", str(pair[0]), "--target", str(pair[1]), "--num_iter", str(args.num_iter),
        "--outdir", str(outdir / "training"), "--seed", str(args.seed), *machine], train.main)
    for alpha in ("0", "1"):
        seconds[f"drawing a photo, alpha {alpha}"] = call("inference.py", [
            "--style", STYLE, "--input_image", str(photo), "--alpha", alpha, "--cache", str(outdir / "inference/latents"),
            "--output", str(outdir / "inference" / f"alpha{alpha}"), *machine], inference.main)
    for style in READY:
        seconds[f"drawing a photo, style {style}"] = call("inference.py", [
            "--style", style, "--input_image", str(photo), "--cache", str(outdir / "inference/latents"),
            "--output", str(outdir / "inference" / style), *machine], inference.main)
    seconds["samples"] = call("generate_samples.py", [
        "--style", STYLE, "--n_each", "6", "--output", str(outdir / "samples"), *machine],
        generate_samples.main)
    seconds["sweep"] = call("deformation_control.py", [
        "--style", STYLE, "--n_each", "1", "--split", "4", "--animate", "gif", "--frames", "8",
        "--output", str(outdir / "sweep"), *machine],
        deformation_control.main)
    sections = [
        figure(outdir, "The pair", "One real face and the same face as drawn: larger eyes, narrower jaw, wider mouth.", pair),
        figure(outdir, "Training of the deformation", "Base faces above, deformed ones below at alpha 0, 0.5, 1; then the terms.",
               last_sheet(outdir / "training")),
        figure(outdir, "The style", "The drawing; random faces above, and drawn after it below.",
               [outdir / "training" / "drawn.png"]),
        figure(outdir, "A photo", "Drawn at alpha 0 and at alpha 1.", sorted((outdir / "inference").glob("alpha*/*_*.[pj]*g"))),
        figure(outdir, "Ready styles", f"The same photo in styles that come with the project: {', '.join(READY)}.",
               [path for style in READY for path in sorted((outdir / "inference" / style).glob("*_*.[pj]*g"))]),
        figure(outdir, "Samples", "Random faces above, stylized ones below.", sorted((outdir / "samples").glob("*.png"))),
        figure(outdir, "Deformation", "The strength alpha from -0.5 to 1.2.",
               sorted((outdir / "sweep").glob("*.png")) + sorted((outdir / "sweep").glob("*.gif"))),
    ]
    page = write_page(outdir, sections, seconds)
    print(f"\nDone. Open {page.resolve()}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
