"""The look of any picture of a face, as rows and features that other faces of the generator can take.

The encoders of photos give a painting rows of latents and a residual of features, as they give them to a photo. Faces take
its fine rows, the statistics of its features place by place, see ``models.look.toned``; a painter draws them in its manner,
see ``models.painter``, and patches of it, see ``models.analogy``; in the end they take its tones, see ``models.tones``. What
is drawn stays their own. Pictures with grain all over, as prints, are done to faces as a whole, see ``models.grain``.
"""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from checkpoints.features import PainterFile, load_encoder, load_landmark_net, load_painter, load_parts, load_residual_encoder
from data.images import to_tensor
from models.analogy import Analogy
from models.face import Face
from models.grain import Grain, Screen
from models.landmarks import points_and_doubt
from models.look import landmark_grid, tone_maps, toned
from models.painter import Painter, fitted, painted
from models.parts import PartsNetwork
from models.residual_encoder import residual_of
from models.spatial_transformer import sample
from models.stylegan2 import Generator
from models.tones import CELL, Tones, in_tones, opponent, read_tones
from faces.align import align_face, ffhq_quad
from faces.find import FaceFinder
from styles.patches import PairPatches

# How far light and colours of faces are drawn in the picture's manner, before they go all the way to its tones: the rest is the
# person.
PAINTED, COLOURED = 0.8, 0.8
# How far the picture's own patches are taken where its face is known.
PATCHED = 0.9
# How far a picture with grain all over, which says what becomes of a photo's colours, is also gone to in its own.
SCREENED = 0.4
# Doubt in landmarks up to which a picture is an aligned face as it is, see ``points_and_doubt``, and how far from its corners
# those of the face's crop may lie then, as a fraction of the side; the corners, as ``ffhq_quad`` orders them.
MOST_DOUBT, MOST_AWAY = 0.06, 0.08
UNIT_SQUARE = ((0.0, 0.0), (0.0, 1.0), (1.0, 1.0), (1.0, 0.0))


class PictureLook(NamedTuple):
    """What faces take from a picture.

    Attributes:
        rows: its latents, [1, L, D].
        maps: see ``models.look.tone_maps``, [1, 2 C, R, R].
        places: landmarks [1, 68, 2] of its face as fractions of the side, or None where there is none.
        tones: of the picture itself.
        manner: how it is drawn, a code of ``models.painter``, [1, code].
        grain: its even fine texture.
        screen: what it does to photos, as far as it has grain all over.
        patches: of the picture, or None where there is no face in it.
    """

    rows: Tensor
    maps: Tensor
    places: Tensor | None
    tones: Tones
    manner: Tensor
    grain: Grain
    screen: Screen
    patches: PairPatches | None = None

    def mixed(self, other: PictureLook, share: float) -> PictureLook:
        """Return a look between two, ``share`` of it the other's."""
        places = patches = None
        if self.places is not None and other.places is not None:
            places = torch.lerp(self.places, other.places, share)
            patches = PairPatches.mix([self.patches, other.patches], [1.0 - share, share])
        return PictureLook(torch.lerp(self.rows, other.rows, share), torch.lerp(self.maps, other.maps, share), places,
                           self.tones.mixed(other.tones, share), torch.lerp(self.manner, other.manner, share),
                           *(type(mine)(*map(torch.lerp, mine, theirs, (share,) * len(mine)))
                             for mine, theirs in ((self.grain, other.grain), (self.screen, other.screen))), patches)

    def on(self, features: Tensor, *, places: Tensor | None, strength: float) -> Tensor:
        """Return features [N, C, R, R] of faces with landmarks ``places`` [N, 68, 2] in this look."""
        maps = self.maps
        if places is not None and self.places is not None:
            grid = landmark_grid(places.to(maps), self.places, features.shape[3])
            maps = sample(maps.expand(len(grid), -1, -1, -1), grid, mode="exact")
        return toned(features.float(), maps, strength=strength).to(features.dtype)

    def finished(self, image: Tensor, painter: Painter, *, places: Tensor | None, strength: float, colour: float | None,
                 plain: Tensor) -> Tensor:
        """Return drawn faces [N, 3, S, S] with landmarks ``places`` [N, 68, 2] in the manner and the tones of the picture.

        As far as the picture has grain all over, what it did to its photo is done to ``plain``, what the faces are undrawn.
        """
        grid, share = None, float(self.grain.share)
        if places is not None and self.places is not None:
            grid = landmark_grid(places.to(image), self.places, image.shape[3] // CELL)
        strength, colour = (_each(value) for value in (strength, strength if colour is None else colour))
        drawn = plain
        if share < 1.0:
            drawn = self._painted(image, painter, grid=grid, places=places, strength=strength, colour=colour, plain=plain)
        if share > 0.0:
            screened = _between(plain, self.screen.on(plain), light=strength, colour=colour)
            drawn = self.grain.on(torch.lerp(drawn, screened, share), strength=share * strength)
        return in_tones(drawn, self.tones, grid=grid, strength=strength, colour=colour * (1.0 - share * (1.0 - SCREENED)),
                        local=1.0 - share)

    def _painted(self, image: Tensor, painter: Painter, *, grid: Tensor | None, places: Tensor | None,
                 strength: float | Tensor, colour: float | Tensor, plain: Tensor) -> Tensor:
        """Return faces drawn by the painter, and with patches of the picture.

        They take the tones before and after they are drawn: a painter does better from what is near, and moves it a little. The
        first time deviations will do.
        """
        image = in_tones(image.clamp(-1.0, 1.0), self.tones._replace(logs=None), grid=grid, strength=strength, colour=colour)
        image = painted(painter, image, self.manner.to(image), strength=PAINTED * strength, colour=COLOURED * colour)
        if self.patches is None or places is None:
            return image
        return _between(image, self.patches(plain, image, places.to(image), PATCHED * strength), light=1.0, colour=colour)


def _each(strength: float | Tensor) -> float | Tensor:
    """Return a strength for all, or those [N] of each image as [N, 1, 1, 1]."""
    return strength.reshape(-1, 1, 1, 1) if isinstance(strength, Tensor) else strength


def _between(image: Tensor, made: Tensor, *, light: float | Tensor, colour: float | Tensor) -> Tensor:
    """Return images [N, 3, S, S] with as much of the lightness and of the colours of others as is said."""
    change = opponent(made - image)
    change = torch.cat([light * change[:, :1], colour * change[:, 1:]], dim=1)
    return (image + opponent(change, back=True)).clamp(-1.0, 1.0)


class PictureReader:
    """Reads the look of pictures by the encoders of photos; networks are loaded when the first picture comes.

    Args:
        generator: that the encoders are made for.
        encoder: what ``load_encoder`` takes.
    """

    def __init__(self, generator: Generator, encoder: str) -> None:
        self.generator, self.name, self.device = generator, encoder, generator.input.input.device

    @cached_property
    def _encoder(self):  # noqa: ANN202 - checkpoints.features.Encoder
        return load_encoder(self.name, device=self.device)

    @cached_property
    def _residual(self):  # noqa: ANN202 - checkpoints.features.ResidualFinder
        return load_residual_encoder(device=self.device)

    @cached_property
    def landmarks(self):  # noqa: ANN201 - models.landmarks.LandmarkNet
        """The landmark network."""
        return load_landmark_net(device=self.device).module

    @cached_property
    def painter(self) -> PainterFile:
        """Draws in the manner of pictures."""
        return load_painter(device=self.device)

    @cached_property
    def _destylizer(self) -> Painter:
        return load_painter("destylizer", device=self.device).module

    @cached_property
    def _parts(self) -> PartsNetwork:
        return load_parts(device=self.device)

    @cached_property
    def _finder(self) -> FaceFinder:
        return FaceFinder()

    def _as_photo(self, image: Tensor) -> Tensor:
        """Return what pictures [N, 3, S, S] may have been drawn from: what is kept of a photo in them is told by that."""
        small = fitted(image, self._destylizer.config.size)
        photo = painted(self._destylizer, small, small.new_zeros(len(small), self._destylizer.config.code))
        return fitted(photo.clamp(-1.0, 1.0), image.shape[3])

    @property
    def side(self) -> int:
        """Side in px of the features."""
        return self._residual.module.config.resolution

    @torch.no_grad()
    def face(self, image: Tensor) -> Face:
        """Return pictures [N, 3, S, S] as the encoders of photos give them, rows and residual."""
        rows = self._encoder.module(fitted(image, self._encoder.input_size)) + self._encoder.latent_avg
        small = fitted(image, self._residual.module.config.input_size)
        return Face(rows, residual_of(self._residual.module, self.generator, small, rows).float())

    @torch.no_grad()
    def read(self, picture: Image.Image) -> tuple[PictureLook, bool]:
        """Return the look of an RGB picture, and whether there is a face in it; without one the whole picture counts.

        A picture that is an aligned face as it is stays so: detectors see faces in drawings where none are, and cutting anew
        costs its finest strokes.
        """
        image, places = self._aligned(picture)
        face = self.face(image)
        half = self.generator.halfway(face.w_plus, noise=self.generator.fixed_noise(), resolution=self.side)
        photo, patches = self._as_photo(image), None
        if places is not None:
            patches = PairPatches([Analogy(photo, image, places, self._parts, guessed=True)])
        manner = self.painter.module.read(fitted(image, self.painter.module.config.size))
        maps = tone_maps(half.features.float() + face.residual)
        look = PictureLook(face.w_plus, maps, places, read_tones(image), manner, Grain.read(image), Screen.read(photo, image),
                           patches)
        return look, places is not None

    def _aligned(self, picture: Image.Image) -> tuple[Tensor, Tensor | None]:
        """Return the face of a picture, aligned, [1, 3, S, S], and its landmarks; the picture and None where there is none."""
        size = self.generator.config.size
        whole = to_tensor(picture, size).to(self.device)
        points, doubt = points_and_doubt(self.landmarks, whole)
        away = np.abs(ffhq_quad(points[0].cpu().numpy()) - UNIT_SQUARE).max()
        if float(doubt) <= MOST_DOUBT and max(away, abs(picture.width / picture.height - 1.0)) <= MOST_AWAY:
            return whole, points
        faces = self._finder.find(picture)
        if not faces:
            return whole, points if float(doubt) <= MOST_DOUBT else None
        image = to_tensor(align_face(picture, faces[0].landmarks, output_size=size), size).to(self.device)
        return image, points_and_doubt(self.landmarks, image)[0]
