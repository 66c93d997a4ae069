"""Un Parquet con columnas de todos los tipos de Arrow se lee igual al estudiarlo, al puntuarlo y en la API."""
import datetime as dt
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from de_jupyter_a_la_tierra.api.formats import read_parquet_rows
from de_jupyter_a_la_tierra.api.payload import PayloadReader
from de_jupyter_a_la_tierra.landing.kinds import infer_column
from de_jupyter_a_la_tierra.scoring.sheets import open_sheet
from de_jupyter_a_la_tierra.tables.formats import read_any
from de_jupyter_a_la_tierra.tables.values import read_rows

COLUMNS = {
    "lista": pa.array([["u", "v"], ["u"], None] * 20),
    "objeto": pa.array([{"a": 1}, {"a": 2}, None] * 20),
    "hora": pa.array([dt.time(14, 30), dt.time(9, 5), None] * 20),
    "duración": pa.array([dt.timedelta(hours=26, minutes=5), dt.timedelta(minutes=7), None] * 20),
    "día": pa.array([dt.date(2024, 3, 14), dt.date(2024, 12, 1), None] * 20),
    "instante": pa.array([dt.datetime(2024, 3, 14, 10, 30), dt.datetime(2024, 3, 15), None] * 20, pa.timestamp("us", "Europe/Madrid")),
    "decimal": pa.array([Decimal("12.50"), Decimal("3.00"), None] * 20),
    "entero": pa.array([1, 300, None] * 20, pa.int16()),
    "categoría": pa.array(["lata", "cubo", None] * 20).dictionary_encode(),
    "sí o no": pa.array([True, False, None] * 20),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_the_same_cell_is_the_same_everywhere(name: str, tmp_path: Path) -> None:
    path = tmp_path / "hoja.parquet"
    pq.write_table(pa.table({name: COLUMNS[name], "n": range(60)}), path)
    table, sheet = read_any(path), open_sheet(str(path))
    column = infer_column(table[name])
    studied, bad = read_rows(table, [column])
    scored, worse = read_rows(pd.concat(map(sheet.read, sheet.cut())), [column])
    assert len(bad) == len(worse) == 0
    pd.testing.assert_frame_equal(studied, scored)
    info = {"features": [column.to_dict()], "featurizer": "columns-1", "baseline": {"levels": [0.5], "features": {}}}
    asked = [row[0] for row in read_parquet_rows(path.read_bytes(), PayloadReader(info), 10**7)]
    known = studied[name].astype(object).where(studied[name].notna() & (studied[name] != ""), None)
    assert [value and pd.Timestamp(value) if column.kind == "date" else value for value in asked] == known.tolist()


def test_a_day_is_a_day_though_it_was_studied_with_slashes(tmp_path: Path) -> None:
    """Quien estudió «14/03/2024» entiende también el día que trae su tipo."""
    column = infer_column(pd.Series(["14/03/2024", "01/12/2024"], name="día"))
    pq.write_table(pa.table({"día": COLUMNS["día"]}), tmp_path / "hoja.parquet")
    sheet = open_sheet(str(tmp_path / "hoja.parquet"))
    rows, bad = read_rows(sheet.read(next(sheet.cut())).dropna(), [column])
    assert len(bad) == 0 and rows["día"].iloc[0] == pd.Timestamp(2024, 3, 14)
