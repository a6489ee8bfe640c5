#!/usr/bin/env python3
"""Cut faces out of photos as FFHQ does: oriented, square, eyes and mouth in place."""

from __future__ import annotations

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
    from pipeline.align import align_face

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
    from pipeline.batch import folder_inputs, write_report
    from pipeline.faces import FaceFinder
    from tqdm import tqdm

    found = folder_inputs(args.path, output=args.output)
    paths = found.photos
    cli.ensure_dir(args.output)
    finder = FaceFinder(args.predictor)
    others = [(clip.path, "a clip; faces are cut out of photos") for clip in found.clips] + found.others
    rows = [{"file": str(path), "faces": 0, "outputs": "", "reason": f"passed over: {reason}"} for path, reason in others]
    failed = 0
    for photo in tqdm(paths, desc="photos", disable=len(paths) < 2):
        written, reason = align_file(Path(photo.path), finder, args, photo.stem)
        rows.append({"file": photo.path, "faces": len(written), "outputs": " ".join(written), "reason": reason})
        if reason:
            cli.report(reason)
            failed += 1
    write_report(args.output / "report.csv", rows, columns=("file", "faces", "outputs", "reason"))
    print(f"{len(paths) - failed} of {len(paths)} photos aligned into {args.output}; report.csv tells of each")
    return 2 if failed else 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
