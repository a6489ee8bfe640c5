"""One file that runs without this project: a style's generator, alone or behind the encoder, as ONNX or TorchScript.

The sizes and the noise are fixed. A file is compared with PyTorch before it gets its name, so a wrong one never lies
on the disk.
"""

from __future__ import annotations

import importlib
import json
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from checkpoints import atomic_write
from checkpoints.builders import Base, Encoder
from checkpoints.features import Frozen
from models.face import Face
from models.residual_encoder import residual_of
from pipeline.cli import UserError
from styles.controls import Control, Look
from styles.protocol import Style

VERSION = "1.0"
FORMATS = ("onnx", "torchscript")
PARTS = ("generator", "photo", "drawing")
# ONNX has grid_sample since 16; 18 is what PyTorch's exporter speaks natively.
OPSET = 18
TOLERANCE = 1e-3
# Of the controls' ranges, where a file is compared with PyTorch.
SHARES = (0.0, 0.5, 1.0)
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

    ``size`` is None for the encoder's own input side, else a whole multiple of it; the generator alone has none. For the part
    ``drawing`` see ``pipeline.exporting_drawing``.
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


class Inverter(nn.Module):
    """Aligned faces to rows of latents and the features beside them.

    Args:
        encoder: makes the rows.
        beside: the residual encoder and the base it was made for; None leaves the rows alone.
        size: side of the photo in px, a multiple of the encoder's.
    """

    def __init__(self, encoder: Encoder, beside: tuple[Frozen, Base] | None, *, size: int) -> None:
        super().__init__()
        self.encoder, self.shrink = encoder.module, size // encoder.input_size
        self.residual, self.generator = (beside[0].module, beside[1].generator) if beside else (None, None)
        if beside and beside[0].module.config.input_size != encoder.input_size:
            raise ValueError(f"expected a residual encoder of {encoder.input_size} px, got {self.residual.config.input_size}")
        self.register_buffer("latent_avg", encoder.latent_avg, persistent=False)

    def forward(self, photo: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """photo [N, 3, size, size] in [-1, 1] -> w_plus [N, L, D], residual [N, C, R, R] or None, photo of the encoder's side."""
        photo = F.avg_pool2d(photo, self.shrink) if self.shrink > 1 else photo
        w_plus = self.encoder(photo) + self.latent_avg
        residual = None if self.residual is None else residual_of(self.residual, self.generator, photo, w_plus)
        return w_plus, residual, photo


class PhotoGraph(nn.Module):
    """Encoders and style in one: an aligned face to its restyled image.

    Args:
        graph: of the style, see ``Style.graph``.
        inverter: makes its faces.
    """

    def __init__(self, graph: nn.Module, inverter: Inverter) -> None:
        super().__init__()
        self.inner, self.inverter = graph, inverter

    def forward(self, photo: Tensor, *values: Tensor) -> Tensor:
        """photo [N, 3, size, size] in [-1, 1], one [N] per control -> image [N, 3, S, S]."""
        return self.inner(*self.inverter(photo), *values)


class LatentGraph(nn.Module):
    """A style's graph for latents alone."""

    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        self.inner = graph

    def forward(self, w_plus: Tensor, *values: Tensor) -> Tensor:
        """w_plus [N, L, D], one [N] per control -> image [N, 3, S, S]."""
        return self.inner(w_plus, None, None, *values)


class ListedGraph(nn.Module):
    """A graph that takes the controls' values as a list, for the ONNX exporter knows no variable number of arguments."""

    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        self.inner = graph

    def forward(self, first: Tensor, values: list[Tensor]) -> Tensor:
        """first: photo or w_plus; values: one [N] per control -> image [N, 3, S, S]."""
        return self.inner(first, *values)


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


def random_latents(style: Style, batch: int, *, seed: int) -> Tensor:
    """Return w_plus [batch, L, D] whose rows are mapped from z of their own, seeded."""
    rows, width = style.latent_shape
    z = torch.randn(batch * rows, width, generator=torch.Generator().manual_seed(seed))
    w = style.random(z, truncation_psi=1.0).w_plus[:, 0]
    return w.reshape(batch, rows, width)  # [N L, D] -> [N, L, D]


def samples(style: Style, inputs: Sequence[Control], config: ExportConfig, size: int | None) -> list[dict[str, Tensor]]:
    """Return inputs of the graph, one set per share of the controls' ranges: random latents, or faces made from such."""
    sets = []
    for seed, share in enumerate(SHARES):
        first = {"w_plus": random_latents(style, config.batch, seed=seed)}
        if size is not None:
            image = style.draw(Face(first["w_plus"]), style.default_look()).clamp(-1.0, 1.0)
            first = {"photo": F.interpolate(image, size=(size, size), mode="bilinear", align_corners=False)}
        values = {control.name: low + share * (high - low) for control in inputs for low, high in [control.range]}
        sets.append(first | {name: torch.full((config.batch,), value) for name, value in values.items()})
    return sets


def metadata(style: Style, config: ExportConfig, inputs: dict[str, Tensor], *, side: int) -> dict[str, str]:
    """Return what a user of the file has to know, as strings."""
    ranges = {"w_plus": "latents, one row per layer", "photo": "aligned RGB face, [-1, 1]"}
    ranges |= {control.name: f"{control.help}; {control.low:g} to {control.high:g}" for control in style.controls}
    shapes = {name: f"float32 {list(value.shape)}: {ranges[name]}" for name, value in inputs.items()}
    return {name: str(value) for name, value in style.facts().items()} | {
        "part": config.part, "version": VERSION, "inputs": json.dumps(shapes),
        "output": f"float32 [{config.batch}, 3, {side}, {side}]: RGB, about [-1, 1]",
        "licence": LICENCES.get(style.base_name, OTHER_LICENCE)}


def write_onnx(graph: nn.Module, inputs: dict[str, Tensor], path: Path, facts: dict[str, str]) -> None:
    """Write the graph as ONNX with ``facts`` as its metadata, all weights inside."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first, *values = inputs.values()
        program = torch.onnx.export(ListedGraph(graph), (first, values), input_names=list(inputs), output_names=["image"],
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


def checked_file(path: Path, graph: nn.Module, sets: list[dict[str, Tensor]], *, kind: str, facts: dict[str, str],
                 reference: Callable[[dict[str, Tensor]], Tensor]) -> Exported:
    """Write a graph, compare the file with what it must equal, and only then give it its name.

    Args:
        path: the file.
        graph: to be written, with the last of ``sets`` as its inputs.
        sets: inputs that both are compared for.
        kind: of ``FORMATS``.
        facts: metadata.
        reference: the project's own way from inputs to the image.

    Raises:
        UserError: if they differ by more than ``TOLERANCE``; nothing is left behind then.
    """
    write, load = (write_onnx, open_onnx) if kind == "onnx" else (write_torchscript, open_torchscript)
    with atomic_write(path) as temporary:
        write(graph, sets[-1], temporary, facts)
        error, seconds, torch_seconds = compare(load(temporary), reference, sets)
        if not error <= TOLERANCE:
            raise UserError(f"{path}: not written, it differs from PyTorch by {error:.1e} (at most {TOLERANCE:g}); "
                            "upgrade torch and onnxruntime, or choose the other --format")
    return Exported(path.stat().st_size, error, seconds, torch_seconds)


def reference_of(style: Style, inverter: Inverter | None) -> Callable[[dict[str, Tensor]], Tensor]:
    """Return the project's own way from the inputs of a graph to the image, which the graph must equal."""
    def run(inputs: dict[str, Tensor]) -> Tensor:
        values = dict(inputs)
        w_plus, photo = values.pop("w_plus", None), values.pop("photo", None)
        face = Face(w_plus) if inverter is None else Face(*inverter(photo))
        return style.draw(face, Look(**{name: float(value[0]) for name, value in values.items()}))

    return run


def export_style(
    path: Path, style: Style, encoder: Encoder | None, *, config: ExportConfig, residual: Frozen | None = None,
) -> Exported:
    """Write one file, check it, and only then give it its name.

    Args:
        path: the file.
        style: on the CPU.
        encoder: on the CPU; needed for the part ``photo``.
        config: what to write.
        residual: on the CPU; made for the style's base. None inverts photos by rows alone.

    Returns:
        Facts of the file and of its comparison with PyTorch.

    Raises:
        UserError: if a package is missing, the photo's side does not fit, or the file differs from PyTorch by more than
            ``TOLERANCE``; nothing is left behind then.
    """
    if config.format == "onnx":
        require(*ONNX_PACKAGES)
    inner, size, inverter = style.graph().eval(), None, None
    if config.part == "photo":
        if encoder is None:
            raise ValueError("the part 'photo' needs an encoder")
        size = photo_size(encoder, config.size)
        inverter = Inverter(encoder, None if residual is None else (residual, style.base), size=size).eval()
        graph = PhotoGraph(inner, inverter).eval()
    else:
        graph = LatentGraph(inner).eval()
    sets = samples(style, inner.inputs, config, size)
    reference = reference_of(style, inverter)
    facts = metadata(style, config, sets[-1], side=reference(sets[-1]).shape[3])
    return checked_file(path, graph, sets, kind=config.format, facts=facts, reference=reference)
