"""El libro se lee hacia delante: ningún cuaderno necesita un módulo de una etapa posterior a la suya."""
import ast
import json
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from warnings import catch_warnings, simplefilter

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "de_jupyter_a_la_tierra"
EXPORTED = re.compile(r"^#\| default_exp (\S+)", re.M)


def read_code(notebook: Path) -> list[str]:
    """Las celdas de código de un cuaderno, sin las líneas que solo entiende IPython."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    sources = [source for source in sources if not source.startswith("%%")]  # una orden de la terminal no importa nada
    return ["\n".join(line for line in source.splitlines() if not line.lstrip().startswith(("%", "!"))) for source in sources]


@cache
def list_modules() -> dict[str, Path]:
    """Cada módulo del paquete y el cuaderno del que sale."""
    found = {}
    for notebook in sorted(ROOT.glob("nbs/[1-9]_*/*.ipynb")):
        if name := EXPORTED.search("\n".join(read_code(notebook))):
            found[f"{PACKAGE}.{name[1]}"] = notebook
    return found


def find_stage(notebook: Path) -> int:
    """La etapa de un cuaderno: el número de su carpeta."""
    return int(notebook.parent.name.partition("_")[0])


def find_origin(module: str, name: str) -> str:
    """El módulo que define un nombre, aunque se pida a un ala entera o al paquete, que lo traen de él."""
    if module in list_modules() or f"{module}.{name}" in list_modules():
        return module if module in list_modules() else f"{module}.{name}"
    with catch_warnings():
        simplefilter("ignore", DeprecationWarning)  # los caminos de antes también llevan a alguna etapa
        return getattr(getattr(import_module(module), name, None), "__module__", module)


def list_imports(source: str, module: str) -> Iterator[str]:
    """Los módulos nuestros que importa un texto, también dentro de sus funciones y por su ruta relativa."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith(PACKAGE))
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")[: -node.level] if node.level else []
            origin = ".".join([*parents, *filter(None, [node.module])])
            if origin.startswith(PACKAGE):
                yield from (find_origin(origin, alias.name) for alias in node.names)


def find_backwards(source: str, module: str, notebook: Path | None = None) -> list[str]:
    """Lo que importa un texto de una etapa posterior a la del cuaderno en que está; si no se dice cuál, el de su módulo."""
    modules = list_modules()
    stage = find_stage(notebook or modules[module])
    return [name for name in list_imports(source, module) if name in modules and find_stage(modules[name]) > stage]


@pytest.mark.parametrize("module", list_modules())
def test_no_module_needs_a_later_stage(module):
    """Ni lo que exporta un cuaderno, ni sus ejemplos, importan nada de una etapa que el lector no ha visto."""
    notebook, (package, *path) = list_modules()[module], module.split(".")
    exported = ROOT.joinpath(package, *path).with_suffix(".py").read_text(encoding="utf-8")
    backwards = find_backwards(exported, module)
    backwards += [name for cell in read_code(notebook) for name in find_backwards(cell, module)]
    assert not backwards, f"{notebook.relative_to(ROOT)} importa {', '.join(sorted({*backwards}))}"


def list_pages() -> list[Path]:
    """Los cuadernos que no son módulos: los capítulos, los trabajos y las recetas."""
    return [path for path in sorted(ROOT.glob("nbs/[1-9]_*/*.ipynb")) if path not in list_modules().values()]


@pytest.mark.parametrize("page", list_pages(), ids=lambda path: path.stem)
def test_no_chapter_needs_a_later_stage(page):
    """Un capítulo, a la vista o en una celda oculta, tampoco importa lo que aún no se ha contado: para eso están las órdenes."""
    backwards = [name for cell in read_code(page) for name in find_backwards(cell, "", page)]
    assert not backwards, f"{page.relative_to(ROOT)} importa {', '.join(sorted({*backwards}))}"


@pytest.mark.parametrize("source", [
    "def f():\n    from ..tracking.registry import resolve_model",
    "from de_jupyter_a_la_tierra.tracking import registry",
    "from de_jupyter_a_la_tierra import promote",
    "from de_jupyter_a_la_tierra.registry import resolve_model",
    "import de_jupyter_a_la_tierra.tracking.registry",
])
def test_no_way_of_importing_escapes(source):
    """Dentro de una función, relativo, por el ala o por la cara del paquete: un import hacia delante siempre se ve."""
    assert find_backwards(source, f"{PACKAGE}.projects.failures")


@pytest.mark.parametrize("group", ["tierra.commands", "tierra.hooks", "tierra.failures", "tierra.models"])
def test_what_the_stages_announce_is_there(group):
    """Lo que una etapa anuncia para que la encuentren las anteriores existe, y trae el extra que dice."""
    announced = [entry for entry in entry_points(group=group) if entry.value.startswith(PACKAGE)]
    assert announced
    for entry in announced:
        assert callable(entry.load()), entry
