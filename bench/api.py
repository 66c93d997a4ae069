"""Cuánto cuesta la API frente a un servidor que no hace nada y frente a los de los demás, con el mismo modelo.

Cada servidor corre en su proceso, y quien pregunta, en otro: ocho conexiones que esperan su respuesta antes de volver a
preguntar. Se mira cuántas contesta por segundo, su percentil 99 y, sobre todo, la CPU que gasta cada petición, que es lo
que no cambia si la máquina está haciendo otras cosas. El eco lee el cuerpo y lo devuelve, en uvicorn; `tierra serve` lleva
puesto todo: clave, límite de prisa, métricas y registro.

    python bench/api.py                                    # el eco y `tierra serve`
    python bench/api.py --peers PYTHON                     # y los demás: FastAPI, BentoML, LitServe, MLflow y Kedro
    python bench/api.py --only eco "tierra serve" --seconds 2

PYTHON es el de un entorno con fastapi, bentoml, litserve, mlflow, kedro, scikit-learn, pandas y skops; el que no esté se salta.
"""
import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

ROW = {"dma_ash": 1.7, "dma_cals": 76, "dma_carbs": 21, "dma_prot": 50, "ga_moist": 84}
RECORDS = json.dumps({"dataframe_records": [ROW]}).encode()
KEY = "clave-de-las-medidas-0123456789"
SERVE = "import sys; from de_jupyter_a_la_tierra.cli.main import main; sys.argv[0] = 'tierra'; main()"

ECHO = """
import sys, uvicorn

async def echo(scope, receive, send):
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})

uvicorn.run(echo, port=int(sys.argv[2]), log_level="warning", access_log=False, lifespan="off")
"""
FASTAPI = """
import sys, pandas as pd, uvicorn
from fastapi import FastAPI
from pydantic import BaseModel, Field
from skops.io import load

pipeline = load(sys.argv[1] + "/model.skops", trusted=TRUSTED)
app = FastAPI()

class Food(BaseModel):
    dma_ash: float = Field(ge=0, le=100)
    dma_cals: float = Field(ge=0)
    dma_carbs: float = Field(ge=0, le=100)
    dma_prot: float = Field(ge=0, le=100)
    ga_moist: float = Field(ge=0, le=100)

@app.post("/predict_score")
def predict(food: Food):
    table = pd.DataFrame([food.model_dump()]).to_numpy("float32")
    return {"score": int(pipeline.predict(table)[0]), "probability": float(pipeline.predict_proba(table).max())}

uvicorn.run(app, port=int(sys.argv[2]), log_level="warning", access_log=False)
"""
BENTO = """
import bentoml, os, pandas as pd
from skops.io import load

@bentoml.service(workers=1)
class Score:
    def __init__(self):
        self.pipeline = load(os.environ["MODEL"] + "/model.skops", trusted=TRUSTED)

    @bentoml.api(route="/predict_score")
    def predict(self, dma_ash: float, dma_cals: float, dma_carbs: float, dma_prot: float, ga_moist: float) -> dict:
        table = pd.DataFrame([[dma_ash, dma_cals, dma_carbs, dma_prot, ga_moist]]).to_numpy("float32")
        return {"score": int(self.pipeline.predict(table)[0]), "probability": float(self.pipeline.predict_proba(table).max())}
"""
LITSERVE = """
import sys, litserve, pandas as pd
from skops.io import load

class Score(litserve.LitAPI):
    def setup(self, device):
        self.pipeline = load(sys.argv[1] + "/model.skops", trusted=TRUSTED)

    def decode_request(self, request):
        return pd.DataFrame([request]).to_numpy("float32")

    def predict(self, table):
        return self.pipeline.predict(table), self.pipeline.predict_proba(table)

    def encode_response(self, answer):
        return {"score": int(answer[0][0]), "probability": float(answer[1].max())}

if __name__ == "__main__":
    litserve.LitServer(Score(api_path="/predict_score"), accelerator="cpu", workers_per_device=1).run(port=int(sys.argv[2]), generate_client_file=False, log_level="warning")
"""
KEDRO = """
import sys, json, uvicorn
from pathlib import Path
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project

root = Path(sys.argv[3])
bootstrap_project(root)

async def app(scope, receive, send):
    body = (await receive())["body"]
    with KedroSession.create(project_path=root, runtime_params={"row": json.loads(body)}) as session:
        answer = session.run()["answer"].load()
    body = json.dumps(answer).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})

uvicorn.run(app, port=int(sys.argv[2]), log_level="warning", access_log=False, lifespan="off")
"""
REGISTRY = """
from kedro.pipeline import Pipeline, node
from skops.io import load
import pandas as pd

pipeline = load({model!r} + "/model.skops", trusted={trusted!r})

def predict(row):
    table = pd.DataFrame([row]).to_numpy("float32")
    return {{"score": int(pipeline.predict(table)[0]), "probability": float(pipeline.predict_proba(table).max())}}

def register_pipelines():
    return {{"__default__": Pipeline([node(predict, "params:row", "answer")])}}
"""


class Client(asyncio.Protocol):
    """Una conexión que pregunta lo mismo una y otra vez y cuenta las respuestas."""

    def __init__(self, request: bytes) -> None:
        self.request, self.buffer, self.times, self.lost = request, b"", [], False

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.ask()

    def ask(self) -> None:
        self.sent = time.perf_counter()
        self.transport.write(self.request)

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, found, body = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return
        lowered = head.lower()
        sized = lowered.partition(b"content-length: ")[2].partition(b"\r\n")[0]
        if len(body) >= int(sized) if sized else body.endswith(b"0\r\n\r\n"):
            assert head.startswith(b"HTTP/1.1 200"), self.buffer[:500]
            self.times.append(time.perf_counter() - self.sent)
            self.buffer = b""
            self.ask()


@dataclass
class Peer:
    """Un servidor al que se le pregunta."""

    command: list[str]  # «{port}» es el puerto
    path: str = "/predict_score"
    body: bytes = field(default_factory=lambda: json.dumps(ROW).encode())
    headers: str = ""
    environ: dict[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    connections: int = 8


def burn(process: psutil.Process) -> float:
    """Los segundos de CPU de un proceso y de los que ha lanzado."""
    total = 0.0
    for each in [process, *process.children(recursive=True)]:
        with suppress(psutil.Error):
            times = each.cpu_times()
            total += times.user + times.system
    return total


@contextmanager
def running(peer: Peer) -> Iterator[tuple[int, psutil.Process]]:
    """Un servidor en marcha y contestando."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryFile() as log:
        command = [part.replace("{port}", str(port)) for part in peer.command]
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=peer.cwd, env=os.environ | peer.environ, start_new_session=True)
        headers = dict(line.split(": ", 1) for line in ["Content-Type: application/json", *peer.headers.splitlines()])
        request = urllib.request.Request(f"http://127.0.0.1:{port}{peer.path}", peer.body, headers)
        try:
            for _ in range(600):
                try:
                    urllib.request.urlopen(request, timeout=30).read()
                    break
                except OSError as error:
                    if server.poll() is not None:
                        log.seek(0)
                        raise RuntimeError(log.read().decode(errors="replace")[-2000:]) from error
                    time.sleep(0.1)
            yield port, psutil.Process(server.pid)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, 15)
            try:
                server.wait(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, 9)


async def load(port: int, peer: Peer, seconds: float, process: psutil.Process) -> dict[str, float]:
    """Pregunta durante unos segundos; cuenta las respuestas y lo que costaron."""
    head = f"POST {peer.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n{peer.headers}Content-Length: {len(peer.body)}\r\n\r\n"
    loop, request = asyncio.get_running_loop(), head.encode() + peer.body
    clients = [(await loop.create_connection(lambda: Client(request), "127.0.0.1", port))[1] for _ in range(peer.connections)]
    await asyncio.sleep(max(2.0, seconds / 4))  # que se caliente, y que acabe de arrancar
    for client in clients:
        client.times.clear()
    before, start = burn(process), time.perf_counter()
    await asyncio.sleep(seconds)
    spent, elapsed = burn(process) - before, time.perf_counter() - start
    times = [took for client in clients for took in client.times]
    assert len(times) > 1 and not any(client.lost for client in clients), f"{len(times)} respuestas"
    for client in clients:
        client.transport.abort()
    return {
        "per_second": len(times) / elapsed, "cpu_us": 1e6 * spent / len(times),
        "p99_ms": 1000 * statistics.quantiles(times, n=100)[98],
    }


def measure(peer: Peer, seconds: float) -> dict[str, float]:
    """Arranca un servidor, le pregunta y lo apaga."""
    with running(peer) as (port, process):
        return asyncio.run(load(port, peer, seconds, process))


def freeze_example(folder: Path, kind: str) -> Path:
    """Un modelo de comidas simuladas."""
    from de_jupyter_a_la_tierra.catfood.cleaning import clean_foods
    from de_jupyter_a_la_tierra.catfood.columns import CATFOOD, LABEL_FIGURES
    from de_jupyter_a_la_tierra.catfood.model import train_model
    from de_jupyter_a_la_tierra.catfood.simulate import simulate_foods
    from de_jupyter_a_la_tierra.models.freezing import freeze_model

    foods, _ = clean_foods(simulate_foods())
    X, y = foods[list(LABEL_FIGURES)], foods[CATFOOD.target]
    freeze_model(
        train_model(X, y, {"type": kind}), folder, X_train=X, X_evaluation=X.head(100), metrics={},
        features=CATFOOD.select(list(LABEL_FIGURES)), target=CATFOOD.select([CATFOOD.target])[0],
        data={"origin": "simulated"}, name=CATFOOD.name,
    )
    return folder


def write_kedro(root: Path, model: Path, trusted: list[str]) -> Path:
    """Un proyecto de Kedro con un nodo: el que predice la fila que le dan."""
    (root / "src/ask").mkdir(parents=True)
    (root / "conf/base").mkdir(parents=True)
    (root / "conf/local").mkdir()
    from kedro import __version__ as version

    (root / "pyproject.toml").write_text(f'[tool.kedro]\npackage_name = "ask"\nproject_name = "ask"\nkedro_init_version = "{version}"\n')
    (root / "src/ask/__init__.py").touch()
    (root / "src/ask/settings.py").write_text('DISABLE_HOOKS_FOR_PLUGINS = ("kedro-mlflow", "kedro_mlflow", "kedro-telemetry")\n')  # solo Kedro
    (root / "src/ask/pipeline_registry.py").write_text(REGISTRY.format(model=str(model), trusted=trusted))
    (root / "conf/base/parameters.yml").write_text("{}\n")
    (root / "conf/base/catalog.yml").write_text("{}\n")
    (root / "conf/base/logging.yml").write_text("version: 1\nroot: {level: ERROR}\n")
    return root


def serve_here(model: Path, **about: bytes) -> Peer:
    """La API como se pone en producción: con clave, límite de prisa, métricas y registro."""
    return Peer(
        [sys.executable, "-c", SERVE, "serve", "--model", str(model), "--port", "{port}", "--rate", "1000000/segundo"],
        headers=f"Authorization: Bearer {KEY}\r\n", environ={"TIERRA_API_KEY": f"medidas:{KEY}"}, **about,
    )


def list_peers(shelf: Path, model: Path, peers: str | None) -> dict[str, Peer]:
    """Los servidores que se comparan."""
    from de_jupyter_a_la_tierra.models.artifact import TRUSTED_TYPES

    trusted = sorted({*TRUSTED_TYPES})
    header = f"TRUSTED = {trusted!r}\n"
    found = {
        "eco": Peer([sys.executable, "-c", ECHO, str(model), "{port}"]),
        "tierra serve": serve_here(model),
    }
    if peers:
        (shelf / "bento.py").write_text(header + BENTO)
        (shelf / "lit.py").write_text(header + LITSERVE)
        bin_folder = Path(peers).parent
        found |= {
            "FastAPI + scikit-learn": Peer([peers, "-c", header + FASTAPI, str(model), "{port}"]),
            "LitServe": Peer([peers, str(shelf / "lit.py"), str(model), "{port}"]),
            "BentoML": Peer([str(bin_folder / "bentoml"), "serve", "bento:Score", "--port", "{port}"], cwd=shelf, environ={"MODEL": str(model), "BENTOML_DO_NOT_TRACK": "True", "PYTHONPATH": str(shelf)}),
            "mlflow models serve": Peer(
                [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(save_mlflow(shelf, model, trusted)), "-p", "{port}", "--env-manager", "local"],
                path="/invocations", body=RECORDS, environ={"MLFLOW_DISABLE_TELEMETRY": "true"},
            ),
            "Kedro, una sesión por petición": Peer(
                [sys.executable, "-c", KEDRO, str(model), "{port}", str(write_kedro(shelf / "kedro", model, trusted))],
                connections=1, environ={"KEDRO_DISABLE_TELEMETRY": "1", "KEDRO_LOGGING_CONFIG": str(shelf / "kedro/conf/base/logging.yml")},
            ),
        }
    return found


def save_mlflow(shelf: Path, model: Path, trusted: list[str]) -> Path:
    """El mismo modelo, guardado como lo guarda MLflow."""
    import mlflow
    from skops.io import load as load_skops

    folder = shelf / "mlflow"
    mlflow.sklearn.save_model(load_skops(model / "model.skops", trusted=trusted), folder, serialization_format="skops", skops_trusted_types=trusted, pip_requirements=[])
    return folder


def batches(model: Path, seconds: float) -> dict[str, float]:
    """Mil filas por petición: la API frente a decodificar y predecir los mismos bytes, sin servidor."""
    import msgspec

    from de_jupyter_a_la_tierra.models.artifact import load_model

    rng = np.random.default_rng(0)
    rows = [{name: round(float(value * rng.uniform(0.8, 1.1)), 1) for name, value in ROW.items()} for _ in range(1000)]
    body, loaded = json.dumps(rows).encode(), load_model(model)
    row = msgspec.defstruct("Row", [(name, float) for name in ROW])
    decode = msgspec.json.Decoder(list[row]).decode
    start, rounds = time.process_time(), 0
    while time.process_time() - start < seconds / 2:
        X = np.array([msgspec.structs.astuple(each) for each in decode(body)], np.float32)
        loaded.run(("predict", "predict_proba"), X)
        rounds += 1
    floor = 1e6 * (time.process_time() - start) / rounds
    return {"floor_us": floor, "api_us": measure(serve_here(model, body=body), seconds)["cpu_us"]}


def main() -> None:
    """Mide los servidores, por turnos, y enseña los cocientes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peers", metavar="PYTHON", help="El Python de un entorno con los demás.")
    parser.add_argument("--only", nargs="+", help="Solo estos.")
    parser.add_argument("--model", default="logistic", help="Qué modelo: logistic o random_forest.")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as shelf:
        model = freeze_example(Path(shelf) / "catfood", args.model)
        found = list_peers(Path(shelf), model, args.peers)
        rounds: dict[str, list[dict[str, float]]] = {}
        for _ in range(args.rounds):
            for name, peer in found.items():
                if args.only and name not in args.only:
                    continue
                try:
                    rounds.setdefault(name, []).append(measure(peer, args.seconds))
                except (RuntimeError, OSError, AssertionError) as error:
                    print(f"{name}: no se ha podido medir: {str(error)[-600:]}", file=sys.stderr)
        batch = [batches(model, args.seconds) for _ in range(args.rounds)]
    rounds = {name: done for name, done in rounds.items() if done}
    medians = {name: {key: statistics.median(each[key] for each in done) for key in done[0]} for name, done in rounds.items()}
    print(f"{'':<32}{'peticiones/s':>14}{'p99, ms':>10}{'CPU por petición, µs':>22}")
    for name, row in medians.items():
        print(f"{name:<32}{row['per_second']:>14,.0f}{row['p99_ms']:>10.2f}{row['cpu_us']:>22,.0f}")
    ours = medians["tierra serve"]
    ratios = {name: round(row["cpu_us"] / ours["cpu_us"], 3) for name, row in medians.items() if name != "tierra serve"}
    speeds = {name: round(ours["per_second"] / row["per_second"], 3) for name, row in medians.items() if name != "tierra serve"}
    floor, api = (statistics.median(each[key] for each in batch) for key in ("floor_us", "api_us"))
    print(json.dumps({"cpu": ratios, "per_second": speeds, "batch": {"floor_us": round(floor), "api_us": round(api), "ratio": round(floor / api, 3)}}, ensure_ascii=False))


if __name__ == "__main__":
    main()
