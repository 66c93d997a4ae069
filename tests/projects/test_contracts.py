"""Los contratos en una ejecución de verdad: paran lo que deben, dicen por qué y no estorban a quien no los usa."""
import shutil
import sys
from importlib import import_module
from pathlib import Path

import pandas as pd
import pandera.pandas as pa
import pytest
from kedro.config import OmegaConfigLoader
from mixed import COLUMNS, NAMES, simulate_voyages
from pandera.errors import SchemaErrors

from de_jupyter_a_la_tierra.catfood.cleaning import clean_foods
from de_jupyter_a_la_tierra.catfood.columns import CATFOOD, FIGURES
from de_jupyter_a_la_tierra.catfood.model import mark_evaluation
from de_jupyter_a_la_tierra.catfood.schemas import FOODS, MODEL_INPUT
from de_jupyter_a_la_tierra.catfood.simulate import simulate_foods
from de_jupyter_a_la_tierra.projects.contracts import ContractsHook, build_schema, explain_failure
from de_jupyter_a_la_tierra.projects.project import find_project

CONF = find_project(Path(__file__).parent).conf
CONTRACTS = "conf/base/contracts_4_pruebas.yml"
STRICT = """
from de_jupyter_a_la_tierra.catfood.columns import CATFOOD
from de_jupyter_a_la_tierra.projects.contracts import build_schema
from dataclasses import replace

columns = [replace(c, maximum=45) if c.name == "dma_prot" else c for c in CATFOOD.columns]
FOODS = build_schema(columns, "foods")
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory, tierra) -> Path:
    """Un proyecto con su propia configuración, sin MLflow, y con datos."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(CONF / "base", folder / "conf/base", ignore=shutil.ignore_patterns("mlflow*", "parameters_5*"))
    shutil.copy(CONF / "logging.yml", folder / "conf")
    (folder / "pyproject.toml").write_text(
        '[tool.kedro]\npackage_name = "de_jupyter_a_la_tierra.catfood"\nproject_name = "x"\n'
        'kedro_init_version = "1.7.0"\nsource_dir = "."\n'
    )
    (folder / "strict_schemas.py").write_text(STRICT)
    assert tierra("data", "--rows", "600", cwd=folder).returncode == 0
    return folder


@pytest.fixture
def contracts(project):
    """Escribe los contratos del proyecto, y al terminar deja los que había."""
    path = project / CONTRACTS
    before = path.read_text(encoding="utf-8")
    yield lambda text: path.write_text(text, encoding="utf-8")
    path.write_text(before, encoding="utf-8")


@pytest.fixture(scope="module")
def foods() -> pd.DataFrame:
    """Trescientas comidas limpias."""
    raw = simulate_foods(300, seed=3)
    raw.index = pd.RangeIndex(2, 302, name="line")
    return clean_foods(raw)[0]


def written(folder: Path) -> set[str]:
    """Lo que hay escrito en `data/`."""
    return {path.name for path in (folder / "data").rglob("*") if path.is_file()}


def complaint(schema: pa.DataFrameSchema, table: pd.DataFrame) -> str:
    """Lo que se dice de una tabla que no cumple."""
    with pytest.raises(SchemaErrors) as caught:
        schema.validate(table, lazy=True)
    return str(explain_failure(caught.value))


# --- En una ejecución de verdad ----------------------------------------------------------------------------------


def test_a_broken_contract_stops_the_run(project, contracts, tierra):
    """La tabla que no cumple no se escribe, y nada de lo que venía después tampoco."""
    contracts("foods: {class: strict_schemas.FOODS}\n")
    done = tierra("run", cwd=project)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "La tabla «foods» no cumple su contrato al guardarla: «dma_prot» ha de ir de 0 a 45 % (" in done.stderr
    assert "la primera, la línea" in done.stderr
    assert written(project) == {"catfood_simulated.csv", "readable_foods.parquet", "quarantine.csv", "provenance.json"}


@pytest.mark.parametrize("runner", ["SequentialRunner", pytest.param("ParallelRunner", marks=pytest.mark.long)])
def test_what_comes_from_disk_is_checked_too(project, tierra, runner):
    """Una tabla retocada a mano se rechaza al leerla, también cuando quien la lee es otro proceso."""
    assert tierra("run", "--pipeline", "data_processing", cwd=project).returncode == 0
    path = project / "data/05_model_input/model_input.parquet"
    table = pd.read_parquet(path)
    table.loc[table.index[5], "dma_prot"] = -1.0
    table.to_parquet(path)
    done = tierra("run", "--pipeline", "data_science", "--runner", runner, cwd=project)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "«model_input» no cumple su contrato al leerla: «dma_prot» ha de ir de 0 a 100 % (" in done.stderr
    assert (f"(línea {table.index[5]}: «-1.0»)" if runner == "SequentialRunner" else "(casos: 1; «-1.0»)") in done.stderr
    assert not written(project) & {"model.json", "metrics.json", "report.md"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("fods: {class: strict_schemas.FOODS}\n", "¿Querías decir «foods»?"),
        ("foods: {class: stric_schemas.FOODS}\n", "No se encuentra el contrato de «foods»"),
    ],
)
def test_a_contract_that_cannot_be_is_a_sentence(project, contracts, tierra, text, says):
    """Un contrato mal puesto es un error de uso."""
    contracts(text)
    done = tierra("run", cwd=project)
    assert done.returncode == 2 and says in done.stderr and "Traceback" not in done.stderr


# --- El gancho ---------------------------------------------------------------------------------------------------


class Context:
    """Lo que el gancho mira del contexto de Kedro."""

    def __init__(self, conf: Path):
        self.config_loader = OmegaConfigLoader(str(conf), base_env="base", default_run_env="base")


def with_contract(conf: Path) -> set[str]:
    """Los datos del catálogo que salen del gancho con un contrato."""
    context = Context(conf)
    ContractsHook().after_context_created(context)
    return {name for name, entry in context.config_loader["catalog"].items() if "validator" in entry}


def test_the_hook_sleeps_without_contracts_or_without_pandera(tmp_path, monkeypatch):
    """Quien no llegó a la etapa 4 no nota que existe."""
    shutil.copytree(CONF / "base", tmp_path / "base")
    assert with_contract(tmp_path) == {"foods", "model_input", "scored_foods"}
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pandera", None)
        assert with_contract(tmp_path) == set()
    (tmp_path / "base/contracts_4_pruebas.yml").unlink()
    assert with_contract(tmp_path) == set()


def test_every_contract_is_a_schema():
    """Cada `class` de conf/base existe y es un contrato con el nombre de su tabla."""
    context = Context(CONF)
    ContractsHook().after_context_created(context)
    for name, contract in context.config_loader["contracts"].items():
        module, _, attribute = contract["class"].rpartition(".")
        assert getattr(import_module(module), attribute).name == name


# --- Del diccionario al contrato ---------------------------------------------------------------------------------

NUMBERS = [column for column in CATFOOD.columns if column.kind == "number"]
TEXTS = [column for column in CATFOOD.columns if column.kind != "number"]


@pytest.mark.parametrize("column", NUMBERS, ids=lambda column: column.name)
def test_every_limit_is_enforced(foods, column):
    """Cada columna numérica se rechaza por encima, por debajo y vacía."""
    step = 1 if column.integer else 0.001
    for value in (column.minimum - step, column.maximum + step):
        values = foods[column.name].copy()
        values.iloc[7] = value
        assert f"«{column.name}» ha de ir de" in complaint(FOODS, foods.assign(**{column.name: values}))
    holes = foods[column.name].astype("float64").mask(foods.index == 9)
    assert f"«{column.name}»" in complaint(FOODS, foods.assign(**{column.name: holes}))


@pytest.mark.parametrize("column", TEXTS, ids=lambda column: column.name)
def test_only_required_texts_must_be_filled(foods, column):
    """Un texto vacío solo incumple si la columna es obligatoria."""
    blank = foods.assign(**{column.name: foods[column.name].mask(foods.index == 9, "")})
    if column.required:
        assert f"«{column.name}» no puede estar vacía (línea 9" in complaint(FOODS, blank)
    else:
        FOODS.validate(blank, lazy=True)


def test_lines_and_columns_are_part_of_the_contract(foods):
    """Perder la línea de cada fila, repetirla, o una columna de más o de menos, también incumple."""
    assert "line" in complaint(FOODS, foods.reset_index(drop=True))
    assert "no puede repetirse" in complaint(FOODS, pd.concat([foods, foods.iloc[[0]]]))
    assert "«price» está de más" in complaint(FOODS, foods.assign(price=1.0))
    assert "«brand» no está" in complaint(FOODS, foods.drop(columns="brand"))


@pytest.mark.parametrize("twin_key", [FIGURES[:2], FIGURES[:5], FIGURES], ids=len)
@pytest.mark.parametrize("target", ["nutrition_paws", "ingredients_paws"])
def test_what_we_mark_always_keeps_twins_together(foods, twin_key, target):
    """Con la clave que sea, `mark_evaluation` cumple; y mover una sola gemela al otro lado, no."""
    twins = pd.concat([foods, foods.set_axis(foods.index + 1000)]).rename_axis("line")
    table = mark_evaluation(twins, target, list(twin_key), 0.3)
    MODEL_INPUT.validate(table, lazy=True)
    table.loc[1005, "evaluation"] = not table.loc[1005, "evaluation"]
    assert "no puede tener gemelas a los dos lados del examen" in complaint(MODEL_INPUT, table)


# --- Columnas de todas las clases --------------------------------------------------------------------------------


def test_a_mixed_table_keeps_its_contract_even_from_disk(tmp_path):
    """Con huecos donde puede haberlos y una categoría que nadie vio, cumple; también al volver de un Parquet."""
    rows = simulate_voyages(200)[NAMES]
    rows.index = pd.RangeIndex(2, 202, name="line")
    rows.loc[3, "port"] = "Nantucket"
    schema = build_schema(COLUMNS, "voyages")
    pd.testing.assert_frame_equal(schema.validate(rows, lazy=True), rows)
    rows.to_parquet(tmp_path / "voyages.parquet")
    back = pd.read_parquet(tmp_path / "voyages.parquet")
    pd.testing.assert_frame_equal(schema.validate(back, lazy=True), back)
    assert schema.columns["port"].description == "conocidas: Cádiz, Palos, Vigo"


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("alone", 0.5, "«alone» ha de ser 1 (sí) o 0 (no) (línea 4: «0.5»)"),
        ("alone", None, "«alone» no puede faltar (línea 4)"),
        ("class", "", "«class» no puede estar vacía (línea 4: «»)"),
        ("sailed", None, "«sailed» no puede faltar (línea 4)"),
        ("age", 130.0, "«age» ha de ir de 0 a 120 años (línea 4: «130.0»)"),
    ],
)
def test_a_mixed_table_that_breaks_it_is_told(name, value, says):
    rows = simulate_voyages(20)[NAMES]
    rows.index = pd.RangeIndex(2, 22, name="line")
    rows.loc[4, name] = value
    assert says in complaint(build_schema(COLUMNS, "voyages"), rows)


def test_dates_that_are_text_break_it():
    rows = simulate_voyages(20)[NAMES].astype({"sailed": "str"})
    rows.index = pd.RangeIndex(2, 22, name="line")
    assert "«sailed» ha de ser una fecha." in complaint(build_schema(COLUMNS, "voyages"), rows)
