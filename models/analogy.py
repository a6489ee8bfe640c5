"""Image analogies: what an artist made of a photo, patch by patch, for another photo (Hertzmann et al. 2001).

A pair is a photo A in the shape of its drawing, and the drawing A'. For a picture B of another face, every patch finds the
patch of A that it is like: where its landmarks put it inside of the face, by the part of the picture it lies in (skin, hair,
ground, the rest) and by its lightness and colour relative to that part elsewhere. The drawing's patches at those places, laid
over each other, are B' in the artist's own lines, grounds and strokes; what B has and the matched patches of A have not is
added, so that it stays a picture of its own person. Matching is repeated with B' and A' among what is compared (texture
optimisation, Kwatra et al. 2005), which joins neighbouring patches. Of the pair's own photo all of it gives the drawing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.look import landmark_grid, window_mean
from models.sampling_grids import pixel_lattice
from models.tones import opponent

# Side of the maps that are matched; px between patches, and their side; passes.
SIDE, STEP, PATCH, PASSES = 128, 2, 5, 2
# Parts of a picture, in this order.
SKIN, GROUND, HAIR, REST = range(4)
# How much parts count, lightness and colour relative to their part (in each part), and the drawing so far.
PART_WEIGHT, GUIDE_WEIGHT, GUIDE_OF_PART, DRAWN_WEIGHT = 4.0, 1.2, (1.0, 0.0, 1.0, 0.5), 2.0
# What a displacement by the whole side costs inside of the face and elsewhere; above the brows this share of the difference.
INSIDE, OUTSIDE, BROW = 50.0, 10.0, 0.4
# From the second pass on also what a patch costs that is not taken from beside its neighbours', whose mean displacement in a
# window of this deviation in patches says where that is.
ASTRAY, AROUND = 100.0, 1.5
# Deviation of a patch's weights, in px.
SOFT = 1.0
# Of what a picture has and the matched photo has not, the shares that are added in each part; of colours less. Broad
# differences, over windows of this deviation in px, are added as far as the drawing kept them of the photo.
OWN_OF_PART, OWN_COLOUR, BROAD = (0.8, 0.0, 0.5, 0.3), 0.35, 6.0
# Mean square of the difference in the skin at which a face is taken for the pair's own: 0.01 to 0.04 for that, 0.1 to 0.4 for
# others. From this strength on it is drawn whole.
OWN_FACE, OWN_WHOLE = 0.045, 0.3
# Strength at which broad colours, and all around the face, are the drawing's; deviation in px of SIDE of what is broad.
AHEAD, PALETTE = 0.45, 4.0
# Width of the likelihood of a colour, and what colours unlike any sample are given.
COLOUR_WIDTH, ELSE = 0.13, 0.03


def face_frame(points: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return where pixels lie in the frame of faces: (x, y) [N, 1, size, size] each.

    The nose is the origin; 1 is half the width of the jaw to the right, and the height from the bridge of the nose to the
    chin downwards.

    Args:
        points: [N, 68, 2] as fractions of the side.
    """
    origin, right, down = _axes(points)
    lattice = pixel_lattice(size, mode="exact").to(points) / 2.0 + 0.5
    offsets = lattice[None] - origin[:, None]  # [N, P, 2]
    x, y = ((offsets * axis[:, None]).sum(dim=2) / axis.square().sum(dim=1, keepdim=True).clamp_min(1e-8)
            for axis in (right, down))
    return x.reshape(-1, 1, size, size), y.reshape(-1, 1, size, size)


def _axes(points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the nose, half the width to the right and the height downwards, [N, 2] each, at a right angle."""
    down = points[:, 8] - points[:, 27]
    side = torch.stack([down[:, 1], -down[:, 0]], dim=1)
    half = 0.5 * (points[:, 16] - points[:, 0]).norm(dim=1, keepdim=True)
    return points[:, 27:36].mean(dim=1), half * F.normalize(side, dim=1), down


def _skin_places(points: Tensor) -> Tensor:
    """Return places of bare skin: cheeks, bridge of the nose, above the chin, [N, K, 2]."""
    cheeks = [torch.lerp(points[:, jaw], points[:, nose], share) for share in (0.2, 0.4, 0.6, 0.8)
              for jaws, nose in (((2, 3, 4), 31), ((14, 13, 12), 35)) for jaw in jaws]
    bridge = [torch.lerp(points[:, 27], points[:, 30], share) for share in (0.0, 0.5)]
    chin = [0.5 * (points[:, jaw] + points[:, 57]) for jaw in (6, 8, 10)]
    return torch.stack(cheeks + bridge + chin, dim=1)


def _hair_places(points: Tensor) -> Tensor:
    """Return places in two arcs over the forehead, [N, K, 2]; what is skin there says nothing of hair."""
    origin, right, down = _axes(points)
    arcs = [origin + radius * (math.sin(angle / 10.0) * right - math.cos(angle / 10.0) * down)
            for radius in (1.35, 1.55) for angle in range(-9, 10, 2)]
    return torch.stack(arcs, dim=1).clamp(0.02, 0.98)


def _ground_places(points: Tensor) -> Tensor:
    """Return places in the upper corners, [N, K, 2]."""
    x, y = points.new_tensor([0.02, 0.06, 0.1, 0.14]), points.new_tensor([0.02, 0.08, 0.14, 0.2, 0.27])
    left = torch.stack([x.repeat(5), y.repeat_interleave(4)], dim=1)
    both = torch.cat([left, torch.stack([1.0 - left[:, 0], left[:, 1]], dim=1)])
    return both.expand(len(points), -1, -1)


def _read(maps: Tensor, places: Tensor) -> Tensor:
    """Return what maps [N, C, H, W] hold at places [N, K, 2], [N, K, C]."""
    read = F.grid_sample(maps, (2.0 * places - 1.0)[:, :, None], mode="bilinear", padding_mode="border", align_corners=False)
    return read[..., 0].transpose(1, 2)


def _unlikeness(colours: Tensor, samples: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return how unlike samples [N, K, 3] colours [N, P, 3] are: the mean over the three nearest, [N, P]."""
    distance = (colours[:, :, None] - samples[:, None]).square().sum(dim=3) / COLOUR_WIDTH**2
    if weights is not None:
        distance = distance - 2.0 * weights.clamp_min(1e-4).log()[:, None]
    return distance.topk(3, dim=2, largest=False).values.mean(dim=2)


def face_parts(image: Tensor, points: Tensor) -> Tensor:
    """Return how far each pixel is skin, ground, hair or the rest: [N, 4, S, S] of sum 1.

    By the colours of places that the landmarks say, and by where such parts are expected.

    Args:
        image: [N, 3, S, S] in [-1, 1].
        points: landmarks [N, 68, 2] as fractions of the side.
    """
    size = image.shape[3]
    maps = window_mean(opponent(image), 0.7) * image.new_tensor([0.6, 1.6, 1.6]).reshape(1, 3, 1, 1)
    colours = maps.flatten(2).transpose(1, 2)  # [N, 3, S, S] -> [N, S^2, 3]
    skin = _read(maps, _skin_places(points))
    crown = _read(maps, _hair_places(points))
    bare = torch.exp(-0.5 * _unlikeness(crown, skin))
    like = [torch.exp(-0.5 * _unlikeness(colours, *samples)).reshape(-1, 1, size, size)
            for samples in ((skin,), (_read(maps, _ground_places(points)),), (crown, 1.0 - bare))]

    def rising(value: Tensor, width: float) -> Tensor:
        return torch.sigmoid(value / width)

    x, y = face_frame(points, size)
    radius = (x.square() + y.square()).sqrt()
    expected = (0.8 * rising(1.45 - radius, 0.1), rising(radius - 1.2, 0.12) * rising(0.9 - y, 0.15)
                * (1.0 + 3.0 * rising(radius - 2.0, 0.1)), 0.7 * rising(radius - 0.85, 0.06) * rising(2.3 - radius, 0.25),
                rising(y - 0.95, 0.06) * rising(radius - 0.95, 0.05))
    share = torch.cat([(where + 1e-3) * how for where, how in
                       zip(expected, (like[0] + 0.3 * ELSE, like[1] + ELSE, like[2] + ELSE, 3.0 * ELSE), strict=True)], dim=1)
    share = share / share.sum(dim=1, keepdim=True)
    inner = rising(0.97 - radius, 0.04) * rising(y + 0.42, 0.02)
    share = torch.cat([torch.maximum(share[:, :1], inner), share[:, 1:] * (1.0 - inner)], dim=1)
    share = _guided(share, image.mean(dim=1, keepdim=True)).clamp(1e-3, 1.0)
    return share / share.sum(dim=1, keepdim=True)


def _guided(maps: Tensor, guide: Tensor, *, sigma: float = 1.5, softness: float = 0.01) -> Tensor:
    """Return maps [N, C, S, S] smoothed but for the edges of a guide [N, 1, S, S] (guided filter, He et al. 2010)."""
    mean, middle = window_mean(guide, sigma), window_mean(maps, sigma)
    variance = window_mean(guide.square(), sigma) - mean.square()
    slope = (window_mean(maps * guide, sigma) - middle * mean) / (variance + softness)
    return window_mean(slope, sigma) * guide + window_mean(middle - slope * mean, sigma)


def _relative(image: Tensor, parts: Tensor, points: Tensor) -> Tensor:
    """Return opponent colours less the mean of their part, by part, [N, 4, 3, S, S], of sum over parts what they differ by."""
    colours = opponent(image)
    x, y = face_frame(points, image.shape[3])
    inner = torch.sigmoid((1.0 - (x.square() + y.square()).sqrt()) / 0.05)
    weights = torch.cat([parts[:, :1] * inner, parts[:, 1:]], dim=1)[:, :, None]
    means = (colours[:, None] * weights).sum(dim=(3, 4), keepdim=True) / weights.sum(dim=(3, 4), keepdim=True).clamp_min(1.0)
    return (colours[:, None] - means) * parts[:, :, None]


def _patches(maps: Tensor, count: int, *, apart: int = 1) -> Tensor:
    """Return count x count neighbours, ``apart`` px apart, of every second pixel: [N, C count^2, (S / STEP)^2]."""
    reach, size = apart * (count // 2), maps.shape[3]
    padded = F.pad(maps, (reach,) * 4, mode="reflect")
    shifts = [padded[:, :, top:top + size:STEP, left:left + size:STEP]
              for top in range(0, 2 * reach + 1, apart) for left in range(0, 2 * reach + 1, apart)]
    return torch.cat(shifts, dim=1).flatten(2)


def _described(relative: Tensor, parts: Tensor) -> Tensor:
    """Return what patches are compared by, [N, F, (S / STEP)^2]."""
    guide = (relative * relative.new_tensor(GUIDE_OF_PART).reshape(1, 4, 1, 1, 1)).sum(dim=1)
    low = F.interpolate(F.avg_pool2d(guide, 2), scale_factor=2.0, mode="bilinear", align_corners=False)
    return torch.cat([GUIDE_WEIGHT * _patches(low, 3, apart=3) / 3.0, GUIDE_WEIGHT * _patches(guide, 3) / 3.0,
                      PART_WEIGHT * _patches(window_mean(parts, 1.0), 3, apart=2) / 3.0], dim=1)


def _described_drawing(drawing: Tensor) -> Tensor:
    return DRAWN_WEIGHT * _patches(opponent(drawing), PATCH) / PATCH


def _kept(photo: Tensor, drawing: Tensor) -> Tensor:
    """Return how far a drawing keeps the broad colours of its photo, a number from 0 to 1: 0 where it has its own."""
    photo, drawing = (window_mean(opponent(image), BROAD) for image in (photo, drawing))
    spread = (photo - photo.mean(dim=(2, 3), keepdim=True)).square().mean()
    return (1.0 - 2.0 * (photo - drawing).square().mean() / (spread + 1e-3)).clamp(0.0, 1.0)


class Analogy(nn.Module):
    """Draws faces as a pair's photo was drawn.

    Args:
        photo: the pair's photo in the shape of its drawing, [1, 3, S, S] in [-1, 1]; None where there is only the drawing,
            which stands for it. Faces should be in its colours then, and none is the pair's own.
        drawing: [1, 3, S, S].
        points: landmarks of the drawing, [1, 68, 2] as fractions of the side.
    """

    def __init__(self, photo: Tensor | None, drawing: Tensor, points: Tensor) -> None:
        super().__init__()
        self.has_photo, photo = photo is not None, drawing if photo is None else photo
        small, drawn = (_sized(image, SIDE) for image in (photo, drawing))
        parts = face_parts(small, points)
        relative = _relative(small, parts, points)
        held = {"pair": torch.cat([photo, drawing], dim=1), "points": points, "drawn": drawn, "relative": relative.sum(dim=1),
                "described": _described(relative, parts), "described_drawing": _described_drawing(drawn),
                "kept": _kept(small, drawn) * float(self.has_photo)}
        for name, tensor in held.items():
            # Derived from the style's own tensors, so no part of any state.
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, image: Tensor, drawn: Tensor, points: Tensor, strength: float | Tensor) -> Tensor:
        """Return faces drawn as the pair's photo was.

        Args:
            image: the faces in the shape that they are to be drawn in, [N, 3, S, S].
            drawn: what they are drawn as otherwise, [N, 3, S, S].
            points: their landmarks [N, 68, 2] as fractions of the side.
            strength: 0 leaves ``drawn``, 1 takes the patches whole; between, broad colours and what lies around the face go
                ahead of the face's lines, which keep its person. One for all or [N, 1, 1, 1].

        Returns:
            [N, 3, S, S] in [-1, 1].
        """
        made, own = self.draw(image.clamp(-1.0, 1.0), points)
        strength = strength * torch.ones_like(own)
        strength = strength + (1.0 - strength) * own * (strength / OWN_WHOLE).clamp(max=1.0)
        x, y = face_frame(points, image.shape[3])
        inside = torch.sigmoid((1.05 - (x.square() + y.square()).sqrt()) / 0.08)
        missing = made - drawn.clamp(-1.0, 1.0)
        sigma = PALETTE * image.shape[3] / SIDE
        broad = window_mean(missing, sigma)
        ahead, fine = (strength / AHEAD).clamp(max=1.0), strength.square()
        return (drawn.clamp(-1.0, 1.0) + ahead * ((1.0 - inside) * missing + inside * broad)
                + fine * inside * (missing - broad)).clamp(-1.0, 1.0)

    def draw(self, image: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return faces [N, 3, S, S] drawn whole, and how far each is the pair's own, [N, 1, 1, 1] from 0 to 1."""
        size = image.shape[3]
        small = _sized(image, SIDE)
        parts = face_parts(small, points)
        relative = _relative(small, parts, points)
        places = self._matched(_described(relative, parts), points)
        relative = relative.sum(dim=1)
        matched = self._laid(self.relative, places, SIDE)
        difference = relative - matched
        skin = parts[:, :1]
        unlike = (difference.square().sum(dim=1, keepdim=True) * skin).sum(dim=(2, 3), keepdim=True)
        own = torch.exp(-(unlike / skin.sum(dim=(2, 3), keepdim=True) / OWN_FACE) ** 4) * float(self.has_photo)
        laid = self._laid(self.pair, places, size)
        photo, drawing = laid.split(3, dim=1)
        share = (parts * parts.new_tensor(OWN_OF_PART).reshape(1, 4, 1, 1)).sum(dim=1, keepdim=True)
        share = share * share.new_tensor([1.0, OWN_COLOUR, OWN_COLOUR]).reshape(1, 3, 1, 1)
        broad = window_mean(opponent(small) - opponent(_sized(photo, SIDE)), BROAD)
        added = share * (difference - window_mean(difference, BROAD)) + self.kept * broad
        added = _sized(opponent(added, back=True), size)
        return (drawing + added).clamp(-1.0, 1.0), own

    def _matched(self, described: Tensor, points: Tensor) -> Tensor:
        """Return which patch of the pair every patch [N, F, L] is most like, [N, L]."""
        x, y = face_frame(points, SIDE)
        # Of foreheads, and of what hangs over them, landmarks say less than from the brows down.
        inside = torch.sigmoid((1.0 - (x.square() + y.square()).sqrt()) / 0.08)
        inside = inside * (BROW + (1.0 - BROW) * torch.sigmoid((y + 0.6) / 0.04))
        inside = inside[:, :, ::STEP, ::STEP].flatten(2)
        cost = (OUTSIDE + (INSIDE - OUTSIDE) * inside).square().transpose(1, 2)  # [N, L, 1]
        goal = (landmark_grid(points, self.points, SIDE) / 2.0 + 0.5)[:, ::STEP, ::STEP].flatten(1, 2)  # [N, L, 2]
        lattice = (pixel_lattice(SIDE, mode="exact").to(points) / 2.0 + 0.5).reshape(SIDE, SIDE, 2)[::STEP, ::STEP]
        ticks, lattice = lattice[0, :, 0], lattice.reshape(1, -1, 2)
        away = [cost * (goal[:, :, axis, None] - ticks).square() for axis in (0, 1)]  # [N, L, SIDE / STEP] across and down
        ours, theirs = described, self.described.expand(len(points), -1, -1)
        found = self._nearest(ours, theirs, away)
        theirs = torch.cat([theirs, self.described_drawing.expand(len(points), -1, -1)], dim=1)
        for _ in range(PASSES - 1):
            drawn = _described_drawing(self._laid(self.drawn, found, SIDE))
            beside = lattice + window_mean(self._moved(found).to(points), AROUND).flatten(2).transpose(1, 2) / SIDE
            astray = [ASTRAY**2 * (beside[:, :, axis, None] - ticks).square() for axis in (0, 1)]
            found = self._nearest(torch.cat([ours, drawn], dim=1), theirs, [away[0] + astray[0], away[1] + astray[1]])
        return found

    @staticmethod
    def _nearest(ours: Tensor, theirs: Tensor, away: list[Tensor]) -> Tensor:
        """Return the most like of ``theirs`` [N, F, L] for each of ``ours``, [N, L], given the costs of displacements.

        Those are sums of one of the column and one of the row, [N, L, SIDE / STEP] each, and not part of the product: next to
        their size what tells patches apart would be lost in its rounding.
        """
        norm = -0.5 * theirs.square().sum(dim=1, keepdim=True)
        ours, theirs = torch.cat([ours, torch.ones_like(ours[:, :1])], dim=1), torch.cat([theirs, norm], dim=1)
        side = SIDE // STEP
        likeness = (ours.transpose(1, 2) @ theirs).reshape(-1, side * side, side, side)
        # In place: these are 67 MB a face.
        likeness.sub_(0.5 * away[0][:, :, None]).sub_(0.5 * away[1][:, :, :, None])
        return likeness.flatten(2).argmax(dim=2)

    @staticmethod
    def _moved(found: Tensor) -> Tensor:
        """Return how far away in px of ``SIDE`` the patches ``found`` [N, L] lie, [N, 2, SIDE / STEP, SIDE / STEP]."""
        side = SIDE // STEP
        own = torch.arange(side * side, device=found.device)
        moved = torch.stack([found % side - own % side, found // side - own // side], dim=1) * STEP
        return moved.reshape(-1, 2, side, side)

    def _laid(self, maps: Tensor, found: Tensor, size: int) -> Tensor:
        """Return maps [1, C, S, S] with the patches ``found`` [N, L] laid over each other, [N, C, size, size].

        Every pixel is the mean of what the patches around it say of it, by a Gaussian of its distance from their centres.
        """
        side, count = SIDE // STEP, len(found)
        moved = self._moved(found).to(maps)
        cells, offset = self._cells(size, maps)
        lattice = pixel_lattice(size, mode="exact").to(maps).reshape(1, size, size, 2)
        total = weight = 0.0
        for down in (-1, 0, 1):
            for right in (-1, 0, 1):
                y, x = (cells + down).clamp(0, side - 1), (cells + right).clamp(0, side - 1)
                shift = moved[:, :, y][:, :, :, x].permute(0, 2, 3, 1)  # [N, size, size, 2]
                away = (offset - down * STEP).square()[:, None] + (offset - right * STEP).square()[None]
                near = torch.exp(-0.5 * away / SOFT**2) * (away < (PATCH / 2.0 + 0.5) ** 2)
                read = F.grid_sample(maps.expand(count, -1, -1, -1), lattice + shift * (2.0 / SIDE), mode="bilinear",
                                     padding_mode="border", align_corners=False)
                total, weight = total + near * read, weight + near
        return total / weight

    @staticmethod
    def _cells(size: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return for every row of ``size`` the nearest patch's index, and the distance from its centre in px of SIDE."""
        place = (torch.arange(size, device=like.device) + 0.5) * (SIDE / size) - 0.5
        cells = torch.div(place + 0.5 * STEP - 0.5, STEP, rounding_mode="floor").clamp(0, SIDE // STEP - 1).long()
        return cells, (place - cells * STEP).to(like)


def _sized(image: Tensor, size: int) -> Tensor:
    """Return images at ``size`` px; as they are where they have it."""
    if image.shape[3] == size:
        return image
    if image.shape[3] % size == 0:
        return F.avg_pool2d(image, image.shape[3] // size)
    return F.interpolate(image, size=(size, size), mode="bilinear", align_corners=False)
