"""Programs that know nothing of us read every column of a run's table: pyarrow, polars, DuckDB and pandas agree."""

import duckdb
import numpy as np
import pandas as pd
import polars
import pyarrow.dataset as ds
import pytest
from report_runs import HOSTILE, face_rows, failed_rows, write_run

from raylib.reconstruction.schema import SCHEMA


def _rows(relation) -> list[dict]:
    return [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]


READERS = {
    "polars": lambda files: polars.read_parquet(files).to_dicts(),
    "polars, lazily": lambda files: polars.scan_parquet(files).collect().to_dicts(),
    "duckdb": lambda files: _rows(duckdb.sql(f"select * from '{files}'")),
    "pandas": lambda files: pd.read_parquet(files.rsplit("/", 1)[0]).to_dict("records"),
}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Parts with albedo and light, without, and without any face, so that most columns of a part are null."""
    output = tmp_path_factory.mktemp("readers") / "out put"
    rows = face_rows(2, estimated=True) + face_rows(2, seed=1) + failed_rows(HOSTILE)
    write_run(output, rows)
    return output / "faces"


@pytest.mark.parametrize("reader", READERS)
def test_every_column_comes_back(table, reader):
    expected = ds.dataset(table).to_table()
    assert expected.schema.names == SCHEMA.names and len(list(table.iterdir())) == 2
    found = READERS[reader](f"{table}/*.parquet")
    assert len(found) == len(expected) == 9
    key = ["image_uri", "image_sha256"]
    found, rows = (sorted(some, key=lambda row: [row[k] for k in key]) for some in (found, expected.to_pylist()))
    for mine, theirs in zip(rows, found, strict=True):
        assert list(theirs) == SCHEMA.names
        for name, value in mine.items():
            other = theirs[name]
            if value is None:
                assert other is None or other is pd.NaT or np.all(pd.isna(other)), (name, other)
            elif isinstance(value, list):
                np.testing.assert_array_equal(np.asarray(other, np.float32), np.asarray(value, np.float32))
            else:
                assert other == value, name


def test_lists_are_lists_to_them(table):
    """Polars and DuckDB calculate with vertices where they lie: here a face's height."""
    good = [row["verts_mm"] for row in ds.dataset(table).to_table().to_pylist() if row["status"] == "ok"]
    expected = sorted(float(np.ptp(np.float32(verts)[1::3])) for verts in good)
    files = f"{table}/*.parquet"
    up = polars.col("verts_mm").list.gather_every(3, 1)
    tall = polars.scan_parquet(files).filter(polars.col("status") == "ok").select(up.list.max() - up.list.min())
    assert sorted(tall.collect()["verts_mm"]) == pytest.approx(expected, rel=1e-6)
    found = duckdb.sql(
        f"""select list_max(up) - list_min(up) from
            (select list_select(verts_mm, range(2, len(verts_mm) + 1, 3)) as up from '{files}' where status = 'ok')"""
    )
    assert sorted(height for (height,) in found.fetchall()) == pytest.approx(expected, rel=1e-6)
