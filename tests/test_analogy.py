"""Patches of a pair's drawing for other faces."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from checkpoints import CheckpointError
from checkpoints.features import load_landmark_net, load_parts
from checkpoints.paths import bundled_styles_dir
from data.looks import draw_look
from models.analogy import Analogy
from models.face import Face
from models.matches import Matches
from models.parts import GROUND, HAIR, SKIN, face_frame, face_parts
from models.sampling_grids import moved_places, pixel_lattice
from pipeline.sampling import random_faces, undeformed
from styles import __main__ as styles_command
from styles.deformable_controls import deformable_controls, look_shares
from styles.patches import PairPatches, pair_tensors
from styles.registry import controls_of, load_style, mix_styles


@pytest.fixture(scope="module")
def pictures():  # noqa: ANN201
    """Three faces [3, 3, 128, 128], their landmarks, and the drawing of the first."""
    style = load_style("comic")
    images = undeformed(style.base, random_faces(style, 3, [0, 1, 2], truncation_psi=0.7)).clamp(-1.0, 1.0)
    with torch.no_grad():
        points = load_landmark_net().module(images).points
    large = torch.nn.functional.interpolate(images[:1], size=(256, 256), mode="bicubic").clamp(-1.0, 1.0)
    drawing = torch.nn.functional.avg_pool2d(draw_look("ink", large, points[0].double().numpy()), 2)
    return images, points, drawing


@pytest.fixture(scope="module")
def network():  # noqa: ANN201
    return load_parts()


@pytest.fixture(scope="module")
def analogy(pictures, network):  # noqa: ANN001, ANN201
    images, points, drawing = pictures
    return Analogy(images[:1], drawing, points[:1], network)


@pytest.fixture(scope="module")
def patched(pictures, tmp_path_factory):  # noqa: ANN001, ANN201
    """A ready style whose file holds a pair, and in which the painter has no part."""
    images, points, drawing = pictures
    with safe_open(bundled_styles_dir() / "comic.safetensors", "pt") as file:
        tensors, facts = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()
    facts["config"] = json.dumps({**json.loads(facts["config"]), "painted": 0.0})
    path = tmp_path_factory.mktemp("patched") / "own.safetensors"
    save_file({**tensors, **pair_tensors(images[:1], drawing, points[:1].expand(2, -1, -1))}, path, metadata=facts)
    return path


def away(first, second) -> float:  # noqa: ANN001
    return float((first - second).abs().mean())


def test_the_pairs_own_photo_becomes_its_drawing(analogy, pictures) -> None:  # noqa: ANN001
    images, points, drawing = pictures
    made = analogy(images[:1], images[:1], points[:1], 0.5)
    assert away(images[:1], drawing) > 0.3
    assert away(made, drawing) < 0.01
    _, own = analogy.draw(images, points)
    assert own[0] > 0.99 > 2.0 * own[1:].max()


def test_other_faces_are_drawn_and_stay_their_own(analogy, pictures) -> None:  # noqa: ANN001
    images, points, drawing = pictures
    made = analogy.draw(images[1:], points[1:])[0]
    for one, image in zip(made, images[1:], strict=True):
        # In the drawing's colours, and neither the drawing nor the photo.
        assert (one.mean() - drawing.mean()).abs() < 0.25 * (image.mean() - drawing.mean()).abs()
        assert away(one, drawing[0]) > 0.05 and away(one, image) > 0.2
    assert away(made[0], made[1]) > 0.05


def test_strength_leads_from_what_is_drawn_otherwise_to_the_patches(analogy, pictures) -> None:  # noqa: ANN001
    images, points, _ = pictures
    other = images[1:2]
    made = [analogy(other, other, points[1:2], strength) for strength in (0.0, 0.3, 0.6, 1.0)]
    torch.testing.assert_close(made[0], other, rtol=0, atol=2e-3)
    assert sorted([away(one, other) for one in made]) == [away(one, other) for one in made]
    torch.testing.assert_close(made[3], analogy.draw(other, points[1:2])[0], rtol=0, atol=2e-3)


def test_patches_go_where_the_landmarks_are(analogy, pictures) -> None:  # noqa: ANN001
    images, points, drawing = pictures
    moved = torch.roll(images[:1], (4, 6), dims=(2, 3))
    there = points[:1] + points.new_tensor([6.0, 4.0]) / 128.0
    made = analogy.draw(moved, there)[0]
    x, y = face_frame(there, 128)
    inside = (x.square() + y.square()).sqrt() < 0.8
    wanted = torch.roll(drawing, (4, 6), dims=(2, 3))
    errors = [((made - one).abs() * inside).sum() for one in (wanted, drawing)]
    assert errors[0] < 0.3 * errors[1]


def test_places_go_where_a_grid_puts_them() -> None:
    lattice = pixel_lattice(64, mode="exact").reshape(1, 64, 64, 2)
    places = torch.tensor([[[0.3, 0.4], [0.6, 0.55]]])
    torch.testing.assert_close(moved_places(places, lattice), places)
    bent = lattice + 0.1 * torch.sin(3.0 * lattice.flip(3)) + torch.tensor([0.05, -0.02])
    moved = moved_places(places, bent)
    read = torch.nn.functional.grid_sample(bent.permute(0, 3, 1, 2), 2.0 * moved[:, :, None] - 1.0, align_corners=False)
    torch.testing.assert_close(read[..., 0].transpose(1, 2), 2.0 * places - 1.0, rtol=0, atol=1e-3)
    assert away(moved, places) > 0.02


def test_parts_are_found(pictures, network) -> None:  # noqa: ANN001
    images, points, drawing = pictures
    parts = face_parts(network, images, points)
    torch.testing.assert_close(parts.sum(dim=1), torch.ones(3, 128, 128))
    nose = (points[:, 30] * 128).long()
    for index, (x, y) in enumerate(nose):
        assert parts[index, SKIN, y, x] > 0.9
        assert parts[index, :, 4, 4].argmax() == GROUND
        assert parts[index, SKIN, 4, 4] < 0.1
    # What is drawn has the parts of what it was drawn from.
    drawn = face_parts(network, drawing, points[:1])
    assert (drawn.argmax(dim=1) == parts[:1].argmax(dim=1)).float().mean() > 0.85
    assert 0.02 < parts[:, HAIR].mean() < 0.5
    with pytest.raises(ValueError, match="expected images"):
        network(images[:, :, :64], torch.zeros(3, 2, 64, 128))


def test_colours_follow_as_the_drawing_lets_them(pictures, network) -> None:  # noqa: ANN001
    images, points, drawing = pictures
    same, turned, plain = (Analogy(images[:1], one, points[:1], network)
                           for one in (images[:1], -images[:1], torch.zeros_like(drawing)))
    slopes = [analogy.kept[0, SKIN, 0, 0] for analogy in (same, turned, plain)]
    assert slopes[0] > 0.8 and slopes[1] < -0.8 and abs(slopes[2]) < 1e-6
    assert same.keeps_all and not turned.keeps_all and not plain.keeps_all
    other = images[1:2]
    assert away(same.draw(other, points[1:2])[0], other) < 0.08 < away(turned.draw(other, points[1:2])[0], other)


def test_a_filter_that_a_pair_shows_is_told_from_it(pictures, network) -> None:  # noqa: ANN001
    images, points, drawing = pictures

    def through(image: torch.Tensor) -> torch.Tensor:
        """Softer, of less contrast, with paler colours, and warmer."""
        soft = torch.nn.functional.avg_pool2d(image, 3, stride=1, padding=1, count_include_pad=False)
        grey = soft.mean(dim=1, keepdim=True)
        return 0.8 * grey + 0.5 * (soft - grey) + torch.tensor([0.06, 0.0, -0.06]).reshape(1, 3, 1, 1)

    analogy, other = Analogy(images[:1], through(images[:1]), points[:1], network), images[1:2]
    assert analogy.keeps_all and not Analogy(images[:1], drawing, points[:1], network).keeps_all
    contrast, saturation = analogy.screen_gains[-2, 0], analogy.screen_gains[-2, 1]
    assert abs(contrast - 0.8) < 0.03 and abs(saturation - 0.5) < 0.08 and analogy.screen_gains[0, 0] < 0.4
    made = analogy(other, other, points[1:2], 1.0)
    assert away(made, through(other)) < 0.2 * away(other, through(other))
    half = analogy(other, other, points[1:2], 0.015)
    assert 0.3 < away(half, through(other)) / away(other, through(other)) < 0.9
    # What is guessed may be taken over from the drawing itself and says nothing of a filter.
    assert not Analogy(images[:1], through(images[:1]), points[:1], network, guessed=True).keeps_all


def test_frames_of_a_clip_go_on_from_the_last(analogy, pictures) -> None:  # noqa: ANN001
    images, points, _ = pictures
    other, places, last = images[1:2], points[1:2], Matches()
    first = analogy.draw(other, places, last)[0]
    torch.testing.assert_close(first, analogy.draw(other, places)[0], rtol=0, atol=0)
    assert last.frames == 1 and last.found.shape == (1, 64 * 64)
    # The same frame again is matched as before for the most part, a shaking one less often anew than without memory.
    before, noise = last.found.clone(), torch.Generator().manual_seed(2)
    analogy.draw(other, places, last)
    assert last.frames == 2 and (last.found == before).float().mean() > 0.8
    before = last.found.clone()
    shaken = (other + 0.02 * torch.randn(other.shape, generator=noise)).clamp(-1.0, 1.0)
    drawn = analogy.draw(shaken, places, last)[0]
    alone = Matches()
    plain = analogy.draw(shaken, places, alone)[0]
    assert (last.found != before).sum() < 0.6 * (alone.found != before).sum()
    assert away(drawn, plain) < 0.06


def test_a_clip_stays_steady_where_nothing_moves_and_its_state_survives(analogy, pictures) -> None:  # noqa: ANN001
    images, points, _ = pictures
    other, places, noise = images[1:2], points[1:2], torch.Generator().manual_seed(4)
    frames = [(other + 0.05 * torch.randn(other.shape, generator=noise)).clamp(-1.0, 1.0) for _ in range(3)]
    last, seen = Matches(), []
    for frame in frames:
        seen.append(analogy(frame, frame, places, 0.5, last))
        last = Matches.load(json.loads(json.dumps(last.state())))
    alone = [analogy(frame, frame, places, 0.5) for frame in frames]
    torch.testing.assert_close(seen[0], alone[0], rtol=0, atol=0)
    assert away(seen[2], seen[1]) < 0.8 * away(alone[2], alone[1])
    # Another face in the same place takes nothing of the last one.
    assert away(analogy(images[2:3], images[2:3], places, 0.5, last), analogy(images[2:3], images[2:3], places, 0.5)) < 0.08


def test_parts_that_the_pair_does_not_show_stay_as_drawn_otherwise(pictures, network) -> None:  # noqa: ANN001
    images, points, drawing = pictures
    analogy, other = Analogy(images[:1], drawing, points[:1], network), images[1:2]
    assert analogy.known.shape == (1, 4, 1, 1) and analogy.known[0, :3].min() == 1.0
    grey = torch.full_like(other, 0.3)
    analogy.known = torch.tensor([1.0, 0.0, 1.0, 1.0]).reshape(1, 4, 1, 1)
    made = analogy(other, grey, points[1:2], 1.0)
    ground = face_parts(network, other, points[1:2])[:, GROUND:GROUND + 1] > 0.99
    assert ground.float().mean() > 0.05 and ((made - grey).abs() * ground).max() < 0.05
    assert away(made, grey) > 0.1


def test_batches_and_sizes_change_nothing(analogy, pictures, network) -> None:  # noqa: ANN001
    images, points, drawing = pictures
    together = analogy.draw(images, points)[0]
    for index in range(3):
        alone = analogy.draw(images[index:index + 1], points[index:index + 1])[0]
        assert away(alone, together[index:index + 1]) < 2e-3
    large = [torch.nn.functional.interpolate(x, scale_factor=2, mode="bilinear") for x in (images, drawing)]
    made = Analogy(large[0][:1], large[1], points[:1], network).draw(large[0], points)[0]
    assert made.shape == (3, 3, 256, 256)
    assert away(torch.nn.functional.avg_pool2d(made, 2), together) < 0.06


def test_a_style_with_a_pair_draws_by_it(patched) -> None:  # noqa: ANN001
    style = load_style(str(patched))
    look = style.default_look()
    assert look["patch_strength"] == 0.45 and look["look_strength"] == look["manner_strength"] == 0.0
    assert style.default_look(samples=True)["patch_strength"] > 0.45
    face = random_faces(style, 3, [1], truncation_psi=0.7)
    plain = style.draw(face, look.changed(patch_strength=0.0))
    # Where the landmarks of the deformed face are found, the patches lie too.
    wanted = style.pair(plain, plain, style.finder.points(plain), 0.45)
    drawn = style.draw(face, look)
    assert away(drawn, wanted) < 0.35 * away(wanted, plain) and away(wanted, plain) > 0.1


def test_graph_draws_patches_as_draw_does(patched) -> None:  # noqa: ANN001
    style = load_style(str(patched))
    face = random_faces(style, 3, [0], truncation_psi=0.7)
    photo = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0
    with torch.no_grad():
        ours = style.graph()(face.w_plus, None, photo, torch.tensor([0.7]))
    theirs = style.draw(Face(face.w_plus, photo=photo), style.default_look().changed(alpha=0.7))
    # A rounding may decide between two patches that are alike.
    assert away(ours, theirs) < 2e-3


def test_mixtures_mix_patches(patched) -> None:  # noqa: ANN001
    style, other = load_style(str(patched)), load_style("ink")
    mixed = mix_styles([style, style], [0.25, 0.75])
    face = random_faces(style, 3, [1], truncation_psi=0.7)
    assert away(mixed.draw(face, style.default_look()), style.draw(face, style.default_look())) < 2e-3
    bare = [one for one in (style, other) if one.pair is None]
    assert (mix_styles([style, other], [0.5, 0.5]).pair is None) == bool(bare)
    assert PairPatches.mix([style.pair, style.pair], [0.25, 0.75]).weights == (0.25, 0.75)


def test_defaults_follow_what_the_file_holds() -> None:
    shape, names = {"look": 32, "look_form": "carried"}, ("target_latent", "manner")
    with_pair, without = ({c.name: c.default for c in deformable_controls(shape, held, share=0.0)}
                          for held in ((*names, "pair"), names))
    assert with_pair["look_strength"] == 0.0 < without["look_strength"] and "patch_strength" not in without
    # A look of 0 by default says nothing of the patches; one that was asked for does.
    assert look_shares(with_pair, whole=0.0) == (0.0, 0.0, 0.45)
    assert look_shares({**with_pair, "look_strength": 0.0}, whole=0.3) == (0.0, 0.0, 0.0)


def test_a_pair_may_lie_beside_its_style(tmp_path, capsys) -> None:  # noqa: ANN001
    with safe_open(bundled_styles_dir() / "ink.safetensors", "pt") as file:
        save_file({name: file.get_tensor(name) for name in file.keys()}, tmp_path / "ink.safetensors", metadata=file.metadata())
    bare, without = load_style(tmp_path / "ink.safetensors"), controls_of(tmp_path / "ink.safetensors")
    assert bare.pair is None and "patch_strength" not in {control.name for control in without}
    argv = ["pairs", "ink", "--work", str(tmp_path / "work"), "--output", str(tmp_path / "pairs")]
    assert styles_command.main(argv) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "pairs" / "ink.safetensors")]
    beside, told = load_style(tmp_path / "ink.safetensors"), {c.name: c for c in controls_of(tmp_path / "ink.safetensors")}
    assert beside.pair is not None and told["patch_strength"].default == beside.default_look()["patch_strength"] > 0.0
    # Whatever is drawn by a style depends on its pair, so latents and folders of results must tell them apart.
    assert beside.fingerprint != bare.fingerprint
    # The bundled pair is what the command writes.
    bundled = load_style("ink").pair.analogies[0]
    assert (bundled.pair - beside.pair.analogies[0].pair).abs().mean() < 0.01
    (tmp_path / "pairs" / "ink.safetensors").write_bytes(b"<html>")
    with pytest.raises(CheckpointError, match="pairs/ink.safetensors"):
        load_style(tmp_path / "ink.safetensors")


@pytest.mark.parametrize("damage", ["kind", "shape", "points"])
def test_a_damaged_pair_is_told_of(patched, tmp_path, damage) -> None:  # noqa: ANN001
    with safe_open(patched, "pt") as file:
        tensors, facts = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()
    if damage == "kind":
        tensors["pair"] = tensors["pair"].float()
    elif damage == "shape":
        tensors["pair"] = tensors["pair"][:, :3].contiguous()
    else:
        del tensors["pair_points"]
    save_file(tensors, tmp_path / "own.safetensors", metadata=facts)
    with pytest.raises(CheckpointError, match="pair that it holds is damaged"):
        load_style(str(tmp_path / "own.safetensors"))
