"""A training on a folder of portraits from its first stage to its last: every stage is kept in a file and goes on from it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from checkpoints.io import CheckpointError, atomic_write, fingerprint, read_torch
from models.dualstylegan import FIRST_COLOR_ROW, DualStyleGAN
from models.stylegan2 import Generator
from training.adversarial_stage import AdversarialStage, FolderTuning, TuningConfig
from training.exemplar_path import MixedFaces, MixedFacesConfig, Portraits, PortraitsConfig, PortraitTraining
from training.exemplars import (
    Destylized,
    DestylizeSettings,
    Distance,
    Maps,
    RefineSettings,
    Rows,
    SamplerFit,
    SamplerSettings,
    destylize,
    refine_codes,
)
from training.pretrain import parallel
from training.report import LossTable, contact_sheet, plot_losses
from training.session import Interrupted, StopFlag

STAGES = ("tune", "destylize", "pretrain", "finetune", "refine", "sampler")
# Stages that several processes do as one, started by torchrun.
PARALLEL = ("tune", "pretrain", "finetune")
# Stages that depend on which network of fine-tuning is taken.
AFTER = ("refine", "sampler")
KIND, FORMAT = "exemplar-stage", 1
SHOWN = 6


@dataclass(frozen=True)
class ExemplarConfig:
    """Settings of all stages; ``chunk`` portraits are optimised side by side, states saved every ``save_every`` steps, and
    networks of fine-tuning kept every ``snapshot_every``, 0 for never."""

    tune: TuningConfig = field(default_factory=TuningConfig)
    destylize: DestylizeSettings = field(default_factory=DestylizeSettings)
    pretrain: MixedFacesConfig = field(default_factory=MixedFacesConfig)
    finetune: PortraitsConfig = field(default_factory=PortraitsConfig)
    refine: RefineSettings = field(default_factory=RefineSettings)
    sampler: SamplerSettings = field(default_factory=SamplerSettings)
    chunk: int = 8
    save_every: int = 50
    snapshot_every: int = 0
    seed: int = 0

    @classmethod
    def starter(cls) -> ExemplarConfig:
        """Return the settings that suit the starter: its rows are w+, and a CPU has to be enough.

        Its encoder gives drawings rows of faces already: a generator tuned on them, and codes optimised under it, gained 0.03 of
        identity in an hour.
        """
        return cls(tune=TuningConfig(steps=0, rate=5e-4, critic_rate=5e-4, adversarial=0.1, reconstruction=1.0, average=0.97),
                   destylize=DestylizeSettings(steps=0, rate=0.05, truncation=1.0),
                   pretrain=MixedFacesConfig(steps=120, rate=5e-4, critic_rate=5e-4, average=0.98),
                   finetune=PortraitsConfig(steps=260, rate=5e-4, critic_rate=5e-4, adversarial=0.3, average=0.98),
                   refine=RefineSettings(steps=4), sampler=SamplerSettings(samples=50_000))

    def facts(self) -> dict[str, Any]:
        """Return what decides the result, as plain values."""
        return {name: value for name, value in asdict(self).items() if name not in ("save_every", "snapshot_every")}


@dataclass(frozen=True)
class Tools:
    """Networks that a run uses and leaves alone.

    Attributes:
        generator: of faces, frozen.
        w_avg: its mean latent [D], the centre of truncation.
        critic: makes a new critic of pictures.
        encode: images -> w_plus [N, L, D].
        perceptual, identity: distances of image batches; identity is left out where None.
        maps: feature maps of images, from fine to coarse.
        digest: of all these weights.
        named: what perceptual distance, maps and identity are, in words.
    """

    generator: Generator
    w_avg: Tensor
    critic: Callable[[], nn.Module]
    encode: Rows
    perceptual: Distance
    maps: Maps
    digest: str
    identity: Distance | None = None
    named: Mapping[str, str] = field(default_factory=dict)


class ExemplarRun:
    """Train an exemplar style.

    Args:
        folder: keeps a file per stage, tables, plots and sheets.
        portraits: aligned, [K, 3, S, S] in [-1, 1].
        tools: see there.
        config: see there.
        flag: raised to stop after the step that runs.
        report: called with a line per stage and interval.
        snapshot: step of fine-tuning whose kept network the later stages take, the last where None.
        path: a trained extrinsic path, which takes the place of the stage ``pretrain``.
    """

    def __init__(self, folder: Path, portraits: Tensor, *, tools: Tools, config: ExemplarConfig, flag: StopFlag | None = None,
                 report: Callable[[str], None] = lambda line: None, snapshot: int | None = None,
                 path: Mapping[str, Tensor] | None = None) -> None:
        self.snapshot, self.path = snapshot, path
        self.folder, self.portraits, self.tools, self.config = folder, portraits, tools, config
        self.flag, self.report = flag or StopFlag(), report
        facts = json.dumps(config.facts(), sort_keys=True).encode() + tools.digest.encode()
        facts += fingerprint(path).encode() if path else b""
        self.digest = hashlib.sha256(facts + portraits.cpu().numpy().tobytes()).hexdigest()[:32]

    def run(self, stages: tuple[str, ...] = STAGES) -> dict[str, Any]:
        """Do the stages that are not done, in their order, and return the results of all that are.

        Raises:
            CheckpointError: for a stage whose predecessors are not done, or files of another run.
            Interrupted: when the flag was raised, after saving.
        """
        done: dict[str, Any] = {}
        if self.tools.named:
            self.report(", ".join(f"{part}: {name}" for part, name in self.tools.named.items()))
        for stage in STAGES:
            state = self._read(stage)
            if not (state and state["done"]):
                if stage not in stages:
                    continue
                missing = next((other for other in STAGES[:STAGES.index(stage)] if other not in done), None)
                if missing:
                    raise CheckpointError(f"{self.folder}: stage {stage} needs stage {missing}; run that first")
                self.report(f"{stage} ...")
                state = {"done": True, "result": getattr(self, f"_{stage}")(done, state), "snapshot": self.snapshot}
                self._write(stage, state)
            elif stage in AFTER and state.get("snapshot") != self.snapshot:
                was, now = (f"the network of step {step}" if step else "the last network" for step in (
                    state.get("snapshot"), self.snapshot))
                raise CheckpointError(f"{self._file(stage)}: was made from {was}; remove it, to go on from {now}")
            done[stage] = state["result"]
            if stage == "finetune" and self.snapshot is not None:
                done[stage] = self._snapshot(self.snapshot)
        return done

    # -------------------------------------------------------------------------------------------------- files
    def _file(self, stage: str) -> Path:
        return self.folder / f"{stage}.pt"

    def _read(self, stage: str) -> dict[str, Any] | None:
        """Return the saved state of a stage, or None."""
        path = self._file(stage)
        if not path.exists():
            return None
        found = read_torch(path)
        if not isinstance(found, dict) or (found.get("kind"), found.get("format")) != (KIND, FORMAT):
            raise CheckpointError(f"{path}: holds no stage of a training; choose another folder or remove it")
        if found.get("run") != self.digest:
            raise CheckpointError(f"{path}: comes from other portraits, settings or weights; choose another --style, or "
                                  "--overwrite it")
        return found

    def _write(self, stage: str, state: Mapping[str, Any]) -> None:
        if not parallel.leads():
            return
        with atomic_write(self._file(stage)) as temporary:
            torch.save({"kind": KIND, "format": FORMAT, "run": self.digest, **state}, temporary)

    def _pause(self, stage: str, state: Callable[[], Mapping[str, Any]], *, due: bool, where: str) -> None:
        """Save where that is due, and stop where the flag is raised."""
        stops = bool(parallel.first_value(float(self.flag.raised)))
        if due or stops:
            self._write(stage, {"done": False, "result": None, **state()})
        if stops:
            raise Interrupted(f"stopped in stage {stage} after {where}; the same command with --resume goes on")

    def _snapshot(self, step: int) -> dict[str, Tensor]:
        """Return the network that was kept after a step of fine-tuning; raises CheckpointError where there is none."""
        name = f"finetune_{step:05d}"
        if not self._file(name).exists():
            kept = [int(path.stem.rpartition("_")[2]) for path in sorted(self.folder.glob("finetune_[0-9]*.pt"))]
            known = ", ".join(map(str, kept)) or "none"
            raise CheckpointError(f"--snapshot {step}: there is none in {self.folder}; kept are {known}")
        return self._read(name)["result"]

    def _keep(self, trainer: PortraitTraining, codes: Tensor) -> None:
        """Keep the network of this step, and show all kept ones on a sheet."""
        count, every = trainer.step_count, self.config.snapshot_every
        if not every or count % every or not parallel.leads():
            return
        self._write(f"finetune_{count:05d}", {"done": True, "result": trainer.state()["average"]})
        rows = {"exemplars": self.portraits[:SHOWN]}
        for path in sorted(self.folder.glob("finetune_[0-9]*.pt")):
            step = int(path.stem.rpartition("_")[2])
            rows[f"step {step}"] = self._drawn(self.trained(self._snapshot(step)), codes)["face 1"]
        self._sheet("snapshots", rows)

    # ------------------------------------------------------------------------------------------------- stages
    def _adversarial(self, stage: str, trainer: AdversarialStage, state: Mapping[str, Any] | None,
                     on_step: Callable[[], None] = lambda: None) -> AdversarialStage:
        """Do the steps of a stage that are left, with its table and plot; ``on_step`` is called after each."""
        if state:
            trainer.load_state(state["trainer"])
        total = trainer.config.steps
        while trainer.step_count < total:
            trainer.step()
            on_step()
            count = trainer.step_count
            self._pause(stage, lambda: {"trainer": trainer.state()}, due=count % self.config.save_every == 0 and count < total,
                        where=f"step {count} of {total}")
            if count % self.config.save_every == 0:
                self.report(f"{stage} {count}/{total}: "
                            + ", ".join(f"{name} {value:.3g}" for name, value in trainer.history[-1].items()))
        if not total or not parallel.leads():
            return trainer
        terms = sorted({name for row in trainer.history for name in row})
        history = [{name: row.get(name, math.nan) for name in terms} for row in trainer.history]
        LossTable(self.folder / f"{stage}.csv", terms).rewrite(history)
        plot_losses(self.folder / f"{stage}.png", history)
        return trainer

    def _tune(self, done: Mapping[str, Any], state: Mapping[str, Any] | None) -> dict[str, Tensor]:
        trainer = FolderTuning(self.tools.generator, self.tools.critic(), pictures=self.portraits, encode=self.tools.encode,
                               perceptual=self.tools.perceptual, config=self.config.tune)
        self._adversarial("tune", trainer, state)
        samples = self._samples(trainer.average)
        self._sheet("tune", {"portraits": self.portraits[:SHOWN], "drawn by the tuned generator": samples})
        return trainer.average.state_dict()

    def _tuned(self, done: Mapping[str, Any]) -> Generator:
        tuned = Generator(self.tools.generator.config).requires_grad_(False).eval()
        tuned.load_state_dict(done["tune"])
        return tuned.to(self.tools.w_avg.device)

    def _chunks(
        self, stage: str, state: Mapping[str, Any] | None, make: Callable[[slice], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Work through the portraits in chunks, each of which is kept."""
        parts: list[dict[str, Tensor]] = list(state["parts"]) if state else []
        for start in range(len(parts) * self.config.chunk, len(self.portraits), self.config.chunk):
            parts.append(make(slice(start, start + self.config.chunk)))
            count = min(start + self.config.chunk, len(self.portraits))
            self.report(f"{stage} {count}/{len(self.portraits)} portraits")
            self._pause(stage, lambda: {"parts": parts}, due=count < len(self.portraits), where=f"{count} portraits")
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _destylize(self, done: Mapping[str, Any], state: Mapping[str, Any] | None) -> dict[str, Tensor]:
        tuned = self._tuned(done)

        def make(part: slice) -> dict[str, Tensor]:
            found = self._destylized(self.portraits[part], tuned)
            return {name: value.cpu() for name, value in found._asdict().items()}

        result = self._chunks("destylize", state, make)
        self._sheet("destylize", {"portraits": self.portraits[:SHOWN], "faces behind them": result["face"][:SHOWN]})
        return result

    def network(self) -> DualStyleGAN:
        """Return a network whose path is new."""
        return DualStyleGAN(self.tools.generator, seed=self.config.seed).to(self.tools.w_avg.device)

    def trained(self, path: Mapping[str, Tensor]) -> DualStyleGAN:
        """Return the network with the path that a stage gave, frozen."""
        network = self.network()
        network.load_state_dict(path, strict=False)
        return network.requires_grad_(False).eval()

    def _pretrain(self, done: Mapping[str, Any], state: Mapping[str, Any] | None) -> dict[str, Tensor]:
        if self.path is not None:
            return dict(self.path)
        trainer = MixedFaces(self.network(), self.tools.critic(), maps=self.tools.maps, encode=self.tools.encode,
                             config=self.config.pretrain)
        self._adversarial("pretrain", trainer, state)
        return trainer.state()["average"]

    def _finetune(self, done: Mapping[str, Any], state: Mapping[str, Any] | None) -> dict[str, Tensor]:
        codes = done["destylize"]
        portraits = Portraits(self.portraits, codes["extrinsic"], codes["intrinsic"])
        network = self.trained(done["pretrain"])

        def maps(image: Tensor) -> Sequence[Tensor]:
            return self.tools.maps(image)[-2:]  # of VGG19's three the two coarser ones, as published

        trainer = PortraitTraining(network, self.tools.critic(), maps=maps, portraits=portraits,
                                   identity=self.tools.identity, config=self.config.finetune)
        self._adversarial("finetune", trainer, state, lambda: self._keep(trainer, codes["extrinsic"]))
        self._sheet("finetune", self._drawn(trainer.average, codes["extrinsic"]))
        return trainer.state()["average"]

    def _destylized(self, portraits: Tensor, tuned: Generator) -> Destylized:
        """Return codes [N, L, D] of portraits [N, 3, S, S], and the faces behind them."""
        tools, portraits = self.tools, portraits.to(self.tools.w_avg.device)
        return destylize(portraits, tuned, tools.generator, encode=tools.encode, to_w=lambda rows: rows,
                         perceptual=tools.perceptual, identity=tools.identity, settings=self.config.destylize, center=tools.w_avg)

    def _refined(self, portraits: Tensor, network: DualStyleGAN, *, content: Tensor, code: Tensor) -> Tensor:
        device = self.tools.w_avg.device
        refined = refine_codes(portraits.to(device), network, content=content.to(device), code=code.to(device),
                               to_w=lambda rows: rows, perceptual=self.tools.perceptual, maps=self.tools.maps,
                               settings=self.config.refine)
        return refined.cpu()

    def codes(self, portraits: Tensor, done: Mapping[str, Any]) -> Tensor:
        """Return refined extrinsic rows [N, L, D] of portraits [N, 3, S, S] that the run was not trained on."""
        tuned, network, parts = self._tuned(done), self.trained(done["finetune"]), []
        for part in portraits.split(self.config.chunk):
            found = self._destylized(part, tuned)
            parts.append(self._refined(part, network, content=found.intrinsic, code=found.extrinsic))
        return torch.cat(parts)

    def _refine(self, done: Mapping[str, Any], state: Mapping[str, Any] | None) -> dict[str, Tensor]:
        network, codes = self.trained(done["finetune"]), done["destylize"]

        def make(part: slice) -> dict[str, Tensor]:
            return {"extrinsic": self._refined(self.portraits[part], network, content=codes["intrinsic"][part],
                                               code=codes["extrinsic"][part])}

        result = self._chunks("refine", state, make)
        self._sheet("refine", self._drawn(network, result["extrinsic"]))
        return result

    def _sampler(self, done: Mapping[str, Any], state: Mapping[str, Any] | None) -> dict[str, dict[str, Tensor]]:
        codes = done["refine"]["extrinsic"].to(self.tools.w_avg.device)
        fits = {"structure": SamplerFit(codes[:, :FIRST_COLOR_ROW], settings=self.config.sampler, seed=self.config.seed),
                "color": SamplerFit(codes[:, FIRST_COLOR_ROW:], settings=self.config.sampler, seed=self.config.seed + 1)}
        for name, kept in (state or {}).get("fits", {}).items():
            fits[name].load_state(kept)
        for epoch in range(fits["color"].epoch, self.config.sampler.epochs):
            values = {name: fit.step() for name, fit in fits.items()}
            self._pause("sampler", lambda: {"fits": {name: fit.state() for name, fit in fits.items()}},
                        due=epoch % self.config.save_every == 0, where=f"epoch {epoch + 1} of {self.config.sampler.epochs}")
            if epoch % self.config.save_every == 0:
                self.report(f"sampler {epoch + 1}/{self.config.sampler.epochs}: "
                            + ", ".join(f"{name} {value:.3g}" for name, value in values.items()))
        return {name: fit.sampler.state_dict() for name, fit in fits.items()}

    # ------------------------------------------------------------------------------------------------- sheets
    @torch.no_grad()
    def _samples(self, generator: Generator) -> Tensor:
        """Return images [N, 3, S, S] of some fixed seeds."""
        z = torch.randn(SHOWN, generator.config.style_dim, generator=torch.Generator().manual_seed(self.config.seed))
        w = generator.mapping(z.to(self.tools.w_avg), truncation_psi=0.7, w_avg=self.tools.w_avg)
        return generator.synthesis(generator.broadcast(w), noise=generator.fixed_noise()).cpu()

    @torch.no_grad()
    def _drawn(self, network: DualStyleGAN, codes: Tensor) -> dict[str, Tensor]:
        """Return rows of a sheet: exemplars, and some faces in their styles."""
        generator, device = network.generator, self.tools.w_avg.device
        z = torch.randn(3, generator.config.style_dim, generator=torch.Generator().manual_seed(self.config.seed)).to(device)
        faces = generator.broadcast(generator.mapping(z, truncation_psi=0.7, w_avg=self.tools.w_avg))
        shown = codes[:SHOWN].to(device)
        rows = {"exemplars": self.portraits[:SHOWN]}
        weights = [0.75] * FIRST_COLOR_ROW + [1.0] * (network.n_latent - FIRST_COLOR_ROW)
        for number, face in enumerate(faces):
            content = face[None].expand(len(shown), -1, -1)
            image = network.synthesis(content, shown, weights=weights, noise=generator.fixed_noise())
            rows[f"face {number + 1}"] = image.cpu()
        return rows

    def _sheet(self, stage: str, rows: Mapping[str, Tensor]) -> None:
        if parallel.leads():
            contact_sheet(self.folder / f"sheet_{stage}.png", rows)
