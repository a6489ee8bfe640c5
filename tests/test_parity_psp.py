"""The pSp encoder against reference numbers of the published implementation, and what tells it from e4e."""

from __future__ import annotations

import pytest
import torch
from parity_fill import ParityFolder, relative_error

from models.e4e import E4EConfig, E4EEncoder
from models.psp import PSPEncoder

TOLERANCE = 1e-5  # of the largest stored value; both sides in float64
TINY = E4EConfig(input_size=16, n_styles=9, style_dim=4, stem=2, widths=(2, 2, 2, 4), units=(1, 1, 1, 1), base_width=4,
                 delta_width=4)


def test_codes(parity_systems: ParityFolder) -> None:
    stored = parity_systems.tensors("psp_encoder_1024")["codes"]
    encoder = parity_systems.fill(PSPEncoder(E4EConfig(n_styles=stored.shape[1])), "psp_encoder_1024").double()
    image = torch.tanh(parity_systems.input("psp", (1, 3, 256, 256))).double()
    with torch.no_grad():
        assert relative_error(encoder(image), stored) <= TOLERANCE


def test_rows_are_no_offsets_as_in_e4e() -> None:
    ours, other = PSPEncoder(TINY).double().eval(), E4EEncoder(TINY).double().eval()
    other.load_state_dict(ours.state_dict(), strict=True)
    image = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        codes, offsets = ours(image), other(image)
    assert torch.equal(codes[:, 0], offsets[:, 0])
    assert torch.allclose(codes[:, :1] + codes[:, 1:], offsets[:, 1:], atol=1e-12)


def test_wrong_size_is_named() -> None:
    with pytest.raises(ValueError, match=r"\[N, 3, 16, 16\], got \[1, 3, 8, 8\]"):
        PSPEncoder(TINY)(torch.zeros(1, 3, 8, 8))
