"""Settings of `jobs/train_meshnet.py`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from raylib.config.checks import require
from raylib.config.face_meshnet import FaceMeshNetSettings
from raylib.config.reconstruct import FaceSettings
from raylib.config.segmentation import SegmentationData
from raylib.config.training import TrainRun


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
    photos: str | None = None
    faces: FaceSettings = field(default_factory=FaceSettings)
    crop: bool = True
    validation_share: float = 0.1
    cache: str = "out/cache"

    def __post_init__(self) -> None:
        require(self.rendered >= 0, "rendered", self.rendered, "at least 0")
        require(0 < self.validation_share < 1, "validation_share", self.validation_share, "a share between 0 and 1")


@dataclass(frozen=True)
class LossWeights:
    """Weights of the loss's terms; the defaults are the paper's equation 5 (`paper.loss`).

    A term of weight 0 is not computed.

    Attributes:
        mse: mean squared difference of pictures.
        vgg: distance in VGG19's features.
        chamfer: chamfer distance to the undeformed template.
        edge: mean squared length of edges.
        normal: inconsistency of neighbouring triangles' normals.
        laplacian: distance of vertices from the mean of their neighbours.
        masked: blacken what the segmentation calls background in both pictures first.
    """

    mse: float = 0.5
    vgg: float = 0.6
    chamfer: float = 15.0
    edge: float = 1.0
    normal: float = 0.01
    laplacian: float = 0.1
    masked: bool = True

    def __post_init__(self) -> None:
        for name in ("mse", "vgg", "chamfer", "edge", "normal", "laplacian"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")


@dataclass(frozen=True)
class PaperSettings:
    """What the paper's networks and their scene need (`paper`).

    Attributes:
        template: mesh that is deformed: "sphere" (2562 vertices), "hemisphere" (2113), "teapot", or an OBJ file.
        target: mesh whose picture BabyMeshNet imitates, named likewise.
        loss: weight of each term, a number without unit; 0 leaves the term out.
        vgg_weights: "torchvision", which downloads them once, or a file of VGG19's weights (see `networks.vgg`).
        sigma_px2: softness of silhouettes in squared pixels of the rendered picture, at the end of training.
        first_sigma_px2: the same at the start; it falls geometrically over the first half of the steps.
        composite: "over" blends faces with the background by their coverage, so that a loss on colours moves
            silhouettes; "softmax" is PyTorch3D's blend, which the paper used.
        distance: of the camera from the template's centre, in the template's unit.
        fov_deg: field of view in degrees. The paper names no camera; the defaults see a template of radius 1 as wide
            as the picture, since the chamfer term keeps the hemisphere from growing over a face that is wider.
        ambient: share of the light that comes from everywhere, 0 to 1; the rest comes from the camera's side.
    """

    template: str = "hemisphere"
    target: str = "teapot"
    loss: LossWeights = field(default_factory=LossWeights)
    vgg_weights: str = "torchvision"
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
class TrainMeshnetConfig(TrainRun):
    """`jobs/train_meshnet.py`: networks that deform a template until its picture is the photograph.

    The defaults train MeshNet on faces rendered from the shipped prior, in a few minutes on two cores and without
    the VGG term, whose weights are not shipped.

    Attributes:
        network: `babymeshnet` on one picture of a mesh, `meshnet_paper` on faces, or `meshnet`, which corrects
            landmark fits and reads `face` instead of `data` and `paper`.
        data: faces; BabyMeshNet needs none.
        paper: what the paper's networks need besides.
        face: what `meshnet` needs besides.
        image_px: side in pixels of the pictures that go into the network, and of the rendered ones.
        epochs: passes over the faces; for BabyMeshNet of `steps_per_epoch` steps each.
        steps_per_epoch: steps of an epoch, 0 for as many as show every face once.
        images_per_worker: pictures per forward and backward pass of a worker. The paper used 1, because larger
            batches crashed; nothing here needs that.
        accumulate: passes whose gradients make one optimiser step.
        learning_rate: Adam's step size at the beginning.
        decay_last: factor to which the learning rate falls by the last step, along half a cosine; 1 keeps it.
        checkpoint_epochs: epochs between checkpoints and validations.
        strip_epochs: epochs between the pictures of the strip that shows the same faces over time.
    """

    name: str = "meshnet_prior"
    storage_path: str = "out/train"
    out: str = "out/meshnet_prior"
    network: Literal["babymeshnet", "meshnet_paper", "meshnet"] = "meshnet_paper"
    data: MeshnetData = field(default_factory=lambda: MeshnetData(rendered=256))
    paper: PaperSettings = field(default_factory=lambda: PaperSettings(loss=LossWeights(vgg=0.0)))
    face: FaceMeshNetSettings = field(default_factory=FaceMeshNetSettings)
    image_px: int = 64
    epochs: int = 12
    steps_per_epoch: int = 0
    images_per_worker: int = 8
    accumulate: int = 1
    learning_rate: float = 2e-3
    decay_last: float = 0.1
    checkpoint_epochs: int = 1
    strip_epochs: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.image_px >= 46, "image_px", self.image_px, "at least 46, below which nothing is left to pool")
        for name in ("epochs", "images_per_worker", "accumulate", "checkpoint_epochs", "strip_epochs"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        if self.network == "meshnet":
            require(bool(self.face.synthetic), "face.synthetic", self.face.synthetic, "a folder or URI")
            require(bool(self.face.validation), "face.validation", self.face.validation, "a folder or URI")
            require(self.accumulate == 1, "accumulate", self.accumulate, "1 with the network meshnet")
        require(self.steps_per_epoch >= 0, "steps_per_epoch", self.steps_per_epoch, "at least 0")
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "a positive number")
        require(0 < self.decay_last <= 1, "decay_last", self.decay_last, "a share above 0, at most 1")
