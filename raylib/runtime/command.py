"""Command lines: one dataclass in, one validated instance out; a mistake is one sentence and exit status 2.

What takes time to import is imported where it is used, so that a job can be stopped in a sentence from the start.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TextIO, TypeVar

from raylib.errors import ConfigError, RaylibError
from raylib.runtime.ray_address import check_reachable, cluster_address
from raylib.runtime.stopping import watch_for_signals

if TYPE_CHECKING:
    from raylib.config import Choice

C = TypeVar("C")


def parse(config_class: type[C] | Choice[C], description: str, argv: Sequence[str] | None = None) -> C:
    """Returns an instance of `config_class` from the command line.

    Defaults come from the dataclass, then from `--config FILE.yaml`, then from the options after it. Unknown
    options and unknown keys of the file are errors.

    Args:
        config_class: frozen dataclass whose fields become options, or several of which an option chooses one.
        description: text above the options in `--help`.
        argv: words to parse; the process's own by default.
    """
    from raylib.config.command_line import parsed

    return parsed(config_class, description, argv)[0]


def _as_yaml(config: Any) -> str:
    """Returns the settings as --config reads them, but for values of storage options, which may be credentials."""
    import json

    import yaml

    values = asdict(config)
    if values.get("storage_options"):
        values["storage_options"] = dict.fromkeys(values["storage_options"], "(not shown)")
    plain = json.loads(json.dumps(values))  # YAML knows no tuples
    return str(yaml.safe_dump(plain, sort_keys=False))


def _calm_ray() -> None:
    """Has Ray, which reads this when it is imported, colour nothing off a terminal and omit notes of its own."""
    notes = "Set ray log level from environment variable|Reporting training result"
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", notes)
    if not sys.stdout.isatty():
        os.environ.setdefault("RAY_COLOR_PREFIX", "0")
        # What Ray merges of several workers' lines it marks in green.
        os.environ.setdefault("RAY_DEDUP_LOGS_ALLOW_REGEX", f"^(?!.*({notes}))")


def _shorten_spinning() -> None:
    """Has OpenMP's threads, which PyTorch uses, spin for less until the next operation; read when torch is loaded.

    By default they spin for some ms and take the core that the second part of a kernel needs: with 33025 vertices two
    threads render no faster than one. Spinning for less costs PyTorch nothing; not at all, a quarter to all of its
    time. Processes that a job starts inherit it.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "20000")


@dataclass(frozen=True)
class Command(Generic[C]):
    """What a job, or one word of a job, does.

    Attributes:
        run: does it and returns the exit status.
        config_class: its settings, or several classes of which an option chooses one.
        description: text above the options in `--help`; the first line says what the job does, and a section
            "Examples:" shows command lines.
        plan: says what a run would do, for --dry-run.
        continues: the same command goes on where one was stopped.
        on_ray: it joins or starts Ray; an address at which none is is said before anything is imported.
    """

    run: Callable[[C], int]
    config_class: type[C] | Choice[C]
    description: str
    plan: Callable[[C], None]
    continues: bool = False
    on_ray: bool = False


class _LastingFile(io.FileIO):
    """A stream that a job does not depend on: when nobody reads it any more, or its disk is full, words are lost.

    Args:
        number: file descriptor.
        ends: a reader who goes ends the process without a word, as it does other programs.
    """

    def __init__(self, number: int, ends: Callable[[], bool]):
        super().__init__(number, "wb", closefd=False)
        self._ends = ends

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno == errno.EPIPE and self._ends():
                os._exit(128 + signal.SIGPIPE)
            if error.errno not in (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EIO):
                raise
            return memoryview(data).nbytes


_working = False
"""Whether a job runs; before and in a dry run all there is are the words."""


def _lasting(stream: TextIO, number: int) -> TextIO:
    """Returns a stream that writes what its encoding lacks as escapes and that `_LastingFile` carries."""
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    try:
        if stream.fileno() != number:
            return stream
        stream.flush()
        raw = _LastingFile(number, lambda: not _working)
    except (OSError, ValueError):  # closed, as by `>&-`
        return stream
    # By lines, also into a file: what was said last stands last there, errors among it.
    return io.TextIOWrapper(io.BufferedWriter(raw), stream.encoding, "backslashreplace", line_buffering=True)


def _prepare() -> None:
    """Makes standard output and error robust; both exist then."""
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:  # the caller has closed it
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8", errors="replace"))  # noqa: SIM115, PTH123
        else:
            setattr(sys, name, _lasting(stream, number))


def _sentence(error: Exception) -> str | None:
    """Returns what the machine refuses in one sentence, None where an error says that the program is wrong."""
    if isinstance(error, RaylibError):
        return str(error)
    if isinstance(error, MemoryError):
        return "there is not enough memory; smaller settings or fewer processes need less"
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("raylib"):
        return f"no installed package brings the module {error.name!r}; `make demo` makes an environment that has all"
    if isinstance(error, OSError) and error.errno is not None:
        where = f": {error.filename!r}" if error.filename else ""
        return f"{error.strerror or type(error).__name__}{where}; when that is mended, run the same command again"
    return None


def main(command: Command[C], argv: Sequence[str] | None = None) -> NoReturn:
    """Parses the command line, runs the job and exits with its status.

    With --dry-run the settings are printed, then what the plan has to say, and the job is not run.

    The package's own errors, and the machine's, are one sentence on stderr; the status is 2 after a `ConfigError`, 1
    after another. SIGINT, SIGTERM and SIGHUP end the job at any moment in one sentence, with status 130, 143 and 129.
    """
    global _working
    goes_on = "and the same command goes on from there" if command.continues else "and the same command begins anew"
    if argv is None:  # else this is not the whole process
        watch_for_signals(f"what is finished is kept, {goes_on}")
    _prepare()
    from raylib.config.command_line import parsed

    config, dry = parsed(command.config_class, command.description, argv)
    try:
        if dry:
            print(_as_yaml(config), end="")
            command.plan(config)
            print("dry run: nothing was done")
            status = 0
        else:
            _calm_ray()
            _shorten_spinning()
            if command.on_ray:
                check_reachable(cluster_address())
            _working = True
            status = command.run(config)
    except Exception as error:
        told = _sentence(error)
        if told is None:
            raise
        print(f"{sys.argv[0]}: error: {told}", file=sys.stderr)
        status = 2 if isinstance(error, ConfigError) else 1
    sys.exit(status)


def main_with_commands(commands: Mapping[str, Command[Any]], examples: Sequence[str] = ()) -> NoReturn:
    """Runs the job that the command line's first word names, with the words after it as its options.

    Args:
        commands: what each word does.
        examples: command lines for the help of the whole.
    """
    watch_for_signals("what is finished is kept, and the same command begins anew")
    _prepare()
    words = sys.argv[1:]
    name = Path(sys.argv[0]).name
    if words and words[0] in commands:
        sys.argv[0] = f"{sys.argv[0]} {words[0]}"
        main(commands[words[0]], argv=words[1:])
    if words and words[0] in ("-h", "--help"):
        firsts = {word: command.description.partition("\n")[0] for word, command in commands.items()}
        print(f"usage: {name} COMMAND [OPTIONS]\n")
        print("\n".join(f"  {word:14} {first}" for word, first in firsts.items()))
        print(f"\nEach has its own help: {name} COMMAND --help")
        if examples:
            print("\n".join(["", "Examples:", *(f"    {example}" for example in examples)]))
        sys.exit(0)
    given = f"command is {words[0]!r}" if words else "no command given"
    print(f"{name}: error: {given}, expected one of {list(commands)}", file=sys.stderr)
    sys.exit(2)
