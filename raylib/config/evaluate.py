"""Settings of `jobs/evaluate.py shape` and `appearance`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from raylib.config.checks import require
from raylib.config.paths import path_field

BASELINES = ("landmarks", "sfm", "eos")
"""Methods that `--baselines` can run besides the mean face, which is always there."""


def _as_list(words: list[str] | str) -> list[str]:
    return [words] if isinstance(words, str) else list(words)


def _split(results: list[str]) -> dict[str, str]:
    """Returns folders by name from words like `ours=out/ours`; a bare folder is named after itself."""
    folders: dict[str, str] = {}
    for word in results:
        name, equals, folder = word.partition("=")
        if not equals:
            name, folder = word.rstrip("/").rsplit("/", 1)[-1], word
        require(bool(name and folder), "results", word, "a folder or NAME=FOLDER")
        require(name not in folders, "results", word, "every name once")
        folders[name] = folder
    return folders


@dataclass(frozen=True)
class FacesToJudge:
    """What both evaluations of reconstructions are told.

    Attributes:
        truth: known faces: folder or URI of jobs/synthesize.py's output; for shapes also a folder of OBJ and PLY
            files with .landmarks files beside them (docs/evaluation.md).
        out: folder for tables and pictures.
        results: reconstructions, each an output of jobs/reconstruct.py or a folder of meshes with .landmarks files;
            NAME=FOLDER gives the method's name in the tables.
        landmarks: what baselines and the pose of the mean face start from: `detected` by dlib in the pictures, or
            the `true` ones.
        landmark_noise_px: standard deviation of noise on true landmarks, pixels.
        fov_deg: field of view in degrees that baselines assume, like jobs/reconstruct.py; 0 takes the true focal
            length.
        max_faces: evaluate at most so many faces, 0 for all.
        resamples: number of bootstrap samples over faces for the 95 % intervals.
        pictures: draw pictures beside the tables.
        worst: number of the worst cases of each method to draw.
        seed: whole number from which noise and bootstrap follow.
        threads: processor threads; 0 leaves the choice to PyTorch.
        storage_options: arguments of the fsspec filesystem of a remote truth and remote results.
    """

    truth: str = field(metadata=path_field())
    out: str = field(metadata=path_field(output=True))
    results: list[str] | str = field(default_factory=list, metadata=path_field(named=True))
    landmarks: Literal["detected", "true"] = "detected"
    landmark_noise_px: float = 0.0
    fov_deg: float = 30.0
    max_faces: int = 0
    resamples: int = 1000
    pictures: bool = True
    worst: int = 4
    seed: int = 0
    threads: int = 0
    storage_options: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "results", _as_list(self.results))
        require(bool(self.truth), "truth", self.truth, "a folder")
        require(bool(self.out), "out", self.out, "a folder")
        _split(self.results)  # type: ignore[arg-type]
        require(self.landmark_noise_px >= 0, "landmark_noise_px", self.landmark_noise_px, "0 or more pixels")
        noisy = self.landmark_noise_px > 0 and self.landmarks == "detected"
        require(not noisy, "landmark_noise_px", self.landmark_noise_px, "0 with detected landmarks")
        require(self.fov_deg == 0 or 5 <= self.fov_deg <= 120, "fov_deg", self.fov_deg, "0, or 5 to 120 degrees")
        require(self.max_faces >= 0, "max_faces", self.max_faces, "at least 0")
        require(self.resamples >= 1, "resamples", self.resamples, "at least 1")
        require(self.worst >= 0, "worst", self.worst, "at least 0")

    @property
    def result_folders(self) -> dict[str, str]:
        """The folders of reconstructions by the method's name."""
        return _split(list(self.results))


@dataclass(frozen=True)
class EvaluateShapeConfig(FacesToJudge):
    """`jobs/evaluate.py shape`: how well reconstructed faces agree with known ones.

    Attributes:
        baselines: methods to run on the truth's pictures: any of landmarks (the shipped prior fitted to landmarks),
            sfm (the same with the Surrey Face Model) and eos (the eos library with it), or "all"; the mean face is
            always there.
        sfm: path of sfm_shape_3448.bin with its companions beside it, for the baselines that need it.
        align: lay each reconstruction onto the truth; false measures it where it stands, in the truth's frame.
        scan_points: number of points that are spread over a synthetic face to measure from; a scan is used as it is.
    """

    baselines: list[str] | str = field(default_factory=list)
    sfm: str = field(default="", metadata=path_field())
    align: bool = True
    scan_points: int = 5000

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "baselines", _as_list(self.baselines))
        for name in self.baselines:
            require(name in (*BASELINES, "all"), "baselines", name, f"all, or some of {', '.join(BASELINES)}")
            needs = name in ("sfm", "eos") and not self.sfm
            require(not needs, "sfm", self.sfm, f"the path of sfm_shape_3448.bin for the baseline {name}")
        require(self.scan_points >= 100, "scan_points", self.scan_points, "at least 100")

    @property
    def chosen_baselines(self) -> tuple[str, ...]:
        """The baselines to run, in a fixed order; "all" leaves out what needs a path that is not given."""
        possible = [name for name in BASELINES if name == "landmarks" or self.sfm]
        return tuple(name for name in possible if name in self.baselines or "all" in self.baselines)


@dataclass(frozen=True)
class EvaluateAppearanceConfig(FacesToJudge):
    """`jobs/evaluate.py appearance`: how well reconstructed albedo and light agree with known ones.

    Attributes:
        lpips: AlexNet's weights for LPIPS: "torchvision", which downloads them once, or a file of them (.pth, .pt or
            .safetensors); the distance is left out without.
        self_shadow: whether reconstructions cast shadows on themselves when they are lit.
    """

    lpips: str = field(default="", metadata=path_field())
    self_shadow: bool = True


@dataclass(frozen=True)
class EvaluatePicturesConfig:
    """`jobs/evaluate.py pictures`: the pictures of synthetic faces as files, for reconstructing programs.

    Attributes:
        truth: output of jobs/synthesize.py.
        out: folder for the pictures, each named after its seed.
        storage_options: arguments of the fsspec filesystem of a remote truth.
    """

    truth: str = field(metadata=path_field())
    out: str = field(metadata=path_field(output=True))
    storage_options: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(bool(self.truth), "truth", self.truth, "a folder")
        require(bool(self.out), "out", self.out, "a folder")
