"""El proyecto se cuenta a sí mismo la verdad: lo que sale de los cuadernos está al día."""
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
SETTINGS = ConfigParser(delimiters=["="], interpolation=None)
SETTINGS.read(ROOT / "settings.ini", encoding="utf-8")
PACKAGE = SETTINGS["DEFAULT"]["lib_path"]


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """Una copia de los cuadernos y de los ajustes, sin el paquete."""
    shutil.copytree(ROOT / "nbs", tmp_path / "nbs", ignore=shutil.ignore_patterns(".*"))
    for name in ("settings.ini", "setup.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def read_tree(folder: Path, pattern: str) -> dict[str, str]:
    """Los ficheros de una carpeta y su texto."""
    paths = [path for path in folder.rglob(pattern) if path.name != "_modidx.py"]
    return {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def test_the_package_is_what_the_notebooks_export(sources):
    """El paquete es, letra a letra, lo que nbdev exporta; si no, `make export`."""
    done = subprocess.run([BIN / "nbdev_export"], cwd=sources, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert read_tree(sources / PACKAGE, "*.py") == read_tree(ROOT / PACKAGE, "*.py")


def test_the_notebooks_are_clean(sources):
    """Los cuadernos no guardan metadatos que ensucien los diffs; si no, `make clean-nbs`."""
    before = read_tree(sources / "nbs", "*.ipynb")
    done = subprocess.run([BIN / "nbdev_clean"], cwd=sources, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert read_tree(sources / "nbs", "*.ipynb") == before
