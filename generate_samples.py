#!/usr/bin/env python3
"""Draw random stylized faces by seed: a grid with the original faces above the stylized ones."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from models.edits import parse_edits
from pipeline import cli


def parse(argv: Sequence[str] | None) -> Namespace:
    parser = cli.ArgumentParser(prog="generate_samples.py", description=__doc__)
    cli.add_controls(parser, argv, default=cli.DEFAULT_STYLE, samples=True)
    parser.add_argument("--n_sample", type=cli.positive_int, default=1, help="number of grids")
    parser.add_argument("--n_each", type=cli.positive_int, default=6, help="faces per grid")
    parser.add_argument("--nrow", type=cli.non_negative_int, default=0, help="faces per row; 0 is all of a grid")
    parser.add_argument("--mix_grid", type=cli.positive_int, default=None,
                        help="steps of a grid from the first style of a mixture to the second, a row per face")
    parser.add_argument("--truncation", type=cli.finite_float, default=0.7, help="truncation psi")
    parser.add_argument("--edit", type=parse_edits, default=(),
                        help="change the faces before they are drawn, smile=1.5,age=-1; see inference.py")
    parser.add_argument("--style_only", type=cli.str2bool, nargs="?", const=True, default=False,
                        help="leave the originals out")
    parser.add_argument("--size", type=cli.non_negative_int, default=0, help="side of a face in px; 0 is the network's")
    parser.add_argument("--batch", type=cli.positive_int, default=8, help="faces computed at once")
    parser.add_argument("--graphs", action="store_true",
                        help="run the style as a CUDA graph, which pays for many batches on a GPU")
    parser.add_argument("--base", default=None, help="base generator; default is the one the style was trained from")
    parser.add_argument("--output", type=Path, default=Path("outputs/generate"), help="output folder")
    cli.add_common(parser, outdir=False, seed=2023)
    return parser.parse_args(argv)


def drawer(args: Namespace, style):  # noqa: ANN001, ANN201 - the types live behind heavy imports
    """Return a function from faces and landmarks to stylized faces [N, 3, S, S].

    Raises:
        UserError: for --graphs where it cannot be had.
    """
    from models.face import Face
    from pipeline.graphs import Graphed

    look = cli.look_of(args)
    if not args.graphs:
        return lambda faces, landmarks: style.draw(faces, look, landmarks=landmarks)
    if style.device.type != "cuda" or look.has_regions:
        raise cli.UserError("--graphs: needs a GPU and controls that are the same for the whole face; leave the option out")
    graphed = Graphed(lambda w_plus: style.draw(Face(w_plus), look))
    return lambda faces, landmarks: graphed(faces.w_plus)


def draw(args: Namespace, style, base, indices: list[int], faces_of):  # noqa: ANN001, ANN201
    """Return the originals (None without a base) and the stylized faces [N, 3, S, S] of some images of the seed."""
    from checkpoints.edits import load_directions
    from models.edits import edited
    from pipeline import sampling
    from pipeline.faces import FaceFinder

    with cli.autocast(style.device, cli.resolve_dtype(args.dtype, style.device)):
        drawn = sampling.random_faces(style, args.seed, indices, truncation_psi=args.truncation)
        if args.edit:
            drawn = edited(drawn, args.edit, load_directions(args.edit, style.base), style.base.generator)
        originals = landmarks = None
        if base is not None:
            originals = sampling.base_images(base, args.seed, indices, truncation_psi=args.truncation).float().cpu()
            landmarks = sampling.face_landmarks(originals, FaceFinder()) if cli.look_of(args).has_regions else None
        faces = faces_of(drawn, landmarks).float().cpu()
    return originals, faces


def mix_grid(args: Namespace, device) -> int:  # noqa: ANN001
    """Write a grid between two styles: the originals, then columns from the first style to the second."""
    from data.grids import grid
    from data.images import save_image
    from pipeline import sampling
    from styles.registry import load_style, mix_styles, parse_recipe

    recipe = parse_recipe(args.style) or []
    if len(recipe) != 2:
        raise cli.UserError(f"--mix-grid: needs a mixture of two styles such as --style a:1,b:1, got {args.style}")
    styles = [load_style(name, device=device) for name, _ in recipe]
    base = sampling.base_of(styles[0], name=args.base)
    columns, labels = [], ["original"]
    for step in range(args.mix_grid + 1):
        share = step / args.mix_grid
        mixed = mix_styles(styles, [1.0 - share, share])
        originals, faces = draw(args, mixed, base, list(range(args.n_each)), drawer(args, mixed))
        columns.append(faces)
        labels.append(f"{styles[0].name} {1 - share:.2f}")
    rows = [[column[i] for column in (originals, *columns)] for i in range(args.n_each)]
    path = sampling.fresh_path(args.output / f"{styles[0].name}-{styles[1].name}_{args.seed}_mix.png")
    save_image(path, grid(rows, cell=args.size or originals.shape[3], column_labels=labels))
    print(path)
    return 0


def run(args: Namespace) -> int:
    from tqdm import tqdm

    from data.grids import grid
    from data.images import save_image
    from pipeline import sampling
    from styles.registry import load_style

    cli.ensure_dir(args.output)
    device = cli.resolve_device(args.device)
    cli.resolve_dtype(args.dtype, device)
    if args.mix_grid:
        return mix_grid(args, device)
    style = load_style(args.style, device=device)
    # Values by region need the undeformed face, to find the regions in it.
    needed = not args.style_only or cli.look_of(args).has_regions
    base = sampling.base_of(style, name=args.base) if needed else None
    columns, faces_of = args.nrow or args.n_each, drawer(args, style)
    for number in tqdm(range(args.n_sample), desc="grids", disable=args.n_sample < 2):
        originals, faces = [], []
        for indices in sampling.batches(args.n_each, args.batch, start=number * args.n_each):
            plain, drawn = draw(args, style, base, indices, faces_of)
            faces += list(drawn)
            originals += [] if args.style_only else list(plain)
        rows = []
        for first in range(0, args.n_each, columns):
            rows += [part[first:first + columns] for part in (originals, faces) if part]
        path = args.output / f"{style.name}_{args.seed}_{args.n_each}_{number:04d}.png"
        save_image(path, grid(rows, cell=args.size or faces[0].shape[2]))
        print(path)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
