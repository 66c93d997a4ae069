"""Nada se queda colgado en el motor «tierra»: falle lo que falle de quien recoge, la celda no lo espera y el trabajo acaba con su motivo.

papermill no pone plazo a las celdas; si algo se cuelga, es para siempre. Por eso cada prueba tiene el suyo.
"""
import errno
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import papermill
import psutil
import pytest
from nbclient.exceptions import CellTimeoutError
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook
from papermill.exceptions import PapermillExecutionError
from papermill.iorw import papermill_io

from de_jupyter_a_la_tierra.engine.client import CellProcess
from de_jupyter_a_la_tierra.engine.processes import warm_context

pytestmark = pytest.mark.timeout(60)
PAPERMILL = Path(sys.executable).with_name("papermill")
PYTHON = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}


def build(*sources: str) -> NotebookNode:
    """Un cuaderno con esas celdas."""
    return new_notebook(cells=[new_code_cell(source) for source in sources], metadata=PYTHON)


def run(notebook: NotebookNode, output: Path | str | None, engine: str = "tierra", **options) -> NotebookNode:
    """Ejecuta un cuaderno y lo devuelve."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTEST_CURRENT_TEST", raising=False)
        output = str(output) if output else None
        return papermill.execute_notebook(nbformat.from_dict(notebook), output, engine_name=engine, progress_bar=False, **options)


STOCK = """
import json, papermill
done = papermill.execute_notebook("stock.in.ipynb", None, engine_name="nbclient", progress_bar=False)
json.dump(done, open("stock.json", "w"))  # en su orden: nbformat lo guardaría por orden alfabético
"""


def run_stock(notebook: NotebookNode, folder: Path) -> NotebookNode:
    """Lo mismo con el motor de siempre: en otro proceso, y otra vez si se queda colgado.

    Con un «Output» de ipywidgets, el núcleo y nbclient se quedan de vez en cuando esperándose el uno al otro; no es cosa nuestra.
    """
    nbformat.write(notebook, folder / "stock.in.ipynb")
    command = [sys.executable, "-c", STOCK]
    env = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    for patience in (25, 50, 100):
        with subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True) as stock:
            try:
                _, said = stock.communicate(timeout=patience)
            except subprocess.TimeoutExpired:
                for process in psutil.Process(stock.pid).children(recursive=True):  # el núcleo, que está en otro grupo
                    process.kill()
                os.killpg(stock.pid, signal.SIGKILL)
                continue
        assert stock.returncode == 0, said
        return nbformat.from_dict(json.loads((folder / "stock.json").read_text()))
    pytest.fail("el motor de siempre se ha quedado colgado las tres veces: no hay con qué comparar")


def read_text(cell: NotebookNode) -> str:
    """Lo que escribió una celda por su salida."""
    return "".join(output.text for output in cell.outputs if output.output_type == "stream" and output.name == "stdout")


# --- Quien recoge falla ---------------------------------------------------------------------------------------------


class Broken:
    """Un sitio remoto que deja de aceptar lo que se le manda."""

    def __init__(self) -> None:
        self.left, self.kept = 3, ""

    def write(self, text: str, path: str) -> None:
        """Guarda unas cuantas veces, y luego ya no."""
        self.left -= 1
        if self.left < 0:
            raise ConnectionError("el almacén no contesta")
        self.kept = text

    def pretty_path(self, path: str) -> str:
        """Como se escribe."""
        return path


@pytest.fixture
def broken() -> Iterator[Broken]:
    """Un almacén que se estropea a mitad del cuaderno."""
    store, before = Broken(), list(papermill_io._handlers)
    papermill_io.register("roto://", store)
    yield store
    papermill_io._handlers[:] = before


def test_an_autosave_that_fails_ends_the_job(broken, caplog) -> None:
    """Con la celda enseñando cosas sin parar, que es cuando esperaba a que se las recogieran."""
    endless = "import itertools\nfor number in itertools.count():\n    display(number)"
    with pytest.raises(ConnectionError, match="el almacén no contesta"):
        run(build("'antes'", endless), "roto://out.ipynb", autosave_cell_every=0.01)
    assert "El cuaderno no se ha podido seguir ejecutando. ConnectionError: el almacén no contesta" in caplog.text
    assert "Task was destroyed" not in caplog.text


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full solo lo tiene Linux")
def test_a_full_disk_ends_the_job(tmp_path) -> None:
    """papermill lo dice con su código de salida y el motivo en español, y no espera."""
    nbformat.write(build("while True:\n    print('x' * 100_000, flush=True)"), tmp_path / "in.ipynb")
    done = subprocess.run(
        [PAPERMILL, "--engine", "tierra", "--no-progress-bar", "--stdout-file", "/dev/full", "in.ipynb", "out.ipynb"],
        cwd=tmp_path, capture_output=True, text=True, timeout=50,
    )
    assert done.returncode == 1
    assert f"El cuaderno no se ha podido seguir ejecutando. OSError: [Errno {errno.ENOSPC}]" in done.stderr
    cell = nbformat.read(tmp_path / "out.ipynb", 4).cells[0]
    assert cell.metadata.papermill.status == "failed" and cell.outputs[-1].ename == "OSError"


def test_output_that_nbclient_cannot_take_ends_the_job(tmp_path) -> None:
    """Un mensaje que nbclient no entiende: sin «state» no sabe abrir la otra mitad de un «widget»."""
    code = "import comm\nfor _ in range(3):\n    comm.create_comm(target_name='jupyter.widget', data={})\n"
    with pytest.raises(KeyError, match="state"):
        run(build(code), tmp_path / "out.ipynb")


# --- Mensajes dentro de mensajes ------------------------------------------------------------------------------------

INSIDE = """
import gc, itertools, signal, threading
seen = itertools.count()

def interrupt(*_):
    next(seen)
    display({'señal': 'x' * 100_000})
    signal.setitimer(signal.ITIMER_REAL, 0.002)

signal.signal(signal.SIGALRM, interrupt)
signal.setitimer(signal.ITIMER_REAL, 0.002)
for number in range(150):
    display({'celda': 'y' * 100_000})
    print('.', end='', flush=True)
signal.signal(signal.SIGALRM, signal.SIG_IGN)
""", """
class Farewell:
    def __init__(self):
        self.me = self

    def __del__(self):
        display('adiós')

gc.set_threshold(5)
for number in range(200):
    Farewell()
    display([[number] for _ in range(20)][-1])
gc.collect()
gc.set_threshold(700)
""", """
def work(name):
    for number in range(50):
        display(f'{name} {number}')

threads = [threading.Thread(target=work, args=(name,)) for name in 'abcd']
for thread in threads: thread.start()
work('e')
for thread in threads: thread.join()
"""


def test_messages_inside_messages(tmp_path) -> None:
    """`display` en lo que atiende a una señal, en un `__del__` y en hilos, mientras otro espera: llegan todos, y enteros."""
    notebook = run(build(*INSIDE, "next(seen)"), tmp_path / "out.ipynb")
    signals, farewells, threads, count = notebook.cells
    shown = [output.data["text/plain"] for output in signals.outputs if output.output_type == "display_data"]
    assert {len(text) for text in shown} == {len("{'señal': ''}") + 100_000}
    assert len([text for text in shown if "celda" in text]) == 150
    assert len([text for text in shown if "señal" in text]) == int(count.outputs[0].data["text/plain"]) > 0
    assert read_text(signals) == "." * 150
    assert [output.data["text/plain"] for output in farewells.outputs].count("'adiós'") == 200
    assert len(threads.outputs) == 250


def test_ctrl_c_in_the_middle_of_a_message(tmp_path) -> None:
    """Interrumpir una celda que no hace más que enseñar cosas grandes no parte ningún mensaje, y la siguiente se ejecuta."""
    code = "while True:\n    display('x' * 300_000)"
    notebook = build(*[code] * 4, "'sigue'")
    for cell in notebook.cells:
        cell.metadata["tags"] = ["raises-exception"]
    with pytest.raises(PapermillExecutionError):  # al acabar: a papermill no le vale que se esperara el fallo
        run(notebook, tmp_path / "out.ipynb", execution_timeout=1, interrupt_on_timeout=True)
    notebook = nbformat.read(tmp_path / "out.ipynb", 4)
    notebook.cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.outputs[-1].get("ename") for cell in notebook.cells] == ["KeyboardInterrupt"] * 4 + [None]


def test_between_cells_and_at_the_end(tmp_path) -> None:
    """Un hilo que enseña cosas cuando no hay ninguna celda en marcha no detiene ni a la siguiente ni la despedida."""
    code = """
import threading
from IPython.display import display

def work():
    for number in range(3000):
        display(number)
    open('acabado', 'w').close()

threading.Thread(target=work).start()
"""
    run(build(code, "1 + 1"), tmp_path / "out.ipynb", cwd=tmp_path)
    assert (tmp_path / "acabado").exists()


# --- Plazos ---------------------------------------------------------------------------------------------------------


def test_a_torrent_does_not_hide_the_deadline(tmp_path) -> None:
    """Quien escribe más deprisa de lo que se lee no deja sin plazo a su celda."""
    with pytest.raises(CellTimeoutError):
        run(build("!yes"), tmp_path / "out.ipynb", execution_timeout=1, coalesce_streams=True)


@pytest.mark.parametrize(("code", "shown"), [
    ("def slow():\n    import time\n    time.sleep(60)\nslow()", "time.sleep(60)"),
    ("import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\ntime.sleep(60)", "La celda no había terminado a los 1 s."),
])
def test_a_timed_out_cell_is_saved_failed(tmp_path, code, shown) -> None:
    """Con dónde estaba si se deja interrumpir; con el motivo, siempre."""
    with pytest.raises(CellTimeoutError):
        run(build("1 + 1", code, "'nunca'"), tmp_path / "out.ipynb", execution_timeout=1)
    notebook = nbformat.read(tmp_path / "out.ipynb", 4)
    nbformat.validate(notebook)
    assert [cell.metadata.papermill.status for cell in notebook.cells] == ["completed", "failed", "pending"]
    [error] = notebook.cells[1].outputs
    assert error.ename == "CellTimeoutError" and error.evalue == "La celda no había terminado a los 1 s."
    assert shown in re.sub(r"\x1b\[[\d;]*m", "", "\n".join(error.traceback))


@pytest.fixture
def slow_module(tmp_path, monkeypatch) -> str:
    """Un módulo que tarda en importarse."""
    (tmp_path / "parsimonioso.py").write_text("import time\ntime.sleep(3)\n", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.syspath_prepend(tmp_path)
    return "parsimonioso"


def test_preloading_does_not_count(tmp_path, slow_module) -> None:
    """Lo que tarda en estar listo el proceso caliente no sale del plazo del cuaderno."""
    cells = CellProcess([slow_module], dict(os.environ))
    try:
        cells.start([])
        from jupyter_core.utils import run_sync

        run_sync(cells.wait_for_ready)(2.5)
    finally:
        cells.shutdown_kernel()


def test_a_module_that_never_ends_loading(tmp_path, monkeypatch) -> None:
    """Si adelantar un módulo no acaba, se trabaja sin adelantarlo."""
    (tmp_path / "eterno.py").write_text("import threading\nthreading.Event().wait()\n", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    process = warm_context(["eterno"]).Process(target=sys.exit, args=(4,))
    process.timeout = 8
    process.start()
    process.join(30)
    assert process.exitcode == 4


# --- Procesos que se quedan mudos -----------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["import os\nos.closerange(3, 1000)\nimport time\ntime.sleep(600)"])
def test_a_process_that_hangs_up(tmp_path, caplog, code) -> None:
    """Una celda que cierra todo lo que encuentra, como hace quien se vuelve demonio, ya no puede contestar: se da por muerta."""
    from nbclient.exceptions import DeadKernelError

    with pytest.raises(DeadKernelError):
        run(build(code), tmp_path / "out.ipynb")
    assert "El proceso del cuaderno ha muerto" in caplog.text


# --- Widgets --------------------------------------------------------------------------------------------------------

WIDGETS = [
    "from rich.progress import track\nfor _ in track(range(2)):\n    pass",
    "import ipywidgets as w\nfrom IPython.display import display\nslider = w.IntSlider(value=3)\ndisplay(slider)\nslider.value = 7",
    "out = w.Output()\ndisplay(out)\nwith out:\n    print('dentro')\n    display('y esto')\nprint('fuera')",
    "out.clear_output()\nout.append_stdout('otra vez')",
    "from tqdm.notebook import tqdm\nfor _ in tqdm(range(3), mininterval=0):\n    pass",
    "w.Image(value=b'\\x89PNG' * 10, format='png')",
    "@w.interact(x=3)\ndef f(x):\n    print(x)\n    return x",
    "'fin'",
]


def normalize(notebook: NotebookNode) -> list:
    """Las salidas y el estado de los «widgets», con sus identificadores por orden de aparición."""
    names: dict[str, str] = {}
    text = json.dumps([[cell.outputs for cell in notebook.cells], notebook.metadata.get("widgets")], indent=1)
    text = re.sub(r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])", lambda match: names.setdefault(match[0], f"id{len(names)}"), text)
    text = re.sub(r"\b[0-9a-f]{8}-[0-9a-f-]{27}(_\d+){0,3}", "msg", text)
    text = re.sub(r"\d+:\d\d:\d\d|\d+:\d\d<\d+:\d\d|[\d.,?]+ ?it/s|<\d\d:\d\d|\d\d:\d\d", "time", text)
    return text.splitlines()


@pytest.mark.timeout(300)
def test_widgets_as_with_a_kernel(tmp_path) -> None:
    """Las mismas salidas y el mismo estado guardado que con el motor de siempre, sin núcleo."""
    ours, known = run(build(*WIDGETS), tmp_path / "tierra.ipynb"), run_stock(build(*WIDGETS), tmp_path)
    assert normalize(known) == normalize(ours)
    assert len(ours.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"]) > 10


@pytest.mark.timeout(300)
def test_widgets_are_imported_beforehand(tmp_path) -> None:
    """ipywidgets, que también trae seaborn, se importa por adelantado; y aun así espera al otro lado de la conversación."""
    asking = build("import sys as system\nearly = 'ipywidgets' in system.modules", "import comm, ipywidgets", "early, sorted(comm.get_comm_manager().targets)")
    known = run_stock(asking, tmp_path)
    for done, early in ((run(asking, tmp_path / "1.ipynb"), False), (run(asking, tmp_path / "2.ipynb"), True), (known, False)):  # se adelanta desde la segunda
        (output,) = done.cells[-1].outputs
        assert output.data["text/plain"] == f"({early}, ['jupyter.widget', 'jupyter.widget.control'])"


def test_a_widget_that_is_told_a_lot(tmp_path) -> None:
    """Cada línea le vuelve entera a un «Output» mientras su celda, que no lee nada, sigue: ni se espera por ella ni se pierde su plazo.

    Con el motor de siempre no se compara: ahí, de vez en cuando, el núcleo y nbclient se quedan esperándose.
    """
    code = "import ipywidgets as w\nout = w.Output()\nwith out:\n    for number in range(60):\n        print('x' * 2000, flush=True)\n"
    notebook = run(build(code, "len(out.outputs[0]['text'])"), tmp_path / "out.ipynb")
    assert notebook.cells[1].outputs[0].data["text/plain"] == str(60 * 2001)
    with pytest.raises(CellTimeoutError):
        run(build(code + "    import time\n    time.sleep(600)"), tmp_path / "out.ipynb", execution_timeout=3)
