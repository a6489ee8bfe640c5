"""Settings of MODIFY's two stages: the paper's as defaults, and the starter's profiles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

from losses.modify import CODE_FORMS, CRITIC_FORMS, RECONSTRUCTION_PHASE, STYLISATION, SWAPPING_PHASE
from models.config import Config
from training.config import DTYPES

if TYPE_CHECKING:
    from typing import Self

SWAP_PARTS = ("remapping", "all")
REMAP_STARTS = ("random", "moments")


@dataclass(frozen=True)
class StageConfig(Config):
    """What both stages share. Rates are Adam's; weights multiply terms; ``*_parts`` are patterns of parameter names as in
    file names (``styles.*.linear.*``), nothing stands for all; the penalty is a term of the critic that bounds it, see
    ``losses.modify.gradient_penalty``, in every ``penalty_every``-th step, times that number."""

    PROFILES: ClassVar[Mapping[str, Mapping[str, Any]]] = {"published": {}}

    batch: int = 4
    lr: float = 1e-4
    critic_lr: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.999
    critic_form: str = "wgan"
    penalty: float = 10.0
    penalty_every: int = 1
    mirror: bool = True
    seed: int = 0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_parts") and not isinstance(value, str):
                object.__setattr__(self, field.name, tuple(map(str, value)))
            least = 1 if field.name in ("batch", "penalty_every", "critic_every", "rows", "val_every") else 0
            if isinstance(value, (int, float)) and not least <= value < float("inf"):
                raise ValueError(f"{field.name} must be at least {least}, got {value}")
        for name, allowed in (("critic_form", CRITIC_FORMS), ("dtype", DTYPES)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")
        if max(self.beta1, self.beta2) >= 1.0:
            raise ValueError(f"beta1 and beta2 must be below 1, got {self.beta1} and {self.beta2}")

    @classmethod
    def profile(cls, name: str, **changes: Any) -> Self:
        """Return the settings of a profile with some of them changed."""
        if name not in cls.PROFILES:
            raise ValueError(f"profile must be one of {sorted(cls.PROFILES)}, got {name!r}")
        return cls(**{**cls.PROFILES[name], **changes})


@dataclass(frozen=True)
class EncapsulationConfig(StageConfig):
    """Stage 1: ``steps`` of reconstruction with eq. 1 to 4, then ``swap_steps`` of swapping with eq. 5 and 6.

    The first phase trains encoder and generator; the second the remapping network, with ``swap_parts`` "all" the other two
    as well, of which the paper says nothing: alone it is mapped into an embedding space that stays as it is. ``rows`` is xi,
    ``n_mlp`` the depth of the remapping network, ``remap_lr`` its rate, ``code_form`` the form of eq. 6. ``lr`` falls to a
    tenth over the share ``decay`` of the first phase, at its end; the style is the running average of the networks with the
    decay ``average``; both are 0 in the paper. The remapping network begins "random", as in the paper, or with the "moments"
    of the images' rows, see ``start_remapping``. A share ``validation`` of the images is held out and
    looked at in every ``val_every``-th step of the first phase, which ends with the networks that were nearest to them.
    """

    steps: int = 150_000
    swap_steps: int = 20_000
    rows: int = 9
    n_mlp: int = 8
    remap_lr: float = 1e-4
    r_weight: float = RECONSTRUCTION_PHASE["r"]
    lpips_weight: float = RECONSTRUCTION_PHASE["lpips"]
    id_weight: float = RECONSTRUCTION_PHASE["id"]
    adv_r_weight: float = RECONSTRUCTION_PHASE["adv_r"]
    swap_weight: float = SWAPPING_PHASE["swap"]
    adv_z_weight: float = SWAPPING_PHASE["adv_z"]
    code_form: str = "swapping"
    swap_parts: str = "remapping"
    decay: float = 0.0
    average: float = 0.0
    remap_start: str = "random"
    validation: float = 0.0
    val_every: int = 50
    encoder_parts: tuple[str, ...] = ()
    generator_parts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.code_form not in CODE_FORMS or self.swap_parts not in SWAP_PARTS:
            raise ValueError(f"code_form must be one of {CODE_FORMS} and swap_parts one of {SWAP_PARTS}, got "
                             f"{self.code_form!r} and {self.swap_parts!r}")
        if self.remap_start not in REMAP_STARTS:
            raise ValueError(f"remap_start must be one of {REMAP_STARTS}, got {self.remap_start!r}")
        if self.validation >= 1.0:
            raise ValueError(f"validation must be below 1, got {self.validation}")
        if self.average >= 1.0 or self.decay > 1.0:
            raise ValueError(f"average must be below 1 and decay at most 1, got {self.average} and {self.decay}")
        if not self.steps + self.swap_steps:
            raise ValueError("nothing to train: steps and swap_steps are both 0")
        for steps, weights in ((self.steps, self.reconstruction_weights), (self.swap_steps, self.swapping_weights)):
            if steps and not any(weights.values()):
                raise ValueError(f"nothing to train: the weights of {', '.join(weights)} are all 0")

    @property
    def reconstruction_weights(self) -> dict[str, float]:
        """Weights of the first phase by term."""
        return {"r": self.r_weight, "lpips": self.lpips_weight, "id": self.id_weight, "adv_r": self.adv_r_weight}

    @property
    def swapping_weights(self) -> dict[str, float]:
        """Weights of the second phase by term."""
        return {"swap": self.swap_weight, "adv_z": self.adv_z_weight}


@dataclass(frozen=True)
class AdaptationConfig(StageConfig):
    """Stage 2: a copy of the encoder learns photos (eq. 7); generator and remapping network stay as they are. The critic
    learns in every ``critic_every``-th step, with its penalty where that is due as well."""

    steps: int = 20_000
    critic_every: int = 1
    r_weight: float = STYLISATION["r"]
    lpips_weight: float = STYLISATION["lpips"]
    id_weight: float = STYLISATION["id"]
    adv_weight: float = STYLISATION["adv"]
    encoder_parts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not any(self.weights.values()):
            raise ValueError(f"nothing to train: the weights of {', '.join(self.weights)} are all 0")

    @property
    def weights(self) -> dict[str, float]:
        """Weights by term."""
        return {"r": self.r_weight, "lpips": self.lpips_weight, "id": self.id_weight, "adv": self.adv_weight}


# The starter's networks know faces already, and at 128 px five rows are style. The paper's WGAN terms have no floor: with
# them reconstructions became worse in each of the first steps, since a critic of slope one tells images far apart in pixels
# by dozens, beside which means of squares are nothing. The released code's softplus ends where the critic is deceived.
# Of the encoder only the layers that make the rows are adapted, so that what is adapted is small. Tokens of the starter's
# transformer and the identity network hardly see colours: with the paper's weights skin turned magenta within 200 steps.
# Adaptation weighs the identity three times: 50 steps on each of four photos took its distance
# from 0.48 to 0.44 so, to 0.46 with one.
EncapsulationConfig.PROFILES = {"published": {}, "starter": {
    "steps": 360, "swap_steps": 60, "lr": 4e-4, "decay": 0.4, "average": 0.97, "rows": 5, "remap_lr": 5e-4,
    "critic_form": "softplus", "penalty_every": 4, "r_weight": 6.0, "id_weight": 0.3, "remap_start": "moments",
}}
HEADS = ("styles.*.linear.*", "latlayer*")
AdaptationConfig.PROFILES = {"published": {}, "starter": {
    "steps": 300, "lr": 4e-3, "critic_form": "softplus", "critic_every": 4, "penalty_every": 16, "id_weight": 3.0,
    "encoder_parts": HEADS,
}}
