"""Does the deformation transfer? Fine-tune on pairs with a known warp and follow the landmarks of unseen faces."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.quality_common import BATCH, Bench, Results, floor, progress, resized
from benchmarks.quality_features import WARPS
from benchmarks.quality_math import (
    colour_distance,
    displacement_cosine,
    invert_map,
    is_monotone,
    landmark_cosine,
    magnitude_ratio,
    mean_field_figures,
    mean_of,
    progress_along,
    sample_grid,
)
from checkpoints import builders
from data.filters import paint
from data.grids import grid
from data.images import save_image
from data.warps import Caricature, deform
from models.deformable import DeformableGenerator
from models.spatial_transformer import AffineTransformer
from pipeline.sampling import base_images, seeded_z
from training.config import FineTuneConfig
from training.finetune import FineTuner, Pair
from training.likeness import inversion_loss
from training.mixed import training_dtype
from training.options import run_digest
from training.prepare import encoded_start, new_tuner, run_parts
from training.session import Session
from training.state import STATE_FILE, read_state, restore

VARIANTS = {
    "full": {},
    "no_transformers": {"use_tps": False, "use_affine": False},
    "no_directional": {"directional_weight": 0.0},
    "no_landmarks": {"landmark_weight": 0.0},
}
WAYS = ("detected", "detected_from_rest", "grids")
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
PSI = 0.7
PAIR_SIDE = 256
# The landmark network trembles by about this much of the true displacement from one alpha to the next.
SLACK = 0.03
# A landmark counts as moving from this share of the eye distance on.
LEAST_MOVE = 0.03


@dataclass(frozen=True)
class Subjects:
    """Unseen faces: latents [N, L, D], undeformed images [N, 3, S, S] and their landmarks [N, 68, 2], fractions."""

    w_plus: Tensor
    images: Tensor
    points: Tensor

    def truth(self, warp: Caricature) -> Tensor:
        """Return how a known warp displaces each face's landmarks, [N, 68, 2]."""
        return torch.stack([torch.from_numpy(warp.displace(p.numpy())).float() - p for p in self.points])

    def eyes(self) -> Tensor:
        """Return the eye distances [N]."""
        return (self.points[:, 36:42].mean(dim=1) - self.points[:, 42:48].mean(dim=1)).norm(dim=1)


@torch.no_grad()
def draw_subjects(bench: Bench, count: int, *, seed: int) -> Subjects:
    """Return the faces 0..count - 1 of a seed that no fine-tuning sees."""
    base = bench.base
    z = torch.cat([seeded_z(seed, i, base.generator.config.style_dim) for i in range(count)]).to(bench.device)
    w_plus = base.generator.broadcast(base.generator.mapping(z, truncation_psi=PSI, w_avg=base.w_avg))
    noise = base.generator.fixed_noise()
    images = torch.cat([base.generator.synthesis(w, noise=noise).clamp(-1.0, 1.0) for w in w_plus.split(BATCH)])
    return Subjects(w_plus, images, bench.steady_landmarks(images))


def pick_sources(bench: Bench, count: int) -> list[tuple[Tensor, Tensor]]:
    """Return sampled faces [1, 3, S, S] with landmarks [68, 2] on which the landmark network is surest.

    It is sure of a face where it finds the same points in the mirrored image.
    """
    from data.landmarks68 import MIRROR

    images = base_images(bench.base, bench.settings.seed + 77, list(range(32)), truncation_psi=PSI).clamp(-1.0, 1.0)
    points, other = bench.steady_landmarks(images), bench.steady_landmarks(images.flip(3))
    mirrored = other[:, torch.from_numpy(MIRROR)] * torch.tensor([-1.0, 1.0]) + torch.tensor([1.0, 0.0])
    order = (points - mirrored).norm(dim=2).mean(dim=1).argsort()[:count]
    return [(images[i:i + 1], ((points + mirrored) / 2.0)[i]) for i in order.tolist()]


def painted(image: Tensor, points: Tensor, warp: Caricature) -> Tensor:
    """Return the painted image [1, 3, S, S] of a face deformed by a known warp, at the face's own size."""
    large = resized(image, PAIR_SIDE)
    bent = deform(large, points.numpy(), warp).clamp(-1.0, 1.0)
    return resized(paint(bent, radius=3, levels=8, outline=0.35), image.shape[3])


def train_style(bench: Bench, folder: Path, pair: Pair, changes: dict[str, Any]) -> DeformableGenerator:
    """Fine-tune as train.py does with the starter's profile; go on with what an interrupted run left in ``folder``."""
    config = FineTuneConfig.profile("starter", iterations=bench.settings.steps, seed=bench.settings.seed,
                                    dtype=training_dtype("auto", bench.device), **changes)
    if bench.settings.quick:
        config = FineTuneConfig.from_dict({**config.to_dict(), "inversion_steps": 5})
    base, path = bench.base, folder / STATE_FILE
    digest = run_digest(config, pair, base.fingerprint)
    state = read_state(path) if path.exists() else None
    if state is not None and state["run"].get("run") == digest:
        _, pair, latents, begun = run_parts(state)
        tuner = FineTuner(base.generator, base.discriminator, dino=bench.vit, config=config, pair=pair, latents=latents,
                          landmark_net=bench.landmark_net.module, start=begun)
        restore(tuner, state)
    else:
        start = encoded_start(bench.encoder.module, bench.encoder.latent_avg, pair, input_size=bench.encoder.input_size)
        objective = inversion_loss(bench.vit, builders.checkpoints_dir()).to(bench.device)
        tuner = new_tuner(base.generator, base.discriminator, dino=bench.vit, config=config, pair=pair, w_init=start,
                          objective=objective, landmark_net=bench.landmark_net.module)
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"run": digest, "base": base.name, "fingerprint": base.fingerprint}
    Session(folder, facts, save_every=50, sheet_every=0, resume_hint="the same command").train(tuner)
    return tuner.ema.eval()


def affine_grid_reader(theta: Tensor, points: Tensor) -> Tensor:
    """Apply affine maps [N, 2, 3] to points [N, K, 2] in [-1, 1]."""
    return points @ theta[:, :, :2].transpose(1, 2) + theta[:, None, :, 2]


@torch.no_grad()
def model_displacement(deformable: DeformableGenerator, w_plus: Tensor, points: Tensor, *, alpha: float) -> Tensor:
    """Return how the transformers themselves displace points [N, K, 2] (fractions of the side), read from their grids.

    An output position x of a resolution reads its features from A(T(x)), T the thin-plate spline and A the affine map;
    the resolutions follow each other, so the image at x shows what lay at A32(T32(A64(T64(x)))). The points go where
    this map leads back to them. Without transformers the displacement is zero.
    """
    thetas: dict[int, Tensor] = {}
    hooks = []
    for index, block in enumerate(deformable.affine.stns if deformable.affine is not None else ()):
        def note(module: AffineTransformer, inputs: tuple[Tensor, ...], index: int = index) -> None:
            thetas[index] = module.theta(inputs[0], alpha=alpha).float()

        hooks.append(block.register_forward_pre_hook(note))
    try:
        grids = deformable.synthesis(w_plus, alpha=alpha, noise=deformable.generator.fixed_noise()).grids
    finally:
        for hook in hooks:
            hook.remove()

    def backward(x: Tensor) -> Tensor:
        for index in reversed(range(len(deformable.config.resolutions))):
            if grids:
                x = sample_grid(grids[index].float(), x)
            if index in thetas:
                x = affine_grid_reader(thetas[index], x)
        return x

    start = (points * 2.0 - 1.0).to(w_plus)
    return (invert_map(backward, start) - start).cpu() / 2.0


def displacement_figures(fields: Tensor, truth: Tensor, eyes: Tensor, *, slack: float) -> dict[str, float]:
    """Return the means over samples of cosine, magnitude ratio and monotonicity of displacement fields.

    Args:
        fields: [A, N, 68, 2], one per value of ``ALPHAS``.
        truth: [N, 68, 2].
        eyes: eye distances [N].
        slack: see ``is_monotone``.
    """
    last, along = fields[-1], progress_along(fields, truth)
    return {"cosine": float(torch.nan_to_num(displacement_cosine(last, truth)).mean()),
            "cosine_per_moving_landmark": float(landmark_cosine(last, truth, least=LEAST_MOVE * eyes).nanmean()),
            "magnitude_ratio": float(magnitude_ratio(last, truth).mean()),
            **mean_field_figures(last, truth),
            "along_truth": float(along[-1].mean()), "along_truth_alpha_0": float(along[0].mean()),
            "monotone": float(is_monotone(along, slack=slack).float().mean())}


@torch.no_grad()
def stylized(deformable: DeformableGenerator, w_plus: Tensor, *, alpha: float) -> Tensor:
    """Return the stylized faces [N, 3, S, S] at a strength."""
    noise = deformable.generator.fixed_noise()
    return torch.cat([deformable.synthesis(w, alpha=alpha, noise=noise).image.clamp(-1.0, 1.0) for w in w_plus.split(BATCH)])


def measure_style(
    bench: Bench, deformable: DeformableGenerator, subjects: Subjects, *, warp: Caricature, target: Tensor,
) -> tuple[dict[str, Any], Tensor]:
    """Return the figures of one style, and its images [A, N, 3, S, S] at ``ALPHAS``."""
    truth, eyes = subjects.truth(warp), subjects.eyes()
    images = torch.stack([stylized(deformable, subjects.w_plus, alpha=alpha) for alpha in ALPHAS])
    seen = torch.stack([bench.steady_landmarks(row) - subjects.points for row in images])
    parts = list(zip(subjects.w_plus.split(BATCH), subjects.points.split(BATCH), strict=True))
    warped = torch.stack([torch.cat([model_displacement(deformable, w, p, alpha=alpha) for w, p in parts])
                          for alpha in ALPHAS])
    base_diversity = bench.diversity(subjects.images)
    figures = {"detected": displacement_figures(seen, truth, eyes, slack=SLACK),
               "detected_from_rest": displacement_figures(seen - seen[:1], truth, eyes, slack=SLACK),
               "grids": displacement_figures(warped, truth, eyes, slack=0.0),
               "colour_distance": float(colour_distance(images[-1], target).mean()),
               "colour_distance_of_base": float(colour_distance(subjects.images, target).mean()),
               "diversity": bench.diversity(images[-1]) / base_diversity}
    return figures, images


def check_detector(bench: Bench, subjects: Subjects, warp: Caricature) -> dict[str, float]:
    """Measure the ruler: the same figures for the unseen faces warped and painted by hand, a perfect style."""
    truth = subjects.truth(warp)
    drawn = torch.cat([painted(image[None].cpu(), points, warp)
                       for image, points in zip(subjects.images, subjects.points, strict=True)])
    found = bench.steady_landmarks(drawn.to(bench.device)) - subjects.points
    rest = torch.zeros_like(found)
    figures = displacement_figures(torch.stack([rest, found]), truth, subjects.eyes(), slack=SLACK)
    return {name: value for name, value in figures.items() if name not in ("monotone", "along_truth_alpha_0")}


def style_sheet(bench: Bench, name: str, pair: Pair, subjects: Subjects, sheets: dict[str, Tensor]) -> None:
    """Write the sheet of one pair: source and target, unseen faces, their styles by variant and alpha."""
    shown = min(8, len(subjects.images))
    rows, labels = [[pair.source[0].cpu(), pair.target[0].cpu()], list(subjects.images[:shown].cpu())], ["pair", "base"]
    for variant, images in sheets.items():
        for index in ((0, 2, 4) if variant == "full" else (4,)):
            rows.append(list(images[index, :shown].cpu()))
            labels.append(f"{variant}, {ALPHAS[index]}")
    save_image(bench.settings.outdir / f"deformation_{name}.png", grid(rows, cell=128, row_labels=labels))


def chosen(bench: Bench) -> dict[str, dict[str, Any]]:
    """Return the variants to fine-tune and the settings that each changes."""
    names = bench.settings.variants or tuple(VARIANTS)
    return {name: VARIANTS[name] for name in names}


def measure_pair(bench: Bench, results: Results, name: str, source: tuple[Tensor, Tensor], subjects: Subjects) -> dict:
    """Fine-tune every variant on one pair and measure it; what is done already is read from ``results``."""
    warp, outdir = WARPS[name], bench.settings.outdir
    target = painted(source[0].cpu(), source[1], warp).to(bench.device)
    pair = Pair(source[0], target, target)
    sheets: dict[str, Tensor] = {}
    figures: dict[str, Any] = {"detector_check": check_detector(bench, subjects, warp)}
    for variant, changes in chosen(bench).items():
        folder = outdir / "deformation" / f"{name}_{variant}"

        def make(folder: Path = folder, changes: dict[str, Any] = changes, variant: str = variant) -> dict[str, Any]:
            deformable = train_style(bench, folder, pair, changes)
            found, images = measure_style(bench, deformable, subjects, warp=warp, target=target)
            save_file = folder.with_suffix(".pt")
            torch.save(images[:, :8].cpu().half(), save_file)
            return found

        found = results.get(f"deformation/{name}_{variant}", make)
        # The network sees less of a displacement than there is; this takes a perfect style as the measure.
        share = found["detected"]["along_truth"] / figures["detector_check"]["along_truth"]
        figures[variant] = {**found, "share_of_perfect": share}
        shutil.rmtree(folder, ignore_errors=True)  # the state is large and the figures are safe
        images = folder.with_suffix(".pt")
        if images.is_file():
            sheets[variant] = torch.load(images, weights_only=True).float()
    style_sheet(bench, name, pair, subjects, sheets)
    return figures


def measure_deformation(bench: Bench, results: Results) -> dict[str, Any]:
    """Return the figures of every pair and variant, their means, and what the floors say of the full method.

    The displacement of a landmark is where the landmark network finds it in the stylized face, less where it finds it
    in the undeformed one ("detected") or in the stylized one at alpha 0 ("detected_from_rest"), and separately what the
    sampling grids of the transformers do to it ("grids"). ``detector_check`` holds the same figures for a perfect
    style, the faces warped and painted by hand: what the network cannot see there, it cannot see in a style either.
    """
    names = list(WARPS)[:bench.settings.count(len(WARPS), 1)]
    subjects = draw_subjects(bench, bench.settings.count(64, 8), seed=bench.settings.seed + 5000)
    sources = pick_sources(bench, len(names))
    pairs = {name: measure_pair(bench, results, name, source, subjects)
             for name, source in progress(list(zip(names, sources, strict=True)), "pairs")}
    means: dict[str, Any] = {}
    for variant in chosen(bench):
        rows = [figures[variant] for figures in pairs.values()]
        means[variant] = {way: {key: mean_of([row[way] for row in rows], key) for key in rows[0][way]}
                          for way in WAYS}
        means[variant] |= {key: mean_of(rows, key) for key in rows[0] if key not in WAYS}
    found = {"samples": len(subjects.images), "steps": bench.settings.steps, "mean": means, "pairs": pairs}
    if "full" not in means:
        return found
    full = means["full"]
    floors = {"cosine": floor(full["detected"]["cosine"], least=0.75),
              "magnitude_ratio": floor(full["detected"]["magnitude_ratio"], least=0.6, most=1.2),
              "monotone": floor(full["detected"]["monotone"], least=0.9),
              "diversity": floor(full["diversity"], least=0.8)}
    return {"floors": floors, **found}
