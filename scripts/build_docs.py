"""Construye el sitio en `_docs` a partir de los cuadernos: es lo que hace `make docs`.

nbdev prepara los cuadernos en `_proc` (quita lo oculto, añade la ficha de cada función) y de ahí sale el sitio, con
Quarto si `quarto` está en el PATH o, si no, con smalldocs. Los dos leen el mismo `_quarto.yml` y dan las mismas
direcciones. Nunca instala ni descarga Quarto: por eso no llama a `nbdev_docs`, que lo haría, sino a sus mismos pasos.
El sitio se hace aparte, se repasa, y solo si está sano sustituye al anterior.
"""

import argparse
import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import EntryPoint
from itertools import count
from pathlib import Path, PurePosixPath
from posixpath import relpath
from unittest.mock import patch

from check_site import check_site

ROOT = Path(__file__).resolve().parent.parent

# smalldocs no traduce su interfaz. Cada texto va con lo que lo rodea, para no tocar la prosa de nadie.
HTML_TEXTS = {
    'placeholder="Search"': 'placeholder="Buscar"',
    'aria-label="Search"': 'aria-label="Buscar"',
    'aria-label="Toggle navigation"': 'aria-label="Abrir o cerrar el menú"',
    'aria-label="Toggle section"': 'aria-label="Plegar o desplegar la sección"',
    'aria-label="Toggle sidebar navigation"': 'aria-label="Abrir o cerrar el índice"',
    'aria-label="breadcrumb"': 'aria-label="Dónde estás"',
    'title="Copy to Clipboard"': 'title="Copiar"',
    "</i> View source</a>": "</i> Ver el cuaderno</a>",
    "</i> Report an issue</a>": "</i> Avisar de un problema</a>",
    "<summary>Exported source</summary>": "<summary>Código exportado</summary>",
    "<summary>Code</summary>": "<summary>Código</summary>",
    **{
        f'<div class="callout-title-container flex-fill">{english}</div>': f'<div class="callout-title-container flex-fill">{spanish}</div>'
        for english, spanish in [("Note", "Nota"), ("Tip", "Consejo"), ("Warning", "Aviso"), ("Important", "Importante"), ("Caution", "Cuidado")]
    },
}
SCRIPT_TEXTS = {
    '"Copied!"': '"¡Copiado!"',
    '"Copy to Clipboard"': '"Copiar"',
    "No results": "Sin resultados",
    '"Anchor"': '"Enlace a esta sección"',
}
_EXPORTED = {"export", "exports", "exporti"}
# Lo que Quarto pone en toda página que enseñe una tabla de pandas, por si fuese un control de Jupyter: no hay ninguno.
_WIDGET_SCRIPTS = re.compile(
    r'''[ \t]*<script[^>]*\bsrc="https?://[^"]*/(?:require\.js|jquery)/[^"]*"[^>]*>\s*</script>\n?'''
    r"""|[ \t]*<script[^>]*>\s*define\('jquery',[^<]*</script>\n?"""
)


class DocsError(Exception):
    """Lo que impide construir el sitio, contado en una frase."""


def say(text: str) -> None:
    """Cuenta un paso, y que se vea al momento."""
    print(text, flush=True)


# ---- 1. Los cuadernos


@contextlib.contextmanager
def _our_nbdev() -> Iterator[list[str]]:
    """Nos presta un nbdev que dibuja nuestras fichas, conoce el paquete sin instalarlo y cuenta por qué cuaderno va."""
    from IPython.core.interactiveshell import InteractiveShell
    from nbdev import doclinks, processors, serve_drv, showdoc
    from nbdev.config import get_config
    from showdoc import show_helpers

    config = get_config(path=ROOT)
    config.d["renderer"] = "showdoc.SpanishRenderer"
    package = config.lib_path.name
    index = EntryPoint(name=package, value=f"{package}._modidx:d", group="nbdev")
    process, remove, runs, current = serve_drv.main, processors.rm_export, processors._do_eval, []

    def announced(task: tuple) -> None:
        current[:] = [str(task[0])]
        say(f"  · {task[0]}")
        with contextlib.redirect_stdout(io.StringIO()):
            process(task)

    def do_eval(cell: dict) -> bool:
        """Ejecuta lo que se exporta y las fichas. nbdev, además, toda celda en que haya un import: la salida que se
        guardó con el cuaderno cambiaría por la de hoy, aquí y sin lo que hay delante."""
        ours = cell.directives_.keys() & _EXPORTED or "show_doc(" in (cell.source or "")
        return bool(ours and runs(cell))

    def rm_export(cell: dict) -> None:
        if not show_helpers(cell):
            remove(cell)

    with (
        patch.object(serve_drv, "main", announced),
        patch.object(processors, "rm_export", rm_export),
        patch.object(processors, "_do_eval", do_eval),
        patch.object(showdoc, "get_config", lambda: config),
        patch.object(doclinks, "entry_points", lambda group: [index]),
        patch.object(InteractiveShell, "atexit_operations", lambda shell: None),  # al salir, cada cuaderno barría toda la memoria
    ):
        yield current


def check_sidebar(
    nbs: Path,  # carpeta de los cuadernos
) -> None:
    """Comprueba que el índice, que se escribe a mano, nombra cada cuaderno y ninguno que no exista."""
    index = (nbs / "sidebar.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r"href:\s*(\S+\.ipynb)", index))
    found = {p.relative_to(nbs).as_posix() for p in nbs.rglob("*.ipynb")}
    found = {path for path in found if not any(part[0] in "._" for part in path.split("/"))}
    problems = [f"falta {path}" for path in sorted(found - listed)] + [f"sobra {path}" for path in sorted(listed - found)]
    problems += [f"«{name}» no lleva a ningún sitio" for name in re.findall(r"- text:\s*(.+)\n(?!\s*href:)", index)]
    if problems:
        raise DocsError(f"el índice del sitio, nbs/sidebar.yml, no casa con los cuadernos: {', '.join(problems)}")


def prepare_notebooks(
    proc: Path,  # carpeta donde deja los cuadernos preparados; se vacía antes
) -> None:
    """Pasa los cuadernos por nbdev, que ejecuta solo las celdas exportadas, para escribir sus fichas."""
    from nbdev.serve import proc_nbs

    shutil.rmtree(proc, ignore_errors=True)
    with _our_nbdev() as current:
        try:
            proc_nbs("nbs", n_workers=0)  # en este proceso: otro no sabría de nuestras fichas, y así el orden es fijo
        except Exception as error:
            reason = error.__cause__ or error
            where = " ".join(current) or "los cuadernos"
            raise DocsError(f"nbdev no pudo preparar {where}: {type(reason).__name__}: {reason}") from error


# ---- 2. Las páginas


def render_with_quarto(
    proc: Path,  # los cuadernos preparados
    out: Path,  # donde queda el sitio
) -> None:
    """Construye el sitio con el Quarto que ya está instalado, como hace `nbdev_docs`."""
    done = subprocess.run(["quarto", "render", "--no-cache"], cwd=proc)
    if done.returncode:
        raise DocsError(f"Quarto terminó con el código {done.returncode}: lo que dijo está justo encima")
    if not out.is_dir():
        raise DocsError(f"Quarto no dejó el sitio en {out.relative_to(ROOT)}")
    drop_widget_scripts(out)


def drop_widget_scripts(
    out: Path,  # el sitio
) -> None:
    """Quita de las páginas las bibliotecas que Quarto pide a otra máquina para unos controles que no hay."""
    for page in out.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        page.write_text(_WIDGET_SCRIPTS.sub("", text), encoding="utf-8")


def render_with_smalldocs(
    proc: Path,  # los cuadernos preparados
    out: Path,  # donde queda el sitio
) -> None:
    """Construye el sitio con smalldocs y le da las direcciones y el idioma que le daría Quarto."""
    from smalldocs import highlight
    from smalldocs.config import BuildError
    from smalldocs.site import build

    try:
        with patch.object(highlight, "css_class", lru_cache(highlight.css_class)):  # la pide para cada palabra de código
            site = build(proc, quiet=True)
    except BuildError as error:
        raise DocsError(f"smalldocs no pudo construir el sitio: {error}") from error
    for warning in site.warnings:
        if "output-file" not in warning:
            say(f"  aviso: {warning}")
    rename_pages(out, {str(p.out): str(p.out.with_name(p.front["output-file"])) for p in site.pages.values() if "output-file" in p.front})
    translate(out)


def rename_pages(
    out: Path,  # el sitio
    names: dict[str, str],  # ruta que tiene cada página → la que pidió nbdev (`2_kedro/00_kedro.html` → `2_kedro/kedro.html`)
) -> None:
    """Da a cada página la dirección que pidió nbdev, y la cambia también donde se la nombra."""
    by_name = {PurePosixPath(a).name: PurePosixPath(b).name for a, b in names.items() if a != b}
    for old, new in names.items():
        (out / old).rename(out / new)
    if not by_name:
        return
    named = re.compile(rf"""(href="(?:[^"#:]*/)?|<loc>[^<]*/)({'|'.join(map(re.escape, by_name))})(?=["#<])""")
    for path in [*out.rglob("*.html"), out / "sitemap.xml"]:
        text = path.read_text(encoding="utf-8")
        path.write_text(named.sub(lambda m: m[1] + by_name[m[2]], text), encoding="utf-8")
    index = json.loads((out / "search.json").read_text(encoding="utf-8"))
    for entry in index:
        page, _, anchor = entry["href"].partition("#")
        entry["href"] = entry["objectID"] = names.get(page, page) + (f"#{anchor}" if anchor else "")
    (out / "search.json").write_text(json.dumps(index, ensure_ascii=False), encoding="utf-8")


def translate(
    out: Path,  # el sitio
) -> None:
    """Traduce la interfaz de smalldocs y quita del mapa del sitio las fechas de los ficheros, que cambian solas."""
    for page in out.rglob("*.html"):
        page.write_text(_replace_all(page.read_text(encoding="utf-8"), HTML_TEXTS), encoding="utf-8")
    script = out / "site_libs/smalldocs.js"
    text = script.read_text(encoding="utf-8")
    if absent := [english for english in SCRIPT_TEXTS if english not in text]:
        raise DocsError(f"esta versión de smalldocs ya no dice {', '.join(absent)}: revisa SCRIPT_TEXTS en scripts/build_docs.py")
    script.write_text(_replace_all(text, SCRIPT_TEXTS), encoding="utf-8")
    sitemap = out / "sitemap.xml"
    sitemap.write_text(re.sub(r"\s*<lastmod>.*?</lastmod>", "", sitemap.read_text(encoding="utf-8")), encoding="utf-8")


def _replace_all(text: str, pairs: dict[str, str]) -> str:
    for old, new in pairs.items():
        text = text.replace(old, new)
    return text


# ---- 3. Los enlaces que nbdev pone solo, y las tablas de pandas


def localize_links(
    out: Path,  # el sitio
    address: str,  # dirección pública del sitio, que nbdev escribe delante de cada enlace
) -> None:
    """Hace relativos los enlaces que nbdev pone en los nombres entre acentos graves.

    nbdev enlaza también nombres privados, que no tienen ficha: esos llevan a la página, sin ancla.
    """
    pages = {path.relative_to(out).as_posix(): path.read_text(encoding="utf-8") for path in out.rglob("*.html")}
    anchors = {path: set(re.findall(r' id="([^"]+)"', page)) for path, page in pages.items()}
    link = re.compile(rf'href="{re.escape(address.rstrip("/"))}/([^"#]*)(?:#([^"]*))?"')
    for path, page in pages.items():

        def local(m: re.Match, folder: str = str(PurePosixPath(path).parent)) -> str:
            target = m[1] or "index.html"
            known = m[2] in anchors.get(target, ())
            return f'href="{relpath(target, folder)}{"#" + m[2] if known else ""}"'

        (out / path).write_text(link.sub(local, page), encoding="utf-8")


def align_tables(
    out: Path,  # el sitio
) -> None:
    """Marca las columnas de texto de cada DataFrame: pandas las alinea a la derecha, como si fueran números."""
    table = re.compile(r'<table[^>]*class="dataframe[^>]*>.*?</table>', re.S)
    for page in out.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        page.write_text(table.sub(lambda m: _mark_text_columns(m[0]), text), encoding="utf-8")


def _mark_text_columns(table: str) -> str:
    """Añade la clase `texto` a las celdas de las columnas en que algo no es un número."""
    if "colspan" in table or "rowspan" in table:
        return table
    cell, row = re.compile(r"<(t[hd])>(.*?)</t[hd]>", re.S), re.compile(r"<tr.*?</tr>", re.S)
    number = re.compile(r"[-−+]?[\d.,]+(e[-+]?\d+)?\s*%?|NaN|None|<NA>|&lt;NA&gt;|\.\.\.|")
    columns = {
        place
        for line in row.findall(table)
        for place, (tag, content) in enumerate(cell.findall(line))
        if tag == "td" and not number.fullmatch(content.strip())
    }

    def mark(line: re.Match) -> str:
        places = count()
        return cell.sub(lambda m: f'<{m[1]} class="texto">{m[2]}</{m[1]}>' if next(places) in columns else m[0], line[0])

    return row.sub(mark, table)


# ---- Todo junto


def build_docs() -> Path:  # la carpeta del sitio
    """Construye el sitio entero y lo deja en `_docs`, o dice qué lo impide."""
    from nbdev.config import get_config

    config = get_config(path=ROOT)
    proc, docs = ROOT / "_proc", ROOT / config.doc_path.name
    out = proc / docs.name
    check_sidebar(config.nbs_path)
    say("1/4 Preparo los cuadernos con nbdev")
    prepare_notebooks(proc)
    quarto = shutil.which("quarto")
    say(f"2/4 Hago las páginas con {'Quarto' if quarto else 'smalldocs (Quarto no está en el PATH, y no hace falta)'}")
    (render_with_quarto if quarto else render_with_smalldocs)(proc, out)
    say("3/4 Arreglo los enlaces y las tablas")
    localize_links(out, config.doc_host + config.doc_baseurl)
    align_tables(out)
    say("4/4 Repaso el sitio")
    if problems := check_site(out):
        listed = "\n".join(f"  · {problem}" for problem in problems)
        raise DocsError(f"problemas en el sitio: {len(problems)}. No sustituye al anterior; míralo en _proc/{docs.name}\n{listed}")
    shutil.rmtree(docs, ignore_errors=True)
    out.rename(docs)
    return docs


@contextlib.contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Trabaja desde otra carpeta, y hace importable lo que hay en ella."""
    before = os.getcwd()
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        os.chdir(before)
        sys.path.remove(str(folder))


def main() -> int:  # 0 si el sitio quedó hecho, 1 si no
    """Construye el sitio y cuenta lo que hace; un error se dice en una frase."""
    parser = argparse.ArgumentParser(description="Construye el sitio en _docs a partir de los cuadernos.")
    parser.add_argument("--debug", action="store_true", help="si algo falla, muestra también la traza de Python")
    debug = parser.parse_args().debug
    try:
        with working_in(ROOT):
            docs = build_docs()
    except DocsError as error:
        if debug:
            raise
        print(f"No se pudo construir el sitio: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        if debug:
            raise
        print(f"No se pudo construir el sitio: falta {error.name}. Instala las herramientas con «make env-dev».", file=sys.stderr)
        return 1
    pages = len(list(docs.rglob("*.html")))
    say(f"Listo: {pages} páginas en {docs.name}/. Ábrelo por {docs.name}/index.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
