"""Figures on the base generator: Frechet distance, faces found, inversion of held-out photos."""

from __future__ import annotations

from typing import Any

import dlib
import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from benchmarks.quality_common import BATCH, Bench, Results, floor, progress, resized
from benchmarks.quality_math import frechet_distance, point_error
from data.grids import grid
from data.images import save_image, to_pil
from pipeline.perceptual import inversion_objective
from pipeline.stylize import InversionSettings
from training.inversion import invert

INVERSION = InversionSettings()  # as inference.py does
FACE_SIDE = 400
CHUNK = 8


def measure_fd(bench: Bench, results: Results) -> dict[str, Any]:
    """Compare samples (psi 1) with the training faces by Frechet's distance of pooled features.

    Beside it: the same distance between the photos and the synthetic faces of the pack, the yardstick, and between two
    random halves of the training faces, which is the part that comes from finite numbers alone.
    """
    settings, pack = bench.settings, bench.pack
    count = settings.count(2000, 300)
    fakes, shown = [], []
    for batch in bench.samples(count, psi=1.0, seed=settings.seed):
        fakes.append(bench.pooled(batch))
        shown += list(batch.cpu()) if len(shown) < 48 else []
    limit = settings.count(len(pack.names), 300)
    index = torch.randperm(len(pack.names), generator=torch.Generator().manual_seed(settings.seed))[:limit]
    real = torch.cat([bench.pooled(bench.photos(part)) for part in progress(index.split(BATCH), "photos")])
    train = set(pack.split()[0].tolist())
    in_train = torch.tensor([int(i) in train for i in index])
    is_photo = torch.tensor([pack.names[int(i)].startswith("photo_") for i in index])
    value = frechet_distance(torch.cat(fakes), real[in_train])
    half = int(in_train.sum()) // 2
    spread = frechet_distance(real[in_train][:half], real[in_train][half:])
    found: dict[str, Any] = {"samples": count, "fd": value, "fd_halves_of_training_faces": spread}
    photos, synthetic = real[is_photo], real[~is_photo]
    if min(len(photos), len(synthetic)) > 1:
        yardstick = frechet_distance(photos, synthetic)
        found |= {"fd_photos_synthetic": yardstick, "fd_over_yardstick": floor(value / yardstick, most=4.0)}
    some = bench.photos(bench.held[:len(shown)])
    found["diversity_over_photos"] = bench.diversity(torch.stack(shown).to(bench.device)) / bench.diversity(some)
    rows = [shown[i:i + 8] for i in range(0, min(len(shown), 48), 8)]
    save_image(settings.outdir / "fd.png", grid(rows, cell=128))
    return found


def count_faces(detector: dlib.fhog_object_detector, image: Tensor) -> int:
    """Return how many faces dlib finds in one image [3, S, S] enlarged to ``FACE_SIDE`` px, searched at twice that."""
    picture = to_pil(image).resize((FACE_SIDE, FACE_SIDE), Image.Resampling.BILINEAR)
    return len(detector(np.asarray(picture), 1))


def measure_faces(bench: Bench, results: Results) -> dict[str, Any]:
    """Return the share of samples (psi 0.7) with exactly one face, beside that of the held-out photos."""
    settings, detector = bench.settings, dlib.get_frontal_face_detector()
    count = settings.count(500, 24)
    hits, pictures = [], []
    for batch in bench.samples(count, psi=0.7, seed=settings.seed + 1):
        for image in batch.cpu():
            hits.append(count_faces(detector, image) == 1)
            pictures.append(image)
    photos = bench.photos(bench.held[:settings.count(200, 8)]).cpu()
    real = np.mean([count_faces(detector, image) == 1 for image in photos])
    # Those without a face come first, framed, because they say what is wrong.
    order = sorted(range(count), key=lambda i: hits[i])[:48]
    cells = [to_pil(pictures[i]).resize((128, 128)) for i in order]
    cells = [cell if hits[i] else ImageOps.expand(cell.resize((116, 116)), 6, "red")
             for cell, i in zip(cells, order, strict=True)]
    save_image(settings.outdir / "faces.png", grid([cells[i:i + 8] for i in range(0, len(cells), 8)], cell=128))
    return {"samples": count, "one_face": floor(float(np.mean(hits)), least=0.95), "one_face_in_photos": float(real)}


def inversion_facts(bench: Bench, photos: Tensor, images: Tensor, *, unit: float) -> dict[str, list[float]]:
    """Return per photo the L1, the perceptual distance in units of ``unit`` and the landmark distance in % of eyes."""
    truth = bench.landmarks(photos)
    return {"l1": (images - photos).abs().mean(dim=(1, 2, 3)).tolist(),
            "perceptual": (bench.perceptual(images, photos) / unit).tolist(),
            "landmarks": point_error(bench.landmarks(images), truth).tolist()}


def invert_chunk(bench: Bench, photos: Tensor, *, unit: float, optimise: bool) -> tuple[dict[str, Any], list[Tensor]]:
    """Invert photos [N, 3, S, S]; return the facts of each way and the images of each."""
    base, encoder = bench.base, bench.encoder
    with torch.no_grad():
        w_plus = encoder.module(resized(photos, encoder.input_size)) + encoder.latent_avg
    ways = {"e4e": w_plus}
    if optimise:
        ways["optimised"] = invert(photos, base.generator, w_init=w_plus, objective=inversion_objective(bench.device),
                                   **(INVERSION.schedule() | {"steps": bench.settings.count(INVERSION.steps, 5)})).w_plus
    with torch.no_grad():
        noise = base.generator.fixed_noise()
        images = [base.generator.synthesis(w, noise=noise).clamp(-1.0, 1.0) for w in ways.values()]
    facts = {way: inversion_facts(bench, photos, image, unit=unit) for way, image in zip(ways, images, strict=True)}
    return facts, images


def measure_inversion(bench: Bench, results: Results) -> dict[str, Any]:
    """Invert the held-out photos by the encoder alone, and some of them with optimisation steps on top."""
    settings = bench.settings
    index = bench.held[:settings.count(200, 8)]
    optimised = settings.count(32, 4)
    every = bench.photos(index)
    unit = bench.diversity(every)
    parts = []
    for number, start in enumerate(progress(range(0, len(index), CHUNK), "inversion")):
        photos = every[start:start + CHUNK]

        def make(photos: Tensor = photos, start: int = start) -> dict[str, Any]:
            facts, images = invert_chunk(bench, photos, unit=unit, optimise=start < optimised)
            if start < optimised:
                rows = [list(photos.cpu()), *(list(image.cpu()) for image in images)]
                labels = ["photo", "e4e", "optimised"]
                save_image(settings.outdir / f"inversion_{start // CHUNK}.png", grid(rows, cell=128, row_labels=labels))
            return facts

        parts.append(results.get(f"inversion/{number:02d}", make))
    figures: dict[str, Any] = {"mean_distance_between_photos": unit}
    for way, most in (("e4e", 0.5), ("optimised", 0.35)):
        rows = [part[way] for part in parts if way in part]
        mean = {name: float(np.mean([v for row in rows for v in row[name]])) for name in rows[0]}
        figures[way] = {"photos": sum(len(row["l1"]) for row in rows), "l1": mean["l1"],
                        "perceptual": floor(mean["perceptual"], most=most),
                        "landmarks_percent": floor(mean["landmarks"], most=6.0)}
    return figures
