#!/usr/bin/env python3
"""Cut faces out of photos and clips as FFHQ does: oriented, square, eyes and mouth in place."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import cli

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from faces.find import Face, FaceFinder

COLUMNS = ("file", "faces", "outputs", "reason")


def parse(argv: Sequence[str] | None) -> Namespace:
    parser = cli.ArgumentParser(prog="face_align.py", description=__doc__)
    parser.add_argument("--path", type=Path, default=Path("data/test_inputs"), help="photo, clip, or folder of both")
    parser.add_argument("--recursive", action="store_true", help="sub-folders too, mirrored in the output")
    parser.add_argument("--output", "--outdir", dest="output", type=Path, default=Path("outputs/aligned"),
                        help="output folder")
    parser.add_argument("--size", type=cli.image_side, default=1024, help="side of the result in px")
    parser.add_argument("--faces", choices=("largest", "all"), default="largest", help="which faces of a photo or frame")
    cli.add_finder(parser)
    parser.add_argument("--predictor", type=Path, default=None,
                        help="dlib shape predictor, implies --finder dlib; default is the official 68-point file, else the "
                             "starter's")
    parser.add_argument("--every", type=cli.positive_int, default=None,
                        help="clips: every so many frames one; the sharpest of each second where not given")
    parser.add_argument("--landmark_files", type=Path, default=None,
                        help="folder of landmark files (npy, json, csv, pts) that say where the face of the photo of that "
                             "name is")
    parser.add_argument("--landmarks", action="store_true",
                        help="also write NAME.json: the 68 landmarks in px of the crop and of the photo")
    return parser.parse_args(argv)


def pictures(path: Path, *, every: int | None) -> Iterator[tuple[str, Image.Image]]:
    """Yield the picture of a photo, or those of a clip with what is added to their name.

    Raises:
        ImageError, UserError: in one line, for a file that cannot be read.
    """
    from data.images import read_image
    from pipeline.video_io import clip_info, is_clip, read_frames

    if not is_clip(path):
        yield "", read_image(path)
        return
    rate = clip_info(path).time_base
    best: tuple[float, int, Image.Image] | None = None
    second = 0
    for frame in read_frames(path):
        if every:
            if frame.number % every == 0:
                yield f"_{frame.number:06d}", frame.image
            continue
        if int(frame.pts * rate) != second and best:
            yield f"_{best[1]:06d}", best[2]
            best = None
        second = int(frame.pts * rate)
        sharp = sharpness(frame.image)
        if best is None or sharp > best[0]:
            best = sharp, frame.number, frame.image
    if best:
        yield f"_{best[1]:06d}", best[2]


def sharpness(image: Image.Image) -> float:
    """Return the variance of the Laplacian of a picture's grey values."""
    import numpy as np
    from scipy.ndimage import laplace

    return float(laplace(np.asarray(image.convert("L"), np.float32)).var())


def faces_of(path: Path, image: Image.Image, finder: FaceFinder, args: Namespace) -> list[np.ndarray]:
    """Return the landmarks [68, 2] of the wanted faces of a picture, from its landmark file where there is one.

    Raises:
        UserError: naming the picture, where there is no face.
    """
    from faces.landmark_files import SUFFIXES, read_landmarks

    known = [args.landmark_files / f"{path.stem}{suffix}" for suffix in SUFFIXES] if args.landmark_files else []
    for file in known:
        if file.is_file():
            return [read_landmarks(file)]
    found: list[Face] = finder.told(image, name=str(path))
    return [face.landmarks for face in (found if args.faces == "all" else found[:1])]


def align_file(path: Path, stem: str, finder: FaceFinder, args: Namespace) -> tuple[list[str], str]:
    """Align the faces of one photo or clip and return (names written, reason why none was)."""
    from data.images import ImageError, save_image
    from faces.align import align_face, in_crop
    from faces.landmark_files import write_landmarks

    written, reason = [], f"{path}: holds no frame"
    try:
        for added, image in pictures(path, every=args.every):
            try:
                found = faces_of(path, image, finder, args)
                crops = [align_face(image, points, output_size=args.size) for points in found]
            except (cli.UserError, ValueError) as error:
                reason = str(error) if isinstance(error, cli.UserError) else f"{path}: {error}"
                continue
            for number, (points, crop) in enumerate(zip(found, crops, strict=True)):
                name = f"{stem}{added}{f'_face{number}' if len(found) > 1 else ''}.png"
                (args.output / name).parent.mkdir(parents=True, exist_ok=True)
                save_image(args.output / name, crop)
                if args.landmarks:
                    write_landmarks((args.output / name).with_suffix(".json"),
                                    in_crop(points, points, image.size, output_size=args.size), photo=points.tolist())
                written.append(name)
    except (ImageError, cli.UserError) as error:
        reason = str(error)
    return written, "" if written else reason


def run(args: Namespace) -> int:
    from tqdm import tqdm

    from faces.find import FaceFinder
    from pipeline.batch import folder_inputs, write_report

    if args.landmark_files and not args.landmark_files.is_dir():
        raise cli.UserError(f"{args.landmark_files}: is no folder; --landmark-files names a folder of landmark files")
    found = folder_inputs(args.path, recursive=args.recursive, output=args.output)
    inputs = [*found.photos, *found.clips]
    cli.ensure_dir(args.output)
    kind = "dlib" if args.predictor else args.finder
    finder = FaceFinder(kind, min_face=float(args.min_face), max_faces=args.max_faces, predictor=args.predictor)
    rows = [{"file": str(path), "faces": 0, "outputs": "", "reason": f"passed over: {reason}"} for path, reason in found.others]
    failed = 0
    for item in tqdm(inputs, desc="files", disable=len(inputs) < 2):
        written, reason = align_file(Path(item.path), item.stem, finder, args)
        rows.append({"file": item.path, "faces": len(written), "outputs": ";".join(written), "reason": reason})
        if reason:
            cli.report(reason)
            failed += 1
    write_report(args.output / "report.csv", rows, columns=COLUMNS)
    print(f"{len(inputs) - failed} of {len(inputs)} files aligned into {args.output}; report.csv tells of each")
    return 2 if failed else 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
