"""Smoothing over time, and a measure of what shakes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

# Cutoff in Hz of a resting signal at strength 0.5, the factor towards 0 and 1, and how speed raises it.
CUTOFF = 1.2
SPAN = 6.0
SPEED_GAIN = 4.0
DERIVATIVE_CUTOFF = 1.0


class OneEuro:
    """One-euro filter of arrays (Casiez et al. 2012): a low pass whose cutoff rises with the signal's speed.

    fc = fc_min + beta |dx/dt|, with one speed for the whole array, so that its parts stay together.

    Args:
        strength: 0 leaves the signal alone, 1 smooths most.
        scale: unit of the signal in which a speed of 1 per second is fast.
    """

    def __init__(self, strength: float, *, scale: float = 1.0) -> None:
        if not 0.0 <= strength <= 1.0:
            raise ValueError(f"strength must be within 0..1, got {strength}")
        self.strength, self.scale = strength, scale
        self.value: np.ndarray | None = None
        self.speed: np.ndarray | None = None

    def __call__(self, value: np.ndarray, *, seconds: float) -> np.ndarray:
        """Return the filtered array; ``seconds`` is the time since the last call."""
        value = np.asarray(value, np.float64)
        if self.value is None or self.strength == 0.0 or seconds <= 0.0:
            self.value, self.speed = value, np.zeros_like(value)
            return value
        speed = (value - self.value) / seconds
        self.speed = self.speed + _weight(DERIVATIVE_CUTOFF, seconds) * (speed - self.speed)
        fast = float(np.abs(self.speed).mean()) / self.scale
        cutoff = CUTOFF * SPAN ** (1.0 - 2.0 * self.strength) + SPEED_GAIN * fast
        self.value = self.value + _weight(cutoff, seconds) * (value - self.value)
        return self.value

    def state(self) -> dict[str, np.ndarray]:
        """Return what ``load`` needs to go on."""
        return {} if self.value is None else {"value": self.value, "speed": self.speed}

    def load(self, state: dict[str, np.ndarray]) -> None:
        """Go on from a state."""
        self.value, self.speed = state.get("value"), state.get("speed")


def _weight(cutoff: float, seconds: float) -> float:
    """Return the share of the new sample in a first-order low pass of ``cutoff`` Hz."""
    return 1.0 / (1.0 + 1.0 / (2.0 * math.pi * cutoff * seconds))


class Jitter:
    """Running mean of how much landmarks shake: |p(t+1) - 2 p(t) + p(t-1)| in eye distances.

    The second difference is 0 for any even motion, so that a moving face counts as still and only shaking is measured.
    """

    def __init__(self, total: float = 0.0, count: int = 0, recent: Sequence[np.ndarray] = ()) -> None:
        self.total, self.count, self.recent = total, count, list(recent)

    def add(self, landmarks: np.ndarray, unit: float) -> None:
        """Count the landmarks [68, 2] of the next frame; ``unit`` is the eye distance in px."""
        self.recent = [*self.recent[-2:], np.asarray(landmarks, np.float64)]
        if len(self.recent) == 3:
            before, now, after = self.recent
            self.total += float(np.linalg.norm(after - 2.0 * now + before, axis=1).mean()) / unit
            self.count += 1

    def cut(self) -> None:
        """Forget the last frames, as at a cut."""
        self.recent = []

    @property
    def mean(self) -> float:
        """Mean per frame in eye distances; NaN when nothing was counted."""
        return self.total / self.count if self.count else math.nan
