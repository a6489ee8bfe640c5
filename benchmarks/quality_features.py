"""Figures on the networks that look at faces: correspondence of the transformer, landmark errors."""

from __future__ import annotations

from typing import Any

import dlib
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.quality_common import BATCH, Bench, Results, floor, marked, progress
from benchmarks.quality_math import nearest_token, point_error, token_centres
from checkpoints.features import landmarks_path
from data.filters import box_blur, hatch, ink, match_colour, paint, posterize
from data.grids import grid
from data.images import save_image, to_pil
from data.warps import Caricature, deform
from models.dino import DinoFeatures, ViTConfig, build_vit
from training.pretrain.landmark_predictor import TEST_ROLL, mean_error

# The four known warps of the deformation figure too.
WARPS = {
    "big_eyes": Caricature(eyes=1.7),
    "narrow_jaw_wide_mouth": Caricature(jaw=0.75, mouth=1.35),
    "long_face": Caricature(length=1.16),
    "small_eyes_wide_nose": Caricature(eyes=0.65, nose=1.6),
}
LAYERS = (11, 5)
SHOWN = (8, 30, 36, 45, 48, 54)


def drawn(image: Tensor, number: int, reference: Tensor) -> Tensor:
    """Draw one photo [1, 3, S, S] in the medium ``number`` mod 3: painting, hatched ink, few tones in other colours."""
    if number % 3 == 0:
        return paint(image, radius=3, levels=8)
    if number % 3 == 1:
        one = image.new_ones(1, 1, 1, 1)
        grey = image.mean(dim=1, keepdim=True).expand_as(image)
        return ink(hatch(grey, period=4.0 * one, angle=0.8 * one, amount=0.7 * one), 0.8).clamp(-1.0, 1.0)
    return posterize(box_blur(match_colour(image, reference.flip(1)), 1), 5).clamp(-1.0, 1.0)


def warped_drawings(bench: Bench, images: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Return a drawn and warped version of each photo and where its landmarks went; known warps in turn."""
    drawings, moved = [], []
    for number, (image, marks) in enumerate(zip(images, points, strict=True)):
        warp = list(WARPS.values())[number % len(WARPS)]
        bent = deform(image[None], marks.numpy(), warp).clamp(-1.0, 1.0)
        drawings.append(drawn(bent, number // len(WARPS), images[number - 1:number] if number else images[-1:]))
        moved.append(torch.from_numpy(warp.displace(marks.numpy())).float())
    return torch.cat(drawings), torch.stack(moved)


def raw_patches(image: Tensor, patch: int) -> Tensor:
    """Return the pixels of every patch as a token, [N, (S / patch)^2, 3 patch^2]."""
    return F.unfold(image, patch, stride=patch).transpose(1, 2)


@torch.no_grad()
def vit_tokens(vit: DinoFeatures, image: Tensor) -> dict[int, Tensor]:
    """Return the tokens [N, T, D] of ``LAYERS`` that the fine-tuning losses compare, on the CPU."""
    parts = [vit.tokens(part, layers=LAYERS, facets="f") for part in image.split(BATCH)]
    return {layer: torch.cat([part["f", layer].float().cpu() for part in parts]) for layer in LAYERS}


def untrained(vit: DinoFeatures) -> DinoFeatures:
    """Return a transformer of the same shape with random weights."""
    model, size = vit.vit, vit.image_size
    patch = model.patch_embed.patch_size[0]
    config = ViTConfig(img_size=size, patch_size=patch, embed_dim=model.embed_dim, depth=len(model.blocks),
                       num_heads=model.blocks[0].attn.num_heads)
    return DinoFeatures(build_vit(config), size).to(next(model.parameters()).device)


def measure_correspondence(bench: Bench, results: Results) -> dict[str, Any]:
    """Look up each landmark of a photo in its drawn and warped version by the nearest token.

    The error is in % of the eye distance; ``best_possible`` is what the centre of the right token would give. Beside
    the transformer: the pixels of its patches, and a transformer of the same shape with random weights.
    """
    index = bench.labelled[:bench.settings.count(200, 12)]
    images, points = bench.photos(index, size=bench.vit.image_size).cpu(), bench.pack.landmarks[index]
    drawings, moved = warped_drawings(bench, images, points)
    side = bench.vit.image_size // bench.vit.vit.patch_embed.patch_size[0]
    cell = (moved * side).floor().clamp(0, side - 1).long()
    figures: dict[str, Any] = {"photos": len(index), "best_possible": float(
        point_error(token_centres(cell[..., 1] * side + cell[..., 0], side), moved).mean())}
    patch = bench.vit.image_size // side
    raw = nearest_token(raw_patches(images, patch), raw_patches(drawings, patch), points)
    figures["raw_patches"] = float(point_error(raw, moved).mean())
    found = {}
    for name, vit in (("trained", bench.vit), ("untrained", untrained(bench.vit))):
        first, second = (vit_tokens(vit, x.to(bench.device)) for x in (images, drawings))
        for layer in LAYERS:
            found[name, layer] = nearest_token(first[layer], second[layer], points)
            figures[f"{name}_layer_{layer}"] = float(point_error(found[name, layer], moved).mean())
    for layer in LAYERS:
        ratio = figures[f"trained_layer_{layer}"] / figures[f"untrained_layer_{layer}"]
        figures[f"over_untrained_layer_{layer}"] = floor(ratio, most=0.5)
    keep = list(SHOWN)
    rows = [[marked(images[i], (points[i, keep], "lime")) for i in range(min(8, len(index)))]]
    for layer in LAYERS:
        rows.append([marked(drawings[i], (moved[i, keep], "lime"), (found["trained", layer][i, keep], "red"))
                     for i in range(min(8, len(index)))])
    labels = ["photo", *(f"layer {layer}" for layer in LAYERS)]
    save_image(bench.settings.outdir / "correspondence.png", grid(rows, cell=192, row_labels=labels))
    return figures


def dlib_points(bench: Bench, image: Tensor) -> Tensor:
    """Return the predictor's landmarks [68, 2] of one aligned face [3, S, S] as fractions of the side, or zeros."""
    faces = bench.finder.find(to_pil(image))
    return torch.from_numpy(faces[0].landmarks).float() / image.shape[2] if faces else torch.zeros(68, 2)


def measure_landmarks(bench: Bench, results: Results) -> dict[str, Any]:
    """Return both predictors' errors on the held-out labels, % of the eye distance.

    dlib's predictor is given what dlib's detector finds; besides the faces as aligned it sees them rolled at random.
    """
    settings = bench.settings
    index = bench.labelled[:settings.count(200, 12)]
    images, points = bench.photos(index, size=bench.pack.images.shape[3]), bench.pack.landmarks[index]
    found = bench.landmarks(images)
    errors = point_error(found, points)
    predictor = dlib.shape_predictor(str(landmarks_path()))
    upright, rolled = (mean_error(predictor, bench.pack, index.tolist(), roll=roll, seed=settings.seed + 1)
                       for roll in progress((0.0, TEST_ROLL), "dlib"))
    order = errors.argsort()
    chosen = [*order[:8].tolist(), *order[-8:].tolist()]
    cells = [marked(images[i].cpu(), (points[i], "lime"), (found[i], "red"),
                    (dlib_points(bench, images[i]), "deepskyblue")) for i in chosen]
    legend = ["green: labels", "red: network", "blue: dlib"]
    sheet = grid([cells[:8], cells[8:]], cell=192, row_labels=["best", "worst"], column_labels=legend)
    save_image(settings.outdir / "landmarks.png", sheet)
    return {"photos": len(index), "network_percent": floor(float(errors.mean()), most=5.0),
            "network_median_percent": float(errors.median()),
            "dlib_percent": floor(upright, most=5.0), "dlib_rolled_percent": rolled}
