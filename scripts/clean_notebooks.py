"""Limpia los cuadernos de nbs/, o el que JupyterLab está a punto de guardar (jupyter_server_config.py).

Es la limpieza de `nbdev_clean`, y además los trabajos se quedan sin salidas: las suyas están en cada copia ejecutada.
"""
import json

from execnb.nbio import nb2str
from nbdev.clean import clean_nb
from nbdev.config import get_config
from notebooks import ROOT, find_fault, is_job, list_notebooks


def clean_notebook(notebook: dict) -> None:
    """Deja un cuaderno, en su sitio, sin lo que ensucia los diffs."""
    cfg = get_config(path=ROOT)
    kept = (cfg.get(key).split() for key in ("allowed_metadata_keys", "allowed_cell_metadata_keys"))
    clean_nb(notebook, cfg.clear_all, *kept, cfg.clean_ids)
    for cell in notebook["cells"] if is_job(notebook) else []:
        if cell["cell_type"] == "code":
            cell["outputs"] = []


def clean_text(text: str) -> str:
    """Un cuaderno, limpio; lo que no es un cuaderno entero se queda como está."""
    if find_fault("", text):
        return text
    notebook = json.loads(text)
    clean_notebook(notebook)
    return nb2str(notebook)


def main() -> None:
    """Limpia los cuadernos de nbs/; el que ya lo estaba no se reescribe."""
    for path in list_notebooks():
        text = path.read_text(encoding="utf-8")
        if (cleaned := clean_text(text)) != text:
            path.write_text(cleaned, encoding="utf-8")


if __name__ == "__main__":
    main()
