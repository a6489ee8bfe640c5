"""DINO vision transformer and the features read from it: many layers and facets from one forward pass."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.config import Config

if TYPE_CHECKING:  # importing timm takes seconds, which only training needs
    from timm.models.vision_transformer import Block, VisionTransformer

FACETS = ("f", "q", "k", "v")
HUB_SECONDS = 8.0
HUB_NAME = "vit_base_patch8_224.dino"
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ViTConfig(Config):
    """Shape of a plain vision transformer with a class token; the defaults are DINO's ViT-B/8."""

    img_size: int = 224
    patch_size: int = 8
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0

    def __post_init__(self) -> None:
        if self.img_size % self.patch_size:
            raise ValueError(f"img_size must be a multiple of patch_size {self.patch_size}, got {self.img_size}")
        if self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim must be a multiple of num_heads {self.num_heads}, got {self.embed_dim}")


def build_vit(config: ViTConfig) -> VisionTransformer:
    """Build timm's VisionTransformer without a classifier; timm's and DINO's state-dict keys are the same.

    Its weights start from a fixed seed and the global random state is left alone.
    """
    from timm.models.vision_transformer import VisionTransformer

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return VisionTransformer(img_size=config.img_size, patch_size=config.patch_size, embed_dim=config.embed_dim,
                                 depth=config.depth, num_heads=config.num_heads, mlp_ratio=config.mlp_ratio,
                                 num_classes=0)


def clean_vit_state(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Reduce a DINO file to the bare backbone: the teacher of a training file, no prefixes, no projection head.

    Raises:
        ValueError: if no patch embedding is found.
    """
    for name in ("teacher", "state_dict", "model"):
        if isinstance(state.get(name), Mapping):
            state = state[name]
            break
    cleaned = {}
    for key, value in state.items():
        for prefix in ("module.", "backbone."):
            key = key.removeprefix(prefix)
        if isinstance(value, Tensor) and not key.startswith("head."):
            cleaned[key] = value
    missing = {"cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.mlp.fc1.weight"} - set(cleaned)
    if missing:
        raise ValueError(f"not the weights of a vision transformer: {sorted(missing)} missing")
    return cleaned


def vit_config_from_state(
    state: Mapping[str, Tensor], *, img_size: int | None = None, num_heads: int | None = None
) -> ViTConfig:
    """Read a config from weights; heads are 64 wide as in every DINO network unless `num_heads` is given."""
    width, _, patch, _ = state["patch_embed.proj.weight"].shape
    side = round((state["pos_embed"].shape[1] - 1) ** 0.5)
    depth = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("blocks."))
    ratio = state["blocks.0.mlp.fc1.weight"].shape[0] / width
    return ViTConfig(img_size or side * patch, patch, width, depth, num_heads or max(1, width // 64), ratio)


def resize_position_embedding(embedding: Tensor, side: int) -> Tensor:
    """Resample position embeddings [1, 1 + s^2, D] bicubically to [1, 1 + side^2, D], the class token untouched."""
    old = round((embedding.shape[1] - 1) ** 0.5)
    if old * old + 1 != embedding.shape[1]:
        raise ValueError(f"pos_embed must be [1, 1 + s^2, D], got {list(embedding.shape)}")
    if old == side:
        return embedding
    token, patches = embedding[:, :1], embedding[:, 1:].float()
    patches = patches.reshape(1, old, old, -1).permute(0, 3, 1, 2)  # [1, s^2, D] -> [1, D, s, s]
    patches = F.interpolate(patches, size=(side, side), mode="bicubic", antialias=True, align_corners=False)
    patches = patches.permute(0, 2, 3, 1).reshape(1, side * side, -1)  # [1, D, S, S] -> [1, S^2, D]
    return torch.cat([token, patches.to(token.dtype)], dim=1)


def vit_from_state(
    state: Mapping[str, Any], *, config: ViTConfig | None = None, img_size: int | None = None
) -> tuple[VisionTransformer, ViTConfig]:
    """Build a transformer from a state dict, strictly; position embeddings are resampled where the size differs.

    Args:
        state: timm's or DINO's keys; a DINO training file is reduced to its teacher.
        config: the shape; read from the weights where None.
        img_size: input size in px that replaces the one in the weights, only without `config`.

    Raises:
        ValueError: if a key is missing, unexpected or misshapen.
    """
    state = clean_vit_state(state)
    config = config or vit_config_from_state(state, img_size=img_size)
    vit = build_vit(config)
    state["pos_embed"] = resize_position_embedding(state["pos_embed"], config.img_size // config.patch_size)
    try:
        vit.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise ValueError(f"the weights do not fit the vision transformer: {error}") from error
    return vit, config


def _reachable(name: str) -> bool:
    """Tell whether a transformer of timm is here already, or its hub answers; the hub itself would try for a minute."""
    import huggingface_hub

    if any(isinstance(huggingface_hub.try_to_load_from_cache(f"timm/{name}", file), str)
           for file in ("model.safetensors", "pytorch_model.bin")):
        return True
    try:
        urllib.request.urlopen(os.environ.get("HF_ENDPOINT", "https://huggingface.co"), timeout=HUB_SECONDS).close()
    except urllib.error.HTTPError:
        return True  # it answers
    except (OSError, ValueError):
        return False
    return True


def vit_from_hub(name: str = HUB_NAME, *, img_size: int = 224) -> tuple[VisionTransformer, ViTConfig]:
    """Load a DINO transformer from timm's hub, downloading it on first use.

    Raises:
        RuntimeError: if the weights are not cached and cannot be downloaded; the message says what to do instead.
    """
    import timm

    remedy = "--vit starter needs none, or `python -m checkpoints download dino` where there is a network"
    if not _reachable(name):
        raise RuntimeError(f"the weights {name} are not here and their hub cannot be reached; {remedy}")
    try:
        vit = timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:  # the hub raises many unrelated types when offline
        raise RuntimeError(f"timm could not provide {name} ({type(error).__name__}); {remedy}") from error
    heads = vit.blocks[0].attn.num_heads
    config = vit_config_from_state(vit.state_dict(), img_size=img_size, num_heads=heads)
    return vit_from_state(vit.state_dict(), config=config)


class DinoFeatures(nn.Module):
    """Frozen transformer that turns images in [-1, 1] into tokens of any layers and facets in one forward pass.

    Args:
        vit: the transformer; it is frozen and put in eval mode.
        image_size: size in px to which images are resized (bilinear, no antialias), the transformer's own size.

    Attributes:
        recompute: what the blocks are called by, to save memory in training; None calls them.

    Raises:
        ValueError: if the transformer was built for another size.
    """

    def __init__(self, vit: VisionTransformer, image_size: int = 224) -> None:
        super().__init__()
        if tuple(vit.patch_embed.img_size) != (image_size, image_size):
            raise ValueError(f"image_size is {image_size}, the transformer was built for {vit.patch_embed.img_size}")
        self.vit = vit.eval().requires_grad_(False)
        self.image_size = image_size
        self.recompute: Callable[..., Any] | None = None
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).reshape(1, 3, 1, 1), persistent=False)

    @property
    def depth(self) -> int:
        """Number of layers; layer indices run from 0 to depth - 1."""
        return len(self.vit.blocks)

    def train(self, mode: bool = True) -> DinoFeatures:
        """Stay in eval mode: the network is frozen."""
        return super().train(False)

    def prepare(self, image: Tensor) -> Tensor:
        """Resize [N, 3, H, W] in [-1, 1] to image_size and normalise with ImageNet's mean and deviation."""
        if image.ndim != 4 or image.shape[1] != 3:
            raise ValueError(f"expected images [N, 3, H, W], got {list(image.shape)}")
        size = (self.image_size, self.image_size)
        image = (image + 1) / 2
        if image.shape[2:] != size:
            image = F.interpolate(image, size=size, mode="bilinear", align_corners=False)
        return (image - self.mean) / self.std

    def tokens(
        self, image: Tensor, *, layers: Iterable[int], facets: Iterable[str] = ("k",)
    ) -> dict[tuple[str, int], Tensor]:
        """Return the patch tokens of every (facet, layer), from one forward pass that stops at the last layer needed.

        Args:
            image: [N, 3, H, W] in [-1, 1]; gradients flow to it.
            layers: block indices, 0 to depth - 1.
            facets: of "f" (block output), "q", "k", "v" (all heads side by side).

        Returns:
            {(facet, layer): [N, T, D]} with T = (image_size / patch)^2 in row-major order, no class token.

        Raises:
            ValueError: for an unknown layer or facet, or a wrong image shape.
        """
        layers, facets = sorted(set(layers)), sorted(set(facets))
        if not layers or layers[0] < 0 or layers[-1] >= self.depth:
            raise ValueError(f"layers must be within 0..{self.depth - 1}, got {layers}")
        if not facets or set(facets) - set(FACETS):
            raise ValueError(f"facets must be of {FACETS}, got {facets}")
        x = self.prepare(image)
        x = self.vit.patch_embed(x)  # [N, T, D]
        x = torch.cat([self.vit.cls_token.expand(len(x), -1, -1), x], dim=1) + self.vit.pos_embed
        found: dict[tuple[str, int], Tensor] = {}
        for index, block in enumerate(self.vit.blocks[: layers[-1] + 1]):
            run = partial(run_block, block, finish=index < layers[-1] or "f" in facets)
            x, qkv = run(x) if self.recompute is None else self.recompute(run, x)
            if index not in layers:
                continue
            available = {"f": x, **dict(zip("qkv", qkv, strict=True))}
            found.update({(facet, index): available[facet][:, 1:] for facet in facets})
        return found


class SharedTokens:
    """Tokens of some layers and facets, computed once for everybody who asks about the same image in turn.

    An image is the same while it is the same object and was not written to, and gradients are wanted as before.

    Args:
        features: frozen.
        layers, facets: all that is asked for, see ``DinoFeatures.tokens``.
    """

    def __init__(self, features: DinoFeatures, *, layers: Iterable[int], facets: Iterable[str]) -> None:
        self.features, self.layers, self.facets = features, tuple(layers), tuple(facets)
        self._last: tuple[Tensor, tuple[Any, ...], dict[tuple[str, int], Tensor]] | None = None

    @property
    def depth(self) -> int:
        """Number of layers of the transformer."""
        return self.features.depth

    def tokens(
        self, image: Tensor, *, layers: Iterable[int], facets: Iterable[str] = ("k",)
    ) -> dict[tuple[str, int], Tensor]:
        """See ``DinoFeatures.tokens``; raises KeyError for what was not said to be asked for."""
        if not image.is_inference():  # an inference tensor has no count of writes
            state = image._version, torch.is_grad_enabled()
            if self._last is None or self._last[0] is not image or self._last[1] != state:
                self._last = image, state, self.features.tokens(image, layers=self.layers, facets=self.facets)
            found = self._last[2]
        else:
            found = self.features.tokens(image, layers=self.layers, facets=self.facets)
        return {(facet, layer): found[facet, layer] for layer in sorted(set(layers)) for facet in sorted(set(facets))}


def run_block(block: Block, x: Tensor, *, finish: bool = True) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Run one pre-norm transformer block and also return its q, k and v.

    Args:
        block: timm's block.
        x: [N, T, D].
        finish: compute the output too; otherwise x is returned as it came.

    Returns:
        The output [N, T, D] and (q, k, v), each [N, T, heads * head_dim].
    """
    attention = block.attn
    qkv = attention.qkv(block.norm1(x))  # [N, T, 3 D]
    facets = qkv.chunk(3, dim=2)
    if not finish:
        return x, facets
    count, length, width = x.shape
    q, k, v = (part.reshape(count, length, attention.num_heads, -1).transpose(1, 2) for part in facets)
    # [N, T, D] -> [N, heads, T, D / heads]
    y = F.scaled_dot_product_attention(q, k, v)
    y = attention.proj(y.transpose(1, 2).reshape(count, length, width))  # [N, heads, T, d] -> [N, T, D]
    x = x + block.ls1(y)
    return x + block.ls2(block.mlp(block.norm2(x))), facets


def self_similarity(tokens: Tensor) -> Tensor:
    """Cosine similarity of every pair of tokens, S_ij = t_i . t_j / max(|t_i| |t_j|, 1e-8) (Splice, Tumanyan 2022).

    Args:
        tokens: [N, T, D].

    Returns:
        [N, T, T] in [-1, 1].

    Raises:
        ValueError: for another rank.
    """
    if tokens.ndim != 3:
        raise ValueError(f"expected tokens [N, T, D], got {list(tokens.shape)}")
    norm = tokens.norm(dim=2, keepdim=True)  # [N, T, 1]
    return (tokens @ tokens.transpose(1, 2)) / (norm @ norm.transpose(1, 2)).clamp_min(1e-8)
