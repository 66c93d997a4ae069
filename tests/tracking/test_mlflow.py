"""MLflow de verdad: un servidor en otro proceso, uno que se cae, el registro, la promoción y lo que se sirve."""
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from de_jupyter_a_la_tierra.cli.main import main
from de_jupyter_a_la_tierra.errors import UsageError, WorkError
from de_jupyter_a_la_tierra.models.artifact import load_model
from de_jupyter_a_la_tierra.models.evaluation import hash_rows
from de_jupyter_a_la_tierra.models.freezing import freeze_model
from de_jupyter_a_la_tierra.projects.project import find_project
from de_jupyter_a_la_tierra.tables.dictionary import Column
from de_jupyter_a_la_tierra.tracking.connection import connect, import_mlflow
from de_jupyter_a_la_tierra.tracking.promotion import promote, rollback
from de_jupyter_a_la_tierra.tracking.registry import list_versions, resolve_model

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow avisa de mil cosas suyas al importarse
BIN = Path(sys.executable).parent
ALL = "[dma_ash,dma_cals,dma_carbs,dma_fat,dma_fiber,dma_prot,ga_ash,ga_carbs,ga_fat,ga_fiber,ga_moist,ga_prot]"


def find_port() -> int:
    """Un puerto libre."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def fetch(url: str, body: bytes | None = None) -> bytes:
    """Lo que contesta una dirección de esta máquina."""
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"} if body else {})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read()


@contextmanager
def serve(*args: str | Path, cwd: Path, health: str = "/health", seconds: float = 120, **env: str) -> Iterator[tuple[str, subprocess.Popen]]:
    """Levanta un servidor de MLflow en un puerto libre, espera a que conteste y lo baja al salir."""
    port, server_is_starting = find_port(), threading.Event()
    log = cwd / f"servidor_{port}.log"
    quick = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # sin los procesos que evalúan con LLM
    env = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"} | quick | env
    with log.open("w") as heard:
        server = subprocess.Popen(
            [BIN / "mlflow", *args, "--port", str(port), "--host", "127.0.0.1"],
            cwd=cwd, stdout=heard, stderr=heard, env=env, start_new_session=True,
        )
    try:
        limit = time.monotonic() + seconds
        while True:
            try:
                fetch(f"http://127.0.0.1:{port}{health}")
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < limit, log.read_text()
                server_is_starting.wait(0.2)
        yield f"http://127.0.0.1:{port}", server
    finally:
        kill(server)


def kill(server: subprocess.Popen) -> None:
    """Mata a un servidor y a sus hijos."""
    if server.poll() is None:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait(timeout=20)


@pytest.fixture(scope="module")
def backend(tmp_path_factory) -> Callable[[Path], tuple]:
    """Las opciones de un servidor que empieza vacío: las tablas se crean una vez y cada uno tiene su copia."""
    empty = tmp_path_factory.mktemp("vacia")
    connect(empty, {})

    def prepare(folder: Path) -> tuple:
        shutil.copy(empty / "mlflow.db", folder / "server.db")
        where = ("--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", folder / "files")
        return "server", *where, "--workers", "1"

    return prepare


@pytest.fixture(scope="module")
def server(backend, tmp_path_factory) -> Iterator[str]:
    """Un servidor de MLflow para todas las pruebas que lo quieran."""
    folder = tmp_path_factory.mktemp("servidor")
    with serve(*backend(folder), cwd=folder) as (uri, _):
        yield uri


@pytest.fixture(scope="module")
def project(tierra, tmp_path_factory) -> Path:
    """Un proyecto con tres modelos en su registro: logístico, constante (peor) y bosque con las doce cifras."""
    folder = tmp_path_factory.mktemp("proyecto")
    assert tierra("data", "--rows", "900", cwd=folder).returncode == 0
    for params in ("model.type=logistic", "model.type=logistic,features=[ga_ash]", f"model.type=random_forest,features={ALL}"):
        done = tierra("run", "--params", params, cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def copy(project, tmp_path) -> Path:
    """El mismo proyecto, para estropearlo; los ficheros de MLflow siguen en su sitio de antes."""
    return Path(shutil.copytree(project, tmp_path / "copia"))


def entries(folder: Path) -> list:
    """Las versiones del registro de un proyecto."""
    return list_versions(connect(folder, {}), "catfood")


def test_everything_is_noted(project):
    """Parámetros, métricas, ficheros, datos, modelo con firma y ejemplo; y la ficha sabe de qué ejecución salió."""
    client, mlflow = connect(project, {}), import_mlflow()
    entry = entries(project)[0]
    run = client.get_run(entry.run_id)
    assert run.info.status == "FINISHED" and run.info.run_name == entry.folder
    assert run.data.params["model.type"] == "logistic" and run.data.params["target"] == "nutrition_paws"
    assert run.data.metrics["twins_together.accuracy"] == entry.score and run.data.metrics["counts.n_rows"] == 900
    assert {file.path for file in client.list_artifacts(entry.run_id)} >= {"confusion_matrix.png", "report.md", "metrics.json"}
    data = run.inputs.dataset_inputs[0].dataset
    info = load_model(project / "data/06_models/catfood" / entry.folder / "catfood").info
    assert data.name == "catfood_simulated.csv" and info["data"]["sha256"].startswith(data.digest)
    assert json.loads(data.profile)["num_rows"] == 900
    assert info["run_id"] == entry.run_id and info["sha256"] == entry.sha256
    card = mlflow.models.get_model_info("models:/catfood/1")
    assert card.signature.inputs.input_names() == [feature["name"] for feature in info["features"]]
    assert card.signature.outputs.input_names() == ["score", "probability"] and card.saved_input_example_info
    stored = [path.name for path in (project / "mlruns").rglob("*") if path.is_file()]
    assert not [name for name in stored if name.endswith((".pkl", ".pickle", ".joblib"))]


def test_prediction_is_not_an_experiment(tierra, copy):
    """Predecir no abre ninguna ejecución, y ni siquiera toca la base."""
    before = (copy / "mlflow.db").read_bytes()
    done = tierra("predict", "data/01_raw/catfood_simulated.csv", "salida.csv", cwd=copy)
    assert done.returncode == 0, done.stderr
    assert (copy / "mlflow.db").read_bytes() == before


def test_promotion(copy):
    """El primero se promueve, el peor no, el mejor sí; volver atrás devuelve las respuestas de antes."""
    here = find_project(copy)
    table = pd.read_parquet(copy / "data/05_model_input/model_input.parquet")

    def answers() -> list[int]:
        return load_model(resolve_model(here, "models:/catfood@champion")).predict(table).tolist()

    with pytest.raises(UsageError, match="tierra models promote"):
        answers()
    assert promote(here, 1).previous is None
    old = answers()

    with pytest.raises(WorkError, match=r"versión 2 no pasa a campeón: saca \d+,\d % y el campeón \d+,\d %, en las mismas \d+ filas"):
        promote(here, 2)
    assert answers() == old

    scores = [entry.score for entry in entries(copy)]
    assert scores[2] >= scores[0] > scores[1]
    better = promote(here)
    assert (better.version, better.previous, better.forced) == (3, 1, False)
    assert better.verdict.candidate == pytest.approx(scores[2]) and better.verdict.champion == pytest.approx(scores[0])
    assert answers() != old
    assert promote(here, 3).verdict is None  # ya lo es: no hay nada que hacer

    assert promote(here, 2, force=True).forced
    assert [entry.version for entry in entries(copy) if entry.champion] == [2]
    assert (rollback(here).version, rollback(here).version) == (3, 1)
    assert answers() == old
    with pytest.raises(WorkError, match="No hay ningún campeón anterior"):
        rollback(here)


def test_who_studied_the_exam_is_refused(copy):
    """Si el candidato entrenó con filas de evaluación no se promueve; si fue el campeón, esas filas se apartan."""
    here, path = find_project(copy), copy / "data/05_model_input/model_input.parquet"
    assert promote(here, 1).verdict.n_left_out == 0
    table = pd.read_parquet(path)
    swapped = table.assign(evaluation=~table["evaluation"])  # ahora evalúan las filas con que todos entrenaron
    swapped.to_parquet(path)
    with pytest.raises(WorkError, match="No queda ninguna fila de evaluación que el campeón no haya visto"):
        promote(here, 3)
    hashes = hash_rows(table[["dma_ash", "dma_cals", "dma_carbs", "dma_prot", "ga_moist"]])
    moved = ~table["evaluation"] & np.isin(hashes, hashes[~table["evaluation"]][:50])  # con sus gemelas
    table.assign(evaluation=table["evaluation"] | moved).to_parquet(path)
    with pytest.raises(WorkError, match=r"se entrenó con \d+ filas de evaluación, y su nota no vale"):
        promote(here, 3)
    forced = promote(here, 3, force=True)
    assert forced.forced and forced.verdict.n_left_out == moved.sum() >= 50
    assert forced.verdict.n_rows == table["evaluation"].sum()


def test_a_model_comes_back_from_the_registry(project, copy):
    """Un modelo que no está en la carpeta se trae, byte a byte, y con su nombre de versión."""
    entry = entries(copy)[0]
    folder = copy / "data/06_models/catfood" / entry.folder / "catfood"
    original = {path.name: path.read_bytes() for path in folder.iterdir()}
    shutil.rmtree(folder.parent)
    assert resolve_model(find_project(copy), "models:/catfood/1") == folder
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == original


@pytest.mark.long
@pytest.mark.parametrize("runner", ["ThreadRunner", "ParallelRunner"])
def test_other_runners_are_noted_too(tierra, copy, runner):
    """Con hilos o con procesos queda apuntado lo mismo, en una sola ejecución."""
    done = tierra("run", "--runner", runner, cwd=copy)
    assert done.returncode == 0, done.stderr
    newest = entries(copy)[-1]
    run = connect(copy, {}).get_run(newest.run_id)
    assert newest.version == 4 and run.info.status == "FINISHED" and run.data.params["model.type"] == "logistic"
    folder = copy / "data/06_models/catfood" / newest.folder / "catfood"
    assert load_model(folder).info["run_id"] == newest.run_id


def test_a_failed_run_is_noted_as_failed(tierra, copy):
    """Si la ejecución falla, queda como fallida, con su error y su cuarentena."""
    raw = copy / "data/01_raw/catfood_simulated.csv"
    raw.write_text(raw.read_text().replace("%", " por ciento"))
    assert tierra("run", cwd=copy).returncode == 1
    client = connect(copy, {})
    newest = client.search_runs([client.get_experiment_by_name("catfood").experiment_id], max_results=1)[0]
    assert newest.info.status == "FAILED" and "error" in newest.data.tags
    assert "quarantine.csv" in {file.path for file in client.list_artifacts(newest.info.run_id)}


def test_an_interrupted_run_says_so(tierra, copy):
    """Con Ctrl-C a mitad, la ejecución queda como interrumpida, y no como terminada."""
    run = subprocess.Popen([tierra.path, "run"], cwd=copy, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while "[2/" not in run.stderr.readline():
        assert run.poll() is None
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=60)
    client = connect(copy, {})
    newest = client.search_runs([client.get_experiment_by_name("catfood").experiment_id], max_results=1)[0]
    assert (run.returncode, newest.info.status) == (130, "KILLED")


def test_an_open_run_is_continued_and_left_open(tierra, copy):
    """Quien deja una ejecución en MLFLOW_RUN_ID la encuentra luego con todo dentro, y sin otra al lado."""
    client = connect(copy, {})
    experiment = client.get_experiment_by_name("catfood").experiment_id
    before = len(client.search_runs([experiment]))
    opened = client.create_run(experiment, run_name="trabajo").info.run_id
    os.environ["MLFLOW_RUN_ID"] = opened
    done = tierra("run", cwd=copy)
    del os.environ["MLFLOW_RUN_ID"]
    assert done.returncode == 0, done.stderr
    assert entries(copy)[-1].run_id == opened and len(client.search_runs([experiment])) == before + 1
    assert client.get_run(opened).info.run_name == "trabajo"


@pytest.mark.long
def test_any_server_by_its_address(tierra, project, server, tmp_path, monkeypatch):
    """Con MLFLOW_TRACKING_URI se apunta en ese servidor, y aquí no aparece ninguna base."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    shutil.copytree(project / "data/01_raw", tmp_path / "data/01_raw")
    done = tierra("run", cwd=tmp_path)
    assert done.returncode == 0 and "En MLflow queda el modelo catfood" in done.stderr, done.stderr
    assert not (tmp_path / "mlflow.db").exists() and not (tmp_path / "mlruns").exists()
    assert promote(find_project(tmp_path)).previous is None
    shutil.rmtree(tmp_path / "data/06_models")
    assert load_model(resolve_model(find_project(tmp_path), "models:/catfood@champion")).info["name"] == "catfood"


def test_the_server_dies_in_the_middle(tierra, project, backend, tmp_path, monkeypatch):
    """Se mata al servidor con la ejecución a medias: se dice, el modelo está entero y luego se da de alta."""
    shutil.copytree(project / "data/01_raw", tmp_path / "data/01_raw")
    args = backend(tmp_path)
    with serve(*args, cwd=tmp_path) as (uri, process):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        run = subprocess.Popen([tierra.path, "run"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        heard = ""
        while "[2/" not in heard:  # la ejecución ya está abierta y quedan nodos
            heard += run.stderr.readline()
        kill(process)
        start = time.monotonic()
        _, rest = run.communicate(timeout=120)
    assert run.returncode == 0, heard + rest
    assert "MLflow no contesta: la ejecución sigue sin apuntarse en él" in rest and "Traceback" not in rest
    assert time.monotonic() - start < 90
    folder = rest.split("tierra models register ")[1].split()[0]
    info = load_model(tmp_path / folder).info
    assert info["run_id"]

    down = tierra("models", "register", folder, cwd=tmp_path)
    assert down.returncode == 1 and "no contesta" in down.stderr and "Traceback" not in down.stderr
    with serve(*args, cwd=tmp_path) as (uri, _):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        done = tierra("models", "register", folder, cwd=tmp_path)
        assert done.returncode == 0 and "catfood, versión 1" in done.stdout, done.stderr
        assert "versión 1" in tierra("models", "register", folder, cwd=tmp_path).stdout  # repetir no hace nada
        finished = connect(tmp_path, {}).get_run(info["run_id"])
        assert finished.info.status == "FINISHED" and finished.data.params["model.type"] == "logistic"


def test_a_server_that_never_was(tierra, project, tmp_path, monkeypatch):
    """Con una dirección en la que no hay nadie también se entrena, y se dice."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{find_port()}")
    shutil.copytree(project / "data/01_raw", tmp_path / "data/01_raw")
    done = tierra("run", cwd=tmp_path)
    assert done.returncode == 0 and done.stderr.count("MLflow no contesta") == 1, done.stderr
    assert "tierra models register" in done.stderr and "Retrying" not in done.stderr


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (("models", "promote", "99"), 2, "no hay versión 99 de «catfood». Las que hay: 1, 2, 3"),
        (("models", "rollback"), 1, "No hay ningún campeón anterior"),
        (("models", "register", "data"), 1, "está dañado"),
        (("predict", "x.csv", "y.csv", "--model", "models:/catfood@champion"), 2, "Elígelo con «tierra models promote»"),
        (("sweep", "--grid", "model.type"), 2, "se escribe clave=valor,valor"),
    ],
)
def test_bad_calls(project, monkeypatch, capsys, args, code, text):
    """Lo mal pedido se dice con una frase y su código."""
    monkeypatch.chdir(project)
    with pytest.raises(SystemExit) as stopped:
        main(list(args))
    said = capsys.readouterr().err
    assert stopped.value.code == code and text in said and "Traceback" not in said


def test_a_damaged_copy_is_not_accepted(copy):
    """Si en el sitio de una versión hay otro modelo, se dice y no se usa."""
    first, second = entries(copy)[:2]
    base = copy / "data/06_models/catfood"
    shutil.rmtree(base / first.folder)
    shutil.copytree(base / second.folder, base / first.folder)
    with pytest.raises(Exception, match="no es la versión 1"):
        resolve_model(find_project(copy), "models:/catfood/1")


def test_mlflow_serves_the_champion(tierra, copy):
    """`mlflow models serve -m models:/catfood@champion` contesta lo mismo que `tierra predict`."""
    promote(find_project(copy), 1)
    sheet = "data/01_raw/catfood_simulated.csv"
    assert tierra("predict", sheet, "salida.csv", "--model", "models:/catfood@champion", cwd=copy).returncode == 0
    expected = pd.read_csv(copy / "salida.csv")
    features = load_model(resolve_model(find_project(copy), "models:/catfood@champion")).features
    table = pd.read_parquet(copy / "data/03_primary/foods.parquet")[list(features)]
    args = ("models", "serve", "-m", "models:/catfood@champion", "--env-manager", "local")
    with serve(*args, cwd=copy, health="/ping", MLFLOW_TRACKING_URI=f"sqlite:///{copy}/mlflow.db") as (uri, _):
        body = json.dumps({"dataframe_split": {"columns": list(table), "data": table.to_numpy().tolist()}}).encode()
        answer = pd.DataFrame(json.loads(fetch(f"{uri}/invocations", body))["predictions"])
        with pytest.raises(urllib.error.HTTPError, match="400"):
            fetch(f"{uri}/invocations", json.dumps({"dataframe_records": [{"dma_ash": 1.7}]}).encode())
    assert answer["score"].tolist() == expected["score"].dropna().astype(int).tolist()
    assert np.allclose(answer["probability"], expected["probability"].dropna(), atol=1e-4)


@pytest.mark.long
def test_the_web_opens_in_the_project_folder(project):
    """`mlflow ui`, sin opciones y en la raíz, enseña lo apuntado."""
    with serve("ui", "--workers", "1", cwd=project, MLFLOW_SERVER_ENABLE_JOB_EXECUTION="true") as (uri, _):
        assert b"<title>MLflow</title>" in fetch(uri)
        found = json.loads(fetch(f"{uri}/api/2.0/mlflow/experiments/get-by-name?experiment_name=catfood"))
        assert found["experiment"]["lifecycle_stage"] == "active"
        models = json.loads(fetch(f"{uri}/api/2.0/mlflow/registered-models/search"))["registered_models"]
        assert [model["name"] for model in models] == ["catfood"]


OPEN = """
import sys
import mlflow.pyfunc
import pandas as pd
assert not [name for name in sys.modules if name.endswith("flavor")]
print(mlflow.pyfunc.load_model(sys.argv[1]).predict(pd.DataFrame({"a": [1.0, 9.0]}))["score"].tolist())
"""


def test_a_model_registered_by_an_older_version_still_opens(tmp_path):
    """Los modelos de la 0.2 llevan escrita la ruta que entonces tenía el módulo que los abre."""
    X, y = np.arange(10.0).reshape(-1, 1), np.repeat(["poco", "mucho"], 5)
    freeze_model(
        LogisticRegression(C=100).fit(X, y), tmp_path / "amounts", X_train=X, X_evaluation=X, features=[Column(name="a", meaning="A")],
        target=Column(name="b", meaning="B", kind="text"), metrics={}, data={"origin": "own"}, name="amounts",
    )
    import_mlflow().pyfunc.save_model(
        tmp_path / "saved", loader_module="de_jupyter_a_la_tierra.flavor", data_path=str(tmp_path / "amounts"), pip_requirements=[]
    )
    done = subprocess.run([sys.executable, "-c", OPEN, tmp_path / "saved"], capture_output=True, text=True, timeout=120)
    assert done.stdout == "['poco', 'mucho']\n", done.stderr
