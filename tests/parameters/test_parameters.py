"""Los parámetros de un cuaderno, de punta a punta: lo que se declara, lo que se comprueba y lo que recibe el cuaderno."""
import json
import subprocess
import sys
from datetime import date, datetime
from pathlib import Path

import jsonschema
import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from de_jupyter_a_la_tierra.errors import UsageError, WorkError
from de_jupyter_a_la_tierra.jobs.plan import identify_jobs
from de_jupyter_a_la_tierra.parameters.cell import (
    build_json_schema,
    describe_parameters,
    list_inputs,
    read_parameters,
    read_values,
    to_plain,
    type_injected_cell,
)
from de_jupyter_a_la_tierra.parameters.returned import MAX_CELLS, MIMETYPE, encode_values, read_returned
from de_jupyter_a_la_tierra.tracking.connection import split_metrics

SOURCE = """# entradas: data/*.csv
import datetime
import enum
from pathlib import Path
from typing import Literal, Optional


class Sex(enum.StrEnum):
    FEMALE = "f"
    MALE = "m"


name: str = "nadie"  # a quién; lleva una # dentro
times: int = 1  # cuántas veces, de 1 a 5
share: float = 0.2  # qué parte, (0, 1)
loud: bool = False  # si se grita
day: datetime.date = datetime.date(2026, 11, 24)  # qué día
at: datetime.datetime | None = None  # a qué hora
sheet: Path  # la hoja de entrada
extra: Optional[Path] = None  # otra hoja
model: Literal["logistic", "random_forest"] = "logistic"  # la clase de modelo
color: str = "red"  # uno de: red, green o blue
sex: Sex = Sex.MALE  # el sexo
weights: list[float] = [  # se puede partir
    0.5,
    1.5,
]  # un peso por clase, ≥ 0
days: list[datetime.date] = []  # más días
options: dict[str, int] = {"a": 1}  # lo demás
seed = 0  # type: int la semilla
"""
SHOW = "print(repr([name, times, share, loud, day, at, sheet, extra, model, color, sex, weights, days, options, seed]))"


def write_notebook(path: Path, *sources: str) -> Path:
    """Un cuaderno cuya primera celda es la de parámetros."""
    cells = [new_code_cell(source) for source in sources]
    cells[0].metadata["tags"] = ["parameters"]
    kernel = {"name": "python3", "language": "python", "display_name": "python3"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


@pytest.fixture
def notebook(tmp_path) -> Path:
    """Un cuaderno con parámetros de todos los tipos, que enseña lo que recibe."""
    return write_notebook(tmp_path / "cuaderno.ipynb", SOURCE, SHOW)


@pytest.fixture
def parameters(notebook):
    """Sus parámetros."""
    return read_parameters(notebook)


# --- Lo que se declara -------------------------------------------------------------------------------------------


def test_every_line_of_the_cell_is_a_parameter(parameters):
    """También las que papermill no entiende: uniones, Literal, lo que no tiene valor y lo que se parte en varias líneas."""
    names = "name times share loud day at sheet extra model color sex weights days options seed"
    assert [parameter.name for parameter in parameters] == names.split()
    known = {parameter.name: parameter for parameter in parameters}
    assert known["name"].meaning == "a quién; lleva una # dentro"
    assert known["day"].default == date(2026, 11, 24) and known["weights"].default == [0.5, 1.5]
    assert known["sheet"].required and sum(parameter.required for parameter in parameters) == 1
    assert (known["seed"].kind, known["seed"].meaning) == ("int", "la semilla")
    assert known["color"].choices == ("red", "green", "blue") and known["sex"].choices == ("f", "m")
    assert parameters.inputs == ("data/*.csv",)


def test_what_papermill_reads_is_read_the_same(notebook, parameters):
    """Donde `inspect_notebook` llega, decimos lo mismo que él."""
    known = {parameter.name: parameter for parameter in parameters}
    theirs = papermill.inspect_notebook(notebook)
    for name in ("times", "share", "loud", "extra", "color", "weights", "options", "seed"):
        assert (known[name].meaning, known[name].kind) == (theirs[name]["help"], theirs[name]["inferred_type_name"])


def test_reading_runs_nothing(tmp_path):
    """Describir un cuaderno no ejecuta su celda, por mucho que haya en ella."""
    path = write_notebook(tmp_path / "x.ipynb", "n: int = open('hecho', 'w').write('x')  # peligro")
    [parameter] = read_parameters(path)
    assert parameter.written == "open('hecho', 'w').write('x')" and not parameter.is_known
    assert "default" not in build_json_schema([parameter], "x")["properties"]["n"] and not list(tmp_path.glob("hecho"))


def test_a_notebook_without_the_cell_has_no_parameters(tmp_path):
    """Sin celda no hay parámetros, y darle uno es un error."""
    path = write_notebook(tmp_path / "x.ipynb", "a = 1")
    nb = nbformat.read(path, as_version=4)
    nb.cells[0].metadata.pop("tags")
    nbformat.write(nb, path)
    assert read_parameters(path) == [] and describe_parameters([]) == "El cuaderno no tiene parámetros."
    with pytest.raises(UsageError, match="le falta una celda con la etiqueta «parameters»"):
        read_values({"a": 1}, read_parameters(path))


def test_an_odd_path_is_only_a_path(tmp_path):
    """Unas llaves en la ruta, que papermill tomaría por una plantilla, no confunden."""
    (tmp_path / "{raro}").mkdir()
    assert read_parameters(write_notebook(tmp_path / "{raro}" / "a{b}.ipynb", "n: int = 1"))[0].default == 1
    for bad in (tmp_path / "nada.ipynb", tmp_path):
        with pytest.raises(UsageError, match="No se puede leer el cuaderno"):
            read_parameters(bad)


def test_the_table_says_it_all(parameters):
    """Cada parámetro, en una línea: nombre, tipo, valor de salida y significado."""
    lines = describe_parameters(parameters).splitlines()
    assert lines[0].split() == ["parámetro", "tipo", "de", "salida", "qué", "es"] and len(lines) == len(parameters) + 1
    assert any(line.split()[:3] == ["sheet", "Path", "obligatorio"] for line in lines)
    assert any("logistic | random_forest" in line for line in lines)


# --- Lo que se comprueba -----------------------------------------------------------------------------------------

BAD = {
    "an unknown name": ({"nane": "x"}, "No existe el parámetro «nane». ¿Querías decir «name»? Los que hay: at, color,"),
    "nothing alike": ({"zzz": "x"}, "No existe el parámetro «zzz». Los que hay:"),
    "a required one is missing": ({"sheet": None}, "«sheet» ha de ser una ruta, y es None"),
    "text for an integer": ({"times": "muchas"}, "«times» ha de ser un número entero, y es 'muchas'."),
    "a fraction for an integer": ({"times": "2.5"}, "«times» ha de ser un número entero, y es '2.5'."),
    "a truth for an integer": ({"times": True}, "«times» ha de ser un número entero, y es True."),
    "below its limits": ({"times": 0}, "«times» ha de estar en [1, 5], y es 0."),
    "on an open limit": ({"share": 1}, "«share» ha de estar en (0, 1), y es 1.0."),
    "a decimal comma": ({"share": "0,5"}, "Los decimales van con punto: 0.5."),
    "not a number": ({"share": "nan"}, "«share» ha de ser un número, y es 'nan'."),
    "an infinite number": ({"share": "inf"}, "«share» ha de ser un número, y es 'inf'."),
    "an hour for a day": ({"day": datetime(2026, 11, 24, 9, 30)}, "«day» ha de ser una fecha como 2026-11-24, y es datetime.datetime("),
    "a number for a text": ({"name": 3}, "«name» ha de ser un texto, y es 3."),
    "a number for a truth": ({"loud": "2"}, "«loud» ha de ser true o false, y es '2'."),
    "a Spanish date": ({"day": "24/11/2026"}, "«day» ha de ser una fecha como 2026-11-24, y es '24/11/2026'."),
    "a day that is not": ({"day": "2026-02-30"}, "«day» ha de ser una fecha"),
    "an hour that is not": ({"at": "2026-11-24T25:00"}, "«at» ha de ser una fecha con hora como"),
    "not in a Literal": ({"model": "forest"}, "ha de ser uno de: logistic, random_forest, y es 'forest'."),
    "almost in a Literal": ({"model": "random-forest"}, "¿Querías decir «random_forest»?"),
    "not in the list": ({"color": "purple"}, "«color» ha de ser uno de: red, green, blue, y es 'purple'."),
    "not in the enumeration": ({"sex": "x"}, "«sex» ha de ser uno de: f, m, y es 'x'."),
    "one bad element": ({"weights": "[1, dos]"}, "«weights» ha de ser una lista (un número), y es '[1, dos]'."),
    "an element out of its limits": ({"weights": [1, -1]}, "«weights» ha de ser ≥ 0, y es -1.0."),
    "not a list": ({"weights": "1"}, "«weights» ha de ser una lista (un número), y es '1'."),
    "broken YAML": ({"options": "{a: "}, "«options» ha de ser un diccionario"),
    "None where it cannot be": ({"times": "None"}, "«times» ha de ser un número entero, y es 'None'."),
}


@pytest.mark.parametrize(("values", "says"), BAD.values(), ids=BAD)
def test_a_bad_value_is_a_sentence(parameters, values, says):
    """Cada error dice qué parámetro, qué se esperaba y qué llegó, y sale con código 2."""
    with pytest.raises(UsageError) as caught:
        read_values({"sheet": "x.csv"} | values, parameters)
    assert says in str(caught.value) and caught.value.exit_code == 2


@pytest.mark.parametrize(("meaning", "inside", "outside"), [
    ("peso, > 0 y < 1", (0.01, 0.99), (0, 1)), ("peso, ≥ 0, ≤ 1", (0, 1), (-0.01, 1.01)), ("peso; >= 0", (0,), (-0.01,)),
    ("[0, 1)", (0, 0.99), (-0.01, 1)), ("(0, 1]", (0.01, 1), (0, 1.01)), ("de 0 a 1", (0, 1), (-0.01, 1.01)),
])
def test_limits_are_open_or_closed_as_written(tmp_path, meaning, inside, outside):
    """Lo que toca un límite vale o no según el signo, y el esquema dice lo mismo."""
    parameters = read_parameters(write_notebook(tmp_path / "x.ipynb", f"weight: float = 0.5  # {meaning}"))
    validator = jsonschema.Draft202012Validator(build_json_schema(parameters, "x"))
    for value in inside:
        assert read_values({"weight": value}, parameters) == {"weight": value} and validator.is_valid({"weight": value})
    for value in outside:
        with pytest.raises(UsageError, match="«weight» ha de"):
            read_values({"weight": value}, parameters)
        assert not validator.is_valid({"weight": value})


def test_a_default_of_none_can_be_asked_for(tmp_path):
    """Lo que vale `None` de salida admite `None` aunque la anotación no lo diga; y lo demás, con su tipo."""
    parameters = read_parameters(write_notebook(tmp_path / "x.ipynb", "top: float = None  # un tope"))
    assert [read_values({"top": value}, parameters)["top"] for value in (None, "None", "2")] == [None, None, 2.0]
    with pytest.raises(UsageError, match="«top» ha de ser"):
        read_values({"top": "alto"}, parameters)


def test_true_is_not_the_number_one(tmp_path):
    """En Python `True == 1`, y aun así verdadero no es uno de los números de un Literal."""
    parameters = read_parameters(write_notebook(tmp_path / "x.ipynb", "level: Literal[1, 2] = 1  # el nivel"))
    assert [read_values({"level": value}, parameters)["level"] for value in (2, "2")] == [2, 2]
    with pytest.raises(UsageError, match="«level» ha de ser uno de: 1, 2, y es True"):
        read_values({"level": True}, parameters)


def test_a_value_runs_nothing(tmp_path, parameters, monkeypatch):
    """Un YAML que pide ejecutar algo no es un diccionario: es un error, y no se ha ejecutado."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="«options» ha de ser un diccionario"):
        read_values({"sheet": "x.csv", "options": "{a: !!python/object/apply:os.mkdir [hecho]}"}, parameters)
    assert not Path("hecho").exists()


def test_a_required_parameter_is_asked_for(parameters):
    """Lo que no tiene valor de salida se pide por su nombre y con su significado."""
    with pytest.raises(UsageError, match="Falta el parámetro «sheet», que es obligatorio: la hoja de entrada"):
        read_values({}, parameters)


GOOD = [  # de la terminal, de un YAML, de una tabla; y lo que es
    ("times", ["3", 3, np.int64(3), 3.0], 3),
    ("share", ["1e-3", 0.001, np.float32(0.001).astype(float)], pytest.approx(0.001)),
    ("loud", ["true", "True", "sí", True, np.True_], True),
    ("day", ["2026-12-01", date(2026, 12, 1), pd.Timestamp("2026-12-01"), datetime(2026, 12, 1)], date(2026, 12, 1)),
    ("at", ["2026-12-01T09:30", pd.Timestamp("2026-12-01 09:30")], datetime(2026, 12, 1, 9, 30)),
    ("at", ["None", "null", None], None),
    ("sheet", ["a/b.csv", Path("a/b.csv")], Path("a/b.csv")),
    ("model", ["random_forest"], "random_forest"),
    ("weights", ["[1, 2.5]", [1, 2.5], (1, 2.5), np.array([1, 2.5]).tolist()], [1.0, 2.5]),
    ("days", ["[2026-12-01]", ["2026-12-01"], [date(2026, 12, 1)]], [date(2026, 12, 1)]),
    ("options", ["{b: 2}", '{"b": 2}', {"b": 2}], {"b": 2}),
    ("name", ["2026-11-24", "true", " con espacios "], None),
]


@pytest.mark.parametrize(("name", "given", "expected"), GOOD)
def test_the_same_value_from_anywhere(parameters, name, given, expected):
    """Da igual de dónde venga un valor: se lee lo mismo, y su JSON es el mismo."""
    read = [read_values({"sheet": "x.csv", name: value}, parameters) for value in given]
    for value, values in zip(given, read, strict=True):
        assert values[name] == (value if name == "name" else expected)
    if name not in ("name", "share"):
        assert len({json.dumps(to_plain(values), sort_keys=True) for values in read}) == 1


def test_the_schema_says_what_the_reader_does(parameters):
    """El JSON Schema es válido, y acepta y rechaza lo mismo que `read_values` (ya en JSON)."""
    schema = build_json_schema(parameters, "cuaderno")
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    good = read_values({"sheet": "x.csv"} | {name: given[0] for name, given, _ in GOOD if name != "sheet"}, parameters)
    validator.validate(json.loads(json.dumps(to_plain(good))))
    for name, (values, _) in BAD.items():
        plain = {"sheet": "x.csv"} | to_plain(values)
        if name not in ("an hour that is not",):  # comprobar horas pide un paquete que no está
            assert not validator.is_valid(plain), name
    assert not validator.is_valid({}) and schema["properties"]["times"]["default"] == 1


def test_the_identity_does_not_depend_on_the_order(tmp_path):
    """La huella de un trabajo no cambia con el orden en que se piden sus valores, y lo que no cabe en un JSON no llega a tenerla."""
    cell = new_code_cell("a: Path = Path('x')\nb: float = 0.5", metadata={"tags": ["parameters"]})
    nbformat.write(new_notebook(cells=[cell]), tmp_path / "job.ipynb")
    known = read_parameters(tmp_path / "job.ipynb")
    one, other = (read_values(values, known) for values in ({"b": "1", "a": "ñ"}, {"a": Path("ñ"), "b": 1}))
    jobs = identify_jobs(tmp_path / "job.ipynb", [one, other], tmp_path)
    assert list(jobs.values()) == [{"a": "ñ", "b": 1.0}]
    with pytest.raises(UsageError, match="ha de ser un número, y es nan"):
        read_values({"b": float("nan")}, known)


def test_inputs_are_the_files_that_are_there(tmp_path, parameters):
    """Las rutas de entrada y los globs de la celda; lo que no está, o no es una entrada, no cuenta."""
    (tmp_path / "data").mkdir()
    for name in ("data/b.csv", "data/a.csv", "x.csv", "extra.csv"):
        (tmp_path / name).write_text("")
    values = read_values({"sheet": "x.csv", "extra": "extra.csv"}, parameters)
    found = [path.relative_to(tmp_path).as_posix() for path in list_inputs(values, parameters, tmp_path)]
    assert found == ["data/a.csv", "data/b.csv", "x.csv"]
    assert len(list_inputs({"sheet": Path("nada.csv")}, parameters, tmp_path)) == 2


def test_folders_and_wildcards_are_watched_too(tmp_path):
    """De una carpeta o de un comodín cuenta lo que haya dentro, menos lo que escribe el cuaderno; de una dirección, nada."""
    source = "input: str = None  # la hoja de entrada\noutput: str = None  # dónde se escribe"
    known = read_parameters(write_notebook(tmp_path / "x.ipynb", source))
    (tmp_path / "mes").mkdir()
    for name in ("mes/a.csv", "mes/b.csv", "mes/b.parquet", "mes/nota[1].csv"):
        (tmp_path / name).write_text("")

    def listed(path: str, output: str = "") -> list[str]:
        return [p.relative_to(tmp_path).as_posix() for p in list_inputs({"input": path, "output": output}, known, tmp_path)]

    assert listed("mes", "mes/b.parquet") == ["mes/a.csv", "mes/b.csv", "mes/nota[1].csv"]
    assert listed("mes/?.csv") == ["mes/a.csv", "mes/b.csv"]
    assert listed("mes/nota[1].csv") == ["mes/nota[1].csv"]
    assert listed("s3://mes/a.csv") == listed("") == []


# --- Lo que recibe el cuaderno -----------------------------------------------------------------------------------

ASKED = {
    "name": 'Mi"cifú\n#', "times": "2", "share": "0.5", "loud": "sí", "day": "2026-12-01", "at": "2026-12-01T09:30",
    "sheet": "a/b.csv", "extra": "None", "model": "random_forest", "color": "blue", "sex": "f", "weights": "[1, 2]",
    "days": "[2026-12-01]", "options": "{b: 2}", "seed": "7",
}


def test_the_notebook_gets_what_its_annotations_promise(notebook, parameters):
    """Con la celda reescrita, las fechas son fechas y las rutas, rutas: se ejecuta de verdad y se mira."""
    values = read_values(ASKED, parameters)
    nb = papermill.iorw.load_notebook_node(str(notebook))
    nb = papermill.parameterize.parameterize_notebook(nb, to_plain(values))
    type_injected_cell(nb)
    json.dumps(nb.metadata)
    [cell] = [cell for cell in nb.cells if "injected-parameters" in cell.metadata.tags]
    written, cell.source = cell.source, cell.source.replace("a/b.csv", "corregida.csv")
    type_injected_cell(nb)
    assert "corregida.csv" in cell.source  # corregido a mano, no se toca
    cell.source = written
    code = "\n".join(cell.source for cell in nb.cells)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    expected = repr([values[parameter.name] for parameter in parameters]).replace("blue', 'f'", "blue', <Sex.FEMALE: 'f'>")
    plain = expected.replace("PosixPath(", "Path("), done.stdout.strip().replace("PosixPath(", "Path(")
    assert plain[0] == plain[1]  # fastcore, si otra prueba lo importó, cambia cómo se escribe una ruta


@pytest.mark.parametrize(("engine", "sheet"), [("nbclient", "'a.csv'"), ("tierra", "PosixPath('a.csv')")])
def test_plain_papermill_still_works(notebook, tmp_path, engine, sheet):
    """El mismo cuaderno con `papermill`: los números, números; las rutas, como texto o, con nuestro motor, rutas."""
    command = [Path(sys.executable).with_name("papermill"), "--no-progress-bar", notebook, tmp_path / "acta.ipynb"]
    command += ["--engine", engine, "-p", "sheet", "a.csv", "-p", "times", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    [output] = nbformat.read(tmp_path / "acta.ipynb", as_version=4).cells[-1].outputs
    assert output["text"].startswith(f"['nadie', 3, 0.2, False, datetime.date(2026, 11, 24), None, {sheet},")


# --- Lo que devuelve ---------------------------------------------------------------------------------------------

HAND_BACK = """
import numpy as np, pandas as pd
from de_jupyter_a_la_tierra.parameters.returned import hand_back
hand_back(score=np.float32(0.5), n=1, loss=float("nan"), table=pd.DataFrame({"a": [1]}))
hand_back(n=2, exam={"accuracy": 0.8})
"""


def test_values_come_back_from_a_real_run_even_a_failed_one(tmp_path):
    """Lo devuelto está en la copia, también si una celda de después falla; y la copia es JSON de verdad."""
    path = write_notebook(tmp_path / "x.ipynb", "n: int = 1", HAND_BACK, "raise SystemError('después')")
    with pytest.raises(papermill.exceptions.PapermillExecutionError):
        papermill.execute_notebook(path, tmp_path / "acta.ipynb", progress_bar=False)
    returned = read_returned(tmp_path / "acta.ipynb")
    assert returned["n"] == 2 and returned["table"] == [{"a": 1}] and np.isnan(returned["loss"])
    metrics, rest = split_metrics(returned)
    assert metrics["exam.accuracy"] == 0.8 and metrics["score"] == 0.5 and rest == {"table": [{"a": 1}]}
    json.loads((tmp_path / "acta.ipynb").read_text(), parse_constant=lambda word: pytest.fail(f"{word} no es JSON"))


def test_what_is_not_finite_comes_back_with_its_sign():
    """Los infinitos viajan como texto y vuelven como números, cada uno con su signo."""
    encoded = encode_values({"up": float("inf"), "down": [-float("inf")]})
    output = {"data": {MIMETYPE: json.loads(json.dumps(encoded, allow_nan=False))}}
    assert read_returned({"cells": [{"outputs": [output]}]}) == {"up": float("inf"), "down": [-float("inf")]}


def test_how_much_can_come_back():
    """Justo el tope cabe; uno más, no."""
    assert len(encode_values({"many": [0] * MAX_CELLS})["many"]) == MAX_CELLS
    with pytest.raises(WorkError, match=f"«many» lleva {MAX_CELLS + 1} valores"):
        encode_values({"many": {"a": [0] * MAX_CELLS, "b": 0}})


def test_what_cannot_come_back_fails_in_its_cell(tmp_path):
    """Devolver un modelo es un error del trabajo, dicho con una frase."""
    path = write_notebook(tmp_path / "x.ipynb", "n: int = 1", HAND_BACK + "hand_back(model=open)")
    with pytest.raises(papermill.exceptions.PapermillExecutionError, match="No se puede devolver «model»") as caught:
        papermill.execute_notebook(path, tmp_path / "acta.ipynb", progress_bar=False)
    assert caught.value.ename == "WorkError"
