"""How often and how long a storage is asked: one policy of tries, limits in time, and errors without credentials."""

from __future__ import annotations

import os
import random
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from raylib.errors import ImageError

T = TypeVar("T")


class UnreachedError(OSError):
    """Nobody is at an address; at a run's start that is not tried again."""


PERMANENT = (
    UnreachedError,
    FileNotFoundError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
    FileExistsError,
    ValueError,
    TypeError,
    NotImplementedError,
    ImportError,
    MemoryError,
    ImageError,
)
"""Errors that waiting does not mend; what else a storage raises may be a full queue or a server that restarts."""

PERMANENT_NAMES = frozenset(
    {"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "ParamValidationError", "InvalidURL"}
)
"""The same, of packages that may be absent."""

UNREACHED_NAMES = frozenset({"EndpointConnectionError", "ClientConnectorError", "ConnectTimeoutError"})
"""Errors that say that nobody could be asked; at a run's start these are a wrong address rather than a restart."""

TRIES_TO_REACH = 3

_LONGEST_PAUSE_S = 30.0

_SECRET = re.compile("key|secret|token|pass|user|credential", re.IGNORECASE)
"""Names of settings whose values are credentials."""


class ReadTimeoutError(ImageError):
    """What was read did not come in time; an image's row gets status timeout.

    Args:
        message: one sentence.
    """

    def __init__(self, message: str):
        super().__init__("timeout", message)

    def __reduce__(self) -> tuple[type, tuple[str, ...]]:  # type: ignore[override]
        return type(self), (self.message,)


def is_any(error: BaseException, names: frozenset[str]) -> bool:
    """Tells whether an error is of a class of one of these names; its package may be absent."""
    return any(kind.__name__ in names for kind in type(error).__mro__)


def within(call: Callable[[], T], seconds: float, told: str) -> T:
    """Returns what `call` returns, or gives it up after so many seconds.

    The call runs in a thread of its own, which is left to itself when its time is over: one that waits for a dead
    disk cannot be ended, and must not keep the process from ending.

    Args:
        call: what to do; should end some time after its limit by itself.
        seconds: limit.
        told: text of the error.

    Raises:
        ReadTimeoutError: the time is over.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:  # raised again where it is waited for
            errors.append(error)

    thread = threading.Thread(target=run, name="raylib-read", daemon=True)
    thread.start()
    thread.join(seconds)
    if results:
        return results[0]
    if errors:
        raise errors[0]
    raise ReadTimeoutError(told)


def patiently(call: Callable[[], T], tries: int, first_pause_s: float = 0.5) -> T:
    """Returns what `call` returns, calling again after errors that may pass.

    Pauses double from `first_pause_s` to half a minute, each drawn from its upper half, so that the many processes of
    a run do not come back to a throttled server all at once.

    Args:
        call: a read, write or listing without side effects other than its own.
        tries: how often `call` is called at most.
        first_pause_s: seconds before the second try.
    """
    for n in range(tries - 1):
        try:
            return call()
        except PERMANENT:
            raise
        except Exception as error:
            if is_any(error, PERMANENT_NAMES):
                raise
            time.sleep(min(_LONGEST_PAUSE_S, first_pause_s * 2**n) * random.uniform(0.5, 1.0))
    return call()


def without_secrets(text: str, storage_options: Mapping[str, Any]) -> str:
    """Returns a text with asterisks for each credential in storage options or in AWS's environment variables."""
    secrets = {value for name, value in os.environ.items() if name.startswith("AWS_") and _SECRET.search(name)}
    pending: list[tuple[str, Any]] = list(storage_options.items())
    while pending:
        name, value = pending.pop()
        if isinstance(value, Mapping):
            pending += value.items()
        elif isinstance(value, str) and _SECRET.search(name):
            secrets.add(value)
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text
