"""A ten-second clip from a latent walk with a moving crop, restyled: jitter, sound, seconds per frame.

``python -m benchmarks.video --style mine`` prints one JSON line and writes clip, result and a contact sheet.
"""

from __future__ import annotations

import json
import resource
from argparse import Namespace
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from pipeline import cli

RATE = 25


def parse(argv: Sequence[str] | None) -> Namespace:
    parser = cli.ArgumentParser(prog="benchmarks.video", description=__doc__)
    cli.add_controls(parser, argv, default=cli.DEFAULT_STYLE)
    parser.add_argument("--seconds", type=cli.finite_float, default=10.0, help="length of the clip")
    parser.add_argument("--size", type=cli.positive_int, default=512, help="side of the clip in px")
    parser.add_argument("--smooth", type=cli.finite_float, default=0.5, help="smoothing over time, 0 to 1")
    parser.add_argument("--residual", type=int, choices=(0, 32), default=32,
                        help="side in px of the features that are found beside the latents, 0 for latents alone")
    parser.add_argument("--output", type=Path, default=Path("outputs/video"), help="output folder")
    cli.add_common(parser, outdir=False, seed=3)
    return parser.parse_args(argv)


def walk(base, *, frames: int, seed: int):  # noqa: ANN001, ANN201 - a generator of images [3, S, S]
    """Yield faces along a smooth closed path through w, psi 0.7."""
    import torch

    from pipeline.sampling import seeded_z

    generator = base.generator
    z = torch.cat([seeded_z(seed, index, generator.config.style_dim) for index in range(3)])
    with torch.no_grad():
        corners = generator.mapping(z, truncation_psi=0.7, w_avg=base.w_avg)
        for index in range(frames):
            angle = 2.0 * np.pi * index / frames
            weights = torch.tensor([1.0 + np.cos(angle + 2.0 * np.pi * k / 3.0) for k in range(3)]) / 3.0
            w = (weights[:, None].float() * corners).sum(dim=0, keepdim=True)
            yield generator.synthesis(generator.broadcast(w), noise=generator.fixed_noise())[0]


def make_clip(path: Path, base, *, frames: int, size: int, seed: int) -> None:  # noqa: ANN001
    """Write the clip: the face lies in a larger picture through which the crop moves, with a tone as sound."""
    import av
    from PIL import Image

    from data.images import to_pil

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"crf": "12"})
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        sound = container.add_stream("aac", rate=44100, layout="mono")
        y, x = np.mgrid[:size, :size] / size
        back = np.stack([150 - 60 * y, 140 + 40 * x - 30 * y, 120 + 60 * (1 - x)], axis=2)
        for index, face in enumerate(walk(base, frames=frames, seed=seed)):
            angle = 2.0 * np.pi * index / frames
            side = size * (0.72 + 0.04 * np.sin(angle))
            centre = size * (0.5 + 0.06 * np.array([np.cos(angle), np.sin(2.0 * angle)]))
            left, top = centre - side / 2.0
            picture = to_pil(face)
            scale = picture.width / side
            drawn = picture.transform((size, size), Image.Transform.AFFINE, (scale, 0, -left * scale, 0, scale, -top * scale),
                                      Image.Resampling.BICUBIC)
            inside = np.minimum.reduce([(x * size - left), (left + side - x * size), (y * size - top), (top + side - y * size)])
            mask = np.clip(inside / (0.12 * side), 0.0, 1.0)[..., None]
            pixels = back + mask * (np.asarray(drawn, float) - back)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels.astype(np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
        tone = (0.2 * np.sin(2 * np.pi * 440 * np.arange(int(44100 * frames / RATE)) / 44100)).astype(np.float32)
        for start in range(0, len(tone), 1024):
            frame = av.AudioFrame.from_ndarray(tone[None, start:start + 1024], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 44100, start, Fraction(1, 44100)
            container.mux(sound.encode(frame))
        container.mux(sound.encode(None))


def sheet(clips: Sequence[Path], path: Path, *, columns: int = 8) -> None:
    """Write frames of clips of one length, a row per clip, evenly spaced in time."""
    from PIL import Image

    from data.images import save_image
    from pipeline.video_io import read_frames

    rows = []
    for clip in clips:
        frames = [frame.image.resize((160, 160), Image.Resampling.LANCZOS) for frame in read_frames(clip)]
        rows.append([frames[i * (len(frames) - 1) // (columns - 1)] for i in range(columns)])
    canvas = Image.new("RGB", (160 * columns, 160 * len(rows)))
    for row, frames in enumerate(rows):
        for column, frame in enumerate(frames):
            canvas.paste(frame, (160 * column, 160 * row))
    save_image(path, canvas)


def run(args: Namespace) -> int:
    import av

    from pipeline.clip_drawer import VideoSettings
    from pipeline.stylize import InversionSettings, build_stylizer
    from pipeline.video import stylize_video

    cli.ensure_dir(args.output)
    stylizer = build_stylizer(args.style, inversion=InversionSettings(residual=args.residual),
                              device=cli.resolve_device(args.device))
    clip, result = args.output / "clip.mp4", args.output / f"clip_{stylizer.style.name}.mp4"
    make_clip(clip, stylizer.base, frames=round(args.seconds * RATE), size=args.size, seed=args.seed)
    settings = VideoSettings(smooth=args.smooth)
    report = stylize_video(clip, stylizer, output=result, look=cli.look_of(args), settings=settings)
    sheet([clip, result], args.output / "sheet.png")
    with av.open(str(result)) as container:
        sound = sum(1 for _ in container.decode(audio=0)) if container.streams.audio else 0
        rate = float(container.streams.video[0].average_rate)
    print(json.dumps({
        "frames": report.frames, "rate": rate, "sound_frames": sound, "jitter_in": round(report.jitter_in, 5),
        "jitter_out": round(report.jitter_out, 5), "jitter_ratio": round(report.jitter_ratio, 3), "smooth": args.smooth,
        "residual": args.residual,
        "s_per_frame": round(report.seconds / report.frames, 3), "faceless": report.faceless,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
