"""Deformable styles paint faces in the manner of their drawing."""

from __future__ import annotations

import json

import pytest
import torch

from checkpoints import CheckpointError
from checkpoints.features import load_vit
from checkpoints.paths import bundled_styles_dir
from models.face import Face
from models.painter import painted
from pipeline.sampling import random_faces, undeformed
from styles.controls import Look
from styles.deformable_controls import deformable_controls, look_shares
from styles.registry import load_style, mix_styles
from training.finetune import Pair
from training.manner import manner_of_pair, read_manner


@pytest.fixture(scope="module")
def style():  # noqa: ANN201
    return load_style("comic")


def test_faces_are_painted_as_far_as_the_manner_says(style) -> None:  # noqa: ANN001
    face, look = random_faces(style, 3, [0], truncation_psi=0.7), style.default_look().changed(tone_strength=0.0, patch_strength=0.0)
    plain = style.draw(face, look.changed(manner_strength=0.0))
    for strength in (0.4, 1.0):
        wanted = painted(style.painter, plain, style.manner[None], strength=strength)
        torch.testing.assert_close(style.draw(face, look.changed(manner_strength=strength)), wanted)
    assert float((wanted - plain).abs().mean()) > 0.02


def test_manner_is_read_from_the_drawing(style) -> None:  # noqa: ANN001
    face = random_faces(style, 3, [0], truncation_psi=0.7)
    drawn = style.draw(face, style.default_look(samples=True)).clamp(-1.0, 1.0)
    undrawn = style.draw(face, style.default_look().changed(look_strength=0.0)).clamp(-1.0, 1.0)
    assert read_manner(drawn).shape == style.manner.shape
    assert (read_manner(drawn) - style.manner).norm() < (read_manner(undrawn) - style.manner).norm()


def test_who_wants_no_look_gets_no_manner() -> None:
    names = ("target_latent", "manner")
    values = {control.name: control.default for control in deformable_controls({"look": 32, "look_form": "carried"}, names)}
    whole = values["look_strength"]
    assert look_shares(values, whole=whole) == (values["manner_strength"], values["tone_strength"], 0.0)
    assert look_shares({**values, "look_strength": 0.0}, whole=whole) == (0.0, 0.0, 0.0)
    assert look_shares({"look_strength": 0.9, "tone_strength": 0.5}, whole=1.0) == (0.0, 0.45, 0.0)
    assert "manner_strength" not in [c.name for c in deformable_controls({"look": 32, "look_form": "carried"}, names[:1])]


def test_mixtures_mix_manners(style) -> None:  # noqa: ANN001
    other = load_style("ink")
    mixed = mix_styles([style, other], [0.25, 0.75])
    torch.testing.assert_close(mixed.manner, 0.25 * style.manner + 0.75 * other.manner)
    assert {control.name for control in mixed.controls} == {control.name for control in style.controls}


def test_a_code_of_another_painter_is_told_of(tmp_path) -> None:  # noqa: ANN001
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(bundled_styles_dir() / "ink.safetensors", "pt") as file:
        tensors, facts = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()
    save_file({**tensors, "manner": tensors["manner"][:7].clone()}, tmp_path / "ink.safetensors", metadata=facts)
    with pytest.raises(CheckpointError, match="manner does not fit"):
        load_style(str(tmp_path / "ink.safetensors"))


def test_a_photo_comes_back_where_nothing_of_the_style_is_wanted(style) -> None:  # noqa: ANN001
    face = random_faces(style, 3, [0, 1], truncation_psi=0.7)
    photo = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0
    seen, bare = Face(face.w_plus, photo=photo), Look(alpha=0.0, look_strength=0.0, color_strength=0.0, detail=1.0)
    torch.testing.assert_close(style.draw(seen, bare), photo, rtol=0, atol=1e-3)
    half = style.draw(seen, bare.changed(detail=0.5))
    torch.testing.assert_close(half, (photo + style.draw(face, bare)) / 2.0, rtol=0, atol=1e-3)


def test_graph_draws_photos_as_draw_does(style) -> None:  # noqa: ANN001
    face = random_faces(style, 3, [0], truncation_psi=0.7)
    photo = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0
    with torch.no_grad():
        ours = style.graph()(face.w_plus, None, photo, torch.tensor([0.7]))
    theirs = style.draw(Face(face.w_plus, photo=photo), style.default_look().changed(alpha=0.7))
    assert (ours - theirs).abs().max() < 1e-3
    assert (theirs - style.draw(face, style.default_look().changed(alpha=0.7))).abs().mean() > 0.05


def test_the_painter_steps_back_from_drawings_that_it_cannot_draw(style) -> None:  # noqa: ANN001
    photo = undeformed(style.base, random_faces(style, 3, [0], truncation_psi=0.7)).clamp(-1.0, 1.0)
    drawing = painted(style.painter, photo, style.manner[None])
    dino, other = load_vit("starter"), torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0
    assert manner_of_pair(Pair(photo, drawing, drawing), None, dino)[1] == 1.0
    assert manner_of_pair(Pair(photo, other, other), None, dino)[1] == 0.0
    names, shape = ("target_latent", "manner"), {"look": 32, "look_form": "carried"}
    all_, none = ({control.name: control.default for control in deformable_controls(shape, names, share=share)}
                  for share in (1.0, 0.0))
    assert none["manner_strength"] == 0.0 < all_["manner_strength"] and none["look_strength"] > all_["look_strength"]


@pytest.mark.parametrize("share", [1.5, -0.1, "all", True])
def test_a_share_that_is_none_is_told_of(tmp_path, share) -> None:  # noqa: ANN001
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(bundled_styles_dir() / "ink.safetensors", "pt") as file:
        tensors, facts = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()
    facts["config"] = json.dumps({**json.loads(facts["config"]), "painted": share})
    save_file(tensors, tmp_path / "ink.safetensors", metadata=facts)
    with pytest.raises(CheckpointError, match="painted is"):
        load_style(str(tmp_path / "ink.safetensors"))
