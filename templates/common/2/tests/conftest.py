"""Lo que comparten las pruebas: una copia del proyecto en la que se puede escribir, ya entrenado."""
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
PRODUCED = {".venv", ".git", "mlruns", "mlartifacts", "__pycache__", ".pytest_cache"}


def leave_out(folder: str, names: list[str]) -> set[str]:
    """Lo que no se copia: entornos, cachés y todo lo que produce una ejecución."""
    is_product = "data" in Path(folder).relative_to(ROOT).parts and not folder.endswith("01_raw")
    files = {name for name in names if is_product and name != ".gitkeep" and (Path(folder) / name).is_file()}
    return files | (PRODUCED & {*names}) | {name for name in names if name.startswith("mlflow.db")}


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Una copia del proyecto, con sus datos crudos y nada más."""
    copy = tmp_path_factory.mktemp("copia") / ROOT.name
    shutil.copytree(ROOT, copy, ignore=leave_out)
    return copy


@pytest.fixture(scope="session")
def call(project: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Una orden del entorno, en la copia; `code` es el código con el que ha de salir."""
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "MLFLOW_TRACKING_URI")}

    def run(*command: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [BIN / command[0], *command[1:]], cwd=project, env=env, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return run


@pytest.fixture(scope="session")
def trained(project: Path, call: Callable) -> Path:
    """La copia, después de `tierra run`."""
    call("tierra", "run")
    return project


@pytest.fixture(scope="session")
def model_folder(trained: Path) -> Path:
    """La carpeta del modelo que se acaba de entrenar."""
    return max(path.parent for path in (trained / "data/06_models").rglob("model.json"))
