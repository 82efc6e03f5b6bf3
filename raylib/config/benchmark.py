"""Settings of `jobs/benchmark.py`."""

from __future__ import annotations

from dataclasses import dataclass, field

from raylib.config.checks import require
from raylib.config.paths import path_field
from raylib.config.reconstruct import DetectorChoice


@dataclass(frozen=True)
class BenchmarkPicturesConfig:
    """Drawing the pictures that show the renderer beside PyTorch3D, and self-shadow under eight lights.

    Attributes:
        output: folder of the pictures.
        size: edge of one picture in pixels.
    """

    output: str = field(default="docs", metadata=path_field(output=True))
    size: int = 192

    def __post_init__(self) -> None:
        require(self.size >= 32, "size", self.size, "at least 32 pixels")


@dataclass(frozen=True)
class BenchmarkReconstructConfig:
    """Timing the reconstruction job: a plain loop over its stages on one core, and the whole job on Ray.

    Attributes:
        input: folder of photographs; if empty, as many as needed are made of the demonstration's portrait.
        work: folder for the results of the measured runs; must not exist.
        output: JSON file with every figure, machine, versions and commit; nothing is written if empty.
        images: number of photographs that are timed; 16 more warm up.
        actors: detecting and meshing processes, and cores, of the run that is compared with one of each on one core.
        rounds: how often everything is timed in turn; medians count.
        detector: face detector; the CNN costs a second for each photograph that it looks at.
    """

    input: str = field(default="", metadata=path_field())
    work: str = field(default="out/benchmark_reconstruct", metadata=path_field(output=True))
    output: str = field(default="out/benchmark_reconstruct.json", metadata=path_field(output=True))
    images: int = 240
    actors: int = 2
    rounds: int = 3
    detector: DetectorChoice = "hog"

    def __post_init__(self) -> None:
        for name in ("images", "actors", "rounds"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")


@dataclass(frozen=True)
class BenchmarkBucketConfig:
    """The reconstruction job over a bucket of empty images, of which a server on loopback invents the listing.

    Attributes:
        work: folder for the results of the run; must not exist.
        output: JSON file with every figure, machine, versions and commit; nothing is written if empty.
        images: number of keys in the bucket.
        images_per_shard: images that one task of the job takes.
    """

    work: str = field(default="out/benchmark_bucket", metadata=path_field(output=True))
    output: str = field(default="out/benchmark_bucket.json", metadata=path_field(output=True))
    images: int = 200_000
    images_per_shard: int = 256

    def __post_init__(self) -> None:
        require(self.images >= 1, "images", self.images, "at least 1")
        require(self.images_per_shard >= 1, "images_per_shard", self.images_per_shard, "at least 1")


@dataclass(frozen=True)
class BenchmarkRenderConfig:
    """Timing our renderer against PyTorch3D, alternating in one process.

    Attributes:
        output: JSON file with every timing, machine, versions and commit; nothing is written if empty.
        sizes: edges of the pictures, pixels.
        faces_per_pixel: faces that the rasterisers keep per pixel; the largest is PyTorch3D's in soft pictures.
        levels: numbers of subdivisions of the hemisphere; 5 has 2113 vertices, 7 has 33025.
        threads: numbers of threads on the CPU.
        rounds: timings of ours in each case; the reference runs once in each of at most three rounds.
        max_reference_seconds: a case whose reference would take more seconds than this is timed on our side only.
        seed: whole number from which the roughness of the surface follows.
    """

    output: str = field(default="out/benchmark_render.json", metadata=path_field(output=True))
    sizes: tuple[int, ...] = (64, 128, 256, 512)
    faces_per_pixel: tuple[int, ...] = (1, 8, 50)
    levels: tuple[int, ...] = (5, 7)
    threads: tuple[int, ...] = (1, 2)
    rounds: int = 9
    max_reference_seconds: float = 30.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("sizes", "faces_per_pixel", "levels", "threads"):
            values = getattr(self, name)
            require(len(values) > 0 and min(values) >= 1, name, values, "positive numbers")
        require(max(self.faces_per_pixel) <= 255, "faces_per_pixel", self.faces_per_pixel, "at most 255")
        require(self.rounds >= 1, "rounds", self.rounds, "at least 1")


@dataclass(frozen=True)
class BenchmarkStagesConfig:
    """Comparing finished trainings of MeshNet, the stages of the paper's loss.

    Attributes:
        runs: result folders of jobs/train_meshnet.py, in the order of the table.
        picture: file for faces beside what each network makes of them; nothing is drawn if empty.
        output: JSON file with the figures; nothing is written if empty.
    """

    runs: tuple[str, ...] = field(metadata=path_field())
    picture: str = field(default="", metadata=path_field(output=True))
    output: str = field(default="out/benchmark_stages.json", metadata=path_field(output=True))

    def __post_init__(self) -> None:
        require(len(self.runs) > 0, "runs", self.runs, "at least one folder")


@dataclass(frozen=True)
class BenchmarkTrainConfig:
    """Timing a training step of MeshNet against the same step on stock PyTorch3D, on one thread of the CPU.

    Attributes:
        output: JSON file with the figures; nothing is written if empty.
        size: edge of the pictures in pixels; the paper's experiments ran at 64.
        images: numbers of pictures of a step; the paper's had one.
        faces_per_pixel: that PyTorch3D keeps; its examples of soft rendering keep 50, ours always blends all.
        rounds: number of steps on PyTorch3D, of some seconds each.
        ours_per_round: number of our steps beside each of them.
    """

    output: str = field(default="out/benchmark_train.json", metadata=path_field(output=True))
    size: int = 64
    images: tuple[int, ...] = (1, 8)
    faces_per_pixel: int = 50
    rounds: int = 3
    ours_per_round: int = 8

    def __post_init__(self) -> None:
        require(self.size >= 46, "size", self.size, "at least 46 pixels")
        require(len(self.images) > 0 and min(self.images) >= 1, "images", self.images, "positive numbers")
        for name in ("faces_per_pixel", "rounds", "ours_per_round"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")


@dataclass(frozen=True)
class BenchmarkYaleBConfig:
    """Relighting real faces: albedo from some photographs of Yale B, prediction of the others.

    Attributes:
        data: folder of the photographs, named with the light's azimuth and elevation (A+035E-20), any depth.
        output: JSON file with the figures; nothing is written if empty.
        picture: file for photographs beside predictions; nothing is written if empty.
    """

    data: str = field(metadata=path_field())
    output: str = field(default="out/benchmark_yale_b.json", metadata=path_field(output=True))
    picture: str = field(default="", metadata=path_field(output=True))
