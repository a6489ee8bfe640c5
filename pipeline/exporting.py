"""One file that runs without this project: a style's generator, alone or behind the encoder, as ONNX or TorchScript.

The sizes and the noise are fixed. A file is compared with PyTorch before it gets its name, so a wrong one never lies
on the disk.
"""

from __future__ import annotations

import importlib
import json
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from checkpoints import atomic_write
from checkpoints.builders import Encoder, Style
from models.spatial_transformer import INTERPOLATION, pixel_lattice
from models.stylegan2 import layer_at
from pipeline.cli import UserError

VERSION = "1.0"
FORMATS = ("onnx", "torchscript")
PARTS = ("generator", "photo")
# ONNX has grid_sample since 16; 18 is what PyTorch's exporter speaks natively.
OPSET = 18
TOLERANCE = 1e-3
ALPHAS = (0.0, 0.5, 1.0)
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
LICENCES = {
    "starter": "Derived from the bundled starter weights: CC BY-NC-SA 4.0, not for commercial use.",
    "official": "Derived from weights trained on FFHQ: CC BY-NC-SA 4.0 and the terms of those weights.",
}

OTHER_LICENCE = "The terms of the weights that the style was trained from apply."

Runner = Callable[[dict[str, np.ndarray]], np.ndarray]


@dataclass(frozen=True)
class ExportConfig:
    """What to write: ``format`` of ``FORMATS``, ``part`` of ``PARTS``, fixed ``batch``, side of the photo in px.

    ``size`` is None for the encoder's own input side, else a whole multiple of it; the generator alone has none.
    """

    format: str = "onnx"
    part: str = "generator"
    batch: int = 1
    size: int | None = None

    def __post_init__(self) -> None:
        if self.format not in FORMATS or self.part not in PARTS:
            raise ValueError(f"expected a format of {FORMATS} and a part of {PARTS}, got {self.format!r} and "
                             f"{self.part!r}")
        if self.batch < 1:
            raise ValueError(f"batch must be at least 1, got {self.batch}")


@dataclass(frozen=True)
class Exported:
    """What was written: bytes, largest difference from PyTorch, seconds per batch of the file and of PyTorch."""

    size: int
    error: float
    seconds: float
    torch_seconds: float


class GeneratorGraph(nn.Module):
    """``DeformableGenerator.synthesis`` with the stored noise and without the checks a fixed graph cannot hold."""

    def __init__(self, style: Style) -> None:
        super().__init__()
        self.deformable = style.deformable
        for size in self.deformable.config.resolutions:
            self.register_buffer(f"lattice_{size}", pixel_lattice(size, mode="exact"), persistent=False)

    def forward(self, w_plus: Tensor, alpha: Tensor) -> Tensor:
        """w_plus [N, L, D], alpha [N] -> image [N, 3, S, S]."""
        generator = self.deformable.generator
        transforms = {layer_at(size): partial(self._deform, index=index, size=size, alpha=alpha)
                      for index, size in enumerate(self.deformable.config.resolutions)}
        return generator.synthesis(w_plus, noise=generator.fixed_noise(), feature_transforms=transforms)

    def _deform(self, x: Tensor, *, index: int, size: int, alpha: Tensor) -> Tensor:
        sample = partial(F.grid_sample, mode=INTERPOLATION[self.deformable.config.mode], padding_mode="reflection",
                         align_corners=False)
        if self.deformable.affine is not None:
            theta = self.deformable.affine.stns[index].theta(x, alpha=alpha)
            # affine_grid written out: ONNX has it only from opset 20 on.
            lattice = getattr(self, f"lattice_{size}")
            grid = lattice @ theta[:, :, :2].transpose(1, 2) + theta[:, None, :, 2]  # [N, size^2, 2]
            x = sample(x, grid.reshape(-1, size, size, 2))
        if self.deformable.tps is not None:
            x = sample(x, self.deformable.tps.stns[index].grid(x, alpha=alpha))
        return x.contiguous(memory_format=torch.channels_last)


class PhotoGraph(nn.Module):
    """Encoder and generator in one: an aligned face to its restyled image.

    Args:
        style: the fine-tuned generator.
        encoder: makes its latents.
        size: side of the photo in px, a multiple of the encoder's.
    """

    def __init__(self, style: Style, encoder: Encoder, *, size: int) -> None:
        super().__init__()
        self.generator, self.encoder = GeneratorGraph(style), encoder.module
        self.shrink = size // encoder.input_size
        self.register_buffer("latent_avg", encoder.latent_avg, persistent=False)

    def forward(self, photo: Tensor, alpha: Tensor) -> Tensor:
        """photo [N, 3, size, size] in [-1, 1], alpha [N] -> image [N, 3, S, S]."""
        photo = F.avg_pool2d(photo, self.shrink) if self.shrink > 1 else photo
        return self.generator(self.encoder(photo) + self.latent_avg, alpha)


def base_name(style: Style) -> str:
    """Return the name of the generator that a style was trained from, by its size where the file does not say."""
    named = style.config.get("base", {}).get("name")
    return named or ("starter" if style.deformable.generator.config.size <= 256 else "official")


def require(*packages: str) -> None:
    """Raise UserError naming requirements-app.txt unless all packages can be imported."""
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise UserError(f"{package} is not installed; pip install -r requirements-app.txt") from error


def photo_size(encoder: Encoder, size: int | None) -> int:
    """Return the side of the photo in px; raises UserError unless it is a multiple of the encoder's."""
    if size is not None and size % encoder.input_size:
        raise UserError(f"--size {size}: the encoder takes {encoder.input_size} px; use a multiple of it")
    return size or encoder.input_size


@torch.no_grad()
def random_latents(style: Style, batch: int, *, seed: int) -> Tensor:
    """Return w_plus [batch, L, D] whose rows are mapped from z of their own, seeded."""
    generator = style.deformable.generator
    config = generator.config
    rng = torch.Generator().manual_seed(seed)
    z = torch.randn(batch * config.n_latent, config.style_dim, generator=rng)
    return generator.mapping(z).reshape(batch, config.n_latent, config.style_dim)  # [N L, D] -> [N, L, D]


@torch.no_grad()
def samples(style: Style, config: ExportConfig, size: int | None) -> list[dict[str, Tensor]]:
    """Return inputs of the graph, one set per alpha of ``ALPHAS``: random latents, or faces made from such."""
    sets = []
    for seed, alpha in enumerate(ALPHAS):
        first = {"w_plus": random_latents(style, config.batch, seed=seed)}
        if size is not None:
            image = style.deformable.synthesis(
                first["w_plus"], alpha=0.0, noise=style.deformable.generator.fixed_noise()).image.clamp(-1.0, 1.0)
            first = {"photo": F.interpolate(image, size=(size, size), mode="bilinear", align_corners=False)}
        sets.append(first | {"alpha": torch.full((config.batch,), alpha)})
    return sets


def metadata(style: Style, config: ExportConfig, inputs: dict[str, Tensor]) -> dict[str, str]:
    """Return what a user of the file has to know, as strings."""
    ranges = {"w_plus": "latents, one row per layer", "photo": "aligned RGB face, [-1, 1]",
              "alpha": "degree of deformation, 0 undeformed, 1 as learned"}
    shapes = {name: f"float32 {list(value.shape)}: {ranges[name]}" for name, value in inputs.items()}
    side = style.deformable.generator.config.size
    return {"style": style.name, "fingerprint": style.fingerprint, "part": config.part, "version": VERSION,
            "inputs": json.dumps(shapes), "output": f"float32 [{config.batch}, 3, {side}, {side}]: RGB, about [-1, 1]",
            "licence": LICENCES.get(base_name(style), OTHER_LICENCE)}


def write_onnx(graph: nn.Module, inputs: dict[str, Tensor], path: Path, facts: dict[str, str]) -> None:
    """Write the graph as ONNX with ``facts`` as its metadata, all weights inside."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(graph, tuple(inputs.values()), input_names=list(inputs), output_names=["image"],
                                    opset_version=OPSET, dynamo=True, external_data=False, verbose=False)
    # The exporter notes the source lines of this machine at every node.
    for node in program.model.graph:
        node.metadata_props.clear()
    program.model.metadata_props.update(facts)
    program.save(str(path), external_data=False)


def write_torchscript(graph: nn.Module, inputs: dict[str, Tensor], path: Path, facts: dict[str, str]) -> None:
    """Write the traced graph with ``facts`` as ``metadata.json`` inside."""
    with warnings.catch_warnings(), torch.no_grad():
        # Tracing tells of every shape check that becomes a constant, which is what a fixed size means.
        warnings.simplefilter("ignore")
        traced = torch.jit.freeze(torch.jit.trace(graph, tuple(inputs.values()), check_trace=False))
        torch.jit.save(traced, str(path), _extra_files={"metadata.json": json.dumps(facts)})


def open_onnx(path: Path) -> Runner:
    """Return a function from named inputs to the image, run by onnxruntime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, inputs)[0]


def open_torchscript(path: Path) -> Runner:
    """Return a function from named inputs to the image, run by the TorchScript interpreter on the CPU."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.jit.load(str(path), map_location="cpu")
    return lambda inputs: module(*(torch.from_numpy(value) for value in inputs.values())).numpy()


@torch.no_grad()
def compare(run: Runner, reference: Callable[[dict[str, Tensor]], Tensor], sets: list[dict[str, Tensor]]
            ) -> tuple[float, float, float]:
    """Return the largest difference over all inputs, and the least seconds of the file and of the reference."""
    error, times, torch_times = 0.0, [], []
    for inputs in sets:
        start = time.perf_counter()
        expected = reference(inputs).numpy()
        middle = time.perf_counter()
        found = run({name: value.numpy() for name, value in inputs.items()})
        times.append(time.perf_counter() - middle)
        torch_times.append(middle - start)
        if found.shape != expected.shape or not np.isfinite(found).all():
            return float("inf"), min(times), min(torch_times)
        error = max(error, float(np.abs(found - expected).max()))
    return error, min(times), min(torch_times)


def reference_of(style: Style, encoder: Encoder | None, *, shrink: int) -> Callable[[dict[str, Tensor]], Tensor]:
    """Return the project's own way from the inputs of a graph to the image, which the graph must equal."""
    def run(inputs: dict[str, Tensor]) -> Tensor:
        w_plus = inputs.get("w_plus")
        if w_plus is None:
            w_plus = encoder.module(F.avg_pool2d(inputs["photo"], shrink)) + encoder.latent_avg
        noise = style.deformable.generator.fixed_noise()
        return style.deformable.synthesis(w_plus, alpha=inputs["alpha"], noise=noise).image

    return run


def export_style(path: Path, style: Style, encoder: Encoder | None, *, config: ExportConfig) -> Exported:
    """Write one file, check it, and only then give it its name.

    Args:
        path: the file.
        style: on the CPU.
        encoder: on the CPU; needed for the part ``photo``.
        config: what to write.

    Returns:
        Facts of the file and of its comparison with PyTorch.

    Raises:
        UserError: if a package is missing, the photo's side does not fit, or the file differs from PyTorch by more than
            ``TOLERANCE``; nothing is left behind then.
    """
    if config.format == "onnx":
        require(*ONNX_PACKAGES)
    if config.part == "photo":
        if encoder is None:
            raise ValueError("the part 'photo' needs an encoder")
        size = photo_size(encoder, config.size)
        graph, shrink = PhotoGraph(style, encoder, size=size).eval(), size // encoder.input_size
    else:
        size, graph, shrink = None, GeneratorGraph(style).eval(), 1
    sets = samples(style, config, size)
    write, load = (write_onnx, open_onnx) if config.format == "onnx" else (write_torchscript, open_torchscript)
    with atomic_write(path) as temporary:
        write(graph, sets[-1], temporary, metadata(style, config, sets[-1]))
        error, seconds, torch_seconds = compare(load(temporary), reference_of(style, encoder, shrink=shrink), sets)
        if not error <= TOLERANCE:
            raise UserError(f"{path}: not written, it differs from PyTorch by {error:.1e} (at most {TOLERANCE:g}); "
                            "upgrade torch and onnxruntime, or choose the other --format")
    return Exported(path.stat().st_size, error, seconds, torch_seconds)
