"""Una hoja que tiene de todo, de `tierra new` a la predicción: se usa lo que sirve, se dice lo que no, y no se pierde ni una fila."""
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from passengers import AMOUNT, CLASS, UNUSED, USED, build_passengers, write_passengers

from de_jupyter_a_la_tierra.api.fields import build_example
from de_jupyter_a_la_tierra.api.server import ModelService
from de_jupyter_a_la_tierra.models.artifact import Model, load_model

N = 240
SPANISH = {"sep": ";", "decimal": ",", "encoding": "cp1252"}


@pytest.fixture(scope="module", params=["classification", pytest.param("regression", marks=pytest.mark.long)])
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tierra: Callable) -> Path:
    """El proyecto, en la etapa 4 y ejecutado; el de calcular se examina con lo último."""
    folder = tmp_path_factory.mktemp("todo")
    target = write_passengers(folder / "hoja.csv", N, request.param)
    options = ["--time", "Embarque"] if request.param == "regression" else []
    made = tierra("new", "pasajeros", "--data", "hoja.csv", "--target", target, "--stage", "4", *options, cwd=folder)
    assert made.returncode == 0, made.stderr
    (folder / "dicho.txt").write_text(made.stdout, encoding="utf-8")
    done = tierra("run", cwd=folder / "pasajeros")
    assert done.returncode == 0, done.stderr
    return folder / "pasajeros"


@pytest.fixture(scope="module")
def model(project: Path) -> Model:
    return load_model(max(project.glob("data/06_models/*/*/*/model.json")).parent)


def read_sheet(path: Path, model: Model) -> pd.DataFrame:
    """Una hoja de este proyecto, con sus textos tal cual."""
    spanish = SPANISH if model.info["task"] == "classification" else {}
    return pd.read_csv(path, dtype="str", keep_default_na=False, **{**spanish, "decimal": "."})


def test_every_useful_column_is_used_and_the_others_are_told(project: Path, model: Model) -> None:
    assert model.features == USED and model.info["target"]["name"] in (CLASS, AMOUNT)
    kinds = {column.name: column.kind for column in model.columns}
    assert {kinds[name] for name in USED} == {"number", "boolean", "category", "date"}
    said = (project.parent / "dicho.txt").read_text(encoding="utf-8")
    for name in UNUSED:
        [line] = [line for line in said.splitlines() if line.startswith(f"{name} ")]
        assert " no " in line and ("identificador" in line or "no cambia" in line)


def test_it_learns(project: Path) -> None:
    exam = json.loads((project / "data/08_reporting/metrics.json").read_text(encoding="utf-8"))["twins_together"]
    assert exam["balanced_accuracy"] > 0.7 if "accuracy" in exam else exam["r2"] > 0.8
    report = (project / "data/08_reporting/report.md").read_text(encoding="utf-8")
    assert "| Edad | número |" in report and "Elegido «" in report


def test_the_split_is_the_one_asked_for(project: Path, model: Model) -> None:
    rows = pd.read_parquet(project / "data/05_model_input/model_input.parquet")
    late = rows.loc[rows["evaluation"], "Embarque"].min() >= rows.loc[~rows["evaluation"], "Embarque"].max()
    assert late == (model.info["task"] == "regression")


def test_the_sheet_comes_back_whole_and_the_summary_counts_the_doubts(project: Path, model: Model, tierra: Callable) -> None:
    """Un hueco y una categoría nueva se contestan y se cuentan; lo ilegible se queda sin respuesta, y su hoja, intacta."""
    sheet = read_sheet(project.parent / "hoja.csv", model)
    spanish = SPANISH if model.info["task"] == "classification" else {}
    sheet.loc[0, ["Edad", "Fumador", "Embarque"]] = ""
    sheet.loc[1, "Puerto"] = "Ferrol"
    sheet.loc[2, "Tarifa (€)"] = "bastante"
    sheet.to_csv(project.parent / "otra.csv", index=False, **{**spanish, "decimal": "."})
    done = tierra("predict", "../otra.csv", "../puntuada.csv", cwd=project)
    assert done.returncode == 0, done.stderr
    scored = read_sheet(project.parent / "puntuada.csv", model)
    pd.testing.assert_frame_equal(scored[list(sheet)], sheet)
    assert (scored["score"] == "").tolist() == [row == 2 for row in range(N)]
    assert "en cuarentena: 1" in done.stdout and "Filas con algún hueco:" in done.stdout and "(«Puerto», 1)" in done.stdout


def test_the_api_answers_a_gap_and_an_unseen_category(model: Model) -> None:
    service, row = ModelService(model, "v"), build_example(model.info)
    answer = json.loads(service.answer(json.dumps(row | {"Edad": None, "Fumador": None, "Puerto": "Ferrol"}).encode()))
    assert answer["unseen"] == ["Puerto"] and "score" in answer
    assert "unseen" not in json.loads(service.answer(json.dumps(row).encode()))


def test_the_generator_has_everything() -> None:
    """Huecos sin nada y con palabra, fechas, síes, un código, una constante y un texto libre: lo que promete."""
    table = build_passengers(N)
    assert {*USED, *UNUSED, CLASS} == {*table} and (table["Edad"] == "").any() and (table["Puerto"] == "NA").any()


@pytest.mark.long
def test_its_own_tests_pass(project: Path) -> None:
    """Los cuadernos y las pruebas del proyecto, en su carpeta."""
    env = {**os.environ, "PYTHONPATH": str(project)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "nbs", "tests"]
    done = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-4000:]
