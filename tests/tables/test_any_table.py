"""La hoja de cualquiera: lo que una persona espera que se lea, y se lee, entero o por partes; y lo que no, con una frase."""
import gzip
import io
import json
import string
import time
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import openpyxl
import pandas as pd
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from de_jupyter_a_la_tierra.errors import TierraError, UsageError
from de_jupyter_a_la_tierra.projects.sources import adopt_table
from de_jupyter_a_la_tierra.scoring.sheets import CsvSheet, open_sheet
from de_jupyter_a_la_tierra.tables.csv import EXTRA, Dialect, read_table, write_table
from de_jupyter_a_la_tierra.tables.dictionary import Column
from de_jupyter_a_la_tierra.tables.formats import find_line, read_any
from de_jupyter_a_la_tierra.tables.header import describe_reading, make_names
from de_jupyter_a_la_tierra.tables.values import read_rows

N = 60


def save(folder: Path, content: str | bytes, name: str = "hoja.csv", encoding: str = "utf-8") -> Path:
    """Deja una hoja en un fichero."""
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return path


def read_parts(path: Path, size: int, **options: str) -> pd.DataFrame:
    """La misma hoja, leída por partes."""
    sheet = CsvSheet(str(path), **options)
    pieces = [sheet.read(part) for part in sheet.cut(size)]
    whole = pd.concat(pieces) if pieces else pd.DataFrame(columns=sheet.columns)
    if EXTRA in whole:
        whole[EXTRA] = whole[EXTRA].fillna("")
    return whole


def check_sheet(path: Path, **options: str) -> pd.DataFrame:
    """La hoja, comprobado que por partes es la misma y que sus líneas cuadran."""
    table = read_table(path, **options)
    for size in (40, 300, 1 << 20) if path.stat().st_size < 10_000 else (path.stat().st_size // 20, 1 << 20):
        pd.testing.assert_frame_equal(read_parts(path, size, **options), table, check_like=EXTRA in table)
    counts = dict(table.attrs["counts"])
    assert counts.pop("lines") == sum(counts.values())
    pd.testing.assert_frame_equal(read_any(path, **options), table)
    return table


def body(sep: str = ",", end: str = "") -> list[str]:
    """Sesenta filas: un número con decimales, un entero y una clase."""
    mark = "." if sep == "," else ","
    return [sep.join([f"{k}{mark}5", str(k * 7 % 50), "ab"[k % 2]]) + end for k in range(N)]


def quoted(k: int) -> str:
    """Una celda con de todo dentro."""
    return f"'uno, dos y {k}'"


# caso → (líneas, columnas, línea de la primera fila)
TOPS = {
    "limpia": (["x,z,y", *body()], ["x", "z", "y"], 2),
    "un título": (["Ventas de marzo", "x,z,y", *body()], ["x", "z", "y"], 3),
    "título, fecha y línea en blanco": (["Ventas de marzo", "A 31/03/2024", "", "x;z;y", *body(";")], ["x", "z", "y"], 5),
    "título que Excel rellenó": (["Ventas;;", ";;", "x;z;y", *body(";")], ["x", "z", "y"], 4),
    "título con comas": (["Ventas, por zona", "x,z,y", *body()], ["x", "z", "y"], 3),
    "sep=": (["sep=;", "x;z;y", *body(";")], ["x", "z", "y"], 3),
    "sep= y título": (["sep=;", "Ventas", "x;z;y", *body(";")], ["x", "z", "y"], 4),
    "comentarios": (["# exportado el martes, a las 12:30", "# con otro programa", "x,z,y", *body()], ["x", "z", "y"], 4),
    "líneas en blanco": (["", "", "x,z,y", *body()], ["x", "z", "y"], 4),
    "cabecera que empieza por #": (["#,z,y", *body()], ["#", "z", "y"], 2),
    "columna sin nombre, de pandas": ([",z,y", *body()], ["columna_1", "z", "y"], 2),
    "años por cabecera": (["Población por zona", "zona;2019;2020", *(f"z{k};{k};{k + 1}" for k in range(N))], ["zona", "2019", "2020"], 3),
    "^": (["x^z^y", *body("^")], ["x", "z", "y"], 2),
    ":": (["x:z:y", *body(":")], ["x", "z", "y"], 2),
    "espacios": (["x    z   y", *(f"{k}.5   {k * 7 % 50}     {'ab'[k % 2]}  " for k in range(N))], ["x", "z", "y"], 2),
    "tabulador": (["x\tz\ty", *body("\t")], ["x", "z", "y"], 2),
    "comillas simples": (["x,z,y", *(f"{k}.5,{k},{quoted(k)}" for k in range(N))], ["x", "z", "y"], 2),
    "separador al final": (["x;z;y;", *body(";", ";")], ["x", "z", "y"], 2),
    "separador al final, sin él en la cabecera": (["x;z;y", *body(";", ";")], ["x", "z", "y"], 2),
    "dos cabeceras vacías al final": (["x;z;y;;", *body(";", ";;")], ["x", "z", "y"], 2),
    "cabecera vacía de una columna con datos": (["x;;y", *body(";")], ["x", "columna_2", "y"], 2),
    "comas en un nombre": (["peso (kg, neto, sin tara);y", *(f"{k},5;{'ab'[k % 2]}" for k in range(N))], ["peso (kg, neto, sin tara)", "y"], 2),
    "nombres repetidos": (["x,x,y", *body()], ["x", "x_2", "y"], 2),
    "comillas, barra y salto en un nombre": (['"x ""ancho""","a\\b","y\n(clase)"', *body()], ["x ancho", "a/b", "y (clase)"], 3),
}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("case", TOPS)
def test_the_table_is_found_wherever_it_starts(case: str, end: str, tmp_path: Path) -> None:
    """Las columnas, la línea de la primera fila y las sesenta filas; y lo que hay encima, dicho."""
    lines, names, first = TOPS[case]
    table = check_sheet(save(tmp_path, end.join(lines) + end))
    assert list(table) == names and table.index[0] == first and len(table) == N and EXTRA not in table
    assert list(table.index) == list(range(first, first + N))
    said = " ".join(describe_reading(table.attrs))
    assert all(f"«{' '.join(line.split())}»" in said for number, line in enumerate(lines[: table.attrs["counts"]["skipped"]], 1) if line.strip(" ;") and number < first - 1)
    if case == "comillas simples":
        assert table["y"].iloc[7] == "uno, dos y 7"


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252", "mac_roman"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_gives_the_same_cells(encoding: str, tmp_path: Path) -> None:
    """Con marca y sin ella, y con el byte que MS-DOS dejaba al final."""
    lines = ["Año de la piñata", "año;tamaño;y", *(f"{k},5;señal nº {k};{'ab'[k % 2]}" for k in range(N))]
    for tail in ("\n", "\n\x1a", "\n\n\n"):
        table = check_sheet(save(tmp_path, "\n".join(lines) + tail, encoding=encoding))
        assert list(table) == ["año", "tamaño", "y"] and len(table) == N and table["y"].iloc[-1] == "b" and table.index[-1] == N + 2


def test_a_nul_late_in_the_file_spoils_only_its_cell(tmp_path: Path) -> None:
    """Ni se pierden filas ni se corta la celda en silencio."""
    lines = ["x,z,y", *body(), *(f"{k}.5,{'12' + chr(0) + '34' if k == 20_000 else k},a" for k in range(30_000))]
    table = check_sheet(save(tmp_path, "\n".join(lines) + "\n"))
    assert len(table) == N + 30_000 and table["z"].loc[20_000 + N + 2] == "12\x0034"


def test_short_and_long_rows_keep_their_place(tmp_path: Path) -> None:
    """A la corta le faltan celdas; a la larga, lo que le sobra se aparta; las vacías se cuentan."""
    table = check_sheet(save(tmp_path, "\n".join(["x,z,y", *body(), "1", "", "1,2,a,9", ",,", "3,4,b"]) + "\n"))
    assert table.loc[N + 2].tolist() == ["1", "", "", ""] and table.loc[N + 4, EXTRA] == "9"
    assert list(table.index[-3:]) == [N + 2, N + 4, N + 6] and table.attrs["counts"]["blank"] == 2


def test_a_copy_keeps_apart_what_was_left_over(tmp_path: Path) -> None:
    """Lo que le sobraba a una fila sigue apartado en la copia del proyecto."""
    path = save(tmp_path, "\n".join(["x,z,y", *body(), "1,2,a,9,8"]) + "\n")
    columns = [Column(name="x", meaning="x"), Column(name="z", meaning="z"), Column(name="y", meaning="y", kind="text")]
    adopt_table(path, columns, tmp_path / "own.csv", {})
    for table in (read_table(path), read_table(tmp_path / "own.csv")):
        quarantine = read_rows(table, columns)[1]
        assert quarantine[["line", "column", "value"]].to_numpy().tolist() == [[N + 2, EXTRA, "9,8"]]


def test_a_late_cell_under_an_empty_header_is_not_lost(tmp_path: Path) -> None:
    """Si bajo la cabecera vacía aparece algo cuando ya no se espera, va con lo que sobra."""
    table = check_sheet(save(tmp_path, "\n".join(["x;z;y;", *body(";", ";") * 40, "1;2;a;nota"]) + "\n"))
    assert table[EXTRA].iloc[-1] == "nota" and (table[EXTRA].iloc[:-1] == "").all()


def test_an_integer_of_400_digits_is_a_cell_like_any_other(tmp_path: Path) -> None:
    """Entera y exacta; también la de 5.000, y en JSON."""
    for digits in (400, 5000):
        number = "7" * digits
        assert check_sheet(save(tmp_path, "\n".join(["x,z,y", *body(), f"{number},1,a"]) + "\n"))["x"].iloc[-1] == number
        assert read_any(save(tmp_path, f'{{"x": {number}}}\n', "x.jsonl"))["x"].iloc[0] == number


def test_google_sheets_in_spanish(tmp_path: Path) -> None:
    """`"0,125"` en una hoja separada por comas es un octavo."""
    table = check_sheet(save(tmp_path, "\n".join(["x,z,y", *(f'"0,{125 + k}","{k},5",{"ab"[k % 2]}' for k in range(N))]) + "\n"))
    assert table.attrs["dialect"]["decimal"] == "," and table["x"].iloc[0] == "0,125"


def test_two_thousand_columns_are_quick(tmp_path: Path) -> None:
    """Dos mil columnas y quinientas filas, en unos segundos."""
    values = np.random.default_rng(0).normal(size=(500, 2000)).round(3)
    pd.DataFrame(values, columns=[f"c{k}" for k in range(2000)]).to_csv(tmp_path / "ancha.csv", index=False)
    start = time.process_time()
    table = read_table(tmp_path / "ancha.csv")
    assert table.shape == (500, 2000) and time.process_time() - start < 15


def test_an_open_quote_in_a_title_or_with_single_quotes_is_told(tmp_path: Path) -> None:
    """La línea es la del fichero, con lo que haya por encima."""
    for lines, line in ((["Ventas", "x,z,y", *body(), '"sin cerrar,1,a', *body()], N + 3), (["sep=,", "x,z,y", '"a,1,2', *body()], 3)):
        path = save(tmp_path, "\n".join(lines) + "\n")
        for read in (lambda path=path: read_table(path), lambda path=path: list(CsvSheet(str(path)).cut())):
            with pytest.raises(UsageError, match=rf"línea {line} .*comillas"):
                read()


# --- Otros formatos ------------------------------------------------------------------------------------------------

FRAME = pd.DataFrame({"peso": [f"{k}.5" for k in range(N)], "zona": [f"zona {k % 7}" for k in range(N)], "y": ["ab"[k % 2] for k in range(N)]})


def write_format(folder: Path, kind: str) -> Path:
    """La misma tabla, en cada formato."""
    text = FRAME.to_csv(index=False)
    records = FRAME.assign(peso=FRAME["peso"].astype(float)).to_dict("records")
    if kind == "xlsx":
        book = openpyxl.Workbook()
        for row in [["Un título"], list(FRAME), *(list(record.values()) for record in records)]:
            book.active.append(row)
        book.save(folder / "hoja.xlsx")
        return folder / "hoja.xlsx"
    if kind == "zip":
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("hoja.csv", text)
            archive.writestr("__MACOSX/._hoja.csv", b"\0")
        return save(folder, packed.getvalue(), "hoja.zip")
    content = {
        "gz": gzip.compress(text.encode()), "tsv": FRAME.to_csv(index=False, sep="\t").encode(), "json": json.dumps(records).encode(),
        "jsonl": "\n".join(map(json.dumps, records)).encode(), "jsonl.gz": gzip.compress("\n".join(map(json.dumps, records)).encode()),
    }[kind]
    return save(folder, content, f"hoja.{kind}")


@pytest.mark.parametrize("renamed", [False, True])
@pytest.mark.parametrize("kind", ["xlsx", "zip", "gz", "tsv", "json", "jsonl", "jsonl.gz"])
def test_a_sheet_is_opened_by_what_it_is(kind: str, renamed: bool, tmp_path: Path) -> None:
    """Se llame como se llame, y por partes igual; de su copia en el proyecto, las mismas celdas."""
    path = write_format(tmp_path, kind)
    path = path.rename(tmp_path / "datos.dat") if renamed else path
    table = read_any(path)
    pd.testing.assert_frame_equal(table.reset_index(drop=True), FRAME.astype("str"))
    sheet = open_sheet(str(path))
    pd.testing.assert_frame_equal(pd.concat([sheet.read(part) for part in sheet.cut(17)]), table)
    columns = [Column(name="peso", meaning="Peso"), Column(name="zona", meaning="Zona", kind="text"), Column(name="y", meaning="Clase", kind="text")]
    assert adopt_table(path, columns, tmp_path / "own.csv", {}) == N
    pd.testing.assert_frame_equal(read_table(tmp_path / "own.csv").reset_index(drop=True), FRAME.astype("str"))


def test_a_parquet_keeps_its_types(tmp_path: Path) -> None:
    """Números, síes y noes y fechas; y su copia se lee igual que si hubiera sido un CSV."""
    frame = pd.DataFrame({"n": range(N), "vivo": [k % 2 == 0 for k in range(N)], "día": pd.date_range("2024-01-01", periods=N), "zona": ["Norte", None] * (N // 2)})
    frame.to_parquet(tmp_path / "hoja.parquet")
    table = read_any(tmp_path / "hoja.parquet")
    assert table.dtypes.astype(str).tolist() == ["int64", "bool", "datetime64[us]", "str"] and table["zona"].iloc[1] == "" and table.index[0] == 1
    columns = [Column(name=name, meaning=name, kind="text", required=False) for name in frame]
    adopt_table(tmp_path / "hoja.parquet", columns, tmp_path / "own.csv", {})
    assert read_table(tmp_path / "own.csv").iloc[1].tolist() == ["1", "False", "2024-01-02", ""]


def test_several_files_are_one_table_and_each_row_knows_its_line(tmp_path: Path) -> None:
    """Las columnas en otro orden valen; otras columnas, no."""
    first, second = save(tmp_path, "x,y\n1,a\n\n2,b\n", "a.csv"), save(tmp_path, gzip.compress(b"Marzo\ny;x\nc;3\n"), "b.csv.gz")
    table = read_any([first, second])
    assert table["x"].tolist() == ["1", "2", "3"] and table.index.is_unique
    assert [find_line(table, line) for line in table.index] == [(str(first), 2), (str(first), 4), (str(second), 3)]
    with pytest.raises(UsageError, match="no casa con"):
        read_any([first, save(tmp_path, "x,w\n1,2\n", "c.csv")])


def test_an_address_is_as_good_as_a_path(tmp_path: Path) -> None:
    """fsspec abre lo que no está en este disco."""
    import fsspec

    with fsspec.open("memory://datos/hoja.csv.gz", "wb") as file:
        file.write(gzip.compress(FRAME.to_csv(index=False).encode()))
    assert len(read_any("memory://datos/hoja.csv.gz")) == N


REFUSED = {
    "xls": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600, ".xlsx"),
    "xlsx roto": (b"PK\x03\x04...", "guárdalo como CSV"),
    "gz cortado": (gzip.compress(b"x,y\n1,2\n" * 500)[:-12], "dañado"),
    "página web": (b"<html><body><table></table>", "página web"),
    "pdf": (b"%PDF-1.7", "PDF"),
    "json que no lo es": (b'{"x": 1}\n{"x": \n', "línea 2"),
    "vacío": (b"", "vacío"),
    "imagen": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "no es un fichero de texto"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_a_table_is_refused_with_a_sentence(case: str, tmp_path: Path) -> None:
    """Sin traza, y con lo que hay que hacer."""
    content, says = REFUSED[case]
    with pytest.raises(UsageError, match=says):
        read_any(save(tmp_path, content, "hoja.dat"))


# --- Cualquiera ----------------------------------------------------------------------------------------------------

LETTERS = st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]) | st.sampled_from("\n\t,;|'\"^: #=-")
TEXTS = st.text(LETTERS, max_size=9)
KINDS = {
    "integer": st.integers(-(10**6), 10**6).map(str), "decimal": st.decimals(-1000, 1000, places=2).map(str), "date": st.dates().map(str),
    "yes/no": st.sampled_from(["sí", "no"]), "class": st.sampled_from(["Norte", "Sur", "Piñata, S. L."]), "text": TEXTS,
}
NAMES = st.text(string.ascii_letters + "ñ áé_", min_size=1, max_size=8) | TEXTS


@st.composite
def sheets(draw: st.DrawFn) -> tuple[pd.DataFrame, Dialect, str, bool]:
    """Una tabla de cualquier clase, cómo escribirla y con qué saltos; y si al leerla se dice el dialecto."""
    kinds = draw(st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=5))
    n_rows = draw(st.integers(1, 12))
    gaps = st.sampled_from(["value", "value", "value", "gap"])
    columns = [[draw(KINDS[kind]) if draw(gaps) == "value" else "" for _ in range(n_rows)] for kind in kinds]
    names = make_names(draw(st.lists(NAMES, min_size=len(kinds), max_size=len(kinds))))
    dialect = Dialect(
        draw(st.sampled_from([",", ";", "\t", "|", "^", ":", " "])), draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])),
        draw(st.sampled_from([".", ","])), draw(st.sampled_from("\"\"\"'")),
    )
    return pd.DataFrame(dict(zip(names, columns, strict=True)), dtype="str"), dialect, draw(st.sampled_from(["\n", "\r\n", "\r"])), draw(st.booleans())


def check_round_trip(folder: Path, case: tuple[pd.DataFrame, Dialect, str, bool]) -> None:
    """Lo que se escribe se lee igual, o se rechaza con una frase; entero y por partes, lo mismo."""
    table, dialect, end, told = case
    path = folder / "hoja.csv"
    write_table(table, path, dialect)
    if end != "\n":
        body = dialect.encoding.removesuffix("-sig")
        plain = path.read_bytes().decode(dialect.encoding)
        assume(plain.count("\n") == table.map(lambda cell: cell.count("\n")).to_numpy().sum() + len(table) + 1)
        path.write_bytes(plain.replace("\n", end).encode(dialect.encoding if dialect.encoding == "utf-8-sig" else body))
        table = table.map(lambda cell: cell.replace("\n", end))
    options = asdict(dialect) if told else {}
    try:
        back = read_table(path, **options)
    except TierraError as error:
        assert str(path) in str(error)
        return
    counts = dict(back.attrs["counts"])
    assert counts.pop("lines") == sum(counts.values())
    pd.testing.assert_frame_equal(read_parts(path, 64, **options), back, check_like=EXTRA in back)
    full = table[(table != "").any(axis=1)]
    same = back.to_numpy().tolist() == full.to_numpy().tolist() and list(back) == list(table)
    usual = dialect.sep in ",;\t|" and dialect.quote == '"' and table.shape[1] > 1
    assert same or not (told or usual)
    assert same or len(back) + sum(back.attrs["counts"][part] for part in ("blank", "skipped", "wrapped")) >= len(full)


@given(case=sheets())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_table_is_read_back(tmp_path_factory: pytest.TempPathFactory, case: tuple[pd.DataFrame, Dialect, str, bool]) -> None:
    """Clases × dialectos × huecos × nombres raros."""
    check_round_trip(tmp_path_factory.mktemp("tabla"), case)


@pytest.mark.long
@given(case=sheets())
@settings(max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_two_thousand_tables_are_read_back(tmp_path_factory: pytest.TempPathFactory, case: tuple[pd.DataFrame, Dialect, str, bool]) -> None:
    """Lo mismo, con paciencia."""
    check_round_trip(tmp_path_factory.mktemp("tabla"), case)
