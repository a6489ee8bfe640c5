"""Codes of exemplars: portraits turned into faces, codes refined, and the sampler that is fitted to them (DualStyleGAN)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from losses.contextual import contextual_loss
from losses.exemplar import nearest, nearest_fit, row_spread
from losses.noise import noise_regularization, ramped_rate, renew_noise
from models.dino import DinoFeatures, SharedTokens
from models.dualstylegan import FIRST_COLOR_ROW, SAMPLER_WIDTH, CodeSampler, DualStyleGAN
from models.stylegan2 import Generator
from training.checks import check_terms
from training.inversion import frozen

# Rows from which the face of a portrait keeps the portrait's own codes when it is encoded again.
KEPT_ROW = 8
Rows = Callable[[Tensor], Tensor]
Maps = Callable[[Tensor], Sequence[Tensor]]
Distance = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class DestylizeSettings:
    """How portraits become faces: Adam ``steps`` and ``rate`` with its ramps, the weights of identity, spread of the rows and
    noise regularisation, and the truncation of the face. Without steps a portrait's codes are what the encoder gives."""

    steps: int = 300
    rate: float = 0.1
    identity: float = 0.1
    spread: float = 1.0
    noise: float = 1e5
    truncation: float = 0.7


class Destylized(NamedTuple):
    """Codes of portraits [N, L, D]: ``extrinsic`` as encoded, ``intrinsic`` of the face without the style, and that face
    [N, 3, S, S]."""

    extrinsic: Tensor
    intrinsic: Tensor
    face: Tensor


def destylize(
    portrait: Tensor, tuned: Generator, generator: Generator, *, encode: Rows, to_w: Rows, perceptual: Distance,
    identity: Distance | None = None, settings: DestylizeSettings | None = None, center: float | Tensor = 0.0,
    progress: Callable[[int, Mapping[str, float]], None] | None = None,
) -> Destylized:
    """Find the face behind each portrait: codes that are the portrait under g', drawn by g (section 3.2).

    min over rows e and noise n of d(g'(e, n), S) + identity id(g'(e, n), S) + spread std_rows(e) + noise reg(n), from
    e = E(S). g' was fine-tuned from g on the style, so that what it makes of a code as a portrait, g makes of it as a face.
    The truncated face of g is encoded again; the rows from 8 on, which carry colours, stay those of E(S).

    Args:
        portrait: [N, 3, S, S] in [-1, 1].
        tuned: g', left as it was.
        generator: g, left as it was.
        encode: E, images -> rows [N, L, D].
        to_w: rows -> w_plus [N, L, D]: the mapping for rows in z+, the identity for rows in w+.
        perceptual, identity: distances of image batches, scalars; identity is left out where None.
        settings: see there.
        center: of the truncation of w_plus, 0 as published or the mean latent [D].
        progress: called with the number of steps done and the terms.

    Raises:
        DivergedError: naming the step and the term that is not finite.
    """
    settings = settings or DestylizeSettings()
    with torch.no_grad():
        start = encode(portrait)
    rows = start.clone().requires_grad_(True)
    noise = [level.repeat(len(portrait), 1, 1, 1).requires_grad_(True) for level in tuned.fixed_noise()]
    optimizer = torch.optim.Adam([rows, *noise], lr=settings.rate)
    with torch.enable_grad(), frozen(tuned):
        for step in range(settings.steps):
            optimizer.param_groups[0]["lr"] = ramped_rate(step, settings.steps, rate=settings.rate)
            image = tuned.synthesis(to_w(rows), noise=noise)
            terms = {"perceptual": perceptual(image, portrait), "spread": settings.spread * row_spread(rows),
                     "noise": settings.noise * noise_regularization(noise)}
            if identity is not None:
                terms["identity"] = settings.identity * identity(image, portrait)
            _follow(optimizer, terms, step=step, scale=len(portrait))
            renew_noise(noise)
            if progress is not None:
                progress(step + 1, _numbers(terms))
    with torch.no_grad():
        w_plus = center + settings.truncation * (to_w(rows) - center)
        face = generator.synthesis(w_plus, noise=generator.fixed_noise())
        content = encode(face) if settings.steps else rows  # what the encoder gave need not be encoded again
        intrinsic = torch.cat([content[:, :KEPT_ROW], start[:, KEPT_ROW:]], dim=1)
    return Destylized(start, intrinsic, face)


@dataclass(frozen=True)
class RefineSettings:
    """How codes are refined: ``steps`` of Adam, rates of the rows of colour and structure and of the noise, and weights."""

    steps: int = 100
    color: float = 0.01
    structure: float = 0.005
    noise: float = 0.1
    contextual: float = 0.1
    whiteness: float = 1e5
    band_width: float = 0.2


def refine_codes(
    portrait: Tensor, network: DualStyleGAN, *, content: Tensor, code: Tensor, to_w: Rows, perceptual: Distance, maps: Maps,
    settings: RefineSettings | None = None, progress: Callable[[int, Mapping[str, float]], None] | None = None,
) -> Tensor:
    """Move extrinsic codes so that they draw their own portraits better: LPIPS + contextual + noise regularisation.

    Args:
        portrait: [N, 3, S, S] in [-1, 1].
        network: trained, left as it was.
        content: w_plus [N, L, D] of the faces behind the portraits.
        code: rows [N, L, D] to start from.
        to_w: rows -> w_plus, see ``destylize``.
        perceptual: distance of image batches.
        maps: feature maps of images; the last is compared in context.
        settings: see there.
        progress: called with the number of steps done and the terms.

    Returns:
        Rows [N, L, D], detached.

    Raises:
        DivergedError: naming the step and the term that is not finite.
    """
    settings = settings or RefineSettings()
    parts = [part.detach().clone().requires_grad_(True) for part in (code[:, :FIRST_COLOR_ROW], code[:, FIRST_COLOR_ROW:])]
    noise = [level.repeat(len(portrait), 1, 1, 1).requires_grad_(True) for level in network.generator.fixed_noise()]
    optimizer = torch.optim.Adam([{"params": [parts[0]], "lr": settings.structure},
                                  {"params": [parts[1]], "lr": settings.color}, {"params": noise, "lr": settings.noise}])
    weights = [1.0] * network.n_latent
    with torch.no_grad():
        target = maps(portrait)[-1]
    with torch.enable_grad(), frozen(network):
        for step in range(settings.steps):
            image = network.synthesis(content, to_w(torch.cat(parts, dim=1)), weights=weights, noise=noise)
            context = contextual_loss(maps(image)[-1], target, band_width=settings.band_width)
            terms = {"perceptual": perceptual(image, portrait), "noise": settings.whiteness * noise_regularization(noise),
                     "contextual": settings.contextual * context}
            _follow(optimizer, terms, step=step, scale=len(portrait))
            renew_noise(noise)
            if progress is not None:
                progress(step + 1, _numbers(terms))
    return torch.cat(parts, dim=1).detach()


def _follow(optimizer: torch.optim.Optimizer, terms: Mapping[str, Tensor], *, step: int, scale: float = 1.0) -> None:
    """Do one step down the sum of finite terms, times ``scale``: the batch size undoes a batch mean, up to Adam's epsilon."""
    check_terms(terms, step=step)
    optimizer.zero_grad(set_to_none=True)
    (scale * torch.stack(list(terms.values())).sum()).backward()
    optimizer.step()


def _numbers(terms: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: float(value.detach()) for name, value in terms.items()}


@dataclass(frozen=True)
class SamplerSettings:
    """How a sampler is fitted: ``samples`` seen in all, codes jittered by ``jitter`` and repeated to about ``codes``, ``pool``
    samples to choose from per code, batch, and Adam's rate, which is halved every ``halving`` epochs."""

    samples: int = 500_000
    codes: int = 1000
    jitter: float = 0.05
    pool: int = 10
    batch: int = 64
    rate: float = 1e-3
    halving: int = 50

    @property
    def epochs(self) -> int:
        """Number of epochs, each of ``codes`` samples."""
        return max(1, round(self.samples / self.codes))


class SamplerFit:
    """Implicit maximum likelihood: in every epoch each code pulls the sample that is nearest to it.

    Args:
        codes: rows [K, R, D] that the sampler shall make.
        settings: see there.
        seed: of the weights and of all random numbers.
    """

    def __init__(self, codes: Tensor, *, settings: SamplerSettings | None = None, seed: int = 0) -> None:
        if codes.ndim != 3 or len(codes) < 1:
            raise ValueError(f"expected codes [K, R, D], got {list(codes.shape)}")
        self.codes, self.settings = codes.flatten(1), settings or SamplerSettings()  # [K, R, D] -> [K, R D]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.sampler = CodeSampler(codes.shape[1], style_dim=codes.shape[2]).to(codes)
        self.optimizer = torch.optim.Adam(self.sampler.parameters(), lr=self.settings.rate)
        self.rng = torch.Generator().manual_seed(seed)
        self.epoch = 0

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.rng).to(self.codes)

    def step(self) -> float:
        """Do one epoch and return its mean squared distance.

        Raises:
            DivergedError: naming the epoch where it is not finite.
        """
        settings = self.settings
        repeats = max(1, round(settings.codes / len(self.codes)))
        codes = self.codes.repeat(repeats, 1)
        codes = codes + settings.jitter * self._normal(*codes.shape)
        pool = self._normal(settings.pool * len(codes), SAMPLER_WIDTH)
        self.sampler.eval()
        with torch.no_grad():
            chosen = pool[nearest(codes, self.sampler(pool).flatten(1))]
        self.sampler.train()
        for group in self.optimizer.param_groups:
            group["lr"] = settings.rate * 0.5 ** (self.epoch // settings.halving)
        order, total, size = torch.randperm(len(codes), generator=self.rng), 0.0, min(settings.batch, len(codes))
        for part in order.split(size):
            if len(part) < 2:  # batch norm needs two
                continue
            loss = nearest_fit(self.sampler(chosen[part]).flatten(1), codes[part])
            _follow(self.optimizer, {"sampler": loss}, step=self.epoch)
            total += float(loss.detach()) * len(part)
        self.epoch += 1
        self.sampler.eval()
        return total / len(codes)

    def state(self) -> dict[str, Any]:
        """Return everything that a resumed fit needs, tensors and plain values."""
        return {"sampler": self.sampler.state_dict(), "optimizer": self.optimizer.state_dict(), "rng": self.rng.get_state(),
                "epoch": self.epoch}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``; raises RuntimeError, KeyError or ValueError where it does not fit."""
        self.sampler.load_state_dict(state["sampler"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rng.set_state(state["rng"])
        self.epoch = int(state["epoch"])


class TokenMaps:
    """Tokens of a vision transformer as feature maps, from fine to coarse content, in the place of VGG's.

    Args:
        features: the transformer.
        layers: block indices, each of which gives a map [N, D, T, T] of its tokens' T x T patches.
    """

    def __init__(self, features: DinoFeatures | SharedTokens, *, layers: Sequence[int]) -> None:
        self.features, self.layers = features, tuple(layers)

    def __call__(self, image: Tensor) -> tuple[Tensor, ...]:
        tokens = self.features.tokens(image, layers=self.layers, facets="f")
        side = round(tokens["f", self.layers[0]].shape[1] ** 0.5)
        return tuple(tokens["f", layer].transpose(1, 2).unflatten(2, (side, side)) for layer in self.layers)  # [N, T^2, D]
