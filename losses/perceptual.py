"""Distances between images for inversion: L1 with LPIPS, or with the tokens of a vision transformer."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.dino import DinoFeatures, SharedTokens
from models.remembered import Remembered

ALEXNET_FILE = "alexnet-owt-7be5be79.pth"
LPIPS_FILE = "alex.pth"


def check_pair(image: Tensor, target: Tensor) -> None:
    """Raise ValueError unless both are [N, 3, H, W] (the target may be [1, 3, H, W])."""
    if image.ndim != 4 or image.shape[1] != 3 or target.shape[1:] != image.shape[1:] or len(target) not in (
            1, len(image)):
        raise ValueError(f"expected two image batches [N, 3, H, W], got {list(image.shape)} and {list(target.shape)}")


def token_distance(tokens: Tensor, target: Tensor) -> Tensor:
    """Mean squared distance of tokens scaled to unit length, mean_t |t/|t| - u/|u||^2 = mean_t 2 (1 - cos(t, u)).

    Args:
        tokens, target: [N, T, D].

    Returns:
        [N] in [0, 4].

    Raises:
        ValueError: if the shapes differ.
    """
    if tokens.ndim != 3 or tokens.shape != target.shape:
        raise ValueError(f"expected two token batches [N, T, D], got {list(tokens.shape)} and {list(target.shape)}")
    return (2 * (1 - F.cosine_similarity(tokens, target, dim=2))).mean(dim=1)


class ViTTokenDistance(nn.Module):
    """Perceptual distance in the tokens of a vision transformer; where no AlexNet is at hand, this stands for LPIPS.

    Args:
        features: the transformer.
        layers: block indices whose distances are averaged.
        facet: "f", "q", "k" or "v".
    """

    def __init__(self, features: DinoFeatures | SharedTokens, *, layers: Iterable[int], facet: str = "k") -> None:
        super().__init__()
        self.features = features
        self.layers = tuple(layers)
        self.facet = facet
        self._of_target = Remembered(self._tokens)

    def _tokens(self, image: Tensor) -> list[Tensor]:
        return list(self.features.tokens(image, layers=self.layers, facets=self.facet).values())

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        """Return the batch mean of the distance between images [N, 3, H, W] in [-1, 1]; gradients reach both.

        The transformer is taken to be frozen: while the same target comes, its tokens are not computed again.
        """
        check_pair(image, target)
        theirs = self._tokens(target) if target.requires_grad else self._of_target(target)
        pairs = zip(self._tokens(image), theirs, strict=True)
        return torch.stack([token_distance(a, b.expand_as(a)).mean() for a, b in pairs]).mean()


class LPIPSDistance(nn.Module):
    """LPIPS v0.1 with AlexNet (Zhang et al. 2018) from given weights; nothing is ever downloaded.

    Args:
        backbone: torchvision's AlexNet state dict (`features.*` are used).
        heads: the published linear heads, `lin0.model.1.weight` to `lin4.model.1.weight`.

    Raises:
        ValueError: if keys are missing or misshapen.
    """

    def __init__(self, backbone: Mapping[str, Tensor], heads: Mapping[str, Tensor]) -> None:
        super().__init__()
        import lpips

        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            # lpips still passes torchvision's retired `pretrained` argument.
            warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")
            self.metric = lpips.LPIPS(pretrained=False, net="alex", pnet_rand=True, verbose=False)
        state = self.metric.state_dict()
        found = {}
        for key in state:
            if key.startswith("lin"):
                # "lins.0..." repeats the parameters of "lin0..." in the metric's state.
                name, source = key.replace("lins.", "lin"), heads
            elif key.startswith("net."):
                name, source = "features." + key.split(".", 2)[2], backbone
            else:
                continue
            if name not in source or source[name].shape != state[key].shape:
                got = list(source[name].shape) if name in source else "nothing"
                raise ValueError(f"LPIPS needs {name} {list(state[key].shape)}, got {got}")
            found[key] = source[name]
        self.metric.load_state_dict({**state, **found}, strict=True)
        self.metric.eval().requires_grad_(False)

    @classmethod
    def from_folder(cls, folder: str | Path) -> LPIPSDistance:
        """Read `alexnet-owt-7be5be79.pth` and `alex.pth` from a folder.

        Raises:
            FileNotFoundError: naming the missing file.
        """
        states = []
        for name in (ALEXNET_FILE, LPIPS_FILE):
            path = Path(folder) / name
            if not path.is_file():
                raise FileNotFoundError(f"LPIPS needs {path}, which is missing")
            states.append(torch.load(path, map_location="cpu", weights_only=True))
        return cls(*states)

    def train(self, mode: bool = True) -> LPIPSDistance:
        """Stay in eval mode: the heads' dropout is for their own training only."""
        return super().train(False)

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        """Return the batch mean of LPIPS between images [N, 3, H, W] in [-1, 1]."""
        check_pair(image, target)
        return self.metric(image, target.expand_as(image)).mean()


def detail_distance(image: Tensor, target: Tensor, *, levels: int = 3) -> Tensor:
    """L1 between Laplacian pyramids, sum_k 2^k |L_k(a) - L_k(b)|_1 (Bojanowski et al. 2018), a scalar.

    Args:
        image, target: [N, 3, H, W]; H and W are multiples of 2^levels.
        levels: number of bands, from the finest.
    """
    difference, total = image - target, image.new_zeros(())
    for level in range(levels):
        low = F.avg_pool2d(difference, 2)
        total = total + 2**level * (difference - F.interpolate(low, scale_factor=2)).abs().mean()
        difference = low
    return total


class InversionLoss(nn.Module):
    """weight_l1 |a - b|_1 + weight_perceptual d(a, b) + weight_detail D(a, b), the objective of latent optimisation.

    Args:
        perceptual: `LPIPSDistance` or `ViTTokenDistance`.
        weight_l1, weight_perceptual: of the two terms.
        weight_detail: of ``detail_distance``, which sees edges finer than a transformer's patches; 0 leaves it out.
    """

    def __init__(self, perceptual: nn.Module, *, weight_l1: float = 1.0, weight_perceptual: float = 1.0,
                 weight_detail: float = 0.0) -> None:
        super().__init__()
        self.perceptual = perceptual
        self.weight_l1 = weight_l1
        self.weight_perceptual = weight_perceptual
        self.weight_detail = weight_detail

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        """Return the weighted sum for images [N, 3, H, W] in [-1, 1], a scalar."""
        check_pair(image, target)
        total = self.weight_l1 * F.l1_loss(image, target.expand_as(image))
        total = total + self.weight_perceptual * self.perceptual(image, target)
        return total + self.weight_detail * detail_distance(image, target) if self.weight_detail else total
