"""Shared fixtures: the import path, quiet threads, seeds and the folder of reference numbers."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
for folder in (ROOT, ROOT / "tests"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from parity_fill import ParityFolder  # noqa: E402

# What takes longest begins first, so that no process is left with it alone in the end.
LONGEST = ("export", "train_cli", "any_style", "pretrain", "parity_blendgan", "parity", "bench", "resume", "dataset",
           "notebook", "scripts", "app", "checkpoints", "distributed", "parity_dualstylegan", "residual", "kinds",
           "op_backend", "kill_folder", "modify_style", "blend_style", "video", "video_kills", "modify", "batch", "train_blend")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {f"test_{name}": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))
    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
        if "nightly" in item.keywords and not os.environ.get("NIGHTLY"):
            item.add_marker(pytest.mark.skip(reason="slow; NIGHTLY=1 runs it"))


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    """Every test starts from the same global random state."""
    torch.manual_seed(0)


@pytest.fixture()
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches that went through vision transformers so far."""
    from models.dino import DinoFeatures

    seen, prepare = [], DinoFeatures.prepare
    monkeypatch.setattr(DinoFeatures, "prepare", lambda self, image: seen.append(len(image)) or prepare(self, image))
    return seen


@pytest.fixture()
def rng() -> torch.Generator:
    """A fresh random generator with a fixed seed."""
    return torch.Generator().manual_seed(1)


def reference_numbers(variable: str, folder: str) -> ParityFolder:
    """Return the folder that an environment variable names, else the one in tests/fixtures."""
    root = Path(os.environ.get(variable) or ROOT / "tests" / "fixtures" / folder)
    if not (root / "meta.json").is_file():
        pytest.fail(f"{variable}: no meta.json in {root}")
    return ParityFolder(root)


@pytest.fixture(scope="session")
def parity() -> ParityFolder:
    """Reference numbers of the main system: PARITY_DIR, else tests/fixtures/parity."""
    return reference_numbers("PARITY_DIR", "parity")


@pytest.fixture(scope="session")
def parity_systems() -> ParityFolder:
    """Reference numbers of the other systems: PARITY_SYSTEMS_DIR, else tests/fixtures/parity_systems."""
    return reference_numbers("PARITY_SYSTEMS_DIR", "parity_systems")
