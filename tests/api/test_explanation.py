"""La explicación: las partes suman la diferencia, en todo modelo y en todo motor, y en uno que suma son sus sumandos."""
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mixed import COLUMNS, VOYAGE, simulate_voyages
from serving import Server, serving
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.kernel_approximation import RBFSampler
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler, TargetEncoder

from de_jupyter_a_la_tierra.api.explanation import EXACT_COLUMNS, MOST_EXPLAINED, Explainer, find_usual
from de_jupyter_a_la_tierra.api.server import ModelService
from de_jupyter_a_la_tierra.models.artifact import Model, load_model, open_model, parse_info
from de_jupyter_a_la_tierra.models.features import featurize, list_inputs
from de_jupyter_a_la_tierra.models.freezing import build_artifact
from de_jupyter_a_la_tierra.tables.dictionary import Column

PLAIN = [column for column in COLUMNS if column.name != "notes"]
WORDS = Column(name="y", meaning="Qué es", kind="category")


def open_numbers(estimator: Any, n_columns: int, y: Callable[[np.ndarray], np.ndarray], target: Column) -> tuple[Model, Any, np.ndarray]:
    """Un modelo de números, abierto; el estimador; y las filas con que se entrenó."""
    X = np.random.default_rng(0).normal(size=(400, n_columns)).astype(np.float32)
    fitted = estimator.fit(X, y(X))
    files = build_artifact(
        fitted, X_train=X, X_evaluation=X[:50], metrics={}, data={"origin": "own"}, name="x", target=target,
        features=[Column(name=f"c{k}", meaning=f"Columna {k}", unit="g") for k in range(n_columns)],
    )
    return open_model(parse_info(files["model.json"]), files), fitted, X


def open_voyages(estimator: Any, rows: pd.DataFrame, y: Any, target: Column) -> Model:
    """Un modelo de viajes sin textos libres, abierto."""
    names = [column.name for column in PLAIN]
    fitted = estimator.fit(featurize(rows[names], PLAIN), y)
    files = build_artifact(
        fitted, X_train=rows[names], X_evaluation=rows[names].head(50), metrics={}, data={"origin": "own"}, name="x", target=target, features=PLAIN,
    )
    return open_model(parse_info(files["model.json"]), files)


def prepare(encoder: Any) -> ColumnTransformer:
    """Los números, rellenos y escalados; las categorías, por un codificador."""
    inputs = list_inputs(PLAIN)
    numbers, texts = ([each.name for each in inputs if each.kind == kind] for kind in ("number", "text"))
    return ColumnTransformer([("n", make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), numbers), ("c", encoder, texts)], sparse_threshold=0)


def as_records(rows: pd.DataFrame, columns: list[Column]) -> list[tuple[Any, ...]]:
    """Filas sueltas, como las lee la API."""
    table = rows[[column.name for column in columns]].astype(object)
    return [tuple(None if pd.isna(value) or value == "" else value.to_pydatetime() if isinstance(value, pd.Timestamp) else value for value in row)
            for row in table.itertuples(index=False, name=None)]


def check_sums(model: Model, rows: list[tuple[Any, ...]]) -> list[Any]:
    """Explica unas filas y comprueba que las partes dan la diferencia, y que los extremos son los del modelo."""
    scores = model.predict(rows).tolist()
    found, explainer = Explainer(model).explain(rows, scores), Explainer(model)
    values = explainer.measure([*rows, explainer.usual])
    for row, score, each, value in zip(rows, scores, found, values, strict=False):
        parts = sum(push.contribution for push in each.contributions)
        assert each.baseline + parts == pytest.approx(each.prediction, abs=1e-7, rel=1e-7)
        assert sorted(push.field for push in each.contributions) == sorted(model.features) and len(row) == len(model.features)
        place = model.info["classes"].index(score) if each.quantity in ("probability", "log_odds") else 0
        ends = [value[place], values[-1][place]]
        if each.quantity == "log_odds" and len(model.info["classes"]) == 2:
            assert [each.prediction, each.baseline] == pytest.approx([np.log(end / (1 - end)) for end in ends], abs=2e-3)
        elif each.quantity != "log_odds":
            assert [each.prediction, each.baseline] == pytest.approx(ends, rel=1e-4, abs=1e-5)
    return found


CLASSES = {"dos": lambda X: np.where(X[:, 0] + X[:, 1] > 0, "sí", "no"), "tres": lambda X: np.array(["a", "b", "c"])[np.digitize(X[:, 0] - X[:, 1], [-0.5, 0.5])]}
PAWS = Column(name="y", meaning="Nota", unit="patas", minimum=1, maximum=5, integer=True)


@pytest.mark.parametrize(
    ("estimator", "n_columns", "y", "target", "method", "quantity"),
    [
        (make_pipeline(StandardScaler(), Ridge()), 30, lambda X: X[:, 0] * 3 - X[:, 1], Column(name="y", meaning="y", unit="€"), "linear", "score"),
        (LinearRegression(), 4, lambda X: X[:, 0] * 3 - X[:, 1], Column(name="y", meaning="y"), "linear", "score"),
        (make_pipeline(StandardScaler(), LogisticRegression()), 20, CLASSES["dos"], WORDS, "linear", "log_odds"),
        (make_pipeline(StandardScaler(), LogisticRegression()), 5, CLASSES["tres"], WORDS, "linear", "log_odds"),
        (make_pipeline(StandardScaler(), LogisticRegression()), 5, lambda X: np.digitize(X[:, 0] + X[:, 1], [-1, 0, 1, 2]) + 1, PAWS, "shapley", "expected_score"),
        (RandomForestClassifier(20, random_state=0), 6, CLASSES["tres"], WORDS, "shapley", "probability"),
        (RandomForestClassifier(20, random_state=0), 25, lambda X: np.digitize(X[:, 0], [-1, 0, 1]) + 1, PAWS, "shapley_sampled", "expected_score"),
        (HistGradientBoostingRegressor(max_iter=20), 12, lambda X: np.exp(X[:, 0]), Column(name="y", meaning="y"), "shapley_sampled", "score"),
        (make_pipeline(RBFSampler(random_state=0), LogisticRegression()), 4, CLASSES["dos"], WORDS, "shapley", "probability"),  # por skops
    ],
)
def test_the_parts_make_the_difference(estimator: Any, n_columns: int, y: Any, target: Column, method: str, quantity: str) -> None:
    model, _, X = open_numbers(estimator, n_columns, y, target)
    found = check_sums(model, [tuple(map(float, row)) for row in X[:12]])
    assert {(each.method, each.quantity) for each in found} == {(method, quantity)}


def test_a_sum_is_told_as_it_is() -> None:
    """En una regresión, coeficiente por distancia a lo corriente; en una logística, lo mismo en logaritmos de posibilidades."""
    model, fitted, X = open_numbers(make_pipeline(StandardScaler(), Ridge()), 6, lambda X: X @ np.arange(6) + 2, Column(name="y", meaning="y"))
    slopes = fitted[-1].coef_ / fitted[0].scale_
    explanation = Explainer(model).explain([tuple(map(float, X[3]))], [0])[0]
    expected = dict(zip(model.features, slopes * (X[3] - np.array(find_usual(model.info))), strict=True))
    assert {push.field: push.contribution for push in explanation.contributions} == pytest.approx(expected, rel=1e-5, abs=1e-6)

    model, fitted, X = open_numbers(make_pipeline(StandardScaler(), LogisticRegression()), 6, CLASSES["dos"], WORDS)
    score = fitted.predict(X[:1])[0]
    sign = 1 if score == "sí" else -1
    explanation = Explainer(model).explain([tuple(map(float, X[0]))], [score])[0]
    expected = dict(zip(model.features, sign * fitted[-1].coef_[0] / fitted[0].scale_ * (X[0] - np.array(find_usual(model.info))), strict=True))
    assert {push.field: push.contribution for push in explanation.contributions} == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert explanation.prediction == pytest.approx(sign * fitted.decision_function(X[:1])[0], rel=1e-5)


@pytest.mark.parametrize("encoder", [OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=5, sparse_output=False), TargetEncoder()])
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_mixed_columns_are_a_sum_too(encoder: Any, task: str) -> None:
    """Huecos, fechas, categorías conocidas, raras y nuevas: la suma de la ficha da lo que da el estimador."""
    rows = simulate_voyages()
    last, y, target = (LogisticRegression(max_iter=500), rows["survived"], WORDS) if task == "classification" else (Ridge(), rows["fare"] * 2, Column(name="c", meaning="Coste"))
    model = open_voyages(make_pipeline(prepare(encoder), last), rows, y, target)
    assert model.info["linear"]
    records = as_records(simulate_voyages(30, seed=9), PLAIN)
    records[0] = tuple("Nantucket" if column.name == "port" else value for column, value in zip(PLAIN, records[0], strict=True))
    found = check_sums(model, records)
    assert {each.method for each in found} == {"linear"}
    if task == "regression":
        assert [each.prediction for each in found] == pytest.approx(model.predict(records).tolist(), rel=1e-4)


def test_free_text_takes_the_other_road(voyages: Path) -> None:
    model = load_model(voyages)
    assert "linear" not in model.info
    found = check_sums(model, as_records(simulate_voyages(8, seed=3), COLUMNS))
    assert {each.quantity for each in found} == {"probability"} and {each.method for each in found} <= {"shapley", "shapley_sampled"}


def test_an_old_card_is_explained_too() -> None:
    """La ficha que no lleva los sumandos se explica por mezclas; en una regresión, con las mismas partes."""
    model, _, X = open_numbers(make_pipeline(StandardScaler(), Ridge()), 5, lambda X: X @ np.arange(5), Column(name="y", meaning="y"))
    old = replace(model, info={key: value for key, value in model.info.items() if key != "linear"})
    rows = [tuple(map(float, row)) for row in X[:5]]
    new, before = Explainer(model).explain(rows, [0] * 5), Explainer(old).explain(rows, [0] * 5)
    assert {each.method for each in before} == {"shapley"}
    for one, other in zip(new, before, strict=True):
        assert {p.field: p.contribution for p in one.contributions} == pytest.approx({p.field: p.contribution for p in other.contributions}, rel=1e-3, abs=1e-4)


def test_many_columns_are_asked_once_and_always_the_same() -> None:
    """Cien filas de cuarenta columnas: una sola llamada al modelo, acotada, y el mismo reparto cada vez, solas o juntas."""
    model, _, X = open_numbers(RandomForestClassifier(10, random_state=0), 40, CLASSES["dos"], WORDS)
    calls: list[int] = []
    counted = replace(model, run=lambda methods, rows: (calls.append(len(rows)), model.run(methods, rows))[1])
    rows = [tuple(map(float, row)) for row in X[:MOST_EXPLAINED]]
    scores = model.predict(rows).tolist()
    found = Explainer(counted).explain(rows, scores)
    assert len(calls) == 1 and calls[0] <= MOST_EXPLAINED * 600 and len(rows[0]) > EXACT_COLUMNS
    assert Explainer(model).explain(rows[7:8], scores[7:8]) == found[7:8]


@pytest.fixture(scope="module")
def server(tierra: Callable, voyages: Path) -> Iterator[Server]:
    """Un servidor con columnas de todas las clases."""
    with serving(tierra, voyages.parent, "--model", voyages) as server:
        yield server


def test_it_is_given_to_whom_asks(server: Server) -> None:
    """Sin pedirla no va; pedida, va con cada fila; y de demasiadas, no."""
    assert "explanation" not in server.ask(VOYAGE).json()
    one = server.ask(VOYAGE, "/predict_score?explain=true").json()
    assert one["explanation"]["contributions"][0].keys() == {"field", "value", "baseline", "contribution", "detail"}
    several = server.ask([VOYAGE, VOYAGE | {"age": None, "port": "Nantucket"}], "/predict_score?explain=true&probabilities=true").json()
    assert several[0]["explanation"] == one["explanation"] and several[1]["unseen"] == ["port"]
    assert sum(several[0]["probabilities"].values()) == pytest.approx(1, abs=2e-4)
    details = {push["field"]: push["detail"] for push in several[1]["explanation"]["contributions"]}
    assert details["age"].startswith("Edad: sin dato, y lo corriente es") and details["port"].startswith("Puerto: «Nantucket»")
    refused = server.ask([VOYAGE] * (MOST_EXPLAINED + 1), "/predict_score?explain=true")
    assert refused.status_code in (413, 422) and "Se explican hasta 100 filas por petición" in refused.json()["detail"]


def test_words_for_a_model_with_named_classes() -> None:
    model, _, X = open_numbers(make_pipeline(StandardScaler(), LogisticRegression()), 3, CLASSES["dos"], WORDS)
    service = ModelService(model, "v1")
    row = tuple(map(float, X[0]))
    explanation = service.explainer.explain([row], model.predict([row]).tolist())[0]
    assert "las posibilidades de «" in explanation.detail and "es una suma" in explanation.method_detail
    assert any("multiplica por" in push.detail or "divide entre" in push.detail for push in explanation.contributions)
