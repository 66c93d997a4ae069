"""Los pipelines enteros: sobre un catálogo en memoria, y en paralelo con el de verdad."""
import json

import pandas as pd
import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.runner import SequentialRunner, ThreadRunner
from omegaconf import OmegaConf

from de_jupyter_a_la_tierra.catfood.model import fit_candidate
from de_jupyter_a_la_tierra.catfood.pipeline_registry import (
    create_data_processing,
    create_data_science,
    create_prediction,
)
from de_jupyter_a_la_tierra.catfood.simulate import simulate_foods
from de_jupyter_a_la_tierra.errors import WorkError
from de_jupyter_a_la_tierra.projects.datasets import ModelDataset
from de_jupyter_a_la_tierra.projects.project import find_project


def load_params() -> dict:
    """Los parámetros de conf/base, leídos sin Kedro."""
    path = find_project(__file__.rpartition("/")[0]).conf / "base/parameters_2_kedro.yml"
    params = OmegaConf.load(path)
    params.origin = "simulated"
    return OmegaConf.to_container(params)


def make_catalog(raw: pd.DataFrame, model_folder, **changes) -> DataCatalog:
    """Un catálogo en memoria con la hoja cruda y los parámetros; el modelo, en su carpeta."""
    catalog = DataCatalog({f"params:{key}": MemoryDataset(value) for key, value in (load_params() | changes).items()})
    catalog["raw_foods"] = MemoryDataset(raw)
    catalog["foods_to_score"] = MemoryDataset(raw)
    catalog["model"] = ModelDataset(filepath=str(model_folder))
    return catalog


@pytest.fixture(scope="module")
def raw() -> pd.DataFrame:
    """Seiscientas comidas simuladas, con su procedencia."""
    foods = simulate_foods(600, seed=11)
    foods.index = pd.RangeIndex(2, 602, name="line")
    foods.attrs = {"path": "data/01_raw/catfood_simulated.csv", "sha256": "0" * 64}
    return foods


@pytest.mark.parametrize("runner", [SequentialRunner(), ThreadRunner()], ids=lambda runner: type(runner).__name__)
def test_from_sheet_to_model_and_back(raw, tmp_path, runner):
    """Procesar, entrenar y predecir: cada pipeline deja lo que el siguiente necesita."""
    catalog = make_catalog(raw, tmp_path / "model")
    training = create_data_processing() + create_data_science()
    outputs = runner.run(training, catalog)
    assert "Datos simulados: 600 comidas, 0 en cuarentena." in outputs["summary"].load()

    model = catalog["model"].load()
    by_rows, together = model.info["metrics"]["by_rows"], model.info["metrics"]["twins_together"]
    assert by_rows["n_rows"] == 198 and together["accuracy"] > together["baseline_accuracy"]
    assert model.info["data"] == {
        "origin": "simulated", "file": "catfood_simulated.csv", "sha256": "0" * 64, "n_rows": 600,
    }
    scored = runner.run(create_prediction(), catalog)["scored_foods"].load()
    assert list(scored.index) == list(raw.index) and scored["score"].between(1, 5).all()


def test_a_slice_runs_alone(raw, tmp_path):
    """Un trozo de pipeline se ejecuta con lo que necesita y nada más."""
    piece = create_data_processing().to_nodes("accept_foods")
    outputs = SequentialRunner().run(piece, make_catalog(raw, tmp_path / "model"))
    assert {"foods", "counts"} <= set(outputs)
    assert outputs["counts"].load() == {"n_rows": 600, "n_bad_rows": 0}


def test_no_evaluation_row_is_trained_on(raw, tmp_path):
    """Ninguna fila de evaluación, ni una gemela suya, entra en el entrenamiento."""
    catalog = make_catalog(raw, tmp_path / "model")
    table = SequentialRunner().run(create_data_processing(), catalog)["model_input"].load()
    key = load_params()["twin_key"]
    train, held_out = table[~table["evaluation"]], table[table["evaluation"]]
    assert len(train) and len(held_out)
    assert not set(map(tuple, train[key].to_numpy())) & set(map(tuple, held_out[key].to_numpy()))


def test_the_candidate_never_sees_the_evaluation_rows(raw, tmp_path):
    """Falsear las notas de las filas de evaluación no cambia el modelo entrenado."""
    catalog, params = make_catalog(raw, tmp_path / "model"), load_params()
    table = SequentialRunner().run(create_data_processing(), catalog)["model_input"].load()
    false = table.assign(nutrition_paws=table["nutrition_paws"].where(~table["evaluation"], 1))
    honest, fooled = (fit_candidate(t, params["features"], params["target"], params["model"]) for t in (table, false))
    assert (honest[-1].coef_ == fooled[-1].coef_).all()


def test_too_many_bad_rows_stop_the_run_with_the_quarantine_written(raw, tmp_path):
    """Si lo ilegible pasa del límite se para, y la cuarentena ya está guardada para leerla."""
    bad = raw.copy()
    bad.loc[bad.index[:60], "dma_prot"] = "12,5%"
    bad.loc[bad.index[60], "dma_prot"] = "41.2%"  # con las dos marcas en la columna, manda la de la hoja
    catalog = make_catalog(bad, tmp_path / "model")
    catalog["quarantine"] = MemoryDataset()
    with pytest.raises(WorkError, match=r"60 de 600 \(10,0 %\).*--decimal"):
        SequentialRunner().run(create_data_processing(), catalog)
    assert len(catalog["quarantine"].load()) == 60


@pytest.mark.parametrize("kind", ["random_forest", "hist_gradient_boosting"])
def test_other_models_go_the_whole_way(raw, tmp_path, kind):
    """Cambiar de modelo es cambiar un parámetro: también se guarda y también predice."""
    catalog = make_catalog(raw, tmp_path / "model", model={"type": kind})
    SequentialRunner().run(create_data_processing() + create_data_science(), catalog)
    assert catalog["model"].load().info["served_by"] == "onnx"
    scored = SequentialRunner().run(create_prediction(), catalog)["scored_foods"].load()
    assert scored["score"].notna().all()


def test_parallel_runs_give_the_same(tierra, tmp_path):
    """En paralelo, entrenar y predecir dan lo mismo que en serie."""
    assert tierra("data", "--rows", "600", cwd=tmp_path).returncode == 0
    results = {}
    for runner in ("SequentialRunner", "ParallelRunner"):
        for pipeline in ("__default__", "prediction"):
            done = tierra("run", "--pipeline", pipeline, "--runner", runner, cwd=tmp_path)
            assert done.returncode == 0, done.stderr
        metrics = json.loads((tmp_path / "data/08_reporting/metrics.json").read_text())
        results[runner] = metrics, (tmp_path / "data/07_model_output/scored_foods.csv").read_text()
    assert results["SequentialRunner"] == results["ParallelRunner"]


def test_the_target_is_a_parameter(raw, tmp_path):
    """La otra nota también se puede aprender, sin tocar código."""
    catalog = make_catalog(raw, tmp_path / "model", target="ingredients_paws")
    SequentialRunner().run(create_data_processing() + create_data_science(), catalog)
    assert catalog["model"].load().info["target"]["name"] == "ingredients_paws"
