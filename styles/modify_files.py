"""What files of encapsulated styles hold: only networks, and of these only the tensors that are not the base's own.

What is missing is read from the base and its encoder, whose digests the file names. A file of ``adapt.py`` holds the adapted
part of the encoder alone and names the style that it belongs to.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from checkpoints.builders import Base, Encoder, load_base, load_encoder
from checkpoints.io import CheckpointError, build_strict, fingerprint, load_model, read_config, save_model
from checkpoints.paths import find_style
from drawing.style import PREFIX, DrawnStyle
from models.discriminator import Discriminator, DiscriminatorConfig
from models.modify import RemappingConfig, RemappingNetwork, StyleModel
from models.stylegan2 import Generator
from styles.difference import full_tensors
from styles.protocol import Style

KIND = "modify"
CARD = ("Holds only networks: what training changed of an encoder and a generator, a remapping network and a critic; beside "
        "them what the images have in common: the mean place of facial landmarks, and means of colour, contrast and detail of "
        "skin, hair, background and the rest. It holds no image, no latent of an image, and no name, number or digest of the "
        "images that it was trained on.")
WITHOUT_CRITIC = CARD.replace("a generator, a remapping network and a critic", "a generator and a remapping network")
PARTS = {"e.": "encoder", "g.": "generator", "m.": "remapping", "c.": "critic"}


def states_of(model: StyleModel, critic: nn.Module | None, drawn: DrawnStyle | None) -> list[dict[str, Tensor]]:
    """Return the tensors that decide a style's pictures, for digests."""
    return [model.state_dict(), *([] if critic is None else [critic.state_dict()]), *([] if drawn is None else [drawn.tensors()])]


def save_style(path: str | Path, model: StyleModel, critic: nn.Module | None, *, base: Base, encoder: Encoder, encoder_name: str,
               training: Mapping[str, Any], detail: float = 0.0, drawn: DrawnStyle | None = None) -> None:
    """Write an encapsulated style atomically: the tensors that differ from those of the base and its encoder.

    Args:
        path: the file.
        model, critic: the networks; without a critic, test-time training has no adversarial term, and the file tells less of
            the images.
        base, encoder: what they started from.
        encoder_name: by which ``load_encoder`` finds the encoder.
        training: JSON-ready settings of the training, without facts of its images.
        detail: default of the control of that name.
        drawn: what the images have in common, by which photos are drawn; None draws them by the networks, as published.
    """
    own = {"e.": encoder.module.state_dict(), "g.": base.generator.state_dict(), "m.": {}, "c.": {}}
    networks = {"e.": model.encoder, "g.": model.generator, "m.": model.remapping,
                **({} if critic is None else {"c.": critic})}
    config = {"kind": "style", "style_kind": KIND, "card": WITHOUT_CRITIC if critic is None else CARD,
              "base": {"name": base.name, "fingerprint": base.fingerprint},
              "encoder": {"name": encoder_name, "fingerprint": encoder.fingerprint},
              "remapping": model.remapping.config.to_dict(), "critic": None if critic is None else critic.config.to_dict(),
              "training": dict(training), "detail": detail}
    save_model(path, _changed(networks, own) | ({} if drawn is None else drawn.tensors()), config, half=True)


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
    drawn = take_drawn(path, tensors, torch.device("cpu"))
    model, critic = networks_of(path, tensors, config, *base_and_encoder(path, config, torch.device("cpu")))
    return fingerprint(*states_of(model, critic, drawn)) == digest


def base_and_encoder(path: Path, config: Mapping[str, Any], device: torch.device) -> tuple[Base, Encoder]:
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


def take_drawn(path: Path, tensors: dict[str, Tensor], device: torch.device) -> DrawnStyle | None:
    """Take what the images have in common out of a file's tensors, or None where there is none; raises CheckpointError."""
    if "manner" in tensors:
        raise CheckpointError(f"{path}: is of an older form; encapsulate the style anew")
    own = {name: tensors.pop(name) for name in [name for name in tensors if name.startswith(PREFIX)]}
    try:
        return DrawnStyle.of_tensors(own, device=device)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}; encapsulate the style anew") from error


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

