"""Landmark projection: a person's inversion moved to other landmarks, and optimised until they are met.

The published experiment optimises one latent from the mean face on, against the heat maps of another photo. Here the
start is the person's own face: its inversion, with the features of 32 px carried along by the spline that moves its
landmarks to their goals. The photo moved by the same spline, with the inside of the mouth of a donor where the goal needs
one, says what the person looks like then; rows and features are optimised towards it, the landmarks and the identity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from data.landmarks68 import EYES, REGIONS
from losses.heat_maps import GROUPS, group_weights, heat_map_loss, point_loss
from losses.perceptual import detail_distance
from models.face import Face
from models.landmark_warp import landmark_grid, polygon_mask, sample_image, softened
from models.landmarks import LandmarkNet
from models.spatial_transformer import sample
from models.stylegan2 import Generator, layer_at
from training.inversion import feature_deviation, frozen

Progress = Callable[[int, Tensor], None]
STARTER_WEIGHTS = (0.05, 1.0, 1.0, 0.1, 0.5, 1.0, 1.0, 2.0, 2.0)
PUBLISHED_WEIGHTS = (0.05, 1.0, 1.0, 0.1, 1.0, 1.0, 1.0, 5.0, 5.0)
# Jaw and nose carry no expression of their own: what their weight leaves free follows the rest of the face.
FOLLOWERS = [*range(17), *range(27, 36)]
EXPRESSIVE = [*range(17, 27), *range(36, 68)]
INNER_LIP, OUTER_LIP = slice(60, 68), slice(48, 60)
# A group that is not to move is held in its place this strongly.
HOLD = 0.2
RESOLUTION = 32


@dataclass(frozen=True)
class ProjectionSettings:
    """What is optimised, and how.

    Attributes:
        steps: Adam steps for one picture.
        weights: nine numbers, one per group of ``losses.heat_maps.GROUPS``. Up to 1 a weight is the share of the way to
            the target that the group goes; above, it also weighs more against the other groups.
        lr, feature_lr: rates for the rows in units of w, and for the features in units of their deviation.
        decay: share of the steps, at the end, over which the rates fall to zero.
        landmark_weight: of the landmarks' mean distance from their goals, in eye distances.
        heat_weight: of the heat maps' distance.
        image_weight: of the picture's distance from the moved photo.
        identity_weight: of the identity distance from the photo.
        penalty: of the features' mean square distance from the moved ones, in units of their deviation.
    """

    steps: int = 30
    weights: tuple[float, ...] = STARTER_WEIGHTS
    lr: float = 0.02
    feature_lr: float = 0.05
    decay: float = 0.4
    landmark_weight: float = 0.3
    heat_weight: float = 0.002
    image_weight: float = 1.0
    identity_weight: float = 0.05
    penalty: float = 1e-3

    def __post_init__(self) -> None:
        group_weights(self.weights)
        if self.steps < 0:
            raise ValueError(f"steps must be >= 0, got {self.steps}")

    @property
    def shares(self) -> Tensor:
        """Share of the way to the target that each landmark goes, [68]."""
        return group_weights(self.weights).clamp(max=1.0)

    @property
    def pulls(self) -> Tensor:
        """Weight of each landmark's distance from its goal, [68]."""
        return group_weights(self.weights).clamp(min=HOLD)


@dataclass(frozen=True)
class Person:
    """Who: an inverted photo.

    Attributes:
        face: rows and residual of features, of one person.
        photo: the aligned photo [1, 3, S, S] that was inverted, or the drawn face itself.
        points: its landmarks [68, 2] as fractions of the side.
    """

    face: Face
    photo: Tensor
    points: Tensor


@dataclass(frozen=True)
class Expression:
    """Which expression: landmarks, and a donor of what opens.

    Attributes:
        points: landmarks [68, 2] as fractions of an aligned face's side.
        donor: an aligned face [1, 3, S, S] with about that expression, or None.
        donor_points: its landmarks [68, 2].
    """

    points: Tensor
    donor: Tensor | None = None
    donor_points: Tensor | None = None


@dataclass(frozen=True)
class Projection:
    """The outcome: the face, its picture [1, 3, S, S], the goals [68, 2] of its landmarks, the picture it was optimised
    towards, and the offsets that another frame may start from."""

    face: Face
    image: Tensor
    goal: Tensor
    moved: Tensor
    rows: Tensor
    features: Tensor


def goals(source: Tensor, target: Tensor, shares: Tensor) -> Tensor:
    """Return where landmarks are to go, [68, 2].

    g_k = s_k + c_k (t_k - s_k). Jaw and nose start from A(s_k) instead of s_k, the affine map that fits brows, eyes and
    mouth on their way best: a chin goes down with the mouth, a nose to the side with the eyes.

    Args:
        source, target: [68, 2].
        shares: c [68] in [0, 1].
    """
    goal = source + shares[:, None] * (target - source)
    with_one = torch.cat([source, source.new_ones(len(source), 1)], dim=1)
    affine = torch.linalg.lstsq(with_one[EXPRESSIVE], goal[EXPRESSIVE]).solution  # [3, 2]
    carried = (with_one @ affine)[FOLLOWERS]
    goal[FOLLOWERS] = carried + shares[FOLLOWERS, None] * (target[FOLLOWERS] - carried)
    return goal


def stiffness(shares: Tensor) -> Tensor:
    """Return the smoothing of each landmark for the spline: jaw and nose give way."""
    result = torch.full_like(shares, 1e-4)
    result[REGIONS["jaw"]], result[REGIONS["nose"]] = 1e-2, 1e-3
    return result


def eye_unit(points: Tensor) -> Tensor:
    """Return the distance between the eye centres of landmarks [68, 2], [1]."""
    first, second = (points[eye].mean(dim=0) for eye in EYES)
    return (second - first).norm().reshape(1)


def drawn_maps(points: Tensor, like: Tensor) -> Tensor:
    """Return Gaussian heat maps of deviation one cell at landmarks [68, 2], [1, 68, h, w], summing to 1 like the network's.

    The published targets are the maps that the network sees in the other's photo, through which its look leaks.
    """
    height, width = like.shape[2:]
    x, y = (torch.arange(side, dtype=like.dtype, device=like.device) + 0.5 for side in (width, height))
    across = torch.exp(-0.5 * (x - points[:, :1].to(like) * width).square())  # [68, w]
    down = torch.exp(-0.5 * (y - points[:, 1:].to(like) * height).square())  # [68, h]
    maps = down[:, :, None] * across[:, None, :]
    return (maps / maps.sum(dim=(1, 2), keepdim=True).clamp_min(1e-12))[None]


def moved_photo(person: Person, expression: Expression, goal: Tensor) -> Tensor:
    """Return the person's photo with its landmarks at their goals, [1, 3, S, S].

    What lies between the lips is the donor's, moved to the goal and matched to the lips' mean colour: a spline can neither
    make teeth nor hide them.
    """
    size, soft = person.photo.shape[3], stiffness(goal[:, 0])
    moved = sample_image(person.photo, landmark_grid(person.points, goal, size, smoothing=soft))
    if expression.donor is None or expression.donor_points is None:
        return moved.clamp(-1.0, 1.0)
    even = torch.full_like(goal[:, 0], 1e-4)
    donor = F.interpolate(expression.donor, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    donor = sample_image(donor, landmark_grid(expression.donor_points, goal, size, smoothing=even))
    inside = softened(polygon_mask(goal[INNER_LIP], size, grow=max(1, size // 128))).to(moved)
    lips = polygon_mask(goal[OUTER_LIP], size, grow=max(1, size // 64)).to(moved)
    means = [(picture * lips).sum(dim=(2, 3)) / lips.sum().clamp_min(1.0) for picture in (moved, donor)]
    donor = donor + 0.7 * (means[0] - means[1])[:, :, None, None]
    return (moved * (1.0 - inside) + donor * inside).clamp(-1.0, 1.0)


class Projector:
    """Moves persons to expressions.

    Args:
        generator: the one that the persons are inverted into; left as it was.
        network: finds landmarks; frozen.
        settings: how.
        identity: makes, of a photo [1, 3, S, S], a function of pictures that returns their identity distance from it; None
            leaves the term out.
    """

    def __init__(self, generator: Generator, network: LandmarkNet, settings: ProjectionSettings, *,
                 identity: Callable[[Tensor], Callable[[Tensor], Tensor]] | None = None) -> None:
        self.generator, self.network, self.settings, self.identity = generator, network, settings, identity
        self.deviation = feature_deviation(generator, RESOLUTION)
        self._seen: tuple[Face, tuple[Tensor, Tensor]] | None = None

    @torch.no_grad()
    def points(self, image: Tensor) -> Tensor:
        """Return the landmarks [68, 2] of one aligned face [1, 3, S, S], as fractions of the side."""
        return self.network(image).points[0]

    @torch.no_grad()
    def features(self, face: Face) -> tuple[Tensor, Tensor]:
        """Return the features of a face that are moved, [1, C, 32, 32]: without and with its residual.

        Those of the last face are kept, for the frames of a clip move one person.
        """
        if self._seen is None or self._seen[0] is not face:
            self._seen = (face, self._features(face))
        return self._seen[1]

    def _features(self, face: Face) -> tuple[Tensor, Tensor]:
        seen: list[Tensor] = []

        def note(features: Tensor) -> Tensor:
            seen.append(features)
            return features

        index = layer_at(RESOLUTION)
        self.generator.synthesis(face.w_plus, noise=self.generator.fixed_noise(), feature_transforms={index: note})
        plain = seen[0]
        if face.residual is None:
            return plain, plain
        if face.resolution != RESOLUTION:
            raise ValueError(f"expected a residual of {RESOLUTION} px, got {face.resolution}")
        return plain, plain + face.residual

    def start(self, person: Person, goal: Tensor) -> Tensor:
        """Return the residual [1, C, 32, 32] with which the person's features are those moved to the goal.

        r' = W(f(w) + r) - f(w), with W the spline: all features move, not the residual alone, so that what the rows draw
        stays with what they cannot draw.
        """
        plain, whole = self.features(person.face)
        grid = landmark_grid(person.points, goal, RESOLUTION, smoothing=stiffness(goal[:, 0]))
        return sample(whole, grid.to(whole), mode="exact") - plain

    def project(self, person: Person, expression: Expression, *, steps: int | None = None,
                after: Projection | None = None, progress: Progress | None = None) -> Projection:
        """Move one person to one expression.

        Minimises |G - m|_1 + D(G, m) (m the moved photo), landmark_weight point_loss + heat_weight heat_map_loss,
        identity_weight identity and the penalty, over rows and features.

        Args:
            person: who.
            expression: which expression.
            steps: another number of steps than the settings'.
            after: the last frame of an animation, from whose offsets this one starts.
            progress: called after every step with its number and the picture.

        Raises:
            ArithmeticError: naming the step where the objective is not finite.
        """
        settings = self.settings if steps is None else replace(self.settings, steps=steps)
        goal = goals(person.points, expression.points.to(person.points), settings.shares.to(person.points))
        moved, base = moved_photo(person, expression, goal), self.start(person, goal)
        rows = torch.zeros_like(person.face.w_plus) if after is None else after.rows.clone()
        features = torch.zeros_like(base) if after is None else after.features.clone()
        variables = _Variables(person.face.w_plus, base, rows.requires_grad_(True), features.requires_grad_(True),
                               self.deviation)
        # A later frame begins at the face that the first one held to the person.
        objective = self._objective(person, moved, goal, settings if after is None else replace(settings, identity_weight=0.0))
        optimizer = torch.optim.Adam([{"params": [rows], "lr": settings.lr},
                                      {"params": [features], "lr": settings.feature_lr}], betas=(0.9, 0.99))
        # A frame that starts where the last one ended is near its end; large steps would only shake it.
        rates = [group["lr"] * (1.0 if after is None else 0.3) for group in optimizer.param_groups]
        with torch.enable_grad(), frozen(self.generator), frozen(self.network):
            for step in range(settings.steps):
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * min(1.0, (settings.steps - step) / (settings.steps * settings.decay))
                image = self.draw(variables.face())
                loss = objective(image) + settings.penalty * features.square().mean()
                if not math.isfinite(float(loss.detach())):
                    raise ArithmeticError(f"projection step {step}: the objective is not finite; lower the learning rate")
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                if progress is not None:
                    progress(step + 1, image.detach())
        with torch.no_grad():
            face = variables.face()
            face = Face(face.w_plus.detach().clone(), face.residual.detach().clone())
            return Projection(face, self.draw(face), goal, moved, rows.detach(), features.detach())

    def draw(self, face: Face) -> Tensor:
        """Return the picture [1, 3, S, S] of a face by the generator."""
        return self.generator.synthesis(face.w_plus, noise=self.generator.fixed_noise(), feature_transforms=face.transforms())

    def _objective(self, person: Person, moved: Tensor, goal: Tensor, settings: ProjectionSettings
                   ) -> Callable[[Tensor], Tensor]:
        pulls, unit = settings.pulls.to(goal), eye_unit(goal)
        identity = None if self.identity is None or not settings.identity_weight else self.identity(person.photo)
        maps: list[Tensor] = []

        def objective(image: Tensor) -> Tensor:
            found = self.network(image)
            heat = found.log_maps.exp()
            if not maps:
                maps.append(drawn_maps(goal, heat))
            loss = settings.landmark_weight * point_loss(found.points, goal[None], pulls, unit=unit)
            # Maps that sum to 1 have peaks near 1 / (2 pi); the published ones near 1.
            loss = loss + settings.heat_weight * heat_map_loss(2 * math.pi * heat, 2 * math.pi * maps[0], pulls)
            loss = loss + settings.image_weight * (F.l1_loss(image, moved) + detail_distance(image, moved))
            return loss if identity is None else loss + settings.identity_weight * identity(image)

        return objective


@dataclass(frozen=True)
class _Variables:
    """What is optimised: offsets of the rows, and of the features in units of their deviation."""

    w_plus: Tensor
    base: Tensor
    rows: Tensor
    features: Tensor
    deviation: Tensor

    def face(self) -> Face:
        return Face(self.w_plus + self.rows, self.base + self.features * self.deviation)


def named_weights(changes: Sequence[tuple[str, float]], *, default: Sequence[float]) -> tuple[float, ...]:
    """Return nine weights: the default's with those of some groups replaced, in the order given.

    Raises:
        ValueError: for a name that is no group, family of groups or ``all``.
    """
    from losses.heat_maps import FAMILIES

    weights = dict(zip(GROUPS, default, strict=True))
    for name, value in changes:
        members = tuple(GROUPS) if name == "all" else FAMILIES.get(name, (name,))
        if not set(members) <= set(weights):
            raise ValueError(f"no group {name!r}; groups are {', '.join((*GROUPS, *FAMILIES, 'all'))}")
        weights.update(dict.fromkeys(members, value))
    group_weights(tuple(weights.values()))
    return tuple(weights.values())
