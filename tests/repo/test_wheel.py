"""Lo que instala quien nunca abre un cuaderno: la rueda, en un entorno nuevo y una carpeta vacía."""
import os
import re
import resource
import subprocess
import sys
import tarfile
import zipfile
from configparser import ConfigParser
from pathlib import Path, PurePosixPath

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
HELP_CPU_SECONDS = 0.5


def test_wheel_contents(wheel):
    """En la rueda van el paquete, su configuración, los cuadernos y las plantillas; ni datos ni lo de cada uno."""
    names = [PurePosixPath(name) for name in zipfile.ZipFile(wheel).namelist()]
    inside = [name for name in names if not name.parts[0].endswith(".dist-info")]
    assert {name.parts[0] for name in inside} == {"de_jupyter_a_la_tierra"}
    code = [name for name in inside if name.parts[1] not in ("conf", "constraints", "notebooks", "templates")]
    assert {name.suffix for name in code} <= {"", ".py", ".pyi", ".po", ".mo", ".typed"}
    assert not [name for name in inside if name.suffix == ".py" and name not in code]  # pip los compilaría
    package = ROOT / "de_jupyter_a_la_tierra"
    typed = {path.relative_to(ROOT).as_posix() for path in (package / "py.typed", *package.rglob("*.pyi"))}
    assert typed <= {str(name) for name in inside}  # sin ellos, ni los tipos se ven ni las caras se abren

    def cargo(folder: str) -> set[str]:
        return {"/".join(name.parts[2:]) for name in inside if name.parts[1] == folder}

    def ours(folder: str, *patterns: str) -> set[str]:
        paths = [path for pattern in patterns for path in (ROOT / folder).glob(pattern) if path.is_file()]
        return {path.relative_to(ROOT / folder).as_posix() for path in paths if "__pycache__" not in path.parts}

    assert cargo("conf") == ours("conf", "logging.yml", "base/*.yml")
    assert cargo("notebooks") == ours("nbs", "*_*/*.ipynb")
    assert cargo("templates") == ours("templates", "**/*")
    assert cargo("constraints") == {"bootstrap.txt", "runtime.txt"}


def test_sdist_contents(dist):
    """En el paquete fuente, lo justo para rehacer la rueda."""
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {PurePosixPath(*PurePosixPath(member.name).parts[1:]) for member in archive if member.isfile()}
    top = {name.parts[0] for name in names if not name.parts[0].endswith(".egg-info")}
    files = {"CHANGELOG.md", "LICENSE", "MANIFEST.in", "PKG-INFO", "README.md", "pyproject.toml", "settings.ini"}
    folders = {"conf", "de_jupyter_a_la_tierra", "nbs", "requirements", "templates"}
    assert top == files | folders | {"setup.cfg", "setup.py"}
    assert not [name for name in names if name.parts[:2] == ("conf", "local")]


def test_metadata(dist):
    """twine, en estricto, da por buenos los dos."""
    done = subprocess.run([BIN / "twine", "check", "--strict", *dist.glob("de_*")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


class Installed:
    """Un entorno nuevo con la rueda, y una carpeta vacía en la que trabajar.

    Las dependencias las pone uv, que las tiene guardadas; la rueda, pip, como quien llega: la compila al instalarla.
    """

    def __init__(self, folder: Path, wheel: Path, extra: str = "") -> None:
        self.venv, self.cwd = folder / "mi año/venv", folder / "mi año/vacía"
        self.bin = self.venv / "bin"
        self.cwd.mkdir(parents=True)
        self.call("uv", "venv", "-q", "--python", sys.executable, self.venv)
        pins = ["--python", self.bin / "python", "-c", ROOT / "requirements/runtime.txt"]
        self.call("uv", "pip", "install", "-q", *pins, f"de-jupyter-a-la-tierra{extra} @ {wheel.as_uri()}")
        pip = ["python", "-m", "pip", "--python", self.venv, "install", "-q", "--no-index"]
        self.call(*pip, "--no-deps", "--force-reinstall", f"de-jupyter-a-la-tierra{extra} @ {wheel.as_uri()}")

    @staticmethod
    def call(order: str, *arguments: str | Path) -> None:
        """Llama a una orden del entorno de pruebas y exige que vaya bien."""
        done = subprocess.run([BIN / order, *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    def run(self, *command: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Ejecuta una orden del entorno como si no hubiera otro."""
        outside = {"PYTHONPATH", "VIRTUAL_ENV", "COVERAGE_PROCESS_START"}
        env = {key: value for key, value in os.environ.items() if key not in outside}
        env["PATH"] = f"{self.bin}:/usr/bin:/bin"
        command = [self.bin / command[0], *command[1:]]
        return subprocess.run(command, cwd=cwd or self.cwd, env=env, capture_output=True, text=True, timeout=300)

    def ok(self, *command: str | Path) -> str:
        """Como `run`, pero exige que vaya bien; devuelve lo que dijo."""
        done = self.run(*command)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="session")
def core(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Installed:
    """La rueda sin extras."""
    return Installed(tmp_path_factory.mktemp("core"), wheel)


@pytest.fixture(scope="session")
def kedro(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Installed:
    """La rueda con el extra `kedro`."""
    return Installed(tmp_path_factory.mktemp("kedro"), wheel, "[kedro]")


def test_core_imports(core):
    """Sin extras se importa, y de lo pesado no se trae nada."""
    heavy = core.ok("python", "-c", "import sys, de_jupyter_a_la_tierra; print({'pandas', 'sklearn'} & {*sys.modules})")
    assert heavy.strip() == "set()"


def test_core_version(core):
    """`tierra --version` dice la de settings.ini."""
    settings = ConfigParser(delimiters=["="], interpolation=None)
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    assert settings["DEFAULT"]["version"] in core.ok("tierra", "--version")


def cpu_seconds(installed: Installed, *command: str) -> float:
    """Los segundos de CPU (usuario y sistema) que gasta una orden que va bien."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    installed.ok(*command)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_core_help_is_quick(core):
    """`tierra --help` responde con menos de medio segundo de CPU: la mejor de tres, ya compilado."""
    assert "Uso:" in core.ok("tierra", "--help")
    assert min(cpu_seconds(core, "tierra", "--help") for _ in range(3)) < HELP_CPU_SECONDS


MISSING = {
    "run": "kedro",
    "predict x.csv y.csv": "kedro",
    "serve": "api",
    "models list": "mlflow",
    "sweep --grid model.type=logistic": "mlflow",
    "jobs run entrenar": "trabajos",
    "stage 2 gatos": "libreta",
}


@pytest.mark.parametrize("command", MISSING)
def test_core_names_the_missing_extra(core, command):
    """Una orden a la que le falta su extra dice cuál instalar, sin traza."""
    done = core.run("tierra", *command.split())
    assert done.returncode == 2
    assert f'pip install "de-jupyter-a-la-tierra[{MISSING[command]}] @ file://' in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


STILL_MISSING = {
    "serve": "api",
    "models list": "mlflow",
    "models promote 1": "mlflow",
    "predict x.csv y.csv --model models:/catfood@champion": "mlflow",
    "jobs run entrenar": "trabajos",
    "predict x.csv y.csv --scheduler tcp://127.0.0.1:1": "cluster",
}


@pytest.mark.parametrize("command", STILL_MISSING)
def test_kedro_names_the_missing_extra(kedro, command):
    """Con un extra puesto, la orden que pide otro dice cuál, y no manda repetir lo que ya se hizo."""
    (kedro.cwd.parent / "otra").mkdir(exist_ok=True)
    done = kedro.run("tierra", *command.split(), cwd=kedro.cwd.parent / "otra")
    assert done.returncode == 2
    assert f'pip install "de-jupyter-a-la-tierra[{STILL_MISSING[command]}] @ file://' in done.stderr


def test_the_suggested_install_is_understood(kedro, wheel):
    """La orden que se enseña, tal cual, la entiende pip: el extra se pide al sitio del que salió el paquete."""
    said = kedro.run("tierra", "models", "list", cwd=kedro.cwd.parent).stderr
    (requirement,) = re.findall(r'pip install "(.+)"', said)
    kedro.call("uv", "pip", "install", "-q", "--dry-run", "--no-deps", "--python", kedro.bin / "python", requirement)
    assert Requirement(requirement).url == wheel.as_uri()


def test_nothing_of_nbdev_is_installed(kedro):
    """Ni con el extra se instalan las herramientas de construcción."""
    code = "from importlib.metadata import distributions as d; print(*sorted(x.name.lower() for x in d()))"
    assert not {"nbdev", "fastcore", "execnb", "pytest"} & {*kedro.ok("python", "-c", code).split()}


def test_whole_journey_in_an_empty_folder(kedro):
    """Datos, pipelines y predicción, desde la rueda y en una carpeta vacía, que pasa a ser el proyecto."""
    kedro.ok("tierra", "data", "--rows", "600", "--seed", "7")
    raw = kedro.cwd / "data/01_raw/catfood_simulated.csv"
    assert len(raw.read_text(encoding="utf-8").splitlines()) == 601

    said = kedro.ok("tierra", "run")
    assert "simulado" in said.lower()
    assert list((kedro.cwd / "data/06_models").rglob("model.onnx"))

    kedro.ok("tierra", "predict", raw, "puntuadas.csv")
    scored = (kedro.cwd / "puntuadas.csv").read_text(encoding="utf-8").splitlines()
    assert len(scored) == 601
    assert [path.name for path in kedro.cwd.iterdir() if path.name not in ("data", "puntuadas.csv")] == []


def test_projects_are_written_from_the_wheel(kedro):
    """`tierra stage` y `tierra new`: pip compila lo que instala, y no estorba."""
    assert list(kedro.venv.rglob("de_jupyter_a_la_tierra/__pycache__/*.pyc"))
    projects = kedro.cwd.parent / "¿proyectos?"
    projects.mkdir()
    kedro.ok("tierra", "stage", "1", projects / "gatos 1")
    kedro.ok("tierra", "stage", "6", projects / "gatos 6")
    assert (projects / "gatos 6/tests/test_jobs.py").is_file()
    sheet = projects / "vinos.csv"
    sheet.write_text("alcohol;calidad\n" + "".join(f"{9 + i % 5},5;{i % 3}\n" for i in range(60)))
    kedro.ok("tierra", "new", "vinos", "--data", sheet, "--target", "calidad", "--dest", projects / "vinos")
    assert (projects / "vinos/tests/conftest.py").is_file()
    assert not list(projects.rglob("*.pyc"))
