#!/usr/bin/env python3
"""Draw random stylized faces by seed: a grid with the original faces above the stylized ones."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from pipeline import cli
from pipeline.published import add_file_options, add_switches, apply


def parse(argv: Sequence[str] | None) -> Namespace:
    parser = cli.ArgumentParser(prog="generate_samples.py", description=__doc__)
    cli.add_controls(parser, argv, default=cli.DEFAULT_STYLE, samples=True)
    parser.add_argument("--n_sample", type=cli.positive_int, default=1, help="number of grids")
    parser.add_argument("--n_each", type=cli.positive_int, default=6, help="faces per grid")
    parser.add_argument("--nrow", type=cli.non_negative_int, default=0, help="faces per row; 0 is all of a grid")
    parser.add_argument("--mix_grid", type=cli.positive_int, default=None,
                        help="steps of a grid from the first style of a mixture to the second, a row per face")
    parser.add_argument("--seeds", type=cli.int_ranges, default=None,
                        help="seeds such as 1-50,60: a file for the face of each, and a grid of all, in place of "
                             "--n_sample grids")
    parser.add_argument("--mix_seeds", "--mix-seeds", type=cli.int_list, default=None,
                        help="two seeds A,B: a file per mixture, its coarse rows of latents from A, its fine ones from B, and "
                             "a grid of all")
    parser.add_argument("--interpolate", type=cli.positive_int, default=None,
                        help="frames from each of --seeds to the next: a film that ends where it began")
    parser.add_argument("--film", choices=("mp4", "gif"), default="mp4", help="form of the film")
    parser.add_argument("--latents", type=Path, default=None, help="draw the faces of a file of --save_latents, .npz")
    parser.add_argument("--save_latents", "--save-latents", type=Path, default=None,
                        help="write the faces that are drawn as rows of latents and what else they have, .npz")
    parser.add_argument("--truncation", type=cli.finite_float, default=None,
                        help="truncation psi; default is 0.7 for mapping networks, and 1 where a prior draws the faces")
    parser.add_argument("--edit", type=cli.edits, default=(),
                        help="change the faces before they are drawn, smile=1.5,age=-1; see inference.py")
    parser.add_argument("--style_only", type=cli.str2bool, nargs="?", const=True, default=False,
                        help="leave the originals out")
    parser.add_argument("--size", type=cli.non_negative_int, default=0, help="side of a face in px; 0 is the network's")
    parser.add_argument("--batch", type=cli.positive_int, default=8, help="faces computed at once")
    add_file_options(parser)
    add_switches(parser)
    parser.add_argument("--graphs", action="store_true",
                        help="run the style as a CUDA graph, which pays for many batches on a GPU")
    parser.add_argument("--base", default=None, help="base generator; default is the one the style was trained from")
    parser.add_argument("--output", "--outdir", dest="output", type=Path, default=Path("outputs/generate"),
                        help="output folder")
    cli.add_common(parser, outdir=False, seed=2023)
    args = parser.parse_args(argv)
    ways = [name for name in ("mix_grid", "mix_seeds", "latents") if getattr(args, name) is not None]
    ways += ["seeds"] if args.seeds is not None else []
    if len(ways) > 1:
        parser.error(f"--{ways[0]} and --{ways[1]}: give one of them")
    if args.mix_seeds is not None and len(args.mix_seeds) != 2:
        parser.error(f"--mix_seeds: expected two seeds A,B, got {len(args.mix_seeds)}")
    if args.interpolate is not None and len(args.seeds or ()) < 2:
        parser.error("--interpolate: needs at least two --seeds, such as --seeds 1-4")
    if args.save_latents is not None and (args.interpolate or args.mix_grid):
        parser.error("--save_latents: goes with grids, --seeds, --mix_seeds and --latents")
    return args


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


def psi_of(args: Namespace, style) -> float:  # noqa: ANN001
    """Return the truncation psi that is asked for, or the default of the style's random faces."""
    from pipeline import sampling

    return sampling.default_truncation(style) if args.truncation is None else args.truncation


def draw(args: Namespace, style, base, drawn, faces_of, originals=None):  # noqa: ANN001, ANN201
    """Return the originals (None without a base) and the stylized faces [N, 3, S, S] of random faces.

    ``originals`` draws the former; default is the base's undeformed faces.
    """
    from checkpoints.edits import load_directions
    from faces.find import FaceFinder
    from models.edits import edited
    from pipeline import sampling

    with cli.autocast(style.device, cli.resolve_dtype(args.dtype, style.device)):
        if args.edit:
            drawn = edited(drawn, args.edit, load_directions(args.edit, style.base), style.base.generator)
        plain = landmarks = None
        if base is not None:
            plain = originals() if originals else sampling.shown(base, drawn)
            plain = plain.float().cpu()
            landmarks = sampling.face_landmarks(plain, FaceFinder()) if cli.look_of(args).has_regions else None
        faces = faces_of(drawn, landmarks).float().cpu()
    return plain, faces


def draw_indices(args: Namespace, style, base, indices: list[int], faces_of):  # noqa: ANN001, ANN201
    """Return the faces ``indices`` of the seed, their originals and the stylized ones."""
    from pipeline import sampling

    psi = psi_of(args, style)
    with cli.autocast(style.device, cli.resolve_dtype(args.dtype, style.device)):
        drawn = sampling.random_faces(style, args.seed, indices, truncation_psi=psi)
    return drawn, *draw(args, style, base, drawn, faces_of,
                        lambda: sampling.originals_of(base, drawn, args.seed, indices, truncation_psi=psi))


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
        apply(args, mixed)
        _, originals, faces = draw_indices(args, mixed, base, list(range(args.n_each)), drawer(args, mixed))
        columns.append(faces)
        labels.append(f"{styles[0].name} {1 - share:.2f}")
    rows = [[column[i] for column in (originals, *columns)] for i in range(args.n_each)]
    path = sampling.fresh_path(args.output / f"{styles[0].name}-{styles[1].name}_{args.seed}_mix.png")
    save_image(path, grid(rows, cell=args.size or originals.shape[3], column_labels=labels))
    print(path)
    return 0


def named_faces(args: Namespace, style):  # noqa: ANN001, ANN201
    """Yield names and faces of --seeds, --mix_seeds or --latents, in batches.

    Raises:
        UserError: for a file that does not fit the style.
    """
    from pipeline import sampling
    from pipeline.face_files import load_faces

    if args.latents is not None:
        made_from = style.config.get("base") or {}
        faces, names = load_faces(args.latents, base=style.base_name, shape=style.latent_shape,
                                  fingerprint=made_from.get("fingerprint", ""))
        faces = faces.to(style.device)
        for indices in sampling.batches(len(names), args.batch):
            part = slice(indices[0], indices[-1] + 1)
            yield names[part], faces[part]
    elif args.mix_seeds is not None:
        z = [sampling.seeded_z(seed, 0, style.latent_shape[1]) for seed in args.mix_seeds]
        layers = list(range(style.latent_shape[0], -1, -2))
        for indices in sampling.batches(len(layers), args.batch):
            part = layers[indices[0]:indices[-1] + 1]
            yield ([f"mix_{'_'.join(map(str, args.mix_seeds))}_from_row_{layer:02d}" for layer in part],
                   sampling.mixed_faces(style, *z, part, truncation_psi=psi_of(args, style)))
    else:
        for indices in sampling.batches(len(args.seeds), args.batch):
            seeds = [args.seeds[i] for i in indices]
            yield [f"seed_{seed:04d}" for seed in seeds], sampling.seed_faces(style, seeds, truncation_psi=psi_of(args, style))


def draw_named(args: Namespace, style, base, faces_of) -> int:  # noqa: ANN001
    """Write a file per face and a grid of all."""
    from data.grids import grid
    from data.images import save_image
    from models.face import Face

    originals, drawn, names, kept = [], [], [], []
    for part, faces in named_faces(args, style):
        plain, made = draw(args, style, base, faces, faces_of)
        for name, image in zip(part, made, strict=True):
            save_image(args.output / f"{style.name}_{name}.png", grid([[image]], cell=args.size or image.shape[2]))
        originals += [] if args.style_only else list(plain)
        drawn, names = drawn + list(made), names + part
        kept += [faces] if args.save_latents else []
    if kept:
        save_latents(args, style, Face.join(kept), names)
    columns = args.nrow or min(len(drawn), 8)
    rows = [part[first:first + columns] for first in range(0, len(drawn), columns) for part in (originals, drawn) if part]
    path = args.output / f"{style.name}_{names[0]}_to_{names[-1]}.png"
    save_image(path, grid(rows, cell=args.size or drawn[0].shape[2]))
    print(path)
    return 0


def save_latents(args: Namespace, style, faces, names: list[str]) -> None:  # noqa: ANN001
    """Write --save_latents and say so."""
    from pipeline.face_files import save_faces

    try:
        args.save_latents.parent.mkdir(parents=True, exist_ok=True)
        save_faces(args.save_latents, faces, names, base=style.base_name)
    except OSError as error:
        raise cli.UserError(f"{args.save_latents}: cannot be written ({error.strerror}); choose another file") from error
    print(args.save_latents)


def film(args: Namespace, style, base, faces_of) -> int:  # noqa: ANN001
    """Write a film from each of --seeds to the next and back to the first."""
    from tqdm import tqdm

    from data.animation import save_animation
    from data.grids import grid
    from pipeline import sampling

    frames, psi = [], psi_of(args, style)
    path = sampling.seed_path(args.seeds, args.interpolate, style.latent_shape[1])
    for indices in tqdm(list(sampling.batches(len(path), args.batch)), desc="frames"):
        faces = style.random(path[indices[0]:indices[-1] + 1], truncation_psi=psi)
        plain, made = draw(args, style, base, faces, faces_of)
        for number, image in enumerate(made):
            column = [[image]] if args.style_only else [[plain[number]], [image]]
            frames.append(grid(column, cell=args.size or image.shape[2]))
    name = args.output / f"{style.name}_seeds_{'_'.join(map(str, args.seeds[:8]))}.{args.film}"
    save_animation(name, frames, fps=12)
    print(name)
    return 0


def grids(args: Namespace, style, base, faces_of) -> int:  # noqa: ANN001
    """Write --n_sample grids of the faces of --seed."""
    from tqdm import tqdm

    from data.grids import grid
    from data.images import save_image
    from models.face import Face
    from pipeline import sampling

    columns, kept = args.nrow or args.n_each, []
    for number in tqdm(range(args.n_sample), desc="grids", disable=args.n_sample < 2):
        originals, faces = [], []
        for indices in sampling.batches(args.n_each, args.batch, start=number * args.n_each):
            found, plain, drawn = draw_indices(args, style, base, indices, faces_of)
            kept += [found] if args.save_latents else []
            faces += list(drawn)
            originals += [] if args.style_only else list(plain)
        rows = []
        for first in range(0, args.n_each, columns):
            rows += [part[first:first + columns] for part in (originals, faces) if part]
        path = args.output / f"{style.name}_{args.seed}_{args.n_each}_{number:04d}.png"
        save_image(path, grid(rows, cell=args.size or faces[0].shape[2]))
        print(path)
    if kept:
        save_latents(args, style, Face.join(kept), [f"seed_{args.seed:04d}_{i:04d}" for i in range(args.n_sample * args.n_each)])
    return 0


def run(args: Namespace) -> int:
    from pipeline import sampling
    from styles.registry import load_style

    cli.ensure_dir(args.output)
    device = cli.resolve_device(args.device)
    cli.resolve_dtype(args.dtype, device)
    if args.mix_grid:
        return mix_grid(args, device)
    style = load_style(args.style, device=device)
    apply(args, style)
    # Values by region need the undeformed face, to find the regions in it.
    needed = not args.style_only or cli.look_of(args).has_regions
    base, faces_of = sampling.base_of(style, name=args.base) if needed else None, drawer(args, style)
    if args.interpolate:
        return film(args, style, base, faces_of)
    if args.seeds or args.mix_seeds or args.latents:
        return draw_named(args, style, base, faces_of)
    return grids(args, style, base, faces_of)


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
