"""Options of the published command lines that say what a style's file holds, or switch a part of it off."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from pipeline import cli


def add_file_options(parser: cli.ArgumentParser) -> None:
    """Add --swap_res and --swap_gs, which the published scripts need and which a style's file knows by itself."""
    parser.add_argument("--swap_res", type=cli.int_list, default=None,
                        help="feature sizes in px that are warped; the file knows them, this is checked against it")
    parser.add_argument("--swap_gs", type=cli.positive_int, default=None,
                        help="control points per side of the warps, checked likewise")


def add_switches(parser: cli.ArgumentParser) -> None:
    """Add --use_stn and --use_rtstn, which leave a kind of warps out."""
    for name, what in (("--use_stn", "thin-plate spline"), ("--use_rtstn", "affine")):
        parser.add_argument(name, type=cli.str2bool, nargs="?", const=True, default=None,
                            help=f"false leaves the style's {what} warps out")


def apply(args: Namespace, style: Any) -> None:
    """Check the options against a loaded style, and switch off what they leave out.

    Args:
        args: parsed options, with those of ``add_file_options``, ``add_switches``, or both.
        style: any kind of style; one without warps takes none of them.

    Raises:
        UserError: for a value that is not the file's, or a style that has no such warps.
    """
    given = {name: value for name in ("swap_res", "swap_gs", "use_stn", "use_rtstn")
             if (value := getattr(args, name, None)) is not None}
    if not given:
        return
    network = style.transformers
    if network is None:
        raise cli.UserError(f"--{next(iter(given))}: the style {style.name} has no trained warps; leave the option out")
    config = network.config
    for name, held in (("swap_res", tuple(config.resolutions)), ("swap_gs", config.grid_size)):
        if given.get(name, held) != held:
            told = ",".join(map(str, held)) if isinstance(held, tuple) else held
            raise cli.UserError(f"--{name}: the style {style.name} was made with {told}; leave the option out")
    for name, part in (("use_stn", "tps"), ("use_rtstn", "affine")):
        if name in given and given[name] != (getattr(network, part) is not None):
            if given[name]:
                raise cli.UserError(f"--{name}: the style {style.name} was made without such warps; leave the option out")
            setattr(network, part, None)
