"""Seis maneras de preguntar lo mismo: las mismas 500 filas, las mismas respuestas."""
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import pytest
import yaml
from kedro.io import DataCatalog, MemoryDataset
from kedro.runner import SequentialRunner

from de_jupyter_a_la_tierra.catfood.cleaning import clean_features
from de_jupyter_a_la_tierra.catfood.pipeline_registry import create_prediction
from de_jupyter_a_la_tierra.jobs.plan import find_notebook
from de_jupyter_a_la_tierra.models.artifact import Model, load_model
from de_jupyter_a_la_tierra.projects.datasets import ModelDataset
from de_jupyter_a_la_tierra.projects.project import find_project
from de_jupyter_a_la_tierra.tables.csv import read_table

REAL = os.environ.get("TIERRA_CATFOOD_CSV", "")
ORIGIN = "real" if REAL else "simulated"
N_ROWS = 500
BIN = Path(sys.executable).parent
ENV = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"MLFLOW_DISABLE_TELEMETRY": "true"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tierra) -> Path:
    """Una carpeta con un modelo recién entrenado, apuntado en MLflow, y 500 comidas en texto crudo."""
    folder = tmp_path_factory.mktemp("parity")
    source = ["--real", "--from", REAL] if REAL else []
    for command in (["data", *source], ["run", "--params", f"origin={ORIGIN}"]):
        done = tierra(*command, cwd=folder)
        assert done.returncode == 0, done.stderr
    foods = pd.read_csv(folder / f"data/01_raw/catfood_{ORIGIN}.csv", dtype=str, keep_default_na=False)
    foods.sample(N_ROWS, random_state=500).to_csv(folder / "rows.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def model_folder(folder) -> Path:
    """La carpeta de ese modelo."""
    [card] = folder.glob("data/06_models/catfood/*/catfood/model.json")
    return card.parent


@pytest.fixture(scope="module")
def model(model_folder) -> Model:
    """Ese modelo, abierto."""
    return load_model(model_folder)


@pytest.fixture(scope="module")
def features(folder, model) -> pd.DataFrame:
    """Las cifras de las 500 filas, como las lee la función del cuaderno."""
    features, quarantine = clean_features(read_table(folder / "rows.csv"), list(model.features))
    assert quarantine.empty and len(features) == N_ROWS
    return features


@pytest.fixture(scope="module")
def expected(model, features) -> pd.DataFrame:
    """Lo que dice la función del cuaderno: la nota y la probabilidad, con cuatro decimales."""
    return as_answers(model.predict(features), model.predict_proba(features).max(axis=1))


def as_answers(score, probability) -> pd.DataFrame:
    """Unas respuestas en forma de tabla que se puede comparar."""
    return pd.DataFrame({"score": np.asarray(score, int), "probability": np.round(np.asarray(probability, float), 4)})


def read_answers(path: Path) -> pd.DataFrame:
    """Las respuestas de una hoja puntuada."""
    scored = pd.read_csv(path)
    return as_answers(scored["score"], scored["probability"])


def run(*command: str | Path, cwd: Path) -> None:
    """Ejecuta una orden de este entorno; si falla, la prueba enseña lo que dijo."""
    done = subprocess.run([BIN / command[0], *command[1:]], cwd=cwd, env=ENV, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def serving(*command: str | Path, cwd: Path, url: str) -> Iterator[None]:
    """Arranca un servidor, espera a que conteste y lo termina con todos sus procesos."""
    log = cwd / "server.log"
    with log.open("w") as out, subprocess.Popen(
        [BIN / command[0], *command[1:]], cwd=cwd, env=ENV, stdout=out, stderr=out, start_new_session=True
    ) as process:
        try:
            for _ in range(1200):
                assert process.poll() is None, log.read_text()
                try:
                    if httpx.get(url, timeout=5).status_code == 200:
                        break
                except httpx.TransportError:
                    time.sleep(0.1)
            else:
                raise AssertionError(f"no contesta: {log.read_text()}")
            yield
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)


@pytest.fixture
def port() -> int:
    """Un puerto libre."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


# --- Cada una, a solas con la primera ----------------------------------------------------------------------------


def ask_pipeline(folder: Path, model_folder: Path, features: pd.DataFrame, port: int) -> pd.DataFrame:
    """El pipeline de Kedro, en este proceso y sobre un catálogo en memoria."""
    conf = find_project(Path(__file__).parent).conf / "base/parameters_2_kedro.yml"
    params = yaml.safe_load(conf.read_text(encoding="utf-8"))
    catalog = DataCatalog({f"params:{key}": MemoryDataset(value) for key, value in params.items()})
    catalog["foods_to_score"] = MemoryDataset(read_table(folder / "rows.csv"))
    catalog["model"] = ModelDataset(filepath=str(model_folder))
    scored = SequentialRunner().run(create_prediction(), catalog)["scored_foods"].load()
    return as_answers(scored["score"], scored["probability"])


def ask_command(folder: Path, model_folder: Path, features: pd.DataFrame, port: int) -> pd.DataFrame:
    """`tierra predict`."""
    run("tierra", "predict", "rows.csv", "by_command.csv", cwd=folder)
    return read_answers(folder / "by_command.csv")


def ask_job(folder: Path, model_folder: Path, features: pd.DataFrame, port: int) -> pd.DataFrame:
    """El trabajo `predecir`, con papermill a secas."""
    notebook = find_notebook(find_project(folder), "predecir")
    run("papermill", notebook, "out.ipynb", "-p", "input", "rows.csv", "-p", "output", "by_job.csv", cwd=folder)
    return read_answers(folder / "by_job.csv")


def ask_api(folder: Path, model_folder: Path, features: pd.DataFrame, port: int) -> pd.DataFrame:
    """`tierra serve`: la mitad de las filas en una lista y las demás una a una."""
    url = f"http://127.0.0.1:{port}"
    rows, half = features.to_dict("records"), N_ROWS // 2
    with serving("tierra", "serve", "--port", str(port), cwd=folder, url=f"{url}/health"), httpx.Client() as client:
        answers = client.post(f"{url}/predict_score", json=rows[:half], timeout=60).raise_for_status().json()
        answers += [client.post(f"{url}/predict_score", json=row).raise_for_status().json() for row in rows[half:]]
    assert {answer["data_origin"] for answer in answers} == {ORIGIN}
    return as_answers([answer["score"] for answer in answers], [answer["probability"] for answer in answers])


def ask_mlflow(folder: Path, model_folder: Path, features: pd.DataFrame, port: int) -> pd.DataFrame:
    """`mlflow models serve`, con el modelo que quedó en el registro."""
    server, url = f"sqlite:///{folder}/mlflow.db", f"http://127.0.0.1:{port}"
    command = ["mlflow", "models", "serve", "-m", "models:/catfood/1", "--env-manager", "local", "-p", str(port)]
    ENV["MLFLOW_TRACKING_URI"] = server
    try:
        with serving(*command, cwd=folder, url=f"{url}/ping"):
            question = {"dataframe_split": features.to_dict("split", index=False)}
            answers = httpx.post(f"{url}/invocations", json=question, timeout=60).raise_for_status().json()["predictions"]
    finally:
        del ENV["MLFLOW_TRACKING_URI"]
    return as_answers([answer["score"] for answer in answers], [answer["probability"] for answer in answers])


WAYS = {
    "pipeline": ask_pipeline, "job": ask_job, "tierra predict": ask_command, "api": ask_api, "mlflow": ask_mlflow,
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_gives_the_same_answers(folder, model_folder, features, expected, port, way, record_property):
    """Lo que dice la función del cuaderno lo dicen también las otras cinco, fila a fila."""
    answers = WAYS[way](folder, model_folder, features, port)
    different = int((answers["score"] != expected["score"]).sum())
    record_property("different", different)
    assert len(answers) == N_ROWS and different == 0
    assert np.abs(answers["probability"] - expected["probability"]).max() <= 1e-4


def test_the_comparison_would_notice(expected):
    """Las respuestas no son todas iguales: si se mezclaran las filas, se vería."""
    assert expected["score"].nunique() >= 4
    shuffled = expected.sample(frac=1, random_state=1).reset_index(drop=True)
    assert (shuffled["score"] != expected["score"]).sum() > 100
