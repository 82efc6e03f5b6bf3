"""Every job's `--help` explains every option, and its examples are command lines that the jobs accept."""

import re
import shlex
import sys
from importlib import import_module
from pathlib import Path

import pytest

from raylib.config import TRAIN_MESHNET
from raylib.runtime.command import main_with_commands, parse

ROOT = Path(__file__).resolve().parents[1]
SINGLE = ("build_prior", "demo", "reconstruct", "report", "synthesize", "train_meshnet", "train_unet")
SEVERAL = ("benchmark", "evaluate")


def commands() -> dict[str, object]:
    """Every command by its words on the command line."""
    found = {name: import_module(f"jobs.{name}").COMMAND for name in SINGLE}
    for name in SEVERAL:
        found |= {f"{name} {word}": command for word, command in import_module(f"jobs.{name}").COMMANDS.items()}
    return found


COMMANDS = commands()


def examples(text: str) -> list[list[str]]:
    """Returns the words of the command lines below "Examples:"."""
    _, found, lines = text.partition("Examples:\n")
    assert found, text
    lines = [line.strip() for line in lines.partition("\n\n")[0].splitlines()]
    return [shlex.split(line) for line in lines if not line.startswith("#")]


def test_every_job_is_here():
    assert {path.stem for path in (ROOT / "jobs").glob("*.py")} == {*SINGLE, *SEVERAL}


@pytest.mark.parametrize(
    ("name", "words"),
    [*((name, ()) for name in COMMANDS), *(("train_meshnet", ("--network", name)) for name in TRAIN_MESHNET.classes)],
)
def test_help_explains_every_option_with_its_default(name, words, capsys):
    command = COMMANDS[name]
    with pytest.raises(SystemExit) as caught:
        parse(command.config_class, command.description, [*words, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    options = re.split(r"\n  (?=--)", text.partition("options:\n")[2])[1:]
    own = [
        option
        for option in options
        if not re.match(r"--(config|print_\w+|dry_run|[\w.]+ CONFIG|[\w.]+\.help)\b", option)
    ]
    assert own
    for option in own:
        words = " ".join(option.partition("\n\n")[0].split())
        head = re.match(r"(--[\w.]+)( (\{\S+\}|\S+))? ", words)
        assert head, words
        explained = re.split(r"\((?:type|required|default)", words[head.end() :])[0]
        assert len(explained.split()) >= 2, words
        assert "default: " in words or "required" in words, words


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_are_command_lines_that_jobs_accept(name, monkeypatch):
    monkeypatch.chdir(ROOT)  # where configs/ is
    lines = examples(COMMANDS[name].description)
    assert any(words[1] == f"jobs/{name.split()[0]}.py" for words in lines)
    for words in lines:
        assert words[0] == "python" and words[1].startswith("jobs/")
        job, rest = words[1].removeprefix("jobs/").removesuffix(".py"), words[2:]
        if job in SEVERAL:
            job, rest = f"{job} {rest[0]}", rest[1:]
        parse(COMMANDS[job].config_class, "", rest)


@pytest.mark.parametrize("job", SEVERAL)
def test_help_without_a_command_lists_them(job, monkeypatch, capsys):
    commands = import_module(f"jobs.{job}").COMMANDS
    monkeypatch.setattr(sys, "argv", [f"{job}.py", "--help"])
    with pytest.raises(SystemExit) as caught:
        main_with_commands(commands, ["python jobs/x.py y"])
    out = capsys.readouterr().out
    assert caught.value.code == 0 and "Examples:\n    python jobs/x.py y\n" in out
    for word, command in commands.items():
        assert re.search(rf"^  {word} +{re.escape(command.description.splitlines()[0])}$", out, re.MULTILINE)
