"""Configuration of every job as frozen dataclasses; the only place where defaults live.

Imports neither torch nor ray, so that a mistake in a configuration is reported at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from raylib.errors import ConfigError

DetectorChoice = Literal["hog", "cnn", "hog_then_cnn"]


def _require(ok: bool, name: str, value: object, expected: str) -> None:
    if not ok:
        raise ConfigError(f"{name} is {value!r}, expected {expected}")


@dataclass(frozen=True)
class BuildPriorConfig:
    """Deriving the shipped face prior from ICT-FaceKit.

    Attributes:
        ict: ICT-FaceKit as an array file (.npz).
        licence: the licence file that came with it; its text is kept in the output.
        output: safetensors file to write.
        people: held-out faces on which the prior's error is measured.
        seed: of the held-out faces.
    """

    ict: str
    licence: str
    output: str = "raylib/weights/face_prior.safetensors"
    people: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        _require(self.people >= 1, "people", self.people, "at least one")


@dataclass(frozen=True)
class FaceSettings:
    """How faces are looked for in a photograph (`faces`).

    Attributes:
        detector: dlib's HOG + SVM detector, its CNN (MMOD), or HOG with up to two more looks where it finds
            nothing: at twice the size, which sees small faces, then the CNN, which sees side-lit and turned ones.
        detect_max_side: longer side in pixels to which larger photographs are reduced for HOG; the smallest face
            that it finds is about 80 pixels there.
        hog_upsample: how often HOG doubles the photograph first; once finds faces from 40 pixels, at four times
            the cost.
        hog_min_score: lowest score of a HOG detection; its false faces lie mostly below 0.2.
        cnn_max_side: longer side in pixels to which the photograph is brought, up or down, for the CNN.
        cnn_min_score: lowest score of a CNN detection.
        max_faces: the largest faces that are kept of an image.
        max_landmark_spread: a face whose landmarks move by more than this share of its size when the detection box
            moves by 8 % gets a row with an error instead of a mesh; mostly heads turned by 60 degrees or more.
    """

    detector: DetectorChoice = "hog_then_cnn"
    detect_max_side: int = 1280
    hog_upsample: int = 0
    hog_min_score: float = 0.2
    cnn_max_side: int = 480
    cnn_min_score: float = 0.6
    max_faces: int = 100
    max_landmark_spread: float = 0.06

    def __post_init__(self) -> None:
        _require(self.detect_max_side >= 80, "detect_max_side", self.detect_max_side, "at least 80 pixels")
        _require(0 <= self.hog_upsample <= 3, "hog_upsample", self.hog_upsample, "0 to 3")
        _require(self.cnn_max_side >= 80, "cnn_max_side", self.cnn_max_side, "at least 80 pixels")
        _require(self.max_faces >= 1, "max_faces", self.max_faces, "at least 1")
        _require(self.max_landmark_spread > 0, "max_landmark_spread", self.max_landmark_spread, "more than 0")


@dataclass(frozen=True)
class FitSettings:
    """How a linear face model is fitted to 68 landmarks (`fitting`).

    Attributes:
        alternations: how often the jaw landmarks choose their vertices; after each choice pose, identity and
            expression are solved for together.
        landmark_sigma_mm: standard deviation of a landmark about the model's vertex, in millimetres on the face.
        contour_sigma_mm: the same along the jaw line, where detectors place landmarks less surely than across it.
        expression_scale: mean of the exponential law of blendshape coefficients.
        size_sigma: standard deviation of the face's size about the model's, as a share. Tight, because one image
            shows size only through perspective, which differences between landmark definitions drown.
        outlier_sigmas: residuals beyond this many standard deviations count linearly (Huber's loss).
    """

    alternations: int = 2
    landmark_sigma_mm: float = 1.2
    contour_sigma_mm: float = 2.0
    expression_scale: float = 0.1
    size_sigma: float = 0.02
    outlier_sigmas: float = 2.5

    def __post_init__(self) -> None:
        _require(self.alternations >= 1, "alternations", self.alternations, "at least 1")
        for name in ("landmark_sigma_mm", "contour_sigma_mm", "expression_scale", "size_sigma", "outlier_sigmas"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "a positive number")


@dataclass(frozen=True)
class ReconstructConfig:
    """Bulk reconstruction: photographs in, one row and one mesh a face out.

    Attributes:
        input: folder or image file, local or any URI that fsspec reads (s3://bucket/portraits); folders are
            searched to every depth for image files.
        output: folder, local or URI, for faces/*.parquet, meshes/ and run.json. A folder that already holds rows of
            the same configuration is continued.
        method: how a face becomes a mesh; "landmarks" fits the morphable model to 68 landmarks.
        morphable_model: "prior" for the shipped face prior, or the path of a Surrey Face Model (.bin), Basel Face
            Model 2009 (.mat), 2017 or 2019 (.h5) or ICT-FaceKit (folder or .npz).
        faces: how faces are looked for.
        fit: how the model is fitted to landmarks.
        fov_deg: angle in degrees that the photograph's longer side is taken to see where its EXIF data do not tell.
        max_pixels: photographs with more pixels are refused (status too_large) before they are decoded.
        max_texture_px: largest side of a texture in pixels; a face that covers less of the photograph gets less.
        write_obj: write OBJ, MTL and texture PNG.
        write_glb: write GLB.
        write_preview: write a picture with landmarks, overlay and rendered views of each face.
        image_timeout_s: seconds after which an image is given up (status timeout).
        images_per_shard: images that one task takes and one Parquet file holds.
        detect_actors: processes that decode and detect; 0 for one a CPU.
        reconstruct_actors: processes that fit, colour and write; 0 for one to every two CPUs.
        cpus_per_actor: logical CPUs that Ray sets aside for each of these processes.
        storage_options: keyword arguments for the fsspec filesystem of input and output (endpoint_url, anon, ...).
    """

    input: str
    output: str
    method: Literal["landmarks"] = "landmarks"
    morphable_model: str = "prior"
    faces: FaceSettings = field(default_factory=FaceSettings)
    fit: FitSettings = field(default_factory=FitSettings)
    fov_deg: float = 30.0
    max_pixels: int = 100_000_000
    max_texture_px: int = 1024
    write_obj: bool = True
    write_glb: bool = True
    write_preview: bool = True
    image_timeout_s: float = 60.0
    images_per_shard: int = 16
    detect_actors: int = 0
    reconstruct_actors: int = 0
    cpus_per_actor: float = 0.4
    storage_options: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require(bool(self.input), "input", self.input, "a folder, file or URI")
        _require(bool(self.output), "output", self.output, "a folder or URI")
        _require(5 <= self.fov_deg <= 120, "fov_deg", self.fov_deg, "5 to 120 degrees")
        _require(self.max_pixels >= 1, "max_pixels", self.max_pixels, "at least 1")
        power = self.max_texture_px >= 128 and self.max_texture_px & (self.max_texture_px - 1) == 0
        _require(power, "max_texture_px", self.max_texture_px, "a power of two from 128")
        _require(self.image_timeout_s > 0, "image_timeout_s", self.image_timeout_s, "more than 0 seconds")
        _require(self.images_per_shard >= 1, "images_per_shard", self.images_per_shard, "at least 1")
        _require(self.detect_actors >= 0, "detect_actors", self.detect_actors, "0 or more")
        _require(self.reconstruct_actors >= 0, "reconstruct_actors", self.reconstruct_actors, "0 or more")
        _require(0 < self.cpus_per_actor <= 64, "cpus_per_actor", self.cpus_per_actor, "more than 0 CPUs")


@dataclass(frozen=True)
class BenchmarkReconstructConfig:
    """Timing the reconstruction job: a plain loop over its stages on one core, then the whole job on Ray.

    Attributes:
        input: folder of photographs, at least some dozens.
        work: folder for the results of the measured runs; must not exist.
        output: JSON file with every figure, machine, versions and commit; nothing is written if empty.
        images: photographs that the plain loop takes.
        detector: face detector; the CNN costs a second for each photograph that it looks at.
    """

    input: str
    work: str = "out/benchmark_reconstruct"
    output: str = "out/benchmark_reconstruct.json"
    images: int = 48
    detector: DetectorChoice = "hog"

    def __post_init__(self) -> None:
        _require(self.images >= 1, "images", self.images, "at least 1")


@dataclass(frozen=True)
class BenchmarkRenderConfig:
    """Timing our renderer against PyTorch3D, alternating in one process.

    Attributes:
        output: JSON file with every timing, machine, versions and commit; nothing is written if empty.
        sizes: edges of the pictures in pixels.
        faces_per_pixel: faces that the rasterisers keep per pixel; the largest is PyTorch3D's in soft pictures.
        levels: subdivisions of the hemisphere; 5 has 2113 vertices, 7 has 33025.
        threads: numbers of threads on the CPU.
        rounds: timings of ours in each case; the reference runs once in each of at most three rounds.
        max_reference_seconds: a case whose reference would take longer than this is timed on our side only.
        seed: of the roughness of the surface.
    """

    output: str = "out/benchmark_render.json"
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
            _require(len(values) > 0 and min(values) >= 1, name, values, "positive numbers")
        _require(max(self.faces_per_pixel) <= 255, "faces_per_pixel", self.faces_per_pixel, "at most 255")
        _require(self.rounds >= 1, "rounds", self.rounds, "at least 1")


@dataclass(frozen=True)
class BenchmarkPicturesConfig:
    """Drawing the pictures that show the renderer beside PyTorch3D, and self-shadow under eight lights.

    Attributes:
        output: folder of the pictures.
        size: edge of one picture in pixels.
    """

    output: str = "docs"
    size: int = 192

    def __post_init__(self) -> None:
        _require(self.size >= 32, "size", self.size, "at least 32 pixels")


@dataclass(frozen=True)
class BenchmarkYaleBConfig:
    """Relighting real faces: albedo from some photographs of Yale B, prediction of the others.

    Attributes:
        data: folder of the photographs, named with the light's azimuth and elevation (A+035E-20), any depth.
        output: JSON file with the figures; nothing is written if empty.
        picture: file for photographs beside predictions; nothing is written if empty.
    """

    data: str
    output: str = "out/benchmark_yale_b.json"
    picture: str = ""
