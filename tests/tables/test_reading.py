"""Propiedades de la lectura: lo que se escribe se lee igual, y la basura no rompe nada ni se pierde."""
import io
from dataclasses import asdict

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from de_jupyter_a_la_tierra.catfood.cleaning import clean_foods
from de_jupyter_a_la_tierra.catfood.columns import CATFOOD, FIGURES
from de_jupyter_a_la_tierra.catfood.simulate import simulate_foods
from de_jupyter_a_la_tierra.errors import TierraError
from de_jupyter_a_la_tierra.tables.csv import EXTRA, Dialect, read_table, write_table
from de_jupyter_a_la_tierra.tables.dictionary import Column
from de_jupyter_a_la_tierra.tables.values import read_number, read_rows

NUMBERS = [column for column in CATFOOD.columns if column.kind == "number"]
CELLS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)


def write_number(value: float, column: Column, decimal: str, grouped: bool) -> str:
    """Escribe un número con su envoltorio, al revés de como se lee."""
    digits = 0 if column.integer else 2
    text = f"{value:,.{digits}f}" if grouped else f"{value:.{digits}f}"
    if decimal == ",":
        text = text.translate(str.maketrans(",.", ".,"))
    return f"{column.prefix}{text}{column.suffix}"


@given(data=st.data(), column=st.sampled_from(NUMBERS), decimal=st.sampled_from(".,"), grouped=st.booleans())
def test_read_number_inverts_writing(data, column, decimal, grouped):
    """Cualquier número del rango, escrito en cualquier dialecto, se lee exactamente igual."""
    bounds = st.integers(int(column.minimum), int(column.maximum))
    value = data.draw(bounds) if column.integer else data.draw(bounds.map(float)) * 0.5
    assert read_number(write_number(value, column, decimal, grouped), column, decimal) == value


@given(text=st.text(max_size=20), column=st.sampled_from(NUMBERS), decimal=st.sampled_from(".,"))
def test_read_number_never_crashes(text, column, decimal):
    """De cualquier texto sale un número dentro de su rango, o un motivo; nunca otra cosa."""
    try:
        value = read_number(text, column, decimal)
    except ValueError as error:
        assert str(error)
    else:
        assert column.minimum <= value <= column.maximum


@given(seed=st.integers(0, 10_000), n_rows=st.integers(0, 60))
@settings(max_examples=40, deadline=None)
def test_cleaning_reads_what_the_generator_writes(seed, n_rows):
    """Lo que escribe el generador lo lee la limpieza, cifra a cifra, y no aparta nada."""
    raw = simulate_foods(n_rows, seed)
    foods, quarantine = clean_foods(raw)
    assert quarantine.empty and len(foods) == n_rows
    for name in FIGURES:
        form = "{:,.0f}/100g" if name == "dma_cals" else "{:.1f}%" if name.startswith("ga_") else "{:.0f}%"
        assert [form.format(value) for value in foods[name]] == list(raw[name])
    for name in ("ingredients_paws", "nutrition_paws"):
        assert [f"[{value}]" for value in foods[name]] == list(raw[name])


@given(junk=st.lists(st.tuples(st.integers(0, 9), st.sampled_from(CATFOOD.names), CELLS), max_size=30))
@settings(max_examples=60, deadline=None)
def test_junk_is_quarantined_and_no_row_is_lost(junk):
    """Con basura en cualquier celda, cada fila está entre las buenas o en la cuarentena, y no en las dos."""
    raw = simulate_foods(10, seed=3)
    for row, name, cell in junk:
        raw.loc[row, name] = cell
    foods, quarantine = clean_foods(raw)
    kept, apart = set(foods.index), set(quarantine["line"])
    assert kept | apart == set(raw.index) and not kept & apart
    for row in quarantine.itertuples():
        assert raw.loc[row.line, row.column] == row.value and row.reason


@given(
    rows=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=8).filter(lambda rows: any(any(row) for row in rows)),
    sep=st.sampled_from([",", ";", "\t"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
@settings(max_examples=60, deadline=None)
def test_tables_survive_the_round_trip(tmp_path_factory, rows, sep, encoding):
    """Una tabla de textos cualesquiera vuelve igual, con el dialecto que se dijo."""
    path = tmp_path_factory.mktemp("tabla") / "t.csv"
    table = pd.DataFrame(rows, columns=["uno", "dos"], dtype="str")
    dialect = Dialect(sep, encoding, ".")
    write_table(table, path, dialect)
    back = read_table(path, **asdict(dialect))
    full = table[(table != "").any(axis=1)]
    pd.testing.assert_frame_equal(back.reset_index(drop=True), full.reset_index(drop=True))
    assert list(back.index) == [row + 2 for row in full.index]


@given(content=st.binary(max_size=400))
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_read_or_explained(tmp_path_factory, content):
    """Un fichero de bytes cualesquiera se lee o se rechaza con una frase."""
    path = tmp_path_factory.mktemp("bytes") / "t.csv"
    path.write_bytes(content)
    try:
        table = read_table(path)
    except TierraError as error:
        assert str(path) in str(error)
    else:
        assert len(table) and not table.isna().any().any()


def test_spanish_sheet_reads_like_the_english_one(tmp_path):
    """La misma tabla, guardada por un Excel en español, da las mismas cifras."""
    english = simulate_foods(200, seed=5)
    spanish = english.copy()
    swap = str.maketrans(",.", ".,")
    for column in NUMBERS:
        spanish[column.name] = spanish[column.name].map(lambda cell: cell.translate(swap))
    write_table(spanish, tmp_path / "es.csv", Dialect(";", "cp1252", ","))
    write_table(english, tmp_path / "en.csv")
    pd.testing.assert_frame_equal(
        *(clean_foods(read_table(tmp_path / name))[0] for name in ("es.csv", "en.csv")), check_like=False
    )


def test_rows_with_extra_cells_go_to_quarantine(tmp_path):
    """Una coma sin entrecomillar no descoloca las demás filas: la suya se aparta."""
    columns = [Column(name="a", meaning="a"), Column(name="b", meaning="b")]
    (tmp_path / "t.csv").write_text("a,b\n1,2\n1,5,2\n3,4\n")
    rows, quarantine = read_rows(read_table(tmp_path / "t.csv"), columns)
    assert list(rows.index) == [2, 4]
    assert quarantine.to_dict("records") == [
        {"line": 3, "column": EXTRA, "value": "2", "reason": "la fila tiene más celdas que la cabecera"}
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_endings(tmp_path, end):
    """Los tres finales de línea valen."""
    (tmp_path / "t.csv").write_bytes(end.join(["a,b", "1,2", '"x, y",3', ""]).encode())
    table = read_table(tmp_path / "t.csv")
    assert list(table["a"]) == ["1", "x, y"] and list(table.index) == [2, 3]


def test_quarantine_is_readable_back(tmp_path):
    """La cuarentena se escribe y se vuelve a leer sin perder celdas raras."""
    raw = simulate_foods(5, seed=1)
    raw.loc[2, "dma_prot"] = 'con "comillas", comas\ty eñes'
    _, quarantine = clean_foods(raw)
    back = pd.read_csv(io.StringIO(quarantine.to_csv(index=False)), keep_default_na=False)
    assert back["value"].tolist() == quarantine["value"].tolist()
