"""Hojas raras de verdad: o se leen bien, o una frase dice qué pasa y con qué opción se arregla; mal y en silencio, nunca."""
import gzip
import io
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from de_jupyter_a_la_tierra.cli.projects import describe_table
from de_jupyter_a_la_tierra.errors import TierraError, UsageError
from de_jupyter_a_la_tierra.projects.project import find_project, load_sources
from de_jupyter_a_la_tierra.projects.session import Session
from de_jupyter_a_la_tierra.projects.sources import adopt_table, write_simulated
from de_jupyter_a_la_tierra.scoring.sheets import CsvSheet
from de_jupyter_a_la_tierra.scoring.stream import ScoringRequest, score_files
from de_jupyter_a_la_tierra.tables.csv import read_table
from de_jupyter_a_la_tierra.tables.dictionary import Column
from de_jupyter_a_la_tierra.tables.values import read_rows

N = 70
Tierra = Callable[..., subprocess.CompletedProcess[str]]


def write(folder: Path, lines: list[str], encoding: str = "utf-8") -> Path:
    """Escribe una hoja y devuelve su ruta."""
    path = folder / "hoja.csv"
    path.write_bytes(("\n".join(lines) + "\n").encode(encoding))
    return path


def land_sheet(path: Path, target: str = "y", task: str | None = None, join: bool = False, **options) -> SimpleNamespace:
    """Lo que hace `tierra new`: el diccionario, lo que dice, y lo que el proyecto lee después de su copia."""
    landing, notes = describe_table("raras", read_table(path, **options), target, 2, task, *([join] if join else []))
    columns = list(landing.dictionary.columns)
    own = path.with_name("own.csv")
    adopt_table(path, columns, own, options)
    rows, quarantine = read_rows(read_table(own), columns)
    by_name = {column.name: column for column in columns}
    return SimpleNamespace(
        columns=by_name, features=landing.dictionary.features, task=landing.task, notes="\n".join(notes), rows=rows, quarantine=quarantine
    )


# --- Números como los escribe la gente -----------------------------------------------------------------------------

# caso → (separador, cómo se escribe el número k, cuánto vale)
NUMBERS = {
    "comas decimales de una hoja de Google": (",", lambda k: f'"{k},5"', lambda k: k + 0.5),
    "tres decimales, y el cero por delante": (",", lambda k: f'"0,{125 + k}"', lambda k: (125 + k) / 1000),
    "tres decimales que otras celdas aclaran": (",", lambda k: f'"{k},{"5" if k % 9 else "125"}"', lambda k: k + (0.5 if k % 9 else 0.125)),
    "millares con punto y decimales con coma": (",", lambda k: f'"1.{100 + k},5"', lambda k: 1100.5 + k),
    "paréntesis": (";", lambda k: f"({k},50)" if k % 3 else f"{k},50", lambda k: -k - 0.5 if k % 3 else k + 0.5),
    "paréntesis en todas": (";", lambda k: f"({k},50)", lambda k: -k - 0.5),
    "paréntesis y moneda": (";", lambda k: f"({k},50 €)", lambda k: -k - 0.5),
    "menos detrás": (";", lambda k: f"{k},50-" if k % 3 else f"{k},50", lambda k: -k - 0.5 if k % 3 else k + 0.5),
    "menos detrás de la moneda": (";", lambda k: f"{k},50 €-", lambda k: -k - 0.5),
    "menos delante de la moneda": (";", lambda k: f"-${k}.5", lambda k: -k - 0.5),
    "menos de verdad (U+2212)": (";", lambda k: f"−{k + 1}", lambda k: -k - 1),
    "menos de verdad y unidad": (";", lambda k: f"−{k + 1} °C", lambda k: -k - 1),
    "exponente sin signo": (";", lambda k: f"{k}.5e7", lambda k: (k + 0.5) * 1e7),
    "exponente con ceros": (";", lambda k: f"{k}.5E+007", lambda k: (k + 0.5) * 1e7),
    "exponente con coma": (";", lambda k: f"{k},5E-3", lambda k: (k + 0.5) * 1e-3),
    "porcentaje": (";", lambda k: f"{k},5 %", lambda k: k + 0.5),
    "por cada cien gramos": (",", lambda k: f'"1,{300 + k}/100g"', None),
    "más delante": (";", lambda k: f"+{k}.25", lambda k: k + 0.25),
}
UNITS = {"paréntesis y moneda": "€", "menos detrás de la moneda": "€", "menos delante de la moneda": "$", "menos de verdad y unidad": "°C", "porcentaje": "%"}


@pytest.mark.parametrize("case", [case for case, (*_, value) in NUMBERS.items() if value])
def test_a_number_is_the_number_that_was_written(case: str, tmp_path: Path) -> None:
    """El valor, el signo y la unidad, al inferir y otra vez al leer la copia del proyecto."""
    sep, write_cell, value = NUMBERS[case]
    order = np.random.default_rng(0).permutation(N)
    path = write(tmp_path, [sep.join("xzy"), *(sep.join([write_cell(k), str(k * 7 % 50), "ab"[k % 2]]) for k in order)])
    found = land_sheet(path)
    assert found.columns["x"].kind == "number" and found.columns["x"].unit == UNITS.get(case, "")
    assert found.rows["x"].tolist() == pytest.approx([value(k) for k in order], abs=1e-9) and found.quarantine.empty
    table = read_table(path)
    assert read_rows(table, list(found.columns.values()))[0]["x"].tolist() == found.rows["x"].tolist()
    sheet = CsvSheet(str(path))
    pieces = [read_rows(sheet.read(part), [found.columns["x"]])[0] for part in sheet.cut(300)]
    assert pd.concat(pieces)["x"].tolist() == found.rows["x"].tolist()


DOUBTS = {"comas": ('"1,{}"', ","), "comas con unidad": ('"1,{} kg"', ","), "puntos en una hoja con ;": ("1.{}", ";"), "comas en una hoja con ;": ("1,{}", ";")}


@pytest.mark.parametrize("case", DOUBTS)
def test_a_true_doubt_is_asked_and_the_answer_is_remembered(case: str, tmp_path: Path) -> None:
    """«1,234» en todas: se pregunta con la opción que lo resuelve, y lo que se conteste vale para las hojas que vengan."""
    cell, sep = DOUBTS[case]
    path = write(tmp_path, [sep.join("xzy"), *(sep.join([cell.format(200 + k), str(k * 7 % 50), "ab"[k % 2]]) for k in range(N))])
    with pytest.raises(UsageError, match=r"columna «x».*línea 2.*--decimal"):
        land_sheet(path)
    mark = "." if "puntos" in case else ","
    other = ",." [",.".index(mark) - 1]
    for decimal, value in ((mark, 1.2), (other, 1200)):
        found = land_sheet(path, decimal=decimal)
        assert found.rows["x"].iloc[0] == pytest.approx(value)
        if mark == "," or decimal == ",":
            again = read_rows(read_table(path), [found.columns["x"]])[0]
            assert again["x"].iloc[0] == pytest.approx(value), "lo que se contestó no se recuerda"


def test_an_english_sheet_with_thousands_is_still_english(tmp_path: Path) -> None:
    """Unos millares con coma no hacen española una hoja en la que lo demás lleva punto."""
    path = write(tmp_path, ["x,z,y", *(f'"1,{200 + k}",{k}.5,{"ab"[k % 2]}' for k in range(N))])
    found = land_sheet(path)
    assert found.rows["x"].iloc[0] == 1200 and found.rows["z"].iloc[0] == 0.5


MOMENTS = {
    "14/03/2024": ("date", "%d/%m/%Y"), "2024-03-14": ("date", ""), "14-03-2024": ("date", "%d-%m-%Y"), "14.03.2024": ("date", "%d.%m.%Y"),
    "14/03/2024 10:30": ("date", "%d/%m/%Y %H:%M"), "2024-03-14T10:30:00": ("date", "%Y-%m-%dT%H:%M:%S"), "14:30": ("date", "%H:%M"),
    "14:30:15": ("date", "%H:%M:%S"), "10-12": ("text", ""), "+34 600 123 456": ("text", ""),
}


@pytest.mark.parametrize("cell", MOMENTS)
def test_a_date_or_a_time_is_not_a_number(cell: str, tmp_path: Path) -> None:
    """Iguales todas, o con el día distinto: no son un número con una unidad rara; iguales, no se usan, y se dice por qué."""
    kind, date_format = MOMENTS[cell]
    varied = [re.sub(r"1\d(?=[/.:-])|1\d(?=T|$)|(?<=34 )6", str(10 + k % 13), cell, count=1) for k in range(N)]
    for cells in ([cell] * N, varied):
        found = land_sheet(write(tmp_path, ["x;z;y", *(f"{text};{k * 7 % 50};{'ab'[k % 2]}" for k, text in enumerate(cells))]))
        column = found.columns["x"]
        assert column.kind in ({kind} if kind == "date" else {"text", "category"}) and column.date_format == date_format
        assert ("x" in found.features) == (len(set(cells)) > 1) and (column.note == "no cambia nunca") == (len(set(cells)) == 1)
        assert len(found.rows) == N and found.quarantine.empty


def test_infinities_are_named(tmp_path: Path) -> None:
    """Pocas celdas infinitas se apartan, y se dice que lo son."""
    cells = [{5: "inf", 9: "-inf"}.get(k, f"{k}.5") for k in range(N)]
    found = land_sheet(write(tmp_path, ["x,z,y", *(f"{cell},{k * 7 % 50},{'ab'[k % 2]}" for k, cell in enumerate(cells))]))
    assert len(found.rows) == N - 2 and set(found.quarantine["reason"]) == {"es infinito"}
    assert "2 con un valor infinito" in found.notes and "línea 7" in found.notes


# --- La forma de la hoja -------------------------------------------------------------------------------------------

BODY = [f"{k},{k * 7 % 50},{'ab'[k % 2]}" for k in range(1000)]


def swallow(*places: tuple[int, str]) -> list[str]:
    """Mil filas, con unas celdas cambiadas."""
    lines = ["x,z,y", *BODY]
    for line, text in places:
        lines[line - 1] = text
    return lines


OPEN = {
    "hasta el final": (swallow((6, '"sin cerrar,1,a')), 6),
    "hasta las siguientes": (swallow((6, '"sin cerrar,1,a'), (500, '3,4,"b"')), 6),
    "hasta una celda de dos líneas": (swallow((6, '"sin cerrar,1,a'), (500, '3,4,"b\nc"')), 6),
    "en la última fila": (swallow((1001, '7,8,"b')), 1001),
    "en la cabecera": (swallow((1, '"x,z,y')), 1),
    "después de una celda de dos líneas": (swallow((3, '1,2,"a\nb"'), (6, '"sin cerrar,1,a')), 7),
}


@pytest.mark.parametrize("case", OPEN)
def test_an_open_quote_is_told_with_its_line(case: str, tmp_path: Path) -> None:
    """Unas comillas sin cerrar no se tragan mil filas: ni al leer la hoja entera ni por partes."""
    lines, line = OPEN[case]
    path = write(tmp_path, lines)
    for read in (lambda: read_table(path), lambda: list(CsvSheet(str(path)).cut(2000)), lambda: list(CsvSheet(str(path)).cut())):
        with pytest.raises(UsageError, match=rf"línea {line} .*comillas"):
            read()


def test_a_stray_quote_is_not_an_open_one(tmp_path: Path) -> None:
    """«5" de atún», unas comillas dobles y una celda de dos líneas están bien escritas."""
    lines = ["x,z,y", *(f'5" de atún,{k},"dijo ""{k}"""' if k % 2 else f'"dos\nlíneas",{k},b' for k in range(N))]
    table = read_table(write(tmp_path, lines))
    assert len(table) == N and table["z"].tolist() == [str(k) for k in range(N)]


def test_a_line_is_the_line_of_the_file(tmp_path: Path) -> None:
    """Con saltos de línea dentro de las celdas, lo que se aparta se encuentra en el fichero."""
    lines = ["nota,x", *(f'"una\nnota, {k}",{"mal" if k == 50 else k}' for k in range(N))]
    path = write(tmp_path, lines)
    [wrong] = [number for number, text in enumerate(path.read_text().split("\n"), 1) if text.endswith(",mal")]
    column = Column(name="x", meaning="Una cifra")
    sheet = CsvSheet(str(path))
    tables = [read_table(path), pd.concat([sheet.read(part) for part in sheet.cut(200)])]
    for table in tables:
        assert list(read_rows(table, [column])[1]["line"]) == [wrong - 1]  # la fila empieza una línea antes
    assert sheet.n_lines == len(path.read_text().splitlines())


TAILS = {
    "total": ["Total,2415,"], "total con nota": ["TOTAL GENERAL,2415,a"], "fuente": ["Fuente: INE,,"],
    "total y fuente": ["Total,2415,", "Fuente: INE (2024),,"], "media": ["Media:,34,a"],
}


@pytest.mark.parametrize("case", TAILS)
def test_a_total_or_a_source_is_pointed_out_and_left_out(case: str, tmp_path: Path) -> None:
    """Se dice en qué línea está y con qué opción se quita; quitada, no queda ni en la copia ni en lo que se dice."""
    tail = TAILS[case]
    path = write(tmp_path, ["zona,z,y", *(f"zona {k},{k * 7 % 50},{'ab'[k % 2]}" for k in range(N)), *tail])
    assert f"línea {N + 2}" in (notes := land_sheet(path).notes) and f"--drop-last {len(tail)}" in notes
    found = land_sheet(path, drop_last=len(tail))
    assert len(found.rows) == N and found.quarantine.empty and "--drop-last" not in found.notes


def test_a_row_called_total_is_not_always_a_total(tmp_path: Path) -> None:
    """Si «Total» es un valor más de la columna, no se señala."""
    path = write(tmp_path, ["zona,z,y", *(f"{['Total', 'Norte'][k % 2]},{k * 7 % 50},{'ab'[k % 2]}" for k in range(N))])
    assert "--drop-last" not in land_sheet(path).notes


def test_units_in_the_second_line(tmp_path: Path) -> None:
    """La segunda cabecera da la unidad y no es una fila."""
    path = write(tmp_path, ["peso,precio,y", "kg,€/m2,clase", *(f"{k},{k * 7 % 50},{'ab'[k % 2]}" for k in np.random.default_rng(0).permutation(N))])
    found = land_sheet(path)
    assert (found.columns["peso"].unit, found.columns["precio"].unit) == ("kg", "€/m2")
    assert len(found.rows) == N and found.quarantine.empty and "línea 2 es otra cabecera" in found.notes
    assert "en 2 clases: a, b" in found.notes


def test_mac_roman_is_recognised_and_said(tmp_path: Path) -> None:
    """«año» no es «a–o», y se dice en qué se ha leído."""
    lines = ["año;tamaño;opinión", *(f"{k};{k * 7 % 50};{['está bien', 'señala algún error'][k % 2]}" for k in range(N))]
    path = write(tmp_path, lines, "mac_roman")
    found = land_sheet(path, target="opinión")
    assert set(found.columns) == {"año", "tamaño", "opinión"} and set(found.rows["opinión"]) == {"está bien", "señala algún error"}
    assert "mac_roman" in found.notes
    assert CsvSheet(str(path)).columns == ["año", "tamaño", "opinión"]
    assert list(read_table(write(tmp_path, lines, "cp1252"))) == ["año", "tamaño", "opinión"]


@pytest.mark.parametrize("encoding", ["utf-32", "utf-32-le"])
def test_utf_32_is_refused_with_a_sentence(encoding: str, tmp_path: Path) -> None:
    """Ni nombres con espacios ni celdas con bytes nulos: se dice que no, y qué hacer."""
    path = write(tmp_path, ["x,y", *(f"{k},{'ab'[k % 2]}" for k in range(N))], encoding)
    for call in (lambda: read_table(path), lambda: CsvSheet(str(path)), lambda: read_table(path, encoding=encoding)):
        with pytest.raises(UsageError, match="UTF-8|no es un fichero de texto"):
            call()


# --- El objetivo ---------------------------------------------------------------------------------------------------


def target_sheet(folder: Path, values: list[str], x: list[str] | None = None) -> Path:
    """Una hoja con ese objetivo."""
    noise = np.random.default_rng(0).normal(size=len(values)).round(3)
    return write(folder, ["x,z,y", *(f"{(x or noise)[k]},{k * 7 % 50},{value}" for k, value in enumerate(values))])


def test_classes_with_a_decimal_are_whole(tmp_path: Path) -> None:
    """«0.0» y «1.0» son las clases 0 y 1."""
    found = land_sheet(target_sheet(tmp_path, ["0.0", "1.0"] * (N // 2)))
    assert found.task == "classification" and "en 2 clases: 0, 1." in found.notes
    assert found.rows["y"].dtype == "int64" and set(found.rows["y"]) == {0, 1}


SPELLINGS = ["si", "Si", "SÍ", "sí ", "no", "NO", "no", "si"]


def test_spellings_of_a_class_are_pointed_out_and_joined(tmp_path: Path) -> None:
    """Se señalan; con la opción son dos clases, y así se leen después."""
    path = target_sheet(tmp_path, (SPELLINGS * N)[:N])
    separate, joined = land_sheet(path), land_sheet(path, join=True)
    assert "--join-labels" in separate.notes and "«SÍ»" in separate.notes and separate.rows["y"].nunique() == 6
    assert set(joined.rows["y"]) == {"si", "no"} and "en 2 clases: no, si." in joined.notes and "--join-labels" not in joined.notes


def test_a_number_that_might_be_a_class_says_so(tmp_path: Path) -> None:
    """Once valores enteros se calculan, y se dice cómo clasificarlos."""
    path = target_sheet(tmp_path, [str(10 * (1 + k % 11)) for k in range(99)])
    found = land_sheet(path)
    assert found.task == "regression" and "11 valores" in found.notes and "--task classification" in found.notes
    assert "en 11 clases" in land_sheet(path, task="classification").notes


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_a_copy_of_the_target_is_pointed_out(task: str, tmp_path: Path) -> None:
    """La columna que es el objetivo con un poco de ruido se nombra; la que no, no."""
    draw = np.random.default_rng(1)
    y = draw.integers(0, 2, 80) if task == "classification" else draw.normal(50, 9, 80).round(2)
    copy = [f"{value:.4f}" for value in y + draw.normal(0, 0.01, 80)]
    assert "«x» dice por sí sola «y»" in (notes := land_sheet(target_sheet(tmp_path, [str(value) for value in y], copy)).notes)
    assert "«z»" not in notes


# --- Puntuar -------------------------------------------------------------------------------------------------------

HEADER = "name,dma_ash,dma_cals,dma_carbs,dma_prot,ga_moist"
GOOD = "Whiskas,1.7,76,21,50,84"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Un proyecto de comidas, con su modelo."""
    folder = tmp_path_factory.mktemp("raras").resolve()
    project = find_project(folder)
    sources = load_sources(project)
    write_simulated(sources.simulate, folder / sources.file.format(origin="simulated"), n_rows=600, seed=1)
    Session(project).run()
    return folder


def predict(folder: Path, lines: list[str], encoding: str = "utf-8", prefix: str = "", **params) -> tuple[pd.DataFrame, str]:
    """Puntúa una hoja: la salida, en texto, y el resumen."""
    path = write(folder, lines, encoding)
    request = ScoringRequest((str(path),), str(folder / "out.csv"), {"max_bad_share": 0.5, **params}, {}, *([prefix] if prefix else []))
    (folder / "out.csv").unlink(missing_ok=True)
    _, results = score_files(find_project(folder), request)
    return read_table(folder / "out.csv", decimal="."), results["prediction_summary"]


def change(line: str, column: int, cell: str) -> str:
    """Una fila con una celda cambiada."""
    cells = line.split(",")
    cells[column] = cell
    return ",".join(cells)


ROWS = [change(GOOD, 4, f"{30 + k % 40}.5") for k in range(N)]
# caso → (hoja, filas que tiene, cuántas van a la cuarentena)
SHEETS = {
    "limpia": ([HEADER, *ROWS], N, 0),
    "decimales de una hoja de Google": ([HEADER, *(change(GOOD, 4, f'"{30 + k % 40},5"').replace("1.7", '"1,7"') for k in range(N))], N, 0),
    "saltos de línea en las celdas": ([HEADER, *(change(row, 0, '"dos\nlíneas"') for row in ROWS[:9]), change(GOOD, 4, "?"), *ROWS], N + 10, 1),
    "filas vacías": ([HEADER, *ROWS[:5], "", ",,,,,", *ROWS], N + 5, 0),
    "infinitos": ([HEADER, *ROWS, change(GOOD, 2, "inf"), change(GOOD, 4, "-inf")], N + 2, 2),
    "unidades en la segunda línea": ([HEADER, "nombre,%,kcal,%,%,%", *ROWS], N + 1, 1),
    "total": ([HEADER, *ROWS, "Total,120,5000,1400,3500,5900"], N + 1, 1),
    "fuente": ([HEADER, *ROWS, "Fuente: INE,,,,,"], N + 1, 1),
    "signos": ([HEADER, *ROWS, change(GOOD, 4, "(50)"), change(GOOD, 4, "50-"), change(GOOD, 4, "−50")], N + 3, 3),
    "fechas y horas": ([HEADER, *ROWS, change(GOOD, 2, "14/03/2024"), change(GOOD, 2, "14:30")], N + 2, 2),
    "exponentes": ([HEADER, *ROWS, change(GOOD, 2, "7.6e1"), change(GOOD, 2, "7.6E+001")], N + 2, 0),
    "celdas de más": ([HEADER, *ROWS, GOOD + ",9"], N + 1, 1),
    "ya puntuada": ([HEADER + ",score,probability", *(row + ",9,alta" for row in ROWS)], N, 0),
}


@pytest.mark.parametrize("case", SHEETS)
def test_as_many_rows_come_out_and_the_summary_adds_up(case: str, folder: Path) -> None:
    """Salen las filas que entran, y las cuentas del resumen son las del fichero."""
    lines, n_rows, n_bad = SHEETS[case]
    scored, summary = predict(folder, lines)
    answer = "tierra_score" if case == "ya puntuada" else "score"
    assert len(scored) == n_rows and (scored[answer] == "").sum() == n_bad
    assert f"Filas leídas: {n_rows} = {n_rows - n_bad} con respuesta + {n_bad} en cuarentena." in summary
    n_lines = len((folder / "hoja.csv").read_text().splitlines())
    total, *terms = map(int, re.findall(r"\d+", re.search(r"Líneas leídas: .*", summary)[0]))
    assert total == n_lines == sum(terms) and terms[1] == n_rows


def test_what_was_read_is_what_is_meant(folder: Path) -> None:
    """Los decimales con coma puntúan como los del punto, y un exponente como la cifra entera."""
    spanish, plain = (predict(folder, SHEETS[case][0])[0] for case in ("decimales de una hoja de Google", "limpia"))
    assert list(spanish["score"]) == list(plain["score"])
    assert [cell.replace(",", ".") for cell in spanish["probability"]] == list(plain["probability"])
    powers, _ = predict(folder, SHEETS["exponentes"][0])
    whiskas, _ = predict(folder, [HEADER, GOOD])
    assert set(powers["probability"].tail(2)) == set(whiskas["probability"])


def test_a_score_that_was_there_is_kept(folder: Path) -> None:
    """Lo que traía la hoja sigue igual; lo nuevo va al lado, y se dice cómo se llama."""
    lines = SHEETS["ya puntuada"][0]
    scored, summary = predict(folder, lines)
    assert list(scored) == [*lines[0].split(","), "tierra_score", "tierra_probability"]
    assert set(scored["score"]) == {"9"} and set(scored["probability"]) == {"alta"} and "«tierra_score»" in summary
    again, _ = predict(folder, lines, prefix="v2_")
    assert list(again)[-2:] == ["v2_score", "v2_probability"] and list(again["v2_score"]) == list(scored["tierra_score"])
    with pytest.raises(UsageError, match="--prefix"):
        predict(folder, [lines[0] + ",tierra_score", *(line + ",1" for line in lines[1:])])


def test_the_pipeline_on_its_own_covers_nothing_either(folder: Path) -> None:
    """`kedro run --pipeline prediction` no sabe poner nada al lado: se niega."""
    path = write(folder, SHEETS["ya puntuada"][0])
    with pytest.raises(UsageError, match="«score», y no se tapa"):
        Session(find_project(folder), {"input": str(path), "output": str(folder / "no.csv")}).run("prediction")
    assert not (folder / "no.csv").exists()


def test_infinities_and_totals_are_named_in_the_summary(folder: Path) -> None:
    assert "(2 con un valor infinito)" in predict(folder, SHEETS["infinitos"][0])[1]
    assert f"total o una fuente (líneas {N + 2})" in predict(folder, SHEETS["total"][0])[1]


def test_the_quarantine_says_the_line_of_the_file(folder: Path) -> None:
    predict(folder, SHEETS["saltos de línea en las celdas"][0])
    [line] = [number for number, text in enumerate((folder / "hoja.csv").read_text().split("\n"), 1) if ",?," in text]
    assert list(pd.read_csv(folder / "out.quarantine.csv")["line"]) == [line]


def test_an_open_quote_stops_before_writing(folder: Path) -> None:
    """Nunca salen menos filas de las que hay."""
    lines = [HEADER, *ROWS[:4], change(GOOD, 0, '"sin cerrar'), *ROWS * 20]
    with pytest.raises(UsageError, match="línea 6 .*comillas"):
        predict(folder, lines)
    assert not (folder / "out.csv").exists()


def test_a_pipeline_that_loses_rows_is_stopped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Si un nodo se deja filas, no hay salida: se dice."""
    from de_jupyter_a_la_tierra.scoring.pipeline import Scorer

    score = Scorer.score
    monkeypatch.setattr(Scorer, "score", lambda self, sheet: {k: v.iloc[1:] if k == "scored_foods" else v for k, v in score(self, sheet).items()})
    with pytest.raises(TierraError, match=rf"leyó {N} filas .* devolvió {N - 1}"):
        predict(folder, SHEETS["limpia"][0])


# --- De punta a punta ----------------------------------------------------------------------------------------------


def test_a_google_sheet_in_spanish_goes_the_whole_way(tmp_path: Path, tierra: Tierra) -> None:
    """De la hoja al proyecto, al modelo y a la hoja puntuada, solo con órdenes."""
    draw = np.random.default_rng(0)
    x, answers = draw.normal(0, 9, 160).round(2), ["sí", "Si", "NO"]
    lines = [f'"{f"({-v:.2f})" if v < 0 else f"{v:.2f}"}","0,{draw.integers(100, 999)}",{answers[0 if v + draw.normal() > 0 else 2]}' for v in x]
    lines[3] = lines[3].replace("sí", "Si").replace("NO", "no")
    write(tmp_path, ["saldo,parte,responde", *(line.replace(".", ",") for line in lines), "Fuente: INE,,"])
    done = tierra("new", "raras", "--data", "hoja.csv", "--target", "responde", "--stage", "4", "--join-labels", "--drop-last", "1", cwd=tmp_path)
    assert done.returncode == 0 and "paréntesis" in done.stdout and "en 2 clases" in done.stdout, done.stdout + done.stderr
    project = tmp_path / "raras"
    done = tierra("run", cwd=project)
    assert done.returncode == 0 and "160 filas, 0 en cuarentena" in done.stdout, done.stdout + done.stderr
    (project / "ayer.csv").write_text("\n".join(["saldo,parte,score", *(f'"({k},50)","0,{100 + k}",viejo' for k in range(N)), '"mal","0,5",viejo']) + "\n")
    done = tierra("predict", "ayer.csv", "hoy.csv", cwd=project)
    assert done.returncode == 0 and f"{N + 1} = {N} con respuesta + 1 en cuarentena" in done.stdout, done.stdout + done.stderr
    scored = pd.read_csv(project / "hoy.csv", dtype=str, keep_default_na=False)
    assert list(scored) == ["saldo", "parte", "score", "tierra_score", "probability"] and set(scored["score"]) == {"viejo"}
    assert len(scored) == N + 1 and scored["tierra_score"].iloc[-1] == "" and scored["tierra_score"].iloc[60] == "NO"
    assert scored["saldo"].iloc[7] == "(7,50)"


def pack(lines: list[str], kind: str) -> bytes:
    """Una hoja en otro formato."""
    table = pd.read_csv(io.StringIO("\n".join(lines)), dtype=str)
    if kind == "csv.gz":
        return gzip.compress("\n".join(["Comidas de marzo", *lines]).encode())
    if kind == "jsonl":
        return table.to_json(orient="records", lines=True).encode()
    book = io.BytesIO()
    table.to_excel(book, index=False, startrow=2)
    return book.getvalue()


@pytest.mark.parametrize("kind", ["csv.gz", "jsonl", "xlsx"])
def test_other_formats_are_scored_row_by_row(kind: str, folder: Path) -> None:
    """Comprimida, JSON o Excel: las mismas notas que en CSV, y todas las filas."""
    plain, _ = predict(folder, [HEADER, *ROWS])
    path = folder / f"hoja.{kind}"
    path.write_bytes(pack([HEADER, *ROWS], kind))
    request = ScoringRequest((str(path),), str(folder / "otra.csv"), {"max_bad_share": 0.5}, {})
    _, results = score_files(find_project(folder), request)
    scored = read_table(folder / "otra.csv", decimal=".")
    assert scored["probability"].tolist() == plain["probability"].tolist() and len(scored) == N
    assert f"Filas leídas: {N} = {N} con respuesta + 0 en cuarentena." in results["prediction_summary"]


def test_a_scored_sheet_keeps_its_own_header(folder: Path) -> None:
    """Los nombres repetidos o con saltos salen como llegaron, y lo que va encima de la tabla se dice."""
    header = HEADER.replace("name", '"name\n(de la lata)"') + ",nota,nota"
    _, summary = predict(folder, ["Comidas de marzo", "", header, *(f"{row},a,b" for row in ROWS)])
    table = pd.read_csv(folder / "out.csv", header=None, dtype=str)
    assert table.iloc[0].tolist() == ["name\n(de la lata)", *HEADER.split(",")[1:], "nota", "nota", "score", "probability"]
    assert len(table) == N + 1 and table.iloc[1:, 7].eq("b").all()
    assert "«Comidas de marzo»" in summary and "«nota_2»" in summary and f"Filas leídas: {N} = {N}" in summary


REFUSED = {
    "utf-32": (["x,y", *(f"{k},{'ab'[k % 2]}" for k in range(N))], "utf-32", "UTF-32"),
    "comillas": (["x,y", "1,a", '"2,b', *(f"{k},{'ab'[k % 2]}" for k in range(N))], "utf-8", "línea 3"),
    "coma dudosa": (["x,y", *(f'"1,{200 + k}",{"ab"[k % 2]}' for k in range(N))], "utf-8", "--decimal"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_ends_with_two_and_a_sentence(case: str, tmp_path: Path, tierra: Tierra) -> None:
    lines, encoding, says = REFUSED[case]
    write(tmp_path, lines, encoding)
    done = tierra("new", "raras", "--data", "hoja.csv", "--target", "y", cwd=tmp_path)
    assert done.returncode == 2 and says in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["hoja.csv"]
