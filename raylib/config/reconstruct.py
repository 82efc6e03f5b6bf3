"""Settings of `jobs/reconstruct.py`, and the statuses of its rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from raylib.config.checks import require
from raylib.config.paths import path_field

DetectorChoice = Literal["hog", "cnn", "hog_then_cnn"]
Privacy = Literal["none", "no_pixels", "landmarks_only"]

STATUSES = (
    "ok",
    "no_face",
    "low_quality",
    "decode_error",
    "too_large",
    "timeout",
    "out_of_memory",
    "native_crash",
    "error",
)
"""Values of a row's `status`; all but the first three are failures."""
FAILED = STATUSES[3:]

REPLACED = {
    "max_landmark_spread": "is no longer an option; faces.min_quality (0 to 1) judges a face by landmarks and more"
}
"""Options of earlier versions, and what to say to who gives one."""


@dataclass(frozen=True)
class FaceSearchSettings:
    """How faces are looked for in a photograph (`faces`).

    Attributes:
        detector: dlib's HOG + SVM detector, its CNN (MMOD), or HOG with up to two more looks where it finds
            nothing: at twice the size, which sees small faces, then the CNN, which sees side-lit and turned ones.
        detect_max_side: longer side in pixels to which larger photographs are reduced for HOG; the smallest face
            that it finds is about 80 pixels there.
        hog_upsample: how often HOG doubles the photograph first; once finds faces from 40 pixels, at four times
            the cost.
        hog_min_score: lowest score of a HOG detection, without unit; its false faces lie mostly below 0.2.
        search_megapixels: millions of pixels that the finest look at a photograph may have, at some 0.1 s each.
            Where faces from 40 pixels of the photograph would need more, the smallest face that is found grows;
            0 looks at the whole only.
        any_roll: look for tilted faces too, where none beyond doubt was found upright and in all larger pictures.
        cnn_max_side: longer side in pixels to which the photograph is brought, up or down, for the CNN.
        cnn_min_score: lowest score of a CNN detection, without unit.
        max_faces: how many faces are kept of an image, the largest.
    """

    detector: DetectorChoice = "hog_then_cnn"
    detect_max_side: int = 1280
    hog_upsample: int = 0
    hog_min_score: float = 0.2
    search_megapixels: float = 32.0
    any_roll: bool = True
    cnn_max_side: int = 480
    cnn_min_score: float = 0.6
    max_faces: int = 100

    def __post_init__(self) -> None:
        require(self.detect_max_side >= 80, "detect_max_side", self.detect_max_side, "at least 80 pixels")
        require(0 <= self.hog_upsample <= 3, "hog_upsample", self.hog_upsample, "0 to 3")
        require(self.search_megapixels >= 0, "search_megapixels", self.search_megapixels, "0 or more megapixels")
        require(self.cnn_max_side >= 80, "cnn_max_side", self.cnn_max_side, "at least 80 pixels")
        require(self.max_faces >= 1, "max_faces", self.max_faces, "at least 1")


@dataclass(frozen=True)
class FaceSettings(FaceSearchSettings):
    """How faces are looked for in a photograph, and which of them get a mesh (`faces`).

    Attributes:
        min_quality: a face whose reconstruction is right with less than this probability (column quality) gets a
            row with status low_quality and no mesh: drawings, halves of faces, heads turned by 60 degrees or more;
            0 makes a mesh of everything.
    """

    min_quality: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.min_quality <= 1, "min_quality", self.min_quality, "a probability from 0 to 1")


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
        require(self.alternations >= 1, "alternations", self.alternations, "at least 1")
        for name in ("landmark_sigma_mm", "contour_sigma_mm", "expression_scale", "size_sigma", "outlier_sigmas"):
            require(getattr(self, name) > 0, name, getattr(self, name), "a positive number")


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
        method: how a face becomes a mesh; "meshnet" corrects a fit of the shipped prior to 68 landmarks by a network
            that also sees albedo, light and uncertainty, "landmarks" fits any morphable model and leaves it there,
            "meshnet_paper" is the paper's network, which has no face model and cannot be refined. Networks need
            segment.
        meshnet_weights: file that jobs/train_meshnet.py wrote; method meshnet takes the shipped one by default.
        refine: steps by which pose, shape, albedo and light of each face follow what a rendering differs from the
            photograph; 30 cost about 0.8 s a face on one core. 0 leaves the method's estimate as it is.
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
        write_report: write report.html, a page to look at the run (see jobs/report.py), when it is done.
        image_timeout_s: seconds after which an image is given up (status timeout).
        image_memory_gb: GiB that decoding an image and finding its faces may take (status out_of_memory, or
            native_crash where a library ends its process over it); 0 for no limit.
        storage_tries: how often a read, write or listing is tried where the error may pass, with pauses of 0.5 s
            that double up to 30 s; 8 wait for half a minute to a minute in all. Nothing below tries again.
        read_timeout_s: seconds after which reading a file or a page of a listing is given up, all tries together
            (status timeout, stage read).
        stall_timeout_s: seconds without an answer or a further byte after which a try to read is given up; of them
            10 at most to connect.
        images_per_shard: images that one task takes and one Parquet file holds.
        detect_actors: processes that decode and detect; 0 for one a CPU.
        reconstruct_actors: processes that label, fit, colour and write; 0 for one a CPU.
        cpus_per_actor: logical CPUs that Ray sets aside for each of these processes.
        gpus_per_actor: share of a GPU that each process of the second kind takes for its networks; 0 for none.
        cluster_cpus: CPUs that the cluster may grow to where an autoscaler adds machines; 0 for those that it has.
        progress_every_s: seconds between lines of progress where output is no terminal.
        storage_options: keyword arguments for the fsspec filesystem of input and output (endpoint_url, anon, ...).
    """

    input: list[str] | str = field(metadata=path_field())
    output: str = field(metadata=path_field(output=True))
    include: list[str] | str = field(default_factory=list)
    exclude: list[str] | str = field(default_factory=list)
    manifest_column: str = "image_uri"
    retry: list[str] | str = field(default_factory=list)
    privacy: Privacy = "none"
    hide_names: bool = False
    max_failed_fraction: float = 1.0
    method: Literal["landmarks", "meshnet", "meshnet_paper"] = "meshnet"
    meshnet_weights: str = field(default="", metadata=path_field())
    refine: int = 0
    morphable_model: str = field(default="prior", metadata=path_field("prior"))
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
    write_report: bool = True
    image_timeout_s: float = 60.0
    image_memory_gb: float = 4.0
    images_per_shard: int = 16
    detect_actors: int = 0
    reconstruct_actors: int = 0
    cpus_per_actor: float = 0.4
    gpus_per_actor: float = 0.0
    cluster_cpus: int = 0
    progress_every_s: float = 30.0
    storage_options: dict[str, object] = field(default_factory=dict, repr=False)
    storage_tries: int = 8
    read_timeout_s: float = 120.0
    stall_timeout_s: float = 20.0

    def __post_init__(self) -> None:
        for name in ("include", "exclude", "retry"):
            value = getattr(self, name)
            object.__setattr__(self, name, [value] if isinstance(value, str) else list(value))
        if len(self.inputs) == 1:
            object.__setattr__(self, "input", self.inputs[0])
        require(
            bool(self.inputs) and all(self.inputs), "input", self.input, "a folder, file or URI, or a list of them"
        )
        for status in self.retry:
            require(status in (*STATUSES, "failed"), "retry", status, f"failed or one of {', '.join(STATUSES)}")
        fraction = 0 <= self.max_failed_fraction <= 1
        require(fraction, "max_failed_fraction", self.max_failed_fraction, "a share from 0 to 1")
        require(bool(self.output), "output", self.output, "a folder or URI")
        require(5 <= self.fov_deg <= 120, "fov_deg", self.fov_deg, "5 to 120 degrees")
        require(self.max_pixels >= 1, "max_pixels", self.max_pixels, "at least 1")
        power = self.max_texture_px >= 128 and self.max_texture_px & (self.max_texture_px - 1) == 0
        require(power, "max_texture_px", self.max_texture_px, "a power of two from 128")
        require(self.image_timeout_s > 0, "image_timeout_s", self.image_timeout_s, "more than 0 seconds")
        require(self.image_memory_gb >= 0, "image_memory_gb", self.image_memory_gb, "0 or more GiB")
        require(self.storage_tries >= 1, "storage_tries", self.storage_tries, "at least 1")
        require(self.read_timeout_s > 0, "read_timeout_s", self.read_timeout_s, "more than 0 seconds")
        require(self.stall_timeout_s > 0, "stall_timeout_s", self.stall_timeout_s, "more than 0 seconds")
        require(self.progress_every_s > 0, "progress_every_s", self.progress_every_s, "more than 0 seconds")
        require(self.images_per_shard >= 1, "images_per_shard", self.images_per_shard, "at least 1")
        require(self.detect_actors >= 0, "detect_actors", self.detect_actors, "0 or more")
        require(self.reconstruct_actors >= 0, "reconstruct_actors", self.reconstruct_actors, "0 or more")
        require(self.refine >= 0, "refine", self.refine, "0 or more steps")
        if self.method != "landmarks":
            require(
                self.segment,
                "segment",
                self.segment,
                f"true: method {self.method} sees the label map too; method landmarks does without",
            )
        if self.method == "meshnet":
            prior = self.morphable_model == "prior"
            require(
                prior,
                "morphable_model",
                self.morphable_model,
                "prior, whose fits method meshnet corrects; other models need method landmarks",
            )
        if self.method == "meshnet_paper":
            require(bool(self.meshnet_weights), "meshnet_weights", "", "a file that jobs/train_meshnet.py wrote")
            require(self.refine == 0, "refine", self.refine, "0 with method meshnet_paper, which has no face model")
        require(self.segment or not self.write_labels, "write_labels", self.write_labels, "false without segment")
        require(0 < self.cpus_per_actor <= 64, "cpus_per_actor", self.cpus_per_actor, "more than 0 CPUs")
        require(0 <= self.gpus_per_actor <= 1, "gpus_per_actor", self.gpus_per_actor, "a share from 0 to 1")
        require(self.cluster_cpus >= 0, "cluster_cpus", self.cluster_cpus, "0 or more")

    @property
    def inputs(self) -> list[str]:
        """The inputs as a list."""
        return [self.input] if isinstance(self.input, str) else list(self.input)

    @property
    def retried(self) -> frozenset[str]:
        """The statuses whose rows are done again."""
        return frozenset(self.retry) - {"failed"} | (frozenset(FAILED) if "failed" in self.retry else frozenset())
