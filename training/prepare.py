"""From a config and loaded networks to a tuner that is ready for its next step."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from checkpoints.io import CheckpointError
from models.dino import DinoFeatures
from models.discriminator import Discriminator
from models.stylegan2 import Generator
from training.config import FineTuneConfig
from training.finetune import FineTuner, Pair
from training.inversion import invert
from training.options import resumed_config
from training.state import restore


def invert_pair(
    pair: Pair, generator: Generator, *, config: FineTuneConfig, w_init: Tensor, objective: nn.Module,
    quiet: bool = False,
) -> Tensor:
    """Return w_plus [2, L, D] of source and target under the base, both optimised in one pass.

    Args:
        pair: the references.
        generator: the base.
        config: ``inversion_steps``, ``inversion_lr`` and ``seed`` are used.
        w_init: start [1 or 2, L, D], the mean latent in the published schedule.
        objective: see ``losses.InversionLoss``.
        quiet: show no progress bar.
    """
    with tqdm(total=config.inversion_steps, desc="inverting the pair", disable=quiet) as bar:
        def progress(step: int, loss: float) -> None:
            bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            bar.update(1)

        return invert(torch.cat([pair.source, pair.target]), generator, w_init=w_init, objective=objective,
                      steps=config.inversion_steps, lr=config.inversion_lr,
                      noise=torch.Generator().manual_seed(config.seed), progress=progress).w_plus


def new_tuner(
    generator: Generator, discriminator: Discriminator, *, dino: DinoFeatures, config: FineTuneConfig, pair: Pair,
    w_init: Tensor, objective: nn.Module, landmark_net: nn.Module | None = None, points: Tensor | None = None,
    quiet: bool = False,
) -> FineTuner:
    """Invert the pair and return a tuner at step 0.

    Args:
        generator, discriminator, dino, config, pair: see ``FineTuner``.
        w_init: start of the inversion [1 or 2, L, D].
        objective: of the inversion, see ``losses.InversionLoss``.
        landmark_net, points: see ``FineTuner``.
        quiet: show no progress bar.
    """
    pair = Pair(*(image.to(generator.input.input.device) for image in pair))
    latents = invert_pair(pair, generator, config=config, w_init=w_init, objective=objective, quiet=quiet)
    return FineTuner(generator, discriminator, dino=dino, config=config, pair=pair, latents=latents,
                     landmark_net=landmark_net, points=points)


def run_parts(state: Mapping[str, Any]) -> tuple[FineTuneConfig, Pair, Tensor, Tensor | None]:
    """Return config, pair, latents [2, L, D] and landmarks of a fine-tuning run from what ``read_state`` gave.

    Raises:
        CheckpointError: if it is the state of another kind of training.
    """
    saved = state["tuner"]
    try:
        return FineTuneConfig.from_dict(saved["config"]), Pair(**saved["pair"]), saved["latents"], saved.get("points")
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{state['path']}: is no complete state of fine-tuning ({error}); start again without "
                              "--resume") from error


def resumed_tuner(
    generator: Generator, discriminator: Discriminator, *, dino: DinoFeatures, args: Namespace,
    state: Mapping[str, Any], fingerprint: str, landmark_net: nn.Module | None = None,
) -> FineTuner:
    """Return a tuner that continues a state of ``read_state``.

    Args:
        generator, discriminator, dino, landmark_net: see ``FineTuner``.
        args: parsed options of ``add_settings``; only the number of steps may differ from the run's.
        state: what ``read_state`` gave.
        fingerprint: digest of the base.

    Raises:
        ValueError: if options or base are not the run's, or the state does not fit.
    """
    if state["run"]["fingerprint"] != fingerprint:
        raise ValueError(f"{state['path']}: was started from another base, {state['run']['base']}; name that with --base")
    saved, pair, latents, points = run_parts(state)
    tuner = FineTuner(generator, discriminator, dino=dino, config=resumed_config(args, saved), pair=pair, latents=latents,
                      landmark_net=landmark_net, points=points)
    restore(tuner, state)
    return tuner


@torch.no_grad()
def encoded_start(encoder: nn.Module, latent_avg: Tensor, pair: Pair, *, input_size: int) -> Tensor:
    """Return the encoder's w_plus [2, L, D] of source and target, a start much closer than the mean latent.

    Args:
        encoder: images [N, 3, input_size, input_size] -> codes [N, L, D].
        latent_avg: added to the codes, [L, D] or [D].
        pair: the references.
        input_size: side in px that the encoder takes.
    """
    photos = torch.cat([pair.source, pair.target]).to(latent_avg.device)
    if photos.shape[3] != input_size:
        photos = F.interpolate(photos, size=(input_size, input_size), mode="bilinear", antialias=True)
    return encoder(photos) + latent_avg
