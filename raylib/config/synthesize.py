"""Settings of the synthetic faces and of `jobs/synthesize.py`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from raylib.config.checks import require
from raylib.config.paths import path_field


@dataclass(frozen=True)
class SynthesisSettings:
    """What synthetic faces look like. Everything else is drawn from the seed.

    Attributes:
        size_px: side of the pictures in pixels.
        supersampling: samples along the side of a pixel.
        texture_px: side of the albedo texture in pixels; 0 takes twice the picture's side, from 256 to 1024.
        yaw_deg: largest turn to either side, degrees.
        pitch_deg: largest turn up or down, degrees.
        roll_deg: largest tilt to either side, degrees.
        fov_deg: least and largest field of view of the picture, degrees.
        side_mm: how much of the scene the picture shows at the face's distance, least and most, millimetres.
        identity_scale: standard deviations of the identity coefficients.
        expressions: share of faces that are not neutral, 0 to 1.
        shadow_directions: number of directions along which self-shadow is cast.
        gloss: whether skin and eyes have highlights and light scatters under the skin; false leaves a matte face.
        camera_effects: whether pictures have exposure errors, white balance, blur, noise and JPEG.
        backgrounds: folder of pictures to put behind the heads; drawn ones without.
        textures: output of `jobs/reconstruct.py --refine 60` whose faces give skin; drawn skin without.
        texture_share: share of people whose skin is from there, 0 to 1.
        shots: number of pictures of the same person, with consecutive seeds.
        shots_differ_in: what changes between them: `everything`, or only the `light`.
    """

    size_px: int = 256
    supersampling: int = 2
    texture_px: int = 0
    yaw_deg: float = 60.0
    pitch_deg: float = 30.0
    roll_deg: float = 20.0
    fov_deg: tuple[float, float] = (8.0, 50.0)
    side_mm: tuple[float, float] = (215.0, 330.0)
    identity_scale: float = 1.0
    expressions: float = 0.75
    shadow_directions: int = 64
    gloss: bool = True
    camera_effects: bool = True
    backgrounds: str | None = field(default=None, metadata=path_field())
    textures: str | None = field(default=None, metadata=path_field())
    texture_share: float = 0.5
    shots: int = 1
    shots_differ_in: Literal["everything", "light"] = "everything"

    def __post_init__(self) -> None:
        require(16 <= self.size_px <= 2048, "size_px", self.size_px, "16 to 2048")
        require(1 <= self.supersampling <= 4, "supersampling", self.supersampling, "1 to 4")
        texture = self.texture_px == 0 or 64 <= self.texture_px <= 4096
        require(texture, "texture_px", self.texture_px, "0 or 64 to 4096")
        require(0 <= self.yaw_deg <= 90, "yaw_deg", self.yaw_deg, "0 to 90 degrees")
        require(0 <= self.pitch_deg <= 60, "pitch_deg", self.pitch_deg, "0 to 60 degrees")
        require(0 <= self.roll_deg <= 180, "roll_deg", self.roll_deg, "0 to 180 degrees")
        low, high = self.fov_deg
        require(1 <= low <= high <= 90, "fov_deg", self.fov_deg, "two rising angles from 1 to 90 degrees")
        low, high = self.side_mm
        require(100 <= low <= high, "side_mm", self.side_mm, "two rising lengths from 100 mm")
        require(0 <= self.identity_scale <= 2, "identity_scale", self.identity_scale, "0 to 2")
        require(0 <= self.expressions <= 1, "expressions", self.expressions, "a share from 0 to 1")
        require(self.shadow_directions >= 16, "shadow_directions", self.shadow_directions, "at least 16")
        require(0 <= self.texture_share <= 1, "texture_share", self.texture_share, "a share from 0 to 1")
        require(self.shots >= 1, "shots", self.shots, "at least 1")

    @property
    def texture_side(self) -> int:
        """The side of the albedo texture."""
        return self.texture_px or min(1024, max(256, 2 * self.size_px))


@dataclass(frozen=True)
class SynthesizeConfig:
    """`jobs/synthesize.py`: synthetic faces with their truth as Parquet.

    Attributes:
        output: folder or URI for the table and `run.json`.
        count: number of pictures.
        split: which people: those of `train`, `validation` and `test` never mix.
        first: number of the first picture within the split, counted from 0.
        source: the people's face model: the shipped `prior`, ICT-FaceKit's folder or `.npz`, or another model's file.
        settings: what the pictures look like.
        rows_per_part: pictures in a Parquet file.
        actors: processes; 0 takes one a CPU.
        cpus_per_actor: logical CPUs that each reserves; below one leaves room for Ray's own tasks.
        cluster_cpus: CPUs that the cluster may grow to where an autoscaler adds machines; 0 for those that it has.
        image_format: `png`, or `jpeg` with quality 95, which is a fifth of the size.
        store_maps: whether rows carry normals, depth and the picture before camera effects.
        contact_sheet: pictures on the contact sheet, 0 for none.
        progress_every_s: seconds between lines of progress where there is no terminal.
        storage_options: arguments of the output's fsspec filesystem.
        storage_tries: how often a write to a bucket is tried.
    """

    output: str = field(metadata=path_field(output=True))
    count: int = 1000
    split: Literal["train", "validation", "test"] = "train"
    first: int = 0
    source: str = field(default="prior", metadata=path_field("prior"))
    settings: SynthesisSettings = field(default_factory=SynthesisSettings)
    rows_per_part: int = 100
    actors: int = 0
    cpus_per_actor: float = 0.8
    cluster_cpus: int = 0
    image_format: Literal["png", "jpeg"] = "png"
    store_maps: bool = True
    contact_sheet: int = 40
    progress_every_s: float = 30.0
    storage_options: dict[str, object] = field(default_factory=dict)
    storage_tries: int = 8

    def __post_init__(self) -> None:
        require(bool(self.output), "output", self.output, "a folder or URI")
        require(self.count >= 1, "count", self.count, "at least 1")
        require(self.first >= 0, "first", self.first, "0 or more")
        require(self.rows_per_part >= 1, "rows_per_part", self.rows_per_part, "at least 1")
        require(self.actors >= 0, "actors", self.actors, "0 or more")
        require(self.cluster_cpus >= 0, "cluster_cpus", self.cluster_cpus, "0 or more")
        require(0 < self.cpus_per_actor <= 64, "cpus_per_actor", self.cpus_per_actor, "more than 0 CPUs")
        require(self.contact_sheet >= 0, "contact_sheet", self.contact_sheet, "0 or more")
        require(self.progress_every_s > 0, "progress_every_s", self.progress_every_s, "more than 0 seconds")
        require(self.storage_tries >= 1, "storage_tries", self.storage_tries, "at least 1")
