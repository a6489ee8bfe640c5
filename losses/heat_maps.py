"""Terms of landmark projection: heat maps weighted by group, noise maps kept white, schedules, smoothness over frames."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

# First and last landmark of each group, in the order of the published nine numbers; a later group overrides an earlier.
GROUPS: Mapping[str, tuple[int, int]] = MappingProxyType({
    "jaw": (0, 16), "left_eyebrow": (17, 21), "right_eyebrow": (22, 26), "nose_bridge": (27, 30), "lower_nose": (30, 35),
    "left_eye": (36, 41), "right_eye": (42, 47), "outer_lip": (48, 59), "inner_lip": (60, 67),
})
# Names of several groups at once.
FAMILIES: Mapping[str, tuple[str, ...]] = MappingProxyType({
    "brows": ("left_eyebrow", "right_eyebrow"), "nose": ("nose_bridge", "lower_nose"), "eyes": ("left_eye", "right_eye"),
    "mouth": ("outer_lip", "inner_lip"),
})
LIBRARY_WEIGHTS = (0.05, 1.0, 1.0, 0.1, 1.0, 1.0, 1.0, 1.0, 1.0)
ROUNDING = 1e-6


def group_weights(weights: Sequence[float] = LIBRARY_WEIGHTS) -> Tensor:
    """Spread one weight per group of ``GROUPS`` over the landmarks.

    Args:
        weights: nine numbers of at least 0, in the order of ``GROUPS``.

    Returns:
        [68].

    Raises:
        ValueError: for another number of weights, or one that is negative or not finite.
    """
    if len(weights) != len(GROUPS) or not all(math.isfinite(weight) and weight >= 0 for weight in weights):
        raise ValueError(f"expected {len(GROUPS)} finite weights of at least 0 ({', '.join(GROUPS)}), got {list(weights)}")
    spread = torch.empty(1 + max(last for _, last in GROUPS.values()))
    for (first, last), weight in zip(GROUPS.values(), weights, strict=True):
        spread[first:last + 1] = weight
    return spread


def named_weights(changes: Sequence[tuple[str, float]], *, default: Sequence[float]) -> tuple[float, ...]:
    """Return nine weights: the default's with those of some groups replaced, in the order given.

    Raises:
        ValueError: for a name that is no group, family of groups or ``all``.
    """
    weights = dict(zip(GROUPS, default, strict=True))
    for name, value in changes:
        members = tuple(GROUPS) if name == "all" else FAMILIES.get(name, (name,))
        if not set(members) <= set(weights):
            raise ValueError(f"no group {name!r}; groups are {', '.join((*GROUPS, *FAMILIES, 'all'))}")
        weights.update(dict.fromkeys(members, value))
    group_weights(tuple(weights.values()))
    return tuple(weights.values())


def heat_map_loss(heat: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Weighted distance of heat maps, HL = mean_n sqrt(sum_(k, y, x) l_k^2 (H_k - T_k)^2).

    The published objective for one image. At the target itself the root has no gradient; it is taken as 0 there.

    Args:
        heat: maps of the drawn faces [N, K, h, w].
        target: maps to reach [N or 1, K, h, w].
        weights: one per landmark [K], see ``group_weights``.

    Returns:
        Scalar >= 0.

    Raises:
        ValueError: for shapes that do not fit each other.
    """
    if heat.ndim != 4 or target.shape[1:] != heat.shape[1:] or len(target) not in (1, len(heat)):
        raise ValueError(f"expected two heat-map batches [N, K, h, w], got {list(heat.shape)} and {list(target.shape)}")
    if list(weights.shape) != [heat.shape[1]]:
        raise ValueError(f"expected {heat.shape[1]} weights, got {list(weights.shape)}")
    squared = ((heat - target) * weights[:, None, None]).square().sum(dim=(1, 2, 3))  # [N]
    safe = torch.where(squared > 0, squared, torch.ones_like(squared))
    return torch.where(squared > 0, safe.sqrt(), torch.zeros_like(squared)).mean()
def noise_scale(step: int, steps: int, *, w_std: float = 1.0, initial: float = 0.05, ramp: float = 0.75) -> float:
    """Return the deviation of the noise on w, initial w_std max(0, 1 - t / ramp)^2 with t = step / steps."""
    return initial * w_std * max(0.0, 1.0 - step / steps / ramp) ** 2


def smoothness(w: Tensor, previous: Tensor) -> Tensor:
    """Distance of latents from those of another frame, or from the mean latent: sum sqrt((v - w)^2 + 1e-6).

    With the last frame's latents it is the published smoothness term, with the mean latent the fidelity term.

    Args:
        w: [N, L, D].
        previous: anything that broadcasts to it.

    Returns:
        Scalar, a sum over all numbers.
    """
    return ((previous - w).square() + ROUNDING).sqrt().sum()
