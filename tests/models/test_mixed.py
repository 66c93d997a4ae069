"""Columnas de toda clase, de punta a punta: entrenar, congelar, abrir y predecir con huecos y con lo que nadie había visto."""
import itertools
import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler, TargetEncoder
from threadpoolctl import threadpool_limits

from de_jupyter_a_la_tierra.errors import TierraError, UsageError, WorkError
from de_jupyter_a_la_tierra.models.artifact import Model, dump_info, load_model, open_model, parse_info
from de_jupyter_a_la_tierra.models.features import featurize, list_inputs
from de_jupyter_a_la_tierra.models.freezing import build_artifact, compare_predictions, freeze_model
from de_jupyter_a_la_tierra.models.selection import choose_model, compare_models, select_model
from de_jupyter_a_la_tierra.models.training import examine, fit_estimator, gather_model, hold_out, predict_rows
from de_jupyter_a_la_tierra.tables.dictionary import Column, Dictionary

COLUMNS = (
    Column(name="edad", meaning="Años", required=False),
    Column(name="saldo \u00b7 €", meaning="Lo que tiene", required=False),
    Column(name="socio", meaning="Si lo es", kind="boolean", labels=("no", "sí"), required=False),
    Column(name="ciudad", meaning="De dónde es", kind="category", labels=("León", "Ávila", "Cádiz", "Única"), required=False),
    Column(name="oficio", meaning="A qué se dedica", kind="category", required=False),
    Column(name="alta", meaning="Desde cuándo", kind="date", date_format="%d/%m/%Y %H:%M", required=False),
)
TARGETS = (Column(name="compra", meaning="Si compró", kind="category", labels=("no", "sí")), Column(name="gasto", meaning="Cuánto gastó"))
PEOPLE = Dictionary("clientes", (*COLUMNS, *TARGETS), target="compra", features=tuple(column.name for column in COLUMNS))
FEATURES, TASKS = list(PEOPLE.features), {"classification": "compra", "regression": "gasto"}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Un hilo basta."""
    with threadpool_limits(limits=1):
        yield


def make_people(n: int, seed: int) -> pd.DataFrame:
    """Clientes inventados, con huecos en todas las columnas, una ciudad rara y sesenta oficios."""
    rng = np.random.default_rng(seed)
    rows = pd.DataFrame({
        "edad": rng.integers(18, 90, n).astype(float), "saldo \u00b7 €": rng.lognormal(6, 2, n).round(2), "socio": rng.integers(0, 2, n).astype(float),
        "ciudad": rng.choice(["León", "Ávila", "Cádiz", "Única"], n, p=[0.5, 0.3, 0.197, 0.003]), "oficio": rng.choice([f"oficio {k}" for k in range(60)], n),
        "alta": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 2_000_000, n), unit="min"),
    }).astype({"alta": "datetime64[us]"})
    wish = rows["edad"] / 30 + (rows["ciudad"] == "León") + rows["socio"] + rows["alta"].dt.month / 6 + rng.normal(0, 0.5, n)
    for name, gap in {"edad": np.nan, "saldo \u00b7 €": np.nan, "socio": np.nan, "ciudad": "", "oficio": "", "alta": pd.NaT}.items():
        rows.loc[rng.random(n) < 0.1, name] = gap
    return rows.assign(compra=np.where(wish > 4, "sí", "no"), gasto=wish * 100)


def prepare(numeric: Any, task: str) -> ColumnTransformer:
    """Lo que hace un proyecto nuevo con cada clase de columna."""
    numbers = [each.name for each in list_inputs(COLUMNS) if each.kind == "number"]
    one_hot = OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=20, sparse_output=False, dtype="float32")
    encoder = TargetEncoder(cv=KFold(5, shuffle=True, random_state=42), target_type="continuous" if task == "regression" else "auto")
    return ColumnTransformer([("n", numeric, numbers), ("few", one_hot, ["ciudad"]), ("many", encoder, ["oficio"])])


def list_recipes(task: str) -> dict[str, list[Any]]:
    """Los modelos de un proyecto nuevo."""
    fill, by_class = SimpleImputer(strategy="median", keep_empty_features=True), task == "classification"
    forest = RandomForestClassifier if by_class else RandomForestRegressor
    boosting = HistGradientBoostingClassifier if by_class else HistGradientBoostingRegressor
    return {
        "baseline": [prepare("passthrough", task), (DummyClassifier if by_class else DummyRegressor)()],
        "linear": [prepare(make_pipeline(fill, StandardScaler()), task), LogisticRegression(solver="newton-cg") if by_class else Ridge()],
        "random_forest": [prepare(fill, task), forest(n_estimators=40, random_state=42)],
        "hist_gradient_boosting": [prepare("passthrough", task), boosting(max_iter=40, random_state=42)],
    }


@pytest.fixture(scope="module")
def people() -> pd.DataFrame:
    """Con las que se entrena."""
    return make_people(1200, seed=1)


@pytest.fixture(scope="module")
def strangers() -> pd.DataFrame:
    """Otras cinco mil, con alguna categoría nueva."""
    rows = make_people(5000, seed=2)
    rows.loc[rows.index % 50 == 0, "ciudad"] = "Soria"
    rows.loc[rows.index % 70 == 0, "oficio"] = "astronauta"
    return rows


def train(people: pd.DataFrame, task: str, kind: str) -> Any:
    """Entrena una receta con filas de toda clase."""
    return fit_estimator(people[FEATURES], people[TASKS[task]], {"type": kind}, list_recipes(task), COLUMNS)


def gather(pipeline: Any, people: pd.DataFrame, task: str) -> dict[str, Any]:
    """Lo que se guarda con un modelo."""
    table = hold_out(people, PEOPLE, FEATURES, TASKS[task], FEATURES, 0.2)
    return gather_model(pipeline, table, PEOPLE, FEATURES, TASKS[task], FEATURES, {}, {"origin": "own"})


def reopen(built: dict[str, bytes], **changes: Any) -> Model:
    """Abre lo que se acaba de montar, con otra ficha si se pide."""
    return open_model(parse_info(dump_info(parse_info(built["model.json"]) | changes)), built)


def as_records(rows: pd.DataFrame) -> list[tuple[Any, ...]]:
    """Las mismas filas, como las recibe la API."""
    cells = rows[FEATURES].astype(object).where(lambda table: table.notna() & (table != ""), None)
    return [tuple(cell.to_pydatetime() if isinstance(cell, pd.Timestamp) else cell for cell in row) for row in cells.itertuples(index=False)]


# ── Lo mismo que scikit-learn, en cinco mil filas ─────────────────────────────


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("kind", ["linear", "random_forest", "hist_gradient_boosting"])
def test_onnx_is_scikit_learn(kind: str, task: str, people: pd.DataFrame, strangers: pd.DataFrame) -> None:
    pipeline = train(people, task, kind)
    built = build_artifact(**gather(pipeline, people, task))
    model, seen = reopen(built), featurize(strangers, COLUMNS)
    assert (model.info["served_by"], model.info["format"], model.featurizer) == ("onnx", 2, "columns-1")
    served, expected = model.predict(strangers), pipeline.predict(seen)
    if task == "regression":
        assert np.abs(served - expected).max() <= 1e-5 * np.std(expected)
    else:
        result = compare_predictions(model, pipeline, strangers)
        assert (result["n_rows"], result["n_different"]) == (5000, 0) and result["max_probability_gap"] <= 1e-5
    answers, _ = model.predict_records(as_records(strangers.head(200)))
    assert np.array_equal(answers, served[:200])


def test_gaps_and_strange_categories_are_answered_and_told(people: pd.DataFrame) -> None:
    model = reopen(build_artifact(**gather(train(people, "classification", "linear"), people, "classification")))
    records = [(None,) * 6, (30, 10.5, True, "soria", "astronauta", datetime(2021, 5, 3, 10)), (30, 10.5, True, "LEÓN", "", None)]
    answers, probabilities = model.predict_records(records)
    assert set(answers) <= {"no", "sí"} and probabilities is not None and np.isfinite(probabilities).all()
    assert model.find_unseen(records) == [(1, "ciudad", "soria")]  # León es León; los oficios no están en el diccionario
    for bad in [(30, "mucho", True, "León", "", None), (30, 1.0, True, "León", "", "ayer"), (30, 1.0, True, 7, "", None)]:
        with pytest.raises(UsageError, match="En la fila 1, la columna"):
            model.predict_records([bad])


def test_the_card_tells_how_the_columns_were(people: pd.DataFrame) -> None:
    pipeline = train(people, "classification", "linear")
    baseline = parse_info(build_artifact(**gather(pipeline, people, "classification"))["model.json"])["baseline"]
    assert [len(baseline["features"][name]) for name in ("edad", "socio", "alta")] == [11, 11, 11]
    assert datetime.fromisoformat(baseline["features"]["alta"][5]) - datetime(2020, 1, 1) > timedelta(days=300)
    assert next(iter(baseline["features"]["ciudad"])) == "León" and len(baseline["features"]["oficio"]) == 50
    assert all(0.05 < share < 0.15 for share in baseline["gaps"].values())


# ── Nada se pierde ───────────────────────────────────────────────────────────


LOST: dict[str, Any] = {
    "un bosque con huecos": [prepare("passthrough", "classification"), RandomForestClassifier(10, random_state=0)],
    "lo que no se convierte": [
        prepare(SimpleImputer(add_indicator=True), "classification"), LogisticRegression(solver="newton-cg"),
    ],
    "la línea base": [prepare("passthrough", "classification"), DummyClassifier()],
}


@pytest.mark.parametrize("case", LOST)
def test_what_onnx_cannot_do_is_served_by_scikit_learn(case: str, people: pd.DataFrame, strangers: pd.DataFrame, tmp_path: Any) -> None:
    pipeline = fit_estimator(people[FEATURES], people["compra"], {"type": case}, {case: LOST[case]}, COLUMNS)
    info = freeze_model(folder=tmp_path / "model", **gather(pipeline, people, "classification"))
    assert info["served_by"] == "skops" and info["onnx_error"] and list(info["files"]) == ["model.skops", "train_hashes.npy"]
    model = load_model(tmp_path / "model")
    assert (model.predict(strangers) == pipeline.predict(featurize(strangers, COLUMNS))).all()
    assert len(model.predict_records(as_records(strangers.head(3)))[0]) == 3


def test_free_text() -> None:
    columns = [Column(name="mensaje", meaning="Qué dice", kind="text", required=False)]
    rows = pd.DataFrame({"mensaje": ["gana dinero ya", "nos vemos luego", "", "dinero gratis"] * 30})
    words = ColumnTransformer([("mensaje", TfidfVectorizer(lowercase=False), "mensaje")])
    pipeline = fit_estimator(rows, rows["mensaje"].str.contains("dinero"), {"type": "x"}, {"x": [words, LogisticRegression()]}, columns)
    card = {"features": columns, "target": TARGETS[0], "metrics": {}, "data": {"origin": "own"}, "name": "correos"}
    model = reopen(build_artifact(pipeline, X_train=rows, X_evaluation=rows.head(5), **card))
    answers, _ = model.predict_records([("dinero",), (None,), ("¿qué tal, señor?",)])
    assert answers.tolist() == [True, False, False]


# ── Fichas que no son de fiar ────────────────────────────────────────────────


@pytest.fixture(scope="module")
def built(people: pd.DataFrame) -> dict[str, bytes]:
    """Un modelo montado."""
    return build_artifact(**gather(train(people, "classification", "linear"), people, "classification"))


WRONG: list[Any] = [None, 3, "", "lista", ["a", 1], {}, "%H"]


@pytest.mark.parametrize("key", ["name", "kind", "labels", "date_format"])
def test_a_wrong_card_is_refused_with_a_sentence(built: dict[str, bytes], key: str) -> None:
    for position, value in itertools.product(range(len(COLUMNS)), WRONG):
        info: Any = json.loads(json.dumps(parse_info(built["model.json"])))
        info["features"][position][key] = value
        try:
            open_model(parse_info(dump_info(info)), built).predict_records([(None,) * 6])
        except TierraError as error:
            assert str(error).endswith("."), (position, value)


def test_a_card_of_another_featurizer(built: dict[str, bytes]) -> None:
    with pytest.raises(WorkError, match="prepara sus filas con «columns-2»"):
        reopen(built, featurizer="columns-2")


# ── Elegir ───────────────────────────────────────────────────────────────────


def test_auto_only_sees_training_rows_and_wins(people: pd.DataFrame) -> None:
    table = hold_out(people, PEOPLE, FEATURES, "gasto", FEATURES, 0.2)
    training = table[~table["evaluation"]]
    X = featurize(training[FEATURES], COLUMNS)
    chosen, folds = select_model(X, training["gasto"], {"type": "auto"}, list_recipes("regression"), "regression", n_splits=3)
    assert folds.attrs["n_rows"] == len(training) < len(people)
    means = folds.groupby("model")["score"].mean()
    assert chosen["type"] == means.idxmax() != "baseline" and means.max() > 0.5
    candidate = fit_estimator(training[FEATURES], training["gasto"], chosen, list_recipes("regression"), COLUMNS)
    metrics, answers = examine(candidate, table, FEATURES, "gasto", COLUMNS)
    assert metrics["r2"] == pytest.approx(means.max(), abs=0.15) and len(answers) == table["evaluation"].sum()
    assert predict_rows(candidate, table[FEATURES], COLUMNS).index.equals(table.index)


@pytest.mark.parametrize("rare", [1, 2, 4])
def test_a_class_with_few_rows_does_not_stop_the_comparison(rare: int, people: pd.DataFrame) -> None:
    few = people.head(60)
    y = np.array(["rara"] * rare + ["común"] * (60 - rare))
    folds = compare_models({"linear": lambda: make_pipeline(*list_recipes("classification")["linear"])}, featurize(few, COLUMNS), y, "classification")
    assert len(folds) >= 2 and np.isfinite(folds["score"]).all()


@pytest.mark.parametrize("n", [2, 3, 12])
def test_a_tiny_table_is_never_a_traceback(n: int, people: pd.DataFrame) -> None:
    few = people.head(n)
    for task, target in TASKS.items():
        chosen, folds = select_model(featurize(few, COLUMNS), few[target], {"type": "auto"}, list_recipes(task), task)
        assert chosen["type"] in list_recipes(task) and np.isfinite(folds["score"]).all()
    assert choose_model(folds.head(0)) == "baseline"


@pytest.mark.long
def test_a_thousand_columns() -> None:
    columns = [Column(name=f"c {k}", meaning="x", required=False) for k in range(1000)]
    rows = pd.DataFrame(np.random.default_rng(0).normal(size=(500, 1000)), columns=[column.name for column in columns])
    step = ColumnTransformer([("n", SimpleImputer(), [column.name for column in columns])])
    pipeline = fit_estimator(rows, rows["c 0"] > 0, {"type": "x"}, {"x": [step, LogisticRegression()]}, columns)
    card = {"features": columns, "target": TARGETS[0], "metrics": {}, "data": {"origin": "own"}, "name": "ancho"}
    model = reopen(build_artifact(pipeline, X_train=rows, X_evaluation=rows.head(5), **card))
    assert (model.info["served_by"], len(model.inputs)) == ("onnx", 1000)
