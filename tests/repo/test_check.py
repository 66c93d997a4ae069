"""`make check`: de una sola cosa, exporta, limpia, revisa y prueba lo suyo y lo que la importa, y nada más."""
import subprocess
import sys
from pathlib import Path

import pytest
from outside import copy_sources

NOTEBOOK, MODULE = "nbs/7_aterrizar/13_merge.ipynb", "de_jupyter_a_la_tierra/landing/merge.py"


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Una copia del repositorio, con su git, en la que se puede escribir."""
    folder = copy_sources(tmp_path_factory.mktemp("check") / "repo")
    who = ["-c", "user.name=Ana", "-c", "user.email=ana@example.com"]
    for command in (["init", "-q"], ["add", "-A"], [*who, "commit", "-q", "--no-verify", "-m", "todo"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


def check(clone: Path, *arguments: str, status: int = 0) -> str:
    """Lo que dice el guion; si no acaba como se espera, la prueba lo enseña."""
    command = [sys.executable, clone / "scripts/check_one.py", *arguments]
    done = subprocess.run(command, cwd=clone, capture_output=True, text=True, timeout=120)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def write_out(clone: Path, status: int = 0) -> str:
    """Solo limpiar y exportar: mirar los tipos de una copia recién hecha cuesta medio minuto."""
    code = f"from pathlib import Path; import check_one; check_one.write_out(Path({NOTEBOOK!r}).resolve())"
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, 'scripts'); {code}"]
    done = subprocess.run(command, cwd=clone, capture_output=True, text=True, timeout=120)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def replace(path: Path, before: str, after: str) -> None:
    """Cambia un texto, que tiene que estar, por otro."""
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after), encoding="utf-8")


@pytest.mark.parametrize("path", ["nbs/6_trabajos/53_stream.ipynb", "de_jupyter_a_la_tierra/scoring/stream.py"])
def test_what_imports_it_is_tested_too(clone, path):
    """Del cuaderno o de su módulo se prueban el cuaderno y quienes lo importan, también por la cara de su ala."""
    listed = check(clone, "--list", path).split()
    assert listed[0] == "nbs/6_trabajos/53_stream.ipynb"
    assert {"nbs/6_trabajos/54_cli_predict.ipynb", "tests/scoring/test_scoring.py"} <= set(listed)
    assert "tests/api/test_api.py" not in listed
    assert check(clone, "--list", "--alone", path).split() == listed[:1]


def test_what_everybody_imports_is_left_to_make_test(clone):
    """De los errores, que importa casi todo, se prueba su cuaderno y se dice qué falta."""
    said = check(clone, "--list", "de_jupyter_a_la_tierra/errors.py")
    assert "nbs/2_kedro/01_errors.ipynb" in said and "make test" in said and "62_failures" not in said


def test_only_that_notebook_is_exported(clone):
    """El que se dice sale limpio y exportado; otro, a medio cambiar, se queda como estaba."""
    other = clone / "nbs/2_kedro/01_errors.ipynb"
    replace(clone / NOTEBOOK, "La huella de un texto.", "La marca de un texto.")
    replace(other, "#| default_exp errors", "#| default_exp errores")
    said = write_out(clone)
    assert MODULE in said and "La marca de un texto." in (clone / MODULE).read_text(encoding="utf-8")
    assert not (clone / "de_jupyter_a_la_tierra/errores.py").exists()
    assert write_out(clone) == ""  # y a la segunda no hay nada que hacer
    replace(clone / MODULE, "La marca de un texto.", "Editado a mano.")
    assert "make update" in write_out(clone, status=1)


def test_a_test_is_linted_and_run(clone):
    """Una prueba que pasa, acaba bien; con un import de más o un fallo, mal, y se dice cuál."""
    path = clone / "tests/test_mia.py"
    path.write_text('"""Mía."""\n\n\ndef test_mia():\n    """Pasa."""\n    assert 1\n', encoding="utf-8")
    assert "1 passed" in check(clone, "tests/test_mia.py")
    replace(path, "assert 1", "assert 0")
    assert "test_mia" in check(clone, "tests/test_mia.py", status=1)
    replace(path, '"""Mía."""\n', '"""Mía."""\nimport os\n')
    assert "F401" in check(clone, "tests/test_mia.py", status=1)


def test_what_is_not_ours_is_refused(clone):
    """Una ruta que no es nada de esto se dice con una frase."""
    for path in ("no_existe.ipynb", "Makefile"):
        said = check(clone, path, status=1)
        assert path in said and "Traceback" not in said
