"""From the files of stylegan2-ada-pytorch to the form that every script reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from checkpoints.inert import read_networks
from checkpoints.io import CheckpointError, atomic_write, check_finite, check_network, save_model
from checkpoints.official import official_keys
from checkpoints.paths import checkpoints_dir
from models.discriminator import Discriminator
from models.stylegan2 import Generator
from models.stylegan2_ada import ConvertedDiscriminator, ConvertedGenerator, convert_discriminator, convert_generator

BASES = "bases"


def read_nvidia(path: Path) -> tuple[ConvertedGenerator, ConvertedDiscriminator | None]:
    """Read the averaged generator of a pickle of stylegan2-ada-pytorch, and its discriminator where there is one.

    No code of the file is run, see ``checkpoints.inert``.

    Raises:
        CheckpointError: in one line, for a file of another form or with networks of another shape.
    """
    networks = read_networks(path)
    state = networks.get("G_ema")
    if state is None:
        raise CheckpointError(f"{path}: holds {', '.join(sorted(networks)) or 'no networks'}, but no G_ema; use a network "
                              "pickle of stylegan2-ada-pytorch")
    rate = state.pop("mapping.lr_multiplier", None)
    made = _converted(path, "G_ema", convert_generator, state)
    made = made._replace(state=_ready(made.state))
    if rate is not None:
        made = made._replace(config=replace(made.config, lr_mlp=float(rate)))
    check_network(lambda: Generator(made.config), made.state, what=f"{path}: part G_ema")
    check_finite(path, {"w_avg": made.w_avg})
    critic = None
    if networks.get("D"):
        critic = _converted(path, "D", convert_discriminator, networks["D"])
        critic = critic._replace(state=_ready(critic.state))
        check_network(lambda: Discriminator(critic.config), critic.state, what=f"{path}: part D")
    return made, critic


def _converted(path: Path, part: str, convert, state: dict[str, Tensor]):  # noqa: ANN001, ANN202 - one of two kinds
    try:
        return convert(state)
    except (ValueError, RuntimeError, IndexError) as error:
        raise CheckpointError(f"{path}: part {part}: {error}") from error


def _ready(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return float32 tensors that share no memory."""
    return {name: tensor.float().contiguous().clone() for name, tensor in state.items()}


def _is_official(generator: ConvertedGenerator, critic: ConvertedDiscriminator | None, file: str) -> bool:
    """Tell whether networks have the keys and shapes of a released file, and the mapping's usual rate."""
    if critic is None or generator.config.lr_mlp != 0.01:
        return False
    shapes = [{name: list(tensor.shape) for name, tensor in made.state.items()} for made in (generator, critic)]
    return shapes == [official_keys()[file][part] for part in ("g_ema", "d")]


def import_nvidia(path: Path, *, official: str) -> Path:
    """Convert a pickle of stylegan2-ada-pytorch and put it in its place.

    A file called ffhq with networks of the released shapes becomes ``official``, the file that ``--base official`` reads;
    any other becomes ``bases/NAME/generator.safetensors``, with its discriminator beside it, for ``--base PATH``.

    Returns:
        The new file.

    Raises:
        CheckpointError: in one line, see ``read_nvidia``.
    """
    generator, critic = read_nvidia(path)
    if "ffhq" in path.stem.lower() and _is_official(generator, critic, official):
        target = checkpoints_dir() / official
        with atomic_write(target) as temporary:
            torch.save({"g_ema": generator.state, "d": critic.state, "latent_avg": generator.w_avg}, temporary)
        return target
    folder = checkpoints_dir() / BASES / path.stem
    if critic is not None:
        save_model(folder / "discriminator.safetensors", critic.state,
                   {"kind": "discriminator", "discriminator": critic.config.to_dict()})
    target = folder / "generator.safetensors"
    save_model(target, {**generator.state, "w_avg": generator.w_avg},
               {"kind": "generator", "generator": generator.config.to_dict()})
    return target
