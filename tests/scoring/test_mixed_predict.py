"""`tierra predict` con columnas de todas las clases: los huecos se puntúan y solo lo ilegible se aparta."""
import importlib.util
from pathlib import Path

import pandas as pd
import pytest
from mixed import fit_voyages, simulate_voyages, write_voyages

from de_jupyter_a_la_tierra.models.artifact import load_model
from de_jupyter_a_la_tierra.models.freezing import freeze_model
from de_jupyter_a_la_tierra.tables.csv import read_table
from de_jupyter_a_la_tierra.tables.values import read_rows

VERSION = "data/06_models/voyages/2026-01-01T00.00.00.000Z/voyages"


@pytest.fixture(scope="module")
def project(tierra, tmp_path_factory) -> Path:
    """Un proyecto hecho con una hoja de viajes, y un modelo suyo."""
    folder = tmp_path_factory.mktemp("predict")
    write_voyages(simulate_voyages(400).drop(columns="notes"), folder / "voyages.csv")
    done = tierra("new", "voyages", "--data", "voyages.csv", "--target", "survived", "--stage", "2", cwd=folder)
    assert done.returncode == 0, done.stderr
    spec = importlib.util.spec_from_file_location("voyage_columns", folder / "voyages/voyages/columns.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    dictionary = module.DICTIONARY
    columns = dictionary.select(list(dictionary.features))
    rows, _ = read_rows(read_table(folder / "voyages.csv"), list(dictionary.columns))
    X = rows[list(dictionary.features)]
    (folder / "voyages" / VERSION).parent.mkdir(parents=True)
    freeze_model(
        fit_voyages(rows, columns), folder / "voyages" / VERSION, X_train=X, X_evaluation=X.head(50), features=columns,
        target=dictionary.select([dictionary.target])[0], metrics={}, data={"origin": "own"}, name="voyages",
    )
    return folder / "voyages"


def test_as_many_rows_out_as_in_and_gaps_are_scored(project, tierra):
    """La propia hoja, con sus huecos: todas las filas vuelven con lo que dice el modelo, y ninguna se aparta."""
    assert tierra("predict", "../voyages.csv", "all.csv", cwd=project).returncode == 0
    sheet, scored = (pd.read_csv(path, dtype="str", keep_default_na=False) for path in (project.parent / "voyages.csv", project / "all.csv"))
    pd.testing.assert_frame_equal(scored[list(sheet)], sheet)
    model = load_model(project / VERSION)
    rows, _ = read_rows(read_table(project.parent / "voyages.csv"), model.columns)
    answers, probabilities = model.predict_with_probability(rows)
    assert scored["score"].tolist() == answers.tolist() and rows.isna().any().any()
    assert scored["probability"].astype(float).tolist() == pytest.approx(probabilities.astype(float).round(4).tolist(), abs=1e-9)
    assert not (project / "all.quarantine.csv").exists()


def test_only_what_cannot_be_read_is_set_apart(project, tierra):
    """Una categoría nueva y los huecos se puntúan; una errata, una fecha imposible y un hueco donde no puede haberlo, no."""
    sheet = pd.read_csv(project.parent / "voyages.csv", dtype="str", keep_default_na=False).head(8)
    for row, name, value in [
        (1, "port", "Nantucket"), (2, "fare", "bastante"), (3, "age", ""), (3, "saved", ""), (3, "port", "s/d"),
        (4, "sailed", "31/02/1912"), (5, "alone", "a ratos"), (6, "fare", ""), (7, "alone", "SÍ"),
    ]:
        sheet.loc[row, name] = value
    sheet.assign(score="7").to_csv(project / "odd.csv", index=False)
    done = tierra("predict", "odd.csv", "odd_scored.csv", "--params", "max_bad_share=0.9", cwd=project)
    assert done.returncode == 0, done.stderr
    scored = pd.read_csv(project / "odd_scored.csv", dtype="str", keep_default_na=False)
    assert len(scored) == 8 and scored["score"].tolist() == ["7"] * 8
    assert (scored["tierra_score"] == "").tolist() == [False, False, True, False, True, True, True, False]
    bad = pd.read_csv(project / "odd_scored.quarantine.csv", dtype="str", keep_default_na=False)
    assert list(zip(bad["line"], bad["column"], bad["value"], strict=True)) == [
        ("4", "fare", "bastante"), ("6", "sailed", "31/02/1912"), ("7", "alone", "a ratos"), ("8", "fare", ""),
    ]
    assert "8 = 4 con respuesta + 4 en cuarentena" in done.stdout and "lo nuevo está en «tierra_score»" in done.stdout


def test_typed_sheets_give_the_same_answers(project, tierra):
    """La misma hoja con sus tipos, en un Parquet, da lo mismo que en texto."""
    rows = simulate_voyages(400).drop(columns="notes")
    rows["port"] = rows["port"].replace("", None)
    rows.assign(alone=rows["alone"].astype(bool), saved=rows["saved"].map({0.0: False, 1.0: True})).to_parquet(project / "typed.parquet")
    assert tierra("predict", "../voyages.csv", "text.csv", cwd=project).returncode == 0
    assert tierra("predict", "typed.parquet", "typed_scored.parquet", cwd=project).returncode == 0
    text, typed = pd.read_csv(project / "text.csv"), pd.read_parquet(project / "typed_scored.parquet")
    assert text["score"].tolist() == typed["score"].tolist()
    assert text["probability"].tolist() == typed["probability"].tolist()
