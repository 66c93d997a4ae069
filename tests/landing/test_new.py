"""`tierra new` con tres hojas que nadie preparó para él: las que trae scikit-learn, escritas en tres dialectos."""
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from de_jupyter_a_la_tierra.models.artifact import load_model
from de_jupyter_a_la_tierra.models.evaluation import evaluation_mask

Tierra = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


def load_frame(name: str) -> tuple[pd.DataFrame, str]:
    """La tabla de scikit-learn y su objetivo; el de las biopsias, en palabras."""
    if name == "biopsias":
        bunch = load_breast_cancer(as_frame=True)
        return bunch.data.assign(diagnosis=[str(bunch.target_names[label]) for label in bunch.target]), "diagnosis"
    bunch = {"vinos": load_wine, "diabetes": load_diabetes}[name](as_frame=True)
    return bunch.frame, "target"


def write_sheet(name: str, path: Path) -> str:
    """Escribe la hoja como la guardaría su dueño y devuelve el objetivo: la de vinos, un Excel en español."""
    frame, target = load_frame(name)
    spanish = {"sep": ";", "decimal": ",", "encoding": "cp1252"} if name == "vinos" else {}
    frame.rename(columns={"ash": "ceniza (%)"}).to_csv(path, index=False, **spanish)
    return target


def score_plainly(name: str) -> float:
    """La nota del guion de scikit-learn que cualquiera escribiría, sobre las mismas filas de examen."""
    frame, target = load_frame(name)
    X, y = np.ascontiguousarray(frame.drop(columns=target), dtype="float32"), frame[target].to_numpy()
    held_out = evaluation_mask(X, 0.2)
    regression = name == "diabetes"
    model = make_pipeline(StandardScaler(), Ridge() if regression else LogisticRegression(solver="newton-cg"))
    predicted = model.fit(X[~held_out], y[~held_out]).predict(X[held_out])
    return r2_score(y[held_out], predicted.astype("float64")) if regression else accuracy_score(y[held_out], predicted)


@pytest.fixture(scope="module", params=["vinos", pytest.param("biopsias", marks=pytest.mark.long), "diabetes"])
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tierra: Tierra) -> Path:
    """Un proyecto recién escrito, en la etapa 4, y ejecutado."""
    folder = tmp_path_factory.mktemp("new")
    target = write_sheet(request.param, folder / "hoja.csv")
    done = tierra("new", request.param, "--data", "hoja.csv", "--target", target, "--stage", "4", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "cd " + request.param in done.stdout
    done = tierra("run", cwd=folder / request.param)
    assert done.returncode == 0, done.stderr
    return folder / request.param


def find_model(project: Path) -> Path:
    """La carpeta del último modelo de un proyecto."""
    return max(project.glob("data/06_models/*/*/*/model.json")).parent


def read_score(project: Path) -> float:
    """La nota del último modelo de un proyecto."""
    score = json.loads((project / "data/08_reporting/metrics.json").read_text(encoding="utf-8"))["twins_together"]
    return score["r2" if project.name == "diabetes" else "accuracy"]


def test_scores_as_a_plain_script(project: Path, tmp_path: Path, tierra: Tierra) -> None:
    """El modelo del guion, pedido por su nombre, saca en el proyecto lo mismo que en el guion."""
    copy = tmp_path / project.name
    shutil.copytree(project, copy, ignore=shutil.ignore_patterns("06_models"))
    done = tierra("run", "--params", f"model.type={'ridge' if project.name == 'diabetes' else 'logistic'}", cwd=copy)
    assert done.returncode == 0, done.stderr
    blur = 1e-7 if project.name == "diabetes" else 1e-9  # columna a columna, en float32 las sumas van en otro orden
    assert read_score(copy) == pytest.approx(score_plainly(project.name), abs=blur)


def test_the_chosen_model_is_no_worse_than_a_plain_script(project: Path) -> None:
    assert read_score(project) >= score_plainly(project.name) - 0.03  # se elige entre varios, y con las filas de estudio: el examen puede no estar de acuerdo


def test_every_row_is_read_and_the_card_knows_its_task(project: Path) -> None:
    counts = json.loads((project / "data/03_primary/counts.json").read_text(encoding="utf-8"))
    assert counts == {"n_rows": len(load_frame(project.name)[0]), "n_bad_rows": 0}
    card = load_model(find_model(project)).info
    classes = {"vinos": [0, 1, 2], "biopsias": ["benign", "malignant"], "diabetes": []}[project.name]
    assert (card["task"], card["classes"]) == ("classification" if classes else "regression", classes)
    assert (card["name"], card["served_by"], card["data"]["origin"]) == (project.name, "onnx", "own")


def test_predict_answers_in_the_dialect_of_the_sheet(project: Path, tierra: Tierra) -> None:
    done = tierra("predict", "../hoja.csv", "../puntuadas.csv", cwd=project)
    assert done.returncode == 0, done.stderr
    spanish = {"sep": ";", "decimal": ",", "encoding": "cp1252"} if project.name == "vinos" else {}
    before, after = (pd.read_csv(project.parent / f"{name}.csv", **spanish) for name in ("hoja", "puntuadas"))
    pd.testing.assert_frame_equal(after[before.columns], before)
    frame, target = load_frame(project.name)
    expected = load_model(find_model(project)).predict(frame.drop(columns=target).to_numpy())
    assert np.array_equal(after["score"].to_numpy(), expected)


def test_predicting_loads_no_scikit_learn(project: Path) -> None:
    """El modelo guardado se basta: abrir los pipelines de un proyecto no trae lo que solo hace falta para entrenar."""
    code = f"import sys, {project.name}.pipelines; print('sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


def test_the_package_is_what_nbdev_exports(project: Path) -> None:
    before = {path: path.read_text(encoding="utf-8") for path in project.glob(f"{project.name}/*.py")}
    done = subprocess.run([BIN / "nbdev_export"], cwd=project, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    after = {path: path.read_text(encoding="utf-8") for path in before}
    assert len(before) > 9 and after == before


def test_only_brings_its_own_data(project: Path, tierra: Tierra) -> None:
    for options in ((), ("--real",)):
        done = tierra("data", *options, cwd=project)
        assert done.returncode == 2 and "tierra data --from" in done.stderr, done.stderr
    done = tierra("data", "--from", "../hoja.csv", cwd=project)
    assert done.returncode == 2 and "--force" in done.stderr, done.stderr


def test_no_cat_travels(tmp_path: Path, tierra: Tierra) -> None:
    """Un proyecto nuevo, en la última etapa, trae los trabajos que valen para cualquiera y nada del ejemplo."""
    target = write_sheet("vinos", tmp_path / "hoja.csv")
    order = ["new", "vinos", "--data", "hoja.csv", "--target", target, "--stage", "6", "--dest", "mis vinos"]
    done = tierra(*order, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Ahora: cd 'mis vinos' && make run" in done.stdout  # se copia y se pega
    files = [path for path in (tmp_path / "mis vinos").rglob("*") if path.suffix in (".py", ".ipynb", ".yml")]
    assert {"entrenar", "predecir", "informe"} <= {path.stem for path in files if path.suffix == ".ipynb"}
    assert [path.name for path in files if "catfood" in path.read_text(encoding="utf-8")] == []


def test_shares_the_tracking_configuration_of_the_example() -> None:
    own = ROOT / "templates/new/5/conf/base/mlflow.yml"
    assert own.read_text(encoding="utf-8") == (ROOT / "conf/base/mlflow.yml").read_text(encoding="utf-8")


BAD_SHEETS = {
    "un solo valor": ("a,y\n1,x\n2,x\n", "solo tiene un valor, «x»"),
    "sin el objetivo": ("a,z\n1,x\n2,w\n", "No existe la columna «y»"),
    "sin nada con que predecir": ("a,y\nq,1\nw,2\n", "ninguna otra columna de la hoja sirve. No se usan: «a» (parece un identificador)"),
    "vacía": ("", "está vacío"),
    "solo cabecera": ("a,y\n", "solo tiene la cabecera"),
    "decimal dudoso": ("a;y\n1,313;x\n1,200;w\n", "--decimal"),
}


@pytest.mark.parametrize("sheet", BAD_SHEETS)
def test_a_bad_sheet_is_explained_and_nothing_is_written(sheet: str, tmp_path: Path, tierra: Tierra) -> None:
    text, reason = BAD_SHEETS[sheet]
    (tmp_path / "hoja.csv").write_text(text, encoding="utf-8")
    done = tierra("new", "cosas", "--data", "hoja.csv", "--target", "y", cwd=tmp_path)
    assert done.returncode == 2 and reason in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and [path.name for path in tmp_path.iterdir()] == ["hoja.csv"]


def test_a_table_with_everything_goes_the_whole_way(tmp_path: Path, tierra: Tierra) -> None:
    rng, n = np.random.default_rng(0), 240
    town = rng.integers(0, 40, n)  # más categorías de las que caben en casillas
    rows = pd.DataFrame({
        "municipio": [f"pueblo {number}" for number in town],
        "alta": (np.datetime64("2024-01-01") + rng.integers(0, 300, n)).astype("M8[D]").astype(str),
        "renta": np.where(rng.random(n) < 0.2, np.nan, rng.normal(20, 5, n).round(2)),
        "socio": rng.choice(["sí", "no"], n),
        "vuelve": np.where(town + rng.normal(0, 5, n) > 20, "sí", "no"),
    })  # fmt: skip
    rows.to_csv(tmp_path / "hoja.csv", index=False, sep=";", decimal=",")
    done = tierra("new", "todo", "--data", "hoja.csv", "--target", "vuelve", "--stage", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = tierra("run", cwd=tmp_path / "todo")
    assert done.returncode == 0, done.stderr
    assert len(load_model(find_model(tmp_path / "todo")).info["features"]) == 4
    done = tierra("predict", str(tmp_path / "hoja.csv"), "puntuada.csv", cwd=tmp_path / "todo")
    assert done.returncode == 0, done.stderr
    assert len(pd.read_csv(tmp_path / "todo/puntuada.csv", sep=";")) == n
