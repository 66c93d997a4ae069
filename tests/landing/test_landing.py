"""`tierra stage`: cada etapa contiene la anterior, se basta sola y nunca pisa lo que cambió su dueño."""
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from posixpath import dirname, join, normpath

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from de_jupyter_a_la_tierra import errors
from de_jupyter_a_la_tierra.landing import merge as merging
from de_jupyter_a_la_tierra.landing import stages as landing
from de_jupyter_a_la_tierra.landing.stages import (
    compare_stages,
    export_notebook,
    find_source,
    land,
    raise_stage,
    render_project,
)
from de_jupyter_a_la_tierra.landing.templates import describe_example

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
STAGES = range(1, 7)
LATER = range(2, 7)


@cache
def render(stage: int) -> dict[str, str]:
    """Los ficheros del ejemplo en una etapa."""
    return render_project(describe_example(stage))


def read_tree(folder: Path) -> dict[str, str]:
    """Los ficheros de una carpeta, menos lo que es de cada ordenador."""
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_text(encoding="utf-8") for name, path in paths.items() if name != "local.mk"}


@pytest.fixture
def land_at(tmp_path):
    """Escribe el ejemplo en una etapa y devuelve su carpeta."""

    def write(stage: int, name: str = "gatos") -> Path:
        land(describe_example(stage), tmp_path / name)
        return tmp_path / name

    return write


# --- Lo que se escribe -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", LATER)
def test_a_stage_contains_the_one_before(stage):
    """Solo añade: de lo que ya había cambia el extra y, al llegar Kedro, el pyproject."""
    before, after = render(stage - 1), render(stage)
    assert before.keys() < after.keys()
    changed = {path for path in before if before[path] != after[path]}
    assert changed == ({"settings.ini", "pyproject.toml"} if stage == 2 else {"settings.ini"})


def test_no_template_is_written_twice():
    """Ninguna etapa sustituye la plantilla de otra."""
    for tree in ("common", "new"):
        paths = [path.relative_to(folder) for folder in (ROOT / "templates" / tree).iterdir() for path in folder.rglob("*")]
        names = [path for path in paths if path.suffix or path.name.startswith(".")]
        assert len(names) == len(set(names))


@pytest.mark.parametrize("stage", STAGES)
def test_nothing_of_this_repository_remains(stage):
    """Ni el nombre del paquete de aquí ni su carpeta aparecen en el proyecto."""
    for path, text in render(stage).items():
        assert not re.search(r"de_jupyter_a_la_tierra[./]catfood|default_exp catfood", text), path


@pytest.mark.parametrize("stage", STAGES)
def test_links_stay_inside_or_go_to_the_book(stage):
    """Cada enlace lleva a un fichero del proyecto o a una página del libro que existe."""
    files = render(stage)
    pages = {re.sub(r"/\d+_", "/", path.relative_to(ROOT / "nbs").as_posix()) for path in ROOT.glob("nbs/*/*.ipynb")}
    for path, text in files.items():
        if path.endswith(".ipynb"):
            text = "".join("".join(c["source"]) for c in json.loads(text)["cells"] if c["cell_type"] == "markdown")
        if path.endswith((".ipynb", ".md")):
            for target in re.findall(r"\]\((?!\w+:)([^)#\s]+)", re.sub(r"`[^`]*`", "", text)):
                assert normpath(join(dirname(path), target)) in files, f"{path}: {target}"
            for page in re.findall(r"\]\(https://oscarigrexas[^)]*?tierra/([^)#]+)\.html", text):
                assert f"{page}.ipynb" in pages, f"{path}: {page}"


def test_the_package_is_what_nbdev_exports(land_at):
    """nbdev_export y nbdev_clean, los de verdad, no cambian ni una letra de lo emitido."""
    project = land_at(6)
    before = read_tree(project)
    for command in ("nbdev_export", "nbdev_clean"):
        done = subprocess.run([BIN / command], cwd=project, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    after = {path: text for path, text in read_tree(project).items() if path != "catfood/_modidx.py"}
    assert after == before


@pytest.mark.parametrize("path", sorted(ROOT.glob("nbs/*/*.ipynb")), ids=lambda path: path.stem)
def test_exports_as_nbdev_does(path):
    """Cada módulo de este paquete, exportado sin nbdev, es el que escribió nbdev."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    exported = export_notebook(notebook, path.relative_to(ROOT).as_posix(), "de_jupyter_a_la_tierra")
    if exported:
        module, text = exported
        assert (ROOT / module).read_text(encoding="utf-8") == text


@pytest.mark.parametrize("whose", ["el que viaja", "el de aquí"])
def test_the_conftest_that_travels_is_ours(tmp_path, whose):
    """El arreglo de nbval que se lleva el proyecto hace lo mismo que el de aquí, con un cuaderno que nbdev_clean ha limpiado."""
    source = "conftest.py" if whose == "el de aquí" else "templates/common/1/conftest.py.jinja"
    shutil.copy(ROOT / source, tmp_path / "conftest.py")
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    same, other = (new_output("execute_result", {"text/plain": text}) for text in ("2", "3"))
    sources = {"1 + 1": [same], "#| eval: false\n1 / 0": [], "2 + 0": [other]}
    cells = [new_code_cell(source, outputs=outputs) for source, outputs in sources.items()]
    nbformat.write(new_notebook(cells=cells), tmp_path / "limpio.ipynb")
    job = new_notebook(cells=[new_markdown_cell("# Un trabajo\n- skip_exec: true"), new_code_cell("1 / 0")])
    nbformat.write(job, tmp_path / "trabajo.ipynb")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--nbval", "-q", "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert "1 failed, 1 passed, 1 skipped" in done.stdout, done.stdout


def test_the_diff_of_a_stage():
    """Cuánto es; lo que se añade, con un «+»; lo que cambia, como lo diría git."""
    text = compare_stages(3)
    assert text.startswith("De la etapa 2 a la 3: 3 ficheros nuevos y 1 que cambia.\n\n+ make/3_api.mk\n")
    assert "+ make/3_api.mk" in text and "+ tests/test_api.py" in text
    assert "-    de-jupyter-a-la-tierra[kedro]" in text and "+    de-jupyter-a-la-tierra[api]" in text
    assert all(line.startswith("+ ") for line in compare_stages(1).splitlines()[2:])


def test_the_diff_is_told_without_a_project(tierra, tmp_path):
    """«tierra stage N --diff» no escribe nada ni necesita un proyecto; con «--from», se compara con esa etapa."""
    done = tierra("stage", "3", "--diff", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, compare_stages(3) + "\n", "")
    far = tierra("stage", "6", "--diff", "--from", "1", cwd=tmp_path).stdout.partition("\n--- ")[0]
    added = {line[2:] for line in far.splitlines() if line.startswith("+ ")}
    assert added == {path for path in render(6).keys() - render(1).keys() if not path.endswith(".gitkeep")}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("args", "said"), [
    ("3", "tierra stage 3 --diff"), ("3 gatos --diff", "no se escribe nada"), ("3 gatos --from 1", "--from"),
    ("3 --diff --from 3", "anterior"), ("7 --diff", "No hay etapa 7"), ("3 --diff --from 0", "No hay etapa 0"),
])
def test_a_diff_badly_asked_writes_nothing(tierra, tmp_path, args, said):
    """Sin carpeta ni «--diff», con los dos, o comparando con lo que no es anterior: una frase, un 2 y nada escrito."""
    done = tierra("stage", *args.split(), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "") and said in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


# --- Añadir una etapa --------------------------------------------------------------------------------------------


def test_stage_by_stage_is_the_same_as_at_once(land_at):
    """Subir de una en una deja exactamente lo mismo que ir directo a la última."""
    climbed = land_at(1, "poco_a_poco")
    for stage in LATER:
        raise_stage(climbed, stage)
    assert read_tree(climbed) == read_tree(land_at(6, "de_una_vez"))


def test_a_project_of_your_own_climbs_too(tierra, tmp_path):
    """Un proyecto nacido con `tierra new` en la libreta llega a la última etapa como si hubiera nacido en ella."""
    rows = [f"{i % 7},{i % 5 / 2},{'sí' if i % 7 > 3 else 'no'}" for i in range(80)]
    (tmp_path / "hoja.csv").write_text("\n".join(["peso,edad,apto", *rows]), encoding="utf-8")
    for folder, stage in (("poco", "1"), ("mucho", "6")):
        (tmp_path / folder).mkdir()
        command = ["new", "quesos", "--data", "hoja.csv", "--target", "apto", "--stage", stage, "--dest", folder + "/quesos"]
        assert (done := tierra(*command, cwd=tmp_path)).returncode == 0, done.stderr
    done = tierra("stage", "6", "poco/quesos", cwd=tmp_path)
    assert done.returncode == 0 and "!" not in done.stdout, done.stdout + done.stderr
    assert read_tree(tmp_path / "poco/quesos") == read_tree(tmp_path / "mucho/quesos")


def test_no_edit_of_its_owner_is_lost(land_at):
    """Con todos los ficheros cambiados por su dueño, la etapa siguiente no pierde ni un cambio."""
    project = land_at(2)
    paths = [project / path for path in render(2)]
    for path in paths:
        path.write_text("mío\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    actions = {change.path: change.action for change in raise_stage(project, 6)}
    assert all(path.read_text(encoding="utf-8").startswith("mío\n") for path in paths)
    assert {actions[path] for path in render(2)} == {"kept", "merged"} and actions["settings.ini"] == "merged"
    assert "[trabajos]" in (project / "settings.ini").read_text(encoding="utf-8")
    assert all((project / path).is_file() for path in render(6))


def test_a_conflict_leaves_both(land_at):
    """Si el cambio cae en la misma línea, lo suyo se queda y lo nuevo va al lado."""
    project = land_at(3)
    settings = project / "settings.ini"
    mine = settings.read_text(encoding="utf-8").replace("[api]==", "[api]>=")
    settings.write_text(mine, encoding="utf-8")
    actions = {change.path: change.action for change in raise_stage(project, 4)}
    assert actions["settings.ini"] == "aside" and settings.read_text(encoding="utf-8") == mine
    assert (project / "settings.ini.tierra").read_text(encoding="utf-8") == render(4)["settings.ini"]


def test_an_unknown_ancestor_is_respected(land_at, monkeypatch):
    """Si hoy no se puede rehacer lo que se escribió, lo que cambió su dueño no se funde a ciegas."""
    project = land_at(3)
    monkeypatch.setattr(landing, "render_project", lambda card: {**render(card.stage), "Makefile": "otro\n"})
    (project / "Makefile").write_text("mío\n", encoding="utf-8")
    actions = {change.path: change.action for change in raise_stage(project, 4)}
    assert actions["Makefile"] == "aside" and (project / "Makefile").read_text(encoding="utf-8") == "mío\n"


def test_a_file_that_was_already_there_is_respected(land_at):
    """Un fichero de su dueño con el nombre de uno nuevo tampoco se pisa."""
    project = land_at(2)
    (project / "make/3_api.mk").write_text("mío\n", encoding="utf-8")
    assert {c.path: c.action for c in raise_stage(project, 3)}["make/3_api.mk"] == "aside"
    assert (project / "make/3_api.mk").read_text(encoding="utf-8") == "mío\n"


def test_a_notebook_is_never_left_broken(land_at):
    """Un cuaderno fundido por líneas que dejara de ser JSON cuenta como desacuerdo."""
    base, ours = '{\n "a": 1,\n "b": 2\n}\n', '{\n "a": 1,\n "b": 2,\n "c": 3\n}\n'
    theirs = '{\n "z": 0\n "a": 1,\n "b": 2\n}\n'
    change = merging.decide_change("nbs/x.ipynb", base, theirs, ours, merging.hash_text(base))
    assert merging.merge_texts(base, theirs, ours) is not None and change.action == "aside"


# --- Interrupciones ----------------------------------------------------------------------------------------------


def test_an_interrupted_landing_leaves_nothing(tmp_path, monkeypatch):
    """Ctrl-C a mitad: no queda proyecto ni restos."""

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(landing, "write_record", stop)
    for name in ("nuevo", "vacío"):
        (tmp_path / "vacío").mkdir(exist_ok=True)
        with pytest.raises(KeyboardInterrupt):
            land(describe_example(1), tmp_path / name)
    assert [path.name for path in tmp_path.rglob("*")] == ["vacío"]


def test_an_interrupted_climb_can_be_repeated(land_at, monkeypatch):
    """Ctrl-C al añadir una etapa: repetir la orden termina el trabajo."""
    project = land_at(2)
    (project / "Makefile").write_text("mío\n" + render(2)["Makefile"], encoding="utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(landing, "write_record", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            raise_stage(project, 5)
    raise_stage(project, 5)
    tree = read_tree(project)
    assert {path: tree[path] for path in render(5)} == {**render(5), "Makefile": "mío\n" + render(5)["Makefile"]}
    assert not [path for path in tree if path.endswith(".tierra")]


# --- De dónde se instala -----------------------------------------------------------------------------------------


def test_a_wheel_is_remembered_and_an_index_is_not(tmp_path, monkeypatch):
    """Si se instaló de un fichero se apunta cuál; si ya no está, el repositorio; si salió de un índice, nada."""
    wheel = tmp_path / "una rueda.whl"
    wheel.touch()

    class Installed:
        def __init__(self, origin: str | None) -> None:
            self.read_text = lambda name: origin
            self.metadata = {"Home-page": "https://example.com/x"}

    monkeypatch.setattr(landing, "find_cargo", lambda name: tmp_path / "site-packages/paquete" / name)
    monkeypatch.setattr(errors, "distribution", lambda name: Installed(json.dumps({"url": wheel.as_uri()})))
    assert find_source() == f"'de-jupyter-a-la-tierra @ {wheel.as_uri()}'"
    wheel.unlink()
    assert find_source() == "'de-jupyter-a-la-tierra @ git+https://example.com/x'"
    commit = {"url": "https://example.com/x.git", "vcs_info": {"vcs": "git", "commit_id": "abc123"}}
    monkeypatch.setattr(errors, "distribution", lambda name: Installed(json.dumps(commit)))
    assert find_source() == "'de-jupyter-a-la-tierra @ git+https://example.com/x.git@abc123'"
    monkeypatch.setattr(errors, "distribution", lambda name: Installed(None))
    assert find_source() == ""


# --- La orden ----------------------------------------------------------------------------------------------------


def test_the_command_writes_here_too(tierra, tmp_path):
    """En la carpeta en la que estás, aunque ya sea un repositorio de git recién creado."""
    (tmp_path / ".git").mkdir()
    done = tierra("stage", "2", ".", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("Ahora: make run\n") and (tmp_path / "catfood/columns.py").is_file()


def test_the_data_of_the_first_stage_stay_in_the_project(tierra, land_at):
    """Sin Kedro todavía, `tierra data` escribe en el proyecto y no en el que lo contenga."""
    project = land_at(1)
    (project.parent / "pyproject.toml").write_text('[tool.kedro]\npackage_name = "otro"\n')
    assert tierra("data", "--rows", "50", cwd=project).returncode == 0
    assert (project / "data/01_raw/catfood_simulated.csv").is_file()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["0", "x"], 2, "No hay etapa 0: van de la 1 (la libreta) a la 6 (los trabajos)."),
        (["7", "x"], 2, "No hay etapa 7"),
        (["tres", "x"], 2, "«tres»|'tres'"),
        (["3"], 2, "CARPETA"),
        (["3", "llena"], 2, "«llena» no está vacía y no la escribió «tierra»: elige otra carpeta o vacía esa."),
        (["1", "gatos"], 2, "«gatos» ya está en la etapa 2 y no se vuelve atrás: elige otra carpeta."),
        (["3", "llena/tesis.tex"], 1, "no es una carpeta"),
        (["3", "rota"], 1, "está estropeado"),
        (["3", "futura"], 1, "lo escribió otra versión"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_said(tierra, land_at, arguments, code, message):
    """Una frase, su código y ni rastro de traceback; y no se escribe nada."""
    folder = land_at(2).parent
    for name, file in {"llena": "tesis.tex", "rota": ".tierra.json", "futura": ".tierra.json"}.items():
        (folder / name).mkdir()
        (folder / name / file).write_text('{"landing": {"sabor": 1}, "files": {}}' if name == "futura" else "…")
    before = read_tree(folder)
    done = tierra("stage", *arguments, cwd=folder)
    assert done.returncode == code, done.stderr
    assert re.search(message if "|" in message else re.escape(message), done.stderr), done.stderr
    assert "Traceback" not in done.stderr and read_tree(folder) == before


def test_the_second_time_there_is_nothing_to_do(tierra, land_at):
    """Repetir la orden no cambia nada y lo dice."""
    project = land_at(2)
    before = read_tree(project)
    assert tierra("stage", "2", "gatos", cwd=project.parent).stdout.startswith("No había nada que cambiar.")
    assert read_tree(project) == before


def test_a_newer_version_brings_its_templates(land_at, monkeypatch):
    """Con unas herramientas más nuevas, la misma etapa pone al día lo que nadie ha tocado."""
    project = land_at(2)
    monkeypatch.setattr(landing, "__version__", "9.9.9")
    actions = {change.path: change.action for change in raise_stage(project, 2)}
    assert actions["settings.ini"] == "updated" and "==9.9.9" in (project / "settings.ini").read_text(encoding="utf-8")
    assert render_project(replace(describe_example(2), version="9.9.9")).items() <= read_tree(project).items()
    shutil.rmtree(project)
