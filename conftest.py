"""nbval sobre cuadernos que nbdev_clean ha limpiado."""
import json
import re
from functools import cache
from pathlib import Path

import pytest


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
