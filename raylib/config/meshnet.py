"""Settings of `jobs/train_meshnet.py`: a class for each network, with the options that its training reads."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import ClassVar, Literal

from raylib.config.checks import require
from raylib.config.choice import Choice
from raylib.config.face_meshnet import FaceMeshNetSettings
from raylib.config.paths import path_field
from raylib.config.reconstruct import FaceSearchSettings
from raylib.config.segmentation import SegmentationData
from raylib.config.training import TrainRun

Network = Literal["meshnet", "meshnet_paper", "babymeshnet"]


@dataclass(frozen=True)
class MeshnetData:
    """The faces that a mesh network learns from; each source adds to the others (`data`).

    Attributes:
        rendered: number of faces rendered from the shipped prior, with random identity, pose, light and colours.
        labelled: photographs with labels of their own; its validation and test parts are kept from training. Without
            any folder this source is empty.
        photos: folder of any photographs, searched to every depth: faces are found and cropped by the stages of the
            reconstruction and segmented by the shipped U-Net.
        faces: how faces are looked for.
        crop: let the detector cut faces out of labelled photographs; where it finds none, the whole picture counts.
        validation_share: share of rendered faces and of `photos` that is kept for validation.
        cache: folder where prepared faces wait; the same sources are prepared once.
    """

    rendered: int = 0
    labelled: SegmentationData = field(default_factory=SegmentationData)
    photos: str | None = field(default=None, metadata=path_field())
    faces: FaceSearchSettings = field(default_factory=FaceSearchSettings)
    crop: bool = True
    validation_share: float = 0.1
    cache: str = field(default="out/cache", metadata=path_field(output=True))

    def __post_init__(self) -> None:
        require(self.rendered >= 0, "rendered", self.rendered, "at least 0")
        require(0 < self.validation_share < 1, "validation_share", self.validation_share, "a share between 0 and 1")


@dataclass(frozen=True)
class TermWeights:
    """Weights of the loss's terms; the defaults are the paper's equation 5 (`paper.loss`).

    A term of weight 0 is not computed.

    Attributes:
        mse: mean squared difference of pictures.
        vgg: distance in VGG19's features.
        chamfer: chamfer distance to the undeformed template.
        edge: mean squared length of edges.
        normal: inconsistency of neighbouring triangles' normals.
        laplacian: distance of vertices from the mean of their neighbours.
    """

    mse: float = 0.5
    vgg: float = 0.6
    chamfer: float = 15.0
    edge: float = 1.0
    normal: float = 0.01
    laplacian: float = 0.1

    def __post_init__(self) -> None:
        for name in ("mse", "vgg", "chamfer", "edge", "normal", "laplacian"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")


@dataclass(frozen=True)
class LossWeights(TermWeights):
    """Weights of the terms of a loss on photographs (`paper.loss`).

    Attributes:
        masked: blacken what the segmentation calls background in both pictures first.
    """

    masked: bool = True


@dataclass(frozen=True)
class SceneSettings:
    """Template, camera, light and softness of the paper's networks (`paper`).

    Attributes:
        template: mesh that is deformed: "sphere" (2562 vertices), "hemisphere" (2113), "teapot", or an OBJ file.
        vgg_weights: "torchvision", which downloads them once, or a file of VGG19's weights (see `paper.vgg`).
        sigma_px2: softness of silhouettes in squared pixels of the rendered picture, at the end of training.
        first_sigma_px2: the same at the start; it falls geometrically over the first half of the steps.
        composite: "over" blends faces with the background by their coverage, so that a loss on colours moves
            silhouettes; "softmax" is PyTorch3D's blend, which the paper used.
        distance: of the camera from the template's centre, in the template's unit.
        fov_deg: field of view in degrees. The paper names no camera; the defaults see a template of radius 1 as wide
            as the picture, since the chamfer term keeps the hemisphere from growing over a face that is wider.
        ambient: share of the light that comes from everywhere, 0 to 1; the rest comes from the camera's side.
    """

    template: str = field(default="hemisphere", metadata=path_field("sphere", "hemisphere", "teapot"))
    vgg_weights: str = field(default="torchvision", metadata=path_field("torchvision"))
    sigma_px2: float = 0.2
    first_sigma_px2: float = 0.2
    composite: Literal["over", "softmax"] = "over"
    distance: float = 5.0
    fov_deg: float = 24.0
    ambient: float = 0.5

    def __post_init__(self) -> None:
        for name in ("sigma_px2", "first_sigma_px2"):
            require(getattr(self, name) > 0, name, getattr(self, name), "a positive number")
        require(self.distance > 1, "distance", self.distance, "more than 1, the radius of the templates")
        require(0 < self.fov_deg < 180, "fov_deg", self.fov_deg, "an angle between 0 and 180 degrees")
        require(0 <= self.ambient <= 1, "ambient", self.ambient, "a share from 0 to 1")


@dataclass(frozen=True)
class PaperSettings(SceneSettings):
    """What the paper's MeshNet and its scene need (`paper`).

    Attributes:
        loss: weight of each term, a number without unit; 0 leaves the term out.
    """

    loss: LossWeights = field(default_factory=LossWeights)


@dataclass(frozen=True)
class BabySettings(SceneSettings):
    """What BabyMeshNet and its scene need (`paper`).

    Attributes:
        target: mesh whose picture is imitated, named as `template` is.
        loss: weight of each term, a number without unit; 0 leaves the term out.
    """

    target: str = field(default="teapot", metadata=path_field("sphere", "hemisphere", "teapot"))
    loss: TermWeights = field(default_factory=TermWeights)

    def __post_init__(self) -> None:
        super().__post_init__()
        read = self.loss.vgg > 0 or self.vgg_weights == "torchvision"
        require(read, "vgg_weights", self.vgg_weights, "none where the weight loss.vgg is 0: nothing would read them")


@dataclass(frozen=True)
class _TrainMeshConfig(TrainRun):
    """What the trainings of all mesh networks read.

    Attributes:
        network: `meshnet`, which corrects landmark fits, or the paper's: `meshnet_paper` on faces, `babymeshnet` on
            one picture of a mesh. Each reads its own options; `--network NAME --help` explains them.
        image_px: side in pixels of the rendered pictures, and of those that go into the paper's networks.
        epochs: passes over the faces; for BabyMeshNet of `steps_per_epoch` steps each.
        steps_per_epoch: steps of an epoch, 0 for as many as show every face once.
        learning_rate: step size of Adam or AdamW at the beginning or, for `meshnet`, after `face.warmup_steps`.
        checkpoint_epochs: epochs between checkpoints and validations.
        strip_epochs: epochs between the pictures of the strip that shows the same faces over time.
    """

    name: str = "meshnet_prior"
    storage_path: str = field(default="out/train", metadata=path_field(output=True))
    out: str = field(default="out/meshnet_prior", metadata=path_field(output=True))
    network: Network = "meshnet_paper"
    image_px: int = 64
    epochs: int = 12
    steps_per_epoch: int = 0
    learning_rate: float = 2e-3
    checkpoint_epochs: int = 1
    strip_epochs: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        own = next(f.default for f in fields(self) if f.name == "network")
        require(self.network == own, "network", self.network, f"{own!r} in a {type(self).__name__}")
        require(self.image_px >= 46, "image_px", self.image_px, "at least 46, below which nothing is left to pool")
        for name in ("epochs", "checkpoint_epochs", "strip_epochs"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        require(self.steps_per_epoch >= 0, "steps_per_epoch", self.steps_per_epoch, "at least 0")
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "a positive number")


def _require_decay(config: TrainPaperConfig | TrainBabyMeshnetConfig) -> None:
    require(0 < config.decay_last <= 1, "decay_last", config.decay_last, "a share above 0, at most 1")


@dataclass(frozen=True)
class TrainPaperConfig(_TrainMeshConfig):
    """`jobs/train_meshnet.py --network meshnet_paper`: faces become a template deformed until it looks like them.

    The defaults train on faces rendered from the shipped prior, in a few minutes on two cores and without the VGG
    term, whose weights are not shipped.

    Attributes:
        data: faces.
        paper: what the network and its scene need.
        images_per_worker: pictures per forward and backward pass of a worker. The paper used 1, because larger
            batches crashed; nothing here needs that.
        accumulate: passes whose gradients make one optimiser step.
        decay_last: factor to which the learning rate falls by the last step, along half a cosine; 1 keeps it.
    """

    network: Network = "meshnet_paper"
    data: MeshnetData = field(default_factory=lambda: MeshnetData(rendered=256))
    paper: PaperSettings = field(default_factory=lambda: PaperSettings(loss=LossWeights(vgg=0.0)))
    images_per_worker: int = 8
    accumulate: int = 1
    decay_last: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_decay(self)
        for name in ("images_per_worker", "accumulate"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")


@dataclass(frozen=True)
class TrainBabyMeshnetConfig(_TrainMeshConfig):
    """`jobs/train_meshnet.py --network babymeshnet`: a template is deformed until it looks like the target.

    Attributes:
        paper: what the network and its scene need.
        decay_last: factor to which the learning rate falls by the last step, along half a cosine; 1 keeps it.
    """

    network: Network = "babymeshnet"
    paper: BabySettings = field(default_factory=lambda: BabySettings(loss=TermWeights(vgg=0.0)))
    decay_last: float = 0.1
    images_per_worker: ClassVar[int] = 1  # there is only one picture
    accumulate: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_decay(self)


@dataclass(frozen=True)
class TrainRegressorConfig(_TrainMeshConfig):
    """`jobs/train_meshnet.py --network meshnet`: the network that corrects landmark fits.

    Attributes:
        face: samples, network and loss.
        images_per_worker: pictures per step of a worker.
    """

    network: Network = "meshnet"
    face: FaceMeshNetSettings = field(default_factory=FaceMeshNetSettings)
    images_per_worker: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.face.synthetic), "face.synthetic", self.face.synthetic, "a folder or URI")
        require(bool(self.face.validation), "face.validation", self.face.validation, "a folder or URI")
        require(self.images_per_worker >= 1, "images_per_worker", self.images_per_worker, "at least 1")


TrainMeshConfig = TrainPaperConfig | TrainBabyMeshnetConfig | TrainRegressorConfig
TRAIN_MESHNET: Choice[TrainMeshConfig] = Choice(
    "network",
    "meshnet_paper",
    {"meshnet": TrainRegressorConfig, "meshnet_paper": TrainPaperConfig, "babymeshnet": TrainBabyMeshnetConfig},
)
"""What `jobs/train_meshnet.py` is told, by network."""
