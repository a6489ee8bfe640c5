"""Landmark projection along a clip: seconds per frame, jitter, sound, and the same frames after kills.

``python -m benchmarks.animation --look PHOTO --kills 10`` drives a photo with the clip of ``benchmarks.video`` and prints one
JSON line. It runs ``project_landmarks.py`` as a user does, once to its end, then again under SIGKILL at random moments.
"""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline import cli

ROOT = Path(__file__).parent.parent
JITTER = re.compile(r"(\d+) frames, (\d+) without a usable face, jitter ([\d.]+)")


def parse(argv: Sequence[str] | None) -> Namespace:
    parser = cli.ArgumentParser(prog="benchmarks.animation", description=__doc__)
    parser.add_argument("--look", type=Path, required=True, help="photo of who")
    parser.add_argument("--seconds", type=cli.finite_float, default=5.0, help="length of the driving clip")
    parser.add_argument("--kills", type=cli.non_negative_int, default=10, help="kills of the second run")
    parser.add_argument("--output", type=Path, default=Path("outputs/animation"), help="output folder")
    cli.add_common(parser, outdir=False, seed=3)
    return parser.parse_args(argv)


def command(look: Path, clip: Path, outdir: Path) -> list[str]:
    """Return the words of the script."""
    return [sys.executable, str(ROOT / "project_landmarks.py"), "--target_look", str(look), "--target_landmarks", str(clip),
            "--outdir", str(outdir)]


def decoded(path: Path) -> tuple[list[np.ndarray], int]:
    """Return a clip's frames, and the number of its frames of sound."""
    import av

    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with av.open(str(path)) as container:
        return frames, sum(1 for _ in container.decode(audio=0)) if container.streams.audio else 0


def killed(words: Sequence[str], *, kills: int, whole: float, rng: random.Random) -> int:
    """Run a command, kill it at random moments, and run it to its end; return how often it was killed."""
    done = 0
    while done < kills:
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            # Long enough, in the mean, that all kills together lie along the whole run and not in its start alone.
            process.wait(timeout=rng.uniform(0.05, 0.35) * whole)
            return done
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            done += 1
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return done


def run(args: Namespace) -> int:
    from benchmarks.video import RATE, make_clip, sheet
    from checkpoints.builders import load_base

    cli.ensure_dir(args.output)
    clip = args.output / "clip.mp4"
    make_clip(clip, load_base(), frames=round(args.seconds * RATE), size=512, seed=args.seed)
    name, start = f"{args.look.stem}_clip.mp4", time.monotonic()
    process = subprocess.Popen(command(args.look, clip, args.output / "whole"), stderr=subprocess.PIPE,
                               stdout=subprocess.DEVNULL, text=True)
    said = process.communicate()[1]
    whole = time.monotonic() - start
    if process.returncode:
        raise cli.UserError(f"project_landmarks.py ended with {process.returncode}: {said[-500:]}")
    one, sound = decoded(args.output / "whole" / name)
    frames, faceless, jitter = JITTER.search(said).groups()
    start = time.monotonic()
    # Of the first frame and of loading alone.
    subprocess.run([*command(args.look, args.look, args.output / "still")], check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)
    first = time.monotonic() - start
    facts = {"frames": int(frames), "faceless": int(faceless), "jitter_ratio": float(jitter), "sound_frames": sound,
             "s_whole": round(whole, 1), "s_first": round(first, 1),
             "s_per_further_frame": round((whole - first) / max(1, len(one) - 1), 3)}
    if args.kills:
        times = killed(command(args.look, clip, args.output / "killed"), kills=args.kills, whole=whole,
                       rng=random.Random(args.seed))
        other, _ = decoded(args.output / "killed" / name)
        facts |= {"kills": times, "same_frames": len(one) == len(other) and all(map(np.array_equal, one, other))}
    sheet([clip, args.output / "whole" / name], args.output / "sheet.png")
    print(json.dumps(facts))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
