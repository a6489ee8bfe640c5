"""The starter's ViT: DINO self-distillation on faces, blind to the medium, with a dense and a landmark term.

Class tokens follow DINO (Caron et al. 2021): student global and local crops against the centred, sharpened teacher on
global crops. The two global crops of a face share their geometry and differ in medium (photo, painting, hatching,
colours), so the same position must also get the same patch token (iBOT's patch loss without masks, Zhou et al. 2022).
A linear head that finds the 68 landmarks among the tokens of layers 5 and 11 makes parts of the face stand out.
"""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.filters import box_blur, hatch, ink, kuwahara, luma, match_colour, posterize
from data.landmarks68 import MIRROR
from models.dino import IMAGENET_MEAN, IMAGENET_STD, ViTConfig, build_vit
from training.ema import update_average
from training.pretrain.common import Clock, PretrainStage, half_precision, resume, run_stage
from training.pretrain.faces import FacePack

STARTER_VIT = ViTConfig(img_size=128, patch_size=8, embed_dim=192, depth=12, num_heads=3)
LANDMARK_LAYERS = (5, 11)


@dataclass(frozen=True)
class VitTrainingConfig:
    """Hyper-parameters; sizes in px, temperatures as in DINO."""

    batch: int = 16
    global_size: int = 96
    local_size: int = 48
    locals: int = 2
    lr: float = 1e-3
    weight_decay: float = 0.04
    prototypes: int = 256
    dense_prototypes: int = 1024
    student_temperature: float = 0.1
    teacher_temperature: float = 0.04
    dense_temperature: float = 0.05
    momentum: float = 0.994
    dense_weight: float = 1.0
    landmark_weight: float = 0.5
    max_doubt: float = 0.09


class DinoHead(nn.Module):
    """Projection to unit vectors and their cosine with weight-normalised prototypes; [..., D] -> [..., K].

    Args:
        dim: D.
        prototypes: K.
        whiten: standardise the projection over the batch [N, D]. A few dozen class tokens per step cannot keep the
            centre honest: without this the head learns one constant direction, all targets become uniform and the loss
            stays at ln K for good. The thousands of patch tokens of a step need no such help.
    """

    def __init__(self, dim: int, prototypes: int, *, whiten: bool = False) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(dim, 512), nn.GELU(), nn.Linear(512, 128))
        self.prototypes = nn.Parameter(torch.randn(prototypes, 128))
        self.whiten = whiten

    def forward(self, x: Tensor) -> Tensor:
        x = self.mlp(x)
        if self.whiten:
            x = F.batch_norm(x.float(), None, None, training=True)
        return F.normalize(x, dim=-1) @ F.normalize(self.prototypes, dim=-1).t()


class Backbone(nn.Module):
    """ViT with heads for class and patch tokens; position embeddings follow the input size."""

    def __init__(self, config: VitTrainingConfig) -> None:
        super().__init__()
        self.vit = build_vit(STARTER_VIT)
        for block in self.vit.blocks:
            # Plain matrix products beat the CPU's fused kernel at these lengths: 1.4 against 2.0 s a step on one core.
            block.attn.fused_attn = False
        self.head = DinoHead(STARTER_VIT.embed_dim, config.prototypes, whiten=True)
        self.dense_head = DinoHead(STARTER_VIT.embed_dim, config.dense_prototypes)
        self.landmark_heads = nn.ModuleList(nn.Linear(STARTER_VIT.embed_dim, 68) for _ in LANDMARK_LAYERS)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[None, :, None, None])
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[None, :, None, None])

    def tokens(self, image: Tensor) -> list[Tensor]:
        """Return the tokens [N, 1 + T, D] of ``LANDMARK_LAYERS`` of images [N, 3, S, S] in [-1, 1]; the last normed."""
        vit = self.vit
        x = vit.patch_embed.proj(((image + 1.0) / 2.0 - self.mean) / self.std)  # [N, D, s, s]
        side = x.shape[2]
        grid = vit.pos_embed[:, 1:].reshape(1, 16, 16, -1).permute(0, 3, 1, 2)  # [1, 256, D] -> [1, D, 16, 16]
        if side != 16:
            grid = F.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
        x = (x + grid).flatten(2).transpose(1, 2)  # [N, D, s, s] -> [N, T, D]
        x = torch.cat([(vit.cls_token + vit.pos_embed[:, :1]).expand(x.shape[0], -1, -1), x], dim=1)
        seen = []
        for index, block in enumerate(vit.blocks):
            x = block(x)
            if index in LANDMARK_LAYERS:
                seen.append(x)
        return [*seen[:-1], vit.norm(x)]


def random_grids(n: int, size: int, rng: torch.Generator, *, scale: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Return sampling grids [n, size, size, 2] of random crops with rotation and a mild wave, and affine maps [n, 2, 3].

    The affine part maps output coordinates to input coordinates, both in [-1, 1]; the wave is added on top.
    """
    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(n, generator=rng) * (high - low) + low

    zoom, turn, aspect = uniform(*scale), uniform(-0.25, 0.25), uniform(-0.12, 0.12).exp()
    shift = [uniform(-1.0, 1.0) * (1.0 - zoom).clamp(min=0.0) for _ in range(2)]
    rows = [torch.stack([zoom * aspect * turn.cos(), -zoom * turn.sin(), shift[0]], 1),
            torch.stack([zoom * turn.sin(), zoom / aspect * turn.cos(), shift[1]], 1)]
    theta = torch.stack(rows, dim=1)
    grid = F.affine_grid(theta, (n, 3, size, size), align_corners=False)
    return grid, theta


def draw(image: Tensor, rng: torch.Generator) -> Tensor:
    """Change the medium of images [N, 3, H, W] at random: colours, painting, posterising, hatching, ink, blur, noise."""
    n = image.shape[0]

    def amount(low: float, high: float) -> Tensor:
        return torch.rand(n, 1, 1, 1, generator=rng) * (high - low) + low

    def choose(probability: float, changed: Tensor, x: Tensor) -> Tensor:
        return torch.where(torch.rand(n, 1, 1, 1, generator=rng) < probability, changed, x)

    x = choose(0.4, match_colour(image, image[torch.randperm(n, generator=rng)]), image)
    x = choose(0.5, kuwahara(x, int(torch.randint(1, 4, (1,), generator=rng))), x)
    mix = torch.eye(3)[None] + 0.35 * torch.randn(n, 3, 3, generator=rng)
    x = choose(0.4, torch.einsum("nij,njhw->nihw", mix / mix.sum(2, keepdim=True).clamp(min=0.3), x).clamp(-1, 1), x)
    grey = luma(x)
    x = choose(0.8, (grey + (x - grey) * amount(0.0, 2.0)).clamp(-1, 1), x)
    x = choose(0.8, (x * amount(0.5, 1.5) + amount(-0.35, 0.35)).clamp(-1, 1), x)
    x = choose(0.3, posterize(x, torch.round(amount(3.0, 8.0))), x)
    x = choose(0.2, hatch(x, period=amount(3.0, 8.0), angle=amount(0.0, 3.1), amount=amount(0.3, 1.0)), x)
    x = choose(0.3, ink(x, amount(0.3, 1.0)), x)
    x = choose(0.2, box_blur(x, 1), x)
    noise = torch.randn(x.shape, generator=rng)
    return choose(0.3, x + noise * amount(0.02, 0.15), x).clamp(-1, 1)


class Views:
    """Random training views of a pack, with landmarks carried along."""

    def __init__(self, pack: FacePack, config: VitTrainingConfig, *, seed: int) -> None:
        self.pack, self.config = pack, config
        self.train, self.held = pack.split()
        self.rng = torch.Generator().manual_seed(seed)

    def __call__(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return views a and b [N, 3, G, G], locals [N * locals, 3, L, L] and landmarks [N, 68, 2] in [-1, 1] or NaN."""
        config, rng = self.config, self.rng
        index = self.train[torch.randint(len(self.train), (config.batch,), generator=rng)]
        flip = torch.rand(config.batch, generator=rng) < 0.5
        image = self.pack.batch(index, flip=flip)
        points = self.pack.landmarks[index] * 2.0 - 1.0
        mirrored = points[:, torch.from_numpy(MIRROR)] * torch.tensor([-1.0, 1.0])
        points = torch.where(flip[:, None, None], mirrored, points)
        points[self.pack.doubt[index] > config.max_doubt] = math.nan
        grid, theta = random_grids(config.batch, config.global_size, rng, scale=(0.6, 1.05))
        view = F.grid_sample(image, grid, padding_mode="reflection", align_corners=False)
        inverse = torch.linalg.inv(theta[:, :, :2])
        points = (points - theta[:, None, :, 2]) @ inverse.transpose(1, 2)  # input -> output coordinates
        small = []
        for _ in range(config.locals):
            grid, _ = random_grids(config.batch, config.local_size, rng, scale=(0.25, 0.5))
            small.append(F.grid_sample(image, grid, padding_mode="reflection", align_corners=False))
        return draw(view, rng), draw(view, rng), draw(torch.cat(small), rng), points


def landmark_targets(points: Tensor, side: int, *, sigma: float = 0.6) -> Tensor:
    """Return soft positions [N, 68, side^2] of landmarks [N, 68, 2] in [-1, 1] as normalised Gaussians over tokens."""
    centres = (torch.arange(side) + 0.5) / side * 2.0 - 1.0
    lattice = torch.stack(torch.meshgrid(centres, centres, indexing="xy"), dim=-1).reshape(-1, 2)  # [T, 2], (x, y)
    distance = (points[:, :, None] - lattice).square().sum(dim=3) * (side / 2.0) ** 2
    return torch.softmax(-distance / (2.0 * sigma**2), dim=2)


def landmark_loss(backbone: Backbone, tokens: list[Tensor], points: Tensor) -> Tensor:
    """Return the cross-entropy of finding each visible landmark among the patch tokens, mean over layers."""
    inside = (points.abs() < 1.0).all(dim=2)  # [N, 68], False for NaN
    target = landmark_targets(torch.nan_to_num(points), round((tokens[0].shape[1] - 1) ** 0.5))
    total = torch.zeros(())
    for head, layer in zip(backbone.landmark_heads, tokens, strict=True):
        logits = head(layer[:, 1:]).float().transpose(1, 2)  # [N, T, 68] -> [N, 68, T]
        entropy = -(target * F.log_softmax(logits, dim=2)).sum(dim=2)
        total = total + (entropy * inside).sum() / inside.sum().clamp(min=1)
    return total / len(tokens)


class VitTrainer(PretrainStage):
    """Student, teacher and centres."""

    parts = ("student", "teacher", "optimizer")

    def __init__(self, config: VitTrainingConfig) -> None:
        torch.manual_seed(0)
        self.config = config
        self.student = Backbone(config)
        self.teacher = deepcopy(self.student).requires_grad_(False)
        self.centres = {"class": torch.zeros(config.prototypes), "dense": torch.zeros(config.dense_prototypes)}
        self.temperatures = {"class": config.teacher_temperature, "dense": config.dense_temperature}
        self.optimizer = torch.optim.AdamW(self.student.parameters(), lr=config.lr, weight_decay=config.weight_decay)

    def state(self) -> dict:
        return super().state() | {"centres": self.centres}

    def load(self, state: dict) -> None:
        super().load(state)
        self.centres = state["centres"]

    def distil(self, student: Tensor, teacher: Tensor, kind: str) -> Tensor:
        """Return the cross-entropy of ``student`` logits [..., K] to centred, sharpened ``teacher`` logits; moves the centre."""
        target = torch.softmax((teacher.float() - self.centres[kind]) / self.temperatures[kind], dim=-1)
        mean = teacher.float().flatten(0, -2).mean(dim=0)
        self.centres[kind] = self.centres[kind] * 0.9 + mean * 0.1
        return -(target * F.log_softmax(student.float() / self.config.student_temperature, dim=-1)).sum(dim=-1).mean()

    def step(self, views: Views, lr: float) -> dict[str, float]:
        """Run one iteration and return its loss terms."""
        config = self.config
        first, second, small, points = views()
        both, swapped = torch.cat([first, second]), torch.cat([second, first])
        with half_precision(torch.device("cpu")):
            with torch.no_grad():
                goal = self.teacher.tokens(swapped)[-1]
                goal_class, goal_dense = self.teacher.head(goal[:, 0]), self.teacher.dense_head(goal[:, 1:])
            tokens = self.student.tokens(both)
            local = self.student.head(self.student.tokens(small)[-1][:, 0])
            seen_class, seen_dense = self.student.head(tokens[-1][:, 0]), self.student.dense_head(tokens[-1][:, 1:])
        dense = self.distil(seen_dense, goal_dense, "dense")
        repeats = [goal_class[: config.batch]] * config.locals
        whole = self.distil(torch.cat([seen_class, local]), torch.cat([goal_class, *repeats]), "class")
        landmark = landmark_loss(self.student, tokens, torch.cat([points, points]))
        loss = whole + config.dense_weight * dense + config.landmark_weight * landmark
        self.set_rate(lr)
        self.descend(loss, self.student, images=config.batch, most=3.0)
        update_average(self.teacher, self.student, config.momentum)
        return {"class": whole.item(), "dense": dense.item(), "landmark": landmark.item()}


@torch.no_grad()
def correspondence_error(vit_tokens: list[Tensor], drawn_tokens: list[Tensor], points: Tensor) -> list[float]:
    """Return per layer the mean distance, in % of eye distance, between a landmark and where its token is found.

    The token under each landmark of the photo is looked up among the tokens of the drawing by cosine; points
    [N, 68, 2] in [-1, 1] are true for both.
    """
    results = []
    for a, b in zip(vit_tokens, drawn_tokens, strict=True):
        a, b = F.normalize(a[:, 1:].float(), dim=2), F.normalize(b[:, 1:].float(), dim=2)
        side = round(a.shape[1] ** 0.5)
        cell = ((points + 1.0) / 2.0 * side).floor().clamp(0, side - 1).long()
        index = cell[..., 1] * side + cell[..., 0]  # [N, 68]
        query = a.gather(1, index[..., None].expand(-1, -1, a.shape[2]))
        found = (query @ b.transpose(1, 2)).argmax(dim=2)
        where = torch.stack([(found % side + 0.5) / side, (found // side + 0.5) / side], dim=-1) * 2.0 - 1.0
        eyes = (points[:, 36:42].mean(dim=1) - points[:, 42:48].mean(dim=1)).norm(dim=1)
        results.append(float(((where - points).norm(dim=2).mean(dim=1) / eyes).mean() * 100.0))
    return results


@torch.no_grad()
def evaluate(backbone: Backbone, pack: FacePack) -> dict[str, list[float]]:
    """Return the held-out correspondence error (layers 5 and 11) between photos and drawn versions of them."""
    _, held = pack.split()
    images, points = pack.batch(held[:100]), pack.landmarks[held[:100]] * 2.0 - 1.0
    drawn = draw(images, torch.Generator().manual_seed(1))
    with half_precision(torch.device("cpu")):
        return {"correspondence_percent": correspondence_error(backbone.tokens(images), backbone.tokens(drawn), points)}


def train_vit(pack: FacePack, folder: Path, *, minutes: float) -> dict:
    """Train for ``minutes``, saving ``folder/vit.pt``, and return the figures; resumes."""
    config = VitTrainingConfig()
    trainer = VitTrainer(config)
    path = folder / "vit.pt"
    resume(trainer, path)
    print("before", evaluate(trainer.teacher, pack), flush=True)
    views = Views(pack, config, seed=trainer.seen)

    def step(spent: float) -> dict[str, float]:
        warmup = min(1.0, (trainer.seen + 1) / 1600.0)
        return trainer.step(views, config.lr * warmup * (0.5 * (1.0 + math.cos(math.pi * spent)) + 0.01))

    terms = run_stage(trainer, step, path, clock=Clock(minutes), report=lambda: evaluate(trainer.teacher, pack))
    return {"images": trainer.seen, **evaluate(trainer.teacher, pack), **{k: float(np.round(v, 4)) for k, v in terms.items()}}
