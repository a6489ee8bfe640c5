"""The quality figures: known values of their mathematics, and the command with tiny networks and data."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_landmarks import face_points
from torch.nn import functional as F

from benchmarks import quality, quality_common, quality_deformation, quality_features, quality_images
from benchmarks import quality_math as maths
from benchmarks.quality_common import Bench, Results, Settings, floor
from data.landmarks68 import MEAN_FACE, MIRROR
from data.warps import Caricature
from models.deformable import DeformableGenerator
from models.stylegan2 import Generator, GeneratorConfig
from pipeline.cli import UserError

# Frechet's distance

def test_identical_sets_are_at_distance_zero():
    x = torch.randn(400, 6)
    assert maths.frechet_distance(x, x) == pytest.approx(0.0, abs=1e-9)


def test_shifted_and_scaled_gaussians_have_the_analytic_distance():
    # |m|^2 + sum (s_a - s_b)^2 for diagonal covariances.
    a, b, shift = np.array([1.0, 4.0, 9.0]), np.array([4.0, 1.0, 0.0]), np.array([1.0, 2.0, 2.0])
    value = maths.gaussian_distance(np.zeros(3), np.diag(a), shift, np.diag(b))
    assert value == pytest.approx(9.0 + 1.0 + 1.0 + 9.0)
    x = torch.randn(500, 3)
    assert maths.frechet_distance(x, x + torch.tensor([3.0, 0.0, 4.0])) == pytest.approx(25.0, rel=1e-5)


def test_distance_does_not_depend_on_the_axes():
    x, y = torch.randn(300, 4), torch.randn(300, 4) * torch.tensor([1.0, 2.0, 3.0, 0.5]) + 1
    turn = torch.linalg.qr(torch.randn(4, 4)).Q
    assert maths.frechet_distance(x @ turn, y @ turn) == pytest.approx(maths.frechet_distance(x, y), rel=1e-4)
    with pytest.raises(ValueError, match="at least two rows"):
        maths.frechet_distance(x, torch.randn(300, 5))


def test_steady_landmarks_cancel_what_a_network_leans_to() -> None:
    face = torch.from_numpy(MEAN_FACE).float()[None]
    lean = torch.tensor([0.05, 0.0])  # a network that sees everything too far to the right, in mirror images as well

    def net(images: torch.Tensor) -> SimpleNamespace:
        turned = face[:, torch.from_numpy(MIRROR)] * torch.tensor([-1.0, 1.0]) + torch.tensor([1.0, 0.0])
        return SimpleNamespace(points=(face if images[0, 0, 0, 0] > 0 else turned) + lean)

    image = torch.tensor([1.0, -1.0])[None, None, None].expand(1, 3, 2, 2)
    assert (net(image).points - face).abs().max() > 0.04
    assert torch.allclose(maths.steady_landmarks(net, image), face, atol=1e-6)


# Tokens and points

def test_nearest_token_follows_moved_tokens():
    tokens = torch.randn(2, 64, 16)
    shifted = tokens.reshape(2, 8, 8, 16).roll((1, 2), dims=(1, 2)).reshape(2, 64, 16) * 3.0
    points = (torch.tensor([[1, 2], [4, 5]]) + 0.5)[None].expand(2, 2, 2) / 8
    found = maths.nearest_token(tokens, shifted, points)
    assert torch.allclose(found, points + torch.tensor([2.0, 1.0]) / 8)


def test_point_error_is_in_percent_of_the_eye_distance():
    points = face_points()[None]
    eyes = float((points[0, 36:42].mean(0) - points[0, 42:48].mean(0)).norm())
    assert float(maths.point_error(points + torch.tensor([0.1 * eyes, 0.0]), points)) == pytest.approx(10.0, rel=1e-4)


def test_raw_patches_are_the_pixels_in_row_major_order():
    image = torch.arange(3 * 16 * 16).reshape(1, 3, 16, 16).float()
    tokens = quality_features.raw_patches(image, 8)
    assert tokens.shape == (1, 4, 192)
    assert torch.equal(tokens[0, 1], image[0, :, :8, 8:].reshape(-1))


def test_colour_distance_of_a_shift_is_the_shift_wherever_the_pixels_are():
    image = torch.rand(1, 3, 8, 8) - 0.5
    mixed = image.flatten(2)[:, :, torch.randperm(64)].reshape(1, 3, 8, 8)
    assert float(maths.colour_distance(image, mixed)) == pytest.approx(0.0, abs=1e-6)
    assert float(maths.colour_distance(image + 0.1, mixed)) == pytest.approx(0.1, abs=1e-5)


# Displacements

def test_a_perfect_model_has_cosine_and_ratio_one_and_is_monotone():
    points = face_points()[None].repeat(3, 1, 1)
    warp = Caricature(eyes=1.5, jaw=0.8)
    truth = torch.stack([torch.from_numpy(warp.displace(p.numpy())).float() - p for p in points])
    fields = torch.stack([alpha * truth for alpha in quality_deformation.ALPHAS])
    figures = quality_deformation.displacement_figures(fields, truth, torch.full((3,), 0.3), slack=0.0)
    for name in ("cosine", "magnitude_ratio", "cosine_of_mean", "ratio_of_mean", "along_truth", "monotone"):
        assert figures[name] == pytest.approx(1.0, abs=1e-4), name
    assert figures["cosine_per_moving_landmark"] == pytest.approx(1.0, abs=1e-4)
    assert figures["along_truth_alpha_0"] == 0.0


def test_opposite_orthogonal_and_halved_displacements_are_told_apart():
    truth = torch.randn(2, 68, 2)
    turned = torch.stack([-truth[..., 1], truth[..., 0]], dim=2)
    assert torch.allclose(maths.displacement_cosine(-truth, truth), torch.tensor(-1.0), atol=1e-5)
    assert torch.allclose(maths.displacement_cosine(turned, truth), torch.tensor(0.0), atol=1e-5)
    assert torch.allclose(maths.magnitude_ratio(truth / 2, truth), torch.tensor(0.5))
    assert torch.allclose(maths.progress_along((turned + truth / 4)[None], truth), torch.tensor(0.25), atol=1e-4)


def test_landmark_cosine_counts_only_what_moves():
    truth = torch.zeros(1, 68, 2)
    truth[0, 5] = torch.tensor([0.1, 0.0])
    found = torch.randn(1, 68, 2)
    found[0, 5] = torch.tensor([0.2, 0.2])
    value = float(maths.landmark_cosine(found, truth, least=torch.tensor([0.01])))
    assert value == pytest.approx(math.sqrt(0.5), abs=1e-5)


def test_noise_averages_out_of_the_mean_field():
    truth = torch.randn(1, 68, 2).repeat(400, 1, 1) * 0.1
    noisy = truth + torch.randn(400, 68, 2) * 0.3
    assert float(maths.displacement_cosine(noisy, truth).mean()) < 0.5
    assert maths.mean_field_figures(noisy, truth)["cosine_of_mean"] > 0.95


def test_monotone_needs_every_step_and_a_gain():
    progress = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.20], [1.0, 0.4, 0.0, 0.19]])
    assert maths.is_monotone(progress).tolist() == [True, False, False, False]
    assert maths.is_monotone(progress, slack=0.02).tolist() == [True, False, False, True]
    assert not maths.is_monotone(progress[:, :1] * 0.01, slack=0.02).any()  # trembling is no gain


def test_inverted_map_is_where_things_go():
    def backward(x):
        return x * 0.7 + 0.05 * torch.sin(3 * x.flip(-1))

    points = torch.rand(2, 9, 2) - 0.5
    assert torch.allclose(backward(maths.invert_map(backward, points)), points, atol=1e-4)


def test_sampling_grid_is_read_at_points_and_continued_outside():
    identity = F.affine_grid(torch.eye(2, 3)[None], [1, 1, 16, 16], align_corners=False)
    points = torch.tensor([[[0.3, -0.2], [0.99, 0.99], [1.2, 0.0]]])
    assert torch.allclose(maths.sample_grid(identity, points), points, atol=1e-6)
    assert torch.allclose(maths.sample_grid(identity + 0.1, points), points + 0.1, atol=1e-6)


def tiny_deformable() -> DeformableGenerator:
    channels = {4: 16, 8: 16, 16: 16, 32: 16, 64: 8}
    generator = Generator(GeneratorConfig(size=64, style_dim=16, n_mlp=2, channels=channels)).eval()
    return DeformableGenerator.for_generator(generator).requires_grad_(False).eval()


def test_grids_give_back_a_known_affine_and_spline():
    deformable = tiny_deformable()
    w_plus = deformable.broadcast(torch.randn(2, 16))
    points = torch.rand(2, 68, 2) * 0.4 + 0.3
    at_rest = quality_deformation.model_displacement(deformable, w_plus, points, alpha=1.0)
    assert float(at_rest.abs().max()) < 1e-4
    # Features read 0.1 of [-1, 1] to the right, so the face moves 0.05 of the side to the left.
    deformable.affine.stns[0].fc_loc[2].bias += torch.tensor([0.0, 0.0, 0.1, 0.0, 0.0, 0.0])
    # The spline of the next resolution reads 0.06 below: the face moves up by 0.03.
    deformable.tps.stns[1].loc_net.fc[2].bias += torch.tensor([0.0, 0.06]).repeat(100)
    for alpha in (1.0, 0.5):
        moved = quality_deformation.model_displacement(deformable, w_plus, points, alpha=alpha)
        assert torch.allclose(moved, alpha * torch.tensor([-0.05, -0.03]).expand_as(moved), atol=2e-3)


# Results, floors and the command

def test_floor_judges_both_limits_and_nan_meets_none():
    assert floor(0.7, least=0.6, most=1.2)["met"] and not floor(1.3, least=0.6, most=1.2)["met"]
    assert not floor(float("nan"), most=1.0)["met"] and floor(0.5, most=0.5) == {"value": 0.5, "most": 0.5, "met": True}


def test_results_are_kept_until_the_facts_change(tmp_path):
    calls = []

    def make():
        calls.append(1)
        return {"x": len(calls)}

    assert Results(tmp_path, {"a": 1}).get("deep/figure", make) == {"x": 1}
    assert Results(tmp_path, {"a": 1}).get("deep/figure", make) == {"x": 1} and len(calls) == 1
    assert Results(tmp_path, {"a": 2}).get("deep/figure", make) == {"x": 2}
    (tmp_path / "deep" / "figure.json").write_text("{broken")
    assert Results(tmp_path, {"a": 2}).get("deep/figure", make) == {"x": 3}


def test_known_warps_are_four_and_move_their_parts():
    points = face_points().numpy()
    assert len(quality_features.WARPS) >= 4
    for name, warp in quality_features.WARPS.items():
        assert np.abs(warp.displace(points) - points).max() > 0.005, name


def test_missing_inputs_and_unknown_figures_are_one_line(tmp_path, capsys):
    argv = ["--data", str(tmp_path / "faces.npz"), "--teacher", str(tmp_path / "t.npz"), "--outdir", str(tmp_path)]
    assert quality.main(argv) == 2
    assert capsys.readouterr().err.strip() == f"{tmp_path / 'faces.npz'}: not found; check --data"
    assert quality.main([*argv, "--only", "fd,beauty"]) == 2
    assert "expected some of fd,faces" in capsys.readouterr().err


def test_a_file_that_is_no_pack_is_named(tmp_path):
    path = tmp_path / "faces.npz"
    np.savez(path, other=np.zeros(3))
    bench = Bench(Settings(path, path, tmp_path))
    with pytest.raises(UserError, match="is no pack of faces"):
        _ = bench.pack
    with pytest.raises(UserError, match="SqueezeNet"):
        _ = bench.teacher


def test_command_measures_once_and_goes_on(tmp_path, monkeypatch, capsys):
    data = tmp_path / "x.npz"
    data.write_bytes(b"x")
    made = []

    def fd(bench, results):
        made.append("fd")
        return {"fd": 1.0}

    def faces(bench, results):
        made.append("faces")
        if made.count("faces") == 1:
            raise KeyboardInterrupt
        return {"one_face": 0.9}

    monkeypatch.setattr(quality_images, "measure_fd", fd)
    monkeypatch.setattr(quality_images, "measure_faces", faces)
    monkeypatch.setattr(quality_common, "weights_digest", lambda names, base: dict.fromkeys(names, base))
    argv = ["--data", str(data), "--teacher", str(data), "--outdir", str(tmp_path / "out"), "--only", "fd,faces"]
    assert quality.main(argv) == 130
    capsys.readouterr()
    assert quality.main(argv) == 0
    assert made == ["fd", "faces", "faces"]
    assert json.loads(capsys.readouterr().out) == {"fd": {"fd": 1.0}, "faces": {"one_face": 0.9}}


def test_a_perfect_inversion_has_no_error(tmp_path, monkeypatch):
    bench = Bench(Settings(tmp_path, tmp_path, tmp_path))
    monkeypatch.setattr(bench, "landmarks", lambda image: face_points().expand(len(image), 68, 2))
    monkeypatch.setattr(bench, "perceptual", lambda a, b: (a - b).abs().mean(dim=(1, 2, 3)))
    photos = torch.rand(2, 3, 16, 16)
    assert quality_images.inversion_facts(bench, photos, photos, unit=0.5) == {
        "l1": [0.0, 0.0], "perceptual": [0.0, 0.0], "landmarks": [0.0, 0.0]}
    worse = quality_images.inversion_facts(bench, photos, photos + 0.1, unit=0.5)
    assert worse["l1"] == pytest.approx([0.1, 0.1], abs=1e-5)
    assert worse["perceptual"] == pytest.approx([0.2, 0.2], abs=1e-5)


def test_views_are_mapped_back_to_the_image(tmp_path, monkeypatch):
    """A detector that finds one bright dot must report it where it is, whatever the view."""
    bench = Bench(Settings(tmp_path, tmp_path, tmp_path))
    image = torch.full((1, 3, 128, 128), -1.0)
    image[:, :, 80:84, 40:44] = 1.0

    def brightest(view):
        index = int(F.avg_pool2d(view.mean(1, keepdim=True), 3, 1, 1).flatten().argmax())
        return torch.tensor([(index % 128 + 0.5) / 128, (index // 128 + 0.5) / 128]).expand(1, 68, 2)

    monkeypatch.setattr(bench, "landmarks", brightest)
    assert torch.allclose(bench.steady_landmarks(image)[0], torch.tensor([42 / 128, 82 / 128]), atol=0.012)


def test_a_plain_picture_holds_no_face_and_the_astronaut_is_one():
    dlib = pytest.importorskip("dlib")
    from skimage.data import astronaut

    detector = dlib.get_frontal_face_detector()
    photo = torch.from_numpy(astronaut()[:256, 96:352].copy()).permute(2, 0, 1).float() / 127.5 - 1
    assert quality_images.count_faces(detector, photo) == 1
    assert quality_images.count_faces(detector, torch.zeros(3, 128, 128)) == 0
