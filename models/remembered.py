"""What a frozen function gave for the last tensor, so that steps on one and the same image need not ask again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Remembered:
    """A function of one tensor that is computed without gradients, and once for as long as the same tensor comes.

    A tensor is the same while it is the same object and was not written to.

    Args:
        function: depends on the tensor alone.
    """

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        self.function = function
        self._last: tuple[Tensor, int, Any] | None = None

    @torch.no_grad()
    def __call__(self, tensor: Tensor) -> Any:
        if tensor.is_inference():  # has no count of writes
            return self.function(tensor)
        if self._last is None or self._last[0] is not tensor or self._last[1] != tensor._version:
            self._last = tensor, tensor._version, self.function(tensor)
        return self._last[2]
