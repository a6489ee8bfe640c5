"""Fine-tuned generators with spatial transformers (DoesFS), trained from one pair by ``train.py``.

Styles of this project know their drawing and draw photos themselves by the stages of ``drawing``; released ones draw with their
generator, as published.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from checkpoints.builders import compute_w_avg, has_prior
from checkpoints.io import CheckpointError, atomic_write, check_finite, fingerprint, read_config, save_model
from data.landmarks68 import MEAN_FACE
from drawing.style import PREFIX, DrawnStyle
from models.deformable import DeformableGenerator
from models.face import Face
from models.mixing import mix_deformables
from models.spatial_transformer import SpatialTransformerConfig, build_affine, build_tps
from styles.controls import ByRegion, Control, Look
from styles.deformable_controls import ALPHA, COLOR
from styles.deformable_files import own_deformable, published_deformable
from styles.difference import base_of_config
from styles.drawn import CONTROLS, FramedFace, draw_faces, draw_frame, undeformed
from styles.protocol import Style
from styles.regions import point_strengths


class DeformableStyle(Style):
    """A fine-tuned generator with its transformers.

    Args:
        deformable: the network, frozen.
        w_avg: [D] for truncation.
        config: of the file.
        name: what its results are called.
        digest: of the weights.
        target_latent: w_plus [L, D] of the drawing under the base; None in released files, which do not hold it.
        drawn: what the drawing stages know of the drawing; None draws with the generator.
    """

    kind = "deformable"
    levels, whole_files = 127, True

    def __init__(
        self, deformable: DeformableGenerator, w_avg: Tensor, config: Mapping[str, Any], name: str, digest: str,
        target_latent: Tensor | None = None, drawn: DrawnStyle | None = None,
    ) -> None:
        super().__init__(name, config, digest, device=w_avg.device)
        self.deformable, self.w_avg, self.target_latent, self.drawn = deformable, w_avg, target_latent, drawn

    @classmethod
    def known(cls, path: Path, config: Mapping[str, Any]) -> dict[str, Tensor]:
        base = base_of_config(path, config)
        shape = read_config(path, config, "transformers", lambda values: SpatialTransformerConfig(**values))
        known = {"w_avg": base.w_avg, **{f"g.{name}": tensor for name, tensor in base.generator.state_dict().items()}}
        # The fixed lattices of the transformers.
        for prefix, wanted, build in (("stns.", shape.tps, build_tps), ("rtstn.", shape.affine, build_affine)):
            if wanted:
                module = build(shape)
                state = module.state_dict()
                known |= {prefix + name: state[name] for name, _ in module.named_buffers() if name in state}
        return {name: tensor.detach().cpu() for name, tensor in known.items()}

    @classmethod
    def load(cls, path: Path, tensors: dict[str, Tensor], config: dict[str, Any], *, device: torch.device) -> DeformableStyle:
        latent = tensors.pop("target_latent", None)
        try:
            drawn = DrawnStyle.of_tensors(tensors, device=device)
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}; train the style anew") from error
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(PREFIX)}
        deformable, w_avg = own_deformable(path, tensors, config)
        shape = deformable.generator.config
        if latent is not None and list(latent.shape) != [shape.n_latent, shape.style_dim]:
            raise CheckpointError(f"{path}: target_latent is {list(latent.shape)}, expected "
                                  f"{[shape.n_latent, shape.style_dim]}; train the style anew")
        return cls._frozen(deformable, w_avg, config, path.stem, latent, device, drawn)

    @classmethod
    def load_released(cls, path: Path, state: Any, *, device: torch.device) -> DeformableStyle:
        deformable = published_deformable(path, state)
        config = {"kind": "style", "generator": deformable.generator.config.to_dict(),
                  "transformers": asdict(deformable.config), "base": {}, "training": {}}
        return cls._frozen(deformable, compute_w_avg(deformable.generator), config, path.stem, None, device)

    @classmethod
    def _frozen(cls, deformable: DeformableGenerator, w_avg: Tensor, config: dict[str, Any], name: str,
                latent: Tensor | None, device: torch.device, drawn: DrawnStyle | None = None) -> DeformableStyle:
        deformable.requires_grad_(False).eval().to(device)
        for part in filter(None, (deformable.affine, deformable.tps)):
            part.to(memory_format=torch.channels_last)
        latent = None if latent is None else latent.float().to(device)
        digest = fingerprint(deformable.state_dict(), *([drawn.tensors()] if drawn else []))
        return cls(deformable, w_avg.to(device), config, name, digest, latent, drawn)

    @classmethod
    def controls_of(cls, config: Mapping[str, Any], names: Sequence[str]) -> tuple[Control, ...]:
        if any(name.startswith(PREFIX) for name in names):
            return CONTROLS
        return (ALPHA, COLOR) if "target_latent" in names else (ALPHA,)

    @property
    def controls(self) -> tuple[Control, ...]:
        held = ["target_latent"] if self.target_latent is not None else []
        return self.controls_of(self.config, held + [PREFIX] * (self.drawn is not None))

    @property
    def base_name(self) -> str:
        named = (self.config.get("base") or {}).get("name")
        return named or ("starter" if self.deformable.generator.config.size <= 256 else "official")

    @property
    def latent_shape(self) -> tuple[int, int]:
        config = self.deformable.generator.config
        return config.n_latent, config.style_dim

    @property
    def draws_pictures(self) -> bool:
        return self.drawn is not None

    @property
    def transformers(self) -> DeformableGenerator:
        return self.deformable

    def random(self, z: Tensor, *, truncation_psi: float) -> Face:
        """Return random faces of the base's prior; without one by the style's own mapping, which training may have moved."""
        if self.drawn is not None or (has_prior(self.base_name) and self.base.prior is not None):
            return super().random(z, truncation_psi=truncation_psi)
        generator = self.deformable.generator
        with torch.no_grad():
            w = generator.mapping(z.to(self.device), truncation_psi=truncation_psi, w_avg=self.w_avg)
            return Face(generator.broadcast(w))

    @torch.no_grad()
    def draw(self, face: Face, look: Look, *, landmarks: np.ndarray | None = None) -> Tensor:
        values = {**{control.name: control.default for control in self.controls}, **look}
        if self.drawn is not None:
            return draw_faces(self.drawn, face, values, picture=partial(undeformed, self.base), grids=self.grids)
        places = np.repeat(MEAN_FACE[None], len(face), axis=0) if landmarks is None else landmarks
        alpha = point_strengths(values["alpha"], places, self.deformable.config)
        return self.deformable.synthesis(self.colored(face.w_plus, values.get("color_strength")), alpha=alpha,
                                         noise=self.deformable.generator.fixed_noise(), residual=face.residual).image

    def draw_frame(self, image: Tensor, parts: Tensor, faces: Sequence[FramedFace], look: Look, *,
                   inside: Tensor | None = None) -> Tensor:
        values = {**{control.name: control.default for control in self.controls}, **look}
        return draw_frame(self.drawn, image, parts, faces, values, grids=self.grids, inside=inside)

    @torch.no_grad()
    def grids(self, face: Face, alpha: float | ByRegion, landmarks: np.ndarray) -> list[Tensor]:
        """Return the sampling grids [1, R, R, 2] that the transformers predict for a face, in turn.

        Args:
            face: one.
            alpha: degree of deformation.
            landmarks: [68, 2] of it as fractions of the side, for degrees by region.
        """
        passed: list[Tensor] = []
        degree = point_strengths(alpha, landmarks[None], self.deformable.config)
        self.deformable.synthesis(face.w_plus, alpha=degree, noise=self.deformable.generator.fixed_noise(),
                                  residual=face.residual, passed=passed)
        return passed

    @property
    def _swap_layer(self) -> int:
        """First of the fine rows, which take the colours of the drawing."""
        return self.config.get("training", {}).get("settings", {}).get("swap_layer", 8)

    def colored(self, w_plus: Tensor, strength: float | None) -> Tensor:
        """Move the colours of latents [N, L, D] towards those of the style's drawing.

        The fine rows, from the layer that training mixed at, become own + strength (drawing - own): 0 keeps the face's own
        colours, 1 takes the drawing's. None leaves the latents alone, as 0 does.

        Raises:
            CheckpointError: if the style's file does not hold the drawing's latent.
        """
        if strength is None:
            return w_plus
        if self.target_latent is None:
            raise CheckpointError(f"--color-strength: the style {self.name} does not hold its drawing's latent (released "
                                  "styles and those of older versions lack it); train it again, or leave the option out")
        layer = self._swap_layer
        rows = w_plus[:, layer:]
        fine = torch.lerp(rows, self.target_latent[layer:].to(rows).expand_as(rows), strength)
        return torch.cat([w_plus[:, :layer], fine], dim=1)

    @classmethod
    def mix(cls, styles: Sequence[DeformableStyle], weights: Sequence[float]) -> DeformableStyle:
        """Return a mixture: weights of the generators, predicted warps, tones and strokes are interpolated."""
        names = ", ".join(style.name for style in styles)
        if len({style.drawn is None for style in styles}) > 1:
            raise CheckpointError(f"{names}: a released style cannot be mixed with one that draws photos")
        try:
            deformable = mix_deformables([style.deformable for style in styles], weights)
        except ValueError as error:
            raise CheckpointError(f"{names}: {error}") from error
        known = all(style.target_latent is not None for style in styles)
        parts = list(zip(styles, weights, strict=True))
        digest = hashlib.sha256("\n".join(f"{style.fingerprint} {weight:.9f}" for style, weight in parts).encode())
        return cls(
            deformable, sum(weight * style.w_avg for style, weight in parts), styles[0].config,
            "-".join(f"{style.name}{round(100 * weight)}" for style, weight in parts), digest.hexdigest()[:16],
            sum(weight * style.target_latent for style, weight in parts) if known else None,
            DrawnStyle.mix([style.drawn for style in styles], weights) if styles[0].drawn else None)

    def graph(self) -> nn.Module:
        from styles.deformable_graph import DeformableGraph
        from styles.drawn_graph import DrawnGraph

        return DeformableGraph(self.deformable, inputs=(ALPHA,)) if self.drawn is None else DrawnGraph(self.drawn)


def save_style(
    path: str | Path, deformable: DeformableGenerator, *, w_avg: Tensor, base: Mapping[str, str],
    training: Mapping[str, Any], target_latent: Tensor | None = None, drawn: DrawnStyle | None = None,
) -> None:
    """Write a style as one safetensors file with its config inside.

    Args:
        path: the file.
        deformable: fine-tuned generator and transformers.
        w_avg: [D] for truncation.
        base: {"name", "fingerprint"} of the generator it was trained from.
        training: JSON-ready facts of the training.
        target_latent: w_plus [L, D] of the drawing, from which colours can be taken.
        drawn: what the drawing stages know of the drawing.
    """
    tensors = {"w_avg": w_avg, **_prefixed("g.", deformable.generator), **(drawn.tensors() if drawn else {})}
    tensors |= {} if target_latent is None else {"target_latent": target_latent}
    for prefix, part in (("stns.", deformable.tps), ("rtstn.", deformable.affine)):
        if part is not None:
            tensors |= _prefixed(prefix, part)
    config = {"kind": "style", "style_kind": DeformableStyle.kind, "generator": deformable.generator.config.to_dict(),
              "transformers": asdict(deformable.config), "base": dict(base), "training": dict(training)}
    save_model(path, tensors, config)


def _prefixed(prefix: str, module: torch.nn.Module) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in module.state_dict().items()}


def export_published(path: str | Path, deformable: DeformableGenerator) -> None:
    """Write the published ``{g, stns, rtstn}`` file of a style, atomically."""
    try:
        state = deformable.published_state()
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}; keep the style's own file") from error
    for part, tensors in state.items():
        check_finite(f"{path}: part {part}", tensors)
    with atomic_write(path) as temporary:
        torch.save(state, temporary)
