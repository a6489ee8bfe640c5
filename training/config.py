"""Settings of fine-tuning: the published schedule as defaults, and the starter's profile."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from models.config import Config

DTYPES = ("float32", "bfloat16")
WARP_FORMS = ("published", "smoothness")


@dataclass(frozen=True)
class FineTuneConfig(Config):
    """Everything that decides the weights of a style besides its pair and its base; the defaults are the published ones.

    Rates are Adam's; weights multiply loss terms; ``*_every`` are intervals in steps (0 switches the term off);
    ``swap_layer`` is the first row of w_plus that carries the reference's colours; layers index blocks of the ViT.
    """

    iterations: int = 500
    batch: int = 4
    adversarial_batch: int = 0  # unmixed samples per generator step; 0 means as many as `batch`
    g_lr: float = 2e-3
    coarse_rate: float = 1.0  # share of `g_lr` for the generator's layers up to the first warp; 0 leaves them alone
    d_lr: float = 2e-3
    tps_lr: float = 5e-6
    affine_lr: float = 1e-4
    g_beta1: float = 0.1
    d_beta1: float = 0.0
    beta2: float = 0.99
    adversarial_weight: float = 1.0
    directional_weight: float = 6.0
    pair_weight: float = 5e4
    reference_weight: float = 5e4
    landmark_weight: float = 0.0  # of a term for the transformers alone
    control_weight: float = 0.0  # of the control points' distance from those of the pair's landmarks, likewise
    warp_weight: float = 1e-6
    warp_form: str = "published"
    r1_gamma: float = 10.0
    r1_every: int = 10
    path_weight: float = 2.0
    path_every: int = 10
    path_batch: int = 2
    transformer_ema: float = 0.995
    g_ema: float = 0.5 ** (32 / 10_000)
    swap_layer: int = 8
    directional_layers: tuple[int, ...] = (5, 11)
    directional_facet: str = "f"
    consistency_layers: tuple[int, ...] = (5,)
    consistency_facet: str = "f"
    heads: int = 1  # heads are drawn from 0..heads-1
    r1_heads: int = 3
    tune_generator: bool = True
    tune_mapping: bool = True
    use_tps: bool = True
    use_affine: bool = True
    mode: str = "exact"
    warp_resolutions: tuple[int, ...] = (32, 64)
    warp_grid: int = 10
    guarded: bool = False
    carry_image: bool = False
    adversarial_mixed: bool = False  # the adversarial term sees the samples of the other terms, in the drawing's colours
    inversion_steps: int = 300
    inversion_lr: float = 2e-3
    seed: int = 0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name in ("directional_layers", "consistency_layers", "warp_resolutions"):
            object.__setattr__(self, name, tuple(int(layer) for layer in getattr(self, name)))
            if not getattr(self, name):
                raise ValueError(f"{name} must name at least one value")
        positive = ("iterations", "batch", "path_batch")
        not_negative = tuple(f.name for f in fields(self) if f.name.endswith(("_lr", "_weight", "_every", "_steps")))
        for name, least in [(n, 1) for n in positive] + [(n, 0) for n in (*not_negative, "swap_layer", "r1_gamma")]:
            if not least <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name in ("g_beta1", "d_beta1", "beta2", "transformer_ema", "g_ema"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if not 0.0 <= self.coarse_rate <= 1.0:
            raise ValueError(f"coarse_rate must be in [0, 1], got {self.coarse_rate}")
        if not 0 <= self.adversarial_batch <= self.batch:
            raise ValueError(f"adversarial_batch must be in 0..{self.batch}, got {self.adversarial_batch}")
        if not (1 <= self.heads <= 4 and 1 <= self.r1_heads <= 4):
            raise ValueError(f"heads and r1_heads must be in 1..4, got {self.heads} and {self.r1_heads}")
        for name, allowed in (("dtype", DTYPES), ("warp_form", WARP_FORMS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")
        if self.control_weight and self.mode != "exact":
            raise ValueError("control_weight needs the mode 'exact'")
        if not (self.tune_generator or self.use_tps or self.use_affine):
            raise ValueError("nothing to train: tune_generator, use_tps and use_affine are all off")

    @classmethod
    def profile(cls, name: str, **changes: Any) -> FineTuneConfig:
        """Return the settings of a profile of ``PROFILES`` with some of them changed."""
        if name not in PROFILES:
            raise ValueError(f"profile must be one of {sorted(PROFILES)}, got {name!r}")
        return cls(**{**PROFILES[name], **changes})

    @property
    def kept(self) -> int:
        """Side in px up to which layers count as coarse: that of the first warp."""
        return min(self.warp_resolutions)

    @property
    def n_adversarial(self) -> int:
        """Number of unmixed samples per generator step."""
        return self.adversarial_batch or self.batch


# The starter trains its transformers alone: photos are drawn from their own pixels, so nothing is left for a generator to
# paint. Its ViT tells less of shapes than DINO does, so the pair's landmarks say where control points should go.
PROFILES: dict[str, dict[str, Any]] = {
    "published": {},
    "starter": {
        "iterations": 24, "batch": 3, "tune_generator": False, "d_lr": 1e-3, "tps_lr": 5e-4, "affine_lr": 2e-4,
        "adversarial_mixed": True, "swap_layer": 7, "transformer_ema": 0.9, "inversion_steps": 40, "inversion_lr": 2e-2,
        "control_weight": 10.0, "warp_form": "smoothness", "warp_weight": 1.0, "warp_resolutions": (64,), "warp_grid": 16,
        "guarded": True, "carry_image": True, "path_every": 0, "pair_weight": 5e3, "reference_weight": 5e3,
        "directional_weight": 1.0,
    },
}
