"""All stages in order, from a folder of aligned faces to a folder of starter files."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from checkpoints.builders import load_base
from checkpoints.starter_manifest import PURPOSES
from training.pretrain.encoded import Encoded, encode_pack
from training.pretrain.export import export_starter
from training.pretrain.faces import FacePack, pack_faces
from training.pretrain.residual import Identity

# What does not depend on the generator: it knows faces and pictures in general, and is taken as the starter has it.
GENERAL = ("vit", "landmarks", "landmarks_net", "face_id", "parts")
SMALL, LARGE = 128, 256  # sides of the packs in px: the generator's, and the decoder's


class Share(NamedTuple):
    """A stage and its share of the time."""

    name: str
    share: float


SHARES = (Share("autoencoder_64", 0.13), Share("autoencoder_128", 0.10), Share("gan_64", 0.20), Share("gan_128", 0.15),
          Share("encoder", 0.08), Share("critic", 0.04), Share("residual", 0.12), Share("encode", 0.03), Share("prior", 0.06),
          Share("decoder", 0.09))


class Folders(NamedTuple):
    """Where the work is: packs at both sides, the resumable state, and the starter files."""

    small: Path
    large: Path
    state: Path
    output: Path


def encode_packs(paths: Sequence[Path], state: Path, *, start: Path, seconds: float | None = None,
                 ) -> tuple[list[FacePack], list[Encoded]]:
    """Return packs and their faces in the generator of the starter files in ``start``.

    Args:
        paths: of the packs.
        state: the faces are kept in its folders ``encoded_PACK``, and those that are there already are not encoded again.
        start: folder of starter files.
        seconds: after which no more are encoded; None encodes all.

    Raises:
        ValueError: if the folder holds faces of another generator.
    """
    from tqdm import tqdm

    packs, encoded, begin = [], [], time.monotonic()
    for path in paths:
        pack, folder, done = FacePack.load(path), state / f"encoded_{path.stem}", 0
        with tqdm(total=len(pack.names), desc=f"encode {path.stem}", unit="img") as bar:
            for count in encode_pack(pack, folder, start=start):
                bar.update(count - done)
                done = count
                if seconds is not None and time.monotonic() - begin > seconds:
                    break
        packs.append(pack)
        encoded.append(Encoded.load(folder))
    return packs, encoded


def train_random_faces(name: str, paths: Sequence[Path], state: Path, *, start: Path, teacher: Path | None = None,
                       identity: Identity | None = None, minutes: float) -> dict:
    """Run the stage "prior" or "decoder" on packs, against the starter files in ``start``."""
    from training.pretrain.decoder import train_decoder
    from training.pretrain.prior import random_sketches, train_prior, trained_prior

    packs, encoded = encode_packs(paths, state, start=start)
    if name == "prior":
        return train_prior(packs, encoded, state, minutes=minutes)
    random = random_sketches(trained_prior(state), load_base(start / "generator.safetensors").generator)
    return train_decoder(packs, encoded, teacher, state, identity=identity, minutes=minutes, random=random)


def train_everything(data: Path, teacher: Path, folders: Folders, *, hours: float, identity: Identity, start: Path,
                     device: str = "cpu") -> dict:
    """Run every stage for its share of ``hours`` and write the starter files; a run that was interrupted goes on.

    Args:
        data: folder or tar of aligned faces.
        teacher: SqueezeNet features.
        folders: where to work.
        hours: for all stages together.
        identity: embedding of faces.
        start: the starter whose networks that know faces in general are taken over.
        device: where stages compute that can choose.

    Returns:
        Seconds by stage, and sizes of the files.
    """
    for path, size in ((folders.small, SMALL), (folders.large, LARGE)):
        if not path.exists():
            pack_faces(data, path, size=size)
    folders.output.mkdir(parents=True, exist_ok=True)
    for name in PURPOSES:
        if Path(name).stem in GENERAL and not (folders.output / name).exists():
            shutil.copyfile(start / name, folders.output / name)
    finished = folders.state / "finished.txt"
    done = finished.read_text().split() if finished.exists() else []
    seconds = {}
    for name, share in SHARES:
        if name not in done:
            begin = time.monotonic()
            _stage(name, folders, teacher, minutes=60.0 * hours * share, identity=identity, device=device)()
            export_starter(folders.state, folders.output)
            seconds[name] = round(time.monotonic() - begin)
            done.append(name)
            finished.write_text("\n".join(done))
    return {"seconds": seconds, "files": export_starter(folders.state, folders.output)}


def _stage(name: str, folders: Folders, teacher: Path, *, minutes: float, identity: Identity, device: str,
           ) -> Callable[[], object]:
    """Return what runs one of ``SHARES``."""
    from training.pretrain.autoencoder import train_autoencoder
    from training.pretrain.critic import train_critic
    from training.pretrain.decoder import train_decoder
    from training.pretrain.encoder import train_encoder
    from training.pretrain.gan import train_gan
    from training.pretrain.prior import random_sketches, train_prior, trained_prior
    from training.pretrain.residual import train_residual

    state, timed = folders.state, {"minutes": minutes}

    def faces() -> tuple[list[FacePack], list[Encoded]]:
        return [FacePack.load(folders.large)], [Encoded.load(state / f"encoded_{folders.large.stem}")]

    def decode() -> None:
        random = random_sketches(trained_prior(state), load_base(folders.output / "generator.safetensors").generator)
        train_decoder(*faces(), teacher, state, identity=identity, random=random, **timed)

    later = {"encode": lambda: encode_packs([folders.large], state, start=folders.output, seconds=60.0 * minutes),
             "prior": lambda: train_prior(*faces(), state, **timed), "decoder": decode}
    if name in later:
        return later[name]
    pack = FacePack.load(folders.small)
    sized = {"size": int(name.rpartition("_")[2])} if "_" in name else {}
    stages = {"autoencoder": lambda: train_autoencoder(pack, teacher, state, device=device, **timed, **sized),
              "gan": lambda: train_gan(pack, teacher, state, device=device, **timed, **sized),
              "encoder": lambda: train_encoder(pack, teacher, state, device=device, **timed),
              "critic": lambda: train_critic(pack, state, device=device, **timed),
              "residual": lambda: train_residual(pack, state, start=folders.output, identity=identity, device=device, **timed)}
    return stages[name.partition("_")[0]]
