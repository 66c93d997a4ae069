"""Comparar de verdad: lo que un lote o unos cuadernos ejecutados dejan en una carpeta, en una tabla y en una página."""
import math
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import nbformat
import papermill
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from de_jupyter_a_la_tierra.errors import UsageError, WorkError
from de_jupyter_a_la_tierra.jobs.charts import Point, draw_points, find_ticks
from de_jupyter_a_la_tierra.jobs.ledger import Ledger
from de_jupyter_a_la_tierra.jobs.report import load_batch, write_report

VOID = {"meta", "link", "br", "img"}


class Page(HTMLParser):
    """Una página leída etiqueta a etiqueta: lo que se abre se cierra, y se apunta todo lo que enlaza o trae de fuera."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.assets: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "href" and tag == "a":
                self.links.append(unquote(value))
            elif name in ("src", "href", "srcset", "data") or name.startswith("on"):
                self.assets.append(value)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def write_batch(folder: Path, jobs: list[dict]) -> Path:
    """Un lote ya hecho: de cada trabajo, sus parámetros y lo que se quiera cambiar de su apunte."""
    ledger = Ledger(folder)
    ledger.register({f"key{place}": job["parameters"] for place, job in enumerate(jobs)})
    for entry, job in zip(ledger.list_records(), jobs, strict=True):
        notebook = f"notebooks/{entry.position:03d}-trabajo.ipynb"
        changes = {"status": "done", "attempts": 1, "started": 1e9 + entry.position, "seconds": 1.5, "notebook": notebook}
        ledger.update(entry, **changes | {name: value for name, value in job.items() if name != "parameters"})
    ledger.close()
    return folder


def read_page(folder: Path) -> tuple[str, Page]:
    """El informe de un lote, como texto y leído; sus dibujos han de ser XML y no traer nada de fuera."""
    text = write_report(folder).read_text(encoding="utf-8")
    page = Page(text)
    for part in text.split("<svg")[1:]:
        ElementTree.fromstring("<svg" + part.partition("</svg>")[0] + "</svg>")
    assert not page.assets and "@import" not in text and "url(" not in text
    return text, page


# --- La tabla ----------------------------------------------------------------------------------------------------


def test_a_row_per_job(tmp_path):
    """Una fila por trabajo, en su orden, con sus parámetros, lo que devolvió y dónde está lo demás."""
    jobs = [
        {"parameters": {"seed": 1, "model": "a"}, "returned": {"twins": {"accuracy": 0.8}, "labels": [1]}, "run_id": "r1"},
        {"parameters": {"seed": 2, "model": "b"}, "status": "failed", "error": "No pudo."},
        {"parameters": {"seed": 3}, "status": "pending", "seconds": None, "started": None, "notebook": ""},
    ]
    table = load_batch(write_batch(tmp_path, jobs))
    assert table.columns.tolist() == [
        "position", "status", "seconds", "peak_memory_mb", "seed", "model", "twins.accuracy", "labels",
        "attempts", "started", "random_seed", "run_id", "notebook", "error",
    ]
    assert table["status"].tolist() == ["done", "failed", "pending"] and table["seed"].tolist() == [1, 2, 3]
    assert table.loc[0, "twins.accuracy"] == 0.8 and table["twins.accuracy"].isna().sum() == 2
    assert table.loc[0, "labels"] == [1]
    assert table.loc[0, "run_id"] == "r1" and table.loc[1, "error"] == "No pudo."
    assert table.attrs == {"parameters": ["seed", "model"], "returned": ["twins.accuracy", "labels"]}


def test_names_never_step_on_each_other(tmp_path):
    """Un parámetro que se llama como una columna nuestra, y un valor devuelto que se llama como un parámetro, caben."""
    jobs = [{"parameters": {"status": "viejo", "seed": 1}, "returned": {"seed": 2, "seconds": 3, "status": 4}}]
    row = load_batch(write_batch(tmp_path, jobs)).iloc[0]
    assert (row["status"], row["parameter.status"], row["returned.status"]) == ("done", "viejo", 4)
    assert (row["seed"], row["returned.seed"], row["seconds"], row["returned.seconds"]) == (1, 2, 1.5, 3)


def test_a_folder_of_notebooks_is_enough(tmp_path):
    """Sin libro y sin nada nuestro: los cuadernos que ejecutó papermill, también el que falló; los demás no cuentan."""
    source = "from de_jupyter_a_la_tierra.parameters.returned import hand_back\nhand_back(double=2 * n)\nassert n < 3, 'demasiado'"
    cells = [new_code_cell("n: int = 1", metadata={"tags": ["parameters"]}), new_code_cell(source)]
    kernel = {"name": "python3", "language": "python", "display_name": "python3"}
    notebook = new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(notebook, tmp_path / "original.ipynb")
    (tmp_path / "rota.ipynb").write_text("{")
    for n in (2, 3):
        try:
            papermill.execute_notebook(notebook, tmp_path / f"acta {n}.ipynb", {"n": n}, progress_bar=False)
        except papermill.exceptions.PapermillExecutionError:
            assert n == 3
    table = load_batch(tmp_path)
    assert table[["status", "n", "double"]].values.tolist() == [["done", 2, 4.0], ["failed", 3, 6.0]]
    assert table["notebook"].tolist() == ["acta 2.ipynb", "acta 3.ipynb"] and table.loc[1, "error"] == "demasiado"
    assert (table["seconds"] > 0).all() and table["started"].notna().all()
    assert set(read_page(tmp_path)[1].links) == set(table["notebook"])


@pytest.mark.parametrize(("name", "says"), [("nada", "No existe la carpeta"), (".", "no hay ningún lote")])
def test_a_folder_with_nothing_is_a_sentence(tmp_path, name, says):
    """Una carpeta que no existe, o en la que no hay trabajos, se dice."""
    with pytest.raises(UsageError, match=says):
        load_batch(tmp_path / name)
    assert not list(tmp_path.iterdir())


# --- La página ---------------------------------------------------------------------------------------------------


def test_the_page_tells_the_batch(tmp_path):
    """Cifras, un dibujo por métrica y parámetro que varían, fallos juntos, calendario y tabla con sus enlaces."""
    jobs = [
        {"parameters": {"model": model, "c": c, "fixed": 1}, "returned": {"accuracy": 0.7 + c / 100, "f1": c / 50, "rows": 9}}
        for model in ("a", "b") for c in (0.1, 1.0, 10.0)
    ] + [{"parameters": {"model": "c", "c": 1.0, "fixed": 1}, "status": "failed", "error": "No cabe."} for _ in range(2)]
    text, page = read_page(write_batch(tmp_path / "mi lote", jobs))
    assert "Lote «mi lote»" in text and text.count('<div class="charts">') == 1
    assert [tag for tag in page.tags if tag == "svg"] == ["svg"] * 5  # dos métricas por dos parámetros, y el calendario
    assert text.count("<circle") == 4 * 6 and text.count('<path class="failed"') == 4 * 2 and text.count("<rect") == 8
    assert text.count("<li>No cabe. ") == 1
    assert set(page.links) == {f"notebooks/{place:03d}-trabajo.ipynb" for place in range(1, 9)}
    assert "0,7100" in text and {"hechos", "fallidos", "12 s"} <= set(page.texts)


def test_what_a_job_says_is_only_text(tmp_path):
    """Ni un valor, ni un error, ni el nombre de una columna pueden poner etiquetas en la página."""
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
    jobs = [
        {"parameters": {f"p{evil}": evil, "q": [evil]}, "returned": {f"m{evil}": 1.0, "t": {"x": [evil]}}, "notebook": f'"{evil}'},
        {"parameters": {f"p{evil}": "b", "q": 'c"'}, "returned": {f"m{evil}": 2.0}},
        {"parameters": {f"p{evil}": "c", "q": "d"}, "status": "failed", "error": evil},
    ]
    text, page = read_page(write_batch(tmp_path, jobs))
    assert page.tags.count("script") == 1 and "img" not in page.tags and evil not in text


@pytest.mark.parametrize(
    "jobs",
    [
        [{"parameters": {}, "status": "pending", "seconds": None, "started": None, "notebook": ""}],
        [{"parameters": {"a": k}, "status": "failed", "error": ""} for k in range(3)],
        [{"parameters": {"a": a}, "returned": {"x": x}} for a, x in enumerate((math.nan, math.inf, 1.0, True, None, "texto", 2.0))],
        [{"parameters": {"a": a}, "returned": {"x": k}} for k, a in enumerate((None, True, 1, "1", [1], {"b": 2}, 1.5, -3))],
        [{"parameters": {"a": 1}, "returned": {"x": 5.0}}] * 1,
        [{"parameters": {f"p{k}": j for k in range(9)}, "returned": {f"m{k}": j for k in range(9)}} for j in range(3)],
    ],
    ids=["nothing ran", "all failed", "odd values", "odd parameters", "only one", "more charts than fit"],
)
def test_any_batch_has_its_page(tmp_path, jobs):
    """Por raro que sea el lote, la página se escribe, está bien cerrada y tiene una fila por trabajo."""
    text, page = read_page(write_batch(tmp_path, jobs))
    assert page.tags.count("tr") == len(jobs) + 1
    assert ("dibujos más que no se enseñan" in text) == (len(jobs[0]["parameters"]) == 9)


def test_the_page_is_replaced_whole(tmp_path):
    """Un informe nuevo sustituye al viejo, y si no se puede escribir se dice y no queda un fichero a medias."""
    write_batch(tmp_path, [{"parameters": {"a": 1}}])
    assert write_report(tmp_path).read_bytes() == write_report(tmp_path).read_bytes()
    (tmp_path / "report.html").unlink()
    (tmp_path / "report.html").mkdir()
    with pytest.raises(WorkError, match="No se pudo escribir .*report.html"):
        write_report(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["batch.db", "report.html"]


# --- Los dibujos -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.71, 0.84), (-3, 1e6), (1e-9, 2e-9), (5, 5), (0, 0)])
def test_ticks_are_round_and_inside(low, high):
    """Las marcas de un eje caen dentro y no son más de las que caben."""
    ticks = find_ticks(low, high)
    assert len(ticks) <= 7 and all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)


def test_every_point_is_inside_its_chart():
    """Un punto fuera del dibujo es un trabajo que desaparece sin que nadie lo note."""
    for xs in (["a", "b"], [1, 2, 3, 4, 5, 6], [0.001, 0.01, 0.1, 1, 10], [None, "x"], [-5, 0, 5, 10, 15]):
        points = [Point(x, (-1) ** k * 10.0 ** (k - 3)) for k, x in enumerate(xs)] + [Point(xs[0], None)]
        chart = ElementTree.fromstring(draw_points(points, "x", "y"))
        marks = [(float(mark.get("cx")), float(mark.get("cy"))) for mark in chart.iter("circle")]
        assert len(marks) == len(xs) and all(52 <= x <= 332 and 12 <= y <= 186 for x, y in marks)
