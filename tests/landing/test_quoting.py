"""Un dato no es código: ningún nombre, por raro que sea, cambia lo que dice un fichero que escribimos."""
import ast
import configparser
import csv
import html
import json
import re
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from jinja2 import nodes
from markdown_it import MarkdownIt
from omegaconf import OmegaConf

from de_jupyter_a_la_tierra import quoting
from de_jupyter_a_la_tierra.api.page import build_page
from de_jupyter_a_la_tierra.files import find_cargo
from de_jupyter_a_la_tierra.jobs.report import build_report
from de_jupyter_a_la_tierra.landing.stages import render_project
from de_jupyter_a_la_tierra.landing.templates import Landing, open_templates
from de_jupyter_a_la_tierra.models.artifact import load_model
from de_jupyter_a_la_tierra.tables.dictionary import Column, Dictionary

NASTY = [
    "a\u2028import os", "b\x85import os", 'c"); import os; ("', "d\n# %%\nimport os", "e ${oc.env:HOME}", "f \\${x} \\\\${y}",
    "g {{ name }} {% raw %}", "h <script>alert(1)</script>", "i $(shell touch pwned) `touch pwned` '; touch pwned; '",
    "j | k # l", "m\\", "n\u202eo", "\U000e0001p", "q $\\frac{$ ^_", "???", "null", "1e3", "- r", "&s *t !u", "v: w", "[x]", "%y", "@z",
]
TEXTS = st.one_of(st.sampled_from(NASTY), st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)).filter(
    lambda text: bool(text.strip())
)


# ── Cada función, con su lector ─────────────────────────────────────────────


@given(TEXTS)
def test_each_quote_is_undone_by_its_reader(text: str) -> None:
    assert ast.literal_eval(quoting.quote_python([text])) == [text]
    assert tomllib.loads(f"a = {quoting.quote_toml(text)}")["a"] == text
    conf = quoting.quote_conf(text)
    assert OmegaConf.to_container(OmegaConf.create(f"a: {conf}\nb:\n  - {conf}\n"), resolve=True) == {"a": text, "b": [text]}
    if "${" not in text:
        assert yaml.safe_load(conf) == text
    assert json.loads(quoting.quote_recipe({text: text})) == {text: text}
    for quoted in (quoting.quote_python(text), conf, quoting.quote_recipe(text), quoting.quote_line(text), quoting.quote_markdown(text)):
        assert len(quoted.splitlines()) <= 1 and quoted.isprintable()


def read_markdown(text: str) -> tuple[str, set[str]]:
    """Lo que se lee en un trozo de Markdown, y qué clases de cosa hay en él."""
    tokens = MarkdownIt("commonmark").enable("table").parseInline(text)[0].children
    return "".join(token.content for token in tokens), {token.type for token in tokens}


@given(TEXTS)
@example("__0__")
@example("a_b __c__ _d")
def test_markdown_is_read_as_it_was_written(text: str) -> None:
    said, kinds = read_markdown(quoting.quote_markdown(text))
    assert said == quoting.quote_line(text) and kinds <= {"text", "text_special"}


def test_a_recipe_goes_through_make_and_the_shell(tmp_path: Path) -> None:
    """Lo que imprime una receta con los nombres más raros es el mismo JSON, y nadie ejecuta nada."""
    row = dict.fromkeys(NASTY, 1.5)
    (tmp_path / "Makefile").write_text(
        f"EXAMPLE = {quoting.quote_recipe(row)}\n\nall:\n\t@printf \"%s\\n\" '$(EXAMPLE)'\n", encoding="utf-8"
    )
    done = subprocess.run(["make", "-s"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout) == row and [path.name for path in tmp_path.iterdir()] == ["Makefile"]


# ── Las plantillas ──────────────────────────────────────────────────────────

FILTERS = {"python", "conf", "toml", "recipe", "markdown", "line", "source"}
SAFE = {"repository", "name", "stage", "extra", "version", "docs", "origin", "model_type", "max_bad_share", "tool"}  # no los escribe nadie a mano


def is_safe(node: nodes.Node) -> bool:
    """Si lo que se imprime es un texto de la plantilla, un nombre nuestro o algo que pasa por su filtro."""
    match node:
        case nodes.TemplateData() | nodes.Const():
            return True
        case nodes.Name():
            return node.name in SAFE
        case nodes.Filter():
            return node.name in FILTERS or node.name == "length"
        case nodes.CondExpr():
            return is_safe(node.expr1) and is_safe(node.expr2)
    return False


@pytest.mark.parametrize("path", sorted(find_cargo("templates").rglob("*.jinja")), ids=lambda path: path.name)
def test_no_template_prints_data_as_it_is(path: Path) -> None:
    printed = open_templates().parse(path.read_text(encoding="utf-8")).find_all(nodes.Output)
    assert [node for output in printed for node in output.nodes if not is_safe(node)] == []


def build_landing(texts: list[str], title: str, stage: int, task: str, kind: str) -> Landing:
    """Un proyecto cuyas columnas se llaman así, y con todo lo demás también escrito por cualquiera."""
    target, *features = dict.fromkeys(texts)
    columns = [Column(name=target, meaning=target, kind=kind, unit=texts[-1], prefix=texts[0], suffix=texts[-1])]
    columns += [Column(name=name, meaning=title, unit=name, suffix=name, source=name, minimum=0.1, integer=True) for name in features]
    dictionary = Dictionary(title, tuple(columns), target, tuple(features))
    example_row = dict.fromkeys(features, 1.5)
    return Landing(name="datos", title=title, kind="own", stage=stage, dictionary=dictionary, task=task, example=example_row)


def read_cells(text: str) -> Iterator[tuple[str, str]]:
    """Las celdas de un cuaderno: su clase y su texto."""
    for cell in json.loads(text)["cells"]:
        yield cell["cell_type"], "".join(cell["source"])


def parse_cell(source: str) -> ast.Module:
    """Una celda, sin las órdenes de IPython."""
    return ast.parse("\n".join(line for line in source.split("\n") if not line.startswith("%")))


def count_statements(files: dict[str, str]) -> dict[str, list[str]]:
    """De cada fichero de Python o cuaderno, qué sentencias tiene, celda a celda y sin sus textos."""
    shape = {}
    for path, text in files.items():
        if path.endswith((".ipynb", ".py")):
            cells = read_cells(text) if path.endswith(".ipynb") else [("code", text)]
            shape[path] = [
                " ".join(type(node).__name__ for node in ast.walk(parse_cell(source)) if isinstance(node, ast.stmt | ast.Call))
                if kind == "code" else kind
                for kind, source in cells
            ]
    return shape


def find_constants(text: str) -> set[Any]:
    """Los textos literales de un cuaderno."""
    trees = [parse_cell(source) for kind, source in read_cells(text) if kind == "code"]
    return {node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)}


def check_files(landing: Landing, files: dict[str, str]) -> None:
    """Cada fichero se lee, y dice de los datos exactamente lo que eran."""
    names = list(landing.dictionary.features)
    calm = [f"c{number}" for number in range(len(names) + 1)]
    target = landing.dictionary.columns[0]
    plain = build_landing(calm, "Datos", landing.stage, landing.task, target.kind)
    assert count_statements(files) == count_statements(render_project(plain))  # ni una sentencia de más
    settings_ini = configparser.ConfigParser(delimiters=["="], interpolation=None)
    settings_ini.read_string(files["settings.ini"])
    assert settings_ini.sections() == [] and settings_ini["DEFAULT"]["lib_path"] == "datos"
    assert settings_ini["DEFAULT"]["title"] == quoting.quote_line(landing.title)
    assert {line for line in files["Makefile"].splitlines() if not line.startswith("#")} == {
        line for line in render_project(plain)["Makefile"].splitlines() if not line.startswith("#")
    }
    assert landing.dictionary.target in find_constants(files["nbs/1_libreta/00_exploracion.ipynb"])
    assert "<script" not in files["README.md"].replace("\\<script", "")
    if landing.stage < 2:
        return
    assert tomllib.loads(files["pyproject.toml"])["tool"]["kedro"]["project_name"] == landing.title
    namespace: dict[str, Any] = {"Column": Column, "Dictionary": Dictionary}
    cells = [source for kind, source in read_cells(files["nbs/2_kedro/01_columns.ipynb"]) if "DICTIONARY = " in source]
    exec(cells[0], namespace)  # noqa: S102  es lo que se comprueba: que ejecutarlo solo dé el diccionario
    assert namespace["DICTIONARY"] == landing.dictionary
    conf = OmegaConf.create(files["conf/base/parameters_2_kedro.yml"])
    conf = OmegaConf.to_container(OmegaConf.create({key: conf._get_node(key) for key in ("target", "features", "twin_key")}), resolve=True)
    assert conf == {"target": landing.dictionary.target, "features": names, "twin_key": names}
    if landing.stage >= 3:
        recipe = re.search(r"^EXAMPLE = (.*)$", files["make/3_api.mk"], re.M)[1]
        assert json.loads(recipe) == landing.example and not set("'$#") & set(recipe)
        example_line = next(node for node in ast.parse(files["tests/test_api.py"]).body if isinstance(node, ast.Assign))
        assert ast.literal_eval(example_line.value) == landing.example


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(TEXTS, min_size=2, max_size=5, unique=True), TEXTS, st.integers(1, 6),
    st.sampled_from(["classification", "regression"]), st.sampled_from(["number", "text"]),
)
@example(NASTY, NASTY[3], 6, "classification", "text")
@example(NASTY, NASTY[0], 6, "regression", "number")
@example(NASTY, NASTY[4], 1, "classification", "number")
def test_whatever_the_names_the_project_says_the_same(texts: list[str], title: str, stage: int, task: str, kind: str) -> None:
    landing = build_landing(texts, title, stage, task, kind)
    check_files(landing, render_project(landing))


# ── De punta a punta ────────────────────────────────────────────────────────

COLUMNS = ["a\u2028import os", "e ${oc.env:HOME}", "h <script>alert(1)</script>", "i $(touch pwned) 'x'", "q $/frac{$ ^", "b\x85x"]
LABELS = ["<b>x</b> | $\\frac{$", "${oc.env:HOME}"]


def write_sheet(path: Path) -> None:
    """Una hoja con los nombres y las clases más raros que se admiten."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*COLUMNS, "clase ${z}"])
        writer.writerows([*((row * (7 + k)) % 53 / 10 for k in range(len(COLUMNS))), LABELS[row % 53 > 26]] for row in range(160))


def test_a_sheet_of_odd_names_goes_the_whole_way(tierra: Callable, tmp_path: Path) -> None:
    """De la hoja al modelo, a su página y a sus predicciones; y nadie ejecuta, ni busca, lo que dicen los nombres."""
    write_sheet(tmp_path / "hoja '${x}.csv")
    title, folder = "Raro ${x}\n<b>\"$(touch pwned)\"", tmp_path / "p"
    made = tierra("new", title, "--data", "hoja '${x}.csv", "--target", "clase ${z}", "--dest", "p", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    done = tierra("run", cwd=folder)
    assert done.returncode == 0, done.stderr
    model = load_model(max((folder / "data/06_models").rglob("model.json")).parent)
    assert list(model.features) == [quoting.quote_line(name) for name in COLUMNS] and model.info["classes"] == sorted(LABELS)
    assert "<script" not in re.sub(r"\\<", "", (folder / "data/08_reporting/report.md").read_text(encoding="utf-8"))
    page = build_page(model.info, "<i>v</i>", "http://x")
    assert page.count("<script") == 1 and "<b>x" not in page and "<i>v" not in page and html.escape(COLUMNS[2]) in page
    scored = tierra("predict", "../hoja '${x}.csv", "salida ${y}.csv", cwd=folder)
    assert scored.returncode == 0, scored.stderr
    assert (folder / "salida ${y}.csv").is_file()
    assert not list(tmp_path.rglob("pwned"))


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nimport os", "a\n# %%\nimport os", "a\x1b[31m"])
def test_a_name_that_cannot_be_gets_a_safe_one(tierra: Callable, tmp_path: Path, name: str) -> None:
    """Comillas, barras, saltos y caracteres invisibles: la columna se usa con otro nombre, y el diccionario guarda el suyo."""
    with (tmp_path / "hoja.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([[name, "y"], *([k * 7 % 13 / 2, k % 2] for k in range(40))])
    done = tierra("new", "raro", "--data", "hoja.csv", "--target", "y", "--stage", "2", cwd=tmp_path)
    assert done.returncode == 0 and "\x1b" not in done.stdout + done.stderr, done.stderr
    namespace: dict[str, Any] = {"Column": Column, "Dictionary": Dictionary}
    notebook = (tmp_path / "raro/nbs/2_kedro/01_columns.ipynb").read_text(encoding="utf-8")
    exec(next(source for kind, source in read_cells(notebook) if "DICTIONARY = " in source), namespace)  # noqa: S102  es lo que se comprueba
    [column, _] = namespace["DICTIONARY"].columns
    assert column.name.isprintable() and not set('"\\') & set(column.name) and column.header.split() == name.split()


def test_the_report_of_a_batch_escapes_what_it_shows() -> None:
    """Parámetros, valores, errores y nombres de lote llegan a la página como texto."""
    evil = "<script>alert(1)</script>"
    row = {"position": evil, "status": "failed", "error": evil, "started": None, "seconds": None, "peak_memory_mb": None,
           "notebook": f"notebooks/{evil}.ipynb", evil: evil, f"{evil}2": 1.5}
    table = pd.DataFrame([row, {**row, "status": "done", evil: f"{evil}b", f"{evil}2": 2.5}])
    table.attrs = {"parameters": [evil], "returned": [f"{evil}2"]}
    page = build_report(table, evil)
    assert page.count("<script>") == 1 and page.count("alert(1)") > 5
