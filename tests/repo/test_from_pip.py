"""Quien llega sin clonar nada: un Python, pip, la rueda, una carpeta vacía y el README, orden a orden.

Las órdenes salen del propio README: la que se añada y no se siga aquí, ni se diga dónde se prueba, hace fallar estas pruebas.
"""
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from outside import BIN, ROOT, find_port, run, serving

from de_jupyter_a_la_tierra.catfood.simulate import simulate_foods
from de_jupyter_a_la_tierra.landing.stages import read_constraints

ORIGIN = "git+https://github.com/oscarigrexas/de-jupyter-a-la-tierra"
VERSIONS = sorted({"3.11", "3.13", f"{sys.version_info.major}.{sys.version_info.minor}"})
STAGES = (1, 2, 4, 5, 6)  # la tercera es la del README
WINES = "alcohol;acidez;calidad\n" + "".join(f"{9 + i % 5},{i % 7};{i % 4},5;{i % 5 // 2}\n" for i in range(120))


def read_commands() -> list[str]:
    """Las líneas de los bloques de terminal del README, sin comentarios, en su orden."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    lines = [re.sub(r"(^|\s+)#.*", "", line).strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


def find_python(version: str) -> str:
    """Un Python de esa versión: este, el de pyenv, uno de uv o el del sistema; vacío si no lo hay."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    listed = subprocess.run([BIN / "uv", "python", "list", "--only-installed", version], capture_output=True, text=True)
    by_uv = [line.split(maxsplit=1)[1].partition(" -> ")[0] for line in listed.stdout.splitlines()]
    candidates = [sys._base_executable, *pyenv.glob(f"versions/{version}.*/bin/python3"), *by_uv]
    for candidate in map(str, candidates):
        asked = subprocess.run(
            [candidate, "-c", "import sys, ensurepip, venv; print('%d.%d' % sys.version_info[:2])"], capture_output=True, text=True
        )
        if asked.stdout.strip() == version:
            return candidate
    return ""


class Newcomer:
    """Su carpeta, vacía y de nombre difícil. Lo que hace una orden se lo encuentra la siguiente."""

    def __init__(self, folder: Path, python: str, wheel: Path) -> None:
        self.python, self.home = python, folder / "mi año nuevo"
        self.home.mkdir()
        shutil.copy(wheel, folder)
        self.origin = (folder / wheel.name).as_uri()
        self.constraints = folder / "versiones.txt"  # pip no admite huellas en los límites de lo que se le pide sin ellas
        self.constraints.write_text(read_constraints(), encoding="utf-8")

    def shell(self, command: str) -> list[str]:
        """Cómo se teclea una orden: con el entorno activado, en cuanto lo hay."""
        active = ". .venv/bin/activate && " if (self.home / ".venv").exists() else ""
        return ["sh", "-c", active + command]

    def type(self, command: str) -> str:
        """Teclea una orden en su carpeta y exige que vaya bien; devuelve lo que dijo."""
        said, _ = run(*self.shell(command), cwd=self.home, PYTHON="python3")
        assert "Traceback" not in said, said
        return said

    def forget(self, project: str) -> None:
        """Borra el entorno de un proyecto, que ya no hace falta."""
        shutil.rmtree(self.home / project / ".venv")


@pytest.fixture(scope="module", params=VERSIONS)
def newcomer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Iterator[Newcomer]:
    """Quien llega con cada Python."""
    python = find_python(request.param)
    if not python:
        pytest.skip(f"en esta máquina no hay Python {request.param}")
    folder = tmp_path_factory.mktemp("ñandú ")
    yield Newcomer(folder, python, wheel)
    shutil.rmtree(folder)


# --- Cada orden del README ---------------------------------------------------------------------------------------

# Las que no son de quien instala con pip, y dónde se prueban.
ELSEWHERE = {
    "git clone https://github.com/oscarigrexas/de-jupyter-a-la-tierra": "test_install.py, con un clon de este",
    "cd de-jupyter-a-la-tierra": "test_make.py, que trabaja en una copia",
    "make run": "test_make.py",
    "make test": "lo que ejecuta estas pruebas",
    "tierra data --real": "test_real_data.py y los cuadernos, sin pedir nada a nadie",
}
FOLLOWED: dict[str, Callable[[Newcomer, str], None]] = {}


def follows(command: str) -> Callable[[Callable[[Newcomer, str], None]], Callable[[Newcomer, str], None]]:
    """Apunta quién sigue una orden del README y mira lo que deja."""

    def note(step: Callable[[Newcomer, str], None]) -> Callable[[Newcomer, str], None]:
        FOLLOWED[command] = step
        return step

    return note


@follows("python3 -m venv .venv && . .venv/bin/activate")
def activate(newcomer: Newcomer, command: str) -> None:
    """El entorno, con el Python que toca."""
    newcomer.type(command.replace("python3", shlex.quote(newcomer.python), 1))
    assert not newcomer.home.joinpath(".venv/bin/tierra").exists()


@follows(f'pip install "de-jupyter-a-la-tierra[kedro] @ {ORIGIN}"')
def install(newcomer: Newcomer, command: str) -> None:
    """pip, con la rueda en el sitio del repositorio y las versiones de nuestro candado."""
    newcomer.type(f"{command.replace(ORIGIN, newcomer.origin)} -q -c {shlex.quote(str(newcomer.constraints))}")
    assert "Uso:" in newcomer.type("tierra --help")


@follows("tierra data")
def write_data(newcomer: Newcomer, command: str) -> None:
    """Los datos simulados, y la orden que sigue."""
    assert "tierra run" in newcomer.type(command)
    assert (newcomer.home / "data/01_raw/catfood_simulated.csv").is_file()


@follows("tierra run")
def train(newcomer: Newcomer, command: str) -> None:
    """El modelo, y que se diga que sus datos son simulados."""
    assert "simulado" in newcomer.type(command)
    assert list(newcomer.home.glob("data/06_models/**/model.onnx"))


@follows("tierra predict comidas.csv puntuadas.csv")
def score(newcomer: Newcomer, command: str) -> None:
    """Una nota por fila."""
    simulate_foods(50, 7).to_csv(newcomer.home / "comidas.csv", index=False)
    newcomer.type(command)
    scored = (newcomer.home / "puntuadas.csv").read_text(encoding="utf-8").splitlines()
    assert len(scored) == 51 and "score" in scored[0]


@follows("tierra stage 3 gatos-etapa-3")
def write_stage(newcomer: Newcomer, command: str) -> None:
    """El proyecto, y cómo se entra en él."""
    assert "cd gatos-etapa-3 && make run" in newcomer.type(command)


@follows("cd gatos-etapa-3 && make run && make test")
def work_in_stage(newcomer: Newcomer, command: str) -> None:
    """El viaje y las pruebas de esa etapa, con el Python del entorno activado."""
    said = newcomer.type(command)
    assert re.search(r"\d+ passed", said) and not re.search(r"\d+ (failed|error|skipped)", said), said
    newcomer.forget("gatos-etapa-3")


@follows("tierra new vinos --data vinos.csv --target calidad")
def write_project(newcomer: Newcomer, command: str) -> None:
    """Un proyecto con una hoja en español."""
    (newcomer.home / "vinos.csv").write_text(WINES, encoding="cp1252")
    assert "cd vinos && make run" in newcomer.type(command)


@follows("cd vinos && make run && make serve")
def work_in_project(newcomer: Newcomer, command: str) -> None:
    """Su viaje, y su API, que contesta al `curl` que se lee."""
    before, _, serve = command.rpartition(" && ")
    said, port = newcomer.type(before), find_port()
    (curl,) = re.findall(r"curl .*", said)
    order = newcomer.shell(f"cd vinos && exec {serve} PORT={port}")
    with serving(*order, cwd=newcomer.home, port=port, PYTHON="python3"):
        answer = json.loads(newcomer.type(curl.replace(":8000/", f":{port}/")))
    assert answer["score"] in (0, 1, 2)
    newcomer.forget("vinos")


def test_every_command_of_the_readme_has_who_follows_it():
    """Ni una de más ni una de menos, y cada una se escribe una sola vez."""
    assert sorted(read_commands()) == sorted([*ELSEWHERE, *FOLLOWED])


@pytest.mark.long
@pytest.mark.network
@pytest.mark.parametrize("command", [command for command in read_commands() if command not in ELSEWHERE])
def test_the_readme_can_be_followed(newcomer, command):
    """Cada orden, tecleada tal cual, hace lo que dice."""
    FOLLOWED[command](newcomer, command)


# --- Y cada etapa ------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.network
@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_runs(newcomer, stage):
    """`tierra stage N` y `make run`, en una carpeta con espacios; la segunda sube después a la quinta y sigue donde estaba."""
    project = newcomer.home / f"gatos de la {stage}.ª"
    enter = f"cd {shlex.quote(project.name)} && make run"
    assert enter in newcomer.type(f"tierra stage {stage} {shlex.quote(project.name)}")
    newcomer.type(enter)
    models = [*project.glob("data/06_models/**/model.onnx")]
    assert bool(models) == (stage > 1)
    if stage == 2:
        newcomer.type(f"cd {shlex.quote(project.name)} && tierra stage 5 . && make run")
        assert len([*project.glob("data/06_models/**/model.onnx")]) == len(models) + 1
    newcomer.forget(project.name)
