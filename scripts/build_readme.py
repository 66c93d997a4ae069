"""Escribe README.md a partir de nbs/index.ipynb, sin Quarto.

La portada del repositorio y la del sitio son el mismo cuaderno. Aquí cambian dos cosas: los enlaces, que en el
cuaderno parten de nbs/ y en el README de la raíz, y las celdas con `#| hide`, que no salen.
"""
import json
import posixpath
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = "nbs/index.ipynb"
NOTICE = f"<!-- Generado desde {SOURCE} con `make readme`: no se edita a mano. -->\n\n"
DIRECTIVE = re.compile(r"^#\|\s*(\w+)(?::\s*(\w+))?.*\n?", re.M)
# [texto](destino), ![imagen](destino), src="destino", href="destino"; sin los absolutos ni los de la propia página.
LINK = re.compile(r"""(\]\(|\b(?:src|href)=")(?![a-z]+:|#|/)([^)\s"]+)""")


def from_root(text: str) -> str:
    """Cambia los enlaces relativos a nbs/ por enlaces relativos a la raíz."""
    return LINK.sub(lambda m: m[1] + posixpath.normpath(posixpath.join("nbs", m[2])), text)


def render_output(output: dict) -> str:
    """El texto de una salida; las figuras de la portada son imágenes enlazadas, no salidas."""
    data = output.get("data", {})
    if "text/markdown" in data:
        return "".join(data["text/markdown"])
    text = "".join(output.get("text") or data.get("text/plain", ""))
    return f"```text\n{text.rstrip()}\n```" if text.strip() else ""


def render_cell(cell: dict) -> list[str]:
    """Los bloques de Markdown de una celda."""
    source = "".join(cell["source"])
    directives = dict(DIRECTIVE.findall(source))
    if cell["cell_type"] == "raw" or "hide" in directives or directives.get("include") == "false":
        return []
    if cell["cell_type"] == "markdown":
        return [from_root(source)]
    code = DIRECTIVE.sub("", source).strip()
    shown = [f"```python\n{code}\n```"] if directives.get("echo") != "false" else []
    return [*shown, *filter(None, map(render_output, cell["outputs"]))]


def render_readme(notebook: dict) -> str:
    """El README completo, acabado en un solo salto de línea."""
    blocks = [block.strip() for cell in notebook["cells"] for block in render_cell(cell)]
    return NOTICE + "\n\n".join(filter(None, blocks)) + "\n"


def main() -> None:
    """Escribe README.md; con --stdout, lo enseña."""
    text = render_readme(json.loads((ROOT / SOURCE).read_text(encoding="utf-8")))
    if "--stdout" in sys.argv:
        print(text, end="")
    else:
        (ROOT / "README.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
