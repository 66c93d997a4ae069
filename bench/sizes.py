"""¿Cabe una tabla grande? De una con un millón de filas y treinta columnas de todas clases: segundos y memoria.

La tabla se inventa aquí: cifras con huecos, categorías, síes y noes, fechas, un código de fila y un texto libre. Se
mide `tierra new` y `tierra run` desde fuera, cada uno en su proceso, y luego `tierra predict` con el mismo millón de
filas en un Parquet, frente al bucle que cualquiera escribiría con pyarrow y onnxruntime: ese no comprueba nada, ni
aparta nada, ni puede seguir si se corta. Los dos escriben otro fichero; de cada uno cuenta la mejor vez.

    python bench/sizes.py                        # un millón de filas y treinta columnas
    python bench/sizes.py --rows 2000 --columns 1000
    python bench/sizes.py --rows 12
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TIERRA = "from de_jupyter_a_la_tierra.cli.main import main; main()"
LIMITS = {"peak_mb": 4096, "ratio": 0.4}
BY_HAND = """
import json, re, sys
from pathlib import Path
import numpy as np, onnxruntime, pyarrow as pa, pyarrow.compute as pc, pyarrow.parquet as pq

folder, source, target = Path(sys.argv[1]), *sys.argv[2:4]
columns = {column["name"]: column for column in json.loads((folder / "model.json").read_text())["features"]}
session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
start = pa.scalar(np.datetime64("2000-01-01", "us"))
PARTS = {
    "año": pc.year, "mes": pc.month, "día": pc.day, "día de la semana": lambda dates: pc.day_of_week(dates, count_from_zero=False),
    "días": lambda dates: pc.days_between(start, dates), "hora": pc.hour,
}
names = {re.sub(r"\\W", "_", f"{column} · {part}" if part else column): (column, part) for column in columns for part in ("", *PARTS)}

def read(entry, batch):
    column, part = names[entry.name]
    cells = batch.column(column)
    if entry.type == "tensor(string)":
        return np.array(pc.fill_null(cells, "").to_pylist(), dtype=object)
    if part:
        cells = PARTS[part](cells.cast(pa.timestamp("us")))
    elif pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type):
        cells = pc.equal(cells, columns[column]["labels"][1]).cast(pa.float32())
    return cells.cast(pa.float32(), safe=False).to_numpy(zero_copy_only=False)

file = pq.ParquetFile(source)
schema = file.schema_arrow.append(pa.field("score", pa.string())).append(pa.field("probability", pa.float64()))
with pq.ParquetWriter(target, schema) as writer:
    for batch in file.iter_batches(1 << 17):
        scores, probabilities = session.run(None, {entry.name: read(entry, batch)[:, None] for entry in session.get_inputs()})
        best = probabilities.max(axis=1).astype(np.float64).round(4)
        writer.write_table(pa.Table.from_arrays([*batch.columns, pa.array(scores.astype(str)), pa.array(best)], schema=schema))
"""


def write_table(folder: Path, n_rows: int, n_columns: int, step: int = 250_000) -> None:
    """Inventa la tabla y la escribe a la vez en CSV y en Parquet, a trozos."""
    import numpy as np
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng, writer = np.random.default_rng(0), None
    kinds = ["number", "number", "gaps", "category", "boolean", "number", "category", "date", "gaps", "integer"]
    cities = [f"ciudad {number}" for number in range(500)]
    for start in range(0, n_rows, step):
        n, table = min(step, n_rows - start), {"código": np.char.add("c", np.arange(start, start + min(step, n_rows - start)).astype(str))}
        signal = np.zeros(n)
        for position in range(n_columns - 4):
            kind, name = kinds[position % len(kinds)], f"{kinds[position % len(kinds)]}_{position}"
            values = rng.normal(size=n)
            if kind == "category":
                levels = rng.integers(0, 3 + position, n)
                table[name], values = np.char.add("nivel ", levels.astype(str)), levels % 3 - 1.0
            elif kind == "boolean":
                table[name] = np.where(values > 0, "sí", "no")
            elif kind == "date":
                days = np.datetime64("2015-01-01") + rng.integers(0, 3000, n)
                table[name] = pd.Series(days.astype("datetime64[us]")).where(rng.random(n) > 0.02).to_numpy()
            elif kind == "integer":
                table[name] = rng.poisson(4, n)
            else:
                table[name] = np.where(rng.random(n) < (0.1 if kind == "gaps" else 0), np.nan, (values * 10 + 50).round(3))
            signal += values * rng.normal() if position < 12 else 0
        table["ciudad"] = np.array(cities)[rng.integers(0, len(cities), n)]
        table["nota"] = np.char.add("una nota escrita a mano, la número ", rng.integers(0, 10**6, n).astype(str))
        table["compra"] = np.where(signal + rng.normal(size=n) > 1, "sí", "no")
        rows = pd.DataFrame(table)
        rows.to_csv(folder / "grande.csv", mode="a", header=not start, index=False, date_format="%Y-%m-%d")
        page = pa.Table.from_pandas(rows, preserve_index=False)
        writer = writer or pq.ParquetWriter(folder / "grande.parquet", page.schema)
        writer.write_table(page)
    writer.close()


def measure(command: list[str], cwd: Path, limit: int) -> dict[str, float]:
    """Ejecuta un proceso y mide lo que tarda y lo más que llega a ocupar; `{}` si falla, con sus palabras en pantalla."""
    log = cwd.parent / "ultimo.log"
    start = time.perf_counter()
    with log.open("w") as said:
        process = subprocess.Popen(["timeout", str(limit), *command], cwd=cwd, stdout=said, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        print(f"falló ({status}): …{log.read_text(errors='replace')[-1500:]}", flush=True)
        return {}
    unit = 1 if sys.platform == "darwin" else 1024
    return {"seconds": round(time.perf_counter() - start, 1), "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1), "peak_mb": round(usage.ru_maxrss * unit / 2**20)}


def compare_predict(project: Path, source: Path, rounds: int, limit: int) -> dict[str, dict[str, float]]:
    """Puntúa el Parquet con el bucle a mano y con `tierra predict`, por turnos."""
    [card] = project.glob("data/06_models/*/*/*/model.json")
    ways = {
        "a mano": [sys.executable, "-c", BY_HAND, str(card.parent), str(source), "by_hand.parquet"],
        "tierra predict": [sys.executable, "-c", TIERRA, "predict", str(source), "by_tierra.parquet"],
    }
    best: dict[str, dict[str, float]] = {}
    for _ in range(rounds):
        for way, command in ways.items():
            if result := measure(command, project, limit):
                best[way] = min(best.get(way, result), result, key=lambda measured: measured["seconds"])
    return best


def main() -> None:
    """Inventa la tabla, la mide y enseña los límites."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--columns", type=int, default=30)
    parser.add_argument("--stage", default="2")
    parser.add_argument("--rounds", type=int, default=2, help="Veces que se mide puntuar; cuenta la mejor.")
    parser.add_argument("--limit", type=int, default=3000, help="Segundos que se espera a cada paso.")
    parser.add_argument("--keep", type=Path, help="Una carpeta en la que dejar la tabla y el proyecto.")
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    if options.write:
        return write_table(options.write, options.rows, options.columns)
    folder = options.keep or Path(tempfile.mkdtemp())
    try:
        # en otro proceso: el pico de memoria de un hijo empieza en el de su padre
        if not (folder / "grande.csv").exists():
            sizes = ["--rows", str(options.rows), "--columns", str(options.columns)]
            subprocess.run([sys.executable, __file__, "--write", folder, *sizes], check=True)
        new = ["new", "Grande", "--data", "grande.csv", "--target", "compra", "--stage", options.stage]
        results = {"tierra new": measure([sys.executable, "-c", TIERRA, *new], folder, options.limit)}
        if results["tierra new"]:
            results["tierra run"] = measure([sys.executable, "-c", TIERRA, "run"], folder / "grande", options.limit)
        if results.get("tierra run"):
            results |= compare_predict(folder / "grande", folder / "grande.parquet", options.rounds, options.limit)
        for step, result in results.items():
            print(f"{step:<16}" + "  ".join(f"{key} {value:,}" for key, value in result.items()))
        if results.get("a mano") and results.get("tierra predict"):
            results["ratio"] = round(results["a mano"]["seconds"] / results["tierra predict"]["seconds"], 3)
        print(json.dumps({"rows": options.rows, "columns": options.columns, "results": results, "limits": LIMITS}, ensure_ascii=False))
    finally:
        if not options.keep:
            shutil.rmtree(folder)
    return None


if __name__ == "__main__":
    main()
