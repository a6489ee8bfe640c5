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
from training.pretrain.faces import FacePack

SIDE = 256
MAX_DOUBT = 0.09


def face_rectangle(image: np.ndarray, points: np.ndarray, detector: dlib.fhog_object_detector) -> dlib.rectangle:
    """Return the detected rectangle that holds most of ``points`` [68, 2], or the one a detector would be expected to give.

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
    """Turn a face about the image centre; points [68, 2] in px."""
    turned = image.rotate(degrees, Image.Resampling.BILINEAR, fillcolor=int(np.median(np.asarray(image))))
    angle = np.deg2rad(-degrees)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = image.width / 2.0
    return np.asarray(turned), (points - centre) @ matrix.T + centre


def samples(pack: FacePack, index: list[int], *, copies: int, seed: int) -> tuple[list, list]:
    """Return grey images and dlib annotations of the faces ``index``, each with ``copies`` random roll angles and flips."""
    rng, detector = np.random.default_rng(seed), dlib.get_frontal_face_detector()
    images, shapes = [], []
    for i in tqdm(index, desc="faces"):
        grey = Image.fromarray(pack.images[i].permute(1, 2, 0).numpy()).convert("L").resize((SIDE, SIDE))
        for copy in range(copies):
            points = pack.landmarks[i].numpy() * SIDE
            picture = grey
            if copy % 2:
                picture = grey.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
                points = points[MIRROR] * [-1.0, 1.0] + [SIDE, 0.0]
            pixels, points = rotated(picture, points, float(rng.normal(0.0, 12.0)))
            box = face_rectangle(pixels, points, detector)
            parts = [dlib.point(int(round(x)), int(round(y))) for x, y in points]
            images.append(np.ascontiguousarray(pixels))
            shapes.append([dlib.full_object_detection(box, parts)])
    return images, shapes


def mean_error(predictor: dlib.shape_predictor, images: list, shapes: list) -> float:
    """Return the mean distance to the labels in % of the eye distance."""
    errors = []
    for image, (shape,) in zip(images, shapes, strict=True):
        found = np.array([(p.x, p.y) for p in predictor(image, shape.rect).parts()], float)
        truth = np.array([(p.x, p.y) for p in shape.parts()], float)
        errors.append(np.linalg.norm(found - truth, axis=1).mean() / eye_distance(truth) * 100.0)
    return float(np.mean(errors))


def train_predictor(pack: FacePack, output: Path, *, threads: int = 2, copies: int = 2, seed: int = 0) -> dict:
    """Train dlib's shape predictor, write it to ``output`` and return its held-out error and size."""
    train, held = pack.split()
    keep = [int(i) for i in train if float(pack.doubt[i]) <= MAX_DOUBT]
    images, shapes = samples(pack, keep, copies=copies, seed=seed)
    options = dlib.shape_predictor_training_options()
    options.cascade_depth, options.tree_depth, options.num_trees_per_cascade_level = 10, 3, 90
    options.nu, options.oversampling_amount = 0.1, 5
    options.oversampling_translation_jitter = 0.08
    options.feature_pool_size, options.num_test_splits = 400, 40
    options.num_threads, options.random_seed, options.be_verbose = threads, str(seed), True
    predictor = dlib.train_shape_predictor(images, shapes, options)
    temporary = output.with_suffix(".part")
    output.parent.mkdir(parents=True, exist_ok=True)
    predictor.save(str(temporary))
    os.replace(temporary, output)
    tests = [int(i) for i in held if float(pack.doubt[i]) <= MAX_DOUBT]
    facts = {"bytes": output.stat().st_size, "faces": len(keep), "copies": copies,
             "held_out_percent": mean_error(predictor, *samples(pack, tests, copies=2, seed=seed + 1))}
    print(json.dumps(facts), flush=True)
    return facts
