"""Los lotes por la puerta de la terminal: lo mal pedido, lo que falla, lo que se interrumpe y lo que sigue."""
import io
import json
import os
import pty
import re
import signal
import sqlite3
import stat
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import closing, nullcontext, suppress
from functools import partial
from itertools import count
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace

import nbformat
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from de_jupyter_a_la_tierra.cli import dispatch
from de_jupyter_a_la_tierra.cli.jobs import jobs
from de_jupyter_a_la_tierra.engine.processes import warm_context
from de_jupyter_a_la_tierra.errors import TierraError, UsageError, WorkError
from de_jupyter_a_la_tierra.jobs.batch import (
    LocalExecutor,
    Policy,
    close_run,
    name_copy,
    recover,
    run_batch,
    write_copy,
)
from de_jupyter_a_la_tierra.jobs.cluster import ClusterLost
from de_jupyter_a_la_tierra.jobs.ledger import JobRecord, Ledger, lock_batch, read_ledger
from de_jupyter_a_la_tierra.jobs.plan import identify_jobs, plan_batch
from de_jupyter_a_la_tierra.jobs.runner import build_call, run_job, run_once
from de_jupyter_a_la_tierra.jobs.runs import Runs
from de_jupyter_a_la_tierra.jobs.supervision import Supervised, ending, supervise
from de_jupyter_a_la_tierra.projects.project import Project, find_project

PARAMETERS = """
n: int = 1  # un número, [0, 100]
what: str = "square"  # qué se hace con él; uno de: square, fail, hang, grow, die, once, full, choke
path: str = ""  # un fichero de entrada
"""
SOURCE = """
import os
import resource
import time
from pathlib import Path
from de_jupyter_a_la_tierra.parameters.returned import hand_back

print(f"empieza {n}")
if what == "fail":
    raise ValueError("no puede ser")
if what == "hang":
    time.sleep(600)
if what == "grow":
    ballast = bytearray(b"x") * (1 << 30)
    time.sleep(600)
if what == "full":
    open("/dev/full", "w").write("x" * 9000)
if what == "choke":  # quien guarda el cuaderno se queda sin sitio
    resource.prlimit(os.getppid(), resource.RLIMIT_FSIZE, (9000, 9000))
    print("x" * 20000)
if what == "die":
    os.kill(os.getpid(), 9)
if what == "once" and not Path(f"once-{n}").exists():
    Path(f"once-{n}").touch()
    raise ValueError("la primera vez, no")
"""


def write_notebook(path: Path, title: str = "# Un número", source: str = SOURCE) -> Path:
    """Un cuaderno que, según se le pida, hace una cuenta, falla, se cuelga, engorda o muere."""
    cells = [
        new_markdown_cell(title), new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), new_code_cell(source),
        new_code_cell("hand_back(square=n ** 2)"),
    ]
    notebook = new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "python3"}
    nbformat.write(notebook, path)
    return path


@pytest.fixture(scope="module")
def executor():
    """Dos procesos a la vez, los mismos para todo lo que se prueba sin terminal."""
    with LocalExecutor(2) as executor:
        yield executor


@pytest.fixture
def project(tmp_path) -> Project:
    """Un proyecto sin MLflow, con su cuaderno."""
    write_notebook(tmp_path / "number.ipynb")
    return Project(tmp_path, "numbers", tmp_path / "conf", installed=False)


@pytest.fixture
def batch(project, monkeypatch) -> Callable[..., tuple]:
    """Hace un lote con los valores que se digan y devuelve lo que salió y el libro."""
    monkeypatch.chdir(project.root)

    def run(*values: dict, executor=2, **policy):
        notebook = project.root / "number.ipynb"
        summary = run_batch(project, notebook, identify_jobs(notebook, list(values), project.root), project.root / "lote", executor, Policy(**policy))
        return summary, read_ledger(project.root / "lote")

    return run


def read_copy(project: Project, entry: JobRecord) -> nbformat.NotebookNode:
    """El cuaderno ejecutado de un trabajo, comprobado."""
    notebook = nbformat.read(project.root / "lote" / entry.notebook, as_version=4)
    nbformat.validate(notebook)
    return notebook


# --- Lo que puede pasarle a un trabajo ------------------------------------------------------------------------------


def test_one_of_each(project, batch):
    """Uno sale bien y los otros fallan cada uno a su manera: todos dejan su copia y su razón, y ninguno para a los demás."""
    asked = ("square", "fail", "hang", "grow", "die")
    summary, entries = batch(*({"n": 7, "what": what} for what in asked), timeout=6, memory=700)
    assert (summary.done, summary.failed, summary.left) == (1, 4, 0)
    assert [entry.status for entry in entries] == ["done"] + ["failed"] * 4
    reasons = ("", "ValueError: no puede ser", "no había terminado a los 6 s", "pasó de los 700 MiB", "ha muerto a mitad")
    assert all(reason in entry.error for entry, reason in zip(entries, reasons, strict=True))
    assert entries[0].returned == {"square": 49} and entries[0].parameters == {"n": 7, "what": "square"}
    assert entries[3].peak_memory_mb > 700 > entries[0].peak_memory_mb > 10
    assert 6 < entries[2].seconds < 16 and entries[0].attempts == 1
    for entry, what in zip(entries, asked, strict=True):
        copy = read_copy(project, entry)
        assert "empieza 7" in json.dumps(copy) and copy.metadata.tierra.key == entry.key
        assert any(output.output_type == "error" for cell in copy.cells for output in cell.get("outputs", [])) == (what != "square")
    hung = [output.ename for cell in read_copy(project, entries[2]).cells for output in cell.get("outputs", []) if output.output_type == "error"]
    assert "KeyboardInterrupt" in hung  # se sabe dónde estaba


def test_retries(batch):
    """Lo que falla se repite las veces que se pida, y la siguiente orden lo intenta otra vez; lo hecho, nunca."""
    summary, entries = batch({"n": 1, "what": "once"}, {"n": 2, "what": "fail"}, retries=1)
    assert (summary.done, summary.failed) == (1, 1)
    assert [(entry.status, entry.attempts) for entry in entries] == [("done", 2), ("failed", 2)]
    summary, entries = batch({"n": 1, "what": "once"}, {"n": 2, "what": "fail"})
    assert (summary.kept, summary.failed) == (1, 1) and [entry.attempts for entry in entries] == [2, 3]


def test_no_room_for_one_job(project, batch):
    """Si a un trabajo le falta sitio, en lo suyo o al guardar su cuaderno, se dice dónde; los demás siguen y se puede repetir."""
    asked = ({"n": 1, "what": "full"}, {"n": 2, "what": "choke"}, {"n": 3})
    summary, entries = batch(*asked)
    assert (summary.done, summary.failed) == (1, 2) and entries[2].returned == {"square": 9}
    assert "falló en la celda 3: no queda sitio en el disco. Lo provisional se escribe en «" in entries[0].error
    assert re.search(r"^No se pudo guardar el cuaderno según se ejecuta en «.+»: el sistema no deja escribir", entries[1].error)
    for entry in entries:
        assert read_copy(project, entry).metadata.tierra.error == entry.error
    again, entries = batch(*asked)
    assert (again.kept, again.failed) == (1, 2) and [entry.attempts for entry in entries] == [2, 2, 1]


def test_fail_fast(batch):
    """Al primer fallo se para lo que esté en marcha, y lo demás queda esperando a que se repita la orden."""
    summary, entries = batch({"n": 1, "what": "fail"}, *({"n": n, "what": "hang"} for n in range(2, 6)), fail_fast=True)
    assert (summary.failed, summary.left) == (1, 4)
    assert [entry.status for entry in entries] == ["failed"] + ["pending"] * 4


def test_runs_on_any_executor(project, batch, executor):
    """El lote solo pide un `Executor`: este ya estaba abierto, y son dos hilos."""
    summary, _ = batch({"n": 3}, {"n": 4}, executor=executor)
    assert summary.done == 2


def test_fail_fast_lets_a_retry(batch):
    """Parar al primer fallo no quita los reintentos: falla quien ya no tiene más."""
    summary, entries = batch({"n": 1, "what": "once"}, {"n": 2}, retries=1, fail_fast=True)
    assert (summary.done, summary.failed) == (2, 0) and entries[0].attempts == 2


def run_with(project: Project, *values: dict, executor, progress: Callable = lambda entry: None, **policy):
    """Hace un lote con alguien que lo mira o con otro que lo hace."""
    notebook = project.root / "number.ipynb"
    jobs = identify_jobs(notebook, list(values), project.root)
    return run_batch(project, notebook, jobs, project.root / "lote", executor, Policy(**policy), progress)


def test_no_more_jobs_are_started_than_can_be_done(project):
    """En marcha están los que se hacen y uno que espera; lo demás sigue pendiente, y así lo dice el libro."""
    running, most = set(), []

    def watch(entry: JobRecord) -> None:
        (running.add if entry.status == "running" else running.discard)(entry.key)
        most.append(len(running))

    assert run_with(project, *({"n": n} for n in range(5)), executor=1, progress=watch).done == 5
    assert max(most) == 2


def test_a_finished_job_is_noted_last(project, monkeypatch):
    """Primero la copia, después MLflow y al final el libro; y de los intentos que fallaron no queda ejecución."""
    runs, seen, folder = MemoryRuns(), [], project.root / "lote"

    def watch(runs: Runs, folder: Path, entry: JobRecord) -> None:
        seen.append((entry.status, len(runs.known), [(kept.status, (folder / kept.notebook).exists()) for kept in read_ledger(folder)]))
        close_run(runs, folder, entry)

    monkeypatch.chdir(project.root)
    monkeypatch.setattr("de_jupyter_a_la_tierra.jobs.batch.open_runs", lambda project: runs)
    monkeypatch.setattr("de_jupyter_a_la_tierra.jobs.batch.close_run", watch)
    run_with(project, {"n": 1, "what": "once"}, executor=1, retries=1)
    [entry] = read_ledger(folder)
    assert seen == [("failed", 1, [("running", True)]), ("done", 1, [("running", True)])]
    assert {run: told["status"] for run, told in runs.known.items()} == {entry.run_id: "FINISHED"}


def test_the_ledger_agrees_with_nobody_while_it_works(project, monkeypatch):
    """La seña se pone al acabar y se quita antes de abrir la primera ejecución: un corte justo entonces no se le escapa a nadie."""
    runs, at_opening, folder = MemoryRuns(), [], project.root / "lote"
    opened = runs.open
    runs.open = lambda *args, **kwargs: (at_opening.append(ask(folder)), opened(*args, **kwargs))[1]

    def ask(folder: Path) -> str:
        with closing(Ledger(folder)) as ledger:
            return ledger.synced_with

    monkeypatch.chdir(project.root)
    monkeypatch.setattr("de_jupyter_a_la_tierra.jobs.batch.open_runs", lambda project: runs)
    for n in (1, 2):
        run_with(project, {"n": n, "what": "square"}, executor=1)
        assert ask(folder) == runs.place
    assert at_opening == ["", ""]


class LostExecutor(Executor):
    """Un clúster que se pierde en cuanto se le encarga algo."""

    slots = 1

    def submit(self, fn, *args, **kwargs):
        future = Future()
        future.set_exception(ClusterLost("ya no está"))
        return future


def test_a_lost_cluster_fails_no_job(project):
    """Si se pierde quien los hace, la orden acaba diciéndolo y los trabajos siguen pendientes: no son ellos los que fallan."""
    with pytest.raises(ClusterLost, match="ya no está"):
        run_with(project, {"n": 1}, {"n": 2}, executor=LostExecutor())
    assert [(entry.status, entry.error) for entry in read_ledger(project.root / "lote")] == [("pending", "")] * 2


LOCKED = """
import fcntl, os
from de_jupyter_a_la_tierra.parameters.returned import hand_back
try:
    fcntl.flock(open("lote/jobs.lock", "a"), fcntl.LOCK_EX | fcntl.LOCK_NB)
    hand_back(free=True)
except BlockingIOError:
    hand_back(free=False)
hand_back(place=os.environ["TIERRA_WORKSPACE"])
"""


def test_who_works_holds_the_lock_of_the_batch(project, batch):
    """Mientras un trabajo vive, el cerrojo que esperaría la orden siguiente está cogido; y cada uno tiene su taller."""
    write_notebook(project.root / "number.ipynb", source=LOCKED)
    _, entries = batch({"n": 1}, {"n": 2})
    assert [entry.returned["free"] for entry in entries] == [False, False]
    assert len({entry.returned["place"] for entry in entries}) == 2


STUBBORN = """
import subprocess, sys, time
told = "import pathlib, signal, time; signal.signal(2, lambda *_: pathlib.Path('told').touch()); pathlib.Path('ready').touch(); time.sleep(60)"
subprocess.Popen([sys.executable, "-c", told])
print("a medias", flush=True)
while True:
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        print("no quiero", flush=True)
"""


def test_a_stubborn_cell_is_killed_and_its_copy_kept(project, monkeypatch):
    """A la celda que no hace caso se la mata; lo que escribió queda, y a lo que ella arrancó no se lo interrumpe."""
    monkeypatch.chdir(project.root)
    monkeypatch.setattr("de_jupyter_a_la_tierra.jobs.supervision.GRACE", 2)
    notebook = write_notebook(project.root / "number.ipynb", source=STUBBORN)
    result = run_once(build_call(project, notebook, {}, project.root / "out.ipynb", timeout=1.5))
    assert result["status"] == "timeout" and 3 < result["seconds"] < 6
    shown = "".join("".join(output.get("text", [])) for cell in json.loads(result["notebook"])["cells"] for output in cell.get("outputs", []))
    assert shown == "a medias\nno quiero\n"
    assert Path("ready").exists() and not Path("told").exists()


def test_an_interruption_out_of_a_cell_is_not_heard(project):
    """Un Ctrl-C que alcanza a quien guarda la copia no la pierde: interrumpir es cosa de la celda."""
    source = "import os, signal, time\nos.kill(os.getppid(), signal.SIGINT)\ntime.sleep(0.2)\nprint('sigue')"
    payload = build_call(project, write_notebook(project.root / "number.ipynb", source=source), {}, project.root / "out.ipynb")
    result = run_once({**payload, "notebook": payload["notebook"].replace("hand_back(square=n ** 2)", "1 + 1")})
    assert (result["status"], result["error"]) == ("done", "") and "sigue" in result["notebook"]


def test_a_job_finds_the_environment_of_its_order(project, monkeypatch):
    """Una variable que ya no está no sobrevive en los procesos calientes que arrancaron con ella."""
    source = "import os, colorsys\nfrom de_jupyter_a_la_tierra.parameters.returned import hand_back\nhand_back(left=os.getenv('LEFT', ''))"
    payload = build_call(project, write_notebook(project.root / "number.ipynb", source=source), {}, project.root / "out.ipynb")
    monkeypatch.setenv("LEFT", "sí")
    assert run_once(payload)["returned"]["left"] == "sí"
    assert run_once({**payload, "env": {"LEFT": "la suya"}})["returned"]["left"] == "la suya"
    monkeypatch.delenv("LEFT")
    assert run_once(payload)["returned"]["left"] == ""


@pytest.mark.parametrize(("left", "watched", "status"), [
    ('{"cells": [', Supervised(None, ""), "died"),
    (None, Supervised({"status": "done"}, "timeout"), "done"),
    (None, Supervised({"status": "died"}, "memory"), "memory"),
])
def test_what_the_process_left_is_judged(project, monkeypatch, left, watched, status):
    """Una copia a medias no es una copia: queda el cuaderno; y quien llegó a terminar, terminó, aunque ya se le fuera a parar."""
    target = project.root / "out.ipynb"

    def watch(*args) -> Supervised:
        if left:
            target.write_text(left)
        return watched

    monkeypatch.setattr("de_jupyter_a_la_tierra.jobs.runner.ending", nullcontext)
    monkeypatch.setattr("de_jupyter_a_la_tierra.jobs.runner.supervise", watch)
    payload = build_call(project, project.root / "number.ipynb", {}, target, target=str(target), memory=1.0)
    result = run_once(payload)
    assert result["status"] == status and bool(result["error"]) == (status != "done")
    assert len(json.loads(result["notebook"])["cells"]) == 4


def test_a_loose_job_is_closed_and_its_copy_is_whole(project, monkeypatch):
    """Mientras se escribe la copia sellada vale la que dejó papermill; y, pase lo que pase, la ejecución se cierra."""
    runs, output = MemoryRuns(), project.root / "out.ipynb"
    monkeypatch.setattr("de_jupyter_a_la_tierra.jobs.runner.open_runs", lambda project: runs)
    monkeypatch.setattr(MemoryRuns, "open", lambda self, name, values, tags: self.known.setdefault("loose", {"status": "RUNNING"}) and "loose")

    def leave(payload: dict, echo: object) -> dict:
        output.write_text("la de papermill")
        return {"status": "done", "notebook": "\udc80", "returned": {}}

    monkeypatch.setattr("de_jupyter_a_la_tierra.jobs.runner.run_once", leave)
    with pytest.raises(UnicodeEncodeError):
        run_job(project, str(project.root / "number.ipynb"), output=output)
    assert output.read_text() == "la de papermill" and runs.known["loose"]["status"] == "FAILED"


def test_who_does_not_answer_is_not_waited_for(monkeypatch):
    """A quien ni contesta ni muere se le deja de esperar, no queda vivo, y de su memoria se sabe lo más que fue."""
    sizes = iter([5.0, 99.0])
    monkeypatch.setattr("de_jupyter_a_la_tierra.jobs.supervision.GRACE", 0.3)
    monkeypatch.setattr("de_jupyter_a_la_tierra.jobs.supervision.measure_memory", lambda *_: next(sizes, 1.0))
    process, (ours, theirs) = warm_context([]).Process(target=time.sleep, args=(30,)), Pipe(duplex=False)
    with ours, theirs, ending(process):
        begun = time.monotonic()
        watched = supervise(process, ours, timeout=0.4)
    assert time.monotonic() - begun < 10 and process.exitcode < 0
    assert (watched.answer, watched.reason, watched.peak) == (None, "timeout", 99.0)


# --- Qué es el mismo trabajo ------------------------------------------------------------------------------------------


def test_what_makes_another_job(project, monkeypatch):
    """El código, los valores, los ficheros de entrada y las versiones hacen otro trabajo; la prosa y las salidas, no."""
    monkeypatch.chdir(project.root)
    notebook, data = project.root / "number.ipynb", project.root / "data.csv"
    data.write_text("a,b\n")

    def key(**values) -> str:
        [found] = identify_jobs(notebook, [values], project.root)
        return found

    first, with_file = key(n=2), key(n=2, path="data.csv")
    assert len({first, with_file, key(n=3), key(n=2, what="fail")}) == 4
    assert key(n=2, what="square") == first and key(what="square", n=2) == first
    data.write_text("a,b,c\n")
    assert key(n=2) == first and key(n=2, path="data.csv") != with_file
    write_notebook(notebook, title="# Otra prosa")
    assert key(n=2) == first
    [declared] = identify_jobs(notebook, [{"n": 2}], project.root, [data])
    assert declared != first
    write_notebook(notebook, source=SOURCE + "# otra línea")
    changed = key(n=2)
    assert changed != first
    monkeypatch.setattr("de_jupyter_a_la_tierra.jobs.plan.hash_versions", lambda: "otras")
    assert key(n=2) != changed


def test_a_changed_notebook_is_run_again(project, batch):
    """Al cambiar el código se hacen todos otra vez; al deshacer el cambio, los de antes siguen hechos."""
    batch({"n": 1}, {"n": 2})
    write_notebook(project.root / "number.ipynb", source=SOURCE + "# otra línea")
    assert batch({"n": 1}, {"n": 2})[0].done == 2
    write_notebook(project.root / "number.ipynb")
    summary, entries = batch({"n": 1}, {"n": 2}, {"n": 3})
    assert (summary.done, summary.kept) == (1, 2) and [entry.returned["square"] for entry in entries] == [1, 4, 9]


def test_a_lost_copy_is_done_again_and_a_lost_ledger_is_not(project, batch):
    """La copia es la verdad: si se borra, se repite; si se pierde el libro, se recompone con ellas."""
    _, entries = batch({"n": 1}, {"n": 2})
    (project.root / "lote" / entries[0].notebook).unlink()
    assert batch({"n": 1}, {"n": 2})[0].done == 1
    (project.root / "lote/batch.db").unlink()
    summary, again = batch({"n": 1}, {"n": 2})
    assert summary.kept == 2 and [entry.returned for entry in again] == [{"square": 1}, {"square": 4}]


# --- Lo que queda en el disco -----------------------------------------------------------------------------------------


def test_a_copy_is_on_disk_before_it_counts(tmp_path, monkeypatch):
    """Primero el contenido al disco, luego el nombre, y al final la carpeta: la copia de antes vale hasta el cambio."""
    path, seen, sync = tmp_path / "notebooks/001.ipynb", [], os.fsync

    def watch(number: int) -> None:
        seen.append((stat.S_ISDIR(os.fstat(number).st_mode), path.read_text() if path.exists() else None))
        sync(number)

    monkeypatch.setattr(os, "fsync", watch)
    write_copy(path, "una")
    write_copy(path, "otra")
    assert seen == [(False, None), (True, "una"), (False, "una"), (True, "otra")]


def test_the_ledger_is_synchronous_and_registers_all_or_nothing(tmp_path):
    """El libro llega al disco en cada apunte, y si registrar falla a mitad queda como estaba."""
    with closing(Ledger(tmp_path)) as ledger:
        assert ledger._base.execute("pragma synchronous").fetchone() == (2,)
        ledger.register({"a": {}})
        ledger._base.execute("create trigger no before insert on jobs when new.key = 'c' begin select raise(abort, 'no cabe'); end")
        with pytest.raises(WorkError, match="no cabe"):
            ledger.register({"b": {}, "c": {}})
    assert [entry.key for entry in read_ledger(tmp_path)] == ["a"]


class MemoryRuns(Runs):
    """Las ejecuciones, en la memoria: de cada una, su trabajo, cómo está, cuándo empezó y cuándo acabó."""

    def __init__(self, **opened: str):
        self.known = {run: {"key": key, "status": "RUNNING", "ended": None} for run, key in opened.items()}
        self.names, self.place, self.complete = (f"new{number}" for number in count()), "memoria", True

    def open(self, name, values, tags=None, started=None):
        run = next(self.names)
        self.known[run] = {"key": tags["tierra.job.key"], "status": "RUNNING", "started": started}
        return run

    def close(self, run_id, notebook, done=True, values=None, metrics=None, ended=None):
        assert notebook.exists()
        self.known[run_id] |= {"status": "FINISHED" if done else "FAILED", "ended": ended}

    def find(self, tag, value):
        return [
            SimpleNamespace(info=SimpleNamespace(run_id=run, status=told["status"]), data=SimpleNamespace(tags={"tierra.job.key": told["key"]}))
            for run, told in self.known.items()
        ]

    def discard(self, run_id):
        self.known.pop(run_id, None)

    def environment(self, run_id, remote=False):
        return {}


def seal(folder: Path, entry: JobRecord, key: str, run_id: str, status: str = "done") -> str:
    """Deja la copia de un trabajo, como la de quien murió antes de apuntarla."""
    told = {"key": key, "status": status, "started": 100.0, "seconds": 5.0, "peak_memory_mb": 80.0, "run_id": run_id}
    write_copy(folder / name_copy(entry, "number"), json.dumps({"cells": [], "metadata": {"tierra": told}}))
    return name_copy(entry, "number")


def test_what_was_cut_is_settled(tmp_path):
    """Se adopta lo que terminó bien y es suyo, con su hora; lo demás se deshace, y no quedan borradores."""
    kinds = ("finished", "failed", "stranger", "twice", "unnoted", "closed")
    keys = {kind: f"{number:08x}{kind}" for number, kind in enumerate(kinds)}
    runs = MemoryRuns(r1=keys["finished"], r2=keys["failed"], r3=keys["stranger"], r4=keys["twice"], r4b=keys["twice"], r6=keys["closed"])
    with closing(Ledger(tmp_path)) as ledger:
        ledger.register({key: {"n": 1} for key in keys.values()})
        entries = dict(zip(kinds, ledger.list_records(), strict=True))
        for kind in ("finished", "failed", "stranger"):
            entries[kind] = ledger.update(entries[kind], status="running")
        seal(tmp_path, entries["finished"], keys["finished"], "r1")
        seal(tmp_path, entries["failed"], keys["failed"], "r2", "failed")
        seal(tmp_path, entries["stranger"], f"{keys['stranger'][:8]}otro", "r3")  # las mismas ocho letras
        for kind, run, status in (("twice", "r4", "done"), ("unnoted", "", "done"), ("closed", "r6", "failed")):
            copy = seal(tmp_path, entries[kind], keys[kind], run, status)
            ledger.update(entries[kind], status=status, notebook=copy, run_id=run, started=100.0, seconds=5.0)
        (tmp_path / "notebooks/.007.ipynb.x.tmp").touch()
        recover(ledger, runs, tmp_path, "number")
        assert [entry.status for entry in ledger.list_records()] == ["done", "pending", "pending", "done", "done", "failed"]
        assert [entry.run_id for entry in ledger.list_records()][:5] == ["r1", "", "", "r4", "new0"]
    told = {run: (known["key"], known["status"], known["ended"]) for run, known in runs.known.items()}
    assert told == {
        "r1": (keys["finished"], "FINISHED", 105.0), "r4": (keys["twice"], "FINISHED", 105.0), "r6": (keys["closed"], "FAILED", 105.0),
        "new0": (keys["unnoted"], "FINISHED", 105.0),
    }
    assert runs.known["new0"]["started"] == 100.0 and not list((tmp_path / "notebooks").glob(".*"))


# --- Lo mal pedido ----------------------------------------------------------------------------------------------------

BAD = {  # la orden → código de salida y parte de la frase
    "unknown job": (["entrena"], 2, "No existe el trabajo «entrena»"),
    "unknown path": (["nada.ipynb"], 2, "No existe el cuaderno «nada.ipynb»"),
    "not a notebook": (["broken.ipynb"], 2, "no es un cuaderno de Jupyter"),
    "unknown parameter": (["number.ipynb", "-p", "m=3"], 2, "No existe el parámetro «m»."),
    "unknown in the grid": (["number.ipynb", "--grid", "wat=square,fail"], 2, "¿Querías decir «what»?"),
    "wrong type": (["number.ipynb", "-p", "n", "muchos"], 2, "ha de ser un número entero, y es 'muchos'"),
    "out of range": (["number.ipynb", "--grid", "n=1,101"], 2, "ha de estar en [0, 100], y es 101"),
    "not a choice": (["number.ipynb", "-p", "what=sqare"], 2, "¿Querías decir «square»?"),
    "twice in the grid": (["number.ipynb", "--grid", "n=1", "--grid", "n=2"], 2, "está dos veces en la rejilla"),
    "a folder of something else": (["number.ipynb", "--grid", "n=1", "--out", "."], 2, "tiene dentro otras cosas"),
    "a folder as a copy": (["number.ipynb", "-o", "."], 2, "es una carpeta: di también el nombre"),
    "not a grid": (["number.ipynb", "--grid", "n"], 2, "no es una rejilla: se escribe clave=valor"),
    "given twice": (["number.ipynb", "-p", "n=1", "--grid", "n=1,2"], 2, "«n» se da dos veces"),
    "no file of values": (["number.ipynb", "-f", "nada.yml"], 2, "No se pueden leer los parámetros de «nada.yml»"),
    "no table": (["number.ipynb", "--table", "nada.csv"], 2, "No existe el fichero «nada.csv»"),
    "odd table": (["number.ipynb", "--table", "number.ipynb"], 2, "ha de acabar en .csv, .jsonl o .parquet"),
    "bad row": (["number.ipynb", "--table", "runs.csv"], 2, "En «runs.csv», línea 3: El parámetro «n»"),
    "bad line": (["number.ipynb", "--table", "runs.jsonl"], 2, "En «runs.jsonl», línea 2: hace falta un objeto de JSON"),
    "lost input": (["number.ipynb", "--input", "nada/*.csv"], 2, "--input «nada/*.csv» no encuentra ningún fichero"),
    "two outputs": (["number.ipynb", "-o", "a.ipynb", "--out", "lote"], 2, "-o es para un trabajo suelto"),
    "odd address": (["number.ipynb", "--scheduler", "127.0.0.1:9"], 2, "no es la dirección de un planificador"),
    "nobody there": (["number.ipynb", "--scheduler", "tcp://127.0.0.1:9"], 1, "no contesta ningún planificador"),
    "lost certificates": (["number.ipynb", "--out", "lote", "--tls-ca", "ca.pem"], 2, "falta --scheduler tls://"),
    "only certificates": (["number.ipynb", "--tls-ca", "ca.pem"], 2, "falta --scheduler tls://"),
    "workers of a cluster": (["number.ipynb", "--workers", "2", "--scheduler", "tcp://127.0.0.1:9"], 2, "--workers es para esta máquina"),
    "out is a file": (["number.ipynb", "--out", "runs.csv"], 2, "es un fichero, y un lote necesita una carpeta"),
    "busy folder": (["number.ipynb", "--out", "busy"], 2, "Otra orden está trabajando en el lote «busy»"),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Una carpeta con lo que hace falta para pedir mal las cosas."""
    place = tmp_path_factory.mktemp("bad")
    write_notebook(place / "number.ipynb")
    (place / "broken.ipynb").write_text("{}")
    (place / "runs.csv").write_text("n\n3\nmuchos\n")
    (place / "runs.jsonl").write_text('{"n": 1}\n[1]\n')
    return place


@pytest.mark.parametrize(("args", "code", "says"), BAD.values(), ids=BAD)
def test_bad_calls(place, monkeypatch, args, code, says):
    """Lo mal pedido se dice en una frase y con su código, antes de que empiece nada."""
    monkeypatch.chdir(place)
    monkeypatch.setattr(dispatch, "open_executor", partial(dispatch.open_executor, timeout=1))
    before = sorted(place.rglob("*"))
    with lock_batch(place / "busy") if "busy" in args else nullcontext():
        error = CliRunner().invoke(jobs, ["run", *args]).exception
    assert isinstance(error, TierraError) and error.exit_code == code and says in str(error)
    assert not re.search(r"\n|Traceback|Errno", str(error))
    assert [path for path in sorted(place.rglob("*")) if path not in before and "busy" not in str(path)] == []


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["number.ipynb", "--workers", "0"], "--workers"),
        (["number.ipynb", "--timeout", "-1"], "--timeout"),
        (["number.ipynb", "--engine", "otro"], "--engine"),
        ([], "CUADERNO"),
        (["number.ipynb", "-p", "n"], "-p"),
    ],
    ids=["no workers", "negative", "engine", "nothing", "half a parameter"],
)
def test_bad_options(place, monkeypatch, args, says):
    """Y lo que no pasa de las opciones lo para Click, también con 2."""
    monkeypatch.chdir(place)
    done: Result = CliRunner().invoke(jobs, ["run", *args])
    assert done.exit_code == 2 and says in done.output


def test_reading_a_folder_without_a_batch(place, monkeypatch):
    """`table` y `report` de una carpeta cualquiera, en una frase."""
    monkeypatch.chdir(place)
    for order in ("table", "report"):
        error = CliRunner().invoke(jobs, [order, "nada"]).exception
        assert isinstance(error, UsageError) and "nada" in str(error)


# --- Por la terminal --------------------------------------------------------------------------------------------------


def find_runs(folder: Path) -> list[tuple[str, str]]:
    """Identificador y estado de las ejecuciones vivas de MLflow que son de un trabajo."""
    query = "select run_uuid, status from runs join tags using (run_uuid) where lifecycle_stage = 'active' and tags.key = 'tierra.job'"
    with closing(sqlite3.connect(folder / "mlflow.db")) as base:
        return base.execute(query).fetchall()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Una carpeta con el cuaderno, que con el paquete instalado ya es un proyecto con MLflow."""
    folder = tmp_path_factory.mktemp("batch")
    write_notebook(folder / "number.ipynb")
    (folder / "runs.csv").write_text("n;what\n1;square\n2;\n3;fail\n1;square\n")
    return folder


def test_from_the_terminal(folder, tierra):
    """Un lote de tres con uno malo: líneas, código 1 y, en MLflow, el enlace entre trabajo, cuaderno y ejecución."""
    done = tierra("jobs", "run", "number.ipynb", "--table", "runs.csv", "--out", "lote", "--workers", "2", cwd=folder)
    assert done.returncode == 1 and "Trabajos hechos: 2" in done.stdout
    assert "Trabajos repetidos: 1" in done.stderr
    assert "Trabajos que fallaron: 1." in done.stderr and "La misma orden los vuelve a intentar." in done.stderr
    assert len(re.findall(r"^\[\d/3\] (?:hecho|falló) en ", done.stderr, re.MULTILINE)) == 3 and "Traceback" not in done.stderr
    entries = read_ledger(folder / "lote")
    assert dict(find_runs(folder)) == {entry.run_id: {"done": "FINISHED", "failed": "FAILED"}[entry.status] for entry in entries}
    for entry in entries:
        notebook = nbformat.read(folder / "lote" / entry.notebook, as_version=4)
        assert notebook.metadata.tierra.run_id == entry.run_id
        [kept] = (folder / "mlruns").rglob(Path(entry.notebook).name)
        assert entry.run_id in kept.parts
    with closing(sqlite3.connect(folder / "mlflow.db")) as base:
        assert sorted(base.execute("select key, value from metrics").fetchall()) == [("square", 1.0), ("square", 4.0)]
        assert ("n", "3") in base.execute("select key, value from params").fetchall()


def test_an_idle_order_does_not_open_mlflow(folder, tierra):
    """Repetir un lote terminado no importa MLflow; si queda algo por recoger, aunque ya no se pida, sí, y se recoge."""
    order = ("jobs", "run", "number.ipynb", "--out", "quieto", "--workers", "1")
    assert tierra(*order, "--grid", "n=1,2", cwd=folder).returncode == 0
    known, loud = find_runs(folder), [tierra.path.with_name("python"), "-X", "importtime", tierra.path, *order, "--grid", "n=1"]

    def repeat() -> bool:
        """Repite la orden, que ahora pide uno solo, y dice si ha importado MLflow."""
        done = subprocess.run(loud, cwd=folder, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0 and "Trabajos hechos: 0, y 1 ya lo estaban" in done.stdout, done.stderr
        return bool(re.search(r"\| +mlflow$", done.stderr, re.MULTILINE))

    assert not repeat() and find_runs(folder) == known
    lost = next((folder / "quieto/notebooks").glob("002-*"))
    lost.unlink()  # ya no está hecho: su ejecución sobra
    assert repeat() and len(find_runs(folder)) == len(known) - 1
    assert not repeat()


def test_table_and_report(folder, tierra):
    """Lo que salió, en una tabla, en un CSV y en una página."""
    shown = tierra("jobs", "table", "lote", cwd=folder)
    assert shown.returncode == 0 and "square" in shown.stdout and "failed" in shown.stdout
    assert tierra("jobs", "table", "lote", "--csv", "tabla.csv", cwd=folder).returncode == 0
    assert len((folder / "tabla.csv").read_text().splitlines()) == 4
    told = tierra("jobs", "report", "lote", cwd=folder)
    [page] = re.findall(r"Informe +(\S+\.html)", told.stdout)
    assert "no puede ser" in (folder / page).read_text()


def test_ctrl_c(folder, tierra):
    """Ctrl-C: 130, la orden para seguir, ningún proceso suelto y ninguna ejecución a medias."""
    command = [tierra.path, "jobs", "run", "number.ipynb", "--grid", "n=1,2,3", "-p", "what=hang", "--out", "parado", "--workers", "2"]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True, start_new_session=True) as runner:
        while sum(entry.status == "running" for entry in read_entries(folder / "parado")) < 2:
            with suppress(subprocess.TimeoutExpired):
                runner.wait(0.05)
                pytest.fail(runner.stderr.read())
        family = psutil.Process(runner.pid).children(recursive=True)
        os.killpg(runner.pid, signal.SIGINT)
        said = runner.stderr.read()
    assert runner.returncode == 130 and "la misma orden sigue por donde iba" in said and "Traceback" not in said
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive
    assert [entry.status for entry in read_entries(folder / "parado")] == ["pending"] * 3
    assert "RUNNING" not in [status for _, status in find_runs(folder)]


def read_entries(folder: Path) -> list[JobRecord]:
    """El libro de un lote que quizá aún no existe."""
    with suppress(TierraError):
        return read_ledger(folder)
    return []


@pytest.mark.long
def test_a_person_sees_a_panel(folder, tierra):
    """En una terminal, un cuadro que se repinta."""
    ours, theirs = pty.openpty()
    command = [tierra.path, "jobs", "run", "number.ipynb", "--grid", "n=4,5,6", "--out", "visto", "--workers", "1"]
    with subprocess.Popen(command, cwd=folder, stderr=theirs, stdout=subprocess.DEVNULL) as runner:
        os.close(theirs)
        shown = io.BytesIO()
        with suppress(OSError):  # así acaba una terminal en Linux
            while data := os.read(ours, 4096):
                shown.write(data)
    assert runner.returncode == 0
    assert "de 3 hechos" in shown.getvalue().decode() and "▸" in shown.getvalue().decode()


@pytest.mark.long
def test_without_mlflow_the_batch_is_done_and_noted_later(folder, tierra, monkeypatch):
    """Con MLflow caído el lote se hace igual y lo dice; la misma orden, cuando vuelve, lo apunta sin repetirlo."""
    order = ("jobs", "run", "number.ipynb", "--grid", "n=7,8", "--out", "solo", "--workers", "2")
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        done = tierra(*order, cwd=folder)
    assert done.returncode == 0 and "MLflow no contesta" in done.stderr
    assert [entry.run_id for entry in read_ledger(folder / "solo")] == ["", ""]
    assert "y 2 ya lo estaban" in tierra(*order, cwd=folder).stdout
    known = dict(find_runs(folder))
    assert [known[entry.run_id] for entry in read_ledger(folder / "solo")] == ["FINISHED", "FINISHED"]


def test_help_shows_the_parameters(place, monkeypatch):
    """La ayuda de un cuaderno enseña sus parámetros, y la de todos, un ejemplo."""
    monkeypatch.chdir(place)
    shown = CliRunner().invoke(jobs, ["run", "number.ipynb", "--help"]).output
    assert "Parámetros de «number»" in shown and "un número, [0, 100]" in shown
    for order in ("list", "describe", "run", "table", "report"):
        assert "Ejemplo: tierra jobs " in CliRunner().invoke(jobs, [order, "--help"]).output


def test_a_hole_in_a_parquet_is_what_the_notebook_says(place, tmp_path):
    """Un nulo o un NaN en la tabla no es un valor: ese trabajo se queda con el de salida."""
    from de_jupyter_a_la_tierra.parameters.cell import read_parameters

    pq.write_table(pa.table({"n": pa.array([1.0, float("nan"), None]), "what": ["fail", "square", None]}), tmp_path / "t.parquet")
    plan = plan_batch(read_parameters(place / "number.ipynb"), {}, {}, tmp_path / "t.parquet")
    assert plan == [{"n": 1, "what": "fail"}, {"what": "square"}, {}]


def test_the_plan_is_checked_whole(place, monkeypatch):
    """Rejilla por tabla: todas las combinaciones, con su tipo."""
    from de_jupyter_a_la_tierra.parameters.cell import read_parameters

    monkeypatch.chdir(place)
    (place / "two.csv").write_text("n\n1\n2\n")
    plan = plan_batch(read_parameters(place / "number.ipynb"), {}, {"what": ["square", "fail"]}, Path("two.csv"))
    assert plan == [{"n": n, "what": what} for n in (1, 2) for what in ("square", "fail")]
    assert find_project(place).root == place
