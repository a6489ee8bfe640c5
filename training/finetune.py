"""One-shot fine-tuning of a generator and its spatial transformers, one step at a time (DoesFS, CVPR 2024, section 3)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from data.landmarks68 import MEAN_FACE
from losses.adversarial import PathLengthPenalty, logistic_loss, nonsaturating_loss, r1_penalty
from models.deformable import DeformableGenerator
from models.dino import DinoFeatures
from models.discriminator import Discriminator, PatchDiscriminator
from models.face import Face
from models.spatial_transformer import NonFiniteError, construction_rng
from models.stylegan2 import Generator
from training.checks import DivergedError, check_gradients, check_terms
from training.config import FineTuneConfig
from training.course import runaway
from training.ema import update_average
from training.guide import LandmarkGuide
from training.mixed import precision, recompute
from training.objective import StructureObjective, warp_term
from training.pair_terms import control_goals, control_term

# Terms that say whether the run still goes where the pair points.
WATCHED = ("control", "landmarks")
__all__ = ["DivergedError", "FineTuneConfig", "FineTuner", "Pair", "TERMS"]

TERMS = ("d", "r1", "adversarial", "directional", "pairs", "reference", "control", "landmarks", "warp", "total", "path")


class Pair(NamedTuple):
    """Real reference, style reference and the adversarial term's real image, each [1, 3, S, S] in [-1, 1]."""

    source: Tensor
    target: Tensor
    style_ref: Tensor


class FineTuner:
    """Everything that a fine-tuning run changes, advanced by ``step``.

    Args:
        generator: the base; it stays as it is and shows the undeformed faces.
        discriminator: the base's discriminator; a copy is trained.
        dino: the frozen transformer that the structure terms are read from.
        config: the schedule.
        pair: images of the generator's size.
        latents: w_plus [2, L, D] of source and target under the base, whose rows from ``swap_layer`` give colours.
        landmark_net: frozen landmark network; needed where ``config.landmark_weight`` or ``control_weight`` is not 0.
        points: landmarks of source and target, [2, 68, 2] as fractions of the side; read by the network where None.

    Raises:
        ValueError: for shapes or settings that do not fit the networks.
    """

    terms = TERMS

    def __init__(
        self, generator: Generator, discriminator: Discriminator, *, dino: DinoFeatures, config: FineTuneConfig,
        pair: Pair, latents: Tensor, landmark_net: nn.Module | None = None, points: Tensor | None = None,
    ) -> None:
        self.config, self.base = config, generator.eval().requires_grad_(False)
        self.device, self.dtype = generator.input.input.device, getattr(torch, config.dtype)
        self._check(pair, latents)
        # Channels-last like the generator's images: the discriminator runs in the layout of what it is shown.
        self.pair = Pair(*(image.to(self.device).contiguous(memory_format=torch.channels_last) for image in pair))
        self.latents = latents.to(self.device)
        self.rng = torch.Generator().manual_seed(config.seed)
        self.guide = self._new_guide(landmark_net, points)
        self.deformable = DeformableGenerator.for_generator(
            deepcopy(generator), rng=self.rng, resolutions=config.warp_resolutions, grid_size=config.warp_grid,
            mode=config.mode, tps=config.use_tps, affine=config.use_affine, guarded=config.guarded,
            carry_image=config.carry_image,
        ).to(self.device)
        self._start_at_the_pair()
        self.ema = deepcopy(self.deformable).requires_grad_(False)
        with construction_rng(self.rng):
            self.patch = PatchDiscriminator(deepcopy(discriminator)).to(self.device)
        self.path_penalty = PathLengthPenalty().to(self.device)
        self._choose_parameters()
        self.objective = StructureObjective(dino, config, source=self.pair.source, target=self.pair.target)
        self.step_count = 0
        self.history: list[dict[str, float]] = []

    def _new_guide(self, landmark_net: nn.Module | None, points: Tensor | None) -> LandmarkGuide | None:
        if not (self.config.landmark_weight or self.config.control_weight):
            return None
        if landmark_net is None:
            raise ValueError("landmark_weight and control_weight need a landmark network")
        return LandmarkGuide(landmark_net, source=self.pair.source, target=self.pair.target, points=points)

    @torch.no_grad()
    def _start_at_the_pair(self) -> None:
        """Set resting control points to where the drawing moves a mean face."""
        config = self.config
        if config.control_weight and self.guide.is_sure and self.deformable.tps is not None:
            mean = torch.from_numpy(MEAN_FACE)[None].to(self.guide.points)
            goal = control_goals(mean, self.guide.goal(mean), grid_size=config.warp_grid)
            # The first block starts with the whole warp; those after it rest.
            self.deformable.tps.stns[0].loc_net.fc[2].bias.copy_(goal.reshape(-1))

    def save_memory(self) -> None:
        """Keep no activations inside of layers; the weights that training reaches stay the same, a step takes longer."""
        self.deformable.generator.recompute = self.objective.dino.recompute = recompute

    def _check(self, pair: Pair, latents: Tensor) -> None:
        shape = self.base.config
        for name, image in pair._asdict().items():
            if list(image.shape) != [1, 3, shape.size, shape.size]:
                raise ValueError(f"expected {name} [1, 3, {shape.size}, {shape.size}], got {list(image.shape)}")
        if list(latents.shape) != [2, shape.n_latent, shape.style_dim]:
            raise ValueError(f"expected latents [2, {shape.n_latent}, {shape.style_dim}], got {list(latents.shape)}")
        if self.config.swap_layer > shape.n_latent:
            raise ValueError(f"swap_layer must be within 0..{shape.n_latent}, got {self.config.swap_layer}")

    def _choose_parameters(self) -> None:
        """Mark what is trained and build both optimisers."""
        config, deformable = self.config, self.deformable
        deformable.generator.requires_grad_(config.tune_generator)
        deformable.generator.style.requires_grad_(config.tune_generator and config.tune_mapping)
        coarse, fine = deformable.generator.layers_at(config.kept)
        if config.coarse_rate == 0.0:
            coarse.requires_grad_(False)
        parts = ((coarse, config.g_lr * config.coarse_rate), (fine, config.g_lr), (deformable.tps, config.tps_lr),
                 (deformable.affine, config.affine_lr))
        groups = [{"params": [p for p in part.parameters() if p.requires_grad], "lr": lr}
                  for part, lr in parts if part is not None]
        groups = [group for group in groups if group["params"]]
        self.g_optimizer = torch.optim.Adam(groups, betas=(config.g_beta1, config.beta2))
        self.d_optimizer = torch.optim.Adam(self.patch.parameters(), lr=config.d_lr,
                                            betas=(config.d_beta1, config.beta2))
        self.g_named = {name: p for name, p in deformable.named_parameters() if p.requires_grad}
        self.d_named = dict(self.patch.named_parameters())
        self.warps = [p for part in (deformable.tps, deformable.affine) if part is not None for p in part.parameters()]

    def step(self) -> dict[str, float]:
        """Train discriminator, then generator and transformers, once.

        Returns:
            The terms of ``TERMS`` with their weights; those that this step does not compute are NaN.

        Raises:
            DivergedError: if a term, a gradient or a sampling grid is not finite, where no weight has become so; or if a
                term of ``WATCHED`` runs away.
        """
        config, index = self.config, self.step_count
        terms: dict[str, Tensor] = {}
        try:
            terms |= self._discriminator_phase()
            if config.r1_every and index % config.r1_every == 0:
                terms |= self._r1_phase()
            terms |= self._generator_phase()
            if config.path_every and index % config.path_every == 0 and config.tune_generator:
                terms |= self._path_phase()
        except NonFiniteError as error:
            raise DivergedError(f"step {index}: {error}") from error
        update_average(self.ema.generator, self.deformable.generator, config.g_ema)
        for name in ("tps", "affine"):
            if getattr(self.ema, name) is not None:
                update_average(getattr(self.ema, name), getattr(self.deformable, name), config.transformer_ema)
        self.step_count += 1
        values = {name: float(terms[name].detach()) if name in terms else math.nan for name in TERMS}
        self.history.append(values)
        # A seventh of the control points' spacing is what landmarks differ by from face to face.
        astray = runaway(self.history, WATCHED, calm={"control": 0.02 * config.control_weight})
        if astray is not None:
            raise DivergedError(f"step {index}: loss term {astray!r} has grown to {values[astray]:.3g}, twice its best")
        return values

    def slow_down(self, factor: float) -> None:
        """Multiply every learning rate."""
        for optimizer in (self.g_optimizer, self.d_optimizer):
            for group in optimizer.param_groups:
                group["lr"] *= factor

    def _draw_w(self, count: int) -> Tensor:
        """Return w_plus [count, L, D] of fresh z."""
        z = torch.randn(count, self.base.config.style_dim, generator=self.rng).to(self.device)
        return self.deformable.broadcast(self.deformable.mapping(z))

    @property
    def source(self) -> Face:
        """The pair's real face in the drawing's rows."""
        return Face(self.latents[1:])

    def _noise(self, count: int) -> list[Tensor]:
        return self.base.random_noise(count, generator=self.rng)

    def _head(self, count: int) -> int:
        return int(torch.randint(count, (1,), generator=self.rng))

    def mixed(self, w_plus: Tensor, reference: int) -> Tensor:
        """Return w_plus [N, L, D] with the rows from ``swap_layer`` of the source (0) or the target (1)."""
        rows, count = self.config.swap_layer, len(w_plus)
        return torch.cat([w_plus[:, :rows], self.latents[reference, rows:].expand(count, -1, -1)], dim=1)

    def _optimise(
        self, optimizer: torch.optim.Optimizer, terms: Mapping[str, Tensor], phase: str, *,
        warping: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Follow the gradient of the sum of the terms, unless something in it is not finite.

        Only the transformers follow the terms of ``warping``.
        """
        warping = warping or {}
        check_terms({**terms, **warping}, step=self.step_count)
        named = self.d_named if phase.startswith("discriminator") else self.g_named
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward(retain_graph=bool(warping))
        if warping:
            torch.stack(list(warping.values())).sum().backward(inputs=self.warps)
        check_gradients(named, step=self.step_count, phase=phase)
        optimizer.step()

    def _discriminator_phase(self) -> dict[str, Tensor]:
        """Logistic loss of the patch logits, generated images against the one style image."""
        self.patch.requires_grad_(True)
        batch = self.config.batch
        with precision(self.device, self.dtype):
            with torch.no_grad():
                w_plus = self._draw_w(batch)
                w_plus = self.mixed(w_plus, 1) if self.config.adversarial_mixed else w_plus
                fake = self.deformable.synthesis(w_plus, noise=self._noise(batch)).image
            fake_head, real_head = self._head(self.config.heads), self._head(self.config.heads)
            if fake_head == real_head:  # no layer up to the taps mixes samples, so one pass serves both
                logits = self.patch(torch.cat([fake, self.pair.style_ref]), head=fake_head)
                fake_logits, real_logits = logits[:batch], logits[batch:]
            else:
                fake_logits = self.patch(fake, head=fake_head)
                real_logits = self.patch(self.pair.style_ref, head=real_head)
        terms = {"d": logistic_loss(real_logits, fake_logits)}
        self._optimise(self.d_optimizer, terms, "discriminator")
        return terms

    def _r1_phase(self) -> dict[str, Tensor]:
        """gamma / 2 R1 on the style image, times the interval; in float32 because it needs second derivatives."""
        config = self.config
        image = self.pair.style_ref.detach().clone().requires_grad_(True)
        penalty = r1_penalty(self.patch(image, head=self._head(config.r1_heads)), image)
        terms = {"r1": penalty * (config.r1_gamma / 2 * config.r1_every)}
        self._optimise(self.d_optimizer, terms, "discriminator R1")
        return terms

    def _generator_phase(self) -> dict[str, Tensor]:
        """Adversarial, structure and warp terms of generator and transformers."""
        config, batch = self.config, self.config.batch
        extra = 0 if config.adversarial_mixed else config.n_adversarial
        self.patch.requires_grad_(False)
        with precision(self.device, self.dtype):
            with torch.no_grad():
                w_plus = self._draw_w(batch)
                image = self.base.synthesis(self.mixed(w_plus, 0), noise=self._noise(batch))
                base = self.objective.tokens(image)
            # Samples do not touch each other in the generator, so mixed and unmixed latents share one pass.
            both = torch.cat([self.mixed(w_plus, 1), w_plus[:extra]])
            images, grids = self.deformable.synthesis(both, noise=self._noise(batch + extra))
            judged = images if config.adversarial_mixed else images[batch:]
            logits = self.patch(judged, head=self._head(config.heads))
            stylized = self.objective.tokens(images[:batch])
        structure = self.objective.terms(base, stylized)
        terms = {
            "adversarial": config.adversarial_weight * nonsaturating_loss(logits),
            "directional": config.directional_weight * structure["directional"],
            "pairs": config.pair_weight * structure["pairs"],
            "reference": config.reference_weight * structure["reference"],
        }
        if grids:
            terms["warp"] = config.warp_weight * warp_term(grids, config.warp_form)
        warping: dict[str, Tensor] = {}
        if self.guide is not None and self.guide.is_sure and self.warps:
            # The layers after the transformers would paint the shape, where alpha does not reach, and blur it.
            if config.landmark_weight:
                warping["landmarks"] = config.landmark_weight * self.guide.term(image, images[:batch])
            if config.control_weight and self.deformable.tps is not None:
                warping["control"] = config.control_weight * control_term(
                    self.deformable, self.guide, images=image, w_plus=self.mixed(w_plus, 1), source=self.source)
        self._optimise(self.g_optimizer, terms, "generator", warping=warping)
        terms |= warping
        return {**terms, "total": torch.stack(list(terms.values())).sum()}

    def _path_phase(self) -> dict[str, Tensor]:
        """Path length of the generator without transformers, times the interval, in float32.

        Only the generator moves here; the published loop also repeats the transformers' previous gradients.
        """
        config, count = self.config, self.config.path_batch
        w_plus = self._draw_w(count)
        if not w_plus.requires_grad:
            w_plus = w_plus.clone().requires_grad_(True)
        image = self.deformable.generator.synthesis(w_plus, noise=self._noise(count))
        noise = torch.randn(image.shape, generator=self.rng).to(self.device)
        penalty = self.path_penalty(image, w_plus, noise=noise)
        terms = {"path": penalty * (config.path_weight * config.path_every)}
        self._optimise(self.g_optimizer, terms, "path length")
        return terms

    @property
    def total(self) -> int:
        """Steps of the whole run."""
        return self.config.iterations

    def sheet(self) -> dict[str, Tensor]:
        """Return the rows of a contact sheet: the references, undeformed samples, stylized ones by alpha."""
        alphas = (0.0, 0.5, 1.0)
        base, *stylized = self.preview(alphas=alphas)
        rows = {"source, target, adversarial reference": torch.cat(tuple(self.pair)), "base": base}
        return rows | {f"stylized, alpha {alpha}": images for alpha, images in zip(alphas, stylized, strict=True)}

    @torch.no_grad()
    def preview(self, *, count: int = 4, alphas: tuple[float, ...] = (0.0, 0.5, 1.0), psi: float = 0.7) -> list[Tensor]:
        """Return rows [count, 3, S, S] of fixed samples: undeformed by the base, then the averaged style at each alpha."""
        z = torch.randn(count, self.base.config.style_dim,
                        generator=torch.Generator().manual_seed(self.config.seed + 1)).to(self.device)
        w_avg = self.base.mean_w(1024, generator=torch.Generator().manual_seed(0))
        w_plus = self.base.broadcast(self.base.mapping(z, truncation_psi=psi, w_avg=w_avg))
        noise = self.base.fixed_noise()
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            rows = [self.base.synthesis(w_plus, noise=noise)]
            return rows + [self.ema.synthesis(w_plus, alpha=alpha, noise=noise).image for alpha in alphas]

    def _modules(self) -> dict[str, nn.Module]:
        return {"deformable": self.deformable, "ema": self.ema, "patch": self.patch, "path_penalty": self.path_penalty}

    def state(self) -> dict[str, Any]:
        """Return everything that the next step depends on, as tensors and plain values."""
        return {
            "step": self.step_count, "config": self.config.to_dict(), "rng": self.rng.get_state(),
            # Unsure ones are read again, and found unsure again.
            "points": self.guide.points.cpu() if self.guide is not None and self.guide.is_sure else None,
            "latents": self.latents.cpu(), "pair": {name: image.cpu() for name, image in self.pair._asdict().items()},
            "networks": {name: module.state_dict() for name, module in self._modules().items()},
            "g_optimizer": self.g_optimizer.state_dict(), "d_optimizer": self.d_optimizer.state_dict(),
            "history": torch.tensor([[row[name] for name in TERMS] for row in self.history], dtype=torch.float64),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state()`` of a tuner with the same config and pair.

        Raises:
            RuntimeError, KeyError, ValueError: if the state does not fit these networks.
        """
        for name, module in self._modules().items():
            module.load_state_dict(state["networks"][name], strict=True)
        self.g_optimizer.load_state_dict(state["g_optimizer"])
        self.d_optimizer.load_state_dict(state["d_optimizer"])
        self.rng.set_state(state["rng"])
        self.step_count = int(state["step"])
        self.history = [dict(zip(TERMS, row, strict=True)) for row in state["history"].tolist()]
