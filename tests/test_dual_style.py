"""Exemplars as styles: files of both forms, controls, drawing, the command line."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import astronaut

import deformation_control
import generate_samples
import inference
from checkpoints import CheckpointError, save_model
from checkpoints.io import load_model
from data.images import ImageError, to_tensor
from drawing.context import read_context
from drawing.style import enlarged_picture
from faces.align import align_face
from faces.find import FaceFinder
from models.dualstylegan import FIRST_COLOR_ROW, CodeSampler, DualStyleGAN
from models.e4e import E4EConfig, E4EEncoder
from models.face import Face
from models.stylegan2 import Generator, GeneratorConfig
from styles.controls import FileValue, Look
from styles.drawn import FramedFace
from styles.dualstyle import save_dual
from styles.dualstyle_files import DualParts, Gallery
from styles.packing import pack_style
from styles.registry import controls_of, load_style

CONFIG = GeneratorConfig(size=64, style_dim=16, n_mlp=2, channels={4: 8, 8: 8, 16: 8, 32: 8, 64: 4})
ROWS = CONFIG.n_latent
ENCODER = E4EConfig(input_size=64, n_styles=ROWS, style_dim=16, stem=4, widths=(4, 4, 4, 8), units=(1, 1, 1, 1), base_width=8,
                    delta_width=8)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(5)
    network = DualStyleGAN(Generator(CONFIG), seed=3)
    with torch.no_grad():  # as after training: residuals that can be seen, colours that differ
        for block in network.res[:FIRST_COLOR_ROW]:
            block.conv[0].weight.mul_(100.0)
            block.conv2[0].weight.mul_(100.0)
        for layer in network.res[FIRST_COLOR_ROW:]:
            layer.weight.add_(torch.randn(16, 16))
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def parts(network):
    rng = torch.Generator().manual_seed(1)
    gallery = Gallery(("ann", "bob"), torch.randn(2, ROWS, 16, generator=rng),
                      torch.randint(0, 255, (2, 8, 8, 3), generator=rng, dtype=torch.uint8))
    samplers = {"structure": CodeSampler(7, style_dim=16).eval(), "color": CodeSampler(ROWS - 7, style_dim=16).eval()}
    config = {"base": {"name": "toy", "fingerprint": "0"}, "encoder": "photos.safetensors", "training": {}}
    return DualParts(network, torch.zeros(16), gallery, samplers, config)


@pytest.fixture
def weights(tmp_path, monkeypatch):
    monkeypatch.setenv("CHECKPOINTS_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def style(weights, parts):
    path = weights / "photos.safetensors"
    save_model(path, {"latent_avg": torch.zeros(ROWS, 16), **E4EEncoder(ENCODER).state_dict()},
               {"kind": "encoder", "encoder": ENCODER.to_dict()})
    save_dual(weights / "toons.safetensors", DualParts(parts.network, parts.w_avg, parts.gallery, parts.samplers,
              {**parts.config, "encoder": str(path), "exemplar_encoder": str(path)}), with_generator=True, half=False)
    return load_style("toons")


@pytest.fixture
def face():
    rng = torch.Generator().manual_seed(2)
    return Face(torch.randn(2, ROWS, 16, generator=rng), torch.randn(2, 8, 32, 32, generator=rng))


def plain(style, face):
    generator = style.network.generator
    return generator.synthesis(face.w_plus, noise=generator.fixed_noise(), feature_transforms=face.transforms())


def far(a, b):
    return float((a - b).abs().max())


# ------------------------------------------------------------------------------------------------------------- drawing
def test_weights_of_zero_are_the_face_itself_with_its_residual(style, face):
    assert far(style.draw(face, Look(structure=0.0, color=0.0)), plain(style, face)) < 1e-4


def test_drawing_by_the_equations(style, face):
    network, code = style.network, style.code(Look(exemplar="bob"))
    mapped = network.generator.mapping(style.gallery.codes[1])[None]
    assert far(code, mapped) < 1e-5
    rows = face.w_plus.clone()
    for row in range(FIRST_COLOR_ROW, ROWS):
        rows[:, row] = 0.3 * network.res[row](mapped[:, row]) + 0.7 * rows[:, row]
    residual = face.residual

    def after(row):
        s = network.style(mapped[:, row]).expand(2, -1)
        return lambda x: network.res[row](x + residual if row == 6 else x, s, 0.5)

    wanted = network.generator.synthesis(rows, noise=network.generator.fixed_noise(),
                                         feature_transforms={row: after(row) for row in range(FIRST_COLOR_ROW)})
    assert far(style.draw(face, Look(exemplar="bob", structure=0.5, color=0.3)), wanted) < 1e-4


@pytest.fixture(scope="module")
def portraits():
    """The astronaut's face, and the same darker and blue, as JPEG files."""
    photo = Image.fromarray(astronaut())
    photo = align_face(photo, FaceFinder().find(photo)[0].landmarks, output_size=256)
    files = []
    for picture in (photo, Image.fromarray((np.asarray(photo) * [0.3, 0.4, 0.8]).astype(np.uint8))):
        data = BytesIO()
        picture.save(data, "JPEG", quality=92)
        files.append(torch.frombuffer(bytearray(data.getvalue()), dtype=torch.uint8))
    return tuple(files)


@pytest.fixture
def drawn(weights, style, parts, portraits):
    """The style with the portraits of its exemplars."""
    gallery = replace(parts.gallery, portraits=portraits)
    save_dual(weights / "drawn.safetensors", replace(parts, gallery=gallery, config={**style.config, "refine": 5}),
              with_generator=True, half=False)
    return load_style("drawn")


@pytest.fixture
def photo():
    """A photo that is drawn: the astronaut at 512 px."""
    found = FaceFinder().find(Image.fromarray(astronaut()))[0]
    image = to_tensor(align_face(Image.fromarray(astronaut()), found.landmarks, output_size=512), 512)
    return Face(torch.zeros(1, ROWS, 16), None, image, known=(read_context(image),))


def test_photos_are_drawn_by_the_portraits(drawn, style, photo):
    assert drawn.draws_pictures and not style.draws_pictures and drawn.fingerprint != style.fingerprint
    ann, bob = (drawn.draw(photo, Look(exemplar=name, structure=1.0, color=1.0)) for name in ("ann", "bob"))
    assert ann.shape == (1, 3, 512, 512)
    means = [image.mean(dim=(0, 2, 3)) for image in (photo.photo, ann, bob)]
    assert means[2][2] - means[2][0] > 0.1 + means[0][2] - means[0][0]  # bluer
    assert (means[1] - means[0]).abs().max() < 0.15  # its own portrait changes little
    assert far(drawn.draw(photo, Look(exemplar="bob", structure=0.0, color=0.0)), photo.photo) < 0.1
    kept = drawn.draw(photo, Look(exemplar="bob", structure=0.0, preserve_color="yes"))
    assert (kept.mean(dim=(0, 2, 3)) - photo.photo.mean(dim=(0, 2, 3))).abs().max() < 0.02  # its colours, the portrait's strokes
    assert 0.01 < float((kept - photo.photo).abs().mean()) < 0.06


def test_weights_say_how_far_the_stages_go(drawn):
    assert drawn.shares(Look(structure=0.4, color=0.3)) == pytest.approx(
        {"alpha": 0.4, "tone_strength": 0.3, "stroke_strength": 0.3})
    assert drawn.shares(Look(structure=1.2, color=1.4)) == pytest.approx(
        {"alpha": 1.2, "tone_strength": 1.0, "stroke_strength": 1.0})
    assert drawn.shares(Look(structure=0.5, color=1.0, preserve_color="yes"))["tone_strength"] == 0.0


def test_portraits_are_mixed_and_lend_their_tones_apart(drawn, tmp_path):
    ann, bob = (drawn.drawn_in(Look(exemplar=name)) for name in ("ann", "bob"))
    assert far(ann.tone.mean, bob.tone.mean) > 0.1
    lent = drawn.drawn_in(Look(exemplar="ann", color_exemplar="bob"))
    assert torch.equal(lent.moved, ann.moved) and torch.equal(lent.tone.mean, bob.tone.mean)
    mixed = drawn.drawn_in(Look(exemplar="ann", second_exemplar="bob", second_share=0.25))
    assert far(mixed.tone.mean, 0.75 * ann.tone.mean + 0.25 * bob.tone.mean) < 1e-5
    near = drawn.drawn_in(Look(exemplar="random", style_seed=3.0))
    assert any(torch.equal(near.tone.mean, other.tone.mean) for other in (ann, bob))
    drawn.portrait("bob").save(tmp_path / "bob.png")
    own = drawn.drawn_in(Look(exemplar=FileValue.read(tmp_path / "bob.png")))
    assert far(own.tone.mean, bob.tone.mean) < 1e-4


def test_random_faces_are_drawn_from_the_path(drawn, face):
    image = drawn.draw(face[:1], Look(exemplar="bob"))
    assert image.shape == (1, 3, 512, 512) and torch.isfinite(image).all()
    assert drawn.random(torch.randn(1, 16), truncation_psi=0.7).photo is None
    other = drawn.draw(face[:1], Look(exemplar="bob", second_exemplar="ann", second_share=0.0, structure=0.0, color=0.0))
    assert far(image, other) > 0.01


def test_whole_pictures_are_drawn(drawn, photo):
    image = torch.nn.functional.pad(photo.photo, (64, 64, 0, 0), mode="reflect")
    corners = torch.tensor([[64.0, 0.0], [576.0, 0.0], [64.0, 512.0]])
    faces = [FramedFace(photo, photo.known[0].mesh, corners)]
    made = drawn.draw_frame(image, torch.nn.functional.pad(photo.known[0].parts, (64, 64, 0, 0), mode="reflect"), faces,
                            Look(exemplar="bob"))
    assert made.shape == image.shape and float((made - image).abs().mean()) > 0.05


def test_portraits_survive_the_small_file_and_misshapen_ones_are_refused(drawn, weights, portraits):
    pack_style(weights / "drawn.safetensors", weights / "small.safetensors")
    small = load_style("small")
    assert all(torch.equal(one, other) for one, other in zip(small.gallery.portraits, portraits, strict=True))
    assert [control.name for control in controls_of("small")] == [control.name for control in drawn.controls]
    tensors, config = load_model(weights / "drawn.safetensors", kind="style")
    for odd in ({"portrait.1": torch.zeros(5)}, {"portrait.2": portraits[0]}):
        save_model(weights / "odd.safetensors", {**tensors, **odd}, config)
        with pytest.raises(CheckpointError, match="misshapen portraits"):
            load_style("odd")


def test_rows_of_a_file_are_refined_once(drawn, tmp_path, monkeypatch):
    class Cache(dict):
        put = dict.__setitem__

    Image.new("RGB", (64, 64), "red").save(tmp_path / "p.png")
    look, calls = drawn.default_look().changed(exemplar=FileValue.read(tmp_path / "p.png")), []
    rows = torch.randn(9, *drawn.gallery.codes.shape[1:], generator=torch.Generator().manual_seed(2))
    monkeypatch.setattr(drawn.encoder, "refined", lambda path, steps: calls.append(steps) or rows[steps:steps + 1])
    drawn.cache = Cache()
    first = drawn.code(look)
    assert calls == [5] and torch.equal(drawn.code(look), first) and calls == [5]
    # Another run finds them in the cache; other steps are other rows.
    drawn._codes.clear()
    assert torch.equal(drawn.code(look), first) and calls == [5]
    assert not torch.equal(drawn.code(look.changed(refine_steps=2.0)), first) and calls == [5, 2]
    for steps in (-1.0, 0.5):
        with pytest.raises(CheckpointError, match="--refine_steps"):
            drawn.code(look.changed(refine_steps=steps))


def test_exemplars_are_mixed_and_lend_their_colours_apart(style):
    one, other = (style.code(Look(exemplar=name)) for name in ("ann", "bob"))
    assert far(style.code(Look(exemplar="ann", second_exemplar="bob")), (one + other) / 2) < 1e-5
    assert far(style.code(Look(exemplar="ann", second_exemplar="bob", second_share=0.25)), 0.75 * one + 0.25 * other) < 1e-5
    lent = style.code(Look(exemplar="ann", color_exemplar="bob"))
    assert torch.equal(lent, torch.cat([one[:, :FIRST_COLOR_ROW], other[:, FIRST_COLOR_ROW:]], dim=1))
    looks = [Look(exemplar="random", color_exemplar="bob", style_seed=float(seed)) for seed in (1, 2)]
    assert torch.equal(*(style.code(look)[:, FIRST_COLOR_ROW:] for look in looks))
    assert far(*(style.code(look)[:, :FIRST_COLOR_ROW] for look in looks)) > 0.01
    with pytest.raises(CheckpointError, match="--color_exemplar zoe: is no exemplar"):
        style.code(Look(exemplar="ann", color_exemplar="zoe"))


def test_structure_and_colour_move_their_own_part_steadily(style, face):
    base = plain(style, face)
    for name, other in (("structure", "color"), ("color", "structure")):
        moved = [float((style.draw(face, Look(**{name: w, other: 0.0})) - base).square().mean()) for w in (0.0, 0.3, 0.6, 1.0)]
        assert moved == sorted(moved) and moved[0] < 1e-9 < moved[1]


def test_numbers_per_row(style, face):
    total = tuple([0.5] * 7 + [0.25] * (ROWS - 7))
    wanted = style.draw(face, Look(structure=0.5, color=0.25))
    for values in ({"weight": total}, {"structure": total[:7], "color": total[7:]}, {"structure": total, "color": total}):
        assert torch.equal(style.draw(face, Look(**values)), wanted)
    for name, count in (("structure", 3), ("color", 7), ("weight", 7)):
        with pytest.raises(CheckpointError, match=rf"--{name}: expected .*got {count}"):
            style.prepare(Look(**{name: (1.0,) * count}))


def test_preserved_colours_are_made_from_the_face(style, face):
    looks = [Look(exemplar=name, structure=0.0, preserve_color="yes") for name in ("ann", "bob")]
    assert torch.equal(style.draw(face, looks[0]), style.draw(face, looks[1]))
    assert far(style.draw(face, looks[0]), style.draw(face, looks[0].changed(preserve_color="no"))) > 1e-4


def test_truncation_multiplies_the_rows(style, face):
    assert far(style.draw(face, Look(structure=0.0, color=0.0, face_truncation=0.5)),
               plain(style, face.with_rows(0.5 * face.w_plus))) < 1e-4


def test_random_exemplars_are_the_samplers(style, face):
    rng = torch.Generator().manual_seed(4)
    parts = [style.parts.samplers[name](torch.randn(1, 128, generator=rng)) for name in ("structure", "color")]
    rows = torch.cat(parts, dim=1)
    assert far(style.code(Look(exemplar="random", style_seed=4.0)), style.network.map_rows(rows)) < 1e-5
    assert far(style.code(Look(exemplar="random")), style.code(Look(exemplar="random", style_seed=1.0))) > 1e-4


def test_portrait_of_a_file_is_encoded_once(style, face, tmp_path, monkeypatch):
    Image.effect_noise((70, 70), 90).convert("RGB").save(tmp_path / "p.png")
    value = FileValue.read(tmp_path / "p.png")
    image = style.draw(face, Look(exemplar=value))
    monkeypatch.setattr(style, "encode", lambda path: pytest.fail("encoded twice"))
    assert torch.equal(style.draw(face, Look(exemplar=str(tmp_path / "p.png"))), image)
    assert far(image, style.draw(face, Look())) > 1e-4


@pytest.mark.parametrize(("values", "error", "words"), [
    ({"exemplar": "carl"}, CheckpointError, "--exemplar carl.*ann, bob"),
    ({"style_seed": 0.5, "exemplar": "random"}, CheckpointError, "whole number"),
    ({"exemplar": __file__}, ImageError, "test_dual_style"), ({"weight": (1.0, 2.0)}, CheckpointError, "--weight"),
])
def test_what_cannot_be_drawn_is_one_line(style, values, error, words):
    with pytest.raises(error, match=words) as found:
        style.prepare(Look(**values))
    assert "\n" not in str(found.value)


def test_gallery_has_pictures(style, parts):
    pictures = style.pictures("exemplar")
    assert list(pictures) == ["ann", "bob"] and np.array_equal(np.asarray(pictures["bob"]), parts.gallery.thumbs[1].numpy())
    assert style.pictures("structure") == {}


def test_graph_draws_what_draw_draws(style, face):
    graph = style.graph()
    assert [control.name for control in graph.inputs] == ["structure", "color", "face_truncation"]
    ours = graph(face.w_plus, face.residual, None, *(torch.full((2,), n) for n in (0.3, 0.6, 0.9)))
    assert far(ours, style.draw(face, Look(structure=0.3, color=0.6, face_truncation=0.9))) < 1e-4


# --------------------------------------------------------------------------------------------------------------- files


# -------------------------------------------------------------------------------------------------------- command line


@pytest.mark.parametrize("script", [inference, generate_samples, deformation_control])
def test_options_of_the_controls_are_no_script_s_own(style, script):
    args = script.parse(["--style", "toons", "--face_truncation", "0.8", "--color_exemplar", "bob",
                         *(["--input_image", "x.png"] if script is inference else [])])
    assert {control.name for control in style.controls} <= set(vars(args))


def test_a_photo_comes_back_where_nothing_of_an_exemplar_is_wanted():
    bundled = load_style("exemplars")
    rows = bundled.random(torch.randn(1, 512, generator=torch.Generator().manual_seed(2)), truncation_psi=0.7).w_plus
    photo = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0
    seen = Face(rows, torch.zeros(1, bundled.network.generator.config.channels[32], 32, 32), photo)
    bare = bundled.default_look().changed(structure=0.0, color=0.0)
    assert far(bundled.draw(seen, bare), enlarged_picture(photo)) < 1e-2
    assert far(bundled.draw(seen, bare.changed(structure=1.0, color=1.0)), enlarged_picture(photo)) > 0.1
