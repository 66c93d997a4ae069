"""Las pruebas: ninguna se cuelga, los cuadernos limpios se comparan con nbval, y una celda que falla se nombra."""
import difflib
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from functools import cache, wraps
from pathlib import Path

import nbval.kernel
import psutil
import pytest
from nbval.plugin import IPyNbCell
from pytest_timeout import Settings, timeout_sigalrm

sys.path.append(str(Path(__file__).with_name("scripts")))

from notebooks import ANSI, find_fault, name_cell, read_notebook

# --- Ninguna espera para siempre ---------------------------------------------------------------------------------

LONG = 1800  # lo más que puede durar una prueba larga, en segundos
INSISTENCE = 10  # cada cuánto se repite la orden de parar a quien, al recoger, se vuelve a colgar
LIMIT = pytest.StashKey[Settings]()


def pytest_configure() -> None:
    """Las pruebas mandan Ctrl-C, y quien las lanza con «nohup … &» lo deja desoído en ellas y en todo lo que arrancan."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def end_children(since: float) -> None:
    """Mata los procesos que hayan nacido de este desde un momento: por ellos espera, al recoger, quien los arrancó."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if process.create_time() >= since - 1:  # se cuenta desde que arrancó la máquina, y esa hora viene redondeada
                process.kill()


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Settings) -> bool | None:
    """Para la prueba que se pasa de su límite y lo que haya arrancado, e insiste mientras no acabe.

    El aviso de pytest-timeout es uno solo: si salta dentro de un `with Popen(…)`, al salir se espera otra vez, y ya sin límite.
    """
    if threading.current_thread() is not threading.main_thread():
        return None
    begun, item.stash[LIMIT] = time.time(), settings

    def stop(*_: object) -> None:
        __tracebackhide__ = True
        end_children(begun)
        timeout_sigalrm(item, settings)

    def cancel() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)

    item.cancel_timeout = cancel
    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, settings.timeout, INSISTENCE)
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """El límite de una celda de un cuaderno es el suyo, y no los 2000 s de nbval: así lo interrumpe él, que enseña dónde estaba."""
    if hasattr(item, "cell") and LIMIT in item.stash:
        item.config.option.nbval_cell_timeout = 0.75 * item.stash[LIMIT].timeout
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """Recoger también tiene límite, aunque la prueba haya fallado y pytest-timeout dé por apagado el suyo."""
    if LIMIT in item.stash:
        item.cancel_timeout()
        item.config.hook.pytest_timeout_set_timer(item=item, settings=item.stash[LIMIT])
    return (yield)


# --- nbval sobre cuadernos que nbdev_clean ha limpiado -----------------------------------------------------------


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

    Las celdas con `#| eval: false` tampoco las ejecuta nbdev. A las pruebas largas se les da más tiempo.
    """
    for item in items:
        if item.get_closest_marker("long") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(LONG))
        cell = getattr(item, "cell", None)
        if cell is None:
            continue
        if has_outputs(item.path):
            cell.execution_count = 1
        if re.search(r"^#\|\s*eval:\s*false", cell.source, re.M):
            item.add_marker(pytest.mark.skip(reason="eval: false"))


# --- Lo que no es culpa de una celda ------------------------------------------------------------------------------


def insist(start: Callable[..., tuple]) -> Callable[..., tuple]:
    """Arranca un núcleo, y otra vez si muere al nacer: sus puertos se eligen antes de abrirlos, y otro proceso puede quitárselos."""
    @wraps(start)
    def begin(*args: object, **options: object) -> tuple:
        for _ in range(2):
            with suppress(RuntimeError):
                return start(*args, **options)
        return start(*args, **options)

    return begin


def mend_characters(now: list[dict], stored: list[dict]) -> None:
    """IPython lee lo que escribe una celda «%%sh» de cien en cien bytes, y según cuándo llegue parte una tilde en dos: si es solo eso, es la guardada."""
    for ours, known in zip(now, stored, strict=False):
        if ours.output_type == known.output_type == "stream" and "\ufffd" in ours.text:
            pattern = r"[^\x00-\x7f]+".join(map(re.escape, re.split("\ufffd+", ours.text)))
            ours.text = known.text if re.fullmatch(pattern, known.text, re.DOTALL) else ours.text


def compare_mended(self: IPyNbCell, test: list[dict], ref: list[dict], *args: object, compare=IPyNbCell.compare_outputs, **options: object) -> bool:
    """Compara las salidas de una celda con las guardadas."""
    mend_characters(test, ref)
    return compare(self, test, ref, *args, **options)


nbval.kernel.start_new_kernel = insist(nbval.kernel.start_new_kernel)
IPyNbCell.compare_outputs = compare_mended


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
