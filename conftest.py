"""nbval sobre cuadernos que nbdev_clean ha limpiado, y lo que dice cuando falla una celda."""
import difflib
import re
import sys
from collections.abc import Generator
from functools import cache
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).with_name("scripts")))

from notebooks import ANSI, find_fault, name_cell, read_notebook


@cache
def has_outputs(notebook: Path) -> bool:
    """Dice si el cuaderno guarda alguna salida: si guarda una, se comparan todas."""
    return any(cell.get("outputs") for cell in read_notebook(notebook)["cells"])


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Un cuaderno con `skip_exec: true` (los trabajos) tampoco lo ejecuta nbdev: tests/test_jobs.py los ejecuta con papermill."""
    if collection_path.suffix == ".ipynb" and '"- skip_exec: true"' in collection_path.read_text(encoding="utf-8"):
        return True
    return None


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Un cuaderno a medio fundir se dice con una frase y no con lo que le pase a nbformat al leerlo."""
    report = yield
    if report.failed and collector.path.suffix == ".ipynb":
        path = str(collector.path.relative_to(collector.config.rootpath))
        report.longrepr = find_fault(path, collector.path.read_text(encoding="utf-8")) or report.longrepr
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """nbdev_clean borra `execution_count` y nbval toma por no ejecutada la celda que no lo lleva: se lo devolvemos.

    Las celdas con `#| eval: false` tampoco las ejecuta nbdev.
    """
    for item in items:
        cell = getattr(item, "cell", None)
        if cell is None:
            continue
        if has_outputs(item.path):
            cell.execution_count = 1
        if re.search(r"^#\|\s*eval:\s*false", cell.source, re.M):
            item.add_marker(pytest.mark.skip(reason="eval: false"))


# --- Lo que dice una celda que falla -----------------------------------------------------------------------------


def find_line(traceback: str) -> int:
    """La línea de la celda en la que empezó el error; 0 si no se sabe."""
    found = re.search(r"Cell In\s*\[\d+\],? line:? ?(\d+)|File <ipython-input[^>]*>:(\d+)", traceback)
    return int(found[1] or found[2]) if found else 0


def point_at(source: str, line: int) -> str:
    """El texto de una celda con una flecha en una línea."""
    numbered = enumerate(source.splitlines(), 1)
    return "\n".join(f"{'-->' if number == line else '   '} {text}".rstrip() for number, text in numbered)


def list_frames(traceback: str) -> str:
    """De un error de IPython, lo que pasó fuera de la celda."""
    frames = re.split(r"\n\n(?=File |Cell In)", traceback.rstrip().rpartition("\n\n")[0])
    return "\n\n".join(frame for frame in frames if frame.startswith("File "))


def render_output(output: dict) -> str:
    """El texto de una salida; de una figura, que la hay."""
    data = output.get("data", {})
    shown = data.get("text/plain") or data.get("text/html") or data.get("text/markdown") or "".join(sorted(data))
    return (output.get("text") or shown or output.get("ename", "")).rstrip("\n") + "\n"


def compare_outputs(stored: list[dict], now: list[dict]) -> str:
    """La salida guardada y la de ahora, como un diff."""
    lines = ("".join(map(render_output, outputs)).splitlines() for outputs in (stored, now))
    return "\n".join(difflib.unified_diff(*lines, "guardada", "ahora", lineterm=""))


def explain_failure(place: str, cell: dict, error: Exception, outputs: list[dict]) -> str:
    """Por qué ha fallado una celda, con la línea que falla o con lo que ha cambiado; la primera línea lo resume."""
    traceback = ANSI.sub("", getattr(error, "inner_traceback", None) or "").strip()
    if "outputs differ" in str(error):
        changed = compare_outputs(cell.outputs, outputs) or traceback
        return (
            f"{place}: su salida ya no es la que guarda el cuaderno\n\n{point_at(cell.source, 0)}\n\n{changed}\n\n"
            "Si la de ahora es la buena: Restart & Run All, y guárdalo."
        )
    raised = [output for output in outputs if output.output_type == "error"]
    if not raised:
        return f"{place}: {error}\n\n{point_at(cell.source, 0)}\n\n{traceback}".rstrip()
    reason = ANSI.sub("", f"{raised[-1].ename}: {raised[-1].evalue}".rstrip(": "))
    return "\n\n".join(filter(None, [f"{place}: {reason}", point_at(cell.source, find_line(traceback)), list_frames(traceback)]))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Una celda que falla se nombra por su título y su sitio, en español y sin colores."""
    report = yield
    if report.failed and call.when == "call" and hasattr(item, "cell"):
        cells = item.parent.nb.cells
        index = next(index for index, cell in enumerate(cells) if cell is item.cell)
        report.longrepr = explain_failure(name_cell(cells, index), item.cell, call.excinfo.value, item.test_outputs or [])
    return report
