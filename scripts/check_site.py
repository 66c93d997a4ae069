"""Repasa un sitio ya construido: enlaces, idioma, figuras con su texto, nada que se pida fuera ni cuente cómo es esta máquina."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from posixpath import normpath
from urllib.parse import unquote, urlsplit

# Lo que el navegador pide solo, sin que nadie pulse: de ahí no puede salir nada de la máquina del lector.
_FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src", "embed": "src"}
_FETCHED_RELS = {"stylesheet", "icon", "preload", "prefetch", "preconnect", "dns-prefetch", "modulepreload", "manifest"}
_REMOTE_CSS = re.compile(r"""(?:url\(\s*["']?|@import\s+["'])\s*((?:https?:)?//[^"')]+)""")
# Lo que solo puede venir de una celda que se ejecutó aquí: carpetas de alguien, de paso o con las bibliotecas.
_ROOT = Path(__file__).resolve().parent.parent
_HERE = re.compile(rf"{re.escape(str(_ROOT))}\b|(?<![\w.:/-])/(?:home|Users|root|tmp|private|var/folders)/[\w.-]+|[\w.-]+/site-packages/|\b[A-Z]:\\Users\\")
_TRACEBACK = "Traceback (most recent call last)"
# Textos de la interfaz de Quarto y de smalldocs: si aparece uno, falta traducirlo.
_ENGLISH = (
    "Search", "On this page", "Report an issue", "View source", "Edit this page", "Copy to Clipboard", "Copied!",
    "No results", "Toggle navigation", "Toggle section", "Toggle sidebar navigation", "Exported source", "Back to top",
    "Note", "Tip", "Warning", "Important", "Caution", "source", "Type", "Details", "Returns",
)  # fmt: skip


def _shorten(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:40]}…{text[-10:]}"


@dataclass
class Page(HTMLParser):
    """Una página leída: sus anclas, sus enlaces, lo que pide al cargarse, sus textos y qué salidas enseña."""

    path: str  # ruta dentro del sitio, con «/»
    html: str  # su contenido
    lang: str = ""  # el idioma que declara
    ids: set[str] = field(default_factory=set)  # sus anclas
    links: list[str] = field(default_factory=list)  # los `href` de sus enlaces
    fetched: list[str] = field(default_factory=list)  # direcciones que el navegador pide al abrirla
    texts: list[str] = field(default_factory=list)  # cada trozo de texto y los rótulos de sus atributos
    titles: list[str] = field(default_factory=list)  # el texto de `<title>`
    untold: list[str] = field(default_factory=list)  # figuras sin texto alternativo
    shown: set[str] = field(default_factory=set)  # las clases de sus etiquetas: qué salidas enseña
    words: list[str] = field(default_factory=list)  # todo lo que se lee en ella, a trozos

    def __post_init__(self):
        super().__init__(convert_charrefs=True)
        self._open: list[str] = []
        self.feed(self.html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Anota anclas, enlaces y recursos de una etiqueta."""
        at = {k: v or "" for k, v in attrs}
        self._open.append(tag)
        self.lang = at.get("lang", self.lang) if tag == "html" else self.lang
        self.ids.update(at[k] for k in ("id", "name") if at.get(k))
        if tag == "a" and "href" in at:
            self.links.append(at["href"])
        if tag == "link" and _FETCHED_RELS & set(at.get("rel", "").split()):
            self.fetched.append(at.get("href", ""))
        if at.get(_FETCHED.get(tag, "")):
            self.fetched.append(at[_FETCHED[tag]])
        # Un svg de la interfaz puede ser adorno; el que dice ser una imagen tiene que decir cuál.
        figure = tag == "img" or (tag == "svg" and at.get("role") == "img")
        if figure and not (at.get("alt", "") + at.get("aria-label", "")).strip():
            self.untold.append(_shorten(at.get("src", "un svg")))
        self.shown.update(at.get("class", "").split())
        self.texts += [at[k] for k in ("title", "placeholder", "aria-label") if at.get(k)]
        self.fetched += _REMOTE_CSS.findall(at.get("style", ""))

    def handle_endtag(self, tag: str) -> None:
        """Cierra la etiqueta y las que quedaron abiertas dentro de ella."""
        while tag in self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        """Guarda el texto; de una hoja de estilo, lo que pide."""
        where = self._open[-1] if self._open else ""
        self.words.append(data if where not in ("style", "script") else "")
        if where == "style":
            self.fetched += _REMOTE_CSS.findall(data)
        elif where == "title":
            self.titles.append(data.strip())
        elif where != "script" and not {"code", "pre", "svg", "table"} & set(self._open):
            self.texts.append(data.strip())


def read_pages(
    site: Path,  # carpeta del sitio
) -> dict[str, Page]:  # cada página HTML, por su ruta dentro del sitio
    """Lee todas las páginas de un sitio."""
    found = sorted(p for p in site.rglob("*.html") if "site_libs" not in p.parts)
    paths = [p.relative_to(site).as_posix() for p in found]
    return {path: Page(path, p.read_text(encoding="utf-8")) for path, p in zip(paths, found, strict=True)}


def _target(page: str, link: str) -> tuple[str, str]:
    """Adónde lleva un enlace relativo: la ruta dentro del sitio y el ancla."""
    parts = urlsplit(link)
    path = unquote(parts.path)
    folder = page.rpartition("/")[0]
    path = normpath(f"{folder}/{path}".lstrip("/")) if path else page
    return path, unquote(parts.fragment)


def _is_remote(address: str) -> bool:
    return bool(re.match(r"(?:[a-zA-Z][a-zA-Z0-9+.-]*:)?//|(?:mailto|javascript|data):", address))


def _broken_links(site: Path, pages: dict[str, Page]) -> Iterator[str]:
    for page in pages.values():
        local = [a for a in [*page.links, *page.fetched] if a and not _is_remote(a)]
        for link in dict.fromkeys(local):
            path, anchor = _target(page.path, link)
            if (site / path).is_dir():
                path = normpath(f"{path}/index.html")
            if path.startswith("..") or not (site / path).is_file():
                yield f"{page.path}: enlace roto: {link}"
            elif anchor and path in pages and anchor not in pages[path].ids:
                yield f"{page.path}: el ancla no existe: {link}"


def _remote_resources(site: Path, pages: dict[str, Page]) -> Iterator[str]:
    for page in pages.values():
        for address in page.fetched:
            if _is_remote(address) and not address.startswith("data:"):
                yield f"{page.path}: pide algo a otra máquina al abrirse: {address}"
    for css in sorted(site.rglob("*.css")):
        for address in _REMOTE_CSS.findall(css.read_text(encoding="utf-8")):
            yield f"{css.relative_to(site)}: pide algo a otra máquina: {address}"


def _leaks(page: Page) -> Iterator[str]:
    """Lo que el sitio cuenta de cómo se hizo, y no de lo que enseña."""
    text = "".join(page.words)
    if "cell-output-error" in page.shown:
        yield "enseña una celda que acabó en error; ejecuta el cuaderno de nuevo"
    if _TRACEBACK in text:
        yield "enseña un traceback"
    if "cell-output-stderr" in page.shown:
        yield "enseña lo que una celda escribió en stderr; que lo escriba en stdout, o que no lo escriba"
    yield from (f"enseña una ruta de esta máquina: {found}" for found in dict.fromkeys(_HERE.findall(text)))


def check_site(
    site: Path,  # carpeta del sitio ya construido
) -> list[str]:  # una línea por cada problema; vacía si no hay ninguno
    """Busca lo que un lector notaría: enlaces rotos, textos en inglés, figuras mudas, peticiones fuera y trazas de quien lo hizo."""
    pages = read_pages(site)
    problems = [] if pages else [f"{site} no tiene ninguna página"]
    problems += _broken_links(site, pages)
    problems += _remote_resources(site, pages)
    for page in pages.values():
        problems += [f"{page.path}: el idioma es «{page.lang}» y no «es»"] if page.lang != "es" else []
        problems += [f"{page.path}: {leak}" for leak in _leaks(page)]
        problems += [f"{page.path}: no tiene título"] if not any(page.titles) else []
        problems += [f"{page.path}: figura sin texto alternativo: {src}; en un cuaderno se le pone con «#| fig-alt: …»" for src in page.untold]
        problems += [f"{page.path}: texto sin traducir: «{text}»" for text in _ENGLISH if text in page.texts]
    return problems
