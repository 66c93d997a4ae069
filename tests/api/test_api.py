"""La API, con un servidor de verdad: lo que contesta, lo que rechaza, cuántos a la vez y cómo se para."""
import asyncio
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from serving import Server, serving
from sklearn.kernel_approximation import RBFSampler
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from de_jupyter_a_la_tierra.api.messages import DEFAULT_LIMITS, ApiError
from de_jupyter_a_la_tierra.api.server import ModelService, build_app
from de_jupyter_a_la_tierra.catfood.cleaning import clean_foods
from de_jupyter_a_la_tierra.catfood.columns import CATFOOD, LABEL_FIGURES
from de_jupyter_a_la_tierra.catfood.model import train_model
from de_jupyter_a_la_tierra.catfood.simulate import simulate_foods
from de_jupyter_a_la_tierra.models.artifact import Model, load_model, open_model, parse_info
from de_jupyter_a_la_tierra.models.freezing import build_artifact, freeze_model
from de_jupyter_a_la_tierra.tables.csv import read_table
from de_jupyter_a_la_tierra.tables.dictionary import Column

REAL = os.environ.get("TIERRA_CATFOOD_CSV", "")
FEATURES = list(LABEL_FIGURES)
WHISKAS = {"dma_ash": 1.7, "dma_cals": 76, "dma_carbs": 21, "dma_prot": 50, "ga_moist": 84}  # la petición fundacional


def freeze_foods(foods: pd.DataFrame, folder: Path, origin: str, kind: str = "logistic") -> Path:
    """Entrena y congela un modelo de comidas."""
    X, y = foods[FEATURES], foods[CATFOOD.target]
    if kind == "sampled":  # ONNX no sabe repetirlo: lo sirve scikit-learn
        estimator = make_pipeline(StandardScaler(), RBFSampler(random_state=0), LogisticRegression()).fit(X.to_numpy(np.float32), y)
    else:
        estimator = train_model(X, y, {"type": kind})
    freeze_model(
        estimator, folder, X_train=X, X_evaluation=X.tail(50), metrics={},
        features=CATFOOD.select(FEATURES), target=CATFOOD.select([CATFOOD.target])[0], data={"origin": origin},
        name=CATFOOD.name,
    )
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """La carpeta de un modelo entrenado con comidas simuladas."""
    return freeze_foods(clean_foods(simulate_foods())[0], tmp_path_factory.mktemp("api") / "catfood", "simulated")


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    """Ese modelo, abierto."""
    return load_model(folder)


@pytest.fixture(scope="module")
def server(tierra: Callable, folder: Path) -> Iterator[Server]:
    """Un servidor con el modelo de comidas simuladas."""
    with serving(tierra, folder.parent, "--model", folder) as server:
        yield server


def ask(app: Any, method: str, path: str, **options: Any) -> httpx.Response:
    """Habla con una aplicación sin red, y sin que sus fallos salgan de ella."""

    async def talk() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
            return await client.request(method, path, **options)

    return asyncio.run(talk())


# ── Lo que contesta ─────────────────────────────────────────────────────────


def test_the_founding_request(server: Server) -> None:
    answer = server.ask(WHISKAS)
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/json"
    said = answer.json()
    assert said == {"score": 3, "probability": said["probability"], "data_origin": "simulated", "model": "catfood"}
    assert 0.4 < said["probability"] < 1


@pytest.mark.skipif(not REAL, reason="sin datos reales: TIERRA_CATFOOD_CSV no dice dónde están")
def test_the_founding_request_with_the_real_data(tierra: Callable, tmp_path: Path) -> None:
    foods, _ = clean_foods(read_table(Path(REAL)))
    with serving(tierra, tmp_path, "--model", freeze_foods(foods, tmp_path / "catfood", "real")) as server:
        said = server.ask(WHISKAS).json()
        assert (said["score"], said["data_origin"]) == (3, "real")
        assert "datos reales" in server.said[0] and "simulados" not in "".join(server.said)


def test_a_list_is_answered_in_its_order(server: Server, model: Model) -> None:
    foods = clean_foods(simulate_foods(500, seed=7))[0][FEATURES]
    answers = server.ask(foods.to_dict("records")).json()
    assert [answer["score"] for answer in answers] == model.predict(foods).tolist()
    expected = model.predict_proba(foods).max(axis=1).astype("float64").round(4)
    assert [answer["probability"] for answer in answers] == expected.tolist()
    one_by_one = [server.ask(row).json() for row in foods.head(5).to_dict("records")]
    assert one_by_one == answers[:5]
    assert server.ask([]).json() == []


@pytest.mark.parametrize("kind", ["random_forest", "sampled"])
def test_other_models_answer_too(tierra: Callable, kind: str, tmp_path: Path) -> None:
    foods = clean_foods(simulate_foods(400, seed=3))[0]
    folder = freeze_foods(foods, tmp_path / "catfood", "simulated", kind)
    with serving(tierra, tmp_path, "--model", folder) as server:
        answers = server.ask(foods[FEATURES].to_dict("records")).json()
        assert [answer["score"] for answer in answers] == load_model(folder).predict(foods[FEATURES]).tolist()


def answer_with(estimator: Any, y: np.ndarray, row: bytes) -> dict[str, Any]:
    """Lo que contesta un modelo de una sola columna."""
    X = np.arange(len(y), dtype=np.float32).reshape(-1, 1)
    files = build_artifact(
        estimator.fit(X, y), X_train=X, X_evaluation=X, metrics={}, data={"origin": "own"}, name="x",
        features=[Column(name="ga moist (%)", meaning="Humedad")], target=Column(name="y", meaning="ye"),
    )
    return json.loads(ModelService(open_model(parse_info(files["model.json"]), files), "v1").answer(row))


def test_a_regression_has_no_probability() -> None:
    said = answer_with(Ridge(alpha=0), np.arange(10) * 2.0, b'{"ga moist (%)": 4}')
    assert said == {"score": pytest.approx(8), "data_origin": "own", "model": "v1"}


def test_classes_with_a_name() -> None:
    said = answer_with(LogisticRegression(), np.array(["benigno"] * 5 + ["maligno"] * 5), b'{"ga moist (%)": 9}')
    assert said["score"] == "maligno" and said["probability"] > 0.9


def test_health_model_and_document(server: Server, model: Model) -> None:
    health = httpx.get(f"{server.address}/health").json()
    known = {"status": "ok", "name": "catfood", "model": "catfood", "data_origin": "simulated", "served_by": "onnx"}
    assert health == known | {"sha256": model.info["sha256"]}
    assert httpx.get(f"{server.address}/model").json() == model.info
    assert httpx.head(f"{server.address}/health").status_code == 200


def test_the_document_tells_the_truth(server: Server) -> None:
    """Lo que OpenAPI dice que se acepta, se acepta; y en cada límite, un paso más allá se rechaza."""
    document = httpx.get(f"{server.address}/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    for example in document["paths"]["/predict_score"]["post"]["requestBody"]["content"]["application/json"]["examples"].values():
        assert server.ask(example["value"]).status_code == 200
    fields = document["components"]["schemas"]["Fila"]["properties"]
    assert list(fields) == FEATURES
    bounds = [(name, key, field[key]) for name, field in fields.items() for key in ("minimum", "maximum") if key in field]
    assert len(bounds) >= len(FEATURES)
    for name, key, bound in bounds:
        beyond = bound + max(1, abs(bound) / 10) * (1 if key == "maximum" else -1)
        assert server.ask(WHISKAS | {name: bound}).status_code == 200
        assert server.ask(WHISKAS | {name: beyond}).json()["errors"][0]["field"] == name


def test_the_page_needs_nothing_from_outside(server: Server) -> None:
    page = httpx.get(f"{server.address}/")
    assert page.content == httpx.get(f"{server.address}/docs").content and page.headers["content-type"].startswith("text/html")
    assert all(f'name="{name}"' in page.text for name in FEATURES) and "datos simulados" in page.text
    linked = re.findall(r"""(?:src|href|action|url)\s*[=(]\s*["']?([^"')> ]+)""", page.text)
    assert {*linked} == {"openapi.json", "model", "health", "data:,"}
    assert all(httpx.get(f"{server.address}/{path}").status_code == 200 for path in linked if path != "data:,")


def test_the_printed_curl_works(server: Server) -> None:
    words = shlex.split(server.said[-1])
    assert words[0] == "curl"
    url, body = next(word for word in words if word.startswith("http")), words[words.index("-d") + 1]
    assert httpx.post(url, content=body).json()["score"] in range(1, 6)


# ── Lo que rechaza ──────────────────────────────────────────────────────────

MISSING = {name: value for name, value in WHISKAS.items() if name != "ga_moist"}


@pytest.mark.parametrize(
    ("body", "field", "value", "text"),
    [
        (WHISKAS | {"dma_prot": 150}, "dma_prot", 150, "un número de 0 a 100 %, y es 150."),
        (WHISKAS | {"dma_prot": -1}, "dma_prot", -1, "y es -1."),
        (WHISKAS | {"dma_prot": "50%"}, "dma_prot", "50%", 'y es "50%".'),
        (WHISKAS | {"dma_prot": None}, "dma_prot", None, "y es null."),
        (WHISKAS | {"dma_prot": True}, "dma_prot", True, "y es true."),
        (WHISKAS | {"dma_prot": [50]}, "dma_prot", [50], "y es [50]."),
        (json.dumps(WHISKAS).replace("50", "1e999").encode(), "dma_prot", None, "y es Infinity."),
        (MISSING, "ga_moist", None, "Falta «ga_moist», que ha de ser un número de 0 a 100 %."),
        (WHISKAS | {"dma_fat": 3}, "dma_fat", 3, "no es una columna de este modelo, que espera: dma_ash"),
    ],
    ids=["alto", "bajo", "texto", "nulo", "booleano", "lista", "infinito", "falta", "sobra"],
)
def test_a_wrong_field_is_named_with_its_value_and_range(
    server: Server, body: Any, field: str, value: Any, text: str
) -> None:
    answer = server.ask(body)
    assert answer.status_code == 422 and answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert text in problem["detail"] and problem["title"] == "La petición no cuadra con el modelo"
    (error,) = problem["errors"]
    assert (error["field"], error["value"]) == (field, value)
    assert error["range"] == ("" if field == "dma_fat" else "de 0 a 100 %")


def test_all_wrong_fields_are_told_at_once(server: Server) -> None:
    problem = server.ask([WHISKAS, {**MISSING, "dma_prot": 150, "x": 1}]).json()
    assert [(error["row"], error["field"]) for error in problem["errors"]] == [(1, "dma_prot"), (1, "ga_moist"), (1, "x")]
    assert problem["detail"].endswith("Y 2 más en «errors».")


@pytest.mark.parametrize("body", [b"", b"{", b"hola", b'{"dma_prot": NaN}', b"\xff\xfe", b'{"\xff": 1}', b"{} {}", b"[" * 9999])
def test_not_json(server: Server, body: bytes) -> None:
    answer = server.ask(body)
    assert answer.status_code == 400 and answer.json()["detail"].startswith("La petición no es JSON: ")


@pytest.mark.parametrize("body", [3, "hola", None, True, [3], [WHISKAS, [1]]])
def test_json_of_another_shape(server: Server, body: Any) -> None:
    answer = server.ask(json.dumps(body).encode())
    assert answer.status_code == 422 and "un objeto, o una lista de objetos, con: dma_ash" in answer.json()["detail"]


def test_a_number_too_big_for_the_model() -> None:
    with pytest.raises(ApiError, match=r"«ga moist \(%\)» ha de ser un número, y es 1e\+300. No cabe en ningún modelo."):
        answer_with(Ridge(), np.arange(10.0), b'{"ga moist (%)": 1e300}')


def test_other_addresses_and_verbs(server: Server) -> None:
    missing, wrong = httpx.get(f"{server.address}/predice"), httpx.get(f"{server.address}/predict_score")
    assert missing.status_code == 404 and "No existe «/predice»" in missing.json()["detail"]
    assert wrong.status_code == 405 and wrong.headers["allow"] == "POST" and "solo admite POST" in wrong.json()["detail"]


@pytest.mark.parametrize("chunked", [False, True])
def test_too_much_at_once(server: Server, chunked: bool) -> None:
    body = b" " * (DEFAULT_LIMITS.max_body + 1)
    answer = httpx.post(f"{server.address}/predict_score", content=iter([body[:-1], b" "]) if chunked else body)
    assert answer.status_code == 413 and "Se admiten 10 MB" in answer.json()["detail"]
    assert server.ask(WHISKAS).json()["score"] == 3


def test_a_crash_tells_nothing_inside(model: Model) -> None:
    def crash(*_: object) -> None:
        raise RuntimeError("secreto")

    app = build_app(replace(model, run=crash), "v1")
    answer = ask(app, "POST", "/predict_score", json=WHISKAS)
    assert answer.status_code == 500 and "secreto" not in answer.text and "en su registro" in answer.json()["detail"]


def test_nothing_needs_taking_apart_to_put_something_in_front(model: Model) -> None:
    class Key:
        """Un portero que pide una clave, escrito como cualquiera de los de ASGI."""

        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            if dict(scope["headers"]).get(b"x-key") != b"abracadabra":
                await send({"type": "http.response.start", "status": 401, "headers": []})
                await send({"type": "http.response.body", "body": b""})
            else:
                await self.app(scope, receive, send)

    app = Key(build_app(model, "v1"))
    assert ask(app, "POST", "/predict_score", json=WHISKAS).status_code == 401
    assert ask(app, "POST", "/predict_score", json=WHISKAS, headers={"x-key": "abracadabra"}).json()["score"] == 3


# ── Muchos a la vez ─────────────────────────────────────────────────────────


def test_many_clients_get_their_own_answers(server: Server, model: Model) -> None:
    foods = clean_foods(simulate_foods(400, seed=9))[0][FEATURES]
    expected, rows = model.predict(foods).tolist(), foods.to_dict("records")
    barrier, big = threading.Barrier(16), [*rows, *rows, *rows]

    def talk(worker: int) -> list[int]:
        barrier.wait()
        with httpx.Client(base_url=server.address, timeout=60) as client:
            if worker % 4 == 0:  # unos piden muchas filas de una vez, y no deben estorbar a los demás
                return [answer["score"] for answer in client.post("/predict_score", json=big).json()][:400][worker::16]
            return [client.post("/predict_score", json=row).json()["score"] for row in rows[worker::16]]

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(talk, range(16)))
    assert answers == [expected[worker::16] for worker in range(16)]


def test_those_who_leave_or_talk_nonsense_do_no_harm(tierra: Callable, folder: Path) -> None:
    with serving(tierra, folder.parent, "--model", folder) as server:
        for content in (b"POST /predict_score HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{", b"\x00\x01\r\n\r\n", b"GET"):
            with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
                connection.sendall(content)
        assert server.ask(WHISKAS).json()["score"] == 3
        server.process.send_signal(signal.SIGINT)
        _, told = server.process.communicate(timeout=20)
        assert "Traceback" not in told


# ── Arrancar y parar ────────────────────────────────────────────────────────


def test_it_says_where_it_is(server: Server) -> None:
    assert server.said[0] == "Modelo «catfood». El modelo se entrenó con datos simulados.\n"
    assert server.said[1] == (
        f"API en {server.address}, explicada en {server.address}/docs. Ctrl-C para terminar.\n"
    )
    assert server.said[2] == "Solo se llega desde este equipo, y no pide claves. Para probarla:\n"
    assert server.address.startswith("http://127.0.0.1:")


def test_port_busy(tierra: Callable, server: Server, folder: Path) -> None:
    done = tierra("serve", "--model", folder, "--port", str(server.port), cwd=folder.parent)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert f"No se puede escuchar en el puerto {server.port} de «127.0.0.1»: ya lo usa otro programa" in done.stderr


def test_a_host_that_is_not_ours(tierra: Callable, folder: Path) -> None:
    done = tierra("serve", "--model", folder, "--port", "0", "--host", "198.51.100.7", "--no-keys", cwd=folder.parent)
    assert done.returncode == 2 and "esa dirección no es de este equipo; elige otra con --host" in done.stderr


def test_ctrl_c_finishes_what_is_half_done(tierra: Callable, folder: Path) -> None:
    with serving(tierra, folder.parent, "--model", folder) as server:
        body = json.dumps(WHISKAS).encode()
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            connection.sendall(b"POST /predict_score HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body[:9])
            assert server.ask(WHISKAS).status_code == 200  # cuando esta vuelve, la otra está a medias
            server.process.send_signal(signal.SIGINT)
            while True:  # hasta que deja de admitir a nadie más
                try:
                    socket.create_connection(("127.0.0.1", server.port), timeout=5).close()
                except OSError:
                    break
            connection.sendall(body[9:])
            assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        out, err = server.process.communicate(timeout=20)
    assert (out.strip(), "Traceback" in err, server.process.returncode) == ("Servidor parado.", False, 0)


def test_no_model(tierra: Callable, tmp_path: Path) -> None:
    done = tierra("serve", cwd=tmp_path)
    assert done.returncode == 2 and "entrénalo con «tierra run»" in done.stderr
    done = tierra("serve", "--model", "ayer", cwd=tmp_path)
    assert done.returncode == 2 and "No hay ningún modelo «ayer»" in done.stderr


def test_damaged_model(tierra: Callable, tmp_path: Path) -> None:
    folder = freeze_foods(clean_foods(simulate_foods(300))[0], tmp_path / "catfood", "simulated")
    (folder / "model.onnx").write_bytes(b"otra cosa")
    done = tierra("serve", "--model", folder, "--port", "0", cwd=tmp_path)
    assert done.returncode == 1 and "«model.onnx» no coincide con su sha256" in done.stderr


def test_the_latest_version_is_served(tierra: Callable, folder: Path, tmp_path: Path) -> None:
    foods = clean_foods(simulate_foods(300))[0]
    for version in ("2026-01-01T00.00.00.000Z", "2026-01-02T00.00.00.000Z"):
        freeze_foods(foods, tmp_path / "data/06_models/catfood" / version / "catfood", "simulated")
    (tmp_path / "data/06_models/catfood/2026-01-03T00.00.00.000Z").mkdir()  # una que se quedó a medias
    with serving(tierra, tmp_path) as server:
        assert server.ask(WHISKAS).json()["model"] == "2026-01-02T00.00.00.000Z"
    with serving(tierra, tmp_path, "--model", "2026-01-01T00.00.00.000Z") as server:
        assert server.ask(WHISKAS).json()["model"] == "2026-01-01T00.00.00.000Z"


WITHOUT_EXTRA = """
import sys
for name in ("msgspec", "uvicorn"):
    sys.modules[name] = None  # como si no estuviera instalado
from de_jupyter_a_la_tierra.cli.main import main
main(["serve", "--model", sys.argv[1]])
"""


def test_without_its_extra(folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_EXTRA, folder], capture_output=True, text=True)
    assert done.returncode == 2 and "[api]" in done.stderr and done.stderr.count("\n") == 1
