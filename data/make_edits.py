#!/usr/bin/env python3
"""Find the editing directions of the starter: how encoded faces change with what is known of them.

Rows and features of faces are regressed on all attributes at once, c = m + sum_k y_k b_k, each y of mean 0; b_k then says what
an attribute changes while the others, and the colours of face and ground, stay. Pose, nod, smile and mouth come from the
landmarks that the heat-map network finds. Age, glasses, masculine and beard were told by eye for 320 faces
(``edit_labels.csv``), and for the others by ridge regression from those. A direction is as long as the way from the mean to
the tenth of the faces that show it most; for glasses and beard, from without to with.
"""

from __future__ import annotations

import csv
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from pipeline import cli

LABELS = Path(__file__).parent / "edit_labels.csv"
STARTER = Path(__file__).parent.parent / "checkpoints" / "starter" / "edits.safetensors"
TOLD = ("age", "glasses", "masculine", "beard")
BINARY = ("glasses", "beard")
# Main directions of rows that labels are guessed from beside the identity network's numbers; both ridges.
DIRECTIONS, RIDGE, ROW_RIDGE = 160, 0.1, 0.002
TOP = 0.1
BATCH = 16
# Factors by which the file keeps the features of a direction.
RANK = 24


def from_landmarks(points: Tensor) -> dict[str, Tensor]:
    """Return what landmarks [N, 68, 2] tell, [N] each: pose (to the right), nod (down), smile, mouth (how open)."""
    left, right = points[:, 36:42].mean(dim=1), points[:, 42:48].mean(dim=1)
    unit = (right - left).norm(dim=1)
    middle, corners = (left + right) / 2, (points[:, 48] + points[:, 54]) / 2
    lips = points[:, [51, 57]].mean(dim=1)
    wide = (points[:, 54] - points[:, 48]).norm(dim=1) / unit
    lifted = (lips[:, 1] - corners[:, 1]) / unit
    return {"pose": (points[:, 30, 0] - middle[:, 0]) / unit, "nod": (points[:, 30, 1] - middle[:, 1]) / (
        corners[:, 1] - middle[:, 1]), "smile": wide + 2.0 * lifted, "mouth": (points[:, 66, 1] - points[:, 62, 1]) / unit}


def ridge(x: Tensor, y: Tensor, *, weight: float) -> Tensor:
    """Return B [P, K] that minimises |x B - y|^2 / N + weight |B|^2 for x [N, P] of unit deviations and y [N, K]."""
    gram = x.T @ x / len(x) + weight * torch.eye(x.shape[1], dtype=x.dtype)
    return torch.linalg.solve(gram, x.T @ y / len(x))


def standard(values: Tensor) -> Tensor:
    """Return columns of mean 0 and deviation 1."""
    return (values - values.mean(dim=0)) / values.std(dim=0).clamp_min(1e-6)


def completed(labels: Tensor, seen: Tensor) -> Tensor:
    """Return labels [N] with those that are NaN guessed from features [N, P]."""
    known = ~labels.isnan()
    mean = labels[known].mean()
    guess = mean + seen @ ridge(seen[known], (labels[known] - mean)[:, None], weight=RIDGE)[:, 0]
    return torch.where(known, labels.nan_to_num(), guess)


def colours(image: Tensor) -> Tensor:
    """Return the mean colours [N, 6] of the middle of aligned faces [N, 3, S, S] and of the upper corners beside them."""
    side = image.shape[3]
    middle = image[:, :, 3 * side // 8:25 * side // 32, 5 * side // 16:11 * side // 16].mean(dim=(2, 3))
    left, right = image[:, :, :side // 6, :side // 10], image[:, :, :side // 6, side - side // 10:]
    corners = torch.cat([left, right], dim=3).mean(dim=(2, 3))
    return torch.cat([middle, corners], dim=1)


def directions_of(codes: Tensor, attributes: Mapping[str, Tensor], held: Tensor) -> dict[str, Tensor]:
    """Return a direction [...] for each attribute [N] of faces by their codes [N, ...], while ``held`` [N, H] stay the same."""
    values = torch.cat([torch.stack(list(attributes.values()), dim=1), held], dim=1).double()
    flat = codes.float().flatten(1)
    weights = ridge(standard(values), torch.eye(len(values), dtype=torch.float64), weight=ROW_RIDGE).float()  # [K + H, N]
    effects = weights @ flat - weights.sum(dim=1, keepdim=True) * flat.mean(dim=0)  # [K + H, ...], per deviation
    found = {}
    for index, (name, value) in enumerate(attributes.items()):
        value = value.double()
        reach = 1.0 if name in BINARY else float(value.sort().values[-int(TOP * len(value)):].mean() - value.mean())
        found[name] = (effects[index] * reach / float(value.std())).reshape(codes.shape[1:]).float()
    return found


def read_labels(path: Path, names: Sequence[str]) -> dict[str, Tensor]:
    """Return the labels [N] of faces by their names, NaN where a face has none."""
    with open(path, newline="", encoding="utf-8") as file:
        table = {row["name"]: row for row in csv.DictReader(file)}
    return {kind: torch.tensor([float(table[name][kind] or "nan") if name in table else float("nan") for name in names])
            for kind in TOLD}


@torch.no_grad()
def looked_at(paths: Sequence[Path]) -> dict[str, Tensor]:
    """Return rows [N, L, D], features [N, C, R, R] beside them in half precision, points [N, 68, 2], identity [N, 128] and
    colours [N, 6] of aligned faces by the starter's networks."""
    from tqdm import tqdm

    from checkpoints.builders import load_base
    from checkpoints.features import load_encoder, load_face_id, load_landmark_net, load_residual_encoder
    from data.images import aligned_tensor, read_image
    from losses.identity import IdentityLoss

    encoder, network, identity = load_encoder(), load_landmark_net().module, IdentityLoss(load_face_id().module)
    generator, beside = load_base().generator, load_residual_encoder().module
    found: dict[str, list[Tensor]] = {name: [] for name in ("rows", "features", "points", "identity", "colours")}
    for first in tqdm(range(0, len(paths), BATCH), desc="faces"):
        image = torch.cat([aligned_tensor(read_image(path), encoder.input_size, name=path, remedy="cut it to a square")
                           for path in paths[first:first + BATCH]])
        rows = encoder.module(image) + encoder.latent_avg
        half = generator.halfway(rows, noise=generator.fixed_noise(), resolution=beside.config.resolution)
        values = (rows, beside(image, half.features, rows).half(), network(image).points, identity.embed(image), colours(image))
        for part, value in zip(found.values(), values, strict=True):
            part.append(value)
    return {name: torch.cat(parts) for name, parts in found.items()}


def directions(seen: Mapping[str, Tensor], names: Sequence[str], *, labels: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors of the file and the directions' names, by what ``looked_at`` gave of named faces."""
    flat = seen["rows"].flatten(1) - seen["rows"].flatten(1).mean(dim=0)
    main = torch.linalg.svd(flat, full_matrices=False)[2][:DIRECTIONS]
    told_by = standard(torch.cat([flat @ main.T, seen["identity"]], dim=1).double())
    attributes = {name: completed(values.double(), told_by) for name, values in read_labels(labels, names).items()}
    attributes |= from_landmarks(seen["points"])
    tensors = {f"{name}.rows": value for name, value in directions_of(seen["rows"], attributes, seen["colours"]).items()}
    for name, value in directions_of(seen["features"], attributes, seen["colours"]).items():
        left, sizes, right = torch.linalg.svd(value.flatten(1), full_matrices=False)  # [C, R R]
        root = sizes[:RANK].sqrt()
        tensors[f"{name}.channels"] = left[:, :RANK] * root
        tensors[f"{name}.maps"] = (root[:, None] * right[:RANK]).reshape(-1, *value.shape[1:])
    return tensors, list(attributes)


def parse(argv: Sequence[str] | None) -> Namespace:
    parser = cli.ArgumentParser(prog="python -m data.make_edits", description=__doc__)
    parser.add_argument("faces", type=Path, nargs="+", help="folders of aligned faces, among them those with labels")
    parser.add_argument("--labels", type=Path, default=LABELS, help="table of faces told by eye")
    parser.add_argument("--output", type=Path, default=STARTER, help="file to write")
    return parser.parse_args(argv)


def run(args: Namespace) -> int:
    from checkpoints.builders import load_base
    from checkpoints.io import save_model
    from checkpoints.starter_manifest import write_starter_manifest
    from data.images import list_images

    paths = [path for folder in args.faces for path in list_images(folder)]
    tensors, names = directions(looked_at(paths), [path.stem for path in paths], labels=args.labels)
    save_model(args.output, tensors, {"kind": "edits", "generator": load_base().fingerprint, "names": names,
                                      "faces": len(paths)}, half=True)
    if args.output == STARTER:
        write_starter_manifest(STARTER.parent)
    print(args.output)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
