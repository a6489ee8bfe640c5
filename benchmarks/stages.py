"""The stages of drawing one photo, side by side: the aligned photo, warped, toned, and with strokes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline import cli

# What is switched off so that a picture shows one stage more than the one before.
STAGES = {"photo": {"alpha": 0.0, "tone_strength": 0.0, "stroke_strength": 0.0},
          "warp": {"tone_strength": 0.0, "stroke_strength": 0.0},
          "tone": {"stroke_strength": 0.0},
          "strokes": {}}


def main(argv: Sequence[str] | None = None) -> int:
    """Write the picture."""
    parser = cli.ArgumentParser(prog="python -m benchmarks.stages", description=__doc__)
    parser.add_argument("--styles", default="ink", help="styles that draw photos, separated by commas; a row each")
    parser.add_argument("--photo", type=Path, default=Path("data/test_inputs/001.png"), help="photo")
    parser.add_argument("--cell", type=cli.image_side, default=256, help="side of a picture in px")
    parser.add_argument("--output", type=Path, default=Path("docs/stages.jpg"), help="picture to write")

    def work(args) -> int:  # noqa: ANN001
        from data.grids import grid
        from data.images import save_image, to_tensor
        from pipeline.api import Stylizer

        rows = []
        for name in args.styles.split(","):
            style = Stylizer(name)
            if {"tone_strength", "stroke_strength"} - {control.name for control in style.controls}:
                raise cli.UserError(f"--styles {name}: draws with its generator and has no stages; name another one")
            drawn = (style.photo(args.photo, frame="crop", **values).image for values in STAGES.values())
            rows.append([to_tensor(image, args.cell)[0] for image in drawn])
        save_image(args.output, grid(rows, cell=args.cell, column_labels=list(STAGES)))
        print(args.output)
        return 0

    return cli.run(work, lambda: parser.parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
