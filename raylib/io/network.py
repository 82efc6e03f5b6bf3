"""The network below fsspec: how long it may wait, and what a web server really answers."""

from __future__ import annotations

from typing import Any

import fsspec
from fsspec.asyn import sync

from raylib.errors import ImageError

_CONNECT_S = 10.0
"""Longest time to a connection, or `stall_timeout_s`, if that is less."""


def limit_waiting(filesystem: fsspec.AbstractFileSystem, stall_s: float, total_s: float) -> None:
    """Has a filesystem that goes over the network wait and try no longer than we say; ours are the only retries.

    What the user's storage options say stays.
    """
    while filesystem is not None:
        if "http" in filesystem.protocol:
            filesystem.client_kwargs = {"timeout": web_limits(stall_s, total_s)} | dict(
                filesystem.client_kwargs or {}
            )
        elif "s3" in filesystem.protocol:
            config = {
                "connect_timeout": min(_CONNECT_S, stall_s),
                "read_timeout": stall_s,
                "retries": {"total_max_attempts": 1},
            }
            filesystem.config_kwargs = config | dict(filesystem.config_kwargs or {})
            filesystem.retries = 1
        filesystem = getattr(filesystem, "fs", None)  # of an archive


def web_limits(stall_s: float, total_s: float) -> Any:
    """Returns aiohttp's limits: seconds without a byte, and in all."""
    import aiohttp

    return aiohttp.ClientTimeout(total=total_s, sock_connect=min(_CONNECT_S, stall_s), sock_read=stall_s)


async def fetch(filesystem: Any, url: str, most_bytes: int, waits: Any) -> bytes:
    """Returns what a web server has under a URL.

    fsspec's own calls ask for the size first and take each failure of that for a missing file.
    """
    session = await filesystem.set_session()
    wishes = {"timeout": waits} | filesystem.kwargs
    async with session.get(filesystem.encode_url(url), **wishes) as answer:
        told = f"the server answers {answer.status} {answer.reason}"
        if answer.status in (404, 410):
            raise FileNotFoundError(told)
        if answer.status in (401, 403, 407):
            raise PermissionError(told)
        if answer.status >= 500 or answer.status in (408, 425, 429):
            raise OSError(told)
        if answer.status >= 400:
            raise ValueError(told)
        require_size(answer.content_length or 0, most_bytes)
        chunks, size = [], 0
        async for chunk in answer.content.iter_chunked(1 << 20):
            chunks.append(chunk)
            size += len(chunk)
            require_size(size, most_bytes)
        return b"".join(chunks)


def exists_for_sure(filesystem: Any, path: str) -> bool:
    """Tells whether something is there; raises where that is not known, which fsspec takes for a no."""
    if "http" not in filesystem.protocol:
        return bool(filesystem.exists(path))

    async def ask() -> bool:
        session = await filesystem.set_session()
        async with session.get(filesystem.encode_url(path), **filesystem.kwargs) as answer:
            if answer.status >= 500 or answer.status in (408, 425, 429):
                raise OSError(f"the server answers {answer.status} {answer.reason}")
            return bool(answer.status < 400)

    return bool(sync(filesystem.loop, ask))


def require_size(size: int, most_bytes: int) -> None:
    """Raises an `ImageError` with status too_large for a file of more than `most_bytes`."""
    if size > most_bytes:
        raise ImageError("too_large", f"the file has {size} bytes, more than {most_bytes}")
