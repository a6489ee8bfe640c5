"""The two-times decoder: from what the generator makes of a face to the photo at twice the side.

Three kinds of images are drawn: what the rows of a photo give, with the sketch of what they lack; its inversion, without a
sketch; and random faces of the prior. The first two are compared with the photo (L1 and SqueezeNet features), the third only
has to keep to its sketch, and projected discriminators (Sauer et al. 2021), one for whole faces at the generator's side, one
for squares at the full side, see that all three look like photos.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.decoder import COLOURS, DETAIL, FACE, Decoder, DecoderConfig, no_sketch, sketch_of
from training.pretrain.common import Clock, MissingStageError, resume, run_stage, update_average
from training.pretrain.encoded import Encoded, from_bytes, halved
from training.pretrain.faces import FacePack
from training.pretrain.projected import ScaleHead, pixel_head
from training.pretrain.teacher import TAP_CHANNELS, SqueezeNetTeacher, feature_distance

# Aligned faces [N, 3, S, S] to embeddings [N, D], differentiable.
Identity = Callable[[Tensor], Tensor]
# count, random numbers -> images [N, 3, S, S] and sketches [N, 5, 16, 16] of random faces.
RandomSketches = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class DecoderTrainingConfig:
    """Hyper-parameters of the stage.

    Attributes:
        rebuilt, inverted, random: images of each kind in a step.
        alone: images that are seen before the discriminators have a say, and random faces are drawn.
        lr, decay: learning rate of both sides, and the share of the budget in which it falls at the end.
    """

    rebuilt: int = 1
    inverted: int = 1
    random: int = 1
    alone: int = 1200
    lr: float = 1e-3
    adversarial_lr: float = 5e-4
    decay: float = 0.4
    l1_weight: float = 1.0
    perceptual_weight: float = 1.0
    adversarial_weight: float = 0.1
    keep_weight: float = 1.0
    detail_weight: float = 0.1
    identity_weight: float = 0.25
    average: float = 0.998

    def rate(self, seen: int, fraction: float) -> float:
        """Return the learning rate after so many images and a share of the budget."""
        top = self.lr if seen < self.alone else self.adversarial_lr
        return top * min(1.0, seen / 60.0 + 0.05, max((1.0 - fraction) / self.decay, 0.02))


class Pairs:
    """Encoded faces beside their photos at full side, of several packs.

    Args:
        packs: the faces at the decoder's side, or larger.
        encoded: the same faces in the generator.
        seed: of ``rng``.
    """

    def __init__(self, packs: Sequence[FacePack], encoded: Sequence[Encoded], *, seed: int) -> None:
        self.packs, self.encoded = packs, encoded
        self.rng = torch.Generator().manual_seed(seed)
        self.places: dict[str, list[tuple[int, int]]] = {"plain": [], "inverted": []}
        for number, (pack, faces) in enumerate(zip(packs, encoded, strict=True)):
            train = set(pack.split()[0].tolist())
            for name, places in self.places.items():
                known = faces.index[:len(getattr(faces, name))].tolist()
                places += [(number, row) for row, index in enumerate(known) if index in train]

    def __call__(self, n: int, name: str) -> tuple[Tensor, Tensor]:
        """Return photos [n, 3, 2S, 2S] and what is called ``name`` of them, [n, 3, S, S]; half of them mirrored."""
        photos, images = [], []
        places = self.places[name]
        for chosen in torch.randint(len(places), (n,), generator=self.rng).tolist():
            number, row = places[chosen]
            photos.append(self.packs[number].images[int(self.encoded[number].index[row])])
            images.append(getattr(self.encoded[number], name)[row])
        flip = (torch.rand(n, generator=self.rng) < 0.5)[:, None, None, None]
        both = (from_bytes(torch.stack(part)) for part in (photos, images))
        photo, image = (torch.where(flip, part.flip(3), part) for part in both)
        return halved(photo, 2 * image.shape[3]), image

    def check(self) -> None:
        """Raise MissingStageError unless every pack has at least twice the side of the generator's images."""
        for pack, faces in zip(self.packs, self.encoded, strict=True):
            if pack.images.shape[3] < 2 * faces.plain.shape[3]:
                raise MissingStageError(f"the pack has faces of {pack.images.shape[3]} px; pack them with --size "
                                        f"{2 * faces.plain.shape[3]} for the decoder")


class Drawn(NamedTuple):
    """What a step draws: images [N, 3, S, S], their sketches, and the photos [M, 3, 2S, 2S] of the first M."""

    image: Tensor
    sketch: Tensor
    photo: Tensor


def square(image: Tensor, side: int, rng: torch.Generator) -> Tensor:
    """Return one random square of ``side`` px of images [N, 3, S, S], at even places."""
    top, left = (2 * int(v) for v in torch.randint((image.shape[3] - side) // 2 + 1, (2,), generator=rng))
    return image[:, :, top:top + side, left:left + side]


class Judge(nn.Module):
    """Projected discriminator on features that are known already: a head per tap of the teacher, and one on the pixels."""

    def __init__(self, widths: tuple[int, ...] = (32, 64, 96, 128), downs: tuple[int, ...] = (2, 1, 1, 0)) -> None:
        super().__init__()
        self.heads = nn.ModuleList(ScaleHead(*shape, seed=number)
                                   for number, shape in enumerate(zip(TAP_CHANNELS, widths, downs, strict=True)))
        self.heads.append(pixel_head((24, 48, 96)))

    def forward(self, taps: Sequence[Tensor], image: Tensor) -> Tensor:
        """Features at the teacher's taps of images, and the images [N, 3, S, S] -> logits [N, M]."""
        return torch.cat([head(x).flatten(1) for head, x in zip(self.heads, (*taps, image), strict=True)], dim=1)


class DecoderTrainer:
    """Decoder, its average and the discriminators, resumable.

    Args:
        config: hyper-parameters.
        shape: of the decoder.
        teacher: frozen perceptual network.
        identity: frozen.
        generator: digest of the generator whose images are drawn.
    """

    def __init__(self, config: DecoderTrainingConfig, shape: DecoderConfig, teacher: SqueezeNetTeacher, *, identity: Identity,
                 generator: str) -> None:
        torch.manual_seed(11)
        self.generator, self.identity = generator, identity
        self.config, self.teacher = config, teacher
        self.decoder = Decoder(shape).to(memory_format=torch.channels_last)
        self.average = deepcopy(self.decoder).requires_grad_(False)
        self.judges = nn.ModuleList(Judge() for _ in range(2))
        self.optimizer = torch.optim.Adam(self.decoder.parameters(), lr=config.lr, betas=(0.0, 0.99))
        self.d_optimizer = torch.optim.Adam(self.judges.parameters(), lr=config.adversarial_lr, betas=(0.0, 0.99))
        self.seen = self.steps = 0

    def draw(self, pairs: Pairs, random: RandomSketches | None) -> Drawn:
        """Return the images of a step; without ``random`` as many more of photos."""
        config = self.config
        photo, plain = pairs(config.rebuilt + (0 if random else config.random), "plain")
        other, inverted = pairs(config.inverted, "inverted")
        sketch = sketch_of(halved(photo, plain.shape[3]), plain)
        images, sketches = [plain, inverted], [sketch, no_sketch(len(inverted), inverted)]
        if random:
            image, drawn = random(config.random, pairs.rng)
            images.append(image)
            sketches.append(drawn)
        return Drawn(torch.cat(images), torch.cat(sketches), torch.cat([photo, other]))

    def view(self, image: Tensor, rng: torch.Generator) -> tuple[int, Tensor]:
        """Return what a step judges images [N, 3, 2S, 2S] by: in turn the whole at S px (0), and a square of S px (1)."""
        side, number = image.shape[3] // 2, self.steps % 2
        return number, square(image, side, rng) if number else halved(image, side)

    def step(self, pairs: Pairs, random: RandomSketches | None, rate: float) -> dict[str, float]:
        """Run one iteration and return its loss terms."""
        config = self.config
        judged = self.seen >= config.alone
        for group in (*self.optimizer.param_groups, *self.d_optimizer.param_groups):
            group["lr"] = rate
        image, sketch, photo = self.draw(pairs, random if judged else None)
        made, count = self.decoder(image, sketch), len(photo)
        number, view = self.view(torch.cat([made, photo]), pairs.rng)
        seen, real = view[:len(made)], view[len(made):].detach()
        with torch.no_grad():
            goal, person = self.teacher(real), self.identity(photo)
        taps = self.teacher(seen)
        terms = {"l1": (made[:count] - photo).abs().mean(),
                 "perc": feature_distance([tap[:count] for tap in taps], goal).mean(),
                 "id": (self.identity(made[:count]) - person).norm(dim=1).mean(),
                 **self._kept(halved(made, image.shape[3]), image, sketch)}
        loss = (config.l1_weight * terms["l1"] + config.perceptual_weight * terms["perc"]
                + config.identity_weight * terms["id"]
                + config.keep_weight * terms["keep"] + config.detail_weight * terms["detail"])
        if judged:
            self.judges.requires_grad_(False)
            terms["adv"] = -self.judges[number](taps, seen).mean()
            loss = loss + config.adversarial_weight * terms["adv"]
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.decoder.parameters(), 1.0)
        self.optimizer.step()
        if judged:
            terms["d"] = self._judge(self.judges[number], ([tap.detach() for tap in taps], seen.detach()), (goal, real))
        self.seen, self.steps = self.seen + len(made), self.steps + 1
        update_average(self.average, self.decoder, min(config.average, 1.0 - 16.0 / (self.seen + 16.0)))
        return {name: float(value.detach()) for name, value in terms.items()}

    def _kept(self, whole: Tensor, image: Tensor, sketch: Tensor) -> dict[str, Tensor]:
        """Return how far results at S px are from their sketches, in colour and in detail; those that have one."""
        given = sketch.abs().flatten(1).amax(dim=1) > 0.0
        missed = (sketch_of(whole, image) - sketch).abs()[given]
        return {"keep": missed[:, COLOURS].mean() + missed[:, FACE].mean(), "detail": missed[:, DETAIL].mean()}

    def _judge(self, judge: Judge, fake: tuple[list[Tensor], Tensor], real: tuple[list[Tensor], Tensor]) -> Tensor:
        """Run one iteration of a discriminator on features and images and return its loss."""
        judge.requires_grad_(True)
        loss = F.relu(1.0 + judge(*fake)).mean() + F.relu(1.0 - judge(*real)).mean()
        self.d_optimizer.zero_grad()
        loss.backward()
        self.d_optimizer.step()
        return loss.detach()

    def state(self) -> dict:
        return {"config": self.decoder.config.to_dict(), "generator": self.generator, "seen": self.seen,
                "steps": self.steps, **{name: getattr(self, name).state_dict() for name in self._parts}}

    def load(self, state: dict) -> None:
        """Go on from a state; raises MissingStageError where it was trained for another generator."""
        if state["generator"] != self.generator:
            raise MissingStageError("decoder.pt: was trained for another generator; take that one, or another --state")
        for name in self._parts:
            getattr(self, name).load_state_dict(state[name])
        self.seen, self.steps = state["seen"], state["steps"]

    _parts = ("decoder", "average", "judges", "optimizer", "d_optimizer")


@torch.no_grad()
def decoder_sheet(decoder: Decoder, packs: Sequence[FacePack], encoded: Sequence[Encoded], path: Path, *,
                  random: RandomSketches | None = None, count: int = 8) -> dict[str, float]:
    """Write held-out photos, what their rows give, decoded by the sketch, their inversions, decoded, and random faces."""
    from torchvision.utils import save_image

    held = set(packs[0].split()[1].tolist())
    known = encoded[0].index[:len(encoded[0].inverted)].tolist()
    rows = [row for row, index in enumerate(known) if index in held][:count]
    plain, inverted, small = (from_bytes(getattr(encoded[0], name)[rows]) for name in ("plain", "inverted", "photo"))
    photo = halved(from_bytes(packs[0].images[encoded[0].index[rows]]), 2 * plain.shape[3])
    sketch = sketch_of(small, plain)
    made, shown = decoder(plain, sketch), decoder(inverted, no_sketch(len(inverted), inverted))
    big = [photo, F.interpolate(plain, scale_factor=2), made, F.interpolate(inverted, scale_factor=2), shown]
    if random:
        image, drawn = random(count, torch.Generator().manual_seed(7))
        big += [F.interpolate(image, scale_factor=2), decoder(image, drawn)]
    save_image(torch.cat(big).clamp(-1, 1) * 0.5 + 0.5, path, nrow=count)
    return {"held_out_l1": float((shown - photo).abs().mean()), "held_out_sketch_l1": float((made - photo).abs().mean())}


def train_decoder(
    packs: Sequence[FacePack], encoded: Sequence[Encoded], teacher: Path, folder: Path, *, identity: Identity,
    minutes: float, random: RandomSketches | None = None, config: DecoderTrainingConfig | None = None,
    shape: DecoderConfig | None = None,
) -> dict:
    """Train for ``minutes``, saving ``folder/decoder.pt``; resumes. ``random`` draws random faces of the prior."""
    config = config or DecoderTrainingConfig()
    trainer = DecoderTrainer(config, shape or DecoderConfig(), SqueezeNetTeacher(teacher), identity=identity,
                             generator=encoded[0].generator)
    resume(trainer, folder / "decoder.pt")
    pairs = Pairs(packs, encoded, seed=7000 + trainer.seen)
    pairs.check()

    def report() -> dict[str, float]:
        return decoder_sheet(trainer.average, packs, encoded, folder / "decoder.png", random=random)

    terms = run_stage(trainer, lambda spent: trainer.step(pairs, random, config.rate(trainer.seen, spent)),
                      folder / "decoder.pt", clock=Clock(minutes), report=report)
    return {"images": trainer.seen, **terms, **report()}
