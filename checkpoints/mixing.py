"""Styles by a recipe: ``a:0.7,b:0.3`` is a mixture of two fine-tuned styles."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

import torch

from checkpoints.builders import Style, load_style
from checkpoints.io import CheckpointError
from models.mixing import mix_deformables


def parse_recipe(text: str) -> list[tuple[str, float]] | None:
    """Return the (style, weight) pairs of a recipe, or None where ``text`` is a plain name or path.

    Raises:
        CheckpointError: for weights that are negative or all 0.
    """
    pairs = []
    for part in text.split(","):
        name, colon, number = part.strip().rpartition(":")
        try:
            weight = float(number)
        except ValueError:
            return None
        if not colon or not name:
            return None
        pairs.append((name, weight))
    if not all(math.isfinite(weight) and weight >= 0 for _, weight in pairs) or not any(weight for _, weight in pairs):
        raise CheckpointError(f"--style {text}: the weights of a mixture must be 0 or more and not all 0")
    return pairs


def mix_styles(styles: Sequence[Style], weights: Sequence[float]) -> Style:
    """Return a mixture of styles; weights are scaled to sum 1.

    Raises:
        CheckpointError: if they were not trained from one base or differ in shape or warp mode.
    """
    total = sum(weights)
    weights = [weight / total for weight in weights]
    names = ", ".join(style.name for style in styles)
    bases = {(style.config.get("base") or {}).get("fingerprint") for style in styles}
    if len(bases) > 1:
        raise CheckpointError(f"{names}: were trained from different bases, so they cannot be mixed")
    try:
        deformable = mix_deformables([style.deformable for style in styles], weights)
    except ValueError as error:
        raise CheckpointError(f"{names}: {error}") from error
    latents = [style.target_latent for style in styles]
    known = all(latent is not None for latent in latents)
    facts = [f"{style.fingerprint} {weight:.9f}" for style, weight in zip(styles, weights, strict=True)]
    return Style(
        deformable, sum(weight * style.w_avg for style, weight in zip(styles, weights, strict=True)),
        styles[0].config, "-".join(f"{style.name}{round(100 * weight)}" for style, weight in zip(styles, weights)),
        hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16],
        sum(weight * latent for latent, weight in zip(latents, weights)) if known else None)


def load_look(text: str | Path, *, device: torch.device | str = "cpu") -> Style:
    """Load a style by name or path, or mix several by a recipe such as ``a:0.7,b:0.3``.

    Raises:
        CheckpointError: as ``load_style`` and ``mix_styles``.
    """
    recipe = None if Path(str(text)[:255]).is_file() else parse_recipe(str(text))
    if recipe is None:
        return load_style(text, device=device)
    styles = [load_style(name, device=device) for name, _ in recipe]
    return mix_styles(styles, [weight for _, weight in recipe])
