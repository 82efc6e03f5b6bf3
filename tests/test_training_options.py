"""Each training has the options that it reads and no others."""

import ast
import inspect
from dataclasses import fields, is_dataclass
from types import ModuleType
from typing import get_args, get_type_hints

import pytest
import yaml

from raylib import config as settings
from raylib.config import (
    TRAIN_MESHNET,
    FaceLossWeights,
    FaceMeshNetSettings,
    TrainBabyMeshnetConfig,
    TrainPaperConfig,
    TrainRegressorConfig,
    TrainUnetConfig,
)
from raylib.config.choice import options
from raylib.datasets import face_set, segmentation_sets
from raylib.detection import detector as faces
from raylib.errors import ConfigError
from raylib.paper import scene as deformation
from raylib.runtime.command import parse
from raylib.training import ray_run
from raylib.training.paper import data as meshnet_data
from raylib.training.paper import loss as meshnet_loss
from raylib.training.paper import run as meshnet_ray
from raylib.training.paper import task as meshnet_loop
from raylib.training.paper import tasks as paper_tasks
from raylib.training.regressor import cascade as face_cascade
from raylib.training.regressor import run as face_meshnet_ray
from raylib.training.regressor import task as face_meshnet_loop
from raylib.training.segmentation import run as unet_ray
from raylib.training.segmentation import task as unet_loop

UNET = (unet_loop, unet_ray, ray_run)
PAPER = (meshnet_loop, paper_tasks, meshnet_ray, ray_run)
REGRESSOR = (face_meshnet_loop, face_meshnet_ray, face_cascade, ray_run)
READERS: dict[type, tuple[tuple[ModuleType, ...], set[str]]] = {
    TrainUnetConfig: (UNET, {"config", "run"}),
    TrainPaperConfig: (PAPER, {"config", "run"}),
    TrainBabyMeshnetConfig: (PAPER, {"config", "run"}),
    TrainRegressorConfig: (REGRESSOR, {"config", "run"}),
    FaceMeshNetSettings: (REGRESSOR, {"face"}),
    settings.PaperSettings: ((deformation, paper_tasks, meshnet_ray), {"settings", "paper"}),
    settings.BabySettings: ((deformation, paper_tasks, meshnet_ray), {"settings", "paper"}),
    settings.LossWeights: ((meshnet_loss,), {"w"}),
    settings.TermWeights: ((meshnet_loss,), {"w"}),
    settings.MeshnetData: ((meshnet_data,), {"data"}),
    settings.SegmentationData: ((segmentation_sets,), {"data"}),
    settings.FaceSearchSettings: ((faces, face_set), {"s", "settings"}),
    settings.TrainStage: ((unet_loop,), {"stage", "stages"}),
}
"""Modules that read the settings of a class, and what they call its instances."""


def last_name(node: ast.expr) -> str:
    """What the object is called whose attribute is read: `face` in `self._config.face.cache`."""
    if isinstance(node, ast.Subscript):
        return last_name(node.value)
    name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
    return name.lstrip("_")


def attributes_read(source: str, names: set[str]) -> set[str]:
    """The attributes of objects of these names that a source text reads."""
    nodes = ast.walk(ast.parse(source))
    return {node.attr for node in nodes if isinstance(node, ast.Attribute) and last_name(node.value) in names}


def read_of(config: type) -> set[str]:
    """The fields and properties of a class of settings that are read, directly or by a property that is."""
    modules, names = READERS[config]
    read = set().union(*(attributes_read(inspect.getsource(module), names) for module in modules))
    for name in read & set(vars(config)):
        if isinstance(vars(config)[name], property):
            body = inspect.cleandoc("\n" + inspect.getsource(vars(config)[name].fget))
            read |= attributes_read(body, {"self"})
    return read


def groups(config: type) -> list[type]:
    """The class itself, and the classes of the settings inside it."""
    found = [config]
    for hint in get_type_hints(config).values():
        for inner in (hint, *get_args(hint)):
            if is_dataclass(inner):
                found += groups(inner)
    return found


@pytest.mark.parametrize("config", [TrainUnetConfig, *TRAIN_MESHNET.classes.values()])
def test_every_option_is_read_by_its_training(config):
    assert not {"accumulate", "decay_last"} & read_of(TrainRegressorConfig)  # what nothing reads is found
    for group in groups(config):
        if group is FaceLossWeights:  # by name; test_face_training sees that each is a term
            continue
        unread = {entry.name for entry in fields(group)} - read_of(group)
        assert unread <= {TRAIN_MESHNET.option}, f"{group.__name__}: {unread}"


FACES = ["--face.synthetic", "a", "--face.validation", "b"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--network", "meshnet", *FACES, "--paper.template", "teapot"], "paper.template is given, which network"),
        (["--paper.target=sphere"], "which network meshnet_paper does not read; babymeshnet reads it"),
        (["--face.photo-share", "0.5"], "face.photo_share is given, which network meshnet_paper does"),
        (["--network=babymeshnet", "--images_per_worker=4"], "does not read; meshnet and meshnet_paper read it"),
        (["--network=babymeshnet", "--data.rendered", "4"], "data.rendered is given, which network babymeshnet"),
        (["--network=babymeshnet", '--paper={"loss": {"masked": false}}'], "paper.loss.masked is given"),
        (["--network", "meshnet", *FACES, "--accumulate=1"], "accumulate is given, which network meshnet does not"),
        (["--network", "meshnett"], "network is 'meshnett', expected one of meshnet, meshnet_paper, babymeshnet"),
        (["--network", "meshnet", *FACES, "--face.photographs=c", "--face.cascade_noise=0"], "photographs is 'c'"),
        (["--network", "meshnet", *FACES, "--face.init_weights=c", "--face.cascade_steps=4"], "cascade_steps is 4"),
        (["--network", "meshnet", *FACES, "--face.closing_ridge=1"], "closing_ridge is 1.0, expected the default"),
        (["--network", "meshnet", *FACES, "--face.loss.keep=1"], "keep is 1.0, expected the default where"),
        (["--network=babymeshnet", "--paper.vgg_weights=vgg.pth"], "vgg_weights is 'vgg.pth', expected none"),
    ],
)  # fmt: skip
def test_an_option_that_the_run_would_not_read_is_one_sentence(words, expected, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(TRAIN_MESHNET, "", words)
    error = capsys.readouterr().err.strip()
    assert stop.value.code == 2 and expected in error and len(error.splitlines()) == 1, error


def test_the_network_of_a_file_counts_and_the_last_word_wins(tmp_path, capsys):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({"network": "babymeshnet", "paper": {"target": "sphere"}}))
    config = parse(TRAIN_MESHNET, "", ["--config", str(path), "--epochs", "2"])
    assert isinstance(config, TrainBabyMeshnetConfig) and config.paper.target == "sphere"
    with pytest.raises(SystemExit):
        parse(TRAIN_MESHNET, "", [f"--config={path}", "--network", "meshnet_paper"])
    assert "paper.target is given, which network meshnet_paper does not read" in capsys.readouterr().err
    path.write_text(yaml.safe_dump({"network": "meshnet", "face": {"synthetic": "a", "validation": "b"}, "data": {}}))
    with pytest.raises(SystemExit):
        parse(TRAIN_MESHNET, "", ["--config", str(path)])
    assert "data is given, which network meshnet does not read" in capsys.readouterr().err


@pytest.mark.parametrize("network", TRAIN_MESHNET.classes)
def test_help_is_of_the_network_and_names_what_the_others_read(network, capsys):
    with pytest.raises(SystemExit):
        parse(TRAIN_MESHNET, "Trains.", ["--network", network, "--help"])
    text = capsys.readouterr().out
    own = {name for name in options(TRAIN_MESHNET.classes[network]) if "." in name}
    others = {name for config in TRAIN_MESHNET.classes.values() for name in options(config) if "." in name}
    assert all(f"--{name} " in text for name in own)
    assert not any(f"--{name} " in text for name in others - own)
    lines = text.partition("options of its own")[2].splitlines()[1:4]
    assert [line.strip().partition(":")[0] for line in lines] == list(TRAIN_MESHNET.classes)
    assert "face, " in lines[0] and "accumulate" in lines[1] and "data" not in lines[2]


def test_a_class_is_of_its_network_alone():
    with pytest.raises(ConfigError, match="network is 'meshnet', expected 'babymeshnet'"):
        TrainBabyMeshnetConfig(network="meshnet")
    with pytest.raises(ConfigError, match=r"widths is .* where init_weights bring a network"):
        TrainUnetConfig("a", "b", "c", init_weights="d", widths=(8, 16))
