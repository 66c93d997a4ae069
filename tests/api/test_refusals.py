"""Treinta peticiones malas, con lo que se contesta a cada una; y muchas más, inventadas, que cumplen o no lo que dice el documento."""
import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mixed import COLUMNS, VOYAGE
from serving import Server, serving

pytestmark = pytest.mark.timeout(240)

ROW = json.dumps(VOYAGE)
SHEET = "age;fare;port;class;alone;sailed\n30;12,5;Vigo;3;sí;10/04/1912\n"


def spoil(**changes: Any) -> bytes:
    """La fila de ejemplo, estropeada."""
    return json.dumps(VOYAGE | changes).encode()


def swap(old: str, new: str) -> bytes:
    """La fila de ejemplo con un trozo de su texto cambiado."""
    assert old in ROW
    return ROW.replace(old, new).encode()


BAD = {  # qué se manda: cómo dice venir, el cuerpo, el código y lo que se lee
    "nada": ("", b"", 400, "La petición no es JSON: está vacía."),
    "un hueco de Python": ("", swap('"age": 30', '"age": NaN'), 400, "pone NaN, que JSON no tiene; un hueco se escribe null"),
    "un infinito": ("", swap('"age": 30', '"age": -Infinity'), 400, "pone Infinity, que JSON no tiene"),
    "una coma decimal": ("", swap("12.5", "12,5"), 400, "parece haber una coma decimal: en JSON se escribe un punto, 1.5"),
    "una cifra entre comillas": ("", spoil(fare="12,5"), 422, 'y es "12,5". Los números van sin comillas y con punto decimal.'),
    "comillas simples": ("", ROW.replace('"', "'").encode(), 400, "en el byte 1 hay comillas simples: en JSON son dobles"),
    "lo que escribe repr": ("", swap("null", "None"), 400, "pone None, que no es JSON: se escribe null, true o false"),
    "una coma de más": ("", swap("}", ",}"), 400, "sobra la coma que hay justo antes"),
    "un nombre sin comillas": ("", swap('"age"', "age"), 400, "hay un nombre sin comillas dobles"),
    "un comentario": ("", swap('"fare"', '/* £ */ "fare"'), 400, "JSON"),
    "un nombre repetido": ("", swap('"fare"', '"age": 31, "fare"'), 422, "«age» viene más de una vez en la misma fila: deja una."),
    "la mitad": ("", ROW[:40].encode(), 400, "se acaba antes de tiempo"),
    "un objeto por línea": ("", f"{ROW}\n{ROW}".encode(), 400, "mándalo a /predict_scores como application/x-ndjson"),
    "un CSV sin decirlo": ("", SHEET.encode(), 400, "parece un CSV: mándalo a /predict_scores con Content-Type: text/csv"),
    "un CSV donde no es": ("text/csv", SHEET.encode(), 415, "Para un CSV está /predict_scores."),
    "un formulario con archivo": ("multipart/form-data; boundary=x", b"--x--", 415, "la petición dice traer «multipart/form-data»"),
    "gzip sin decirlo": ("", gzip.compress(ROW.encode()), 400, "parece gzip: dilo con Content-Encoding: gzip"),
    "cinco mil cifras": ("", swap('"age": 30', '"age": ' + "9" * 5000), 400, "un número de miles de cifras"),
    "letras de Windows": ("", ROW.encode().replace(b"perro", b"perr\xf3"), 400, "no está en UTF-8"),
    "cinco mil corchetes": ("", b"[" * 5000, 400, "tiene demasiados niveles"),
    "una cifra sola": ("", b"3", 422, "Se esperaba un objeto, o una lista de objetos, con: age, fare"),
    "una lista de listas": ("", b"[[30, 12.5]]", 422, "Se esperaba un objeto, o una lista de objetos"),
    "un dato que falta": ("", b"{}", 422, "Falta «fare», que ha de ser un número desde 0 £. Y 3 más en «errors»."),
    "fuera de rango": ("", spoil(age=150), 422, "«age» ha de ser un número de 0 a 120 años, o null si falta, y es 150."),
    "una columna de más": ("", spoil(cabin="C85"), 422, "«cabin» no es una columna de este modelo, que espera: age, fare"),
    "una fecha a la española": ("", spoil(sailed="10/04/1912"), 422, "«sailed» ha de ser una fecha como"),
    "un sí que no lo es": ("", spoil(alone="a ratos"), 422, "«alone» ha de ser true o false («no» o «sí»), y es \"a ratos\"."),
    "un número que no cabe": ("", spoil(fare=1e300), 422, "y es 1e+300. No cabe en ningún modelo."),
    "un valor de un mega": ("", spoil(age="x" * 1_000_000), 422, "…"),
    "un millón de filas": ("", b"[" + b"{}," * 999_999 + b"{}]", 413, "Se admiten 100.000 filas por petición, y vienen más: mándalas en varias."),
}


@pytest.fixture(scope="module")
def server(tierra: Callable, voyages: Path) -> Iterator[Server]:
    """Un servidor con el modelo que mira columnas de todas las clases."""
    with serving(tierra, voyages.parent, "--model", voyages) as server:
        yield server


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_is_told_what_is_wrong(server: Server, name: str) -> None:
    media, body, status, says = BAD[name]
    reply = httpx.post(f"{server.address}/predict_score", content=body, headers={"content-type": media} if media else {}, timeout=60)
    assert (reply.status_code, reply.headers["content-type"]) == (status, "application/problem+json"), reply.text
    problem = reply.json()
    assert says in problem["detail"] and problem["status"] == status and problem["title"] and len(reply.content) < 10_000, problem["detail"]


def test_there_are_thirty() -> None:
    assert len(BAD) == 30


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("?probabilities=si", 400, "La opción «probabilities» ha de ser true o false, y es «si»."), ("?format=xls", 400, "puede ser «json», «csv», y es «xls»"),
        ("?decimal=.,", 400, "La opción «decimal»"),
    ],
)
def test_an_option_that_does_not_exist(server: Server, path: str, status: int, says: str) -> None:
    reply = server.ask(VOYAGE, f"/predict_score{path}")
    assert reply.status_code == status and says in reply.json()["detail"]


# ── Lo que dice el documento ────────────────────────────────────────────────


def imagine(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Valores que cumplen lo que el documento dice de un campo."""
    if "anyOf" in schema:
        return st.one_of([imagine(each) for each in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    moments = {"date": st.dates().map(str), "date-time": st.datetimes().map(lambda moment: moment.isoformat() + "Z"), "time": st.times().map(str)}
    bounds = {"min_value": schema.get("minimum"), "max_value": schema.get("maximum"), "allow_nan": False, "allow_infinity": False}
    text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
    known = {
        "number": st.floats(**bounds), "null": st.none(), "boolean": st.booleans(),
        "string": moments.get(schema.get("format", "")) or (text.filter(str.strip) if "pattern" in schema else text),
    }
    return st.one_of([known[kind] for kind in kinds])


JUNK = st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=20), lambda each: st.lists(each, max_size=4) | st.dictionaries(st.text(max_size=8), each, max_size=4), max_leaves=8)


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_what_the_document_admits_is_admitted(server: Server, data: st.DataObject) -> None:
    """Filas inventadas con los tipos del documento: todas se contestan, y las respuestas son del tipo que dice."""
    document = httpx.get(f"{server.address}/openapi.json").json()
    schemas = document["components"]["schemas"]
    fields, required = schemas["Fila"]["properties"], schemas["Fila"]["required"]
    names = [name for name in fields if name in required or data.draw(st.booleans())]
    row = {name: data.draw(imagine(fields[name]), label=name) for name in names}
    path = data.draw(st.sampled_from(["/predict_score", "/predict_score?probabilities=true", "/predict_scores?explain=true"]))
    reply = server.ask([row], path)
    assert reply.status_code == 200, (row, reply.text)
    (said,) = reply.json()
    assert {*schemas["Respuesta"]["required"]} <= said.keys() <= {*schemas["Respuesta"]["properties"]}
    assert said["score"] in schemas["Respuesta"]["properties"]["score"]["enum"] and 0 <= said["probability"] <= 1


@given(content=JUNK, field=st.sampled_from([column.name for column in COLUMNS]), path=st.sampled_from(["/predict_score", "/predict_scores", "/invocations", "/v2/models/voyages/infer"]))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_nothing_breaks_it(server: Server, content: Any, field: str, path: str) -> None:
    """Lo que sea, donde sea: o se contesta o se dice por qué no, y nunca falla por dentro."""
    for body in (content, VOYAGE | {field: content}, {"inputs": content}, {"dataframe_split": content}, {"columns": content, "data": content}):
        reply = server.ask(json.dumps(body).encode(), path)
        assert reply.status_code in (200, 400, 413, 422), reply.text
        assert reply.status_code == 200 or reply.headers["content-type"] == "application/problem+json"
