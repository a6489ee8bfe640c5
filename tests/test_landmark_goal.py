"""Where a drawing puts the landmarks of faces, and warps that are completed until they are there."""

from __future__ import annotations

import numpy as np
import torch

from checkpoints.paths import bundled_styles_dir
from data.landmarks68 import EYES, MEAN_FACE
from data.warps import Caricature, least_area
from models.landmark_goal import (
    LOWER_INNER,
    LOWER_LIP,
    UPPER_INNER,
    UPPER_LIP,
    completed,
    eye_axis,
    landmark_goals,
    turned,
)
from models.sampling_grids import composed, moved_places, pixel_lattice
from pipeline.sampling import random_faces
from styles.controls import ByRegion
from styles.registry import load_style, mix_styles

FACE = torch.from_numpy(MEAN_FACE).float()[None]


def caricatured(points: torch.Tensor, **factors: float) -> torch.Tensor:
    return torch.from_numpy(np.stack([Caricature(**factors).displace(face.numpy()) for face in points])).float()


def rest(size: int = 64) -> torch.Tensor:
    return pixel_lattice(size, mode="exact").reshape(1, size, size, 2)


def test_vectors_turn_with_the_eyes_and_back() -> None:
    axis = torch.tensor([[[0.0, 2.0]]])
    vectors = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    torch.testing.assert_close(turned(vectors, axis), torch.tensor([[[0.0, 2.0], [-2.0, 0.0]]]))
    torch.testing.assert_close(turned(turned(vectors, axis), axis, back=True), vectors)
    assert eye_axis(FACE)[0, 0, 0] > 0.2 and abs(float(eye_axis(FACE)[0, 0, 1])) < 1e-3


def test_other_faces_take_the_shape_and_the_pairs_own_the_pose_too() -> None:
    shape = caricatured(FACE, eyes=1.4, jaw=0.8)
    drawing = shape + torch.tensor([0.03, 0.0])
    other = 0.8 * (FACE - 0.5) + torch.tensor([0.55, 0.45])
    goals = landmark_goals(torch.cat([FACE, other]), FACE, drawing)
    torch.testing.assert_close(goals[:1], drawing, rtol=0, atol=1e-5)
    wanted = 0.8 * (shape - 0.5) + torch.tensor([0.55, 0.45])
    assert (goals[1:] - wanted).norm(dim=2).max() < 0.003


def opened(points: torch.Tensor, by: float) -> torch.Tensor:
    """Return landmarks [1, 68, 2] with the lips so far apart, in eye distances."""
    points = points.clone()
    upper, lower = points[:, UPPER_INNER, 1], points[:, LOWER_INNER, 1]
    more = (by * float(eye_axis(points)[0, 0, 0]) - (lower - upper).mean()) / 2.0
    points[:, UPPER_LIP, 1] -= more
    points[:, LOWER_LIP, 1] += more
    return points


def apart(points: torch.Tensor) -> torch.Tensor:
    return (points[:, LOWER_INNER, 1] - points[:, UPPER_INNER, 1]).mean(dim=1) / eye_axis(points)[:, 0, 0]


def test_a_mouth_opens_as_far_as_it_is_open() -> None:
    source, drawing = opened(FACE, 0.2), opened(caricatured(FACE, mouth=1.3), 0.35)
    others = torch.cat([opened(FACE, by) for by in (0.0, 0.1, 0.2, 0.3)]) * 0.8 + 0.12
    goals = landmark_goals(others, source, drawing)
    torch.testing.assert_close(apart(goals), torch.tensor([0.0, 0.175, 0.35, 0.45]), rtol=0, atol=0.003)
    widths = (goals[:, 54] - goals[:, 48]).norm(dim=1) / (others[:, 54] - others[:, 48]).norm(dim=1)
    torch.testing.assert_close(widths, torch.full((4,), 1.3), rtol=0, atol=0.02)
    # A drawing that shuts a mouth shuts it; one that opens a mouth which was shut says little of what an open one does.
    shut = landmark_goals(others, source, opened(FACE, 0.0))
    torch.testing.assert_close(apart(shut), torch.tensor([0.0, 0.0, 0.0, 0.1]), rtol=0, atol=0.003)


def test_a_completed_warp_brings_landmarks_to_their_goals() -> None:
    goals = caricatured(FACE, eyes=1.5, mouth=1.2, jaw=0.9)
    grid = completed(rest(), [], FACE, goals)
    away = (moved_places(FACE, grid) - goals).norm(dim=2)
    before = (FACE - goals).norm(dim=2)
    assert away.mean() < 0.2 * before.mean()
    for eye in EYES:
        assert away[:, eye].mean() < 0.3 * before[:, eye].mean()
    # After a warp that has done half of it, it does the other half.
    half = completed(rest(), [], FACE, FACE + 0.5 * (goals - FACE))
    both = composed([half, completed(rest(), [half], FACE, goals)], 64)
    assert (moved_places(FACE, both) - goals).norm(dim=2).mean() < 0.2 * before.mean()
    # What nothing asks for stays as it is, and nothing folds, whatever is asked for.
    assert (completed(rest(), [], FACE, FACE) - rest()).abs().max() < 1e-6
    assert least_area(completed(rest(), [], FACE, caricatured(FACE, eyes=3.0, mouth=3.0))) > 0.05


def test_a_ready_style_moves_faces_as_its_pair_says() -> None:
    style = load_style(bundled_styles_dir() / "cartoon.safetensors")
    deformable, faces = style.deformable, random_faces(style, 3, [0, 1], truncation_psi=0.7)
    points = style.finder.points(style.finder.shown(faces.w_plus, None))
    goals, noise = landmark_goals(points, deformable.look_places, deformable.drawn_places), deformable.generator.fixed_noise()

    def reached(alpha, places=points) -> torch.Tensor:  # noqa: ANN001
        passed: list[torch.Tensor] = []
        with torch.no_grad():
            deformable.synthesis(faces.w_plus, alpha=alpha, noise=noise, places=places, passed=passed)
        return moved_places(points, composed(passed, 128))

    errors = [(reached(1.0, places) - goals).norm(dim=2)[:, 36:48].mean() for places in (points, None)]
    assert errors[0] < 0.6 * errors[1]
    assert (reached(0.0) - points).norm(dim=2).max() < 1e-3
    half = (reached(0.5) - points).norm(dim=2).mean() / (reached(1.0) - points).norm(dim=2).mean()
    assert 0.4 < half < 0.6
    # By region, a strength at every control point: the eyes alone.
    image = style.draw(faces, style.default_look().changed(alpha=ByRegion(0.0, (("eyes", 1.0),))))
    plain = style.draw(faces, style.default_look().changed(alpha=0.0))
    changed = (image - plain).abs().mean(dim=(0, 1))
    assert changed[50:66, 35:95].mean() > 3.0 * changed[100:120, 35:95].mean()
    mixed = mix_styles([style, load_style(bundled_styles_dir() / "comic.safetensors")], [0.5, 0.5])
    assert mixed.deformable.drawn_places.shape == (1, 68, 2)
