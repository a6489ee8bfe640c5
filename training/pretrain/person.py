"""Fit the guess of who is behind a drawing on drawings whose photos are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from checkpoints.builders import load_base
from checkpoints.io import save_model
from checkpoints.starter_manifest import write_starter_manifest
from data.images import read_image, to_tensor
from models.person import PersonGuess, fit_person
from training.exemplar_tools import load_behind
from training.pretrain.common import MissingStageError
from training.pretrain.faces import FacePack

BATCH, LEFT_OUT = 8, 5


def train_person(pack: FacePack, folder: Path, output: Path) -> dict[str, Any]:
    """Fit the map on a folder of the drawings stage, write it, and return what it does for the fifth that is left out at first.

    It is fitted to what the bundled destylizer makes of them; a manifest beside ``output`` is written anew.

    Raises:
        MissingStageError: where the folder has no ``truth.npz`` that names faces of the pack, or too few of them.
    """
    try:
        with np.load(folder / "truth.npz") as table:
            truth = [(folder / str(name), pack.names.index(str(face))) for name, face in zip(table["names"], table["faces"])]
    except (OSError, KeyError, ValueError) as error:
        raise MissingStageError(f"{folder}: holds no drawings of this pack's faces ({error}); run the drawings stage with "
                                "--output FOLDER first") from error
    if len(truth) < 2 * LEFT_OUT:
        raise MissingStageError(f"{folder}: holds {len(truth)} drawings, at least {2 * LEFT_OUT} are needed; run the drawings "
                                "stage with a greater --count")
    base = load_base("starter")
    behind, side, seen, true = load_behind(base.generator), base.generator.config.size, [], []
    with torch.no_grad():
        for start in tqdm(range(0, len(truth), BATCH), desc="persons"):
            part = truth[start: start + BATCH]
            drawings = torch.cat([to_tensor(read_image(path), side) for path, _ in part])
            seen.append(behind.seen(behind.as_photo(behind.shapes.plain(drawings))))
            true.append(behind.identity.embed(pack.batch(torch.tensor([face for _, face in part]))))
    seen, true = torch.cat(seen), torch.cat(true)
    out = torch.arange(len(seen)) % LEFT_OUT == 0

    def away(guess: PersonGuess | None) -> float:
        found = seen[out] if guess is None else guess(seen[out])
        return round(float((found - true[out]).norm(dim=1).mean()), 4)

    facts = {"drawings": len(seen), "as_seen": away(None), "guessed": away(fit_person(seen[~out], true[~out]))}
    guess = fit_person(seen, true)
    save_model(output, guess.state_dict(), {"kind": "person", "person": guess.to_dict(), "drawings": len(seen)})
    if (output.parent / "manifest.json").is_file():
        write_starter_manifest(output.parent)
    return facts
