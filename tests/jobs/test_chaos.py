"""Un lote al que le pasa de todo: al final, cada trabajo una vez, con su cuaderno y su ejecución, y nada a medias."""
import json
import os
import random
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from de_jupyter_a_la_tierra.jobs.ledger import JobRecord, read_ledger

JOBS = 40
SEED = int(os.environ.get("TIERRA_CHAOS_SEED") or random.SystemRandom().randrange(10**6))
SOURCE = """
import time
from de_jupyter_a_la_tierra.parameters.returned import hand_back

time.sleep(0.1)
print("relleno " * 1000)
hand_back(square=seed ** 2)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Una carpeta con un cuaderno que tarda un poco y devuelve un número."""
    folder = tmp_path_factory.mktemp("chaos")
    notebook = new_notebook(cells=[new_code_cell("seed: int = 0", metadata={"tags": ["parameters"]}), new_code_cell(SOURCE)])
    notebook.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "python3"}
    nbformat.write(notebook, folder / "square.ipynb")
    return folder


def command(tierra) -> list:
    """La orden del lote: siempre la misma."""
    seeds = ",".join(map(str, range(JOBS)))
    return [tierra.path, "jobs", "run", "square.ipynb", "--grid", f"seed={seeds}", "--out", "lote", "--workers", "2", "--retries", "3"]


def list_done(folder: Path) -> dict[str, JobRecord]:
    """Los trabajos que el libro da por hechos, si ya hay libro."""
    with suppress(Exception):
        return {entry.key: entry for entry in read_ledger(folder / "lote") if entry.status == "done"}
    return {}


@contextmanager
def started(tierra, folder: Path) -> Iterator[subprocess.Popen]:
    """La orden en marcha; al salir ya ha terminado, y con ella todos sus procesos."""
    with (folder / "errors.log").open("a") as log, subprocess.Popen(command(tierra), cwd=folder, stderr=log, start_new_session=True) as runner:
        try:
            yield runner
        finally:
            runner.kill()


def wait_until(runner: subprocess.Popen, condition: Callable[[], bool], folder: Path) -> None:
    """Espera a que pase algo; falla si la orden termina antes."""
    while not condition():
        with suppress(subprocess.TimeoutExpired):
            runner.wait(0.02)
            pytest.fail(f"la orden terminó antes de tiempo ({runner.returncode}):\n{(folder / 'errors.log').read_text()[-2000:]}")


def list_cells(runner: subprocess.Popen) -> list[psutil.Process]:
    """Los procesos que ejecutan celdas: los que no tienen hijos y cuelgan de otros dos."""
    with suppress(psutil.Error):
        family = psutil.Process(runner.pid).children(recursive=True)
        parents = {process.ppid() for process in family}
        return [process for process in family if process.pid not in parents and process.parent().ppid() in parents]
    return []


def find_runs(folder: Path) -> list[dict[str, str]]:
    """Las ejecuciones vivas de MLflow que son de un trabajo: identificador, estado y clave."""
    query = "select run_uuid, status, tags.value from runs join tags using (run_uuid) where lifecycle_stage = 'active' and tags.key = ?"
    with closing(sqlite3.connect(folder / "mlflow.db")) as base:
        return [dict(zip(("id", "status", "key"), row, strict=True)) for row in base.execute(query, ["tierra.job.key"])]


def test_exactly_once(folder, tierra):
    """Tres SIGKILL a quien lo lleva, un worker muerto y un disco que se niega: 40 resultados, 40 cuadernos, 40 ejecuciones."""
    print(f"TIERRA_CHAOS_SEED={SEED}")
    chance, done = random.Random(SEED), {}

    def reached(target: int) -> Callable[[], bool]:
        return lambda: len(list_done(folder)) >= target

    def carry_on(target: int, trouble: Callable[[subprocess.Popen], None]) -> None:
        """Sigue con el lote hasta que haya unos cuantos hechos, y entonces algo va mal."""
        with started(tierra, folder) as runner:
            wait_until(runner, reached(target), folder)
            trouble(runner)
        now = list_done(folder)
        assert {key: now.get(key) for key in done} == done  # lo que estaba hecho no se ha vuelto a tocar
        done.update(now)

    def kill_runner(runner: subprocess.Popen) -> None:
        with suppress(subprocess.TimeoutExpired):
            runner.wait(chance.uniform(0, 0.5))  # un momento cualquiera de lo que tarda un trabajo
        runner.kill()

    def kill_worker(runner: subprocess.Popen) -> None:
        wait_until(runner, lambda: bool(list_cells(runner)), folder)
        with suppress(psutil.NoSuchProcess):
            chance.choice(list_cells(runner)).kill()
        wait_until(runner, reached(len(list_done(folder)) + 3), folder)
        kill_runner(runner)

    def fill_disk(runner: subprocess.Popen) -> None:
        psutil.Process(runner.pid).rlimit(psutil.RLIMIT_FSIZE, (4096, 4096))
        assert runner.wait(60) == 1
        assert "repite la orden" in (folder / "errors.log").read_text() or "revisa el límite" in (folder / "errors.log").read_text()

    carry_on(chance.randint(1, 6), kill_runner)
    carry_on(chance.randint(8, 12), kill_worker)
    carry_on(chance.randint(18, 22), fill_disk)
    carry_on(chance.randint(26, 32), kill_runner)
    last = subprocess.run(command(tierra), cwd=folder, capture_output=True, text=True, timeout=300)
    assert last.returncode == 0, last.stderr

    entries = read_ledger(folder / "lote")
    assert [entry.status for entry in entries] == ["done"] * JOBS
    assert [entry.returned for entry in entries] == [{"square": seed**2} for seed in range(JOBS)]
    now = {entry.key: entry for entry in entries}
    assert {key: now[key] for key in done} == done
    assert len(list((folder / "lote/notebooks").iterdir())) == JOBS
    for entry in entries:
        notebook = nbformat.read(folder / "lote" / entry.notebook, as_version=4)
        nbformat.validate(notebook)
        assert (notebook.metadata.tierra.key, notebook.metadata.tierra.run_id) == (entry.key, entry.run_id)
    runs = find_runs(folder)
    assert {run["id"]: run["key"] for run in runs} == {entry.run_id: entry.key for entry in entries} and len(runs) == JOBS
    assert {run["status"] for run in runs} == {"FINISHED"}
    kept = {path.name for path in (folder / "mlruns").rglob("*.ipynb") if json.loads(path.read_text())}
    assert kept == {Path(entry.notebook).name for entry in entries}


def test_nobody_is_left(folder):
    """De todas aquellas órdenes no queda ningún proceso."""
    left = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()).is_relative_to(folder):
                left.append(process.cmdline())
    assert not left
