"""Lo que promete el README: `make run` hace el viaje, y lo que dice al acabar funciona tal como lo dice."""
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from outside import copy_sources, find_port

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 120  # segundos hasta dar por perdido un servidor
ENV = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}

pytestmark = pytest.mark.skipif(
    not (Path(sys.prefix) / ".project").exists(), reason="este entorno no lo ha preparado make: usa «make test»"
)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Una copia del repositorio, recién clonada salvo por el entorno, que es el de estas pruebas."""
    folder = copy_sources(tmp_path_factory.mktemp("clon") / "repo")
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


@pytest.fixture(scope="module")
def said(clone: Path) -> str:
    """Lo que dice `make run`."""
    ports = [f"PORT={find_port()}", f"UI_PORT={find_port()}"]
    done = subprocess.run(["make", "run", *ports], cwd=clone, capture_output=True, text=True, timeout=600, env=ENV)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def printed(said: str, command: str) -> str:
    """La línea que enseña una orden, tal como la copiaría quien la lee."""
    (line,) = [line.strip() for line in said.splitlines() if line.strip().startswith(command)]
    return line


def answers(url: str) -> bool:
    """Si alguien contesta en esa dirección."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status == 200
    except (urllib.error.URLError, OSError):
        return False


@contextmanager
def running(command: str, cwd: Path, url: str) -> Iterator[None]:
    """Deja una orden en marcha hasta que conteste, y la termina al salir, con sus hijos."""
    options = {"cwd": cwd, "env": ENV, "start_new_session": True, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, shell=True, stdout=subprocess.PIPE, **options) as process:
        try:
            deadline = time.monotonic() + PATIENCE
            while not answers(url):
                assert process.poll() is None, process.stdout.read()
                assert time.monotonic() < deadline, f"{command} no contesta en {url}"
                time.sleep(0.2)
            yield
        finally:
            os.killpg(process.pid, signal.SIGINT)
            process.communicate(timeout=60)


def test_make_run_tells_the_result(said):
    """El acierto, su línea base, el modelo y que los datos son simulados."""
    for text in ("Acierto gemelas juntas:", "respondiendo siempre lo mismo", "data/06_models/catfood", "simulados"):
        assert text in said


def test_make_run_tracks_to_mlflow(clone, said):
    """La ejecución queda apuntada en la base de datos de la raíz."""
    assert (clone / "mlflow.db").stat().st_size > 0


def test_the_printed_curl_gets_an_answer(clone, said):
    """`make serve` y el `curl`, tal como salen en la terminal: la Whiskas de la historia merece un 3."""
    curl = printed(said, "curl")
    address = re.search(r"http://[\d.:]+", curl)[0]
    with running(printed(said, "make serve"), clone, f"{address}/health"):
        done = subprocess.run(curl, shell=True, capture_output=True, text=True, timeout=60)
    answer = json.loads(done.stdout)
    assert answer["score"] == 3
    assert answer["data_origin"] == "simulated"


def test_the_printed_ui_opens(clone, said):
    """`make ui`, tal como sale en la terminal."""
    address = re.search(r"los experimentos, en (http://[\d.:]+)", said)[1]
    with running(printed(said, "make ui"), clone, address):
        pass
