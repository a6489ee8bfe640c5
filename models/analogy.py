"""Image analogies: what an artist made of a photo, patch by patch, for another photo (Hertzmann et al. 2001).

A pair is a photo A in the shape of its drawing, and the drawing A'. For a picture B of another face, every patch finds the
patch of A that it is like: where its landmarks put it inside of the face, by the part of the picture it lies in (skin, hair,
ground, the rest) and by its lightness and colour relative to that part elsewhere. The drawing's patches at those places, laid
over each other, are B' in the artist's own lines, grounds and strokes; what B has and the matched patches of A have not is
added, so that it stays a picture of its own person. Matching is repeated with B' and A' among what is compared (texture
optimisation, Kwatra et al. 2005), which joins neighbouring patches. Of the pair's own photo all of it gives the drawing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.grain import Grain, Screen
from models.kept import BROAD, SIDE, colour_slopes, kept_whole
from models.look import landmark_grid, window_mean
from models.matches import Matches
from models.parts import GROUND, PartsNetwork, face_frame, face_parts
from models.sampling_grids import pixel_lattice
from models.tones import opponent

# Px between patches that are matched, and their side; passes.
STEP, PATCH, PASSES = 2, 5, 2
# How much parts count, lightness and colour relative to their part (in each part), and the drawing so far.
PART_WEIGHT, GUIDE_WEIGHT, GUIDE_OF_PART, DRAWN_WEIGHT = 4.0, 1.2, (1.0, 0.0, 1.0, 0.5), 2.0
# What a displacement by the whole side costs inside of the face and elsewhere; above the brows this share of the difference.
INSIDE, OUTSIDE, BROW = 50.0, 10.0, 0.4
# From the second pass on also what a patch costs that is not taken from beside its neighbours', whose mean displacement in a
# window of this deviation in patches says where that is.
ASTRAY, AROUND = 100.0, 1.5
# In clips, the patches around one whose matches in the last frame are tried, itself first; of how many rows one is matched anew
# per frame; and what being the last frame's counts.
BESIDE, FRESH, LASTING = ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0)), 32, 0.05
# Deviation of a patch's weights, in px.
SOFT = 1.0
# Of what a picture has and the matched photo has not, the shares that are added in each part; of colours less. Broad
# differences are added as far as the drawing kept them of the photo.
OWN_OF_PART, OWN_COLOUR = (0.8, 0.0, 0.3, 0.3), 0.35
# Shares of a pair's photo up to which it says nothing of a part, and from which on it says all.
UNSEEN, SEEN = 0.01, 0.04
# How far a drawing keeps all of its photo, from 0 to 1, from which on it is taken for a filter of it.
KEEPS = 0.5
# Mean square of the difference in the skin at which a face is taken for the pair's own: 0.01 to 0.04 for that, 0.1 to 0.4 for
# others. From this strength on it is drawn whole.
OWN_FACE, OWN_WHOLE = 0.045, 0.15
# Share of the pair's strokes that grain stands for where the drawing has it all over.
GRAINED = 0.5
# Strengths at which all around the face, and its broad colours, are the drawing's; deviation in px of SIDE of what is broad.
AHEAD, COLOURED, PALETTE = 0.15, 0.45, 4.0


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


def _with_norm(described: Tensor) -> Tensor:
    """Append to what patches are described by, [1, F, L], what products with others lack to say how like they are."""
    return torch.cat([described, -0.5 * described.square().sum(dim=1, keepdim=True)], dim=1)


class Analogy(nn.Module):
    """Draws faces as a pair's photo was drawn.

    Args:
        photo: the pair's photo in the shape of its drawing, [1, 3, S, S] in [-1, 1].
        drawing: [1, 3, S, S].
        points: landmarks of the drawing, [1, 68, 2] as fractions of the side.
        network: tells the parts of pictures.
        guessed: the photo is a guess from the drawing, which says little of what the drawing kept of it.
    """

    def __init__(self, photo: Tensor, drawing: Tensor, points: Tensor, network: PartsNetwork, *,
                 guessed: bool = False) -> None:
        super().__init__()
        self.network = network
        small, drawn = (_sized(image, SIDE) for image in (photo, drawing))
        parts = face_parts(network, small, points)
        relative = _relative(small, parts, points)
        held = {"pair": torch.cat([photo, drawing], dim=1), "points": points, "drawn": drawn, "relative": relative.sum(dim=1),
                "described": _described(relative, parts),
                "known": ((parts.mean(dim=(2, 3), keepdim=True) - UNSEEN) / (SEEN - UNSEEN)).clamp(0.0, 1.0),
                "own_share": parts.new_tensor(OWN_OF_PART).reshape(1, 4, 1, 1),
                "kept": colour_slopes(small, drawn, parts, guessed=guessed)}
        both = torch.cat([held["described"], _described_drawing(drawn)], dim=1)
        held |= {"described": _with_norm(held["described"]), "described_both": _with_norm(both),
                 "described_rows": both[0].t().contiguous()}
        whole = 0.0 if guessed else kept_whole(small, drawn, parts[:, GROUND:GROUND + 1])
        self.keeps_all = bool(whole > KEEPS)
        if self.keeps_all:
            screen, grain = Screen.read(photo, drawing), Grain.read(drawing)
            held |= {f"screen_{name}": tensor for name, tensor in screen._asdict().items()}
            held |= {f"grain_{name}": tensor for name, tensor in grain._asdict().items()}
            rest = drawing - screen.on(photo)
            rest = rest - window_mean(rest, BROAD * rest.shape[3] / SIDE)
            held["pair"] = torch.cat([held["pair"], rest], dim=1)
        for name, tensor in held.items():
            # Derived from the style's own tensors, so no part of any state.
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, image: Tensor, drawn: Tensor, points: Tensor, strength: float | Tensor,
                last: Matches | None = None) -> Tensor:
        """Return faces drawn as the pair's photo was.

        Args:
            image: the faces in the shape that they are to be drawn in, [N, 3, S, S].
            drawn: what they are drawn as otherwise, [N, 3, S, S].
            points: their landmarks [N, 68, 2] as fractions of the side.
            strength: 0 leaves ``drawn``, 1 takes the patches whole; between, what lies around the face and broad colours go
                ahead of the face's lines, which keep its person. One for all or [N, 1, 1, 1].

        Returns:
            [N, 3, S, S] in [-1, 1].
        """
        image, drawn = image.clamp(-1.0, 1.0), drawn.clamp(-1.0, 1.0)
        made, own = self.draw(image, points, last, drawn)
        strength = strength * torch.ones_like(own)
        strength = strength + (1.0 - strength) * own * (strength / OWN_WHOLE).clamp(max=1.0)
        x, y = face_frame(points, image.shape[3])
        inside = torch.sigmoid((1.05 - (x.square() + y.square()).sqrt()) / 0.08)
        ahead, coloured = ((strength / most).clamp(max=1.0) for most in (AHEAD, COLOURED))
        fine = coloured if self.keeps_all else strength.square()
        plain = self._screen.on(image) if self.keeps_all else drawn
        missing = made - plain
        broad = window_mean(missing, PALETTE * image.shape[3] / SIDE)
        made = (torch.lerp(drawn, plain, ahead) + ahead * (1.0 - inside) * missing
                + inside * (coloured * broad + fine * (missing - broad))).clamp(-1.0, 1.0)
        return made if last is None else last.steadied(image, made, points)

    def draw(self, image: Tensor, points: Tensor, last: Matches | None = None,
             drawn: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return faces [N, 3, S, S] drawn whole, and how far each is the pair's own, [N, 1, 1, 1] from 0 to 1.

        Parts of which the pair shows nothing, as often shoulders, are as ``drawn`` otherwise, or as they are.
        """
        size = image.shape[3]
        small = _sized(image, SIDE)
        parts = face_parts(self.network, small, points)
        if last is not None:
            last.ground = parts[:, GROUND:GROUND + 1]
        relative = _relative(small, parts, points)
        places, between = self._matched(_described(relative, parts), points, last)
        relative = relative.sum(dim=1)
        if size == SIDE:  # both at once: places are what takes the time
            both = torch.cat([self.relative, self.pair], dim=1)
            matched, laid = self._laid(both, places, SIDE, between).tensor_split((3,), dim=1)
        else:
            matched, laid = self._laid(self.relative, places, SIDE, between), self._laid(self.pair, places, size, between)
        difference = relative - matched
        skin = parts[:, :1]
        unlike = (difference.square().sum(dim=1, keepdim=True) * skin).sum(dim=(2, 3), keepdim=True)
        own = torch.exp(-(unlike / skin.sum(dim=(2, 3), keepdim=True) / OWN_FACE) ** 4)
        if self.keeps_all:
            plain, grain = self._screen.on(image), Grain(*(getattr(self, f"grain_{name}") for name in Grain._fields))
            share = (1.0 - own) * grain.share
            return grain.on(plain + (1.0 - GRAINED * share) * laid[:, 6:], strength=share), own
        photo, drawing = laid.split(3, dim=1)
        share = (parts * self.own_share).sum(dim=1, keepdim=True)
        share = share * share.new_tensor([1.0, OWN_COLOUR, OWN_COLOUR]).reshape(1, 3, 1, 1)
        broad = window_mean(opponent(small) - opponent(_sized(photo, SIDE)), BROAD)
        broad = (self.kept @ broad.flatten(2)[:, None]).reshape(-1, 4, 3, SIDE, SIDE)  # [N, 3, S, S] -> [N, 4, 3, S, S]
        added = share * (difference - window_mean(difference, BROAD)) + (parts[:, :, None] * broad).sum(dim=1)
        added = _sized(opponent(added, back=True), size)
        known = _sized((parts * self.known).sum(dim=1, keepdim=True), size)
        return torch.lerp(image if drawn is None else drawn, (drawing + added).clamp(-1.0, 1.0), known), own

    @property
    def _screen(self) -> Screen:
        return Screen(*(getattr(self, f"screen_{name}") for name in Screen._fields))

    def _matched(self, described: Tensor, points: Tensor, last: Matches | None = None) -> tuple[Tensor, Tensor]:
        """Return which patch of the pair every patch [N, F, L] is most like, [N, L], and ``between`` for ``_laid``."""
        x, y = face_frame(points, SIDE)
        # Of foreheads, and of what hangs over them, landmarks say less than from the brows down.
        inside = torch.sigmoid((1.0 - (x.square() + y.square()).sqrt()) / 0.08)
        face = inside[:, :, ::STEP, ::STEP]
        inside = inside * (BROW + (1.0 - BROW) * torch.sigmoid((y + 0.6) / 0.04))
        inside = inside[:, :, ::STEP, ::STEP].flatten(2)
        cost = (OUTSIDE + (INSIDE - OUTSIDE) * inside).square().transpose(1, 2)  # [N, L, 1]
        goal = (landmark_grid(points, self.points, SIDE, step=STEP) / 2.0 + 0.5).flatten(1, 2)  # [N, L, 2]
        lattice = (pixel_lattice(SIDE, mode="exact").to(points) / 2.0 + 0.5).reshape(SIDE, SIDE, 2)[::STEP, ::STEP]
        ticks, lattice = lattice[0, :, 0], lattice.reshape(1, -1, 2)
        between = (goal - lattice) * (SIDE / STEP)
        between = STEP * (between - between.round()).transpose(1, 2).reshape(-1, 2, *face.shape[2:]) * face
        away = [cost * (goal[:, :, axis, None] - ticks).square() for axis in (0, 1)]  # [N, L, SIDE / STEP] across and down
        known = last is not None and last.found is not None
        found = last.found if known else self._nearest(described, self.described, away)
        for _ in range(PASSES - 1):
            ours = torch.cat([described, _described_drawing(self._laid(self.drawn, found, SIDE, between))], dim=1)
            beside = lattice + window_mean(self._moved(found).to(points), AROUND).flatten(2).transpose(1, 2) / SIDE
            costs = [one + ASTRAY**2 * (beside[:, :, axis, None] - ticks).square() for axis, one in enumerate(away)]
            found = self._next(ours, costs, last) if known else self._nearest(ours, self.described_both, costs)
        if last is not None:
            last.found, last.frames = found, last.frames + 1
        return found, between

    def _next(self, ours: Tensor, away: list[Tensor], last: Matches) -> Tensor:
        """Return what ``_nearest`` does, of what lay around a patch in the last frame; for each ``FRESH``-th row of all.

        What a patch was in the last frame it stays unless another one is more like it by ``LASTING``.
        """
        side, found = SIDE // STEP, last.found
        row, column = (found // side).reshape(1, 1, side, side), (found % side).reshape(1, 1, side, side)
        around = []
        for down, right in BESIDE:
            # What lies beside a patch should come from beside its neighbour's.
            rows, columns = (torch.roll(maps, (-down, -right), dims=(2, 3)) - shift
                             for maps, shift in ((row, down), (column, right)))
            around.append((rows.clamp(0, side - 1) * side + columns.clamp(0, side - 1)).flatten(2))
        around = torch.cat(around, dim=1)[0]  # [K, L]

        own = ours[0].t().contiguous()  # [L, F], as of theirs are kept: rows that can be read as a whole

        def likeness(where: Tensor | slice, places: Tensor) -> Tensor:
            """Return how like patches [M] are to those that are tried for them, [M]."""
            value = (self.described_rows[places] * own[where]).sum(dim=1) + self.described_both[0, -1, places]
            for maps, place in zip(away, (places % side, places // side), strict=True):
                value = value - 0.5 * maps[0, where].gather(1, place[:, None])[:, 0]
            return value

        before, *others = around
        found, best = before.clone(), likeness(slice(None), before) + LASTING
        for places in others:
            # Most neighbours agree.
            some = (places != before).nonzero()[:, 0]
            tried, value = places[some], likeness(some, places[some])
            is_better = value > best[some]
            found[some], best[some] = torch.where(is_better, tried, found[some]), torch.where(is_better, value, best[some])
        some = torch.arange(side * side, device=found.device).reshape(side, side)[last.frames % FRESH::FRESH].flatten()
        anew = self._nearest(ours[:, :, some], self.described_both, [maps[:, some] for maps in away])[0]
        found[some] = torch.where(likeness(some, anew) > best[some], anew, found[some])
        return found[None]

    @staticmethod
    def _nearest(ours: Tensor, theirs: Tensor, away: list[Tensor]) -> Tensor:
        """Return the most like of ``theirs``, see ``_with_norm``, for each of ``ours`` [N, F, M], [N, M].

        Costs of displacements ``away`` are sums of one of the column and one of the row, [N, M, SIDE / STEP] each, and not part
        of the product: next to their size what tells patches apart would be lost in its rounding.
        """
        ours = torch.cat([ours, torch.ones_like(ours[:, :1])], dim=1).transpose(1, 2).contiguous()
        side = SIDE // STEP
        likeness = (ours @ theirs).reshape(len(ours), -1, side, side)
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

    def _laid(self, maps: Tensor, found: Tensor, size: int, between: Tensor) -> Tensor:
        """Return maps [1, C, S, S] with the patches ``found`` [N, L] laid over each other, [N, C, size, size].

        They are read ``between`` [N, 2, SIDE / STEP, SIDE / STEP] px of ``SIDE`` beside themselves: patches lie ``STEP`` px
        apart, and where landmarks say where to look they say it more finely. A face that moves slowly does not jump then.

        Every pixel is the mean of what the patches around it say of it, by a Gaussian of its distance from their centres.
        """
        side, count = SIDE // STEP, len(found)
        moved = (self._moved(found).to(maps) + between.to(maps)).permute(0, 2, 3, 1).contiguous()
        cells, offset = self._cells(size, maps)
        lattice = pixel_lattice(size, mode="exact").to(maps).reshape(1, size, size, 2)
        total = weight = 0.0
        for down in (-1, 0, 1):
            row = moved.index_select(1, (cells + down).clamp(0, side - 1))
            for right in (-1, 0, 1):
                shift = row.index_select(2, (cells + right).clamp(0, side - 1))  # [N, size, size, 2]
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
