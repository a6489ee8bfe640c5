"""Network pickles of stylegan2-ada-pytorch and face-alignment's files: read as data, converted, refused where hostile."""

from __future__ import annotations

import io
import os
import pickle
import sys
import types

import numpy as np
import pytest
import torch
from parity_fill import ParityFolder, relative_error
from test_parity_landmark import FLOAT32_TOLERANCE, filled
from torch import nn

from checkpoints import CheckpointError
from checkpoints import __main__ as zoo
from checkpoints.builders import load_base
from checkpoints.fan import load_fan
from checkpoints.io import build_strict
from checkpoints.manifest import import_file
from checkpoints.official import official_keys
from models.discriminator import Discriminator, DiscriminatorConfig
from models.fan import FAN, FANConfig
from models.stylegan2_ada import convert_discriminator, convert_generator


class Recorded(nn.Module):
    """Pickles as NVIDIA's persistent classes do: a function, and the source of the class with the state."""

    source = "raise SystemExit('the source was run')"

    def __reduce__(self):
        meta = {"type": "class", "version": 6, "module_src": self.source, "class_name": "Generator", "state": self.__dict__}
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (meta,), None


@pytest.fixture(autouse=True)
def nvidia(monkeypatch, tmp_path):
    """The modules that such a pickle names, each of which fails the test when it is used to load."""
    def _reconstruct_persistent_obj(meta):
        raise SystemExit("a function of the file was called")

    easy = type("EasyDict", (dict,), {"__module__": "dnnlib.util", "__qualname__": "EasyDict"})
    for name, things in (("torch_utils.persistence", {"_reconstruct_persistent_obj": _reconstruct_persistent_obj}),
                         ("dnnlib.util", {"EasyDict": easy})):
        module = types.ModuleType(name)
        for attribute, thing in things.items():
            thing.__module__, thing.__qualname__ = name, attribute
            setattr(module, attribute, thing)
        monkeypatch.setitem(sys.modules, name.partition(".")[0], types.ModuleType(name.partition(".")[0]))
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setenv("CHECKPOINTS_DIR", str(tmp_path / "weights"))
    monkeypatch.chdir(tmp_path)


def network(state, kind=Recorded):
    """Return a tree of modules with a state dict of these names."""
    root = kind()
    root.init_kwargs = sys.modules["dnnlib.util"].EasyDict(z_dim=512)
    root.act_gain = np.sqrt(2)
    for name, tensor in state.items():
        *path, last = name.split(".")
        module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, kind())
            module = module._modules[part]
        if last in ("resample_filter", "noise_const", "w_avg"):
            module.register_buffer(last, tensor)
        else:
            module.register_parameter(last, nn.Parameter(tensor))
    if "fc0" in getattr(root, "mapping", root)._modules:
        root.mapping.fc0.bias_gain = 0.01
    return root


def write(path, networks):
    path.write_bytes(pickle.dumps({**networks, "training_set_kwargs": None, "augment_pipe": None}))
    return path


def small_state(size=16, width=8):
    """A generator's state of stylegan2-ada-pytorch, small."""
    rng, taps = torch.Generator().manual_seed(0), torch.tensor([1.0, 3.0, 3.0, 1.0])
    state = {"mapping.w_avg": torch.zeros(width), "synthesis.b4.const": torch.randn(width, 4, 4, generator=rng)}
    for index in range(2):
        state |= {f"mapping.fc{index}.weight": torch.randn(width, width, generator=rng),
                  f"mapping.fc{index}.bias": torch.zeros(width)}
    side = 4
    while side <= size:
        layers = {"conv0": (width, 3), "conv1": (width, 3), "torgb": (3, 1)}
        for name, (out, kernel) in layers.items():
            if side == 4 and name == "conv0":
                continue
            prefix = f"synthesis.b{side}.{name}"
            state |= {f"{prefix}.weight": torch.randn(out, width, kernel, kernel, generator=rng),
                      f"{prefix}.bias": torch.zeros(out), f"{prefix}.affine.bias": torch.ones(width),
                      f"{prefix}.affine.weight": torch.randn(width, width, generator=rng)}
            if name != "torgb":
                state |= {f"{prefix}.noise_const": torch.randn(side, side, generator=rng),
                          f"{prefix}.noise_strength": torch.tensor(0.1),
                          f"{prefix}.resample_filter": taps[:, None] * taps / 64}
        side *= 2
    return state


def test_pickle_converts_and_gives_the_reference_image(parity_systems: ParityFolder, tmp_path, capsys):
    stored = parity_systems.tensors("landmark_nvlabs_generator_128")
    state = filled(parity_systems, "landmark_nvlabs_generator_128")
    path = write(tmp_path / "ffhq.pkl", {"G": None, "D": None, "G_ema": network(state)})
    assert zoo.main(["import", str(path)]) == 0
    base = load_base(capsys.readouterr().out.strip())
    assert torch.equal(base.w_avg, state["mapping.w_avg"]) and base.generator.config.lr_mlp == 0.01
    generator = base.generator.double()
    assert relative_error(generator.mapping(stored["z"].double()), stored["w"]) <= FLOAT32_TOLERANCE
    image = generator.synthesis(stored["w_plus"].double(), noise=generator.fixed_noise())
    assert relative_error(image, stored["image"]) <= FLOAT32_TOLERANCE


def test_released_keys_are_those_of_our_official_file(parity_systems: ParityFolder):
    keys = parity_systems.keys("landmark_official")["ffhq.pkl"]["G_ema"]
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    state = {key: taps[:, None] * taps / 64 if key.endswith("resample_filter") else torch.zeros(1).expand(shape or [])
             if shape else torch.zeros([]) for key, shape in keys.items()}
    converted = convert_generator(state)
    assert {key: list(tensor.shape) for key, tensor in converted.state.items()} == \
        official_keys()["stylegan2-ffhq-config-f.pt"]["g_ema"]


def ada_names(network: Discriminator) -> dict[str, torch.Tensor]:
    """Return a discriminator's state under the names of stylegan2-ada-pytorch."""
    sizes = sorted(network.config.channels, reverse=True)
    names = {"convs.0.0": f"b{sizes[0]}.fromrgb", "convs.0.1": f"b{sizes[0]}.fromrgb", "final_conv.0": "b4.conv",
             "final_conv.1": "b4.conv", "final_linear.0": "b4.fc", "final_linear.1": "b4.out"}
    for index, size in enumerate(sizes[:-1], start=1):
        names |= {f"convs.{index}.conv1.0": f"b{size}.conv0", f"convs.{index}.conv1.1": f"b{size}.conv0",
                  f"convs.{index}.conv2.1": f"b{size}.conv1", f"convs.{index}.conv2.2": f"b{size}.conv1",
                  f"convs.{index}.skip.1": f"b{size}.skip"}
    return {f"{names[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}": tensor
            for key, tensor in network.state_dict().items() if not key.endswith("kernel")}


def test_discriminator_comes_along(tmp_path):
    critic = Discriminator(DiscriminatorConfig(16, {4: 8, 8: 8, 16: 4}))
    made = convert_discriminator(ada_names(critic))
    again = build_strict(lambda: Discriminator(made.config), made.state, what="converted")
    image = torch.randn(4, 3, 16, 16)
    assert torch.equal(again(image), critic(image))
    path = write(tmp_path / "my cats.pkl", {"G_ema": network(small_state()), "D": network(ada_names(critic))})
    direct = load_base(path, with_discriminator=True)
    loaded = load_base(import_file(path), with_discriminator=True)
    assert direct.fingerprint == loaded.fingerprint and torch.equal(direct.discriminator(image), critic(image))
    assert torch.equal(loaded.discriminator(image), critic(image)) and loaded.generator.config.size == 16


@pytest.mark.parametrize("size", [64, 256])
def test_generators_of_other_sizes_load(tmp_path, size):
    loaded = load_base(import_file(write(tmp_path / "own.pkl", {"G_ema": network(small_state(size))})))
    assert loaded.generator.config.size == size


class Code:
    """A pickle of this makes a file when it is loaded."""

    def __reduce__(self):
        return os.mkdir, ("made-by-code",)


def storage_with_code() -> bytes:
    """Return bytes of torch.save's old form whose pickle wants to run code."""
    buffer = io.BytesIO()
    torch.save({"storage": Code()}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


class Reduced:
    """Pickles as a call of a function with given arguments, and perhaps a state on top."""

    def __init__(self, function, arguments, *state):
        self.reduced = (function, arguments, *state)

    def __reduce__(self):
        return self.reduced


def hostile(kind: str):
    """Return a generator with one hostile thing in it."""
    tree = network(small_state())
    rebuild, load = torch._utils._rebuild_tensor_v2, torch.storage._load_from_bytes
    small = io.BytesIO()
    torch.save(torch.zeros(4)._typed_storage(), small, _use_new_zipfile_serialization=False)
    parts = {
        "call": Code(), "builtin": Reduced(eval, ("1",)), "attribute": Reduced(getattr, ("text", "upper")),
        "storage": Reduced(rebuild, (Reduced(load, (storage_with_code(),)), 0, (2,), (1,), False, {})),
        "beyond": Reduced(rebuild, (Reduced(load, (small.getvalue(),)), 0, (9, 9), (9, 1), False, {})),
        "bomb": Reduced(rebuild, (Reduced(load, (small.getvalue(),)), 0, (10**9, 10**4), (0, 0), False, {})),
        "attributes": Reduced(rebuild, (Reduced(load, (small.getvalue(),)), 0, (2,), (1,), False, {}), {"device": 1}),
    }
    tree.mapping._buffers["w_avg"] = parts[kind]
    return tree


@pytest.mark.parametrize("kind", ["call", "builtin", "attribute", "storage", "beyond", "bomb", "attributes"])
def test_hostile_pickle_of_the_same_form_is_refused_in_one_line(tmp_path, capsys, kind):
    path = tmp_path / "ffhq.pkl"
    path.write_bytes(pickle.dumps({"G_ema": hostile(kind)}))
    assert zoo.main(["import", str(path)]) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1 and "ffhq.pkl" in printed, printed
    assert not (tmp_path / "made-by-code").exists() and not (tmp_path / "weights").exists()


def test_source_of_a_class_stays_text(tmp_path):
    import_file(write(tmp_path / "net.pkl", {"G_ema": network(small_state())}))  # Recorded.source would end the test


@pytest.mark.parametrize(("change", "words"), [
    (lambda s: s.update({"mapping.embed.weight": torch.zeros(8, 8)}), "is conditional"),
    (lambda s: s.pop("synthesis.b8.conv0.weight"), "misses synthesis.b8.conv0.weight"),
    (lambda s: s.update({"synthesis.b8.conv1.resample_filter": torch.ones(4, 4)}), "filter"),
    (lambda s: s.update({"synthesis.b8.conv1.bias": torch.full((8,), float("nan"))}), "NaN"),
    (lambda s: s.update({"synthesis.b8.conv1.weight": torch.zeros(8, 7, 3, 3)}), "misshapen"),
])
def test_other_networks_are_told_by_their_keys(tmp_path, change, words):
    state = small_state()
    change(state)
    with pytest.raises(CheckpointError, match=words):
        import_file(write(tmp_path / "net.pkl", {"G_ema": network(state)}))


def test_a_generator_alone_says_what_training_needs(tmp_path):
    path = import_file(write(tmp_path / "alone.pkl", {"G_ema": network(small_state())}))
    assert load_base(path).discriminator is None
    with pytest.raises(CheckpointError, match="discriminator.safetensors: not found, and training needs it"):
        load_base(path, with_discriminator=True)


def test_pickle_without_a_generator(tmp_path):
    with pytest.raises(CheckpointError, match="no G_ema"):
        import_file(write(tmp_path / "net.pkl", {"G": network(small_state())}))
    (tmp_path / "cut.pkl").write_bytes(pickle.dumps({"G_ema": network(small_state())})[:5000])
    with pytest.raises(CheckpointError, match="damaged"):
        import_file(tmp_path / "cut.pkl")


class Wrapped(nn.Module):
    """Something scripted that is no face alignment network."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x):
        return self.layer(x)


@pytest.mark.filterwarnings("ignore")
def test_fan_loads_from_both_forms_and_strictly(tmp_path):
    fan = FAN(FANConfig(1)).eval()
    torch.save(fan.state_dict(), tmp_path / "fan.pth")
    torch.jit.trace(fan, torch.zeros(1, 3, 256, 256), check_trace=False).save(str(tmp_path / "fan.zip"))
    for name in ("fan.pth", "fan.zip"):
        loaded = load_fan(tmp_path / name).state_dict()
        assert all(torch.equal(tensor, loaded[key]) for key, tensor in fan.state_dict().items())
    torch.jit.script(Wrapped()).save(str(tmp_path / "other.zip"))
    with pytest.raises(CheckpointError, match="no heads"):
        load_fan(tmp_path / "other.zip")
    state = fan.state_dict()
    state.pop("m0.b1_4.bn1.bias")
    torch.save(state, tmp_path / "cut.pth")
    with pytest.raises(CheckpointError, match="missing m0.b1_4.bn1.bias"):
        load_fan(tmp_path / "cut.pth")
    torch.save({"x": Code()}, tmp_path / "code.pth")
    with pytest.raises(CheckpointError, match="refused"):
        load_fan(tmp_path / "code.pth")
