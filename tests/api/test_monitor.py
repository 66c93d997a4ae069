"""Guardar lo servido y compararlo, con servidores de verdad: lo que se guarda, lo que se pierde, y lo que dice `tierra monitor`."""
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from browser import CHROMIUM, DESKTOP, PHONE, browsing
from mixed import NAMES, as_json, simulate_voyages
from serving import serving

from de_jupyter_a_la_tierra.hosting.recording import FILES, is_sampled, read_truths

SERVER = """
import json, logging, resource, sys
from pathlib import Path
from de_jupyter_a_la_tierra.api.server import Api, FixedShelf, ModelService, serve_model
from de_jupyter_a_la_tierra.hosting.protocol import Server
from de_jupyter_a_la_tierra.hosting.workers import catching_stops, open_socket
from de_jupyter_a_la_tierra.hosting.recording import FILES, Recorder, Writer, build_recorder
from de_jupyter_a_la_tierra.hosting.settings import ServeSettings
from de_jupyter_a_la_tierra.models.artifact import load_model

model, folder, options = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
logging.basicConfig(format="%(message)s")
share, files = options.pop("share", 1.0), FILES[options.pop("files", "parquet")]
full = options.pop("full", False)
if options:
    recorder = Recorder(Writer(folder, files, **options), share, pause=0.05)
else:
    recorder = build_recorder(ServeSettings(record=share, record_folder=str(folder)))
shelf = FixedShelf(serve_model(ModelService(load_model(model), "v1")))
with open_socket(port=0) as listener:
    print(listener.getsockname()[1], flush=True)
    if full:  # a partir de aquí ningún fichero puede crecer: es lo que ve quien llena el disco
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        import signal
        signal.signal(signal.SIGUSR1, lambda *_: resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)))
    server = Server(Api(shelf, witnesses=[recorder], routes=recorder.routes(shelf)), listener, ServeSettings())
    with catching_stops(server.stop):
        server.run()
recorder.close()
print([name for name in ("pandas", "sklearn", "kedro", "mlflow") if name in sys.modules])
"""


class Recording:
    """Un servidor que guarda lo que sirve."""

    def __init__(self, process: subprocess.Popen) -> None:
        self.process = process
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{int(process.stdout.readline())}", timeout=30)

    def stop(self, number: int = signal.SIGTERM) -> tuple[str, str]:
        """Lo para, y da lo que ha escrito."""
        self.process.send_signal(number)
        return self.process.communicate(timeout=30)

    def send(self, rows: pd.DataFrame, per_request: int = 50) -> list[str]:
        """Manda unas filas, varias por petición; da el nombre de cada petición."""
        records, names = as_json(rows), []
        for start in range(0, len(records), per_request):
            answer = self.client.post("/predict_score", json=records[start : start + per_request])
            assert answer.status_code == 200, answer.text
            names.append(answer.headers["x-request-id"])
        return names


@contextmanager
def recording(model: Path, folder: Path, **options: object) -> Iterator[Recording]:
    """Arranca un servidor que guarda lo que sirve y, al salir, lo mata si sigue."""
    command = [sys.executable, "-c", SERVER, model, folder, json.dumps(options)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        server = Recording(process)
        with server.client:
            yield server
    finally:
        process.kill()
        process.communicate(timeout=30)


def read_all(folder: Path) -> pd.DataFrame:
    """Todo lo guardado en Parquet, como una tabla."""
    return pd.concat([pq.read_table(path).to_pandas() for path in sorted(folder.glob("served-*.parquet"))], ignore_index=True)


# ── Lo que se guarda ────────────────────────────────────────────────────────


def test_what_was_served_is_kept_and_looks_the_same(tierra: Callable, voyages: Path, tmp_path: Path) -> None:
    """Filas como las de entrenar, con sus verdades: se guardan enteras, y `tierra monitor` dice que todo va bien."""
    rows = simulate_voyages(1200, seed=7)
    with recording(voyages, tmp_path / "served") as server:
        names = server.send(rows)
        truths = [{"id": names[place // 50], "row": place % 50, "truth": str(truth)} for place, truth in enumerate(rows["survived"].head(600))]
        answer = server.client.post("/feedback", json=[*truths, {"id": "de otro proceso", "truth": "no"}])
        assert (answer.status_code, answer.json()) == (202, {"accepted": 601})
        out, err = server.stop()
    assert (out.strip(), err, server.process.returncode) == ("[]", "", 0)  # ni pandas ni scikit-learn, y nada que decir
    kept = read_all(tmp_path / "served")
    assert (len(kept), kept["request"].nunique(), kept["position"].max()) == (1200, 24, 49)
    assert kept["row.fare"].tolist() == rows["fare"].tolist()
    assert kept["row.age"].isna().tolist() == rows["age"].isna().tolist()
    assert kept["row.seen"].dropna().tolist() == rows["seen"].dropna().tolist()
    assert set(kept["score"]) == {"no", "sí"} and kept["probability"].between(0.5, 1).all()
    done = tierra("monitor", "--folder", "served", "--output", "report.html", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1200 filas servidas" in done.stdout and "con 600 verdades" in done.stdout and "deriva" not in done.stdout
    assert "1 verdades son de peticiones que no están" in done.stdout
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page and "http:" not in page and "https:" not in page


def test_what_drifts_is_named(tierra: Callable, voyages: Path, tmp_path: Path) -> None:
    """Pasajes más caros, edades que ya no vienen y un puerto nuevo: las tres columnas, y ninguna más."""
    rows = simulate_voyages(1200, seed=8)
    rows["fare"] += 15
    rows.loc[rows.index % 10 < 6, "age"] = np.nan
    rows.loc[rows.index % 3 == 0, "port"] = "Nantucket"
    with recording(voyages, tmp_path / "served") as server:
        server.send(rows)
        server.stop()
    done = tierra("monitor", "--folder", "served", "--model", voyages, cwd=tmp_path)
    assert done.returncode == 1, done.stdout
    sentence = done.stderr.strip()
    assert sentence.startswith("Error: Lo servido ya no se parece") and sentence.count("\n") == 0
    assert all(name in sentence for name in ("fare (PSI", "age (PSI", "port (PSI"))
    assert not any(f" {name} (PSI" in sentence for name in ("class", "alone", "saved", "sailed", "seen", "notes"))
    assert "Nantucket" in done.stdout
    done = tierra("monitor", "--folder", "served", "--ignore", "fare", "--ignore", "age", "--ignore", "port", "--json", cwd=tmp_path)
    report = json.loads(done.stdout)
    found = {column["name"]: column for column in report["versions"][0]["columns"]}
    assert done.returncode == 0 or "survived" in done.stderr
    assert found["port"]["unseen"] == {"Nantucket": 400} and found["age"]["gaps"][1] > 0.6 and found["fare"]["ignored"]
    assert tierra("monitor", "--folder", "served", "--fail", "99", "--warn", "99", cwd=tmp_path).returncode == 0


def test_a_model_that_stops_being_right(tierra: Callable, voyages: Path, tmp_path: Path) -> None:
    """Las filas son las de siempre y la verdad ha cambiado: solo lo ven las verdades, y sin nota en la ficha no hay con qué comparar."""
    rows = simulate_voyages(600, seed=9)
    with recording(voyages, tmp_path / "served") as server:
        names = server.send(rows, 100)
        wrong = [{"id": names[place // 100], "row": place % 100, "truth": "sí" if truth == "no" else "no"} for place, truth in enumerate(rows["survived"])]
        assert server.client.post("/feedback", json=wrong).status_code == 202
        server.stop()
    done = tierra("monitor", "--folder", "served", cwd=tmp_path)
    assert done.returncode == 0 and "la ficha no dice cuánto en el examen" in done.stdout
    (card,) = (tmp_path / "served").glob("model-*.json")
    card.write_text(json.dumps(json.loads(card.read_text()) | {"metrics": {"n_rows": 100, "accuracy": 0.85}}))
    done = tierra("monitor", "--folder", "served", cwd=tmp_path)
    assert done.returncode == 1 and "el acierto" in done.stderr


def test_few_rows_are_not_believed(tierra: Callable, voyages: Path, tmp_path: Path) -> None:
    with recording(voyages, tmp_path / "served") as server:
        server.send(simulate_voyages(20, seed=3))
        server.stop()
    done = tierra("monitor", "--folder", "served", cwd=tmp_path)
    assert done.returncode == 0 and "pocas filas: no se sabe" in done.stdout


def test_a_sample_is_the_one_that_its_names_say(voyages: Path, tmp_path: Path) -> None:
    with recording(voyages, tmp_path / "served", share=0.3, seconds_per_file=60) as server:
        names = server.send(simulate_voyages(400, seed=4), 1)
        server.client.post("/predict_score", content=b"nada")  # lo que se rechaza no se guarda
        server.client.get("/model")
        server.stop()
    assert set(read_all(tmp_path / "served")["request"]) == {name for name in names if is_sampled(name, 0.3)}


def test_without_pyarrow_it_is_lines(tierra: Callable, voyages: Path, tmp_path: Path) -> None:
    rows = simulate_voyages(1200, seed=7)
    with recording(voyages, tmp_path / "served", files="lines", seconds_per_file=60) as server:
        server.send(rows)
        server.stop()
    (path,) = (tmp_path / "served").glob("served-*.jsonl.gz")
    assert len(FILES["lines"].read(path)["request"]) == 1200
    done = tierra("monitor", "--folder", "served", cwd=tmp_path)
    assert done.returncode == 0 and "1200 filas servidas" in done.stdout and "deriva" not in done.stdout


def test_tierra_serve_records_where_tierra_monitor_looks(tierra: Callable, voyages: Path, tmp_path: Path) -> None:
    """Con dos trabajadores, y las dos órdenes desde una carpeta cualquiera del proyecto; lo que llega por otros formatos, también."""
    (tmp_path / "pyproject.toml").write_text('[tool.kedro]\npackage_name = "viajes"\n')
    (tmp_path / "notas").mkdir()
    rows = simulate_voyages(1200, seed=6)
    with serving(tierra, tmp_path / "notas", "--model", voyages, "--record", "1", "--workers", "2") as server:
        for start in range(0, 1200, 40):
            assert server.ask(as_json(rows.iloc[start : start + 40])).status_code == 200
        sheet = rows.head(50).assign(sailed=rows["sailed"].dt.strftime("%Y-%m-%d"))[NAMES].to_csv(index=False).encode()
        answer = httpx.post(server.address + "/predict_scores", content=sheet, headers={"content-type": "text/csv"}, timeout=60)
        assert answer.status_code == 200, answer.text
        told = server.ask({"id": answer.headers["x-request-id"], "row": 49, "truth": "no"}, "/feedback")
        assert told.status_code == 202
        server.process.terminate()
        assert server.process.wait(30) == 0
    done = tierra("monitor", cwd=tmp_path / "notas")
    assert done.returncode == 0 and "1250 filas servidas" in done.stdout and "con 1 verdades" in done.stdout, done.stdout + done.stderr


def test_tierra_serve_says_where_it_cannot_record(tierra: Callable, voyages: Path, tmp_path: Path) -> None:
    (tmp_path / "served").write_text("esto es un fichero")
    done = tierra("serve", "--model", voyages, "--port", "0", "--record", "1", "--record-folder", "served", cwd=tmp_path)
    assert done.returncode == 1 and "No se pudo guardar lo servido" in done.stderr and "Traceback" not in done.stderr
    done = tierra("serve", "--model", voyages, "--record", "2", cwd=tmp_path)
    assert done.returncode == 2 and "--record ha de ser un número de 0 a 1" in done.stderr


# ── Lo que se sabe después ──────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"hola", 400, "no es JSON"),
        (b'{"truth": "no"}', 422, "Se espera"),
        (b'{"id": "a", "truth": "quiz\xc3\xa1"}', 422, "«truth» ha de ser «no» o «sí», y es \"quizá\"."),
        (b'[{"id": "a", "truth": "no"}, {"id": "a", "truth": 7}]', 422, "y es 7."),
        (b'{"id": "a", "truth": null}', 422, "y es null."),
        (b'{"id": "a", "row": -1, "truth": "no"}', 422, "«row» empieza en 0"),
        (b'{"id": "a", "truth": "no", "otra": 1}', 422, "Se espera"),
        (b'{"id": "a", "truth": 1' + b"0" * 6000 + b"}", 422, "Se espera"),
        (b'{"id": "a", "truth": "' + b"z" * 100_000 + b'"}', 422, "…"),
        (b'{"id": "a", "row": 1e400, "truth": "no"}', 422, "Se espera"),
    ],
)
def test_a_truth_that_cannot_be(server: Recording, body: bytes, status: int, says: str) -> None:
    answer = server.client.post("/feedback", content=body)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.status_code == status and says in answer.json()["detail"] and len(answer.content) < 2000


@pytest.fixture(scope="module")
def server(voyages: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recording]:
    """Uno para preguntarle cosas sueltas."""
    with recording(voyages, tmp_path_factory.mktemp("monitor") / "served") as server:
        yield server


def test_the_last_truth_wins_whoever_wrote_it(voyages: Path, tmp_path: Path) -> None:
    for truth in ("no", "SI"):
        with recording(voyages, tmp_path / "served") as server:
            assert server.client.post("/feedback", json={"id": "a1", "truth": truth}).status_code == 202
            server.stop(signal.SIGKILL)  # lo que se aceptó está escrito
    for path in (tmp_path / "served").glob("feedback-*"):
        with path.open("ab") as file:
            file.write(b'\n{"time": "2999", "request": "a1", "posi')  # una línea a medias
    assert read_truths(tmp_path / "served") == {("a1", 0): "sí"}


# ── Ficheros ────────────────────────────────────────────────────────────────


def test_files_rotate_and_the_oldest_go(voyages: Path, tmp_path: Path) -> None:
    folder = tmp_path / "served"
    with recording(voyages, folder, rows_per_file=100, most_bytes=60_000) as server:
        for seed in range(30):
            server.send(simulate_voyages(100, seed), 100)
            time.sleep(0.06)
        _, err = server.stop()
    files = sorted(folder.glob("served-*"))
    assert len(files) > 3 and sum(path.stat().st_size for path in files) <= 60_000
    assert "se han borrado" in err
    assert len(read_all(folder)) < 3000 and len(read_all(folder)) % 100 == 0


def test_a_full_disk_is_said_once_and_nobody_waits_for_it(voyages: Path, tmp_path: Path) -> None:
    folder, rows = tmp_path / "served", simulate_voyages(100, seed=1)
    with recording(voyages, folder, rows_per_file=10, full=True) as server:
        for _ in range(8):
            server.send(rows)
            time.sleep(0.06)
        answer = server.client.post("/feedback", json={"id": "a1", "truth": "no"})
        assert answer.status_code == 503 and "retry-after" in answer.headers and "vuelve a intentarlo" in answer.json()["detail"]
        assert not list(folder.glob("served-*")) and not list(folder.glob(".*"))
        server.process.send_signal(signal.SIGUSR1)  # vuelve a haber sitio
        while not list(folder.glob("served-*")):
            server.send(rows)
        _, err = server.stop()
    assert err.count("lo servido no se guarda") == 1 and err.count("Ya se vuelve a guardar") == 1 and "Traceback" not in err
    assert len(read_all(folder)) > 0


@pytest.mark.parametrize("files", ["parquet", "lines"])
def test_killed_it_leaves_nothing_broken(tierra: Callable, voyages: Path, tmp_path: Path, files: str) -> None:
    """Con `kill -9` mientras escribe: lo que hay se lee entero."""
    folder, rows = tmp_path / "served", simulate_voyages(200, seed=1)
    for most in (1, 3, 6):
        with recording(voyages, folder, rows_per_file=50, files=files) as server:
            while len(list(folder.glob("served-*"))) < most:
                server.send(rows, 40)
            server.stop(signal.SIGKILL)
    found = sorted(folder.glob("served-*"))
    assert found
    for path in found:
        assert len(FILES[files].read(path)["request"]) > 0
    report = json.loads(tierra("monitor", "--folder", "served", "--json", cwd=tmp_path).stdout)
    assert not report["unreadable"] and report["versions"][0]["n_rows"] > 0


def test_a_broken_file_does_not_hide_the_rest(tierra: Callable, voyages: Path, tmp_path: Path) -> None:
    with recording(voyages, tmp_path / "served") as server:
        server.send(simulate_voyages(100))
        server.stop()
    (tmp_path / "served/served-20260101T000000Z-copiado-000001.parquet").write_bytes(b"PAR1 a medias")
    done = tierra("monitor", "--folder", "served", cwd=tmp_path)
    assert done.returncode == 0 and "No se han podido leer 1 ficheros: served-20260101T000000Z-copiado" in done.stdout


def test_two_processes_share_a_folder(voyages: Path, tmp_path: Path) -> None:
    """Cada uno escribe los suyos, y la verdad de lo que contestó uno la puede recoger el otro."""
    folder, rows = tmp_path / "served", simulate_voyages(300, seed=5)
    with recording(voyages, folder, rows_per_file=40) as one, recording(voyages, folder, rows_per_file=40) as other:
        names = [name for start in range(0, 300, 100) for server in (one, other) for name in server.send(rows.iloc[start : start + 100], 20)]
        assert other.client.post("/feedback", json={"id": names[0], "row": 3, "truth": "sí"}).status_code == 202
        assert {server.stop()[1] for server in (one, other)} == {""}
    kept = read_all(folder)
    assert sorted(kept["request"].unique()) == sorted(names) and len(kept) == 600
    assert len({path.name.split("-")[2] for path in folder.glob("served-*")}) == 2
    assert (names[0], 3) in read_truths(folder)


# ── La página ───────────────────────────────────────────────────────────────

AXE = Path(os.environ.get("TIERRA_AXE", ""))  # axe.min.js, del paquete axe-core de npm


@pytest.mark.skipif(not CHROMIUM, reason="sin Chromium")
def test_the_page_is_for_everybody(tierra: Callable, voyages: Path, tmp_path: Path) -> None:
    """En un teléfono y en una pantalla, de día y de noche: nada se sale, nada se pide fuera y axe-core no tiene nada serio que decir."""
    with recording(voyages, tmp_path / "served") as server:
        names = server.send(simulate_voyages(300, seed=2).assign(fare=99.0))
        server.client.post("/feedback", json=[{"id": name, "row": 1, "truth": "no"} for name in names])
        server.stop()
    tierra("monitor", "--folder", "served", "--output", "report.html", cwd=tmp_path)
    with browsing(tmp_path / "chromium") as page:
        for size in (PHONE, DESKTOP):
            for dark in (False, True):
                page.resize(size, dark)
                page.open((tmp_path / "report.html").as_uri())
                assert page.run("document.documentElement.scrollWidth <= innerWidth"), size
                assert page.run("[...document.querySelectorAll('svg[role=img]')].every(svg => svg.querySelector('title').textContent)")
                if AXE.is_file():
                    page.run(AXE.read_text(encoding="utf-8"))
                    found = page.run("axe.run().then(found => found.violations.map(({ id, impact, nodes }) => ({ id, impact, where: nodes.map(node => node.html) })))")
                    assert not [each for each in found if each["impact"] in ("serious", "critical")]
        assert {request["url"].partition(":")[0] for request in page.requests} == {"file"} and not page.faults


# ── La orden ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([], "guarda lo servido con «tierra serve --record 1»"),
        (["--folder", "nada"], "No existe la carpeta «nada»"),
        (["--folder", "."], "no hay nada servido"),
        (["--since", "ayer"], "«ayer» no es un momento"),
        (["--warn", "0.5"], "no puede ser mayor"),
    ],
)
def test_badly_asked(tierra: Callable, tmp_path: Path, args: list[str], says: str) -> None:
    done = tierra("monitor", *args, cwd=tmp_path)
    assert done.returncode == 2 and says in done.stderr and done.stderr.count("\n") == 1
