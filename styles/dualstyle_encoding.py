"""Portraits that are in no gallery as exemplars: encoded, and refined until they are drawn as they are."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from checkpoints.builders import load_encoder
from checkpoints.features import Encoder
from checkpoints.io import CheckpointError
from checkpoints.paths import checkpoints_dir
from data.images import aligned_tensor, read_image
from models.dualstylegan import DualStyleGAN
from styles.dualstyle_files import ENCODER_FILE, DualParts
from training.checks import DivergedError
from training.exemplar_tools import load_tools
from training.exemplars import DestylizeSettings, RefineSettings, destylize, refine_codes

# What to do with a portrait that is not square.
CUT = "cut it to a square, as face_align.py does"


class MappedRows(nn.Module):
    """An encoder into z+ and the mapping behind it: w_l = f(E(image)_l) for every row l (DualStyleGAN, section 3.2).

    Args:
        encoder: images -> z+ [N, L, D].
        network: whose generator maps; it is shared, not copied.
    """

    def __init__(self, encoder: nn.Module, network: DualStyleGAN) -> None:
        super().__init__()
        self.encoder, self.network, self.config = encoder, network, encoder.config

    def forward(self, image: Tensor) -> Tensor:
        """image [N, 3, S, S] -> w_plus [N, L, D]."""
        return self.network.map_rows(self.encoder(image))


class ExemplarEncoder:
    """Finds extrinsic rows of aligned portraits.

    Args:
        parts: network, gallery and config of the style.
        name: of the style, for messages.
        base_name: of its generator.
        folder: of its file, where an encoder may lie.
        device: where it computes.
    """

    def __init__(self, parts: DualParts, name: str, base_name: str, *, folder: Path, device: torch.device) -> None:
        self.parts, self.name, self.base_name = parts, name, base_name
        self.folder, self.device, self._loaded = folder, device, None

    @property
    def encoder(self) -> Encoder:
        """The encoder, loaded when it is first asked for; CheckpointError where it is not there or does not fit."""
        self._loaded = self._loaded or self._load()
        return self._loaded

    @property
    def fingerprint(self) -> str:
        """Digest of the encoder."""
        return self.encoder.fingerprint

    @torch.no_grad()
    def rows(self, path: Path) -> Tensor:
        """Return the encoder's rows [1, L, D] of an aligned portrait, in the space of the gallery's codes; ImageError where it is
        not square."""
        return self.rows_of(aligned_tensor(read_image(path), self.encoder.input_size, name=path, remedy=CUT))

    @torch.no_grad()
    def rows_of(self, portrait: Tensor) -> Tensor:
        """Return the encoder's rows [N, L, D] of aligned portraits [N, 3, S, S] of its side."""
        rows = self.encoder.module(portrait.to(self.device))
        # Codes in z+ lie around 0; what an encoder's file says of a mean latent belongs to w+.
        return rows if self.parts.gallery.space == "z+" else rows + self.encoder.latent_avg

    def refined(self, path: Path, *, steps: int) -> Tensor:
        """Return rows in w+ of an aligned portrait after ``steps`` of refinement, as trainings refine those of their folder.

        Raises:
            CheckpointError: where it diverges.
        """
        network, named = self.parts.network, self.parts.config.get("exemplar_encoder")
        _, tools = load_tools(self.base_name, encoder=None if named == self.base_name else named, device=self.device)
        portrait = aligned_tensor(read_image(path), network.generator.config.size, name=path, remedy=CUT).to(self.device)
        given = {"to_w": lambda rows: rows, "perceptual": tools.perceptual}
        found = destylize(portrait, network.generator, network.generator, encode=tools.encode,
                          settings=DestylizeSettings(steps=0, truncation=1.0), **given)
        try:
            with tqdm(total=steps, desc=f"{path.name}: refining", leave=False, disable=None) as bar:
                return refine_codes(portrait, network, content=found.intrinsic, code=found.extrinsic, maps=tools.maps,
                                    settings=RefineSettings(steps=steps), progress=lambda done, terms: bar.update(), **given)
        except DivergedError as error:
            raise CheckpointError(f"{path}: {error}; take fewer steps by --refine_steps") from error

    def mapped(self) -> Encoder:
        """Return the encoder as one of photos: its rows in z+, each mapped by itself, are rows of w+ as other encoders give."""
        found = self.encoder
        module = MappedRows(found.module, self.parts.network).requires_grad_(False).eval()
        return Encoder(module, torch.zeros_like(found.latent_avg), found.input_size, f"{found.fingerprint} z+")

    def _load(self) -> Encoder:
        parts, named = self.parts, self.parts.config.get("exemplar_encoder")
        if named is None and parts.gallery.space == "z+":
            folders = (self.folder, self.folder.resolve().parent, checkpoints_dir())
            named = next((folder / ENCODER_FILE for folder in folders if (folder / ENCODER_FILE).is_file()), None)
            if named is None:
                raise CheckpointError(f"{self.name}: a photo, or a portrait that is not in the gallery, needs {ENCODER_FILE}, "
                                      f"which is not in {checkpoints_dir()}; get it, or choose --wplus and one of the gallery")
        encoder = load_encoder(named or self.base_name, device=self.device)
        config = parts.network.generator.config
        if list(encoder.latent_avg.shape) != [config.n_latent, config.style_dim]:
            raise CheckpointError(f"{named or self.base_name}: gives rows {list(encoder.latent_avg.shape)}, but {self.name} "
                                  f"takes {[config.n_latent, config.style_dim]}; use the encoder of its generator")
        return encoder
