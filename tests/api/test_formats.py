"""Muchas filas en cualquier formato, y lo que cuesta lo que no se entiende, con un servidor de verdad."""
import gzip
import io
import json
import os
import random
import string
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest
from mixed import COLUMNS, NAMES, VOYAGE, simulate_voyages, write_voyages
from serving import Server, pack_bomb, serving

pytestmark = pytest.mark.timeout(240)
MB = 1_000_000


@pytest.fixture(scope="module")
def server(tierra: Callable, voyages: Path) -> Iterator[Server]:
    """Un servidor con el modelo que mira columnas de todas las clases."""
    with serving(tierra, voyages.parent, "--model", voyages) as server:
        yield server


def post(server: Server, body: bytes, media: str = "", path: str = "/predict_scores", **headers: str) -> httpx.Response:
    """Manda unos bytes que dicen ser de una clase."""
    about = {name.replace("_", "-"): text for name, text in headers.items()} | ({"content-type": media} if media else {})
    return httpx.post(server.address + path, content=body, headers=about, timeout=60)


def as_sheet(rows: pd.DataFrame, folder: Path, **options: Any) -> bytes:
    """Unas filas, como las guardaría una hoja de cálculo."""
    write_voyages(rows, folder / "filas.csv")
    text = pd.read_csv(folder / "filas.csv", dtype="str", keep_default_na=False).to_csv(index=False, sep=options.pop("sep", ";"))
    return text.encode(options.pop("encoding", "utf-8"))


# ── Lo que lee ──────────────────────────────────────────────────────────────


def test_all_the_ways_of_writing_json(server: Server) -> None:
    rows = [VOYAGE, VOYAGE | {"age": None, "class": "1"}, VOYAGE | {"port": "Nantucket"}]
    expected = server.ask(rows).json()
    columns = {name: [row[name] for row in rows] for name in NAMES}
    split = {"columns": NAMES, "index": [0, 1, 2], "data": [[row[name] for name in NAMES] for row in rows]}
    for body in (rows, columns, split):
        assert post(server, json.dumps(body).encode(), "application/json").json() == expected
    lines = "\n".join(map(json.dumps, rows)).encode()
    assert post(server, lines, "application/x-ndjson").json() == expected
    assert post(server, json.dumps(VOYAGE).encode()).json() == expected[:1]
    assert expected[2]["unseen"] == ["port"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
def test_a_sheet_as_it_comes(server: Server, tmp_path: Path, encoding: str) -> None:
    """Punto y coma, coma decimal, marca invisible o letras de Windows: las mismas respuestas."""
    rows = simulate_voyages(40, seed=3)
    rows["fare"] = rows["fare"] + 0.25
    plain = post(server, as_sheet(rows, tmp_path, sep=","), "text/csv").json()
    assert len(plain) == 40
    text = as_sheet(rows, tmp_path).decode()
    spanish = "\r\n".join(line.replace(".", ",") for line in text.splitlines())
    assert post(server, spanish.encode(encoding), "text/csv; charset=x").json() == plain
    assert post(server, spanish.encode(encoding), "text/csv", "/predict_scores?sep=;&decimal=,").json() == plain


def test_a_sheet_comes_back(server: Server, tmp_path: Path) -> None:
    rows = simulate_voyages(20, seed=4)
    body = as_sheet(rows, tmp_path, sep=",")
    said = post(server, body, "text/csv", "/predict_scores?probabilities=true").json()
    for headers, path in (({"accept": "text/csv"}, "/predict_scores?probabilities=true"), ({}, "/predict_scores?format=csv&probabilities=true")):
        reply = post(server, body, "text/csv", path, **headers)
        assert reply.headers["content-type"] == "text/csv; charset=utf-8"
        table = pd.read_csv(io.BytesIO(reply.content))
        assert table["score"].tolist() == [each["score"] for each in said]
        assert table[["probability_no", "probability_sí"]].to_numpy().tolist() == [list(each["probabilities"].values()) for each in said]
    spanish = post(server, body.replace(b".", b","), "text/csv", "/predict_scores?format=csv&decimal=,&sep=,")
    assert spanish.status_code == 422  # con la coma de separador y de decimal no hay quien lea: y se dice
    sheet = "\r\n".join(line.replace(".", ",") for line in as_sheet(rows, tmp_path).decode().splitlines()).encode()
    reply = post(server, sheet, "text/csv", "/predict_scores?format=csv&decimal=,")
    assert pd.read_csv(io.BytesIO(reply.content), sep=";", decimal=",")["probability"].tolist() == [each["probability"] for each in said]


def test_what_is_written_is_no_formula(server: Server) -> None:
    reply = server.ask(VOYAGE, "/predict_score?format=csv")
    assert reply.text.splitlines()[0] == "score,probability,data_origin,model,unseen"
    assert not [cell for cell in reply.text.replace("\r\n", ",").split(",") if cell.startswith(("=", "@", "+"))]


def test_probabilities_on_request(server: Server) -> None:
    said = server.ask(VOYAGE, "/predict_score?probabilities=true").json()
    assert list(said["probabilities"]) == ["no", "sí"] and sum(said["probabilities"].values()) == pytest.approx(1, abs=1e-3)
    assert said["probabilities"][said["score"]] == said["probability"]
    assert "probabilities" not in server.ask(VOYAGE).json()


def test_parquet_with_types_or_with_texts(server: Server, tmp_path: Path) -> None:
    rows = simulate_voyages(30, seed=5)
    expected = post(server, as_sheet(rows, tmp_path, sep=","), "text/csv").json()
    typed = rows.assign(alone=rows["alone"].astype(bool), port=rows["port"].astype("category"))
    texts = pd.read_csv(tmp_path / "filas.csv", dtype="str", keep_default_na=False)
    for table in (typed, texts):
        assert post(server, table.to_parquet(), "application/vnd.apache.parquet").json() == expected


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_compressed(server: Server, encoding: str) -> None:
    import zlib

    body = json.dumps(VOYAGE).encode()
    packed = gzip.compress(body) if encoding == "gzip" else zlib.compress(body)
    assert post(server, packed, path="/predict_score", content_encoding=encoding).json() == server.ask(VOYAGE).json()


@pytest.mark.parametrize("media", ["", "application/json", "application/json; charset=utf-8", "application/x-www-form-urlencoded", "application/vnd.api+json"])
def test_json_by_any_of_its_names(server: Server, media: str) -> None:
    assert post(server, json.dumps(VOYAGE).encode(), media, "/predict_score").status_code == 200


# ── Lo que cuesta lo que no se entiende ─────────────────────────────────────


def read_usage(server: Server) -> tuple[float, int]:
    """Segundos de procesador y bytes de memoria, los más que ha llegado a tener, de un servidor y sus hijos."""
    import psutil

    parent = psutil.Process(server.process.pid)
    family = [parent, *parent.children(recursive=True)]
    cpu = sum(sum(each.cpu_times()[:2]) for each in family)
    peaks = [int(line.split()[1]) * 1024 for each in family for line in Path(f"/proc/{each.pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return cpu, sum(peaks)


def repeat(unit: str, start: str = "[", end: str = "]", sep: str = ",") -> bytes:
    """Un megabyte de lo mismo."""
    return (start + sep.join([unit] * (MB // (len(unit) + len(sep)))) + end).encode()


def build_junk() -> dict[str, tuple[str, bytes]]:
    """Un megabyte de muchas cosas: cómo dicen ser, y qué son."""
    rng, row = random.Random(0), json.dumps(VOYAGE)
    noise = "".join(rng.choices(string.printable, k=MB))
    return {
        "objetos vacíos": ("", repeat("{}")), "listas vacías": ("", repeat("[]")), "números": ("", repeat("1.5")), "nulos": ("", repeat("null")),
        "textos": ("", repeat('"a"')), "un texto": ("", json.dumps(VOYAGE | {"notes": "x" * MB}).encode()), "corchetes": ("", b"[" * MB),
        "llaves": ("", b'{"a":' * (MB // 5)), "un valor de un mega": ("", json.dumps(VOYAGE | {"age": [1.5] * 200_000}).encode()),
        "nombres de más": ("", json.dumps(VOYAGE | {f"x{n}": n for n in range(80_000)}).encode()),
        "nombres repetidos": ("", repeat('"age":1', "{", "}")), "filas malas": ("", repeat(json.dumps(VOYAGE | {"age": -1}))),
        "la última, mala": ("", repeat(row)[:-1] + b',{"age":1}]'), "comillas": ("", repeat(json.dumps(VOYAGE | {"notes": '"' * 50}))),
        "un número de un millón de cifras": ("", b'{"age": ' + b"9" * MB + b"}"), "ruido": ("", noise.encode()), "ceros": ("", bytes(MB)),
        "espacios": ("", b" " * MB), "filas buenas": ("", repeat(row)), "una columna": ("", json.dumps({"age": [1] * 330_000}).encode()),
        "columnas desiguales": ("", json.dumps({name: [1] * 30_000 * (n + 1) for n, name in enumerate(NAMES)}).encode()[:MB]),
        "líneas": ("application/x-ndjson", repeat(row, "", "", "\n")), "líneas vacías": ("application/x-ndjson", b"\n" * MB),
        "líneas malas": ("application/x-ndjson", repeat("{}", "", "", "\n")), "hoja de saltos": ("text/csv", b"\n" * MB),
        "hoja de separadores": ("text/csv", b";" * MB), "hoja de comillas": ("text/csv", b'"' * MB), "hoja de ruido": ("text/csv", noise.encode()),
        "hoja de una línea": ("text/csv", b"a;b;" * (MB // 4)), "hoja sin columnas": ("text/csv", b"a;b\n" * (MB // 4)),
        "parquet de pega": ("application/vnd.apache.parquet", b"PAR1" * (MB // 4)), "gzip": ("gzip", pack_bomb(bytes(10**6), 900)),
        "gzip de objetos": ("gzip", gzip.compress(repeat("{}") * 9)),
    }



def test_a_megabyte_of_anything_is_cheap(tierra: Callable, voyages: Path, record_property: Callable) -> None:
    """Mande lo que mande, un megabyte no cuesta más de medio segundo de procesador ni de cien megas."""
    spent = {}
    with serving(tierra, voyages.parent, "--model", voyages) as server:
        for path in ("/predict_score", "/predict_scores"):
            post(server, json.dumps(VOYAGE).encode(), path=path)
            for name, (kind, body) in build_junk().items():
                cpu, memory = read_usage(server)
                headers = {"content_encoding": "gzip"} if kind == "gzip" else {}
                reply = post(server, body, "" if kind == "gzip" else kind, path, **headers)
                after, peak = read_usage(server)
                spent[f"{path} {name}"] = (reply.status_code, round(after - cpu, 2), round((peak - memory) / MB))
                assert reply.status_code in (200, 400, 413, 415, 422) and len(reply.content) < (100_000 if reply.status_code != 200 else 10 * MB), name
    record_property("spent", spent)
    print("\n".join(f"{name}: {each}" for name, each in spent.items()))
    assert not {name: each for name, each in spent.items() if each[1] > 0.5 or each[2] > 100}


def test_big_values_do_not_come_back(server: Server) -> None:
    """Ni un valor de diez megas ni una dirección de sesenta kas vuelven enteros."""
    for value in ("x" * 9_900_000, ["x" * 9_000_000], {"x" * 9_000_000: 1}, [[[1] * 1000] * 1000]):
        reply = server.ask(VOYAGE | {"age": value})
        assert reply.status_code == 422 and len(reply.content) < 3000
    assert len(server.ask(VOYAGE | {"x" * 9_900_000: 1}).content) < 3000
    long = httpx.get(f"{server.address}/{'x' * 60_000}")
    assert long.status_code in (404, 414) and len(long.content) < 3000


def test_too_many_rows(server: Server) -> None:
    """Cien mil filas se admiten, vengan como vengan; una más, no."""
    one = {name: value for name, value in VOYAGE.items() if name in {column.name for column in COLUMNS if column.required}}
    over = 100_001
    bodies = {
        "application/x-ndjson": (json.dumps({"x": 1}) + "\n").encode() * over, "text/csv": b"a;b\n" * (over + 1),
        "application/json": json.dumps({name: [value] * over for name, value in one.items()}).encode(),
        "": ("[" + ",".join(["{}"] * over) + "]").encode(),
    }
    for media, body in bodies.items():
        reply = post(server, body, media)
        assert reply.status_code in (413, 422) and ("100.000 filas" in reply.json()["detail"] or "Falta" in reply.json()["detail"] or "columna" in reply.json()["detail"]), media
    assert post(server, bodies[""]).status_code == 413 and post(server, bodies["application/json"]).status_code == 413


WITHOUT_PANDAS = """
import sys, json
from de_jupyter_a_la_tierra.api.server import ModelService, build_routes
from de_jupyter_a_la_tierra.api.messages import Request
from de_jupyter_a_la_tierra.models.artifact import load_model
routes = build_routes(ModelService(load_model(sys.argv[1]), "v1"))
for media, body in json.loads(sys.argv[2]).items():
    reply = routes["/predict_scores"]["POST"].handler(Request("POST", "/predict_scores", {b"content-type": media.encode()}, body.encode()))
    assert reply.status == 200, reply.body
reply = routes["/predict_scores"]["POST"].handler(Request("POST", "/predict_scores", {b"content-type": b"application/vnd.apache.parquet"}, open(sys.argv[3], "rb").read()))
assert reply.status == 200, reply.body
print([name for name in ("pandas", "sklearn", "kedro", "mlflow") if name in sys.modules])
"""


def test_no_format_needs_pandas(voyages: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    rows = simulate_voyages(5)
    rows.to_parquet(tmp_path / "filas.parquet")
    bodies = {"text/csv": as_sheet(rows, tmp_path).decode(), "application/x-ndjson": json.dumps(VOYAGE), "application/json": json.dumps([VOYAGE])}
    command = [sys.executable, "-c", WITHOUT_PANDAS, voyages, json.dumps(bodies), tmp_path / "filas.parquet"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=dict(os.environ))
    assert done.stdout == "[]\n", done.stderr
