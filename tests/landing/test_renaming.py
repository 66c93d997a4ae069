"""Un proyecto que se escribió con otros nombres: lo de su dueño viaja al nombre nuevo y nada se exporta dos veces."""
import json
import os
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import nbformat
import pytest

from de_jupyter_a_la_tierra.landing import merge as merging
from de_jupyter_a_la_tierra.landing import stages as landing
from de_jupyter_a_la_tierra.landing import templates
from de_jupyter_a_la_tierra.landing.merge import hash_text, rename_in, update_files, write_files
from de_jupyter_a_la_tierra.landing.stages import export_notebook, land, raise_stage, render_project
from de_jupyter_a_la_tierra.landing.templates import describe_example, read_notebooks, renumber

ROOT = Path(__file__).resolve().parents[2]
NUMBERED = re.compile(r"(\d+)[a-z]?_\w+\.ipynb")


def read_tree(folder: Path) -> dict[str, str]:
    """Los ficheros de una carpeta, menos lo que es de cada ordenador y lo que se recuerda."""
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {p: path.read_text(encoding="utf-8") for p, path in paths.items() if p not in ("local.mk", ".tierra.json")}


def list_modules(tree: dict[str, str]) -> Counter[str]:
    """Cuántos cuadernos exportan a cada módulo."""
    found = (re.search(r"#\| default_exp ([\w.]+)", text) for path, text in tree.items() if path.endswith(".ipynb"))
    return Counter(match[1] for match in found if match)


# --- Los números de lo que se escribe ----------------------------------------------------------------------------


def render(kind: str, stage: int) -> dict[str, str]:
    """Los ficheros del ejemplo o de un proyecto propio."""
    card = describe_example(stage).to_dict() | {"kind": kind}
    return render_project(landing.Landing.from_dict(json.loads(json.dumps(card))))


@pytest.mark.parametrize("kind", ["example", "own"])
def test_the_numbers_have_no_holes(kind):
    """En cada carpeta, 00 si lo hay y después 01, 02, 03…; y ningún texto nombra un cuaderno que no está."""
    files = render(kind, 6)
    notebooks = [path for path in files if path.endswith(".ipynb")]
    folders: dict[str, list[int]] = {}
    for path in notebooks:
        if found := NUMBERED.fullmatch(path.rpartition("/")[2]):
            folders.setdefault(path.rpartition("/")[0], []).append(int(found[1]))
    assert len(folders) > 3
    for folder, numbers in folders.items():
        numbers.sort()
        assert numbers == [*range(numbers[0], numbers[0] + len(numbers))] and numbers[0] in (0, 1), folder
    names = {path.rpartition("/")[2] for path in notebooks}
    for path, text in files.items():
        assert {found[0] for found in NUMBERED.finditer(text)} <= names, path


def test_the_numbers_of_the_book_do_not_matter(tmp_path, monkeypatch):
    """Si el libro numera de diez en diez, o con tres cifras, lo que se escribe es idéntico."""
    expected = read_notebooks(6)
    book = {path.relative_to(ROOT / "nbs").as_posix(): path for path in ROOT.glob("nbs/*/*.ipynb")}
    tens = {path: re.sub(r"/0*(\d+)_", lambda found: f"/{10 * int(found[1]):02d}_", path) for path in book}
    for path, source in book.items():
        (tmp_path / tens[path]).parent.mkdir(exist_ok=True)
        (tmp_path / tens[path]).write_text(rename_in(source.read_text(encoding="utf-8"), tens), encoding="utf-8")
    assert (tmp_path / "2_kedro/420_reporting.ipynb").is_file()
    monkeypatch.setattr(templates, "find_cargo", lambda *_, **__: tmp_path)
    assert read_notebooks(6) == expected


def test_reading_order_is_the_order_of_the_numbers():
    """9 va antes que 10 y 10 antes que 100, se escriban con las cifras que se escriban; la letra desempata."""
    paths = [f"2_kedro/{name}.ipynb" for name in ("100_d", "9_a", "10b_c", "10a_b", "00_z", "suelto")]
    assert {old[8:-6]: new[8:-6] for old, new in renumber(paths).items()} == {
        "00_z": "00_z", "9_a": "01_a", "10a_b": "02_b", "10b_c": "03_c", "100_d": "04_d", "suelto": "suelto"
    }  # fmt: skip


# --- Un proyecto que se escribió con otros números ---------------------------------------------------------------


def age(files: dict[str, str]) -> dict[str, str]:
    """Los mismos ficheros, con los cuadernos numerados como antes y uno que hoy ya no se escribe."""
    numbered = re.compile(r"(nbs/2_kedro/)(\d+)(_\w+\.ipynb)")
    old = {p: numbered.sub(lambda n: f"{n[1]}{int(n[2]) + 5:02d}{n[3]}", p) for p in files if numbered.fullmatch(p)}
    aged = {old.get(path, path): rename_in(text, old) for path, text in files.items()}
    luna = json.loads(files["nbs/2_kedro/01_columns.ipynb"])
    luna["cells"] = [nbformat.v4.new_code_cell(s, id=f"l{i}") for i, s in enumerate(["#| default_exp luna", "#| export\nLUNA = 1"])]
    text = json.dumps(luna)
    module, code = export_notebook(json.loads(text), "nbs/2_kedro/99_luna.ipynb", "catfood")
    return aged | {"nbs/2_kedro/99_luna.ipynb": text, module: code}


@pytest.fixture
def old_project(tmp_path, monkeypatch) -> Path:
    """El ejemplo en la etapa 2, como lo habría escrito otra versión."""
    with monkeypatch.context() as patch:
        patch.setattr(landing, "render_project", lambda card: age(render_project(card)))
        land(describe_example(2), tmp_path / "gatos")
    assert (tmp_path / "gatos/nbs/2_kedro/06_columns.ipynb").is_file()
    return tmp_path / "gatos"


def edit_notebook(path: Path, old: str, new: str, cell: str) -> None:
    """Cambia un valor y añade una celda al final, como haría su dueño en Jupyter."""
    notebook = nbformat.read(path, as_version=4)
    (changed,) = (c for c in notebook.cells if c.cell_type == "code" and old in c.source)
    changed.source = changed.source.replace(old, new)
    notebook.cells.append(nbformat.v4.new_code_cell(cell, id="suya"))
    nbformat.write(notebook, path)


def export(project: Path, path: str) -> None:
    """Exporta un cuaderno, como `make export`."""
    module, text = export_notebook(json.loads((project / path).read_text(encoding="utf-8")), path, "catfood")
    (project / module).write_text(text, encoding="utf-8")


@pytest.mark.parametrize("stage", [2, 3])
def test_what_nobody_touched_is_as_if_it_were_new(old_project, stage):
    """Sin cambios de su dueño queda lo mismo que en un proyecto recién escrito, y repetir la orden no cambia nada."""
    changes = raise_stage(old_project, stage)
    assert read_tree(old_project) == render("example", stage)
    assert {c.old: c.path for c in changes}["nbs/2_kedro/06_columns.ipynb"] == "nbs/2_kedro/01_columns.ipynb"
    assert {c.path for c in changes if c.action == "removed"} == {"nbs/2_kedro/99_luna.ipynb", "catfood/luna.py"}
    assert {change.action for change in raise_stage(old_project, stage)} == {"kept"}


@pytest.mark.parametrize("is_exported", [True, False], ids=["exportado", "sin exportar"])
def test_an_edit_follows_its_notebook(old_project, is_exported):
    """Lo que su dueño cambió está en el cuaderno con su nombre nuevo, y el módulo sale de él."""
    notebook = old_project / "nbs/2_kedro/07_simulate.ipynb"
    edit_notebook(notebook, "seed: int = 42", "seed: int = 7", "#| export\nMINE = 1")
    if is_exported:
        export(old_project, "nbs/2_kedro/07_simulate.ipynb")
    raise_stage(old_project, 3)
    tree = read_tree(old_project)
    path = "nbs/2_kedro/02_simulate.ipynb"
    assert "seed: int = 7" in tree["catfood/simulate.py"] and "MINE = 1" in tree["catfood/simulate.py"]
    assert ("catfood/simulate.py", tree["catfood/simulate.py"]) == export_notebook(json.loads(tree[path]), path, "catfood")
    assert "03_cleaning.ipynb" in tree[path] and "08_cleaning.ipynb" not in tree[path]
    assert max(list_modules(tree).values()) == 1 and tree.keys() == render("example", 3).keys()
    raise_stage(old_project, 3)
    assert read_tree(old_project) == tree


def test_no_edit_is_lost_whatever_it_is(old_project):
    """Con todo cambiado, y de modo que nada se pueda fundir, cada cosa suya sigue en algún sitio y se dice en cuál."""
    before = {path: f"mío: {path}\n{text}" for path, text in read_tree(old_project).items()}
    write_files(old_project, before)
    changes = raise_stage(old_project, 3)
    tree = read_tree(old_project)
    for path, text in before.items():
        (place,) = {c.path if c.action != "retired" else c.beside for c in changes if path in (c.path, c.old)}
        assert tree[place].startswith(text.splitlines()[0]), path
    assert "catfood/luna.py.tierra-antes" in tree and "catfood/luna.py" not in tree
    assert not [path for path in tree if path.endswith(".ipynb") and path not in render("example", 3)]
    raise_stage(old_project, 3)
    assert read_tree(old_project) == tree


def test_what_its_owner_deleted_stays_deleted(old_project):
    """Un cuaderno que su dueño borró no vuelve con otro nombre."""
    (old_project / "nbs/2_kedro/07_simulate.ipynb").unlink()
    raise_stage(old_project, 2)
    assert not [path for path in read_tree(old_project) if path.endswith("_simulate.ipynb")]


def test_a_module_edited_by_hand_is_merged_apart(old_project):
    """Lo que se cambió en el módulo y no en el cuaderno tampoco se pierde."""
    module = old_project / "catfood/simulate.py"
    module.write_text(module.read_text(encoding="utf-8") + "\nMINE = 1\n", encoding="utf-8")
    actions = {change.path: change.action for change in raise_stage(old_project, 2)}
    assert actions["catfood/simulate.py"] == "merged"
    text = module.read_text(encoding="utf-8")
    assert text.endswith("\nMINE = 1\n") and "02_simulate.ipynb" in text and "07_simulate.ipynb" not in text


# --- Fichero a fichero -------------------------------------------------------------------------------------------


def notebook(*sources: str) -> str:
    """Un cuaderno con esas celdas."""
    cells = [nbformat.v4.new_code_cell(source, id=f"c{number}") for number, source in enumerate(sources)]
    return nbformat.writes(nbformat.v4.new_notebook(cells=cells)) + "\n"


def test_another_one_in_its_place_is_respected(tmp_path):
    """Si donde iría el nombre nuevo ya hay un cuaderno de su dueño, no se pisa; y el viejo no se queda exportando."""
    base, mine = notebook("#| default_exp pan", "leer()"), notebook("#| default_exp mío")
    written = {"nbs/06_pan.ipynb": hash_text(base)}
    ours = {"nbs/01_pan.ipynb": notebook("#| default_exp pan", "leer(bien)")}
    edited = notebook("#| default_exp pan", "leer()", "suya()")
    write_files(tmp_path, {"nbs/06_pan.ipynb": edited, "nbs/01_pan.ipynb": mine})
    update_files(tmp_path, {}, ours, written)
    assert read_tree(tmp_path) == {
        "nbs/01_pan.ipynb": mine, "nbs/01_pan.ipynb.tierra": ours["nbs/01_pan.ipynb"], "nbs/06_pan.ipynb.tierra-antes": edited
    }  # fmt: skip


def test_setting_aside_twice_keeps_both(tmp_path):
    """Lo que se aparta no pisa lo que ya se había apartado, y se dice dónde está."""
    write_files(tmp_path, {"pan.md": "segundo", "pan.md.tierra-antes": "primero"})
    (change,) = update_files(tmp_path, {}, {}, {"pan.md": hash_text("el nuestro")})
    assert (change.action, change.beside) == ("retired", "pan.md.tierra-antes2")
    assert read_tree(tmp_path) == {"pan.md.tierra-antes": "primero", "pan.md.tierra-antes2": "segundo"}


def test_no_empty_folder_remains(tmp_path):
    """La carpeta que se queda vacía se quita; la que tiene algo de su dueño, no."""
    files = {"make/luna/a.mk": "a", "make/b.mk": "b", "notas/c.md": "c"}
    write_files(tmp_path, files | {"notas/mía.md": "mía"})
    update_files(tmp_path, {}, {}, {path: hash_text(text) for path, text in files.items()})
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == ["notas", "notas/mía.md"]


def test_git_remembers_what_was_written(tmp_path):
    """Aunque hoy no se pueda rehacer lo que se escribió, si su dueño lo guardó en git se funde."""
    base = notebook("#| default_exp pan", "leer()", "hornear()")
    edited = notebook("#| default_exp pan", "leer()", "hornear(200)")
    ours = {"nbs/01_pan.ipynb": notebook("#| default_exp pan", "leer(bien)", "hornear()")}
    project = tmp_path / "repositorio/gatos"
    write_files(project, {"nbs/06_pan.ipynb": base})
    env = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    for command in ("init -q", "add .", "-c user.name=Ada -c user.email=ada@example.com commit -q -m primero"):
        subprocess.run(["git", *command.split()], cwd=project.parent, env=env, check=True)
    write_files(project, {"nbs/06_pan.ipynb": edited})
    (change,) = update_files(project, {}, ours, {"nbs/06_pan.ipynb": hash_text(base)})
    assert (change.action, change.old) == ("merged", "nbs/06_pan.ipynb")
    cells = json.loads((project / "nbs/01_pan.ipynb").read_text(encoding="utf-8"))["cells"]
    assert ["".join(cell["source"]) for cell in cells[1:]] == ["leer(bien)", "hornear(200)"]


class Stop:
    """Deja hacer unas cuantas escrituras y corta la siguiente, antes o después de hacerla."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def watch(self, function):
        """Una función que cuenta las veces que se la llama, y se corta cuando toca."""

        def watched(*args, **options):
            self.steps -= 1
            if self.steps < 0:
                raise KeyboardInterrupt
            return function(*args, **options)

        return watched


def test_interrupted_anywhere_it_can_be_repeated(tmp_path, monkeypatch):
    """Se corte donde se corte, nada se pierde, y repetir la orden deja lo mismo que si no se hubiera cortado."""
    base = {f"nbs/0{i}_{n}.ipynb": notebook(f"#| default_exp {n}", "uno", "dos") for i, n in ((6, "pan"), (7, "sal"), (8, "té"))}
    base |= {"nbs/09_luna.ipynb": notebook("#| default_exp luna"), "nbs/10_sol.ipynb": notebook("#| default_exp sol")}
    ours = {f"nbs/0{i}_{n}.ipynb": notebook(f"#| default_exp {n}", "uno", "tres") for i, n in ((1, "pan"), (2, "sal"), (3, "té"))}
    edited = base | {
        "nbs/06_pan.ipynb": notebook("#| default_exp pan", "UNO", "dos"),
        "nbs/07_sal.ipynb": notebook("#| default_exp sal", "uno", "DOS"),
        "nbs/10_sol.ipynb": notebook("#| default_exp sol", "mío"),
    }
    written = {path: hash_text(text) for path, text in base.items()}
    old = {"nbs/01_pan.ipynb": base["nbs/06_pan.ipynb"], "nbs/02_sal.ipynb": base["nbs/07_sal.ipynb"]}

    def raise_after(steps: int) -> tuple[dict[str, str], bool]:
        folder, is_whole = tmp_path / f"{steps}", True
        write_files(folder, edited)
        with monkeypatch.context() as patch:
            stop = Stop(steps)
            patch.setattr(merging, "write_files", stop.watch(merging.write_files))
            for name in ("rename", "unlink"):
                patch.setattr(Path, name, stop.watch(getattr(Path, name)))
            try:
                update_files(folder, old, ours, written)
            except KeyboardInterrupt:
                is_whole = False
                assert all(any(word in text for text in read_tree(folder).values()) for word in ("UNO", "DOS", "mío"))
        update_files(folder, old, ours, written)
        return read_tree(folder), is_whole

    (whole, ended), steps = raise_after(10**6), 0
    assert ended and whole.keys() == {*ours, "nbs/02_sal.ipynb.tierra", "nbs/10_sol.ipynb.tierra-antes"}
    assert '"UNO"' in whole["nbs/01_pan.ipynb"] and "DOS" in whole["nbs/02_sal.ipynb"]
    ended = False
    while not ended:
        tree, ended = raise_after(steps)
        assert tree == whole, steps
        steps += 1
    assert steps > 7


def test_a_record_cannot_reach_outside(tmp_path, tierra):
    """Un `.tierra.json` ajeno no consigue que se quite ni se mueva nada de fuera de la carpeta."""
    land(describe_example(1), tmp_path / "gatos")
    shutil.copy(tmp_path / "gatos/Makefile", tmp_path / "tesis.tex")
    record = json.loads((tmp_path / "gatos/.tierra.json").read_text(encoding="utf-8"))
    record["files"]["../tesis.tex"] = record["files"]["Makefile"]
    (tmp_path / "gatos/.tierra.json").write_text(json.dumps(record), encoding="utf-8")
    done = tierra("stage", "2", "gatos", cwd=tmp_path)
    assert done.returncode == 1 and "está estropeado" in done.stderr and (tmp_path / "tesis.tex").is_file()


def test_the_command_tells_the_new_name(old_project, tierra):
    """Quien mira la terminal ve qué ha cambiado de nombre, qué se ha ido y dónde está lo suyo."""
    (old_project / "nbs/2_kedro/99_luna.ipynb").write_text("mío", encoding="utf-8")
    lines = tierra("stage", "2", ".", cwd=old_project).stdout.splitlines()
    assert "~ nbs/2_kedro/06_columns.ipynb → nbs/2_kedro/01_columns.ipynb" in lines and "- catfood/luna.py" in lines
    (line,) = (line for line in lines if "99_luna" in line)
    assert line == (
        "! nbs/2_kedro/99_luna.ipynb: ya no hace falta; como lo habías cambiado, "
        "lo tuyo queda en nbs/2_kedro/99_luna.ipynb.tierra-antes"
    )
    assert tierra("stage", "2", ".", cwd=old_project).stdout.splitlines()[0] == "No había nada que cambiar."
