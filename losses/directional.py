"""Directional deformation loss: the change from source to stylized image follows the change of the reference pair."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def frobenius_normalised(x: Tensor) -> Tensor:
    """x / |x|_F per sample, [N, T, D]; a sample of zeros stays zero instead of becoming 0/0."""
    # The square root's derivative is infinite at zero, so the norm is taken of a sum kept above the smallest normal.
    squared = x.square().sum(dim=(1, 2), keepdim=True)
    return x * squared.clamp_min(1e-30).rsqrt()


def directional_loss(source: Tensor, sample: Tensor, *, reference_source: Tensor, reference_target: Tensor) -> Tensor:
    """One minus the mean cosine between the sample's direction and the reference direction in feature space.

    d_i = n(F_i) - n(F_src_i), n(F) = F / |F|_F; L = 1 - mean_i cos(vec d_i, vec d_ref) (DoesFS, section 3.2; the idea
    of StyleGAN-NADA's directional CLIP loss). The published form divides by zero where a feature map is all zeros; here
    the direction is zero, its cosine 0 and the gradient finite.

    Args:
        source: features of the undeformed images [N, T, D], layers concatenated along T.
        sample: features of the deformed images [N, T, D].
        reference_source: features of the real reference [1 or N, T, D].
        reference_target: features of the style reference [1 or N, T, D].

    Returns:
        Scalar in [0, 2].

    Raises:
        ValueError: for shapes that do not fit.
    """
    for name, other in (("sample", sample), ("reference_source", reference_source),
                        ("reference_target", reference_target)):
        if source.ndim != 3 or other.shape[1:] != source.shape[1:] or len(other) not in (
                {len(source)} if name == "sample" else {1, len(source)}):
            raise ValueError(f"expected {name} to fit source [N, T, D] {list(source.shape)}, got {list(other.shape)}")
    direction = frobenius_normalised(sample) - frobenius_normalised(source)
    reference = frobenius_normalised(reference_target) - frobenius_normalised(reference_source)
    return 1 - F.cosine_similarity(direction.flatten(1), reference.flatten(1), dim=1).mean()  # [N, T, D] -> [N, T D]
