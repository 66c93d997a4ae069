"""Un proyecto se copia, se muda o se llama de cualquier manera: sigue andando, y la copia no toca el original."""
import hashlib
import json
import shutil
from pathlib import Path

import pytest

pytestmark = pytest.mark.long
ODD = ["¿qué tal?", "100% #1", "{x}", "año 1", "50%25 'b' $HOME"]


def seal(folder: Path) -> dict[str, str]:
    """Cada fichero y su huella."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@pytest.fixture(scope="module")
def original(tierra, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Un proyecto que ya ha entrenado y ha hecho un trabajo, en una carpeta de nombre difícil."""
    folder = tmp_path_factory.mktemp("mudanza") / ODD[0]
    folder.mkdir()
    orders = (("data", "--rows", "300"), ("run",), ("models", "promote", "1"), ("jobs", "run", "informe"))
    for order in orders:
        done = tierra(*order, cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder


def test_nothing_lands_beside_the_project(original):
    """La base y los ficheros de MLflow están dentro, aunque el nombre lleve lo que una dirección entiende a su modo."""
    assert [path.name for path in original.parent.iterdir()] == [original.name]
    assert (original / "mlflow.db").stat().st_size and list((original / "mlruns").rglob("MLmodel"))


def test_a_copy_never_touches_the_original(tierra, original):
    """Se entrena, se asciende y se corren trabajos en la copia: el original queda igual, octeto a octeto."""
    before, copy = seal(original), original.parent / ODD[1]
    shutil.copytree(original, copy)
    orders = (("models", "list"), ("run",), ("models", "promote", "2"), ("jobs", "run", "informe"))
    for order in orders:
        done = tierra(*order, cwd=copy)
        assert done.returncode in (0, 1) if "promote" in order else done.returncode == 0, done.stderr
    assert seal(original) == before
    assert len(list((copy / "mlruns").rglob("MLmodel"))) == 2
    shutil.rmtree(copy)


def test_a_moved_project_finds_its_models(tierra, original):
    """Con el original fuera, los modelos salen del registro de la copia, aunque su carpeta de data/ ya no esté."""
    moved = original.parent / ODD[2]
    original.rename(moved)
    try:
        shutil.rmtree(moved / "data/06_models")
        order = ("predict", "data/01_raw/catfood_simulated.csv", "notas.csv", "--model", "models:/catfood@champion")
        done = tierra(*order, cwd=moved)
        assert done.returncode == 0, done.stderr
        assert len((moved / "notas.csv").read_text(encoding="utf-8").splitlines()) == 301
    finally:
        moved.rename(original)


@pytest.mark.parametrize("name", ODD[3:])
def test_any_folder_name_will_do(tierra, tmp_path, name):
    """Datos, entrenamiento y predicción, en una carpeta con espacios, acentos y signos."""
    folder = tmp_path / name
    folder.mkdir()
    orders = (("data", "--rows", "300"), ("run",), ("predict", "data/01_raw/catfood_simulated.csv", "notas.csv"))
    for order in orders:
        done = tierra(*order, cwd=folder)
        assert done.returncode == 0, done.stderr
    (card,) = folder.glob("data/06_models/catfood/*/catfood/model.json")
    assert json.loads(card.read_text(encoding="utf-8"))["classes"]
    assert [path.name for path in tmp_path.iterdir()] == [name]
