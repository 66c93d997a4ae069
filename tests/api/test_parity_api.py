"""La misma fila, la misma respuesta, se mande como se mande: scikit-learn, ONNX y todas las puertas de la API."""
import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from mixed import COLUMNS, ISO, NAMES, fit_voyages, simulate_voyages, write_voyages
from serving import Server, serving

from de_jupyter_a_la_tierra.catfood.cleaning import clean_foods
from de_jupyter_a_la_tierra.catfood.columns import CATFOOD, LABEL_FIGURES
from de_jupyter_a_la_tierra.catfood.model import train_model
from de_jupyter_a_la_tierra.catfood.simulate import simulate_foods
from de_jupyter_a_la_tierra.models.artifact import load_model
from de_jupyter_a_la_tierra.models.features import featurize
from de_jupyter_a_la_tierra.models.freezing import freeze_model
from de_jupyter_a_la_tierra.tables.dictionary import Column

FIGURES = list(LABEL_FIGURES)
SIZES = [pytest.param(300, id="corta"), pytest.param(10_000, id="larga", marks=[pytest.mark.long, pytest.mark.timeout(1200)])]


class Subject:
    """Un modelo servido, y con qué compararlo."""

    def __init__(self, folder: Path, columns: list[Column], estimator: Any, server: Server) -> None:
        self.folder, self.columns, self.estimator, self.server = folder, columns, estimator, server
        self.names, self.model = [column.name for column in columns], load_model(folder)

    def ask_estimator(self, rows: pd.DataFrame) -> np.ndarray:
        """Lo que diría scikit-learn."""
        return self.estimator.predict(featurize(rows, self.columns) if self.model.featurizer else rows.to_numpy(np.float32))

    def post(self, path: str, body: bytes, media: str = "application/json") -> httpx.Response:
        """Manda unos bytes; si no se contestan, la prueba acaba."""
        reply = httpx.post(self.server.address + path, content=body, headers={"content-type": media}, timeout=120)
        assert reply.status_code == 200, reply.text[:500]
        return reply


def simulate_foods_rows(n_rows: int) -> pd.DataFrame:
    """Latas de mentira, solo con sus cifras."""
    foods = clean_foods(simulate_foods(int(n_rows * 1.3), seed=77))[0]
    return foods[FIGURES].head(n_rows).reset_index(drop=True)


@pytest.fixture(scope="module")
def foods(tierra: Callable, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    """El modelo de las cifras."""
    known = clean_foods(simulate_foods())[0]
    X, y = known[FIGURES], known[CATFOOD.target]
    folder, estimator = tmp_path_factory.mktemp("parity") / "catfood", train_model(X, y, {"type": "logistic"})
    columns = CATFOOD.select(FIGURES)
    freeze_model(
        estimator, folder, X_train=X, X_evaluation=X.tail(50), metrics={}, features=columns, target=CATFOOD.select([CATFOOD.target])[0],
        data={"origin": "simulated"}, name=CATFOOD.name,
    )
    with serving(tierra, folder.parent, "--model", folder) as server:
        yield Subject(folder, columns, estimator, server)


@pytest.fixture(scope="module")
def boats(tierra: Callable, voyages: Path) -> Iterator[Subject]:
    """El modelo que mira columnas de todas las clases."""
    with serving(tierra, voyages.parent, "--model", voyages) as server:
        yield Subject(voyages, COLUMNS, fit_voyages(simulate_voyages()), server)


def as_records(rows: pd.DataFrame, columns: list[Column]) -> list[dict[str, Any]]:
    """Unas filas como objetos de JSON: `None` donde falta, fechas de ISO y síes de verdad."""
    cells: dict[str, Any] = {}
    for column in columns:
        values = rows[column.name]
        if column.kind == "date":
            values = values.dt.strftime(ISO[column.name])
        gaps = rows[column.name].isna() | (rows[column.name].astype("str") == "")
        cells[column.name] = [
            None if gap else bool(value) if column.kind == "boolean" else value for value, gap in zip(values.tolist(), gaps, strict=True)
        ]
    return [dict(zip(cells, values, strict=True)) for values in zip(*cells.values(), strict=True)]


def as_csv(rows: pd.DataFrame, subject: Subject, folder: Path) -> bytes:
    """Unas filas como una hoja española: punto y coma, coma decimal, síes y fechas con barras."""
    if subject.model.featurizer:
        write_voyages(rows, folder / "filas.csv")
        table = pd.read_csv(folder / "filas.csv", dtype="str", keep_default_na=False)
    else:
        table = rows.astype(object).map(repr)
    numbers = [column.name for column in subject.columns if column.kind == "number"]
    return table.assign(**{name: table[name].str.replace(".", ",", regex=False) for name in numbers}).to_csv(index=False, sep=";").encode("cp1252")


def as_tensors(records: list[dict[str, Any]], columns: list[Column]) -> bytes:
    """Unas filas como tensores de OIP, uno por columna."""
    kinds = {"number": "FP64", "boolean": "BOOL"}
    inputs = [
        {"name": column.name, "shape": [len(records), 1], "datatype": kinds.get(column.kind, "BYTES"), "data": [row[column.name] for row in records]}
        for column in columns
    ]
    return json.dumps({"inputs": inputs}).encode()


def ask_everywhere(subject: Subject, rows: pd.DataFrame, folder: Path) -> dict[str, list[Any]]:
    """Lo que contesta cada puerta a las mismas filas."""
    records = as_records(rows, subject.columns)
    columns = {name: [row[name] for row in records] for name in subject.names}
    split = {"columns": subject.names, "data": [list(row.values()) for row in records]}
    parquet, name = io.BytesIO(), subject.model.info["name"]
    rows.to_parquet(parquet)

    def scores(path: str, content: Any, media: str = "application/json") -> list[Any]:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        said = subject.post(path, body, media).json()
        return [each["score"] for each in (said["predictions"] if isinstance(said, dict) else said)]

    with httpx.Client(base_url=subject.server.address, timeout=60) as client:
        one_by_one = [client.post("/predict_score", json=row).json()["score"] for row in records]
    return {
        "una a una": one_by_one, "lista": scores("/predict_score", records), "filas": scores("/predict_scores", records),
        "columnas": scores("/predict_scores", columns), "split": scores("/predict_scores", split),
        "líneas": scores("/predict_scores", "\n".join(map(json.dumps, records)).encode(), "application/x-ndjson"),
        "CSV": scores("/predict_scores", as_csv(rows, subject, folder), "text/csv"),
        "Parquet": scores("/predict_scores", parquet.getvalue(), "application/vnd.apache.parquet"),
        "MLflow": scores("/invocations", {"dataframe_split": split}),
        "OIP": subject.post(f"/v2/models/{name}/infer", as_tensors(records, subject.columns)).json()["outputs"][0]["data"],
        "vuelta en CSV": pd.read_csv(io.BytesIO(subject.post("/predict_scores?format=csv", json.dumps(records).encode()).content))["score"].tolist(),
        "ONNX": subject.model.predict(rows).tolist(), "scikit-learn": subject.ask_estimator(rows).tolist(),
    }


def find_ties(subject: Subject, rows: pd.DataFrame) -> np.ndarray:
    """Las filas cuyas dos mejores probabilidades se separan menos de una millonésima."""
    shares = np.sort(subject.model.predict_proba(rows).astype("float64"), axis=1)
    return shares[:, -1] - shares[:, -2] < 1e-6


@pytest.mark.parametrize("n_rows", SIZES)
@pytest.mark.parametrize("kind", ["cifras", "de todo"])
def test_everyone_says_the_same(request: pytest.FixtureRequest, kind: str, n_rows: int, tmp_path: Path, record_property: Callable) -> None:
    subject = request.getfixturevalue("foods" if kind == "cifras" else "boats")
    rows = simulate_foods_rows(n_rows) if kind == "cifras" else simulate_voyages(n_rows, seed=99)[NAMES]
    said, ties = ask_everywhere(subject, rows, tmp_path), find_ties(subject, rows)
    expected = np.array(said["ONNX"])
    wrong = {way: int(((np.array(scores) != expected) & ~ties).sum()) for way, scores in said.items()}
    record_property("empates", int(ties.sum()))
    print(f"{kind}: {len(rows)} filas de {len(said)} maneras, {int(ties.sum())} empates")
    assert len(rows) == n_rows and not any(wrong.values()), wrong
    assert ties.sum() <= n_rows / 1000


PROJECT = Path(__file__).parents[2]


@pytest.mark.parametrize("n_rows", SIZES)
def test_the_command_says_the_same(tierra: Callable, foods: Subject, n_rows: int, tmp_path: Path) -> None:
    """`tierra predict`, con la misma hoja y el mismo modelo, escribe lo que la API contesta."""
    version = "2026-01-01T00.00.00.000Z"
    for name in ("conf", "pyproject.toml"):
        origin = PROJECT / name
        shutil.copytree(origin, tmp_path / name) if origin.is_dir() else shutil.copy(origin, tmp_path / name)
    shutil.copytree(foods.folder, tmp_path / "data/06_models/catfood" / version / "catfood")
    body = as_csv(simulate_foods_rows(n_rows), foods, tmp_path)
    (tmp_path / "filas.csv").write_bytes(body)
    done = tierra("predict", "filas.csv", "salida.csv", "--model", version, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    written = pd.read_csv(tmp_path / "salida.csv", sep=";", decimal=",", encoding="cp1252")
    said = foods.post("/predict_scores", body, "text/csv").json()
    assert written["score"].tolist() == [each["score"] for each in said]
    np.testing.assert_allclose(written["probability"], [each["probability"] for each in said], atol=1e-4)
