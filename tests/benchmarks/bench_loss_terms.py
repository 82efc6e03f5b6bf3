"""What each term of the physics-based network's loss is good for: trainings that lack one term in turn.

    python tests/benchmarks/bench_loss_terms.py CACHE [--steps 40] [--faces 160] [--terms vertex ...]

CACHE is the `face.cache` of a training with photographs. Every training begins from the same untrained network on the
landmark fit alone, without the cascade, which would leave the network nothing to find out about the shape; sees the
same batches, ten synthetic faces and six photographs each; and has the weights of configs/meshnet_stage2.yaml but for
its one term. Figures are of faces and photographs that no step saw: the term itself, with and without it in the loss,
and what users look at. A second training with all terms and other batches tells how much chance there is.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from raylib.config import TRAIN_MESHNET, FaceLossWeights, TrainRegressorConfig
from raylib.morphable.model import load_prior
from raylib.regressor.cascade import CascadedRegression
from raylib.regressor.corrections import RegressorGeometry
from raylib.regressor.weights import build_network
from raylib.runtime.command import parse
from raylib.training.loop import Schedule, new_state, train_step
from raylib.training.regressor.augmentation import FaceAugmentation
from raylib.training.regressor.loss import FaceLoss, vertex_weights
from raylib.training.regressor.samples import FaceSamples
from raylib.training.regressor.task import CorrectionLosses, adamw, batches, validate

_BATCH = 16
_WARMUP = 10
_RATE = 1e-3
_SHOWN = ("vertex_mm", "plane_median_mm", "normal_deg", "pose_deg")


class Trainings:
    """Trainings from one start on the same samples.

    Args:
        cache: prepared samples.
        config: the second stage's.
        steps: of each training.
        faces: synthetic faces that figures are of.
        photographs: photographs that are left out of training, and that figures are of.
    """

    def __init__(self, cache: Path, config: TrainRegressorConfig, steps: int, faces: int, photographs: int):
        self._model = load_prior()
        self._config, self._steps = config, steps
        self._train = FaceSamples(cache / "train", self._model)
        self._held = FaceSamples(cache / "validation", self._model)
        self._photos = FaceSamples(cache / "photographs", self._model)
        self._faces = np.arange(min(faces, len(self._held)))
        self._unseen = np.arange(min(photographs, len(self._photos) // 2))
        albedo = self._train.mean_albedo()
        self._corrector = RegressorGeometry(self._model, albedo, CascadedRegression.identity(self._model))
        self._device, self._precision = torch.device("cpu"), torch.float32

    def __call__(self, weights: FaceLossWeights, seed: int = 0) -> dict[str, float]:
        """Returns the figures after a training with these weights."""
        torch.manual_seed(0)
        network = build_network(self._model, self._config.face.architecture)
        state = new_state(network, adamw(network, self._config.face.weight_decay), ema_decay=0.9)
        start = build_network(self._model, self._config.face.architecture).eval()
        loss = FaceLoss(self._corrector, weights, self._config.image_px)
        losses = CorrectionLosses(self._corrector, loss, self._precision, start)
        schedule = Schedule(self._steps, _WARMUP, _RATE, last=0.01)
        share = self._config.face.photo_share
        count = self._steps * (_BATCH - round(_BATCH * share))
        chosen = np.random.default_rng(seed).permutation(len(self._train))[:count]
        seen = np.arange(len(self._unseen), len(self._photos))
        change = FaceAugmentation(self._model)
        for batch in batches(self._train, chosen, self._photos, seen, _BATCH, share, change, (seed, 0, 0)):
            train_step(state, losses, [batch], schedule.at(state.step), max_norm=2.0)
        return self._figures(state.average.eval(), start)

    @torch.inference_mode()
    def _figures(self, network, start) -> dict[str, float]:
        judge = FaceLoss(self._corrector, self._config.face.loss, self._config.image_px)
        terms: dict[str, list[tuple[float, int]]] = {}
        for samples, index in ((self._held, self._faces), (self._photos, self._unseen)):
            for first in range(0, len(index), _BATCH):
                batch = samples.batch(index[first : first + _BATCH])
                seen, n = (batch.images, batch.labels), len(batch.images)
                fit = self._corrector.run_cascade(*seen, batch.fit)
                inputs, light = self._corrector.inputs(*seen, fit)
                corrections = network(inputs)
                estimate = self._corrector.apply(corrections, inputs, fit, light)
                first_look = self._corrector.apply(start(inputs), inputs, fit, light)
                lit = batch.truth.known > 0.5
                for name, value in judge(estimate, corrections, batch, lit, first_look).items():
                    terms.setdefault(name, []).append((float(value), n))
        figures = {name: sum(v * n for v, n in of) / sum(n for _, n in of) for name, of in terms.items()}
        row = validate(
            network, self._corrector, self._held, self._faces, vertex_weights(self._model), _BATCH, self._device,
            self._precision,
        )  # fmt: skip
        return figures | {name: row[f"val_{name}"] for name in _SHOWN} | {"fit_vertex_mm": row["fit_vertex_mm"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--config", type=Path, default=Path("configs/meshnet_stage2.yaml"))
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--faces", type=int, default=160)
    parser.add_argument("--photographs", type=int, default=64)
    parser.add_argument("--terms", nargs="*", help="those left out in turn; all by default")
    parser.add_argument("--out", type=Path, help="JSON of all figures, written after every training")
    args = parser.parse_args()
    # The folder is not looked into: samples are prepared.
    given = ["--config", str(args.config), "--face.photographs", str(args.cache)]
    config = parse(TRAIN_MESHNET, __doc__ or "", given)
    whole = config.face.loss
    train = Trainings(args.cache, config, args.steps, args.faces, args.photographs)
    found: dict[str, dict[str, float]] = {}
    names = args.terms or [name for name, weight in asdict(whole).items() if weight]
    for name in ["all", "all, other batches", *names]:
        began = time.perf_counter()
        weights = whole if name.startswith("all") else replace(whole, **{name: 0.0})
        found[name] = train(weights, seed=int(name == "all, other batches"))
        row, base = found[name], found["all"]
        own = f"{name} {base[name]:.4g} -> {row[name]:.4g}" if name in base else f"fit {row['fit_vertex_mm']:.2f} mm"
        shown = ", ".join(f"{key} {row[key]:.2f}" for key in _SHOWN)
        more = ", ".join(f"{key} {row[key]:.3f}" for key in ("albedo", "product", "photometric", "landmark"))
        print(f"without {name}: {own}; {shown}; {more}; {time.perf_counter() - began:.0f} s", flush=True)
        if args.out:
            args.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
