"""Drawn faces with known landmarks: training faces in the looks of ``data.looks``, deformed and recoloured at random."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from checkpoints import atomic_write
from data.images import save_image
from data.looks import LOOKS, DrawnLook
from data.random_drawings import DRAWN_SIDE, drawing
from training.pretrain.common import MissingStageError
from training.pretrain.faces import FacePack, jpeg_bytes, write_pack

SAVE_EVERY = 200
MAX_DOUBT = 0.075


def labelled(pack: FacePack) -> Tensor:
    """Return the numbers of a pack's training faces whose landmarks are sure.

    Raises:
        MissingStageError: where there are none.
    """
    train, _ = pack.split()
    train = train[pack.doubt[train] <= MAX_DOUBT]  # NaN, no label, compares as false
    if len(train) == 0:
        raise MissingStageError("the pack has no labelled training faces; run the pack stage with --landmarks")
    return train


def drawn_face(pack: FacePack, index: Tensor, look: DrawnLook, *, seed: int, size: int, recoloured: float = 0.5,
               own_warp: bool = False, least_warp: float = 0.0) -> tuple[Image.Image, np.ndarray]:
    """Return one face of a pack as a drawing of ``size`` px, and its landmarks [68, 2]; see ``drawing``."""
    face = F.interpolate(pack.batch(index[None]), size=(DRAWN_SIDE, DRAWN_SIDE), mode="bicubic").clamp(-1.0, 1.0)
    made, moved = drawing(face, pack.landmarks[index].numpy(), look, seed=seed, recoloured=recoloured,
                          own_warp=own_warp, least_warp=least_warp)
    return Image.fromarray((made * 255.0).round().astype(np.uint8)).resize((size, size), Image.Resampling.LANCZOS), moved


def draw_folder(pack: FacePack, folder: Path, *, looks: Mapping[str, DrawnLook], count: int, size: int, recoloured: float,
                own_warp: bool = False, least_warp: float = 0.0, seed: int = 0) -> dict[str, int]:
    """Write ``count`` drawings of different training faces as PNG files of a folder, and what is true of them.

    ``truth.npz`` holds, in the files' order, ``names``, ``faces`` (names of the photos), ``looks``, and the landmarks
    [K, 68, 2] before and after the deformation, ``points`` and ``moved``.

    Raises:
        MissingStageError: where the pack has fewer labelled training faces.
    """
    train, rng = labelled(pack), np.random.default_rng(seed)
    if len(train) < count:
        raise MissingStageError(f"the pack has {len(train)} labelled training faces; {count} drawings need as many")
    folder.mkdir(parents=True, exist_ok=True)
    truth: dict[str, list] = {name: [] for name in ("names", "faces", "looks", "points", "moved")}
    for number, index in enumerate(tqdm(train[rng.permutation(len(train))[:count]], desc="drawings")):
        look = list(looks)[number % len(looks)]
        image, moved = drawn_face(pack, index, looks[look], seed=seed * count + number, size=size, recoloured=recoloured,
                                  own_warp=own_warp, least_warp=least_warp)
        name = f"{number:04d}.png"
        save_image(folder / name, image)
        facts = (name, pack.names[index], look, pack.landmarks[index].numpy(), moved)
        for values, value in zip(truth.values(), facts, strict=True):
            values.append(value)
    with atomic_write(folder / "truth.npz") as temporary, open(temporary, "wb") as file:
        np.savez(file, **{name: np.array(values) for name, values in truth.items()})
    return {"drawings": count}


def draw_pack(pack: FacePack, output: Path, *, count: int, size: int, looks: Mapping[str, DrawnLook] = LOOKS,
              recoloured: float = 0.5, own_warp: bool = False, least_warp: float = 0.0) -> dict[str, int]:
    """Write a pack of ``count`` drawings of training faces, ``LOOK_NUMBER`` by name; an interrupted run goes on.

    Raises:
        MissingStageError: where the pack has no labelled training faces.
    """
    train = labelled(pack)
    names, blobs, points = [], [], []
    partial = output.with_suffix(".partial.npz")
    if partial.exists():
        table = np.load(partial)
        names, points = [str(name) for name in table["names"]][:count], list(table["landmarks"])[:count]
        blobs = np.split(table["data"], table["ends"][:-1])[:count]

    def save(path: Path) -> None:
        write_pack(path, names, list(blobs), size=size, landmarks=np.stack(points).astype(np.float32),
                   doubt=np.zeros(len(names), np.float32))

    for number in tqdm(range(len(names), count), desc="drawings", initial=len(names), total=count):
        rng = np.random.default_rng([number, count])
        index, name = train[rng.integers(len(train))], list(looks)[rng.integers(len(looks))]
        image, moved = drawn_face(pack, index, looks[name], seed=number, size=size, recoloured=recoloured, own_warp=own_warp,
                                  least_warp=least_warp)
        names.append(f"{name}_{number:05d}"), blobs.append(jpeg_bytes(image)), points.append(moved)
        if len(names) % SAVE_EVERY == 0:
            save(partial)
    save(output)
    partial.unlink(missing_ok=True)
    return {"drawings": len(names)}
