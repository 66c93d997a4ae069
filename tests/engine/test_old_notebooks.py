"""Cuadernos de otros tiempos y de otras máquinas: formatos 2 y 3, sin núcleo o con uno que aquí no existe."""
import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

pytestmark = pytest.mark.timeout(180)
PAPERMILL = Path(sys.executable).with_name("papermill")


def write_old(path: Path, version: int) -> Path:
    """Un cuaderno como las que guardaba IPython antes de Jupyter."""
    sources = (["x = 1"], ["print('doble', 2 * x)"])
    cells = [{"cell_type": "code", "input": source, "language": "python", "outputs": [], "collapsed": False} for source in sources]
    cells = [{**cell, "metadata": {"tags": ["parameters"][number:]}} if version == 3 else cell for number, cell in enumerate(cells)]
    content = {"nbformat": version, "nbformat_minor": 0, "metadata": {"name": ""}, "worksheets": [{"cells": cells, "metadata": {}}]}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def read_printed(path: Path) -> str:
    """Lo que escribió un cuaderno ejecutado, que es del formato de ahora."""
    notebook = nbformat.read(path, nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert notebook.nbformat == 4
    return "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))


@pytest.mark.parametrize("version", [2, 3])
def test_old_formats(tmp_path, tierra, version) -> None:
    """Con papermill y con `tierra jobs`, suelta y en un lote; y el fichero no se toca."""
    before = write_old(tmp_path / "vieja.ipynb", version).read_bytes()
    done = subprocess.run([PAPERMILL, "--engine", "tierra", "vieja.ipynb", "copia.ipynb"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    done = tierra("jobs", "run", "vieja.ipynb", "-o", "suelta.ipynb", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert read_printed(tmp_path / "copia.ipynb") == read_printed(tmp_path / "suelta.ipynb") == "doble 2\n"
    assert (tmp_path / "vieja.ipynb").read_bytes() == before
    if version == 3:
        done = tierra("jobs", "run", "vieja.ipynb", "--grid", "x=4,5", "--out", "lote", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert sorted(read_printed(path) for path in (tmp_path / "lote/notebooks").glob("*.ipynb")) == ["doble 10\n", "doble 8\n"]


def test_what_its_kernel_is_called(tmp_path, tierra) -> None:
    """Sin núcleo se ejecuta aquí, también con valores; con otro nombre, también, y se dice; y con --kernel, con el que se diga."""
    cells = [
        new_code_cell("x = 1", metadata={"tags": ["parameters"]}), new_code_cell("print('doble', 2 * x, type(get_ipython().parent).__name__)"),
    ]
    nbformat.write(new_notebook(cells=cells), tmp_path / "sin.ipynb")
    done = tierra("jobs", "run", "sin.ipynb", "-p", "x", "4", "-o", "copia.ipynb", cwd=tmp_path)
    assert done.returncode == 0 and "núcleo" not in done.stderr, done.stderr
    assert read_printed(tmp_path / "copia.ipynb") == "doble 8 CellKernel\n"
    kernelspec = {"name": "conda-env-mio-py", "display_name": "mío", "language": "python"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernelspec}), tmp_path / "con.ipynb")
    done = tierra("jobs", "run", "con.ipynb", "-p", "x", "5", "-o", "copia.ipynb", cwd=tmp_path)
    assert done.returncode == 0 and "pide el núcleo «conda-env-mio-py», que aquí no existe" in done.stderr, done.stderr
    assert read_printed(tmp_path / "copia.ipynb") == "doble 10 CellKernel\n"
    done = tierra("jobs", "run", "con.ipynb", "--kernel", "python3", "-p", "x", "6", "-o", "copia.ipynb", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert read_printed(tmp_path / "copia.ipynb") == "doble 12 IPythonKernel\n"
    for engine in ("tierra", "nbclient"):
        done = tierra("jobs", "run", "con.ipynb", "--kernel", "ir", "--engine", engine, "-o", "copia.ipynb", cwd=tmp_path)
        assert done.returncode == 2 and "El núcleo «ir» no está instalado aquí" in done.stderr, done.stderr


def test_not_a_notebook(tmp_path, tierra) -> None:
    """Ni una lista, ni un JSON cualquiera."""
    for text in ("[1, 2]", '{"a": 1}', '{"nbformat": 3, "worksheets": 7}'):
        (tmp_path / "otra.ipynb").write_text(text, encoding="utf-8")
        done = tierra("jobs", "run", "otra.ipynb", cwd=tmp_path)
        assert done.returncode == 2 and "no es un cuaderno de Jupyter" in done.stderr and "Traceback" not in done.stderr, done.stderr
