"""¿Saca «tierra new» de cualquier tabla lo que sacaría un guion bien escrito? Con tablas públicas, y las mismas cinco partes.

Las tablas están en una carpeta, con un `manifest.json`: de cada una, su fichero, su objetivo, si es `classification` o
`regression`, las opciones que se le pasan a `tierra new` y, si la hoja está escrita a la española, la misma en limpio
(`clean`), que es la que lee el guion: de leer bien no se libra nadie. De cada tabla se escribe un proyecto, se ejecuta
entero, y con sus propias funciones se entrena y se examina cinco veces el modelo `auto`: elegir va dentro de cada parte.
Con pocas filas, la nota depende mucho de cómo caigan en las partes: con `--turns 3` se barajan y se reparten tres veces.
Al lado, lo que da decir siempre lo mismo y lo que da el guion: `tabular_pipeline` de skrub, si se dice qué Python lo
tiene, y los árboles de scikit-learn con las categorías como categorías. De los dos, el mejor.

    python bench/tables.py CARPETA                            # todas
    python bench/tables.py CARPETA titanic penguins           # algunas
    python bench/tables.py CARPETA --skrub OTRO/bin/python    # con skrub, que este proyecto no necesita
    python bench/tables.py CARPETA tips --turns 3             # tres veces cinco partes
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

GOAL = 0.98
TIERRA = "from de_jupyter_a_la_tierra.cli.main import main; main()"
PARTS = 5


def read_clean(folder: Path, entry: dict[str, Any]) -> pd.DataFrame:
    """La tabla como la leería quien sabe qué hay en ella, con las fechas ya hechas fechas."""
    rows = pd.read_csv(folder / entry.get("clean", entry["file"]), na_values=["?", "s/d"], low_memory=False)
    for name in rows.columns[[dtype.kind not in "biufc" for dtype in rows.dtypes]]:
        if rows[name].dropna().astype(str).str.fullmatch(r"\d{4}-\d\d-\d\d([T ][\d:]+Z?)?").all():
            rows[name] = pd.to_datetime(rows[name]).dt.tz_localize(None)
    excluded = [value for option, value in zip(entry["options"], entry["options"][1:], strict=False) if option == "--exclude"]
    return rows[rows[entry["target"]].notna()].drop(columns=excluded)


def split_rows(y: pd.Series, task: str, turns: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Las cinco partes, las mismas para todos, cada vez que se baraja: posiciones que entrenan y posiciones que examinan."""
    from sklearn.model_selection import KFold, StratifiedKFold

    kind = StratifiedKFold if task == "classification" else KFold
    with warnings.catch_warnings(action="ignore"):  # una clase con menos filas que partes
        return [part for turn in range(turns) for part in kind(PARTS, shuffle=True, random_state=turn).split(y, y)]


def score_answers(true: pd.Series, predicted: np.ndarray, task: str) -> dict[str, float]:
    """Exactitud equilibrada y a secas, o R²."""
    from sklearn.metrics import accuracy_score, balanced_accuracy_score, r2_score

    if task == "regression":
        return {"score": float(r2_score(true, predicted))}
    true, predicted = true.astype(str), np.asarray(predicted).astype(str)
    with warnings.catch_warnings(action="ignore"):
        return {"score": float(balanced_accuracy_score(true, predicted)), "accuracy": float(accuracy_score(true, predicted))}


def part_dates(X: pd.DataFrame) -> pd.DataFrame:
    """Cada fecha, en sus partes; los textos, como categorías."""
    parts = {}
    for name, column in X.items():
        if column.dtype.kind == "M":
            parts |= {f"{name} {part}": getattr(column.dt, part) for part in ("year", "month", "day", "dayofweek", "hour")}
            parts[f"{name} días"] = (column - pd.Timestamp("2000-01-01")).dt.days
        else:
            parts[name] = column if column.dtype.kind in "biuf" else column.astype("str").where(column.notna()).astype("category")
    return pd.DataFrame(parts)


def cap_levels(X: pd.DataFrame, train: np.ndarray) -> pd.DataFrame:
    """Los árboles no admiten más de 255 categorías: las que menos salen en lo que se entrena, como si faltaran."""
    capped = X.copy()
    for name in X.select_dtypes("category"):
        common = X[name].iloc[train].astype("str").value_counts().index[:200]
        capped[name] = X[name].cat.set_categories(common)
    return capped


def run_script(X: pd.DataFrame, y: pd.Series, task: str, way: str, turns: int) -> dict[str, float]:
    """Las notas del guion, media de las cinco partes: con skrub (`skrub`) o con los árboles a secas (`trees`)."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    scores = []
    for train, test in split_rows(y, task, turns):
        if way == "skrub":
            from skrub import tabular_pipeline

            model, rows = tabular_pipeline("classifier" if task == "classification" else "regressor"), X
        else:
            kind = HistGradientBoostingClassifier if task == "classification" else HistGradientBoostingRegressor
            model, rows = kind(categorical_features="from_dtype", random_state=0), cap_levels(part_dates(X), train)
        predicted = model.fit(rows.iloc[train], y.iloc[train]).predict(rows.iloc[test])
        scores.append(score_answers(y.iloc[test], predicted, task))
    return {name: float(np.mean([score[name] for score in scores])) for name in scores[0]}


def run_constant(y: pd.Series, task: str, turns: int) -> dict[str, float]:
    """Las notas de decir siempre la clase más frecuente, o la media."""
    scores = []
    for train, test in split_rows(y, task, turns):
        answer = y.iloc[train].mode()[0] if task == "classification" else y.iloc[train].mean()
        scores.append(score_answers(y.iloc[test], np.repeat(answer, len(test)), task))
    return {name: float(np.mean([score[name] for score in scores])) for name in scores[0]}


def run_competent(folder: Path, entry: dict[str, Any], way: str, turns: int) -> dict[str, float]:
    """Las notas de quien sabe, y lo que se tarda."""
    rows, start = read_clean(folder, entry), time.perf_counter()
    X, y = rows.drop(columns=entry["target"]), rows[entry["target"]]
    if way == "constant":
        return run_constant(y, entry["task"], turns)
    with warnings.catch_warnings(action="ignore"):
        score = run_script(X, y, entry["task"], way, turns)
    return {**score, "seconds": round(time.perf_counter() - start, 1)}


def ask_child(python: str, arguments: list[str], cwd: Path, timeout: int) -> tuple[int, str, str]:
    """Ejecuta otro proceso y devuelve cómo acabó y lo que dijo."""
    child = subprocess.run([python, *arguments], cwd=cwd, capture_output=True, text=True, timeout=timeout)
    return child.returncode, child.stdout, child.stderr


def find_competent(folder: Path, entry: dict[str, Any], skrub: str | None, turns: int) -> dict[str, dict[str, float]]:
    """Las notas de los guiones; se guardan en la carpeta, porque no cambian de una vez a otra."""
    path = folder / ("competent.json" if turns == 1 else f"competent_{turns}.json")
    known = json.loads(path.read_text()) if path.exists() else {}
    scores = known.setdefault(entry["name"], {})
    for way in ["constant", "trees", *(["skrub"] if skrub else [])]:
        if "error" in scores.get(way, {"error": "nunca se ha medido"}):
            child = [str(Path(__file__).resolve()), str(folder), entry["name"], "--competent", way, "--turns", str(turns)]
            code, said, error = ask_child(skrub if way == "skrub" and skrub else sys.executable, child, folder, 3600)
            scores[way] = json.loads(said) if not code else {"score": float("nan"), "error": error[-300:]}
            path.write_text(json.dumps(known, indent=1))
    return scores


def score_project(folder: Path, entry: dict[str, Any], model: str, turns: int) -> dict[str, Any]:
    """Dentro del proyecto recién escrito: cinco veces entrenar con sus funciones y examinar lo que no vio."""
    sys.path.insert(0, "")
    [name] = [path.parent.name for path in Path().glob("*/columns.py")]
    columns, cleaning, models = (__import__(f"{name}.{module}", fromlist=["x"]) for module in ("columns", "cleaning", "model"))
    from de_jupyter_a_la_tierra.tables.csv import read_table

    features, target = list(columns.DICTIONARY.features), columns.DICTIONARY.target
    raw = read_table(next(Path("data/01_raw").glob("*_own.csv")))
    clean, _ = cleaning.clean_rows(raw)
    clean.index = raw.index.get_indexer(clean.index)  # de la línea del fichero a qué fila es, como en el guion
    y = read_clean(folder, entry)[entry["target"]]
    scores, chosen = [], []
    for train, test in split_rows(y, entry["task"], turns):
        train_rows, test_rows = (clean[clean.index.isin(y.index[part])] for part in (train, test))
        fitted = models.train_model(train_rows[features], train_rows[target], {"type": model})
        predicted = models.predict_target(fitted, test_rows[features])
        scores.append(score_answers(test_rows[target], predicted.to_numpy(), entry["task"]))
        chosen.append(type(fitted[-1]).__name__)
    result: dict[str, Any] = {name: float(np.mean([score[name] for score in scores])) for name in scores[0]}
    unused = {column.name: column.note for column in columns.DICTIONARY.columns if column.name not in (*features, target)}
    return {**result, "chosen": chosen, "used": len(features), "unused": unused, "read": len(clean), "rows": len(y)}


def run_project(folder: Path, entry: dict[str, Any], model: str, keep: Path | None, whole: bool, turns: int = 1) -> dict[str, Any]:
    """Escribe el proyecto, lo ejecuta y lo examina; si algo falla, con sus palabras."""
    with tempfile.TemporaryDirectory() as made:
        place = keep or Path(made)
        name = f"T {entry['name'].replace('_', ' ')}"
        new = ["new", name, "--data", str(folder / entry["file"]), "--target", entry["target"], "--stage", "2", *entry["options"]]
        start = time.perf_counter()
        code, said, error = ask_child(sys.executable, ["-c", TIERRA, *new], place, 1200)
        seconds = {"new": round(time.perf_counter() - start, 1)}
        if code:
            return {"score": float("nan"), "error": f"tierra new: {(error or said).strip()[-600:]}"}
        project = max((path for path in place.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
        failed = {}
        if whole:
            start = time.perf_counter()
            code, said, error = ask_child(sys.executable, ["-c", TIERRA, "run"], project, 3600)
            seconds["run"] = round(time.perf_counter() - start, 1)
            failed = {"run_error": (error or said).strip()[-600:]} if code else {}
        start = time.perf_counter()
        child = [str(Path(__file__).resolve()), str(folder), entry["name"], "--project", model, "--turns", str(turns)]
        code, said, error = ask_child(sys.executable, child, project, 7200)
        seconds["score"] = round(time.perf_counter() - start, 1)
        if code:
            return {"score": float("nan"), "error": error.strip()[-900:], **failed, "seconds": seconds}
        return {**json.loads(said.splitlines()[-1]), **failed, "seconds": seconds}


def compare(folder: Path, entry: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Una línea de la tabla."""
    competent = find_competent(folder, entry, options.skrub, options.turns)
    ours = run_project(folder, entry, options.model, options.keep, not options.only_scores, options.turns)
    best = max((scores["score"] for way, scores in competent.items() if way != "constant"), default=float("nan"))
    total = read_clean(folder, entry).shape[1] - 1
    return {"name": entry["name"], "task": entry["task"], "total": total, "ours": ours, "competent": competent, "ratio": divide(ours["score"], best)}


def divide(ours: float, best: float) -> float:
    """El cociente de dos notas; si el mejor guion no saca más que nada (un R² negativo), basta con no sacar menos."""
    if best > 0:
        return ours / best
    return float("inf") if ours >= best else float("nan")


def show(line: dict[str, Any]) -> None:
    """Enseña una línea: columnas, filas, las notas y el cociente; debajo, lo que falló."""
    ours, others = line["ours"], line["competent"]
    notes = [f"{others.get(way, {}).get('score', float('nan')):>9.3f}" for way in ("constant", "trees", "skrub")]
    mark = " " if line["ratio"] >= GOAL else "←"
    print(f"{line['name']:<18}{ours.get('used', 0):>4}/{line['total']:<4}{ours.get('read', 0):>7}/{ours.get('rows', 0):<7}"
          f"{ours['score']:>9.3f}{ours.get('accuracy', float('nan')):>9.3f}{''.join(notes)}{line['ratio']:>9.3f} {mark} "
          f"{','.join(sorted(set(ours.get('chosen', []))))} {ours.get('seconds', {})}", flush=True)
    for kind in ("error", "run_error"):
        if kind in ours:
            print(f"    {kind}: {ours[kind]}", flush=True)


def main() -> None:
    """Mide las tablas de la carpeta y enseña cuáles no llegan."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="La carpeta con las tablas y su manifest.json.")
    parser.add_argument("names", nargs="*", help="Cuáles; sin decirlo, todas.")
    parser.add_argument("--skrub", help="Un Python que tenga skrub.")
    parser.add_argument("--model", default="auto", help="El modelo del proyecto.")
    parser.add_argument("--turns", type=int, default=1, help="Cuántas veces se barajan las filas y se reparten en cinco partes.")
    parser.add_argument("--keep", type=Path, help="Una carpeta en la que dejar los proyectos.")
    parser.add_argument("--only-scores", action="store_true", help="Sin ejecutar cada proyecto entero.")
    parser.add_argument("--only-competent", action="store_true", help="Solo los guiones.")
    parser.add_argument("--competent", help=argparse.SUPPRESS)
    parser.add_argument("--project", help=argparse.SUPPRESS)
    options = parser.parse_intermixed_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # antes de que nadie importe scikit-learn
    folder = options.folder.resolve()
    entries = [entry for entry in json.loads((folder / "manifest.json").read_text()) if entry["name"] in options.names or not options.names]
    if options.competent:
        return print(json.dumps(run_competent(folder, entries[0], options.competent, options.turns)))
    if options.project:
        return print(json.dumps(score_project(folder, entries[0], options.project, options.turns), ensure_ascii=False))
    if options.only_competent:
        for entry in entries:
            print(entry["name"], find_competent(folder, entry, options.skrub, options.turns), flush=True)
        return None
    print(f"{'tabla':<18}{'columnas':>9}{'filas leídas':>15}{'tierra':>9}{'exact.':>9}{'const.':>9}{'árboles':>9}{'skrub':>9}{'cociente':>9}")
    lines = []
    for entry in entries:
        lines.append(compare(folder, entry, options))
        show(lines[-1])
        (folder / "results.json").write_text(json.dumps(lines, ensure_ascii=False, indent=1))
    short = [line["name"] for line in lines if not line["ratio"] >= GOAL]
    print(f"no llegan a {GOAL}: {', '.join(short) or 'ninguna'}")


if __name__ == "__main__":
    main()
