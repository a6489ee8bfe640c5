"""MediaPipe's small networks for faces (Bazarevsky et al. 2019, Kartynnik et al. 2019), run by LiteRT."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from queue import SimpleQueue
from threading import Lock

import numpy as np
from ai_edge_litert.interpreter import Interpreter

DETECTOR, MESH, SELFIE = "face_detection_short_range", "face_landmark", "selfie_segmentation"
FOLDER = Path(__file__).parent.parent / "checkpoints" / "faces"
SIDES = {DETECTOR: 128, MESH: 192, SELFIE: 256}
WORKERS = 2
_LOADING = Lock()


class Net:
    """One network of ``checkpoints/faces``, which ``WORKERS`` threads may ask at a time."""

    def __init__(self, name: str) -> None:
        self.side = SIDES[name]
        self.free: SimpleQueue[Interpreter] = SimpleQueue()  # each holds one image at a time
        with _quiet():
            for _ in range(WORKERS):
                # The networks are too small for a second thread of their own to help.
                interpreter = Interpreter(str(FOLDER / f"{name}.tflite"), num_threads=1)
                interpreter.allocate_tensors()
                self.free.put(interpreter)
        self.given = interpreter.get_input_details()[0]["index"]
        self.made = [entry["index"] for entry in interpreter.get_output_details()]

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return the outputs, stacked along the first axis.

        Args:
            images: [N, S, S, 3] float32; [-1, 1] for the detector, [0, 1] for the others.
        """
        results, interpreter = [], self.free.get()
        try:
            for image in images:
                interpreter.set_tensor(self.given, np.ascontiguousarray(image[None], dtype=np.float32))
                interpreter.invoke()
                results.append([interpreter.get_tensor(index) for index in self.made])
        finally:
            self.free.put(interpreter)
        return tuple(np.concatenate(parts) for parts in zip(*results, strict=True))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep LiteRT from writing which kernels it takes to standard error, which no setting of its own does."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@lru_cache(maxsize=3)
def _net(name: str) -> Net:
    return Net(name)


def net(name: str) -> Net:
    """Return one of the networks; it is read once, by one thread."""
    with _LOADING:
        return _net(name)
