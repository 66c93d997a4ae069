"""El modelo guardado, de punta a punta: congelar, abrir y predecir; y todo lo que puede estropearse por el camino."""
import errno
import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from de_jupyter_a_la_tierra.catfood.cleaning import clean_foods
from de_jupyter_a_la_tierra.catfood.columns import CATFOOD, FIGURES
from de_jupyter_a_la_tierra.catfood.model import train_model
from de_jupyter_a_la_tierra.catfood.simulate import simulate_foods
from de_jupyter_a_la_tierra.errors import TierraError, UsageError, WorkError
from de_jupyter_a_la_tierra.models.artifact import (
    Model,
    as_matrix,
    dump_info,
    hash_content,
    load_model,
    load_train_hashes,
    open_model,
    parse_info,
)
from de_jupyter_a_la_tierra.models.evaluation import hash_rows
from de_jupyter_a_la_tierra.models.freezing import build_artifact, compare_predictions, freeze_model, write_artifact

MODELS = {
    "logistic": ({"type": "logistic"}, "onnx"),
    "random_forest": ({"type": "random_forest", "n_estimators": 50}, "onnx"),
    "hist_gradient_boosting": ({"type": "hist_gradient_boosting", "max_iter": 5}, "onnx"),
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Un hilo basta: con todos, en una máquina ocupada, HistGradientBoosting se eterniza."""
    import_module("sklearn.ensemble")  # hasta que no se importa, no hay hilos que limitar
    with threadpool_limits(limits=1):
        yield


@pytest.fixture(scope="module")
def foods() -> pd.DataFrame:
    """Comidas simuladas con las que se entrena."""
    return clean_foods(simulate_foods(1500, seed=1))[0]


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    """Otras, que ningún modelo ha visto."""
    return clean_foods(simulate_foods(3000, seed=2))[0][list(FIGURES)].to_numpy(np.float32)


@pytest.fixture(scope="module")
def card(foods: pd.DataFrame) -> dict:
    """Lo que hay que decir de un modelo para congelarlo, salvo el propio modelo."""
    X = foods[list(FIGURES)]
    return {
        "X_train": X, "X_evaluation": X.tail(100), "features": CATFOOD.select(list(FIGURES)),
        "target": CATFOOD.select(["nutrition_paws"])[0], "metrics": {"accuracy": 0.8},
        "data": {"origin": "simulated"}, "name": "catfood",
    }


@pytest.fixture(scope="module")
def train(foods: pd.DataFrame) -> Callable:
    """Entrena uno de los modelos con las comidas simuladas."""
    return lambda kind: train_model(foods[list(FIGURES)], foods["nutrition_paws"], MODELS[kind][0])


@pytest.fixture(scope="module")
def frozen(train: Callable, card: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """La carpeta de una regresión logística; nadie debe tocarla."""
    folder = tmp_path_factory.mktemp("models") / "logistic"
    freeze_model(train("logistic"), folder, **card)
    return folder


@pytest.fixture(scope="module")
def files(frozen: Path) -> dict[str, bytes]:
    """Los ficheros de esa carpeta."""
    return {path.name: path.read_bytes() for path in frozen.iterdir()}


# ── Ida y vuelta ────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", MODELS)
def test_round_trip(kind: str, train: Callable, card: dict, rows: np.ndarray, tmp_path: Path) -> None:
    pipeline = train(kind)
    info = freeze_model(pipeline, tmp_path / kind, **card)
    model = load_model(tmp_path / kind)
    assert info == model.info
    assert model.info["served_by"] == MODELS[kind][1]
    assert ("onnx_error" in info) == (MODELS[kind][1] == "skops")
    assert model.info["comparison"][MODELS[kind][1]]["n_rows"] == 1600
    result = compare_predictions(model, pipeline, rows)
    assert result["n_rows"] == 3000 and result["n_different"] == 0 and result["max_probability_gap"] < 5e-6
    assert model.predict(rows).dtype.kind == "i"


@pytest.mark.parametrize("kind", MODELS)
def test_scikit_learn_copy_is_the_same_model(kind: str, train: Callable, card: dict, rows: np.ndarray) -> None:
    pipeline = train(kind)
    built = build_artifact(pipeline, **card)
    by_skops = open_model(parse_info(built["model.json"]) | {"served_by": "skops"}, built)
    np.testing.assert_array_equal(by_skops.predict(rows), pipeline.predict(rows))
    np.testing.assert_array_equal(by_skops.predict_proba(rows), pipeline.predict_proba(rows))


def test_text_classes(foods: pd.DataFrame, card: dict, rows: np.ndarray) -> None:
    words = np.where(foods["nutrition_paws"] > 3, "buena", "regular")
    pipeline = train_model(foods[list(FIGURES)], words, {"type": "logistic"})
    built = build_artifact(pipeline, **card)
    model = open_model(parse_info(built["model.json"]), built)
    assert model.predict(rows).tolist() == pipeline.predict(rows).tolist()


@pytest.mark.parametrize(
    ("regressor", "served_by"),
    [
        (make_pipeline(StandardScaler(), Ridge()), "onnx"),
        (RandomForestRegressor(30, random_state=0), "onnx"),
        (HistGradientBoostingRegressor(max_iter=5), "onnx"),
    ],
    ids=["ridge", "bosque", "gradiente"],
)
def test_a_regression_round_trip(
    regressor: Any, served_by: str, foods: pd.DataFrame, card: dict, rows: np.ndarray, tmp_path: Path
) -> None:
    X = foods[list(FIGURES)].to_numpy(np.float32)
    regressor.fit(X, foods["dma_cals"].to_numpy(np.float64) / 3 + 0.25)
    info = freeze_model(regressor, tmp_path / "v1", **card)
    model = load_model(tmp_path / "v1")
    assert (info["task"], info["classes"], info["served_by"]) == ("regression", [], served_by)
    np.testing.assert_allclose(model.predict(rows), regressor.predict(rows), rtol=1e-4)
    assert model.predict(rows).dtype == np.float64 and model.predict_with_probability(rows)[1] is None
    assert len(info["baseline"]["predictions"]) == 11
    with pytest.raises(UsageError, match="no da probabilidades"):
        model.predict_proba(rows)


def test_a_model_remembers_which_rows_it_studied(train: Callable, card: dict, foods: pd.DataFrame, tmp_path: Path) -> None:
    hashes = hash_rows(foods[list(FIGURES)])
    freeze_model(train("logistic"), tmp_path / "v1", **card, twins=hashes)
    assert load_train_hashes(tmp_path / "v1").tolist() == sorted({*hashes.tolist()})
    freeze_model(train("logistic"), tmp_path / "v2", **card)
    assert load_train_hashes(tmp_path / "v2").size == 0
    path = tmp_path / "v1" / "train_hashes.npy"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(WorkError, match="«train_hashes.npy» no coincide con su sha256"):
        load_train_hashes(tmp_path / "v1")
    with pytest.raises(WorkError, match="«train_hashes.npy» no coincide con su sha256"):
        load_model(tmp_path / "v1")


def test_one_by_one_is_the_same_as_all_at_once(train: Callable, card: dict, rows: np.ndarray) -> None:
    built = build_artifact(train("random_forest"), **card)
    model = open_model(parse_info(built["model.json"]), built)
    together = model.predict_proba(rows[:200])
    np.testing.assert_array_equal(np.vstack([model.predict_proba(row[None]) for row in rows[:200]]), together)


def test_a_frame_is_read_by_name(frozen: Path, rows: np.ndarray) -> None:
    model = load_model(frozen)
    shuffled = pd.DataFrame(rows, columns=list(FIGURES))[list(reversed(FIGURES))].astype("float64")
    np.testing.assert_array_equal(model.predict(shuffled), model.predict(rows))
    with pytest.raises(UsageError, match="Falta la columna «dma_ash»"):
        model.predict(shuffled.drop(columns="dma_ash"))


def test_one_model_many_threads(frozen: Path, rows: np.ndarray) -> None:
    model, answers = load_model(frozen), []
    threads = [threading.Thread(target=lambda: answers.append(model.predict(rows))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 8 and all((answer == model.predict(rows)).all() for answer in answers)


@settings(deadline=None)
@given(npst.arrays(np.float64, st.tuples(st.integers(0, 4), st.integers(0, 4)), elements=st.floats()))
def test_only_finite_rows_of_the_right_width(X: np.ndarray) -> None:
    try:
        matrix = as_matrix(X, ("a", "b"))
    except UsageError:
        with np.errstate(over="ignore"):
            assert X.shape[1] != 2 or not np.isfinite(X.astype(np.float32)).all()
    else:
        assert matrix.dtype == np.float32 and np.isfinite(matrix).all() and matrix.shape == X.shape


# ── Sin pandas ni scikit-learn ──────────────────────────────────────────────

PREDICT = """
import sys
for name in ("pandas", "sklearn", "scipy", "skops"):
    sys.modules[name] = None  # importarlo sería un error
import numpy as np
from de_jupyter_a_la_tierra.models.artifact import load_model
np.save(sys.argv[3], load_model(sys.argv[1]).predict(np.load(sys.argv[2])))
"""


def test_serving_needs_neither_pandas_nor_scikit_learn(frozen: Path, rows: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", rows)
    command = [sys.executable, "-c", PREDICT, frozen, tmp_path / "rows.npy", tmp_path / "answers.npy"]
    subprocess.run(command, check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "answers.npy"), load_model(frozen).predict(rows))


# ── Daños ───────────────────────────────────────────────────────────────────


def open_files(files: dict[str, bytes]) -> Model:
    return open_model(parse_info(files["model.json"]), files)


@settings(deadline=None)
@given(st.data())
def test_any_changed_byte_is_noticed(files: dict[str, bytes], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(files)))
    content = bytearray(files[name])
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        model = open_files(files | {name: bytes(content)})
    except WorkError as error:
        assert f"«{name}»" in str(error) or "formato" in str(error)
    else:  # en un JSON, un espacio por un tabulador no cambia nada
        assert name == "model.json" and model.info == parse_info(files["model.json"])


@settings(deadline=None)
@given(st.data())
def test_any_cut_is_noticed(files: dict[str, bytes], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(files)))
    with pytest.raises(WorkError, match=f"«{name}»"):
        open_files(files | {name: files[name][: data.draw(st.integers(0, len(files[name]) - 1))]})


@settings(deadline=None)
@given(st.binary(max_size=200) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps).map(str.encode))
def test_junk_is_not_a_card(junk: bytes) -> None:
    with pytest.raises(WorkError, match="no es una ficha de modelo"):
        parse_info(junk)


@pytest.mark.parametrize("name", ["model.json", "model.onnx", "model.skops"])
def test_missing_file(name: str, files: dict[str, bytes], tmp_path: Path) -> None:
    write_artifact(files, tmp_path / "model")
    (tmp_path / "model" / name).unlink()
    with pytest.raises(WorkError, match=f"«{name}» no está. Cópialo otra vez"):
        load_model(tmp_path / "model")


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(WorkError, match="No hay ningún modelo en"):
        load_model(tmp_path / "nada")
    (tmp_path / "fichero").write_text("hola")
    with pytest.raises(WorkError, match="No hay ningún modelo en"):
        load_model(tmp_path / "fichero")


@pytest.mark.parametrize("kind", ["onnx", "skops"])
def test_a_well_sealed_file_that_is_not_a_model(kind: str, files: dict[str, bytes]) -> None:
    info = parse_info(files["model.json"])
    name, junk = f"model.{kind}", b"esto no es un modelo"
    info |= {"served_by": kind, "files": {name: hash_content(junk)}}
    with pytest.raises(WorkError, match=rf"«{name}» no se puede interpretar .*scikit-learn \d"):
        open_files({"model.json": dump_info(info), name: junk})


class Bomb:
    """Un objeto que, al abrirlo con pickle, deja huella."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.canary),)


@pytest.mark.parametrize("kind", ["onnx", "skops"])
def test_nothing_is_unpickled(kind: str, files: dict[str, bytes], tmp_path: Path) -> None:
    bomb, canary = pickle.dumps(Bomb(tmp_path / "canary")), tmp_path / "canary"
    info = parse_info(files["model.json"]) | {"served_by": kind, "files": {f"model.{kind}": hash_content(bomb)}}
    with pytest.raises(WorkError, match="no se puede interpretar"):
        open_files({"model.json": dump_info(info), f"model.{kind}": bomb})
    assert not canary.exists()
    pickle.loads(bomb)
    assert canary.exists()  # la bomba era de verdad


def test_nobody_is_told(files: dict[str, bytes], tmp_path: Path) -> None:
    """onnxruntime, en un hogar vacío y sin que nadie más se lo prohíba, no deja ni identificador ni nada por mandar."""
    write_artifact(files, tmp_path / "v1")
    silent = ("CI", "GITHUB_ACTIONS", "TF_BUILD", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")  # lo que ya lo callaría
    env = {key: value for key, value in os.environ.items() if key not in silent} | {"HOME": str(tmp_path / "home")}
    (tmp_path / "home").mkdir()
    code = f"from de_jupyter_a_la_tierra.models.artifact import load_model; load_model({str(tmp_path / 'v1')!r})"
    subprocess.run([sys.executable, "-c", code], env=env, check=True)
    assert names(tmp_path / "home") == []


# ── Discos que fallan ───────────────────────────────────────────────────────


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_full_disk(files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_artifact(files, tmp_path / "v1")
    real, calls = os.fsync, []

    def fail_at_the_second(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fail_at_the_second)
    with pytest.raises(WorkError, match="v2»: no queda espacio en el disco; libera sitio"):
        write_artifact(files, tmp_path / "v2")
    assert names(tmp_path) == ["v1"]
    load_model(tmp_path / "v1")


def limit_file_size() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))


WRITE = """
import json, sys
from de_jupyter_a_la_tierra.errors import WorkError
from de_jupyter_a_la_tierra.models.freezing import write_artifact
try:
    write_artifact({"model.json": b"x" * 500, "model.onnx": b"x" * 5000}, sys.argv[1])
except WorkError as error:
    sys.exit(str(error))
"""


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    command = [sys.executable, "-B", "-c", WRITE, tmp_path / "v1"]
    done = subprocess.run(command, preexec_fn=limit_file_size, capture_output=True, text=True)
    assert done.returncode == 1 and "no deja escribir un fichero tan grande" in done.stderr
    assert names(tmp_path) == []


def test_interrupted(files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "rename", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_artifact(files, tmp_path / "v1")
    assert names(tmp_path) == []


KILL = """
import os, signal, sys
from de_jupyter_a_la_tierra.models.freezing import write_artifact
os.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
write_artifact({"model.json": b"a medias"}, sys.argv[1])
"""


def test_killed(files: dict[str, bytes], tmp_path: Path) -> None:
    write_artifact(files, tmp_path / "v1")
    done = subprocess.run([sys.executable, "-c", KILL, tmp_path / "v2"])
    assert done.returncode == -signal.SIGKILL
    assert [name for name in names(tmp_path) if not name.startswith(".")] == ["v1"]
    write_artifact(files, tmp_path / "v2")  # el rastro oculto no estorba
    load_model(tmp_path / "v2")


def test_only_one_writer_wins(files: dict[str, bytes], tmp_path: Path) -> None:
    barrier, outcomes = threading.Barrier(6), []

    def write() -> None:
        barrier.wait()
        try:
            write_artifact(files, tmp_path / "v1")
            outcomes.append("escrito")
        except TierraError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=write) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("escrito") == 1
    assert sum("ya hay un modelo" in outcome for outcome in outcomes) == 5
    assert names(tmp_path) == ["v1"]
    load_model(tmp_path / "v1")
