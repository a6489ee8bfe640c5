"""Loss terms: a pure function and a thin module each, batch means without weights."""

from losses.adversarial import (
    PathLengthPenalty,
    logistic_loss,
    nonsaturating_loss,
    path_length_penalty,
    path_lengths,
    r1_penalty,
)
from losses.consistency import ConsistencyLoss, pair_consistency, reference_consistency, softmax_discrepancy
from losses.directional import DirectionalLoss, directional_loss
from losses.identity import IdentityLoss, identity_distance
from losses.perceptual import (
    InversionLoss,
    LPIPSDistance,
    SqueezeNetLPIPS,
    ViTTokenDistance,
    detail_distance,
    token_distance,
)
from losses.warp import PublishedWarpLoss, WarpSmoothness, published_warp_loss, warp_smoothness

__all__ = [
    "ConsistencyLoss", "DirectionalLoss", "IdentityLoss", "InversionLoss", "LPIPSDistance", "PathLengthPenalty",
    "PublishedWarpLoss", "SqueezeNetLPIPS",
    "ViTTokenDistance", "WarpSmoothness", "detail_distance", "directional_loss", "identity_distance",
    "logistic_loss", "nonsaturating_loss", "pair_consistency", "path_length_penalty", "path_lengths",
    "published_warp_loss", "r1_penalty", "reference_consistency", "softmax_discrepancy", "token_distance",
    "warp_smoothness",
]
