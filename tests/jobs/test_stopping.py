"""Parar una orden con `kill`, `docker stop` o cerrando la terminal es como pararla con Ctrl-C: nada a medias y nada por recoger."""
import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from de_jupyter_a_la_tierra.jobs.ledger import read_ledger

HANG = """
import os
from pathlib import Path

print(f"empieza {n}", flush=True)
Path(f"begun-{n}").touch()
if n > 0:
    __import__("time").sleep(3600)
"""
SLOW = "model.type=random_forest,model.n_estimators=20000"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tierra) -> Path:
    """Una carpeta con datos, un cuaderno que no acaba y un sitio solo suyo para lo provisional."""
    folder = tmp_path_factory.mktemp("stopping")
    (folder / "tmp").mkdir()
    assert tierra("data", "--rows", "600", cwd=folder).returncode == 0
    notebook = new_notebook(cells=[new_code_cell("n: int = 1  # un número", metadata={"tags": ["parameters"]}), new_code_cell(HANG)])
    notebook.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "python3"}
    nbformat.write(notebook, folder / "hang.ipynb")
    return folder


def list_runs(folder: Path) -> list[str]:
    """El estado de las ejecuciones de MLflow que no se han deshecho."""
    with closing(sqlite3.connect(folder / "mlflow.db")) as base:
        return [status for [status] in base.execute("select status from runs where lifecycle_stage = 'active'")]


def start(folder: Path, tierra, *args: str) -> subprocess.Popen:
    """Una orden en marcha, con lo provisional en su sitio, y que oye lo que oiría la de una terminal.

    Quien lanza las pruebas con `nohup` deja SIGHUP desoída en todo lo que arrancan, y la orden, bien hecha, la desoiría también.
    """
    options = {"env": {**os.environ, "TMPDIR": str(folder / "tmp")}, "preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL)}
    return subprocess.Popen([tierra.path, *args], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **options)


def wait_until(order: subprocess.Popen, ready: Callable[[], bool]) -> None:
    """Espera a que pase algo; falla si la orden termina antes."""
    while not ready():
        try:
            order.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
        pytest.fail(order.stderr.read())


def read_until(order: subprocess.Popen, word: str) -> None:
    """Espera a que la orden diga algo."""
    for line in order.stderr:
        if word in line:
            return
    pytest.fail(f"la orden terminó sin decir «{word}»")


@contextmanager
def begin(folder: Path, tierra, *args: str, said: str = "", begun: tuple[str, ...] = ()) -> Iterator[subprocess.Popen]:
    """Una orden que está a mitad; al salir, ha acabado."""
    with start(folder, tierra, *args) as order:
        try:
            if said:
                read_until(order, said)
            wait_until(order, lambda: all((folder / name).exists() for name in begun))
            for name in begun:
                (folder / name).unlink()
            yield order
        finally:
            order.kill()


# --- En cualquier instante -----------------------------------------------------------------------------------------

INTERRUPTING = """
import os, signal, sys
from contextlib import suppress
from itertools import count
from random import Random
from threading import Timer

import mlflow.tracking, sqlalchemy
from de_jupyter_a_la_tierra.cli.main import main

def interrupt_at(moment, delay):
    numbers = count()
    def note(*_):
        if next(numbers) == moment:  # justo entonces, o un poco después: en cualquier línea de MLflow
            Timer(delay, os.kill, (os.getpid(), signal.SIGINT)).start() if delay else signal.raise_signal(signal.SIGINT)
    sqlalchemy.event.listen(sqlalchemy.engine.Engine, "before_cursor_execute", note)

for seed in range(int(sys.argv[1]), int(sys.argv[2])):
    if child := os.fork():
        print(seed, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    code, chance, target = 0, Random(seed), f"once-{seed}"
    interrupt_at(chance.randrange(150), chance.choice([0, 0.01]) * chance.random())
    alone = ["-o", f"{target}.ipynb"], ["--grid", "n=0,-1,-2", "--out", target, "--workers", "2"]
    try:
        main(["jobs", "run", "hang.ipynb", "-p", "n=0", *alone[0]] if chance.random() < 0.3 else ["jobs", "run", "hang.ipynb", *alone[1]])
    except SystemExit as end:
        code = end.code
    os._exit(code)
"""


@pytest.mark.parametrize(("first", "last"), [(0, 2), pytest.param(2, 42, marks=pytest.mark.long)])
def test_ctrl_c_at_any_moment(folder, tierra, tmp_path, first, last):
    """En cualquier instante, también mientras MLflow escribe: nada a medias, ni en él ni en el libro, y MLflow no se queda cerrado."""
    shutil.copy(folder / "hang.ipynb", tmp_path)
    assert tierra("jobs", "run", "hang.ipynb", "-p", "n=0", "-o", "once.ipynb", cwd=tmp_path).returncode == 0  # que su base exista
    done = subprocess.run([tierra.path.with_name("python"), "-c", INTERRUPTING, str(first), str(last)], cwd=tmp_path, capture_output=True, text=True)
    codes = {int(seed): int(code) for seed, code in (line.split() for line in done.stdout.splitlines() if line[:1].isdigit() and line.count(" ") == 1)}
    assert list(codes) == [*range(first, last)] and {*codes.values()} <= {0, 130} and 130 in codes.values(), done.stdout + done.stderr
    assert "Traceback" not in done.stderr and "a medias" not in done.stderr, done.stderr
    assert set(list_runs(tmp_path)) <= {"FINISHED", "FAILED"}
    assert not [record for path in tmp_path.glob("once-*/batch.db") for record in read_ledger(path.parent) if record.status == "running"]


ORDERS = {  # la orden, cómo se sabe que está a mitad, y qué ha de decir además
    "batch": (["jobs", "run", "hang.ipynb", "--grid", "n=1,2", "--out", "lote", "--workers", "2"], {"begun": ("begun-1", "begun-2")}, "la misma orden sigue por donde iba"),
    "job": (["jobs", "run", "hang.ipynb", "-o", "job.ipynb"], {"begun": ("begun-1",)}, "está en «job.ipynb»: la misma orden lo empieza otra vez"),
    "run": (["run", "--params", SLOW], {"said": "mark_evaluation"}, "Interrumpido"),
    "sweep": (["sweep", "--grid", "model.type=random_forest", "--grid", "model.n_estimators=20000"], {"said": "mark_evaluation"}, "Interrumpido"),
}


@pytest.mark.parametrize(("number", "name"), [
    *((signal.SIGTERM, name) for name in ORDERS),
    *(pytest.param(number, name, marks=pytest.mark.long) for number, name in [(signal.SIGHUP, "job"), (signal.SIGINT, "sweep")]),
])
def test_a_signal_stops_an_order(folder, tierra, number, name):
    """Con la señal que sea: su código, cómo seguir, ninguna ejecución abierta, ningún proceso y nada provisional."""
    args, ready, says = ORDERS[name]
    with begin(folder, tierra, *args, **ready) as order:
        family = psutil.Process(order.pid).children(recursive=True)
        order.send_signal(number)
        said = order.stderr.read()
        order.wait(30)
    assert order.returncode == 128 + number, said
    assert says in said and said.splitlines()[-1].endswith("Para seguir, repite la orden.") and "Traceback" not in said
    assert not psutil.wait_procs(family, timeout=30)[1]
    assert list((folder / "tmp").iterdir()) == []
    runs = list_runs(folder)
    assert "RUNNING" not in runs and "FINISHED" not in runs


LATE = """
import os, signal, sys, threading

threading.Thread(target=threading.Event().wait, daemon=True).start()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
from de_jupyter_a_la_tierra.cli.main import main
main(sys.argv[1:])
"""


@pytest.mark.timeout(60)
def test_a_signal_that_wakes_nobody(folder, tierra):
    """Si la señal llega justo antes de ponerse a esperar, nadie despierta; el lote se entera igual, y pronto.

    Ese instante es cuestión de suerte: aquí la oye un hilo que no es el que espera, que viene a ser lo mismo.
    """
    args = [tierra.path.with_name("python"), "-c", LATE, *ORDERS["batch"][0][:-4], "--out", "tarde", "--workers", "2"]
    with subprocess.Popen(args, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as order:
        try:
            wait_until(order, lambda: (folder / "begun-1").exists() and (folder / "begun-2").exists())
            time.sleep(1)  # que ya esté esperando
            order.terminate()
            said = order.stderr.read()
            assert order.wait(20) == 143 and "la misma orden sigue por donde iba" in said, said
        finally:
            order.kill()
            for number in (1, 2):
                (folder / f"begun-{number}").unlink(missing_ok=True)


def test_what_a_batch_did_not_finish_is_pending(folder):
    """Del lote que se paró no hay nada hecho ni fallado: la misma orden lo hace."""
    assert [entry.status for entry in read_ledger(folder / "lote")] == ["pending"] * 2


def test_the_next_order_collects_what_a_dead_one_left(folder, tierra):
    """A quien lo matan no le da tiempo a recoger; lo hace la orden siguiente, y no toca lo de quien sigue vivo ni lo ajeno."""
    place = folder / "tmp"
    with begin(folder, tierra, "jobs", "run", "hang.ipynb", "-o", "alive.ipynb", begun=("begun-1",)) as alive:
        kept = set(place.iterdir())
        with begin(folder, tierra, "jobs", "run", "hang.ipynb", "-o", "dead.ipynb", "-p", "n", "2", begun=("begun-2",)) as dead:
            left = set(place.iterdir()) - kept
            dead.kill()
        assert left and left <= set(place.iterdir())
        (place / "tierra-ajena").mkdir()
        with start(folder, tierra, "jobs", "run", "hang.ipynb", "-o", "last.ipynb", "-p", "n", "0") as last:
            said = last.stderr.read()
        assert last.returncode == 0, said
        assert set(place.iterdir()) == kept | {place / "tierra-ajena"}
        alive.terminate()
        alive.stderr.read()
        alive.wait(30)
    assert alive.returncode == 143 and list(place.iterdir()) == [place / "tierra-ajena"]
    shutil.rmtree(place / "tierra-ajena")


SHARED = """
import os, time
import numpy as np
from de_jupyter_a_la_tierra.parameters.returned import hand_back

ballast = np.ones((320 << 20) // 8)
children = []
for _ in range(4):
    if not (pid := os.fork()):
        ballast.sum()
        time.sleep(1.5)
        os._exit(0)
    children.append(pid)
for pid in children:
    os.waitpid(pid, 0)
"""


def test_shared_memory_is_counted_once(folder, tierra):
    """Una matriz de 320 MiB y cuatro hijos que la leen caben en 700: no es cinco veces la matriz."""
    notebook = nbformat.read(folder / "hang.ipynb", as_version=4)
    notebook.cells[1].source = SHARED
    nbformat.write(notebook, folder / "shared.ipynb")
    done = tierra("jobs", "run", "shared.ipynb", "--memory", "700", "-o", "shared.out.ipynb", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert 320 < nbformat.read(folder / "shared.out.ipynb", as_version=4).metadata.tierra.peak_memory_mb < 700
