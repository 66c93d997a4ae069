"""Un modelo con categorías, fechas, síes y huecos, abierto por MLflow de verdad: con su firma, y con lo que falta."""
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mixed import COLUMNS, ISO, NAMES, VOYAGE, simulate_voyages

from de_jupyter_a_la_tierra.errors import UsageError
from de_jupyter_a_la_tierra.models.artifact import load_model
from de_jupyter_a_la_tierra.tracking.connection import import_mlflow
from de_jupyter_a_la_tierra.tracking.flavor import build_example, build_signature

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow avisa de mil cosas suyas al importarse


@pytest.fixture(scope="module")
def saved(voyages: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """El modelo, guardado como lo guarda el registro."""
    info, path = load_model(voyages).info, tmp_path_factory.mktemp("mlflow") / "model"
    import_mlflow().pyfunc.save_model(
        path, loader_module="de_jupyter_a_la_tierra.tracking.flavor", data_path=str(voyages), pip_requirements=[],
        signature=build_signature(info), input_example=build_example(info),
    )
    return path


@pytest.fixture(scope="module")
def pyfunc(saved: Path):
    """El modelo, abierto por MLflow."""
    return import_mlflow().pyfunc.load_model(saved)


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    """Doscientos viajes con huecos."""
    return simulate_voyages(200, seed=5)[NAMES]


def test_the_signature_says_what_may_be_missing(pyfunc) -> None:
    inputs = pyfunc.metadata.get_input_schema().to_dict()
    kinds = {"number": "double", "boolean": "double", "date": "datetime"}
    assert inputs == [
        {"name": c.name, "type": kinds.get(c.kind, "string"), "required": c.required} for c in COLUMNS
    ]


def test_nulls_go_in_and_the_answers_are_ours(pyfunc, voyages: Path, rows: pd.DataFrame) -> None:
    """Una tabla con `None`, con la firma comprobada, da lo que da nuestro modelo con los huecos suyos."""
    expected, probabilities = load_model(voyages).predict_with_probability(rows)
    nulls = rows.assign(port=rows["port"].replace("", None), notes=rows["notes"].replace("", None))
    assert nulls.isna().any(axis=1).sum() > 100
    for table in (rows, nulls, nulls.astype({"sailed": "datetime64[ns]", "port": object})):
        answer = pyfunc.predict(table)
        assert answer["score"].tolist() == expected.tolist()
        assert np.allclose(answer["probability"], probabilities, atol=6e-5)


def test_an_optional_column_may_not_come(pyfunc, rows: pd.DataFrame) -> None:
    """La columna que puede tener huecos puede no estar: es una columna de huecos."""
    gaps = {"age": np.nan, "port": None, "saved": np.nan, "seen": pd.NaT, "notes": None}
    bare = pyfunc.predict(rows.drop(columns=list(gaps)))
    pd.testing.assert_frame_equal(bare, pyfunc.predict(rows.assign(**gaps).astype({"seen": "datetime64[us]"})))
    with pytest.raises(Exception, match="fare"):
        pyfunc.predict(rows.drop(columns="fare"))


@pytest.mark.parametrize("name", ["fare", "class", "alone", "sailed"])
def test_what_cannot_be_missing_is_not_answered(pyfunc, rows: pd.DataFrame, name: str) -> None:
    """Un hueco donde no puede haberlo es un error, y no una respuesta."""
    holed = rows.copy()
    holed.loc[3, name] = None
    with pytest.raises(UsageError, match=f"En la fila 4 falta «{name}»"):
        pyfunc.predict(holed)


def test_it_scores_json_like_mlflow_models_serve(saved: Path, pyfunc, voyages: Path) -> None:
    """La aplicación que levanta `mlflow models serve`: por JSON, con `null`, con `true` y con una categoría que nadie vio."""
    from fastapi.testclient import TestClient
    from mlflow.pyfunc.scoring_server import init

    records = [VOYAGE, VOYAGE | {"age": None, "port": None, "notes": None, "seen": None}, VOYAGE | {"port": "Nantucket", "saved": False}]
    done = TestClient(init(pyfunc)).post("/invocations", json={"dataframe_records": records})
    assert done.status_code == 200, done.text
    typed = pd.DataFrame(records).astype({"age": float, "alone": float, "saved": float})
    typed = typed.assign(**{name: pd.to_datetime(typed[name], format=ISO[name]).astype("datetime64[us]") for name in ISO})
    typed = typed.assign(**{name: typed[name].fillna("").astype("str") for name in ("port", "notes")})
    expected, probabilities = load_model(voyages).predict_with_probability(typed)
    answers = pd.DataFrame(done.json()["predictions"])
    assert answers["score"].tolist() == expected.tolist()
    assert np.allclose(answers["probability"], probabilities, atol=6e-5)
    refused = TestClient(init(pyfunc)).post("/invocations", json={"dataframe_records": [VOYAGE | {"alone": None}]})
    assert refused.status_code >= 400


def test_the_example_is_an_ordinary_row(saved: Path, pyfunc) -> None:
    """El ejemplo guardado se puede puntuar, y sale de lo que más hay."""
    example = json.loads((saved / "input_example.json").read_text())
    row = dict(zip(example["columns"], example["data"][0], strict=True))
    assert (row["port"], row["class"] in "123", row["alone"] in (0.0, 1.0), row["sailed"][:4]) == ("Vigo", True, True, "1912")
    assert len(pyfunc.predict(pyfunc.input_example)) == 1
