"""Quien instala el paquete donde no debe, o lo llama desde donde no se ve, lee algo que puede teclear."""
import json
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from outside import copy_sources

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
WINDOWS = """
import sys
import asyncio, fsspec, kedro.framework.session, onnxruntime, pandas, psutil  # con el sistema de verdad
from de_jupyter_a_la_tierra.cli import main as cli

class Windows:
    def find_spec(self, name, path=None, target=None):
        if name in {"fcntl", "grp", "pty", "pwd", "resource", "termios"}:
            sys.platform = "win32"
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

for name in {"fcntl", "grp", "pty", "pwd", "resource", "termios"} & {*sys.modules}:
    del sys.modules[name]
sys.meta_path.insert(0, Windows())
cli.main(sys.argv[1:])
"""


@pytest.mark.parametrize("order", ["predict x.csv y.csv", "jobs run entrenar"])
def test_windows_is_sent_to_wsl(order, tmp_path):
    """Sin los módulos que Windows no tiene, la orden manda a WSL y no enseña un traceback."""
    call = [sys.executable, "-c", WINDOWS, *order.split()]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert (done.returncode, "usa WSL" in done.stderr, "Traceback" in done.stderr) == (2, True, False), done.stderr


@pytest.mark.parametrize("active", [True, False])
def test_what_is_told_can_be_typed(active, tmp_path):
    """Con el entorno activado, `tierra`; sin activar, o llamado desde make, con la ruta con la que se encuentra."""
    inside = f"{BIN}:/usr/bin:/bin"
    env = {**os.environ, "PATH": inside, "TIERRA_PATH": inside if active else "/usr/bin:/bin"}
    call = [BIN / "tierra", "data", "--rows", "10"]
    done = subprocess.run(call, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    order = done.stdout.partition("Para usarlos: ")[2].strip()
    assert order == ("tierra run" if active else f"{BIN}/tierra run")


@pytest.mark.parametrize("chapter", sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("nbs/[2-7]_*/00_*.ipynb")))
def test_every_chapter_says_how_to_reach_the_order(chapter):
    """Quien abre el libro por ahí también tiene que poder teclear `tierra`."""
    cells = json.loads((ROOT / chapter).read_text(encoding="utf-8"))["cells"]
    prose = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    assert prose.count("`. .venv/bin/activate`") == 1


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Una copia de los ficheros del repositorio, en una carpeta de nombre difícil."""
    return copy_sources(tmp_path / "100% #1 año")


def test_it_installs_from_the_repository(source, tmp_path):
    """Lo que dice el README mientras no está en PyPI: `pip install "… @ git+…"`, aquí con un clon."""
    source = source.rename(tmp_path / "un clon")  # al llamar a git, pip no entiende «%» ni «#»
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.com", "-c", "core.hooksPath=/dev/null"]
    for order in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "todo"]):
        subprocess.run([*git, *order], cwd=source, check=True, capture_output=True)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    address = "git+https://github.com/oscarigrexas/de-jupyter-a-la-tierra"
    asked = f'pip install "de-jupyter-a-la-tierra[kedro] @ {address}"'
    assert asked in readme and 'pip install "de-jupyter-a-la-tierra[kedro]"\n' not in readme
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-build-isolation"]
    here = f"git+{source.as_uri()}"  # sin nombre delante: con un clon de aquí, el pip de Python 3.11 no lo entiende
    done = subprocess.run([*pip, "--target", tmp_path / "site", here], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (origin,) = (tmp_path / "site").glob("*.dist-info/direct_url.json")
    assert json.loads(origin.read_text())["vcs_info"]["vcs"] == "git"
    assert list((tmp_path / "site/de_jupyter_a_la_tierra").glob("templates/common/1/*.jinja"))


def test_make_notices_an_environment_from_elsewhere(source):
    """Copiado o mudado el proyecto, su entorno lleva dentro la carpeta de antes: se dice y se rehace."""
    (source / ".venv/bin").mkdir(parents=True)
    (source / ".venv/bin/python").symlink_to(sys.executable)
    (source / ".venv/bin/activate").write_text("VIRTUAL_ENV=/otra/.venv\n")
    (source / ".venv/resto").touch()
    env = {**os.environ, "PIP_NO_INDEX": "1", "PATH": "/usr/bin:/bin", "PYTHON": sys._base_executable}
    done = subprocess.run(["make", "env"], cwd=source, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0 and "No matching distribution" in done.stderr  # sin índice no se puede acabar
    assert "se creó en otra carpeta: se rehace aquí" in done.stdout and not (source / ".venv/resto").exists()


def test_an_emitted_project_notices_it_too(tierra, tmp_path):
    """Lo mismo, en un proyecto que escribió `tierra stage`; y uno que no se ha movido se queda con el suyo."""
    assert tierra("stage", "1", "gatos", cwd=tmp_path).returncode == 0
    project = tmp_path / "gatos"
    (project / ".venv/bin").mkdir(parents=True)
    (project / ".venv/bin/python").symlink_to(sys.executable)
    (project / ".venv/.home").write_text(f"{project}/.venv\n")
    for moved in (False, True):
        if moved:
            project = project.rename(tmp_path / "año {1} #")
        done = subprocess.run(["make"], cwd=project, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert ("se creó en otra carpeta" in done.stdout) is moved
        assert (project / ".venv").exists() is not moved


def make_env(project: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """`make env` con un índice que no tiene nada: se ve hasta dónde llega."""
    env = {"PIP_NO_INDEX": "1", "PATH": "/usr/bin:/bin", "HOME": os.environ["HOME"], "PYTHON": sys._base_executable} | env
    return subprocess.run(["make", "env"], cwd=project, env=env, capture_output=True, text=True, timeout=300)


def test_an_emitted_environment_left_halfway_is_made_again(tierra, tmp_path):
    """Se cortó la red al crearlo, o se copió de otro sitio sin .home: la vez siguiente se empieza de nuevo, y se dice."""
    assert tierra("stage", "1", "gatos", cwd=tmp_path).returncode == 0
    first = make_env(tmp_path / "gatos")
    assert first.returncode != 0 and "a medias" not in first.stdout and "Cannot install uv" in first.stderr
    again = make_env(tmp_path / "gatos")
    assert "a medias" in again.stdout and "Se crea .venv" in again.stdout
    assert again.returncode != 0 and "Cannot install uv" in again.stderr


def write_certificate(folder: Path) -> Path:
    """Un certificado de `localhost` que no conoce nadie, con su clave."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(1), now + timedelta(1))
    signed = made.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False).sign(key, hashes.SHA256())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "own.pem").write_bytes(private + signed.public_bytes(Encoding.PEM))
    return folder / "own.pem"


class Quiet(SimpleHTTPRequestHandler):
    """Lo de siempre, pero lo que se pide se apunta y no se cuenta."""

    asked: ClassVar[list[str]] = []

    def log_message(self, *_: object) -> None:
        self.asked.append(self.path)


@pytest.fixture
def own_index(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Un índice de paquetes vacío detrás de un certificado propio, que solo conoce el sistema; cómo se llega a él."""
    Quiet.asked.clear()
    certificate, context = write_certificate(tmp_path), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    (tmp_path / "index").mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path / "index")) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        index = f"https://localhost:{server.server_port}/"
        yield {"PIP_NO_INDEX": "", "PIP_INDEX_URL": index, "PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "0", "SSL_CERT_FILE": str(certificate)}
        server.shutdown()
        thread.join()


@pytest.mark.long
@pytest.mark.parametrize("whose", ["el de aquí", "el que viaja"])
def test_the_certificates_are_those_of_the_system(whose, tierra, source, tmp_path, own_index):
    """En una red con su propia autoridad, también un pip anterior al 24.2 se entiende con el índice: sin eso no le llega a pedir nada."""
    if whose == "el que viaja":
        assert tierra("stage", "1", "gatos", cwd=tmp_path).returncode == 0
    done = make_env(source if whose == "el de aquí" else tmp_path / "gatos", **own_index)
    assert done.returncode != 0 and Quiet.asked, done.stderr
