"""Readers, writers and the zoo: only intact files of the right kind come in, and nothing is half-written."""

from __future__ import annotations

import bz2
import os
import pickle
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from checkpoints import (
    CheckpointError,
    atomic_write,
    builders,
    features,
    find,
    load_model,
    load_strict,
    read_torch,
    save_model,
    starter_dir,
)
from checkpoints import __main__ as zoo
from checkpoints.builders import load_base, load_encoder, load_vit
from checkpoints.manifest import entries, import_file
from models.deformable import DeformableGenerator
from models.stylegan2 import Generator, GeneratorConfig
from styles.deformable import export_published, save_style
from styles.registry import load_style

CONFIG = GeneratorConfig(size=64, style_dim=16, n_mlp=2, channels={4: 8, 8: 8, 16: 8, 32: 8, 64: 4})


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """An empty checkpoints folder, and a current folder without styles."""
    folder = tmp_path / "weights"
    folder.mkdir()
    monkeypatch.setenv("CHECKPOINTS_DIR", str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def deformable():
    """A network of 64 px that is quick to save."""
    return DeformableGenerator.for_generator(Generator(CONFIG), grid_size=4)


def save_toy(path, deformable):
    save_style(path, deformable, w_avg=torch.zeros(16), base={"name": "toy", "fingerprint": "0"}, training={"steps": 1})


def one_line(error: pytest.ExceptionInfo, *words: str) -> None:
    text = str(error.value)
    assert "\n" not in text
    for word in words:
        assert word in text


def test_round_trip_keeps_values_and_config(tmp_path):
    tensors = {"a": torch.randn(3, 4), "b": torch.arange(5)}
    save_model(tmp_path / "x.safetensors", tensors, {"kind": "style", "n": [1, 2]})
    loaded, config = load_model(tmp_path / "x.safetensors", kind="style")
    assert config == {"kind": "style", "n": [1, 2]} and os.listdir(tmp_path) == ["x.safetensors"]
    assert torch.equal(loaded["a"], tensors["a"]) and torch.equal(loaded["b"], tensors["b"])


def test_half_precision_keeps_what_would_overflow(tmp_path):
    tensors = {"small": torch.tensor([1.5]), "large": torch.tensor([1e6])}
    save_model(tmp_path / "x.safetensors", tensors, {"kind": "k"}, half=True)
    loaded, _ = load_model(tmp_path / "x.safetensors")
    assert loaded["large"].item() == 1e6 and loaded["small"].item() == 1.5


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_weights_are_refused_both_ways(tmp_path, value):
    with pytest.raises(CheckpointError) as error:
        save_model(tmp_path / "x.safetensors", {"bad": torch.tensor([value])}, {"kind": "k"})
    one_line(error, "bad", "NaN or infinity")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(("content", "word"), [
    (b"", "empty"), (b"<!DOCTYPE html><html>gone</html>", "web page"), (b"  <html>", "web page"),
    (b"\xef\xbb\xbf<!-- saved --><html>", "web page"), (b"version https://git-lfs.github.com/spec/v1\n", "LFS pointer"),
    (b"just some text", "text file"), (b'{"error": "Not Found"}', "text file"), (b"xyz", "text file"),
    (b"PK\x03\x04broken zip", "not a weights file"), (b"\x1f\x8b\x08\x00\x00", "not a weights file"),
])
def test_files_that_are_no_weights_are_named_as_what_they_are(tmp_path, content, word):
    path = tmp_path / "style1.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        read_torch(path)
    one_line(error, str(path), word)


def test_truncated_file_is_damaged(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"a": torch.randn(1000)}, path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(CheckpointError, match="damaged"):
        read_torch(path)


class Malicious:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("legacy", [False, True])
def test_pickle_with_code_is_refused_and_does_not_run(tmp_path, legacy):
    path, target = tmp_path / "evil.pt", tmp_path / "owned"
    if legacy:
        path.write_bytes(pickle.dumps(Malicious(target)))
    else:
        torch.save({"g": Malicious(target)}, path)
    with pytest.raises(CheckpointError) as error:
        read_torch(path)
    one_line(error, str(path), "code")
    assert not target.exists()


def test_strict_loading_names_each_kind_of_misfit():
    module = torch.nn.Linear(2, 3)
    for state, word in (({"weight": torch.zeros(3, 2)}, "missing bias"),
                        ({"weight": torch.zeros(3, 2), "bias": torch.zeros(3), "extra": torch.zeros(1)},
                         "unexpected extra"),
                        ({"weight": torch.zeros(2, 2), "bias": torch.zeros(3)}, "misshapen weight")):
        with pytest.raises(CheckpointError) as error:
            load_strict(module, state, what="file.pt")
        one_line(error, "file.pt", word)


def test_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "x"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"),
                                   RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 24 vs 15")])
def test_full_disk_is_a_clear_error_and_leaves_nothing(tmp_path, error):
    with pytest.raises(CheckpointError, match="cannot be written .*free space"), atomic_write(tmp_path / "x"):
        raise error
    assert not os.listdir(tmp_path)


def test_unwritable_folder_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"), atomic_write(tmp_path / "file" / "x"):
        pass


@pytest.mark.parametrize("name", ["../etc/passwd", "/etc/nothing", "a/b", "..", ".hidden", ""])
def test_names_cannot_leave_the_folder(weights, name):
    with pytest.raises(CheckpointError, match="not a plain style name|no such style"):
        find(name)


def test_wrong_kind_names_both_kinds(weights):
    save_model(weights / "x.safetensors", {"a": torch.zeros(1)}, {"kind": "encoder"})
    with pytest.raises(CheckpointError) as error:
        load_style("x")
    one_line(error, "holds an encoder", "style is needed")
    torch.save({"g_ema": {}, "d": {}}, weights / "y.pt")
    with pytest.raises(CheckpointError, match="holds a base generator"):
        load_style("y")
    torch.save({"g": {}, "stns": {}, "rtstn": {}}, weights / "z.pt")
    with pytest.raises(CheckpointError, match="holds a fine-tuned style"):
        load_base(weights / "z.pt")


def test_unknown_style_lists_the_known_ones(weights):
    save_model(weights / "mine.safetensors", {"a": torch.zeros(1)}, {"kind": "style"})
    with pytest.raises(CheckpointError) as error:
        load_style("other")
    one_line(error, "mine", "train.py")


def test_list_and_verify_tell_missing_from_wrong(weights, capsys):
    assert zoo.main(["list"]) == 0
    assert "missing  e4e" in capsys.readouterr().out
    (weights / "alex.pth").write_text("<html>")
    assert zoo.main(["verify"]) == 2
    printed = capsys.readouterr()
    assert "wrong    lpips-heads" in printed.out and "web page" in printed.err
    assert "present  starter/generator" in printed.out


def test_starter_fits_its_manifest_and_the_size_limit():
    starter = [entry for entry in entries() if entry.kind == "starter"]
    assert len(starter) == 13 and all(entry.path.stat().st_size == entry.bytes for entry in starter)
    assert sum(entry.bytes for entry in starter) <= 84_000_000


def test_import_recognises_by_content(weights, tmp_path):
    heads = Path(find_spec("lpips").origin).parent / "weights" / "v0.1" / "alex.pth"
    source = tmp_path / "download(1).pth"
    shutil.copyfile(heads, source)
    assert import_file(source) == weights / "alex.pth" and (weights / "alex.pth").read_bytes() == heads.read_bytes()
    torch.save({"lin0.model.1.weight": torch.zeros(1, 64, 1, 1)}, source)
    with pytest.raises(CheckpointError, match="expected df73285e35b2"):
        import_file(source)
    torch.save({"something": torch.zeros(1)}, source)
    with pytest.raises(CheckpointError, match=r"other content \(something\), none of the known weights"):
        import_file(source)


def test_import_unpacks_landmarks_and_checks_their_size(weights, tmp_path):
    packed = tmp_path / "shape_predictor_68_face_landmarks.dat.bz2"
    packed.write_bytes(bz2.compress(b"too short"))
    with pytest.raises(CheckpointError, match="gives 9 bytes"):
        import_file(packed)
    with pytest.raises(CheckpointError, match="is damaged"):
        packed.write_bytes(bz2.compress(bytes(100_000))[:-20])
        import_file(packed)
    packed.write_bytes(bz2.compress(bytes(99_693_938)))
    with pytest.raises(CheckpointError, match="more than 99693937 bytes"):
        import_file(packed)
    assert not os.listdir(weights)


def test_alexnet_is_checked_by_its_digest(weights, tmp_path):
    source = tmp_path / "alexnet.pth"
    torch.save({"features.0.weight": torch.zeros(1), "classifier.1.weight": torch.zeros(1)}, source)
    with pytest.raises(CheckpointError, match="7be5be79"):
        import_file(source)


def test_style_round_trip_keeps_every_tensor_and_its_config(weights, deformable):
    save_toy(weights / "toy.safetensors", deformable)
    style = load_style("toy")
    assert style.name == "toy" and style.config["training"] == {"steps": 1} and style.config["base"]["name"] == "toy"
    for key, tensor in deformable.state_dict().items():
        assert torch.equal(style.deformable.state_dict()[key], tensor), key
    assert style.deformable.config == deformable.config and not any(p.requires_grad for p in style.deformable.parameters())
    assert load_style(weights / "toy.safetensors").fingerprint == style.fingerprint


def test_published_export_gives_the_same_style(weights, deformable):
    export_published(weights / "old.pt", deformable)
    style = load_style("old")
    assert style.deformable.config == deformable.config
    for key, tensor in deformable.state_dict().items():
        assert torch.equal(style.deformable.state_dict()[key], tensor), key


def test_export_that_the_format_cannot_say_is_a_clear_error(weights):
    without = DeformableGenerator.for_generator(Generator(CONFIG), grid_size=4, affine=False)
    with pytest.raises(CheckpointError, match="published format"):
        export_published(weights / "x.pt", without)
    assert not list(weights.iterdir())


@pytest.mark.parametrize("load", [lambda: load_base("starter", with_discriminator=True), lambda: load_encoder("starter"),
                                  lambda: load_vit("starter")])
def test_loading_leaves_the_global_random_numbers_alone(load):
    before = torch.get_rng_state()
    load()
    assert torch.equal(torch.get_rng_state(), before)


def test_starter_networks_are_whole():
    base, encoder = load_base("starter", with_discriminator=True), load_encoder("starter")
    for module in (base.generator, base.discriminator, encoder.module):
        tensors = [*module.parameters(), *module.buffers()]
        assert all(t.device.type == "cpu" and (t.is_contiguous() or t.is_contiguous(memory_format=torch.channels_last))
                   for t in tensors)
        assert all(t.dtype == torch.float32 for t in tensors if t.is_floating_point())
    assert base.fingerprint == load_base("starter").fingerprint
    assert encoder.latent_avg.shape == (base.generator.config.n_latent, base.generator.config.style_dim)


@pytest.mark.parametrize(("change", "words"), [
    (lambda t, c: t.pop("w_avg"), "w_avg does not fit: missing"),
    (lambda t, c: c.pop("generator"), "does not describe a generator"),
    (lambda t, c: c["generator"].update(size=100), "does not describe a generator"),
    (lambda t, c: c["generator"].update(channels=[1]), "does not describe a generator"),
    (lambda t, c: c["transformers"].update(unknown=1), "does not describe a transformers"),
    (lambda t, c: c["transformers"].update(channels={"32": 4, "64": 4}), "channels at 32 px"),
    (lambda t, c: t.update({"g.extra": torch.zeros(1)}), "unexpected extra"),
    (lambda t, c: t.update({"strange": torch.zeros(1)}), "unexpected strange"),
    (lambda t, c: t.pop("stns.stns.0.loc_net.fc.2.bias"), "missing stns.0.loc_net.fc.2.bias"),
    (lambda t, c: t.update({"g.input.input": torch.zeros(1)}), "misshapen input.input"),
])
def test_damaged_style_names_what_is_wrong(weights, deformable, change, words):
    save_toy(weights / "toy.safetensors", deformable)
    tensors, config = load_model(weights / "toy.safetensors")
    change(tensors, config)
    save_model(weights / "toy.safetensors", tensors, config)
    with pytest.raises(CheckpointError, match=words) as error:
        load_style("toy")
    assert "\n" not in str(error.value) and "toy.safetensors" in str(error.value)


def test_plain_names_mean_styles_before_files_of_the_current_folder(weights, deformable, tmp_path):
    (tmp_path / "toy").write_text("not a style")
    save_toy(weights / "toy.safetensors", deformable)
    assert find("toy") == weights / "toy.safetensors"
    (tmp_path / "outputs" / "models").mkdir(parents=True)
    export_published(tmp_path / "outputs" / "models" / "second.pt", deformable)
    assert find("second").name == "second.pt" and {"second", "toy"} <= set(builders.style_names())


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "weights"])
def test_names_that_cannot_be_files_are_one_line(weights, name):
    with pytest.raises(CheckpointError, match="no such style"):
        find(name)


def test_official_landmarks_come_before_the_starters(weights):
    assert builders.landmarks_path() == starter_dir() / "landmarks.dat"
    (weights / features.OFFICIAL_LANDMARKS).write_bytes(b"x")
    assert builders.landmarks_path() == weights / features.OFFICIAL_LANDMARKS


def test_own_styles_are_listed_verified_and_not_replaced(weights, deformable, tmp_path, capsys):
    save_toy(weights / "toy.safetensors", deformable)
    assert zoo.main(["verify"]) == 0 and "present  toy" in capsys.readouterr().out
    save_toy(tmp_path / "toy.safetensors", deformable)
    assert zoo.main(["import", str(tmp_path / "toy.safetensors")]) == 0
    with torch.no_grad():
        deformable.generator.input.input += 1
    save_toy(tmp_path / "toy.safetensors", deformable)
    with pytest.raises(CheckpointError, match="exists and holds another style"):
        import_file(tmp_path / "toy.safetensors")
    export_published(tmp_path / "stylegan2-ffhq-config-f.pt", deformable)
    with pytest.raises(CheckpointError, match="rename it"):
        import_file(tmp_path / "stylegan2-ffhq-config-f.pt")
    (weights / "toy.safetensors").write_bytes((weights / "toy.safetensors").read_bytes()[:-100])
    capsys.readouterr()
    assert zoo.main(["verify"]) == 2
    printed = capsys.readouterr()
    assert "wrong    toy" in printed.out and printed.err.count("\n") == 1
