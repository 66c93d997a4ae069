"""Lo que los guiones y las pruebas saben de un cuaderno: cómo se nombra una celda y qué le impide ser exportado."""
import json
import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ANSI = re.compile(r"\x1b\[[0-9;]*m")
IS_JOB = re.compile(r"^- skip_exec: true$", re.M)
# Lo que deja git en el fichero y lo que deja `nbdev_fix` en las celdas.
GIT_MARK = re.compile(r"^(<{7}|>{7}) ", re.M)
CELL_MARK = re.compile(r"^`?(<{7}|>{7}) ", re.M)


def list_notebooks(root: Path = ROOT) -> list[Path]:
    """Los cuadernos del proyecto, en el orden en que se leen."""
    found = (path.relative_to(root) for path in (root / "nbs").rglob("*.ipynb"))
    return sorted(root / path for path in found if not any(part.startswith((".", "_")) for part in path.parts))


def read_notebook(path: Path) -> dict:
    """Un cuaderno, tal como está en el disco."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_source(cell: dict) -> str:
    """El texto de una celda, esté en una línea o en una lista de líneas."""
    return "".join(cell.get("source", ""))


def is_job(notebook: dict) -> bool:
    """Si es un trabajo: ni nbdev ni nbval lo ejecutan, porque no es una página sino algo que se lanza."""
    return bool(notebook["cells"]) and bool(IS_JOB.search(read_source(notebook["cells"][0])))


def find_heading(cells: list[dict], index: int) -> str | None:
    """El título bajo el que está una celda."""
    for cell in reversed(cells[: index + 1]):
        titles = re.findall(r"^#+ +(.+)$", read_source(cell), re.M) if cell["cell_type"] == "markdown" else []
        if titles:
            return titles[-1].strip()
    return None


def name_cell(cells: list[dict], index: int) -> str:
    """Una celda como la busca una persona: el número que le pone *Restart & Run All* y el título que la cubre."""
    heading = find_heading(cells, index)
    is_code = cells[index]["cell_type"] == "code"
    number = sum(cell["cell_type"] == "code" for cell in cells[: index + 1])
    return (f"la celda [{number}]" if is_code else "una celda de texto") + (f", bajo «{heading}»" if heading else "")


def describe_marks(path: str, cells: list[dict]) -> str | None:
    """La frase de un cuaderno en el que quedan por elegir celdas; `None` si no queda ninguna."""
    marked = [number for number, cell in enumerate(cells) if CELL_MARK.search(read_source(cell))]
    if not marked:
        return None
    places = list(dict.fromkeys(name_cell(cells, number) for number in marked))
    return (
        f"{path} tiene conflictos sin resolver: {'; '.join(places[:3])}. Ábrelo en JupyterLab, quédate con una versión "
        "de cada celda, borra las marcas (<<<<<<<, =======, >>>>>>>) y guárdalo."
    )


def describe_twins(path: str, cells: list[dict]) -> str | None:
    """La frase de un cuaderno con dos celdas de igual `id`; `None` si no las hay."""
    twins = [key for key, count in Counter(cell.get("id") for cell in cells).items() if key and count > 1]
    if not twins:
        return None
    places = [name_cell(cells, number) for number, cell in enumerate(cells) if cell.get("id") == twins[0]]
    return (
        f"{path} tiene dos celdas con el mismo id, «{twins[0]}»: {' y '.join(places)}. Suelen ser las dos versiones de "
        "un conflicto: borra en JupyterLab la que sobre. Si hacen falta las dos, copia una, pégala y borra la copiada."
    )


def find_fault(
    path: str,  # cómo se llama, desde la raíz
    text: str,  # lo que hay en el fichero
) -> str | None:  # una frase que dice cómo se acaba; `None` si es un cuaderno entero
    """Lo que impide exportar un cuaderno: que esté a medio fundir o que no se pueda leer."""
    if GIT_MARK.search(text):
        return (
            f"{path} está a medio fundir: dentro están las dos versiones. Ejecuta «.venv/bin/nbdev_fix {path}», ábrelo "
            "en JupyterLab, quédate con una de cada celda marcada, borra las marcas y guárdalo."
        )
    try:
        cells = json.loads(text)["cells"]
    except (ValueError, KeyError, TypeError):
        return f"{path} no se puede leer como cuaderno: recupéralo con «git checkout -- {path}» o desde JupyterLab."
    return describe_marks(path, cells) or describe_twins(path, cells)


def find_faults(root: Path = ROOT) -> list[str]:
    """Una frase por cada cuaderno que no se puede exportar."""
    texts = ((str(path.relative_to(root)), path.read_text(encoding="utf-8")) for path in list_notebooks(root))
    return [fault for path, text in texts if (fault := find_fault(path, text))]
