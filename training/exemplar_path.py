"""Training of DualStyleGAN's extrinsic path: first on mixed faces, then on the folder of portraits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from losses.adversarial import nonsaturating_loss
from losses.contextual import contextual_loss, feature_mean_matching
from losses.exemplar import path_norm
from models.dualstylegan import FIRST_COLOR_ROW, DualStyleGAN
from training.adversarial_stage import AdversarialConfig, AdversarialStage
from training.exemplars import KEPT_ROW, Distance, Maps, Rows


@dataclass(frozen=True)
class MixedFacesConfig(AdversarialConfig):
    """Pretraining: weights of features and critic, every how many steps codes are encoded, shares of the steps and their rows.

    ``cuts`` are (share of the steps, first row that comes from the second face), in order; the last holds to the end.
    """

    steps: int = 3000
    features: float = 0.5
    adversarial: float = 0.1
    encode_every: int = 4
    cuts: tuple[tuple[float, int], ...] = ((0.1, 7), (0.1, 6), (0.8, 5))


@dataclass(frozen=True)
class PortraitsConfig(AdversarialConfig):
    """Fine-tuning: jitter of codes and weights of the terms, of pairs by feature map from the first of ``maps`` on."""

    steps: int = 1500
    jitter: float = 0.1
    adversarial: float = 1.0
    contextual: float = 0.25
    means: float = 0.25
    band_width: float = 0.2
    identity: float = 1.0
    norm: float = 0.01
    pair: tuple[float, ...] = (0.5, 1.0)


class PathStage(AdversarialStage):
    """A stage that trains the extrinsic path of a network and leaves its generator alone.

    Args:
        network: whose path is trained.
        critic: see ``AdversarialStage``.
        maps: feature maps of images [N, 3, S, S], from fine to coarse.
        config: of the stage.
    """

    def __init__(self, network: DualStyleGAN, critic: nn.Module, *, maps: Maps, config: AdversarialConfig) -> None:
        average = DualStyleGAN(network.generator).to(network.generator.input.input.device)
        average.load_state_dict(network.state_dict())
        super().__init__(network, average, lambda name: not name.startswith("generator."), critic=critic,
                         generator=network.generator, config=config)
        self.maps, self.ones = maps, [1.0] * network.n_latent

    def make(self, drawn: Mapping[str, Tensor]) -> Tensor:
        content = drawn["content"]
        return self.network.synthesis(content, drawn["code"], weights=self.ones, noise=self.noise(len(content)))


def mixing_row(step: int, config: MixedFacesConfig) -> int:
    """Return the first row that targets of a step take from the second face: ever finer structure is asked of the path."""
    share, done = step / config.steps, 0.0
    for part, row in config.cuts[:-1]:
        done += part
        if share < done:
            return row
    return config.cuts[-1][1]


class MixedFaces(PathStage):
    """Pretraining (section 3.3, stage II): the path learns to do what exchanging rows does.

    The target is g(w1 up to a row, w2 from it on); the network gets w1 as content and w2, in every fourth step what the
    encoder sees in g(w2), as code: sum_k 0.5 |phi_k(image) - phi_k(target)|_1 + 0.1 adversarial.

    Args:
        network, critic, maps, config: see ``PathStage``.
        encode: images -> w_plus [N, L, D] (encoded rows, mapped).
    """

    config: MixedFacesConfig

    def __init__(self, network: DualStyleGAN, critic: nn.Module, *, maps: Maps, encode: Rows,
                 config: MixedFacesConfig | None = None) -> None:
        super().__init__(network, critic, maps=maps, config=config or MixedFacesConfig())
        self.encode = encode

    @torch.no_grad()
    def draw(self) -> dict[str, Tensor]:
        generator, count = self.generator, self.config.batch
        first, second = self.faces(count), self.faces(count)
        row = mixing_row(self.step_count, self.config)
        target = generator.synthesis(torch.cat([first[:, :row], second[:, row:]], dim=1), noise=self.noise(count))
        code = second
        if self.config.encode_every and self.step_count % self.config.encode_every == 0:
            code = self.encode(generator.synthesis(second, noise=self.noise(count)))
        return {"content": first, "code": code, "real": target}

    def terms(self, image: Tensor, drawn: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with torch.no_grad():
            wanted = self.maps(drawn["real"])
        differences = [F.l1_loss(ours, theirs) for ours, theirs in zip(self.maps(image), wanted, strict=True)]
        return {"features": self.config.features * torch.stack(differences).sum(),
                "adversarial": self.config.adversarial * nonsaturating_loss(self.judged(image))}


@dataclass(frozen=True)
class Portraits:
    """A folder of portraits: images [K, 3, S, S], and w_plus [K, L, D] of their exemplars and of the faces behind them."""

    images: Tensor
    extrinsic: Tensor
    intrinsic: Tensor

    def __post_init__(self) -> None:
        if not len(self.images) == len(self.extrinsic) == len(self.intrinsic) or not len(self.images):
            raise ValueError(f"expected as many codes as portraits, got {len(self.images)} portraits, {len(self.extrinsic)} "
                             f"and {len(self.intrinsic)} codes")


class PortraitTraining(PathStage):
    """Fine-tuning on the folder (stage III): alternately any face with an exemplar's code, and the exemplar's own face.

    Any face: adversarial + contextual of the last map + means of all maps + identity to the face without the style + norms of
    the residual blocks. Its own face: the same, and the L1 distance of every map from the portrait's.

    Args:
        network, critic, maps, config: see ``PathStage``.
        portraits: the folder.
        identity: distance of image batches in who they show; left out where None.
    """

    config: PortraitsConfig

    def __init__(self, network: DualStyleGAN, critic: nn.Module, *, maps: Maps, portraits: Portraits,
                 identity: Distance | None = None,
                 config: PortraitsConfig | None = None) -> None:
        super().__init__(network, critic, maps=maps, config=config or PortraitsConfig())
        self.portraits, self.identity = portraits, identity

    @torch.no_grad()
    def draw(self) -> dict[str, Tensor]:
        count, folder = self.config.batch, self.portraits
        chosen = torch.randint(len(folder.images), (count,), generator=self.rng)
        images, code, content = (part[chosen].to(self.generator.input.input) for part in (
            folder.images, folder.extrinsic, folder.intrinsic))
        drawn = {"real": images, "code": code, "content": content, "paired": images}
        if self.chance(2):
            code = code + self.config.jitter * self.normal(*code.shape)
            face, colours = self.faces(count), self.faces(count)
            drawn |= {"code": code, "content": torch.cat([face[:, :KEPT_ROW], colours[:, KEPT_ROW:]], dim=1)}
            del drawn["paired"]
        return drawn

    def terms(self, image: Tensor, drawn: Mapping[str, Tensor]) -> dict[str, Tensor]:
        config, ours = self.config, self.maps(image)
        with torch.no_grad():
            theirs = self.maps(drawn["real"])
            face = self.generator.synthesis(drawn["content"], noise=self.generator.fixed_noise())
        blocks = self.network.res[:FIRST_COLOR_ROW]
        terms = {"adversarial": config.adversarial * nonsaturating_loss(self.judged(image)),
                 "contextual": config.contextual * contextual_loss(ours[-1], theirs[-1], band_width=config.band_width),
                 "means": config.means * feature_mean_matching(ours, theirs),
                 "norm": config.norm * path_norm(blocks.parameters())}
        if self.identity is not None:
            terms["identity"] = config.identity * self.identity(image, face)
        if "paired" in drawn:
            weighted = [weight * F.l1_loss(a, b) for weight, a, b in zip(config.pair, ours, theirs, strict=True)]
            terms["pair"] = torch.stack(weighted).sum()
        return terms
