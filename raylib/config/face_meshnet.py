"""Settings of the network that corrects landmark fits (`network: meshnet` of `jobs/train_meshnet.py`)."""

from __future__ import annotations

from dataclasses import dataclass, field

from raylib.config.checks import require, require_read
from raylib.config.paths import path_field


@dataclass(frozen=True)
class FaceLossWeights:
    """How much each term counts; 0 leaves it out. A term's unit stands behind it.

    Attributes:
        vertex: distance of vertices from the truth, millimetres, position and size removed.
        plane: the part of it along the true normal, which is what a scan shows.
        normal: length of the difference of unit normals.
        pose: angle between the rotations, degrees.
        projection: distance of projected vertices, hundredths of the crop's side.
        size: logarithm of the face's size against the truth.
        albedo: difference of logarithms of albedo.
        shading: difference of logarithms of shading on the true normals.
        product: difference of logarithms of their product, which the picture shows.
        sigma: negative log-likelihood of the distances, Laplace's law.
        offset_laplacian: difference of the offsets from their neighbours' mean, millimetres.
        edge: difference of edge lengths from the truth's or the linear model's, as a share.
        prior: squares of the corrections of identity and expression.
        landmark: distance of projected from detected landmarks, hundredths of the crop's side; photographs.
        photometric: difference of the rendered from the real crop inside bare skin, sRGB; photographs.
        symmetry: difference of logarithms of albedo across the plane of symmetry; photographs.
        smooth_albedo: the same between neighbours; photographs.
        keep: corrections of shape on photographs, millimetres away from the first stage's.
    """

    vertex: float = 1.0
    plane: float = 1.0
    normal: float = 4.0
    pose: float = 0.15
    projection: float = 0.5
    size: float = 2.0
    albedo: float = 0.5
    shading: float = 0.5
    product: float = 0.5
    sigma: float = 0.2
    offset_laplacian: float = 0.3
    edge: float = 1.0
    prior: float = 0.002
    landmark: float = 0.0
    photometric: float = 0.0
    symmetry: float = 0.0
    smooth_albedo: float = 0.0
    keep: float = 0.0

    def __post_init__(self) -> None:
        for name, value in self.__dict__.items():
            require(value >= 0, name, value, "at least 0")


@dataclass(frozen=True)
class FaceMeshNetSettings:
    """What the network that corrects landmark fits needs besides (`face`).

    Attributes:
        synthetic: folder or URI of what `jobs/synthesize.py` wrote of the split `train`.
        validation: the same of the split `validation`.
        photographs: folder of photographs, or None: for the second stage, and to tell the cascade what is noise.
        held_out_photographs: of them, so many, the first in order of name, stay out of training.
        cache: folder where prepared samples wait; the same sources are prepared once. On a cluster a shared one.
        photo_share: share of photographs in a batch.
        widths: channels of the picture's features at 1/2, 1/4, 1/8 and 1/16 of its size.
        graph_widths: channels on the mesh's levels of 145, 545 and 2113 vertices.
        hidden: channels of the fully connected part.
        blocks: residual blocks at each size and level.
        cascade_steps: linear regressions before the network, trained in closed form.
        cascade_ridge: their penalty, as a share of the number of samples.
        cascade_noise: how much of what photographs' features scatter more than synthetic faces' counts as noise, a
            share; 0 leaves photographs out. Identities that then scatter more are shrunk by the same rule.
        closing_ridge: penalty of the cascade's last step, which only pictures take that are not strange beside the
            synthetic faces; there is none without photographs.
        warmup_steps: steps of the learning rate's rise.
        weight_decay: AdamW's weight decay, a share of the learning rate.
        ema_decay: share of itself that the moving average of the weights keeps at a step; that average is what is
            validated and kept.
        init_weights: weights file to start from; without one training begins with the cascade.
        teach_cascade: whether these faces teach the cascade of `init_weights` on, the penalties holding it to what
            others taught; else it stays as it is.
        loss: weight of each term, a number without unit; 0 leaves the term out.
    """

    synthetic: str = field(default="", metadata=path_field())
    validation: str = field(default="", metadata=path_field())
    photographs: str | None = field(default=None, metadata=path_field())
    held_out_photographs: int = 100
    cache: str = field(default="out/face_samples", metadata=path_field(output=True))
    photo_share: float = 0.0
    widths: tuple[int, ...] = (32, 64, 128, 256)
    graph_widths: tuple[int, ...] = (128, 64, 32)
    hidden: int = 512
    blocks: int = 1
    cascade_steps: int = 3
    cascade_ridge: float = 0.4
    cascade_noise: float = 0.5
    closing_ridge: float = 0.02
    warmup_steps: int = 100
    weight_decay: float = 0.02
    ema_decay: float = 0.998
    init_weights: str | None = field(default=None, metadata=path_field())
    teach_cascade: bool = False
    loss: FaceLossWeights = field(default_factory=FaceLossWeights)

    def __post_init__(self) -> None:
        require(0 <= self.photo_share < 1, "photo_share", self.photo_share, "a share from 0 to below 1")
        needed = self.photo_share == 0 or self.photographs is not None
        require(needed, "photographs", self.photographs, "a folder where photo_share is not 0")
        require(len(self.widths) == 4, "widths", self.widths, "four numbers")
        require(len(self.graph_widths) == 3, "graph_widths", self.graph_widths, "three numbers")
        require(self.cascade_noise >= 0, "cascade_noise", self.cascade_noise, "at least 0")
        for name in ("cascade_ridge", "closing_ridge"):
            require(getattr(self, name) > 0, name, getattr(self, name), "a positive number")
        for name in ("cascade_steps", "hidden", "blocks", "warmup_steps"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        known = self.init_weights is not None or not self.teach_cascade
        require(known, "init_weights", self.init_weights, "a weights file where teach_cascade is true")
        held = self.held_out_photographs
        require(held >= 0, "held_out_photographs", held, "at least 0")
        require(0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "a number from 0 to below 1")
        self._require_read()

    def _require_read(self) -> None:
        """Raises a `ConfigError` where an option is given that no step of this training reads."""
        require_read(self, self.init_weights is None, ("cascade_steps",), "init_weights bring a cascade")
        taught = self.trains_cascade
        require_read(self, taught, ("cascade_ridge",), "teach_cascade leaves that of init_weights as it is")
        compared = taught and self.photographs is not None
        with_photographs = ("cascade_noise", "closing_ridge")
        require_read(self, compared, with_photographs, "no cascade is trained beside photographs")
        used = self.photo_share > 0 or (taught and self.cascade_noise > 0)
        read = ("photographs", "held_out_photographs")
        require_read(self, used, read, "photo_share is 0 and no cascade is trained with cascade_noise")
        seen = ("landmark", "photometric", "symmetry", "smooth_albedo")
        require_read(self.loss, self.photo_share > 0, seen, "face.photo_share is 0")
        kept = self.photo_share > 0 and self.init_weights is not None
        require_read(self.loss, kept, ("keep",), "face.photo_share is 0 or face.init_weights is not given")

    @property
    def trains_cascade(self) -> bool:
        """Whether these faces teach a cascade, a new one or that of `init_weights`."""
        return self.init_weights is None or self.teach_cascade

    @property
    def architecture(self) -> dict[str, object]:
        """What `raylib.regressor.weights.build_network` needs."""
        return {
            "widths": list(self.widths), "graph_widths": list(self.graph_widths),
            "hidden": self.hidden, "blocks": self.blocks,
        }  # fmt: skip
