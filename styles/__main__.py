"""``python -m styles list|make|pack``: the ready styles, how they are trained, and small style files."""

from __future__ import annotations

import os
import subprocess
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from pipeline import cli

ROOT = Path(__file__).parent.parent


def parse(argv: Sequence[str] | None) -> Namespace:
    from checkpoints.paths import bundled_styles_dir

    words = list(sys.argv[1:] if argv is None else argv)
    mark = words.index("--") if "--" in words else len(words)
    parser = cli.ArgumentParser(prog="python -m styles", description="Ready styles and small style files.")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=cli.ArgumentParser)
    commands.add_parser("list", help="name the looks that ready styles are made of")
    pack = commands.add_parser("pack", help="write a trained style as its difference to the base")
    pack.add_argument("style", help="name of a style in checkpoints/, or a file")
    pack.add_argument("--output", type=Path, required=True, help="file to write")
    make = commands.add_parser("make", help="draw the pair of each look, train on it, and pack the style; options after "
                                            "-- go to train.py")
    make.add_argument("looks", nargs="*", help="names of looks; all but the held-out ones where none is given")
    make.add_argument("--work", type=Path, default=Path("outputs/styles"), help="folder of pairs, runs and full styles; a "
                                                                               "run that was interrupted goes on")
    make.add_argument("--output", type=Path, default=bundled_styles_dir(), help="folder of the small files")
    args = parser.parse_args(words[:mark])
    args.training = words[mark + 1:]
    return args


def train(name: str, work: Path, options: Sequence[str]) -> Path:
    """Draw the pair of a look and run ``train.py`` on it; returns the full style's file.

    Raises:
        UserError: if the training fails, which has said why.
    """
    from data.make_look_pairs import write_pair
    from training.state import STATE_FILE

    source, target = write_pair(name, work / "pairs")
    run = work / "runs" / name
    again = "--resume" if (run / STATE_FILE).exists() else "--overwrite"
    command = [sys.executable, str(ROOT / "train.py"), "--style", name, "--source", str(source), "--target", str(target),
               "--outdir", str(run), again, *options]
    # In a folder of its own, so that a style of the user's of the same name stays.
    done = subprocess.run(command, env={**os.environ, "CHECKPOINTS_DIR": str(work / "full")})
    if done.returncode:
        raise cli.UserError(f"{name}: train.py ended with {done.returncode}; see its message above")
    return work / "full" / f"{name}.safetensors"


def run(args: Namespace) -> int:
    from checkpoints.paths import find_style
    from data.looks import LOOKS, READY
    from styles.packing import pack_style

    if args.command == "list":
        for name, look in LOOKS.items():
            print(f"{name:12} {look.about}{' (held out for testing)' if look.held_out else ''}")
        return 0
    if args.command == "pack":
        print(f"{args.output} {pack_style(find_style(args.style), args.output) / 1e6:.2f} MB")
        return 0
    strange = [name for name in args.looks if name not in LOOKS]
    if strange:
        raise cli.UserError(f"no look {strange[0]!r}; there are {', '.join(LOOKS)}")
    cli.ensure_dir(args.work), cli.ensure_dir(args.output)
    for name in args.looks or READY:
        output = args.output / f"{name}.safetensors"
        print(f"{output} {pack_style(train(name, args.work, args.training), output) / 1e6:.2f} MB", flush=True)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
