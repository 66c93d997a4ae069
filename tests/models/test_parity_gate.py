"""El examen de la conversión: lo que ONNX no sabe repetir lo sirve scikit-learn, y se dice en todas partes."""
import asyncio
import json
from threading import Barrier, Thread
from typing import Any

import httpx
import numpy as np
import onnxruntime
import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.runner import SequentialRunner
from skl2onnx import to_onnx
from skl2onnx.common import tree_ensemble
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor, RandomForestClassifier
from sklearn.kernel_approximation import RBFSampler
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from de_jupyter_a_la_tierra.api.server import build_app
from de_jupyter_a_la_tierra.catfood.pipeline_registry import create_data_science
from de_jupyter_a_la_tierra.errors import WorkError
from de_jupyter_a_la_tierra.models.artifact import Model, describe_engine, hash_content, open_model, parse_info
from de_jupyter_a_la_tierra.models.freezing import (
    MAX_PROBABILITY_GAP,
    TARGET_OPSET,
    build_artifact,
    compare_predictions,
    convert_to_onnx,
    describe_differences,
)
from de_jupyter_a_la_tierra.tables.dictionary import Column

RNG = np.random.default_rng(0)
X = np.column_stack([RNG.normal(size=(1500, 2)), RNG.integers(0, 12, 1500)]).astype(np.float32)
Y = (X[:, 0] + np.isin(X[:, 2], (1, 4, 6, 9)) + RNG.normal(0, 0.5, len(X)) > 0.5).astype(int)
AMOUNTS = X[:, 0] * 3 + X[:, 1] ** 2


def freeze(estimator: Any, y: np.ndarray = Y, rows: np.ndarray = X) -> tuple[dict[str, Any], dict[str, bytes]]:
    """La ficha y los ficheros de un modelo entrenado con esas filas."""
    files = build_artifact(
        estimator.fit(rows, y), X_train=rows[:1000], X_evaluation=rows[1000:], metrics={}, data={"origin": "own"}, name="x",
        features=[Column(name=name, meaning=name) for name in "abc"], target=Column(name="y", meaning="y"),
    )
    return parse_info(files["model.json"]), files


# ── Lo que se convierte ─────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("estimator", "y"),
    [(HistGradientBoostingClassifier(max_iter=20), Y), (HistGradientBoostingRegressor(max_iter=20), AMOUNTS)],
    ids=["clases", "números"],
)
def test_gradient_boosting_is_served_by_onnx(estimator: Any, y: np.ndarray) -> None:
    info, files = freeze(estimator, y)
    assert info["served_by"] == "onnx" and "onnx_error" not in info and describe_engine(info) == ""
    assert describe_differences(info["comparison"]["onnx"]) == ""
    np.testing.assert_allclose(open_model(info, files).predict(X), estimator.predict(X), rtol=1e-4)


@pytest.mark.parametrize("estimator", [HistGradientBoostingClassifier(random_state=0), HistGradientBoostingRegressor(random_state=0)])
def test_a_threshold_between_two_decimals_stays_there(estimator: Any) -> None:
    """Con un decimal, un umbral a media distancia de dos valores cae casi encima de otro: en 32 bits no puede pasarse de él."""
    rng = np.random.default_rng(0)
    study = np.c_[rng.gamma(6, 3, 400).round(1), rng.gamma(3, 60, 400).round(1)].astype(np.float32)
    exam = np.c_[np.resize(np.arange(0, 60, 0.1), 2000), np.arange(0, 200, 0.1)].round(1).astype(np.float32)
    estimator.fit(study, rng.integers(0, 2, 400))
    session = onnxruntime.InferenceSession(convert_to_onnx(estimator, 2))
    served = session.run(None, {session.get_inputs()[0].name: exam})[-1]
    expected = estimator.predict_proba(exam) if hasattr(estimator, "predict_proba") else estimator.predict(exam).reshape(-1, 1)
    assert np.abs(served - expected).max() < 1e-6


def test_the_mend_is_still_needed() -> None:
    """Si falla, skl2onnx ya convierte HistGradientBoosting: bórrese `_mended_skl2onnx` (16_conversion) y esta prueba."""
    boosting = HistGradientBoostingClassifier(max_iter=2).fit(X, Y)
    with pytest.raises(Exception, match="nodes_missing_value_tracks_true"):
        to_onnx(boosting, X[:1], target_opset=TARGET_OPSET)


def test_the_mend_does_not_stay() -> None:
    """Ni cuando falla la conversión ni cuando convierten varios hilos a la vez."""
    original, barrier = tree_ensemble.add_node, Barrier(4)
    boosting = HistGradientBoostingClassifier(max_iter=5).fit(X, Y)

    def convert() -> None:
        barrier.wait(timeout=60)
        convert_to_onnx(boosting, 3)

    threads = [Thread(target=convert) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    with pytest.raises(WorkError, match="no se puede convertir"):
        convert_to_onnx(make_pipeline(RBFSampler(), LogisticRegression()).fit(X, Y), 3)
    assert tree_ensemble.add_node is original


# ── Lo que se convierte mal ─────────────────────────────────────────────────


def test_a_model_that_converts_wrongly_is_served_by_scikit_learn() -> None:
    """Los vecinos deciden entre distancias casi iguales, y en ONNX gana otro: ni se pierde el modelo ni se sirve el ONNX."""
    estimator = KNeighborsClassifier(algorithm="brute")
    info, files = freeze(estimator, rows=np.round(X))
    assert info["served_by"] == "skops" and "model.onnx" not in files and "model.onnx" not in info["files"]
    figures = info["comparison"]["onnx"]
    assert figures["n_different"] > 0 and f"responde otra cosa en {figures['n_different']} de 1500 filas" in info["onnx_error"]
    assert figures["max_probability_gap"] > MAX_PROBABILITY_GAP and info["comparison"]["skops"]["n_different"] == 0
    with threadpool_limits(limits=1):  # con más hilos, los vecinos ni siquiera coinciden consigo mismos
        np.testing.assert_array_equal(open_model(info, files).predict(X), estimator.predict(X))


def test_categories_are_caught() -> None:
    """skl2onnx convierte `categorical_features` como si fueran cantidades."""
    boosting = HistGradientBoostingClassifier(max_iter=20, categorical_features=[2]).fit(X, Y)
    content = convert_to_onnx(boosting, 3)
    info = {"task": "classification", "features": [{"name": name} for name in "abc"], "classes": [0, 1], "name": "x"}
    info |= {"served_by": "onnx", "versions": {}, "files": {"model.onnx": hash_content(content)}}
    result = compare_predictions(open_model(info, {"model.onnx": content}), boosting, X)
    assert result["n_different"] > 100 and describe_differences(result)


def test_the_same_answers_with_other_probabilities_are_another_model() -> None:
    """Las etiquetas coinciden todas y las probabilidades no: hasta ahora, aprobaba."""
    honest = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, Y)
    shy = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, Y)
    shy[-1].coef_, shy[-1].intercept_ = shy[-1].coef_ * 0.8, shy[-1].intercept_ * 0.8
    info, files = freeze(make_pipeline(StandardScaler(), LogisticRegression()))
    served = open_model(info, files)
    result = compare_predictions(served, shy, X)
    assert result["n_different"] == 0 and result["max_probability_gap"] > MAX_PROBABILITY_GAP
    assert "probabilidades que se separan hasta 0," in describe_differences(result)
    assert describe_differences(compare_predictions(served, honest, X)) == ""


class Gappy(Model):
    """Un modelo al que no se le comprueban las filas: así se ve qué haría ONNX con los huecos."""

    def compute(self, X: np.ndarray, *methods: str) -> list[np.ndarray]:
        return self.run(methods, X)


def test_a_forest_with_gaps_is_caught() -> None:
    """Un bosque que aprendió de filas con huecos se convierte mal (onnx/sklearn-onnx#1253), y el examen lo nota."""
    gaps = np.where(RNG.random(X.shape) < 0.3, np.nan, X).astype(np.float32)
    forest = RandomForestClassifier(30, random_state=0).fit(gaps, Y)
    session = onnxruntime.InferenceSession(convert_to_onnx(forest, 3), providers=["CPUExecutionProvider"])
    label, probabilities = (output.name for output in session.get_outputs())
    names = {"predict": label, "predict_proba": probabilities}
    info = {"task": "classification", "features": [{"name": name} for name in "abc"], "classes": [0, 1], "name": "x"}
    result = compare_predictions(Gappy(info, lambda methods, rows: session.run([names[method] for method in methods], {"X": rows})), forest, gaps)
    assert result["max_probability_gap"] > 0.1 and describe_differences(result)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_a_number_is_different(value: float) -> None:
    """Un NaN no es mayor que ningún límite: comparado a la ligera, aprobaría."""
    regression = HistGradientBoostingRegressor(max_iter=2).fit(X, AMOUNTS)
    info = {"task": "regression", "features": [{"name": name} for name in "abc"], "classes": [], "name": "x"}
    broken = Model(info, lambda methods, rows: [np.full(len(rows), value)])
    result = compare_predictions(broken, regression, X[:10])
    assert result["n_different"] == 10 and describe_differences(result)
    json.dumps(result, allow_nan=False)


# ── Y se dice ───────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def slow() -> tuple[dict[str, Any], dict[str, bytes]]:
    """Un modelo que no se convierte."""
    return freeze(make_pipeline(RBFSampler(random_state=0), LogisticRegression()))


def test_the_api_says_who_answers(slow: tuple) -> None:
    info, files = slow
    transport = httpx.ASGITransport(build_app(open_model(info, files), "v1"))

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
            return await client.get("/model")

    said = asyncio.run(ask()).json()
    assert said["served_by"] == "skops" and "RBFSampler → LogisticRegression" in said["onnx_error"]


def test_the_summary_of_a_run_says_who_answers(slow: tuple) -> None:
    score = {"accuracy": 0.8, "n_correct": 8, "n_rows": 10, "baseline_accuracy": 0.5}
    given = {
        "metrics": dict.fromkeys(("by_rows", "twins_together"), score), "model": open_model(*slow),
        "provenance": {"origin": "own"}, "counts": {"n_rows": 10, "n_bad_rows": 0},
    }
    catalog = DataCatalog({name: MemoryDataset(value, copy_mode="assign") for name, value in given.items()})
    summary = SequentialRunner().run(create_data_science().filter(node_names=["write_summary"]), catalog)["summary"].load()
    assert "Lo sirve scikit-learn, más despacio, y no ONNX: «RBFSampler → LogisticRegression»" in summary
