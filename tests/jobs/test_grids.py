"""Una rejilla se lee como YAML, y cada valor suyo es lo que sería el mismo texto detrás de -p."""
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from de_jupyter_a_la_tierra.errors import UsageError
from de_jupyter_a_la_tierra.jobs.ledger import read_ledger
from de_jupyter_a_la_tierra.jobs.plan import plan_batch
from de_jupyter_a_la_tierra.parameters.cell import Parameter, read_values
from de_jupyter_a_la_tierra.projects.session import parse_params
from de_jupyter_a_la_tierra.tracking.sweeps import parse_grid

KINDS = ("str", "int", "float", "bool", "date", "datetime", "Path", "list", "dict", "list[int]", "int | None", "Literal['no', 1]", "Any")
OLD = (  # lo que se escribía antes sin más, y se escribe igual
    "007", "1e-3", "-2", "0.5", "on", "off", "yes", "no", "sí", "true", "null", "None", "2026-11-24", "2026-11-24T09:30", "España: sí",
    "C:\\datos\\x.csv", "C:/datos", "*.csv", "data[0-9].csv", "{name}.csv", "@a", "%x", "!x", "&x", "- x", "? x", "| x", "#x", "it's", 'un 5"',
    "a=b", "~", "0x10", "1_000", "🐈 ñandú", "[1, 2]", "[1,2]", "[]", "{}", "[[1, 2], [3]]", "{a: 1, b: 2}", '["a,b", \'c]\']', "[it's, C:\\a]",
)
MEANT = {  # lo que se escribe en la rejilla → el tipo y los valores
    "a comma in a text": ('"a,b",c', "str", ["a,b", "c"]),
    "single quotes": ("'it''s, so','C:\\n'", "str", ["it's, so", "C:\\n"]),
    "escapes and accents": ('"uno\\ttab", "ñ, \\u00f1"', "str", ["uno\ttab", "ñ, ñ"]),
    "brackets in a text": ('"[a",\'}b\'', "str", ["[a", "}b"]),
    "empty and blank": ('"",\' \',x', "str", ["", " ", "x"]),
    "a quote inside a word": ("it's,don't", "str", ["it's", "don't"]),
    "colon and quotes": ('nota: "hola, tú",x', "str", ['nota: "hola, tú"', "x"]),
    "a text that looks like a number": ('"1",1', "Any", ["1", 1]),
    "a quoted number": ('"1",2', "int", [1, 2]),
    "a quoted date": ('"2026-11-24"', "Path", [Path("2026-11-24")]),
    "mappings": ("{a: 1, b: 2},{a: 3}", "dict", [{"a": 1, "b": 2}, {"a": 3}]),
    "mappings without a type": ("{a: 1, b: 2},{a: 3}", "Any", [{"a": 1, "b": 2}, {"a": 3}]),
    "nested mappings": ('{a: {b: [1, 2], c: "x,}"}},{}', "dict", [{"a": {"b": [1, 2], "c": "x,}"}}, {}]),
    "json": ('{"a":"b,]","c":[1]},{"a":"d"}', "dict", [{"a": "b,]", "c": [1]}, {"a": "d"}]),
    "lists of lists": ("[[1,2],[3]],[[4]]", "list", [[[1, 2], [3]], [[4]]]),
    "lists of lists, typed": ("[[1,2],[3]],[[4]]", "list[list[float]]", [[[1.0, 2.0], [3.0]], [[4.0]]]),
    "lists of texts": ('["a,b", c],[d]', "list[str]", [["a,b", "c"], ["d"]]),
}
WRONG = {  # lo que se escribe en la rejilla → parte de la frase
    '"a,b': "no se cierran las comillas de «\"a,b»",
    "a,'b": "no se cierran las comillas",
    "[1, 2": "falta un «]»",
    "[[1, 2],[3]": "falta un «]»",
    "{a: 1": "falta un «}»",
    "1]": "sobra un «]»",
    "[1}": "sobra un «}»",
    '"a"b,c': "sobra algo detrás de las comillas",
    '"a" #b,c': "sobra algo detrás de las comillas",
    '"C:\\datos"': "no es un texto de YAML",
    "[" * 100_000: "falta un «]»",
}
LAUGHS = "[&a [x, x, x, x, x, x, x, x, x], " + ", ".join(f"&{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)) + "]"
HOSTILE = (LAUGHS, "[&a [*a]]", "[!!python/object/apply:os.system [touch pwned]]", "[!!python/name:os.system ]", "[!!binary aGk=]", "[" * 5000 + "]" * 5000)


def read(text: str, kind: str) -> list:
    """Los valores que salen de una rejilla para un parámetro de un tipo."""
    return [job["x"] for job in plan_batch([Parameter("x", kind)], {}, parse_grid([f"x={text}"]))]


def read_alone(text: str, kind: str) -> list:
    """El valor que sale del mismo texto detrás de -p."""
    return [read_values({"x": text}, [Parameter("x", kind)])["x"]]


def answer(reader, *args) -> tuple:
    """Lo que da una función, con su tipo, o la frase de su error."""
    try:
        values = reader(*args)
    except UsageError as error:
        return "error", str(error)
    return type(values[0]), values


@pytest.mark.timeout(60)
def test_each_value_is_what_it_would_be_after_p():
    """Con cualquier tipo, y solo o entre otros, lo que no va entre comillas se lee como detrás de -p."""
    for kind in KINDS:
        for text in OLD:
            assert answer(read, text, kind) == answer(read_alone, text, kind), (kind, text)
        said = parse_grid(["x=" + ",".join(OLD)])["x"]
        assert said == list(OLD), kind


@pytest.mark.parametrize(("text", "kind", "values"), MEANT.values(), ids=MEANT)
def test_quotes_brackets_and_braces_hold_a_value(text, kind, values):
    """Una coma de dentro no separa, y las comillas que rodean un texto no son suyas."""
    found = read(text, kind)
    assert found == values and list(map(type, found)) == list(map(type, values))


@pytest.mark.parametrize(("text", "says"), WRONG.items(), ids=range(len(WRONG)))
def test_what_is_not_closed_is_said(text, says):
    """La frase nombra el parámetro y enseña cómo se escribe."""
    with pytest.raises(UsageError) as caught:
        parse_grid([f"nota={text}"])
    assert says in str(caught.value) and "los valores de «nota»" in str(caught.value) and "'nota=\"uno, dos\",tres'" in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.timeout(60)
@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_yaml_is_never_code_nor_a_bomb(text):
    """Con tipo, se rechaza; sin él, es el texto que es. También en `tierra run --params`, salvo que allí no hay tipos."""
    with pytest.raises(UsageError, match="ha de ser una lista"):
        read(text, "list")
    assert read(text, "Any") == [text]


def test_params_split_like_a_grid():
    """`--params` entiende las mismas comas, y lo que no es YAML se dice en una frase."""
    assert parse_params(['a="x,y",b={c: 1, d: [2, 3]}', "e=[[1,2],[3]]"]) == {"a": "x,y", "b": {"c": 1, "d": [2, 3]}, "e": [[1, 2], [3]]}
    for text in ("a=[1", "a='b", "a={b: ,,}", "a=*.csv", "a=&a [*a]", "a=!!python/object/apply:os.system [ls]"):
        with pytest.raises(UsageError, match="No se entiende"):
            parse_params([text])


@pytest.mark.timeout(240)
def test_a_batch_receives_them(tmp_path, tierra):
    """De la terminal al cuaderno: textos con comas, diccionarios y listas de listas; lo repetido, una vez; lo mal escrito, antes de empezar."""
    source = 'from de_jupyter_a_la_tierra.parameters.returned import hand_back\nhand_back(s=s, m=m, l=l)\nassert (s, m, l) != ("c", {"a": 3}, [[4]])'
    cell = new_code_cell('s: str = ""\nm: dict = {}\nl: list = []', metadata={"tags": ["parameters"]})
    notebook = new_notebook(cells=[cell, new_code_cell(source)])
    notebook.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "python3"}
    nbformat.write(notebook, tmp_path / "grids.ipynb")
    order = ("jobs", "run", "grids.ipynb", "--out", "lote", "--workers", "2", "--grid")
    grids = ('s="a,b",c,\'a,b\'', "--grid", "m={a: 1, b: 2},{a: 3}", "--grid", "l=[[1,2],[3]],[[4]]")
    wrong = tierra(*order, 's="a,b', cwd=tmp_path)
    assert wrong.returncode == 2 and "los valores de «s»" in wrong.stderr and "Traceback" not in wrong.stderr and not (tmp_path / "lote").exists()
    done = tierra(*order, *grids, cwd=tmp_path)
    assert done.returncode == 1 and "Trabajos repetidos: 4; cada uno se hace una sola vez." in done.stderr, done.stderr
    entries = read_ledger(tmp_path / "lote")
    made = [(entry.parameters["s"], entry.parameters["m"], entry.parameters["l"]) for entry in entries]
    assert made == [(s, m, n) for s in ("a,b", "c") for m in ({"a": 1, "b": 2}, {"a": 3}) for n in ([[1, 2], [3]], [[4]])]
    assert [entry.status for entry in entries] == ["done"] * 7 + ["failed"]
    assert all(entry.returned == dict(zip("sml", values, strict=True)) for entry, values in zip(entries[:7], made[:7], strict=True))
