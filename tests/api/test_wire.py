"""El cable, con servidores de verdad: clientes de Java, lentos o sin educación, y parar sin perder a nadie."""
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import psutil
import pytest
from serving import Server, pack_bomb, serving
from small import freeze_double

ROW = b'{"kilos": 4}'
ASK = b"POST /predict_score HTTP/1.1\r\nHost: x\r\nContent-Length: 12\r\n\r\n" + ROW
GOODBYE = ASK.replace(b"Host", b"Connection: close\r\nHost")
PROBLEM = b"application/problem+json"
STOPS = {"SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}
SHORT = {"keep_alive": 2, "header_seconds": 1, "body_seconds": 1}  # los plazos, acortados


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """La carpeta de un modelo pequeño."""
    return freeze_double(tmp_path_factory.mktemp("wire") / "racion")


@contextmanager
def running(tierra: Callable, folder: Path, **settings: object) -> Iterator[Server]:
    """Un `tierra serve` con esos ajustes, dichos por el entorno; de lo que contesta no apunta nada."""
    variables = {f"TIERRA_API_{name.upper()}": str(value) for name, value in ({"log": "off"} | settings).items()}
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        with serving(tierra, folder.parent, "--model", folder) as server:
            yield server
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            os.environ.update({name: value} if value else {})


@pytest.fixture(scope="module")
def server(tierra: Callable, folder: Path) -> Iterator[Server]:
    """Un servidor con los plazos de fábrica."""
    with running(tierra, folder) as server:
        yield server


def call(server: Server, seconds: float = 20) -> socket.socket:
    """Una conexión."""
    return socket.create_connection(("127.0.0.1", server.port), timeout=seconds)


def hear(connection: socket.socket) -> bytes:
    """Lo que contesta, hasta que cuelga."""
    heard = bytearray()
    with suppress(ConnectionError):
        while piece := connection.recv(65536):
            heard += piece
    return bytes(heard)


def hear_one(connection: socket.socket) -> bytes:
    """Una respuesta entera de una conexión que sigue abierta."""
    heard = b""
    while b"\r\n\r\n" not in heard or len(heard.partition(b"\r\n\r\n")[2]) < int(re.search(rb"content-length: (\d+)", heard)[1]):
        piece = connection.recv(65536)
        assert piece, heard
        heard += piece
    return heard


def tell(server: Server, content: bytes, finish: bool = False) -> bytes:
    """Manda unos bytes en una conexión nueva y devuelve todo lo que contesta; con `finish`, dice que no va a mandar más."""
    with call(server) as connection:
        with suppress(ConnectionError):
            connection.sendall(content)
            if finish:
                connection.shutdown(socket.SHUT_WR)
        return hear(connection)


def list_answers(heard: bytes) -> list[tuple[int, bytes, bytes]]:
    """Las respuestas que hay en unos bytes: código, cabeceras y cuerpo; falla si no son respuestas de HTTP enteras."""
    answers = []
    while heard:
        head, _, rest = heard.partition(b"\r\n\r\n")
        status = re.match(rb"HTTP/1\.1 (\d{3}) ", head)
        assert status, heard[:200]
        size = int(found[1]) if (found := re.search(rb"\r\ncontent-length: (\d+)", head)) else 0
        assert len(rest) >= size, heard[:300]
        answers.append((int(status[1]), head, rest[:size]))
        heard = rest[size:]
    return answers


def check_refusal(heard: bytes, status: int, word: str = "") -> None:
    """Una sola respuesta, un problema en español, con la conexión cerrada."""
    ((found, head, body),) = list_answers(heard)
    assert found == status, heard
    assert PROBLEM in head and b"connection: close" in head.lower()
    told = json.loads(body)
    assert told["status"] == status and word in told["detail"]


def list_workers(server: Server) -> list[psutil.Process]:
    """Los procesos que contestan."""
    found = []
    for child in psutil.Process(server.process.pid).children():
        with suppress(psutil.Error):  # acaba de morir
            if "hosting.workers" in " ".join(child.cmdline()):
                found.append(child)
    return found


def is_told_to_stop(worker: psutil.Process) -> bool:
    """Si un proceso parado tiene un SIGTERM esperándolo."""
    waiting = re.search(r"ShdPnd:\s+(\w+)", Path(f"/proc/{worker.pid}/status").read_text())[1]
    return bool(int(waiting, 16) >> (signal.SIGTERM - 1) & 1)


def measure_memory(server: Server) -> float:
    """Los MiB que ocupan los que contestan."""
    return sum(worker.memory_info().rss for worker in list_workers(server)) / 2**20


def measure_work(server: Server) -> float:
    """Los segundos de procesador que llevan gastados."""
    return sum(sum(worker.cpu_times()[:2]) for worker in list_workers(server))


# ── Los que ofrecen HTTP/2 ──────────────────────────────────────────────────


@pytest.mark.skipif(not shutil.which("curl"), reason="no hay curl")
def test_curl_offers_http2(server: Server) -> None:
    command = ["curl", "--http2", "-sv", f"{server.address}/predict_score", "-d", ROW.decode()]
    done = subprocess.run([*command, "--next", *command[1:]], capture_output=True, text=True, timeout=60)
    assert done.stdout.count('"score":0') == 2, done.stderr
    assert "Upgrade: h2c" in done.stderr and done.stderr.count("< HTTP/1.1 200") == 2


JAVA = """
import java.net.URI;
import java.net.http.*;

class Ask {
    public static void main(String[] args) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        for (int turn = 0; turn < 3; turn++) {
            HttpRequest request = HttpRequest.newBuilder(URI.create(args[0] + "/predict_score"))
                .POST(HttpRequest.BodyPublishers.ofString("{\\"kilos\\": " + 15 * turn + "}")).build();
            HttpResponse<String> answer = client.send(request, HttpResponse.BodyHandlers.ofString());
            System.out.println(answer.statusCode() + " " + answer.body());
        }
    }
}
"""


@pytest.mark.skipif(not shutil.which("javac"), reason="no hay un JDK")
def test_java_out_of_the_box(server: Server, tmp_path: Path) -> None:
    (tmp_path / "Ask.java").write_text(JAVA)
    command = ["java", "-Xint", "-XX:+UseSerialGC", "Ask.java", server.address]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    lines = done.stdout.splitlines()
    assert [line[:3] for line in lines] == ["200"] * 3, done.stdout + done.stderr
    assert [json.loads(line[4:])["score"] for line in lines] == [0, 1, 1]


def test_an_offer_cut_anywhere(server: Server) -> None:
    offer = ASK.replace(b"Host: x", b"Host: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk")
    for cut in range(1, len(offer), 7):
        with call(server) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(offer[:cut])
            connection.sendall(offer[cut:] + offer + GOODBYE)
            assert [status for status, _, _ in list_answers(hear(connection))] == [200, 200, 200]


def test_an_offer_in_pieces_or_without_body(server: Server) -> None:
    offer = b"Connection: upgrade\r\nUpgrade: websocket\r\nHost: x\r\n"
    pieces = b"POST /predict_score HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + offer + b"\r\n5\r\n" + ROW[:5] + b"\r\n7\r\n" + ROW[5:] + b"\r\n0\r\n\r\n"
    answers = list_answers(tell(server, pieces + b"GET /health HTTP/1.1\r\n" + offer + b"\r\n" + GOODBYE))
    assert [status for status, _, _ in answers] == [200, 200, 200]


# ── Lo que no es HTTP, o es demasiado ───────────────────────────────────────


@pytest.mark.parametrize(("content", "status", "word"), [
    (b"hola\r\n\r\n", 400, "verbo"),
    (b"\x16\x03\x01\x02\x00\x01\x00", 400, "verbo"),
    (b"GET\r\n\r\n", 400, "verbo"),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "HTTP/1.1"),
    (b"GET / HTTP/7.7\r\n\r\n", 400, "HTTP/1.1"),
    (b"GET /\xf1 HTTP/1.1\r\n\r\n", 400, "dirección"),
    (b"CONNECT otro:443 HTTP/1.1\r\n\r\n", 400, "CONNECT"),
    (ASK.replace(b"12", b"doce"), 400, "Content-Length"),
    (ASK.replace(b"12", b"-1"), 400, "Content-Length"),
    (ASK.replace(b"Host: x", b"Content-Length: 13"), 400, "Content-Length"),
    (ASK.replace(b"Host: x", b"Transfer-Encoding: chunked"), 400, "Transfer-Encoding"),
    (ASK.replace(b"Content-Length: 12", b"Transfer-Encoding: gzip"), 400, "chunked"),
    (ASK.replace(b"Content-Length: 12", b"Transfer-Encoding: chunked").replace(ROW, b"zz\r\n"), 400, "trozos"),
    (ASK.replace(b"Host: x", b"sin dos puntos"), 400, "cabecera"),
    (ASK.replace(b"Host: x", b"Host: x\x00y"), 400, "cabecera"),
    (b"GET /" + b"a" * 60_000 + b" HTTP/1.1\r\n\r\n", 414, "8 KB"),
    (b"GET /?" + b"a" * 60_000, 414, "8 KB"),
    (b"GET / HTTP/1.1\r\n" + b"x-a: b\r\n" * 101 + b"\r\n", 431, "100 cabeceras"),
    (b"GET / HTTP/1.1\r\n" + b"x-a: b\r\n" * 20_000 + b"\r\n", 431, "100 cabeceras"),
    (b"GET / HTTP/1.1\r\nx-a: " + b"b" * 33_000 + b"\r\n\r\n", 431, "32 KB"),
    (b"GET / HTTP/1.1\r\nx-a: " + b"b" * 9_000_000, 431, "32 KB"),
    (b"GET / HTTP/1.1\r\n" + b"c" * 9_000_000, 431, "32 KB"),
    (b"\r\n" * 1_000_000, 431, "32 KB"),
], ids=lambda value: str(value[:30]) if isinstance(value, bytes) else None)
def test_bad_requests(server: Server, content: bytes, status: int, word: str) -> None:
    check_refusal(tell(server, content), status, word)
    assert server.ask({"kilos": 4}).status_code == 200


def test_the_good_ones_before_a_bad_one_are_answered(server: Server) -> None:
    answers = list_answers(tell(server, ASK + ASK + ASK + b"\x00\x01"))
    assert [status for status, _, _ in answers] == [200, 200, 200, 400]


def test_what_comes_after_the_body_is_not_a_header(server: Server) -> None:
    body = ASK.replace(b"Content-Length: 12", b"Transfer-Encoding: chunked").replace(ROW, b"c\r\n" + ROW + b"\r\n0\r\n")
    ((status, head, _),) = list_answers(tell(server, body + b"X-Request-Id: colado\r\n\r\n", finish=True))
    assert status == 200 and b"colado" not in head
    check_refusal(tell(server, body + b"x: y\r\n" * 200), 431)


def test_who_says_no_more_still_hears_the_answer(server: Server) -> None:
    assert [status for status, _, _ in list_answers(tell(server, ASK + ASK, finish=True))] == [200, 200]


def test_a_refused_body_is_not_read_to_the_end(server: Server) -> None:
    before = measure_memory(server)
    heard = tell(server, b"POST /predict_score HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000000\r\n\r\n" + b"a" * 30_000_000)
    check_refusal(heard, 413)
    assert measure_memory(server) - before < 30


def test_faults_do_not_fill_the_log(tierra: Callable, folder: Path) -> None:
    with running(tierra, folder, log="text") as server:
        for _ in range(200):
            tell(server, b"\x00\x01\r\n\r\n")
        server.process.terminate()
        _, told = server.process.communicate(timeout=20)
    assert told.count("\n") <= 2, told[:500]


# ── Los plazos ──────────────────────────────────────────────────────────────


def drip(server: Server, content: bytes, every: float = 0.2) -> tuple[bytes, float]:
    """Manda unos bytes y luego uno cada poco; lo que le contestan y cuántos segundos ha aguantado."""
    begun = time.monotonic()
    with call(server) as connection:
        connection.sendall(content)
        connection.settimeout(every)
        heard = b""
        while True:
            try:
                piece = connection.recv(65536)
            except TimeoutError:
                with suppress(ConnectionError):
                    connection.sendall(b"a")
                continue
            except ConnectionError:
                piece = b""
            heard += piece
            if not piece:
                return heard, time.monotonic() - begun


def test_slow_clients_are_cut(tierra: Callable, folder: Path) -> None:
    """Quien no acaba las cabeceras, o el cuerpo, aunque mande algo cada poco; y quien no dice nada, desde el principio o después."""
    with running(tierra, folder, **SHORT) as server, ThreadPoolExecutor(5) as pool:
        head = pool.submit(drip, server, b"GET / HTTP/1.1\r\nx-a: ")
        body = pool.submit(drip, server, ASK.replace(b"12", b"500"))
        after = pool.submit(drip, server, ASK + b"POST /")
        silent = pool.submit(drip, server, b"", every=20)
        used = pool.submit(drip, server, ASK, every=20)
        check_refusal(head.result()[0], 408, "cabeceras")
        check_refusal(body.result()[0], 408, "cuerpo")
        assert [status for status, _, _ in list_answers(after.result()[0])] == [200, 408]
        assert silent.result()[0] == b"" and used.result()[0].startswith(b"HTTP/1.1 200")
        for late, least, most in ((head, 1, 8), (body, 1, 8), (after, 1, 8), (silent, 2, 9), (used, 2, 9)):
            assert least <= late.result()[1] < most
        assert server.ask({"kilos": 4}).status_code == 200


def test_who_does_not_take_the_answer_is_cut(tierra: Callable, folder: Path) -> None:
    rows = json.dumps([{"kilos": 4}] * 100_000).encode()
    with running(tierra, folder, **SHORT | {"body_seconds": 20}) as server:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        with connection:
            connection.sendall(ASK[: -len(ROW)].replace(b"12", b"%d" % len(rows)) + rows)
            worker, begun = list_workers(server)[0], time.monotonic()
            while worker.net_connections() and any(c.status == "ESTABLISHED" for c in worker.net_connections()):
                assert time.monotonic() - begun < 30
                time.sleep(0.1)


def attack(server: Server, count: int, seconds: float, every: float) -> tuple[list[float], list[float]]:
    """Conexiones que mandan un byte cada poco, y un cliente normal: cuándo se cierra cada una, y lo que espera él."""
    begun, closed, waits = time.monotonic(), [], []
    slow = {call(server): number for number in range(count)}
    for connection in slow:
        connection.setblocking(False)
    sent = 0
    content = b"POST /predict_score HTTP/1.1\r\nHost: x\r\n" + b"x-a: " + b"a" * 10_000
    while slow and time.monotonic() - begun < seconds:
        for connection in list(slow):
            try:
                if not connection.recv(65536):
                    raise ConnectionError
            except BlockingIOError:
                with suppress(OSError):
                    connection.send(content[sent:sent + 1])
            except ConnectionError:
                closed.append(time.monotonic() - begun)
                slow.pop(connection)
                connection.close()
        sent += 1
        asked = time.monotonic()
        assert server.ask({"kilos": 4}).status_code == 200
        waits.append(time.monotonic() - asked)
        time.sleep(every)
    return closed, waits


def test_slowloris(tierra: Callable, folder: Path) -> None:
    with running(tierra, folder, header_seconds=2) as server:
        closed, _ = attack(server, 200, 20, 0.1)
        assert len(closed) == 200


@pytest.mark.long
def test_slowloris_with_the_real_deadlines(tierra: Callable, folder: Path) -> None:
    with running(tierra, folder) as server:
        closed, waits = attack(server, 200, 40, 2)
        assert len(closed) == 200 and max(closed) < 10 + 0.5 + 2 + 3  # el plazo, cada cuánto se mira, y lo que tarda este bucle en verlo
        print(f"cerradas entre {min(closed):.1f} y {max(closed):.1f} s; espera mediana {1000 * np.median(waits):.1f} ms, la peor {1000 * max(waits):.1f}")


# ── Parar ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("name", STOPS)
def test_stopping_loses_nothing(tierra: Callable, folder: Path, name: str, workers: int) -> None:
    """Dieciséis conexiones abiertas que acaban de preguntar, con los procesos parados para que la señal llegue antes de que lean."""
    with ExitStack() as closing, running(tierra, folder, workers=workers) as server:
        guests = [closing.enter_context(call(server)) for _ in range(17)]
        for guest in guests:
            guest.sendall(ASK)
            assert b"200 OK" in hear_one(guest)
        guests[16].sendall(ASK[:-5])
        workers_now = list_workers(server)
        for worker in workers_now:
            worker.suspend()
        while any(worker.status() != psutil.STATUS_STOPPED for worker in workers_now):  # parar del todo tarda, y SIGTERM se le colaría
            time.sleep(0.01)
        for guest in guests[:16]:
            guest.sendall(ASK + ASK)
        server.process.send_signal(STOPS[name])
        while not all(map(is_told_to_stop, workers_now)):
            time.sleep(0.01)
        for worker in workers_now:
            worker.resume()
        guests[16].sendall(ASK[-5:])
        answers = [list_answers(hear(guest)) for guest in guests]
        assert [[status for status, _, _ in heard] for heard in answers] == [[200, 200]] * 16 + [[200]]
        assert all(b"connection: close" in heard[-1][1] for heard in answers)
        out, err = server.process.communicate(timeout=30)
    assert (out.strip(), err, server.process.returncode) == ("Servidor parado.", "", 0)


def test_what_stays_half_sent_is_told(tierra: Callable, folder: Path) -> None:
    with running(tierra, folder) as server, call(server) as half, call(server) as silent:
        half.sendall(ASK[:-5])
        assert server.ask({"kilos": 4}).status_code == 200
        server.process.terminate()
        assert hear(silent) == b""
        check_refusal(hear(half), 503, "parando")
        out, err = server.process.communicate(timeout=30)
    assert (out.strip(), err, server.process.returncode) == ("Servidor parado.", "", 0)


def test_the_second_signal_does_not_wait(tierra: Callable, folder: Path) -> None:
    with running(tierra, folder) as server, call(server) as half:
        half.sendall(ASK[:-5])
        assert server.ask({"kilos": 4}).status_code == 200
        workers = list_workers(server)
        server.process.terminate()
        time.sleep(0.8)
        server.process.send_signal(signal.SIGINT)
        _, err = server.process.communicate(timeout=3)
        hear(half)
    assert server.process.returncode == 1 and "sin esperar a nadie" in err and "Traceback" not in err
    assert not any(worker.is_running() for worker in workers)


@pytest.mark.parametrize("ignored", [True, False])
def test_started_in_the_background(tierra: Callable, folder: Path, ignored: bool) -> None:
    """Con `nohup … &` Ctrl-C nace desoído: así se queda, y SIGTERM lo para igual."""
    command = [tierra.path, "serve", "--port", "0", "--log", "off", "--model", folder]
    mute = f"import os, signal, sys; {'signal.signal(signal.SIGINT, signal.SIG_IGN);' if ignored else ''} os.execv(sys.argv[1], sys.argv[1:])"
    process = subprocess.Popen([sys.executable, "-c", mute, *command], cwd=folder.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    server = Server(process)
    process.send_signal(signal.SIGINT)
    if ignored:
        time.sleep(0.5)
        assert server.ask({"kilos": 4}).status_code == 200
        process.terminate()
    out, err = process.communicate(timeout=20)
    assert (out.strip(), err, process.returncode) == ("Servidor parado.", "", 0)


def test_load_while_it_stops(tierra: Callable, folder: Path) -> None:
    """Dieciséis clientes preguntan sin parar; cada petición que se acabó de mandar antes de que se cerrase la conexión tiene respuesta."""
    lost, answered = Counter[str](), Counter[int]()

    def insist(server: Server) -> None:
        while True:
            try:
                connection = call(server)
            except OSError:
                return
            with connection:
                while True:
                    try:
                        connection.sendall(ASK)
                        heard = hear_one(connection)
                    except (OSError, AssertionError) as error:
                        lost[type(error).__name__] += 1
                        break
                    answered[int(heard[9:12])] += 1
                    if b"connection: close" in heard:
                        break

    with running(tierra, folder, workers=2) as server:
        threads = [threading.Thread(target=insist, args=[server]) for _ in range(16)]
        for thread in threads:
            thread.start()
        time.sleep(1)
        server.process.terminate()
        for thread in threads:
            thread.join(30)
        server.process.communicate(timeout=30)
    assert not lost and set(answered) == {200} and answered[200] > 100, (lost, answered)


# ── Los procesos ────────────────────────────────────────────────────────────


def test_a_dead_worker_is_replaced(tierra: Callable, folder: Path) -> None:
    with running(tierra, folder, workers=2, log="text") as server:
        first, second = list_workers(server)
        first.kill()
        answers = [server.ask({"kilos": 4}).status_code for _ in range(20)]
        begun = time.monotonic()
        while len(alive := [worker for worker in list_workers(server) if worker != first]) < 2:
            assert time.monotonic() - begun < 30
            time.sleep(0.05)
        assert answers == [200] * 20 and second in alive
        server.process.terminate()
        out, err = server.process.communicate(timeout=30)
    assert out.strip() == "Servidor parado." and f"El proceso {first.pid} ha muerto (SIGKILL)" in err and err.count("ha muerto") == 1


def test_connections_are_shared_out(tierra: Callable, folder: Path) -> None:
    """Las conexiones que se quedan abiertas se reparten, y quien sustituye al que muere coge las siguientes."""
    with ExitStack() as closing, running(tierra, folder, workers=2) as server:

        def share(count: int) -> list[int]:
            for _ in range(count):
                guest = closing.enter_context(call(server))
                guest.sendall(ASK)
                assert b"200 OK" in hear_one(guest)
            return sorted(sum(c.status == "ESTABLISHED" for c in worker.net_connections()) for worker in list_workers(server))

        assert share(16)[0] >= 7
        first = list_workers(server)[0]
        first.kill()
        while len({*list_workers(server)} - {first}) < 2:
            time.sleep(0.05)
        while share(1)[0] == 0:  # hasta que el nuevo atiende
            time.sleep(0.05)
        assert share(16)[0] >= 7


def test_workers_leave_when_their_boss_is_killed(tierra: Callable, folder: Path) -> None:
    with running(tierra, folder, workers=2) as server:
        workers = list_workers(server)
        server.process.kill()
        assert psutil.wait_procs(workers, timeout=20)[1] == []
        with pytest.raises(OSError):
            call(server).close()


def test_a_model_that_cannot_be_opened(tierra: Callable, folder: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(folder, tmp_path / "racion")
    (damaged / "model.onnx").write_bytes(b"otra cosa")
    env = os.environ | {"TIERRA_API_WORKERS": "2"}
    command = [tierra.path, "serve", "--port", "0", "--model", damaged]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "no coincide con su sha256" in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1 and done.stdout == ""


def test_a_worker_is_light(server: Server) -> None:
    (worker,) = list_workers(server)
    loaded = Path(f"/proc/{worker.pid}/maps").read_text()
    assert not [name for name in ("pandas", "sklearn", "scipy", "pyarrow", "mlflow") if f"/{name}/" in loaded]
    print(f"trabajador {worker.memory_info().rss / 2**20:.0f} MiB, su jefe {psutil.Process(server.process.pid).memory_info().rss / 2**20:.0f}")


# ── Un mega de cualquier cosa ───────────────────────────────────────────────

MEGA = 1_000_000


def post(body: bytes, path: bytes = b"/predict_score", media: bytes = b"application/json", encoding: bytes = b"") -> bytes:
    """Una petición con ese cuerpo."""
    head = b"POST %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: %b\r\n" % (path, media)
    head += b"Content-Encoding: %b\r\n" % encoding if encoding else b""
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def write_parquet() -> bytes:
    """Unos kilobytes de Parquet que, abiertos, serían ochenta megas: la misma fila diez millones de veces."""
    sink = BytesIO()
    pd.DataFrame({"kilos": np.full(10_000_000, 4.0)}).to_parquet(sink)
    return sink.getvalue()


def build_megas() -> dict[str, bytes]:
    """Un mega de muchas cosas."""
    return {
        "trozos de un byte": GOODBYE.replace(b"Content-Length: 12", b"Transfer-Encoding: chunked").replace(ROW, b"1\r\n \r\n" * (MEGA // 6) + b"0\r\n\r\n"),
        "cabeceras": b"GET / HTTP/1.1\r\n" + b"a:b\r\n" * (MEGA // 5),
        "líneas en blanco": b"\r\n" * (MEGA // 2),
        "basura": random.Random(0).randbytes(MEGA),
        "ceros": post(b"\0" * MEGA),
        "corchetes": post(b"[" * MEGA),
        "objetos vacíos": post(b"[" + b"{}," * (MEGA // 3) + b"{}]"),
        "listas vacías": post(b"[" + b"[]," * (MEGA // 3) + b"[]]"),
        "nulos": post(b"[" + b"null," * (MEGA // 5) + b"null]"),
        "números": post(b"[" + b"1," * (MEGA // 2) + b"1]"),
        "un número": post(b'{"kilos": ' + b"1" * MEGA + b"}"),
        "un texto": post(b'{"kilos": "' + b"a" * MEGA + b'"}'),
        "una columna larga": post(b'{"' + b"a" * MEGA + b'": 1}'),
        "columnas": post(b"{" + b",".join(b'"%d":1' % number for number in range(MEGA // 10)) + b"}"),
        "la misma columna": post(b"{" + b'"kilos":1,' * (MEGA // 10) + b'"kilos":1}'),
        "filas malas": post(b"[" + b'{"kilos":-1},' * (MEGA // 13) + b'{"kilos":-1}]'),
        "filas buenas": post(b"[" + b'{"kilos":4},' * (MEGA // 12) + b'{"kilos":4}]'),
        "CSV": post(b"kilos\n" + b"4,5\n" * (MEGA // 4), b"/predict_scores", b"text/csv"),
        "CSV malo": post(b"kilos\n" + b"x\n" * (MEGA // 2), b"/predict_scores", b"text/csv"),
        "CSV ancho": post(b";" * MEGA, b"/predict_scores", b"text/csv"),
        "CSV sin cerrar": post(b'kilos\n"' + b"4\n" * (MEGA // 2), b"/predict_scores", b"text/csv"),
        "NDJSON": post(b'{"kilos": 4}\n' * (MEGA // 13), b"/predict_scores", b"application/x-ndjson"),
        "NDJSON malo": post(b"{}\n" * (MEGA // 3), b"/predict_scores", b"application/x-ndjson"),
        "columnas de JSON": post(b'{"kilos": [' + b"4," * (MEGA // 2) + b"4]}", b"/predict_scores"),
        "bomba de gzip": post(pack_bomb(b" " * MEGA, 900), encoding=b"gzip"),
        "bomba de gzip en CSV": post(pack_bomb(b"4\n" * (MEGA // 2), 900), b"/predict_scores", b"text/csv", b"gzip"),
        "Parquet": post(write_parquet(), b"/predict_scores", b"application/vnd.apache.parquet"),
        "Parquet que no lo es": post(b"PAR1" + b"a" * MEGA + b"PAR1", b"/predict_scores", b"application/vnd.apache.parquet"),
        "invocación": post(b'{"dataframe_split": {"columns": ["kilos"], "data": [' + b"[4]," * (MEGA // 4) + b"[4]]}}", b"/invocations"),
        "inferencia": post(b'{"inputs": [{"name": "kilos", "datatype": "FP32", "shape": [%d], "data": [' % (MEGA // 2 + 1) + b"4," * (MEGA // 2) + b"4]}]}",
                           b"/v2/models/raci%C3%B3n/infer"),
        "tensores anidados": post(b'{"inputs": [{"name": "kilos", "datatype": "FP32", "shape": [1], "data": ' + b"[" * MEGA + b"]}]}",
                                  b"/v2/models/raci%C3%B3n/infer"),
        "escapes": post(b'{"kilos": "' + b"\\u0061" * (MEGA // 6) + b'"}'),
    }


def forget_peak(worker: psutil.Process) -> float:
    """Olvida lo más que llegó a ocupar un proceso; devuelve los MiB que ocupa."""
    Path(f"/proc/{worker.pid}/clear_refs").write_text("5")
    return worker.memory_info().rss / 2**20


def read_peak(worker: psutil.Process) -> float:
    """Los MiB que ha llegado a ocupar."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{worker.pid}/status").read_text())[1]) / 1024


def test_a_mega_of_anything(tierra: Callable, folder: Path) -> None:
    """Un mega de lo que sea cuesta, como mucho, medio segundo de procesador y cien megas."""
    spent = {}
    with running(tierra, folder) as server:
        (worker,) = list_workers(server)
        for path in (b"/predict_score", b"/predict_scores", b"/invocations"):  # lo que se importa la primera vez no cuenta
            tell(server, post(b'[{"kilos": 4}]', path), finish=True)
        for name, content in build_megas().items():
            work, memory = measure_work(server), forget_peak(worker)
            ((status, _, _),) = list_answers(tell(server, content, finish=True))
            spent[name] = (measure_work(server) - work, read_peak(worker) - memory, status, len(content) / MEGA)
            assert server.ask({"kilos": 4}).status_code == 200
    print("\n".join(f"{name:22} {status} {size:5.2f} MB {seconds:6.2f} s {mib:6.1f} MiB" for name, (seconds, mib, status, size) in spent.items()))
    assert not {name: cost for name, cost in spent.items() if cost[0] > 0.5 or cost[1] > 100}


# ── Bytes al azar ───────────────────────────────────────────────────────────

PIECES = [
    b"GET ", b"POST ", b"HEAD ", b"OPTIONS ", b"PUT ", b"/", b"/predict_score", b"/health", b"/model", b"*", b" HTTP/1.1\r\n", b" HTTP/1.0\r\n",
    b" HTTP/2.0\r\n", b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"Host: x\r\n", b"Content-Length: 12\r\n", b"Content-Length: 0\r\n", b"Content-Length: 99\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n", b"Connection: Upgrade\r\nUpgrade: h2c\r\n", b"Expect: 100-continue\r\n", b"c\r\n",
    b"0\r\n\r\n", b'{"kilos": 4}', b"[]", b"{}", b"null", b"\x00", b"\xff\xfe", b": ", b" ", b"%00%ff", b"?a=b&c", b"#", b"a" * 300, ASK, GOODBYE,
]


def invent(rng: random.Random) -> bytes:
    """Un mensaje al azar: trozos de HTTP sin orden, o una petición buena con algún byte cambiado, quitado o repetido."""
    if rng.random() < 0.5:
        return b"".join(rng.choice(PIECES) for _ in range(rng.randint(1, 12)))
    content = bytearray(rng.choice([ASK, GOODBYE, ASK + ASK, ASK.replace(b"Content-Length: 12", b"Transfer-Encoding: chunked").replace(ROW, b"c\r\n" + ROW + b"\r\n0\r\n\r\n")]))
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(content))
        match rng.randrange(3):
            case 0: content[place] = rng.randrange(256)
            case 1: del content[place:place + rng.randint(1, 9)]
            case 2: content[place:place] = content[place:place + rng.randint(1, 40)]
        if not content:
            break
    return bytes(content)


def fuzz(tierra: Callable, folder: Path, count: int) -> None:
    """Mensajes al azar: el servidor sigue vivo y con la misma memoria, y todo lo que contesta es una respuesta o un problema."""
    rng, seen = random.Random(13), Counter[int]()
    with running(tierra, folder, **SHORT) as server:
        (worker,) = list_workers(server)
        for _ in range(50):
            tell(server, invent(rng), finish=True)
        before = measure_memory(server)
        for number in range(count):
            content = invent(rng)
            for status, head, body in list_answers(tell(server, content, finish=True)):
                seen[status] += 1
                assert status < 500, (number, content)
                if status >= 400 and body:
                    assert PROBLEM in head and json.loads(body)["status"] == status, (number, content)
        assert server.ask({"kilos": 4}).json()["score"] == 0
        after = measure_memory(server)
        assert list_workers(server) == [worker]
        server.process.terminate()
        _, told = server.process.communicate(timeout=30)
    print(f"{count} mensajes, {dict(sorted(seen.items()))}; de {before:.1f} a {after:.1f} MiB")
    assert after < 1.2 * before and told == ""


def test_random_bytes(tierra: Callable, folder: Path) -> None:
    fuzz(tierra, folder, 300)


@pytest.mark.long
def test_many_random_bytes(tierra: Callable, folder: Path) -> None:
    fuzz(tierra, folder, 5000)


def test_the_connection_stays_open_as_long_as_it_says(tierra: Callable, folder: Path) -> None:
    with running(tierra, folder, keep_alive=3) as server, httpx.Client(base_url=server.address) as client:
        assert client.post("/predict_score", content=ROW).status_code == 200
        time.sleep(1.5)
        assert client.post("/predict_score", content=ROW).status_code == 200
        (guest,) = [c for c in list_workers(server)[0].net_connections() if c.status == "ESTABLISHED"]
        assert guest.raddr.port
