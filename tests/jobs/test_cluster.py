"""Un lote en un clúster de verdad: `dask scheduler` y `dask worker` en sus procesos, y alguno que muere a mitad."""
import copy
import importlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from de_jupyter_a_la_tierra.errors import UsageError, WorkError
from de_jupyter_a_la_tierra.jobs.batch import run_batch
from de_jupyter_a_la_tierra.jobs.cluster import ClusterLost, open_executor
from de_jupyter_a_la_tierra.jobs.ledger import JobRecord, read_ledger
from de_jupyter_a_la_tierra.jobs.plan import identify_jobs
from de_jupyter_a_la_tierra.jobs.runner import build_call, run_once
from de_jupyter_a_la_tierra.projects.project import Project, find_project

DASK = Path(sys.executable).with_name("dask")
CELL = """import os, time
from pathlib import Path
from de_jupyter_a_la_tierra.parameters.returned import hand_back
Path(notes, f"{number}-{os.getpid()}").touch()
time.sleep(pause)
hand_back(square=number**2)"""


def wait_until(happened: Callable[[], object], seconds: float = 30) -> None:
    """Espera a que pase algo; falla si tarda demasiado."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "no ha pasado a tiempo"
        time.sleep(0.05)


class Cluster:
    """Un planificador y sus workers, cada uno en su grupo de procesos."""

    def __init__(self, folder: Path, *options: str | Path):
        self.folder, self.options, self.processes = folder, [*options, "--no-dashboard"], []
        told = folder / "scheduler.json"
        idle = ["--idle-timeout", "120 s"]  # si la prueba muere de golpe, el clúster no se queda ahí
        self.scheduler = self.start("scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", told, *idle)
        wait_until(lambda: told.exists() and told.stat().st_size)  # lo crea vacío y luego lo escribe
        self.address = json.loads(told.read_text())["address"]

    def start(self, *command: str | Path, env: dict[str, str] | None = None) -> subprocess.Popen:
        """Arranca una orden de Dask; lo que escribe queda en un fichero."""
        log = (self.folder / f"{command[0]}-{len(self.processes)}.log").open("w")
        with log:
            process = subprocess.Popen(
                [DASK, *command, *self.options], cwd=self.folder, env={**os.environ, **(env or {})}, stdout=log, stderr=log,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def add_worker(self, env: dict[str, str] | None = None) -> subprocess.Popen:
        """Arranca un worker de un hilo, con su niñera, y espera a que esté."""
        worker = self.start("worker", self.address, "--nthreads", "1", "--death-timeout", "30 s", "--local-directory", self.folder, env=env)
        log = self.folder / f"worker-{len(self.processes) - 1}.log"
        wait_until(lambda: "Registered to" in log.read_text())
        return worker

    def kill(self, process: subprocess.Popen) -> None:
        """Mata un proceso y cuanto ha arrancado, como si se apagara su máquina."""
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def start_cluster(folder: Path, *options: str | Path) -> Iterator[Cluster]:
    """Un clúster que se apaga al salir."""
    with ExitStack() as stack:
        cluster = Cluster(folder, *options)
        stack.callback(lambda: [cluster.kill(process) for process in cluster.processes])
        yield cluster


@pytest.fixture
def cluster(tmp_path) -> Iterator[Cluster]:
    """Un planificador sin nadie."""
    with start_cluster(tmp_path) as cluster:
        yield cluster


@pytest.fixture
def job(tmp_path) -> Path:
    """Un cuaderno que deja una nota al empezar, espera un rato y devuelve un cuadrado."""
    parameters = "number: int = 0  # un número\npause: float = 0.2  # segundos\nnotes: str = '.'  # dónde se apunta"
    notebook = new_notebook(cells=[
        new_markdown_cell("# Cuadrado\n> Eleva al cuadrado sin prisa."),
        new_code_cell(parameters, metadata={"tags": ["parameters"]}),
        new_code_cell(CELL),
    ])
    notebook.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "python3"}
    (tmp_path / "notes").mkdir()
    nbformat.write(notebook, tmp_path / "cuadrado.ipynb")
    return tmp_path / "cuadrado.ipynb"


def ask(job: Path, **values) -> dict:
    """El encargo de una vez del cuaderno."""
    values = {"notes": str(job.parent / "notes"), **values}
    return build_call(find_project(job.parent), job, values, job.parent / "out.ipynb")


# --- El lote -----------------------------------------------------------------------------------------------------

JOBS = 24


def start_batch(tierra, job: Path, address: str) -> subprocess.Popen:
    """La orden de un lote en el clúster, en marcha."""
    command = [tierra.path, "jobs", "run", job.name, "-p", "notes", job.parent / "notes", "--out", "lote", "--scheduler", address]
    grid = ["--grid", f"number={','.join(map(str, range(JOBS)))}"]
    return subprocess.Popen([*command, *grid], cwd=job.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def list_done(job: Path) -> list[JobRecord]:
    """Los trabajos que el libro da por hechos, si ya hay libro."""
    with suppress(Exception):
        return [entry for entry in read_ledger(job.parent / "lote") if entry.status == "done"]
    return []


def find_runs(job: Path) -> list[tuple[str, str, str]]:
    """Las ejecuciones de MLflow que hay: cuál, de qué trabajo y cómo acabó."""
    with closing(sqlite3.connect(job.parent / "mlflow.db")) as base:
        query = "select run_uuid, value, status from runs join tags using (run_uuid) where key = 'tierra.job.key' and lifecycle_stage = 'active'"
        return base.execute(query).fetchall()


def test_a_worker_and_the_runner_die_and_the_batch_is_complete(cluster, job, tierra):
    """Con un worker muerto a mitad y quien encargó el lote también, la misma orden lo termina: cada trabajo, una vez."""
    workers = [cluster.add_worker() for _ in range(2)]
    with start_batch(tierra, job, cluster.address) as runner:
        wait_until(lambda: len(list_done(job)) >= 3, 120)
        runner.kill()
    assert len(list_done(job)) < JOBS
    with start_batch(tierra, job, cluster.address) as runner:
        before = len(list_done(job))
        wait_until(lambda: len(list_done(job)) >= before + 3, 120)
        cluster.kill(workers[0])
        said, _ = runner.communicate(timeout=120)
    assert runner.returncode == 0 and "ya lo estaban" in said, said
    entries = read_ledger(job.parent / "lote")
    assert [entry.returned for entry in entries] == [{"square": number**2} for number in range(JOBS)]
    copies = [nbformat.read(job.parent / "lote" / entry.notebook, as_version=4) for entry in entries]
    assert all(copy.metadata.tierra.status == "done" for copy in copies)
    assert len(list((job.parent / "lote/notebooks").iterdir())) == JOBS
    assert sorted(find_runs(job)) == sorted((entry.run_id, entry.key, "FINISHED") for entry in entries)


@pytest.mark.long
def test_losing_the_scheduler_stops_the_batch_and_it_resumes(cluster, job, tierra, tmp_path_factory):
    """Si se pierde el planificador, el lote sale con 1 y una frase; con otro planificador, la orden sigue por donde iba."""
    cluster.add_worker()
    with start_batch(tierra, job, cluster.address) as runner:
        wait_until(lambda: list_done(job), 120)
        cluster.kill(cluster.scheduler)
        said, _ = runner.communicate(timeout=60)
    assert runner.returncode == 1 and "Se ha perdido la conexión" in said and "Traceback" not in said
    done = {entry.key: entry.run_id for entry in list_done(job)}
    with start_cluster(tmp_path_factory.mktemp("other")) as other:
        other.add_worker()
        with start_batch(tierra, job, other.address) as runner:
            said, _ = runner.communicate(timeout=180)
    assert runner.returncode == 0, said
    entries = {entry.key: entry.run_id for entry in read_ledger(job.parent / "lote")}
    assert len(entries) == JOBS and entries | done == entries


# --- Lo que viaja ------------------------------------------------------------------------------------------------


def test_arguments_arrive_as_they_are(cluster):
    """Nada de lo que se manda se toma por otra cosa, sea grande, una tupla o el nombre de otra tarea; lo de aquí no cambia."""
    cluster.add_worker()
    with open_executor(cluster.address) as executor:
        executor.submit(time.sleep, 600)
        wait_until(lambda: executor._client.futures)
        [key] = executor._client.futures
        cluster.add_worker()
        sent = {"notebook": "ñ\n" * 1_000_000, "call": (len, "gato"), "key": key, key: [key, (key, 0)]}
        before = copy.deepcopy(sent)
        assert executor.submit(copy.deepcopy, sent).result(60) == before == sent
        executor.shutdown(wait=False)


def test_what_cannot_travel_fails_alone(cluster, tmp_path, monkeypatch):
    """Un módulo que allí no está, o un argumento que no se puede mandar, es el error de un trabajo; el worker sigue."""
    (tmp_path / "only").mkdir()
    (tmp_path / "only/only_here.py").write_text("def add(number):\n    return number + 1\n")
    cluster.add_worker()
    monkeypatch.syspath_prepend(tmp_path / "only")
    add = importlib.import_module("only_here").add
    with open_executor(cluster.address, worker_timeout=5) as executor:
        with pytest.raises(WorkError, match="A un worker le falta «only_here»"):
            executor.submit(add, 1).result(30)
        with pytest.raises(TypeError):
            executor.submit(len, threading.Lock()).result(30)
        assert executor.submit(len, "gato").result(30) == 4


def test_a_latecomer_without_the_package_does_no_harm(cluster, tmp_path):
    """Un worker que llega a mitad sin el paquete se va, y lo suyo lo hacen los demás."""
    (tmp_path / "none/de_jupyter_a_la_tierra").mkdir(parents=True)
    missing = "raise ModuleNotFoundError(\"No module named 'de_jupyter_a_la_tierra'\", name='de_jupyter_a_la_tierra')"
    (tmp_path / "none/de_jupyter_a_la_tierra/__init__.py").write_text(missing)
    cluster.add_worker()
    with open_executor(cluster.address) as executor:
        useless = cluster.add_worker(env={"PYTHONPATH": str(tmp_path / "none")})
        wait_until(lambda: executor.slots == 2)
        futures = []

        def is_gone() -> bool:
            futures.append(executor.submit(len, "gato"))
            return useless.poll() is not None

        wait_until(is_gone, 60)  # cuando le toque una llamada
        assert useless.returncode == 0 and {future.result(60) for future in futures} == {4}


# --- Lo que se pierde --------------------------------------------------------------------------------------------


def test_a_job_that_kills_its_workers_fails_alone(cluster):
    """Un trabajo que mata a cuantos workers lo intentan se da por fallido; los demás se hacen."""
    cluster.add_worker()
    with open_executor(cluster.address) as executor:
        die = "import os, time; time.sleep(0.5); os._exit(1)"  # a medio arrancar, su niñera no lo levantaría
        deadly, sound = executor.submit(exec, die), executor.submit(len, "gato")
        with pytest.raises(WorkError, match="han muerto 4 workers mientras lo hacían"):
            deadly.result(240)
        assert sound.result(240) == 4


def test_cancelling_ends_what_the_job_started(cluster, job):
    """Lo cancelado deja de ejecutarse en el worker: no queda ni un proceso suyo."""
    cluster.add_worker()
    with open_executor(cluster.address) as executor:
        future = executor.submit(run_once, ask(job, pause=600))
        wait_until(lambda: list((job.parent / "notes").iterdir()))
        [note] = (job.parent / "notes").iterdir()
        pid = int(note.name.partition("-")[2])
        assert psutil.pid_exists(pid) and future.cancel()
        wait_until(lambda: not psutil.pid_exists(pid))


@pytest.mark.parametrize(("lost", "says"), [("worker", "se ha quedado sin workers"), ("scheduler", "Se ha perdido la conexión")])
def test_waiting_has_an_end(cluster, lost, says):
    """Si se pierden todos los workers, o el planificador, lo pendiente no se espera para siempre."""
    worker = cluster.add_worker()
    with open_executor(cluster.address, worker_timeout=2) as executor:
        pending = [executor.submit(time.sleep, 600) for _ in range(3)]
        cluster.kill(worker if lost == "worker" else cluster.scheduler)
        for future in pending:
            with pytest.raises(ClusterLost, match=says):
                future.result(30)


# --- Lo que se dice antes de empezar -----------------------------------------------------------------------------


def test_nobody_there(cluster):
    """Un planificador sin workers, y una dirección donde no hay nadie."""
    with pytest.raises(WorkError, match="no tiene ningún worker: arranca alguno con «dask worker"), open_executor(cluster.address, worker_timeout=1):
        pass
    cluster.kill(cluster.scheduler)
    with pytest.raises(WorkError, match="no contesta ningún planificador"), open_executor(cluster.address, timeout=1):
        pass


@pytest.mark.parametrize("who", ["worker", "scheduler"])
def test_another_version_is_refused(tmp_path, monkeypatch, who):
    """Un worker con otra versión del paquete haría otra cosa, y el planificador no lo entendería: se dice antes de mandar nada."""
    old = tmp_path / "old/de_jupyter_a_la_tierra-0.0.1.dist-info"
    old.mkdir(parents=True)
    (old / "METADATA").write_text("Metadata-Version: 2.1\nName: de-jupyter-a-la-tierra\nVersion: 0.0.1\n")
    with monkeypatch.context() as patch, ExitStack() as stack:
        if who == "scheduler":
            patch.setenv("PYTHONPATH", str(old.parent))
        cluster = stack.enter_context(start_cluster(tmp_path))
        patch.undo()
        cluster.add_worker(env={"PYTHONPATH": str(old.parent)} if who == "worker" else None)
        with pytest.raises(WorkError) as raised, open_executor(cluster.address):
            pass
        said = re.fullmatch(r".*«(tcp://127.0.0.1:\d+)» tiene la versión 0.0.1. Instálala allí.*", str(raised.value))
        assert said and (said[1] == cluster.address) == (who == "scheduler")


# --- TLS ---------------------------------------------------------------------------------------------------------


def write_certificates(folder: Path) -> dict[str, Path]:
    """Una autoridad recién hecha, y un certificado suyo con su clave."""
    from distributed.security import Security

    made, folder = Security.temporary(), folder / "tls"
    folder.mkdir(parents=True)
    texts = {"ca": made.tls_ca_file, "cert": made.tls_client_cert, "key": made.tls_client_key}
    for name, text in texts.items():
        (folder / f"{name}.pem").write_text(text)
    return {f"tls_{name}": folder / f"{name}.pem" for name in texts}


def test_with_tls_only_those_with_a_certificate_get_in(tmp_path):
    """Con certificados de la autoridad se trabaja; con los de otra, o sin ninguno, no se entra."""
    ours, theirs = write_certificates(tmp_path / "ours"), write_certificates(tmp_path / "theirs")
    options = ["--protocol", "tls", "--tls-ca-file", ours["tls_ca"], "--tls-cert", ours["tls_cert"], "--tls-key", ours["tls_key"]]
    with start_cluster(tmp_path, *options) as cluster:
        cluster.add_worker()
        with open_executor(cluster.address, **ours) as executor:
            assert executor.submit(len, "gato").result(30) == 4
        with pytest.raises((UsageError, WorkError), match="certificados"), open_executor(cluster.address, **theirs, timeout=2):
            pass
        with pytest.raises(WorkError, match="no contesta"), open_executor(cluster.address.replace("tls", "tcp"), timeout=2):
            pass


@pytest.mark.parametrize("count", [6, pytest.param(200, marks=pytest.mark.long)])
def test_every_job_has_its_own_luck(cluster, tmp_path, count) -> None:
    """Los workers también bifurcan, y NumPy copia su azar: cada trabajo saca lo suyo."""
    cells = ("n: int = 0", "import numpy as np\nfrom de_jupyter_a_la_tierra.parameters.returned import hand_back\nhand_back(drawn=np.random.rand())")
    notebook = new_notebook(cells=[new_code_cell(cells[0], metadata={"tags": ["parameters"]}), new_code_cell(cells[1])])
    notebook.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "python3"}
    nbformat.write(notebook, tmp_path / "azar.ipynb")
    cluster.add_worker()
    project = Project(tmp_path, "luck", tmp_path / "conf", installed=False)
    asked = identify_jobs(tmp_path / "azar.ipynb", [{"n": n} for n in range(count)], tmp_path)
    with open_executor(cluster.address) as executor:
        run_batch(project, tmp_path / "azar.ipynb", asked, tmp_path / "lote", executor)
    entries = read_ledger(tmp_path / "lote")
    assert len({entry.returned["drawn"] for entry in entries}) == len({entry.random_seed for entry in entries}) == count
