"""Los clientes que enseña el capítulo, tal como están escritos en él: los cuatro reciben lo mismo."""
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from serving import Server, serving

from de_jupyter_a_la_tierra.catfood.cleaning import clean_foods
from de_jupyter_a_la_tierra.catfood.columns import CATFOOD, LABEL_FIGURES
from de_jupyter_a_la_tierra.catfood.model import train_model
from de_jupyter_a_la_tierra.catfood.simulate import simulate_foods
from de_jupyter_a_la_tierra.models.freezing import freeze_model

CHAPTER = Path(__file__).resolve().parents[2] / "nbs/3_api/00_api.ipynb"
WHISKAS = {"dma_ash": 1.7, "dma_cals": 76, "dma_carbs": 21, "dma_prot": 50, "ga_moist": 84}
PROGRAMS = {"bash": ("curl", "ask.sh", ["bash"]), "python": (sys.executable, "ask.py", [sys.executable]), "javascript": ("node", "ask.mjs", ["node"]), "java": ("java", "Ask.java", ["java"])}


@pytest.fixture(scope="module")
def server(tierra: Callable, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Un servidor con el modelo de comidas simuladas."""
    folder, features = tmp_path_factory.mktemp("clients") / "catfood", list(LABEL_FIGURES)
    foods = clean_foods(simulate_foods(600))[0]
    freeze_model(
        train_model(foods[features], foods[CATFOOD.target], {"type": "logistic"}), folder, X_train=foods[features],
        X_evaluation=foods[features].tail(50), metrics={}, features=CATFOOD.select(features),
        target=CATFOOD.select([CATFOOD.target])[0], data={"origin": "simulated"}, name="catfood",
    )
    with serving(tierra, folder.parent, "--model", folder) as server:
        yield server


def read_snippets() -> dict[str, str]:
    """Los trozos de código del capítulo que preguntan a la API, por su lenguaje."""
    cells = json.loads(CHAPTER.read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return {language: code for language, code in re.findall(r"```(\w+)\n(.*?)```", text, re.S) if "/predict_score" in code}


def test_the_chapter_speaks_four_languages() -> None:
    assert read_snippets().keys() == PROGRAMS.keys()


@pytest.mark.parametrize("language", PROGRAMS)
def test_a_snippet_works_as_it_is(server: Server, tmp_path: Path, language: str) -> None:
    tool, file, command = PROGRAMS[language]
    if shutil.which(tool) is None:
        pytest.skip(f"sin {tool}")
    code = read_snippets()[language]
    assert code.count("http://127.0.0.1:8000") == 1
    (tmp_path / file).write_text(code.replace("http://127.0.0.1:8000", server.address), encoding="utf-8")
    done = subprocess.run([*command, file], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == server.ask(WHISKAS).json()
