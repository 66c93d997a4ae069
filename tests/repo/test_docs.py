"""El sitio: se construye de los cuadernos sin Quarto y sin la red, está entero en español y nada en él está roto."""
import html
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted(p.relative_to(ROOT / "nbs") for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
INSTALLERS = ("quarto-install", "sudo", "curl", "wget", "apt-get", "dpkg", "brew", "pip", "npm")


def load_script(name: str) -> ModuleType:
    """Importa un guion de scripts/, que no es un paquete."""
    spec = importlib.util.spec_from_file_location(f"scripts_{name}", ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


check_site = load_script("check_site").check_site


def write_notebook(path: Path, *cells: str) -> None:
    """Escribe un cuaderno: lo que empieza por «#» y un espacio es prosa, lo demás código."""
    kinds = [("markdown", {}) if cell.startswith("# ") else ("code", {"outputs": [], "execution_count": None}) for cell in cells]
    body = [
        {"cell_type": kind, "id": f"c{n}", "metadata": {}, "source": cell.splitlines(keepends=True), **rest}
        for n, (cell, (kind, rest)) in enumerate(zip(cells, kinds, strict=True))
    ]
    kernel = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"cells": body, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}), encoding="utf-8")


def page_text(page: str) -> str:
    """Lo que se lee en una página, con las palabras separadas por un solo espacio."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def write_command(path: Path, script: str) -> None:
    """Escribe una orden de mentira."""
    path.write_text(f"#!{sys.executable}\n{script}\n", encoding="utf-8")
    path.chmod(0o755)


def build(tree: Path, commands: Path) -> subprocess.CompletedProcess[str]:
    """Construye el sitio de una copia, desde otra carpeta y sin más órdenes que las de mentira."""
    env = {**os.environ, "PATH": str(commands)}
    script = [sys.executable, str(tree / "scripts/build_docs.py")]
    return subprocess.run(script, cwd=commands, env=env, capture_output=True, text=True)


def copy_tree(tree: Path, *names: str) -> Path:
    """Copia parte del repositorio, con sus enlaces simbólicos tal cual."""
    for name in names:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
        else:
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name, follow_symlinks=False)
    return tree


@pytest.fixture
def commands(tmp_path: Path) -> Path:
    """Una carpeta de órdenes sin Quarto."""
    (tmp_path / "bin").mkdir()
    return tmp_path / "bin"


# ---- El sitio de verdad


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, list[str]]:
    """El sitio entero, lo que contó al construirse y las órdenes de instalar que llamó."""
    tree = copy_tree(tmp_path_factory.mktemp("sitio"), "nbs", "de_jupyter_a_la_tierra", "scripts", "settings.ini", "_quarto.yml")
    commands = tmp_path_factory.mktemp("bin")
    for name in INSTALLERS:
        write_command(commands / name, f"open({str(commands / 'llamadas')!r}, 'a').write({name!r} + '\\n')")
    done = build(tree, commands)
    assert done.returncode == 0, done.stdout + done.stderr
    calls = commands / "llamadas"
    return tree / "_docs", done.stdout, calls.read_text().split() if calls.exists() else []


@pytest.fixture(scope="module")
def site(built: tuple[Path, str, list[str]]) -> Path:
    """La carpeta del sitio entero."""
    return built[0]


def page_of(notebook: Path) -> Path:
    """La página de un cuaderno: nbdev le quita el número, y no a su carpeta."""
    return notebook.with_name(re.sub(r"^\d+[a-z]?_", "", notebook.stem) + ".html")


def test_without_quarto_it_builds_and_installs_nothing(built):
    _, told, calls = built
    assert "Quarto no está en el PATH" in told
    assert calls == []


def test_each_step_is_told(built):
    _, told, _ = built
    assert [line[:4] for line in told.splitlines() if line[1:4] == "/4 "] == ["1/4 ", "2/4 ", "3/4 ", "4/4 "]
    assert all(f"nbs/{notebook.as_posix()}" in told for notebook in NOTEBOOKS)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=str)
def test_each_notebook_has_its_page(site, notebook):
    assert (site / page_of(notebook)).is_file()


def test_no_broken_links_no_english_nothing_from_outside(site):
    assert check_site(site) == []


def test_the_interface_is_in_spanish(site):
    page, script = (site / "2_kedro/csv.html").read_text(), (site / "site_libs/smalldocs.js").read_text()
    for text in ('<html lang="es">', 'placeholder="Buscar"', ">En esta página<", "Avisar de un problema", "Ver el cuaderno"):
        assert text in page
    assert "Sin resultados" in script and "No results" not in script


def test_links_never_need_the_published_site(site):
    settings = ConfigParser(delimiters=["="], interpolation=None)
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    address = settings["DEFAULT"]["doc_host"] + settings["DEFAULT"]["doc_baseurl"]
    assert [p.name for p in site.rglob("*.html") if f'href="{address}' in p.read_text()] == []


def test_search_points_at_the_pages(site):
    found = {entry["href"].partition("#")[0] for entry in json.loads((site / "search.json").read_text())}
    assert {page_of(notebook).as_posix() for notebook in NOTEBOOKS} <= found
    assert all((site / page).is_file() for page in found)


def test_a_function_has_its_card(site):
    page = (site / "2_kedro/csv.html").read_text()
    card = page[page.index('id="read_table"') :][:6000]
    for text in (">Tipo<", ">Por defecto<", ">Detalles<", ">Devuelve<", "blob/main/de_jupyter_a_la_tierra/tables/csv.py#L"):
        assert text in card


def test_a_command_of_a_group_has_its_card(site):
    """Con la ayuda de la orden entera: «tierra jobs run» y no «tierra run»."""
    text = page_text((site / "6_trabajos/cli_jobs.html").read_text())
    for usage in ("tierra jobs [OPCIONES] ORDEN", "tierra jobs list [OPCIONES]", "tierra jobs run [OPCIONES]", "tierra jobs report [OPCIONES]"):
        assert usage in text
    assert "tierra models promote [OPCIONES]" in page_text((site / "5_mlflow/cli_models.html").read_text())


def test_the_picture_of_the_journey_is_there(site):
    assert 'src="images/viaje.svg"' in (site / "index.html").read_text()
    drawing = ElementTree.parse(site / "images/viaje.svg").getroot()
    words = " ".join(drawing.itertext())
    assert all(stage in words for stage in ("Libreta", "Kedro", "API", "Pruebas", "MLflow", "Trabajos", "Aterrizar"))


# ---- Lo que está en los cuadernos


def read_cells(notebook: Path) -> list[dict]:
    """Las celdas de un cuaderno, con su código en un solo texto."""
    cells = json.loads((ROOT / "nbs" / notebook).read_text(encoding="utf-8"))["cells"]
    return [cell | {"source": "".join(cell["source"])} for cell in cells]


def has_figure(cell: dict) -> bool:
    """¿Guarda una figura?"""
    return any(kind.startswith("image/") for output in cell.get("outputs", []) for kind in output.get("data", {}))


def test_no_figure_is_hidden_and_each_has_its_text():
    """En la primera línea y entre comillas; sin apóstrofos, que Quarto no los protege. Así llega a los dos constructores."""
    figures = [(str(path), cell["source"]) for path in NOTEBOOKS for cell in read_cells(path) if has_figure(cell)]
    assert len(figures) > 30
    assert [f"{path}: {source[:60]}" for path, source in figures if not re.match(r'#\| fig-alt: "[^"\']{40,}"\n(?!#\|)', source)] == []


def test_each_chapter_leads_to_the_next():
    chapters = [path for path in NOTEBOOKS if path.name.startswith("00_")]
    prose = ["".join(cell["source"] for cell in read_cells(path)) for path in chapters]
    assert len(chapters) == 7
    assert [path for path, text in zip(chapters[1:], prose, strict=False) if f"](../{path.as_posix()})" not in text] == []


# ---- La configuración que comparten Quarto y smalldocs


def test_one_configuration_for_both():
    assert (ROOT / "nbs/_quarto.yml").is_symlink()
    assert os.readlink(ROOT / "nbs/_quarto.yml") == "../_quarto.yml"


def test_nbdev_yml_is_what_nbdev_would_write(tmp_path):
    tree = copy_tree(tmp_path, "settings.ini", "nbs/nbdev.yml", "nbs/_quarto.yml", "_quarto.yml")
    script = "from nbdev.quarto import refresh_quarto_yml; refresh_quarto_yml()"
    subprocess.run([sys.executable, "-c", script], cwd=tree, check=True, capture_output=True)
    assert (tree / "nbs/nbdev.yml").read_text() == (ROOT / "nbs/nbdev.yml").read_text()


# ---- Sitios pequeños: lo que puede salir mal

CODE = '''#| export
@dataclass(frozen=True, kw_only=True)
class Bowl:
    """Un cuenco."""

    grams: float  # cuánto cabe
    name: str = "hondo"  # cómo se llama

    def fill(self, *, share: float = 1.0) -> "float":  # gramos que entran
        """Llena el cuenco."""
        return self.grams * share
'''
SHORT = "#| export\n_RATION = 60.0"
LONG = "#| export\n" + "\n".join(f"_DAY_{n} = {n}" for n in range(20))
SIDEBAR = "website:\n  sidebar:\n    contents:\n      - href: index.ipynb\n      - href: 2_kedro/00_kedro.ipynb\n"


def write_small(tree: Path) -> Path:
    """Un repositorio de dos cuadernos, que se construye en un momento."""
    copy_tree(tree, "settings.ini", "_quarto.yml", "scripts", "nbs/_quarto.yml", "nbs/nbdev.yml", "nbs/styles.css", "nbs/images")
    config = (tree / "_quarto.yml").read_text()
    other_stages = r"      - text: .+\n        href: [^2]_\w+/00_\w+\.ipynb\n"
    (tree / "_quarto.yml").write_text(re.sub(other_stages, "", config))
    (tree / "nbs/sidebar.yml").write_text(SIDEBAR)
    write_notebook(tree / "nbs/index.ipynb", "# Inicio\n> Nada.", "# Uno\n[al capítulo](2_kedro/00_kedro.ipynb#bowl.fill)")
    imports = "#| export\nfrom dataclasses import dataclass"
    write_notebook(tree / "nbs/2_kedro/00_kedro.ipynb", "# Capítulo\n> Algo.", "#| default_exp bowl", imports, LONG, SHORT, CODE)
    return tree


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Un repositorio pequeño en el que se puede escribir."""
    return write_small(tmp_path / "repo")


@pytest.fixture(scope="module")
def small_site(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Los ficheros del sitio del repositorio pequeño."""
    tree = write_small(tmp_path_factory.mktemp("pequeño"))
    done = build(tree, tmp_path_factory.mktemp("bin"))
    assert done.returncode == 0, done.stdout + done.stderr
    return read_site(tree)


def read_site(tree: Path) -> dict[str, bytes]:
    """Todos los ficheros de un sitio."""
    return {p.relative_to(tree / "_docs").as_posix(): p.read_bytes() for p in (tree / "_docs").rglob("*") if p.is_file()}


def test_the_same_notebooks_give_the_same_site(small, commands, small_site):
    """Otro día, en otra carpeta y con restos de otra vez."""
    (small / "_proc").mkdir()
    write_notebook(small / "_proc/viejo.ipynb", "# Viejo\n> Basura de otra vez.")
    for notebook in small.rglob("*.ipynb"):
        os.utime(notebook, (0, 0))
    done = build(small, commands)
    assert done.returncode == 0, done.stdout + done.stderr
    assert read_site(small) == small_site


def test_a_class_has_a_card_with_its_fields_and_methods(small_site):
    page = small_site["2_kedro/kedro.html"].decode()
    text = page_text(page)
    for words in ("grams float cuánto cabe", 'name str "hondo" cómo se llama', "Devuelve float gramos que entran"):
        assert words in text
    assert 'id="bowl.fill"' in page


def test_what_is_exported_is_shown(small_site):
    """Lo público, plegado en su ficha; constantes y funciones privadas, en su sitio, y plegadas si son largas."""
    page = re.sub(r"<span[^>]*>|</span>", "", small_site["2_kedro/kedro.html"].decode())
    folded = re.findall(r"<details>.*?</details>", page, re.S)
    assert ["_DAY_7 = 7" in folded[0], "return self.grams * share" in folded[1]] == [True, True]
    assert [re.search("<summary>(.*?)</summary>", f)[1] for f in folded] == ["Código de apoyo", "Ver el código"]
    assert "_RATION = 60.0" in re.sub(r"<details>.*?</details>", "", page, flags=re.S)
    assert "import dataclass" not in page


def test_a_broken_link_keeps_the_previous_site(small, commands):
    (small / "_docs").mkdir()
    (small / "_docs/index.html").write_text("el de antes")
    write_notebook(small / "nbs/index.ipynb", "# Inicio\n> Nada.", "# Uno\n[no está](2_kedro/otro.ipynb) y [ancla](#tampoco)")
    done = build(small, commands)
    assert done.returncode == 1
    assert "enlace roto: 2_kedro/otro.html" in done.stderr and "el ancla no existe: #tampoco" in done.stderr
    assert "Traceback" not in done.stderr
    assert read_site(small) == {"index.html": b"el de antes"}


def test_a_notebook_that_fails_is_named(small, commands):
    write_notebook(small / "nbs/2_kedro/00_kedro.ipynb", "# Capítulo\n> Algo.", "#| default_exp bowl", "#| export\nlimit = int('doce')")
    done = build(small, commands)
    assert done.returncode == 1
    assert "nbdev no pudo preparar nbs/2_kedro/00_kedro.ipynb: ValueError" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_cell_shows_what_was_stored_with_it(small, commands):
    """Aunque importe algo: no se ejecuta otra vez. Y su figura lleva el texto que tiene al lado."""
    path = small / "nbs/2_kedro/00_kedro.ipynb"
    cells = ("import os\nprint(os.getpid())", '#| fig-alt: "Una raya: sube, y baja"\ndraw()')
    write_notebook(path, "# Capítulo\n> Algo.", "#| default_exp bowl", CODE.replace("@", "from dataclasses import dataclass\n@", 1), *cells)
    notebook = json.loads(path.read_text())
    notebook["cells"][-2]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": ["la de entonces\n"]}]
    notebook["cells"][-1]["outputs"] = [{"output_type": "display_data", "metadata": {}, "data": {"image/png": "iVBORw0KGgo="}}]
    path.write_text(json.dumps(notebook))
    done = build(small, commands)
    assert done.returncode == 0, done.stdout + done.stderr
    page = read_site(small)["2_kedro/kedro.html"].decode()
    assert "la de entonces" in page and 'alt="Una raya: sube, y baja"' in page


def test_a_command_that_does_not_answer_is_named(small, commands):
    write_notebook(small / "nbs/2_kedro/00_kedro.ipynb", "# Capítulo\n> Algo.", "#| default_exp bowl",
                   "#| export\nimport click", "#| export\n@click.command()\ndef purr() -> None:\n    pass")  # fmt: skip
    done = build(small, commands)
    assert done.returncode == 1
    assert "nbdev no pudo preparar nbs/2_kedro/00_kedro.ipynb" in done.stderr and "«tierra purr --help» terminó con el código 2" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("sidebar", "message"),
    [
        (SIDEBAR.replace("      - href: 2_kedro/00_kedro.ipynb\n", ""), "falta 2_kedro/00_kedro.ipynb"),
        (SIDEBAR + "      - href: 2_kedro/99_nada.ipynb\n", "sobra 2_kedro/99_nada.ipynb"),
        (SIDEBAR + "      - text: La nada\n      - text: El todo\n        href: index.ipynb\n", "«La nada» no lleva a ningún sitio"),
    ],
)
def test_the_sidebar_names_every_notebook_and_no_other(small, commands, sidebar, message):
    (small / "nbs/sidebar.yml").write_text(sidebar)
    done = build(small, commands)
    assert done.returncode == 1
    assert message in done.stderr


def test_with_quarto_on_the_path_quarto_is_used(small, commands):
    page = '<html lang="es"><title>Hola</title><body></body></html>'
    write_command(
        commands / "quarto",
        "import pathlib, sys\n"
        "assert sys.argv[1:] == ['render', '--no-cache'], sys.argv\n"
        "assert pathlib.Path('2_kedro/00_kedro.ipynb').is_file() and pathlib.Path('_quarto.yml').is_file()\n"
        f"pathlib.Path('_docs').mkdir()\npathlib.Path('_docs/index.html').write_text({page!r})",
    )
    done = build(small, commands)
    assert done.returncode == 0, done.stderr
    assert "2/4 Hago las páginas con Quarto" in done.stdout
    assert list(read_site(small)) == ["index.html"]


# Lo que escribe Quarto en una página con una tabla de pandas (src/core/jupyter/widgets.ts).
WIDGETS = """<script src="https://cdnjs.cloudflare.com/ajax/libs/require.js/2.3.6/require.min.js" integrity="sha512-c3N" crossorigin="anonymous"></script>
<script src="https://cdnjs.cloudflare.com/ajax/libs/jquery/3.5.1/jquery.min.js" integrity="sha512-bLT" crossorigin="anonymous" data-relocate-top="true"></script>
<script type="application/javascript">define('jquery', [],function() {return window.jQuery;})</script>"""


def test_pages_made_with_quarto_ask_nothing_from_outside(small, commands):
    """Quarto pide dos bibliotecas a otra máquina por si la tabla fuese un control; lo que no sea eso, se queda."""
    page = f'<html lang="es"><head><script src="site_libs/a.js"></script>\n{WIDGETS}\n<title>Hola</title></head><body><p>jquery</p></body></html>'
    write_command(
        commands / "quarto",
        f"import pathlib\npathlib.Path('_docs/site_libs').mkdir(parents=True)\npathlib.Path('_docs/index.html').write_text({page!r})\n"
        "pathlib.Path('_docs/site_libs/a.js').write_text('')",
    )
    done = build(small, commands)
    assert done.returncode == 0, done.stderr
    made = read_site(small)["index.html"].decode()
    assert re.findall("<script[^>]*>", made) == ['<script src="site_libs/a.js">'] and "define" not in made and "<p>jquery</p>" in made


def test_when_quarto_fails_it_is_told(small, commands):
    write_command(commands / "quarto", "raise SystemExit(7)")
    done = build(small, commands)
    assert done.returncode == 1
    assert "Quarto terminó con el código 7" in done.stderr


# ---- El repaso

SOUND = '<html lang="es"><head><title>Hola</title></head><body><p id="aquí">Hola</p>{}</body></html>'
HOME = "/" + "home/ana"  # en dos trozos: en el repositorio no puede estar escrita ninguna


@pytest.mark.parametrize(
    ("page", "message"),
    [
        (SOUND.format('<a href="otra.html">x</a>'), "enlace roto: otra.html"),
        (SOUND.format('<a href="../fuera.html">x</a>'), "enlace roto: ../fuera.html"),
        (SOUND.format('<a href="#allí">x</a>'), "el ancla no existe: #allí"),
        (SOUND.format('<a href="index.html#all%C3%AD">x</a>'), "el ancla no existe: index.html#all%C3%AD"),
        (SOUND.format('<img src="foto.png" alt="foto">'), "enlace roto: foto.png"),
        (SOUND.format('<img src="foto.png"><p>x</p>'), "figura sin texto alternativo: foto.png"),
        (SOUND.format('<img src="data:image/png;base64,iVBO" alt=" ">'), "figura sin texto alternativo: data:image/png;base64,iVBO"),
        (SOUND.format('<svg role="img"></svg>'), "figura sin texto alternativo: un svg"),
        (SOUND.format('<script src="https://cdn.example/a.js"></script>'), "a otra máquina al abrirse: https://cdn.example/a.js"),
        (SOUND.format('<link rel="stylesheet" href="//fonts.example/css">'), "a otra máquina al abrirse: //fonts.example/css"),
        (SOUND.format('<style>@import "https://fonts.example/a";</style>'), "a otra máquina al abrirse: https://fonts.example/a"),
        (SOUND.format('<p style="background:url(https://x.example/a)">x</p>'), "a otra máquina al abrirse: https://x.example/a"),
        (SOUND.format('<input placeholder="Search">'), "texto sin traducir: «Search»"),
        (SOUND.format("<a>Report an issue</a>"), "texto sin traducir: «Report an issue»"),
        (SOUND.format('<div class="cell-output cell-output-error">x</div>'), "celda que acabó en error"),
        (SOUND.format('<div class="cell-output cell-output-stderr">x</div>'), "escribió en stderr"),
        (SOUND.format("<pre><b>KeyError</b>   Traceback (most recent <i>call last)</i></pre>"), "enseña un traceback"),
        (SOUND.format(f"<pre>File {HOME}/gatos/a.py:40</pre>"), f"una ruta de esta máquina: {HOME}"),
        (SOUND.format(f"<pre>File <b>{HOME[:3]}</b>{HOME[3:]}/a.py</pre>"), f"una ruta de esta máquina: {HOME}"),
        (SOUND.format("<code>.venv/lib/python3.11/site-packages/click</code>"), "una ruta de esta máquina: python3.11/site-packages/"),
        (SOUND.format(rf"<code>{ROOT}/nbs</code>"), f"una ruta de esta máquina: {ROOT}"),
        (SOUND.format("").replace('lang="es"', 'lang="en"'), "el idioma es «en» y no «es»"),
        (SOUND.format("").replace("Hola</title>", "</title>"), "no tiene título"),
    ],
)
def test_the_check_finds_what_is_wrong(tmp_path, page, message):
    (tmp_path / "index.html").write_text(page, encoding="utf-8")
    assert [problem for problem in check_site(tmp_path) if message in problem]


def test_the_check_finds_what_a_stylesheet_asks_for(tmp_path):
    (tmp_path / "index.html").write_text(SOUND.format(""), encoding="utf-8")
    (tmp_path / "a.css").write_text("@font-face { src: url('https://fonts.example/b.woff2') }", encoding="utf-8")
    assert check_site(tmp_path) == ["a.css: pide algo a otra máquina: https://fonts.example/b.woff2"]


def test_the_check_lets_a_sound_site_pass(tmp_path):
    links = '<a href="#aquí">a</a> <a href="index.html#aqu%C3%AD">b</a> <a href="https://example.org">c</a> <a href=".">d</a>'
    figures = '<img src="data:image/png;base64,iVBO" alt="Dos barras"> <svg role="img" aria-label="Una raya"></svg> <svg class="icon"></svg>'
    code = '<pre>assert "Traceback" not in done.stderr; flock /srv/gatos/.noche; curl example.org/home/x</pre>'
    (tmp_path / "index.html").write_text(SOUND.format(links + figures + code), encoding="utf-8")
    assert check_site(tmp_path) == []


def test_the_check_is_not_fooled_by_an_empty_folder(tmp_path):
    assert check_site(tmp_path) == [f"{tmp_path} no tiene ninguna página"]
