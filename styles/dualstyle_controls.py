"""Controls of exemplar styles."""

from __future__ import annotations

from dataclasses import replace

from styles.controls import SWITCH, Control

RANDOM = "random"
STRUCTURE = Control("structure", "weight of the exemplar's structure, or numbers separated by commas, one per row of 0 to 6",
                    default=0.75, per="row", label="Structure: 0 the face's, 1 the exemplar's")
COLOR = Control("color", "weight of the exemplar's colours, or numbers separated by commas, one per row from 7 on",
                default=1.0, per="row", label="Colours: 0 the face's, 1 the exemplar's")
WEIGHT = Control("weight", "one number per row for structure and colours together, as the published command takes them; "
                 "instead of both", per="row", label="Weights of all rows")
PRESERVE = Control("preserve_color", "make the exemplar's colours from the photo's own", default="no", type="choice",
                   choices=SWITCH, label="Keep the photo's colours")
# What stands for no exemplar of its own.
SAME, NONE = "same", "none"
SEED = Control("style_seed", f"seed of the exemplar that is drawn for --exemplar {RANDOM}; 0 where not given", low=0.0,
               high=100.0, label="Random exemplar")
COLOR_SEED = Control("color_seed", f"likewise for --color-exemplar {RANDOM}; the same where not given", low=0.0, high=100.0,
                     label="Random colours")
REFINE = Control("refine_steps", "steps by which the rows of a portrait that is a file are refined, which are then kept in the "
                 "cache; 0 takes what the encoder gives", default=100.0, high=300.0, sweep=(0.0, 100.0),
                 label="Refinement of a portrait's file: steps")
SHARE = Control("second_share", "share of the second exemplar in the mixture; a half where not given",
                label="Share of the second exemplar")


def dual_controls(exemplars: tuple[str, ...], *, random: bool, truncation: float,
                  refine: int | None = None) -> tuple[Control, ...]:
    """Return the controls of a style with these exemplars, with ``random`` a sampler, and a default of refinement,
    or none."""
    choices = (*exemplars, RANDOM) if random and RANDOM not in exemplars else exemplars
    text = "an exemplar of the gallery by its name or its number from 0, or the file of an aligned portrait"
    if choices:
        exemplar = Control("exemplar", text, type="choice", choices=choices, default=choices[0], files=True,
                           numbered=True)
        others = (
            Control("color_exemplar", "another one, whose colours are taken with the first one's structure", type="choice",
                    choices=(SAME, *choices), default=SAME, files=True, label="Colours of"),
            *((COLOR_SEED,) if random else ()),
            Control("second_exemplar", "another one, mixed with the first", type="choice", choices=(NONE, *choices),
                    default=NONE, files=True, label="Second exemplar"), SHARE)
    else:
        exemplar, others = Control("exemplar", "file of an aligned portrait", type="file"), ()
    truncated = Control("face_truncation", "what the rows of the face are multiplied with; less gives a calmer face",
                        default=float(truncation), label="Truncation of the face")
    kept = () if refine is None else (replace(REFINE, default=float(refine)),)
    return (exemplar, STRUCTURE, COLOR, *kept, PRESERVE, *others, *((SEED,) if random else ()), WEIGHT, truncated)
