"""The starter's 68-point predictor: dlib's regression trees trained on labelled, rotated faces."""

from __future__ import annotations

import json
import os
from pathlib import Path

import dlib
import numpy as np
from PIL import Image
from tqdm import tqdm

from data.landmarks68 import MIRROR, eye_distance
from training.pretrain.common import MissingStageError
from training.pretrain.dlib_file import shrink_predictor
from training.pretrain.faces import FacePack

SIDE = 256
MAX_DOUBT = 0.075
TRAIN_ROLL = 9.0
TEST_ROLL = 12.0


def face_rectangle(image: np.ndarray, points: np.ndarray, detector: dlib.fhog_object_detector) -> dlib.rectangle:
    """Return the detected rectangle that holds most of ``points`` [68, 2], or the one that a detector would give.

    dlib's detector returns squares about 1.05 times the extent of the landmarks, centred a little above their middle.
    """
    for found in detector(image, 0):
        inside = [found.contains(dlib.point(int(x), int(y))) for x, y in points[17:]]
        if np.mean(inside) > 0.8:
            return found
    low, high = points.min(axis=0), points.max(axis=0)
    half = 0.53 * max(high - low)
    x, y = (low + high) / 2.0
    return dlib.rectangle(int(x - half), int(y - half), int(x + half), int(y + half))


def rotated(image: Image.Image, points: np.ndarray, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """Turn a face about the image centre; points [K, 2] in px."""
    turned = image.rotate(degrees, Image.Resampling.BILINEAR, fillcolor=int(np.median(np.asarray(image))))
    angle = np.deg2rad(-degrees)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = image.width / 2.0
    return np.asarray(turned), (points - centre) @ matrix.T + centre


def annotation(box: dlib.rectangle, points: np.ndarray) -> dlib.full_object_detection:
    """Return dlib's annotation of points [68, 2] in px within a rectangle."""
    return dlib.full_object_detection(box, [dlib.point(int(round(x)), int(round(y))) for x, y in points])


def grey_face(pack: FacePack, index: int) -> tuple[Image.Image, np.ndarray]:
    """Return face ``index`` in grey at ``SIDE`` px and its landmarks [68, 2] in px."""
    image = Image.fromarray(pack.images[index].permute(1, 2, 0).numpy()).convert("L").resize((SIDE, SIDE))
    return image, pack.landmarks[index].numpy().astype(np.float64) * SIDE


def training_samples(pack: FacePack, index: list[int], *, copies: int, seed: int) -> tuple[list, list]:
    """Return grey images and dlib annotations of the faces ``index``, each in ``copies`` random rolls and flips.

    The detector, which takes most of the time, looks at every face once; its rectangle follows the other copies with a
    little jitter, as detections do.
    """
    rng, detector = np.random.default_rng(seed), dlib.get_frontal_face_detector()
    images, shapes = [], []
    for i in tqdm(index, desc="faces", mininterval=5.0):
        grey, points = grey_face(pack, i)
        found = face_rectangle(np.asarray(grey), points, detector)
        middle = np.array([found.left() + found.right(), found.top() + found.bottom()]) / 2.0
        marks = np.concatenate([points, middle[None]])
        for copy in range(copies):
            picture, there = grey, marks
            if copy % 2:
                picture = grey.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
                there = np.concatenate([points[MIRROR], middle[None]]) * [-1.0, 1.0] + [SIDE, 0.0]
            pixels, there = rotated(picture, there, float(rng.normal(0.0, TRAIN_ROLL)))
            half = found.width() / 2.0 * np.exp(rng.normal(0.0, 0.03))
            x, y = there[-1] + rng.normal(0.0, 0.02, 2) * found.width()
            box = dlib.rectangle(int(x - half), int(y - half), int(x + half), int(y + half))
            images.append(np.ascontiguousarray(pixels))
            shapes.append([annotation(box, there[:-1])])
    return images, shapes


def mean_error(predictor: dlib.shape_predictor, pack: FacePack, index: list[int], *, roll: float, seed: int) -> float:
    """Return the mean distance to the labels in % of the eye distance, within rectangles as detected.

    Args:
        predictor: dlib's.
        pack: labelled faces.
        index: which of them.
        roll: deviation of the random roll angle in degrees; 0 leaves the faces as aligned.
        seed: of the angles.
    """
    rng, detector, errors = np.random.default_rng(seed), dlib.get_frontal_face_detector(), []
    for i in index:
        pixels, points = rotated(*grey_face(pack, i), float(rng.normal(0.0, 1.0)) * roll)
        shape = predictor(np.ascontiguousarray(pixels), face_rectangle(pixels, points, detector))
        found = np.array([(p.x, p.y) for p in shape.parts()], float)
        errors.append(np.linalg.norm(found - points, axis=1).mean() / eye_distance(points) * 100.0)
    return float(np.mean(errors))


def training_options(*, threads: int, seed: int) -> dlib.shape_predictor_training_options:
    """Return dlib's settings; 15 x 88 trees of depth 3 make a file of 6 MB."""
    options = dlib.shape_predictor_training_options()
    options.cascade_depth, options.tree_depth, options.num_trees_per_cascade_level = 15, 3, 88
    options.nu, options.oversampling_amount = 0.1, 4
    options.oversampling_translation_jitter = 0.05
    options.feature_pool_size, options.num_test_splits = 500, 30
    options.feature_pool_region_padding = 0.05
    options.num_threads, options.random_seed, options.be_verbose = threads, str(seed), True
    return options


def train_predictor(pack: FacePack, output: Path, *, threads: int = 2, copies: int = 3, seed: int = 0) -> dict:
    """Train dlib's shape predictor, write it to ``output`` and return its held-out errors and size."""
    train, held = pack.split()
    keep = [int(i) for i in train if float(pack.doubt[i]) <= MAX_DOUBT]
    if not keep:
        raise MissingStageError("the pack has no labelled training faces; run the pack stage with --landmarks")
    images, shapes = training_samples(pack, keep, copies=copies, seed=seed)
    predictor = dlib.train_shape_predictor(images, shapes, training_options(threads=threads, seed=seed))
    temporary = output.with_suffix(".part")
    output.parent.mkdir(parents=True, exist_ok=True)
    predictor.save(str(temporary))
    shrink_predictor(temporary)
    predictor = dlib.shape_predictor(str(temporary))
    os.replace(temporary, output)
    tests = [int(i) for i in held if not bool(pack.landmarks[i].isnan().any())]
    facts = {"bytes": output.stat().st_size, "faces": len(keep), "copies": copies,
             "held_out_percent": mean_error(predictor, pack, tests, roll=0.0, seed=seed + 1),
             "held_out_rolled_percent": mean_error(predictor, pack, tests, roll=TEST_ROLL, seed=seed + 1)}
    print(json.dumps(facts), flush=True)
    return facts
