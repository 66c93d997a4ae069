"""Ninguna prueba espera para siempre: la que se cuelga se acaba, se nombra, y las demás siguen."""
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parents[2]
HANGING = """
import subprocess, sys, threading, time
import pytest

pytestmark = pytest.mark.timeout(1)

def test_waits():
    threading.Event().wait()

def test_waits_for_another_process():
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"], stdout=subprocess.PIPE) as process:
        process.stdout.read()

@pytest.fixture
def stubborn():
    yield
    threading.Event().wait()

def test_waits_when_collecting(stubborn):
    pass

def test_fails_and_waits_when_collecting(stubborn):
    raise ValueError

def test_works():
    pass
"""
INHERITED = """
import signal, subprocess, sys

def test_ctrl_c_is_heard():
    code = "import signal; raise SystemExit(signal.getsignal(signal.SIGINT) is not signal.default_int_handler)"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
"""


def run_pytest(folder: Path, *args: str, **options) -> subprocess.CompletedProcess[str]:
    """Pasa las pruebas de una carpeta con la configuración de las nuestras."""
    for name in ("conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "scripts", folder / "scripts", dirs_exist_ok=True)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-v", *args, "."]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, **options)


def test_who_hangs_is_ended_and_named(tmp_path):
    """Una prueba, un proceso hijo, un fixture al recoger y una celda que no acaban: fallan con su nombre y no dejan nada vivo."""
    (tmp_path / "test_hang.py").write_text(HANGING)
    notebook = new_notebook(cells=[new_code_cell("import time; time.sleep(3600)")])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "python3"}
    nbformat.write(notebook, tmp_path / "hang.ipynb")
    done = run_pytest(tmp_path, "-o", "timeout=8")
    told = done.stdout + done.stderr
    for name in ("waits", "waits_for_another_process", "fails_and_waits_when_collecting"):
        assert f"FAILED test_hang.py::test_{name} - " in told, told
    for name in ("waits_when_collecting", "fails_and_waits_when_collecting"):
        assert f"ERROR test_hang.py::test_{name} - " in told, told
    assert "test_hang.py::test_works PASSED" in told and "FAILED hang.ipynb::Cell 0" in told, told
    assert not [process for process in psutil.process_iter(["cwd"]) if process.info["cwd"] == str(tmp_path)]


def test_every_test_has_a_limit(request):
    """El límite de la configuración es el de todas, y las largas tienen otro mayor."""
    assert 0 < float(request.config.getini("timeout")) < 1000
    for item in request.session.items:
        if item.get_closest_marker("long"):
            assert item.get_closest_marker("timeout").args[0] >= 600


def test_ctrl_c_works_whoever_launches_the_tests(tmp_path):
    """Con «nohup … &» el Ctrl-C llega desoído; las pruebas, y los procesos que arrancan, lo vuelven a oír."""
    (tmp_path / "test_inherited.py").write_text(INHERITED)
    done = run_pytest(tmp_path, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
    assert done.returncode == 0, done.stdout


# --- Lo que no es culpa de una celda ---------------------------------------------------------------------------------


@pytest.fixture
def ours(request):
    """Nuestro conftest.py, como lo ha cargado pytest."""
    return request.config.pluginmanager.get_plugin(str(ROOT / "conftest.py"))


def test_a_kernel_that_dies_at_birth_is_started_again(ours):
    """Hasta dos veces más; la tercera, se dice."""
    deaths = iter([RuntimeError("Kernel died"), RuntimeError("Kernel died")])

    def start(name: str) -> tuple:
        for death in deaths:
            raise death
        return name, "cliente"

    assert ours.insist(start)("python3") == ("python3", "cliente")
    with pytest.raises(RuntimeError, match="nunca"):
        ours.insist(lambda: (_ for _ in ()).throw(RuntimeError("nunca")))()


@pytest.mark.parametrize(("now", "stored", "same"), [
    ("[mlflow]==\ufffd\ufffd\n", "[mlflow]==…\n", True), ("ma\ufffd\ufffdana", "mañana", True),
    ("ma\ufffd\ufffdana", "mejana", False), ("otra\ufffd", "maña", False),
])
def test_a_torn_letter_is_not_another_output(ours, now, stored, same):
    """Solo se perdona la letra: lo que haya alrededor ha de ser lo guardado."""
    outputs = [new_output("stream", name="stdout", text=text) for text in (now, stored)]
    ours.mend_characters(outputs[:1], outputs[1:])
    assert (outputs[0].text == stored) == same
