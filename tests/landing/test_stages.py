"""Cada etapa, y tres proyectos nuevos, en un entorno limpio y solo con su extra: `make run` y `make test`, de verdad.

Es lo más parecido a quien llega: la rueda, un Python y `make`. Al terminar se imprime la tabla de las seis etapas
(con `pytest -s` se ve aunque todo vaya bien), y `TIERRA_STAGES_TABLE` dice en qué fichero guardarla.
"""
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from outside import BIN, ROOT, find_port, run, serving

from de_jupyter_a_la_tierra.landing.templates import EXTRAS

pytestmark = pytest.mark.long
HEADER = "| etapa | extra | instalar (s) | tamaño (MB) | `make run` (s) | pruebas | `make test` (s) |\n|---|---|---|---|---|---|---|"


@pytest.fixture(scope="session")
def tierra_of_wheel(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """La orden `tierra` de la rueda, instalada con el primer extra: el que basta para escribir proyectos."""
    folder = tmp_path_factory.mktemp("rueda")
    run(BIN / "uv", "venv", "-q", "--python", sys.executable, folder / "venv", cwd=folder)
    pins = ["--python", folder / "venv/bin/python", "-c", ROOT / "requirements/runtime.txt"]
    run(BIN / "uv", "pip", "install", "-q", *pins, f"de-jupyter-a-la-tierra[libreta] @ {wheel.as_uri()}", cwd=folder)
    return folder / "venv/bin/tierra"


@pytest.fixture(scope="module")
def table() -> Iterator[list[str]]:
    """Las filas de la tabla de las etapas, que se enseña al final."""
    rows: list[str] = []
    yield rows
    text = "\n".join([HEADER, *rows])
    print("\n" + text)
    if path := os.environ.get("TIERRA_STAGES_TABLE"):
        Path(path).write_text(text + "\n", encoding="utf-8")


@pytest.fixture(scope="module", params=range(1, 7))
def stage(request: pytest.FixtureRequest) -> int:
    """Una etapa tras otra."""
    return request.param


@pytest.fixture(scope="module")
def project(stage: int, tmp_path_factory: pytest.TempPathFactory, tierra_of_wheel: Path) -> Iterator[Path]:
    """El ejemplo en esa etapa, recién escrito por la rueda; el entorno se borra al terminar."""
    folder = tmp_path_factory.mktemp(f"etapa{stage}")
    run(tierra_of_wheel, "stage", str(stage), "gatos", cwd=folder)
    yield folder / "gatos"
    shutil.rmtree(folder / "gatos/.venv", ignore_errors=True)


@pytest.fixture(scope="module")
def journey(stage: int, project: Path, table: list[str]) -> str:
    """Lo que dijo `make run`; antes se instala, y al final se prueba todo. Cada cosa, con su tiempo."""
    _, install = run("make", "env", cwd=project)
    size = sum(path.lstat().st_size for path in (project / ".venv").rglob("*")) / 1e6
    said, journey = run("make", "run", cwd=project)
    tests, testing = run("make", "test", cwd=project)
    passed = re.search(r"(\d+) passed", tests)[1]
    assert not re.search(r"\d+ (failed|error|skipped)", tests), tests
    figures = f"{install:.0f} | {size:.0f} | {journey:.0f} | {passed} | {testing:.0f}"
    table.append(f"| {stage} | `{EXTRAS[stage - 1]}` | {figures} |")
    return said


def test_make_run_and_make_test_are_green(stage: int, project: Path, journey: str) -> None:
    """`make run` hace el viaje de esa etapa, y `make test` pasa sin saltarse nada."""
    assert (project / "data/01_raw/catfood_simulated.csv").is_file()
    if stage == 1:
        assert (project / "data/08_reporting/00_historia.ipynb").is_file()
    else:
        assert "simulados: 3165 comidas" in journey and list(project.glob("data/06_models/**/model.onnx"))
    assert ("curl -s http://127.0.0.1:8000/predict_score" in journey) == (stage >= 3)
    assert ("make ui" in journey) == (stage >= 5)
    assert "Traceback" not in journey


def test_only_its_extra_is_installed(stage: int, project: Path, journey: str) -> None:
    """Una etapa no necesita las bibliotecas de las siguientes."""
    brought_by = {"kedro": 2, "msgspec": 3, "pandera": 4, "mlflow": 5, "papermill": 6}
    for module, first in brought_by.items():
        here = list(project.glob(f".venv/lib/python3*/site-packages/{module}"))
        assert bool(here) == (stage >= first), module


def test_make_alone_lists_the_targets(stage: int, project: Path, journey: str) -> None:
    """`make` a secas enseña los objetivos de las etapas que hay, y solo esos."""
    listed, _ = run("make", cwd=project)
    for target, first in {"run": 1, "test": 1, "notebook": 1, "pipeline": 2, "serve": 3, "ui": 5, "jobs": 6}.items():
        assert (f"make {target} " in listed) == (stage >= first), target


def test_what_make_run_says_works(stage: int, project: Path, journey: str) -> None:
    """Lo que se lee al final de `make run` se puede copiar y pegar: `make serve`, su `curl` y `make ui`."""
    for target, variable, first in (("serve", "PORT", 3), ("ui", "UI_PORT", 5)):
        if stage < first:
            continue
        port = find_port()
        with serving("make", target, f"{variable}={port}", cwd=project, port=port):
            if target == "serve":
                (command,) = re.findall(r"curl .*", journey)
                answer = json.loads(run("sh", "-c", command.replace(":8000/", f":{port}/"), cwd=project)[0])
                assert (answer["score"], answer["data_origin"]) == (3, "simulated")
            else:
                assert "<title>MLflow</title>" in run("curl", "-s", f"http://127.0.0.1:{port}/", cwd=project)[0]


def test_the_next_stage_lands_on_a_used_project(
    stage: int, project: Path, journey: str, tierra_of_wheel: Path, tmp_path: Path
) -> None:
    """Un proyecto que ya se ha ejecutado y se ha tocado pasa a la etapa siguiente y sigue al día."""
    if stage != 2:
        return
    used = tmp_path / "gatos"
    shutil.copytree(project, used, ignore=shutil.ignore_patterns(".venv", "__pycache__", "*.egg-info"))
    readme = used / "README.md"
    readme.write_text(readme.read_text(encoding="utf-8") + "\nMis notas.\n", encoding="utf-8")
    said, _ = run(tierra_of_wheel, "stage", "3", "gatos", cwd=tmp_path)
    assert "+ make/3_api.mk" in said and "README.md" not in said
    assert readme.read_text(encoding="utf-8").endswith("Mis notas.\n")
    run("make", "test", cwd=used, PYTEST_FLAGS="tests")


# --- Tres proyectos nuevos ---------------------------------------------------------------------------------------

NEW = {"vinos": (6, {"sep": ";", "decimal": ","}), "biopsias": (3, {}), "diabetes": (6, {})}


def write_sheet(name: str, path: Path) -> list[str]:
    """Escribe una tabla de scikit-learn en CSV; devuelve sus columnas. Las clases de las biopsias, en palabras."""
    from sklearn import datasets

    bunch = getattr(datasets, {"vinos": "load_wine", "biopsias": "load_breast_cancer", "diabetes": "load_diabetes"}[name])
    bunch = bunch(as_frame=True)
    target = [str(bunch.target_names[label]) for label in bunch.target] if name == "biopsias" else bunch.target
    bunch.data.assign(target=target).to_csv(path, index=False, **NEW[name][1])
    return list(bunch.data)


@pytest.mark.parametrize("name", NEW)
def test_a_new_project_is_green_in_a_clean_environment(name: str, tmp_path: Path, tierra_of_wheel: Path) -> None:
    """`tierra new`, `make run` y `make test`; después, la API contesta al `curl` que se lee y su página se explica."""
    columns, project = write_sheet(name, tmp_path / "hoja.csv"), tmp_path / name
    number = str(NEW[name][0])
    run(tierra_of_wheel, "new", name, "--data", "hoja.csv", "--target", "target", "--stage", number, cwd=tmp_path)
    said, _ = run("make", "run", cwd=project)
    tests, _ = run("make", "test", cwd=project)
    assert re.search(r"\d+ passed", tests) and not re.search(r"\d+ (failed|error|skipped)", tests), tests
    port = find_port()
    with serving(project / ".venv/bin/tierra", "serve", "--port", str(port), cwd=project, port=port):
        (command,) = re.findall(r"curl .*", said)
        answer = json.loads(run("sh", "-c", command.replace(":8000", f":{port}"), cwd=project)[0])
        page, _ = run("curl", "-s", f"http://127.0.0.1:{port}/docs", cwd=project)
    shutil.rmtree(project / ".venv")
    assert isinstance(answer["score"], {"vinos": int, "biopsias": str, "diabetes": float}[name])
    assert all(column in page for column in columns)
