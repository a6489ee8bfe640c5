"""A photo's own pixels with another expression: skin slides over eyes and teeth, nothing is pasted and nothing is blurred.

A warp that opens or shuts a mouth or an eye is torn at the seam where lips or lids meet. So skin is two sheets, each moved by a
smooth spline: one that ends at upper lids and upper lip, one that ends at lower lids and lower lip. Between the two lies what
does not stretch with them: the eyes as they are, and the inside of the mouth, which comes from the photo, the driving photo or
the bundled teeth. Every pixel of skin is read once, bicubically, at the photo's own resolution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator
from torch import Tensor
from torch.nn import functional as F

from drawing.compose import look_up
from drawing.expression import (
    BROWS,
    EYE_CORNERS,
    FOLDS,
    INNER_CORNERS,
    LOWER_EDGE,
    LOWER_LIDS,
    OVER_FOLDS,
    UNDER_LIDS,
    UPPER_EDGE,
    UPPER_LIDS,
)
from drawing.mouth import Inside, gap_of, inside_of
from drawing.warp import fading, sampled, with_rings
from faces.topology import LOWER_LIP, UPPER_LIP
from models.sampling_grids import LEAST_DETERMINANT, pixel_lattice, unfolded
from models.spline import frame_points

# Regularisation of the splines: rows of vertices along the lips lie close together and may disagree a little.
# Lids and the inner edges of lips are met exactly.
SMOOTHING, EXACT_SMOOTHING = 5e-5, 1e-6
# Side of the lattice on which displacements are told: lids are thin.
GRID = 128
# Rounds in which displacements are smoothed where a sheet folds; few are ever needed.
EASING_ROUNDS = 200
# Vertices that only one sheet of skin follows.
UPPER_ONLY = {*UPPER_LIP, *UPPER_EDGE, *(v for rows in (UPPER_LIDS, FOLDS) for eye in rows for v in eye)}
LOWER_ONLY = {*LOWER_LIP, *LOWER_EDGE, *(v for rows in (LOWER_LIDS,) for eye in rows for v in eye)}
EYE_ROWS = (UPPER_LIDS, FOLDS, OVER_FOLDS, LOWER_LIDS, UNDER_LIDS, EYE_CORNERS, BROWS)
EXACT = [*UPPER_EDGE, *LOWER_EDGE, *INNER_CORNERS, *(v for rows in EYE_ROWS for eye in rows for v in eye)]
# Softness of a sheet's edge in eye distances, and its growth per distance from the ends of the seam.
EDGE, WIDENING = 0.008, 0.4
# A lid that shuts begins this far above the edge of the eye that the mesh says, as a share of the eye's gap, so that it brings
# no iris along; and the line of its lashes: half its width in eye distances, how dark.
LID_MARGIN, LASHES, LASH_DARK = 0.22, 0.011, 0.62
# Shade of a shut lid: how far above its lashes it falls to 1 / e, in eye distances, and how dark.
LID_SHADE, LID_DARK = 0.05, 0.16
# Lips that shut begin so far beyond the edges and the corners that the mesh says, as shares of how far the mouth shuts: no teeth
# come along.
LIP_MARGIN, CORNER_MARGIN = 0.4, 0.5
# Of their distance, how much rows of skin above such a lid keep.
ROOM = 0.5


@dataclass(frozen=True)
class View:
    """Pixels of a picture around a face and where they lie in its frame: ``corners`` [3, 2] in px of the picture (top left, top
    right, bottom left), ``box`` left, top, right, bottom, ``places`` [h, w, 2] as fractions of the frame's side."""

    corners: np.ndarray
    box: tuple[int, int, int, int]
    places: Tensor

    @classmethod
    def of(cls, size: tuple[int, int], corners: np.ndarray) -> View:
        """Return the pixels of a picture of ``size`` (H, W) that a frame covers.

        Raises:
            ValueError: where it covers none.
        """
        ends = np.stack([*corners, corners[1] + corners[2] - corners[0]])
        left, top = np.maximum(np.floor(ends.min(axis=0)).astype(int), 0)
        right, bottom = np.minimum(np.ceil(ends.max(axis=0)).astype(int), (size[1], size[0]))
        if right <= left or bottom <= top:
            raise ValueError(f"the face's frame lies outside of the picture of {size[1]} x {size[0]} px")
        y, x = torch.meshgrid(torch.arange(top, bottom) + 0.5, torch.arange(left, right) + 0.5, indexing="ij")
        turn = np.stack([corners[1] - corners[0], corners[2] - corners[0]], axis=1)
        pixels = torch.stack([x, y], dim=2) - torch.from_numpy(corners[0]).float()
        return cls(corners, (left, top, right, bottom), pixels @ torch.from_numpy(np.linalg.inv(turn)).float().T)

    def read(self, image: Tensor, places: Tensor) -> Tensor:
        """Return an image [1, 3, H, W] read at places [h, w, 2] of the frame."""
        across, down = (torch.from_numpy(self.corners[i] - self.corners[0]).float() for i in (1, 2))
        pixels = torch.from_numpy(self.corners[0]).float() + places[..., :1] * across + places[..., 1:] * down
        height, width = image.shape[2:]
        return sampled(image, 2.0 * pixels[None] / torch.tensor([width, height]) - 1.0)


def spline(knots: Tensor, values: Tensor, places: Tensor, *, smoothing: Tensor) -> Tensor:
    """Return the thin-plate spline through ``values`` [K, 2] at ``knots`` [K, 2] at many places [P, 2], each knot with its
    smoothing [K], as ``models.spline`` does.

    Squared distances come from products of matrices, which takes a third of the time.
    """
    def kernel(where: Tensor) -> Tensor:
        square = where.square().sum(dim=1, keepdim=True) + knots.square().sum(dim=1) - 2.0 * where @ knots.T
        square.clamp_min_(1e-18)
        return torch.cat([square.log().mul_(square).mul_(0.5), where.new_ones(len(where), 1), where], dim=1)

    count, places = len(knots), places.to(knots)
    system = torch.zeros(count + 3, count + 3, dtype=knots.dtype)
    system[:count] = kernel(knots)
    system[count:, :count] = system[:count, count:].T.clone()
    system[:count, :count] += torch.diag(smoothing)
    return kernel(places) @ torch.linalg.solve(system, torch.cat([values, values.new_zeros(3, 2)]))


def offsets(points: np.ndarray, wanted: np.ndarray, places: Tensor, *, exact: np.ndarray | None = None) -> Tensor:
    """Return how far from places [h, w, 2] of the frame a sheet is read, [h, w, 2], by a spline that dies out at its border
    and folds nowhere.

    Args:
        points: [K, 2] where things are.
        wanted: [K, 2] where they shall be.
        exact: [K] which of them are met exactly; None smooths all.
    """
    kept = ((points > 0.01) & (points < 0.99) & (wanted > 0.01) & (wanted < 0.99)).all(axis=1)
    before, after = torch.from_numpy(points[kept]), torch.from_numpy(wanted[kept])
    frame = frame_points()
    rest = pixel_lattice(GRID, mode="exact").reshape(1, GRID, GRID, 2)
    exact = np.zeros(len(points), bool) if exact is None else exact
    smoothing = torch.from_numpy(np.append(np.where(exact[kept], EXACT_SMOOTHING, SMOOTHING), np.full(len(frame), SMOOTHING)))
    moved = spline(torch.cat([after, frame]), torch.cat([before - after, torch.zeros_like(frame)]),
                   rest.reshape(-1, 2) / 2.0 + 0.5, smoothing=smoothing)
    moved = eased(fading(GRID) * moved.float().reshape(1, GRID, GRID, 2))
    return look_up(moved.permute(0, 3, 1, 2), places[None] * 2.0 - 1.0)[0].permute(1, 2, 0)


def eased(shift: Tensor) -> Tensor:
    """Return displacements [1, S, S, 2] in frame sides that fold nowhere, smoothed only where they did, and 0 along the border.

    Around cells in a corner of which the determinant of the Jacobian of x + d(x) lies below ``LEAST_DETERMINANT``, displacements
    become means of 3 x 3 until none does. What rounds leave is scaled down as a whole.
    """
    size = shift.shape[1]
    inner = F.pad(shift.new_ones(1, 1, size - 2, size - 2), (1, 1, 1, 1))
    shift = shift.permute(0, 3, 1, 2) * inner  # [1, 2, S, S]
    for _ in range(EASING_ROUNDS):
        folded = (determinants(shift.permute(0, 2, 3, 1)) < LEAST_DETERMINANT).to(shift)[:, None]
        if not folded.any():
            break
        # Corners of the cells that fold, and two places around.
        near = F.max_pool2d(F.max_pool2d(F.pad(folded, (1, 1, 1, 1)), 2, 1), 5, 1, 2) * inner
        shift = torch.lerp(shift, F.avg_pool2d(shift, 3, 1, 1), near)
    rest = pixel_lattice(size, mode="exact").reshape(1, size, size, 2)
    return (unfolded(rest + 2.0 * shift.permute(0, 2, 3, 1)) - rest) / 2.0


def determinants(shift: Tensor) -> Tensor:
    """Return the least determinant of the Jacobian of x + d(x) in each cell, [1, H - 1, W - 1], of displacements [1, H, W, 2] in
    frame sides on a lattice of W places per frame side.

    Between places they are bilinear, so it is least in a corner of a cell.
    """
    across, down = (shift.diff(dim=dim) * shift.shape[2] for dim in (2, 1))
    return torch.stack([
        (1.0 + a[..., 0]) * (1.0 + d[..., 1]) - a[..., 1] * d[..., 0]
        for a in (across[:, :-1], across[:, 1:]) for d in (down[:, :, :-1], down[:, :, 1:])]).amin(dim=0)


def curve(points: np.ndarray, across: Tensor) -> Tensor:
    """Return the height of a line through points [K, 2] at places ``across``, level beyond its ends."""
    order = np.argsort(points[:, 0])
    x, y = points[order, 0], points[order, 1]
    apart = np.concatenate([[True], np.diff(x) > 1e-5])
    ticks = np.linspace(x[0], x[-1], 256)
    line = PchipInterpolator(x[apart], y[apart])(ticks) if apart.sum() > 1 else np.full(256, y[0])
    return torch.from_numpy(np.interp(across.numpy(), ticks, line)).float()


class Seam:
    """A line in a frame at which one sheet of skin ends.

    Args:
        points: [K, 2] of it.
        ends: [M, 2] first and last abscissa of the stretches where it is sharp; elsewhere it is soft.
        unit: eye distance as a fraction of the frame's side.
    """

    def __init__(self, points: np.ndarray, ends: np.ndarray, places: Tensor, *, unit: float) -> None:
        across = places[..., 0]
        self.below = places[..., 1] - curve(points, across)
        away = torch.stack([torch.maximum(a - across, across - b).clamp_min(0.0) for a, b in ends.tolist()]).amin(dim=0)
        self.soft = EDGE * unit + WIDENING * away
        self.inside = (1.0 - away / (2.0 * EDGE * unit)).clamp(0.0, 1.0)

    def above(self) -> Tensor:
        """Return how far pixels lie above the line, [h, w] in 0..1."""
        return (0.5 - self.below / self.soft).clamp(0.0, 1.0)


def eye_seams(wanted: np.ndarray, places: Tensor, *, unit: float) -> tuple[Seam, Seam]:
    """Return the lines of the upper and the lower lids of both eyes."""
    ends = np.sort(np.array([[wanted[a, 0], wanted[b, 0]] for a, b in EYE_CORNERS]), axis=1)
    rows = [np.concatenate([[a, *lid, b] for (a, b), lid in zip(EYE_CORNERS, lids, strict=True)]) for lids in
            (UPPER_LIDS, LOWER_LIDS)]
    upper, lower = (Seam(wanted[list(row), :2], ends, places, unit=unit) for row in rows)
    return upper, lower


def mouth_seams(wanted: np.ndarray, places: Tensor, *, unit: float) -> tuple[Seam, Seam]:
    """Return the lines of the upper and the lower lip's inner edges."""
    ends = np.sort(wanted[list(INNER_CORNERS), 0])[None]
    first, last = INNER_CORNERS
    upper, lower = (Seam(wanted[[first, *edge, last], :2], ends, places, unit=unit) for edge in (UPPER_EDGE, LOWER_EDGE))
    return upper, lower


@torch.no_grad()
def expressed(image: Tensor, corners: np.ndarray, mesh: np.ndarray, wanted: np.ndarray, *, donor: Inside | None = None) -> Tensor:
    """Return a picture [1, 3, H, W] in which a face has another shape.

    Args:
        image: in [-1, 1].
        corners: of the face's frame in px of the picture, see ``View``; its mesh lies well inside of it.
        mesh: [468, 2 or 3] as fractions of the frame's side.
        wanted: likewise, where it shall be.
        donor: lends the inside of a mouth that opens; None takes the bundled teeth.
    """
    mesh, wanted = np.asarray(mesh, np.float64)[:, :2], np.asarray(wanted, np.float64)[:, :2]
    view = View.of(tuple(image.shape[2:]), np.asarray(corners, np.float64))
    points, goals = (with_rings(torch.from_numpy(m)[None])[0].numpy() for m in (mesh, wanted))
    unit = float(np.linalg.norm(mesh[list(EYE_CORNERS[0])].mean(axis=0) - mesh[list(EYE_CORNERS[1])].mean(axis=0)))
    places = view.places

    def sheet(without: set[int], source: np.ndarray) -> Tensor:
        rows = [i for i in range(len(points)) if i not in without]
        return view.read(image, places + offsets(source[rows], goals[rows], places, exact=np.isin(rows, EXACT)))

    source = lips_from(points, gap_of(mesh), gap_of(wanted))
    upper = sheet(LOWER_ONLY, lids_from(source, closing(mesh, wanted)))
    lower = sheet(UPPER_ONLY, source)
    lids, under_lids = eye_seams(wanted, places, unit=unit)
    lip, under_lip = mouth_seams(wanted, places, unit=unit)
    # Below the lower lids the lower sheet counts, from the nose on the upper one until the lips.
    middle = Seam((mesh[[4, 50, 280]] + mesh[[6, 110, 339]]) / 2.0, np.zeros((1, 2)), places, unit=unit)
    made = torch.lerp(lower, upper, torch.maximum(lids.above(), (1.0 - _ramp(middle, unit)) * lip.above()))
    made = _with_eyes(made, image, view, mesh, wanted, lids, under_lids, unit)
    inside = inside_of(image, view, mesh, wanted, donor, lip, under_lip, unit)
    if inside is not None:
        # Where lips meet, nothing shows between their soft edges.
        apart = ((lip.below - under_lip.below) / (2.0 * EDGE * unit)).clamp(0.0, 1.0)
        made = torch.lerp(made, inside, lip.inside * (1.0 - lip.above()) * under_lip.above() * apart)
    result = image.clone()
    left, top, right, bottom = view.box
    # What lies outside of the frame is read where it is.
    within = ((places > 0.0) & (places < 1.0)).all(dim=2)
    result[:, :, top:bottom, left:right] = torch.where(within, made.clamp(-1.0, 1.0), result[:, :, top:bottom, left:right])
    return result


def _ramp(seam: Seam, unit: float) -> Tensor:
    return (0.5 - seam.below / (0.1 * unit)).clamp(0.0, 1.0)


def closing(mesh: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return how far each eye shuts, [2]: 0 not at all, 1 wholly."""
    gaps = [[np.mean(m[list(low), 1] - m[list(up), 1]) for up, low in zip(UPPER_LIDS, LOWER_LIDS, strict=True)]
            for m in (mesh, wanted)]
    return np.clip(1.0 - np.array(gaps[1]) / np.maximum(gaps[0], 1e-6), 0.0, 1.0)


def lids_from(points: np.ndarray, shut: np.ndarray) -> np.ndarray:
    """Return points whose upper lids begin above the eye where they shut, so that skin alone comes down.

    Rows above make room: each keeps at least ``ROOM`` of its distance to the next.
    """
    result = points.copy()
    for eye in range(2):
        lid, fold, over = (list(rows[eye]) for rows in (UPPER_LIDS, FOLDS, OVER_FOLDS))
        gap = np.abs(points[list(LOWER_LIDS[eye]), 1] - points[lid, 1]).max()
        up = np.full(len(lid), LID_MARGIN * gap * min(1.0, 2.0 * shut[eye]))
        result[lid, 1] -= up
        for above, below, share in ((fold, lid, 0.6), (over, fold, 0.3)):
            apart = np.maximum(points[below, 1] - points[above, 1], 0.0)
            up = np.maximum(share * up, up - (1.0 - ROOM) * apart)
            result[above, 1] -= up
    return result


def lips_from(points: np.ndarray, own: float, goal: float) -> np.ndarray:
    """Return points whose lips begin beyond their inner edges where a mouth shuts from a gap ``own`` to ``goal``, in the unit
    of the points."""
    result, less = points.copy(), max(0.0, own - max(goal, 0.0))
    result[list(UPPER_EDGE), 1] -= LIP_MARGIN * less
    result[list(LOWER_EDGE), 1] += LIP_MARGIN * less
    result[list(INNER_CORNERS), 0] += CORNER_MARGIN * less * np.sign(np.diff(points[list(INNER_CORNERS), 0])) * [-1.0, 1.0]
    return result


def _with_eyes(made: Tensor, image: Tensor, view: View, mesh: np.ndarray, wanted: np.ndarray, lids: Seam, under: Seam,
               unit: float) -> Tensor:
    """Return the face with its eyes between the lids, and a line of lashes on lids that shut.

    Eyes stay as they are while lids come down over them; where lids open wider, eyes stretch.
    """
    places, between = view.places, lids.inside * (1.0 - lids.above()) * under.above()
    shut = closing(mesh, wanted)
    source = mesh.copy()
    for eye in range(2):
        if shut[eye] > 0.0:
            for row in (UPPER_LIDS[eye], LOWER_LIDS[eye]):
                # No stretch: what is read moves with the corners alone.
                source[list(row)] = wanted[list(row)] + (mesh - wanted)[list(EYE_CORNERS[eye])].mean(axis=0)
    rows = [v for eye in range(2) for row in (UPPER_LIDS[eye], LOWER_LIDS[eye], EYE_CORNERS[eye]) for v in row]
    eyes = view.read(image, places + offsets(source[rows], wanted[rows], places))
    made = torch.lerp(made, eyes, between)
    for eye in range(2):
        if shut[eye] > 0.3:
            made = _with_lashes(made, view, wanted, eye, float((shut[eye] - 0.3) / 0.7), unit)
    return made


def _with_lashes(made: Tensor, view: View, wanted: np.ndarray, eye: int, strength: float, unit: float) -> Tensor:
    """Return the face with a dark line along the edge of an upper lid and its shade on the lid, less of both towards
    the corners."""
    places, (a, b) = view.places, EYE_CORNERS[eye]
    line = wanted[[a, *UPPER_LIDS[eye], b]]
    first, last = sorted((line[0, 0], line[-1, 0]))
    along = ((places[..., 0] - first) / (last - first)).clamp(0.0, 1.0)
    arch = (4.0 * along * (1.0 - along)).sqrt()
    thin = (LASHES * unit * arch).clamp_min(1e-6)
    below = places[..., 1] - curve(line, places[..., 0])
    lashes = LASH_DARK * torch.exp(-(below / thin).square())
    shade = LID_DARK * torch.exp(below.clamp(max=0.0) / (LID_SHADE * unit)) * torch.exp(-(below.clamp_min(0.0) / thin).square())
    return (made + 1.0) * (1.0 - strength * arch.sqrt() * torch.maximum(lashes, shade)) - 1.0
