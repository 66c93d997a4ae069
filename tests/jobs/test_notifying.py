"""De cómo acabó un encargo se avisa a una orden o a una dirección; sin secretos, sin terminal de por medio y sin estorbar."""
import json
import shlex
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from de_jupyter_a_la_tierra.cli.notify import Notifier, parse_notifier, send_report
from de_jupyter_a_la_tierra.errors import UsageError
from de_jupyter_a_la_tierra.jobs.ledger import read_ledger

SECRET = "hunter2-no-se-ve"
PARAMETERS = 'n: int = 1  # un número\ntoken: str = ""  # con qué se entra, secreto'
SOURCE = """
import time
from pathlib import Path

assert n != 2, f"con {token} no; $(touch pwned)"
if n == 9:
    Path("begun").touch()
    time.sleep(3600)
"""
KEEP = "import os, sys; open(sys.argv[1], 'w').write(sys.stdin.read()); print('guardado', sorted(n for n in os.environ if 'SECRET' in n), flush=True)"
FIELDS = ["project", "notebook", "state", "total", "done", "failed", "skipped", "left", "seconds", "output", "errors", "command"]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Una carpeta con un cuaderno que falla con el dos y no acaba con el nueve, y un programa que guarda lo que se le cuenta."""
    notebook = new_notebook(cells=[new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), new_code_cell(SOURCE)])
    notebook.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "python3"}
    nbformat.write(notebook, tmp_path / "door.ipynb")
    (tmp_path / "keep.py").write_text(KEEP)
    monkeypatch.setenv("TIERRA_SECRET_TOKEN", SECRET)
    return tmp_path


def is_noted(batch: Path) -> bool:
    """Si el primer trabajo del lote ya está apuntado como hecho: el segundo empieza un instante antes."""
    return read_ledger(batch)[0].status == "done"


def keep(name: str) -> list[str]:
    """La opción que guarda el aviso en un fichero."""
    return ["--notify", f"{shlex.quote(sys.executable)} keep.py {shlex.quote(name)}"]


@contextmanager
def serve(status: int = 200, headers: tuple[tuple[str, str], ...] = ()):
    """Un servidor de verdad: su dirección y lo que va recibiendo."""
    told = []

    class Mailbox(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append((self.path, self.headers["Content-Type"], json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            self.send_response(status)
            for header in headers:
                self.send_header(*header)
            self.end_headers()

        def do_GET(self) -> None:
            told.append((self.path, "GET", None))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Mailbox) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", told
        finally:
            server.shutdown()
            thread.join(10)


def test_a_batch_tells_how_it_ended(folder, tierra):
    """Lo hecho, lo que falló y cómo seguir, a una orden y a una dirección; ni el secreto, ni nada interpretado, ni la llave."""
    order = ("jobs", "run", "door.ipynb", "--grid", "n=1,2,3", "--out", "lote", "--workers", "2")
    done = tierra(*order, *keep("un $(touch pwned) aviso.json"), cwd=folder)
    assert done.returncode == 1 and "guardado []" in done.stderr and "guardado" not in done.stdout, done.stderr
    told = json.loads((folder / "un $(touch pwned) aviso.json").read_text())
    assert list(told) == FIELDS
    assert [told[name] for name in ("notebook", "state", "total", "done", "failed", "skipped", "left")] == ["door.ipynb", "failed", 3, 2, 1, 0, 0]
    assert told["project"] == str(folder) and told["output"] == str(folder / "lote") and told["seconds"] > 0
    assert len(told["errors"]) == 1 and "con ••• no; $(touch pwned)" in told["errors"][0]
    assert "--notify" not in told["command"] and told["command"].startswith(f"cd {shlex.quote(str(folder))} && ")
    assert not (folder / "pwned").exists() and SECRET not in json.dumps(told, ensure_ascii=False)
    with serve() as (url, heard):
        again = subprocess.run(["/bin/sh", "-c", f"{told['command']} '--notify={url}/la-llave?x=1'"], cwd="/", capture_output=True, text=True, timeout=200)
    [(path, kind, posted)] = heard
    assert again.returncode == 1 and "y 2 ya lo estaban" in again.stdout and (path, kind) == ("/la-llave?x=1", "application/json"), again.stderr
    assert [posted[name] for name in ("state", "done", "failed", "skipped", "output")] == ["failed", 0, 1, 2, told["output"]]
    assert "la-llave" not in again.stderr + json.dumps(posted) and SECRET not in json.dumps(posted, ensure_ascii=False)


def test_a_single_job_tells_too(folder, tierra):
    """Bien, mal y mal pedido; y lo que se escribió de un secreto no se cuenta."""
    for args, code, state, counts in (
        (("-p", "n=1", "-o", "copia.ipynb"), 0, "done", (1, 1, 0, 0)),
        (("-p", "n=2"), 1, "failed", (1, 0, 1, 0)),
        (("-p", "m=2"), 2, "failed", (1, 0, 1, 0)),
        (("-p", f"token={SECRET}"), 2, "failed", (0, 0, 0, 0)),
        (("--grid", f'token="{SECRET}'), 2, "failed", (0, 0, 0, 0)),
    ):
        done = tierra("jobs", "run", "door.ipynb", *args, *keep("told.json"), cwd=folder)
        told = json.loads((folder / "told.json").read_text())
        assert (done.returncode, told["state"]) == (code, state), done.stderr
        assert tuple(told[name] for name in ("total", "done", "failed", "left")) == counts
        assert len(told["errors"]) == (state == "failed") and bool(told["command"]) == (code == 1)
        assert SECRET not in json.dumps(told, ensure_ascii=False) + done.stderr
        (folder / "told.json").unlink()
    assert told["output"] == "" and (folder / "copia.ipynb").exists()


@pytest.mark.parametrize(("number", "args"), [
    (signal.SIGTERM, ("--grid", "n=1,9,3", "--workers", "1", "--out", "lote")), (signal.SIGINT, ("-p", "n=9", "-o", "copia.ipynb")),
], ids=["batch", "job"])
def test_an_interrupted_order_tells(folder, tierra, number, args):
    """Quien lo para también se cuenta, con lo que falta y cómo seguir; el código es el de la señal."""
    with subprocess.Popen([tierra.path, "jobs", "run", "door.ipynb", *args, *keep("told.json")], cwd=folder, stderr=subprocess.PIPE, text=True) as order:
        try:
            while not (folder / "begun").exists() or ("--grid" in args and not is_noted(folder / "lote")):
                assert order.poll() is None, order.stderr.read()
                time.sleep(0.05)
            order.send_signal(number)
            said = order.communicate(timeout=120)[1]
        finally:
            order.kill()
    told = json.loads((folder / "told.json").read_text())
    assert order.returncode == 128 + number and told["state"] == "interrupted" and told["errors"] == [], said
    counts = tuple(told[name] for name in ("total", "done", "failed", "left"))
    assert counts == ((3, 1, 0, 2) if "--grid" in args else (1, 0, 0, 1))
    assert told["command"].endswith(shlex.join(("run", "door.ipynb", *args)))


def test_a_bad_notifier_is_refused_before_starting(folder, tierra, monkeypatch):
    """La orden que no existe y la dirección que no se entiende: una frase, un dos, y no ha empezado nada."""
    for notifier in ("no-hay-tal", f"https://ana:{SECRET}@a.es/"):
        done = tierra("jobs", "run", "door.ipynb", "-o", "copia.ipynb", "--notify", notifier, cwd=folder)
        assert done.returncode == 2 and "--notify" in done.stderr and "Traceback" not in done.stderr + done.stdout, done.stderr
        assert SECRET not in done.stderr and not (folder / "copia.ipynb").exists()
    (folder / "no-ejecutable").write_text("hola")
    monkeypatch.chdir(folder)
    for notifier in ("", " ", "cat 'a", "./no-ejecutable", "http:/a", "ftp://a/b", "https://", "http://a:99999/", "http://a b/", "file:///etc/passwd"):
        with pytest.raises(UsageError, match="--notify"):
            parse_notifier(notifier)


def test_a_notifier_that_fails_changes_nothing(folder, tierra):
    """Se dice con una frase, y el código es el del trabajo."""
    with serve(500) as (url, _), socket.create_server(("127.0.0.1", 0)) as nobody:
        gone = f"http://127.0.0.1:{nobody.getsockname()[1]}/la-llave"
        nobody.close()
        assert send_report(parse_notifier(gone), {}).startswith("no contesta")
        for n, code, notifier, why in ((1, 0, "false", "acabó con el código 1"), (2, 1, f"{url}/la-llave", "contesta con un 500")):
            done = tierra("jobs", "run", "door.ipynb", "-p", f"n={n}", "--notify", notifier, cwd=folder)
            assert done.returncode == code and why in done.stderr and "No se pudo avisar" in done.stderr, done.stderr
            assert "la-llave" not in done.stderr and "Traceback" not in done.stderr


def test_a_notifier_that_hangs_is_left(tmp_path):
    """Ni una orden con hijos, ni quien acepta y calla, ni quien contesta a gotas."""
    begun = time.monotonic()
    child = f"{shlex.quote(sys.executable)} -c 'import subprocess, sys; p = subprocess.Popen([\"sleep\", \"3600\"]); open(sys.argv[1], \"w\").write(str(p.pid)); p.wait()' {tmp_path}/pid"
    assert "no había terminado a los 3 s" in send_report(parse_notifier(child), {}, limit=3)
    pid = int((tmp_path / "pid").read_text())
    status = Path(f"/proc/{pid}/stat")
    while status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z":  # huérfano: lo recoge otro
        time.sleep(0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        assert "no ha contestado en 0,5 s" in send_report(parse_notifier(url), {}, limit=0.5)

        def drip() -> None:
            silent.settimeout(10)
            for connection in (silent.accept()[0], silent.accept()[0]):
                with connection:
                    try:
                        for letter in b"HTTP/1.0 200 OK\r\nX: " + b"a" * 200:
                            connection.send(bytes([letter]))
                            time.sleep(0.05)
                    except OSError:
                        continue

        thread = Thread(target=drip, daemon=True)
        thread.start()
        assert "no ha contestado en 1 s" in send_report(parse_notifier(url), {}, limit=1)
    assert time.monotonic() - begun < 60


def test_it_goes_nowhere_else(tmp_path):
    """Una respuesta que manda a otro sitio no se sigue, sea de la clase que sea; y la orden no depende de lo que lea."""
    with serve() as (other, heard):
        for code in (301, 302, 303, 307, 308):
            for place in (f"{other}/otra", "file:///etc/passwd", "ftp://127.0.0.1/x"):
                with serve(code, (("Location", place),)) as (url, told):
                    assert "no se sigue" in send_report(parse_notifier(url), {"n": 1})
                assert [path for path, *_ in told] == ["/"]
    assert heard == []
    big = {"errors": ["x" * 1_000_000]}
    assert send_report(Notifier(words=("/bin/true",)), big) == ""
    assert send_report(Notifier(words=(str(tmp_path / "se-borró"),)), big).startswith("no se pudo ejecutar")
    assert send_report(parse_notifier("sh -c 'sleep 5 & exit 0'"), {}, limit=20) == ""  # lo que deja en marcha es cosa suya
