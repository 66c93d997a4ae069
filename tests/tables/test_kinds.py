"""Las celdas de cualquiera: cada clase de columna, con el valor que su dueño quiso escribir, y lo que no se puede saber, dicho."""
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from de_jupyter_a_la_tierra.errors import UsageError
from de_jupyter_a_la_tierra.landing.inference import study_table, to_source, typical_row
from de_jupyter_a_la_tierra.projects.sources import adopt_table
from de_jupyter_a_la_tierra.tables.csv import read_table
from de_jupyter_a_la_tierra.tables.dictionary import Column, Dictionary
from de_jupyter_a_la_tierra.tables.values import read_rows

N = 70
Tierra = Callable[..., subprocess.CompletedProcess[str]]


def study(folder: Path, cells: list[str], sep: str = ";", **choices) -> SimpleNamespace:
    """Una hoja con esas celdas en la columna «x»: lo que se ve en ella y lo que se lee de la copia que guarda el proyecto."""
    header, body = sep.join("xzy"), [sep.join([cell, str(k * 7 % 50), "ab"[k * 5 % 7 % 2]]) for k, cell in enumerate(cells)]
    path = folder / "hoja.csv"
    path.write_text("\n".join([header, *body]) + "\n", encoding="utf-8")
    found = study_table(read_table(path), "hoja", "y", **choices)
    columns = list(found.dictionary.columns)
    adopt_table(path, columns, folder / "own.csv", {})
    rows, quarantine = read_rows(read_table(folder / "own.csv"), columns)
    by_name = {column.name: column for column in columns}
    return SimpleNamespace(x=by_name["x"], columns=by_name, rows=rows, quarantine=quarantine, found=found, notes="\n".join(found.notes))


# caso → (cómo se escribe el número k, cuánto vale, en qué unidad)
NUMBERS = {
    "euros, con millares": (lambda k: f"1.{100 + k},56 €", lambda k: 1100.56 + k, "€"),
    "dólares, con su país": (lambda k: f"US$ {k + 1}", lambda k: k + 1, "US$"),
    "código de moneda": (lambda k: f"EUR {k},5", lambda k: k + 0.5, "EUR"),
    "porcentaje": (lambda k: f"{k},5 %", lambda k: k + 0.5, "%"),
    "porcentaje con espacio que no se parte": (lambda k: f"{k},5\u00a0%", lambda k: k + 0.5, "%"),
    "paréntesis": (lambda k: f"({k},50)" if k % 3 else f"{k},50", lambda k: -k - 0.5 if k % 3 else k + 0.5, ""),
    "menos de verdad": (lambda k: f"−{k + 1}", lambda k: -k - 1, ""),
    "menos detrás": (lambda k: f"{k},50-", lambda k: -k - 0.5, ""),
    "millares con espacio": (lambda k: f"1 {100 + k}", lambda k: 1100 + k, ""),
    "millares con NBSP y decimales": (lambda k: f"1\u00a0{100 + k},5", lambda k: 1100.5 + k, ""),
    "millares con U+202F": (lambda k: f"1\u202f{100 + k}", lambda k: 1100 + k, ""),
    "millares con apóstrofo": (lambda k: f"1'{100 + k}.5", lambda k: 1100.5 + k, ""),
    "millares con apóstrofo curvo": (lambda k: f"1’{100 + k}.25", lambda k: 1100.25 + k, ""),
    "sin cero delante": (lambda k: f".{k + 10}5", lambda k: (10 * k + 105) / 1000, ""),
    "sin decimales detrás": (lambda k: f"{k}." if k % 2 else f"{k}.5", lambda k: k if k % 2 else k + 0.5, ""),
    "exponente": (lambda k: f"{k}.0E7", lambda k: k * 1e7, ""),
    "exponente en minúscula": (lambda k: f"{k}.5e7", lambda k: (k + 0.5) * 1e7, ""),
    "metros cuadrados": (lambda k: f"{k + 1} m²", lambda k: k + 1, "m²"),
    "millares del INE": (lambda k: f"1.234.{100 + k}", lambda k: 1234100 + k, ""),
}


@pytest.mark.parametrize("case", NUMBERS)
def test_a_number_is_the_one_that_was_written(case: str, tmp_path: Path) -> None:
    write, value, unit = NUMBERS[case]
    order = np.random.default_rng(0).permutation(N)
    seen = study(tmp_path, [write(k) for k in order], include=["x"])  # todos seguidos, parecen un identificador
    assert (seen.x.kind, seen.x.unit, seen.x.note) == ("number", unit, "")
    assert seen.rows["x"].tolist() == pytest.approx([value(k) for k in order], rel=1e-12) and seen.quarantine.empty


def test_each_column_votes_for_its_own_mark(tmp_path: Path) -> None:
    """En una hoja del INE, «1.234.567» y «12,3» están juntas; y una columna con punto puede estar entre otras con coma."""
    path = tmp_path / "ine.csv"
    path.write_text("población;tasa;índice;y\n" + "".join(f"1.234.{100 + k};{k},3;{k}.25;{'ab'[k % 2]}\n" for k in range(N)))
    found = study_table(read_table(path), "ine", "y")
    first = found.rows.iloc[1]
    assert (first["población"], first["tasa"], first["índice"]) == (1234101, 1.3, 1.25)
    adopt_table(path, list(found.dictionary.columns), tmp_path / "own.csv", {})
    again = read_rows(read_table(tmp_path / "own.csv"), list(found.dictionary.columns))[0]
    pd.testing.assert_frame_equal(again.reset_index(drop=True), found.rows[list(again)].reset_index(drop=True))


CODES = {
    "códigos postales": lambda k: f"{8000 + k // 2:05d}",
    "aulas": lambda k: f"{12 + k // 4}E{10 + k % 2}" if k % 2 else f"{100 + k // 2}",
    "dieciocho cifras": lambda k: str(10**17 + k // 2),
    "cuatrocientas cifras": lambda k: "9" * 399 + str(k // 2 % 10),
    "teléfonos": lambda k: f"+34 600 12{k // 20} 456",
}


@pytest.mark.parametrize("case", CODES)
def test_a_code_stays_as_it_is_written(case: str, tmp_path: Path) -> None:
    cells = [CODES[case](k) for k in range(N)]
    seen = study(tmp_path, cells)
    assert seen.x.kind == "category" and seen.rows["x"].tolist() == cells
    alone = study(tmp_path, [f"{cell}{k:02d}" if case != "aulas" else f"{k + 10}E1{k}" for k, cell in enumerate(cells)])
    assert alone.x.note == "parece un identificador" and alone.rows["x"].nunique() == N


def test_an_endless_integer_among_others_is_told(tmp_path: Path) -> None:
    seen = study(tmp_path, [*map(str, range(N - 1)), "9" * 400])
    assert seen.x.kind == "number" and list(seen.quarantine["reason"]) == ["es infinito"] and "infinito" in seen.notes


@pytest.mark.parametrize("cells", [["5 kg", "200 g"], ["5 €", "5 $"], ["$5", "5 €"]])
def test_two_units_are_not_one_number(cells: list[str], tmp_path: Path) -> None:
    """«200 g» no es más que «5 kg»: la columna no se usa, y se dice por qué."""
    seen = study(tmp_path, (cells * N)[:N])
    assert seen.x.kind == "text" and seen.x.note.startswith("mezcla unidades («") and "x" not in seen.found.dictionary.features
    assert study(tmp_path, [cells[0], cells[0].replace("5", "7")] * 35).x.kind == "number"


NUMBERED = {
    "ordinales en inglés": ["1st", "2nd", "3rd"],
    "ordinales en español": ["1er turno", "2do turno", "3ra línea"],
    "curso y grupo": ["1º A", "1º B", "2º A", "2º B"],
    "encuesta": ["1. Soltero", "2. Casado", "3. Viudo", "4. Divorciado"],
    "escala": ["0 - nunca", "1 - a veces", "2 - siempre"],
    "casi todo, lo mismo": ["1. Blanca"] * 30 + ["2. Negra"],
}


@pytest.mark.parametrize("case", NUMBERED)
def test_a_number_that_numbers_measures_nothing(case: str, tmp_path: Path) -> None:
    """«2. Casado» no es el doble de «1. Soltero», ni «Casado» una unidad: son categorías, y sirven."""
    cells = (NUMBERED[case] * N)[:N]
    seen = study(tmp_path, cells)
    assert (seen.x.kind, seen.x.labels, seen.x.note) == ("category", tuple(sorted(set(cells))), "")
    assert seen.rows["x"].tolist() == cells and "x" in seen.found.dictionary.features


YES_NO = [("sí", "no"), ("Sí", "NO"), ("S", "N"), ("yes", "no"), ("true", "false"), ("TRUE", "FALSE"), ("verdadero", "falso"), ("1", "0")]


@pytest.mark.parametrize(("yes", "no"), YES_NO)
def test_a_yes_is_a_yes(yes: str, no: str, tmp_path: Path) -> None:
    cells = [("", "s/d", yes, no)[k % 4] for k in range(N)]
    seen = study(tmp_path, cells)
    assert (seen.x.kind, seen.x.labels, seen.x.missing, seen.x.required) == ("boolean", (no, yes), ("s/d",), False)
    assert seen.rows["x"].dtype == "float64" and seen.quarantine.empty
    assert seen.rows["x"].fillna(-1).tolist() == [{yes: 1, no: 0}.get(cell, -1) for cell in cells]


def test_what_is_neither_yes_nor_no_is_set_aside() -> None:
    column = Column(name="x", meaning="", kind="boolean", labels=("no", "sí"), required=False)
    raw = pd.DataFrame({"x": ["sí", "True", "0", "quizá", "", "S"]}, pd.RangeIndex(2, 8, name="line"))
    rows, quarantine = read_rows(raw, [column])
    assert rows["x"].fillna(-1).tolist() == [1, 1, 0, -1, 1]
    assert quarantine.to_dict("records") == [{"line": 5, "column": "x", "value": "quizá", "reason": "no es «no» ni «sí»"}]


# caso → (cómo se escribe el día k de 2024, formato)
DATES = {
    "ISO": ("%Y-%m-%d", ""),
    "española": ("%d/%m/%Y", "%d/%m/%Y"),
    "americana": ("%m/%d/%Y", "%m/%d/%Y"),
    "con puntos": ("%d.%m.%Y", "%d.%m.%Y"),
    "con dos cifras": ("%d-%m-%y", "%d-%m-%y"),
    "con hora": ("%d/%m/%Y 10:30", "%d/%m/%Y %H:%M"),
    "ISO con hora": ("%Y-%m-%d 10:30:00", "%Y-%m-%d %H:%M:%S"),
}
MONTHS = ["ene", "feb", "mar", "abr", "may", "jun", "jul", "ago", "sep", "oct", "nov", "dic"]
NAMES = ["enero", "febrero", "marzo", "abril", "mayo", "junio", "julio", "agosto", "septiembre", "octubre", "noviembre", "diciembre"]


@pytest.mark.parametrize("case", DATES)
def test_a_date_is_that_day(case: str, tmp_path: Path) -> None:
    pattern, date_format = DATES[case]
    days = pd.date_range("2024-01-05", periods=N, freq="3D")
    seen = study(tmp_path, [f"{day:{pattern}}" if k % 9 else "" for k, day in enumerate(days)])
    assert (seen.x.kind, seen.x.date_format, seen.x.required, seen.x.note) == ("date", date_format, False, "")
    moment = pd.Timedelta(hours=10.5) if "hora" in case else pd.Timedelta(0)
    assert seen.rows["x"].dtype == "datetime64[us]" and seen.rows["x"].isna().sum() == sum(k % 9 == 0 for k in range(N))
    assert all(value == day + moment for value, day in zip(seen.rows["x"], days, strict=True) if value is not pd.NaT)
    assert "--time x" in seen.notes


@pytest.mark.parametrize("long", [False, True])
def test_a_month_with_letters_is_read_in_any_machine(long: bool, tmp_path: Path) -> None:
    days = pd.date_range("2024-01-05", periods=N, freq="3D")
    cells = [f"{day.day} de {NAMES[day.month - 1]} de {day.year}" if long else f"{day.day}-{MONTHS[day.month - 1]}-{day.year}" for day in days]
    seen = study(tmp_path, cells)
    assert seen.x.kind == "date" and seen.rows["x"].tolist() == list(days)


def test_an_hour_alone_is_of_any_day(tmp_path: Path) -> None:
    seen = study(tmp_path, [f"{k % 24}:{k % 60:02d}" for k in range(N)])
    assert seen.x.date_format == "%H:%M" and seen.rows["x"].iloc[25] == pd.Timestamp(1970, 1, 1, 1, 25) and "--time" not in seen.notes


def test_the_order_of_day_and_month_is_proved_or_told(tmp_path: Path) -> None:
    """Si ningún número pasa de doce, se lee el día primero y se dice; si uno pasa, ese manda."""
    cells = [f"0{1 + k % 9}/0{1 + k * 5 % 9}/2024" for k in range(N)]
    doubtful = study(tmp_path, cells)
    assert doubtful.x.date_format == "%d/%m/%Y" and "nada dice si va antes el día o el mes" in doubtful.notes and "%m/%d/%Y" in doubtful.notes
    proved = study(tmp_path, [*cells[:-1], "01/31/2024"])
    assert proved.x.date_format == "%m/%d/%Y" and "nada dice" not in proved.notes
    assert proved.rows["x"].iloc[1] == pd.Timestamp(2024, 2, 6)


def test_an_impossible_date_is_set_aside(tmp_path: Path) -> None:
    seen = study(tmp_path, [*(f"{1 + k % 28:02d}/03/2024" for k in range(N - 1)), "31/02/2024"])
    assert list(seen.quarantine["value"]) == ["31/02/2024"] and "no es una fecha" in seen.quarantine["reason"].iloc[0]


GAPS = ["NA", "?", "..", "-", "Ip", "s/d", "nan", "null", "n/d", "N/A", "#N/A", "NaN", "None", "–"]


@pytest.mark.parametrize("word", GAPS)
def test_a_word_that_means_no_data_is_a_gap(word: str, tmp_path: Path) -> None:
    """Entre números: se reconoce, se apunta y se dice; y no aparta ni una fila."""
    seen = study(tmp_path, [word if k % 5 == 0 else f"{k},5" for k in range(N)])
    assert (seen.x.kind, seen.x.missing) == ("number", (word,)) and f"«{word}» (14)" in seen.notes
    assert seen.rows["x"].isna().sum() == 14 and len(seen.rows) == N


def test_a_word_among_words_is_a_category(tmp_path: Path) -> None:
    """«NA» es Norteamérica donde hay «EU» y «SA»; «?» no es una categoría."""
    seen = study(tmp_path, [("NA", "EU", "SA", "?")[k % 4] for k in range(N)])
    assert (seen.x.kind, seen.x.labels, seen.x.missing) == ("category", ("EU", "NA", "SA"), ("?",))


def test_a_number_that_smells_of_no_data_is_only_pointed_out(tmp_path: Path) -> None:
    seen = study(tmp_path, ["-200" if k % 7 == 0 else str(k) for k in range(N)])
    assert "-200 se repite 10 veces" in seen.notes and 'missing=("-200",)' in seen.notes
    assert seen.rows["x"].min() == -200 and seen.x.missing == ()
    column = Column(name="x", meaning="", missing=("-200",), required=False)
    assert read_rows(pd.DataFrame({"x": ["-200", "-200.0", "5"]}), [column])[0]["x"].isna().tolist() == [True, True, False]
    assert read_rows(pd.DataFrame({"x": [-200.0, 5.0]}), [column])[0]["x"].isna().tolist() == [True, False]


def test_categories_may_be_thousands(tmp_path: Path) -> None:
    """Lo que se repite es una categoría; lo que no, un identificador; y lo que son frases, texto libre."""
    path = tmp_path / "hoja.csv"
    lines = [f"t{k % 2000},d{k % 900},c{k},una opinión larga y distinta de las demás: la número {k},{'ab'[k % 2]}" for k in range(6000)]
    path.write_text("tienda,distrito,clave,opinión,y\n" + "\n".join(lines))
    found = study_table(read_table(path), "hoja", "y")
    columns = {column.name: column for column in found.dictionary.columns}
    assert [column.kind for column in columns.values()] == ["category", "category", "text", "text", "category"]
    assert (len(columns["tienda"].labels), len(columns["distrito"].labels)) == (0, 900)  # dos mil no se apuntan
    assert (columns["clave"].note, columns["opinión"].note) == ("parece un identificador", "es texto libre")
    assert found.dictionary.features == ("tienda", "distrito")


def test_a_class_that_is_a_gap_elsewhere_is_told(tmp_path: Path) -> None:
    """R escribe «NA» donde falta: entre números es un hueco; de clase del objetivo puede serlo, y se dice cómo."""
    path = tmp_path / "hoja.csv"
    path.write_text("x,z,y\n" + "".join(f"{'NA' if k % 9 == 0 else k},{k % 7},{('NA', 'a', 'b', 'a')[k % 4]}\n" for k in range(N)))
    found = study_table(read_table(path), "hoja", "y")
    assert "«NA» es una clase de «y», y en «x» es un hueco: si aquí también lo es, missing=(\"NA\",) en su columna." in found.notes
    goal = replace(found.dictionary.select(["y"])[0], missing=("NA",))
    rows, quarantine = read_rows(read_table(path), [*found.dictionary.columns[:2], goal])
    assert len(quarantine) == sum(k % 4 == 0 for k in range(N)) and set(rows["y"]) == {"a", "b"}
    path.write_text("x,z,y\n" + "".join(f"{k},{k % 7},{('NA', 'EU', 'SA')[k % 3]}\n" for k in range(N)))
    assert "NA" not in "".join(study_table(read_table(path), "hoja", "y").notes[1:])


def test_gaps_drop_nothing(tmp_path: Path) -> None:
    """Diez columnas con un hueco cada una, en filas distintas: se usan todas y no se aparta ninguna fila."""
    path = tmp_path / "hoja.csv"
    path.write_text(",".join([*(f"x{j}" for j in range(10)), "y"]) + "\n" + "".join(
        ",".join(["" if (k + j) % 6 == 0 else str(k * (j + 2) % 23) for j in range(10)] + ["ab"[k % 2]]) + "\n" for k in range(N)))
    found = study_table(read_table(path), "hoja", "y")
    assert len(found.dictionary.features) == 10 and len(found.rows) == N and not any(c.required for c in found.dictionary.columns[:10])
    empty = study_table(read_table(path).assign(x0=""), "hoja", "y")
    assert empty.dictionary.columns[0].note == "está vacía" and len(empty.rows) == N


def test_typed_columns_keep_their_type() -> None:
    """Lo que llega de un Parquet no hay que adivinarlo, y da lo mismo que escrito."""
    typed = pd.DataFrame(
        {
            "si": pd.array([True, None, False] * 20, dtype="boolean"), "n": pd.array([1, None, 30] * 20, dtype="Int64"),
            "c": pd.Categorical(["lata", None, "cubo"] * 20), "f": pd.to_datetime(["2024-03-14 10:30", None, "2024-03-15 00:00"] * 20),
            "d": [1.5, None, -2.0] * 20, "z": pd.to_datetime(["2024-03-14T10:30Z", None, "2024-03-15T00:00Z"] * 20), "y": [0, 1, 1] * 20,
        },
        pd.RangeIndex(2, 62, name="line"),
    )
    columns = list(study_table(typed, "x", "y").dictionary.columns)
    assert [column.kind for column in columns] == ["boolean", "number", "category", "date", "number", "date", "number"]
    rows, quarantine = read_rows(typed, columns)
    assert [str(kind) for kind in rows.dtypes] == ["float64", "float64", "str", "datetime64[us]", "float64", "datetime64[us]", "int64"]
    assert quarantine.empty and rows.iloc[0].tolist() == [1, 1, "lata", pd.Timestamp(2024, 3, 14, 10, 30), 1.5, pd.Timestamp(2024, 3, 14, 10, 30), 0]


def test_an_unseen_category_is_read_as_it_is() -> None:
    column = Column(name="x", meaning="", kind="category", labels=("A", "a", "lata"))
    rows, quarantine = read_rows(pd.DataFrame({"x": ["A", "a", "LATA", "nueva", ""]}), [column])
    assert rows["x"].tolist() == ["A", "a", "lata", "nueva"] and list(quarantine["reason"]) == ["está vacía"]


def test_the_dictionary_is_written_and_read_back(tmp_path: Path) -> None:
    """Lo que se ve se escribe en Python, y de ahí sale lo mismo."""
    cells = [("14/03/2024", "s/d", "15/04/2024")[k % 3] for k in range(N)]
    found = study(tmp_path, cells).found
    namespace = {"Column": Column, "Dictionary": Dictionary}
    exec(to_source(found.dictionary), namespace)  # noqa: S102
    assert namespace["DICTIONARY"] == found.dictionary
    assert typical_row(read_table(tmp_path / "hoja.csv"), found.dictionary) == {"x": "2024-03-14", "z": pytest.approx(25, abs=3)}


# --- Lo que conviene saber -----------------------------------------------------------------------------------------


def test_rows_without_a_target_are_told_and_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "hoja.csv"
    path.write_text("x,y\n" + "".join(f"{k * 7 % 50},{'' if k % 3 == 0 else 'ab'[k % 2]}\n" for k in range(N)))
    found = study_table(read_table(path), "hoja", "y")
    assert len(found.rows) == N - 24 and "Filas sin «y»: 24 de 70 (34,3 %)" in "\n".join(found.notes)
    rows, quarantine = read_rows(read_table(path), list(found.dictionary.columns))
    assert len(rows) == N - 24 and set(quarantine["reason"]) == {"está vacía"}


def test_hints_name_the_option_and_are_not_repeated(tmp_path: Path) -> None:
    lines = [f"c{k // 3},{pd.Timestamp(2024, 1, 1) + pd.Timedelta(days=k):%Y-%m-%d},{k % 7},{'ab'[k * 5 % 7 % 2]}" for k in range(N)]
    path = tmp_path / "hoja.csv"
    path.write_text("\n".join(["cliente,fecha,z,y", *lines, lines[9]]) + "\n")
    notes = "\n".join(study_table(read_table(path), "x", "y").notes)
    assert "--group cliente" in notes and "--time fecha" in notes and "Filas repetidas de arriba abajo: 1 (1,4 %). La primera, en la línea 72" in notes
    found = study_table(read_table(path), "x", "y", group="cliente", time="fecha", exclude=["z"])
    notes = "\n".join(found.notes)
    assert "--group" not in notes and "--time" not in notes
    assert {c.name: c.note for c in found.dictionary.columns if c.note} == {"cliente": "dice qué filas van juntas", "z": "lo has dejado fuera"}
    assert found.dictionary.features == ("fecha",)


def test_many_classes_are_classes_if_each_has_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "hoja.csv"
    path.write_text("x,y\n" + "".join(f"{k * 7 % 50},tienda {k % 80}\n" for k in range(800)))
    found = study_table(read_table(path), "x", "y")
    assert found.task == "classification" and "en 80 clases: tienda 0, tienda 1," in found.notes[0] and "…" in found.notes[0]
    path.write_text("x,y\n" + "".join(f"{k * 7 % 50},tienda {k % 300}\n" for k in range(800)))
    with pytest.raises(UsageError, match="pocas filas por clase"):
        study_table(read_table(path), "x", "y")


def test_twelve_rows_work_and_are_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "hoja.csv"
    path.write_text("x,envase,y\n" + "".join(f"{k * 7 % 5},{'lata' if k % 2 else 'cubo'},{'ab'[k % 3 % 2]}\n" for k in range(12)))
    found = study_table(read_table(path), "x", "y")
    assert found.dictionary.features == ("x", "envase") and "Solo hay 12 filas" in "\n".join(found.notes)


@pytest.mark.parametrize("name", ["score", "probability", "evaluation"])
def test_a_column_named_as_ours_is_used_under_another_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / "hoja.csv"
    path.write_text(f"{name},y\n" + "".join(f"{k * 7 % 50},{'ab'[k % 2]}\n" for k in range(N)))
    found = study_table(read_table(path), "x", "y", include=[name])
    assert found.dictionary.features == (f"{name}_hoja",) and found.dictionary.columns[0].header == name
    columns = list(found.dictionary.columns)
    adopt_table(path, columns, tmp_path / "own.csv", {})
    assert list(read_table(tmp_path / "own.csv")) == [f"{name}_hoja", "y"]
    for sheet in (path, tmp_path / "own.csv"):
        assert read_rows(read_table(sheet), columns)[0][f"{name}_hoja"].iloc[1] == 7


@pytest.mark.parametrize("leak", ["categoría", "fecha con huecos", "número"])
def test_what_gives_the_target_away_is_pointed_out(leak: str, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    goal = draw.integers(0, 2, 200)
    tell = {
        "categoría": lambda k: f"m{k % 4}" if goal[k] else f"n{k % 4}", "fecha con huecos": lambda k: f"2024-01-{1 + k % 28:02d}" if goal[k] else "",
        "número": lambda k: f"{goal[k] * 10 + draw.normal():.3f}",
    }[leak]
    path = tmp_path / "hoja.csv"
    path.write_text("x,z,y\n" + "".join(f"{tell(k)},{draw.normal():.3f},{'ab'[goal[k]]}\n" for k in range(200)))
    notes = "\n".join(study_table(read_table(path), "x", "y").notes)
    assert "«x» dice por sí sola «y»" in notes and "--exclude x" in notes and "«z» dice" not in notes


# --- El tamaño -----------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_two_thousand_columns_are_seconds() -> None:
    """Antes, 56 s; con la máquina para ella, unos diez."""
    draw = np.random.default_rng(0)
    cells = {f"x{k}": pd.Series(draw.normal(size=300).round(3).astype(str), dtype="str") for k in range(2000)}
    table = pd.DataFrame(cells | {"y": pd.Series(["a", "b"] * 150, dtype="str")})
    start = time.process_time()
    found = study_table(table, "x", "y")
    assert len(found.dictionary.features) == 2000 and time.process_time() - start < 40


def test_a_long_column_is_read_once_per_text() -> None:
    """Un millón de celdas de tres clases, en segundos."""
    n, draw = 1_000_000, np.random.default_rng(0)
    words = pd.Series(np.array(["lata", "cubo", "", "s/d"])[draw.integers(0, 4, n)], dtype="str")
    days = pd.Series(np.array([f"{d:02d}/{m:02d}/2024" for d in range(1, 29) for m in range(1, 13)])[draw.integers(0, 336, n)], dtype="str")
    columns = [Column(name="c", meaning="", kind="category", missing=("s/d",), required=False), Column(name="f", meaning="", kind="date", date_format="%d/%m/%Y")]
    start = time.process_time()
    rows, quarantine = read_rows(pd.DataFrame({"c": words, "f": days}), columns)
    assert len(rows) == n and quarantine.empty and time.process_time() - start < 15
