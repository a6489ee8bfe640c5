"""What can be asked of a deformable style that draws with its generator, as released ones do."""

from __future__ import annotations

from styles.controls import Control

ALPHA = Control("alpha", "deformation degree, 0 undeformed, 1 as learned, or degrees by region: eyes=1.2,mouth=0.4",
                default=0.8, samples=0.6, low=-0.5, high=1.5, sweep=(-0.5, 1.0), per="region", label="Strength")
COLOR = Control("color_strength", "0 keeps the face's colours, 1 takes the drawing's; left to the generator where not given",
                low=0.0, high=1.5, label="Colours: 0 the face's, 1 the drawing's")
