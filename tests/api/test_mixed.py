"""La API de un modelo con categorías, fechas, síes, textos y huecos, con un servidor de verdad."""
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from mixed import COLUMNS, NAMES, VOYAGE, as_json, fit_voyages, simulate_voyages
from serving import Server, serving
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.pipeline import make_pipeline

from de_jupyter_a_la_tierra.api.server import ModelService
from de_jupyter_a_la_tierra.models.artifact import Model, load_model
from de_jupyter_a_la_tierra.models.features import featurize
from de_jupyter_a_la_tierra.models.freezing import freeze_model
from de_jupyter_a_la_tierra.tables.dictionary import Column


@pytest.fixture(scope="module")
def model(voyages: Path) -> Model:
    """El modelo, abierto."""
    return load_model(voyages)


@pytest.fixture(scope="module")
def server(tierra: Callable, voyages: Path) -> Iterator[Server]:
    """Un servidor con él."""
    with serving(tierra, voyages.parent, "--model", voyages) as server:
        yield server


def test_a_list_is_answered_as_the_model_does(server: Server, model: Model) -> None:
    """Quinientas filas con huecos por JSON dan lo que da el modelo con la tabla."""
    rows = simulate_voyages(500, seed=7)
    answers = server.ask(as_json(rows)).json()
    scores, probabilities = model.predict_with_probability(rows[NAMES])
    assert [answer["score"] for answer in answers] == scores.tolist()
    assert [answer["probability"] for answer in answers] == np.asarray(probabilities, "float64").round(4).tolist()
    assert not any("unseen" in answer for answer in answers)
    assert [server.ask(row).json() for row in as_json(rows.head(5))] == answers[:5]


def test_a_gap_is_null_or_nothing(server: Server, model: Model) -> None:
    """Lo que puede faltar puede no venir, o venir como `null`; es la misma fila, y la misma que con un hueco en la tabla."""
    gaps = {column.name for column in COLUMNS if not column.required}
    whole = server.ask({name: None if name in gaps else value for name, value in VOYAGE.items()}).json()
    bare = server.ask({name: value for name, value in VOYAGE.items() if name not in gaps}).json()
    assert whole == bare and bare["score"] in ("no", "sí")
    row = pd.DataFrame([{**VOYAGE, "age": np.nan, "port": "", "alone": 1.0, "saved": np.nan, "notes": ""}])
    row["sailed"], row["seen"] = pd.to_datetime(row["sailed"]), pd.Series([pd.NaT], dtype="datetime64[us]")
    row["watch"] = row["seen"]
    assert whole["probability"] == pytest.approx(float(model.predict_proba(row[NAMES]).max()), abs=5e-5)


def test_an_unseen_category_is_answered_and_told(server: Server) -> None:
    """Una categoría que nadie vio se contesta y se dice, fila a fila; las que se conocen, aunque cambien las letras, no."""
    known = server.ask(VOYAGE).json()
    odd = server.ask(VOYAGE | {"port": "Nantucket"}).json()
    assert "unseen" not in known and odd["unseen"] == ["port"] and 0 <= odd["probability"] <= 1
    several = server.ask([VOYAGE, VOYAGE | {"port": "Nantucket", "class": "4"}, VOYAGE | {"port": "CADIZ "}]).json()
    assert [answer.get("unseen") for answer in several] == [None, ["port", "class"], None]
    assert server.ask(VOYAGE | {"port": "CADIZ "}).json() == server.ask(VOYAGE | {"port": "Cádiz"}).json()


@pytest.mark.parametrize(
    ("field", "first", "second"),
    [
        ("alone", True, "sí"), ("alone", True, "SI"), ("alone", True, 1), ("alone", False, 0.0), ("alone", False, "no"),
        ("saved", None, ""), ("port", None, "s/d"), ("class", "3", 3), ("notes", None, "  "),
        ("seen", "1912-04-14T23:40:00", "1912-04-14 23:40"), ("seen", "1912-04-14T23:40:00", "1912-04-14T23:40:00Z"),
        ("seen", "1912-04-14T00:00:00", "1912-04-14"),
    ],
)
def test_two_ways_of_saying_the_same(server: Server, field: str, first: Any, second: Any) -> None:
    answers = [server.ask(VOYAGE | {field: value}) for value in (first, second)]
    assert answers[0].status_code == 200 and answers[0].content == answers[1].content


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("age", "treinta", "«age» ha de ser un número de 0 a 120 años, o null si falta, y es \"treinta\"."),
        ("age", 150, "«age» ha de ser un número de 0 a 120 años, o null si falta, y es 150."),
        ("fare", None, "«fare» ha de ser un número desde 0 £, y es null."),
        ("port", 7, "«port» ha de ser un texto, o null si falta, y es 7."),
        ("class", None, "«class» ha de ser un texto, y es null."),
        ("class", "", "«class» ha de ser un texto, y es \"\"."),
        ("alone", "a ratos", "«alone» ha de ser true o false («no» o «sí»), y es \"a ratos\"."),
        ("alone", 2, "«alone» ha de ser true o false («no» o «sí»), y es 2."),
        ("sailed", "10/04/1912", "«sailed» ha de ser una fecha como"),
        ("sailed", "1912-04-31", "y es \"1912-04-31\"."),
        ("sailed", "1912-04-09T23:00:00Z", "y es \"1912-04-09T23:00:00Z\"."),
        ("seen", 19120414, "«seen» ha de ser una fecha con su hora como"),
        ("notes", ["perro"], "«notes» ha de ser un texto, o null si falta, y es [\"perro\"]."),
        ("fare", 1e300, "fare"),
    ],
)
def test_a_wrong_value_is_told_with_what_it_should_be(server: Server, field: str, value: Any, says: str) -> None:
    answer = server.ask(VOYAGE | {field: value})
    assert answer.status_code == 422 and says in answer.json()["detail"]


def test_what_cannot_be_missing_is_missed(server: Server) -> None:
    """Una fila vacía: se nombran las que han de estar, y solo esas."""
    errors = server.ask({}).json()["errors"]
    assert [error["field"] for error in errors] == [column.name for column in COLUMNS if column.required]
    assert "Falta «sailed», que ha de ser una fecha como" in errors[-1]["detail"]


def test_the_document_says_what_is_taken(server: Server) -> None:
    document = httpx.get(f"{server.address}/openapi.json").json()
    row = document["components"]["schemas"]["Fila"]
    assert row["required"] == [column.name for column in COLUMNS if column.required]
    fields = row["properties"]
    assert fields["port"]["x-levels"] == ["Cádiz", "Palos", "Vigo"] and "enum" not in fields["port"]
    assert (fields["sailed"]["format"], fields["seen"]["anyOf"][0]["format"]) == ("date", "date-time")
    assert fields["age"]["anyOf"] == [{"type": "number", "minimum": 0, "maximum": 120}, {"type": "null"}]
    assert "unseen" in document["components"]["schemas"]["Respuesta"]["properties"]
    assert "unseen" not in document["components"]["schemas"]["Respuesta"]["required"]
    for example in document["paths"]["/predict_score"]["post"]["requestBody"]["content"]["application/json"]["examples"].values():
        assert server.ask(example["value"]).status_code == 200
    for name, field in fields.items():
        for value in field["examples"]:
            assert "unseen" not in server.ask(VOYAGE | {name: value}).json(), (name, value)


def test_the_page_has_a_box_for_each_kind(server: Server) -> None:
    page = httpx.get(f"{server.address}/docs").text
    assert page.count("<select ") == 3 and page.count('type="checkbox"') == 1 and page.count("<textarea") == 1
    assert 'type="date"' in page and 'type="datetime-local"' in page
    assert '<option value="">—</option><option value="Cádiz">Cádiz</option>' in page


def test_regression_and_skops_take_gaps_too(voyages: Path, tmp_path: Path) -> None:
    """La puerta es la misma sea cual sea el motor."""
    rows = simulate_voyages(300)
    steps = fit_voyages(rows)[0]
    fitted = make_pipeline(steps, HistGradientBoostingRegressor(max_iter=20)).fit(featurize(rows[NAMES], COLUMNS), rows["fare"])
    freeze_model(
        fitted, tmp_path / "fares", X_train=rows[NAMES], X_evaluation=rows[NAMES].head(50), features=COLUMNS,
        target=Column(name="cost", meaning="Coste"), metrics={}, data={"origin": "own"}, name="fares",
    )
    service = ModelService(load_model(tmp_path / "fares"), "v1")
    answer = json.loads(service.answer(json.dumps(VOYAGE | {"age": None, "port": "Nantucket"}).encode()))
    assert list(answer) == ["score", "data_origin", "model", "unseen"] and np.isfinite(answer["score"])


WITHOUT_PANDAS = """
import sys
from de_jupyter_a_la_tierra.api.server import ModelService, build_app
from de_jupyter_a_la_tierra.models.artifact import load_model
model = load_model(sys.argv[1])
ModelService(model, "v1").answer(sys.argv[2].encode())
build_app(model, "v1")
print([name for name in ("pandas", "sklearn", "kedro") if name in sys.modules])
"""


def test_mixed_rows_are_answered_without_pandas(voyages: Path) -> None:
    body = json.dumps(VOYAGE | {"port": "Nantucket"})
    done = subprocess.run([sys.executable, "-c", WITHOUT_PANDAS, voyages, body], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr
