"""What files of encapsulated styles hold: only networks, and of these only the tensors that are not the base's own.

What is missing is read from the base and its encoder, whose digests the file names. A file of ``adapt.py`` holds the adapted
part of the encoder alone and names the style that it belongs to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from checkpoints.builders import Base, Encoder, load_base, load_encoder
from checkpoints.features import load_painter
from checkpoints.io import CheckpointError, build_strict, fingerprint, load_model, read_config, save_model
from checkpoints.paths import find_style
from models.discriminator import Discriminator, DiscriminatorConfig
from models.modify import RemappingConfig, RemappingNetwork, StyleModel
from models.stylegan2 import Generator
from styles.difference import full_tensors
from styles.protocol import Style

KIND = "modify"
CARD = ("Holds only networks: what training changed of an encoder and a generator, a remapping network and a critic; beside "
        "them at most twelve numbers, how strong fine and coarse detail is in the mean of all images, and mean and main "
        "directions of the code by which a painter draws as they are drawn, of each mode of them where there are several, with "
        "the mean style rows of at least twenty images that tell it from the others. It holds no image, no "
        "latent of an image, and no name, number or digest of the images that it was trained on.")
WITHOUT_CRITIC = CARD.replace("a generator, a remapping network and a critic", "a generator and a remapping network")
PARTS = {"e.": "encoder", "g.": "generator", "m.": "remapping", "c.": "critic"}
# Images for each main direction of their manner that a file holds, and most of these.
PER_DIRECTION, DIRECTIONS = 20, 8
# Versions go so many deviations along them, for few directions say less than all do.
VARIED = 2.2
# Over which share of the mean squared distance of two modes pictures go from the manner of one to the other's.
SHARED = 0.1


class Manner(NamedTuple):
    """How a style's images are drawn, by their modes.

    Attributes:
        codes: mean and main directions [K, 1 + D, code] of the painter's codes of K modes, see ``manner_of``.
        centres: mean style rows [K, xi D] of the modes, or None for one.
    """

    codes: Tensor
    centres: Tensor | None = None

    def of(self, rows: Tensor, z: Tensor | None = None, strength: float = 1.0) -> Tensor:
        """Return codes [N or 1, code] for pictures by their style rows [N, xi, D]; z [1, D] goes along the directions.

        Between modes codes change over smoothly, so that clips and what lies between two versions do not jump.
        """
        codes = self.codes[:, 0]
        if z is not None and self.codes.shape[1] > 1:
            codes = codes + strength * torch.einsum("d,kdc->kc", z[0, :self.codes.shape[1] - 1], self.codes[:, 1:])
        if self.centres is None:
            return codes
        apart = torch.cdist(self.centres, self.centres).square()
        away = (rows.flatten(1)[:, None] - self.centres[None]).square().sum(dim=2)  # [N, K]
        return torch.softmax(-away / (SHARED * apart.sum() / (len(apart) * (len(apart) - 1))), dim=1) @ codes

    def state(self) -> dict[str, Tensor]:
        """Return the tensors by their names in files."""
        return {"manner": self.codes[0]} if self.centres is None else {"manner": self.codes, "modes": self.centres}

    def to(self, device: torch.device) -> Manner:
        return Manner(*(None if part is None else part.to(device) for part in self))


def manner_of(codes: Tensor) -> Tensor:
    """Return the mean of codes [N, code] of how images are drawn, and their main directions times ``VARIED`` deviations.

    A direction for every ``PER_DIRECTION`` images, ``DIRECTIONS`` at most, so that none of them is an image's own.
    """
    mean = codes.mean(dim=0, keepdim=True)
    count = min(len(codes) // PER_DIRECTION, DIRECTIONS)
    _, sizes, ways = torch.linalg.svd(codes - mean, full_matrices=False)
    return torch.cat([mean, VARIED * ways[:count] * sizes[:count, None] / len(codes) ** 0.5])


def manner_by_mode(codes: Tensor, rows: Tensor, modes: Tensor) -> Manner:
    """Return the manner of images by their codes [N, code], style rows [N, xi, D] and the numbers [N] of their modes."""
    if not modes.any():
        return Manner(manner_of(codes)[None])
    groups = [modes == mode for mode in range(int(modes.max()) + 1)]
    found = [manner_of(codes[group]) for group in groups]
    least = min(len(part) for part in found)
    return Manner(torch.stack([part[:least] for part in found]), torch.stack([rows[group].flatten(1).mean(dim=0)
                                                                              for group in groups]))


def states_of(model: StyleModel, critic: nn.Module | None) -> list[dict[str, Tensor]]:
    """Return the states of a style's networks, for digests."""
    return [model.state_dict(), *([] if critic is None else [critic.state_dict()])]


def save_style(path: str | Path, model: StyleModel, critic: nn.Module | None, *, base: Base, encoder: Encoder, encoder_name: str,
               training: Mapping[str, Any], detail: float = 0.0, bands: Sequence[float] = (),
               manner: Manner | None = None) -> None:
    """Write an encapsulated style atomically: the tensors that differ from those of the base and its encoder.

    Args:
        path: the file.
        model, critic: the networks; without a critic, test-time training has no adversarial term, and the file tells less of
            the images.
        base, encoder: what they started from.
        encoder_name: by which ``load_encoder`` finds the encoder.
        training: JSON-ready settings of the training, without facts of its images.
        detail: default of the control of that name.
        bands: mean deviations of the images' bands, see ``models.tones``; none leaves pictures as they are decoded.
        manner: how the images are drawn; likewise.
    """
    own = {"e.": encoder.module.state_dict(), "g.": base.generator.state_dict(), "m.": {}, "c.": {}}
    networks = {"e.": model.encoder, "g.": model.generator, "m.": model.remapping,
                **({} if critic is None else {"c.": critic})}
    config = {"kind": "style", "style_kind": KIND, "card": WITHOUT_CRITIC if critic is None else CARD,
              "base": {"name": base.name, "fingerprint": base.fingerprint},
              "encoder": {"name": encoder_name, "fingerprint": encoder.fingerprint},
              "remapping": model.remapping.config.to_dict(), "critic": None if critic is None else critic.config.to_dict(),
              "training": dict(training),
              "detail": detail, "bands": [round(float(value), 6) for value in bands],
              **({} if manner is None else {"manner": True})}
    # Small files leave whole numbers as they are.
    drawn = {} if manner is None else {name: part.cpu().half().view(torch.int16) for name, part in manner.state().items()}
    save_model(path, _changed(networks, own) | drawn, config, half=True)


def save_adapted(path: str | Path, model: StyleModel, *, parent: Style, training: Mapping[str, Any]) -> None:
    """Write what stage 2 changed of a style's encoder, atomically; the file needs that style.

    Args:
        path: the file.
        model: with the adapted encoder.
        parent: the style that it was adapted from.
        training: JSON-ready settings of the training, without facts of its photos.
    """
    config = {"kind": "style", "style_kind": KIND, "card": parent.config.get("card", CARD), "base": parent.config["base"],
              "adapts": {"style": parent.name, "fingerprint": parent.fingerprint}, "training": dict(training)}
    tensors = _changed({"e.": model.encoder}, {"e.": parent.model.encoder.state_dict()})
    save_model(path, tensors, config, half=True)


def _changed(networks: Mapping[str, nn.Module], before: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the tensors of networks, by prefix and name, that ``before`` does not have or has otherwise."""
    found = {}
    for prefix, module in networks.items():
        for name, tensor in module.state_dict().items():
            old = before[prefix].get(name)
            if old is None or not torch.equal(old.to(tensor.device), tensor):
                found[prefix + name] = tensor
    return found


def with_parent(kind: type[Style], path: Path, tensors: dict[str, Tensor], config: dict[str, Any]
                ) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors and config of an adapted style upon those of the style that it was adapted from."""
    if "adapts" not in config:
        return tensors, config
    facts = config["adapts"] if isinstance(config["adapts"], dict) else {}
    name = str(facts.get("style"))
    try:
        parent = find_style(name)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: was adapted from the style {name!r}, which is not here; put that file beside it"
                              ) from error
    below, whole = load_model(parent, kind="style")
    below = full_tensors(kind, parent, below, whole)
    if whole.get("style_kind") != KIND or "adapts" in whole:
        raise CheckpointError(f"{path}: was adapted from the style {name!r}, but {parent} is no encapsulated style; put the "
                              "right file there")
    if not _is(parent, below, whole, facts.get("fingerprint")):
        raise CheckpointError(f"{path}: was adapted from another style than the one in {parent}; adapt it anew")
    return {**below, **tensors}, {**whole, "adapts": facts, "training": config.get("training", {})}


def _is(path: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any], digest: Any) -> bool:
    """Tell whether a style file's networks have a digest."""
    tensors = dict(tensors)
    manner = take_manner(path, tensors)
    model, critic = networks_of(path, tensors, config, *ground(path, config, torch.device("cpu")))
    return fingerprint(*states_of(model, critic), *drawing(manner)) == digest


def ground(path: Path, config: Mapping[str, Any], device: torch.device) -> tuple[Base, Encoder]:
    """Load the base and the encoder that a style was made from.

    Raises:
        CheckpointError: if they are not those that the file names.
    """
    loaded = []
    for part, load in (("base", load_base), ("encoder", load_encoder)):
        facts = config.get(part)
        if not isinstance(facts, dict) or not {"name", "fingerprint"} <= set(facts):
            raise CheckpointError(f"{path}: its config does not say which {part} it was made from; encapsulate the style anew")
        loaded.append(load(facts["name"], device=device))
        if loaded[-1].fingerprint != facts["fingerprint"]:
            raise CheckpointError(f"{path}: was made from another {part} than the {facts['name']} that is here; get the one "
                                  "of the file's maker, or encapsulate the style anew")
    return loaded[0], loaded[1]


def drawing(manner: Manner | None) -> list[dict[str, Tensor]]:
    """Return the tensors that decide how pictures are drawn in a manner, for digests."""
    return [] if manner is None else [manner.state(), load_painter().module.state_dict()]


def take_manner(path: Path, tensors: dict[str, Tensor]) -> Manner | None:
    """Take the manner out of a file's tensors, or None where there is none."""
    codes, centres = tensors.pop("manner", None), tensors.pop("modes", None)
    if codes is None and centres is None:
        return None
    if codes is None:
        raise CheckpointError(f"{path}: holds modes without their manner; encapsulate the style anew")
    if codes.ndim == 2:  # of one mode
        codes = codes[None]
    shape = list(codes.shape)
    fits = codes.ndim == 3 and 1 <= shape[1] <= 1 + DIRECTIONS and codes.dtype == torch.int16
    if not fits or (shape[0] > 1 or centres is not None) and (
            centres is None or centres.dtype != torch.int16 or centres.ndim != 2 or len(centres) != shape[0] or shape[0] < 2):
        raise CheckpointError(f"{path}: misshapen manner: got {shape}; encapsulate the style anew")
    return Manner(*(None if part is None else part.view(torch.float16).float() for part in (codes, centres)))


def networks_of(path: Path, tensors: dict[str, Tensor], config: Mapping[str, Any], base: Base, encoder: Encoder
              ) -> tuple[StyleModel, Discriminator | None]:
    """Build a style's networks from its file's tensors upon those of its base; the critic is None where the file has none.

    Raises:
        CheckpointError: for tensors that belong to no network, are missing or misshapen.
    """
    strange = [name for name in tensors if not name.startswith(tuple(PARTS))]
    if strange:
        raise CheckpointError(f"{path}: does not fit: unexpected {', '.join(strange[:3])}, and such a file holds only "
                              "networks; encapsulate the style anew")
    remapping = read_config(path, config, "remapping", RemappingConfig.from_dict)
    alone = "critic" in config and config["critic"] is None and not any(name.startswith("c.") for name in tensors)
    critic = None if alone else read_config(path, config, "critic", DiscriminatorConfig.from_dict)
    states: dict[str, dict[str, Tensor]] = {"e.": dict(encoder.module.state_dict()), "g.": dict(base.generator.state_dict()),
                                            "m.": {}, "c.": {}}
    for name, tensor in tensors.items():
        states[name[:2]][name[2:]] = tensor
    makers = {"e.": lambda: type(encoder.module)(encoder.module.config), "g.": lambda: Generator(base.generator.config),
              "m.": lambda: RemappingNetwork(remapping), "c.": lambda: Discriminator(critic)}
    made = {prefix: build_strict(make, states[prefix], what=f"{path}: part {PARTS[prefix]}")
            for prefix, make in makers.items() if prefix != "c." or critic is not None}
    try:
        return StyleModel(made["e."], made["g."], made["m."], encoder.latent_avg), made.get("c.")
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}; encapsulate the style anew") from error

