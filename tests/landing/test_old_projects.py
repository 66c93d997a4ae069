"""Un proyecto que escribió la 0.2.0 sigue funcionando con lo de hoy, y `tierra stage` lo pone al día sin perder lo suyo."""
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
PACKAGE = "de_jupyter_a_la_tierra"
COMMIT = "3fcb17c5fe61"  # la 0.2.0, con su emisor

# Lo que importan los cuadernos, los módulos, las pruebas y la configuración de un proyecto de la 0.2.0.
IMPORTS = {
    "artifact": "Model load_model load_train_hashes",
    "contracts": "build_column build_schema explain_failure",
    "datasets": "ModelDataset TableDataset",  # los `type:` del catálogo
    "diagnosis": "explaining",
    "dictionary": "Column Dictionary describe_range to_frame",
    "errors": "UsageError WorkError",
    "evaluation": "count_twins cross_validate evaluation_mask hash_rows score_predictions score_regression",
    "flavor": "_load_pyfunc",  # lo nombra cada modelo que se registró en MLflow
    "freezing": "freeze_model",
    "hooks": "find_hooks",
    "inference": "infer_dictionary",
    "payload": "PayloadError",
    "project": "find_project",
    "reading": "check_quarantine read_number read_rows require_columns",
    "serving": "ModelService",
    "session": "Session list_products",
    "tables": "read_table",
}
# Y lo que importa, además, el que se escribió desde el repositorio antes de la versión siguiente.
LATER = {
    "card": "describe_engine",
    "connection": "settle",  # make/5_mlflow.mk
    "datasets": "EstimatorDataset",
    "orders": "Order find_workplace locate mark_file",
    "outcomes": "hand_back",
    "quoting": "quote_markdown",
    "reading": "check_free describe_bad_rows",
    "sheets": "open_sheet",
    "spanish": "format_number format_percent",
    "streaming": "stream",
}
NAMES = {(module, name) for names in (IMPORTS, LATER) for module in names for name in names[module].split()}


# --- Lo que importa un proyecto de antes -------------------------------------------------------------------------


@pytest.mark.parametrize(("module", "name"), sorted(NAMES), ids=lambda value: value)
def test_an_old_import_still_works(module, name):
    """Cada nombre que usa un proyecto ya escrito se sigue importando de donde él lo importa."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        assert hasattr(importlib.import_module(f"{PACKAGE}.{module}"), name)


def test_an_old_import_says_nothing(tmp_path):
    """Ni siquiera un aviso: lo que un cuaderno escribe en stderr es, para nbval, una salida que no cuadra."""
    lines = [f"from {PACKAGE}.{module} import {name}" for module, name in sorted(NAMES)]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# --- Un proyecto de antes, entero --------------------------------------------------------------------------------


def run(*command: str | Path, cwd: Path, timeout: int = 600, **env: str) -> str:
    """Ejecuta una orden y exige que vaya bien; devuelve lo que dijo."""
    outside = {"PYTHONPATH", "PYTHONWARNINGS", "MLFLOW_TRACKING_URI"}
    kept = {key: value for key, value in os.environ.items() if key not in outside and not key.startswith(("PYTEST_", "GIT_"))}
    kept |= {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", **env}
    done = subprocess.run(command, cwd=cwd, env=kept, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def old_tierra(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """La orden `tierra` de la rueda de la 0.2.0, con las dependencias de hoy."""
    if not (ROOT / ".git").exists():
        pytest.skip("aquí no está la historia de git, de la que sale la 0.2.0")
    packed = subprocess.run(["git", "archive", COMMIT], cwd=ROOT, capture_output=True)
    if packed.returncode:
        pytest.skip("la historia de git está recortada y no llega a la 0.2.0")
    folder = tmp_path_factory.mktemp("rueda")
    with tarfile.open(fileobj=BytesIO(packed.stdout)) as archive:
        archive.extractall(folder / "source", **{"filter": "data"} if hasattr(tarfile, "data_filter") else {})  # hasta la 3.11.4, no lo hay
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", folder, folder / "source", cwd=folder)
    (wheel,) = folder.glob("*-0.2.0-*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    code = f"import {PACKAGE} as p; assert p.__file__.startswith({str(folder / 'site')!r}); from {PACKAGE}.cli import main; main()"

    def call(*args: str, cwd: Path) -> str:
        return run(sys.executable, "-P", "-c", code, *args, cwd=cwd, PYTHONPATH=str(folder / "site"))

    return call


def remember(project: Path) -> None:
    """Guarda el proyecto en git, como haría su dueño el primer día."""
    for command in ("init -q", "add .", "-c user.name=Ada -c user.email=ada@example.com commit -q -m primero"):
        run("git", *command.split(), cwd=project)


def edit(project: Path, notebook: str, old: str = "", new: str = "") -> None:
    """Cambia un valor por omisión, añade una función al final y exporta, como haría su dueño."""
    path = project / notebook
    cells = nbformat.read(path, as_version=4)
    for cell in cells.cells if old else []:
        cell.source = cell.source.replace(old, new)
    assert not old or new in "".join(cell.source for cell in cells.cells)
    cells.cells.append(nbformat.v4.new_code_cell("#| export\ndef add_mine(number: int) -> int:\n    return number + 1", id="mine"))
    nbformat.write(cells, path)
    for command in ("nbdev_export", "nbdev_clean"):
        run(BIN / command, cwd=project)


# De cada proyecto: con qué se escribe, la etapa a la que se lleva, si está en git, y lo que cambia su dueño.
TITLE = ('title: str = "Qué predice y qué era"', 'title: str = "Lo que predice y lo que era"')
PROJECTS = {
    "gatos2": (("stage", "2"), "3", True, ("nbs/2_kedro/11_model.ipynb", *TITLE)),
    "gatos6": (("stage", "6"), "6", False, ("nbs/2_kedro/11_model.ipynb", *TITLE)),
    "vinos": (
        ("new", "vinos", "--data", "vinos.csv", "--target", "target", "--dest"),
        "6",
        True,
        ("nbs/2_kedro/05_reporting.ipynb", "digits: int = 2", "digits: int = 3"),
    ),
}


@pytest.fixture(scope="module")
def old_projects(old_tierra: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Los proyectos que escribió la 0.2.0, con lo que cambió su dueño, y sus datos."""
    from sklearn.datasets import load_wine

    folder = tmp_path_factory.mktemp("antes")
    load_wine(as_frame=True).frame.to_csv(folder / "vinos.csv", index=False)
    for name, (command, _, is_remembered, change) in PROJECTS.items():
        old_tierra(*command, name, cwd=folder)
        if is_remembered:
            remember(folder / name)
        edit(folder / name, *change)
        if command[0] == "stage":
            run(BIN / "tierra", "data", cwd=folder / name)
    return folder


def check(project: Path) -> None:
    """Pasa todas las pruebas del proyecto, con las herramientas de hoy."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2", "--dist", "loadfile"]
    said = run(*command, cwd=project, timeout=1200, PYTHONPATH=str(project), OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    assert re.search(r"\d+ passed", said) and not re.search(r"\d+ (failed|error|skipped)", said), said


def collect_names(project: Path) -> set[tuple[str, str]]:
    """Lo que importa un proyecto de las herramientas: módulo y nombre."""
    code = {path: path.read_text(encoding="utf-8") for path in project.rglob("*.py")}
    for path in project.rglob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code[path] = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    found = set()
    for text in code.values():
        for module, inside, line in re.findall(rf"from {PACKAGE}\.(\w+) import (?:\(([^)]*)\)|([^\n;#]*))", text):
            found |= {(module, name.split()[0]) for name in re.split(r",\s*", inside + line) if name.strip()}
    for path in project.glob("conf/base/*.yml"):
        found |= {*re.findall(rf"type: {PACKAGE}\.(\w+)\.(\w+)", path.read_text(encoding="utf-8"))}
    return found


@pytest.mark.long
@pytest.mark.parametrize("name", ["gatos6", "vinos"])
def test_it_runs_as_it_is(name, old_projects, tmp_path):
    """Sin tocarlo, sus cuadernos y sus pruebas pasan con lo de hoy; y todo lo que importa está en la lista de arriba."""
    project = tmp_path / name
    shutil.copytree(old_projects / name, project)
    assert collect_names(project) and collect_names(project) <= NAMES
    check(project)


@pytest.mark.long
@pytest.mark.parametrize("name", PROJECTS)
def test_it_is_brought_up_to_date(name, old_projects, tmp_path):
    """`tierra stage` lo lleva a lo de hoy: lo de su dueño sigue, se dice qué ha sido de ello, y todo pasa."""
    project = tmp_path / name
    shutil.copytree(old_projects / name, project)
    _, stage, _, (notebook, _, new) = PROJECTS[name]
    lines = run(BIN / "tierra", "stage", stage, ".", cwd=project).splitlines()
    (line,) = (line for line in lines if notebook in line)
    assert "juntos" in line or "se queda como está" in line, line

    notebooks = {path: path.read_text(encoding="utf-8") for path in project.glob("nbs/**/*.ipynb")}
    modules = Counter(found for text in notebooks.values() for found in re.findall(r"#\| default_exp ([\w.]+)", text))
    assert max(modules.values()) == 1
    stem = re.sub(r"\d+_", "", Path(notebook).stem)
    ((place, kept),) = ((path, text) for path, text in notebooks.items() if path.stem.endswith(stem))
    module = next(path for path in project.glob(f"*/{stem}.py")).read_text(encoding="utf-8")
    assert "add_mine" in kept and "def add_mine" in module
    assert new in module and new.replace('"', r"\"") in kept

    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    assert "No había nada que cambiar." in run(BIN / "tierra", "stage", stage, ".", cwd=project)
    assert {path: path.read_bytes() for path in project.rglob("*") if path.is_file()} == before
    if "se queda como está" in line:  # lo junta a mano: parte de lo nuevo, y vuelve a poner su función
        assert lines[-2].startswith("Antes de seguir, junta a mano")
        Path(f"{place}.tierra").replace(place)
        edit(project, place.relative_to(project).as_posix())
    check(project)
