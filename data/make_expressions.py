#!/usr/bin/env python3
"""Make the bundled expressions from faces of the starter generator: no photo of a person is behind them.

Landmarks of sampled faces are found by the heat-map network. Neutral is the mean of the faces with the least open mouths and
its mirror image, its lips shut. Smile and raised brows add to it the mean displacement of those landmarks in the few faces
that show it most, scaled up. For the open mouth the jaw is turned down; for the wink an upper lid is laid on its lower lid.
Each mouth that opens names the face that lends the inside of it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from checkpoints.builders import load_base
from checkpoints.features import load_landmark_net
from checkpoints.io import atomic_write
from data.landmarks68 import EYES, MIRROR, REGIONS, eye_distance
from pipeline.sampling import base_images, batches

SEED, FACES, PSI, MOST = 11, 240, 0.9, 6
PATH = Path(__file__).parent / "expressions.json"
BROWS, MOUTH = REGIONS["brows"], REGIONS["mouth"]
# Sampled faces smile and raise their brows less than people do: their displacements are scaled up.
SMILE, RAISE = 1.8, 3.0
# How far a jaw drops, as a share of the picture's side.
DROP = 0.07
UPPER, LOWER, OVER_LIP, UNDER_LIP = range(49, 54), range(55, 60), [61, 62, 63], [67, 66, 65]


def mirrored(points: np.ndarray) -> np.ndarray:
    """Return landmarks [N, 68, 2], fractions of the side, of the mirrored faces."""
    return points[:, MIRROR] * [-1.0, 1.0] + [1.0, 0.0]


def traits(points: np.ndarray) -> dict[str, np.ndarray]:
    """Return how open and how wide mouths are and how high brows, [N] each, in eye distances."""
    unit = eye_distance(points)
    eyes = np.mean([points[:, eye, 1].mean(axis=1) for eye in EYES], axis=0)
    return {"open": (points[:, 66, 1] - points[:, 62, 1]) / unit, "width": np.linalg.norm(
        points[:, 54] - points[:, 48], axis=1) / unit, "brows": (eyes - points[:, BROWS, 1].mean(axis=1)) / unit}


def winking(points: np.ndarray, eye: slice) -> np.ndarray:
    """Return landmarks [68, 2] with the upper lid of one eye on its lower lid."""
    result, first = points.copy(), eye.start
    for upper, lower in ((first + 1, first + 5), (first + 2, first + 4)):
        result[upper] = 0.15 * points[upper] + 0.85 * points[lower]
    return result


def shut(points: np.ndarray) -> np.ndarray:
    """Return landmarks [68, 2] whose lips meet in the middle between them, but for a tenth of their gap."""
    result, gap = points.copy(), (points[UNDER_LIP] - points[OVER_LIP]).mean(axis=0)
    result[[*UPPER, *OVER_LIP]] += 0.45 * gap
    result[[*LOWER, *UNDER_LIP]] -= 0.45 * gap
    return result


def opened(points: np.ndarray) -> np.ndarray:
    """Return landmarks [68, 2] with the jaw turned down and the corners of the mouth a little inwards."""
    result = points.copy()
    result[[*LOWER, *UNDER_LIP], 1] += DROP
    result[5:12, 1] += 0.7 * DROP
    corners = [48, 54, 60, 64]
    result[corners, 1] += 0.3 * DROP
    result[MOUTH, 0] = 0.5 + 0.95 * (result[MOUTH, 0] - 0.5)
    return result


def expressions(points: np.ndarray) -> dict[str, dict]:
    """Return the named expressions of the landmarks [N, 68, 2] of the sampled faces."""
    trait, even = traits(points), (points + mirrored(points)) / 2.0
    mean = even[trait["open"] < np.quantile(trait["open"], 0.35)].mean(axis=0)
    neutral = shut(mean)
    # A smile shows teeth: wide, and open.
    wide = np.argsort(np.abs(trait["open"] - np.quantile(trait["open"], 0.8)) - 2.0 * trait["width"])[:MOST]
    high, most = np.argsort(-trait["brows"])[:MOST], int(np.argmax(trait["open"] - 0.5 * trait["width"]))
    smile, raised = neutral.copy(), neutral.copy()
    smile[MOUTH] += SMILE * (even[wide].mean(axis=0) - mean)[MOUTH]
    raised[BROWS] += RAISE * (even[high].mean(axis=0) - mean)[BROWS]
    made = {"neutral": (neutral, None), "smile": (smile, int(wide[0])), "open mouth": (opened(neutral), most),
            "raised brows": (raised, None), "wink": (winking(neutral, EYES[1]), None)}
    return {name: {"landmarks": np.round(shape, 4).tolist(),
                   "donor": None if face is None else {"seed": SEED, "index": face, "truncation_psi": PSI}}
            for name, (shape, face) in made.items()}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=PATH, help="JSON file to write")
    args = parser.parse_args(argv)
    base, network = load_base("starter"), load_landmark_net().module
    found = [network(base_images(base, SEED, rows, truncation_psi=PSI)).points.numpy() for rows in batches(FACES, 8)]
    with atomic_write(args.output) as temporary:
        temporary.write_text(json.dumps(expressions(np.concatenate(found))) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
