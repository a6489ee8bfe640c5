#!/usr/bin/env python3
"""Restyle a folder or a list of photos with several processes, on this machine or a cluster, by Ray Data; resumes."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline import cli


def parse(argv: Sequence[str] | None) -> Namespace:
    parser = cli.ArgumentParser(prog="stylize_dataset.py", description=__doc__)
    cli.add_controls(parser, argv, default=cli.DEFAULT_STYLE)
    parser.add_argument("--input", type=Path, default=Path("data/test_inputs"),
                        help="folder (with subfolders), text file with one path per line, or parquet file")
    parser.add_argument("--column", default="path", help="column of the paths in a parquet file")
    parser.add_argument("--output", "--outdir", dest="output", type=Path, default=Path("outputs/dataset"),
                        help="output folder")
    parser.add_argument("--report", type=Path, default=None, help=".csv or .parquet file; default OUTPUT/report.csv")
    parser.add_argument("--inversion", choices=("e4e", "optimize", "e4e+optimize"), default="e4e",
                        help="how photos become latents, as in inference.py")
    parser.add_argument("--steps", type=cli.positive_int, default=100, help="optimisation steps")
    parser.add_argument("--residual", type=int, choices=(0, 32, 64), default=32,
                        help="side in px of the features that are found beside the latents, 0 for latents alone")
    parser.add_argument("--align", type=cli.str2bool, nargs="?", const=True, default=True,
                        help="find and align faces; false for inputs that are aligned already")
    parser.add_argument("--faces", choices=("largest", "all"), default="largest", help="which faces of a photo")
    cli.add_finder(parser)
    parser.add_argument("--base", default=None, help="base generator; default is the one the style was trained from")
    cli.add_encoder(parser)
    parser.add_argument("--address", default=None, help="Ray cluster, such as auto or HOST:6379; default this machine")
    parser.add_argument("--workers", type=cli.positive_int, default=1, help="processes that restyle")
    parser.add_argument("--batch_size", type=cli.positive_int, default=8, help="photos that a worker is given at once")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of workers; cuda takes a GPU each")
    return parser.parse_args(argv)


def absolute(name: str | None) -> str | None:
    """Return a file's absolute path, for workers have a folder of their own, and any other name as it is."""
    return str(Path(name).resolve()) if name and Path(name).is_file() else name


def cpus() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(args: Namespace) -> int:
    from tqdm import tqdm

    from checkpoints.paths import find_style
    from pipeline import dataset
    from pipeline.batch import Ledger

    report = args.report or args.output / "report.csv"
    if report.suffix not in (".csv", ".parquet"):
        raise cli.UserError(f"{report}: --report must end in .csv or .parquet")
    settings = dataset.DatasetSettings(
        str(find_style(args.style).resolve()), str(args.output.resolve()), cli.look_of(args), args.inversion,
        args.steps, args.align, args.faces, absolute(args.base), absolute(args.encoder), args.device,
        args.residual, cli.finder_of(args))
    photos = dataset.read_paths(args.input, column=args.column)
    cli.ensure_dir(args.output)
    # Built here too, so that wrong weights are told of before any worker starts; the driver may have no GPU.
    stylizer = dataset.build_stylizer(replace(settings, device="cpu"))
    if stylizer.rows_alone:
        cli.report(cli.ROWS_ALONE)
    digest = settings.digest(stylizer.style.fingerprint, *stylizer.digests().values())
    ledger = Ledger(args.output, digest)
    kept = {photo: ledger.earlier(photo) for photo in photos}
    rows = [row | {"worker": ""} for row in kept.values() if row is not None]
    missing = [photo for photo, row in kept.items() if row is None]
    if missing:
        threads = max(1, cpus() // args.workers)
        with dataset.ray_session(args.address, workers=args.workers):
            new = dataset.process(missing, settings, digest=digest, workers=args.workers, batch_size=args.batch_size,
                                  threads=threads)
            for row in tqdm(new, total=len(missing), desc="photos"):
                rows.append(row)
                if row["error"]:
                    cli.report(row["error"])
    dataset.write_report(report, rows)
    failed = sum(row["status"] == "failed" for row in rows)
    print(f"{report}: {len(missing) - failed} done, {len(rows) - len(missing)} kept, {failed} failed")
    return 2 if failed else 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
