"""Low-level operators of StyleGAN2: each has one plain PyTorch definition that every backend must match."""

from op.fused_act import filtered_leaky_relu, fused_leaky_relu
from op.upfirdn2d import upfirdn2d

__all__ = ["filtered_leaky_relu", "fused_leaky_relu", "upfirdn2d"]
