"""Build the compiled operators ahead of their first use: python -m op build."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m op", description=__doc__)
    parser.add_argument("what", choices=("build", "status"), help="build: compile and check; status: say what is there")
    parser.add_argument("--cuda", choices=("auto", "yes", "no"), default="auto",
                        help="with CUDA kernels; auto asks whether there is a GPU (default: auto)")
    parser.add_argument("--verbose", action="store_true", help="show the compiler's output")
    args = parser.parse_args(argv)
    import torch

    from op import native

    cuda = torch.cuda.is_available() if args.cuda == "auto" else args.cuda == "yes"
    path = native.library_path(cuda=cuda)
    if args.what == "status":
        print(f"{path}: {'built' if path.is_file() else 'not built'}")
        return 0
    start, there = time.monotonic(), path.is_file()
    try:
        native.build(cuda=cuda, verbose=args.verbose)
    except native.BuildError as error:
        print(f"op: the compiled operators could not be built, the plain ones will be used: {error}", file=sys.stderr)
        return 1
    print(f"{path}: {'was there' if there else f'built in {time.monotonic() - start:.0f} s'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
