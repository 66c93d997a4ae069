"""Kedro, cuando se le pide un trozo o el proyecto está mal escrito: se empieza donde se puede, y lo demás es una frase."""
import os
import re
import shutil
import signal
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest
from fsspec.implementations.local import LocalFileOpener
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline, node

from de_jupyter_a_la_tierra.models.artifact import load_model
from de_jupyter_a_la_tierra.projects.failures import explain
from de_jupyter_a_la_tierra.projects.hooks import WholeFilesHook
from de_jupyter_a_la_tierra.projects.project import find_project
from de_jupyter_a_la_tierra.projects.session import Session, find_dataset

CATALOG, PARAMETERS = "catalog_2_kedro.yml", "parameters_2_kedro.yml"


@pytest.fixture(scope="module")
def project(tierra, tmp_path_factory) -> Path:
    """Un proyecto de la etapa 2, suelto, con una ejecución completa."""
    folder = tmp_path_factory.mktemp("kedro") / "gatos"
    assert tierra("stage", "2", folder, cwd=folder.parent).returncode == 0
    assert tierra("data", "--rows", "600", cwd=folder).returncode == 0
    done = tierra("run", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_a_run_goes_on_from_any_node(tierra, project):
    """Tras una ejecución se puede empezar en cualquier nodo: lo que lee está guardado."""
    before = load_model(max(project.glob("data/06_models/catfood/*/catfood")))
    done = tierra("run", "--from-nodes", "fit_candidate", cwd=project)
    assert done.returncode == 0 and "[1/6] fit_candidate" in done.stderr, done.stderr
    after = load_model(max(project.glob("data/06_models/catfood/*/catfood")))
    assert after.info["metrics"] == before.info["metrics"]
    done = tierra("run", "--nodes", "plot_confusion_matrix,write_report,write_summary", cwd=project)
    assert done.returncode == 0 and "[3/3]" in done.stderr, done.stderr


def test_what_is_not_stored_names_where_to_start(tierra, project, tmp_path):
    """Si lo que un nodo lee no quedó guardado, se dice por qué nodo hay que empezar; y esa orden funciona."""
    copy = shutil.copytree(project, tmp_path / "copia")
    for lost in ("06_models/candidate.skops", "07_model_output/by_rows.json"):
        (copy / "data" / lost).unlink()
    done = tierra("run", "--from-nodes", "join_metrics", cwd=copy)
    assert done.returncode == 2 and "no quedó «by_rows», «candidate»" in done.stderr
    advice = re.search(r"--from-nodes (\S+)", done.stderr)[1]
    assert advice == "evaluate_published,fit_candidate"
    assert tierra("run", "--from-nodes", advice, cwd=copy).returncode == 0


BROKEN = {
    "YAML": (CATALOG, lambda text: text + "\nx: [1\n", "no está bien escrito: mira la línea"),
    "clase": (CATALOG, lambda text: text.replace("pandas.ParquetDataset", "pandas.Nada"), "» no se entiende: "),
    "opción": (CATALOG, lambda text: text.replace("save_args: {indent: 2}", "sav_args: {}"), "opción que no existe: "),
    "interpolación": (PARAMETERS, lambda text: text + "\ny: ${nada}\n", "«y» se refiere a «nada», que no existe"),
    "global": (CATALOG, lambda text: text.replace("globals:sep", "globals:sap"), "se refiere a «sap»"),
    "falta": (PARAMETERS, lambda text: re.sub("^max_bad_share.*", "", text, flags=re.M), "falta 'params:max_bad_share'"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_project_is_a_sentence(project, case):
    """Un descuido en la configuración tiene su frase, que dice el sitio."""
    name, spoil, sentence = BROKEN[case]
    path = project / "conf/base" / name
    right = path.read_text(encoding="utf-8")
    path.write_text(spoil(right), encoding="utf-8")
    try:
        with pytest.raises(Exception) as failed:
            Session(find_project(project)).run()
    finally:
        path.write_text(right, encoding="utf-8")
    explained = explain(failed.value)
    assert explained and explained.exit_code == 2 and sentence in str(explained), failed.value


def test_the_same_key_in_two_files(project):
    """Dos ficheros con la misma clave: se nombran los dos, y la clave."""
    twin = project / "conf/base/parameters_otra.yml"
    twin.write_text("target: otra\n", encoding="utf-8")
    with pytest.raises(ValueError) as failed:
        Session(find_project(project)).run()
    twin.unlink()
    assert "parameters_otra.yml" in str(explain(failed.value)) and "(target)" in str(explain(failed.value))


def test_nodes_that_wait_for_each_other(tierra, project):
    """Un círculo entre nodos, o una salida que no se puede guardar, también se dicen."""
    pipelines, model = project / "catfood/pipeline_registry.py", project / "catfood/model.py"
    right = pipelines.read_text(encoding="utf-8"), model.read_text(encoding="utf-8")
    pipelines.write_text(right[0].replace('["raw_foods", "params:origin"]', '["raw_foods", "metrics"]'), encoding="utf-8")
    done = tierra("run", cwd=project)
    pipelines.write_text(right[0], encoding="utf-8")
    assert done.returncode == 2 and "en círculo" in done.stderr and "Traceback" not in done.stderr

    model.write_text(right[1].replace('return {"by_rows": by_rows, ', 'return {"by_rows": {1, 2}, '), encoding="utf-8")
    done = tierra("run", "--from-nodes", "join_metrics", cwd=project)
    model.write_text(right[1], encoding="utf-8")
    assert done.returncode == 2 and "«metrics» no se pudo" in done.stderr and "Traceback" not in done.stderr


ENDS = {  # lo que dice cada catálogo de por dónde se entra y por dónde se sale
    "de ahora": lambda text: text,
    "de la 0.2": lambda text: text.replace("tierra: {role: input}, ", "").replace("{role: output, label: Comidas puntuadas}", "Comidas puntuadas"),
    "con rutas fijas": lambda text: text.replace("${runtime_params:input,${globals:input}}", "data/01_raw/x.csv"),
}


@pytest.mark.parametrize("case", ENDS)
def test_the_catalog_says_where_a_sheet_comes_in(project, tmp_path, case):
    """La entrada y la salida de la predicción las dice el catálogo; uno de la 0.2, que no lo decía, sigue sirviendo."""
    copy = shutil.copytree(project, tmp_path / "copia", ignore=shutil.ignore_patterns("data"))
    catalog = copy / "conf/base" / CATALOG
    before = catalog.read_text(encoding="utf-8")
    catalog.write_text(ENDS[case](before), encoding="utf-8")
    assert (catalog.read_text(encoding="utf-8") == before) == (case == "de ahora")
    session = Session(find_project(copy))
    assert [find_dataset(session, role) for role in ("input", "output")] == ["foods_to_score", "scored_foods"]


# --- Nada a medias ---------------------------------------------------------------------------------------------------

WRITTEN = {  # de cada clase de dato del catálogo: lo que había y lo que se estaba escribiendo
    "pandas.CSVDataset": (pd.DataFrame({"a": [1]}), pd.DataFrame({"a": [2, 3]})),
    "pandas.ParquetDataset": (pd.DataFrame({"a": [1]}), pd.DataFrame({"a": [2, 3]})),
    "json.JSONDataset": ({"a": 1}, {"a": 2}),
    "text.TextDataset": ("hola", "adiós"),
}


@pytest.mark.parametrize("kind", WRITTEN)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_file_is_whole_or_it_is_as_it_was(tmp_path, kind, number):
    """Muera como muera quien lo escribe, en el instante de escribirlo, lo de antes sigue entero y se lee."""
    before, after = WRITTEN[kind]
    catalog = DataCatalog.from_config({"it": {"type": kind, "filepath": str(tmp_path / "02_intermediate/it")}})
    pipeline = Pipeline([node(lambda: after, None, "it")])
    WholeFilesHook().before_pipeline_run(pipeline=pipeline, catalog=catalog)
    catalog.save("it", before)
    if (child := os.fork()) == 0:
        with suppress(KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.default_int_handler)
            LocalFileOpener.write = lambda *_: os.kill(os.getpid(), number)
            catalog.save("it", after)
        os._exit(0)
    os.waitpid(child, 0)
    known = catalog.load("it")
    assert known.equals(before) if isinstance(before, pd.DataFrame) else known == before
    assert len(list((tmp_path / "02_intermediate").iterdir())) == (1 if number == signal.SIGINT else 2)  # de un SIGKILL queda el borrador
    catalog.save("it", after)
    known = catalog.load("it")
    assert known.equals(after) if isinstance(after, pd.DataFrame) else known == after
