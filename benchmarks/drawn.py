"""``python -m benchmarks.drawn``: what is drawn after pairs: side, look, likeness, detail, parts, random faces.

``look`` and ``alike`` depend on what is in the picture, not only on how it is drawn: Gram matrices on the shares of hair, skin
and background, edges on whether the background has any. So ``look by part`` compares each part with the drawing's, and ``plain
alike`` is that of the photos themselves, moved as the drawing moves them, before a plain background.

For every pair of a folder (sourceNAME, targetNAME) a style is trained by ``train.py`` with its defaults, unless it is there from
before; then aligned photos and random faces are drawn with it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.judged import Judges, grams, part_grams
from benchmarks.sample_figures import alike
from data.images import list_images, read_image, save_image, to_pil, to_tensor
from drawing.compose import maps_of, normalised
from drawing.context import aligned_mesh, read_context
from drawing.pyramids import resized
from drawing.reading import LEAST_SCORE
from drawing.style import FRAME
from drawing.warp import warped
from faces.parts import BACKGROUND, HAIR, PARTS, SKIN
from losses.identity import IdentityLoss
from pipeline.sampling import random_faces
from pipeline.stylize import Stylizer, build_stylizer
from styles.drawn import strengths
from styles.registry import load_style

ROOT = Path(__file__).parent.parent
SAMPLES, SEED = 16, 11
# A pixel belongs to the part that is more than this of it, and a part with less than that share of a picture is not there.
MOST, LEAST = 0.5, 0.02


def train(name: str, source: Path, target: Path, work: Path) -> Path:
    """Return the file of the style of a pair, trained where it is not there yet."""
    file = work / f"{name}.safetensors"
    if not file.is_file():
        command = [sys.executable, str(ROOT / "train.py"), "--style", name, "--source", str(source), "--target", str(target),
                   "--outdir", str(work / "runs" / name), "--overwrite", "--force"]
        subprocess.run(command, check=True, env={**os.environ, "CHECKPOINTS_DIR": str(work)})
    return file


def fine_detail(image: Tensor) -> float:
    """Return the deviation of what is finer than 1 px of lightness, image - blur (binomial, [1, 4, 6, 4, 1] / 16 both ways)."""
    light = image.mean(dim=1, keepdim=True)
    taps = light.new_tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16.0
    smooth = torch.nn.functional.conv2d(light, taps.view(1, 1, 1, 5), padding=(0, 2))
    smooth = torch.nn.functional.conv2d(smooth, taps.view(1, 1, 5, 1), padding=(2, 0))
    return float((light - smooth)[..., 2:-2, 2:-2].std())


def overlap(first: Tensor, second: Tensor) -> float:
    """Return the intersection of two maps [1, H, W] over their union, of pixels above ``MOST``; NaN where both are empty."""
    one, other = first > MOST, second > MOST
    union = (one | other).sum()
    return float((one & other).sum() / union) if union else float("nan")


def without_background(photo: Tensor, parts: Tensor) -> Tensor:
    """Return a photo [1, 3, H, W] of parts [1, K, H, W] before the mean of its background."""
    weight = parts[:, BACKGROUND:BACKGROUND + 1]
    mean = (photo * weight).sum(dim=(2, 3), keepdim=True) / weight.sum().clamp_min(1.0)
    return torch.lerp(photo, mean, weight)


def identities(loss: IdentityLoss, first: Tensor, second: Tensor) -> Tensor:
    """Return the identity distance of every image of one set to every one of another, [N, M]."""
    return torch.tensor([[float(loss(a, b)) for b in second.split(1)] for a in first.split(1)])


@torch.no_grad()
def measure(stylizer: Stylizer, drawing: Tensor, photos: Tensor, judges: Judges) -> tuple[dict[str, float], Tensor, Tensor]:
    """Return figures of one style, the drawn photos [N, 3, S, S] and the drawn random faces [M, 3, S, S]."""
    style, look = stylizer.style, stylizer.style.default_look()
    made, plain, by_part, parts = [], [], [], {HAIR: [], SKIN: [], BACKGROUND: []}
    drawn = read_context(drawing).parts
    goal = part_grams(judges.features, drawing, drawn)
    for photo in photos.split(1):
        face = stylizer.stylize(to_pil(photo), look=look)
        made.append(face.result)
        context = face.face.known[0]
        grid, _ = maps_of(context.points, style.drawn, strengths(look, context.mesh))
        wanted, found = normalised(warped(context.parts, grid)), read_context(face.result).parts[0]
        for part, values in parts.items():
            values.append(overlap(wanted[0, part], found[part]))
        plain.append(without_background(warped(photo, grid), wanted))
        both = torch.minimum(drawn.mean(dim=(2, 3)), wanted.mean(dim=(2, 3)))[0] > LEAST
        near, far = ((part_grams(judges.features, *each) - goal).norm(dim=1)[both]
                     for each in ((face.result, wanted), (photo, context.parts)))
        by_part.append(near / far)
    made = torch.cat(made)
    samples = torch.cat([style.draw(random_faces(style, SEED, [i], truncation_psi=1.0), look) for i in range(SAMPLES)])
    wanted = grams(judges.features, drawing)
    near, far = ((torch.cat([grams(judges.features, one) for one in images.split(1)]) - wanted).norm(dim=1)
                 for images in (made, photos))
    distances = identities(judges.identity, made, photos)
    base = torch.cat([random_faces(style, SEED, [i], truncation_psi=1.0).photo for i in range(SAMPLES)])
    figures = {
        "side": made.shape[3], "look": float((near / far).mean()), "look by part": float(torch.cat(by_part).mean()),
        "alike": alike(resized(made, (128, 128))), "photos alike": alike(resized(photos, (128, 128))),
        "plain alike": alike(resized(torch.cat(plain), (128, 128))), "identity": float(distances.diagonal().mean()),
        "nearest": float((distances.argmin(dim=1) == torch.arange(len(made))).float().mean()),
        "detail": sum(map(fine_detail, made.split(1))) / len(made) / fine_detail(drawing),
        "samples alike": alike(resized(samples, (128, 128))), "base alike": alike(resized(base, (128, 128))),
        "faces": sum(aligned_mesh(one)[1] >= LEAST_SCORE for one in samples.split(1))}
    figures |= {f"{PARTS[part]} IoU": float(torch.tensor(values).nanmean()) for part, values in parts.items()}
    return figures, made, samples


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=Path, required=True, help="folder of sourceNAME and targetNAME, aligned")
    parser.add_argument("--photos", type=Path, required=True, help="folder of aligned photos")
    parser.add_argument("--count", type=int, default=12, help="photos that are drawn")
    parser.add_argument("--outdir", type=Path, default=Path("outputs/drawn"), help="folder of styles and sheets")
    args = parser.parse_args(argv)
    photos = torch.cat([to_tensor(read_image(path), FRAME) for path in list_images(args.photos)[:args.count]])
    sources = sorted(path for path in list_images(args.pairs) if path.stem.startswith("source"))
    args.outdir.mkdir(parents=True, exist_ok=True)
    judges, stylizer = Judges.load(), None
    for source in sources:
        name = source.stem.removeprefix("source")
        target = next(path for path in list_images(args.pairs) if path.stem == f"target{name}")
        file = train(f"pair{name}", source, target, args.outdir)
        stylizer = stylizer or build_stylizer(str(file), align=False)
        stylizer.style = load_style(file)
        drawing = to_tensor(read_image(target), FRAME)
        figures, made, samples = measure(stylizer, drawing, photos, judges)
        print(name, "  ".join(f"{key} {value:.3g}" for key, value in figures.items()), flush=True)
        lines = (photos, made, samples[:len(photos)])
        rows = [torch.cat([drawing, each], dim=0).permute(1, 2, 0, 3).flatten(2) for each in lines]
        width = min(row.shape[2] for row in rows)
        save_image(args.outdir / f"pair{name}.png", torch.cat([row[..., :width] for row in rows], dim=1)[None])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
