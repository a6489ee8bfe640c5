"""Figures on who a face is: how far an inverted photo, and a restyled one, are from the person in the photo."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.quality_common import Bench, Results, floor, progress
from checkpoints.features import load_face_id
from data.grids import grid
from data.images import read_image, save_image, to_pil, to_tensor
from losses.identity import IdentityLoss
from models.face import Face
from pipeline.cli import UserError
from pipeline.stylize import InversionSettings, Stylizer, build_stylizer
from styles.protocol import Style
from styles.registry import load_style

ALPHA = 0.8
# Largest mean distances and L1 that the figures should keep.
FLOORS = {"e4e": 0.42, "optimised": 0.25, "results": 0.45, "l1": 0.045}
SHOWN = 12
CELL = 128


class IdentityBench:
    """Photos through the pipeline as ``inference.py`` sends them, without alignment and cache.

    Args:
        bench: networks and photos.
        styles: names or files of styles of one base; photos are inverted into the generator of the first.
        steps: of optimisation; 0 leaves it out, and results are then drawn from the encoder's faces.
    """

    def __init__(self, bench: Bench, styles: Sequence[str], *, steps: int) -> None:
        self.bench, self.loss = bench, IdentityLoss(load_face_id(device=bench.device).module)
        settings = {"e4e": InversionSettings()}
        if steps:
            settings["optimised"] = InversionSettings(mode="e4e+optimize", steps=steps)
        self.ways: dict[str, Stylizer] = {way: build_stylizer(styles[0], inversion=chosen, align=False, device=bench.device)
                                          for way, chosen in settings.items()}
        first = self.ways["e4e"].style
        self.styles: dict[str, Style] = {name: load_style(name, device=bench.device) for name in styles}
        for name, style in self.styles.items():
            if style.base_name != first.base_name:
                raise UserError(f"--styles {name}: its base is {style.base_name}, that of {styles[0]} {first.base_name}; "
                                "measure them apart")

    @torch.no_grad()
    def embed(self, image: Tensor) -> Tensor:
        """Return the embedding [1, 128] of an aligned face [1, 3, S, S]."""
        return self.loss.embed(image.clamp(-1.0, 1.0))

    def inverted(self, stylizer: Stylizer, photo: Image.Image, person: Tensor) -> tuple[dict[str, float], Face, Tensor]:
        """Invert one photo; return its facts, the face, and the image [1, 3, S, S]."""
        start = time.perf_counter()
        face = stylizer.invert(photo)
        seconds = time.perf_counter() - start
        shown = stylizer.render(face).clamp(-1.0, 1.0)
        target = to_tensor(photo, shown.shape[3]).to(shown)
        facts = {"identity": float((self.embed(shown) - person).norm()), "l1": float((shown - target).abs().mean()),
                 "seconds": seconds}
        return facts, face, shown

    def measure(self, photo: Image.Image) -> tuple[dict[str, Any], list[Tensor]]:
        """Return the facts of one aligned photo by way and style, and its pictures [1, 3, S, S] in the sheet's order."""
        person = self.embed(to_tensor(photo, photo.width).to(self.bench.device))
        facts: dict[str, Any] = {"ways": {}, "results": {}}
        pictures = [to_tensor(photo, photo.width)]
        for way, stylizer in self.ways.items():
            facts["ways"][way], face, shown = self.inverted(stylizer, photo, person)
            pictures.append(shown)
        for name, style in self.styles.items():
            look = style.default_look()
            look = look.changed(alpha=ALPHA) if "alpha" in look else look
            start = time.perf_counter()
            drawn = style.draw(face, look).clamp(-1.0, 1.0)
            facts["results"][name] = {"identity": float((self.embed(drawn) - person).norm()),
                                      "seconds": time.perf_counter() - start}
            pictures.append(drawn)
        return facts, pictures


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return means over photos, beside the limits that they should keep; ``rows`` are the facts of each photo."""
    def means(part: str, name: str) -> dict[str, float]:
        return {key: float(np.mean([row[part][name][key] for row in rows])) for key in rows[0][part][name]}

    figures: dict[str, Any] = {"photos": len(rows)}
    for way in rows[0]["ways"]:
        mean = means("ways", way)
        figures[way] = {"identity": floor(mean["identity"], most=FLOORS[way]), "seconds": round(mean["seconds"], 3),
                        "l1": floor(mean["l1"], most=FLOORS["l1"]) if way == "optimised" else round(mean["l1"], 4)}
    results = {name: means("results", name) for name in rows[0]["results"]}
    figures["results"] = {name: {key: round(value, 4) for key, value in mean.items()} for name, mean in results.items()}
    figures["results_mean"] = floor(float(np.mean([mean["identity"] for mean in results.values()])), most=FLOORS["results"])
    return figures


def measure_identity(bench: Bench, results: Results) -> dict[str, Any]:
    """Invert and restyle the first held-out photos, each kept on its own, and write a sheet of some of them.

    Strangers, the photos among each other, are the yardstick: about 0.8 at full size.
    """
    settings = bench.settings
    count = settings.count(min(settings.photos, len(bench.held)), 2)
    steps = settings.inversion_steps and settings.count(settings.inversion_steps, 2)
    photos, made = bench.photos(bench.held[:count]), []
    folder = settings.outdir / "identity"

    def maker() -> IdentityBench:  # only where a photo is not measured yet
        if not made:
            made.append(IdentityBench(bench, settings.styles, steps=steps))
        return made[0]

    rows = []
    for number in progress(range(count), "identity"):
        rows.append(results.get(f"identity/{number:03d}", photo_maker(maker, to_pil(photos[number]), folder, number)))
    strips = [read_image(folder / f"{number:03d}.png") for number in range(min(count, SHOWN))]
    cells = [[strip.crop((0, top, strip.width, top + strip.width)) for strip in strips]
             for top in range(0, strips[0].height, strips[0].width)]
    save_image(settings.outdir / "identity.png", grid(cells, cell=CELL, row_labels=[
        "photo", *rows[0]["ways"], *(name.rpartition("/")[2][:24] for name in rows[0]["results"])]))
    people = IdentityLoss(load_face_id(device=bench.device).module)
    with torch.no_grad():
        embedded = torch.cat([people.embed(part) for part in photos.split(25)])
    strangers = float((embedded - embedded.roll(1, 0)).norm(dim=1).mean())
    return {**summary(rows), "strangers": round(strangers, 4), "steps": steps, "alpha": ALPHA}


def photo_maker(bench: Callable[[], IdentityBench], photo: Image.Image, folder: Path, number: int) -> Callable[[], Any]:
    """Return the function that measures one photo and writes its pictures, one below the other, into ``folder``."""
    def make() -> dict[str, Any]:
        facts, pictures = bench().measure(photo)
        column = [[picture[0].cpu()] for picture in pictures]
        save_image(folder / f"{number:03d}.png", grid(column, cell=CELL, gap=0))
        return facts

    return make
