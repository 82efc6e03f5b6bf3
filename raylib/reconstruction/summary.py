"""What a run says at its end."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import pyarrow as pa
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from raylib.io.storage import Location
from raylib.reconstruction.finished import parts
from raylib.reconstruction.schema import STAGES

LISTED_IMAGES = 40
"""Up to so many images are listed one by one."""


def short_name(uri: str) -> str:
    """Returns the file's name in a path or URI; of a chained one with the archive's: `0001.png::one.zip`."""
    return "::".join(link.rsplit("/", 1)[-1] for link in uri.split("::")) if "://" in uri else uri.rsplit("/", 1)[-1]


def read_rows(output: Location, columns: list[str]) -> pa.Table:
    """Returns columns of all rows of a run, in no particular order; an empty table where there are none."""
    tables = [table for _, table in parts(output, columns)]
    return pa.concat_tables(tables) if tables else pa.table({name: pa.array([], pa.string()) for name in columns})


def print_summary(console: Console, output: Location, record: dict[str, Any]) -> None:
    """Prints one line an image for few images, then the totals and where everything lies."""
    if record["images"] <= LISTED_IMAGES:
        console.print(_image_table(output))
    totals = ", ".join(f"{count} {status}" for status, count in record["images_by_status"].items())
    console.print(f"{record['images']} images ({totals}), {record['faces']} faces")
    done, seconds = record["processed_in_this_run"], record["seconds"]
    rate = f", {record['images_per_second']:.1f} images/s after it" if record["images_per_second"] else ""
    console.print(f"{done} images processed now, in {seconds:.1f} s including start-up{rate}")
    where = output.shown(output.path)
    console.print(f"rows      {where}/faces/*.parquet", soft_wrap=True, highlight=False)
    console.print(f"meshes    {where}/meshes/", soft_wrap=True, highlight=False)
    console.print(f"the run   {where}/run.json", soft_wrap=True, highlight=False)


def _image_table(output: Location) -> Table:
    columns = ["image_uri", "status", "face_index", "error_message", "preview_uri", *(f"seconds_{s}" for s in STAGES)]
    rows = sorted(read_rows(output, columns).to_pylist(), key=lambda r: (r["image_uri"], r["face_index"] or 0))
    table = Table(box=box.SIMPLE_HEAD)
    for name, justify in (("image", "left"), ("status", "left"), ("faces", "right"), ("ms", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    table.add_column("preview, or what is wrong", overflow="fold")
    for uri, group in groupby(rows, key=lambda row: row["image_uri"]):
        of_image = list(group)
        first = of_image[0]
        seconds = sum(first[f"seconds_{s}"] or 0 for s in STAGES[:3])
        seconds += sum(row[f"seconds_{s}"] or 0 for row in of_image for s in STAGES[3:])
        note = first["error_message"] or first["preview_uri"] or ""
        faces = sum(row["status"] == "ok" for row in of_image)
        table.add_row(escape(short_name(uri)), first["status"], str(faces), f"{1000 * seconds:.0f}", escape(note))
    return table
