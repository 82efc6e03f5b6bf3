"""Command lines: what is valid is parsed, what is not ends in one sentence and exit status 2."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import raylib.config as config_module
from raylib.config import Choice, EvaluateShapeConfig, FaceSettings, ReconstructConfig, ReportConfig, TrainUnetConfig
from raylib.config.paths import absolute, absolute_paths
from raylib.reconstruction.plan import print_plan
from raylib.reconstruction.schema import to_parquet
from raylib.runtime.command import Command, main, parse

BASE = ["--input", "in", "--output", "out"]


def here(name: str) -> str:
    return str(Path.cwd() / name)


def test_defaults_files_and_options_override_in_this_order(tmp_path):
    assert parse(ReconstructConfig, "", BASE) == ReconstructConfig(here("in"), here("out"))
    path = tmp_path / "c.yaml"
    path.write_text("fov_deg: 20\nfaces:\n  detector: cnn\n  max_faces: 3\n")
    got = parse(ReconstructConfig, "", ["--config", str(path), *BASE, "--faces.max-faces", "5"])
    assert got == ReconstructConfig(
        here("in"), here("out"), fov_deg=20.0, faces=FaceSettings(detector="cnn", max_faces=5)
    )


def test_dashes_and_underscores_name_the_same_option():
    for option in ("--morphable-model", "--morphable_model"):
        for words in ([option, "a-b.bin"], [f"{option}=a-b.bin"]):
            config = parse(ReconstructConfig, "", [*BASE, "--method", "landmarks", *words])
            assert config.morphable_model == here("a-b.bin")


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


def test_lists_take_several_words():
    assert parse(ReportConfig, "", ["--compare", "a", "b c", "--page-mb", "3"]).compare == [here("a"), here("b c")]
    assert parse(ReportConfig, "", ["--compare", '["a", "b"]']).compare == [here("a"), here("b")]
    got = parse(ReconstructConfig, "", ["--input", "a", "b", "--output", "out", "--include", "*.jpg"])
    assert got.input == [here("a"), here("b")] and got.include == ["*.jpg"]


@pytest.mark.parametrize("name", ["[wedding]", "2024", "null", "{x}", "a: b", "-", "yes", "#1", "~x", "'q'"])
def test_a_name_that_yaml_would_read_as_something_else_is_a_name(name):
    got = parse(ReconstructConfig, "", ["--input", name, "--include", name, "--output", name])
    assert got == ReconstructConfig(here(name), here(name), include=[name])
    got = parse(ReconstructConfig, "", [f"--input={name}", f"--include={name}", f"--output={name}"])
    assert got == ReconstructConfig(here(name), here(name), include=[name])


def test_paths_of_a_configuration_are_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = ReconstructConfig("~/in", "file://out", meshnet_weights="./w", morphable_model="prior")
    config = absolute_paths(config)
    assert config.input == str(Path("~/in").expanduser()) and config.morphable_model == "prior"
    assert config.output == str(tmp_path / "out") and config.meshnet_weights == str(tmp_path / "w")
    judged = absolute_paths(EvaluateShapeConfig("s3://b/truth", "out", ["ours=a", "b", "s3=s3://b/c"]))
    assert judged.results == [f"ours={tmp_path}/a", f"{tmp_path}/b", "s3=s3://b/c"]


@given(st.text("ab./~", min_size=1, max_size=12))
def test_absolute_paths_stay_and_mean_what_the_shell_means(text):
    once = absolute(text, "/here", "/home/me")
    assert once.startswith("/") and absolute(once, "/elsewhere", "/home/you") == once
    if "~" not in text:
        assert once == os.path.normpath(f"/here/{text}" if not text.startswith("/") else text).replace("//", "/")


@pytest.mark.parametrize("output", ["out", "./out", "file://out", "zip://x::out.zip"])
def test_a_relative_output_of_a_submitted_job_is_refused(output, monkeypatch, capsys):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    for lasting in ("/results", "s3://bucket/out", "~/out", "file:///out"):
        parse(ReconstructConfig, "", ["--input", "in", "--output", lasting])
    with pytest.raises(SystemExit) as caught:
        parse(ReconstructConfig, "", ["--input", "in", "--output", output])
    told = capsys.readouterr().err
    assert caught.value.code == 2 and f"output is {output!r}, a relative path" in told and "absolute path" in told


def test_dry_run_says_what_would_be_done_and_does_nothing(tmp_path, capsys, photographs):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("new.png", "<b>.png", "known.png"):
        shutil.copyfile(photographs / "astronaut.png", folder / name)
    rows = [{"image_uri": str(folder / "known.png"), "status": "ok"}]
    (tmp_path / "out" / "faces").mkdir(parents=True)
    (tmp_path / "out" / "faces" / "part-0.parquet").write_bytes(to_parquet(rows))
    before = sorted(tmp_path.rglob("*"))
    words = ["--input", str(folder), "--output", str(tmp_path / "out"), "--write-obj", "false", "--dry-run"]

    def plan(config):
        print_plan(config, Console())

    with pytest.raises(SystemExit) as caught:
        main(Command(lambda config: pytest.fail("it ran"), ReconstructConfig, "", plan), words)
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert f"would do  {folder}/<b>.png\nwould do  {folder}/new.png\n3 images, 2 to do, 1 done already" in out
    assert "write_obj: false" in out and "would write faces/*.parquet, GLB, previews, report.html" in out
    assert out.endswith("dry run: nothing was done\n") and sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_prints_settings_that_config_reads_and_no_credentials(tmp_path, capsys):
    words = ["--name", "n", "--storage-path", "s", "--out", "o", "--widths", "[4, 8]"]
    with pytest.raises(SystemExit):
        main(Command(lambda config: 1, TrainUnetConfig, "", lambda config: None), [*words, "--dry-run"])
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out.removesuffix("dry run: nothing was done\n"))
    expected = parse(TrainUnetConfig, "", words)
    assert parse(TrainUnetConfig, "", ["--config", str(tmp_path / "printed.yaml")]) == expected
    secret = ["--storage-options", '{"key": "hush", "anon": false}', "--dry-run"]
    with pytest.raises(SystemExit):
        main(Command(lambda config: 1, ReconstructConfig, "", lambda config: None), [*BASE, *secret])
    out = capsys.readouterr().out
    assert "hush" not in out and "key: (not shown)" in out


def test_ray_is_told_to_colour_nothing_off_a_terminal(monkeypatch, capsys):
    names = ("RAY_COLOR_PREFIX", "RAY_DEDUP_LOGS_ALLOW_REGEX", "RAY_DEDUP_LOGS_SKIP_REGEX")
    for name in names:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    seen = []

    def run(config):
        seen.append({name: os.environ.get(name) for name in names})
        return 0

    with pytest.raises(SystemExit) as caught:
        main(Command(run, ReconstructConfig, "", lambda config: None), BASE)
    assert caught.value.code == 0 and seen[0]["RAY_COLOR_PREFIX"] == "0"
    note = "x logging.cc: Set ray log level from environment variable RAY_BACKEND_LOG_LEVEL to 3"
    assert re.search(seen[0]["RAY_DEDUP_LOGS_SKIP_REGEX"], note)
    assert not re.search(seen[0]["RAY_DEDUP_LOGS_ALLOW_REGEX"], note)
    assert re.search(seen[0]["RAY_DEDUP_LOGS_ALLOW_REGEX"], "epoch 1.0 of 4")


def test_help_begins_with_what_is_needed_and_keeps_the_lines_of_examples(capsys):
    with pytest.raises(SystemExit):
        parse(ReconstructConfig, "Does it.\n\nExamples:\n    one\n    two\n", ["--help"])
    out = capsys.readouterr().out
    assert out.startswith("usage: ") and "--input INPUT --output OUTPUT [OPTIONS]" in out.partition("\n")[0]
    assert "Examples:\n    one\n    two\n" in out and "--dry_run" in out


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_tab_completion(shell, capsys):
    with pytest.raises(SystemExit) as caught:
        parse(ReconstructConfig, "", ["--print_completion", f"shtab-{shell}"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert "--faces.detector" in out and "hog_then_cnn" in out


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a: [1\n", "line 2 is no valid YAML"),
        (b"\x00\xff\xfe\x80", "is no text in UTF-8"),
        (b"- 1\n", "holds a list"),
        (b"only words\n", "holds a str"),
        (b"", "holds nothing"),
        (b"fov_deg: 20\nfov_deg: 25\n", "line 2 is no valid YAML: 'fov_deg' comes twice"),
        (b"faces:\n  max_faces: 1\n  max_faces: 2\n", "line 3 is no valid YAML: 'max_faces' comes twice"),
        (b"faces: 3\n", "faces is 3, expected a mapping of its settings: detector"),
        (None, "Is a directory"),
    ],
)
def test_a_file_that_holds_no_settings_is_named(content, expected, tmp_path, capsys):
    path = tmp_path / "c.yaml"
    path.mkdir() if content is None else path.write_bytes(content)
    for words in (["--config", str(path)], [f"--config={path}"]):
        with pytest.raises(SystemExit) as caught:
            parse(ReconstructConfig, "", [*BASE, *words])
        assert caught.value.code == 2
        message = capsys.readouterr().err
        assert expected in message and message.count("\n") == 1 and "Traceback" not in message


WORDS = """
import sys
from raylib.runtime.command import Command, main
from raylib.config import ReconstructConfig

def run(config):
    for n in range(20000):
        print("a face '\\xf6 \\U0001f600 \\udce9'", n)
    print("done", file=sys.stderr)
    return 0

main(Command(run, ReconstructConfig, "", lambda config: [run(config) for _ in range(3)]))
"""


def said(env: dict[str, str], tail: str, *words: str) -> tuple[int, str, str]:
    """Runs a job that says much, through a shell that does something with its words."""
    command = f'"{sys.executable}" -c "$JOB" --input a --output b {" ".join(words)} {tail}'
    done = subprocess.run(
        ["bash", "-c", command],
        env=os.environ | {"JOB": WORDS, "PYTHONPATH": str(Path(__file__).resolve().parents[1])} | env,
        capture_output=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.mark.parametrize(
    "env",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "utf-8"},
    ],
)
def test_letters_that_an_output_lacks_are_written_as_escapes(env):
    code, out, err = said(env, "| tail -n 1 | iconv -f latin1 -t utf-8; exit ${PIPESTATUS[0]}")
    assert code == 0 and err == "done\n" and "\\udce9" in out and out.endswith("19999\n")


def test_nobody_who_reads_and_a_full_disk_do_not_end_a_job():
    for tail in ("| head -n 1; exit ${PIPESTATUS[0]}", "> /dev/full", ">&-"):
        code, _, err = said({}, tail)
        assert code == 0 and err == "done\n", (tail, err)
    assert said({}, "2>&1 | head -n 1; exit ${PIPESTATUS[0]}", "--dry-run") == (141, f"input: {Path.cwd()}/a\n", "")


def test_what_the_machine_refuses_is_one_sentence(capsys):
    def failing(error):
        def run(config):
            raise error

        return run

    for error, told in (
        (OSError(28, "No space left on device", "/tmp/x"), "No space left on device: '/tmp/x'"),
        (MemoryError(), "not enough memory"),
        (ModuleNotFoundError("no", name="pytorch3d"), "no installed package brings the module 'pytorch3d'"),
    ):
        with pytest.raises(SystemExit) as caught:
            main(Command(failing(error), ReconstructConfig, "", lambda config: None), BASE)
        message = capsys.readouterr().err
        assert caught.value.code == 1 and told in message and message.count("\n") == 1
    with pytest.raises(KeyError):  # a fault of ours is not hidden
        main(Command(failing(KeyError("x")), ReconstructConfig, "", lambda config: None), BASE)


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("127.0.0.1:1", "no Ray cluster can be reached at 127.0.0.1:1"),
        ("http://10.0.0.1:8265", "submit this one with `ray job submit --address http://10.0.0.1:8265"),
        ("ray://10.0.0.1:10001", "--address http://10.0.0.1:8265"),
        ("nonsense", "expected HOST:PORT"),
        ("host:99999", "expected HOST:PORT"),
        ("no such host.invalid:6379", "no Ray cluster can be reached"),
    ],
)
def test_an_address_at_which_no_ray_is_ends_a_job_before_its_imports(address, told, monkeypatch, capsys):
    monkeypatch.setenv("RAY_ADDRESS", address)
    command = Command(lambda config: pytest.fail("it ran"), ReconstructConfig, "", lambda config: None, on_ray=True)
    with pytest.raises(SystemExit) as caught:
        main(command, BASE)
    message = capsys.readouterr().err
    assert caught.value.code == 2 and told in message and message.count("\n") == 1


def settings_of(config_class) -> set[type]:
    """Returns a class of settings and those of its groups."""
    hints = get_type_hints(config_class)
    groups = (hints[field.name] for field in fields(config_class))
    return {config_class}.union(*(settings_of(group) for group in groups if is_dataclass(group)))


NO_PATHS = {"name", "manifest_column", "include", "exclude", "fasseg_versions", "fasseg_test", "fasseg_validation"}


def test_every_option_that_holds_a_path_is_marked_as_one():
    """Else it would mean something else in the processes of a cluster."""
    classes = {one for one in vars(config_module).values() if isinstance(one, type) and is_dataclass(one)} - {Choice}
    marked, unmarked = 0, []
    for config_class in set.union(*map(settings_of, classes)):
        for field in fields(config_class):
            marked += "path_words" in field.metadata
            told = re.search(
                rf"\n        {field.name}: (.*?)(?=\n        \w+: |\Z)", config_class.__doc__ or "", re.DOTALL
            )
            sounds = told and re.match(r"[^;]*\b(folder|folders|file|path|URI|address|mesh that)\b", told[1])
            if (
                "str" in str(field.type)
                and sounds
                and field.name not in NO_PATHS
                and "path_words" not in field.metadata
            ):
                unmarked.append(f"{config_class.__name__}.{field.name}: {told[1]}")
    assert unmarked == [] and marked > 40
