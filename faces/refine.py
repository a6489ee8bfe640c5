"""Landmarks finer than a mesh tells: the heat-map network on the upright crop that the mesh's landmarks give."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from PIL import Image

from checkpoints.features import load_landmark_net
from data.landmarks68 import eye_distance
from faces.align import ffhq_quad
from faces.mesh import cut
from models.landmarks import LandmarkNet

# Share of the heat maps' word: held-out photos are read best at a half, drawings by heat maps alone. Where both are farther
# apart, in eye distances, the mesh alone counts: heat maps get lost on faces that are hidden or turned.
SHARE, LOST = 2.0 / 3.0, 0.15


@lru_cache(maxsize=1)
def _network() -> LandmarkNet:
    return load_landmark_net().module


@torch.no_grad()
def refined(image: Image.Image, landmarks: np.ndarray) -> np.ndarray:
    """Return landmarks [68, 2] in px of an RGB photo, refined by what the network says of their crop."""
    network = _network()
    side = network.config.input_size
    quad = ffhq_quad(landmarks) + 0.5
    across, down = (quad[3] - quad[0]) / side, (quad[1] - quad[0]) / side
    pixels = np.asarray(cut(image, quad[0], across, down, side), np.float32) / 127.5 - 1.0
    seen = network(torch.from_numpy(pixels).permute(2, 0, 1)[None]).points[0].double().numpy() * side
    points = quad[0] + seen[:, :1] * across + seen[:, 1:] * down - 0.5
    if np.linalg.norm(points - landmarks, axis=1).mean() > LOST * eye_distance(landmarks):
        return landmarks
    return landmarks + SHARE * (points - landmarks)
