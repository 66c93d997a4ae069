"""nbval sobre cuadernos que nbdev_clean ha limpiado."""
import json
import re
from functools import cache
from pathlib import Path

import pytest

# Los trabajos escriben en data/: los ejecuta, en una copia, tests/test_jobs.py.
collect_ignore_glob = ["nbs/6_trabajos/*"]


@cache
def has_outputs(notebook: Path) -> bool:
    """Dice si el cuaderno guarda alguna salida: si guarda una, se comparan todas."""
    return any(cell.get("outputs") for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """nbdev_clean borra `execution_count` y nbval toma por no ejecutada la celda que no lo lleva: se lo devolvemos.

    Un cuaderno que no guarda salidas se ejecuta sin comparar nada.
    """
    for item in items:
        cell = getattr(item, "cell", None)
        if cell is None:
            continue
        if has_outputs(item.path):
            cell.execution_count = 1
        if re.search(r"^#\|\s*eval:\s*false", cell.source, re.M):
            item.add_marker(pytest.mark.skip(reason="eval: false"))
