"""The loop that all trainings share: steps, averages, checkpoints, epochs, and that it needs no Ray."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from face_drawings import write_fasseg_v3
from torch import nn

from raylib.errors import ConfigError
from raylib.training.loop import (
    BatchPlan,
    Course,
    Schedule,
    Task,
    TrainState,
    Worker,
    begin,
    load_checkpoint,
    new_state,
    prefetched,
    save_checkpoint,
    train,
    train_step,
)

ROOT = Path(__file__).parent.parent
EPOCHS = 6


class LineTask(Task[np.ndarray]):
    """A line through points, the smallest of all trainings."""

    score = "val_error"
    strip_at_start = True

    def __init__(self, accumulate: int = 1, checkpoint_epochs: int = 1):
        self.x = torch.linspace(-1, 1, 16)[:, None]
        self.y = 3 * self.x - 1
        self.accumulate = accumulate
        schedule = Schedule(4 * EPOCHS, 2, 0.4, last=0.01)
        self.course = Course(EPOCHS, 4, schedule, 4, checkpoint_epochs, strip_epochs=4, ema_decay=0.9, max_norm=5.0)
        self.done: list[float] = []

    def new_network(self) -> nn.Module:
        return nn.Linear(1, 1)

    def new_optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(network.parameters(), lr=0.0)

    def steps(self, epoch: int):
        plan = BatchPlan(np.ones(16, np.uint8), 4, 4, seed=1)
        return (np.split(chosen, self.accumulate) for chosen in plan.batches(epoch))

    def losses(self, model: nn.Module, batch: np.ndarray, done: float) -> dict[str, torch.Tensor]:
        self.done.append(done)
        error = (model(self.x[batch]) - self.y[batch]).square().mean()
        return {"loss": 2 * error, "error": error}

    def validate(self, network: nn.Module) -> tuple[dict[str, float], int]:
        return {"val_error": float((network(self.x) - self.y).detach().square().mean())}, 16

    def strip(self, network: nn.Module) -> np.ndarray:
        return np.zeros((2, 16, 3), np.uint8)


def run(task: LineTask, out: Path, state: TrainState | None = None, refuse_at: int = 0) -> tuple[TrainState, list]:
    """Trains and returns the state and the kept rows."""
    state = state or begin(task, 0, torch.device("cpu"))
    rows = []

    def keep(row, save):
        if row["epoch"] == refuse_at:
            return "no room"
        rows.append(row)
        save(out / "state.pt")
        return None

    out.mkdir(exist_ok=True)
    assert train(task, state, Worker(), out, keep) == ("no room" if refuse_at else None)
    return state, rows


def test_a_training_runs_is_refused_resumes_and_is_the_same(tmp_path):
    task = LineTask()
    whole, rows = run(task, tmp_path / "whole")
    assert [row["epoch"] for row in rows] == list(range(1, EPOCHS + 1)) and whole.history == rows
    assert rows[-1]["val_error"] < 0.2 * rows[0]["val_error"]
    assert task.done == [step / (4 * EPOCHS) for step in range(4 * EPOCHS)]
    # Before training, after epoch 4, after the last.
    strips = sorted(path.name for path in (tmp_path / "whole" / "strip").iterdir())
    assert strips == ["epoch_00000.png", "epoch_00004.png", "epoch_00006.png"]
    assert list((tmp_path / "whole" / "tensorboard").glob("events.*"))

    stopped, _ = run(LineTask(), tmp_path / "other", refuse_at=4)
    assert stopped.epoch == 4
    resumed = begin(LineTask(), 9, torch.device("cpu"))
    load_checkpoint(resumed, tmp_path / "other" / "state.pt")
    assert resumed.epoch == 3 and resumed.step == 12
    resumed, _ = run(LineTask(), tmp_path / "other", resumed)
    assert resumed.step == whole.step == 24
    for ours, theirs in zip(resumed.history, rows, strict=True):
        speed = {"images_per_second": theirs["images_per_second"]}
        assert ours | speed == pytest.approx(theirs, rel=1e-6)
    for a, b in zip(resumed.average.parameters(), whole.average.parameters(), strict=True):
        assert torch.equal(a, b)


def test_epochs_between_checkpoints_are_joined_in_one_row(tmp_path):
    _, each = run(LineTask(), tmp_path / "each")
    _, few = run(LineTask(checkpoint_epochs=4), tmp_path / "few")
    assert [row["epoch"] for row in few] == [4, 6]
    assert few[0]["loss"] == pytest.approx(np.mean([row["loss"] for row in each[:4]]))
    assert few[1]["val_error"] == pytest.approx(each[-1]["val_error"])


def test_accumulated_batches_are_one_step_of_their_mean(tmp_path):
    (whole, rows), (parts, split) = (run(LineTask(n), tmp_path / str(n)) for n in (1, 4))
    assert whole.step == parts.step
    assert [row["loss"] for row in split] == pytest.approx([row["loss"] for row in rows], rel=1e-4)


def test_gradients_that_are_not_finite_change_no_weight():
    task, network = LineTask(), nn.Linear(1, 1)
    state = new_state(network, torch.optim.SGD(network.parameters(), lr=0.0), ema_decay=0.9)
    before = [p.clone() for p in network.parameters()]
    for bad in (math.nan, math.inf):

        def losses(model, batch, done, bad=bad):
            return {"loss": (model(task.x[batch]) * bad).mean()}

        train_step(state, losses, [np.arange(4)], 0.1, max_norm=1.0)
        train_step(state, losses, [np.arange(4)], 0.1)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), before, strict=True))
    assert state.step == 4
    train_step(state, task.losses, [np.arange(4)], 0.1)
    assert not any(torch.equal(a, b) for a, b in zip(network.parameters(), before, strict=True))


def test_a_long_gradient_is_shortened():
    task, network = LineTask(), nn.Linear(1, 1)
    state = new_state(network, torch.optim.SGD(network.parameters(), lr=0.0))
    before = nn.utils.parameters_to_vector(network.parameters()).detach().clone()
    train_step(state, task.losses, [np.arange(16)], 1.0, max_norm=0.01)
    moved = nn.utils.parameters_to_vector(network.parameters()).detach() - before
    assert float(moved.norm()) == pytest.approx(0.01, rel=1e-3)


def test_the_average_is_the_recurrence_with_a_quick_start():
    task = LineTask()
    state = begin(task, 0, torch.device("cpu"))
    expected = state.network.weight.detach().clone()
    assert state.average is not state.network
    for step in range(1, 300):
        train_step(state, task.losses, [np.arange(16)], 0.01)
        decay = min(0.9, step / (step + 20))
        expected.lerp_(state.network.weight.detach(), 1 - decay)
        torch.testing.assert_close(state.average.weight, expected, rtol=0, atol=1e-6)
    network = task.new_network()
    plain = new_state(network, task.new_optimizer(network))
    assert plain.average is plain.network


def test_the_average_keeps_indices_and_averages_statistics():
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    network.register_buffer("index", torch.arange(50), persistent=False)
    state = new_state(network, torch.optim.SGD(network.parameters(), lr=0.0), ema_decay=0.9)
    for _ in range(30):
        train_step(state, lambda model, batch, done: {"loss": model(torch.randn(8, 2)).square().sum()}, [0], 0.01)
    assert torch.equal(state.average.index, network.index)
    now, mean = network[1].running_mean, state.average[1].running_mean
    assert not torch.equal(now, mean) and bool(mean.any()) and not state.average.training


def test_a_checkpoint_is_whole_or_absent(tmp_path):
    task = LineTask()
    state = begin(task, 0, torch.device("cpu"))
    save_checkpoint(state, tmp_path / "state.pt")
    whole = (tmp_path / "state.pt").read_bytes()
    state.history.append({"epoch": lambda: 0})  # cannot be written
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint(state, tmp_path / "state.pt")
    assert (tmp_path / "state.pt").read_bytes() == whole
    torch.save({"model": {}}, tmp_path / "old.pt")
    with pytest.raises(ConfigError, match=r"old\.pt is of an earlier version"):
        load_checkpoint(state, tmp_path / "old.pt")


def test_prefetched_items_are_made_one_ahead_and_faults_arrive():
    made = []

    def items():
        for number in range(4):
            made.append(number)
            yield number
        raise ValueError("no more")

    source = prefetched(items())
    assert next(source) == 0
    with pytest.raises(ValueError, match="no more"):
        list(source)
    assert made == [0, 1, 2, 3]


WITHOUT_RAY = """
import sys
sys.modules["ray"] = None  # importing it fails
from pathlib import Path
from raylib.config import SegmentationData, TrainStage, TrainUnetConfig
from raylib.datasets.segmentation_sets import split_photos
import raylib.training.regressor.task, raylib.training.paper.tasks
from raylib.training.loop import Worker, begin, train
from raylib.training.segmentation.task import UnetTask

folder = Path(sys.argv[1])
data = SegmentationData(str(folder / "fasseg"), ("V3",), fasseg_test=("V3/01",), fasseg_validation=("V3/02",))
config = TrainUnetConfig(
    "run", str(folder), str(folder / "out"), data=data, widths=(8, 16), stages=(TrainStage(32, 2),), batch_size=4,
    cache_px=40, fasseg_repeat=4, warmup_steps=2, precision="float32",
)
task = UnetTask(config, split_photos(data), Worker())
state = begin(task, config.seed, Worker().device)
assert train(task, state, Worker(), Path(config.out), lambda row, save: save(folder / "state.pt")) is None
print(state.step, state.history[1]["loss"] < state.history[0]["loss"], (folder / "state.pt").is_file())
"""


@pytest.mark.slow
def test_every_training_is_there_without_ray(tmp_path):
    write_fasseg_v3(tmp_path / "fasseg", persons=4, shots=3, size=48)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_RAY, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "12 True True"
