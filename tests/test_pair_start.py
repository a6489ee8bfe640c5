"""Start of a style at its pair: splines through landmarks, guarded warps, and runs that go back."""

import math

import pytest
import torch
from tuner_worker import MovingFace, tiny_networks, tiny_tuner

from data.landmarks68 import MEAN_FACE
from models.deformable import DeformableGenerator
from models.sampling_grids import LEAST_DETERMINANT, halved, pixel_lattice, unfolded
from models.spline import frame_points, reading_offsets, spline_values
from training.config import FineTuneConfig
from training.course import runaway
from training.pair_terms import control_goals
from training.session import Session

FACE = torch.from_numpy(MEAN_FACE)[None]
GUIDED = {"control_weight": 1.0, "guarded": True, "carry_image": True, "warp_resolutions": (32,), "warp_grid": 6,
          "swap_layer": 5, "adversarial_mixed": True, "path_every": 0}


def corner_determinants(grid):
    """Smallest determinant over the corners of all cells, in units of an undeformed cell."""
    cell = 2.0 / grid.shape[1]
    across, down = grid[:, :, 1:] - grid[:, :, :-1], grid[:, 1:] - grid[:, :-1]
    values = [x[..., 0] * y[..., 1] - x[..., 1] * y[..., 0]
              for x in (across[:, :-1], across[:, 1:]) for y in (down[:, :, :-1], down[:, :, 1:])]
    return torch.stack(values).amin() / cell**2


def guided_tuner(**settings):
    return tiny_tuner(MovingFace(), **{**GUIDED, **settings})


def test_spline_meets_its_knots_and_keeps_affine_maps():
    rng = torch.Generator().manual_seed(0)
    knots, values = torch.rand(2, 20, 2, generator=rng), torch.rand(2, 20, 3, generator=rng)
    assert torch.allclose(spline_values(knots, values, knots, smoothing=0.0), values.double(), atol=1e-9)
    flat = knots.double() @ torch.tensor([[0.3, -0.2], [0.1, 0.4]], dtype=torch.float64) + 0.5
    places = torch.rand(50, 2, generator=rng).double()
    expected = places @ torch.tensor([[0.3, -0.2], [0.1, 0.4]], dtype=torch.float64) + 0.5
    assert torch.allclose(spline_values(knots, flat, places, smoothing=1e-3), expected.expand(2, -1, -1), atol=1e-9)


def test_content_is_carried_and_the_frame_stays():
    moved = FACE + torch.tensor([0.02, -0.03])
    offsets = reading_offsets(FACE, moved, moved)
    assert (offsets - torch.tensor([-0.02, 0.03])).abs().max() < 4e-3  # smoothed, so not to the last digit
    assert reading_offsets(FACE, moved, frame_points()).abs().max() < 4e-3
    with pytest.raises(ValueError, match="points and moved"):
        reading_offsets(FACE, moved[:, :60], FACE[0])


def test_resting_landmarks_give_resting_control_points():
    goal = control_goals(FACE, FACE, grid_size=6)
    assert torch.allclose(goal[0], DeformableGenerator.for_generator(
        tiny_networks()[0], resolutions=(16,), grid_size=6).tps.stns[0].tps_grid_gen.resting, atol=1e-6)


@pytest.mark.parametrize("strength", [0.005, 0.3, 3.0])
def test_unfolded_grids_keep_their_cells(strength):
    rest = pixel_lattice(16, mode="exact", dtype=torch.float64).reshape(1, 16, 16, 2)
    grid = rest + strength * torch.randn(3, 16, 16, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    folded = corner_determinants(grid) < LEAST_DETERMINANT
    assert folded == (strength > 0.1)
    result = unfolded(grid)
    assert corner_determinants(result) >= LEAST_DETERMINANT - 1e-6
    if not folded:
        assert torch.equal(result, grid)
    ratio = (result - rest) / (grid - rest)
    assert torch.allclose(ratio, ratio[:, :1, :1, :1].expand_as(ratio))  # scaled as a whole, so the shape stays


def test_halved_grid_of_rest_rests():
    rest = pixel_lattice(16, mode="exact").reshape(1, 16, 16, 2)
    assert torch.allclose(halved(rest), pixel_lattice(8, mode="exact").reshape(1, 8, 8, 2), atol=1e-6)


def test_guarded_transformers_never_fold_whatever_they_predict():
    tuner = guided_tuner()
    block = tuner.deformable.tps.stns[0]
    torch.nn.init.normal_(block.loc_net.fc[2].bias, std=2.0, generator=torch.Generator().manual_seed(2))
    features = torch.randn(2, 16, 32, 32, generator=torch.Generator().manual_seed(3))
    for alpha in (-0.5, 0.5, 1.2):
        assert corner_determinants(block.grid(features, alpha=alpha).double()) > 0.09
    free = guided_tuner(guarded=False).deformable.tps.stns[0]
    free.load_state_dict(block.state_dict())
    assert corner_determinants(free.grid(features, alpha=1.2).double()) < 0.0


def test_the_image_is_carried_with_the_features():
    """A warp that shifts everything shifts the whole image alike only if the layers before it follow."""
    generator = tiny_networks()[0]
    w_plus = torch.randn(1, generator.config.n_latent, 32, generator=torch.Generator().manual_seed(4))
    still = generator.synthesis(w_plus, noise=generator.zero_noise())
    errors = {}
    for carry in (False, True):
        deformable = DeformableGenerator.for_generator(generator, resolutions=(64,), carry_image=carry)
        deformable.tps.stns[0].loc_net.fc[2].bias.data += 8.0 / 32  # eight pixels of 64
        moved = deformable.synthesis(w_plus, noise=generator.zero_noise()).image
        errors[carry] = float((moved[..., 8:-16, 8:-16] - still[..., 16:-8, 16:-8]).abs().mean().detach())
    assert errors[True] < 0.05 * errors[False]


def test_training_starts_at_the_pair():
    tuner = guided_tuner()
    bias = tuner.deformable.tps.stns[0].loc_net.fc[2].bias.reshape(-1, 2)
    mean = tuner.guide.goal(FACE.float())
    assert torch.allclose(bias, control_goals(FACE.float(), mean, grid_size=6)[0], atol=1e-5)
    assert math.isfinite(tuner.step()["control"])


def test_terms_that_run_away_are_noticed():
    calm = [{"pairs": 1.0 + 0.3 * (-1) ** i} for i in range(30)]
    assert runaway(calm, ("pairs",)) is None
    assert runaway([*calm, *({"pairs": 5.0} for _ in range(5))], ("pairs", "control")) == "pairs"
    assert runaway([*calm, {"pairs": 9.0}, *calm[:2], {"pairs": 9.0}], ("pairs",)) is None  # two jumps are no trend
    assert runaway([*calm, *({"pairs": 5.0} for _ in range(5))], ("pairs",), calm={"pairs": 6.0}) is None
    assert runaway([{"pairs": float("nan")}] * 20, ("pairs",)) is None
    falling = [{"pairs": 10.0 / (i + 1)} for i in range(20)]
    assert runaway([*falling, *({"pairs": 1.5} for _ in range(5))], ("pairs",)) is None  # still better than it began


class Stumbling:
    """A trainer whose step fails at some counts while its rate is above a limit."""

    terms = ("loss",)

    def __init__(self, *, limit, total=25, fails=(13,)):
        self.step_count, self.history, self.total, self.rate, self.limit, self.fails = 0, [], total, 1.0, limit, fails

    def step(self):
        if self.step_count in self.fails and self.rate > self.limit:
            raise ArithmeticError(f"step {self.step_count}: the loss is nan")
        self.step_count += 1
        self.history.append({"loss": self.rate})
        return self.history[-1]

    def slow_down(self, factor):
        self.rate *= factor

    def sheet(self):
        return {"row": torch.zeros(1, 3, 8, 8)}

    def state(self):
        return {"count": self.step_count, "rate": self.rate, "history": list(self.history)}

    def load_state(self, state):
        self.step_count, self.rate, self.history = state["count"], state["rate"], list(state["history"])


def test_a_run_that_fails_goes_back_and_on_more_slowly(tmp_path, capsys):
    trainer = Stumbling(limit=0.3)
    Session(tmp_path, {}, quiet=True).train(trainer)
    assert trainer.step_count == 25 and trainer.rate == 0.25 and len(trainer.history) == 25
    lines = capsys.readouterr().err.split("\n")
    assert sum("going back to step 10" in line for line in lines) == 2
    table = (tmp_path / "losses.csv").read_text().strip().split("\n")
    assert len(table) == 26


def test_a_run_that_cannot_be_saved_ends_in_its_last_good_state(tmp_path):
    trainer = Stumbling(limit=0.0)
    with pytest.raises(ArithmeticError, match="step 13"):
        Session(tmp_path, {}, quiet=True).train(trainer)
    assert trainer.step_count == 10 and len(trainer.history) == 10


def test_starter_profile_trains_the_transformers_alone():
    config = FineTuneConfig.profile("starter")
    assert config.guarded and config.carry_image and not config.tune_generator and config.path_every == 0
    assert FineTuneConfig.profile("published").tune_generator
    with pytest.raises(ValueError, match="control_weight needs the mode 'exact'"):
        FineTuneConfig.profile("starter", mode="published")
