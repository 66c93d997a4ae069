"""Empezar por la mitad, y lo que Kedro no entiende: siempre una frase, nunca un traceback."""
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline, node, pipeline
from kedro.runner import SequentialRunner

from de_jupyter_a_la_tierra.diagnosis import explain

SAYINGS = {
    "evaluate_candidate": (["--from-nodes", "evaluate_candidate"], 2, "Empieza por donde se hace: --from-nodes fit_candidate"),
    "errata": (["--from-nodes", "fit_candidat"], 2, "No existe el nodo «fit_candidat». ¿Querías decir «fit_candidate»?"),
    "del revés": (["--from-nodes", "write_report", "--to-nodes", "clean_source"], 2, "no queda ningún nodo"),
    "sin igual": (["--params", "mal"], 2, "«mal» no es un parámetro: se escribe clave=valor."),
}

def check_said(done, code: int, sentence: str) -> None:
    """Comprueba que una orden acabó con ese código y esa frase, y sin traceback."""
    assert done.returncode == code, done.stderr
    assert sentence in done.stderr and "Traceback" not in done.stderr and "Error: " in done.stderr


@pytest.fixture(scope="module")
def trained(tierra: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Un proyecto que ya se ha ejecutado una vez."""
    folder = tmp_path_factory.mktemp("parcial")
    assert tierra("data", "--rows", "600", cwd=folder).returncode == 0
    done = tierra("run", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_a_run_can_start_in_the_middle(tierra: Callable, trained: Path) -> None:
    """Desde `fit_candidate`, lo anterior es de la última vez y lo demás se rehace."""
    metrics = trained / "data/08_reporting/metrics.json"
    before, models = json.loads(metrics.read_text()), len(list((trained / "data/06_models").rglob("model.json")))
    done = tierra("run", "--from-nodes", "fit_candidate", cwd=trained)
    assert done.returncode == 0, done.stderr
    assert "clean_source" not in done.stderr and json.loads(metrics.read_text()) == before
    assert len(list((trained / "data/06_models").rglob("model.json"))) == models + 1


@pytest.mark.parametrize("case", SAYINGS)
def test_what_cannot_be_is_said(tierra: Callable, trained: Path, case: str) -> None:
    args, code, sentence = SAYINGS[case]
    check_said(tierra("run", *args, cwd=trained), code, sentence)


def test_a_part_without_its_data_says_where_to_start(tierra: Callable, tmp_path: Path) -> None:
    """En una carpeta vacía no hay nada guardado: se empieza por el principio."""
    check_said(tierra("run", "--from-nodes", "fit_candidate", cwd=tmp_path), 2, "Empieza por donde se hace: --from-nodes clean_source")


def make_pipeline() -> Pipeline:
    """Un pipeline de dos nodos."""
    bake = [node(lambda flour: flour, "flour", "dough", name="amasar"), node(lambda dough: dough, ["dough"], "bread", name="hornear")]
    return pipeline(bake)


def run_with(catalog: str) -> None:
    """Ejecuta ese pipeline con ese catálogo."""
    SequentialRunner().run(make_pipeline(), DataCatalog.from_config(yaml.safe_load(catalog)))


def test_a_spoiled_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "flour.parquet"
    path.write_bytes(b"esto no es un Parquet")
    with pytest.raises(Exception) as caught:
        run_with(f"flour:\n  type: pandas.ParquetDataset\n  filepath: {path}\n")
    said = explain(caught.value)
    assert said.exit_code == 1 and str(said).startswith(f"No se pudo leer «{path}»: ")


@pytest.mark.parametrize(
    ("fail", "sentence"),
    [
        (lambda: make_pipeline().filter(node_names=["tostar"]), "No existe el nodo «tostar»"),
        (lambda: make_pipeline().filter(from_nodes=["tostar"]), "No existe el nodo «tostar»"),
        (lambda: make_pipeline().filter(from_inputs=["miel"]), "Ningún nodo usa el dato «miel»"),
        (lambda: make_pipeline().filter(from_nodes=["hornear"], to_nodes=["amasar"]), "no queda ningún nodo"),
        (lambda: run_with("{}"), "Falta el dato «flour»"),
        (lambda: SequentialRunner().run(pipeline([node(print, "params:sal", None)]), DataCatalog()), "Falta el parámetro «sal»"),
        (lambda: DataCatalog()["flour"], "El dato «flour» no está en el catálogo"),
        (lambda: run_with("flour: 3"), "El dato «flour» está mal descrito"),
        (lambda: run_with("flour: {filepath: x}"), "El dato «flour» está mal descrito"),
        (lambda: run_with("flour: {type: pandas.NadaDataset, filepath: x}"), "El dato «flour» está mal descrito"),
        (lambda: run_with("flour: {type: json.JSONDataset, filepath: x, sabor: dulce}"), "«flour»"),
    ],
)
def test_what_kedro_says_is_said_in_spanish(fail: Callable, sentence: str) -> None:
    """Con errores que lanza el propio Kedro: si cambia sus palabras, esta prueba lo dirá."""
    with pytest.raises(Exception) as caught:
        fail()
    said = explain(caught.value)
    assert said is not None and said.exit_code == 2 and sentence in str(said)
