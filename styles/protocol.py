"""What every kind of style offers. Scripts, page, clips, folder runs and export know this and no kind by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from checkpoints.builders import Base, Encoder, load_base, load_encoder
from checkpoints.io import CheckpointError
from models.face import Face
from styles.controls import Control, FileValue, Look
from styles.drawn import FramedFace


class FaceCache(Protocol):
    """Where a kind may keep what it works out of a face at length, by a digest of everything that decides it."""

    def get(self, key: str) -> Face | None: ...

    def put(self, key: str, face: Face) -> None: ...


class Style(ABC):
    """A style that has been loaded.

    A kind is a subclass in a module of its own, which ``styles.registry`` knows by the name that style files carry in
    their config. It implements ``load``, ``draw`` and ``controls_of``; the rest has defaults.

    Args:
        name: what its results are called.
        config: of its file: "base" {"name", "fingerprint"} says what it was trained from.
        fingerprint: digest of everything that changes its pictures.
        device: where it computes.

    Attributes:
        cache: what a kind may keep things in from one run to the next; None keeps nothing.
        levels: steps on either side of 0 that numbers have in small files, see ``styles.difference``; 0 for no small files.
        whole_files: whether full files hold also what every reader has.
    """

    kind: ClassVar[str]
    levels: ClassVar[int] = 0
    whole_files: ClassVar[bool] = False
    cache: FaceCache | None = None

    def __init__(self, name: str, config: Mapping[str, Any], fingerprint: str, *, device: torch.device) -> None:
        self.name, self.config, self.fingerprint, self.device = name, dict(config), fingerprint, torch.device(device)
        self._base: Base | None = None

    @classmethod
    @abstractmethod
    def load(cls, path: Path, tensors: dict[str, Tensor], config: dict[str, Any], *, device: torch.device) -> Style:
        """Return the style of a file's tensors and config.

        Raises:
            CheckpointError: where they do not fit.
        """

    @classmethod
    def known(cls, path: Path, config: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the tensors, named as in a file with this config, that every reader has: small files leave them out.

        Raises:
            CheckpointError: if the networks that they belong to are not here.
        """
        return {}

    @classmethod
    @abstractmethod
    def controls_of(cls, config: Mapping[str, Any], names: Sequence[str]) -> tuple[Control, ...]:
        """Return the controls of a file with this config and tensors of these names, without reading the tensors."""

    @classmethod
    def load_released(cls, path: Path, state: Any, *, device: torch.device) -> Style:
        """Return the style of a released file that ``checkpoints.io.read_torch`` gave.

        Raises:
            CheckpointError: where it does not fit, or the kind has no released form.
        """
        raise CheckpointError(f"{path}: the kind {cls.kind!r} has no released form; name a file of this project")

    @classmethod
    def released_controls(cls, path: Path) -> tuple[Control, ...]:
        """Return the controls of a released file of this kind without reading its numbers.

        Raises:
            CheckpointError: where a file beside it, which says what they are, is damaged.
        """
        return cls.controls_of({}, ())

    @property
    @abstractmethod
    def controls(self) -> tuple[Control, ...]:
        """What a user can set."""

    @abstractmethod
    def draw(self, face: Face, look: Look, *, landmarks: np.ndarray | None = None) -> Tensor:
        """Return drawn faces [N, 3, S, S] in about [-1, 1], without gradients.

        Args:
            face: N inverted or random faces in the generator of ``base_name``.
            look: values of controls; those that are not given take the control's default, or none.
            landmarks: [N, 68, 2] as fractions of the undeformed face's side, for values by region; the mean face if None.

        Raises:
            CheckpointError: for values that this style cannot draw, in one line.
        """

    @property
    def draws_pictures(self) -> bool:
        """Whether faces are drawn from their photos at the photos' own size, and whole pictures by ``draw_frame``."""
        return False

    @property
    def transformers(self) -> nn.Module | None:
        """The network with spatial transformers that draws or warps faces, with its ``config``; None where there is none."""
        return None

    def draw_frame(self, image: Tensor, parts: Tensor, faces: Sequence[FramedFace], look: Look, *,
                   inside: Tensor | None = None) -> Tensor:
        """Return a whole picture [1, 3, H, W] drawn, where ``draws_pictures`` says that this can be asked for.

        Args:
            image: in [-1, 1].
            parts: of it, see ``faces.parts``, [1, K, H, W].
            faces: in it, see ``styles.drawn.FramedFace``.
            look: see ``draw``.
            inside: weights [1, 1, H, W] of what is drawn; None draws everything.
        """
        raise CheckpointError(f"{self.name}: styles of the kind {self.kind!r} draw no whole pictures; use --frame crop")

    def prepare(self, look: Look) -> None:
        """Do once what ``draw`` needs for a look beside a face, so that a look that cannot be drawn is told of at once.

        Raises:
            ImageError, CheckpointError: for values that this style cannot draw, in one line.
        """

    @property
    def base_name(self) -> str:
        """Name of the generator that faces are inverted into: the one that the style was trained from."""
        return (self.config.get("base") or {}).get("name") or "starter"

    @property
    def encoder_name(self) -> str:
        """What ``checkpoints.features.load_encoder`` takes for the encoder of photos into that generator."""
        return self.base_name

    def photo_encoder(self) -> Encoder:
        """Load the encoder of photos into that generator; raises CheckpointError where it is not there or does not fit."""
        return load_encoder(self.encoder_name, device=self.device)

    @property
    def inversion(self) -> str:
        """How photos become latents where nobody says how, one of ``pipeline.stylize.INVERSIONS``."""
        return "e4e" if self.draws_pictures else "e4e+optimize"

    @property
    def base(self) -> Base:
        """The generator that faces are inverted into, loaded when it is first asked for."""
        if self._base is None:
            self._base = load_base(self.base_name, device=self.device)
        return self._base

    @property
    def latent_shape(self) -> tuple[int, int]:
        """Rows and width (L, D) of the latents of its faces."""
        config = self.base.generator.config
        return config.n_latent, config.style_dim

    def random(self, z: Tensor, *, truncation_psi: float) -> Face:
        """Return random faces of z [N, style_dim], truncated towards the mean face, see ``Base.random``."""
        return self.base.random(z.to(self.device), truncation_psi=truncation_psi)

    def graph(self) -> nn.Module:
        """Return a network (w_plus [N, L, D], residual [N, C, R, R] or None, photo [N, 3, S, S] or None, one [N] per number)
        -> images, for export.

        Its attribute ``inputs`` holds the controls that are its inputs, in order. The default calls ``draw`` with tensors
        [N] for numbers; a kind whose ``draw`` cannot take them, or checks values, brings a graph of its own.

        Raises:
            CheckpointError: where the kind cannot be exported.
        """
        return DrawGraph(self)

    @classmethod
    def mix(cls, styles: Sequence[Style], weights: Sequence[float]) -> Style:
        """Return a mixture of styles of this kind; weights sum to 1.

        Raises:
            CheckpointError: where they cannot be mixed.
        """
        raise CheckpointError(f"{', '.join(style.name for style in styles)}: styles of the kind {cls.kind!r} cannot be mixed")

    def pictures(self, control: str) -> dict[str, Image.Image]:
        """Return a small picture per choice of a control, for a gallery; none where the kind has none."""
        return {}

    def packed(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return tensors and config of one file of this project that holds the whole style, to import it by.

        None where the released file itself holds everything, so that it is kept as it is.
        """
        return None

    def default_look(self, *, samples: bool = False) -> Look:
        """Return the look of every control's default, for photos or for random faces."""
        return Look(**{control.name: control.default_for(samples=samples) for control in self.controls})

    def facts(self) -> dict[str, Any]:
        """Return what a user of an exported file has to know of the style, as plain values."""
        return {"style": self.name, "kind": self.kind, "fingerprint": self.fingerprint}


class DrawGraph(nn.Module):
    """``Style.draw`` as a network; controls that are no numbers, or have no default, stay as the style has them."""

    def __init__(self, style: Style) -> None:
        super().__init__()
        self.style, self.generator = style, style.base.generator
        self.inputs = tuple(c for c in style.controls if c.type == "number" and c.default is not None)

    def forward(self, w_plus: Tensor, residual: Tensor | None, photo: Tensor | None, *values: Tensor) -> Tensor:
        """w_plus [N, L, D], residual [N, C, R, R] or None, photo [N, 3, S, S] or None, one [N] per control of ``inputs`` ->
        image [N, 3, S, S]."""
        given = {control.name: value for control, value in zip(self.inputs, values, strict=True)}
        return self.style.draw(Face(w_plus, residual, photo), self.style.default_look().changed(**given))


def file_path(value: FileValue | str | Path) -> Path:
    """Return the path of a control's file."""
    return Path(value.path if isinstance(value, FileValue) else value)
