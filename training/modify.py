"""Training of MODIFY (Ding et al. 2023): a style is encapsulated into networks, and its encoder is adapted to photos."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from losses.modify import (
    code_term,
    critic_terms,
    gradient_penalty,
    identity_loss,
    reconstruction_loss,
    weighted,
)
from models.modify import StyleModel, version_z
from models.remembered import Remembered
from training.checks import check_gradients, check_terms
from training.chosen import choose, matching
from training.ema import update_average
from training.mixed import precision
from training.modify_config import AdaptationConfig, EncapsulationConfig, StageConfig
from training.modify_start import start_remapping

# Images whose style rows say where the remapping network begins.
START_IMAGES = 256
# Layers of an encoder that make its feature pyramid.
TRUNK = ("input_layer.", "body.")
# Number of the step and the run's random generator -> images [N, 3, S, S] in [-1, 1].
Source = Callable[[int, torch.Generator], Tensor]


class Judges(NamedTuple):
    """Frozen networks that compare images: a perceptual distance (images, targets) -> scalar, and R, images [N, 3, S, S] ->
    embeddings [N, K]."""

    perceptual: nn.Module
    recogniser: Callable[[Tensor], Tensor]


class Stage:
    """What both stages do alike: the critic's part, the distances to a target, steps, and the saved state.

    Batch normalisation keeps its statistics: a batch of one, or of another domain, must not move them.

    Args:
        model: the networks, on their device.
        critic: scores [N, 1] of images; it is trained, in place. None where no term with a weight asks for it.
        config: settings.
        judges: see ``Judges``.
        source: gives the images of a step.
        preview: images [K, 3, S, S] for the sheets.
    """

    terms: Sequence[str] = ()

    def __init__(self, model: StyleModel, critic: nn.Module | None, *, config: StageConfig, judges: Judges, source: Source,
                 preview: Tensor) -> None:
        self.config, self.judges, self.source, self.preview = config, judges, source, preview
        self.model, self.critic = model.eval().requires_grad_(False), None if critic is None else critic.eval()
        self.device, self.dtype = model.latent_avg.device, getattr(torch, config.dtype)
        self._person = Remembered(judges.recogniser)
        self.rng = torch.Generator().manual_seed(config.seed)
        self.game = critic_terms(config.critic_form)
        self.optimizers = {} if critic is None else {
            "critic": self.adam(critic.requires_grad_(True).parameters(), config.critic_lr)}
        self.step_count = 0
        self.history: list[dict[str, float]] = []

    def adam(self, parameters: Any, lr: float) -> torch.optim.Adam:
        """Return the optimiser of some parameters."""
        return torch.optim.Adam(parameters, lr=lr, betas=(self.config.beta1, self.config.beta2))

    def train_critic(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """Train the critic once to tell ``fake`` from ``real`` [N, 3, S, S]; return its terms."""
        config = self.config
        self.critic.requires_grad_(True)
        real, fake = real.detach(), fake.detach()
        with precision(self.device, self.dtype):
            terms = {"critic": self.game.critic(self.critic(real), self.critic(fake))}
        if config.penalty and self.step_count % config.penalty_every == 0:
            share = torch.rand(len(real), 1, 1, 1, generator=self.rng).to(self.device)
            penalty = gradient_penalty(self.critic, real.float(), fake.float(), share=share)
            terms["penalty"] = config.penalty * config.penalty_every * penalty
        self.follow(terms, {"critic": dict(self.critic.named_parameters())})
        self.critic.requires_grad_(False)
        return terms

    def follow(self, terms: Mapping[str, Tensor], named: Mapping[str, Mapping[str, nn.Parameter]]) -> None:
        """Step the optimisers that ``named`` names down the sum of the terms, unless something in it is not finite."""
        check_terms(terms, step=self.step_count)
        for name in named:
            self.optimizers[name].zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()
        for name, parameters in named.items():
            check_gradients(parameters, step=self.step_count, phase=name)
        for name in named:
            self.optimizers[name].step()

    def likeness(self, drawn: Tensor, target: Tensor, weights: Mapping[str, float]) -> dict[str, Tensor]:
        """Return pixels, perceptual distance and identity of images against targets (eq. 1 to 3, 7), those with a weight."""
        drawn, terms = drawn.float(), {}
        if weights["r"]:
            terms["r"] = reconstruction_loss(drawn, target)
        if weights["lpips"]:
            terms["lpips"] = self.judges.perceptual(drawn, target)
        if weights["id"]:
            terms["id"] = identity_loss(self.judges.recogniser(drawn), self._person(target))
        return terms

    def step(self) -> dict[str, float]:
        """Train the critic, then the other networks, once.

        Returns:
            The terms of ``terms`` with their weights; those that this step does not compute are NaN.

        Raises:
            DivergedError: if a term or a gradient is not finite; the weights it would move stay.
        """
        terms = self.advance(self.source(self.step_count, self.rng))
        self.step_count += 1
        values = {name: float(terms[name].detach()) if name in terms else math.nan for name in self.terms}
        self.history.append(values)
        return values

    def advance(self, images: Tensor) -> dict[str, Tensor]:
        """Do the work of one step on images [N, 3, S, S]; return its terms."""
        raise NotImplementedError

    def trained(self) -> dict[str, nn.Module]:
        """Return the networks that change."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """Return everything that the next step depends on but images and judges, as tensors and plain values."""
        return {"step": self.step_count, "config": self.config.to_dict(), "rng": self.rng.get_state(),
                "networks": {name: module.state_dict() for name, module in self.trained().items()},
                "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
                "history": torch.tensor([[row[name] for name in self.terms] for row in self.history], dtype=torch.float64)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state()`` of a run with the same config.

        Raises:
            RuntimeError, KeyError, ValueError: if the state does not fit these networks.
        """
        for name, module in self.trained().items():
            module.load_state_dict(state["networks"][name], strict=True)
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.rng.set_state(state["rng"])
        self.step_count = int(state["step"])
        self.history = [dict(zip(self.terms, row, strict=True)) for row in state["history"].tolist()]


class Encapsulator(Stage):
    """Stage 1: style images become an encoder, a generator, a remapping network and a critic.

    Args:
        model: starts from a base's encoder and generator; it is trained in place.
        critic, judges, source, preview: see ``Stage``.
        config: settings; ``rows`` and ``n_mlp`` are the remapping network's already.
        held_out: images [K, 3, S, S] that are not trained on; where given, the first phase ends with the networks that were
            nearest to them.
    """

    terms = ("r", "lpips", "id", "adv_r", "swap", "adv_z", "critic", "penalty", "total")
    config: EncapsulationConfig

    def __init__(self, model: StyleModel, critic: nn.Module, *, config: EncapsulationConfig, judges: Judges, source: Source,
                 preview: Tensor, held_out: Tensor | None = None) -> None:
        super().__init__(model, critic, config=config, judges=judges, source=source, preview=preview)
        self.parts = {
            **{f"encoder.{name}": p for name, p in matching(model.encoder, config.encoder_parts).items()},
            **{f"generator.{name}": p for name, p in matching(model.generator, config.generator_parts).items()}}
        self.remapping = dict(model.remapping.named_parameters())
        self.optimizers |= {"model": self.adam(list(self.parts.values()), config.lr),
                            "remapping": self.adam(list(self.remapping.values()), config.remap_lr)}
        self.average = deepcopy(model) if config.average else None
        self.held_out, self.best, self.best_value = held_out, None, math.inf
        if held_out is not None:
            self.terms, self.best = (*self.terms, "validation"), deepcopy(model)

    @property
    def total(self) -> int:
        """Number of steps of both phases."""
        return self.config.steps + self.config.swap_steps

    def trained(self) -> dict[str, nn.Module]:
        kept = {"average": self.average, "best": self.best}
        return {"model": self.model, "critic": self.critic, **{name: part for name, part in kept.items() if part is not None}}

    def state(self) -> dict[str, Any]:
        return super().state() | {"best_value": self.best_value}

    def load_state(self, state: Mapping[str, Any]) -> None:
        super().load_state(state)
        self.best_value = float(state.get("best_value", math.inf))

    @property
    def result(self) -> StyleModel:
        """The networks that the style is made of: the running average where there is one."""
        return self.model if self.average is None else self.average

    def advance(self, images: Tensor) -> dict[str, Tensor]:
        if self.step_count == self.config.steps:
            self._begin_swapping()
        reconstructing = self.step_count < self.config.steps
        terms = self._reconstruct(images) if reconstructing else self._swap(images)
        if self.average is not None:
            update_average(self.average, self.model, self.config.average)
        if self.held_out is not None and reconstructing:
            done = self.step_count + 1
            if done % self.config.val_every == 0 or done == self.config.steps:
                terms["validation"] = self._validate()
            if done == self.config.steps:  # what comes after starts from the best networks, not from the last
                for part in (self.model, self.average):
                    if part is not None:
                        part.load_state_dict(self.best.state_dict())
        return terms

    @torch.no_grad()
    def _validate(self) -> Tensor:
        """Return the weighted distance of the held-out images from their reconstructions, and keep the best networks."""
        weights = self.config.reconstruction_weights | {"adv_r": 0.0}
        value = torch.stack([torch.stack(list(weighted(self.likeness(self.result(image), image, weights), weights).values())
                                         ).sum() for image in self.held_out.split(self.config.batch)]).mean()
        if float(value) < self.best_value:
            self.best_value = float(value)
            self.best.load_state_dict(self.result.state_dict())
        return value

    def rate(self) -> float:
        """Return the rate of encoder and generator in this step: over the share ``decay`` at the end it falls to a tenth."""
        left, decay = self.config.steps - self.step_count, self.config.steps * self.config.decay
        return self.config.lr * (max(0.1, min(1.0, left / decay)) if decay else 1.0)

    @torch.no_grad()
    def _begin_swapping(self) -> None:
        """Fix the space that the second phase maps into, and let M begin there where that is asked for."""
        if self.average is not None:
            self.model.load_state_dict(self.average.state_dict())
        if self.config.remap_start == "moments":
            codes = [self.model.encode(self.source(step, self.rng)) for step in range(-(-START_IMAGES // self.config.batch))]
            start_remapping(self.model.remapping, self.model.style_rows(torch.cat(codes)).float(), seed=self.config.seed)
            if self.average is not None:
                self.average.remapping.load_state_dict(self.model.remapping.state_dict())

    def _reconstruct(self, images: Tensor) -> dict[str, Tensor]:
        """First phase: y_r = D(E(y)) shall be y (eq. 1 to 4)."""
        choose(self.model, self.parts)
        weights, found = self.config.reconstruction_weights, {}
        for group in self.optimizers["model"].param_groups:
            group["lr"] = self.rate()
        with precision(self.device, self.dtype):
            drawn = self.model(images)
        if weights["adv_r"]:
            found = self.train_critic(images, drawn)
        with precision(self.device, self.dtype):
            terms = self.likeness(drawn, images, weights)
            if weights["adv_r"]:
                terms["adv_r"] = self.game.generator(self.critic(drawn))
        terms = weighted(terms, weights)
        self.follow(terms, {"model": self.parts})
        return {**terms, **found, "total": torch.stack(list(terms.values())).sum()}

    def _swap(self, images: Tensor) -> dict[str, Tensor]:
        """Second phase: y_z = D({w_l, M(z)}) shall look like the style, and M(z) be found in it again (eq. 5 and 6)."""
        everything = self.config.swap_parts == "all"
        choose(self.model, {**self.remapping, **(self.parts if everything else {})})
        weights, found, terms = self.config.swapping_weights, {}, {}
        z = torch.randn(len(images), self.model.remapping.config.style_dim, generator=self.rng).to(self.device)
        with precision(self.device, self.dtype):
            rows = self.model.remapping(z)
            codes = self.model.swapped(self.model.encode(images).float(), rows)
            drawn = self.model.decode(codes)
        if weights["adv_z"]:
            found = self.train_critic(images, drawn)
        with precision(self.device, self.dtype):
            if weights["adv_z"]:
                terms["adv_z"] = self.game.generator(self.critic(drawn))
            if weights["swap"]:
                reencoded = self.model.encode(drawn).float()
                terms["swap"] = code_term(self.config.code_form, codes=codes, rows=rows, reencoded=reencoded)
        terms = weighted(terms, weights)
        self.follow(terms, {"remapping": self.remapping, **({"model": self.parts} if everything else {})})
        return {**terms, **found, "total": torch.stack(list(terms.values())).sum()}

    @torch.no_grad()
    def sheet(self) -> dict[str, Tensor]:
        """Return style images, their reconstructions, and two versions of each by random rows."""
        model = self.result
        codes = model.encode(self.preview)
        rows = {"style images y": self.preview, "y_r = D(E(y))": model.decode(codes)}
        for version in (1, 2):
            z = version_z([version], model.remapping.config.style_dim).to(self.device)
            rows[f"y_z, version {version}"] = model.decode(model.swapped(codes, model.remapping(z)))
        return rows


class Adapter(Stage):
    """Stage 2: a copy E' of the encoder learns to keep what photos show, x' = D(E'(x)) (eq. 7).

    The critic tells D(E'(x)) from D(E(x)), what the unadapted encoder gives.

    Args:
        model: an encapsulated style; it stays as it is, ``model`` of the adapter has the copy.
        critic: the style's; a copy is trained. None needs an ``adv_weight`` of 0.
        config: settings.
        judges, source, preview: see ``Stage``.
    """

    terms = ("r", "lpips", "id", "adv", "critic", "penalty", "total")
    config: AdaptationConfig

    def __init__(self, model: StyleModel, critic: nn.Module | None, *, config: AdaptationConfig, judges: Judges,
                 source: Source, preview: Tensor) -> None:
        if critic is None and config.adv_weight:
            raise ValueError(f"the style has no critic, so adv_weight must be 0, got {config.adv_weight}")
        adapted = StyleModel(deepcopy(model.encoder), model.generator, model.remapping, model.latent_avg)
        super().__init__(adapted, deepcopy(critic), config=config, judges=judges, source=source, preview=preview)
        self.unadapted, self._before = model, Remembered(model)
        self.parts = matching(adapted.encoder, config.encoder_parts)
        choose(adapted, self.parts)
        # Test-time training comes with the same photo in every step: what nothing changes is computed once.
        if not any(name.startswith(TRUNK) for name in self.parts):
            adapted.encoder.pyramid = Remembered(adapted.encoder.pyramid)
        self.optimizers["encoder"] = self.adam(list(self.parts.values()), config.lr)

    @property
    def total(self) -> int:
        """Number of steps."""
        return self.config.steps

    def trained(self) -> dict[str, nn.Module]:
        return {"encoder": self.model.encoder, **({} if self.critic is None else {"critic": self.critic})}

    def advance(self, images: Tensor) -> dict[str, Tensor]:
        weights, found = self.config.weights, {}
        with precision(self.device, self.dtype):
            drawn = self.model(images)
        if weights["adv"] and self.step_count % self.config.critic_every == 0:
            with precision(self.device, self.dtype):
                before = self._before(images)
            found = self.train_critic(before, drawn)
        with precision(self.device, self.dtype):
            terms = self.likeness(drawn, images, weights)
            if weights["adv"]:
                terms["adv"] = self.game.generator(self.critic(drawn))
        terms = weighted(terms, weights)
        self.follow(terms, {"encoder": self.parts})
        return {**terms, **found, "total": torch.stack(list(terms.values())).sum()}

    @torch.no_grad()
    def draw(self, images: Tensor) -> Tensor:
        """Return D(E'(x)) of photos [N, 3, S, S]."""
        return self.model(images)

    @torch.no_grad()
    def sheet(self) -> dict[str, Tensor]:
        """Return photos, what the unadapted encoder gives, and the adapted one."""
        return {"photos x": self.preview, "D(E(x))": self.unadapted(self.preview), "D(E'(x))": self.draw(self.preview)}


def adapt_to(photo: Tensor, model: StyleModel, critic: nn.Module | None, *, config: AdaptationConfig, judges: Judges,
             progress: Callable[[], Any] | None = None) -> Tensor:
    """Return E'(x) [1, L, D] for one photo after test-time training (paper: 50 steps).

    Args:
        photo: x [1, 3, S, S] in [-1, 1].
        model, critic: an encapsulated style; both stay as they are.
        config: settings; ``steps`` says how many.
        judges: see ``Judges``.
        progress: called after every step.

    Raises:
        DivergedError: if a term or a gradient is not finite.
    """
    with torch.enable_grad(), torch.autocast(photo.device.type, enabled=False):
        adapter = Adapter(model, critic, config=config, judges=judges, source=lambda step, rng: photo, preview=photo)
        while adapter.step_count < adapter.total:
            adapter.step()
            if progress is not None:
                progress()
    with torch.no_grad():
        return adapter.model.encode(photo)
