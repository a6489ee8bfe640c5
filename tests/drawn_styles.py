"""Made-up drawings for the tests: what the drawing stages know of a style, without any training."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from checkpoints.builders import load_base
from drawing.context import FaceContext
from drawing.style import DrawnStyle
from drawing.tone import Tone, read_tone
from drawing.warp import with_rings
from faces.topology import LOWER_LIP, UPPER_LIP
from models.deformable import DeformableGenerator
from styles.deformable import save_style


def mean_mesh() -> Tensor:
    """Return a face's mesh [1, 468, 3] as fractions of its frame's side."""
    flat = load_file(Path(__file__).parents[1] / "checkpoints" / "faces" / "mean_mesh.safetensors")["mean"][None]
    return torch.cat([flat[..., :2], torch.zeros_like(flat[..., :1])], dim=2)


def parts_of(side: int) -> Tensor:
    """Return soft maps [1, 4, side, side]: a disc of skin, hair above, background and clothes below."""
    y, x = torch.meshgrid(*(torch.linspace(0.0, 1.0, side),) * 2, indexing="ij")
    skin = torch.sigmoid((0.3 - ((x - 0.5).square() + (y - 0.55).square()).sqrt()) * 60.0)
    hair = (1.0 - skin) * torch.sigmoid((0.45 - ((x - 0.5).square() + (y - 0.45).square()).sqrt()) * 60.0)
    rest = (1.0 - skin - hair) * torch.sigmoid((y - 0.85) * 60.0)
    return torch.stack([skin, hair, 1.0 - skin - hair - rest, rest])[None]


def photo_of(side: int, seed: int = 0) -> Tensor:
    """Return a smooth coloured picture with some texture, [1, 3, side, side] in [-1, 1]."""
    rng = torch.Generator().manual_seed(seed)
    waves = torch.nn.functional.interpolate(torch.rand(1, 3, 5, 5, generator=rng), size=(side, side), mode="bicubic")
    return (waves - 0.5 + 0.05 * torch.randn(1, 3, side, side, generator=rng)).clamp(-0.9, 0.9)


def context_of(side: int) -> FaceContext:
    """Return what is known of ``photo_of``."""
    return FaceContext(mean_mesh(), parts_of(side))


def tone_of(seed: int = 1, side: int = 128) -> Tone:
    """Return the tone of a made-up drawing."""
    return read_tone(photo_of(side, seed), parts_of(side), None, None)


def mouth_moved(points: Tensor, by: float) -> Tensor:
    """Return points [1, K, 2] of a face with the mouth, and less and less what is around it, moved down by ``by``."""
    middle = points[:, [*UPPER_LIP, *LOWER_LIP]].mean(dim=1, keepdim=True)
    share = (-(points - middle).square().sum(dim=2, keepdim=True) / (2.0 * 0.1**2)).exp()
    return points + by * share * points.new_tensor([0.0, 1.0])


def drawn_style(seed: int = 1, *, by: float = 0.03) -> DrawnStyle:
    """Return a style that moves the mouth down by a share ``by`` of the frame's side, with tone and strokes of its own."""
    source = with_rings(mean_mesh())
    style = DrawnStyle.of_points(source, mouth_moved(source, by), tone_of(seed))
    return style.with_strokes(photo_of(128, seed), parts_of(128))


def save_drawn(path: Path, seed: int = 1) -> Path:
    """Write a style of the starter whose transformers rest, which draws as ``drawn_style`` does, and return its file."""
    base = load_base("starter")
    deformable = DeformableGenerator.for_generator(base.generator, resolutions=(64,), grid_size=6, guarded=True, carry_image=True)
    save_style(path, deformable, w_avg=base.w_avg, base={"name": "starter", "fingerprint": base.fingerprint},
               training={"settings": {"swap_layer": 7}}, target_latent=base.generator.broadcast(base.w_avg[None])[0],
               drawn=drawn_style(seed))
    return path
