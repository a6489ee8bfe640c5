"""Restyling clips into files: the work of a run over clips, beside that over photos."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline import cli
from pipeline.batch import Draw, Drawn, Photo, settings_digest
from pipeline.clip_drawer import VideoSettings
from pipeline.stylize import Look, Stylizer, build_stylizer
from pipeline.video import stylize_video
from pipeline.video_io import clip_info


@dataclass(frozen=True)
class ClipSettings:
    """What is done to every clip.

    Attributes:
        networks: arguments of ``build_stylizer``.
        output: folder of the results.
        look: how faces are drawn.
        dtype: arithmetic of the networks.
        video: how faces are followed and pasted.
    """

    networks: dict[str, Any]
    output: Path
    look: Look
    dtype: str = "auto"
    video: VideoSettings = VideoSettings()

    def facts(self, stylizer: Stylizer) -> dict[str, Any]:
        """Return what decides the frames, beside the clip itself."""
        return {"style": stylizer.style.fingerprint, "networks": stylizer.digests(), "faces": self.networks["faces"],
                "inversion": self.networks["inversion"], "dtype": self.dtype}

    def digest(self, stylizer: Stylizer) -> str:
        """Return a digest of everything that changes the frames."""
        return settings_digest(clips=True, look=repr(self.look), video=asdict(self.video), **self.facts(stylizer))


def clip_drawer(settings: ClipSettings, stylizer: Stylizer | None = None) -> Draw:
    """Return the function that restyles one clip; a clip that was stopped goes on."""
    stylizer = stylizer or build_stylizer(**settings.networks)

    def draw(clip: Photo) -> Drawn:
        from tqdm import tqdm

        path, output = Path(clip.path), settings.output / f"{clip.stem}.mp4"
        if stylizer.finder is None:
            raise cli.UserError(f"{path}: faces of a clip move, so they must be found; leave --align false out")
        output.parent.mkdir(parents=True, exist_ok=True)
        with tqdm(total=clip_info(path).frames or None, desc="frames", leave=False) as bar, \
                cli.autocast(stylizer.device, cli.resolve_dtype(settings.dtype, stylizer.device)):
            report = stylize_video(path, stylizer, output=output, look=settings.look, settings=settings.video,
                                   progress=bar.update, facts=settings.facts(stylizer))
        return Drawn(int(report.frames > report.faceless), [output], str(report))

    return draw
