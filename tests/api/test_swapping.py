"""Cambiar de modelo en marcha, con procesos de verdad, carga y modelos rotos a propósito: nadie lo nota."""
import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from de_jupyter_a_la_tierra.api.server import ModelService
from de_jupyter_a_la_tierra.models.artifact import load_model
from de_jupyter_a_la_tierra.models.freezing import freeze_model
from de_jupyter_a_la_tierra.projects.project import find_project
from de_jupyter_a_la_tierra.tables.dictionary import Column
from de_jupyter_a_la_tierra.tracking.registry import open_registry, register_model

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(120)]  # MLflow avisa de mil cosas suyas
PROTEIN = Column(name="protein", meaning="Proteína", unit="%", minimum=0, maximum=100)
AGE = Column(name="age", meaning="Edad", unit="años", minimum=0)
ROW = {"protein": 44, "age": 6}
BODY = json.dumps(ROW).encode()


def freeze(folder: Path, seed: int, columns: tuple[Column, ...] = (PROTEIN, AGE), name: str = "racion") -> Path:
    """Un modelo pequeño que contesta cosas distintas con cada semilla."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(1, 90, (200, len(columns))).astype("float32")
    y = (X[:, 0] * rng.uniform(0.5, 2) > X[:, -1] * rng.uniform(0.5, 2)).astype(int) + 1
    freeze_model(
        LogisticRegression(C=0.001 * (1 + seed)).fit(X, y), folder, X_train=X, X_evaluation=X, metrics={"accuracy": 0.5 + seed / 100},
        features=list(columns), target=Column(name="paws", meaning="Patas", minimum=1, maximum=2, integer=True),
        data={"origin": "simulated"}, name=name,
    )
    return folder


def answer_of(folder: Path, version: str) -> bytes:
    """Lo que ha de contestar un modelo a la fila de las pruebas."""
    return ModelService(load_model(folder), version).answer(BODY)


class Api:
    """Un `tierra serve` en marcha, con o sin modelo."""

    def __init__(self, tierra: Callable, cwd: Path, *args: str, **env: str) -> None:
        self.log = cwd / f"log-{time.monotonic_ns()}.txt"
        with self.log.open("w") as heard:
            command = [tierra.path, "serve", *([] if "--port" in args else ["--port", "0"]), *args]
            env = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")} | env  # sin lo que MLflow apuntó aquí
            self.process = subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=heard, text=True, env=env)
        self.said = []
        for line in self.process.stdout:
            self.said.append(line)
            if "API en" in line:
                break
        assert self.said and "API en" in self.said[-1], "".join(self.said) + self.tell()
        self.port = int(re.search(r"127\.0\.0\.1:(\d+)", self.said[-1])[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def tell(self) -> str:
        """Lo que ha dicho, sin las peticiones."""
        return "".join(line for line in self.log.read_text().splitlines(True) if '"event":"request"' not in line)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=20)

    def ask(self) -> httpx.Response:
        return httpx.post(self.url + "/predict_score", content=BODY, timeout=20)

    def wait_for(self, what: Callable[[dict], bool], seconds: float = 30) -> dict:
        """Espera a que `/health` diga algo."""
        limit = time.monotonic() + seconds
        while not what(health := self.get("/health").json()):
            assert time.monotonic() < limit, f"{health}\n{self.tell()}"
            time.sleep(0.05)
        return health

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        self.process.communicate(timeout=30)
        return self.process.returncode


@contextmanager
def serving(tierra: Callable, cwd: Path, *args: str, **env: str) -> Iterator[Api]:
    """La API, y al salir, su final."""
    api = Api(tierra, cwd, *args, **env)
    try:
        yield api
    finally:
        if api.process.poll() is None:
            api.stop()


class Load:
    """Unas conexiones que preguntan lo mismo sin parar y apuntan cada respuesta distinta."""

    def __init__(self, ports: list[int], connections: int = 4) -> None:
        self.ports, self.connections = ports, connections
        self.answers: Counter[bytes] = Counter()  # cuerpo de un 200 → cuántas veces
        self.failed: list[str] = []  # lo que no fue un 200
        self.cut = 0  # conexiones que se cerraron con una petición a medias
        self.closing = False

    async def _ask(self, number: int) -> None:
        """Una conexión: pregunta, espera, apunta; si se la cierran, abre otra, en la otra instancia si la hay."""
        request = b"POST /predict_score HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
        reader = writer = None
        turn = number
        while not self.closing:
            sent = False
            try:
                if writer is None:
                    reader, writer = await asyncio.open_connection("127.0.0.1", self.ports[turn % len(self.ports)])
                writer.write(request)
                sent = True
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                body = await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
                if head.startswith(b"http/1.1 200"):
                    self.answers[body] += 1
                else:
                    self.failed.append(f"{head[:40]!r} {body[:200]!r}")
                if b"connection: close" in head:
                    writer.close()
                    writer = None
                await asyncio.sleep(0.002)
            except (OSError, asyncio.IncompleteReadError):  # se ha cerrado: a la otra, como haría quien reparte
                if writer:
                    writer.close()
                self.cut, turn, writer = self.cut + sent, turn + 1, None
                await asyncio.sleep(0.01)
        if writer:
            writer.close()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)

    async def run(self, work: Callable) -> None:
        """Pregunta mientras se hace otra cosa, que corre en otro hilo."""
        tasks = [asyncio.create_task(self._ask(number)) for number in range(self.connections)]
        try:
            await asyncio.to_thread(work)
        finally:
            self.closing = True
            await asyncio.gather(*tasks)

    def during(self, work: Callable) -> "Load":
        asyncio.run(self.run(work))
        return self


def switch(link: Path, folder: Path) -> None:
    """Cambia, de una vez, la carpeta a la que lleva un nombre."""
    draft = link.with_name(link.name + ".nueva")
    draft.symlink_to(folder)
    os.replace(draft, link)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tres modelos iguales por fuera, y uno que pide otra cosa."""
    base = tmp_path_factory.mktemp("modelos")
    found = {version: freeze(base / "racion" / version / "racion", seed) for seed, version in enumerate(("v1", "v2", "v3"))}
    return found | {"otro": freeze(base / "racion/otro/racion", 7, (PROTEIN, Column(name="weight", meaning="Peso", minimum=0)))}


@pytest.fixture
def link(folders, tmp_path) -> Path:
    """Un nombre que lleva a un modelo y que se puede cambiar de golpe."""
    switch(place := tmp_path / "servido", folders["v1"])
    return place


def test_swaps_under_load(tierra, folders, link, tmp_path):
    """Se cambia de modelo varias veces con carga: ningún fallo, y cada respuesta es la de la versión que dice."""
    expected = {answer_of(folders[version], version) for version in ("v1", "v2", "v3")}
    with serving(tierra, tmp_path, "--model", str(link), TIERRA_API_REFRESH="0.2") as api:

        def swap() -> None:
            for version in ("v2", "v3", "v1"):
                switch(link, folders[version])
                api.wait_for(lambda health, version=version: health["model"] == version)

        load = Load([api.port]).during(swap)
    assert not load.failed and not load.cut
    assert set(load.answers) == expected


def test_a_bad_model_does_not_get_in(tierra, folders, link, tmp_path):
    """Uno con un byte cambiado, y otro que no es un modelo: se rechazan, se dice una vez y sigue el de antes."""
    bad = Path(shutil.copytree(folders["v2"].parent, tmp_path / "racion/malo"))
    onnx = bad / "racion/model.onnx"
    good = onnx.read_bytes()
    onnx.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with serving(tierra, tmp_path, "--model", str(link), TIERRA_API_REFRESH="0.2") as api:

        def swap() -> None:
            switch(link, bad / "racion")
            health = api.wait_for(lambda health: "refused" in health)
            assert health["model"] == "v1" and health["status"] == "ok"
            assert health["refused"]["version"] == "malo" and "sha256" in health["refused"]["reason"]
            time.sleep(0.7)  # unas cuantas miradas más, que no lo cuentan otra vez
            onnx.write_bytes(good)  # alguien lo arregla, y entra
            assert "refused" not in api.wait_for(lambda health: health["model"] == "malo")

        load = Load([api.port]).during(swap)
        log = api.tell()
    assert not load.failed and not load.cut
    assert log.count("no se sirve") == 1 and "Traceback" not in log
    assert set(load.answers) == {answer_of(folders["v1"], "v1"), answer_of(bad / "racion", "malo")}


def test_another_schema_is_refused_or_forced(tierra, folders, link, tmp_path):
    """El que pide otras columnas no entra, y dice cuáles; si se pide, sí."""
    with serving(tierra, tmp_path, "--model", str(link), TIERRA_API_REFRESH="0.2") as api:
        switch(link, folders["otro"])
        refused = api.wait_for(lambda health: "refused" in health)["refused"]
        assert "ya no admite «age»" in refused["reason"] and "pide «weight»" in refused["reason"]
        assert api.ask().json()["model"] == "v1"
    switch(link, folders["v1"])
    with serving(tierra, tmp_path, "--model", str(link), "--force-schema", TIERRA_API_REFRESH="0.2") as api:
        switch(link, folders["otro"])
        api.wait_for(lambda health: health["model"] == "otro")
        assert api.ask().status_code == 422


def test_a_folder_without_versions(tierra, folders, tmp_path):
    """Una carpeta cualquiera, sustituida por otra del mismo nombre: se nota, y las respuestas de una y otra no se confunden."""
    place = Path(shutil.copytree(folders["v1"], tmp_path / "modelo"))
    shutil.copytree(folders["v2"], tmp_path / "nueva")
    with serving(tierra, tmp_path, "--model", "modelo", TIERRA_API_REFRESH="0.2") as api:
        assert api.ask().json()["model"] == "racion"

        def replace() -> None:
            place.rename(tmp_path / "vieja")
            (tmp_path / "nueva").rename(place)
            api.wait_for(lambda health: health["model"] != "racion")

        load = Load([api.port]).during(replace)
    assert not load.failed and not load.cut
    assert set(load.answers) == {answer_of(folders["v1"], "racion"), answer_of(place, load_model(place).info["sha256"][:12])}


def test_a_bad_candidate_changes_nothing(tierra, folders, link, tmp_path):
    """Un candidato que mira otra columna no sabe contestar, y se cuenta; uno roto ni se prueba. La API no se entera."""
    (broken := Path(shutil.copytree(folders["v2"], tmp_path / "roto")) / "model.onnx").write_bytes(b"nada")
    for candidate, told, counted in ((folders["otro"], "Mira «weight», que no llega", 3), (broken.parent, "no coincide con su sha256", 0)):
        with serving(tierra, tmp_path, "--model", str(link), "--shadow", str(candidate), TIERRA_API_REFRESH="0.2") as api:
            assert [api.ask().json()["model"] for _ in range(3)] == ["v1"] * 3
            limit = time.monotonic() + 20
            while told not in (said := api.tell()) or counted and f"}} {counted}.0" not in api.get("/metrics").text.partition("tierra_shadow_errors_total{")[2].partition("\n")[0]:
                assert time.monotonic() < limit, said
                time.sleep(0.1)
            assert api.get("/health").json()["status"] == "ok" and "Traceback" not in said


def test_the_one_who_watches_dies(tierra, folders, link, tmp_path):
    """Si muere el proceso que mira, nace otro y los cambios siguen llegando; y no queda ninguno al acabar."""
    psutil = pytest.importorskip("psutil")
    with serving(tierra, tmp_path, "--model", str(link), TIERRA_API_REFRESH="0.2") as api:

        def find_watchers() -> list:
            return [child for child in psutil.Process(api.process.pid).children(recursive=True) if "hosting.resolver" in " ".join(child.cmdline())]

        (first,) = find_watchers()
        first.kill()
        switch(link, folders["v2"])
        api.wait_for(lambda health: health["model"] == "v2")
        (second,) = find_watchers()
        api.process.kill()
        api.process.wait(10)
        second.wait(10)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Un proyecto con dos versiones en su registro, y ningún campeón."""
    root = tmp_path_factory.mktemp("proyecto")
    for seed, version in enumerate(("2026-01-01T00.00.00.000Z", "2026-02-01T00.00.00.000Z")):
        register_model(find_project(root), freeze(root / "data/06_models/catfood" / version / "catfood", seed, name="catfood"))
    return root


def crown(root: Path, version: int, alias: str = "champion") -> None:
    """Pone un alias en el registro, como hace MLflow."""
    with open_registry(find_project(root)) as client:
        client.set_registered_model_alias("catfood", alias, str(version))


@pytest.fixture
def copy(project, tmp_path) -> Path:
    """El mismo proyecto, para cambiarlo."""
    return Path(shutil.copytree(project, tmp_path / "copia"))


def test_the_champion_is_served(tierra, copy):
    """Sin campeón se sirve el último, y se dice; con campeón, él, ahora y al volver a arrancar."""
    with serving(tierra, copy, TIERRA_API_REFRESH="0.2") as api:
        assert "No hay campeón: se sirve el último entrenado." in api.said[0]
        assert api.ask().json()["model"].startswith("2026-02")

        def promote() -> None:
            crown(copy, 1)
            api.wait_for(lambda health: health["model"].startswith("2026-01"))

        load = Load([api.port]).during(promote)
        assert not load.failed and not load.cut and len(load.answers) == 2
    freeze(copy / "data/06_models/catfood/2026-03-01T00.00.00.000Z/catfood", 5, name="catfood")  # uno más nuevo, que nadie ha aprobado
    with serving(tierra, copy) as api:
        assert "Es el campeón del registro." in api.said[0] and api.ask().json()["model"].startswith("2026-01")


def test_before_any_champion(tierra, copy):
    """Pedido por su alias, se espera a que lo haya: 503 en /ready y al predecir; luego contesta, sin reiniciar."""
    with serving(tierra, copy, "--model", "models:/catfood@champion", TIERRA_API_REFRESH="0.2") as api:
        assert "Todavía no hay modelo que servir" in api.said[0]
        assert [api.get(path).status_code for path in ("/health", "/ready")] == [200, 503]
        early = api.ask()
        assert early.status_code == 503 and early.headers["retry-after"] and "ningún modelo" in early.json()["detail"]
        crown(copy, 2)
        api.wait_for(lambda health: health["status"] == "ok")
        assert api.get("/ready").status_code == 200 and api.ask().json()["model"].startswith("2026-02")


def test_the_registry_goes_away(tierra, copy):
    """Si el registro deja de contestar, sigue el de antes, y se dice."""
    crown(copy, 1)
    with serving(tierra, copy, TIERRA_API_REFRESH="0.2") as api:
        (copy / "mlflow.db").rename(copy / "aparte.db")
        (copy / "mlflow.db").write_bytes(b"esto no es una base" * 100)
        health = api.wait_for(lambda health: "trouble" in health)
        assert health["model"].startswith("2026-01") and api.ask().status_code == 200
        os.replace(copy / "aparte.db", copy / "mlflow.db")
        api.wait_for(lambda health: "trouble" not in health)
        assert "Traceback" not in api.tell()


def test_in_the_shadow(tierra, copy):
    """El candidato contesta a la sombra sin que se note, y lo que se contó queda para quien promueva."""
    crown(copy, 1)
    with serving(tierra, copy, "--shadow", "models:/catfood/2", TIERRA_API_REFRESH="0.2") as api:
        answers = {api.ask().json()["model"] for _ in range(20)}
        many = httpx.post(api.url + "/predict_score", json=[ROW] * 500, timeout=20).json()
        limit = time.monotonic() + 20
        while not re.search(r"tierra_shadow_rows_total\{.*\} 520", metrics := api.get("/metrics").text):
            assert time.monotonic() < limit, metrics + api.tell()
            time.sleep(0.1)
    assert answers | {answer["model"] for answer in many} == {"2026-01-01T00.00.00.000Z"}
    from de_jupyter_a_la_tierra.tracking.promotion import read_trial
    from de_jupyter_a_la_tierra.tracking.registry import list_versions

    with open_registry(find_project(copy)) as client:
        first, second = list_versions(client, "catfood")
    trial = read_trial(find_project(copy), second.sha256, first.sha256)
    assert trial.rows == 520 and trial.errors == 0 and "A la sombra: 520 filas" in trial.describe()


def agree(api: Api, what: Callable[[dict], bool], times: int = 8) -> None:
    """Espera a que lo digan tantas respuestas seguidas, que con varios procesos vienen de unos y de otros."""
    limit, right = time.monotonic() + 30, 0
    while right < times:
        right = right + 1 if what(api.get("/health").json()) else 0
        assert time.monotonic() < limit, api.tell()


def find_workers(api: Api) -> list:
    """Los procesos que contestan."""
    psutil = pytest.importorskip("psutil")
    found = []
    for child in psutil.Process(api.process.pid).children(recursive=True):
        with suppress(psutil.Error):  # acaba de morir
            if "hosting.workers" in " ".join(child.cmdline()):
                found.append(child)
    return found


def test_two_workers_agree(tierra, folders, link, tmp_path):
    """Con dos procesos, los dos cambian; y el que sustituye a uno muerto sirve lo mismo, aunque lo último pedido esté roto."""
    bad = Path(shutil.copytree(folders["v3"].parent, tmp_path / "racion/malo")) / "racion"
    (bad / "model.onnx").write_bytes(b"nada")
    with serving(tierra, tmp_path, "--model", str(link), "--workers", "2", TIERRA_API_REFRESH="0.2") as api:
        switch(link, folders["v2"])
        agree(api, lambda health: health["model"] == "v2")
        switch(link, bad)
        agree(api, lambda health: health["model"] == "v2" and health.get("refused", {}).get("version") == "malo")
        first, second = find_workers(api)
        first.kill()
        limit = time.monotonic() + 20
        while {worker.pid for worker in find_workers(api)} <= {first.pid, second.pid} or len(find_workers(api)) < 2:
            assert time.monotonic() < limit, api.tell()
            time.sleep(0.05)
        agree(api, lambda health: health["model"] == "v2" and "refused" in health)


def test_promoting_for_real(tierra, tmp_path):
    """Con modelos entrenados, `tierra models promote` y `rollback`, y la API en marcha: cambia sola, y nadie lo nota."""
    assert tierra("data", "--rows", "300", cwd=tmp_path).returncode == 0
    for params in ("model.type=logistic", "model.type=logistic,features=[ga_ash]"):
        assert (done := tierra("run", "--params", params, cwd=tmp_path)).returncode == 0, done.stderr
    assert (done := tierra("models", "promote", "1", cwd=tmp_path)).returncode == 0, done.stderr
    with serving(tierra, tmp_path, "--force-schema", TIERRA_API_REFRESH="0.2") as api:
        first = api.get("/health").json()["model"]
        assert "Es el campeón del registro." in api.said[0]
        assert tierra("models", "promote", "2", cwd=tmp_path).returncode == 1  # es peor: no se promueve, y no se sirve
        assert api.get("/health").json()["model"] == first
        assert tierra("models", "promote", "2", "--force", cwd=tmp_path).returncode == 0
        second = api.wait_for(lambda health: health["model"] != first)["model"]
        assert tierra("models", "rollback", cwd=tmp_path).returncode == 0
        api.wait_for(lambda health: health["model"] == first)
    assert second > first


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_registry_far_away(tierra, copy, tmp_path, monkeypatch):
    """Con un servidor de MLflow: se sirve su campeón; si el servidor cae, sigue el de antes; si vuelve con otro, entra."""
    (copy / "mlflow.db").unlink()
    command = [tierra.path.with_name("mlflow"), "server", "--backend-store-uri", f"sqlite:///{tmp_path}/server.db", "--artifacts-destination", tmp_path / "files"]
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"

    @contextmanager
    def far_away() -> Iterator[None]:
        env = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (tmp_path / "server.txt").open("a") as heard:
            server = subprocess.Popen([*command, "--port", str(port), "--workers", "1"], stdout=heard, stderr=heard, env=env, start_new_session=True)
        try:
            for _ in range(600):
                with suppress(httpx.HTTPError):
                    if httpx.get(f"{uri}/health").status_code == 200:
                        break
                time.sleep(0.1)
            yield
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait(20)

    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    base = copy / "data/06_models/catfood"
    with far_away():
        for folder in sorted(base.iterdir()):
            register_model(find_project(copy), folder / "catfood")
        crown(copy, 1)
        shutil.rmtree(base)  # los modelos solo están allí
        api = Api(tierra, copy, TIERRA_API_REFRESH="0.5", MLFLOW_TRACKING_URI=uri)
        assert api.ask().json()["model"].startswith("2026-01")
    try:
        assert "no contesta" in api.wait_for(lambda health: "trouble" in health, 90)["trouble"]
        assert api.ask().status_code == 200
        with far_away():
            crown(copy, 2)
            assert "trouble" not in api.wait_for(lambda health: health["model"].startswith("2026-02"), 90)
        assert api.stop() == 0 and "Traceback" not in api.tell()
    finally:
        api.process.kill()


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_minute_of_everything(tierra, copy, capsys):
    """Un minuto de carga sobre dos instancias: veinte cambios, un proceso muerto, un campeón roto y un reinicio.

    Ninguna respuesta equivocada, y ninguna petición perdida fuera de las que corta el propio SIGKILL.
    """
    third = copy / "data/06_models/catfood/2026-03-01T00.00.00.000Z/catfood"
    register_model(find_project(copy), freeze(third, 3, name="catfood"))
    onnx = third / "model.onnx"
    onnx.write_bytes(onnx.read_bytes()[:-9])
    names = ["2026-01-01T00.00.00.000Z", "2026-02-01T00.00.00.000Z"]
    expected = {answer_of(copy / "data/06_models/catfood" / name / "catfood", name) for name in names}
    crown(copy, 1)
    env, happened = {"TIERRA_API_REFRESH": "0.5", "TIERRA_API_WORKERS": "2"}, {}
    apis = [Api(tierra, copy, **env) for _ in range(2)]
    load = Load([api.port for api in apis], connections=8)

    def work() -> None:
        start = time.monotonic()
        for turn in range(20):
            crown(copy, 2 - turn % 2)
            for api in apis:
                agree(api, lambda health, turn=turn: health["model"] == names[1 - turn % 2])
            if turn == 5:
                happened["before"] = load.cut
                find_workers(apis[0])[0].kill()
            if turn == 10:
                happened["killed"] = load.cut
                crown(copy, 3)
                for api in apis:
                    agree(api, lambda health: health.get("refused", {}).get("version", "").startswith("2026-03") and health["model"] == names[1])
            if turn == 15:
                assert apis[0].stop() == 0
                apis[0] = Api(tierra, copy, "--port", str(load.ports[0]), **env)
            time.sleep(max(0.0, start + 3 * (turn + 1) - time.monotonic()))

    try:
        load.during(work)
        codes = [api.stop(signal.SIGINT) for api in apis]
    finally:
        for api in apis:
            api.process.kill()
    with capsys.disabled():
        print(f"\n{sum(load.answers.values())} respuestas; cortadas por el SIGKILL: {happened['killed'] - happened['before']}; otras: {load.cut - happened['killed'] + happened['before']}; fallidas: {len(load.failed)}")
    assert set(load.answers) == expected and not load.failed
    assert happened["before"] == 0 and load.cut == happened["killed"] <= load.connections
    assert codes == [0, 0]
