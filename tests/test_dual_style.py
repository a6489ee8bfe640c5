"""Exemplars as styles: files of both forms, controls, drawing, the command line."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import deformation_control
import generate_samples
import inference
from checkpoints import CheckpointError, save_model
from checkpoints import __main__ as zoo
from checkpoints.features import Encoder, load_painter
from checkpoints.io import check_fit, load_model
from checkpoints.manifest import import_file
from checkpoints.official import official_keys, recognise
from data.images import ImageError, read_image
from models.dualstylegan import FIRST_COLOR_ROW, CodeSampler, DualStyleGAN
from models.e4e import E4EConfig, E4EEncoder
from models.face import Face
from models.stylegan2 import Generator, GeneratorConfig
from models.tones import read_tones
from styles.controls import FileValue, Look
from styles.dualstyle import DualStyle, save_dual
from styles.dualstyle_files import DualParts, Gallery
from styles.dualstyle_shape import bent, carried, path_shift
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


def release(folder, parts, *, codes="refined_exstyle_code.npy", **changes):
    """Write the files of a released style."""
    folder.mkdir(exist_ok=True, parents=True)
    torch.save({"g_ema": {**parts.network.state_dict(), **changes}}, folder / "generator.pt")
    torch.save({name: sampler.state_dict() for name, sampler in parts.samplers.items()}, folder / "sampler.pt")
    if codes:
        named = zip(parts.gallery.names, parts.gallery.codes, strict=True)
        np.save(folder / codes, {f"{name}.jpg": code[None].numpy() for name, code in named})
    return folder / "generator.pt"


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


def spot_of(features):
    """Return the centre (x, y) in px of a map [H, W]."""
    place, mass = torch.arange(32.0) + 0.5, features.sum()
    return [float((features.sum(dim=dim) * place).sum() / mass) for dim in (0, 1)]


def test_residual_goes_where_the_structure_puts_its_landmarks(style, face):
    where = (torch.rand(1, 68, 2, generator=torch.Generator().manual_seed(6)) * 0.3 + 0.35).expand(2, -1, -1)
    shift = torch.tensor([3.0 / 32.0, 0.0]).expand(2, 68, 2)
    spot = torch.zeros(2, 8, 32, 32)
    spot[:, :, 14:18, 14:18] = 1.0
    x, y = spot_of(carried(Face(face.w_plus, spot), where, shift)[0, 0])
    assert abs(x - 19.0) < 0.4 and abs(y - 16.0) < 0.2
    x, y = spot_of(bent(spot, places=where, goal=where + shift)[0, 0])
    assert abs(x - 19.0) < 0.4 and abs(y - 16.0) < 0.2
    # Without a share the photo's features are as if there were none.
    style.config["detail"] = 1.0
    assert far(style.draw(face, Look(detail=0.0)), style.draw(Face(face.w_plus), Look())) < 1e-5


def test_shift_of_the_path_is_what_the_landmarks_say(style, face):
    where = torch.rand(1, 68, 2, generator=torch.Generator().manual_seed(6))
    seen = []

    class Finder:
        """Finds all landmarks a tenth to the right in the second picture."""

        def net(self, image):
            seen.append(image)
            return SimpleNamespace(points=where + 0.1 * (len(seen) - 1))

    code = style.code(Look()).expand(2, -1, -1)
    shift = path_shift(style.network, Finder().net, face.w_plus, code, style.weights(Look()))
    assert far(shift, torch.full((1, 68, 2), 0.1)) < 1e-6
    # Colours have no part in it.
    seen.clear()
    path_shift(style.network, Finder().net, face.w_plus, code, style.weights(Look(structure=0.0)))
    assert torch.equal(*seen)


def test_faces_are_bent_as_the_exemplar_by_the_weight_of_structure(toned, face):
    style, _ = toned
    moves = style.moves_of(Look(exemplar="bob"))
    assert moves.shape == (1, 68, 2) and far(moves, style.moves_of(Look(exemplar="ann"))) > 1e-3
    assert far(style.moves_of(Look(exemplar="ann", second_exemplar="bob", second_share=1.0)), moves) < 1e-6
    for weight in (0.0, 0.5, 1.5):
        look = Look(exemplar="bob", structure=weight)
        assert far(style.way(look, style.weights(look)), weight * moves) < 1e-6
    bare = style.default_look().changed(structure=0.0, color=0.0)
    assert far(style.draw(face, bare).clamp(-1.0, 1.0), plain(style, face).clamp(-1.0, 1.0)) < 1e-3


@pytest.fixture
def toned(weights, style, parts):
    """The style with the tones of its exemplars: "ann" is dark and calm, "bob" bright, red and rough."""
    rng = torch.Generator().manual_seed(9)
    pictures = torch.stack([-0.6 + 0.02 * torch.randn(3, 64, 64, generator=rng), 0.5 * torch.randn(3, 64, 64, generator=rng)])
    pictures[1, 0] += 0.5
    pictures = pictures.clamp(-1.0, 1.0)
    thumbs = ((torch.nn.functional.avg_pool2d(pictures, 2) + 1.0) * 127.5).byte().permute(0, 2, 3, 1).contiguous()
    gallery = replace(parts.gallery, thumbs=thumbs, points=torch.rand(2, 68, 2, generator=rng) * 0.5 + 0.25,
                      tones=torch.stack([read_tones(picture[None]).numbers() for picture in pictures]),
                      shape=0.01 * torch.randn(137, 136, generator=rng))
    save_dual(weights / "toned.safetensors", DualParts(parts.network, parts.w_avg, gallery, parts.samplers,
              {**style.config, "tone": 0.7}), with_generator=True, half=False)
    return load_style("toned"), pictures


@pytest.fixture
def drawn_in(weights, toned, parts):
    """The toned style with codes of how its exemplars are drawn."""
    style, pictures = toned
    painter = load_painter().module
    gallery = replace(style.gallery, manner=painter.read(torch.nn.functional.interpolate(pictures, size=(128, 128))))
    save_dual(weights / "drawn.safetensors", replace(style.parts, gallery=gallery, config={
        name: value for name, value in style.config.items() if name in ("base", "encoder", "exemplar_encoder", "tone")}
        | {"refine": 5}), with_generator=True, half=False)
    return load_style("drawn")


def test_pictures_are_drawn_in_the_manner_of_their_exemplar(toned, drawn_in, face):
    style, _ = toned
    look = drawn_in.default_look()
    assert far(drawn_in.manner_of(look.changed(exemplar="ann")), drawn_in.manner_of(look.changed(exemplar="bob"))) > 1e-2
    mixed = drawn_in.manner_of(look.changed(exemplar="ann", second_exemplar="bob", second_share=0.5))
    assert far(mixed, drawn_in.gallery.manner.mean(dim=0, keepdim=True)) < 1e-3
    assert far(drawn_in.manner_of(look.changed(exemplar="ann", color_exemplar="bob")), drawn_in.gallery.manner[1:]) < 1e-3
    assert far(drawn_in.draw(face, look), style.draw(face, look)) > 1e-2
    for bare in ({"tone_strength": 0.0}, {"color": 0.0}):
        given = look.changed(**bare)
        assert far(drawn_in.draw(face, given), style.draw(face, given)) < 1e-5


def test_misshapen_manner_is_refused(weights, drawn_in):
    tensors, config = load_model(weights / "drawn.safetensors", kind="style")
    for manner in (tensors["manner"][:1], tensors["manner"].float(), tensors["manner"][0]):
        save_model(weights / "odd.safetensors", {**tensors, "manner": manner}, config)
        with pytest.raises(CheckpointError, match="misshapen manner"):
            load_style("odd")


def test_rows_of_a_file_are_refined_once(drawn_in, tmp_path, monkeypatch):
    class Cache(dict):
        put = dict.__setitem__

    Image.new("RGB", (64, 64), "red").save(tmp_path / "p.png")
    look, calls = drawn_in.default_look().changed(exemplar=FileValue.read(tmp_path / "p.png")), []
    rows = torch.randn(9, *drawn_in.gallery.codes.shape[1:], generator=torch.Generator().manual_seed(2))
    monkeypatch.setattr(drawn_in.encoder, "refined", lambda path, steps: calls.append(steps) or rows[steps:steps + 1])
    drawn_in.cache = Cache()
    first = drawn_in.code(look)
    assert calls == [5] and torch.equal(drawn_in.code(look), first) and calls == [5]
    # Another run finds them in the cache; other steps are other rows.
    drawn_in._codes.clear()
    assert torch.equal(drawn_in.code(look), first) and calls == [5]
    assert not torch.equal(drawn_in.code(look.changed(refine_steps=2.0)), first) and calls == [5, 2]
    for steps in (-1.0, 0.5):
        with pytest.raises(CheckpointError, match="--refine_steps"):
            drawn_in.code(look.changed(refine_steps=steps))


def test_pictures_go_to_the_tones_of_their_exemplar_with_the_colours_weight(toned, style, face, tmp_path):
    style_, pictures = toned
    look = style_.default_look()
    assert look["tone_strength"] == 0.7 and "tone_strength" not in style.default_look()
    for name, picture in zip(("ann", "bob"), pictures, strict=True):
        theirs = read_tones(picture[None])

        def away(look, theirs=theirs):
            found = read_tones(style_.draw(face, look).clamp(-1.0, 1.0)[:1])
            return float((found.bands.log() - theirs.bands.log()).abs().mean())

        steps = [away(look.changed(exemplar=name, tone_strength=strength)) for strength in (0.0, 0.5, 1.0)]
        assert steps[0] > steps[1] > steps[2]
        found, points = style_.tones_of(look.changed(exemplar=name))
        assert far(found.bands, theirs.bands) < 1e-5 and points.shape == (1, 68, 2)
        assert float((found.local - theirs.local).abs().mean()) < 0.02
    # Without a weight of the colours, and with the photo's own kept, nothing is taken.
    for bare in (look.changed(color=0.0, structure=0.0), look.changed(preserve_color="yes", structure=0.0)):
        assert far(style_.draw(face, bare).clamp(-1.0, 1.0), style.draw(face, bare).clamp(-1.0, 1.0)) < 1e-4
    # A portrait of a file brings its own, a random exemplar those of the gallery's nearest.
    image = Image.fromarray(((pictures[1] + 1.0) * 127.5).byte().permute(1, 2, 0).numpy())
    image.save(tmp_path / "bob.png")
    read, _ = style_.tones_of(look.changed(exemplar=FileValue.read(tmp_path / "bob.png")))
    assert float((read.bands.log() - read_tones(pictures[1][None]).bands.log()).abs().max()) < 0.05
    near = style_.tones_of(look.changed(exemplar="random", style_seed=3.0))[0].numbers()
    assert min(far(near, numbers) for numbers in style_.gallery.tones) < 1e-6
    assert style_.fingerprint != style.fingerprint


def test_exemplars_are_mixed_and_lend_their_colours_apart(toned, face):
    style = toned[0]
    one, other = (style.code(Look(exemplar=name)) for name in ("ann", "bob"))
    assert far(style.code(Look(exemplar="ann", second_exemplar="bob")), (one + other) / 2) < 1e-5
    assert far(style.code(Look(exemplar="ann", second_exemplar="bob", second_share=0.25)), 0.75 * one + 0.25 * other) < 1e-5
    lent = style.code(Look(exemplar="ann", color_exemplar="bob"))
    assert torch.equal(lent, torch.cat([one[:, :FIRST_COLOR_ROW], other[:, FIRST_COLOR_ROW:]], dim=1))
    # Tones go with the colours; random structure may stay under the colours of one exemplar.
    ann, bob = (style.tones_of(Look(exemplar=name))[0].numbers() for name in ("ann", "bob"))
    assert torch.equal(style.tones_of(Look(exemplar="ann", color_exemplar="bob"))[0].numbers(), bob)
    assert far(style.tones_of(Look(exemplar="ann", second_exemplar="bob", second_share=0.25))[0].numbers(),
               0.75 * ann + 0.25 * bob) < 1e-5
    looks = [Look(exemplar="random", color_exemplar="bob", style_seed=float(seed)) for seed in (1, 2)]
    assert torch.equal(*(style.code(look)[:, FIRST_COLOR_ROW:] for look in looks))
    assert far(*(style.code(look)[:, :FIRST_COLOR_ROW] for look in looks)) > 0.01
    with pytest.raises(CheckpointError, match="--color_exemplar zoe: is no exemplar"):
        style.code(Look(exemplar="ann", color_exemplar="zoe"))


def test_small_file_keeps_tones_and_landmarks(toned, weights):
    pack_style(weights / "toned.safetensors", weights / "small.safetensors")
    small, whole = load_style("small").gallery, toned[0].gallery
    assert far(small.points, whole.points) < 1e-4 and far(small.tones, whole.tones) < 1e-3
    assert torch.equal(small.shape, whole.shape)
    tensors, config = load_model(weights / "toned.safetensors", kind="style")
    for change, words in (({"tones": tensors["tones"][:, :5]}, "misshapen tones"), ({"points": None}, "only some of tones")):
        kept = {name: tensor for name, tensor in {**tensors, **change}.items() if tensor is not None}
        save_model(weights / "bad.safetensors", kept, config)
        with pytest.raises(CheckpointError, match=words):
            load_style("bad")


def test_graph_with_tones_draws_what_draw_draws(toned, face):
    style = toned[0]
    graph = style.graph()
    assert [control.name for control in graph.inputs] == ["structure", "color", "tone_strength", "face_truncation"]
    ours = graph(face.w_plus, face.residual, None, *(torch.full((2,), n) for n in (0.3, 0.6, 0.5, 0.9)))
    theirs = style.draw(face, style.default_look().changed(structure=0.3, color=0.6, tone_strength=0.5, face_truncation=0.9))
    assert far(ours, theirs) < 1e-4


def test_small_file_draws_what_the_full_one_draws(style, weights, face):
    full, small = weights / "toons.safetensors", weights / "small.safetensors"
    assert pack_style(full, small) < 0.6 * full.stat().st_size
    loaded, look = load_style(small), Look(exemplar="bob", structure=1.0, color=1.0)
    assert controls_of(small) == controls_of(full) and loaded.gallery.names == style.gallery.names
    wanted, found = style.draw(face, look), loaded.draw(face, look)
    assert far(wanted, found) < 0.1 * far(wanted, style.draw(face, Look(structure=0.0, color=0.0)))
    tensors, config = load_model(small, kind="style")
    tensors["packed"] = tensors["packed"][:-9]
    save_model(small, tensors, config)
    with pytest.raises(CheckpointError, match="small.safetensors.*packed weights are"):
        load_style(small)


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
    Image.effect_noise((70, 50), 90).convert("RGB").save(tmp_path / "p.png")
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
def test_own_file_without_its_generator_needs_the_same_base(weights, parts):
    from checkpoints.builders import load_base

    base = load_base("starter")
    network = DualStyleGAN(base.generator)
    gallery = Gallery(("one",), torch.zeros(1, 12, 512), None, "w+")
    made = DualParts(network, base.w_avg, gallery, {}, {"base": {"name": "starter", "fingerprint": base.fingerprint}})
    save_dual(weights / "a.safetensors", made)
    style = load_style("a")
    assert style.base.fingerprint == base.fingerprint and [c.name for c in style.controls] == [
        "exemplar", "structure", "color", "preserve_color", "color_exemplar", "second_exemplar", "second_share", "weight",
        "face_truncation"]
    save_model(weights / "a.safetensors", *_changed(weights / "a.safetensors", {"fingerprint": "x", "name": "starter"}))
    with pytest.raises(CheckpointError, match="another starter"):
        load_style("a")


def _changed(path, base):
    tensors, config = load_model(path)
    return tensors, {**config, "base": base}


@pytest.mark.parametrize(("change", "words"), [
    ({"codes": torch.zeros(3, ROWS, 16)}, "misshapen codes"), ({"x": torch.zeros(1)}, "unexpected x"),
    ({"n.res.9.bias": None}, r"missing res\.9\.bias"),
    ({"thumbs": torch.zeros(1, 8, 8, 3, dtype=torch.uint8)}, "misshapen thumbs"),
    ({"structure.lin_out.weight": torch.zeros(5 * 16, 128)}, "makes 5 rows, expected 7"), ({"w_avg": None}, "w_avg"),
])
def test_own_file_that_does_not_fit_is_named(weights, style, change, words):
    tensors, config = load_model(weights / "toons.safetensors")
    tensors = {name: tensor for name, tensor in {**tensors, **change}.items() if tensor is not None}
    save_model(weights / "toons.safetensors", tensors, config)
    with pytest.raises(CheckpointError, match=words) as error:
        load_style("toons")
    assert "\n" not in str(error.value)


def test_released_folder_loads_with_its_codes_and_sampler(weights, parts, face):
    path = release(weights / "cartoon", parts)
    style = load_style(path)
    assert isinstance(style, DualStyle) and style.name == "cartoon" and style.gallery.names == ("ann.jpg", "bob.jpg")
    assert [c.name for c in controls_of(path)] == [c.name for c in style.controls]
    assert controls_of(path)[0].choices == ("ann.jpg", "bob.jpg", "random") and style.default_look()["face_truncation"] == 0.75
    wanted = style.network.synthesis(0.75 * face.w_plus, style.network.map_rows(parts.gallery.codes[:1]).expand(2, -1, -1),
                                     weights=[0.75] * 7 + [1.0] * (ROWS - 7), noise=style.network.generator.fixed_noise(),
                                     before=face.transforms())
    assert far(style.draw(face, style.default_look()), wanted) < 1e-4


def test_released_generator_alone_asks_for_a_portrait_and_its_encoder(weights, parts, tmp_path, monkeypatch):
    path = release(weights / "bare", parts, codes=None)
    (path.parent / "sampler.pt").unlink()
    style = load_style(path)
    with pytest.raises(CheckpointError, match="--exemplar FILE"):
        style.prepare(Look())
    Image.new("RGB", (9, 9), "red").save(tmp_path / "p.png")
    look = Look(exemplar=FileValue.read(tmp_path / "p.png"))
    with pytest.raises(CheckpointError, match=r"needs encoder\.pt"):
        style.prepare(look)
    (path.parent / "encoder.pt").touch()
    other = Encoder(torch.nn.Identity(), torch.zeros(2, 512), 64, "0")
    monkeypatch.setattr("styles.dualstyle_encoding.load_encoder", lambda name, device: other)
    with pytest.raises(CheckpointError, match=r"encoder\.pt: gives rows \[2, 512\]"):
        style.prepare(look)


@pytest.mark.parametrize(("key", "value", "words"), [
    ("res.3.norm2.style.weight", torch.zeros(2, 2), r"misshapen res\.3\.norm2\.style\.weight"),
    ("surplus", torch.zeros(1), "unexpected surplus"), ("style.1.bias", torch.full((16,), torch.nan), "holds NaN"),
    ("generator.conv1.conv.modulation.bias", "text", "modulation.bias"),
])
def test_misfits_of_released_files_name_the_key(weights, parts, key, value, words):
    path = release(weights / "cartoon", parts, **{key: value})
    with pytest.raises(CheckpointError, match=words) as error:
        load_style(path)
    assert "\n" not in str(error.value)


def test_keys_of_the_released_files_are_ours():
    tables = official_keys()
    with torch.device("meta"):
        network, color, structure = DualStyleGAN(Generator(GeneratorConfig.official(1024))), CodeSampler(11), CodeSampler(7)
    for module, table in ((network, tables["generator.pt"]["g_ema"]), (color, tables["sampler.pt"]["color"]),
                          (structure, tables["sampler.pt"]["structure"])):
        check_fit(module, {key: torch.zeros(()).expand(shape) for key, shape in table.items()}, what="released")
    assert recognise({"g_ema": tables["generator.pt"]["g_ema"], "g": {}, "d": {}}) == "dual"
    assert recognise({"color": {}, "structure": {}}) == "dual-sampler"


def test_released_folder_is_imported_as_one_file_listed_and_verified(weights, parts, face, tmp_path, capsys):
    path = release(tmp_path / "downloads" / "cartoon", parts)
    assert import_file(path) == weights / "cartoon.safetensors"
    assert zoo.main(["list"]) == 0 and zoo.main(["verify"]) == 0
    assert any(line.split()[:2] == ["present", "dualstylegan-cartoon"] for line in capsys.readouterr().out.splitlines())
    imported, released = load_style("cartoon"), load_style(path)
    assert imported.fingerprint == released.fingerprint
    assert torch.equal(imported.draw(face, imported.default_look()), released.draw(face, released.default_look()))
    with pytest.raises(CheckpointError, match="exists"):
        import_file(path)
    for name, words in (("sampler.pt", "import the generator.pt"), ("refined_exstyle_code.npy", "2 codes of exemplars")):
        with pytest.raises(CheckpointError, match=words):
            import_file(path.parent / name)


# -------------------------------------------------------------------------------------------------------- command line
def test_photo_with_an_exemplar_of_a_released_file(style, weights, parts, tmp_path, capsys):
    path = release(weights / "cartoon", parts)
    Image.effect_noise((64, 64), 80).convert("RGB").save(tmp_path / "photo.png")
    argv = ["--style", str(path), "--input_image", str(tmp_path / "photo.png"), "--align", "false", "--inversion", "e4e",
            "--encoder", str(weights / "photos.safetensors"), "--output", str(tmp_path / "out")]
    result, seen = tmp_path / "out" / "cartoon_photo.png", set()
    for options in (["--structure", "0.75"], ["--structure", "0.75", "--exemplar", "bob.jpg"], ["--preserve-color"],
                    ["--weight", ",".join(["0.5"] * ROWS)], ["--exemplar", "random", "--style_seed", "3"]):
        assert inference.main([*argv, *options]) == 0
        assert read_image(result).size == (64, 64)
        seen.add(result.read_bytes())
    assert len(seen) == 5
    capsys.readouterr()
    for options, words in ((["--exemplar", "carl"], "one of ann.jpg, bob.jpg, random"),
                           (["--structure", "1,1"], "--structure"), (["--alpha", "1"], "no such control")):
        assert inference.main([*argv, *options]) == 2
        message = capsys.readouterr().err.strip()
        assert message.count("\n") == 0 and words in message


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
    bare = bundled.default_look().changed(structure=0.0, color=0.0, detail=1.0, tone_strength=0.0, face_truncation=1.0)
    assert far(bundled.draw(seen, bare), photo) < 1e-3
    without = bundled.draw(seen, bare.changed(detail=0.0))
    assert far(bundled.draw(seen, bare.changed(detail=0.5)), (photo + without) / 2.0) < 1e-3
