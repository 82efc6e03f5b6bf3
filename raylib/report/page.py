"""A page as one file: script, style and data inside it, and beside it only what would make it too large.

Nothing that a run produced becomes markup: data stand in blocks of JSON in which every `<` is written as an escape,
so that no file name can end the block, and the script puts them into the page as text. A content security policy lets
the page run the shipped script alone, and load nothing but scripts that lie beside it.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
from collections.abc import Iterable
from importlib.resources import files
from typing import Any

from raylib.io.storage import Location

DATA_FOLDER = "report-data"


def json_text(value: object) -> str:
    """Returns JSON that may stand inside a script element: without `<`, and with null for what is no number."""
    text = json.dumps(_plain(value), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    # Lone surrogates come from file names that are no UTF-8; as JSON's own escapes they may be written.
    text = text.encode("utf-8", "backslashreplace").decode()
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def base64_text(content: bytes) -> str:
    """Returns bytes in base64, as the page's script reads them."""
    return base64.b64encode(content).decode("ascii")


class Packs:
    """Named pieces of data that the page reads when it needs them: inside it, or in files beside it.

    Args:
        output: folder of the page.
        page_name: file name of the page, so that two pages in one folder keep their data apart.
        page_bytes: how much may stand in the page.
    """

    def __init__(self, output: Location, page_name: str, page_bytes: float):
        self._output, self._left = output, page_bytes
        self._prefix = page_name.removesuffix(".html")
        self._inline: list[tuple[str, str]] = []
        self._beside: set[str] = set()

    def fits(self, size: float) -> bool:
        """Tells whether so many more bytes may stand in the page."""
        return size <= self._left

    def add(self, name: str, value: object, inside: bool) -> None:
        """Adds a piece to the page, or writes it to a file beside it."""
        text = json_text(value)
        if inside:
            self._left -= len(text)
            self._inline.append((name, text))
            return
        path = f"{DATA_FOLDER}/{self._prefix}-{name}.js"
        self._output.write_bytes(path, f"physfacePack({json.dumps(name)},{text});\n".encode())
        self._beside.add(path)

    def remove_old(self) -> None:
        """Removes the pieces of an earlier page of this name that this one does not have."""
        keep = {self._output.join(path) for path in self._beside}
        for path in self._output.list_files(DATA_FOLDER, ".js"):
            if path.rsplit("/", 1)[-1].startswith(f"{self._prefix}-") and path not in keep:
                self._output.remove(path)

    @property
    def folder_prefix(self) -> str:
        """What stands before a piece's name in the address of its file."""
        return f"{DATA_FOLDER}/{self._prefix}-"

    def blocks(self) -> Iterable[str]:
        """Yields the script elements of the pieces inside the page."""
        for name, text in self._inline:
            yield f'<script type="application/json" id="pack-{html.escape(name)}">{text}</script>'


def write_page(output: Location, name: str, title: str, data: dict[str, Any], packs: Packs) -> None:
    """Writes the page after its pieces, and removes pieces that an earlier page left.

    Args:
        output: folder of the page.
        name: its file name.
        title: of the browser's window.
        data: what the script draws at once; pieces follow when they are needed.
        packs: the pieces, complete.
    """
    script, style = asset("report.js"), asset("report.css")
    policy = (
        f"default-src 'none'; img-src data: blob:; style-src '{_hash(style)}'; "
        f"script-src '{_hash(script)}' 'self' file:; base-uri 'none'; form-action 'none'"
    )
    parts = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">',
        f"<title>{html.escape(title)}</title>\n<style>{style}</style>\n</head>\n<body>",
        "<noscript>This page shows its data by the script inside it; please allow scripts for it.</noscript>",
        f'<div id="app"></div>\n<script type="application/json" id="data">'
        f"{json_text(data | {'packs': packs.folder_prefix})}</script>",
        *packs.blocks(),
        f"<script>{script}</script>\n</body>\n</html>\n",
    ]
    output.write_bytes(name, "\n".join(parts).encode())
    packs.remove_old()


def asset(name: str) -> str:
    """Returns a built asset of the page; `make report-assets` builds them from `raylib/report/web`."""
    return files("raylib").joinpath("report", "assets", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64_text(hashlib.sha256(text.encode()).digest())


def _plain(value: Any) -> Any:
    """Returns the value with numbers at five significant digits, which is what a page can show."""
    if isinstance(value, float):
        return _short(value)
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value


def _short(value: float) -> float | int | None:
    if not math.isfinite(value):
        return None
    short = float(f"{value:.5g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short
