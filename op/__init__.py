"""Low-level operators of StyleGAN2: each has one plain PyTorch definition that every backend must match."""

import os

# Large tensors on CPUs in pages of 2 MB, where the system offers them: with pages of 4 KB, half of the time of passes
# over large maps is spent on page faults. torch reads this at its first allocation.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

from op.fused_act import filtered_leaky_relu, fused_leaky_relu, scale_channels  # noqa: E402
from op.upfirdn2d import upfirdn2d  # noqa: E402

__all__ = ["filtered_leaky_relu", "fused_leaky_relu", "scale_channels", "upfirdn2d"]
