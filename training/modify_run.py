"""What ``encapsulate.py`` and ``adapt.py`` share: options of the settings, and a run from its start or its saved state."""

from __future__ import annotations

import secrets
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from checkpoints.io import CheckpointError
from losses.modify import CODE_FORMS, CRITIC_FORMS
from training.modify import Stage
from training.modify_config import REMAP_STARTS, SWAP_PARTS, StageConfig
from training.session import Session
from training.state import STATE_FILE, read_state, restore

Config = TypeVar("Config", bound=StageConfig)
HELP = {
    "steps": "steps of reconstruction (eq. 1 to 4), or of adapting (eq. 7)",
    "swap_steps": "steps of swapping after them (eq. 5 and 6)",
    "batch": "images per step",
    "rows": "rows of style, xi",
    "n_mlp": "layers of the remapping network before its last",
    "lr": "learning rate of encoder and generator",
    "remap_lr": "learning rate of the remapping network",
    "critic_lr": "learning rate of the critic",
    "beta1": "Adam's first decay",
    "beta2": "Adam's second decay",
    "r_weight": "weight of the pixels' distance",
    "lpips_weight": "weight of the perceptual distance",
    "id_weight": "weight of the identity term",
    "adv_r_weight": "weight of the critic's term on reconstructions",
    "swap_weight": "weight of the swapping loss",
    "adv_z_weight": "weight of the critic's term on versions",
    "adv_weight": "weight of the critic's term",
    "critic_form": "wgan as the paper, or softplus as the released code",
    "code_form": "swapping as the paper, or mean squares as the released code",
    "swap_parts": "what the second phase trains",
    "decay": "share of the first phase, at its end, over which the learning rate falls to a tenth",
    "validation": "share of the images that is held out, so that the networks nearest to it are kept",
    "val_every": "steps between looks at them",
    "remap_start": "how the remapping network begins its phase",
    "average": "decay of the running average that the style is; 0 for the last step's networks",
    "penalty": "weight of the critic's gradient penalty, 0 for none",
    "penalty_every": "steps between penalties",
    "critic_every": "steps between those in which the critic learns",
    "mirror": "mirror half of the images",
    "encoder_parts": "patterns of the encoder's parameters to train, separated by commas; none for all",
    "generator_parts": "likewise of the generator",
}
CHOICES = {"critic_form": CRITIC_FORMS, "code_form": CODE_FORMS, "swap_parts": SWAP_PARTS, "remap_start": REMAP_STARTS}


def patterns(text: str) -> tuple[str, ...]:
    """Parse patterns separated by commas; an empty text gives none."""
    return tuple(filter(None, (part.strip() for part in text.split(","))))


def add_settings(parser: ArgumentParser, config: type[StageConfig], types: Mapping[str, Callable[[str], Any]]) -> None:
    """Add an option per setting, without a default: what is not given comes from the profile.

    Args:
        parser: gets the options.
        config: of the stage.
        types: parser of a text for each of "int", "float" and "bool".
    """
    parser.add_argument("--profile", choices=("auto", *sorted(config.PROFILES)), default="auto",
                        help="settings to start from; auto takes the starter's up to 256 px")
    group = parser.add_argument_group("settings of the schedule (defaults come from the profile)")
    published, starter = config(), config.profile("starter")
    kinds = {**types, "str": str, "tuple": patterns}
    for field in fields(config):
        if field.name not in HELP:
            continue
        values = [getattr(each, field.name) for each in (published, starter)]
        shown = [",".join(v) or "all" if isinstance(v, tuple) else f"{v:.6g}" if isinstance(v, float) else str(v)
                 for v in values]
        default = shown[0] if shown[0] == shown[1] else f"{shown[0]}, starter {shown[1]}"
        spelled = dict.fromkeys((f"--{field.name}", f"--{field.name.replace('_', '-')}"))
        group.add_argument(*spelled, type=kinds[type(values[0]).__name__], default=None,
                           metavar=None if field.name in CHOICES else field.name.split("_")[-1].upper(),
                           choices=CHOICES.get(field.name), help=f"{HELP[field.name]} [{default}]")


def choose_config(args: Namespace, config: type[Config], *, size: int, dtype: str, **changes: Any) -> Config:
    """Return the settings of ``args.profile`` with those of the command line; raises ValueError for one out of range."""
    profile = args.profile if args.profile != "auto" else "starter" if size <= 256 else "published"
    return config.profile(profile, **{**given(args, config), **changes}, dtype=dtype)


def given(args: Namespace, config: type[StageConfig]) -> dict[str, Any]:
    """Return the settings that the command line names."""
    values = {field.name: getattr(args, field.name, None) for field in fields(config) if field.name != "dtype"}
    return {name: value for name, value in values.items() if value is not None}


def stored_config(args: Namespace, config: type[Config], state: Mapping[str, Any]) -> Config:
    """Return the settings of a saved run.

    Raises:
        CheckpointError: if the state has none, or the command line names others.
    """
    try:
        stored = config.from_dict(state["tuner"]["config"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{state['path']}: is no state of this kind of run ({error}); start again without --resume"
                              ) from error
    changed = [f"--{name}" for name, value in given(args, config).items() if getattr(stored, name) != value]
    if args.dtype not in ("auto", stored.dtype):
        changed.append("--dtype")
    if changed:
        raise CheckpointError(f"the run was started with other values of {', '.join(changed)}; leave them out with --resume")
    return stored


def saved_state(folder: Path, *, resume: bool) -> dict[str, Any] | None:
    """Return the state in a run's folder where it is to be resumed and there is one."""
    path = folder / STATE_FILE
    return read_state(path) if resume and path.exists() else None


def check_run(state: Mapping[str, Any], facts: Mapping[str, str]) -> None:
    """Raise CheckpointError unless a saved run was started from the same things: facts by what they are called."""
    other = [name for name, value in facts.items() if state["run"].get(name) != value]
    if other:
        raise CheckpointError(f"{state['path']}: was started with another {' and '.join(other)}; give the same, or start "
                              "again without --resume")


def run_stage(
    stage: Stage, folder: Path, *, state: Mapping[str, Any] | None, facts: Mapping[str, str], args: Namespace, label: str,
    on_step: Callable[[Any], None] | None = None,
) -> str:
    """Train a stage to its end and return the run's name, random numbers that say nothing of its images.

    Args:
        stage: new.
        folder: of state, table and sheets.
        state: what to go on from.
        facts: what the run depends on, by what it is called, see ``check_run``.
        args: ``save_every``, ``sheet_every``, ``overwrite`` and ``command``.
        label: of the progress bar.
        on_step: called with the stage after every step.

    Raises:
        Interrupted: after SIGINT, when the state is saved.
    """
    if state is not None:
        restore(stage, state)
    run = state["run"]["run"] if state is not None else secrets.token_hex(16)
    hint = args.command if "--resume" in args.command.split() else f"{args.command} --resume"
    Session(folder, {**facts, "run": run}, args.save_every, args.sheet_every, hint.replace(" --overwrite", ""), label=label
            ).train(stage, on_step=on_step)
    return run
