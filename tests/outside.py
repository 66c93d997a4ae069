"""Lo que comparten las pruebas que trabajan fuera de aquí: una copia del repositorio, un entorno sin nada activado y un servidor."""
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
PATIENCE = 300  # segundos hasta dar por perdido un servidor


def copy_sources(folder: Path) -> Path:
    """Copia en una carpeta los ficheros del repositorio, también los que aún no se han añadido a git; la devuelve."""
    ask = [sys.executable, ROOT / "scripts/ask_git.py", "ls-files", "-z", "-co", "--exclude-standard"]
    listed = subprocess.run(ask, capture_output=True, check=True).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    return folder


def clean_env(**more: str) -> dict[str, str]:
    """El entorno de quien no tiene otro activado: se conserva cómo se llega a los paquetes y poco más."""
    outside = {"PYTHONPATH", "VIRTUAL_ENV", "MAKEFLAGS", "MFLAGS", "MAKELEVEL", "PYTEST_FLAGS", "PYTEST_ADDOPTS", "JOBS", "MLFLOW_TRACKING_URI", "TIERRA_PATH"}
    kept = {key: value for key, value in os.environ.items() if key not in outside}
    if "TIERRA_OFFLINE" in os.environ:  # sin red no se puede bajar uv: sirve el nuestro, con su caché
        kept["UV"] = str(BIN / "uv")
    return {**kept, "PATH": "/usr/local/bin:/usr/bin:/bin", "PYTHON": sys._base_executable, **more}


def run(*command: str | Path, cwd: Path, **env: str) -> tuple[str, float]:
    """Ejecuta una orden y exige que vaya bien; devuelve lo que dijo y cuánto tardó."""
    start = time.monotonic()
    done = subprocess.run(command, cwd=cwd, env=clean_env(**env), capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr, time.monotonic() - start


def find_port() -> int:
    """Un puerto en el que ahora no escucha nadie."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@contextmanager
def serving(*command: str | Path, cwd: Path, port: int, **env: str) -> Iterator[None]:
    """Deja una orden en marcha desde que escucha en ese puerto, y al salir la termina, con sus hijos."""
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    process = subprocess.Popen(command, cwd=cwd, env=clean_env(**env), **silent)
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None and time.monotonic() < deadline, f"nadie escucha en {port}"
            time.sleep(0.2)
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)
