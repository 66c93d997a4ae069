"""El motor «tierra»: las mismas salidas que el de siempre, y qué pasa cuando algo muere, tarda o necesita un núcleo."""
import asyncio
import json
import logging
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace

import nbformat
import papermill
import psutil
import pytest
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from papermill.exceptions import PapermillExecutionError

from de_jupyter_a_la_tierra.engine import processes as warming
from de_jupyter_a_la_tierra.engine.client import CellProcess, Mailbox
from de_jupyter_a_la_tierra.engine.imports import find_imports
from de_jupyter_a_la_tierra.engine.kernel import DirectStream, PipeSession
from de_jupyter_a_la_tierra.engine.processes import warm_context
from de_jupyter_a_la_tierra.errors import UsageError

NBS = Path(__file__).parents[2] / "nbs"
PAPERMILL = Path(sys.executable).with_name("papermill")
ENGINES = ("nbclient", "tierra")
# Lo único que no se compara: celdas cuya figura o cuyo texto dicen cuánto se tardó, distintos cada vez con cualquier motor.
CHANGING = ("took", "hist(times", "by_order", "seconds", "perf_counter", "time.time()", "time.monotonic()", "- times[0]", "shares.values()")
SOME = (
    "2_kedro/01_errors", "2_kedro/02_spanish", "2_kedro/03_files", "2_kedro/10_dictionary", "2_kedro/11_csv", "2_kedro/20_columns",
    "2_kedro/40_artifact", "2_kedro/42_reporting", "3_api/10_payload", "3_api/11_page", "4_pruebas/20_schemas",
    "6_trabajos/33_child", "7_aterrizar/13_merge", "7_aterrizar/20_inference",
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
    "siesta = asyncio.sleep(0)\ntry:\n    asyncio.run(siesta)\nfinally:\n    siesta.close()",  # o Python avisará de ella cuando quiera
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
    """Un cuaderno con una celda de parámetros y las que se digan."""
    cells = [new_code_cell("name = 'Ana'", metadata={"tags": ["parameters"]}), new_markdown_cell("# Un cuaderno")]
    notebook = new_notebook(cells=cells + [new_code_cell(source, metadata={"tags": list(tags)}) for source in sources])
    notebook.metadata["kernelspec"] = {"name": "python3", "language": language, "display_name": "Python 3"}
    return notebook


def run(notebook: NotebookNode | Path, output: Path, engine: str = "tierra", values: dict | None = None, **options) -> NotebookNode:
    """Ejecuta un cuaderno con un motor; falle o no, devuelve lo que quedó escrito."""
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
    texts = {name: re.sub(r"(?m)^\[\w+App\] .*\n", "", text) for name, text in texts.items()}  # el registro de Jupyter
    shown = [output for output in cell.outputs if output.output_type != "stream"]
    timing = sorted(cell.metadata.get("execution", {}))
    return {**texts, "shown": shown, "count": cell.execution_count, "timing": timing, "state": cell.metadata.papermill.status}


def find_code(notebook: NotebookNode) -> list[NotebookNode]:
    """Las celdas de código de un cuaderno."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def compare(known: NotebookNode, ours: NotebookNode) -> None:
    """Dos copias de un cuaderno tienen las mismas salidas, celda a celda."""
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


def test_the_command_keeps_its_options(tmp_path) -> None:
    nbformat.write(build("import os, sys\nprint(name, other, os.path.basename(os.getcwd()))\nprint('¡ay!', file=sys.stderr)"), tmp_path / "in.ipynb")
    (tmp_path / "valores.yaml").write_text("name: Micifú\n", encoding="utf-8")
    (tmp_path / "aparte").mkdir()
    done = subprocess.run(
        [
            PAPERMILL, "--engine", "tierra", "in.ipynb", "out.ipynb", "-f", "valores.yaml", "-y", "other: [1, 2]", "--cwd", "aparte",
            "--log-output", "--stdout-file", tmp_path / "salida.txt", "--stderr-file", tmp_path / "errores.txt", "--progress-bar", "--execution-timeout", "60",
            "--autosave-cell-every", "1", "--start-timeout", "120",
        ],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )
    assert done.returncode == 0 and not done.stdout, done.stderr + done.stdout
    assert "Micifú [1, 2] aparte" in done.stderr and "¡ay!" in done.stderr and "Executing: 100%" in done.stderr
    assert (tmp_path / "salida.txt").read_text(encoding="utf-8") == "Micifú [1, 2] aparte\n"
    assert (tmp_path / "errores.txt").read_text(encoding="utf-8") == "¡ay!\n"
    notebook = nbformat.read(tmp_path / "out.ipynb", 4)
    assert summarize(notebook.cells[-1])["stdout"] == "Micifú [1, 2] aparte\n"
    assert {"start_time", "end_time", "duration"} <= set(notebook.metadata.papermill)


@pytest.fixture
def busy(tmp_path) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process]]]:
    """Papermill a mitad de una celda que no acaba y que ha lanzado un proceso aparte; y todos los suyos."""
    code = "import os, subprocess, time\nsubprocess.Popen(['sleep', '600'], start_new_session=True)\nopen('en-marcha', 'w').close()\ntime.sleep(600)"
    nbformat.write(build("print('hecho')", code), tmp_path / "in.ipynb")
    runner = subprocess.Popen(
        [PAPERMILL, "--engine", "tierra", "--no-progress-bar", "in.ipynb", "out.ipynb"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )
    wait_for(lambda: (tmp_path / "en-marcha").exists() or runner.poll() is not None)
    family = psutil.Process(runner.pid).children(recursive=True)
    assert len(family) >= 5, family  # el rastreador, el proceso caliente, el guardián, el de las celdas y su «sleep»
    yield runner, family
    for process in family:
        if process.is_running():
            process.kill()
    runner.kill()
    runner.communicate()


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Espera a que pase algo, con un límite."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_gone(process: psutil.Process) -> bool:
    """Si un proceso ya no hace nada."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_ctrl_c_leaves_nothing_behind(tmp_path, busy) -> None:
    runner, family = busy
    runner.send_signal(signal.SIGINT)
    printed, _ = runner.communicate(timeout=30)
    assert runner.returncode != 0
    assert "Task was destroyed" not in printed
    wait_for(lambda: all(map(is_gone, family)))
    assert summarize(nbformat.read(tmp_path / "out.ipynb", 4).cells[-2])["stdout"] == "hecho\n"


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_killing_the_runner_leaves_nothing_behind(busy, sent) -> None:
    runner, family = busy
    runner.send_signal(sent)
    runner.communicate(timeout=30)
    wait_for(lambda: all(map(is_gone, family)))


def test_killing_the_guardian_too(busy) -> None:
    runner, family = busy
    guardian = next(process for process in family if any("sleep" in child.name() for child in process.children(recursive=True)))
    guardian = next(child for child in guardian.children() if child.children(recursive=True))
    [worker] = guardian.children()
    guardian.kill()
    printed, _ = runner.communicate(timeout=30)
    assert runner.returncode != 0 and "Kernel died" in printed
    wait_for(lambda: is_gone(worker), 10)


@pytest.mark.parametrize(("target", "args", "code"), [
    (sys.exit, (3,), 3), (signal.raise_signal, (signal.SIGTERM,), -signal.SIGTERM), (int, (), 0),
])
def test_the_guardian_ends_as_the_worker(target, args, code) -> None:
    process = warm_context([]).Process(target=target, args=args)
    process.start()
    process.join(30)
    assert process.exitcode == code


def test_the_guardian_obeys_a_sigterm() -> None:
    process = warm_context([]).Process(target=time.sleep, args=(600,))
    process.start()
    wait_for(psutil.Process(process.pid).children)
    [worker] = psutil.Process(process.pid).children()
    process.terminate()
    process.join(10)
    assert process.exitcode is not None and is_gone(worker)


def test_nobody_works_without_a_guardian() -> None:
    code = "import os\nfrom de_jupyter_a_la_tierra.engine.forking import follow\nif not (pid := os.fork()):\n    follow(1 << 30)\n    os._exit(0)\n"
    done = subprocess.run([sys.executable, "-c", f"{code}raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"], timeout=30)
    assert done.returncode == 1


def test_a_message_waits_until_it_is_picked_up(monkeypatch) -> None:
    """Un mensaje no se da por mandado hasta que lo recogen, y no lo manda un hijo bifurcado."""
    (theirs, messages), (answers, ours) = Pipe(duplex=False), Pipe(duplex=False)
    session = PipeSession(messages, answers)
    sender = threading.Thread(target=session.send, args=(None, "display_data", {"data": {}}), daemon=True)
    sender.start()
    assert theirs.poll(5)
    sender.join(0.1)
    assert sender.is_alive()
    ours.send_bytes(b"")
    sender.join(5)
    assert not sender.is_alive()
    theirs.recv_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("os.getpid", lambda: 0)
        assert session.send(None, "status", {}) is None and not theirs.poll()
    theirs.close()
    session.send(None, "display_data", {"data": {}})  # ya no hay quien lo recoja, y no se espera
    assert session.send(None, "display_data", {"data": {}}) is None
    for pipe in (messages, answers, ours):
        pipe.close()


def test_a_letter_in_two_pieces_and_a_dead_process() -> None:
    """Lo que llega a trozos se junta por letras, lo que no es UTF-8 no revienta, y pedir algo a un muerto tampoco."""
    pairs = [Pipe(duplex=False) for _ in range(5)]
    box = Mailbox(*[write for _, write in pairs[:2]], *[read for read, _ in pairs[2:]])
    box.listen()
    out = pairs[3][1].fileno()

    async def talk() -> str:
        os.write(out, "cañ".encode()[:-1])
        waiting = asyncio.create_task(box.get_msg())
        await asyncio.sleep(0.05)
        os.write(out, "ñ".encode()[1:])
        DirectStream("stdout", out, box.session).write("a\udc80")
        pairs[0][0].close()
        assert box.ask("1 + 1")["header"]["msg_id"]
        return (await waiting)["content"]["text"]

    assert asyncio.run(talk()) == "caña?"
    box.close()
    for one, other in pairs:
        one.close()
        other.close()


def test_cells_live_apart(tmp_path) -> None:
    """Cada cuaderno, en su sesión de procesos, en su carpeta y sin apuntar nada en el historial de la persona; y se espera a sus hilos."""
    thread = "import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.3), open('hilo', 'w').close())).start()"
    with chdir(tmp_path):
        notebook = run(build(thread, "import os\nos.getsid(0) == os.getpid(), get_ipython().history_manager.hist_file"), tmp_path / "out.ipynb")
    assert notebook.cells[-1].outputs[0].data["text/plain"] == "(True, ':memory:')"
    assert (tmp_path / "hilo").exists()


def test_nothing_is_left_of_a_failed_notebook(tmp_path, monkeypatch) -> None:
    """Al volver el error el proceso ya no está; y ni el entorno ni la carpeta de antes llegan al cuaderno siguiente."""
    monkeypatch.setenv("LEFT", "sí")
    code = "import colorsys, os\nprint(os.getpid(), os.getenv('LEFT'), os.getcwd())"
    with pytest.raises(PapermillExecutionError):
        run(build(f"{code}\n1 / 0"), tmp_path / "out.ipynb")
    pid, left, _ = summarize(nbformat.read(tmp_path / "out.ipynb", 4).cells[-1])["stdout"].split()
    assert left == "sí" and (not psutil.pid_exists(int(pid)) or is_gone(psutil.Process(int(pid))))
    monkeypatch.delenv("LEFT")
    with chdir(tmp_path):
        notebook = run(build(code), tmp_path / "out.ipynb")
    assert summarize(notebook.cells[-1])["stdout"].split()[1:] == ["None", str(tmp_path)]


def test_a_warm_process_that_cannot_be(tmp_path, monkeypatch) -> None:
    """Un módulo que tumba al proceso caliente no impide trabajar, y quien no está listo a tiempo se dice."""
    (tmp_path / "mortal.py").write_text("import os\nos._exit(1)\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    process = warm_context(["mortal"]).Process(target=sys.exit, args=(4,))
    process.start()
    process.join(60)
    assert process.exitcode == 4
    (tmp_path / "lento.py").write_text("import time\ntime.sleep(2)\n")
    late = warm_context(["lento"]).Process(target=int)
    late.timeout = 0
    with pytest.raises(TimeoutError, match="no está listo tras 0 s"):
        late.start()


def test_only_a_warm_process_without_threads_forks(monkeypatch) -> None:
    """Bifurcarse con otros hilos en marcha puede dejar cerrojos cogidos para siempre."""
    monkeypatch.setattr(warming, "_warm", True)
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    assert warming.is_warm()
    monkeypatch.setattr(threading, "active_count", lambda: 2)
    assert not warming.is_warm()


def test_nobody_waits_for_ever_for_the_cells() -> None:
    """Ni a que el proceso esté listo, ni a que se despida: pasado el plazo se le mata."""
    told = []
    cells = CellProcess([], {})
    cells.process = SimpleNamespace(
        pid=1, is_alive=lambda: True, join=lambda *seconds: told.append(("join", *seconds)), kill=lambda: told.append(("kill",)),
    )

    async def never() -> None:
        await asyncio.sleep(60)

    cells.box = SimpleNamespace(get_msg=never, close=lambda: told.append(("close",)), hang_up=lambda: told.append(("bye",)), lost=False)
    with pytest.raises(RuntimeError, match="didn't respond in 0.2 seconds"):
        asyncio.run(asyncio.wait_for(cells.wait_for_ready(0.2), 10))
    cells.close()
    assert told == [("bye",), ("join", 5), ("kill",), ("join",), ("close",)]


@pytest.fixture
def kernels(tmp_path, monkeypatch) -> None:
    """Dos núcleos que no son el de este Python: «raro», que no es ipykernel, y «ajeno», el de otro entorno."""
    for name, argv in {"raro": ["/bin/sh", "-c"], "ajeno": ["/bin/sh", "-m", "ipykernel_launcher"]}.items():
        (tmp_path / "kernels" / name).mkdir(parents=True)
        spec = {"argv": argv, "display_name": name, "language": "python"}
        (tmp_path / "kernels" / name / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("spec", "told"), [
    ({"name": "python3"}, None),
    ({"name": "conda-env-mio-py", "language": "python"}, "el núcleo «conda-env-mio-py», que aquí no existe"),
    ({"name": "raro", "language": "python"}, "el núcleo «raro», que no es el de siempre"),
    ({"name": "ajeno", "language": "python"}, "el núcleo «ajeno», que es el de otro entorno"),
    ({}, None),
])
def test_a_python_notebook_runs_here(tmp_path, kernels, caplog, spec, told) -> None:
    """Se llame como se llame su núcleo, y aunque no lo diga."""
    caplog.set_level(logging.WARNING, logger="papermill")
    notebook = build("type(get_ipython().parent).__name__")
    notebook.metadata = {"kernelspec": {"display_name": "Python", **spec}} if spec else {}
    done = run(notebook, tmp_path / "out.ipynb")
    assert done.cells[-1].outputs[0].data["text/plain"] == "'CellKernel'"
    assert told in caplog.text if told else not caplog.text


def test_another_language_asks_for_its_kernel(tmp_path) -> None:
    """Y si no está, se dice cuál y no se ejecuta como si fuera Python."""
    notebook = build("print('hola')", language="R")
    notebook.metadata.kernelspec.name = "ir"
    with pytest.raises(UsageError, match="El núcleo «ir» no está instalado aquí"):
        run(notebook, tmp_path / "out.ipynb")


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("options", "source"), [
    ({"kernel_name": "python3"}, "import os"), ({}, "import os\nimport ipykernel.connect"),
])
def test_a_kernel_if_it_is_asked_for_or_needed(tmp_path, caplog, capfd, options, source) -> None:
    """Uno de verdad, con su fichero de conexión; nacido del proceso caliente, y con guardián."""
    caplog.set_level(logging.WARNING, logger="papermill")
    code = f"{source}\nfrom ipykernel.kernelapp import IPKernelApp\nprint(os.path.exists(IPKernelApp.instance().abs_connection_file), os.getpid(), os.getcwd())"
    notebook = run(build(code), tmp_path / "out.ipynb", cwd=tmp_path, **options)
    assert not capfd.readouterr().out
    exists, pid, cwd = summarize(notebook.cells[-1])["stdout"].split()
    assert exists == "True" and Path(cwd) == tmp_path
    assert not psutil.pid_exists(int(pid)) or is_gone(psutil.Process(int(pid)))
    assert "núcleo" in caplog.text


@pytest.mark.timeout(120)
def test_a_warm_kernel_as_a_cold_one(tmp_path) -> None:
    """Las mismas salidas, y se interrumpe y muere igual."""
    sources = VARIETY[:6] + ["!echo desde la shell", "1 / 0"]
    with pytest.raises(PapermillExecutionError):
        run(build(*sources), tmp_path / "cold.ipynb", "nbclient")
    with pytest.raises(PapermillExecutionError):
        run(build(*sources), tmp_path / "warm.ipynb", kernel_name="python3")
    compare(*(nbformat.read(tmp_path / f"{name}.ipynb", 4) for name in ("cold", "warm")))
    late = build("import time\ntime.sleep(60)")
    with pytest.raises(PapermillExecutionError, match="KeyboardInterrupt"):
        run(late, tmp_path / "late.ipynb", kernel_name="python3", execution_timeout=1, interrupt_on_timeout=True)
    with pytest.raises(DeadKernelError):
        run(build("import os\nos.kill(os.getpid(), 9)"), tmp_path / "dead.ipynb", kernel_name="python3")


def execute(source: Path, output: Path, **options) -> int:
    """Ejecuta un cuaderno en un proceso caliente, como hace un lote; devuelve cómo acabó."""
    process = warm_context([]).Process(
        target=papermill.execute_notebook, args=(str(source), str(output)),
        kwargs={"engine_name": "tierra", "progress_bar": False}, **options,
    )
    process.start()
    process.join(60)
    return process.exitcode


def test_many_at_once_from_threads(tmp_path) -> None:
    nbformat.write(build("import os, multiprocessing\nos.getpid(), multiprocessing.parent_process()"), tmp_path / "in.ipynb")
    outputs = [tmp_path / f"{number}.ipynb" for number in range(8)]
    with ThreadPoolExecutor(4) as pool:
        codes = list(pool.map(lambda output: execute(tmp_path / "in.ipynb", output), outputs))
    assert codes == [0] * len(outputs)
    shown = {nbformat.read(output, 4).cells[-1].outputs[0].data["text/plain"] for output in outputs}
    assert len(shown) == len(outputs) and all(text.endswith(", None)") for text in shown)


def test_from_a_daemonic_process(tmp_path) -> None:
    """Así hace Dask sus obreros, y `multiprocessing` no les deja tener hijos."""
    nbformat.write(build("print(name)"), tmp_path / "in.ipynb")
    config = multiprocessing.process.current_process()._config
    config["daemon"] = True
    try:
        assert execute(tmp_path / "in.ipynb", tmp_path / "out.ipynb") == 0
        assert config["daemon"]
    finally:
        del config["daemon"]
    assert summarize(nbformat.read(tmp_path / "out.ipynb", 4).cells[-1])["stdout"] == "Ana\n"


def test_leaving_is_quick_and_runs_atexit(tmp_path) -> None:
    """Un registro que se vacía al salir, ya sin nadie al otro lado, no cuelga el final."""
    code = "import atexit, logging, sys\nlogging.getLogger().addHandler(logging.StreamHandler(sys.stdout))\n"
    code += "_ = atexit.register(lambda: (print('x' * 100_000), open('despedida', 'w').close()))"
    start = time.monotonic()
    with chdir(tmp_path):
        notebook = run(build(code), tmp_path / "out.ipynb")
    assert (tmp_path / "despedida").exists()
    assert time.monotonic() - start < 4 and not find_code(notebook)[-1].outputs


def test_what_depends_on_the_environment_is_not_imported_before() -> None:
    before, after = "import json", "import os\nos.environ['MLFLOW_LOGGING_LEVEL'] = 'ERROR'"
    assert find_imports(build(before, after, "import mlflow")) == ["json", "os"]


def run_usual(names: Iterable[str], folder: Path) -> Iterator[None]:
    """Ejecuta cuadernos de nbs/ con el motor de siempre, de dos en dos, y deja las copias en una carpeta."""

    def call(name: str) -> subprocess.CompletedProcess[str]:
        source, output = NBS / f"{name}.ipynb", folder / f"{name.replace('/', '-')}.ipynb"
        command = [PAPERMILL, "--no-progress-bar", source, output, "--cwd", source.parent]
        return subprocess.run(command, capture_output=True, text=True, timeout=900)

    with ThreadPoolExecutor(2) as pool:
        yield {name: pool.submit(call, name) for name in names}


def list_notebooks() -> list[str]:
    """Los cuadernos de nbs/ que se ejecutan."""
    names = [str(path.relative_to(NBS).with_suffix("")) for path in sorted(NBS.glob("*/*.ipynb"))]
    return [name for name in names if "skip_exec: true" not in (NBS / f"{name}.ipynb").read_text(encoding="utf-8")]


@pytest.fixture(scope="module")
def usual(tmp_path_factory, request) -> Iterator[tuple[Path, dict]]:
    """Las copias del motor de siempre de los cuadernos que se van a comparar en esta tanda."""
    folder = tmp_path_factory.mktemp("usual")
    wanted = [item.callspec.params["name"] for item in request.session.items if "usual" in getattr(item, "fixturenames", ())]
    for futures in run_usual(dict.fromkeys(wanted), folder):
        yield folder, futures


def drop_what_changes(cell: NotebookNode) -> dict:
    """El resumen de una celda, sin las figuras y los textos que cuentan lo que se tardó."""
    told = summarize(cell)
    if any(word in cell.source for word in CHANGING):
        return {**told, "shown": [output.output_type for output in told["shown"]], "stdout": "", "stderr": ""}
    return told


@pytest.mark.parametrize("name", [
    *SOME, *(pytest.param(name, marks=pytest.mark.long) for name in list_notebooks() if name not in SOME),
])
def test_notebooks_of_the_book(usual, tmp_path, name) -> None:
    folder, futures = usual
    ours = run(NBS / f"{name}.ipynb", tmp_path / "out.ipynb", cwd=(NBS / name).parent)
    done = futures[name].result()
    assert done.returncode == 0, done.stderr
    known = nbformat.read(folder / f"{name.replace('/', '-')}.ipynb", 4)
    for one, other in zip(find_code(known), find_code(ours), strict=True):
        assert drop_what_changes(one) == drop_what_changes(other), one.source
