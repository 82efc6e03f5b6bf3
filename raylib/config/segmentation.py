"""Settings of `jobs/train_unet.py` and `jobs/evaluate.py segmentation`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from raylib.config.checks import require, require_read
from raylib.config.paths import path_field
from raylib.config.training import TrainRun


@dataclass(frozen=True)
class SegmentationData:
    """Folders of labelled photographs and which of them are kept from training.

    Attributes:
        fasseg: FASSEG folder with V1, V2 or V3 in it.
        fasseg_versions: which of these versions are read.
        celebamask: CelebAMask-HQ folder, palette masks or the authors' layout.
        helen: HELEN with the masks of Smith et al. 2013; its own lists say what is tuning and testing.
        fasseg_test: persons of FASSEG that only the test split shows.
        fasseg_validation: persons of FASSEG for validation while training.
        celebamask_test: CelebAMask photographs in the test split, the first in order of name.
        celebamask_validation: number of the CelebAMask photographs after them for validation.
    """

    fasseg: str | None = field(default=None, metadata=path_field())
    fasseg_versions: tuple[str, ...] = ("V2", "V3")
    celebamask: str | None = field(default=None, metadata=path_field())
    helen: str | None = field(default=None, metadata=path_field())
    fasseg_test: tuple[str, ...] = ("V3/06", "V3/07")
    fasseg_validation: tuple[str, ...] = ()
    celebamask_test: int = 100
    celebamask_validation: int = 50

    def __post_init__(self) -> None:
        both = set(self.fasseg_test) & set(self.fasseg_validation)
        require(not both, "fasseg_validation", sorted(both), "persons that are not in fasseg_test")
        for name in ("celebamask_test", "celebamask_validation"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")


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
        resamples: number of bootstrap samples over images for the 95 % confidence intervals.
        max_images: evaluate at most so many photographs of each set, 0 for all.
        device: where the network runs: `cpu`, `cuda` or `cuda:1`.
        threads: processor threads of the network; 0 leaves the choice to PyTorch.
        seed: whole number from which occluders and bootstrap follow.
    """

    out: str = field(metadata=path_field(output=True))
    data: SegmentationData = field(default_factory=SegmentationData)
    split: Literal["train", "validation", "test", "all"] = "test"
    weights: str | None = field(default=None, metadata=path_field())
    framing: Literal["photo", "face_crop"] = "photo"
    occlusion: float = 0.0
    boundary_tolerance: float = 0.0075
    resamples: int = 1000
    max_images: int = 0
    device: str = "cpu"
    threads: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        require(0 <= self.occlusion <= 0.5, "occlusion", self.occlusion, "a share from 0 to 0.5")
        require(0 < self.boundary_tolerance < 0.1, "boundary_tolerance", self.boundary_tolerance, "a share below 0.1")
        require(self.resamples >= 1, "resamples", self.resamples, "at least 1")
        require(self.max_images >= 0, "max_images", self.max_images, "at least 0")


@dataclass(frozen=True)
class TrainStage:
    """Some epochs at one picture size.

    Attributes:
        size_px: side of the training pictures in pixels.
        epochs: at this size.
        augmentation: how strongly pictures vary: 1 as designed, 0 no change but the fit to the size. Weaker last
            epochs settle on pictures like those that will be seen.
    """

    size_px: int
    epochs: int
    augmentation: float = 1.0

    def __post_init__(self) -> None:
        require(self.size_px >= 16, "size_px", self.size_px, "at least 16")
        require(self.epochs >= 1, "epochs", self.epochs, "at least 1")
        require(0 <= self.augmentation <= 2, "augmentation", self.augmentation, "a number from 0 to 2")


@dataclass(frozen=True)
class TrainUnetConfig(TrainRun):
    """`jobs/train_unet.py`: the face segmentation network on Ray Train.

    Attributes:
        data: labelled photographs.
        widths: channels per level of the U-Net, from full resolution downwards.
        norm: what follows each convolution: `group`, `batch` or `none`.
        stages: picture sizes in turn, small ones first: most of the learning is cheap there.
        batch_size: photographs per step and worker.
        learning_rate: peak of the schedule (linear rise, half a cosine to nothing) of AdamW.
        warmup_steps: steps of the rise.
        weight_decay: AdamW's weight decay, a share of the learning rate.
        ema_decay: share of itself that the moving average of the weights keeps at a step; that average is what is
            validated and kept.
        fasseg_repeat: how often an epoch shows each FASSEG photograph, the scarcer set.
        input_px: side in pixels to which inference brings a face crop; the last stage's size by default.
        init_weights: weights file to start from.
        checkpoint_epochs: epochs between checkpoints and validations.
        cache_px: side in pixels at which photographs wait in memory, decoded.
    """

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
    init_weights: str | None = field(default=None, metadata=path_field())
    checkpoint_epochs: int = 1
    cache_px: int = 320

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.widths) >= 2, "widths", list(self.widths), "at least two levels")
        require(len(self.stages) >= 1, "stages", list(self.stages), "at least one")
        for name in ("batch_size", "warmup_steps", "fasseg_repeat", "checkpoint_epochs", "cache_px"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "a positive number")
        require(0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "a number from 0 to below 1")
        require_read(self, self.init_weights is None, ("widths", "norm"), "init_weights bring a network")

    @property
    def epochs(self) -> int:
        """Epochs of the whole run."""
        return sum(stage.epochs for stage in self.stages)
