"""Advice for generators of one's own: what is missing is named with the option that helps."""

from __future__ import annotations

import time

import pytest
import torch

from checkpoints import CheckpointError
from checkpoints.features import load_vit
from models.stylegan2_ada import convert_generator
from pipeline import stylize
from styles import protocol


def test_conditional_and_grey_networks_are_named():
    with pytest.raises(ValueError, match="conditional .labels of 10 numbers"):
        convert_generator({"mapping.embed.weight": torch.zeros(512, 10)})
    with pytest.raises(ValueError, match="1 channel, grey ones"):
        convert_generator({"synthesis.b4.torgb.bias": torch.zeros(1), "synthesis.b4.const": torch.zeros(4, 4, 4)})


def test_a_missing_encoder_names_the_inversion_that_needs_none(monkeypatch):
    def absent(*_, **__):
        raise CheckpointError("own.safetensors: holds a generator, but an encoder is needed here")

    for module in (stylize, protocol):
        monkeypatch.setattr(module, "load_encoder", absent)
    with pytest.raises(CheckpointError, match="--inversion optimize needs no encoder"):
        stylize.build_stylizer("cartoon")
    with pytest.raises(CheckpointError) as error:
        stylize.build_stylizer("cartoon", encoder="mine.pt")
    assert "--inversion" not in str(error.value)


def test_without_a_network_the_starter_is_named_soon(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("CHECKPOINTS_DIR", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: None)
    begin = time.monotonic()
    with pytest.raises(CheckpointError, match="cannot be reached; --vit starter") as error:
        load_vit("official")
    assert time.monotonic() - begin < 15 and "\n" not in str(error.value)
