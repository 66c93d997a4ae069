"""`tierra predict` sin límite de tamaño: por partes, en orden, en poca memoria, y sin empezar de nuevo si se corta."""
import json
import os
import random
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from de_jupyter_a_la_tierra.catfood.cleaning import clean_foods
from de_jupyter_a_la_tierra.catfood.columns import FIGURES
from de_jupyter_a_la_tierra.catfood.simulate import simulate_foods
from de_jupyter_a_la_tierra.errors import TierraError, UsageError
from de_jupyter_a_la_tierra.models.artifact import load_model
from de_jupyter_a_la_tierra.projects.project import find_project
from de_jupyter_a_la_tierra.projects.session import Session
from de_jupyter_a_la_tierra.scoring import sheets as parts
from de_jupyter_a_la_tierra.scoring.outputs import Checkpoints, Scored, encode_rows
from de_jupyter_a_la_tierra.scoring.pipeline import Recipe, Scorer, prepare_recipe
from de_jupyter_a_la_tierra.scoring.sheets import CsvSheet, ParquetSheet
from de_jupyter_a_la_tierra.scoring.stream import ScoringRequest, cut_sheets, identify, publish, score_files
from de_jupyter_a_la_tierra.tables.csv import EXTRA, Dialect, drop_bom, read_table
from de_jupyter_a_la_tierra.tables.dictionary import Column
from de_jupyter_a_la_tierra.tables.values import read_rows

HEADER = "dma_ash,dma_cals,dma_carbs,dma_prot,ga_moist"
GOOD = "1.7,76,21,50,84"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tierra) -> Path:
    """Una carpeta con un modelo entrenado, 2.000 comidas en texto y las mismas en cifras."""
    folder = tmp_path_factory.mktemp("scoring")
    for command in (["data", "--rows", "600"], ["run"]):
        done = tierra(*command, cwd=folder)
        assert done.returncode == 0, done.stderr
    raw = simulate_foods(2000, seed=9)
    raw.to_csv(folder / "raw.csv", index=False)
    clean_foods(raw)[0].drop(columns=["nutrition_paws"]).to_parquet(folder / "raw.parquet", row_group_size=300, index=False)
    return folder


@pytest.fixture(scope="module")
def expected(folder) -> pd.DataFrame:
    """Lo que dice el modelo, sin pasar por ninguna parte."""
    [card] = folder.glob("data/06_models/catfood/*/catfood/model.json")
    model = load_model(card.parent)
    score, probability = model.predict_with_probability(clean_foods(read_table(folder / "raw.csv"))[0])
    return pd.DataFrame({"score": score, "probability": np.round(probability.astype(float), 4)})


@pytest.fixture
def small_parts(monkeypatch) -> None:
    """Partes de unas cien filas: en una hoja pequeña hay muchas."""
    cut_csv, cut_parquet = CsvSheet.cut, ParquetSheet.cut
    monkeypatch.setattr(CsvSheet, "cut", lambda self, size=50_000: cut_csv(self, size))
    monkeypatch.setattr(ParquetSheet, "cut", lambda self, size=128: cut_parquet(self, size))


def run(folder: Path, *places: str, output: str, executor=None, progress=lambda share, n_rows: None, **params):
    """Puntúa en este proceso, en la carpeta de prueba."""
    absolute = [place if "://" in place else str(folder / place) for place in (*places, output)]
    return score_files(find_project(folder), ScoringRequest(tuple(absolute[:-1]), absolute[-1], params, {}), executor, progress)


def read(path: Path) -> pd.DataFrame:
    """Una hoja puntuada."""
    return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)


# --- Las mismas respuestas, vengan de donde vengan -----------------------------------------------------------------


@pytest.mark.parametrize("output", ["out.csv", "out.parquet"])
@pytest.mark.parametrize("source", ["raw.csv", "raw.parquet"])
def test_parts_give_what_the_model_says(folder, expected, small_parts, source, output):
    """Texto o cifras, a texto o a Parquet, en muchas partes: las mismas filas, en orden, y las notas del modelo."""
    shares = []
    run(folder, source, output=output, progress=lambda share, n_rows: shares.append(share))
    scored = read(folder / output)
    assert len(shares) > 5 and shares == sorted(shares) and shares[-1] == pytest.approx(1)
    pd.testing.assert_frame_equal(scored[["score", "probability"]], expected, check_dtype=False)
    assert list(scored["name"]) == list(read(folder / source)["name"])
    assert not list(folder.glob(".*.tierra")) and not (folder / "out.quarantine.csv").exists()


def test_the_output_may_live_among_the_sheets(folder, tmp_path, monkeypatch):
    """La salida y su cuarentena, dentro de la carpeta de las hojas, no son hojas: repetir la orden da lo mismo."""
    rows = [GOOD] * 40 + ["1.7,?,21,50,84"]
    (tmp_path / "a.csv").write_text("\n".join([HEADER, *rows]))
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        score_files(find_project(folder), ScoringRequest((".",), "scored.csv", {}, {}))
        assert len(read(tmp_path / "scored.csv")) == 41 and (tmp_path / "scored.quarantine.csv").exists()


def test_a_workshop_of_its_own(folder, tmp_path, monkeypatch):
    """Dentro de un trabajo de un lote, el resumen va a su taller: el del proyecto sigue como estaba."""
    summary = Path("data/07_model_output/summary.txt")
    run(folder, "raw.csv", output="before.csv")
    (folder / summary).write_text("el de antes")
    monkeypatch.setenv("TIERRA_WORKSPACE", str(tmp_path))
    products, _ = run(folder, "raw.csv", output="own.csv")
    assert (folder / summary).read_text() == "el de antes" and "2000" in (tmp_path / summary).read_text()
    assert str(tmp_path / summary) in [str(product.path) for product in products]


def test_parts_and_pipeline_write_the_same_bytes(folder, tierra, small_parts):
    """Lo que sale por partes es, byte a byte, lo que escribe `tierra run --pipeline prediction`."""
    spanish = {"sep": ";", "encoding": "utf-8-sig", "decimal": ","}
    raw = pd.read_csv(folder / "raw.csv", dtype=str, keep_default_na=False)
    for name in FIGURES:
        raw[name] = raw[name].str.translate(str.maketrans(",.", ".,"))
    raw.to_csv(folder / "es.csv", index=False, **spanish)
    done = tierra("run", "--pipeline", "prediction", "--params", "input=es.csv,output=whole.csv", cwd=folder)
    assert done.returncode == 0, done.stderr
    run(folder, "es.csv", output="parts.csv")
    assert (folder / "parts.csv").read_bytes() == (folder / "whole.csv").read_bytes()


def test_parquet_keeps_its_types(folder, small_parts):
    """Lo que no es del modelo sale como entró: enteros con huecos, fechas, listas, nulos."""
    rows = pq.read_table(folder / "raw.parquet").slice(0, 500).select(HEADER.split(","))
    extra = {
        "code": pa.array([None if k % 7 == 0 else k for k in range(500)], pa.int16()),
        "day": pa.array([k * 86_400 for k in range(500)], pa.timestamp("s")),
        "tags": pa.array([["a", "b"], None] * 250, pa.list_(pa.string())),
        "note": pa.array(["x", None] * 250, pa.string()),
        "kind": pa.array(["seca", "húmeda"] * 250).dictionary_encode(),
    }
    table = pa.table({**dict(zip(rows.column_names, rows.columns, strict=True)), **extra})
    pq.write_table(table, folder / "types.parquet", row_group_size=90)
    run(folder, "types.parquet", output="typed.parquet")
    back = pq.read_table(folder / "typed.parquet")
    assert back.select(table.column_names).cast(table.schema).equals(table)
    assert back.schema.field("code").type == pa.int16() and back.schema.field("score").type == pa.int64()
    run(folder, "types.parquet", output="typed.csv")
    assert list(pd.read_csv(folder / "typed.csv", dtype=str)["code"].fillna("")[:3]) == ["", "1", "2"]


def test_numbers_and_text_are_judged_alike(folder, small_parts):
    """Las mismas celdas malas, en texto y en cifras, acaban en la cuarentena con las mismas palabras y en su línea."""
    good = dict(zip(HEADER.split(","), (1.7, 76.0, 21.0, 50.0, 84.0), strict=True))
    bad = [{"dma_prot": -3.0}, {"dma_cals": None}, {"ga_moist": 250.0}, {}]
    table = pd.DataFrame([good | change for change in bad] * 50)
    table.to_csv(folder / "bad.csv", index=False)
    table.to_parquet(folder / "bad.parquet", index=False)
    said = {}
    for name in ("bad.csv", "bad.parquet"):
        run(folder, name, output="bad.out.csv", max_bad_share=0.9)
        said[name] = pd.read_csv(folder / "bad.out.quarantine.csv", keep_default_na=False)
        assert read(folder / "bad.out.csv")["score"].isna().sum() == 150
    text, numbers = said["bad.csv"], said["bad.parquet"]
    assert list(text["line"] - 1) == list(numbers["line"]) and len(text) == 150
    pd.testing.assert_frame_equal(text[["column", "value", "reason"]], numbers[["column", "value", "reason"]])
    assert set(text["file"]) == {str(folder / "bad.csv")}


@given(values=st.lists(st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False, width=16)), min_size=1, max_size=20))
@settings(max_examples=60, deadline=None)
def test_the_fast_path_reads_like_the_slow_one(values):
    """Una columna de números se juzga como sus mismas cifras escritas en texto."""
    for column in (Column(name="x", meaning="x", minimum=-2, maximum=300), Column(name="x", meaning="x", integer=True, required=False)):
        numbers = pd.DataFrame({"x": pd.Series(values, dtype="float64")})
        text = pd.DataFrame({"x": ["" if value is None else f"{value:.20f}" for value in values]})
        (fast, bad_fast), (slow, bad_slow) = (read_rows(table, [column]) for table in (numbers, text))
        pd.testing.assert_frame_equal(fast, slow)
        assert bad_fast[["line", "column", "reason"]].equals(bad_slow[["line", "column", "reason"]])


# --- Cortar no cambia nada -----------------------------------------------------------------------------------------

CELLS = st.text(st.sampled_from('abñ1,;" \n\r.'), max_size=6)


@given(
    rows=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=25),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"]), sep=st.sampled_from(",;"),
    size=st.integers(1, 60), stray=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_a_sheet_in_parts_is_the_same_sheet(tmp_path_factory, rows, encoding, sep, size, stray):
    """Comillas, saltos de línea dentro de una celda, filas vacías: leída por partes, la hoja es la misma."""
    path = tmp_path_factory.mktemp("cut") / "t.csv"
    body = pd.DataFrame(rows, columns=["uno", "dos"]).to_csv(index=False, sep=sep)
    path.write_bytes((body + ('x5" y' + sep + "z\n" if stray else "")).encode(encoding))
    try:
        whole = read_table(path, sep=sep, encoding=encoding, decimal=".")
    except UsageError as error:
        assert "solo tiene la cabecera" in str(error)
        return
    sheet = CsvSheet(str(path), sep, encoding, ".")
    pieces = [sheet.read(part) for part in sheet.cut(size)]
    together = pd.concat(pieces).fillna("")
    pd.testing.assert_frame_equal(together[list(whole)], whole)
    assert set(together) == set(whole)


def test_the_version_that_is_asked_for_is_the_one_that_scores(folder, monkeypatch):
    """Con una versión dicha se abre esa y esa viaja a los workers; sin decirla, la última."""
    [card] = folder.glob("data/06_models/catfood/*/catfood/model.json")
    old, opened = card.parents[2] / "2000-01-01T00.00.00.000Z", []
    monkeypatch.setattr("de_jupyter_a_la_tierra.projects.datasets.load_model", lambda path: opened.append(Path(path)) or load_model(path))
    shutil.copytree(card.parents[1], old)
    try:
        for versions, place in (({"model": old.name}, old / "catfood"), ({}, card.parent)):
            recipe, _ = prepare_recipe(Session(find_project(folder)), versions=versions)
            assert recipe.models == {"model": place} and opened.pop() == place and not opened
    finally:
        shutil.rmtree(old)


def test_the_contract_is_kept_part_by_part(folder):
    """Una nota imposible no llega a la salida: la para el contrato del proyecto, como en `kedro run`."""
    recipe, inputs = prepare_recipe(Session(find_project(folder)))
    sheet = CsvSheet(str(folder / "raw.csv"))
    table = sheet.read(next(sheet.cut(5000)))
    assert len(Scorer(recipe, inputs).score(table)["scored_foods"]) == len(table)
    wrong = SimpleNamespace(**{name: getattr(inputs["model"], name) for name in ("features", "classes", "info")})
    wrong.predict_with_probability = lambda foods: (np.full(len(foods), 9), np.full(len(foods), 0.5))
    with pytest.raises(Exception, match="scored_foods"):
        Scorer(recipe, {**inputs, "model": wrong}).score(table)


def test_what_is_counted_is_of_the_whole(folder, small_parts):
    """El resumen cuenta todas las partes, y una fila con dos celdas malas es una fila."""
    bad = "?,mucha,21,50,84"
    (folder / "count.csv").write_text("\n".join([HEADER, *[GOOD, GOOD, bad] * 1500]))
    seen = []
    _, results = run(folder, "count.csv", output="count.out.csv", max_bad_share=0.5, progress=lambda share, n_rows: seen.append(n_rows))
    assert len(seen) > 1 and seen[-1] == 4500
    assert results["prediction_summary"].startswith("Comidas puntuadas: 3000; en cuarentena: 1500.")
    with pytest.raises(TierraError, match=r"1500 de 4500 \(33,3 %\)"):
        run(folder, "count.csv", output="count.out.csv", max_bad_share=0.3)
    assert "3000" in run(folder, "count.csv", output="count.out.csv", max_bad_share=0.5)[1]["prediction_summary"]


def test_ragged_rows_do_not_spoil_their_part(folder, small_parts):
    """Una fila con celdas de más se aparta; la salida no gana una columna por ella."""
    lines = [GOOD] * 300
    lines[250] = f"{GOOD},9"
    (folder / "ragged.csv").write_text("\n".join([HEADER, *lines]))
    run(folder, "ragged.csv", output="ragged.out.csv")
    scored, quarantine = read(folder / "ragged.out.csv"), pd.read_csv(folder / "ragged.out.quarantine.csv")
    assert list(scored) == [*HEADER.split(","), "score", "probability"] and scored["score"].isna().sum() == 1
    assert quarantine[["line", "column"]].values.tolist() == [[252, EXTRA]]


def test_half_a_letter_at_the_end_is_not_lost_in_silence(tmp_path):
    """Un fichero cortado a mitad de una letra no está entero: se dice, en vez de puntuarlo sin ella."""
    (tmp_path / "torn.csv").write_bytes("a;b\n1;caña\n2;cañ".encode()[:-1])
    with pytest.raises(UsageError, match="torn.csv"):
        list(CsvSheet(str(tmp_path / "torn.csv"), ";", "utf-8", ".").cut())


CELLS = st.sampled_from(["", "a", "a,b", 'q"q', "x;y", "l\nm", "l\rm", " sp ", "ñ", "Τό", "=1", "'", "\t", "0,5", "-", "nan", '""']) | st.text(max_size=4)
FLOATS = st.sampled_from([0.1, 1.0, np.nan, 1e-7, 1e22, 123456.789, -0.0, np.inf, -np.inf, 1 / 3]) | st.floats()


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(CELLS, st.none() | CELLS, st.none() | st.integers(-(10**15), 10**15), FLOATS), max_size=5),
    st.sampled_from([Dialect(), Dialect(";", "cp1252", ","), Dialect("\t", "utf-16", "."), Dialect(",", "utf-8-sig", ",")]),
)
def test_the_fast_pen_writes_like_pandas(rows, dialect):
    """Las filas que se escriben pegando columnas son, byte a byte, las que escribiría pandas."""
    names, kinds = "abcd", {"a": "str", "b": "str", "c": "Int64", "d": "float64"}
    try:
        table = pd.DataFrame(rows, columns=list(names)).astype(kinds)
    except UnicodeEncodeError:  # medio par de UTF-16: en una hoja no cabe
        return
    text = table.to_csv(index=False, header=False, sep=dialect.sep, decimal=dialect.mark)
    assert encode_rows(table, dialect) == text.encode(drop_bom(dialect.encoding), errors="xmlcharrefreplace")


@pytest.mark.parametrize("output", ["risky.csv", "risky.parquet"])
def test_formulas_stay_as_text_if_asked(folder, small_parts, output):
    """Sin pedirlo, las celdas vuelven como vinieron; pidiéndolo, lo que Excel ejecutaría es texto, y los números siguen igual."""
    cells = ["=1+1", "@SUM(A1)", "-5", "+34 600 100 200", "-1+cmd|' /C calc'!A0", "Whiskas"]
    sheet = pd.DataFrame({"=name": cells, **dict(zip(HEADER.split(","), GOOD.split(","), strict=True))})
    sheet.loc[0, "ga_moist"] = "=8+4"
    sheet.to_csv(folder / "formulas.csv", index=False)
    for escape in (False, True):
        request = ScoringRequest((str(folder / "formulas.csv"),), str(folder / output), {"max_bad_share": 0.5}, {}, escape=escape)
        score_files(find_project(folder), request)
        scored = read(folder / output)
        quoted = escape and output.endswith(".csv")
        expected = ["'=1+1", "'@SUM(A1)", "-5", "'+34 600 100 200", "'-1+cmd|' /C calc'!A0", "Whiskas"] if quoted else cells
        assert list(scored["'=name" if quoted else "=name"]) == expected
        assert list(scored["score"].isna()) == [True] + [False] * 5
        assert ("'=8+4" if quoted else "=8+4") in (folder / "risky.quarantine.csv").read_text().splitlines()[1]


def test_letters_that_do_not_fit_are_still_there():
    """Lo que la codificación de la hoja no sabe escribir sale con su número; nada se pierde."""
    assert encode_rows(pd.DataFrame({"a": ["ñ → 5"]}), Dialect(";", "cp1252", ",")) == "ñ &#8594; 5\n".encode("cp1252")


def test_an_endless_row_is_explained(folder, monkeypatch):
    """Unas comillas sin cerrar no se llevan la memoria: se dice en qué línea están."""
    monkeypatch.setattr(parts, "_MAX_ROW", 10_000)
    (folder / "open.csv").write_text(f'{HEADER}\n{GOOD}\n"1.7' + f"\n{GOOD}" * 5000)
    with pytest.raises(UsageError, match="línea 3 .*comillas"):
        list(CsvSheet(str(folder / "open.csv")).cut(size=1000))


# --- Muchos ficheros, aquí y lejos ---------------------------------------------------------------------------------


def test_many_files_in_order(folder, expected, small_parts):
    """Una carpeta, un comodín y una lista dan lo mismo; la columna que falta o sobra se dice con su fichero."""
    raw = pd.read_csv(folder / "raw.csv", dtype=str, keep_default_na=False)
    (folder / "days").mkdir()
    for day in range(4):
        piece = raw.iloc[500 * day : 500 * (day + 1)]
        piece[sorted(piece)[:: -1 if day else 1]].to_csv(folder / f"days/{day:02d}.csv", index=False)
    (folder / "days/_SUCCESS").write_text("")
    outputs = []
    for places in (["days"], ["days/*.csv"], [f"days/{day:02d}.csv" for day in range(4)]):
        run(folder, *places, output="days/all.csv")
        outputs.append((folder / "days/all.csv").read_bytes())
        assert list(read(folder / "days/all.csv")["score"]) == list(expected["score"])
    assert len(set(outputs)) == 1
    (folder / "days/99.csv").write_text("dma_ash\n1.7\n")
    with pytest.raises(UsageError, match="99.csv» no casa con"):
        run(folder, "days", output="days/all.csv")
    assert not list((folder / "days").glob(".*.tierra"))  # mal pedido, no hay por dónde seguir


def test_all_the_sheets_share_the_decimal_mark(tmp_path):
    """La coma que en una hoja suelta no se sabría qué es, es la de la primera."""
    files = []
    for name, cell in (("a", "1,5"), ("b", "1,313")):
        (tmp_path / f"{name}.csv").write_text(f"x;y\n{cell};z\n")
        files.append(str(tmp_path / f"{name}.csv"))
    cuts = list(cut_sheets(files, {}, CsvSheet(files[0])))
    assert [sheet.dialect.decimal for sheet, _, _ in cuts] == [",", ","] and cuts[-1][2] == 1


def test_an_output_appears_at_once(tmp_path, monkeypatch):
    """Lo publicado cambia de golpe: quien leía lo de antes lo sigue leyendo, y si falla lejos queda lo de antes."""
    import fsspec

    for name, text in (("draft", "nueva"), ("far", "nueva"), ("out.csv", "vieja")):
        (tmp_path / name).write_text(text)
    with open(tmp_path / "out.csv") as reader:
        publish(tmp_path / "draft", str(tmp_path / "out.csv"))
        assert reader.read() == "vieja"
    assert (tmp_path / "out.csv").read_text() == "nueva" and not (tmp_path / "draft").exists()
    memory = fsspec.filesystem("memory")
    memory.pipe("/publish/out.csv", b"vieja")

    def break_off(source, target, size: int) -> None:
        target.write(source.read(2))
        raise OSError("se cortó")

    with monkeypatch.context() as patch, pytest.raises(TierraError, match="se cortó"):
        patch.setattr("shutil.copyfileobj", break_off)
        publish(tmp_path / "far", "memory://publish/out.csv")
    assert memory.cat("/publish/out.csv") == b"vieja"
    publish(tmp_path / "far", "memory://publish/out.csv")
    assert memory.cat("/publish/out.csv") == b"nueva"


def test_addresses(folder, small_parts):
    """Una dirección de fsspec sirve para leer y para escribir, y la salida aparece entera."""
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/in/raw.csv", (folder / "raw.csv").read_bytes())
    run(folder, "memory://in/*.csv", output="memory://out/scored.parquet")
    assert pq.read_table(memory.open("/out/scored.parquet")).num_rows == 2000
    run(folder, f"file://{folder}/raw.parquet", output=f"file://{folder}/far.csv")
    assert len(read(folder / "far.csv")) == 2000
    assert not list(folder.glob("data/07_model_output/.*.tierra"))


@pytest.mark.parametrize("source", ["raw.csv", "raw.parquet"])
def test_executor_gives_the_same_bytes(folder, small_parts, source):
    """Repartido entre otros, aunque puntúen varias partes a la vez en un mismo proceso, el mismo fichero."""
    run(folder, source, output="here.csv")
    for n_threads in (1, 4):
        with ThreadPoolExecutor(n_threads) as pool:
            run(folder, source, output="there.csv", executor=pool)
        assert (folder / "here.csv").read_bytes() == (folder / "there.csv").read_bytes()


@pytest.mark.parametrize("name", ["again.csv", "again.parquet"])
def test_a_worker_notices_another_sheet_with_the_same_name(folder, name):
    """Quien puntúa recuerda las hojas abiertas, pero si el fichero cambia lee el nuevo."""
    rows = pq.read_table(folder / "raw.parquet").select(HEADER.split(",")).to_pandas()
    with ThreadPoolExecutor(1) as pool:
        for table in (rows[:5], rows[100:140][reversed(HEADER.split(","))]):
            path = folder / name
            path.unlink(missing_ok=True)
            table.to_parquet(path, index=False) if path.suffix == ".parquet" else table.to_csv(path, index=False)
            run(folder, name, output="again.out.csv", executor=pool)
            scored = read(folder / "again.out.csv")
            np.testing.assert_allclose(scored[list(table)], table, rtol=1e-6)
            assert list(scored.columns[:5]) == list(table)


def test_a_real_cluster_gives_the_same_bytes(folder, tierra):
    """Con un planificador de Dask y dos workers de verdad, en otros procesos, el mismo fichero."""
    bin_, where = tierra.path.with_name("dask"), folder / "scheduler.json"
    quiet = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    scheduler = ["scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", where, "--no-dashboard"]
    worker = ["worker", "--scheduler-file", where, "--nworkers", "2", "--nthreads", "1", "--no-dashboard", "--local-directory", folder]
    processes = [subprocess.Popen([bin_, *command], **quiet) for command in (scheduler, worker)]
    try:
        for _ in range(300):
            if where.exists() and where.read_text():
                break
            time.sleep(0.1)
        address = json.loads(where.read_text())["address"]
        done = tierra("predict", "raw.csv", "raw.there.csv", "--scheduler", address, cwd=folder)
        assert done.returncode == 0, done.stderr
        assert tierra("predict", "raw.csv", "raw.here.csv", cwd=folder).returncode == 0
        assert (folder / "raw.there.csv").read_bytes() == (folder / "raw.here.csv").read_bytes()
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(timeout=30)


# --- Lo que se corta -----------------------------------------------------------------------------------------------

SLOW = """
import sys, time
from de_jupyter_a_la_tierra.cli.main import main
from de_jupyter_a_la_tierra.scoring.pipeline import Scorer
from de_jupyter_a_la_tierra.scoring.sheets import CsvSheet
cut, score = CsvSheet.cut, Scorer.score
CsvSheet.cut = lambda self, size=50_000: cut(self, size)
def slow(self, sheet):
    print("parte", flush=True)
    time.sleep(float(sys.argv[1]))
    return score(self, sheet)
Scorer.score = slow
main(["predict", *sys.argv[2:]])
"""


def slowly(seconds: float, *args: str, cwd: Path) -> subprocess.Popen:
    """`tierra predict` con partes pequeñas; en cada una espera un poco y lo dice."""
    call = [os.sys.executable, "-c", SLOW, str(seconds), *args]
    return subprocess.Popen(call, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_parts(process: subprocess.Popen, number: int) -> None:
    """Espera a que empiece una parte."""
    for _ in range(number):
        while (line := process.stdout.readline()) != "parte\n":
            assert line, process.stderr.read()


def test_killed_three_times_and_carries_on(folder, expected):
    """`kill -9` tres veces en momentos al azar: la misma orden acaba, ninguna parte terminada se repite y no falta ni una fila."""
    seed = random.randrange(1000)
    print("semilla:", seed)
    rng, started = random.Random(seed), 0
    total = len(list(CsvSheet(str(folder / "raw.csv")).cut(50_000)))
    for _ in range(3):
        process, parts_now = slowly(0.1, "raw.csv", "killed.csv", cwd=folder), rng.randint(2, 4)
        wait_for_parts(process, parts_now)
        time.sleep(rng.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        started += parts_now + process.communicate()[0].count("parte")
        assert not (folder / "killed.csv").exists()
    process = slowly(0, "raw.csv", "killed.csv", cwd=folder)
    said, errors = process.communicate(timeout=120)
    assert process.returncode == 0 and "Se sigue por donde se iba" in errors, errors
    assert total <= started + said.count("parte\n") <= total + 6
    pd.testing.assert_frame_equal(read(folder / "killed.csv")[["score", "probability"]], expected, check_dtype=False)
    assert not list(folder.glob(".*.tierra"))


@pytest.mark.parametrize("change", ["input", "model", "nothing"])
def test_what_was_done_counts_only_if_it_is_the_same_work(folder, small_parts, change):
    """Con otra hoja u otro modelo se empieza de nuevo; con lo mismo, no."""
    source = folder / f"{change}.csv"
    source.write_bytes((folder / "raw.csv").read_bytes())
    calls = []

    def stop(share: float, n_rows: int) -> None:
        calls.append(n_rows)
        if len(calls) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(folder, source.name, output="same.csv", progress=stop)
    left = folder / ".same.csv.tierra"
    times = {path.name: path.stat().st_mtime_ns for path in left.glob("*.rows")}
    assert 5 <= len(times) <= 9
    [card] = folder.glob("data/06_models/catfood/*/catfood/model.json")
    text = card.read_text(encoding="utf-8")
    if change == "input":
        source.write_text(source.read_text().replace("10%", "11%", 1))
    if change == "model":
        card.write_text(text.replace("{", "{ ", 1), encoding="utf-8")
    seen = []
    try:
        with pytest.raises(KeyboardInterrupt):
            run(folder, source.name, output="same.csv", progress=lambda share, n_rows: seen.append(n_rows) or stop_at(seen))
    finally:
        card.write_text(text, encoding="utf-8")
    again = {path.name: path.stat().st_mtime_ns for path in left.glob("*.rows")}
    kept = [name for name, moment in times.items() if again.get(name) == moment]
    assert len(kept) == (len(times) if change == "nothing" else 0)


def stop_at(seen: list[int]) -> None:
    """Un Ctrl-C a la sexta parte."""
    if len(seen) == 6:
        raise KeyboardInterrupt


REGISTRY = """
from kedro.pipeline import node, pipeline
from package_of_mine.nodes import score

def register_pipelines():
    return {"prediction": pipeline([node(score, "sheet", "scored")])}
"""


def test_all_that_changes_the_result_makes_another_work(tmp_path, monkeypatch):
    """La hoja, la salida, los parámetros, los contratos, el modelo, el código y las versiones: si algo cambia, es otro trabajo."""
    package = tmp_path / "package_of_mine"
    source, card, code = tmp_path / "in.csv", tmp_path / "model.json", package / "nodes.py"
    package.mkdir()
    for path in (source, card):
        path.write_text("{}")
    code.write_text("def score(x): return x")
    (package / "pipeline_registry.py").write_text(REGISTRY)
    monkeypatch.syspath_prepend(tmp_path)
    models = {"model": tmp_path}
    recipe = Recipe(str(tmp_path), package.name, "prediction", "sheet", "scored", {"params:top": 1}, {"sheet": {"a": 1}}, models)
    request = ScoringRequest((str(source),), "out.csv", {"max_bad_share": 0.1}, {})

    def tell(request: ScoringRequest = request, recipe: Recipe = recipe) -> str:
        return json.dumps(identify(request, recipe, [str(source)]), sort_keys=True)

    known = [
        tell(), tell(replace(request, output="other.csv")), tell(replace(request, params={"sep": ";"})),
        tell(recipe=replace(recipe, params={"params:top": 2})), tell(recipe=replace(recipe, contracts={"sheet": {"a": 2}})),
    ]
    assert tell(replace(request, params={"max_bad_share": 0.9})) == known[0]  # solo decide si hay salida
    for path in (source, card, code):
        path.write_text("{ }" if path != code else "def score(x): return 2 * x")
        known.append(tell())
    monkeypatch.setattr("de_jupyter_a_la_tierra.scoring.stream.version", lambda name: "99")
    known.append(tell())
    assert len(set(known)) == len(known)


def test_a_part_counts_when_it_is_whole(tmp_path, monkeypatch):
    """El apunte aparece de golpe y lo último, con las filas ya escritas; y el de otro trabajo no cuenta."""
    scored, seen = Scored(b"1\n", b"", ["a"], 1, 0, None, {}), []

    def watch(source, target) -> None:
        seen.append(sorted(path.suffix for path in tmp_path.glob("00*")))
        raise OSError("se cortó")

    first = Checkpoints(tmp_path, {"job": 1})
    with monkeypatch.context() as patch, pytest.raises(TierraError, match="se cortó"):
        patch.setattr(os, "replace", watch)
        first.save(0, scored)
    assert seen == [[".quarantine", ".rows", ".tmp"]] and (first.n_done, first.load(0)) == (0, None)
    first.save(0, scored)
    assert (first.n_done, first.load(0)) == (1, scored)
    first.close(keep=True)
    other = Checkpoints(tmp_path, {"job": 2})
    assert (other.resumed, other.n_done, other.load(0)) == (False, 0, None)
    other.close()
    assert not tmp_path.exists()


def test_a_damaged_part_is_done_again(folder, expected, small_parts):
    """Si el disco perdió lo de una parte, esa se repite."""
    with pytest.raises(KeyboardInterrupt):
        seen = []
        run(folder, "raw.csv", output="torn.csv", progress=lambda share, n_rows: seen.append(n_rows) or stop_at(seen))
    (folder / ".torn.csv.tierra/000002.rows").write_bytes(b"1,2")
    run(folder, "raw.csv", output="torn.csv")
    assert list(read(folder / "torn.csv")["score"]) == list(expected["score"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_is_stopped_says_how_to_go_on_and_two_at_once_are_refused(folder, tierra, number):
    """Mientras una orden escribe, otra igual no puede; y al interrumpirla dice que la misma sigue desde ahí."""
    output = f"busy{number}.csv"
    process = slowly(0.3, "raw.csv", output, cwd=folder)
    wait_for_parts(process, 4)
    second = tierra("predict", "raw.csv", output, cwd=folder)
    assert second.returncode == 2 and "Otra orden está escribiendo" in second.stderr
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number and "la misma orden sigue desde ahí" in said and "Traceback" not in said


def test_too_many_bad_rows_keep_what_was_done(folder, small_parts):
    """El límite es sobre el total: si se pasa no hay salida, sí cuarentena, y subirlo no obliga a puntuar otra vez."""
    rows = [GOOD] * 20_000
    rows[:3000] = ["?,76,21,50,84"] * 3000  # una parte entera mala, y algo más
    (folder / "limit.csv").write_text("\n".join([HEADER, *rows]))
    with pytest.raises(TierraError, match=r"3000 de 20\.000 \(15,0 %\).*limit.out.quarantine.csv"):
        run(folder, "limit.csv", output="limit.out.csv")
    assert not (folder / "limit.out.csv").exists() and len(pd.read_csv(folder / "limit.out.quarantine.csv")) == 3000
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob(".limit.out.csv.tierra/*.rows")}
    seen = []
    with pytest.raises(KeyboardInterrupt):
        run(folder, "limit.csv", output="limit.out.csv", max_bad_share=0.2, progress=lambda s, n: seen.append(n) or stop_at([0] * 6))
    after = {path.name: path.stat().st_mtime_ns for path in folder.glob(".limit.out.csv.tierra/*.rows")}
    assert before and before == after
    run(folder, "limit.csv", output="limit.out.csv", max_bad_share=0.2)
    assert read(folder / "limit.out.csv")["score"].isna().sum() == 3000


# --- Poca memoria, y lo que se pide mal ------------------------------------------------------------------------------

MEASURE = """
import re, resource, sys
from pathlib import Path
from de_jupyter_a_la_tierra.cli.main import main

def measure_peak():
    \"\"\"Lo más que ha ocupado este proceso, en MiB: en Linux, ru_maxrss empieza por lo que ocupaba quien lo arrancó, y VmHWM no.\"\"\"
    status = Path("/proc/self/status")
    found = status.exists() and re.search(r"VmHWM:\\s*(\\d+) kB", status.read_text())
    return int(found[1]) // 1024 if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**20

try:
    main(["predict", *sys.argv[1:]])
finally:
    print("pico:", measure_peak())
"""


def test_memory_does_not_grow_with_the_rows(folder):
    """Cuatro veces más filas no ocupan más memoria que una."""
    table = pq.read_table(folder / "raw.parquet").select(HEADER.split(","))
    peaks, ballast = [], bytearray(b"x") * (1 << 30)  # que quien mide sea grande no ha de notarse
    for name, copies in (("one", 150), ("four", 600)):
        with pq.ParquetWriter(folder / f"{name}.parquet", table.schema) as writer:
            writer.write_table(pa.concat_tables([table] * copies), row_group_size=100_000)
        call = [os.sys.executable, "-c", MEASURE, f"{name}.parquet", f"{name}.out.parquet"]
        done = subprocess.run(call, cwd=folder, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout.rpartition("pico:")[2]))
        assert pq.read_metadata(folder / f"{name}.out.parquet").num_rows == 2000 * copies
    assert ballast and peaks[1] < peaks[0] + 120 and peaks[1] < 1024, peaks


CALLS = {
    "no output": (["raw.csv"], 2, "Falta"),
    "nothing there": (["nada/*.csv", "o.csv"], 2, "No existe el fichero «nada/*.csv»"),
    "empty folder": (["vacía", "o.csv"], 2, "No existe el fichero «vacía»"),
    "unknown protocol": (["magia://x.csv", "o.csv"], 2, "magia"),
    "broken parquet": (["broken.parquet", "o.csv"], 2, "broken.parquet"),
    "mixed formats": (["raw.csv", "raw.parquet", "o.csv"], 2, "no casa con"),
    "parquet without a column": (["thin.parquet", "o.csv"], 2, "Faltan las columnas"),
    "certificates without scheduler": (["raw.csv", "o.csv", "--tls-ca", "ca.pem"], 2, "falta --scheduler"),
    "not a scheduler": (["raw.csv", "o.csv", "--scheduler", "aquí"], 2, "tcp://"),
    "unknown parameter": (["raw.csv", "o.csv", "--params", "max_bad_shar=1"], 2, "¿Querías decir «max_bad_share»?"),
    "a folder as output": (["raw.csv", "vacía"], 2, "es una carpeta"),
    "a workbook as output": (["raw.csv", "o.csv.xlsx"], 2, "No se sabe escribir «o.csv.xlsx»"),
    "over itself": (["raw.csv", "raw.csv"], 2, "taparía una de las hojas"),
    "over itself, by another name": (["raw.csv", "vacía/../raw.csv"], 2, "taparía una de las hojas"),
}


@pytest.mark.parametrize(("args", "code", "says"), CALLS.values(), ids=CALLS.keys())
def test_bad_calls(folder, tierra, args, code, says):
    """Lo que se pide mal se dice en una frase, y no deja nada."""
    (folder / "vacía").mkdir(exist_ok=True)
    (folder / "broken.parquet").write_bytes(b"PAR1 y nada m\xc3\xa1s")
    pq.write_table(pa.table({"dma_ash": [1.0]}), folder / "thin.parquet")
    done = tierra("predict", *args, cwd=folder)
    assert done.returncode == code and says in done.stderr, done.stdout + done.stderr
    assert "Traceback" not in done.stderr and not list(folder.glob("*o.csv*"))
