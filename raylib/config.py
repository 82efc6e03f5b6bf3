"""Configuration of every job as frozen dataclasses; the only place where defaults live.

Imports neither torch nor ray, so that a mistake in a configuration is reported at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from raylib.errors import ConfigError

DetectorChoice = Literal["hog", "cnn", "hog_then_cnn"]
Privacy = Literal["none", "no_pixels", "landmarks_only"]

STATUSES = (
    "ok",
    "no_face",
    "decode_error",
    "too_large",
    "timeout",
    "out_of_memory",
    "native_crash",
    "error",
)
"""Values of a row's `status`; all but the first two are failures."""
FAILED = STATUSES[2:]


def _require(ok: bool, name: str, value: object, expected: str) -> None:
    if not ok:
        raise ConfigError(f"{name} is {value!r}, expected {expected}")


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
class EvaluateSegmentationConfig:
    """`jobs/evaluate.py segmentation`: how well label maps agree with labelled photographs.

    Attributes:
        out: folder for `segmentation.json`, `segmentation.md` and the contact sheet.
        data: labelled photographs.
        split: which of them: `test`, `validation`, `train` or `all`.
        weights: weights file; the shipped one by default.
        framing: what the network sees: the whole `photo`, or the `face_crop` that the reconstruction job would make
            of it (photographs where no face is found are left out and counted).
        occlusion: share of the face's pixels to cover with a synthetic occluder, 0 for none.
        boundary_tolerance: how far outlines may lie apart in boundary F1, as a share of the picture's diagonal.
        resamples: bootstrap samples over images for the 95 % confidence intervals.
        max_images: evaluate at most so many photographs of each set, 0 for all.
        device: where the network runs.
        threads: processor threads of the network; 0 leaves the choice to PyTorch.
        seed: of occluders and of the bootstrap.
    """

    out: str
    data: SegmentationData = field(default_factory=lambda: SegmentationData())
    split: Literal["train", "validation", "test", "all"] = "test"
    weights: str | None = None
    framing: Literal["photo", "face_crop"] = "photo"
    occlusion: float = 0.0
    boundary_tolerance: float = 0.0075
    resamples: int = 1000
    max_images: int = 0
    device: str = "cpu"
    threads: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        _require(0 <= self.occlusion <= 0.5, "occlusion", self.occlusion, "a share from 0 to 0.5")
        _require(
            0 < self.boundary_tolerance < 0.1, "boundary_tolerance", self.boundary_tolerance, "a share below 0.1"
        )
        _require(self.resamples >= 1, "resamples", self.resamples, "at least 1")
        _require(self.max_images >= 0, "max_images", self.max_images, "at least 0")


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
        input: folder or image file, local or any URI that fsspec reads (s3://bucket/portraits), or a list of them;
            folders are searched to every depth for image files. A name that ends in .parquet, .csv or .txt is a
            manifest: a list of paths or URIs, relative ones seen from its folder, a text file with one a line.
        output: folder, local or URI, for faces/*.parquet, meshes/ and run.json. A folder that already holds rows of
            the same configuration is continued.
        include: pattern or list of patterns (*.jpg), of which an image's path below its input must match one; `*`
            matches slashes too.
        exclude: pattern or list of patterns that it must not match.
        manifest_column: column of a Parquet or CSV manifest that holds the paths.
        retry: statuses of earlier rows to do again, or "failed" for all failures; nothing by default.
        privacy: "no_pixels" keeps the photograph out of the output: no preview, plain grey textures, no vertex
            colours; "landmarks_only" keeps boxes and landmarks and makes no mesh.
        hide_names: name images by the SHA-256 of their URI, and keep inputs and error details, which may hold
            names, out of the output.
        max_failed_fraction: exit with status 1 if a larger share of all images in the output failed.
        method: how a face becomes a mesh; "landmarks" fits the morphable model to 68 landmarks.
        morphable_model: "prior" for the shipped face prior, or the path of a Surrey Face Model (.bin), Basel Face
            Model 2009 (.mat), 2017 or 2019 (.h5) or ICT-FaceKit (folder or .npz).
        faces: how faces are looked for.
        fit: how the model is fitted to landmarks.
        fov_deg: angle in degrees that the photograph's longer side is taken to see where its EXIF data do not tell.
        segment: label hair, skin, eyes, nose, mouth and what covers them with the shipped U-Net, and leave out of the
            colours what is not face.
        max_pixels: photographs with more pixels are refused (status too_large) before they are decoded.
        max_texture_px: largest side of a texture in pixels; a face that covers less of the photograph gets less.
        write_obj: write OBJ, MTL and texture PNG.
        write_glb: write GLB.
        write_labels: write the label map of each face's aligned crop, in FASSEG's colours; needs segment.
        write_preview: write a picture with landmarks, overlay and rendered views of each face.
        image_timeout_s: seconds after which an image is given up (status timeout).
        image_memory_gb: GiB that decoding an image and finding its faces may take (status out_of_memory, or
            native_crash where a library ends its process over it); 0 for no limit.
        storage_tries: how often a read, write or listing is tried where the error may pass, with pauses of 0.5 s
            that double up to 30 s; 7 wait for half a minute in all.
        images_per_shard: images that one task takes and one Parquet file holds.
        detect_actors: processes that decode and detect; 0 for one a CPU.
        reconstruct_actors: processes that label, fit, colour and write; 0 for one a CPU.
        cpus_per_actor: logical CPUs that Ray sets aside for each of these processes.
        progress_every_s: seconds between lines of progress where output is no terminal.
        storage_options: keyword arguments for the fsspec filesystem of input and output (endpoint_url, anon, ...).
    """

    input: list[str] | str
    output: str
    include: list[str] | str = field(default_factory=list)
    exclude: list[str] | str = field(default_factory=list)
    manifest_column: str = "image_uri"
    retry: list[str] | str = field(default_factory=list)
    privacy: Privacy = "none"
    hide_names: bool = False
    max_failed_fraction: float = 1.0
    method: Literal["landmarks"] = "landmarks"
    morphable_model: str = "prior"
    faces: FaceSettings = field(default_factory=FaceSettings)
    fit: FitSettings = field(default_factory=FitSettings)
    fov_deg: float = 30.0
    segment: bool = True
    max_pixels: int = 100_000_000
    max_texture_px: int = 1024
    write_obj: bool = True
    write_glb: bool = True
    write_labels: bool = False
    write_preview: bool = True
    image_timeout_s: float = 60.0
    image_memory_gb: float = 4.0
    images_per_shard: int = 16
    detect_actors: int = 0
    reconstruct_actors: int = 0
    cpus_per_actor: float = 0.4
    progress_every_s: float = 30.0
    storage_options: dict[str, object] = field(default_factory=dict)
    storage_tries: int = 7

    def __post_init__(self) -> None:
        for name in ("include", "exclude", "retry"):
            value = getattr(self, name)
            object.__setattr__(self, name, [value] if isinstance(value, str) else list(value))
        _require(
            bool(self.inputs) and all(self.inputs), "input", self.input, "a folder, file or URI, or a list of them"
        )
        for status in self.retry:
            _require(status in (*STATUSES, "failed"), "retry", status, f"failed or one of {', '.join(STATUSES)}")
        fraction = 0 <= self.max_failed_fraction <= 1
        _require(fraction, "max_failed_fraction", self.max_failed_fraction, "a share from 0 to 1")
        _require(bool(self.output), "output", self.output, "a folder or URI")
        _require(5 <= self.fov_deg <= 120, "fov_deg", self.fov_deg, "5 to 120 degrees")
        _require(self.max_pixels >= 1, "max_pixels", self.max_pixels, "at least 1")
        power = self.max_texture_px >= 128 and self.max_texture_px & (self.max_texture_px - 1) == 0
        _require(power, "max_texture_px", self.max_texture_px, "a power of two from 128")
        _require(self.image_timeout_s > 0, "image_timeout_s", self.image_timeout_s, "more than 0 seconds")
        _require(self.image_memory_gb >= 0, "image_memory_gb", self.image_memory_gb, "0 or more GiB")
        _require(self.storage_tries >= 1, "storage_tries", self.storage_tries, "at least 1")
        _require(self.progress_every_s > 0, "progress_every_s", self.progress_every_s, "more than 0 seconds")
        _require(self.images_per_shard >= 1, "images_per_shard", self.images_per_shard, "at least 1")
        _require(self.detect_actors >= 0, "detect_actors", self.detect_actors, "0 or more")
        _require(self.reconstruct_actors >= 0, "reconstruct_actors", self.reconstruct_actors, "0 or more")
        _require(self.segment or not self.write_labels, "write_labels", self.write_labels, "false without segment")
        _require(0 < self.cpus_per_actor <= 64, "cpus_per_actor", self.cpus_per_actor, "more than 0 CPUs")

    @property
    def inputs(self) -> list[str]:
        """The inputs as a list."""
        return [self.input] if isinstance(self.input, str) else list(self.input)

    @property
    def retried(self) -> frozenset[str]:
        """The statuses whose rows are done again."""
        return frozenset(self.retry) - {"failed"} | (frozenset(FAILED) if "failed" in self.retry else frozenset())


@dataclass(frozen=True)
class SegmentationData:
    """Folders of labelled photographs and which of them are kept from training.

    Attributes:
        fasseg: FASSEG folder with V1, V2 or V3 in it.
        fasseg_versions: which of them.
        celebamask: CelebAMask-HQ folder, palette masks or the authors' layout.
        helen: HELEN with the masks of Smith et al. 2013; its own lists say what is tuning and testing.
        fasseg_test: persons of FASSEG that only the test split shows.
        fasseg_validation: persons of FASSEG for validation while training.
        celebamask_test: CelebAMask photographs in the test split, the first in order of name.
        celebamask_validation: as many after them for validation.
    """

    fasseg: str | None = None
    fasseg_versions: tuple[str, ...] = ("V2", "V3")
    celebamask: str | None = None
    helen: str | None = None
    fasseg_test: tuple[str, ...] = ("V3/06", "V3/07")
    fasseg_validation: tuple[str, ...] = ()
    celebamask_test: int = 100
    celebamask_validation: int = 50

    def __post_init__(self) -> None:
        both = set(self.fasseg_test) & set(self.fasseg_validation)
        _require(not both, "fasseg_validation", sorted(both), "persons that are not in fasseg_test")
        for name in ("celebamask_test", "celebamask_validation"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")


@dataclass(frozen=True)
class TrainStage:
    """Some epochs at one picture size.

    Attributes:
        size_px: side of the training pictures.
        epochs: at this size.
        augmentation: how strongly pictures vary: 1 as designed, 0 no change but the fit to the size. Weaker last
            epochs settle on pictures like those that will be seen.
    """

    size_px: int
    epochs: int
    augmentation: float = 1.0

    def __post_init__(self) -> None:
        _require(self.size_px >= 16, "size_px", self.size_px, "at least 16")
        _require(self.epochs >= 1, "epochs", self.epochs, "at least 1")
        _require(0 <= self.augmentation <= 2, "augmentation", self.augmentation, "a number from 0 to 2")


@dataclass(frozen=True)
class TrainUnetConfig:
    """`jobs/train_unet.py`: the face segmentation network on Ray Train.

    Attributes:
        name: of the run; the same name in the same storage resumes it.
        storage_path: folder or s3:// address for checkpoints.
        out: local folder for the results: weights, curves, contact sheet, resolved configuration.
        data: labelled photographs.
        widths: channels per level of the U-Net, from full resolution downwards.
        norm: what follows each convolution: `group`, `batch` or `none`.
        stages: picture sizes in turn, small ones first: most of the learning is cheap there.
        batch_size: photographs per step and worker.
        learning_rate: peak of the schedule (linear rise, half a cosine to nothing) of AdamW.
        warmup_steps: steps of the rise.
        weight_decay: of AdamW.
        ema_decay: of the moving average of the weights, which is what is validated and kept.
        fasseg_repeat: how often an epoch shows each FASSEG photograph, the scarcer set.
        input_px: side to which inference brings a face crop; the last stage's size by default.
        init_weights: weights file to start from.
        precision: `float32`, `bfloat16`, or `auto`: bfloat16 on a GPU that has it and on a CPU with AMX.
        num_workers: Ray Train workers.
        use_gpu: one GPU per worker (NCCL) instead of processor cores (gloo).
        cpus_per_worker: logical cores that a worker reserves; below one leaves room for Ray's own tasks.
        threads_per_worker: processor threads of a worker's network.
        max_failures: how often a worker may die before the run fails; it goes on from the last checkpoint.
        keep_checkpoints: the best and the last are always among them.
        checkpoint_epochs: epochs between checkpoints and validations.
        cache_px: side at which photographs wait in memory, decoded.
        seed: of everything random.
    """

    name: str
    storage_path: str
    out: str
    data: SegmentationData = field(default_factory=SegmentationData)
    widths: tuple[int, ...] = (16, 32, 64, 96, 160, 224)
    norm: Literal["group", "batch", "none"] = "group"
    stages: tuple[TrainStage, ...] = (TrainStage(128, 30), TrainStage(160, 23, 0.5), TrainStage(192, 13, 0.4))
    batch_size: int = 8
    learning_rate: float = 2e-3
    warmup_steps: int = 200
    weight_decay: float = 0.01
    ema_decay: float = 0.998
    fasseg_repeat: int = 2
    input_px: int | None = None
    init_weights: str | None = None
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    num_workers: int = 1
    use_gpu: bool = False
    cpus_per_worker: float = 0.5
    threads_per_worker: int = 1
    max_failures: int = 3
    keep_checkpoints: int = 2
    checkpoint_epochs: int = 1
    cache_px: int = 320
    seed: int = 0

    def __post_init__(self) -> None:
        _require(bool(self.name) and "/" not in self.name, "name", self.name, "a word without a slash")
        _require(len(self.widths) >= 2, "widths", list(self.widths), "at least two levels")
        _require(len(self.stages) >= 1, "stages", list(self.stages), "at least one")
        for name in ("batch_size", "warmup_steps", "fasseg_repeat", "num_workers", "threads_per_worker",
                     "keep_checkpoints", "checkpoint_epochs", "cache_px"):  # fmt: skip
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("learning_rate", "cpus_per_worker"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "a positive number")
        _require(0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "a number from 0 to below 1")

    @property
    def epochs(self) -> int:
        """Epochs of the whole run."""
        return sum(stage.epochs for stage in self.stages)
