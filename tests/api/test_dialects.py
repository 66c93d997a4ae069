"""Los dialectos de otros, hablados por sus propios clientes con un servidor de verdad."""
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from mixed import COLUMNS, ISO, NAMES, VOYAGE, simulate_voyages
from serving import Server, serving

from de_jupyter_a_la_tierra.models.artifact import Model, load_model
from de_jupyter_a_la_tierra.tracking.flavor import PyfuncModel

pytestmark = pytest.mark.timeout(240)
FOODS = ["dma_ash", "dma_cals", "dma_carbs", "dma_prot", "ga_moist"]


@pytest.fixture(scope="module")
def server(tierra: Callable, voyages: Path) -> Iterator[Server]:
    """Un servidor con el modelo que mira columnas de todas las clases."""
    with serving(tierra, voyages.parent, "--model", voyages) as server:
        yield server


@pytest.fixture(scope="module")
def model(voyages: Path) -> Model:
    """Ese modelo, abierto."""
    return load_model(voyages)


def infer(server: Server, inputs: list[dict[str, Any]], binary: bytes = b"", **more: Any) -> httpx.Response:
    """Manda unos tensores y, si los lleva en binario, detrás sus bytes, como el cliente de Triton."""
    head = json.dumps({"inputs": inputs, **more}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))} if binary else {}
    return httpx.post(f"{server.address}/v2/models/voyages/infer", content=head + binary, headers=headers, timeout=60)


def as_cells(rows: pd.DataFrame) -> dict[str, list[Any]]:
    """Unas filas por columnas, como las mandaría un programa: `None` donde falta y las fechas como manda ISO."""
    texts = {name: rows[name].dt.strftime(form) for name, form in ISO.items()}
    cells = rows[NAMES].assign(**texts).astype(object)
    return cells.where(rows[NAMES].notna() & (rows[NAMES] != ""), None).to_dict("list")


# ── MLflow ──────────────────────────────────────────────────────────────────


@pytest.mark.filterwarnings("ignore::UserWarning")  # los que MLflow lanza al importarse
def test_the_client_of_mlflow(server: Server, model: Model) -> None:
    """Su cliente manda los huecos como NaN y NaT, y recibe lo mismo que daría el modelo registrado."""
    from mlflow.pyfunc.scoring_server.client import ScoringServerClient

    rows = simulate_voyages(200, seed=11)
    client = ScoringServerClient("127.0.0.1", server.port)
    client.wait_server_ready(timeout=10)
    assert client.get_version()
    said = client.invoke(rows[NAMES].assign(**{name: rows[name].dt.strftime(ISO[name]) for name in ("sailed", "watch")}, port=rows["port"].replace("", None))).get_predictions()
    expected = PyfuncModel(model).predict(rows[NAMES])
    assert rows["age"].isna().any() and rows["seen"].isna().any()
    pd.testing.assert_frame_equal(said[["score", "probability"]], expected.reset_index(drop=True), check_dtype=False)


def test_its_five_ways_say_the_same(server: Server) -> None:
    rows = simulate_voyages(20, seed=12)
    cells = as_cells(rows)
    records = [dict(zip(cells, values, strict=True)) for values in zip(*cells.values(), strict=True)]
    split = {"columns": NAMES, "data": [list(row.values()) for row in records]}
    answers = [
        server.ask({shape: content}, "/invocations").json()
        for shape, content in {"dataframe_split": split, "dataframe_records": records, "instances": records, "inputs": cells}.items()
    ]
    sheet = pd.DataFrame(records).assign(alone=rows["alone"].map({0.0: "no", 1.0: "sí"}), sailed=rows["sailed"].dt.strftime("%d/%m/%Y"), seen=rows["seen"].dt.strftime("%Y-%m-%d %H:%M"), watch=rows["watch"].dt.strftime("%H:%M"))
    body = sheet.to_csv(index=False).encode()
    answers.append(httpx.post(f"{server.address}/invocations", content=body, headers={"content-type": "text/csv"}).json())
    assert len(answers[0]["predictions"]) == 20 and all(answer == answers[0] for answer in answers)


@pytest.mark.parametrize(
    ("content", "status", "says"),
    [
        ({"data": [1]}, 400, "dataframe_split, dataframe_records, instances o inputs"), ([VOYAGE], 400, "MLflow manda un objeto"),
        ({"dataframe_split": {"columns": ["age"]}}, 422, "«columns» ha de ser"), ({"instances": 3}, 422, "una lista de filas"),
        ({"inputs": {"age": [1]}}, 422, "Falta la columna «fare»"), ({"instances": [[1, 2]]}, 422, "una lista de 10 valores"),
        ({"dataframe_records": [VOYAGE | {"age": 150}]}, 422, "«age» ha de ser un número de 0 a 120 años"),
        ({"dataframe_records": [VOYAGE, VOYAGE | {"x": 1}]}, 422, "«x» no es una columna"), ({"inputs": {"age": 1}}, 422, "Falta la columna"),
    ],
)
def test_what_is_wrong_is_told_as_always(server: Server, content: Any, status: int, says: str) -> None:
    reply = server.ask(content, "/invocations")
    assert reply.status_code == status and says in reply.json()["detail"] and reply.headers["content-type"] == "application/problem+json"


# ── Inferencia abierta ──────────────────────────────────────────────────────


def test_the_server_and_the_model_introduce_themselves(server: Server) -> None:
    assert httpx.get(f"{server.address}/v2").json()["extensions"] == ["binary_tensor_data"]
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/voyages/ready", "/v2/models/voyages/versions/voyages/ready"):
        assert httpx.get(server.address + path).status_code == 200
    told = httpx.get(f"{server.address}/v2/models/voyages").json()
    assert [each["name"] for each in told["inputs"]] == NAMES and told["inputs"][2]["datatype"] == "BYTES"
    assert [each["name"] for each in told["outputs"]] == ["predict", "predict_proba"]
    assert httpx.get(f"{server.address}/v2/models/otro").status_code == 404


def test_a_tensor_for_each_column(server: Server, model: Model) -> None:
    rows = simulate_voyages(50, seed=13)
    scores, shares = model.compute(rows[NAMES], "predict", "predict_proba")
    kinds = {"number": "FP64", "boolean": "BOOL"}
    inputs = [
        {"name": column.name, "shape": [50, 1], "datatype": kinds.get(column.kind, "BYTES"), "data": as_cells(rows)[column.name]} for column in COLUMNS
    ]
    reply = infer(server, inputs, id="42").json()
    assert (reply["id"], reply["model_name"], reply["model_version"]) == ("42", "voyages", "voyages")
    predict, proba = reply["outputs"]
    assert (predict["datatype"], predict["shape"], predict["data"]) == ("BYTES", [50], scores.tolist())
    np.testing.assert_allclose(np.reshape(proba["data"], proba["shape"]), shares, atol=1e-7)
    only = infer(server, inputs, outputs=[{"name": "predict_proba"}]).json()["outputs"]
    assert [each["name"] for each in only] == ["predict_proba"]


def as_binary(values: np.ndarray) -> bytes:
    """Un tensor en binario: los textos llevan delante cuánto miden."""
    if values.dtype.kind != "O":
        return values.tobytes()
    return b"".join(len(text.encode()).to_bytes(4, "little") + text.encode() for text in values)


def test_tensors_in_binary(server: Server) -> None:
    """Lo que manda el cliente de Triton si no se le dice otra cosa: el JSON y, detrás, los números."""
    rows = simulate_voyages(30, seed=14).dropna()
    rows = rows[rows["port"] != ""]
    cells = as_cells(rows)
    types = {"number": ("FP32", "<f4"), "boolean": ("BOOL", "?")}
    arrays = {column.name: np.array(["" if cell is None else cell for cell in cells[column.name]], types.get(column.kind, ("", "O"))[1]) for column in COLUMNS}
    inputs = [
        {"name": column.name, "shape": [len(rows)], "datatype": types.get(column.kind, ("BYTES",))[0],
         "parameters": {"binary_data_size": len(as_binary(arrays[column.name]))}}
        for column in COLUMNS
    ]
    reply = infer(server, inputs, b"".join(map(as_binary, arrays.values())), parameters={"binary_data_output": True})
    said = server.ask(cells | {}, "/predict_scores").json()
    assert len(rows) > 5 and reply.json()["outputs"][0]["data"] == [each["score"] for each in said]


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ([{"name": "x", "shape": [1], "datatype": "FP128", "data": [1]}], "dice ser de tipo «FP128»"),
        ([{"name": "x", "shape": [1, 2, 3], "datatype": "FP32", "data": [1]}], "ha de ser de forma [n] o [n, k]"),
        ([{"name": "x", "shape": [10**9, 0], "datatype": "FP32", "data": []}], "Se admiten 100.000 filas"),
        ([{"name": "x", "shape": [2, 9], "datatype": "FP32", "data": [1]}], "y trae 1 valores"),
        ([{"name": "age", "shape": [1], "datatype": "FP32", "data": [1]}], "Falta la columna «fare»"),
        ([{"name": "age", "shape": [1], "datatype": "FP32", "data": [1]}] * 2, "dos tensores con el mismo nombre"),
        ([{"name": "age", "shape": [1], "datatype": "FP32", "parameters": {"binary_data_size": 99}}], "dice llevar 99 bytes"),
        ([{"name": "age"}], "OIP manda"), ([], "Falta la columna"),
    ],
)
def test_wrong_tensors(server: Server, inputs: list[dict[str, Any]], says: str) -> None:
    reply = infer(server, inputs)
    assert reply.status_code in (400, 413, 422) and says in reply.json()["detail"], reply.text
