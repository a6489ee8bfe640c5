"""Fine-tuned generators with spatial transformers (DoesFS), trained from one pair by ``train.py``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from checkpoints.builders import compute_w_avg, has_prior
from checkpoints.features import load_landmark_net, load_painter
from checkpoints.io import (
    CheckpointError,
    atomic_write,
    check_finite,
    fingerprint,
    read_config,
    save_model,
)
from data.landmarks68 import MEAN_FACE
from models.deformable import DeformableGenerator
from models.face import Face
from models.look import landmark_grid
from models.mixing import mix_deformables
from models.painter import Painter, fitted, painted
from models.sampling_grids import composed, moved_places
from models.spatial_transformer import SpatialTransformerConfig, build_affine, build_tps
from models.stylegan2 import Generator, Halfway, layer_at
from models.tones import CELL, Tones, in_tones, read_tones
from styles.controls import Control, Look
from styles.deformable_controls import ALPHA, COLOR_SHARE, DETAIL, TONE, deformable_controls, look_shares
from styles.deformable_files import look_tensors, own_deformable, published_deformable, take_manner
from styles.difference import base_of_config
from styles.face_landmarks import FaceLandmarks
from styles.patches import POINTS, PairPatches, build_patches, take_patches
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
        manner: how the drawing is drawn, a code [code] of the painter, or None.
        patches: of the style's own pair, or None.
    """

    kind = "deformable"
    levels, whole_files = 127, True

    def __init__(
        self, deformable: DeformableGenerator, w_avg: Tensor, config: Mapping[str, Any], name: str, digest: str,
        target_latent: Tensor | None = None, manner: Tensor | None = None, patches: PairPatches | None = None,
    ) -> None:
        super().__init__(name, config, digest, device=w_avg.device)
        self.deformable, self.w_avg, self.target_latent, self.manner = deformable, w_avg, target_latent, manner
        self.pair = patches

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
        latent, manner, pair = tensors.pop("target_latent", None), take_manner(path, tensors), take_patches(path, tensors)
        share = config.get("painted", 1.0)
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0.0 <= share <= 1.0:
            raise CheckpointError(f"{path}: painted is {share!r}, expected a number from 0 to 1; train the style anew")
        deformable, w_avg = own_deformable(path, tensors, config)
        shape = deformable.generator.config
        if latent is not None and list(latent.shape) != [shape.n_latent, shape.style_dim]:
            raise CheckpointError(f"{path}: target_latent is {list(latent.shape)}, expected "
                                  f"{[shape.n_latent, shape.style_dim]}; train the style anew")
        return cls._frozen(deformable, w_avg, config, path.stem, latent, device, manner, pair)

    @classmethod
    def load_released(cls, path: Path, state: Any, *, device: torch.device) -> DeformableStyle:
        deformable = published_deformable(path, state)
        config = {"kind": "style", "generator": deformable.generator.config.to_dict(),
                  "transformers": asdict(deformable.config), "base": {}, "training": {}}
        return cls._frozen(deformable, compute_w_avg(deformable.generator), config, path.stem, None, device)

    @classmethod
    def _frozen(cls, deformable: DeformableGenerator, w_avg: Tensor, config: dict[str, Any], name: str,
                latent: Tensor | None, device: torch.device, manner: Tensor | None = None,
                pair: Mapping[str, Tensor] | None = None) -> DeformableStyle:
        deformable.requires_grad_(False).eval().to(device)
        for part in filter(None, (deformable.affine, deformable.tps)):
            part.to(memory_format=torch.channels_last)
        if pair and deformable.config.look_form == "carried":
            deformable.drawn_places = pair[POINTS].to(device).float()
        latent, manner = (None if tensor is None else tensor.float().to(device) for tensor in (latent, manner))
        drawn = [] if manner is None else [{"manner": manner}, load_painter().module.state_dict()]
        drawn += [dict(pair)] if pair else []
        return cls(deformable, w_avg.to(device), config, name, fingerprint(deformable.state_dict(), *drawn), latent, manner,
                   build_patches(pair or {}, device))

    @classmethod
    def controls_of(cls, config: Mapping[str, Any], names: Sequence[str]) -> tuple[Control, ...]:
        return deformable_controls(config.get("transformers") or {}, names, share=config.get("painted", 1.0))

    @property
    def controls(self) -> tuple[Control, ...]:
        held = [name for name in ("target_latent", "manner", "pair") if getattr(self, name) is not None]
        return self.controls_of(self.config, held)

    @property
    def base_name(self) -> str:
        named = (self.config.get("base") or {}).get("name")
        return named or ("starter" if self.deformable.generator.config.size <= 256 else "official")

    @property
    def latent_shape(self) -> tuple[int, int]:
        config = self.deformable.generator.config
        return config.n_latent, config.style_dim

    def random(self, z: Tensor, *, truncation_psi: float) -> Face:
        """Return random faces of the base's prior; without one by the style's own mapping, which training may have moved."""
        if has_prior(self.base_name) and self.base.prior is not None:
            return super().random(z, truncation_psi=truncation_psi)
        generator = self.deformable.generator
        with torch.no_grad():
            w = generator.mapping(z.to(self.device), truncation_psi=truncation_psi, w_avg=self.w_avg)
            return Face(generator.broadcast(w))

    def draw(self, face: Face, look: Look, *, landmarks: np.ndarray | None = None) -> Tensor:
        *_, made = self.draw_parts(face, look, landmarks=landmarks)
        return made

    @torch.no_grad()
    def draw_parts(self, face: Face, look: Look, *, landmarks: np.ndarray | None = None) -> Iterator[Tensor | None]:
        places = np.repeat(MEAN_FACE[None], len(face), axis=0) if landmarks is None else landmarks
        values = {**{control.name: control.default for control in self.controls}, **look}
        alpha = point_strengths(values["alpha"], places, self.deformable.config)
        w_plus, detail, found = self.colored(face.w_plus, values.get("color_strength")), None, None
        half = self._half(face)
        if self.deformable.look is not None:
            shown, photo = self.finder.shown(face.w_plus, face.residual, half), face.photo
            if photo is not None and values[DETAIL.name]:
                detail = values[DETAIL.name] * (fitted(photo, shown.shape[3]).to(shown) - shown)
            if self.is_carried:
                found = self.finder.points(shown) if landmarks is None else torch.from_numpy(np.asarray(landmarks)).to(w_plus)
        passed: list[Tensor] = []
        image = self.deformable.synthesis(
            w_plus, alpha=alpha, noise=self.deformable.generator.fixed_noise(), residual=face.residual,
            look=values.get("look_strength", 0.0), places=found, detail=detail, passed=passed, half=half).image
        yield None
        manner, tone, patches = look_shares(values, whole=self._whole_look)
        made = image
        if manner and self.manner is not None:
            made = painted(self.painter, made, self.manner[None], strength=manner)
        if tone:
            made = self._toned(made.clamp(-1.0, 1.0), tone)
        if patches and self.pair is not None:
            places = moved_places(found, composed(passed, image.shape[3])) if passed else found
            made = self.pair(image, made, places, patches, face.last)
        yield made

    def _half(self, face: Face) -> Halfway | None:
        """Return the first layers' features and image of faces, as drawn undeformed and in the style alike; else None."""
        side = min(self.deformable.start, face.resolution or self.deformable.start)
        if self._swap_layer <= layer_at(side):  # rows that take the drawing's colours are among those layers'
            return None
        if face.half is not None and face.half.features.shape[3] == side:
            return face.half
        generator = self.deformable.generator
        return generator.halfway(face.w_plus, noise=generator.fixed_noise(), resolution=side)

    def begins_as(self, generator: Generator, resolution: int) -> bool:
        ours, theirs = (one.layers_at(resolution)[0].state_dict() for one in (self.deformable.generator, generator))
        return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)

    @property
    def _swap_layer(self) -> int:
        """First of the fine rows, which take the colours of the drawing."""
        return self.config.get("training", {}).get("settings", {}).get("swap_layer", 8)

    def _toned(self, image: Tensor, tone: float) -> Tensor:
        """Return images [N, 3, S, S] in the tones of the drawing, skin from skin where its landmarks are known."""
        if not self.is_carried:
            return in_tones(image, self.tones, strength=tone, colour=COLOR_SHARE * tone)
        grid = landmark_grid(self.finder.points(image), self.deformable.look_places, image.shape[3] // CELL)
        return in_tones(image, self.tones, grid=grid, strength=tone)

    @property
    def _whole_look(self) -> float:
        """The look at which manner and tones are taken whole: the default where there is a painter."""
        return 1.0 if self.manner is None else {c.name: c.default for c in self.controls}.get("look_strength", 1.0)

    @cached_property
    def painter(self) -> Painter:
        """Draws in the manner of the drawing."""
        return load_painter(device=self.device).module

    @cached_property
    def tones(self) -> Tones:
        """Tones of the drawing, which is drawn from what the style holds of it: its rows, and the features of its look."""
        deformable = self.deformable
        drawn = deformable.look_source + deformable.look
        with torch.no_grad():
            image = deformable.generator.synthesis(
                self.target_latent[None], noise=deformable.generator.fixed_noise(),
                feature_transforms={layer_at(deformable.config.look): lambda features: drawn.to(features)})
        return read_tones(image.clamp(-1.0, 1.0))

    @property
    def is_carried(self) -> bool:
        """True where the style's look goes to each face's landmarks."""
        return self.deformable.look is not None and self.deformable.config.look_form == "carried"

    @cached_property
    def finder(self) -> FaceLandmarks:
        """Finds the landmarks of faces, to which a look is carried."""
        return FaceLandmarks(self.deformable.generator, load_landmark_net(device=self.device).module)

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
        """Return a mixture: weights of the generators and the warps that the transformers predict are interpolated."""
        names = ", ".join(style.name for style in styles)
        try:
            deformable = mix_deformables([style.deformable for style in styles], weights)
        except ValueError as error:
            raise CheckpointError(f"{names}: {error}") from error
        known = all(style.target_latent is not None for style in styles)
        parts = list(zip(styles, weights, strict=True))
        digest = hashlib.sha256("\n".join(f"{style.fingerprint} {weight:.9f}" for style, weight in parts).encode())
        return cls(
            deformable, sum(weight * style.w_avg for style, weight in parts),
            {**styles[0].config, "painted": sum(weight * style.config.get("painted", 1.0) for style, weight in parts)},
            "-".join(f"{style.name}{round(100 * weight)}" for style, weight in parts), digest.hexdigest()[:16],
            sum(weight * style.target_latent for style, weight in parts) if known else None,
            sum(weight * style.manner for style, weight in parts) if all(s.manner is not None for s in styles) else None,
            PairPatches.mix([s.pair for s in styles], weights) if all(s.pair is not None for s in styles) else None)

    def graph(self) -> nn.Module:
        from styles.deformable_graph import DeformableGraph

        rows, defaults = None, {control.name: control.default for control in self.controls}
        if self.deformable.look is not None:
            rows = self.target_latent[self._swap_layer:]
        strength, tone, patches = look_shares(defaults, whole=self._whole_look)
        return DeformableGraph(
            self.deformable, inputs=(ALPHA,), rows=rows, look=defaults.get("look_strength", 0.0),
            color=defaults.get("color_strength") or 0.0, finder=self.finder if self.deformable.look is not None else None,
            painter=None if self.manner is None else self.painter, manner=self.manner, manner_strength=strength,
            tones=self.tones if TONE.name in defaults else None, tone=tone, detail=defaults.get(DETAIL.name, 0.0),
            patches=self.pair if patches else None, patch_strength=patches)


def save_style(
    path: str | Path, deformable: DeformableGenerator, *, w_avg: Tensor, base: Mapping[str, str],
    training: Mapping[str, Any], target_latent: Tensor | None = None, manner: Tensor | None = None,
    painted: float | None = None, pair: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a style as one safetensors file with its config inside.

    Args:
        path: the file.
        deformable: fine-tuned generator and transformers.
        w_avg: [D] for truncation.
        base: {"name", "fingerprint"} of the generator it was trained from.
        training: JSON-ready facts of the training.
        target_latent: w_plus [L, D] of the drawing, from which colours can be taken.
        manner: how it is drawn, see ``DeformableStyle``.
        painted: how much of it the painter draws by that, see ``training.manner``; all of it where None.
        pair: what ``styles.patches.pair_tensors`` gives.
    """
    tensors = {"w_avg": w_avg, **_prefixed("g.", deformable.generator), **(pair or {})}
    tensors |= {name: tensor for name, tensor in (("target_latent", target_latent), ("manner", manner)) if tensor is not None}
    for prefix, part in (("stns.", deformable.tps), ("rtstn.", deformable.affine)):
        if part is not None:
            tensors |= _prefixed(prefix, part)
    if deformable.look is not None:
        tensors |= {name: getattr(deformable, name) for name in look_tensors(deformable)}
    config = {"kind": "style", "style_kind": DeformableStyle.kind, "generator": deformable.generator.config.to_dict(),
              "transformers": asdict(deformable.config), "base": dict(base), "training": dict(training)}
    config |= {} if painted is None else {"painted": painted}
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
