"""MODIFY's networks and terms against numbers of the published implementation, in float64.

`PARITY_SYSTEMS_DIR=FOLDER pytest tests/test_parity_modify.py` checks another folder of the same form.
"""

from __future__ import annotations

import pytest
import torch
from parity_fill import ParityFolder, relative_error
from torch import Tensor

from losses.modify import code_term, critic_terms
from models.modify import RemappingConfig, RemappingNetwork

TOLERANCE = 1e-5


def expect(ours: Tensor, stored: Tensor, what: str) -> None:
    error = relative_error(ours, stored)
    assert error <= TOLERANCE, f"{what}: off by {error:.1e} of the largest value"


@pytest.fixture(scope="module")
def stored(parity_systems: ParityFolder) -> dict[str, Tensor]:
    return {name: value.double() for name, value in parity_systems.tensors("modify_terms").items()}


@pytest.fixture(scope="module")
def remapping(parity_systems: ParityFolder) -> RemappingNetwork:
    shapes = {key: rule["shape"] for key, rule in parity_systems.keys("modify_remapping_9rows").items()}
    last = max(int(key.split(".")[1]) for key in shapes)
    out, width = shapes[f"style.{last}.weight"]
    config = RemappingConfig(rows=out // width, style_dim=width, n_mlp=last - 1)
    return parity_systems.fill(RemappingNetwork(config), "modify_remapping_9rows").double()


@pytest.fixture(scope="module")
def inputs(parity_systems: ParityFolder, stored: dict[str, Tensor]) -> dict[str, Tensor]:
    n, rows, width = stored["rows"].shape
    length = stored["swapping_loss_norm_grad"].shape[1]
    shapes = {"z": (n, width), "content_rows": (n, length - rows, width), "reencoded": (n, length, width),
              "critic_real": (4, 1), "critic_fake": (4, 1)}
    return {name: parity_systems.input(name, shape).double() for name, shape in shapes.items()}


def test_remapping_network(remapping: RemappingNetwork, stored: dict[str, Tensor], inputs: dict[str, Tensor]) -> None:
    expect(inputs["z"], stored["z"], "z")
    expect(remapping(stored["z"]), stored["rows"], "rows")


@pytest.mark.parametrize(("form", "name"), [
    ("swapping", "swapping_loss_norm"), ("all_rows", "code_reconstruction_all_rows"),
    ("style_rows", "code_reconstruction_style_rows"),
])
def test_code_terms_and_gradients(
    form: str, name: str, remapping: RemappingNetwork, stored: dict[str, Tensor], inputs: dict[str, Tensor]
) -> None:
    rows = remapping(inputs["z"])
    reencoded = inputs["reencoded"].clone().requires_grad_(True)
    loss = code_term(form, codes=torch.cat([inputs["content_rows"], rows], dim=1), rows=rows, reencoded=reencoded)
    expect(loss, stored[name], name)
    if f"{name}_grad" in stored:
        (gradient,) = torch.autograd.grad(loss, reencoded)
        expect(gradient, stored[f"{name}_grad"], f"gradient of {name}")


@pytest.mark.parametrize("form", ["wgan", "softplus"])
def test_critic_terms(form: str, stored: dict[str, Tensor], inputs: dict[str, Tensor]) -> None:
    terms = critic_terms(form)
    expect(terms.critic(inputs["critic_real"], inputs["critic_fake"]), stored[f"{form}_critic"], f"{form} critic")
    expect(terms.generator(inputs["critic_fake"]), stored[f"{form}_generator"], f"{form} generator")


def test_every_stored_item_is_compared(stored: dict[str, Tensor]) -> None:
    terms = ("swapping_loss_norm", "code_reconstruction_all_rows", "code_reconstruction_style_rows")
    known = {"z", "rows", *terms, *(f"{term}_grad" for term in terms),
             *(f"{form}_{side}" for form in ("wgan", "softplus") for side in ("critic", "generator"))}
    assert set(stored) <= known
