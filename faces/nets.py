"""MediaPipe's small networks for faces (Bazarevsky et al. 2019, Kartynnik et al. 2019), run by LiteRT."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

DETECTOR, MESH, SELFIE = "face_detection_short_range", "face_landmark", "selfie_segmentation"
SIDES = {DETECTOR: 128, MESH: 192, SELFIE: 256}


class Net:
    """One network of ``checkpoints/faces``, an image [N, S, S, 3] at a time."""

    def __init__(self, name: str) -> None:
        path = Path(__file__).parent.parent / "checkpoints" / "faces" / f"{name}.tflite"
        self.side = SIDES[name]
        self.interpreter = Interpreter(str(path), num_threads=2)
        self.interpreter.allocate_tensors()
        self.given = self.interpreter.get_input_details()[0]["index"]
        self.made = [entry["index"] for entry in self.interpreter.get_output_details()]

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return the outputs, stacked along the first axis.

        Args:
            images: [N, S, S, 3] float32; [-1, 1] for the detector, [0, 1] for the others.
        """
        results = []
        for image in images:
            self.interpreter.set_tensor(self.given, np.ascontiguousarray(image[None], dtype=np.float32))
            self.interpreter.invoke()
            results.append([self.interpreter.get_tensor(index) for index in self.made])
        return tuple(np.concatenate(parts) for parts in zip(*results, strict=True))


@lru_cache(maxsize=3)
def net(name: str) -> Net:
    """Return one of the networks; it is read once."""
    return Net(name)
