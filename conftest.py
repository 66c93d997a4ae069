"""nbval sobre cuadernos que nbdev_clean ha limpiado, y un límite de tiempo que de verdad acaba con la prueba que se cuelga."""
import json
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

import psutil
import pytest
from pytest_timeout import Settings, timeout_sigalrm

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


@cache
def has_outputs(notebook: Path) -> bool:
    """Dice si el cuaderno guarda alguna salida: si guarda una, se comparan todas."""
    return any(cell.get("outputs") for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"])


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Un cuaderno con `skip_exec: true` (los trabajos) tampoco lo ejecuta nbdev: tests/test_jobs.py los ejecuta con papermill."""
    if collection_path.suffix == ".ipynb" and '"- skip_exec: true"' in collection_path.read_text(encoding="utf-8"):
        return True
    return None


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
