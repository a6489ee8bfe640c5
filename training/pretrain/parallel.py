"""Several processes that train as one, as torchrun starts them: each draws its own faces, gradients are averaged.

All functions do nothing, or answer for one process, where no group was opened.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, distributed, nn


def launched() -> int:
    """Return the number of processes that torchrun started, 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Return the number of this process in its group, 0 without one."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def count() -> int:
    """Return the number of processes in the group, 1 without one."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def leads() -> bool:
    """Tell whether this process is the one that saves, draws sheets and prints."""
    return rank() == 0


@contextlib.contextmanager
def group(device: torch.device) -> Iterator[torch.device]:
    """Join the processes of torchrun for the length of the block: NCCL on CUDA, Gloo elsewhere.

    Inside such a block another one uses the group that is open.

    Yields:
        The device of this process: on CUDA the one of its local rank.
    """
    if launched() == 1:
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    opens = not distributed.is_initialized()
    if opens:
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
        # Nobody goes on while another still saves: the next stage reads that file, and torchrun takes an early end for
        # a failure.
        distributed.barrier()
    finally:
        if opens:
            distributed.destroy_process_group()


@torch.no_grad()
def average(tensors: Iterable[Tensor | None]) -> None:
    """Replace floating tensors by their mean over all processes; others and None are left alone.

    Every process must hand over the same shapes in the same order.
    """
    if count() == 1:
        return
    ready = [tensor for tensor in tensors if tensor is not None and tensor.is_floating_point()]
    flat = torch.cat([tensor.reshape(-1) for tensor in ready])  # one message instead of hundreds
    distributed.all_reduce(flat)
    flat /= count()
    for tensor, part in zip(ready, flat.split([tensor.numel() for tensor in ready]), strict=True):
        tensor.copy_(part.reshape(tensor.shape))


def average_step(*modules: nn.Module) -> None:
    """Average the gradients of the modules, and their buffers: batch norm has seen other faces in every process."""
    average([*(parameter.grad for module in modules for parameter in module.parameters()),
             *(buffer for module in modules for buffer in module.buffers())])


@torch.no_grad()
def share(*modules: nn.Module) -> None:
    """Give every process the weights and buffers of the first one."""
    if count() == 1:
        return
    for module in modules:
        for tensor in (*module.parameters(), *module.buffers()):
            received = tensor.detach().clone(memory_format=torch.contiguous_format)
            distributed.broadcast(received, 0)
            tensor.copy_(received)


def first_value(value: float) -> float:
    """Return the first process's number, for decisions that all must take alike."""
    if count() == 1:
        return value
    backend = distributed.get_backend()
    message = torch.tensor([value], dtype=torch.float64, device="cuda" if backend == "nccl" else "cpu")
    distributed.broadcast(message, 0)
    return float(message)
