"""Second stage: the generator that blends, against three discriminators.

D_face tells random faces without a style from photos, D_styled styled faces from artworks, and D_match, with a projection,
pairs of a styled face and its code from pairs of an artwork and the style encoder's code. Non-saturating losses with lazy R1
and path length as in StyleGAN2, and the style encoder's code of a styled face is tied to the code it was drawn by.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from losses.adversarial import PathLengthPenalty, r1_penalty
from losses.blending import Judged, discriminator_terms, generator_terms
from losses.contrastive import code_distance
from models.blending import BlendGenerator
from models.discriminator import Discriminator, DiscriminatorConfig
from models.projection_discriminator import ProjectionDiscriminator
from models.style_encoder import StyleEncoder
from models.stylegan2 import Generator
from training.blend.stage import StageTrainer
from training.pretrain.common import RandomFaces, half_precision


@dataclass(frozen=True)
class BlendStageConfig:
    """Settings of the stage; ``batch`` is per process, the rates are StyleGAN2's.

    Attributes:
        encoded: share of the style codes that come from artworks; the others are standard normal.
        style_weight: of the style regulariser.
        r1_gamma, r1_every: weight and interval of R1; each counts r1_every times where it is computed.
        path_weight, path_every: the same of the path length.
        average: decay of the generator's running average.
    """

    batch: int = 8
    lr: float = 2e-3
    discriminator_lr: float = 2e-3
    encoded: float = 0.5
    style_weight: float = 1.0
    r1_gamma: float = 1.0
    r1_every: int = 16
    path_weight: float = 2.0
    path_every: int = 4
    average: float = 0.998


def blend_generator_from(base: Generator) -> BlendGenerator:
    """Return a blending generator that begins as ``base``; style codes are mapped as latents are."""
    made = BlendGenerator(base.config)
    state = base.state_dict()
    state |= {name.replace("style.", "embedding.", 1): value for name, value in state.items() if name.startswith("style.")}
    made.load_state_dict({**state, "add_weight": made.add_weight.detach()}, strict=True)
    return made


class Critics(nn.Module):
    """The three discriminators, which begin alike where one is given.

    Args:
        config: shape of each body.
        style_dim: width of the style codes.
        start: a trained discriminator of this shape.
    """

    def __init__(self, config: DiscriminatorConfig, *, style_dim: int, start: Discriminator | None = None) -> None:
        super().__init__()
        self.face, self.styled = Discriminator(config), Discriminator(config)
        self.match = ProjectionDiscriminator(config, style_dim=style_dim)
        if start is not None:
            for critic in (self.face, self.styled):
                critic.load_state_dict(start.state_dict())
            self.match.convs.load_state_dict(start.convs.state_dict())
            self.match.final_conv.load_state_dict(start.final_conv.state_dict())

    def forward(self, face: Tensor, styled: Tensor, codes: Tensor) -> Judged:
        """Judge faces and styled faces [N, 3, S, S] with codes [N, D]; logits [N, 1] each."""
        return Judged(self.face(face), self.styled(styled), self.match(styled, codes))


class BlendTrainer(StageTrainer):
    """Blending generator, its average and three discriminators.

    Args:
        config: settings.
        base: generator to begin with.
        critics: discriminators to begin with.
        encoder: trained style encoder, frozen.
        faces, styles: photos of faces and artworks, both at the generator's size.
        device: where to train.
    """

    def __init__(
        self, config: BlendStageConfig, base: Generator, critics: Critics, *, encoder: StyleEncoder, faces: RandomFaces,
        styles: RandomFaces, device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(facts={"generator": base.config.to_dict(), "style encoder": encoder.config.to_dict()}, device=device)
        self.config, self.faces, self.styles = config, faces, styles
        self.generator = blend_generator_from(base).to(self.device)
        self.critics = critics.to(self.device)
        self.encoder = encoder.requires_grad_(False).eval().to(self.device)
        self.path = PathLengthPenalty().to(self.device)
        self.average = deepcopy(self.generator).requires_grad_(False).eval()
        self.networks = {"generator": self.generator, "critics": self.critics, "path": self.path}
        self.averages = {"generator": self.average}
        self.optimizers = {"generator": _adam(self.generator, config.lr, config.path_every),
                           "critics": _adam(self.critics, config.discriminator_lr, config.r1_every)}

    def encode(self, image: Tensor) -> Tensor:
        """Return style codes [N, D]; in full precision, for Gram matrices lose what tells styles apart."""
        with torch.autocast(self.device.type, enabled=False):
            return self.encoder(image.float())

    def latents(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Return w_plus [N, L, D] of random faces and of the same with the styles of codes [N, D]."""
        generator = self.generator
        face = generator.broadcast(generator.mapping(self.faces.normal(len(codes), generator.config.style_dim)))
        return face, generator.blend(face, generator.map_style(codes), shares=generator.face_shares())

    def render(self, w_plus: Tensor) -> Tensor:
        """Return images of latents [N, L, D] under fresh noise."""
        noise = self.generator.random_noise(len(w_plus), generator=self.faces.rng)
        with half_precision(self.device):
            return self.generator.synthesis(w_plus, noise=noise).float()

    def mixed_codes(self, encoded: Tensor) -> Tensor:
        """Return the codes to draw with: those of other artworks, or standard normal ones."""
        chosen = torch.rand(len(encoded), 1, generator=self.styles.rng).to(self.device) < self.config.encoded
        return torch.where(chosen, encoded.roll(1, dims=0), self.styles.normal(*encoded.shape))

    def judge(self, face: Tensor, styled: Tensor, codes: Tensor) -> Judged:
        """Return what the discriminators say."""
        with half_precision(self.device):
            return self.critics(face, styled, codes)

    def step(self) -> dict[str, float]:
        config = self.config
        photo, art = self.faces(config.batch), self.styles(config.batch)
        with torch.no_grad():
            encoded = self.encode(art)
            codes = self.mixed_codes(encoded)
            fakes = [self.render(w_plus) for w_plus in self.latents(codes)]
        terms = {"d": self._step_critics(photo, art, encoded, fakes, codes)}
        terms |= self._step_generator(codes)
        self.advance(config.batch, decay=config.average)
        return terms

    def _step_critics(self, photo: Tensor, art: Tensor, encoded: Tensor, fakes: list[Tensor], codes: Tensor) -> float:
        self.critics.requires_grad_(True)
        terms = discriminator_terms(self.judge(photo, art, encoded), self.judge(*fakes, codes))
        loss = terms.total()
        if self.steps % self.config.r1_every == 0:
            loss = loss + 0.5 * self.config.r1_gamma * self.config.r1_every * self._r1(photo, art, encoded)
        self.update(loss, "critics", self.critics)
        return terms.total().item()

    def _r1(self, photo: Tensor, art: Tensor, encoded: Tensor) -> Tensor:
        """Return the sum of R1 over the discriminators, in full precision."""
        photo, art = photo.detach().requires_grad_(True), art.detach().requires_grad_(True)
        logits = self.critics(photo, art, encoded)
        return r1_penalty(logits.face, photo) + r1_penalty(logits.styled, art) + r1_penalty(logits.match, art)

    def _step_generator(self, codes: Tensor) -> dict[str, float]:
        self.critics.requires_grad_(False)
        config = self.config
        face, blended = self.latents(codes)
        styled = self.render(blended)
        terms = generator_terms(self.judge(self.render(face), styled, codes))
        style = code_distance(self.encode(styled), codes)
        loss = terms.total() + config.style_weight * style
        if self.steps % config.path_every == 0:
            lengths = self.path(styled, blended, noise=self.faces.normal(*styled.shape))
            loss = loss + config.path_weight * config.path_every * lengths
        self.update(loss, "generator", self.generator, self.path)
        return {**{name: term.item() for name, term in zip(Judged._fields, terms, strict=True)}, "style": style.item()}


def _adam(module: nn.Module, lr: float, every: int) -> torch.optim.Adam:
    """Return Adam corrected for a regulariser at every so many steps, c = k / (k + 1) (StyleGAN2, appendix B)."""
    share = every / (every + 1)
    return torch.optim.Adam(module.parameters(), lr=lr * share, betas=(0.0, 0.99**share))
