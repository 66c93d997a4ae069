"""Cuánto cuesta la API frente a un servidor que no hace nada, en peticiones por segundo.

El suelo es un eco ASGI sobre el mismo uvicorn: lee el cuerpo y lo devuelve. La diferencia es todo lo que hace la API:
repartir, comprobar con la ficha, predecir con ONNX y escribir la respuesta. Cada servidor corre en su proceso, y quien
pregunta, en otro: ocho conexiones que esperan su respuesta antes de volver a preguntar.

    python bench/serving.py                  # un modelo de comidas simuladas
    python bench/serving.py --model CARPETA  # el tuyo
"""
import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ECHO = """
import uvicorn
from de_jupyter_a_la_tierra.hosting.protocol import open_socket

async def echo(scope, receive, send):
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})

listener = open_socket(port=0)
print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
config = uvicorn.Config(echo, log_level="warning", access_log=False, lifespan="off")
uvicorn.Server(config).run(sockets=[listener])
"""
SERVE = "from de_jupyter_a_la_tierra.cli.main import main; main()"
SMALL = b'{"dma_ash":1.7,"dma_cals":76,"dma_carbs":21,"dma_prot":50,"ga_moist":84}'


class Client(asyncio.Protocol):
    """Una conexión que pregunta lo mismo una y otra vez y cuenta las respuestas."""

    def __init__(self, request: bytes) -> None:
        self.request, self.buffer, self.times = request, b"", []

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.ask()

    def ask(self) -> None:
        self.sent = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, found, body = self.buffer.partition(b"\r\n\r\n")
        if found and len(body) >= int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]):
            assert head.startswith(b"HTTP/1.1 200"), self.buffer
            self.times.append(time.perf_counter() - self.sent)
            self.buffer = b""
            self.ask()


async def load(port: int, body: bytes, connections: int, seconds: float) -> list[float]:
    """Pregunta durante unos segundos; devuelve lo que tardó cada respuesta."""
    head = f"POST /predict_score HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
    loop, request = asyncio.get_running_loop(), head.encode() + body
    clients = [
        (await loop.create_connection(lambda: Client(request), "127.0.0.1", port))[1] for _ in range(connections)
    ]
    await asyncio.sleep(seconds / 4)  # que se caliente
    for client in clients:
        client.times.clear()
    await asyncio.sleep(seconds)
    for client in clients:
        client.transport.abort()
    return [elapsed for client in clients for elapsed in client.times]


def measure(command: list[str], body: bytes, connections: int, seconds: float) -> dict[str, float]:
    """Arranca un servidor, le pregunta y lo apaga."""
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        line = next(line for line in server.stdout if "http://127.0.0.1:" in line)
        port = int(line.partition("127.0.0.1:")[2].partition(",")[0])
        times = asyncio.run(load(port, body, connections, seconds))
    finally:
        server.terminate()
        server.wait(timeout=20)
    return {
        "per_second": len(times) / seconds,
        "median_ms": 1000 * statistics.median(times),
        "p99_ms": 1000 * statistics.quantiles(times, n=100)[98],
    }


def freeze_example(folder: Path) -> Path:
    """Un modelo de comidas simuladas."""
    from de_jupyter_a_la_tierra.catfood.cleaning import clean_foods
    from de_jupyter_a_la_tierra.catfood.columns import CATFOOD, LABEL_FIGURES
    from de_jupyter_a_la_tierra.catfood.model import train_model
    from de_jupyter_a_la_tierra.catfood.simulate import simulate_foods
    from de_jupyter_a_la_tierra.models.freezing import freeze_model

    foods, _ = clean_foods(simulate_foods())
    X, y = foods[list(LABEL_FIGURES)], foods[CATFOOD.target]
    freeze_model(
        train_model(X, y, {"type": "logistic"}), folder, X_train=X, X_evaluation=X.head(100), metrics={},
        features=CATFOOD.select(list(LABEL_FIGURES)), target=CATFOOD.select([CATFOOD.target])[0],
        data={"origin": "simulated"}, name=CATFOOD.name,
    )
    return folder


def main() -> None:
    """Mide los dos servidores, por turnos, y enseña el cociente."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, help="La carpeta de un modelo con las cinco cifras de la etiqueta.")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as shelf:
        model = args.model or freeze_example(Path(shelf) / "catfood")
        python = [sys.executable, "-c"]
        servers = {"eco": [*python, ECHO], "tierra serve": [*python, SERVE, "serve", "--model", str(model), "--port", "0"]}
        rounds = [
            {name: measure(command, SMALL, args.connections, args.seconds) for name, command in servers.items()}
            for _ in range(args.rounds)
        ]
    ratios = [done["tierra serve"]["per_second"] / done["eco"]["per_second"] for done in rounds]
    print(f"{'':<14}{'peticiones/s':>14}{'mediana, ms':>14}{'p99, ms':>10}")
    for name in servers:
        row = [statistics.median(done[name][key] for done in rounds) for key in ("per_second", "median_ms", "p99_ms")]
        print(f"{name:<14}{row[0]:>14,.0f}{row[1]:>14.2f}{row[2]:>10.2f}")
    print(json.dumps({"ratio": round(statistics.median(ratios), 3), "rounds": [round(ratio, 3) for ratio in ratios]}))


if __name__ == "__main__":
    main()
