"""Distances between images: LPIPS in SqueezeNet or AlexNet, tokens of a vision transformer, and L1 with one of them."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.dino import DinoFeatures, SharedTokens
from models.remembered import Remembered

# Networks of LPIPS -> torchvision's file of their weights.
NETWORKS = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}
# Channel means of the heads that LPIPS v0.1 learned for SqueezeNet 1.1 (Zhang et al. 2018).
SQUEEZENET_LAYERS = (0.0889, 0.0093, 0.0638, 0.1849, 0.0973, 0.0474, 0.0344)


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


def lpips(maps: Sequence[Tensor], target: Sequence[Tensor], heads: Sequence[Tensor]) -> Tensor:
    """LPIPS of feature maps, sum_l mean_yx sum_c h_lc (a_l/|a_l| - b_l/|b_l|)^2 (Zhang et al. 2018, eq. 1), [N].

    Args:
        maps, target: one [N, C, H, W] a layer.
        heads: the weight of every channel, one [C] a layer, or [1] for all alike.

    Raises:
        ValueError: if the numbers of layers or their shapes differ.
    """
    if not len(maps) == len(target) == len(heads) or any(a.shape != b.shape for a, b in zip(maps, target)):
        raise ValueError(f"expected as many maps of equal shapes as heads, got {[list(a.shape) for a in maps]}, "
                         f"{[list(b.shape) for b in target]} and {len(heads)} heads")
    total = maps[0].new_zeros(len(maps[0]))
    for a, b, head in zip(maps, target, heads):
        # The published code adds its epsilon to the norm, which has no gradient at zero; inside of the root it has one.
        a, b = (x * (x.square().sum(dim=1, keepdim=True) + 1e-12).rsqrt() for x in (a, b))
        total = total + (head.reshape(1, -1, 1, 1) * (a - b).square()).sum(dim=1).mean(dim=(1, 2))
    return total


class SqueezeNetLPIPS(nn.Module):
    """LPIPS in SqueezeNet 1.1.

    The heads that were published belong to torchvision's weights, channel by channel. The bundled ones are the network's
    own (Caffe), whose channels are others, so by default every layer has one weight, the mean of its published head.

    Args:
        features: ``models.squeezenet.SqueezeNetFeatures`` with its weights, or another function of that form.
        heads: the weight of every channel, one [C] a layer, or [1] for all alike.
    """

    def __init__(self, features: Callable[[Tensor], list[Tensor]], *, heads: Sequence[Tensor] | None = None) -> None:
        super().__init__()
        self.features = features
        heads = [torch.tensor([weight]) for weight in SQUEEZENET_LAYERS] if heads is None else heads
        for layer, head in enumerate(heads):
            self.register_buffer(f"head{layer}", head.detach().flatten().clone())
        self._layers = len(heads)
        self._of_target = Remembered(features)

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        """Return the batch mean of LPIPS between images [N, 3, H, W] in [-1, 1]; gradients reach both.

        While the same target comes, its features are not computed again.
        """
        return self.each(image, target).mean()

    def each(self, image: Tensor, target: Tensor) -> Tensor:
        """Return LPIPS of every image of a batch, [N]."""
        check_pair(image, target)
        theirs = self.features(target) if target.requires_grad else self._of_target(target)
        mine = self.features(image)
        heads = [getattr(self, f"head{layer}") for layer in range(self._layers)]
        return lpips(mine, [b.expand_as(a) for a, b in zip(mine, theirs, strict=True)], heads)


def heads_file(network: str) -> Path:
    """Return the file of the heads that come with the ``lpips`` package, version 0.1, for "squeeze", "alex" or "vgg"."""
    return Path(importlib.util.find_spec("lpips").origin).parent / "weights" / "v0.1" / f"{network}.pth"


class LPIPSDistance(nn.Module):
    """LPIPS v0.1 with AlexNet or VGG16 (Zhang et al. 2018) from given weights; nothing is ever downloaded.

    Args:
        backbone: torchvision's state dict of the network (`features.*` are used).
        heads: the published linear heads, `lin0.model.1.weight` to `lin4.model.1.weight`.
        network: one of ``NETWORKS``.

    Raises:
        ValueError: if keys are missing or misshapen.
    """

    def __init__(self, backbone: Mapping[str, Tensor], heads: Mapping[str, Tensor], *, network: str = "alex") -> None:
        super().__init__()
        import lpips

        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            # lpips still passes torchvision's retired `pretrained` argument.
            warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")
            self.metric = lpips.LPIPS(pretrained=False, net=network, pnet_rand=True, verbose=False)
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
    def from_folder(cls, folder: str | Path, *, network: str = "alex") -> LPIPSDistance:
        """Read torchvision's file of a network from a folder; the heads too where theirs lies there, else the package's.

        Raises:
            FileNotFoundError: naming the missing file.
        """
        backbone, heads = Path(folder) / NETWORKS[network], Path(folder) / f"{network}.pth"
        if not backbone.is_file():
            raise FileNotFoundError(f"LPIPS needs {backbone}, which is missing")
        paths = (backbone, heads if heads.is_file() else heads_file(network))
        return cls(*(torch.load(path, map_location="cpu", weights_only=True) for path in paths), network=network)

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
