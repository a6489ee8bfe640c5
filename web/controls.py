"""Widgets for the controls of any style, and what they say as a look.

Every widget says that it can be moved: the page's library takes those that are made while it runs for display alone.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from pipeline.cli import UserError
from styles.controls import REGIONS, ByRegion, Control, Look
from web.uploads import breakable, photo_input

# A choice with more values than this is a list to search in, not a row of buttons.
MAX_BUTTONS = 8
FACTOR_RANGE = (-1.0, 2.0)
Kept = dict[str, tuple[Control, list[Any]]]


def step_of(low: float, high: float) -> float:
    """Return a step of 1, 2 or 5 times a power of ten that divides a range into about 30 to 75."""
    least = (high - low) / 75
    power = 10.0 ** math.floor(math.log10(least))
    return round(power * next(factor for factor in (1, 2, 5, 10) if power * factor >= least), 12)


def first_values(control: Control, *, samples: bool) -> list[Any]:
    """Return what the widgets of a control show at first: the control's default, left to the style where it has none.

    Numbers are [number], behind a switch where there is no default, then a factor per region, or a text with numbers per
    row; choices are [text or None], and [text or None, path or None] where a file will do as well; files [path or None].
    """
    default = control.default_for(samples=samples)
    if control.type != "number":
        return [default if control.type == "choice" else None] + [None] * (control.type == "choice" and control.files)
    first = [default] if default is not None else [False, min(max(1.0, control.low), control.high)]
    return first + {"region": [1.0] * len(REGIONS), "row": [""], None: []}[control.per]


def value_of(control: Control, values: Sequence[Any]) -> Any:
    """Return a control's value from those of its widgets, in the order of ``first_values``; None leaves it to the style.

    Raises:
        UserError: for a text or a file that the control does not take.
    """
    try:
        if control.type != "number":
            given = [value for value in values if value is not None]
            return control.parse(str(given[-1])) if given else None  # a file goes before a choice
        if control.default is None:
            switched, *values = values
            if not switched:
                return None
        number, *rest = values
        if control.per == "row" and str(rest[0] or "").strip():
            return control.parse(str(rest[0]))
    except argparse.ArgumentTypeError as error:
        raise UserError(f"{control.title}: {error}") from error
    changed = [(name, number * factor) for name, factor in zip(REGIONS, rest) if factor != 1.0] \
        if control.per == "region" else []
    return ByRegion(float(number), tuple(changed)) if changed else float(number)


@dataclass(frozen=True)
class Panel:
    """The widgets of a style's controls on one tab.

    Attributes:
        controls: of the style.
        widgets: per control, in the order of ``first_values``.
    """

    controls: tuple[Control, ...]
    widgets: tuple[tuple[gr.components.Component, ...], ...]

    @property
    def inputs(self) -> list[gr.components.Component]:
        """All widgets one after the other, as the inputs of an event."""
        return [widget for row in self.widgets for widget in row]

    def rows(self, values: Sequence[Any]) -> Kept:
        """Return the values of ``inputs`` by control, to be shown again where another style has the same one."""
        left = iter(values)
        return {control.name: (control, [next(left) for _ in row])
                for control, row in zip(self.controls, self.widgets, strict=True)}


def kept_values(control: Control, kept: Kept, *, samples: bool) -> list[Any]:
    """Return the values that a control of the style before had, if it was the same, else the first ones."""
    known, values = kept.get(control.name, (None, []))
    if known != control:
        return first_values(control, samples=samples)
    if control.type == "file" or control.files:
        *names, path = values
        return [*names, path if path and Path(path).is_file() else None]
    return values


def look_of(controls: Sequence[Control], kept: Kept, *, samples: bool) -> Look:
    """Return the look that widgets with these values ask for.

    Raises:
        UserError: see ``value_of``.
    """
    return Look(**{control.name: value_of(control, kept_values(control, kept, samples=samples)) for control in controls})


def build_panel(
    controls: Sequence[Control], kept: Kept, *, samples: bool, prefix: str,
    pictures: Mapping[str, Mapping[str, Image.Image]],
) -> Panel:
    """Make the widgets of a style's controls: what has a value at once, the rest folded away below.

    Args:
        controls: of the style.
        kept: values that widgets had for the style before.
        samples: for random faces.
        prefix: of the widgets' ids in the page: PREFIX_CONTROL.
        pictures: by control, a picture per choice.
    """
    made: dict[str, list[gr.components.Component]] = {}
    shown = {control.name: kept_values(control, kept, samples=samples) for control in controls}
    for control in controls:
        values, elem_id = shown[control.name], f"{prefix}_{control.name}"
        if control.type == "choice":
            made[control.name] = [_choice(control, values[0], elem_id, pictures.get(control.name, {}))]
            if control.files:
                made[control.name].append(photo_input(f"{control.title}: or a picture of your own", value=values[1], height=180,
                                                      elem_id=f"{elem_id}_file", sources=("upload", "clipboard")))
        elif control.type == "file":
            made[control.name] = [photo_input(control.title, value=values[0], elem_id=elem_id, height=180,
                                              sources=("upload", "clipboard"))]
        elif control.default is not None:
            made[control.name] = [_slider(control, values[0], elem_id)]
    folded = [control for control in controls if control.type == "number" and (control.default is None or control.per)]
    if folded:
        with gr.Accordion("More", open=False):
            for control in folded:
                made[control.name] = [*made.get(control.name, ()), *_folded(control, shown[control.name], prefix)]
    return Panel(tuple(controls), tuple(tuple(made[control.name]) for control in controls))


def _slider(control: Control, value: float, elem_id: str) -> gr.Slider:
    low, high = min(control.low, value), max(control.high, value)
    return gr.Slider(low, high, value, step=step_of(control.low, control.high), label=control.title, elem_id=elem_id,
                     info=None if control.label else control.help, interactive=True)


def _folded(control: Control, values: list[Any], prefix: str) -> list[gr.components.Component]:
    """Make what is folded away: the switch and the slider of a number without a default, and its parts."""
    made: list[gr.components.Component] = []
    if control.default is None:
        switched, number, *values = values
        with gr.Row():
            made.append(gr.Checkbox(switched, label=f"Set {control.title.partition(':')[0].lower()}", scale=1,
                                    interactive=True, elem_id=f"{prefix}_{control.name}_on"))
            made.append(_slider(control, number, f"{prefix}_{control.name}"))
    else:
        values = values[1:]
    if control.per == "region":
        made += [gr.Slider(*FACTOR_RANGE, factor, step=0.1, label=f"{control.title}, {name}: times",
                           interactive=True, elem_id=f"{prefix}_{control.name}_{name}")
                 for name, factor in zip(REGIONS, values, strict=True)]
    elif control.per == "row":
        made.append(gr.Textbox(values[0], label=f"{control.title}, by row", max_lines=1, elem_id=f"{prefix}_{control.name}_rows",
                               interactive=True, placeholder="numbers separated by commas; empty: the same for all"))
    return made


def _choice(
    control: Control, value: str | None, elem_id: str, pictures: Mapping[str, Image.Image]
) -> gr.components.Component:
    """Make buttons, or a list to search in, with a gallery above where there are pictures."""
    if pictures:
        names = [name for name in control.choices if name in pictures]
        gallery = gr.Gallery([(pictures[name], breakable(name)) for name in names], columns=5, height=220, allow_preview=False,
                             show_label=False, elem_id=f"{elem_id}_pictures", elem_classes="styles broad", interactive=False,
                             buttons=[])
    few = len(control.choices) <= MAX_BUTTONS
    names_of = gr.Radio if few else gr.Dropdown
    made = names_of(list(control.choices), value=value, label=control.title, info=control.help, elem_id=elem_id,
                    interactive=True)
    if pictures:
        def chosen(event: gr.SelectData) -> str:
            return names[event.index]

        gallery.select(chosen, None, made, api_visibility="private", show_progress="hidden")
    return made
