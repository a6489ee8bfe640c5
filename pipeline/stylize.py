"""What one photo goes through: find and align the face, invert it, stylize it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from checkpoints import CheckpointError
from checkpoints.builders import Base, Encoder, load_encoder
from checkpoints.edits import load_directions
from checkpoints.features import Frozen, load_parts, load_residual_encoder
from data.images import image_tensor, squeezed, to_pil, to_tensor
from drawing.compose import around_faces, changed
from drawing.context import aligned_mesh, read_context
from drawing.style import FRAME
from faces.align import align_face, crop_map, photo_corners
from faces.find import FaceFinder, FinderSettings
from faces.parts import face_parts
from losses.perceptual import InversionLoss
from models.edits import Edit, edited
from models.face import Face
from models.parts import BACKGROUND, PartsNetwork, parts_of
from pipeline.cli import UserError
from pipeline.latents import LatentCache
from pipeline.perceptual import inversion_objective
from pipeline.sampling import base_of, undeformed
from styles.controls import Look
from styles.drawn import FramedFace
from styles.protocol import Style
from styles.registry import load_style
from training.inversion import ResidualSettings, invert

__all__ = ["Crop", "InversionSettings", "Look", "Stylized", "Stylizer", "build_stylizer"]
INVERSIONS = ("e4e", "optimize", "e4e+optimize")
# A landmark of a drawn face that lies farther from the photo's, in fractions of the crop, is a predictor's mistake.
MAX_SHIFT = 0.15


@dataclass(frozen=True)
class InversionSettings:
    """How photos become faces: ``mode`` of ``INVERSIONS``, None for what suits the style, optimisation ``steps``, their rate
    ``lr``, the share ``decay`` of the steps over which it falls to zero, Adam's ``beta2``, and the side in px of the features
    found beside the rows of latents, 0 for rows alone; and the edits that inverted faces get, see ``models.edits``."""

    mode: str | None = "e4e"
    steps: int = 100
    lr: float = 4.5e-2
    decay: float = 0.4
    beta2: float = 0.99
    residual: int = 32
    edits: tuple[Edit, ...] = ()

    def __post_init__(self) -> None:
        if self.mode is not None and self.mode not in INVERSIONS:
            raise ValueError(f"inversion must be one of {INVERSIONS}, got {self.mode!r}")

    def schedule(self) -> dict[str, Any]:
        """Return the keywords of ``training.inversion.invert`` for the rows."""
        return {name: value for name, value in asdict(self).items() if name not in ("mode", "residual", "edits")}

    def features(self) -> ResidualSettings | None:
        """Return how features are optimised, or None."""
        return ResidualSettings(self.residual) if self.residual and self.mode != "e4e" else None

    def facts(self) -> dict[str, Any]:
        """Return what of this decides a face, as plain values; those of rows alone are named as they always were."""
        facts: dict[str, Any] = {"mode": self.mode}
        if self.mode != "e4e":
            facts |= self.schedule()
        features = self.features()
        return facts if features is None else facts | {f"residual_{name}": v for name, v in asdict(features).items()}


class Crop(NamedTuple):
    """An aligned face, its corners [4, 2] in the photo (see ``photo_corners``), its landmarks [68, 2] and its mesh [468, 3] in px
    of the photo.

    All but the image are None for photos that came aligned, and the mesh also for finders that read none.
    """

    image: Image.Image
    corners: np.ndarray | None
    landmarks: np.ndarray | None
    mesh: np.ndarray | None = None

    def places(self) -> np.ndarray | None:
        """Return the landmarks as fractions of the crop's side, or None."""
        if self.landmarks is None or self.corners is None:
            return None
        return self._inside(self.landmarks)

    def mesh_places(self) -> Tensor | None:
        """Return the mesh [1, 468, 3] as fractions of the crop's side, or None."""
        if self.mesh is None or self.corners is None:
            return None
        side = float(np.hypot(*(self.corners[3] - self.corners[0])))
        flat = np.concatenate([self._inside(self.mesh[:, :2]), self.mesh[:, 2:] / side], axis=1)
        return torch.from_numpy(flat)[None].float()

    def _inside(self, points: np.ndarray) -> np.ndarray:
        matrix = crop_map(self.corners)
        return (points + 0.5) @ matrix[:, :2].T + matrix[:, 2]


@dataclass(frozen=True)
class Stylized:
    """One face: the aligned photo and tensors [1, 3, S, S] of its inversion and of the result, and the face itself.

    ``outlines`` are the landmarks [68, 2] of the photo's face and of the drawn one as fractions of the crop's side, and
    nothing for photos that came aligned; ``background`` says where the result shows background, see ``Stylizer.background``.
    """

    aligned: Image.Image
    inverted: Tensor
    result: Tensor
    face: Face
    outlines: tuple[np.ndarray, ...] = ()
    background: np.ndarray | None = None


class Stylizer:
    """Restyle photos with one style.

    Args:
        style: any kind of style.
        base: the generator that inversions are made for.
        encoder: needed by every mode but ``optimize``.
        residual: predicts the features beside the encoder's rows, where an optimisation begins too; None leaves them at zero.
        objective: maker of the inversion objective, called only when latents are optimised.
        settings: how to invert.
        cache: where latents are kept.
        finder: face finder; None takes photos as aligned already.
        faces: "largest", "all", or the number of one face, 0 the largest.
    """

    def __init__(
        self, style: Style, base: Base, *, encoder: Encoder | None, objective: Callable[[], InversionLoss],
        settings: InversionSettings, cache: LatentCache, finder: FaceFinder | None, faces: str | int = "largest",
        residual: Frozen | None = None,
    ) -> None:
        if settings.mode != "optimize" and encoder is None:
            raise ValueError(f"inversion {settings.mode!r} needs an encoder")
        self.style, self.base, self.encoder, self.residual = style, base, encoder, residual
        self.settings, self.cache, self.finder, self.faces = settings, cache, finder, faces
        self._make_objective, self._objective = objective, None
        self._parts: PartsNetwork | None = None
        self.device = base.w_avg.device
        self._directions = load_directions(settings.edits, base)

    @property
    def size(self) -> int:
        """Side of aligned faces in px: that at which the style draws."""
        return FRAME if self.style.draws_pictures else self.base.generator.config.size

    def crops(self, photo: Image.Image, *, name: str) -> list[Crop]:
        """Return the chosen aligned faces of a photo, largest first.

        Raises:
            UserError: naming the photo, when there is no face in it, or not the one asked for.
        """
        if self.finder is None:
            if line := squeezed(name, photo.size, remedy="leave --align false out, or cut it to a square"):
                raise UserError(line)
            return [Crop(photo, None, None)]
        found = self.finder.told(photo, name=name)
        if isinstance(self.faces, int):
            if self.faces >= len(found):
                raise UserError(f"{name}: has {len(found)} face(s), so there is no face {self.faces}; the largest is 0")
            found = [found[self.faces]]
        elif self.faces == "largest":
            found = found[:1]
        size = self.size
        return [Crop(align_face(photo, face.landmarks, output_size=size),
                     photo_corners(face.landmarks, photo.size, output_size=size), face.landmarks, face.mesh) for face in found]

    @torch.no_grad()
    def encode(self, aligned: Image.Image) -> Tensor:
        """Return the encoder's w_plus [1, L, 512] of an aligned face."""
        image = to_tensor(aligned, self.encoder.input_size).to(self.device)
        return self.encoder.module(image) + self.encoder.latent_avg

    @torch.no_grad()
    def completed(self, aligned: Image.Image, w_plus: Tensor) -> Face:
        """Return the face of rows [1, L, 512] with the features that the residual encoder sees beside them."""
        if self.residual is None:
            return Face(w_plus)
        photo = to_tensor(aligned, self.residual.module.config.input_size).to(self.device)
        finder, generator = self.residual.module, self.base.generator
        half = generator.halfway(w_plus, noise=generator.fixed_noise(), resolution=finder.config.resolution)
        return Face(w_plus, finder(photo, half.features, w_plus).float())

    @property
    def rows_alone(self) -> bool:
        """Whether features beside the rows are asked for, but nothing finds them."""
        return self.settings.mode == "e4e" and self.settings.residual > 0 and self.residual is None

    def digests(self) -> dict[str, str]:
        """Return the digests of the networks that photos are inverted by."""
        parts = {"generator": self.base, "encoder": self.encoder, "residual_encoder": self.residual}
        return {name: part.fingerprint for name, part in parts.items() if part is not None}

    def invert_frame(self, aligned: Image.Image, steady: Callable[[Tensor], Tensor]) -> Face:
        """Return the face of a clip's frame, its rows made steady before what is found from them."""
        if self.settings.mode == "e4e":
            return self._with_photo(aligned, self.completed(aligned, steady(self.encode(aligned))))
        face = self.invert(aligned)
        return face.with_rows(steady(face.w_plus))

    def invert(self, aligned: Image.Image) -> Face:
        """Return the one face of an aligned photo, from the cache where it is there."""
        return self._with_photo(aligned, self._inverted(aligned))

    def _with_photo(self, aligned: Image.Image, face: Face) -> Face:
        face = replace(face, photo=to_tensor(aligned, self.size).to(self.device))
        return edited(face, self.settings.edits, self._directions, self.base.generator)

    def _inverted(self, aligned: Image.Image) -> Face:
        settings = self.settings
        key = self.cache.key(aligned, **settings.facts(), **self.digests())
        found = self.cache.get(key)
        if found is not None:
            return found.to(self.device)
        if settings.mode == "optimize":
            face = Face(self.base.generator.broadcast(self.base.w_avg[None]).clone())
        else:
            face = self.completed(aligned, self.encode(aligned))
        if settings.mode != "e4e":
            self._objective = self._objective or self._make_objective()
            target = to_tensor(aligned, self.base.generator.config.size).to(self.device)
            face = invert(target, self.base.generator, w_init=face.w_plus, objective=self._objective,
                          residual=settings.features(), residual_init=face.residual, **settings.schedule())
        if face.residual is not None:
            # As the cache keeps it, so that the first run draws what later ones draw.
            face = replace(face, residual=face.residual.half().float())
        self.cache.put(key, face)
        return face

    def render(self, face: Face) -> Tensor:
        """Return the base generator's image [1, 3, S, S] of a face."""
        return undeformed(self.base, face)

    def restyle(self, face: Face, *, look: Look, landmarks: np.ndarray | None = None) -> Tensor:
        """Return the styled image [1, 3, S, S] of one face.

        Args:
            face: its inversion.
            look: how to draw it.
            landmarks: [68, 2] as fractions of the aligned face's side, for values by region; the mean face if None.
        """
        return self.style.draw(face, look, landmarks=None if landmarks is None else landmarks[None])

    def known(self, crop: Crop, face: Face) -> Face:
        """Return a face with what the drawing stages need to know of it, where the style draws photos."""
        if not self.style.draws_pictures:
            return face
        return replace(face, known=(read_context(face.photo, self._mesh_of(crop)),))

    def _mesh_of(self, crop: Crop) -> Tensor | None:
        """Return the mesh that a crop brings, or None where edits have changed the face that it was read from."""
        return None if self.settings.edits else crop.mesh_places()

    def stylize(self, crop: Crop | Image.Image, *, look: Look) -> Stylized:
        """Invert and restyle one aligned face."""
        crop = crop if isinstance(crop, Crop) else Crop(crop, None, None)
        face = self.known(crop, self.invert(crop.image))
        result = self.restyle(face, look=look, landmarks=crop.places())
        return self.stylized(crop, face, result)

    def draw_frame(self, photo: Image.Image, crops: Sequence[Crop], *, look: Look, surroundings: bool = True) -> Tensor:
        """Return a whole photo [1, 3, H, W] drawn, every face by its own warp; where the style draws photos.

        Args:
            photo: of any size.
            crops: its faces, see ``crops``; at least one.
            look: how to draw.
            surroundings: draw all of the photo; else what is around the faces stays as it is.
        """
        image = image_tensor(photo).to(self.device)
        faces = [self.framed(crop, self.invert(crop.image)) for crop in crops]
        return self.draw_framed(image, faces, look=look, surroundings=surroundings)

    def draw_framed(self, image: Tensor, faces: Sequence[FramedFace], *, look: Look, surroundings: bool = True) -> Tensor:
        """Do what ``draw_frame`` does for faces that are inverted, in an image [1, 3, H, W]."""
        meshes = []
        for one in faces:
            image = image if one.change is None else changed(image, one.change, one.corners)
            corner, right, down = one.corners[0], one.corners[1] - one.corners[0], one.corners[2] - one.corners[0]
            flat = corner + one.mesh[0, :, :1] * right + one.mesh[0, :, 1:2] * down - 0.5
            meshes.append(torch.cat([flat, one.mesh[0, :, 2:] * right.norm()], dim=1).cpu().numpy().astype(np.float64))
        inside = None if surroundings else around_faces(faces, image)
        return self.style.draw_frame(image, face_parts(image, meshes), faces, look, inside=inside)

    def framed(self, crop: Crop, face: Face) -> FramedFace:
        """Return an inverted face with its place in the photo that it was cut from."""
        mesh = self._mesh_of(crop)
        mesh = (aligned_mesh(face.photo)[0] if mesh is None else mesh).to(self.device)
        change = face.photo - to_tensor(crop.image, self.size).to(self.device) if self.settings.edits else None
        return FramedFace(face, mesh, torch.from_numpy(crop.corners[[0, 3, 1]]).float().to(self.device), change)

    def stylized(self, crop: Crop, face: Face, result: Tensor) -> Stylized:
        """Return one face with all that pasting it back takes."""
        outlines = self.outlines(crop, to_pil(result))
        background = self.background(result, outlines[1]) if outlines else None
        return Stylized(crop.image, self.render(face), result, face, outlines, background)

    def outlines(self, crop: Crop, result: Image.Image) -> tuple[np.ndarray, ...]:
        """Return the landmarks [68, 2] of a crop and of its restyled face as fractions of its side, or nothing."""
        places, side = crop.places(), result.width
        if places is None or self.finder is None:
            return ()
        box = tuple((np.concatenate([places.min(axis=0), places.max(axis=0)]) * side).tolist())
        found = (self.finder.follow(result, [box])[0].landmarks + 0.5) / side
        return places, places + np.clip(found - places, -MAX_SHIFT, MAX_SHIFT)

    def background(self, result: Tensor, outline: np.ndarray) -> np.ndarray:
        """Return how far pixels of a restyled face [1, 3, S, S] with landmarks [68, 2] are background, [S', S'] from 0 to 1."""
        self._parts = self._parts or load_parts(device=self.device)
        found = parts_of(self._parts, result, torch.from_numpy(outline)[None].to(result))
        return found[0, BACKGROUND].cpu().numpy()


def build_stylizer(
    style: str, *, base: str | None = None, encoder: str | None = None, inversion: InversionSettings | None = None,
    align: bool = True, faces: str | int = "largest", finder: FinderSettings = FinderSettings(), cache: Path | None = None,
    device: torch.device | str = "cpu",
) -> Stylizer:
    """Load what a Stylizer needs.

    Args:
        style: name, file, or mixture such as ``a:0.7,b:0.3``.
        base: base generator; None takes the one the style was trained from.
        encoder: None takes the one of the base.
        inversion: how photos become latents.
        align: find and align faces.
        faces: see ``Stylizer``.
        finder: how faces are found.
        cache: folder of latents; None keeps none.
        device: where to compute.

    Raises:
        CheckpointError: naming the file that is absent or does not fit.
    """
    inversion = inversion or InversionSettings()
    device = torch.device(device)
    loaded = load_style(style, device=device)
    if inversion.mode is None:
        inversion = replace(inversion, mode=loaded.inversion)
    inverted = base_of(loaded, name=base)
    made = None
    if inversion.mode != "optimize":
        try:
            named = encoder or base
            made = load_encoder(named, device=device) if named else loaded.photo_encoder()
        except CheckpointError as error:
            if encoder:
                raise
            raise CheckpointError(f"{error}; --inversion optimize needs no encoder, --encoder names another one") from error
    # Optimisation ends a little nearer to the photo from a residual of zero, with a sixth of its square.
    beside = residual_encoder(inverted, inversion.residual, device=device) if inversion.mode == "e4e" else None
    loaded.cache = kept = LatentCache(cache)
    return Stylizer(loaded, inverted, encoder=made, objective=lambda: inversion_objective(device), settings=inversion,
                    cache=kept, finder=finder.make() if align else None, faces=faces, residual=beside)


def residual_encoder(base: Base, resolution: int, *, device: torch.device | str) -> Frozen | None:
    """Return the starter's residual encoder if it was made for this generator and these features, else None.

    Raises:
        CheckpointError: if its file is damaged.
    """
    if not resolution or base.name == "official":
        return None
    found = load_residual_encoder(device=device)
    fits = found.generator == base.fingerprint and found.module.config.resolution == resolution
    return found if fits else None
