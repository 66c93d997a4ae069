"""Lo que JupyterLab hace antes de guardar un cuaderno de nbs/: limpiarlo, para que ejecutarlo no sea un cambio.

Es lo que haría `nbdev_install_hooks`, pero solo en este proyecto: `make hooks` y `make lab` lo enlazan en .venv, y en
~/.jupyter no se toca nada.
"""
import sys
import warnings
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent


def clean_before_saving(model, path, contents_manager, **_):
    """Limpia los cuadernos de este proyecto; los de otros, no."""
    saved = Path(contents_manager.root_dir, path.lstrip("/")).resolve()
    if model["type"] != "notebook" or not saved.is_relative_to(SCRIPTS.parent / "nbs"):
        return
    if str(SCRIPTS) not in sys.path:
        sys.path.append(str(SCRIPTS))
    from clean_notebooks import clean_notebook

    clean_notebook(model["content"])


# Jupyter lee su configuración más de una vez, y avisaría de que este gancho sustituye a este gancho.
warnings.filterwarnings("ignore", r".*pre_save_hook \(clean_before_saving\) with a new one \(clean_before_saving\)")
c.ContentsManager.pre_save_hook = clean_before_saving  # noqa: F821 (`c` lo pone Jupyter)
