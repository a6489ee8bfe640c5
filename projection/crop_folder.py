#!/usr/bin/env python3
"""Cut the face out of every frame of a clip as FFHQ does: a folder of numbered pictures for --target-landmarks-folder."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from pipeline import cli


def parse(argv: Sequence[str] | None) -> Namespace:
    parser = cli.ArgumentParser(prog="python -m projection.crop_folder", description=__doc__)
    parser.add_argument("--video_path", type=Path, required=True, help="clip")
    parser.add_argument("--outdir", type=Path, required=True, help="output folder")
    parser.add_argument("--res", type=cli.image_side, default=512, help="side of a crop in px")
    parser.add_argument("--smooth", type=cli.finite_float, default=0.5,
                        help="smoothing of the crop over time, 0 each frame for itself to 1 most")
    cli.add_finder(parser)
    args = parser.parse_args(argv)
    if not 0.0 <= args.smooth <= 1.0:
        parser.error(f"argument --smooth: expected a number within 0 and 1, got {args.smooth}")
    return args


def run(args: Namespace) -> int:
    from tqdm import tqdm

    from data.images import save_image
    from faces.align import align_face
    from faces.tracking import FaceTracker
    from pipeline import video_io

    info = video_io.clip_info(args.video_path)
    cli.ensure_dir(args.outdir)
    tracker, written, last = FaceTracker(cli.finder_of(args).make(), smooth=args.smooth, every=5), 0, None
    for frame in tqdm(video_io.read_frames(args.video_path), total=info.frames or None, desc="frames"):
        at = float(frame.pts * info.time_base)
        tracks = tracker.update(frame.image, seconds=0.0 if last is None else at - last)
        last = at
        if not tracks:
            continue
        save_image(args.outdir / f"{frame.number}.png", align_face(frame.image, tracks[0].landmarks, output_size=args.res))
        written += 1
    if not written:
        raise cli.UserError(f"{args.video_path}: no face found in any frame; use a clip of a face that looks at the camera")
    print(f"{written} frames cut into {args.outdir}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
