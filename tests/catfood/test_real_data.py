"""El resultado publicado, con los datos reales y por la orden `tierra`."""
import json
import os
from pathlib import Path

import pandas as pd
import pytest

from de_jupyter_a_la_tierra.catfood.cleaning import clean_foods
from de_jupyter_a_la_tierra.catfood.columns import FIGURES
from de_jupyter_a_la_tierra.catfood.model import validate_model
from de_jupyter_a_la_tierra.models.artifact import load_model
from de_jupyter_a_la_tierra.tables.csv import read_table

REAL = os.environ.get("TIERRA_CATFOOD_CSV", "")
pytestmark = pytest.mark.skipif(not REAL, reason="sin datos reales: TIERRA_CATFOOD_CSV no dice dónde están")

PUBLISHED = [[61, 26, 0, 0, 0], [12, 157, 30, 0, 0], [0, 19, 319, 35, 0], [0, 0, 43, 241, 5], [0, 0, 0, 19, 78]]
WHISKAS = "dma_ash,dma_cals,dma_carbs,dma_prot,ga_moist\n1.7,76,21,50,84\n"


@pytest.fixture(scope="module")
def project(tmp_path_factory, tierra) -> Path:
    """Una carpeta vacía en la que se ha entrenado con los datos reales."""
    folder = tmp_path_factory.mktemp("real")
    assert tierra("data", "--real", "--from", REAL, cwd=folder).returncode == 0
    done = tierra("run", "--params", "origin=real", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "856 de 1045" in done.stdout
    return folder


def test_published_result(project):
    """856 aciertos de 1045 y la misma matriz de confusión que en 2020."""
    by_rows = json.loads((project / "data/08_reporting/metrics.json").read_text())["by_rows"]
    assert (by_rows["n_correct"], by_rows["n_rows"]) == (856, 1045)
    assert round(by_rows["accuracy"], 4) == 0.8191
    assert by_rows["confusion_matrix"] == PUBLISHED


def test_whiskas_gets_a_three(project, tierra):
    """El modelo guardado, que escala solo, da a la Whiskas el 3 que le toca."""
    (project / "whiskas.csv").write_text(WHISKAS)
    assert tierra("predict", "whiskas.csv", "nota.csv", cwd=project).returncode == 0
    assert pd.read_csv(project / "nota.csv")["score"].tolist() == [3]


def test_model_says_where_it_comes_from(project):
    """La ficha del modelo dice que los datos son reales y cuáles exactamente."""
    (folder,) = (project / "data/06_models/catfood").glob("*/catfood")
    info = load_model(folder).info
    assert info["data"]["origin"] == "real" and info["data"]["n_rows"] == 3165
    assert info["data"]["sha256"].startswith("19236b06a8c0")


def test_no_row_is_quarantined(project):
    """Los datos reales se leen enteros."""
    assert json.loads((project / "data/03_primary/counts.json").read_text()) == {"n_rows": 3165, "n_bad_rows": 0}


def test_forest_with_twins_apart_and_together():
    """El bosque con las doce cifras: 0,89 si las gemelas se separan y 0,82 o más si no."""
    foods, _ = clean_foods(read_table(REAL))
    scores = validate_model(foods[list(FIGURES)], foods["nutrition_paws"], {"type": "random_forest", "n_jobs": 2})
    assert scores["together"]["accuracy"]["mean"] >= 0.82
    assert scores["by_rows"]["accuracy"]["mean"] >= 0.88
