"""`model.onnx` desde Node: otro lenguaje, la misma respuesta."""
import json
import math
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mixed import NAMES, simulate_voyages

from de_jupyter_a_la_tierra.catfood.cleaning import clean_foods
from de_jupyter_a_la_tierra.catfood.columns import CATFOOD, LABEL_FIGURES
from de_jupyter_a_la_tierra.catfood.model import train_model
from de_jupyter_a_la_tierra.catfood.simulate import simulate_foods
from de_jupyter_a_la_tierra.models.artifact import load_model, prepare_rows
from de_jupyter_a_la_tierra.models.freezing import freeze_model

pytestmark = [
    pytest.mark.long, pytest.mark.network, pytest.mark.timeout(600),
    pytest.mark.skipif(not shutil.which("npm"), reason="falta npm: apt-get install nodejs npm"),
]
FIGURES = list(LABEL_FIGURES)
PROGRAM = """
const ort = require("onnxruntime-node"), { readFileSync, writeFileSync } = require("fs");
(async () => {
  const { model, inputs } = JSON.parse(readFileSync("asked.json"));
  const session = await ort.InferenceSession.create(model), feeds = {};
  inputs.forEach(({ text, dims, data }, i) => {
    feeds[session.inputNames[i]] = text ? new ort.Tensor("string", data, dims)
      : new ort.Tensor("float32", Float32Array.from(data, value => value === null ? NaN : value), dims);
  });
  const [labels, shares] = session.outputNames.map(name => name), found = await session.run(feeds);
  writeFileSync("said.json", JSON.stringify({ labels: Array.from(found[labels].data, String), shares: Array.from(found[shares].data) }));
})();
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Una carpeta con onnxruntime-node, cuyo motor viene ya en el paquete."""
    folder = tmp_path_factory.mktemp("node")
    subprocess.run(["npm", "install", "--silent", "--no-save", "--ignore-scripts", "onnxruntime-node@1.30.0"], cwd=folder, check=True, timeout=300)
    (folder / "ask.cjs").write_text(PROGRAM, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def foods(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Un bosque y sus cifras: el que más fácil se separaría."""
    known, folder = clean_foods(simulate_foods())[0], tmp_path_factory.mktemp("foods") / "catfood"
    X, y = known[FIGURES], known[CATFOOD.target]
    freeze_model(
        train_model(X, y, {"type": "random_forest"}), folder, X_train=X, X_evaluation=X.tail(50), metrics={}, features=CATFOOD.select(FIGURES),
        target=CATFOOD.select([CATFOOD.target])[0], data={"origin": "simulated"}, name=CATFOOD.name,
    )
    return folder


def ask_node(node: Path, folder: Path, rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Lo que Node contesta: (n,) clases, como texto, y (n, c) probabilidades."""
    ready = prepare_rows(load_model(folder), rows)
    tables = [ready] if isinstance(ready, np.ndarray) else [values.reshape(-1, 1) for values in ready.values()]
    inputs = []
    for table in tables:
        text = table.dtype.kind not in "fiub"
        cells = table.ravel().tolist()
        inputs.append({"text": text, "dims": table.shape, "data": cells if text else [None if math.isnan(cell) else cell for cell in cells]})
    (node / "asked.json").write_text(json.dumps({"model": str(folder / "model.onnx"), "inputs": inputs}), encoding="utf-8")
    subprocess.run(["node", "ask.cjs"], cwd=node, check=True, timeout=300)
    said = json.loads((node / "said.json").read_text(encoding="utf-8"))
    return np.array(said["labels"]), np.array(said["shares"]).reshape(len(rows), -1)


@pytest.mark.parametrize("kind", ["cifras", "de todo"])
def test_node_says_the_same(node: Path, foods: Path, voyages: Path, kind: str) -> None:
    """Diez mil filas: las mismas clases, salvo empates, y las mismas probabilidades."""
    folder = foods if kind == "cifras" else voyages
    rows = clean_foods(simulate_foods(14_000, seed=77))[0][FIGURES].head(10_000) if kind == "cifras" else simulate_voyages(10_000, seed=99)[NAMES]
    labels, shares = ask_node(node, folder, rows)
    model = load_model(folder)
    ours, expected = model.predict_proba(rows), model.predict(rows).astype(str)
    best = np.sort(ours.astype("float64"), axis=1)
    ties = best[:, -1] - best[:, -2] < 1e-6
    assert len(labels) == len(rows) == 10_000
    assert np.abs(shares - ours).max() <= 1e-5
    assert not ((labels != expected) & ~ties).sum()
    assert ties.sum() <= 10
