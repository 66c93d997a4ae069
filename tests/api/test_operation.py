"""La API en producción, con un servidor de verdad: ajustes, métricas, registro, cabeceras y varios procesos."""
import json
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from serving import Server, serving
from sklearn.kernel_approximation import RBFSampler
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from small import freeze_small

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Una carpeta con un proyecto vacío y un modelo pequeño."""
    folder = tmp_path_factory.mktemp("operation")
    (folder / "pyproject.toml").write_text('[tool.kedro]\npackage_name = "lentejas"\n')
    (folder / "conf/base").mkdir(parents=True)
    freeze_small(folder / "racion")
    return folder


@pytest.fixture(scope="module")
def server(tierra: Callable, home: Path) -> Iterator[Server]:
    """Un servidor como sale de fábrica."""
    with serving(tierra, home, "--model", "racion") as server:
        yield server


def stop(server: Server) -> list[dict[str, Any]]:
    """Lo para y devuelve lo que apuntó, línea por línea."""
    server.process.send_signal(signal.SIGTERM)
    out, err = server.process.communicate(timeout=30)
    assert (out.strip(), server.process.returncode) == ("Servidor parado.", 0), out + err
    return [json.loads(line) for line in err.splitlines()]


def read_metrics(server: Server) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Lo que se cuenta en /metrics: nombre y etiquetas → número."""
    reply = httpx.get(server.address + "/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    samples = [sample for family in text_string_to_metric_families(reply.text) for sample in family.samples]
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in samples}


# --- Ajustes -----------------------------------------------------------------------------------------------------


@pytest.mark.timeout(120)
def test_settings_come_from_three_places(tierra: Callable, home: Path) -> None:
    """El fichero del proyecto, el entorno y la orden, por ese orden; la tabla dice quién ha hablado."""
    conf = home / "conf/base/api.yml"
    conf.write_text("max_rows: 5\nworkers: 2\nport: 1\n")
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TIERRA_API_MAX_ROWS", "3")
            done = subprocess.run([tierra.path, "serve", "--settings", "--port", "0"], cwd=home, capture_output=True, text=True)
            found = {line.split()[0]: line.split()[1:3] for line in done.stdout.splitlines()}
            assert (found["workers"], found["max_rows"]) == (["2", "conf/*/api.yml"], ["3", "TIERRA_API_MAX_ROWS"])
            assert (found["port"], found["keep_alive"]) == (["0", "--port"], ["65", "fábrica"])
            with serving(tierra, home, "--model", "racion", "--workers", "1") as server:
                assert server.ask([{"kilos": 1}] * 3).status_code == 200
                refused = server.ask([{"kilos": 1}] * 4)
                assert refused.status_code in (413, 422) and "3" in refused.json()["detail"]
    finally:
        conf.unlink()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("variable, value, told", [
    ("TIERRA_API_PORT", "ochenta", "TIERRA_API_PORT ha de ser un número entero de 0 a 65.535, y es «ochenta»"),
    ("TIERRA_API_WORKERS", "0", "TIERRA_API_WORKERS ha de ser un número entero de 1 a 256, y es «0»"),
    ("TIERRA_API_LOG", "xml", "TIERRA_API_LOG ha de ser auto, text, json u off, y es «xml»"),
    ("TIERRA_API_WORKRES", "2", "¿Querías decir «TIERRA_API_WORKERS»?"),
])
def test_wrong_settings_do_not_start(tierra: Callable, home: Path, variable: str, value: str, told: str) -> None:
    """Un ajuste que no existe o que no vale se dice por su nombre, y no se arranca."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(variable, value)
        done = subprocess.run([tierra.path, "serve", "--model", "racion"], cwd=home, capture_output=True, text=True)
    assert done.returncode == 2 and told in done.stderr and done.stderr.count("\n") == 1


# --- Cabeceras ---------------------------------------------------------------------------------------------------


@pytest.mark.timeout(60)
@pytest.mark.parametrize("method, path", [("POST", "/predict_score"), ("GET", "/"), ("GET", "/health"), ("GET", "/nada"), ("PUT", "/health")])
def test_every_answer_is_guarded(server: Server, method: str, path: str) -> None:
    """Todas las respuestas dicen que no se adivine su tipo, que no se guarden y que no se cuente de dónde se viene."""
    reply = httpx.request(method, server.address + path, json={"kilos": 1} if method == "POST" else None)
    assert (reply.headers["x-content-type-options"], reply.headers["referrer-policy"], reply.headers["cache-control"]) == ("nosniff", "no-referrer", "no-store")
    assert re.fullmatch(r"[0-9a-f]{16}", reply.headers["x-request-id"])
    assert "server" not in reply.headers and "location" not in reply.headers


@pytest.mark.timeout(60)
def test_the_page_cannot_be_framed(server: Server) -> None:
    """La página no se deja meter en otra, ni cambiar de base, ni mandar formularios fuera."""
    policy = httpx.get(server.address + "/").headers["content-security-policy"]
    for rule in ("default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'"):
        assert rule in policy


# --- Métricas ----------------------------------------------------------------------------------------------------


@pytest.mark.timeout(60)
def test_what_is_counted(tierra: Callable, home: Path) -> None:
    """Peticiones por dirección y código, filas, tiempos y el modelo; y nadie llena la memoria con direcciones al azar."""
    with serving(tierra, home, "--model", "racion") as server:
        server.ask([{"kilos": 1}, {"kilos": 2}])
        server.ask({"kilos": 100})
        for number in range(50):
            httpx.get(f"{server.address}/azar-{number}")
        found = read_metrics(server)
        route = ("method", "POST"), ("route", "/predict_score")
        assert found["tierra_requests_total", (*route, ("status", "200"))] == found["tierra_requests_total", (*route, ("status", "422"))] == 1
        assert found["tierra_requests_total", (("method", "GET"), ("route", "otra"), ("status", "404"))] == 50
        assert found["tierra_rows_total", (("model", "ración"),)] == 2
        assert found["tierra_model_info", (("model", "ración"), ("name", "ración"), ("served_by", "onnx"))] == 1
        assert found["tierra_request_seconds_count", (("route", "/predict_score"),)] == 2
        assert not [name for name, labels in found if "azar" in str(labels)]


@pytest.mark.timeout(60)
def test_what_is_not_a_request_is_counted(tierra: Callable, home: Path) -> None:
    """Lo que no se entiende no llena el registro, pero se ve en las métricas."""
    with serving(tierra, home, "--model", "racion") as server:
        for rubbish in (b"hola\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 200 + b"\r\n"):
            with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
                connection.sendall(rubbish)
                while connection.recv(65536):
                    pass
        found = read_metrics(server)
        assert [found["tierra_events_total", (("event", f"http_{status}"),)] for status in (400, 431)] == [1, 1]
        assert [line["event"] for line in stop(server)] == ["start", "stop"]


@pytest.mark.timeout(120)
def test_several_processes_count_together(tierra: Callable, home: Path) -> None:
    """Con varios procesos se pregunte a quien se pregunte, la cuenta es la de todos; el que muere no se lleva lo contado."""
    with serving(tierra, home, "--model", "racion", "--workers", "2") as server:
        for number in range(40):
            assert server.ask({"kilos": number % 20}).status_code == 200
        key = "tierra_requests_total", (("method", "POST"), ("route", "/predict_score"), ("status", "200"))
        time.sleep(0.6)  # lo que tarda cada uno en sumar lo suyo
        assert {read_metrics(server)[key] for _ in range(8)} == {40}
        (victim, *_) = list_workers(server.process.pid)
        subprocess.run(["kill", "-9", str(victim)], check=True)
        died = "tierra_events_total", (("event", "died"),)
        while read_metrics(server).get(died) != 1:
            pass
        assert read_metrics(server)[key] == 40
        lines = stop(server)
    assert [line["pid"] for line in lines if line.get("event") == "died"] == [victim]


def list_workers(pid: int) -> list[int]:
    """Los procesos que contestan."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if b"workers" in Path(f"/proc/{child}/cmdline").read_bytes()]


LATE = """
import signal, threading
from de_jupyter_a_la_tierra.hosting.workers import Supervisor, open_socket, supervise

def announce():
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    print("en marcha", flush=True)

worker = "import signal, socket, sys; boss = socket.socket(fileno=int(sys.argv[2])); boss.send(b'{}'); signal.pause()"
supervise(Supervisor(open_socket(port=0), b"{}", 1, worker), announce)
"""


@pytest.mark.timeout(60)
def test_a_stop_that_comes_too_soon(tierra: Callable) -> None:
    """La orden de parar vale aunque llegue justo antes de ponerse a esperar.

    Ese instante es cuestión de suerte. Aquí la oye otro hilo, que viene a ser lo mismo: a quien espera no le despierta nadie.
    """
    command = [tierra.path.with_name("python"), "-c", LATE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as order:
        try:
            assert order.stdout.readline() == "en marcha\n", order.stderr.read()
            time.sleep(0.5)  # que ya esté esperando
            order.terminate()
            assert order.wait(20) == 0, order.stderr.read()
        finally:
            order.kill()


# --- Registro ----------------------------------------------------------------------------------------------------


@pytest.mark.timeout(60)
def test_what_is_logged(tierra: Callable, home: Path) -> None:
    """Una línea de JSON por petición, con su nombre, que es el que se contestó, y la traza, que viaja."""
    with serving(tierra, home, "--model", "racion") as server:
        answered = httpx.post(server.address + "/predict_score", json=[{"kilos": 1}, {"kilos": 2}], headers={"traceparent": TRACE})
        assert answered.headers["traceparent"] == TRACE
        httpx.get(server.address + "/health")  # lo que preguntan los balanceadores, si va bien, no se apunta
        named = httpx.get(server.address + "/nada", headers={"x-request-id": "mi-nombre", "traceparent": "mal"})
        assert named.json()["request_id"] == named.headers["x-request-id"] == "mi-nombre" and "traceparent" not in named.headers
        lines = stop(server)
    first, second = [line for line in lines if line["event"] == "request"]
    assert first["request_id"] == answered.headers["x-request-id"] and first["trace_id"] == TRACE[3:35]
    assert (first["status"], first["rows"], first["model"], first["client"], first["path"]) == (200, 2, "ración", "127.0.0.1", "/predict_score")
    assert 0 < first["seconds"] < 10 and re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", first["time"])
    assert (second["status"], second["request_id"], "trace_id" in second) == (404, "mi-nombre", False)
    assert [line["event"] for line in lines if line["event"] != "request"] == ["start", "stop"]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("options", "shared"), [(("--proxies", "127.0.0.0/8"), False), (("--proxies", "10.0.0.0/8"), True), ((), True)])
def test_behind_a_proxy(tierra: Callable, home: Path, options: tuple[str, ...], shared: bool) -> None:
    """Cada cliente tiene su límite y su nombre en el registro, si el proxy es de los nuestros; si no, nadie puede hacerse pasar por otro."""
    with serving(tierra, home, "--model", "racion", "--rate", "2/hora", *options) as server, httpx.Client(base_url=server.address) as client:
        def ask(who: str, path: str = "/predict_score") -> int:
            return client.post(path, json={"kilos": 1}, headers={"x-forwarded-for": who}).status_code

        long_way = "/predict_score?explain=false"
        codes = [ask("203.0.113.7"), ask("1.1.1.1, 203.0.113.7", long_way), ask("203.0.113.7"), ask("203.0.113.8", long_way)]
        assert codes == [200, 200, 429, 429 if shared else 200]
        lines = [line["client"] for line in stop(server) if line["event"] == "request"]
    assert lines == ["127.0.0.1"] * 4 if shared else ["203.0.113.7"] * 3 + ["203.0.113.8"]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("style", ["json", "text"])
def test_nobody_writes_in_the_log(tierra: Callable, home: Path, style: str) -> None:
    """Ni saltos de línea, ni órdenes para la terminal, ni en la dirección ni en las cabeceras."""
    evil = "/a%0d%0a2026%20%7B%22event%22:%22stop%22%7D%1b%5b2J%c2%9b2J%e2%80%a8fin"
    with serving(tierra, home, "--model", "racion", "--log", style) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            connection.sendall(f"GET {evil} HTTP/1.1\r\nHost: x\r\nX-Request-ID: \x1b[31mrojo\r\nConnection: close\r\n\r\n".encode("latin-1"))
            while connection.recv(65536):
                pass
        server.process.terminate()
        _, err = server.process.communicate(timeout=20)
    assert all(character.isprintable() for line in err.split("\n") for character in line), err
    assert "rojo" not in err and len([line for line in err.splitlines() if "2026" in line and "fin" in line]) <= 1
    if style == "json":
        assert [json.loads(line)["event"] for line in err.splitlines()].count("stop") == 1


@pytest.mark.timeout(90)
def test_a_deaf_log_stops_nobody(tierra: Callable, home: Path) -> None:
    """Si nadie lee el registro, la tubería se llena; se contesta igual, y se para a tiempo."""
    with serving(tierra, home, "--model", "racion") as server:
        with httpx.Client(base_url=server.address) as client:
            long = "/" + "x" * 180
            assert {client.get(long).status_code for _ in range(1500)} == {404}  # medio mega de líneas: no caben en una tubería
            assert client.post("/predict_score", json={"kilos": 1}).status_code == 200
        server.process.terminate()
        server.process.wait(30)


@pytest.mark.timeout(60)
def test_a_quiet_server(tierra: Callable, home: Path) -> None:
    """Sin registro y sin métricas: no se escribe nada, y /metrics no existe."""
    with serving(tierra, home, "--model", "racion", "--log", "off", "--no-metrics") as server:
        assert server.ask({"kilos": 1}).status_code == 200 and httpx.get(server.address + "/metrics").status_code == 404
        assert stop(server) == []


# --- Un modelo lento ---------------------------------------------------------------------------------------------


@pytest.mark.timeout(90)
def test_a_slow_model_is_told(tierra: Callable, tmp_path: Path) -> None:
    """Lo que no se pudo convertir a ONNX se dice al arrancar, en /health, en /model y en la página."""
    freeze_small(tmp_path / "lento", make_pipeline(RBFSampler(random_state=0), Ridge()))
    with serving(tierra, tmp_path, "--model", "lento") as server:
        assert "va con skops" in "".join(server.said)
        assert httpx.get(server.address + "/health").json()["served_by"] == "skops"
        assert "va con skops" in httpx.get(server.address + "/health").json()["notice"]
        assert httpx.get(server.address + "/model").json()["served_by"] == "skops"
        assert "va con skops" in httpx.get(server.address + "/").text
