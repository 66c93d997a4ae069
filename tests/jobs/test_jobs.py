"""Los trabajos de verdad: con papermill a secas y con `tierra jobs`, en una carpeta que solo tiene datos."""
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner

from de_jupyter_a_la_tierra.cli.jobs import jobs
from de_jupyter_a_la_tierra.errors import UsageError
from de_jupyter_a_la_tierra.jobs.plan import find_notebook, list_jobs
from de_jupyter_a_la_tierra.parameters.cell import read_parameters
from de_jupyter_a_la_tierra.projects.project import Project, find_project

PROJECT = find_project(Path(__file__).parent)
PAPERMILL = Path(sys.executable).with_name("papermill")
JOBS = {job.name: job.path for job in list_jobs(PROJECT) if job.name != "barrido"}  # el barrido es del ejemplo
SHEET = "compañía;dma_ash;dma_cals;dma_carbs;dma_prot;ga_moist\nWhiskas;1,7;76;21;50;84\nBarf;1,7;76;21;mucha;84\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tierra) -> Path:
    """Una carpeta con datos simulados y una hoja que puntuar, y nada más."""
    folder = tmp_path_factory.mktemp("jobs")
    done = tierra("data", "--rows", "600", cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "comidas.csv").write_text(SHEET, encoding="cp1252")
    return folder


@pytest.fixture(scope="module")
def trained(folder, tierra) -> subprocess.CompletedProcess[str]:
    """El trabajo de entrenar, ya hecho con un bosque."""
    return tierra("jobs", "run", "entrenar", "-p", "model_type", "random_forest", cwd=folder)


def papermill(*args: str | Path, cwd: Path) -> None:
    """Papermill a secas, sin nada nuestro delante."""
    done = subprocess.run([PAPERMILL, "--no-progress-bar", *args], cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def find_runs(folder: Path, job: str) -> list[dict]:
    """Las ejecuciones de MLflow de un trabajo, leídas de la base: identificador, estado, parámetros y métricas."""
    with closing(sqlite3.connect(folder / "mlflow.db")) as base:
        query = "select run_uuid, status from runs join tags using (run_uuid) where tags.key = 'tierra.job' and tags.value = ?"
        return [
            {
                "id": run, "status": status,
                "params": dict(base.execute("select key, value from params where run_uuid = ?", [run])),
                "metrics": dict(base.execute("select key, value from metrics where run_uuid = ?", [run])),
            }
            for run, status in base.execute(query, [job]).fetchall()
        ]


def list_group(group: int) -> str:
    """Los procesos de un grupo que siguen vivos."""
    return subprocess.run(["pgrep", "-g", str(group)], capture_output=True, text=True).stdout


def read_text(path: Path) -> str:
    """Todo lo que un cuaderno ejecutado enseña como texto."""
    outputs = [output for cell in nbformat.read(path, as_version=4).cells for output in cell.get("outputs", [])]
    return "\n".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs)


def model_cards(folder: Path) -> list[dict]:
    """Las fichas de los modelos guardados, por orden."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("data/06_models/*/*/*/model.json"))]


# --- Los cuadernos -----------------------------------------------------------------------------------------------

CONF = {  # lo de globals.yml gana: en los parámetros es solo una referencia
    key: value
    for name in ("parameters_2_kedro", "globals")
    for key, value in yaml.safe_load((PROJECT.conf / f"base/{name}.yml").read_text(encoding="utf-8")).items()
}
OWN = {  # los que no son un parámetro del proyecto, sino del propio cuaderno
    "entrenar": {"params", "model_type"}, "predecir": {"model_version"}, "informe": {"model_version", "metric"},
}
KINDS = {"str": str, "float": float, "dict": dict, "Path": str}


@pytest.mark.parametrize("name", JOBS)
def test_defaults_agree_with_the_configuration(name):
    """Cada parámetro es de conf/base y de su tipo, y su valor no lo contradice: `None` es «lo que diga conf/base»."""
    for parameter in read_parameters(JOBS[name]):
        assert parameter.meaning and parameter.kind in KINDS
        if parameter.name not in OWN[name]:
            assert isinstance(CONF[parameter.name], KINDS[parameter.kind])
        assert parameter.default is None or parameter.default == CONF[parameter.name]


def test_notebooks_import_only_tools():
    """Los mismos cuadernos sirven a cualquier proyecto: no saben nada de gatos."""
    for path in JOBS.values():
        source = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")
        assert "catfood" not in source and "#| export" not in source


def test_a_project_can_have_its_own(folder, tmp_path):
    """Un cuaderno del proyecto con el mismo nombre es el que se ejecuta; los demás siguen ahí."""
    project = find_project(tmp_path)
    own = tmp_path / "nbs/6_trabajos/entrenar.ipynb"
    own.parent.mkdir(parents=True)
    own.write_bytes(JOBS["entrenar"].read_bytes())
    assert find_notebook(project, "entrenar") == own
    assert find_notebook(project, "informe") != own and {job.name for job in list_jobs(project)} >= set(JOBS)


def test_the_sweep_is_only_offered_in_the_example(tmp_path):
    """En el ejemplo se puede barrer; un proyecto de otra cosa no ve un trabajo que no le sirve."""
    other = Project(tmp_path, "ventas", tmp_path / "conf", installed=False)
    assert [job.name for job in list_jobs(PROJECT)] == sorted({*JOBS, "barrido"})
    assert [job.name for job in list_jobs(other)] == sorted(JOBS)


# --- tierra jobs -------------------------------------------------------------------------------------------------


def test_training_leaves_its_notebook_in_its_run(folder, trained):
    """El entrenamiento pedido se hace, se cuenta mientras se hace y queda en una sola ejecución, cuaderno incluido."""
    assert trained.returncode == 0, trained.stderr
    assert "bundle_model" in trained.stderr and "Acierto gemelas juntas" in trained.stdout
    [output] = re.findall(r"Cuaderno ejecutado +(data/08_reporting/jobs/entrenar-\S+\.ipynb)", trained.stdout)
    card, run = model_cards(folder)[0], find_runs(folder, "entrenar")[0]
    assert "RandomForest" in card["estimator"]
    assert (run["status"], run["id"]) == ("FINISHED", card["run_id"])
    assert run["params"]["model.type"] == "random_forest" and run["metrics"]["twins_together.accuracy"] > 0.5
    kept = next((folder / "mlruns").rglob(Path(output).name))
    assert kept.read_bytes() == (folder / output).read_bytes() and "Acierto por filas" in read_text(kept)


def test_a_failed_job_keeps_its_notebook(folder, trained, tierra):
    """Un trabajo que falla lo dice en una frase, con su código, y su cuaderno queda aquí y en MLflow."""
    done = tierra("jobs", "run", "predecir", "-p", "input", "nada.csv", "-o", "mal.ipynb", cwd=folder)
    assert done.returncode == 2 and "No existe" in done.stderr and "«mal.ipynb»" in done.stderr
    assert "Traceback" not in done.stderr
    assert "papermill-error-cell" in (folder / "mal.ipynb").read_text()
    assert find_runs(folder, "predecir")[0]["status"] == "FAILED" and next((folder / "mlruns").rglob("mal.ipynb"))


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["entrenar", "-p", "model_tipe", "x"], "¿Querías decir «model_type»?"),
        (["entrenar", "-p", "evaluation_share", "mucha"], "ha de ser un número, y es 'mucha'"),
        (["entrena"], "No existe el trabajo «entrena». Los que hay: barrido, entrenar, informe, predecir."),
        (["entrenar", "-f", "nada.yml"], "No se pueden leer los parámetros de «nada.yml»"),
    ],
    ids=["unknown parameter", "wrong type", "unknown job", "no file"],
)
def test_a_mistake_stops_before_the_kernel(tmp_path, monkeypatch, args, says):
    """Lo mal pedido se dice enseguida y no deja nada a medias."""
    monkeypatch.chdir(tmp_path)
    error = CliRunner().invoke(jobs, ["run", *args]).exception
    assert isinstance(error, UsageError) and says in str(error)
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_the_rest_of_the_configuration_from_a_file(folder, trained, tierra):
    """Con -f llega cualquier parámetro del proyecto, y los de -p ganan."""
    (folder / "noche.yml").write_text("evaluation_share: 0.3\nparams: {features: [dma_prot, ga_moist]}\nmodel_type: random_forest\n")
    done = tierra("jobs", "run", "entrenar", "-f", "noche.yml", "-p", "model_type", "logistic", cwd=folder)
    assert done.returncode == 0, done.stderr
    card = model_cards(folder)[-1]
    assert [feature["name"] for feature in card["features"]] == ["dma_prot", "ga_moist"]
    assert "LogisticRegression" in card["estimator"]


@pytest.mark.long
def test_without_mlflow_the_job_is_done_anyway(folder, trained, tierra, monkeypatch):
    """Con un servidor que no contesta se avisa, y el cuaderno y las predicciones quedan igual."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    done = tierra("jobs", "run", "predecir", "-p", "input", "comidas.csv", "-p", "max_bad_share", "0.6",
                  "-p", "output", "solo.csv", "-o", "solo.ipynb", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "MLflow no contesta: el trabajo sigue sin apuntarse en él." in done.stderr
    assert (folder / "solo.csv").exists() and "Comidas puntuadas: 1" in read_text(folder / "solo.ipynb")


@pytest.mark.long
def test_ctrl_c_closes_the_run(folder, trained, tierra):
    """Ctrl-C sale con 130, no deja un núcleo suelto y la ejecución no se queda abierta para siempre."""
    command = [tierra.path, "jobs", "run", "entrenar", "-o", "parado.ipynb"]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True, start_new_session=True) as job:
        next(line for line in job.stderr if "clean_source" in line)
        os.killpg(job.pid, signal.SIGINT)
        job.stderr.read()
    assert job.returncode == 130
    deadline = time.monotonic() + 30
    while (left := list_group(job.pid)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left and "RUNNING" not in [run["status"] for run in find_runs(folder, "entrenar")]


def test_predicting_takes_what_tierra_predict_takes(folder, trained, tierra):
    """Una dirección de fsspec con un comodín, y la salida en Parquet: el trabajo puntúa lo mismo que la orden."""
    (folder / "mes").mkdir()
    for name in ("enero", "febrero"):
        (folder / f"mes/{name}.csv").write_text(SHEET, encoding="cp1252")
    done = tierra("jobs", "run", "predecir", "-p", "input", f"file://{folder}/mes/*.csv", "-p", "output", f"file://{folder}/mes.parquet",
                  "-p", "max_bad_share", "0.6", "-o", "mes.ipynb", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert tierra("predict", "mes", "mes.csv", "--params", "max_bad_share=0.6", cwd=folder).returncode == 0
    ours, theirs = pd.read_parquet(folder / "mes.parquet"), pd.read_csv(folder / "mes.csv", sep=";", decimal=",", encoding="cp1252")
    assert len(ours) == 4 and ours["score"].dropna().tolist() == theirs["score"].dropna().tolist()
    shown = read_text(folder / "mes.ipynb")
    assert "Comidas puntuadas: 2; en cuarentena: 2" in shown and f"file://{folder}/mes.parquet" in shown


# --- papermill a secas -------------------------------------------------------------------------------------------


def test_plain_papermill_predicts(folder, trained):
    """`papermill IN OUT -p …` puntúa una hoja española, con su cuarentena y en su dialecto."""
    papermill(JOBS["predecir"], "acta.ipynb", "-p", "input", "comidas.csv", "-p", "output", "puntuadas.csv",
              "-p", "max_bad_share", "0.6", cwd=folder)
    scored = pd.read_csv(folder / "puntuadas.csv", sep=";", decimal=",", encoding="cp1252")
    assert scored["score"].notna().tolist() == [True, False]
    shown = read_text(folder / "acta.ipynb")
    assert "Comidas puntuadas: 1; en cuarentena: 1" in shown and "no es un número" in shown


@pytest.mark.long
def test_plain_papermill_with_a_file_and_another_folder(folder, trained, tmp_path):
    """`-f` y `--cwd`: los valores en un YAML y el proyecto en otra carpeta."""
    (tmp_path / "values.yml").write_text("metric: macro_f1\n")
    papermill(JOBS["informe"], "informe.ipynb", "-f", "values.yml", "--cwd", folder, cwd=tmp_path)
    shown = read_text(tmp_path / "informe.ipynb")
    assert "Puntuación nutricional" in shown and "macro_f1" in shown and "twins_together" in shown
