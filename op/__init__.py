"""Low-level operators of StyleGAN2: each has one plain PyTorch definition that every backend must match."""

from op.fused_act import fused_leaky_relu
from op.upfirdn2d import upfirdn2d

__all__ = ["fused_leaky_relu", "upfirdn2d"]
