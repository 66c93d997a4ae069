"""La casa, medida: ejemplos tras las definiciones, tamaño de las clases y de las alas, y la cara que da el paquete."""
import ast
import importlib
import inspect
import json
import pkgutil
import re
import subprocess
import sys
from configparser import ConfigParser
from functools import cache
from pathlib import Path

import pytest

import de_jupyter_a_la_tierra as package

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / package.__name__
WINGS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.pyi"))

# --- Los cuadernos -----------------------------------------------------------------------------------------------

GOAL = 50  # % de celdas que definen algo y van seguidas de un ejemplo a la vista
FLOOR = 72  # el suelo de hoy: solo sube
RUN = 5  # definiciones seguidas sin ejemplo
CLASS_LINES = 60


def defines(source: str) -> bool:
    """Si una celda define una función o una clase."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return any(isinstance(node, kinds) for node in ast.parse(source).body)


def has(source: str, directive: str) -> bool:
    """Si una celda lleva una directiva de nbdev."""
    return bool(re.match(rf"(#\|.*\n)*#\| *{directive}\b", source))


def read_cells(path: Path) -> list[str]:
    """El texto de las celdas de código de un cuaderno, sin las vacías."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [source for cell in cells if cell["cell_type"] == "code" and (source := "".join(cell["source"])).strip()]


def draw_notebook(path: Path) -> str:
    """Un cuaderno, una letra por celda: D define y exporta, E es un ejemplo a la vista, x es lo demás que se exporta u oculta."""
    letters = []
    for source in read_cells(path):
        is_export = has(source, "exporti?")
        letters.append("D" if is_export and defines(source) else "x" if is_export or has(source, "(hide|default_exp)") else "E")
    return "".join(letters)


@cache
def draw_house() -> dict[str, str]:
    """Todos los cuadernos que son módulos."""
    drawn = {str(path.relative_to(ROOT / "nbs")): draw_notebook(path) for path in sorted((ROOT / "nbs").glob("*/*.ipynb"))}
    return {name: letters for name, letters in drawn.items() if "D" in letters}


def longest_run(letters: str) -> int:
    """Cuántas definiciones hay seguidas sin un ejemplo a la vista entre ellas."""
    return max(run.count("D") for run in letters.split("E"))


def test_definitions_have_an_example():
    """Tras una definición, un ejemplo a la vista: la mitad de las veces o más."""
    drawn = draw_house()
    total = sum(letters.count("D") for letters in drawn.values())
    shown = sum(letters.count("DE") for letters in drawn.values())
    worst = sorted(drawn, key=lambda name: drawn[name].count("DE") / drawn[name].count("D"))[:8]
    share = 100 * shown / total
    parts = ", ".join(f"{name} ({drawn[name].count('DE')} de {drawn[name].count('D')})" for name in worst)
    assert share >= FLOOR, f"{shown} de {total}, el {share:.1f} %; el suelo es el {FLOOR} % y la meta, el {GOAL} %. Los que menos: {parts}"


def test_no_long_runs_without_an_example():
    """Como mucho cinco definiciones seguidas sin un ejemplo."""
    runs = {name: longest_run(letters) for name, letters in draw_house().items()}
    assert not {name: run for name, run in runs.items() if run > RUN}


def test_classes_fit_in_a_page():
    """Ninguna celda con una clase pasa de sesenta líneas."""
    sizes = {}
    for name in draw_house():
        for source in read_cells(ROOT / "nbs" / name):
            if has(source, "exporti?") and any(isinstance(node, ast.ClassDef) for node in ast.parse(source).body):
                sizes[name] = max(sizes.get(name, 0), len(source.splitlines()) - 1)  # sin la directiva
    assert not {name: size for name, size in sizes.items() if size > CLASS_LINES}


# --- Los módulos -------------------------------------------------------------------------------------------------

MODULES, WIDEST, LAYERS = 101, 13, 12


def list_modules() -> list[Path]:
    """Los módulos del paquete, sin las caras de las alas ni el índice de nbdev."""
    return [path for path in PACKAGE.rglob("*.py") if not path.name.startswith("_")]


def test_the_house_has_few_rooms():
    """Cuántos módulos, cuántos en la carpeta más ancha y cuántas capas."""
    modules = list_modules()
    folders = [path.parent for path in modules]
    widest = max(set(folders), key=folders.count)
    parser = ConfigParser()
    parser.read(ROOT / ".importlinter", encoding="utf-8")
    layers = parser["importlinter:contract:tools"]["layers"].split("\n")[1:]
    assert len(modules) <= MODULES
    assert folders.count(widest) <= WIDEST, widest
    assert len(layers) <= LAYERS


# --- La cara -----------------------------------------------------------------------------------------------------


def read_stub(path: Path) -> list[str]:
    """Los nombres que ofrece una cara, en su `__init__.pyi`."""
    body = ast.parse((path / "__init__.pyi").read_text(encoding="utf-8")).body
    return [alias.asname or alias.name for node in body if isinstance(node, ast.ImportFrom) for alias in node.names]


@pytest.mark.parametrize("wing", ["", *WINGS])
def test_a_face_offers_what_it_says(wing):
    """`__all__` son los nombres del `.pyi`; todos se pueden importar, y ninguno se llama como un módulo del ala."""
    name = f"{package.__name__}.{wing}".rstrip(".")
    module = importlib.import_module(name)
    offered = read_stub(PACKAGE / wing)
    assert sorted(module.__all__) == sorted(offered)
    assert len(offered) == len(set(offered))
    inside = {found.name for found in pkgutil.iter_modules(module.__path__)}
    assert not inside & set(offered), "el submódulo, al importarse, taparía el nombre"
    for each in offered:
        assert not inspect.ismodule(getattr(module, each)), each
    assert set(offered) <= set(dir(module))


def test_every_wing_has_a_face():
    """Toda carpeta del paquete con módulos dice qué ofrece; el ejemplo y la orden no son bibliotecas."""
    wings = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert wings - set(WINGS) <= {"catfood", "cli"}


def test_importing_the_package_is_light():
    """Importarlo, y mirar qué ofrece, no trae ni numpy ni pandas."""
    code = f"import sys, {package.__name__} as p; dir(p); print(sorted({{'numpy', 'pandas', 'sklearn'}} & {{*sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


def test_help_pays_only_for_help():
    """`tierra --help` importa las órdenes, los errores y Click; nada de lo que solo hace falta para trabajar."""
    run = f"import sys; sys.argv = ['tierra', '--help']\nfrom {package.__name__}.cli.main import main\ntry: main()\nexcept SystemExit: pass"
    show = "print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", f"{run}\n{show}"], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(done.stderr.split())
    assert not loaded & {"babel", "dataclasses", "decimal", "difflib", "hashlib", "numpy", "pandas", "tomllib", "yaml"}
    ours = {name.removeprefix(f"{package.__name__}.") for name in loaded if name.startswith(f"{package.__name__}.")}
    assert {name for name in ours if not name.startswith("cli")} <= {"errors", "files", "hosting", "moved", "projects", "projects.failures"}
    assert "predict" in done.stdout


def test_the_package_runs():
    """`python -m de_jupyter_a_la_tierra` es la orden `tierra`."""
    command = [sys.executable, "-m", package.__name__, "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert package.__version__ in done.stdout
