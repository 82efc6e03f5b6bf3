import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from face_drawings import drawn_face
from torch import distributed, multiprocessing

from raylib.datasets.labelled import IGNORE
from raylib.metrics.segmentation import class_scores
from raylib.segmentation.labels import Label
from raylib.segmentation.unet import UNet
from raylib.training.augmentation import Augmentation
from raylib.training.loop import (
    BatchPlan,
    Schedule,
    TrainState,
    load_checkpoint,
    new_state,
    save_checkpoint,
    train_step,
)
from raylib.training.segmentation.loss import segmentation_loss
from raylib.training.segmentation.task import adamw, augmented_batches, label_losses, validate

CPU = torch.device("cpu")
LOSSES = partial(label_losses, precision=torch.float32)


def _faces(count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    drawn = [drawn_face(size, np.random.default_rng(i)) for i in range(count)]
    return np.stack([d[0] for d in drawn]), np.stack([d[1] for d in drawn])


def _network(seed: int = 0) -> UNet:
    torch.manual_seed(seed)
    return UNet((8, 16, 32))


def _batch(count: int, size: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = _faces(count, size)
    labels[0, :, : size // 3] = IGNORE  # pictures whose pixels and classes differ in number
    labels[1][labels[1] == 3] = 2
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255, torch.from_numpy(labels)


def _gradient_of_one_picture(rank: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    torch.set_num_threads(1)
    network = _network().double()
    parallel = torch.nn.parallel.DistributedDataParallel(network)
    images, labels = _batch(2)
    segmentation_loss(parallel(images[rank : rank + 1].double()), labels[rank : rank + 1]).backward()
    torch.save([p.grad for p in network.parameters()], f"{folder}/gradient{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_workers_with_one_picture_each_compute_the_gradient_of_both(tmp_path):
    multiprocessing.spawn(_gradient_of_one_picture, (str(tmp_path),), nprocs=2)
    network = _network().double()
    images, labels = _batch(2)
    segmentation_loss(network(images.double()), labels).backward()
    for rank in range(2):
        for ours, theirs in zip(network.parameters(), torch.load(tmp_path / f"gradient{rank}.pt"), strict=True):
            torch.testing.assert_close(ours.grad, theirs, rtol=1e-5, atol=1e-7)


def test_the_loss_of_a_batch_is_the_mean_of_its_pictures_losses():
    images, labels = _batch(3)
    logits = _network()(images)
    alone = torch.stack([segmentation_loss(logits[i : i + 1], labels[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(segmentation_loss(logits, labels), alone.mean())


def test_the_loss_is_nothing_for_the_truth_and_blind_to_ignored_pixels():
    _, labels = _batch(2)
    sure = 40 * torch.nn.functional.one_hot(torch.where(labels == IGNORE, 0, labels).long(), 6).permute(0, 3, 1, 2)
    assert segmentation_loss(sure.float(), labels) < 1e-4
    wrong = torch.where((labels == IGNORE)[:, None], -sure, sure).float()
    assert torch.equal(segmentation_loss(wrong, labels), segmentation_loss(sure.float(), labels))
    assert segmentation_loss(-sure.float(), labels) > 1


def test_a_picture_with_nothing_but_ignored_pixels_has_no_gradient():
    logits = torch.randn(1, 6, 8, 8, requires_grad=True)
    segmentation_loss(logits, torch.full((1, 8, 8), IGNORE, dtype=torch.uint8)).backward()
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_the_gradient_of_the_loss_is_its_slope():
    torch.manual_seed(0)
    labels = torch.randint(0, 6, (2, 3, 4), dtype=torch.uint8)
    logits = torch.randn(2, 6, 3, 4)
    logits.requires_grad_()
    segmentation_loss(logits, labels).backward()
    direction = torch.randn(2, 6, 3, 4)
    step = 1e-2
    with torch.no_grad():
        slope = (
            segmentation_loss(logits + step * direction, labels)
            - segmentation_loss(logits - step * direction, labels)
        ) / (2 * step)
    assert float((logits.grad * direction).sum()) == pytest.approx(float(slope), rel=1e-3)


def test_the_schedule_rises_then_falls_to_nothing():
    schedule = Schedule(steps=100, warmup=10, peak=2.0)
    rates = [schedule.at(step) for step in range(101)]
    assert rates[9] == rates[10] == max(rates) == 2.0
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[55] == pytest.approx(1.0)
    assert rates[100] == pytest.approx(0)


def test_an_epoch_shows_every_photograph_as_often_as_asked():
    plan = BatchPlan(np.array([1, 3, 1, 1], np.uint8), batch_size=2, steps=3, seed=4)
    assert plan.batches(0).shape == (3, 2)
    assert np.bincount(plan.batches(7).ravel()).tolist() == [1, 3, 1, 1]
    assert not np.array_equal(plan.batches(0), plan.batches(1))
    assert np.array_equal(plan.batches(5), plan.batches(5))


def test_a_short_share_starts_over():
    plan = BatchPlan(np.array([1, 1], np.uint8), batch_size=4, steps=2, seed=0)
    assert np.bincount(plan.batches(0).ravel()).tolist() == [4, 4]


def _state(weight_decay: float = 0.01, ema_decay: float = 0.9, seed: int = 0) -> TrainState:
    network = _network(seed)
    return new_state(network, adamw(network, weight_decay), ema_decay)


def _train(state: TrainState, epochs: int) -> list[float]:
    images, labels = _faces(8, 40)
    plan = BatchPlan(np.ones(8, np.uint8), batch_size=4, steps=2, seed=0)
    losses = []
    while state.epoch < epochs:
        batches = augmented_batches(images, labels, plan, state.epoch, 32, Augmentation(), CPU)
        losses += [train_step(state, LOSSES, [batch], 3e-3, max_norm=1.0)["loss"] for batch in batches]
        state.epoch += 1
    return losses


def test_a_run_resumed_from_its_checkpoint_is_the_run_that_was_never_stopped(tmp_path):
    whole = _state()
    losses = _train(whole, 4)
    stopped = _state()
    first = _train(stopped, 2)
    stopped.history.append({"epoch": 2.0})
    save_checkpoint(stopped, tmp_path / "state.pt")
    resumed = _state(seed=9)
    load_checkpoint(resumed, tmp_path / "state.pt")
    assert resumed.history == [{"epoch": 2.0}]
    assert first + _train(resumed, 4) == pytest.approx(losses, rel=1e-5)
    assert resumed.step == whole.step == 8
    for a, b in zip(resumed.average.parameters(), whole.average.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert sorted(path.name for path in Path(tmp_path).iterdir()) == ["state.pt"]


def test_the_average_lags_behind_the_network():
    state = _state(0.0, ema_decay=0.99)
    images, labels = _batch(2)
    start = state.average.head.bias.clone()
    for _ in range(3):
        train_step(state, LOSSES, [(images, labels)], 1e-2, max_norm=1.0)
    moved, lagged = (state.network.head.bias - start).norm(), (state.average.head.bias - start).norm()
    assert 0 < lagged < moved
    assert not any(p.requires_grad for p in state.average.parameters())


def test_training_learns_drawn_faces():
    state = _state()
    images, labels = _faces(12, 40)
    plan = BatchPlan(np.ones(12, np.uint8), batch_size=4, steps=150, seed=0)
    schedule = Schedule(150, 10, 3e-3)
    for step, batch in enumerate(augmented_batches(images, labels, plan, 0, 32, Augmentation().scaled(0.2), CPU)):
        train_step(state, LOSSES, [batch], schedule.at(step), max_norm=1.0)
    seen, truth = _faces(20, 32)
    scores = class_scores(validate(state.average, seen[12:], truth[12:], 4, CPU, torch.float32))
    assert scores.pixel_accuracy > 0.92
    assert scores.f1[: Label.EYES + 1].min() > 0.8
