"""Editar: ejecutar un cuaderno no es un cambio, un conflicto no se cuela, lo editado en el paquete no se pierde."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
ERRORS, MERGING, JOB = "nbs/2_kedro/01_errors.ipynb", "nbs/7_aterrizar/13_merge.ipynb", "nbs/6_trabajos/entrenar.ipynb"
MODULE = "de_jupyter_a_la_tierra/landing/merge.py"
ENV = {key: value for key, value in os.environ.items() if not key.startswith(("GIT_", "JUPYTER_"))}
ENV |= {f"GIT_{who}_{what}": "ana@example.com" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
ENV["SKIP"] = "layers,readme"  # de los ganchos, los que aquí no se miran


class Clone:
    """Una copia del repositorio, con su git y con el entorno de estas pruebas."""

    def __init__(self, root: Path):
        self.root = root
        listed = subprocess.run(["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True)
        for name in filter(None, listed.stdout.decode().split("\0")):
            if (ROOT / name).is_file():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, root / name, follow_symlinks=False)
        (root / ".venv").symlink_to(sys.prefix)
        (root / ".git/info").mkdir(parents=True)
        self.git("init", "-q", "-b", "main")
        (root / ".git/info/exclude").write_text(".venv\n")
        self.commit("todo")

    def call(self, *command: str | Path, status: int | None = 0, env: dict[str, str] | None = None) -> str:
        """Lo que dice una orden, por donde lo diga; si no acaba como se espera, la prueba lo enseña."""
        env = {**ENV, "PATH": f"{BIN}{os.pathsep}{ENV['PATH']}", **(env or {})}
        done = subprocess.run(command, cwd=self.root, env=env, capture_output=True, text=True, timeout=120)
        assert status is None or done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    def git(self, *arguments: str, status: int | None = 0) -> str:
        """Una orden de git."""
        return self.call("git", *arguments, status=status)

    def commit(self, message: str) -> None:
        """Guarda todo lo que haya cambiado."""
        self.git("add", "-A")
        self.git("commit", "-q", "--no-verify", "-m", message)

    def python(self, script: str, *arguments: str, status: int = 0) -> str:
        """Un guion de scripts/."""
        return self.call(sys.executable, f"scripts/{script}.py", *arguments, status=status)

    def replace(self, path: str, before: str, after: str) -> None:
        """Cambia un texto, que tiene que estar, por otro."""
        text = (self.root / path).read_text(encoding="utf-8")
        assert before in text
        (self.root / path).write_text(text.replace(before, after), encoding="utf-8")

    def read(self, path: str) -> str:
        """El texto de un fichero."""
        return (self.root / path).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """La copia, sin tocar."""
    return Clone(tmp_path_factory.mktemp("editar") / "repo")


@pytest.fixture
def clone(pristine: Clone) -> Clone:
    """La copia, otra vez como estaba: cada prueba puede cambiar lo que quiera."""
    for command in (["merge", "--abort"], ["reset", "-q", "--hard", "main"], ["checkout", "-q", "-B", "prueba", "main"]):
        pristine.git(*command, status=None)
    pristine.git("clean", "-qfdx", "-e", ".venv")
    return pristine


# --- Ejecutar y guardar no es un cambio --------------------------------------------------------------------------

# Lo que hace JupyterLab: leer por su gestor de contenidos, ejecutar las celdas y guardar por él lo que ha salido.
RUN_ALL_AND_SAVE = """
import asyncio
import sys
from jupyter_server.serverapp import ServerApp
from nbclient import NotebookClient

root, *paths = sys.argv[1:]
app = ServerApp()
argv = [f"--ServerApp.root_dir={root}", "--ServerApp.allow_root=True"]
app.initialize(argv=argv, new_httpserver=False, find_extensions=False)

async def run_all_and_save(path):
    model = await app.contents_manager.get(path)
    resources = {"metadata": {"path": f"{root}/nbs"}}
    await NotebookClient(model["content"], allow_errors=True, resources=resources).async_execute()
    model["content"].cells[0].metadata["collapsed"] = True
    await app.contents_manager.save(model, path)

async def main():
    for path in paths:
        await run_all_and_save(path)

asyncio.run(main())
"""


def run_all_and_save(clone: Clone, *paths: str) -> None:
    """Ejecuta y guarda con la configuración de Jupyter del repositorio, y con ninguna otra."""
    aside = {f"JUPYTER_{name}_DIR": str(clone.root / ".git/jupyter") for name in ("CONFIG", "DATA", "RUNTIME")}
    env = {**aside, "JUPYTER_CONFIG_PATH": str(clone.root / "scripts")}
    clone.call(sys.executable, "-c", RUN_ALL_AND_SAVE, clone.root, *paths, env=env)


def test_run_all_and_save_is_no_change(clone):
    """Con el gancho de `make hooks`, tras Restart & Run All y guardar, git no ve nada; ni las salidas de un trabajo."""
    cells = [new_markdown_cell("# Trabajo\n> Saluda.\n\n- skip_exec: true"), new_code_cell("print('hola\\n' * 210)")]
    nbformat.write(new_notebook(cells=cells), clone.root / "nbs/trabajo.ipynb")
    clone.python("clean_notebooks")
    clone.commit("un trabajo")
    run_all_and_save(clone, ERRORS, "nbs/trabajo.ipynb")
    assert clone.git("status", "--porcelain") == ""


def test_other_notebooks_are_saved_as_they_are(clone):
    """El gancho solo toca los cuadernos de nbs/."""
    shutil.copy(clone.root / ERRORS, clone.root / "mio.ipynb")
    run_all_and_save(clone, "mio.ipynb")
    assert json.loads(clone.read("mio.ipynb"))["cells"][2]["execution_count"] == 1


def test_make_hooks_links_the_jupyter_hook(clone):
    """`make hooks` y `make lab` dejan el gancho donde lo busca el Jupyter de .venv, sin tocar ~/.jupyter."""
    for target in ("hooks", "lab"):
        steps = clone.call("make", "-n", target)
        assert "ln -sf ../../../scripts/jupyter_server_config.py .venv/etc/jupyter/" in steps
    assert "git config --local include.path ../.gitconfig" in clone.call("make", "-n", "hooks")


def test_clean_drops_the_outputs_of_a_job(clone):
    """`make clean-nbs` también: de un trabajo no se guardan salidas; de una página, sí."""
    before = clone.read(JOB)
    notebook = json.loads(before)
    code = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    code["outputs"] = [{"output_type": "stream", "name": "stdout", "text": ["hola\n"] * 210}]
    (clone.root / JOB).write_text(json.dumps(notebook))
    clone.python("clean_notebooks")
    assert clone.read(JOB) == before
    assert clone.git("status", "--porcelain") == ""


def test_what_nbdev_notes_is_ignored(clone):
    """`nbdev_trust` apunta cuándo miró, y `make export`, lo que sacó: nada de eso es un cambio."""
    (clone.root / "nbs/.last_checked").touch()
    clone.python("export_notebooks")
    assert (clone.root / ".last_export.json").is_file()
    assert clone.git("status", "--porcelain") == ""


# --- La misma celda, cambiada en dos ramas -----------------------------------------------------------------------


@pytest.fixture
def conflict(clone: Clone) -> Clone:
    """Dos ramas que cambian la misma línea, y la fusión que se queda a medias."""
    for branch, word in (("otra", "rastro"), ("prueba", "marca")):
        clone.git("checkout", "-q", "-B", branch, "main")
        clone.replace(MERGING, "La huella de un texto.", f"La {word} de un texto.")
        clone.commit(word)
    return clone


def merge(clone: Clone, *options: str) -> None:
    """Funde la otra rama; choca."""
    assert "CONFLICT" in clone.git(*options, "merge", "otra", status=1)


def test_without_hooks_make_export_says_what_happened(conflict):
    """Con las marcas de git dentro del JSON: una frase con lo que hay que hacer, y nada de trazas; y pytest, lo mismo."""
    merge(conflict)
    for script in ("check_notebooks", "export_notebooks"):
        said = conflict.python(script, status=1)
        assert f"{MERGING} está a medio fundir" in said
        assert f".venv/bin/nbdev_fix {MERGING}" in said
        assert "Traceback" not in said
    said = conflict.call(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", MERGING, status=None)
    assert "está a medio fundir" in said
    conflict.call(BIN / "nbdev_fix", MERGING, status=1)  # dice así que queda por elegir
    assert "conflictos sin resolver: una celda de texto, bajo «Lo que se recuerda»" in conflict.python("check_notebooks", status=1)


@pytest.mark.long
def test_with_hooks_a_conflict_is_not_committed(conflict):
    """Con la fusión celda a celda el cuaderno se abre, pero no se guarda hasta elegir; y entonces, sí."""
    conflict.git("config", "--local", "include.path", "../.gitconfig")
    conflict.call(BIN / "pre-commit", "install")
    merge(conflict)
    twice = json.loads(conflict.read(MERGING))
    said = conflict.git("commit", "-qam", "a medias", status=1)
    assert f"{MERGING} tiene conflictos sin resolver" in said
    assert "Traceback" not in said
    said = conflict.call(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", MERGING, status=None)
    assert "conflictos sin resolver" in said

    cells = [(cell, "".join(cell["source"])) for cell in twice["cells"]]
    twice["cells"] = [cell for cell, source in cells if source[:4] not in ("`<<<", "`===", "`>>>") and "rastro" not in source]
    (conflict.root / MERGING).write_text(json.dumps(twice), encoding="utf-8")
    conflict.python("clean_notebooks")
    conflict.python("export_notebooks")
    conflict.git("commit", "-qam", "resuelto")
    assert "La marca de un texto." in conflict.git("show", f"HEAD:{MODULE}")


def test_twin_cells_are_named(clone):
    """Dos celdas con el mismo id, sin marcas: las dos se nombran y nada se exporta; pytest lo dice igual."""
    cells = [
        new_markdown_cell("# Hola\n> Qué tal.", id="a"), new_code_cell("x = 1", id="b"),
        new_markdown_cell("## Adiós", id="c"), new_code_cell("x = 2", id="b"),
    ]
    (clone.root / "nbs/gemelas.ipynb").write_text(json.dumps({**new_notebook(), "cells": cells}))
    said = clone.python("export_notebooks", status=1)
    assert "nbs/gemelas.ipynb tiene dos celdas con el mismo id, «b»: la celda [1], bajo «Hola» y la celda [2], bajo «Adiós»" in said
    said = clone.call(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "nbs/gemelas.ipynb", status=None)
    assert "tiene dos celdas con el mismo id" in said
    assert "DuplicateCellId" not in said


# --- Lo editado en el paquete ------------------------------------------------------------------------------------

EDIT = ('    """La huella de un texto."""\n', '    """La huella de un texto."""\n    # un apunte\n')


@pytest.mark.parametrize("is_staged", [False, True])
def test_an_edit_in_the_package_is_not_destroyed(clone, is_staged):
    """Exportar se niega, enseña el cambio y dice cómo se guarda, esté o no añadido a git; con --force, lo pisa."""
    clone.replace(MODULE, *EDIT)
    edited = clone.read(MODULE)
    if is_staged:
        clone.git("add", "-A")
    for options in ([], ["--check"]):
        said = clone.python("export_notebooks", *options, status=1)
        assert "editado a mano" in said and "+    # un apunte" in said and "make update" in said
        assert clone.read(MODULE) == edited
    clone.python("export_notebooks", "--force")
    assert "un apunte" not in clone.read(MODULE)


def test_update_carries_the_edit_to_the_notebook(clone):
    """`make update` lleva el cambio a su celda, junto con lo que el cuaderno cambió en otra, y exporta las dos cosas."""
    clone.replace(MODULE, *EDIT)
    clone.replace(MERGING, "Dice si un texto es JSON.", "Dice si es JSON.")
    said = clone.python("export_notebooks", "--update")
    assert "el cuaderno ya lo tiene" in said
    assert "# un apunte" in clone.read(MERGING) and "Dice si es JSON." in clone.read(MERGING)
    assert "# un apunte" in clone.read(MODULE) and "Dice si es JSON." in clone.read(MODULE)
    assert clone.git("diff", "--numstat", "--", "nbs").split() == ["2", "1", MERGING]
    clone.python("export_notebooks", "--check")


def test_update_does_not_choose(clone):
    """La misma línea cambiada en el módulo y en el cuaderno: no se toca ninguno de los dos."""
    clone.replace(MODULE, "La huella de un texto.", "La marca de un texto.")
    clone.replace(MERGING, "La huella de un texto.", "El rastro de un texto.")
    before = clone.read(MODULE), clone.read(MERGING)
    said = clone.python("export_notebooks", "--update", status=1)
    assert "de dos maneras" in said and "+    \"\"\"La marca de un texto." in said
    assert (clone.read(MODULE), clone.read(MERGING)) == before


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("def hash_text(", "def hash_text((", f"{MODULE}, línea "),
        ('"""Dejar unos ficheros', '"""Poner unos ficheros', "el cuaderno no puede guardarlo"),
    ],
    ids=["sintaxis", "fuera de una celda"],
)
def test_update_says_what_it_cannot_carry(clone, before, after, said):
    """Ni lo que no es Python ni lo que no sale de ninguna celda; lo editado sigue donde estaba."""
    clone.replace(MODULE, before, after)
    answer = clone.python("export_notebooks", "--update", status=1)
    assert said in answer and "Traceback" not in answer
    assert after in clone.read(MODULE)


def test_exporting_twice_is_no_edit(clone):
    """Lo que escribió la última exportación no está editado a mano, aunque git aún no lo tenga."""
    clone.replace(MERGING, "La huella de un texto.", "La marca de un texto.")
    clone.python("export_notebooks")
    clone.replace(MERGING, "La marca de un texto.", "El rastro de un texto.")
    assert "Ejecuta: make export" in clone.python("export_notebooks", "--check", status=1)
    clone.python("export_notebooks")
    assert "El rastro de un texto." in clone.read(MODULE)


def test_another_branch_is_no_edit(clone):
    """Cambiar de rama cambia el paquete, y nadie lo ha editado."""
    clone.git("checkout", "-q", "-B", "otra", "main")
    clone.replace(MERGING, "La huella de un texto.", "La marca de un texto.")
    clone.python("export_notebooks")
    clone.commit("marca")
    clone.git("checkout", "-q", "prueba")
    clone.replace(MERGING, "La huella de un texto.", "El rastro de un texto.")
    clone.python("export_notebooks")
    assert "El rastro de un texto." in clone.read(MODULE)


# --- Una celda que falla -----------------------------------------------------------------------------------------


def test_a_failing_cell_is_named_by_its_heading(clone):
    """El título, el sitio, la línea que falla o lo que ha cambiado: en español y sin códigos de color."""
    cells = [
        new_markdown_cell("# Cuaderno"), new_code_cell("def f(x):\n    return x + 1"), new_markdown_cell("## La suma"),
        new_code_cell("y = f(1)\nassert y == 3"), new_markdown_cell("## La salida"),
        new_code_cell("print('ahora')", outputs=[new_output("stream", text="antes\n")]), new_code_cell("f('a')"),
    ]
    nbformat.write(new_notebook(cells=cells), clone.root / "nbs/falla.ipynb")
    command = [sys.executable, "-m", "pytest", "-q", "--color=yes", "-p", "no:cacheprovider", "nbs/falla.ipynb"]
    said = clone.call(*command, status=1, env={"COLUMNS": "200"})
    assert "la celda [2], bajo «La suma»: AssertionError\n\n    y = f(1)\n--> assert y == 3\n" in said
    assert "la celda [3], bajo «La salida»: su salida ya no es la que guarda el cuaderno" in said
    assert "-antes\n+ahora\n" in said
    assert "la celda [4], bajo «La salida»: TypeError: can only concatenate" in said
    for text in ("Notebook cell execution failed", "Traceback", "\x1b[0;31m", "\x1b[94m", "\x1b[91m"):
        assert text not in said
