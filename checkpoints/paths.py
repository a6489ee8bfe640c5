"""Where weights lie: the folder of downloads and trained styles, the bundled starter and styles, and styles by name."""

from __future__ import annotations

import json
import os
from pathlib import Path

from checkpoints.io import CheckpointError

EXPORTS = Path("outputs/models")
OFFICIAL_VITS = ("dino_vitb8.pth", "dino_vitbase8_pretrain.pth", "dino_vitb8.safetensors")


def checkpoints_dir() -> Path:
    """Return the folder of downloaded and trained weights: $CHECKPOINTS_DIR or this package's folder."""
    return Path(os.environ.get("CHECKPOINTS_DIR") or Path(__file__).parent)


def starter_dir() -> Path:
    """Return the folder of the starter's weights: $STARTER_DIR or the bundled ones."""
    return Path(os.environ.get("STARTER_DIR") or Path(__file__).parent / "starter")


def bundled_styles_dir() -> Path:
    """Return the folder of the styles that come with the project."""
    return Path(__file__).parent / "styles"


def official_path(text: str, name: str) -> Path:
    """Return the path that ``text`` gives, or the one of the released file ``name`` for the word "official"."""
    return checkpoints_dir() / name if text == "official" else Path(text)


def official_names() -> set[str]:
    """Return the names of files in the folder that are never a style of one's own."""
    listed = json.loads((Path(__file__).parent / "manifest.json").read_text())
    return {entry["file"] for entry in listed if entry["kind"] != "style"} | set(OFFICIAL_VITS)


def style_files() -> dict[str, Path]:
    """Return the style files by name, the one that ``find_style`` prefers where a name has several."""
    folder, others = checkpoints_dir(), official_names()
    found: dict[str, Path] = {}
    for paths in (folder.glob("*.safetensors"), folder.glob("*.pt"), EXPORTS.glob("*.pt"),
                  bundled_styles_dir().glob("*.safetensors")):
        for path in sorted(paths):
            if path.is_file() and path.name not in others and not path.name.startswith("."):
                found.setdefault(path.stem, path)
    return found


def style_names() -> list[str]:
    """Return the names of the styles that are here."""
    return sorted(style_files())


def find_style(name_or_path: str | Path) -> Path:
    """Return the file of a style: of a plain name in the folders of styles, the bundled last, else of an existing path.

    Raises:
        CheckpointError: if there is none, or the name tries to leave the folder.
    """
    text = str(name_or_path)
    plain = bool(text) and Path(text).name == text and not text.startswith(".")
    try:
        if plain:
            for candidate in (checkpoints_dir() / f"{text}.safetensors", checkpoints_dir() / f"{text}.pt",
                              EXPORTS / f"{text}.pt", bundled_styles_dir() / f"{text}.safetensors"):
                if candidate.is_file():
                    return candidate
        if text and Path(text).is_file():
            return Path(text)
    except (OSError, ValueError) as error:  # too long for the file system, or a null byte
        raise CheckpointError(f"no such style {text[:40]!r}: this cannot be a file name; give the name of a style") from error
    known = ", ".join(style_names()) or "none"
    if not plain:
        raise CheckpointError(f"no such style {text!r}: no such file, and not a plain style name; found: {known}")
    raise CheckpointError(f"no such style {text!r}; found: {known}; train one with train.py --style {text}")
