"""Los nombres de módulos que van en textos existen: el que está mal no falla, solo cuesta la velocidad, o una prueba que no prueba."""
import os
import pkgutil
import re
import subprocess
import sys
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path

import pytest

from de_jupyter_a_la_tierra.engine.imports import COLD, LAZY
from de_jupyter_a_la_tierra.engine.preloading import BASE, KERNEL
from de_jupyter_a_la_tierra.moved import MOVED

ROOT = Path(__file__).parents[2]
PACKAGE = "de_jupyter_a_la_tierra"
HEAVY = ("numpy", "pandas", "matplotlib", "sklearn", "kedro", "mlflow", "pyarrow.lib")
QUOTED = re.compile(rf"""["']({PACKAGE}(?:\.\w+)+)["']""")
TYPED = re.compile(rf"(?m)^\s*(?:type|class): ({PACKAGE}(?:\.\w+)+)\s*$")


def exists(name: str) -> bool:
    """Si hay un módulo con ese nombre, mirando sus ficheros y sin importarlo."""
    top, *rest = name.split(".")
    spec = find_spec(top)
    for depth, _ in enumerate(rest, 2):
        if spec is None or spec.submodule_search_locations is None:
            return False
        spec = PathFinder.find_spec(".".join(name.split(".")[:depth]), list(spec.submodule_search_locations))
    return spec is not None


def list_entry_points() -> list[str]:
    """Lo que `setup.py` anuncia: «de_jupyter_a_la_tierra.cli.main:main»."""
    return [f"{PACKAGE}.{found}" for found in re.findall(r"\{package\}\.([\w.]+(?::\w+)?)", (ROOT / "setup.py").read_text(encoding="utf-8"))]


def list_quoted() -> list[str]:
    """Los nombres de lo nuestro que van entre comillas en el código, las pruebas y la configuración, y que no son de antes."""
    folders = [PACKAGE, "tests", "bench", "scripts", "conf", "templates"]
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".yml") and path.name != "_modidx.py"]
    texts = [(path, path.read_text(encoding="utf-8")) for path in sorted(files)]
    found = {name for path, text in texts for name in (QUOTED if path.suffix == ".py" else TYPED).findall(text)}
    return sorted(name for name in found if name.split(".")[1] not in MOVED)


@pytest.mark.parametrize("name", sorted({*KERNEL, *BASE, *COLD, *LAZY, *(name for names in LAZY.values() for name in names)}))
def test_what_is_preloaded_exists(name) -> None:
    """El servidor de procesos calientes se traga un `ImportError`: un nombre mal escrito solo se notaría en lo que tarda."""
    assert exists(name)


def test_an_entry_that_is_not_is_noticed() -> None:
    assert not exists("pandas.no_existe") and not exists(f"{PACKAGE}.engine.no_existe") and not exists("no_existe.tampoco")


def test_entry_points_lead_somewhere() -> None:
    names = list_entry_points()
    assert len(names) >= 15
    for name in names:
        assert pkgutil.resolve_name(name), name


def test_quoted_names_lead_somewhere() -> None:
    """Los de `monkeypatch`, los de un catálogo y los que se importan por su nombre."""
    names = list_quoted()
    assert len(names) >= 10
    for name in names:
        assert pkgutil.resolve_name(name) is not None, name


def test_the_engine_is_light() -> None:
    """Ni el motor ni el proceso de un trabajo importan nada que un cuaderno corto tendría que esperar."""
    modules = sorted(f"{PACKAGE}.engine.{path.stem}" for path in (ROOT / PACKAGE / "engine").glob("[!_]*.py"))
    code = (
        "import sys; from importlib import import_module; from de_jupyter_a_la_tierra.engine.preloading import import_base; import_base(); "
        f"sys.modules['pyarrow'] = None; [import_module(name) for name in {modules}]; "
        f"print(*[name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONWARNINGS": "ignore"})
    assert (done.stdout, done.returncode) == ("\n", 0), done.stderr
