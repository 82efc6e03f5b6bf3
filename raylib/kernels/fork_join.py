"""Hands parts of a kernel's work to threads that wait for it in native code.

Waking a sleeping thread takes some 50 microseconds, and one that wakes through Python also has to wait until the
caller gives the interpreter's lock away; a picture of 128 pixels is rendered within a few milliseconds. So a helper
spins for half a millisecond after each part before it sleeps, and parts are handed over and waited for
without the interpreter. Nobody depends on a helper: parts that none has begun are done by the caller.

A helper's mailbox is a few integers. Who has taken the helper posts a part while the state is idle; whoever changes
the state from ready first, helper or caller, does the part.
"""

from __future__ import annotations

import hashlib
import os
import platform
import stat
import tempfile
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
from llvmlite import ir
from numba import config as numba_config
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic


def _cache_of_last_resort() -> None:
    """Gives Numba a folder to keep compiled kernels in where it would find none, and refuse to compile at all.

    That is a package folder and a home that are read-only, or a NUMBA_CACHE_DIR that is. What lies in the folder is
    executed, so that it must be ours alone.
    """
    named = numba_config.CACHE_DIR
    if named:
        if _is_writable(Path(named)):
            return
    elif _is_writable(Path(__file__).parent / "__pycache__") or _is_writable(_user_cache()):
        return
    folder = Path(tempfile.gettempdir()) / f"physface-kernels-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        info = folder.lstat()
        ours = stat.S_ISDIR(info.st_mode) and info.st_uid == os.getuid() and not info.st_mode & 0o022
    except OSError:
        ours = False
    if ours and _is_writable(folder):
        numba_config.CACHE_DIR = str(folder)
    else:
        KERNEL["cache"] = False  # compiled anew in every process


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "numba"


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except (OSError, RuntimeError):  # no home at all
        return False


KERNEL = {"cache": True, "nogil": True, "error_model": "numpy"}
"""Options of every Numba kernel: cached on disk, free of the GIL, IEEE division, nothing reassociated or fused."""

_cache_of_last_resort()

MAILBOX_SIZE = 8

STATE, CALLED, _THUNK, _VALUES, _PART, _PARTS, _FINISHED, _STATUS = range(MAILBOX_SIZE)
"""What the integers are: state; whether a part is about to come; the part; whether it is finished; its status."""

IDLE, _READY, _RUNNING, ASLEEP = range(4)

_SPINS = 20_000
"""How often a helper looks for the next part before it sleeps: half a millisecond."""

_SPINS_BETWEEN_YIELDS = 200
"""Whoever waits leaves its core to others that want it every few microseconds: on a busy machine the thread that is
waited for may be one of them."""

_INTEGER = ir.IntType(64)
_THUNK_SIGNATURE = types.none(types.int64, types.int64, types.int64)
_yield_core = types.ExternalFunction("sched_yield", types.int32())


def _slot(builder: Any, mailbox: Any, index: Any) -> Any:
    return builder.gep(builder.inttoptr(mailbox, _INTEGER.as_pointer()), [index])


@intrinsic
def _load(typing_context, mailbox, index):
    """An integer of a mailbox, and with it all that was written before it was."""

    def generate(context, builder, signature, arguments):
        return builder.load_atomic(_slot(builder, *arguments), "acquire", 8)

    return types.int64(types.int64, types.int64), generate


@intrinsic
def _store(typing_context, mailbox, index, value):
    """Writes an integer of a mailbox after all that was written before."""

    def generate(context, builder, signature, arguments):
        builder.store_atomic(arguments[2], _slot(builder, *arguments[:2]), "release", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@intrinsic
def _change_state(typing_context, mailbox, old, new):
    """Whether a mailbox's state was the old one; if so it is the new one now."""

    def generate(context, builder, signature, arguments):
        mailbox, old, new = arguments
        slot = _slot(builder, mailbox, _INTEGER(STATE))
        return builder.extract_value(builder.cmpxchg(slot, old, new, "acq_rel", "acquire"), 1)

    return types.boolean(types.int64, types.int64, types.int64), generate


@intrinsic
def _pause(typing_context):
    """Tells the processor, where it knows the hint, that this loop only waits."""

    def generate(context, builder, signature, arguments):
        if platform.machine() in ("x86_64", "AMD64"):
            hint = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, hint, "llvm.x86.sse2.pause"), [])
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def _call(typing_context, thunk, part, parts, values_at):
    """Calls the thunk at an address; returns its status, zero unless it failed."""

    def generate(context, builder, signature, arguments):
        thunk_type = context.call_conv.get_function_type(_THUNK_SIGNATURE.return_type, _THUNK_SIGNATURE.args)
        outputs = [cgutils.alloca_once(builder, pointer.pointee) for pointer in thunk_type.args[:2]]
        thunk = builder.inttoptr(arguments[0], thunk_type.as_pointer())
        return builder.sext(builder.call(thunk, [*outputs, *arguments[1:]]), _INTEGER)

    return types.int64(*(types.int64,) * 4), generate


@intrinsic
def _address_of(typing_context, values):
    """Where a copy of a tuple lies for as long as the calling function runs."""

    def generate(context, builder, signature, arguments):
        return builder.ptrtoint(cgutils.alloca_once_value(builder, arguments[0]), _INTEGER)

    return types.int64(values), generate


@intrinsic
def _thunk_of(typing_context, kernel, values):
    """Address of a function of part, parts and a tuple's address that calls the kernel with the tuple's values."""
    function = kernel.dispatcher
    for value in values:
        if not isinstance(value, types.Array | types.Number | types.Boolean):
            raise TypeError(f"{function.py_func.__name__} is given {value}, expected arrays, numbers and booleans")

    @intrinsic
    def values_at(typing_context, address):
        def generate(context, builder, signature, arguments):
            pointer = builder.inttoptr(arguments[0], context.get_value_type(values).as_pointer())
            loaded = builder.load(pointer)
            # Arrays without their owner: threads that count references to the same arrays, as they do at calls, would
            # wait for each other at every one. The caller holds them all.
            for i, value in enumerate(values):
                if isinstance(value, types.Array):
                    owner = builder.extract_value(loaded, (i, 0)).type
                    loaded = builder.insert_value(loaded, owner(None), (i, 0))
            return loaded

        return values(types.int64), generate

    def thunk(part, parts, at):
        function(part, parts, *values_at(at))

    # A thunk's types are those of every other, and Numba numbers functions anew in each process: without a name of
    # its own two thunks from the disk could be taken for one.
    signature = hashlib.sha256(str(values).encode()).hexdigest()
    thunk.__qualname__ = f"{function.py_func.__module__}.{function.py_func.__qualname__}_thunk_{signature}"

    def generate(context, builder, signature, arguments):
        compiled = context.compile_subroutine(builder, thunk, _THUNK_SIGNATURE, caching=False)
        return builder.ptrtoint(context.declare_function(builder.module, compiled.fndesc), _INTEGER)

    return types.int64(kernel, values), generate


@njit(**KERNEL)
def serve(mailbox):
    """Does the parts posted to the mailbox at an address until none comes for a while; then its state is asleep."""
    spins = 0
    while True:
        if _load(mailbox, STATE) == _READY and _change_state(mailbox, _READY, _RUNNING):
            _store(mailbox, CALLED, 0)
            status = _call(
                _load(mailbox, _THUNK), _load(mailbox, _PART), _load(mailbox, _PARTS), _load(mailbox, _VALUES)
            )
            _store(mailbox, _STATUS, status)
            # In this order: whoever sees the part finished may post the next one.
            _store(mailbox, STATE, IDLE)
            _store(mailbox, _FINISHED, 1)
            spins = 0
        spins += 1
        if spins % _SPINS_BETWEEN_YIELDS == 0:
            _yield_core()
        if spins > _SPINS:
            spins = 0
            if _load(mailbox, CALLED) != 0:
                _store(mailbox, CALLED, 0)
            elif _change_state(mailbox, IDLE, ASLEEP):
                return
        _pause()


@njit(**KERNEL)
def fork_join(parts, mailboxes, thunk, values_at):
    """Does all parts, with the helpers that are awake where there are any.

    Args:
        parts: number of parts.
        mailboxes: (helpers,) addresses of the mailboxes of helpers that nobody else has taken.
        thunk: from `_thunk_of`.
        values_at: from `_address_of`.

    Returns:
        Zero unless a part failed.
    """
    posted = np.zeros(parts, np.bool_)
    for part in range(1, min(parts, mailboxes.shape[0] + 1)):
        mailbox = mailboxes[part - 1]
        # A helper reads these only once it has found the state ready.
        _store(mailbox, _THUNK, thunk)
        _store(mailbox, _VALUES, values_at)
        _store(mailbox, _PART, part)
        _store(mailbox, _PARTS, parts)
        _store(mailbox, _FINISHED, 0)
        posted[part] = _change_state(mailbox, IDLE, _READY)
    status = _call(thunk, 0, parts, values_at)
    for part in range(1, parts):
        if not posted[part] or _change_state(mailboxes[part - 1], _READY, IDLE):
            posted[part] = False
            status |= _call(thunk, part, parts, values_at)
    for part in range(1, parts):
        if posted[part]:
            mailbox = mailboxes[part - 1]
            spins = 0
            while _load(mailbox, _FINISHED) == 0:
                spins += 1
                if spins % _SPINS_BETWEEN_YIELDS == 0:
                    _yield_core()
                _pause()
            status |= _load(mailbox, _STATUS)
    return status


_VERSION = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]

_kernel: Any = None
"""Stands for the kernel in `_entry`, of which `entry_of` makes one function for each kernel."""


def _entry(parts, mailboxes, *values):
    return fork_join(parts, mailboxes, _thunk_of(_kernel, values), _address_of(values))


def entry_of(kernel: Any) -> Any:
    """Returns a function of the number of parts, helpers' mailboxes and the kernel's arguments that does all parts.

    It is compiled like a function that stands in the kernel's place, so that Numba keeps it on disk with the kernel:
    one made by a closure over the kernel would be compiled in every process. Its name tells the version of this file,
    which Numba does not compare: an entry must not meet helpers that have other mailboxes.

    Args:
        kernel: compiled function of part, parts and further arguments, which returns nothing.
    """
    source = kernel.py_func.__code__
    code = _entry.__code__.replace(co_filename=source.co_filename, co_firstlineno=source.co_firstlineno)
    entry = FunctionType(code, {**globals(), "__name__": kernel.py_func.__module__, "_kernel": kernel})
    entry.__qualname__ = f"{kernel.py_func.__qualname__}_in_parts_{_VERSION}"
    return njit(**KERNEL)(entry)
