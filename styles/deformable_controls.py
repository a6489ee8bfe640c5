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
# With a painter the features' look need not say everything, and less of it leaves more of the person.
MANNER = Control("manner_strength", "how far faces are drawn in the manner of the drawing, 0 leaves them as generated",
                 default=0.75, high=1.0, label="Manner of the drawing")
PAINTED_LOOK = replace(MATCHED_LOOK, default=0.3, samples=0.5)
PAINTED_COLOR = replace(MATCHED_COLOR, samples=0.75)
PAINTED_TONE = replace(TONE, default=0.2, samples=0.2)


def deformable_controls(transformers: Mapping[str, Any], names: Sequence[str]) -> tuple[Control, ...]:
    """Return the controls of a style by the shape of its transformers and the names of its tensors."""
    if not transformers.get("look"):
        return (ALPHA, COLOR) if "target_latent" in names else (ALPHA,)
    if transformers.get("look_form", "added") == "added":
        return ALPHA, LOOK, DRAWN_COLOR
    if "manner" in names:
        return ALPHA, PAINTED_LOOK, PAINTED_COLOR, MANNER, PAINTED_TONE
    return ALPHA, MATCHED_LOOK, MATCHED_COLOR, TONE


def look_shares(values: Mapping[str, Any]) -> tuple[float, float]:
    """Return how far faces are drawn in the drawing's manner, and how far tones go to its: who wants none of the look wants
    none of them either."""
    manner, look = values.get(MANNER.name), values.get(LOOK.name, 0.0)
    share = min(1.0, look if manner is None else look / PAINTED_LOOK.default)
    return share * (manner or 0.0), share * values.get(TONE.name, 0.0)
