"""``python -m styles list|make|pack``: the ready styles, how they are trained, and small style files."""

from __future__ import annotations

import os
import subprocess
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline import cli

ROOT = Path(__file__).parent.parent
PAIRS, PORTRAITS = ROOT / "data" / "style_images_aligned", ROOT / "data" / "portraits"


@dataclass(frozen=True)
class Recipe:
    """What a ready style is made of: one drawing, its photo where it has one, and what it looks like."""

    target: Path
    source: Path | None
    about: str


def _drawn(name: str, about: str) -> Recipe:
    return Recipe(PAIRS / f"target_{name}.png", PAIRS / "source_sample.png", about)


READY = {
    "caricature": _drawn("sample", "airbrushed, large eyes, wide smile"),
    "cartoon": _drawn("cartoon", "flat colours, dark contours, very large eyes"),
    "ink": _drawn("ink", "black ink and hatching on paper, wide jaw"),
    "modigliani": Recipe(PORTRAITS / "modigliani_hebuterne.jpg", None, "long ovals in ochre"),
    "vangogh": Recipe(PORTRAITS / "vangogh_roulin.jpg", None, "curling strokes, yellow on green"),
    "renoir": Recipe(PORTRAITS / "renoir_samary.jpg", None, "feathery strokes in rose"),
    "klimt": Recipe(PORTRAITS / "klimt_adele.jpg", None, "pale skin before gold"),
    "schiele": Recipe(PORTRAITS / "schiele_physalis.jpg", None, "gaunt, large eyes, mottled skin"),
    "sharaku": Recipe(PORTRAITS / "sharaku_oniji.jpg", None, "a woodcut: close-set eyes, ink lines on paper"),
    "monalisa": Recipe(PORTRAITS / "davinci_mona_lisa.jpg", None, "soft shadows under old varnish"),
}


def parse(argv: Sequence[str] | None) -> Namespace:
    from checkpoints.paths import bundled_styles_dir

    words = list(sys.argv[1:] if argv is None else argv)
    mark = words.index("--") if "--" in words else len(words)
    parser = cli.ArgumentParser(prog="python -m styles", description="Ready styles and small style files.")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=cli.ArgumentParser)
    commands.add_parser("list", help="name the ready styles")
    pack = commands.add_parser("pack", help="write a trained style as its difference to the base")
    pack.add_argument("style", help="name of a style in checkpoints/, or a file")
    pack.add_argument("--output", type=Path, required=True, help="file to write")
    make = commands.add_parser("make", help="train ready styles and pack them; options after -- go to train.py")
    make.add_argument("names", nargs="*", help="names of styles; all where none is given")
    make.add_argument("--work", type=Path, default=Path("outputs/styles"), help="folder of runs and full styles; a run that was "
                                                                               "interrupted goes on")
    make.add_argument("--output", type=Path, default=bundled_styles_dir(), help="folder of the small files")
    args = parser.parse_args(words[:mark])
    args.training = words[mark + 1:]
    return args


def train(name: str, work: Path, options: Sequence[str]) -> Path:
    """Run ``train.py`` on the pictures of a ready style; returns the full style's file.

    Raises:
        UserError: if the training fails, which has said why.
    """
    from training.state import STATE_FILE

    run, recipe = work / "runs" / name, READY[name]
    again = "--resume" if (run / STATE_FILE).exists() else "--overwrite"
    pictures = ["--target", str(recipe.target), *(["--source", str(recipe.source)] if recipe.source else [])]
    command = [sys.executable, str(ROOT / "train.py"), "--style", name, *pictures, "--outdir", str(run), again, *options]
    # In a folder of its own, so that a style of the user's of the same name stays.
    done = subprocess.run(command, env={**os.environ, "CHECKPOINTS_DIR": str(work / "full")})
    if done.returncode:
        raise cli.UserError(f"{name}: train.py ended with {done.returncode}; see its message above")
    return work / "full" / f"{name}.safetensors"


def run(args: Namespace) -> int:
    from checkpoints.paths import find_style
    from styles.packing import pack_style

    if args.command == "list":
        for name, recipe in READY.items():
            print(f"{name:12} {recipe.about}")
        return 0
    if args.command == "pack":
        print(f"{args.output} {pack_style(find_style(args.style), args.output) / 1e6:.2f} MB")
        return 0
    strange = [name for name in args.names if name not in READY]
    if strange:
        raise cli.UserError(f"no ready style {strange[0]!r}; there are {', '.join(READY)}")
    cli.ensure_dir(args.work), cli.ensure_dir(args.output)
    for name in args.names or READY:
        output = args.output / f"{name}.safetensors"
        print(f"{output} {pack_style(train(name, args.work, args.training), output) / 1e6:.2f} MB", flush=True)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
