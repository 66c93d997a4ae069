"""Cuánto cuesta `tierra predict` frente a un bucle escrito a mano, en filas por segundo, y cuánta memoria pide.

El bucle es el que cualquiera escribiría: pyarrow lee tandas del Parquet, onnxruntime las puntúa y pyarrow escribe las
mismas columnas con dos más. No comprueba rangos, ni contratos, ni aparta nada, ni puede seguir si se corta. Los dos
leen el mismo fichero, escriben otro y corren en su propio proceso; cuenta todo, también arrancar, con las bibliotecas
ya compiladas. Se miden por turnos, y de cada uno cuenta la mejor vez.

    python bench/scoring.py                   # diez millones de filas simuladas
    python bench/scoring.py --rows 1000000
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from peak import measure

TIERRA = "from de_jupyter_a_la_tierra.cli.main import main; main()"
BY_HAND = """
import json, sys
from pathlib import Path
import numpy as np, onnxruntime, pyarrow as pa, pyarrow.parquet as pq

folder, source, target = Path(sys.argv[1]), *sys.argv[2:4]
names = [feature["name"] for feature in json.loads((folder / "model.json").read_text())["features"]]
session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
entry = session.get_inputs()[0].name
file = pq.ParquetFile(source)
schema = file.schema_arrow.append(pa.field("score", pa.int64())).append(pa.field("probability", pa.float64()))
with pq.ParquetWriter(target, schema) as writer:
    for batch in file.iter_batches(1 << 17):
        X = np.column_stack([batch.column(name).to_numpy() for name in names]).astype(np.float32)
        scores, probabilities = session.run(None, {entry: X})
        best = probabilities.max(axis=1).astype(np.float64).round(4)
        columns = [*batch.columns, pa.array(scores), pa.array(best)]
        writer.write_table(pa.Table.from_arrays(columns, schema=schema))
"""


def write_foods(path: Path, n_rows: int, step: int = 250_000) -> None:
    """Simula comidas, ya en cifras, y las escribe en un Parquet: la marca, el nombre y las doce cifras."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from de_jupyter_a_la_tierra.catfood.cleaning import clean_foods
    from de_jupyter_a_la_tierra.catfood.columns import FIGURES
    from de_jupyter_a_la_tierra.catfood.simulate import simulate_foods

    writer = None
    for seed, start in enumerate(range(0, n_rows, step)):
        foods, _ = clean_foods(simulate_foods(min(step, n_rows - start), seed))
        table = pa.Table.from_pandas(foods[["brand", "name", *FIGURES]], preserve_index=False)
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
        print(f"\rsimulando: {start + len(foods):,} filas", end="", file=sys.stderr)
    writer.close()
    print(file=sys.stderr)


def check_same(first: Path, second: Path) -> None:
    """Las dos salidas han de ser la misma tabla, o la comparación no vale."""
    import pyarrow.parquet as pq

    one, other = pq.ParquetFile(first), pq.ParquetFile(second)
    for a, b in zip(one.iter_batches(1 << 17), other.iter_batches(1 << 17), strict=True):
        assert a.select(["name", "score", "probability"]).equals(b.select(["name", "score", "probability"]))


def main() -> None:
    """Hace el fichero, lo puntúa de las dos maneras, por turnos, y enseña el cociente."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=10_000_000, help="Filas del fichero.")
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=3, help="Veces que se mide cada uno; cuenta la mejor.")
    options = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    if options.write:
        return write_foods(options.write, options.rows)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for command in (["data"], ["run"]):
            subprocess.run([sys.executable, "-c", TIERRA, *command], cwd=folder, check=True, capture_output=True)
        [card] = folder.glob("data/06_models/*/*/*/model.json")
        # en otro proceso: el pico de memoria de un hijo empieza en el de su padre
        subprocess.run([sys.executable, __file__, "--write", folder / "foods.parquet", "--rows", str(options.rows)], check=True)
        ways = {
            "a mano": [sys.executable, "-c", BY_HAND, str(card.parent), "foods.parquet", "by_hand.parquet"],
            "tierra predict": [sys.executable, "-c", TIERRA, "predict", "foods.parquet", "by_tierra.parquet"],
        }
        best: dict[str, dict[str, float]] = {}
        for _ in range(options.rounds):
            for way, command in ways.items():
                result = measure(command, folder)
                best[way] = min(best.get(way, result), result, key=lambda measured: measured["seconds"])
        check_same(folder / "by_hand.parquet", folder / "by_tierra.parquet")
    for way, result in best.items():
        speed = options.rows / result["seconds"]
        print(f"{way:<16}{speed:>12,.0f} filas/s {result['seconds']:>8.1f} s {result['cpu_seconds']:>8.1f} s de CPU {result['peak_mb']:>7.0f} MiB")
    ratio = best["a mano"]["seconds"] / best["tierra predict"]["seconds"]
    print(f"cociente: {ratio:.2f} (se quiere ≥ 0.60); pico: {best['tierra predict']['peak_mb']:.0f} MiB (se quiere < 1024)")
    print(json.dumps({"rows": options.rows, "ratio": round(ratio, 3), "ways": best}))


if __name__ == "__main__":
    main()
