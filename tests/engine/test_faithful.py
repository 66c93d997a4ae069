"""Lo que sale de un cuaderno es lo mismo sola que en un lote: su azar, su código y lo que escriben las bibliotecas al importarse."""
import json
import re
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import nbformat
import pytest
from click.testing import CliRunner
from nbformat.v4 import new_code_cell, new_notebook

from de_jupyter_a_la_tierra.cli.jobs import jobs
from de_jupyter_a_la_tierra.engine.imports import LAZY, find_shadows
from de_jupyter_a_la_tierra.engine.preloading import BASE, KERNEL
from de_jupyter_a_la_tierra.jobs.batch import Policy, run_batch
from de_jupyter_a_la_tierra.jobs.ledger import JobRecord, read_ledger
from de_jupyter_a_la_tierra.jobs.plan import identify_jobs
from de_jupyter_a_la_tierra.jobs.report import load_batch
from de_jupyter_a_la_tierra.jobs.runner import run_job
from de_jupyter_a_la_tierra.parameters.returned import read_returned
from de_jupyter_a_la_tierra.projects.project import Project

RETURN = "from de_jupyter_a_la_tierra.parameters.returned import hand_back"
IMPORTS = f"import random\nimport numpy as np\nimport pandas as pd\nfrom sklearn.model_selection import train_test_split\n{RETURN}"
DRAW = (
    "hand_back(drawn=np.random.rand(), plain=random.random(), sampled=int(pd.Series(range(10**6)).sample(1).iloc[0]),"
    " split=train_test_split(range(10**6), train_size=1)[0][0])"
)


def write_notebook(path: Path, *cells: str) -> Path:
    """Un cuaderno con un parámetro y las celdas que se digan."""
    parameters = new_code_cell("n: int = 0  # cuál es", metadata={"tags": ["parameters"]})
    notebook = new_notebook(cells=[parameters, *map(new_code_cell, cells)])
    notebook.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "python3"}
    nbformat.write(notebook, path)
    return path


@pytest.fixture
def batch(tmp_path, monkeypatch) -> Callable[..., list[JobRecord]]:
    """Hace un lote de un cuaderno con esas celdas, en una carpeta sin MLflow, y devuelve su libro."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTEST_CURRENT_TEST", raising=False)
    project = Project(tmp_path, "faithful", tmp_path / "conf", installed=False)

    def run(*cells: str, count: int = 2, executor=2, name: str = "cuaderno", **policy) -> list[JobRecord]:
        notebook = write_notebook(tmp_path / f"{name}.ipynb", *cells)
        asked = identify_jobs(notebook, [{"n": n} for n in range(count)], tmp_path, seed=policy.get("seed"))
        summary = run_batch(project, notebook, asked, tmp_path / f"lote-{name}", executor, Policy(**policy))
        assert summary.failed == 0, summary.errors
        return read_ledger(tmp_path / f"lote-{name}")

    run.project = project
    return run


def read_texts(folder: Path, entry: JobRecord) -> list[str]:
    """Lo que escribió cada celda de código de un trabajo."""
    cells = nbformat.read(folder / entry.notebook, 4).cells
    return ["".join(output.text for output in cell.outputs if output.output_type == "stream") for cell in cells]


# --- El azar --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [12, pytest.param(200, marks=pytest.mark.long)])
def test_every_job_has_its_own_luck(batch, count) -> None:
    """Nadie sabe qué saca su hermano: ni con NumPy ya importado."""
    entries = batch(IMPORTS, DRAW, count=count)
    for name in ("drawn", "plain", "sampled", "split"):
        assert len({entry.returned[name] for entry in entries}) == count, name
    assert len({entry.random_seed for entry in entries}) == count


def test_a_seed_repeats_its_job(batch, tmp_path) -> None:
    """La semilla está en el libro, en la tabla y en la copia; con ella se repite el trabajo, suelto, en otro lote y con otro motor."""
    entries = batch(IMPORTS, DRAW)
    table = load_batch(tmp_path / "lote-cuaderno")
    assert table["random_seed"].tolist() == [entry.random_seed for entry in entries]
    for entry, engine in zip(entries, ("tierra", "nbclient"), strict=True):
        seal = json.loads((tmp_path / "lote-cuaderno" / entry.notebook).read_text(encoding="utf-8"))["metadata"]["tierra"]
        assert seal["random_seed"] == entry.random_seed
        copy = run_job(batch.project, "cuaderno.ipynb", entry.parameters, tmp_path / "otra.ipynb", seed=entry.random_seed, engine=engine)
        assert read_returned(copy) == entry.returned


def test_the_seed_of_a_batch(batch, tmp_path) -> None:
    """De una sale la de cada trabajo: distintas, y las mismas la vez siguiente; otra semilla es otro trabajo."""
    first = [entry.returned["drawn"] for entry in batch(IMPORTS, DRAW, seed=7)]
    again = [entry.returned["drawn"] for entry in batch(IMPORTS, DRAW, seed=7, name="igual")]
    other = [entry.returned["drawn"] for entry in batch(IMPORTS, DRAW, seed=8)]
    assert first == again and len({*first, *other}) == 4


def test_a_notebook_that_seeds_itself(batch) -> None:
    """Lo que el cuaderno decide no se toca, tampoco si importa después."""
    source = f"import random\nimport numpy as np\n{RETURN}\nnp.random.seed(0)\nrandom.seed(0)\nimport sklearn.ensemble"
    entries = batch(source, "hand_back(drawn=np.random.rand(), plain=random.random())", count=3)
    assert [entry.returned["drawn"] for entry in entries] == [0.5488135039273248] * 3
    alone = run_job(batch.project, "cuaderno.ipynb", output=Path("sola.ipynb"), engine="nbclient")
    assert {json.dumps(entry.returned) for entry in entries} == {json.dumps(read_returned(alone))}


def test_a_generator_that_comes_late(batch, tmp_path) -> None:
    """También se siembra el que se importa cuando ya no se puede adelantar nada, y el de una biblioteca de aquí."""
    (tmp_path / "torch.py").write_text("import random\nluck = random.Random()\nmanual_seed = luck.seed\nrand = luck.random\n"
                                       "class get_rng_state:\n    def tolist(self): return list(luck.getstate()[1])\n", encoding="utf-8")
    cells = (f"import sys\nsys.path.append('nada')\nimport numpy as np\nimport torch\n{RETURN}", "hand_back(a=np.random.rand(), b=torch.rand())")
    entries = batch(*cells)
    assert len({entry.returned[name] for entry in entries for name in "ab"}) == 4
    copy = run_job(batch.project, "cuaderno.ipynb", entries[0].parameters, tmp_path / "otra.ipynb", seed=entries[0].random_seed)
    assert read_returned(copy) == entries[0].returned


def test_the_order_says_the_seed_and_takes_it(tmp_path, monkeypatch) -> None:
    """La terminal dice con qué semilla se repite, también si falla, y no admite cualquiera."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTEST_CURRENT_TEST", raising=False)
    write_notebook(tmp_path / "cuaderno.ipynb", "import random\nprint('sale', random.random())", "assert n == 0, 'no es cero'")

    def ask(*args: str) -> str:
        result = CliRunner().invoke(jobs, ["run", "cuaderno.ipynb", *args])
        return f"{result.output}{result.exception or ''}"

    told = ask("-o", "una.ipynb")
    seed, drawn = re.search(r"^Semilla +(\d+)$", told, re.M)[1], re.search(r"sale \S+", told)[0]
    assert drawn in ask("-o", "otra.ipynb", "--seed", seed)
    assert "se repite con --seed 5." in ask("-p", "n=1", "-o", "rota.ipynb", "--seed", "5")
    assert "--seed" in ask("--seed", "-1")


# --- El código ------------------------------------------------------------------------------------------------------


def test_what_is_here_wins_over_what_is_installed(batch, tmp_path) -> None:
    """Un paquete de aquí es el que se usa, aunque haya otro instalado con su nombre y aunque lo necesitemos nosotros."""
    for path in ("src/seaborn", "src/yaml", "src/pytz"):
        (tmp_path / path).mkdir(parents=True)
        (tmp_path / path / "__init__.py").write_text("mine = True\n", encoding="utf-8")
    (tmp_path / "click.py").write_text("mine = True\n", encoding="utf-8")
    cells = (f"{RETURN}\nimport sys", "sys.path.insert(0, 'src')\nimport seaborn, yaml, click", "hand_back(mine=[m.mine for m in (seaborn, yaml, click)])")
    assert [entry.returned["mine"] for entry in batch(*cells)] == [[True] * 3] * 2


def test_names_of_the_standard_library(batch, tmp_path) -> None:
    """Ni un fichero que se llama como uno de Python estorba a quien arranca los procesos, ni lo ve el cuaderno: en un núcleo, tampoco."""
    for name in ("random", "queue", "socket", "statistics"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('este no')\n", encoding="utf-8")
    assert [entry.returned["mean"] for entry in batch(f"import statistics, random, queue\n{RETURN}", "hand_back(mean=statistics.mean([1, 3]))")] == [2, 2]


def test_a_missing_folder_in_pythonpath_is_nothing(tmp_path, monkeypatch):
    """Python no se queja de una carpeta de PYTHONPATH que ya no está; un trabajo, tampoco."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "no está"))
    assert find_shadows({"cells": []}, tmp_path) == []


def test_code_that_is_edited_makes_another_job(batch, tmp_path, monkeypatch) -> None:
    """Ni un valor viejo ni un «ya lo estaba»: se sigue lo que el cuaderno importa, lo que eso importa, y lo de PYTHONPATH."""
    lib = tmp_path / "lib"
    lib.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(lib))
    (tmp_path / "near").mkdir()
    (tmp_path / "near" / "__init__.py").write_text("from .inside import value", encoding="utf-8")
    (tmp_path / "loose.py").write_text("x = 0", encoding="utf-8")
    cells = (f"import near, far\n{RETURN}", "hand_back(near=near.value, far=far.value)")
    for number, changed in enumerate(("near/inside.py", "lib/far.py", "near/inside.py", "lib/far.py", "loose.py")):
        for path in ("near/inside.py", "lib/far.py") if number == 0 else (changed,):
            (tmp_path / path).write_text(f"value = {number}" + "\n" * number, encoding="utf-8")  # otro tamaño: en el mismo segundo, Python no mira más
        [entry] = batch(*cells, count=1)
        assert entry.returned == [{"near": 0, "far": 0}, {"near": 0, "far": 1}, {"near": 2, "far": 1}, {"near": 2, "far": 3}, {"near": 2, "far": 3}][number]
    assert len(read_ledger(tmp_path / "lote-cuaderno")) == 1 and entry.attempts == 1


def test_what_a_library_reads_or_takes_when_imported(batch, tmp_path) -> None:
    """El entorno que carga el cuaderno está puesto cuando importa; NumPy no está importado si nadie lo pidió; doctest encuentra su `pdb`."""
    (tmp_path / ".env").write_text("TQDM_MININTERVAL=7\n", encoding="utf-8")
    cells = (
        f"import sys\n{RETURN}\nloaded = 'numpy' in sys.modules",
        "from dotenv import load_dotenv\nload_dotenv('.env')\nfrom tqdm import tqdm",
        "hand_back(loaded=loaded, interval=tqdm([], disable=False, file=open('/dev/null', 'w')).mininterval)",
    )
    assert [entry.returned for entry in batch(*cells)] == [{"loaded": False, "interval": 7}] * 2
    examples = 'import doctest\ndef double(x):\n    """\n    >>> double(2)\n    4\n    """\n    return 2 * x'
    told = batch(f"{examples}\n{RETURN}", "done = doctest.testmod()\nhand_back(failed=done.failed, tried=done.attempted)", name="doc")
    assert [entry.returned for entry in told] == [{"failed": 0, "tried": 1}] * 2


def test_what_a_library_says_when_imported(batch, tmp_path) -> None:
    """Lo que una biblioteca escribe al importarse sale en su celda, en todos los trabajos."""
    for entry in batch("import json", "import this", "import csv"):
        texts = read_texts(tmp_path / "lote-cuaderno", entry)
        assert [len(text) > 100 for text in texts if text != ""] == [True] and "Beautiful is better" in "".join(texts)


@pytest.mark.parametrize("name", sorted({*KERNEL, *BASE, *LAZY, *(name for names in LAZY.values() for name in names)}))
def test_names_written_by_hand_exist(name) -> None:
    """Un nombre mal escrito en nuestras listas no da error: solo tarda más, y nadie lo vería."""
    assert find_spec(name) is not None
    if name.startswith("de_jupyter_a_la_tierra"):
        import_module(name)
