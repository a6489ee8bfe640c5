"""``python -m benchmarks.exemplars --photos FOLDER``: can the exemplar of a drawing be told among others?

Photos are drawn after every exemplar of a gallery, structure and colours at weight 1. A drawing's exemplar is told where no other
portrait is nearer to it by the Gram matrices of three maps of SqueezeNet; ``of_8`` is the share told among eight, the right
one and any seven others. Writes ``sheet.png`` and prints JSON.
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from math import comb
from pathlib import Path

from pipeline import cli

CHOICES, SIDE = 8, 256


def parse(argv: Sequence[str] | None) -> Namespace:
    parser = cli.ArgumentParser(prog="python -m benchmarks.exemplars", description=__doc__)
    parser.add_argument("--style", default="exemplars", help="exemplar style with portraits")
    parser.add_argument("--photos", type=Path, required=True, help="folder of photos; the largest face of each is taken")
    parser.add_argument("--count", type=cli.positive_int, default=3, help="photos")
    parser.add_argument("--outdir", type=Path, default=Path("outputs/exemplars_told"), help="folder of the sheet")
    return parser.parse_args(argv)


def told_among(nearer: int, others: int, choices: int = CHOICES) -> float:
    """Return how often the right one of ``choices`` is the nearest if ``nearer`` of all ``others`` are nearer: C(others - nearer,
    choices - 1) / C(others, choices - 1)."""
    taken = min(choices - 1, others)
    return comb(others - nearer, taken) / comb(others, taken)


def run(args: Namespace) -> int:
    import torch

    from benchmarks.judged import Judges, grams
    from data.grids import grid
    from data.images import list_images, read_image, save_image, to_tensor
    from pipeline.stylize import build_stylizer
    from styles.dualstyle import DualStyle

    cli.ensure_dir(args.outdir)
    stylizer, judges = build_stylizer(args.style), Judges.load()
    style = stylizer.style
    if not isinstance(style, DualStyle) or not style.draws_pictures:
        raise cli.UserError(f"--style {args.style}: holds no portraits that photos are drawn after; choose another")
    names = style.gallery.names
    portraits = torch.cat([to_tensor(style.portrait(name), SIDE) for name in names])
    wanted, sheet, nearer = grams(judges.features, portraits), [[*portraits]], {name: [] for name in names}
    for path in list_images(args.photos)[:args.count]:
        crop = stylizer.crops(read_image(path), name=str(path))[0]
        sheet.append([])
        for number, name in enumerate(names):
            look = style.default_look().changed(exemplar=name, structure=1.0, color=1.0)
            drawn = stylizer.stylize(crop, look=look).result
            sheet[-1].append(torch.nn.functional.interpolate(drawn, size=(SIDE, SIDE), mode="area")[0].clamp(-1, 1))
            apart = (grams(judges.features, sheet[-1][-1][None]) - wanted).norm(dim=1)
            nearer[name].append(int((apart < apart[number]).sum()))
    save_image(args.outdir / "sheet.png", grid(sheet, cell=128, column_labels=[name[:14] for name in names]))
    ranks = [rank for found in nearer.values() for rank in found]
    print(json.dumps({"exemplars": len(names), "drawings": len(ranks), "of_all": sum(rank == 0 for rank in ranks) / len(ranks),
                      f"of_{CHOICES}": sum(told_among(rank, len(names) - 1) for rank in ranks) / len(ranks),
                      "nearer_others": {name: sum(found) / len(found) for name, found in nearer.items()}}))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
