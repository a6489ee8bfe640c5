"""The zoo: which weights exist, which are here, and whether they are what they should be."""

from __future__ import annotations

import bz2
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from torch import Tensor

from checkpoints.builders import OFFICIAL_BASE
from checkpoints.codes import read_codes
from checkpoints.features import encoder_config_of, latent_avg_of, split_encoder, vit_state
from checkpoints.inert import is_plain_pickle
from checkpoints.io import (
    CheckpointError,
    atomic_write,
    check_file,
    check_finite,
    check_network,
    check_state,
    load_model,
    read_torch,
    save_model,
    take_vector,
)
from checkpoints.nvidia import import_nvidia
from checkpoints.official import check_official, describe_parts, official_keys, recognise
from checkpoints.paths import OFFICIAL_VITS, bundled_styles_dir, checkpoints_dir, official_names, starter_dir
from checkpoints.starter_manifest import LICENCE, ORIGINS, PURPOSES, sha256_of
from models.dino import ViTConfig, build_vit, clean_vit_state
from models.e4e import E4EEncoder
from models.published_features import ArcFace, VGGMaps, vgg_part
from models.style_encoder import StyleEncoder, StyleEncoderConfig
from models.stylegan2 import GeneratorConfig

if TYPE_CHECKING:
    from styles.protocol import Style

HERE = Path(__file__).parent
RELEASED_STYLES = 8


@dataclass(frozen=True)
class Entry:
    """One file of the zoo; ``bytes``, ``sha256`` and ``url``, where it can be fetched, are None where they are not known."""

    name: str
    file: str
    kind: str
    licence: str
    source: str
    purpose: str
    bytes: int | None = None
    sha256: str | None = None
    folder: str = ""
    url: str | None = None

    @property
    def path(self) -> Path:
        folder = {"starter": starter_dir, "styles": bundled_styles_dir}.get(self.folder, checkpoints_dir)()
        if self.kind == "vit":  # the one file that goes by several names
            return next((folder / name for name in OFFICIAL_VITS if (folder / name).exists()), folder / self.file)
        return folder / self.file


def entries() -> list[Entry]:
    """Return the official files, the eight released styles, the bundled starter and styles, and the user's own styles."""
    listed: list[Entry] = []
    for values in json.loads((HERE / "manifest.json").read_text()):
        entry = Entry(**values)
        if entry.name == "style1":
            listed += [replace(entry, name=f"style{i}", file=f"style{i}.pt") for i in range(1, RELEASED_STYLES + 1)]
        else:
            listed.append(entry)
    return listed + _starter_entries() + _bundled_styles() + _own_styles({entry.file for entry in listed} | official_names())


def _starter_entries() -> list[Entry]:
    path = starter_dir() / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"files": {}}
    facts = {file: {"purpose": purpose, **ORIGINS.get(file, {})} for file, purpose in PURPOSES.items()} | manifest["files"]
    licence = manifest.get("licence", LICENCE)
    return [Entry(f"starter/{Path(file).stem}", file, "starter", values.get("licence", licence), "this repository",
                  values["purpose"], values.get("bytes"), values.get("sha256"), "starter")
            for file, values in facts.items()]


def _bundled_styles() -> list[Entry]:
    return [Entry(f"styles/{path.stem}", path.name, "own", LICENCE, "this repository", "bundled style", folder="styles")
            for path in sorted(bundled_styles_dir().glob("*.safetensors"))]


def _own_styles(known: set[str]) -> list[Entry]:
    folder = checkpoints_dir()
    paths = [*folder.glob("*.safetensors"), *folder.glob("*.pt")]
    return [Entry(path.stem, path.name, "own", "its maker's", "train.py", "trained or imported style")
            for path in sorted(paths) if path.name not in known and not path.name.startswith(".")]


def check_structure(path: Path, kind: str) -> None:
    """Raise CheckpointError unless keys, shapes and numbers of an official file are those of its kind."""
    state = vit_state(path)[0] if path.suffix == ".safetensors" else read_torch(path)
    if recognise(state) != kind:
        raise CheckpointError(f"{path}: holds {describe_parts(state)}, which is another kind of file; get the right one")
    if kind == "base":
        check_official(path, OFFICIAL_BASE, state, exact=True)
        for part in official_keys()[OFFICIAL_BASE]:
            check_state(f"{path}: part {part}", state[part])
            check_finite(f"{path}: part {part}", state[part])
        if "latent_avg" in state:
            take_vector(path, dict(state), "latent_avg", GeneratorConfig.official(1024).style_dim)
    elif kind in ("encoder", "psp"):
        check_encoder(path, state)
    elif kind == "style-encoder":
        check_network(lambda: StyleEncoder(StyleEncoderConfig()), state, what=str(path))
    elif kind in ("arcface", "vgg19"):
        check_network(ArcFace if kind == "arcface" else VGGMaps, vgg_part(state) if kind == "vgg19" else state, what=str(path))
    elif kind == "vit":
        try:
            tensors = clean_vit_state(state)
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}; get the file again") from error
        check_network(lambda: build_vit(ViTConfig()), tensors, what=str(path))


def check_encoder(path: Path, state: Mapping[str, Any]) -> None:
    """Raise CheckpointError unless encoder, decoder and mean latent of an e4e or pSp file fit their networks."""
    parts, config = split_encoder(path, state), encoder_config_of(path, state)
    check_network(lambda: E4EEncoder(config), parts["encoder"], what=f"{path}: part encoder")
    latent_avg_of(path, state["latent_avg"], config)


def status(entry: Entry, *, thorough: bool) -> tuple[str, str]:
    """Return ("present" | "missing" | "wrong", reason) of one file; ``thorough`` reads all of it."""
    path = entry.path
    if not path.exists():
        return "missing", f"get it from {entry.source}"
    try:
        check_file(path)
        check_size(path, entry)
        if thorough:
            check_content(path, entry)
    except CheckpointError as error:
        return "wrong", str(error)
    return "present", ""


def check_size(path: Path, entry: Entry) -> None:
    """Raise CheckpointError unless ``path`` has the size of ``entry``, where that is known."""
    size = path.stat().st_size
    if entry.bytes is not None and size != entry.bytes:
        raise CheckpointError(f"{path}: has {size} bytes, expected {entry.bytes}; get it again from {entry.source}")


def check_digest(path: Path, entry: Entry) -> None:
    """Raise CheckpointError unless ``path`` has the SHA-256 of ``entry``, where that is known."""
    if entry.sha256 and (digest := sha256_of(path)) != entry.sha256:
        raise CheckpointError(f"{path}: SHA-256 begins {digest[:12]}, expected {entry.sha256[:12]}; get it again from "
                              f"{entry.source}")


def prove_style(path: Path) -> Style:
    """Return the style of the file; raises CheckpointError unless one can be loaded from it."""
    from styles.registry import load_style  # kinds of styles read their files by this package

    return load_style(path)


def released_styles() -> set[str]:
    """Return what ``recognise`` calls the released files that are styles."""
    from styles.registry import RELEASED

    return set(RELEASED)


def check_content(path: Path, entry: Entry) -> None:
    """Raise CheckpointError unless digest, or structure where no digest is known, are right."""
    check_digest(path, entry)
    if entry.kind in ("own", "style"):  # of any size, so they are proven by loading them
        prove_style(path)
    elif entry.kind == "starter":
        if path.suffix == ".safetensors":
            load_model(path)
    elif not entry.sha256:
        check_structure(path, entry.kind)


def import_file(path: Path) -> Path:
    """Recognise a downloaded file by its content, check it and copy it under its right name; returns the new path.

    Raises:
        CheckpointError: if it is no known file, is damaged, or would replace another style.
    """
    check_file(path)
    if path.suffix == ".npy":
        raise CheckpointError(f"{path}: holds {len(read_codes(path))} codes of exemplars (DualStyleGAN); they come along when "
                              "you import the generator.pt beside them")
    with open(path, "rb") as file:
        packed = file.read(3) == b"BZh"
    landmarks = next(entry for entry in entries() if entry.kind == "landmarks")
    if packed or path.suffix == ".dat" or path.stat().st_size == landmarks.bytes:
        return _import_landmarks(path, landmarks, packed=packed)
    if path.suffix == ".safetensors":
        prove_style(path)
        return _import_style(path, path.name)
    if is_plain_pickle(path):
        return import_nvidia(path, official=OFFICIAL_BASE)
    state = read_torch(path)
    kind = recognise(state)
    if kind is None:
        raise CheckpointError(f"{path}: holds {describe_parts(state)}, none of the known weights; see "
                              "`python -m checkpoints list`")
    if kind == "dual-sampler":
        raise CheckpointError(f"{path}: holds {describe_parts(state)}; it comes along when you import the "
                              "generator.pt beside it")
    del state
    if kind in released_styles():
        style = prove_style(path)
        packed = style.packed()
        return _import_style(path, f"{path.stem}.pt") if packed is None else _import_packed(path, style.name, *packed)
    # Of several files with the same content the one of this name, else the first.
    entry = min((entry for entry in entries() if entry.kind == kind), key=lambda entry: entry.file != path.name)
    check_content(path, entry)
    return _copy(path, checkpoints_dir() / entry.file)


def _import_style(path: Path, name: str) -> Path:
    target = checkpoints_dir() / name
    if name in official_names() or name.startswith("."):
        raise CheckpointError(f"{path}: holds a style, but its name belongs to another file; rename it first")
    if target.exists() and sha256_of(target) != sha256_of(path):
        raise CheckpointError(f"{target}: exists and holds another style; rename {path.name} before importing it")
    return _copy(path, target)


def _import_packed(path: Path, name: str, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> Path:
    """Write a released style of several files as one file of this project."""
    target = checkpoints_dir() / f"{name}.safetensors"
    if target.exists():
        raise CheckpointError(f"{target}: exists; rename the folder of {path}, or remove the style, before importing it")
    save_model(target, tensors, config)
    return target


def _copy(source: Path, target: Path) -> Path:
    with atomic_write(target) as temporary:
        shutil.copyfile(source, temporary)
    return target


def _import_landmarks(path: Path, entry: Entry, *, packed: bool) -> Path:
    with atomic_write(entry.path) as temporary:
        try:
            with (bz2.open(path) if packed else open(path, "rb")) as source, open(temporary, "wb") as target:
                size = _copy_bounded(source, target, limit=entry.bytes + 1)
        except (OSError, EOFError) as error:
            raise CheckpointError(f"{path}: is damaged ({error}); get it again from {entry.source}") from error
        if size != entry.bytes:
            raise CheckpointError(f"{path}: gives {'more than ' * (size > entry.bytes)}{min(size, entry.bytes)} bytes, "
                                  f"expected {entry.bytes} of the 68-point predictor; get it again from {entry.source}")
        if sha256_of(temporary) != entry.sha256:
            raise CheckpointError(f"{path}: its content is not the 68-point predictor (SHA-256 differs); get it again "
                                  f"from {entry.source}")
    return entry.path


def _copy_bounded(source: BinaryIO, target: BinaryIO, *, limit: int) -> int:
    """Copy at most ``limit`` bytes, so that a small archive cannot fill the disk; returns how many."""
    size = 0
    while size < limit and (chunk := source.read(min(1 << 20, limit - size))):
        target.write(chunk)
        size += len(chunk)
    return size
