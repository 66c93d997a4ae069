"""Cuánto cuesta `tierra predict` con columnas de todas las clases frente a un bucle escrito a mano, en filas por segundo.

El bucle es el que escribiría quien sabe: pyarrow lee tandas del CSV o del Parquet y entiende sus fechas, onnxruntime las
puntúa y pyarrow escribe las mismas columnas con dos más. No comprueba rangos ni contratos, no aparta nada y no puede
seguir si se corta. Los dos leen el mismo fichero; se miden por turnos y de cada uno cuenta la mejor vez. Con la máquina
ocupada, más que los segundos valen los de CPU.

    python bench/mixed.py                              # un millón de filas, en CSV y en Parquet
    python bench/mixed.py --rows 200000 --rounds 1
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from scoring import TIERRA, measure

BY_HAND = """
import json, re, sys
from pathlib import Path
import numpy as np, onnxruntime, pyarrow as pa, pyarrow.compute as pc, pyarrow.csv as csv, pyarrow.parquet as pq

folder, source, target = Path(sys.argv[1]), *sys.argv[2:4]
features = json.loads((folder / "model.json").read_text())["features"]
session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
wanted = {entry.name for entry in session.get_inputs()}
epoch = np.datetime64("2000-01-01", "D")

def numbers(column):
    return pc.cast(column, pa.float32()).to_numpy(zero_copy_only=False)

def split_date(name, moments):
    day = moments.cast(pa.date32()).to_numpy(zero_copy_only=False).astype("M8[D]")
    whole = moments.to_numpy(zero_copy_only=False).astype("M8[us]")
    parts = {"año": pc.year, "mes": pc.month, "día": pc.day}
    found = {part: numbers(of(moments)) for part, of in parts.items()}
    found["día de la semana"] = numbers(pc.day_of_week(moments, count_from_zero=False))
    found["días"] = np.where(np.isnat(day), np.nan, (day - epoch).astype(float)).astype(np.float32)
    found["hora"] = np.where(np.isnat(day), np.nan, (whole - day).astype("m8[us]").astype(float) / 3.6e9).astype(np.float32)
    return {f"{name} · {part}": values for part, values in found.items()}

def prepare(batch):
    ready = {}
    for feature in features:
        name, column = feature["name"], batch.column(feature["name"])
        if feature["kind"] == "number":
            ready[name] = numbers(column)
        elif feature["kind"] == "boolean":
            text = pa.types.is_string(column.type)
            known = pc.if_else(pc.equal(column, ""), None, pc.equal(column, "sí")) if text else column
            ready[name] = numbers(pc.cast(known, pa.int8()))
        elif feature["kind"] == "date":
            text = pa.types.is_string(column.type)
            ready |= split_date(name, pc.strptime(column, feature["date_format"], "us", error_is_null=True) if text else column)
        else:
            words = pc.fill_null(column, "")
            for missing in feature["missing"]:
                words = pc.if_else(pc.equal(words, missing), "", words)
            ready[name] = words.to_numpy(zero_copy_only=False)
    plain = {re.sub(r"\\W", "_", name): values.reshape(-1, 1) for name, values in ready.items()}
    return {name: values for name, values in plain.items() if name in wanted}

def score(batch, schema):
    answers, probabilities = session.run(None, prepare(batch))
    best = probabilities.max(axis=1).astype(np.float64).round(4)
    return pa.Table.from_arrays([*batch.columns, pa.array(answers, pa.string()), pa.array(best)], schema=schema)

def extend(schema):
    return schema.append(pa.field("score", pa.string())).append(pa.field("probability", pa.float64()))

if source.endswith(".parquet"):
    file = pq.ParquetFile(source)
    schema = extend(file.schema_arrow)
    with pq.ParquetWriter(target, schema) as writer:
        for batch in file.iter_batches(1 << 17):
            writer.write_table(score(batch, schema))
else:
    types = {f["name"]: pa.float64() if f["kind"] == "number" else pa.string() for f in features}
    reader = csv.open_csv(source, csv.ReadOptions(block_size=8 << 20), convert_options=csv.ConvertOptions(column_types=types))
    schema = extend(reader.schema)
    with csv.CSVWriter(target, schema) as writer:
        for batch in reader:
            writer.write_table(score(batch, schema))
"""


def simulate(n_rows: int, seed: int):
    """Viajes de mentira con huecos: cifras, categorías, síes, un día y un instante."""
    import numpy as np
    import pandas as pd

    rng = np.random.default_rng(seed)
    start = np.datetime64("1912-04-01T00:00", "us")
    rows = pd.DataFrame(
        {
            "name": pd.Series(rng.integers(0, 10**9, n_rows)).map("viaje {:09d}".format),
            "age": np.where(rng.random(n_rows) < 0.2, np.nan, rng.integers(1, 80, n_rows)),
            "fare": rng.gamma(2, 12, n_rows).round(2),
            "port": rng.choice(["Cádiz", "Palos", "Vigo", None], n_rows, p=[0.3, 0.2, 0.45, 0.05]),
            "class": rng.choice(["primera", "segunda", "tercera"], n_rows),
            "alone": rng.integers(0, 2, n_rows).astype(bool),
            "sailed": start + rng.integers(0, 60, n_rows).astype("m8[D]"),
            "seen": start + rng.integers(0, 80_000, n_rows).astype("m8[m]"),
        }
    )
    rows.loc[rng.random(n_rows) < 0.1, "seen"] = pd.NaT
    odds = (rows["class"] == "primera") * 2.0 - (rows["port"] == "Palos") * 1.5 + rows["alone"] + rows["age"].fillna(30) / 40 - 1
    rows["survived"] = np.where(odds + rng.normal(0, 0.7, n_rows) > 1, "sí", "no")
    return rows


def write_sheets(folder: Path, name: str, n_rows: int, seed: int) -> None:
    """Los escribe como los escribiría una persona, y con sus tipos."""
    rows = simulate(n_rows, seed)
    rows.to_parquet(folder / f"{name}.parquet", index=False)
    text = rows.assign(
        alone=rows["alone"].map({False: "no", True: "sí"}),
        sailed=rows["sailed"].dt.strftime("%d/%m/%Y"), seen=rows["seen"].dt.strftime("%Y-%m-%d %H:%M"),
    )
    text.to_csv(folder / f"{name}.csv", index=False)


def check_same(first: Path, second: Path) -> None:
    """Las dos salidas han de responder lo mismo, o la comparación no vale."""
    import pandas as pd

    read = pd.read_parquet if first.suffix == ".parquet" else pd.read_csv
    one, other = (read(path)[["name", "score", "probability"]] for path in (first, second))
    assert (one["name"] == other["name"]).all() and (one["score"] == other["score"]).mean() > 0.9999
    assert (one["probability"] - other["probability"]).abs().max() < 1e-3


def main() -> None:
    """Hace un proyecto y sus hojas, las puntúa de las dos maneras, por turnos, y enseña los cocientes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="Filas de cada hoja.")
    parser.add_argument("--rounds", type=int, default=3, help="Veces que se mide cada uno; cuenta la mejor.")
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    if options.write:
        return write_sheets(options.write, "big", options.rows, 9)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_sheets(folder, "train", 3000, 1)
        # en otro proceso: el pico de memoria de un hijo empieza en el de su padre
        subprocess.run([sys.executable, __file__, "--write", folder, "--rows", str(options.rows)], check=True)
        new = [sys.executable, "-c", TIERRA, "new", "voyages", "--data", "train.csv", "--target", "survived", "--stage", "2"]
        subprocess.run(new, cwd=folder, check=True, capture_output=True)
        project = folder / "voyages"
        subprocess.run([sys.executable, "-c", TIERRA, "run"], cwd=project, check=True, capture_output=True)
        [card] = project.glob("data/06_models/*/*/*/model.json")
        ratios = {}
        for kind in ("csv", "parquet"):
            ways = {
                "a mano": [sys.executable, "-c", BY_HAND, str(card.parent), f"../big.{kind}", f"by_hand.{kind}"],
                "tierra predict": [sys.executable, "-c", TIERRA, "predict", f"../big.{kind}", f"by_tierra.{kind}"],
            }
            best: dict[str, dict[str, float]] = {}
            for _ in range(options.rounds):
                for way, command in ways.items():
                    result = measure(command, project)
                    best[way] = min(best.get(way, result), result, key=lambda measured: measured["seconds"])
            check_same(project / f"by_hand.{kind}", project / f"by_tierra.{kind}")
            for way, result in best.items():
                print(f"{kind:<8}{way:<16}{options.rows / result['seconds']:>10,.0f} filas/s {result['seconds']:>7.1f} s "
                      f"{result['cpu_seconds']:>7.1f} s de CPU {result['peak_mb']:>7.0f} MiB")
            ratios[kind] = {key: round(best["a mano"][key] / best["tierra predict"][key], 3) for key in ("seconds", "cpu_seconds")}
    print(json.dumps({"rows": options.rows, "ratios (se quiere ≥ 0.4)": ratios}, ensure_ascii=False))


if __name__ == "__main__":
    main()
