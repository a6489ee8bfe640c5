#!/usr/bin/env python3
"""Cut faces out of photos as FFHQ does: oriented, square, eyes and mouth in place."""

from __future__ import annotations

import csv
import io
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from pipeline import cli


def parse(argv: Sequence[str] | None) -> Namespace:
    parser = cli.ArgumentParser(prog="face_align.py", description=__doc__)
    parser.add_argument("--path", type=Path, default=Path("data/test_inputs"), help="photo, or folder of photos")
    parser.add_argument("--output", type=Path, default=Path("outputs/aligned"), help="output folder")
    parser.add_argument("--size", type=cli.image_side, default=1024, help="side of the result in px")
    parser.add_argument("--faces", choices=("largest", "all"), default="largest", help="which faces of a photo")
    parser.add_argument("--predictor", type=Path, default=None,
                        help="dlib shape predictor; default is the official 68-point file, else the starter's")
    return parser.parse_args(argv)


def align_file(path: Path, finder, args: Namespace, stem: str) -> tuple[list[str], str]:  # noqa: ANN001
    """Align the faces of one photo and return (names written, reason why none was)."""
    from data.images import ImageError, read_image, save_image
    from faces.align import align_face

    try:
        photo = read_image(path)
    except ImageError as error:
        return [], str(error)
    faces = finder.find(photo)
    if not faces:
        return [], f"{path}: no face found; use a photo with a face of at least 80 px that looks at the camera"
    written = []
    for number, face in enumerate(faces if args.faces == "all" else faces[:1]):
        name = f"{stem}_face{number}.png" if args.faces == "all" and len(faces) > 1 else f"{stem}.png"
        save_image(args.output / name, align_face(photo, face.landmarks, output_size=args.size))
        written.append(name)
    return written, ""


def run(args: Namespace) -> int:
    from checkpoints import atomic_write
    from data.images import list_images
    from faces.find import FaceFinder
    from pipeline.stylize import output_stems
    from tqdm import tqdm

    paths = list_images(args.path)
    cli.ensure_dir(args.output)
    finder, stems = FaceFinder(args.predictor), output_stems(paths)
    rows, failed = [], 0
    for path in tqdm(paths, desc="photos", disable=len(paths) < 2):
        written, reason = align_file(path, finder, args, stems[path])
        rows.append([str(path), len(written), " ".join(written), reason])
        if reason:
            cli.report(reason)
            failed += 1
    table = io.StringIO()
    csv.writer(table).writerows([["file", "faces", "outputs", "reason"], *rows])
    with atomic_write(args.output / "report.csv") as temporary:
        temporary.write_text(table.getvalue())
    print(f"{len(paths) - failed} of {len(paths)} photos aligned into {args.output}; report.csv tells of each")
    return 2 if failed else 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
