"""Command-line names of the fine-tuning settings: the published name, then a speaking one."""

from __future__ import annotations

import hashlib
import json
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

from training.config import FineTuneConfig
from training.finetune import Pair

# field -> (option names, help)
OPTIONS: dict[str, tuple[tuple[str, ...], str]] = {
    "iterations": (("--num_iter", "--iterations"), "training steps"),
    "batch": (("--batch",), "samples per step"),
    "adversarial_batch": (("--adversarial_batch",), "unmixed samples per generator step, 0 for as many as --batch"),
    "g_lr": (("--g_lr",), "learning rate of the generator"),
    "coarse_rate": (("--coarse_rate",), "share of --g_lr for the layers up to the first warp, 0 to keep them"),
    "d_lr": (("--d_lr",), "learning rate of discriminator and patch heads"),
    "tps_lr": (("--stn_lr", "--tps_lr"), "learning rate of the TPS blocks"),
    "affine_lr": (("--rtstn_lr", "--affine_lr"), "learning rate of the affine blocks"),
    "adversarial_weight": (("--adv_wt",), "weight of the adversarial term"),
    "directional_weight": (("--a2b_wt",), "weight of the directional deformation term"),
    "pair_weight": (("--a2agg_wt",), "weight of the consistency between generated samples"),
    "reference_weight": (("--a2agr_wt",), "weight of the consistency with the reference pair"),
    "landmark_weight": (("--landmark_wt",), "weight of the distance of landmarks from where the pair moves them"),
    "control_weight": (("--control_wt",), "weight of the control points' distance from the pair's landmarks'"),
    "warp_weight": (("--warp_wt",), "weight of the warp term"),
    "warp_form": (("--warp_form",), "published sum, or mean-square smoothness of the displacement"),
    "r1_gamma": (("--r1_gamma",), "R1 weight"),
    "r1_every": (("--r1_every",), "steps between R1 terms, 0 for none"),
    "path_weight": (("--path_weight",), "path length weight"),
    "path_every": (("--path_every",), "steps between path length terms, 0 for none"),
    "path_batch": (("--path_batch",), "samples of the path length term"),
    "transformer_ema": (("--stn_accum",), "decay of the average of the transformers"),
    "g_ema": (("--g_accum",), "decay of the average of the generator"),
    "swap_layer": (("--swap_layer",), "first row of w_plus that takes the reference's colours"),
    "directional_layers": (("--cross_layers",), "ViT layers of the directional term"),
    "directional_facet": (("--cross_mode",), "ViT facet of the directional term: f, q, k or v"),
    "consistency_layers": (("--within_layers",), "ViT layers of the consistency terms"),
    "consistency_facet": (("--within_mode",), "ViT facet of the consistency terms: f, q, k or v"),
    "heads": (("--hp", "--heads"), "patch heads to draw from, the first N"),
    "r1_heads": (("--r1_heads",), "patch heads to draw from for R1, the first N"),
    "tune_generator": (("--tune_g",), "train the generator"),
    "tune_mapping": (("--tune_mapping",), "train its mapping too (only the path length term reaches it)"),
    "use_tps": (("--use_stn",), "train and use TPS blocks"),
    "use_affine": (("--use_rtstn",), "train and use affine blocks"),
    "mode": (("--mode",), "exact: resting grids are the identity; published: as released styles"),
    "warp_resolutions": (("--warp_res",), "feature sizes in px that are warped"),
    "warp_grid": (("--warp_gs", "--warp_grid"), "control points per side of the TPS blocks"),
    "guarded": (("--guarded",), "warps never fold and read nothing beyond the frame"),
    "carry_image": (("--carry_image",), "warps move the image of the layers before them too"),
    "adversarial_mixed": (("--adv_mixed",), "the adversarial term sees samples in the drawing's colours"),
    "inversion_steps": (("--inversion_steps",), "steps of inverting the pair"),
    "inversion_lr": (("--inversion_lr",), "learning rate of inverting the pair"),
}
CHOICES = {"warp_form": ("published", "smoothness"), "mode": ("exact", "published"),
           "directional_facet": tuple("fqkv"), "consistency_facet": tuple("fqkv")}


def add_settings(parser: ArgumentParser, types: Mapping[str, Callable[[str], Any]]) -> None:
    """Add one option per setting, without a default: what is not given comes from the profile.

    Args:
        parser: gets the options.
        types: parser of a text for each of "int", "float", "bool", "tuple" and "str".
    """
    group = parser.add_argument_group("settings of the schedule (defaults come from the profile)")
    published = FineTuneConfig()
    starter = FineTuneConfig.profile("starter")
    for name, (flags, text) in OPTIONS.items():
        values = [getattr(config, name) for config in (published, starter)]
        shown = [",".join(map(str, v)) if isinstance(v, tuple) else f"{v:.6g}" if isinstance(v, float) else str(v)
                 for v in values]
        default = shown[0] if shown[0] == shown[1] else f"{shown[0]}, starter {shown[1]}"
        spelled = [other for flag in flags for other in dict.fromkeys((flag, "--" + flag[2:].replace("_", "-")))]
        group.add_argument(*spelled, dest=name, type=types[type(values[0]).__name__], choices=CHOICES.get(name),
                           metavar=None if name in CHOICES else type(values[0]).__name__.upper(), default=None,
                           help=f"{text} [{default}]")


def given_settings(args: Namespace) -> dict[str, Any]:
    """Return the settings that the command line names."""
    values = {field.name: getattr(args, field.name, None) for field in fields(FineTuneConfig) if field.name != "dtype"}
    return {name: value for name, value in values.items() if value is not None}


def changed_settings(stored: FineTuneConfig, given: Mapping[str, Any]) -> list[str]:
    """Return the options that differ from a stored run; the number of steps may change."""
    return [OPTIONS.get(name, ((f"--{name}",), ""))[0][0] for name, value in given.items()
            if name != "iterations" and getattr(stored, name) != value]


def choose_config(args: Namespace, *, size: int, dtype: str) -> FineTuneConfig:
    """Return the settings of ``args.profile`` with those of the command line.

    Args:
        args: parsed options of ``add_settings``, and ``profile``: auto takes the starter's up to 256 px.
        size: of the base in px.
        dtype: name of the arithmetic.

    Raises:
        ValueError: for a setting out of range.
    """
    profile = args.profile if args.profile != "auto" else "starter" if size <= 256 else "published"
    return FineTuneConfig.profile(profile, **given_settings(args), dtype=dtype)


def resumed_config(args: Namespace, stored: FineTuneConfig) -> FineTuneConfig:
    """Return a stored run's settings, with the number of steps from the command line where it names one.

    Raises:
        ValueError: naming the options that differ from the run's.
    """
    given = given_settings(args)
    changed = changed_settings(stored, given)
    if args.dtype not in ("auto", stored.dtype):
        changed.append("--dtype")
    if changed:
        raise ValueError(f"the run was started with other values of {', '.join(changed)}; leave them out with --resume")
    return replace(stored, iterations=given.get("iterations", stored.iterations))


def run_digest(config: FineTuneConfig, pair: Pair, base: str) -> str:
    """Return a digest of what decides a run's weights: settings but the number of steps, images and base."""
    settings = {name: value for name, value in config.to_dict().items() if name != "iterations"}
    digest = hashlib.sha256(json.dumps([settings, base], sort_keys=True).encode())
    for image in pair:
        digest.update(image.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]
