"""Los turnos de una conexión: lo que se contesta en el acto, lo que espera y lo que no se corta a medias."""
import asyncio
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from small import freeze_double

from de_jupyter_a_la_tierra.api.messages import Limits
from de_jupyter_a_la_tierra.api.server import Api, FixedShelf, ModelService, measure_pace, serve_model
from de_jupyter_a_la_tierra.errors import WorkError
from de_jupyter_a_la_tierra.hosting.keys import Gatekeeper, read_rate
from de_jupyter_a_la_tierra.hosting.protocol import MOUTHFUL, STREAK, Connection, Hall, Server
from de_jupyter_a_la_tierra.hosting.settings import ServeSettings
from de_jupyter_a_la_tierra.models.artifact import Model, load_model

ROW = b'{"kilos": 4}'
ASK = b"POST /predict_score HTTP/1.1\r\nHost: x\r\nContent-Length: 12\r\n\r\n" + ROW
LAST = ASK.replace(b"Host", b"Connection: close\r\nHost")
FORWARD = b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n"
BIG = b"z" * 4_000_000


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Un modelo pequeño, de los que contestan en el acto."""
    return load_model(freeze_double(tmp_path_factory.mktemp("turns") / "racion"))


def build(model: Model, **limits: int) -> Api:
    """Una API con esos límites."""
    found = Limits(**limits)
    return Api(FixedShelf(serve_model(ModelService(model, "v1", found))), found)


@contextmanager
def listening(app: Any, **settings: object) -> Iterator[Server]:
    """Un servidor en otro hilo, mientras dure el bloque."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=100)
    port = listener.getsockname()[1]
    server: Any = Server(app, listener, ServeSettings(**settings))  # type: ignore[arg-type]
    server.port = port
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server
    finally:
        server.stop(insist=True)
        thread.join(20)


def call(server: Any, buffer: int = 0) -> socket.socket:
    """Una conexión; con `buffer`, de quien recoge muy poco a poco."""
    guest = socket.socket()
    if buffer:
        guest.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    guest.settimeout(20)
    guest.connect(("127.0.0.1", server.port))
    return guest


def hear(guest: socket.socket) -> bytes:
    """Lo que contesta, hasta que cuelga; que corte de golpe es un fallo."""
    return b"".join(iter(lambda: guest.recv(1 << 20), b""))


def list_statuses(heard: bytes) -> list[int]:
    """Los códigos de las respuestas."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", heard)]


async def answer(scope: Any, receive: Any, send: Any) -> None:
    """Una aplicación que tarda, que falla, que contesta mucho o que no hace nada, según la dirección."""
    visited.append(scope["path"])
    if scope["path"] == "/falla":
        raise RuntimeError("se ha roto")
    await asyncio.sleep(0.3 if scope["path"] == "/despacio" else 0)
    body = BIG if scope["path"] == "/mucho" else scope["path"].encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


visited: list[str] = []


@pytest.mark.parametrize(("path", "status"), [("/predict_score", 413), ("/nada", 404), ("/health", 405)])
def test_whoever_is_still_talking_hears_the_refusal(model: Model, path: str, status: int) -> None:
    """Con 20 MB a medio mandar, la respuesta no se pierde en un corte de golpe."""
    with listening(build(model)) as server:
        for _ in range(3):
            request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", b" " * 20_000_000)
            with pytest.raises(urllib.error.HTTPError) as refusal:
                urllib.request.urlopen(request, timeout=20)
            refusal.value.close()
            assert refusal.value.code == status


def test_a_big_answer_is_not_cut_though_it_be_the_last() -> None:
    """Ni con un cliente que tarda más en recogerla que lo que se espera a quien ya lo tiene todo."""
    with listening(answer) as server, call(server, buffer=2048) as guest:
        guest.sendall(FORWARD.replace(b"Host", b"Connection: close\r\nHost") % b"/mucho")
        time.sleep(0.1)
        guest.sendall(b"\r\n")  # de sobra: lo que hay sin leer hace que el sistema corte
        time.sleep(3)
        assert len(hear(guest).partition(b"\r\n\r\n")[2]) == len(BIG)


def test_after_a_crash_nothing_else_is_asked() -> None:
    """Lo que venía detrás de lo que falló no se ejecuta, porque no se va a contestar."""
    visited.clear()
    with listening(answer) as server, call(server) as guest:
        guest.sendall(b"".join(FORWARD % path for path in (b"/falla", b"/a", b"/b")))
        assert list_statuses(hear(guest)) == [500]
        time.sleep(0.1)
    assert visited == ["/falla"]


@pytest.mark.parametrize("n_blanks", [1500, 20_000])
@pytest.mark.parametrize("chunked", [False, True])
def test_the_body_limit_holds_for_quick_answers(model: Model, n_blanks: int, chunked: bool) -> None:
    body = b"[" + ROW + b" " * n_blanks + b"]"
    size = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(body)
    sent = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body
    with listening(build(model, max_body=1000)) as server, call(server) as guest:
        guest.sendall(b"POST /predict_score HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + size + b"\r\n\r\n" + sent)
        assert list_statuses(hear(guest)) == [413]


@pytest.mark.parametrize("expect", [b"", b"Expect: 100-continue\r\n"])
def test_zeros_before_the_length_are_only_zeros(model: Model, expect: bytes) -> None:
    with listening(build(model)) as server, call(server) as guest:
        guest.sendall(LAST.replace(b"Content-Length: 12", expect + b"Content-Length: " + b"0" * 5000 + b"12"))
        assert [status for status in list_statuses(hear(guest)) if status != 100] == [200]


class Wire:
    """Un transporte sin red."""

    def __init__(self) -> None:
        self.sent, self.paused, self.ended = b"", False, False

    def write(self, content: bytes) -> None:
        self.sent += content

    def write_eof(self) -> None:
        self.ended = True

    close = abort = write_eof

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str) -> None:
        return None

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


def test_a_flood_waits_its_turn(model: Model) -> None:
    """De mil peticiones seguidas se contestan unas pocas y se deja pasar a los demás; las otras, luego, todas y en orden."""
    loop = asyncio.new_event_loop()
    connection, wire = Connection(Hall(build(model), ServeSettings()), loop), Wire()
    connection.connection_made(wire)
    connection.data_received(b"".join(ASK.replace(b"Host", b"X-Request-Id: %d\r\nHost" % place) for place in range(1000)))
    assert len(list_statuses(wire.sent)) == STREAK and wire.paused
    assert len(connection.talk.queue) < MOUTHFUL / len(ASK)  # y lo que no se ha leído no ocupa más que sus bytes

    async def wait() -> None:
        while len(list_statuses(wire.sent)) < 1000:
            await asyncio.sleep(0.01)

    loop.run_until_complete(asyncio.wait_for(wait(), 60))
    assert [int(name) for name in re.findall(rb"x-request-id: (\d+)", wire.sent)] == list(range(1000))
    assert not wire.paused and set(list_statuses(wire.sent)) == {200}
    loop.close()


@pytest.mark.parametrize("tail", [b"", b"GE", ASK[:-3], b"\x00"])
def test_what_was_whole_is_answered_though_the_rest_never_comes(tail: bytes) -> None:
    """Quien pregunta, empieza otra pregunta y cuelga su lado tiene la respuesta de la primera."""
    with listening(answer) as server, call(server) as guest:
        guest.sendall(FORWARD % b"/despacio" + tail)
        guest.shutdown(socket.SHUT_WR)
        assert list_statuses(hear(guest)) == ([200, 400] if tail == b"\x00" else [200])


def test_a_goodbye_in_a_trailer_is_a_goodbye(model: Model) -> None:
    chunked = ASK.replace(b"Content-Length: 12", b"Transfer-Encoding: chunked").replace(ROW, b"c\r\n" + ROW + b"\r\n0\r\nConnection: close\r\n\r\n")
    with listening(build(model)) as server, call(server) as guest:
        guest.sendall(chunked)
        heard = hear(guest)  # cuelga: no se queda callada esperando otra
    assert list_statuses(heard) == [200] and b"connection: close" in heard


def test_a_long_wrong_request_is_explained_elsewhere(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Explicar qué está mal cuesta más que contestar: si la petición es larga, no se hace donde se atiende a todos."""
    api = build(model)
    rows = b"[" + b",".join([ROW] * 999) + b", {}]"
    threads: list[str] = []
    reader = api.shelf.current.service.reader  # type: ignore[union-attr]
    examine: Callable[[bytes], Any] = reader.examine
    monkeypatch.setattr(reader, "examine", lambda body: (threads.append(threading.current_thread().name), examine(body))[1])
    with listening(api) as server, call(server) as guest:
        for body in (b"{}", rows):
            guest.sendall(ASK.replace(b"Content-Length: 12", b"Content-Length: %d" % len(body)).replace(ROW, body))
            assert b"422" in guest.recv(1 << 20)
    assert len(threads) == len(set(threads)) == 2  # la corta, donde se atiende; la larga, en otro hilo


def test_a_slow_model_is_never_answered_in_the_loop(model: Model) -> None:
    def dawdle(methods: tuple[str, ...], X: np.ndarray) -> list[np.ndarray]:
        time.sleep(0.002)
        return model.run(methods, X)

    slow = ModelService(replace(model, run=dawdle), "v1")
    assert measure_pace(slow) == -1 < measure_pace(ModelService(model, "v1"))


def test_a_fault_of_ours_is_not_blamed_on_who_asks(model: Model) -> None:
    """Si el motor no puede, es un 500 y queda en el registro; un 422 diría que la petición está mal."""
    def fail(methods: tuple[str, ...], X: np.ndarray) -> list[np.ndarray]:
        raise WorkError("El modelo está dañado.")

    with listening(build(replace(model, run=fail))) as server, call(server) as guest:
        guest.sendall(LAST)
        heard = hear(guest)
    assert list_statuses(heard) == [500] and b"est\xc3\xa1 en su registro" in heard


def test_a_request_that_goes_the_long_way_is_admitted_once(model: Model) -> None:
    """La que no se pudo contestar en el acto no gasta dos fichas del límite de prisa."""
    api = build(model)
    api.gate = Gatekeeper(None, read_rate("3/hora"))
    rows = b"[" + b",".join([ROW] * 999) + b", {}]"
    asked = ASK.replace(b"Content-Length: 12", b"Content-Length: %d" % len(rows)).replace(ROW, rows)
    with listening(api) as server, call(server) as guest:
        statuses = []
        for _ in range(4):
            guest.sendall(asked)
            statuses += list_statuses(guest.recv(1 << 20))
    assert statuses == [422, 422, 422, 429]
