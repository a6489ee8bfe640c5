"""Training of DualStyleGAN's extrinsic path: first on mixed faces, then on the folder of portraits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from losses.adversarial import logistic_loss, nonsaturating_loss, r1_penalty
from losses.contextual import contextual_loss, feature_mean_matching
from losses.exemplar import path_norm
from models.dualstylegan import FIRST_COLOR_ROW, DualStyleGAN
from training.exemplars import KEPT_ROW, Distance, Maps, Rows
from training.objective import check_gradients, check_terms


@dataclass(frozen=True)
class PathConfig:
    """What both stages share: steps, batch, Adam's rates of path and critic, R1 weight and interval, average, seed."""

    steps: int
    batch: int = 4
    rate: float = 2e-3
    critic_rate: float = 2e-3
    r1: float = 10.0
    r1_every: int = 16
    average: float = 0.5 ** (32 / 10_000)
    seed: int = 0


@dataclass(frozen=True)
class MixedFacesConfig(PathConfig):
    """Pretraining: weights of features and critic, every how many steps codes are encoded, shares of the steps and their rows.

    ``cuts`` are (share of the steps, first row that comes from the second face), in order; the last holds to the end.
    """

    steps: int = 3000
    features: float = 0.5
    adversarial: float = 0.1
    encode_every: int = 4
    cuts: tuple[tuple[float, int], ...] = ((0.1, 7), (0.1, 6), (0.8, 5))


@dataclass(frozen=True)
class PortraitsConfig(PathConfig):
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


class PathTrainer(ABC):
    """A stage that trains the path of a network against a critic and can stop and go on at every step.

    Args:
        network: its path is trained, its generator left alone.
        critic: maps images to logits; trained too.
        maps: feature maps of images [N, 3, S, S], from fine to coarse.
        config: of the stage.
    """

    def __init__(self, network: DualStyleGAN, critic: nn.Module, *, maps: Maps, config: PathConfig) -> None:
        self.network, self.critic, self.maps, self.config = network, critic, maps, config
        network.generator.requires_grad_(False)
        self.average = DualStyleGAN(network.generator).to(network.generator.input.input).requires_grad_(False).eval()
        self.average.load_state_dict(network.state_dict())
        self.named = {name: p for name, p in network.named_parameters() if not name.startswith("generator.")}
        self.optimizer = torch.optim.Adam(self.named.values(), lr=config.rate, betas=(0.0, 0.99))
        self.critic_optimizer = torch.optim.Adam(critic.parameters(), lr=config.critic_rate, betas=(0.0, 0.99))
        self.rng = torch.Generator().manual_seed(config.seed)
        self.ones = [1.0] * network.n_latent
        self.step_count, self.history = 0, []

    @abstractmethod
    def draw(self) -> dict[str, Tensor]:
        """Return what one step looks at: w_plus of the ``content`` and extrinsic rows ``code``, [N, L, D] each, ``real`` images
        for the critic [N, 3, S, S], and what the terms of the stage need beside them."""

    @abstractmethod
    def terms(self, image: Tensor, drawn: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weighted terms of images that were made of ``drawn``."""

    def normal(self, *shape: int) -> Tensor:
        """Return standard normal numbers of the stage's own generator, drawn on the CPU."""
        return torch.randn(shape, generator=self.rng).to(self.network.generator.input.input)

    def chance(self, count: int) -> int:
        """Return a random number below ``count``."""
        return int(torch.randint(count, (1,), generator=self.rng))

    def noise(self, count: int) -> list[Tensor]:
        """Return fresh noise maps."""
        return self.network.generator.random_noise(count, generator=self.rng)

    def step(self) -> dict[str, float]:
        """Train critic and path once and return the terms.

        Raises:
            DivergedError: naming the term or parameter that is not finite.
        """
        drawn, count = self.draw(), self.config.batch
        values = self._critic_step(drawn)
        self.critic.requires_grad_(False)
        image = self.network.synthesis(drawn["content"], drawn["code"], weights=self.ones, noise=self.noise(count))
        terms = self.terms(image, drawn)
        self._follow(self.optimizer, self.named, terms, phase="path")
        self.critic.requires_grad_(True)
        self._update_average()
        self.step_count += 1
        values |= {name: float(value.detach()) for name, value in terms.items()}
        self.history.append(values)
        return values

    def _critic_step(self, drawn: Mapping[str, Tensor]) -> dict[str, float]:
        """Train the critic on real images against made ones, every ``r1_every`` steps with R1."""
        config = self.config
        with torch.no_grad():
            fake = self.network.synthesis(drawn["content"], drawn["code"], weights=self.ones, noise=self.noise(config.batch))
        terms = {"critic": logistic_loss(self.critic(drawn["real"]), self.critic(fake))}
        if config.r1_every and self.step_count % config.r1_every == 0:
            real = drawn["real"].detach().requires_grad_(True)
            terms["r1"] = config.r1 / 2 * config.r1_every * r1_penalty(self.critic(real), real)
        self._follow(self.critic_optimizer, dict(self.critic.named_parameters()), terms, phase="critic")
        return {name: float(value.detach()) for name, value in terms.items()}

    def _follow(self, optimizer: torch.optim.Optimizer, named: Mapping[str, Tensor], terms: Mapping[str, Tensor], *,
                phase: str) -> None:
        check_terms(terms, step=self.step_count)
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()
        check_gradients(named, step=self.step_count, phase=phase)
        optimizer.step()

    @torch.no_grad()
    def _update_average(self) -> None:
        for target, source in zip(self.average.path_parameters(), self.network.path_parameters(), strict=True):
            target.lerp_(source, 1.0 - self.config.average)

    def state(self) -> dict[str, Any]:
        """Return everything that a resumed stage needs, tensors and plain values."""
        paths = {name: {key: value for key, value in module.state_dict().items() if not key.startswith("generator.")}
                 for name, module in (("network", self.network), ("average", self.average))}
        return {**paths, "critic": self.critic.state_dict(), "optimizer": self.optimizer.state_dict(),
                "critic_optimizer": self.critic_optimizer.state_dict(), "rng": self.rng.get_state(),
                "step": self.step_count, "history": list(self.history)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``; raises RuntimeError, KeyError or ValueError where it does not fit."""
        generator = {f"generator.{key}": value for key, value in self.network.generator.state_dict().items()}
        for name, module in (("network", self.network), ("average", self.average)):
            module.load_state_dict({**generator, **state[name]})
        self.critic.load_state_dict(state["critic"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.critic_optimizer.load_state_dict(state["critic_optimizer"])
        self.rng.set_state(state["rng"])
        self.step_count, self.history = int(state["step"]), list(state["history"])


def mixing_row(step: int, config: MixedFacesConfig) -> int:
    """Return the first row that targets of a step take from the second face: ever finer structure is asked of the path."""
    share, done = step / config.steps, 0.0
    for part, row in config.cuts[:-1]:
        done += part
        if share < done:
            return row
    return config.cuts[-1][1]


class MixedFaces(PathTrainer):
    """Pretraining (section 3.3, stage II): the path learns to do what exchanging rows does.

    The target is g(w1 up to a row, w2 from it on); the network gets w1 as content and w2, in every fourth step what the encoder
    sees in g(w2), as code: sum_k 0.5 |phi_k(image) - phi_k(target)|_1 + 0.1 adversarial.

    Args:
        network, critic, maps, config: see ``PathTrainer``.
        encode: images -> w_plus [N, L, D] (encoded rows, mapped).
    """

    config: MixedFacesConfig

    def __init__(self, network: DualStyleGAN, critic: nn.Module, *, maps: Maps, encode: Rows,
                 config: MixedFacesConfig | None = None) -> None:
        super().__init__(network, critic, maps=maps, config=config or MixedFacesConfig())
        self.encode = encode

    @torch.no_grad()
    def draw(self) -> dict[str, Tensor]:
        generator, count, dim = self.network.generator, self.config.batch, self.network.generator.config.style_dim
        first, second = (generator.broadcast(generator.mapping(self.normal(count, dim))) for _ in range(2))
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
                "adversarial": self.config.adversarial * nonsaturating_loss(self.critic(image))}


@dataclass(frozen=True)
class Portraits:
    """A folder of portraits: images [K, 3, S, S], and w_plus [K, L, D] of their exemplars and of the faces behind them."""

    images: Tensor
    extrinsic: Tensor
    intrinsic: Tensor

    def __post_init__(self) -> None:
        if not len(self.images) == len(self.extrinsic) == len(self.intrinsic) or not len(self.images):
            raise ValueError(f"expected as many codes as portraits, got {len(self.images)} portraits, {len(self.extrinsic)} and "
                             f"{len(self.intrinsic)} codes")


class PortraitTraining(PathTrainer):
    """Fine-tuning on the folder (stage III): alternately any face with an exemplar's code, and the exemplar's own face.

    Any face: adversarial + contextual of the last map + means of all maps + identity to the face without the style + norms of
    the residual blocks. Its own face: the same, and the L1 distance of every map from the portrait's.

    Args:
        network, critic, maps, config: see ``PathTrainer``.
        portraits: the folder.
        identity: distance of image batches in who they show; left out where None.
    """

    config: PortraitsConfig

    def __init__(self, network: DualStyleGAN, critic: nn.Module, *, maps: Maps, portraits: Portraits,
                 identity: Distance | None = None, config: PortraitsConfig | None = None) -> None:
        super().__init__(network, critic, maps=maps, config=config or PortraitsConfig())
        self.portraits, self.identity = portraits, identity

    def _pick(self) -> Tensor:
        """Return indices [N] of portraits."""
        return torch.randint(len(self.portraits.images), (self.config.batch,), generator=self.rng)

    @torch.no_grad()
    def draw(self) -> dict[str, Tensor]:
        generator, count = self.network.generator, self.config.batch
        chosen = self._pick()
        images, code, content = (part[chosen].to(generator.input.input) for part in (
            self.portraits.images, self.portraits.extrinsic, self.portraits.intrinsic))
        drawn = {"real": images, "code": code, "content": content, "paired": images}
        if self.chance(2):
            dim = generator.config.style_dim
            code = code + self.config.jitter * self.normal(*code.shape)
            face, colours = (generator.broadcast(generator.mapping(self.normal(count, dim))) for _ in range(2))
            drawn |= {"code": code, "content": torch.cat([face[:, :KEPT_ROW], colours[:, KEPT_ROW:]], dim=1)}
            del drawn["paired"]
        return drawn

    def terms(self, image: Tensor, drawn: Mapping[str, Tensor]) -> dict[str, Tensor]:
        config, ours = self.config, self.maps(image)
        with torch.no_grad():
            theirs = self.maps(drawn["real"])
            generator = self.network.generator
            face = generator.synthesis(drawn["content"], noise=generator.fixed_noise())
        terms = {"adversarial": config.adversarial * nonsaturating_loss(self.critic(image)),
                 "contextual": config.contextual * contextual_loss(ours[-1], theirs[-1], band_width=config.band_width),
                 "means": config.means * feature_mean_matching(ours, theirs),
                 "norm": config.norm * path_norm(p for block in self.network.res[:FIRST_COLOR_ROW] for p in block.parameters())}
        if self.identity is not None:
            terms["identity"] = config.identity * self.identity(image, face)
        if "paired" in drawn:
            weighted = [weight * F.l1_loss(a, b) for weight, a, b in zip(config.pair, ours, theirs, strict=True)]
            terms["pair"] = torch.stack(weighted).sum()
        return terms


def run_steps(trainer: PathTrainer, *, on_step: Callable[[PathTrainer], None] | None = None) -> Sequence[Mapping[str, float]]:
    """Do the steps that are left and return the values of all steps."""
    while trainer.step_count < trainer.config.steps:
        trainer.step()
        if on_step is not None:
            on_step(trainer)
    return trainer.history
