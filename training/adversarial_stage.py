"""A stage of training against a critic that can stop and go on at every step, and the plainest one: a folder of pictures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from losses.adversarial import logistic_loss, nonsaturating_loss, r1_penalty
from models.stylegan2 import Generator
from training.augment import AdaptiveProbability, augment
from training.checks import check_gradients, check_terms
from training.ema import update_average
from training.pretrain import parallel

# A gradient is sudden that is so many times as long as the running mean of the lengths.
SUDDEN = 3.0
# Between the seeds of two processes.
STRIDE = 7919


@dataclass(frozen=True)
class AdversarialConfig:
    """What all stages share: steps, batch, Adam's rates, R1 weight and interval, decay of the average, seed, and how the critic's
    images are augmented: probability to begin with, and target and length of its adaption, see ``training.augment``."""

    steps: int = 600
    batch: int = 4
    rate: float = 2e-3
    critic_rate: float = 2e-3
    r1: float = 10.0
    r1_every: int = 16
    average: float = 0.5 ** (32 / 10_000)
    seed: int = 0
    augment_p: float = 0.0
    ada_target: float = 0.0
    ada_length: int = 500_000


class AdversarialStage(ABC):
    """Train a network against a critic; under torchrun every process draws its own images, and gradients are averaged.

    Args:
        network: what is trained.
        average: takes the running average of its weights.
        trained: names of the parameters that are trained; the others stay and are not saved.
        critic: maps images to logits; trained too.
        generator: whose device, noise and latents are used.
        config: of the stage.
    """

    def __init__(self, network: nn.Module, average: nn.Module, trained: Callable[[str], bool], *, critic: nn.Module,
                 generator: Generator, config: AdversarialConfig) -> None:
        self.network, self.average, self.critic, self.generator, self.config = network, average, critic, generator, config
        self.trained = trained
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(trained(name))
        self.average.requires_grad_(False).eval()
        self.named = {name: parameter for name, parameter in network.named_parameters() if trained(name)}
        self.optimizer = torch.optim.Adam(self.named.values(), lr=config.rate, betas=(0.0, 0.99))
        self.critic_optimizer = torch.optim.Adam(critic.parameters(), lr=config.critic_rate, betas=(0.0, 0.99))
        self.rng = torch.Generator().manual_seed(config.seed + STRIDE * parallel.rank())
        self.augmented = AdaptiveProbability(config.ada_target, config.ada_length, p=config.augment_p)
        self.step_count, self.history = 0, []
        self.usual = 0.0

    @abstractmethod
    def draw(self) -> dict[str, Tensor]:
        """Return what one step looks at: ``real`` images [N, 3, S, S] for the critic, and what the stage itself needs."""

    @abstractmethod
    def make(self, drawn: Mapping[str, Tensor]) -> Tensor:
        """Return the network's images [N, 3, S, S] of what was drawn, with fresh noise."""

    @abstractmethod
    def terms(self, image: Tensor, drawn: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weighted terms of such images."""

    def judged(self, image: Tensor) -> Tensor:
        """Return the critic's logits of made images [N, 3, S, S], augmented as real ones are."""
        return self.critic(augment(image, self.augmented.p, self.rng))

    def normal(self, *shape: int) -> Tensor:
        """Return standard normal numbers of the stage's own random generator, drawn on the CPU."""
        return torch.randn(shape, generator=self.rng).to(self.generator.input.input)

    def chance(self, count: int) -> int:
        """Return a random number below ``count``."""
        return int(torch.randint(count, (1,), generator=self.rng))

    def noise(self, count: int) -> list[Tensor]:
        """Return fresh noise maps."""
        return self.generator.random_noise(count, generator=self.rng)

    def faces(self, count: int) -> Tensor:
        """Return random latents w_plus [N, L, D]."""
        return self.generator.broadcast(self.generator.mapping(self.normal(count, self.generator.config.style_dim)))

    def step(self) -> dict[str, float]:
        """Train critic and network once and return the terms.

        Raises:
            DivergedError: naming the term or parameter that is not finite.
        """
        drawn = self.draw()
        values = self._critic_step(drawn)
        self.critic.requires_grad_(False)
        terms = self.terms(self.make(drawn), drawn)
        self._follow(self.optimizer, self.named, terms, phase="network")
        self.critic.requires_grad_(True)
        update_average(self.average, self.network, self.config.average)
        self.step_count += 1
        values |= {name: float(value.detach()) for name, value in terms.items()}
        self.history.append(values)
        return values

    def _critic_step(self, drawn: Mapping[str, Tensor]) -> dict[str, float]:
        """Train the critic on real images against made ones, every ``r1_every`` steps with R1."""
        config = self.config
        with torch.no_grad():
            fake = self.make(drawn)
            real = augment(drawn["real"], self.augmented.p, self.rng)
        logits = self.critic(real)
        terms = {"critic": logistic_loss(logits, self.judged(fake))}
        if config.r1_every and self.step_count % config.r1_every == 0:
            real = real.detach().requires_grad_(True)
            terms["r1"] = config.r1 / 2 * config.r1_every * r1_penalty(self.critic(real), real)
        self._follow(self.critic_optimizer, dict(self.critic.named_parameters()), terms, phase="critic")
        values = {name: float(value.detach()) for name, value in terms.items()}
        if config.ada_target:
            sign = logits.detach().sign().mean()
            parallel.average([sign])
            self.augmented.see(float(sign), len(real) * parallel.count())
            values["augmented"] = self.augmented.p
        return values

    def _follow(self, optimizer: torch.optim.Optimizer, named: Mapping[str, Tensor], terms: Mapping[str, Tensor], *,
                phase: str) -> None:
        check_terms(terms, step=self.step_count)
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()
        parallel.average(parameter.grad for parameter in named.values())
        check_gradients(named, step=self.step_count, phase=phase)
        if phase == "network":  # the critic's are long wherever it has R1
            self._calm(named)
        optimizer.step()

    def _calm(self, named: Mapping[str, Tensor]) -> None:
        """Shorten gradients that are much longer than usual.

        Adam without momentum answers a sudden long gradient by a step of ten times the rate for every weight, after which a
        path was seen to draw noise and to stay there.
        """
        gradients = [parameter.grad for parameter in named.values() if parameter.grad is not None]
        norm = float(nn.utils.get_total_norm(gradients))
        if self.usual and norm > SUDDEN * self.usual:
            for gradient in gradients:
                gradient.mul_(SUDDEN * self.usual / norm)
            norm = SUDDEN * self.usual
        self.usual = 0.9 * self.usual + 0.1 * norm if self.usual else norm

    def state(self) -> dict[str, Any]:
        """Return everything that a resumed stage needs, tensors and plain values."""
        networks = {name: {key: value for key, value in module.named_parameters() if self.trained(key)}
                    for name, module in (("network", self.network), ("average", self.average))}
        detached = {name: {key: value.detach() for key, value in part.items()} for name, part in networks.items()}
        return {**detached, "critic": self.critic.state_dict(), "optimizer": self.optimizer.state_dict(),
                "critic_optimizer": self.critic_optimizer.state_dict(), "rng": self.rng.get_state(),
                "step": self.step_count, "history": list(self.history), "usual": self.usual,
                "augmented": [self.augmented.p, *self.augmented.signs]}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``; raises RuntimeError, KeyError or ValueError where it does not fit."""
        for name, module in (("network", self.network), ("average", self.average)):
            if set(state[name]) != set(self.named):
                raise ValueError(f"the state's {name} has other parameters")
            module.load_state_dict(state[name], strict=False)
        self.critic.load_state_dict(state["critic"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.critic_optimizer.load_state_dict(state["critic_optimizer"])
        self.rng.set_state(state["rng"])
        self.step_count, self.history = int(state["step"]), list(state["history"])
        self.usual = float(state.get("usual", 0.0))
        self.augmented.p, *self.augmented.signs = state.get("augmented", [self.config.augment_p])
        if not parallel.leads():  # the state's random numbers are the first process's
            self.rng.manual_seed(self.config.seed + STRIDE * parallel.rank() + self.step_count)


@dataclass(frozen=True)
class TuningConfig(AdversarialConfig):
    """Weights of the adversarial term and of the distance between a picture and what is drawn from its encoded rows."""

    adversarial: float = 1.0
    reconstruction: float = 0.0


class FolderTuning(AdversarialStage):
    """Fine-tune a generator on pictures; its average is the result.

    The adversarial term alone is the published form. A small generator, whose critic knows little, loses its variety by it
    within two hundred steps; held to draw every picture from the rows that the encoder gives it, it keeps the meaning of rows.

    Args:
        generator: copied, so that it stays as it is.
        critic: see ``AdversarialStage``.
        pictures: [K, 3, S, S] in [-1, 1].
        encode: pictures -> w_plus [N, L, D]; needed where ``config.reconstruction`` is not 0.
        perceptual: distance of image batches, likewise.
        config: of the stage.
    """

    config: TuningConfig

    def __init__(
        self, generator: Generator, critic: nn.Module, *, pictures: Tensor, encode: Callable[[Tensor], Tensor] | None = None,
        perceptual: Callable[[Tensor, Tensor], Tensor] | None = None, config: TuningConfig | None = None,
    ) -> None:
        tuned = deepcopy(generator)
        super().__init__(tuned, deepcopy(generator), lambda name: True, critic=critic, generator=tuned,
                         config=config or TuningConfig())
        if self.config.reconstruction and (encode is None or perceptual is None):
            raise ValueError("a weight of reconstruction needs an encoder and a distance")
        self.pictures, self.encode, self.perceptual = pictures, encode, perceptual

    def draw(self) -> dict[str, Tensor]:
        chosen = torch.randint(len(self.pictures), (self.config.batch,), generator=self.rng)
        z = self.normal(self.config.batch, self.generator.config.style_dim)
        return {"real": self.pictures[chosen].to(z), "z": z}

    def make(self, drawn: Mapping[str, Tensor]) -> Tensor:
        w_plus = self.generator.broadcast(self.generator.mapping(drawn["z"]))
        return self.generator.synthesis(w_plus, noise=self.noise(len(w_plus)))

    def terms(self, image: Tensor, drawn: Mapping[str, Tensor]) -> dict[str, Tensor]:
        terms = {"adversarial": self.config.adversarial * nonsaturating_loss(self.judged(image))}
        if self.config.reconstruction:
            with torch.no_grad():
                rows = self.encode(drawn["real"])
            again = self.generator.synthesis(rows, noise=self.generator.fixed_noise())
            terms["reconstruction"] = self.config.reconstruction * self.perceptual(again, drawn["real"])
        return terms
