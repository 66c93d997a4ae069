"""Cuánto tarda un lote de trabajos: papermill, lo nuestro y el suelo, con el mismo cuaderno y en la misma tanda.

El cuaderno es un entrenamiento corto: lee unas comidas simuladas, las limpia, entrena, enseña una tabla y una figura.
El suelo son las mismas celdas, ejecutadas por IPython una y otra vez en un único proceso que ya lo tiene todo importado:
nadie puede ir más deprisa sin hacer menos. Lo que se pasa del suelo es lo que cuesta que cada trabajo tenga su
proceso, su copia guardada y su apunte en el libro. El proceso caliente se arranca una vez y se da aparte.

    python bench/jobs.py                    # 20 trabajos de cada manera
    python bench/jobs.py --trivial 1000     # mil trabajos de una línea: ¿crece la memoria de quien los encarga?
"""
import argparse
import json
import logging
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import nbformat
import psutil
from nbformat.v4 import new_code_cell, new_notebook

LIMITS = {"workers": 8.0, "scale": 1.7, "overhead": 0.2}
NOTEBOOK = """seed: int = 0  # la semilla del reparto
# %%
import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, confusion_matrix
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
# %%
foods = pd.read_csv("comidas.csv", dtype=str)
features = ["dma_ash", "dma_carbs", "dma_prot", "ga_moist"]
X = foods[features].apply(lambda column: column.str.rstrip("%").astype(float))
y = foods["nutrition_paws"].str.strip("[]")
known = X.notna().all(axis=1) & y.notna()
X, y = X[known], y[known]
X.describe()
# %%
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.33, stratify=y, random_state=seed)
model = make_pipeline(StandardScaler(), LogisticRegression()).fit(X_train, y_train)
predicted = model.predict(X_test)
print(f"exactitud: {accuracy_score(y_test, predicted):.4f}")
# %%
fig, ax = plt.subplots(figsize=(4, 3))
sns.heatmap(confusion_matrix(y_test, predicted), annot=True, fmt="d", cbar=False, ax=ax)
_ = ax.set(xlabel="patas predichas", ylabel="patas reales")
"""
CELLS = NOTEBOOK.split("# %%\n")


def write_notebook(path: Path, sources: list[str]) -> None:
    """Un cuaderno con su celda de parámetros."""
    cells = [new_code_cell(source) for source in sources]
    cells[0].metadata["tags"] = ["parameters"]
    notebook = new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "Python 3"}
    nbformat.write(notebook, path)


def run_papermill(folder: Path, number: int) -> None:
    """Un trabajo con papermill a secas."""
    import papermill

    logging.disable()
    output = folder / f"papermill-{number}.ipynb"
    papermill.execute_notebook(
        folder / "train.ipynb", output, {"seed": number}, cwd=folder, progress_bar=False,
        extra_arguments=["--IPKernelApp.log_level=40"],
    )


def time_papermill(folder: Path, jobs: int, processes: int) -> float:
    """Segundos por trabajo con papermill, de uno en uno o con varios procesos."""
    import papermill  # noqa: F401  que lo que tarda en importarse no cuente

    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(abs, range(2 * processes)))
        start = time.perf_counter()
        list(pool.map(run_papermill, [folder] * jobs, range(jobs)))
        return (time.perf_counter() - start) / jobs


def time_batch(folder: Path, notebook: Path, jobs: int, workers: int) -> tuple[float, float]:
    """Segundos por trabajo con un lote nuestro, y lo que se tarda, una vez, en calentar."""
    from de_jupyter_a_la_tierra.jobs.batch import run_batch
    from de_jupyter_a_la_tierra.jobs.plan import identify_jobs
    from de_jupyter_a_la_tierra.projects.project import Project

    os.chdir(folder)
    project = Project(folder, "bench", folder / "conf", installed=False)

    def run(output: Path, seeds: range) -> float:
        start = time.perf_counter()
        done = run_batch(project, notebook, identify_jobs(notebook, [{"seed": seed} for seed in seeds], folder), output, workers)
        if done.done != len(seeds):
            sys.exit(f"Fallaron {len(seeds) - done.done} trabajos: {done.errors[:1]}")
        return time.perf_counter() - start

    first = run(folder / f"{notebook.stem}-{workers}-primero", range(jobs, jobs + 1))
    each = run(folder / f"{notebook.stem}-{workers}", range(jobs)) / jobs
    return each, first - each


def time_floor(folder: Path, jobs: int) -> float:
    """Segundos por trabajo si las celdas corren en un proceso que ya lo tiene todo."""
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    class Shell(InteractiveShell):
        def enable_gui(self, gui: str | None = None) -> None:
            """Aquí no hay ventanas."""

    os.chdir(folder)
    shell, times = Shell.instance(), []
    shell.enable_matplotlib("inline")
    for number in range(jobs + 1):
        start = time.perf_counter()
        with capture_output():
            for source in [CELLS[0], f"seed = {number}", *CELLS[1:]]:
                shell.run_cell(source).raise_error()
        times.append(time.perf_counter() - start)
    return sum(times[1:]) / jobs


def apart(measure: Callable, *args: object) -> Any:
    """Mide algo en un proceso recién nacido, para que nadie herede lo que otro dejó importado."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, *args).result()


def compare(folder: Path, jobs: int) -> dict[str, float]:
    """Segundos por trabajo de cada manera."""
    from de_jupyter_a_la_tierra.catfood.simulate import simulate_foods

    simulate_foods().to_csv(folder / "comidas.csv", index=False)
    write_notebook(folder / "train.ipynb", CELLS)
    ours = {workers: apart(time_batch, folder, folder / "train.ipynb", jobs, workers) for workers in (1, 2)}
    print(f"calentar, una vez: {ours[1][1]:.1f} s")
    return {
        "papermill, de uno en uno": apart(time_papermill, folder, jobs, 1),
        "papermill, 2 procesos": apart(time_papermill, folder, jobs, 2),
        "tierra, 1 a la vez": ours[1][0],
        "tierra, 2 a la vez": ours[2][0],
        "el suelo": apart(time_floor, folder, jobs),
    }


def show(times: dict[str, float]) -> None:
    """La tabla, y los cocientes que importan."""
    alone, _, one, two, floor = times.values()
    print(f"{'':<26}{'s por trabajo':>14}{'× papermill':>13}")
    for name, seconds in times.items():
        print(f"{name:<26}{seconds:>14.3f}{alone / seconds:>13.1f}")
    ratios = {"workers": alone / one, "scale": one / two, "overhead": one - floor}
    print(json.dumps({**{name: round(value, 3) for name, value in ratios.items()}, "limits": LIMITS}))


def run_trivial(folder: Path, jobs: int) -> float:
    """Muchos trabajos de una línea; enseña la memoria de quien los encarga cada décima parte."""
    write_notebook(folder / "trivial.ipynb", ["seed: int = 0  # un número cualquiera", "print(seed)"])
    marks, done, runner = [], threading.Event(), psutil.Process()

    def watch() -> None:
        while not done.wait(0.2):
            count = len(list((folder / "trivial-2" / "notebooks").glob("*.ipynb")))
            if count >= len(marks) * jobs / 10:
                marks.append(runner.memory_info().rss / 2**20)
                print(f"{count:>6} trabajos{marks[-1]:>8.0f} MiB", flush=True)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        seconds, _ = time_batch(folder, folder / "trivial.ipynb", jobs, 2)
    finally:
        done.set()
        thread.join()
    print(json.dumps({"jobs": jobs, "seconds_per_job": round(seconds, 3), "growth_mib": round(marks[-1] - marks[1], 1)}))
    return seconds


def main() -> None:
    """Mide, y enseña los cocientes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=20, help="Cuántos trabajos de cada manera.")
    parser.add_argument("--trivial", type=int, help="En vez de comparar, tantos trabajos de una línea.")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # que nadie compile de nuevo lo que importa
    with tempfile.TemporaryDirectory() as name:
        if args.trivial:
            apart(run_trivial, Path(name), args.trivial)
        else:
            show(compare(Path(name), args.jobs))


if __name__ == "__main__":
    main()
