"""La libreta de un proyecto nuevo, con tablas de todas las formas: en todas corre entera y dice lo que hay."""
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from passengers import build_passengers

from de_jupyter_a_la_tierra.cli.projects import describe_table
from de_jupyter_a_la_tierra.landing.templates import render_templates
from de_jupyter_a_la_tierra.tables.csv import read_table

CELLS = re.compile(r"data_file = .*")


def explore(sheet: Path, target: str, task: str, monkeypatch: pytest.MonkeyPatch, capsys: Any, **options: str) -> tuple[dict[str, Any], str, int]:
    """Ejecuta la libreta de esa hoja, celda a celda; devuelve sus variables, lo que dijo y cuántas figuras dibujó."""
    matplotlib.use("Agg")
    monkeypatch.setitem(matplotlib.rcParams, "figure.dpi", 40)  # se dibuja entero, pero pequeño
    landing, _ = describe_table("Datos", read_table(sheet), target, 1, task)
    notebook = json.loads(render_templates(replace(landing, **options), "new")["nbs/1_libreta/00_exploracion.ipynb"])
    drawn: list[int] = []
    monkeypatch.setattr(plt, "show", lambda: (drawn.append(len(plt.get_fignums())), [figure.canvas.draw() for figure in map(plt.figure, plt.get_fignums())], plt.close("all")))
    space: dict[str, Any] = {"__name__": "libreta"}
    capsys.readouterr()
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            source = CELLS.sub(lambda _: f"data_file = {str(sheet)!r}", "".join(cell["source"]))
            exec(compile(source, f"libreta: {source[:300]}", "exec"), space)  # noqa: S102  la libreta que acabamos de escribir
    return space, capsys.readouterr().out, sum(drawn)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Callable[..., tuple[dict[str, Any], str, int]]:
    """Escribe una tabla y ejecuta su libreta."""

    def write_and_run(table: pd.DataFrame, target: str, task: str, **options: str) -> tuple[dict[str, Any], str, int]:
        table.to_csv(tmp_path / "hoja.csv", index=False)
        return explore(tmp_path / "hoja.csv", target, task, monkeypatch, capsys, **options)

    return write_and_run


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_a_table_with_everything_is_told(run: Callable, task: str) -> None:
    """Cada pregunta tiene su figura, y cada respuesta, las cifras de la tabla."""
    table = build_passengers(300, task)
    space, said, n_figures = run(table, table.columns[-1], task)
    assert n_figures == 8
    share = f"{100 * (table['Edad'] == '').mean():.1f}".replace(".", ",")
    assert f"el {share} % de «Edad»" in said
    assert "No hay gemelas" in said and "El primer modelo" in said
    best = space["strength"].index[0]
    assert best == ("Sexo" if task == "classification" else "Clase") and f"«{best}»" in said
    assert said.count("· ") >= len(space["learned"]) > 6


RNG = np.random.default_rng(3)
LETTERS = pd.DataFrame({f"c{number}": RNG.choice(list("abc"), 120) for number in range(3)})
NUMBERS = pd.DataFrame({"x": RNG.normal(size=120), "z": RNG.normal(size=120)})
DATES = pd.DataFrame({"día": (pd.Timestamp("2020-01-01") + pd.to_timedelta(RNG.integers(0, 900, 120), unit="D")).strftime("%Y-%m-%d")})
SHAPES = {
    "doce filas": (build_passengers(12), "¿Sobrevive?", "classification", "Con 12 filas"),
    "doce filas, una cantidad": (build_passengers(12, "regression"), "Gasto (€)", "regression", "Con 12 filas"),
    "sin números": (LETTERS.assign(y=np.where(LETTERS["c0"] == "a", "sí", "no")), "y", "classification", "No hay ninguna columna de números"),
    "sin huecos": (NUMBERS.assign(y=NUMBERS["x"] + NUMBERS["z"]), "y", "regression", "No falta nada: las 120 filas"),
    "solo una fecha": (DATES.assign(y=np.arange(120) + 0.5), "y", "regression", "«día» va del"),
    "treinta clases": (NUMBERS.assign(y=[f"k{k % 30}" for k in range(120)]), "y", "classification", "El primer modelo"),
    "una clase de una fila": (NUMBERS.head(60).assign(y=["sí", *["no"] * 59]), "y", "classification", "No hay filas para entrenar"),
    "copias": (pd.concat([NUMBERS.head(30).assign(y=1.5)] * 2 + [NUMBERS.head(30).assign(y=2.5)]), "y", "regression", "60 filas repiten"),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_any_shape_runs(run: Callable, shape: str) -> None:
    table, target, task, sentence = SHAPES[shape]
    assert sentence in run(table, target, task)[1]


def test_of_many_columns_only_some_are_drawn(run: Callable) -> None:
    """Si son muchas, se dibujan las que más dicen, y las demás se cuentan."""
    wide = pd.DataFrame(np.random.default_rng(1).normal(size=(400, 60)).round(3), columns=[f"x{k}" for k in range(60)])
    space, said, n_figures = run(wide.assign(y=np.where(wide["x7"] > 0, "sí", "no")), "y", "classification")
    assert space["strength"].index[0] == "x7" and n_figures < 8 and re.search(r"y \d\d más", said)
    assert len(space["names"]) <= space["MOST_COLUMNS"]


@pytest.mark.parametrize("options", [{"time": "Embarque"}, {"group": "Puerto"}])
def test_the_exam_respects_what_goes_together(run: Callable, options: dict[str, str]) -> None:
    table = build_passengers(300)
    space, _, _ = run(table, "¿Sobrevive?", "classification", **options)
    [name] = options.values()
    values = space["few"][name]
    for train, test in space["folds"]:
        if "time" in options:
            assert values.iloc[test].min() >= values.iloc[train].max()
        else:
            assert not {*values.iloc[test]} & {*values.iloc[train]}


def test_odd_names_are_drawn_as_they_are(run: Callable) -> None:
    """Un dólar, unas llaves o un nombre interminable no rompen ningún dibujo."""
    table = NUMBERS.rename(columns={"x": "coste $\\frac{$ 100 %", "z": "{z} " + "larguísimo " * 12})
    letters = LETTERS.rename(columns={"c0": "a_b^{c}$", "c1": "<b>"})
    _, said, n_figures = run(pd.concat([table, letters], axis=1).assign(**{"y $ {0}": LETTERS["c0"] + "$"}), "y $ {0}", "classification")
    assert n_figures > 4 and "a_b^{c}$" in said
