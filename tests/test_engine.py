"""El motor «tierra»: las mismas salidas que el de siempre, y qué pasa cuando algo muere, tarda o necesita un núcleo."""
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path

import nbformat
import papermill
import psutil
import pytest
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from papermill.exceptions import PapermillExecutionError

from de_jupyter_a_la_tierra.warming import warm_context

NBS = Path(__file__).parent.parent / "nbs"
PAPERMILL = Path(sys.executable).with_name("papermill")
ENGINES = ("nbclient", "tierra")
# Lo que no es igual con los dos motores, y por qué.
DIFFERENT = {}
SOME = (
    "2_kedro/01_errors", "2_kedro/03_dialects", "2_kedro/04_tables", "2_kedro/06_columns", "2_kedro/07_recipes",
    "2_kedro/11_model", "2_kedro/15_artifact", "3_api/01_payload", "3_api/03_page", "4_pruebas/02_schemas",
    "7_aterrizar/04_merging", "7_aterrizar/05_profiling",
)
VARIETY = [
    "import os, sys, asyncio, subprocess\nprint('hola', name)\nprint('aviso', file=sys.stderr)\nname.upper()",
    "import pandas as pd\nimport matplotlib.pyplot as plt\nplt.plot([1, 2, 3])\nplt.title('una figura')\npd.DataFrame({'a': [1, 2]})",
    "fig, ax = plt.subplots()\nax.bar([1, 2], [3, 4])\nplt.show()\nprint('después')",
    "from IPython.display import HTML, Markdown, clear_output, display\nh = display('antes', display_id=True)\nHTML('<b>negrita</b>')",
    "h.update('después')\ndisplay(Markdown('*cursiva*'), metadata={'a': 1})",
    "print('se borra')\nclear_output()\nprint('queda')",
    "for i in range(3):\n    clear_output(wait=True)\n    print(i)",
    "print('uno', flush=True)\nprint('dos')\nawait asyncio.sleep(0.01)\nprint('tres')",
    "!echo desde la shell",
    "%%capture grabado\nprint('no se ve')",
    "print(grabado.stdout)\nget_ipython().__class__.__name__, __name__, sys.stdout.isatty(), sys.path[-1], os.getcwd()",
    "class Rota:\n    def __repr__(self):\n        raise ValueError('sin repr')\nRota()",
    "import warnings\nwarnings.warn('cuidado', stacklevel=1)",
    "import logging\nlogging.getLogger('x').warning('por el registro')",
    "_, _3, In[1][:20], len(Out)",
    "{'a': [1, {'b': float('nan')}], 'c': 'ñ' * 200}",
    "asyncio.run(asyncio.sleep(0))",
    "input('¿quién?')",
    "def f(x):\n    return 1 / x\nf(0)",
    "raise SystemExit(0)",
    "sintaxis mala",
    "%magia_que_no_existe",
    "import multiprocessing\nmultiprocessing.current_process().name, multiprocessing.get_start_method(), multiprocessing.parent_process()",
    "with multiprocessing.get_context('fork').Pool(2) as pool:\n    print(sum(pool.map(abs, [-1, -2])))",
    "%who_ls",
    "display(*'abc')\nprint('fin')",
    "",
    "%load_ext no_existe",
    "?len",
]


def build(*sources: str, tags: tuple[str, ...] = (), language: str = "python") -> NotebookNode:
    """Una libreta con una celda de parámetros y las que se digan."""
    cells = [new_code_cell("name = 'Ana'", metadata={"tags": ["parameters"]}), new_markdown_cell("# Una libreta")]
    notebook = new_notebook(cells=cells + [new_code_cell(source, metadata={"tags": list(tags)}) for source in sources])
    notebook.metadata["kernelspec"] = {"name": "python3", "language": language, "display_name": "Python 3"}
    return notebook


def run(notebook: NotebookNode | Path, output: Path, engine: str = "tierra", values: dict | None = None, **options) -> NotebookNode:
    """Ejecuta una libreta con un motor; falle o no, devuelve lo que quedó escrito."""
    source = nbformat.from_dict(notebook) if isinstance(notebook, dict) else notebook
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTEST_CURRENT_TEST", raising=False)  # con ella, ipykernel no recoge lo que escriben C y los subprocesos
        papermill.execute_notebook(source, output, values or {}, engine_name=engine, progress_bar=False, **options)
    return nbformat.read(output, 4)


def summarize(cell: NotebookNode) -> dict:
    """Lo que tiene que ser igual en una celda: lo escrito, por un lado, y lo enseñado, por otro."""
    texts = {
        name: "".join(output.text for output in cell.outputs if output.output_type == "stream" and output.name == name)
        for name in ("stdout", "stderr")
    }
    texts = {name: re.sub(r"ipykernel_\d+", "ipykernel_0", text) for name, text in texts.items()}
    shown = [output for output in cell.outputs if output.output_type != "stream"]
    timing = sorted(cell.metadata.get("execution", {}))
    return {**texts, "shown": shown, "count": cell.execution_count, "timing": timing, "state": cell.metadata.papermill.status}


def find_code(notebook: NotebookNode) -> list[NotebookNode]:
    """Las celdas de código de una libreta."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def compare(known: NotebookNode, ours: NotebookNode) -> None:
    """Dos copias de una libreta tienen las mismas salidas, celda a celda."""
    assert len(known.cells) == len(ours.cells)
    for one, other in zip(known.cells, ours.cells, strict=True):
        assert one.source == other.source
        if one.cell_type == "code":
            assert summarize(one) == summarize(other), one.source
    for copy in (known, ours):
        del copy.metadata["papermill"]
    assert known.metadata == ours.metadata


@pytest.mark.parametrize("tags", [("raises-exception",)])
def test_all_kinds_of_output(tmp_path, tags) -> None:
    notebook = build(*VARIETY, tags=tags)
    copies = []
    for engine in ENGINES:
        with chdir(tmp_path):
            try:
                copies.append(run(notebook, tmp_path / f"{engine}.ipynb", engine, {"name": "Micifú"}))
            except PapermillExecutionError:
                copies.append(nbformat.read(tmp_path / f"{engine}.ipynb", 4))
    compare(*copies)


def test_a_failing_cell_stops_there(tmp_path) -> None:
    notebook = build("print('antes')", "1 / 0", "print('nunca')")
    for engine in ENGINES:
        with pytest.raises(PapermillExecutionError, match="ZeroDivisionError"):
            run(notebook, tmp_path / f"{engine}.ipynb", engine)
    copies = [nbformat.read(tmp_path / f"{engine}.ipynb", 4) for engine in ENGINES]
    compare(*copies)
    assert [summarize(cell)["state"] for cell in find_code(copies[1])[-3:]] == ["completed", "failed", "pending"]


@pytest.mark.parametrize(
    ("code", "ended"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
        ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
        ("os._exit(3)", "código 3"),
        ("os.killpg(0, 9)", "SIGKILL"),
    ],
)
def test_death_keeps_what_was_done(tmp_path, caplog, code, ended) -> None:
    notebook = build("import os, signal\nprint('hecho')", f"print('a medias')\nos.system('echo de C')\n{code}", "print('nunca')")
    with pytest.raises(DeadKernelError):
        run(notebook, tmp_path / "muerta.ipynb")
    done, half, never = nbformat.read(tmp_path / "muerta.ipynb", 4).cells[-3:]
    assert summarize(done)["stdout"] == "hecho\n"
    assert summarize(half)["stdout"] == "a medias\nde C\n"
    assert not never.outputs
    assert ended in caplog.text


def test_a_cell_that_takes_too_long(tmp_path) -> None:
    notebook = build("print('sí', flush=True)\nimport time\ntime.sleep(60)")
    start = time.monotonic()
    with pytest.raises(CellTimeoutError):
        run(notebook, tmp_path / "lenta.ipynb", execution_timeout=1)
    assert time.monotonic() - start < 20
    assert summarize(nbformat.read(tmp_path / "lenta.ipynb", 4).cells[-1])["stdout"] == "sí\n"
