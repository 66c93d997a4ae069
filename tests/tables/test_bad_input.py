"""Lo que una persona puede hacer mal: cada caso, una frase en español, su código, y nada perdido."""
import os
import resource
import signal
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest

HEADER = "dma_ash,dma_cals,dma_carbs,dma_prot,ga_moist"
GOOD = "1.7,76,21,50,84"


@pytest.fixture(scope="module")
def project(tmp_path_factory, tierra) -> Path:
    """Una carpeta con datos simulados y un modelo entrenado."""
    folder = tmp_path_factory.mktemp("project")
    for command in (["data", "--rows", "600"], ["run"]):
        done = tierra(*command, cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def fails(project, tierra):
    """Ejecuta una orden que debe fallar: con ese código, con esas palabras y sin traceback."""

    def call(*args: str | Path, code: int, says: str, cwd: Path = project, **options) -> str:
        done = tierra(*args, cwd=cwd, **options)
        assert done.returncode == code, done.stdout + done.stderr
        assert says in done.stderr and done.stderr.count("Error:") == 1, done.stderr
        assert "Traceback" not in done.stderr + done.stdout
        return done.stderr

    return call


def write(folder: Path, content: str | bytes, name: str = "in.csv") -> str:
    """Deja un fichero de entrada en una carpeta y devuelve su nombre."""
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return name


FILES = {
    "missing file": (None, 2, "No existe"),
    "missing column": ("dma_ash,dma_cals\n1,2\n", 2, "«dma_carbs», «dma_prot», «ga_moist»"),
    "empty file": ("", 2, "está vacío"),
    "only the header": (f"{HEADER}\n", 2, "solo tiene la cabecera"),
    "binary file": (b"\x7fELF\x00\x01\x02", 2, "no es un fichero de texto"),
    "excel workbook": (b"PK\x03\x04...", 2, "guárdalo como CSV"),
    "ambiguous decimals": (f"{HEADER.replace(',', ';')}\n1;1,313;21;50;84\n", 2, "--decimal"),
    "decimal comma": (f'{HEADER}\n1.7,76,21,"12,5%",84\n1.7,76,21,12.5%,84\n', 1, "usa --decimal «,»"),
    "negative percent": (f"{HEADER}\n1.7,76,21,-3%,84\n", 1, "fuera de rango: de 0 a 100 %"),
    "not a number": (f"{HEADER}\n1.7,mucha,21,50,84\n", 1, "«mucha» no es un número"),
    "extra cells": (f"{HEADER}\n{GOOD},9\n", 1, "más celdas que la cabecera"),
}


@pytest.mark.parametrize(("content", "code", "says"), FILES.values(), ids=FILES.keys())
def test_bad_files_to_score(project, fails, content, code, says):
    """Un fichero que no se puede puntuar se rechaza, y no se escribe la salida."""
    (project / "in.csv").unlink(missing_ok=True)
    if content is not None:
        write(project, content)
    fails("predict", "in.csv", "out.csv", code=code, says=says)
    assert not (project / "out.csv").exists()


def test_the_option_that_the_error_names_works(project, tierra):
    """Con la opción que nombra el error, la coma decimal se entiende."""
    write(project, f'{HEADER}\n"1,7",76,21,"12,5%",84\n')
    done = tierra("predict", "in.csv", "comma.csv", "--decimal", ",", cwd=project)
    assert done.returncode == 0, done.stderr


def test_paws_out_of_range_are_quarantined_and_no_row_is_lost(project, tierra, fails):
    """Un «[9]» va a la cuarentena con su línea; los demás siguen, y entre todos están todas."""
    raw = pd.read_csv(project / "data/01_raw/catfood_simulated.csv", dtype=str, keep_default_na=False)
    raw.loc[4, "nutrition_paws"] = "[9]"
    raw.to_csv(project / "mine.csv", index=False)
    assert tierra("data", "--from", "mine.csv", cwd=project).returncode == 0
    assert tierra("run", "--pipeline", "data_processing", "--params", "origin=own", cwd=project).returncode == 0
    quarantine = pd.read_csv(project / "data/02_intermediate/quarantine.csv")
    assert quarantine[["line", "column", "value"]].values.tolist() == [[6, "nutrition_paws", "[9]"]]
    assert len(pd.read_parquet(project / "data/03_primary/foods.parquet")) == 599
    raw.loc[:99, "nutrition_paws"] = "[9]"
    raw.to_csv(project / "mine.csv", index=False)
    fails("data", "--from", "mine.csv", code=2, says="--force")
    assert tierra("data", "--from", "mine.csv", "--force", cwd=project).returncode == 0
    fails("run", "--params", "origin=own", code=1, says="100 de 600 (16,7 %)")
    assert len(pd.read_csv(project / "data/02_intermediate/quarantine.csv")) == 100


CALLS = {
    "unknown parameter": (["run", "--params", "orgin=real"], 2, "¿Querías decir «origin»?"),
    "not a parameter": (["run", "--params", "origin"], 2, "se escribe clave=valor"),
    "unknown pipeline": (["run", "--pipeline", "data"], 2, "Los que hay: __default__, data_processing"),
    "unknown model": (["run", "--params", "model.type=magia"], 2, "logistic, random_forest"),
    "unknown option of a model": (["run", "--params", "model.C_=1"], 2, "no tiene la opción «C_»"),
    "impossible value": (["run", "--params", "evaluation_share=3"], 2, "entre 0 y 1"),
    "value of another kind": (["run", "--params", "max_bad_share=mucho"], 2, "ha de ser un número"),
    "a list was expected": (["run", "--params", "features=dma_ash"], 2, "ha de ser una lista"),
    "unknown twin key": (["run", "--params", "twin_key=[dma_magia]"], 2, "dma_magia"),
    "impossible separator": (["predict", "in.csv", "out.csv", "--sep", "::"], 2, "--sep"),
    "impossible decimal mark": (["predict", "in.csv", "out.csv", "--decimal", "coma"], 2, "«.» o «,»"),
    "unknown feature": (["run", "--params", "features=[dma_magia]"], 2, "dma_magia"),
    "data not there": (["run", "--params", "origin=real"], 2, "tierra data"),
    "unknown command": (["rum"], 2, "No existe la orden 'rum'"),
    "unknown option": (["run", "--fast"], 2, "No existe la opción"),
    "zero rows": (["data", "--rows", "0"], 2, "no está en el rango"),
    "wrong sha256": (["data", "--real", "--from", "data/01_raw/catfood_simulated.csv"], 1, "no es el fichero publicado"),
    "unknown model version": (["predict", "in.csv", "out.csv", "--model", "ayer"], 2, "ayer"),
    "unwritable output": (["predict", "in.csv", "/dev/null/out.csv"], 1, "no es una carpeta"),
}


@pytest.mark.parametrize(("args", "code", "says"), CALLS.values(), ids=CALLS.keys())
def test_bad_calls(project, fails, args, code, says):
    """Una orden mal pedida dice qué está mal y qué valía."""
    write(project, f"{HEADER}\n{GOOD}\n")
    fails(*args, code=code, says=says)


def test_predict_without_a_model(tmp_path, fails):
    """Sin modelo no hay predicción, y se dice cómo tenerlo."""
    write(tmp_path, f"{HEADER}\n{GOOD}\n")
    fails("predict", "in.csv", "out.csv", code=2, says="entrénalo con «tierra run»", cwd=tmp_path)


def models(project: Path) -> list[Path]:
    """Las carpetas de modelos completas."""
    return sorted(path.parent for path in project.glob("data/06_models/catfood/*/catfood/model.json"))


def test_corrupt_model(project, fails):
    """Un bit cambiado en el modelo se nota antes de usarlo."""
    write(project, f"{HEADER}\n{GOOD}\n")
    file = models(project)[-1] / "model.onnx"
    intact = file.read_bytes()
    try:
        file.write_bytes(intact[:100] + bytes([intact[100] ^ 1]) + intact[101:])
        fails("predict", "in.csv", "out.csv", code=1, says="«model.onnx» no coincide con su sha256")
    finally:
        file.write_bytes(intact)


def test_file_too_large_for_the_system(project, fails):
    """Si el sistema corta la escritura, se dice, y no queda medio fichero."""
    before = models(project)
    limit = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))}
    fails("predict", "data/01_raw/catfood_simulated.csv", "big.csv", code=1, says="tan grande", **limit)
    fails("run", code=1, says="tan grande", **limit)
    assert not list(project.glob("*big.csv*")) and models(project) == before


def test_full_disk(project, fails, tmp_path):
    """Con el disco lleno se dice, y no queda medio fichero."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", tmp_path], capture_output=True)
    if mounted.returncode and not os.environ.get("CI"):
        pytest.skip("hace falta permiso para montar un disco pequeño")
    assert mounted.returncode == 0, mounted.stderr
    try:
        says = "no queda espacio en el disco"
        fails("predict", "data/01_raw/catfood_simulated.csv", tmp_path / "out.csv", code=1, says=says)
        assert list(tmp_path.iterdir()) == []
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_interrupted_run_keeps_the_previous_model(project, tierra):
    """Ctrl-C a mitad: se dice, se sale con 130 y el modelo de antes sigue intacto y solo."""
    before = models(project)
    slow = ["run", "--params", "model.type=random_forest,model.n_estimators=20000"]
    with subprocess.Popen([tierra.path, *slow], cwd=project, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if "mark_evaluation" in line:
                break
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        assert process.wait(timeout=60) == 130
    assert "Interrumpido" in said and "Traceback" not in said
    assert models(project) == before and not list(project.glob("data/06_models/**/*.tmp*"))
