"""Functions of tensors as CUDA graphs: the kernels of a call are recorded once and launched together from then on."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

WARM_UP = 3


class _Recording(NamedTuple):
    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    output: Tensor


class Graphed:
    """A function from tensors on one GPU to a tensor, replayed as a graph; one recording per shapes and dtypes.

    The function must do the same work at every call, must not wait for the device, and gets no gradients. Networks that
    raise on values that are not finite cannot do so inside of a graph: the output is checked instead.

    Args:
        function: what to record.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function
        self._recordings: dict[tuple, _Recording] = {}

    @torch.no_grad()
    def __call__(self, *inputs: Tensor) -> Tensor:
        """Return function(*inputs), a tensor of its own.

        Raises:
            ValueError: for inputs that are not on a GPU.
            ArithmeticError: if the result holds NaN or infinity.
        """
        if not inputs or not all(x.is_cuda for x in inputs):
            raise ValueError("CUDA graphs need tensors on a GPU")
        key = tuple((x.shape, x.stride(), x.dtype, x.device) for x in inputs)
        if key not in self._recordings:
            self._recordings[key] = self._record(inputs)
        recording = self._recordings[key]
        for place, x in zip(recording.inputs, inputs, strict=True):
            place.copy_(x)
        recording.graph.replay()
        result = recording.output.clone()
        if not bool(torch.isfinite(result).all()):
            raise ArithmeticError("the result is not finite; the weights have diverged")
        return result

    def _record(self, inputs: tuple[Tensor, ...]) -> _Recording:
        """Run the function a few times, so that libraries choose their algorithms, then record one call."""
        places = tuple(x.clone() for x in inputs)
        with torch.cuda.device(inputs[0].device):
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP):
                    self.function(*places)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            # Autocast must not put copies of weights that it makes inside of the graph into its cache.
            with torch.autocast("cuda", enabled=torch.is_autocast_enabled("cuda"), cache_enabled=False,
                                dtype=torch.get_autocast_dtype("cuda")), torch.cuda.graph(graph):
                output = self.function(*places)
        return _Recording(graph, places, output)
