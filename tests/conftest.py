"""Lo que comparten las pruebas: llamar a la orden `tierra` como lo haría una persona."""
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

from outside import copy_sources
from warm import WarmCommand

TIERRA = Path(sys.executable).with_name("tierra")
MLFLOW = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Los capítulos (00_…), desde la etapa 2, son pruebas largas: cada uno entrena varios modelos."""
    for item in items:
        if item.path.suffix == ".ipynb" and item.path.name.startswith("00_") and item.path.parent.name != "1_libreta":
            item.add_marker(pytest.mark.long)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """MLflow escribe en el entorno adónde apunta, y lo heredan los procesos: cada prueba empieza sin eso."""
    for name in MLFLOW:
        os.environ.pop(name, None)


@pytest.fixture(scope="session")
def tierra() -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """La orden `tierra`, en otro proceso y en la carpeta que se diga; en `tierra.path`, dónde está."""
    command = WarmCommand(TIERRA)

    def call(*args: str | Path, cwd: Path, **options) -> subprocess.CompletedProcess[str]:
        env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        if options:  # algo del proceso en sí, como lo que puede gastar: entonces nace como nace para una persona
            return subprocess.run([TIERRA, *args], cwd=cwd, env=env, capture_output=True, text=True, timeout=300, **options)
        return command.run([str(arg) for arg in args], cwd, env, timeout=300)

    call.path = TIERRA
    yield call
    command.stop()


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """El paquete fuente y la rueda hecha a partir de él, desde una copia de lo que hay en git."""
    folder = tmp_path_factory.mktemp("dist")
    source = copy_sources(folder / "source")
    (source / "conf/local/credentials.yml").write_text("secreto: 1\n")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, source]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="session")
def wheel(dist: Path) -> Path:
    """La rueda."""
    (path,) = dist.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def voyages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """La carpeta de un modelo con columnas de todas las clases."""
    from mixed import freeze_voyages

    return freeze_voyages(tmp_path_factory.mktemp("mixed") / "voyages")
