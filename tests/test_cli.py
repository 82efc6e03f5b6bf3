"""Command lines: what is valid is parsed, what is not ends in one sentence and exit status 2."""

import pytest

from raylib.cli import parse
from raylib.config import FaceSettings, ReconstructConfig

BASE = ["--input", "in", "--output", "out"]


def test_defaults_files_and_options_override_in_this_order(tmp_path):
    assert parse(ReconstructConfig, "", BASE) == ReconstructConfig("in", "out")
    path = tmp_path / "c.yaml"
    path.write_text("fov_deg: 20\nfaces:\n  detector: cnn\n  max_faces: 3\n")
    got = parse(ReconstructConfig, "", ["--config", str(path), *BASE, "--faces.max-faces", "5"])
    assert got == ReconstructConfig("in", "out", fov_deg=20.0, faces=FaceSettings(detector="cnn", max_faces=5))


def test_dashes_and_underscores_name_the_same_option():
    for option in ("--morphable-model", "--morphable_model"):
        assert parse(ReconstructConfig, "", [*BASE, option, "a-b.bin"]).morphable_model == "a-b.bin"
        assert parse(ReconstructConfig, "", [*BASE, f"{option}=a-b.bin"]).morphable_model == "a-b.bin"


def test_storage_options_are_a_mapping():
    got = parse(ReconstructConfig, "", [*BASE, "--storage-options", '{"endpoint_url": "http://127.0.0.1:1"}'])
    assert got.storage_options == {"endpoint_url": "http://127.0.0.1:1"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([*BASE, "--no-such-option", "1"], "no_such_option"),
        ([*BASE, "--fov-deg", "wide"], "fov_deg"),
        ([*BASE, "--fov-deg", "500"], "fov_deg is 500.0, expected 5 to 120 degrees"),
        ([*BASE, "--faces.detector", "eigenfaces"], "hog_then_cnn"),
        ([*BASE, "--faces.hog-upsample", "9"], "hog_upsample is 9"),
        ([*BASE, "--method", "magic"], "landmarks"),
        (["--input", "in"], "output"),
        ([*BASE, "--config", "no/such/file.yaml"], "no/such/file.yaml"),
        (["--input", "", "--output", "out"], "input is ''"),
    ],
)
def test_mistakes_are_one_sentence_with_status_2(words, expected, capsys):
    with pytest.raises(SystemExit) as caught:
        parse(ReconstructConfig, "", words)
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert expected in message and message.count("\n") == 1 and "Traceback" not in message


def test_unknown_keys_of_a_file_are_errors(tmp_path, capsys):
    path = tmp_path / "c.yaml"
    path.write_text("fov_degrees: 20\n")
    with pytest.raises(SystemExit) as caught:
        parse(ReconstructConfig, "", ["--config", str(path), *BASE])
    assert caught.value.code == 2 and "fov_degrees" in capsys.readouterr().err


def test_help_explains_every_option(capsys):
    with pytest.raises(SystemExit) as caught:
        parse(ReconstructConfig, "Turns photographs into meshes.", ["--help"])
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for words in (
        "Turns photographs",
        "larger photographs are reduced",
        "seconds after which an image",
        "default: 30.0",
    ):
        assert words in text
