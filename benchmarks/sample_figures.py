"""The figures of ``benchmarks.samples``; distances and shares are means, and photos are the held-out ones of the pack."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import dlib
import lpips
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from benchmarks.judged import frechet
from checkpoints.builders import load_base, load_encoder
from checkpoints.features import load_face_id, load_landmark_net
from data.grids import grid
from data.images import save_image, to_pil
from losses.identity import IdentityLoss
from models.face import Face
from models.residual_encoder import residual_of
from pipeline.sampling import base_faces, batches, default_truncation, shown, undeformed
from training.pretrain.faces import FacePack, is_photo_name
from training.pretrain.teacher import SqueezeNetTeacher

STEP = 20
SHEET = 64
# Of the heads of LPIPS, those at the taps of ``training.pretrain.teacher``.
HEADS = (0, 1, 2, 6)
DRAWS = 8  # of as many training faces as there are held-out ones
PIXELS = 32  # side at which faces are compared by pixels
FACE_SIDE = 400  # px at which dlib looks for faces, twice as large


def progress(items: Iterable[Any], text: str) -> Iterable[Any]:
    """Show a bar on stderr over a loop."""
    return tqdm(items, desc=text, mininterval=2.0, file=sys.stderr)


def resized(image: Tensor, size: int) -> Tensor:
    """Return images [N, 3, S, S] at ``size`` px, antialiased."""
    if image.shape[3] == size:
        return image
    return F.interpolate(image, size=(size, size), mode="bicubic", antialias=True, align_corners=False).clamp(-1.0, 1.0)


def point_error(found: Tensor, truth: Tensor) -> Tensor:
    """Return the mean distance of points [N, 68, 2] to the true ones in % of the true eye distance, [N]."""
    eyes = truth[:, 36:42].mean(dim=1) - truth[:, 42:48].mean(dim=1)
    return (found - truth).norm(dim=2).mean(dim=1) / eyes.norm(dim=1) * 100.0


def count_faces(detector: dlib.fhog_object_detector, image: Tensor) -> int:
    """Return how many faces dlib finds in one image [3, S, S] enlarged to ``FACE_SIDE`` px, searched at twice that."""
    picture = to_pil(image).resize((FACE_SIDE, FACE_SIDE), Image.Resampling.BILINEAR)
    return len(detector(np.asarray(picture), 1))


def edges(image: Tensor) -> Tensor:
    """Return |grad g| of the grey values g of images [N, 3, S, S] by differences of neighbours, [N, (S - 1)^2]."""
    grey = image.mean(dim=1)
    across, down = grey[:, 1:, 1:] - grey[:, 1:, :-1], grey[:, 1:, 1:] - grey[:, :-1, 1:]
    return (across.square() + down.square()).sqrt().flatten(1)


def alike(image: Tensor) -> float:
    """Return the mean correlation of the edge maps of different images of [N, 3, S, S], N at least 2."""
    if image.ndim != 4 or len(image) < 2:
        raise ValueError(f"expected at least two images [N, 3, S, S], got {list(image.shape)}")
    maps = edges(image)
    maps = maps - maps.mean(dim=1, keepdim=True)
    maps = maps / maps.norm(dim=1, keepdim=True).clamp(min=1e-12)
    count = len(maps)
    return float(((maps @ maps.T).sum() - maps.square().sum()) / (count * (count - 1)))


def mean_distance(rows: Tensor) -> float:
    """Return the mean Euclidean distance between different rows of [N, D]."""
    return float(torch.pdist(rows).mean())


def nearest(rows: Tensor, others: Tensor) -> float:
    """Return the mean distance of rows [N, D] to the nearest of others [M, D]."""
    return float(torch.cdist(rows, others).amin(dim=1).mean())


class SampleBench:
    """Networks, samples and photos, made when first asked for."""

    def __init__(self, args: Namespace) -> None:
        self.args, self.base = args, load_base(args.base)
        self.size = self.base.generator.config.size
        self.psi = default_truncation(self.base) if args.truncation is None else args.truncation
        self.teacher = SqueezeNetTeacher(args.teacher)
        self.pack = FacePack.load(args.data)
        self.train, self.held = self.pack.split()

    def drawn(self, count: int, seed: int) -> Tensor:
        """Return samples 0..count - 1 of a seed as they are shown, [count, 3, S, S]."""
        found = [shown(self.base, base_faces(self.base, seed, indices, truncation_psi=self.psi)).clamp(-1.0, 1.0)
                 for indices in progress(list(batches(count, STEP)), "samples")]
        return torch.cat(found)

    @cached_property
    def few(self) -> Tensor:
        """Samples for all figures but the Frechet distance."""
        return self.drawn(self.args.few, self.args.seed + 1)

    def photos(self, index: Tensor) -> Tensor:
        """Return faces of the pack as they are."""
        return self.pack.batch(index)

    @cached_property
    def held_out(self) -> Tensor:
        return self.photos(self.held[:self.args.few])

    @cached_property
    def identity(self) -> Callable[[Tensor], Tensor]:
        loss = IdentityLoss(load_face_id().module)
        return torch.no_grad()(lambda image: torch.cat([loss.embed(part) for part in progress(image.split(STEP), "identity")]))

    @cached_property
    def heads(self) -> list[Tensor]:
        """Weights [C] of LPIPS for the channels of every tap."""
        path = Path(lpips.__file__).parent / "weights" / "v0.1" / "squeeze.pth"
        state = torch.load(path, weights_only=True, map_location="cpu")
        return [state[f"lin{number}.model.1.weight"].flatten() for number in HEADS]

    @torch.no_grad()
    def pooled(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the last map [N, 512], and all maps weighted as LPIPS weighs them [N, D], averaged over positions."""
        last, weighted = [], []
        for part in image.split(STEP):
            taps = self.teacher(resized(part, self.size))
            last.append(taps[-1].mean(dim=(2, 3)))
            weighted.append(torch.cat([
                (tap / (tap.norm(dim=1, keepdim=True) + 1e-6)).mean(dim=(2, 3)) * head.sqrt()
                for tap, head in zip(taps, self.heads, strict=True)], dim=1))
        return torch.cat(last), torch.cat(weighted)


def measure_sheet(bench: SampleBench) -> dict[str, str]:
    """Write samples, and as many photos."""
    paths = {}
    for name, images in (("samples", bench.few), ("photos", bench.held_out)):
        path = bench.args.outdir / f"{name}.png"
        shown_ones = list(images[:SHEET])
        save_image(path, grid([shown_ones[i:i + 8] for i in range(0, len(shown_ones), 8)], cell=images.shape[3]))
        paths[name] = path.name
    return paths


def measure_fd(bench: SampleBench) -> dict[str, float]:
    """Compare samples with the training faces by Frechet's distance, and photos with the synthetic ones of the pack.

    Both by pooled SqueezeNet features at the generator's side, plain and weighted as LPIPS does.
    """
    args = bench.args
    fakes = [bench.pooled(bench.drawn(len(part), args.seed + 10 + number)) for number, part in enumerate(
        torch.arange(args.count).split(500))]
    order = torch.randperm(len(bench.pack.names), generator=torch.Generator().manual_seed(args.seed))
    real = [bench.pooled(bench.photos(part)) for part in progress(order.split(STEP), "photos")]
    train = set(bench.train.tolist())
    in_train = torch.tensor([int(i) in train for i in order])
    is_photo = torch.tensor([is_photo_name(bench.pack.names[int(i)]) for i in order])
    found: dict[str, float] = {"samples": args.count}
    for kind, name in enumerate(("squeezenet", "lpips")):
        fake, all_real = (torch.cat([part[kind] for part in parts]) for parts in (fakes, real))
        found[name] = frechet(fake, all_real[in_train])
        if 1 < int(is_photo.sum()) < len(is_photo) - 1:
            found[f"{name}_reference"] = frechet(all_real[is_photo], all_real[~is_photo])
            found[f"{name}_over_reference"] = found[name] / found[f"{name}_reference"]
    return found


def measure_alike(bench: SampleBench) -> dict[str, float]:
    """Return the correlation of edge maps between different faces at the generator's side."""
    return {name: alike(resized(images, bench.size)) for name, images in (("samples", bench.few), ("photos", bench.held_out))}


def measure_identity(bench: SampleBench) -> dict[str, float]:
    """Return the mean distance of embeddings between different faces."""
    return {name: mean_distance(bench.identity(images)) for name, images in (
        ("samples", bench.few), ("photos", bench.held_out))}


def measure_faces(bench: SampleBench) -> dict[str, float]:
    """Return the share in which dlib finds exactly one face."""
    detector = dlib.get_frontal_face_detector()
    return {name: float(np.mean([count_faces(detector, image) == 1 for image in progress(images, "faces")])) for name, images in (
        ("samples", bench.few), ("photos", bench.held_out))}


def measure_nearest(bench: SampleBench) -> dict[str, float]:
    """Return how near samples come to training photos, over how near they come to as many held-out ones; 1 is no memory."""
    photos = torch.tensor([int(i) for i in bench.train if is_photo_name(bench.pack.names[int(i)])])
    rng = torch.Generator().manual_seed(bench.args.seed)
    found = {}
    for name, describe in (("identity", bench.identity), ("pixels", lambda image: resized(image, PIXELS).flatten(1))):
        rows, held = describe(bench.few), describe(bench.held_out)
        known = describe(bench.photos(photos))
        draws = [nearest(rows, known[torch.randperm(len(known), generator=rng)[:len(held)]]) for _ in range(DRAWS)]
        found[f"{name}_training"], found[f"{name}_held_out"] = float(np.mean(draws)), nearest(rows, held)
        found[f"{name}_ratio"] = found[f"{name}_training"] / found[f"{name}_held_out"]
    return found


@torch.no_grad()
def measure_inversion(bench: SampleBench) -> dict[str, float]:
    """Invert held-out photos feed-forward; compare the base's images, and those enlarged to twice the side, with them."""
    base, encoder, finder = bench.base, load_encoder(), load_landmark_net().module
    rows: dict[str, list[float]] = {}
    sheet: list[list[Tensor]] = []
    for part in progress(bench.held[:bench.args.few].split(8), "inversions"):
        photo = bench.photos(part)
        small = resized(photo, encoder.input_size)
        w_plus = encoder.module(small) + encoder.latent_avg
        residual = None if base.residual is None else residual_of(base.residual, base.generator, small, w_plus)
        plain = undeformed(base, Face(w_plus, residual)).clamp(-1.0, 1.0)
        person = bench.identity(photo)
        truth = finder(small).points
        for name, image in (("base", plain), ("enlarged", base.enlarge(plain))):
            facts = {"identity": (bench.identity(image) - person).norm(dim=1),
                     "l1": (image - resized(photo, image.shape[3])).abs().mean(dim=(1, 2, 3)),
                     "landmarks": point_error(finder(resized(image, bench.size)).points, truth)}
            for key, values in facts.items():
                rows.setdefault(f"{name}_{key}", []).extend(values.tolist())
        if len(sheet) < 8:
            sheet.append([*photo[:3], *plain[:3], *image[:3]])
    save_image(bench.args.outdir / "inversion.png", grid(sheet, cell=2 * bench.size))
    return {name: float(np.mean(values)) for name, values in rows.items()}
