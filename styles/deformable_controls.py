"""What can be asked of a deformable style."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from styles.controls import Control

ALPHA = Control("alpha", "deformation degree, 0 undeformed, 1 as learned, or degrees by region: eyes=1.2,mouth=0.4",
                default=0.8, samples=0.6, low=-0.5, high=1.5, sweep=(-0.5, 1.0), per="region", label="Strength")
COLOR = Control("color_strength", "0 keeps the face's colours, 1 takes the drawing's; left to the generator where not given",
                low=0.0, high=1.5, label="Colours: 0 the face's, 1 the drawing's")


# Styles with a residual of their own are drawn in the drawing's rows, which that residual was made for.
DRAWN_COLOR = replace(COLOR, default=1.0, help="0 keeps the face's colours, 1 takes the drawing's")
# A photo keeps more of its person with less than the whole look.
LOOK = Control("look_strength", "how much of the drawing's own look is added, 0 none, 1 as in the pair", default=0.7,
               samples=1.0, high=1.5, label="Look of the drawing")
# A look that follows the face's own parts can be taken whole; less than all of the drawing's rows keeps more of a person.
MATCHED_LOOK = replace(LOOK, default=0.9, samples=1.0, help="how much of the drawing's look is taken: 0 none, 1 all")
TONE = Control("tone_strength", "how far sharpness, contrast and colours of the whole picture go to the drawing's, 0 leaves "
               "them", default=0.5, samples=0.7, high=1.0, label="Tones of the drawing")
# Of the colours a smaller share: a ground of one colour is the drawing's own.
COLOR_SHARE = 0.5
MATCHED_COLOR = replace(DRAWN_COLOR, default=0.75, samples=1.0)
# Where the painter can draw what the drawing shows, the features' look need not say everything, and less of it leaves more of
# the person. Where it cannot, see ``training.manner``, look, rows and tones of the drawing say it.
MANNER = Control("manner_strength", "how far faces are drawn in the manner of the drawing, 0 leaves them as generated",
                 default=0.9, high=1.0, label="Manner of the drawing")
# What no inversion shows of a photo goes with the warp; a little less than all of it leaves room for the drawing's own hand.
DETAIL = Control("detail", "share of what a photo shows beyond its inversion; 0 leaves it out", default=0.8, high=1.0,
                 label="Detail of the photo")
PATCHES = Control("patch_strength", "how far faces are drawn with patches of the drawing itself, 0 not at all, 1 whole",
                  default=0.45, samples=0.8, high=1.0, label="Patches of the drawing")
# Defaults for photos and for samples: of a style that the painter has no part in, and of one that it draws; where the file holds
# the pair, patches say all that the rest would of the first, and leave the painter less to do of the second.
UNPAINTED = {LOOK: (0.6, 0.5), COLOR: (0.75, 0.1), TONE: (0.7, 0.7), MANNER: (0.0, 0.0)}
PAINTED = {LOOK: (0.3, 0.3), COLOR: (0.3, 0.3), TONE: (0.0, 0.0), MANNER: (0.9, 0.9)}
PAINTED_TOO = {**PAINTED, MANNER: (0.75, 0.9), PATCHES: (0.15, 0.8)}
PATCHED = {LOOK: (0.0, 0.0), COLOR: (0.0, 0.0), TONE: (0.0, 0.0), MANNER: (0.0, 0.0), PATCHES: (0.45, 0.8)}


def deformable_controls(transformers: Mapping[str, Any], names: Sequence[str], *, share: float = 1.0) -> tuple[Control, ...]:
    """Return the controls of a style by the shape of its transformers and the names of its tensors.

    ``share`` is how much of it the painter draws, see ``training.manner``.
    """
    if not transformers.get("look"):
        return (ALPHA, COLOR) if "target_latent" in names else (ALPHA,)
    if transformers.get("look_form", "added") == "added":
        return ALPHA, LOOK, DRAWN_COLOR, DETAIL
    if "manner" in names:
        return ALPHA, *painted_controls(share, patches="pair" in names), DETAIL
    return ALPHA, MATCHED_LOOK, MATCHED_COLOR, TONE, DETAIL


def painted_controls(share: float, *, patches: bool) -> tuple[Control, ...]:
    """Return look, colours, manner, tones, and patches where the style has them, with their defaults.

    ``share`` is how much of the style the painter draws, 0 to 1.
    """
    unpainted, drawn = (PATCHED, PAINTED_TOO) if patches else (UNPAINTED, PAINTED)

    def between(control: Control, about: Control) -> Control:
        photos, samples = (round(low + share * (high - low), 3)
                           for low, high in zip(unpainted[control], drawn[control], strict=True))
        return replace(about, default=photos, samples=samples)

    pairs = [(LOOK, MATCHED_LOOK), (COLOR, MATCHED_COLOR), (MANNER, MANNER), (TONE, TONE)]
    return tuple(between(*pair) for pair in pairs + ([(PATCHES, PATCHES)] if patches else []))


def look_shares(values: Mapping[str, Any], *, whole: float) -> tuple[float, float, float]:
    """Return how far faces are drawn in the drawing's manner, how far tones go to its, and how far its patches are taken.

    Who wants none of the look wants none of them either; ``whole`` is the look at which they are taken as they are, and where
    that is 0 they do not depend on it.
    """
    share = min(1.0, values.get(LOOK.name, 0.0) / whole) if whole else 1.0
    return tuple(share * values.get(control.name, 0.0) for control in (MANNER, TONE, PATCHES))
