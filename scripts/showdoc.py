"""La ficha de cada función en el sitio: firma, explicación y tabla de parámetros, en español.

nbdev pone una ficha detrás de cada celda exportada y deja elegir quién la dibuja (`renderer` en su configuración).
La suya está en inglés y mete los comentarios dentro de la firma; esta los pone en una tabla, que se lee de un vistazo.
"""

import inspect
import re
from dataclasses import is_dataclass

from fastcore.docments import docments
from nbdev.doclinks import NbdevLookup

_MODULES = re.compile(r"\b(?:[A-Za-z_]\w*\.)+(?=[A-Za-z_])")  # «pandas.DataFrame» → «DataFrame»
_WIDTH = 88
_EMPTY = inspect.Parameter.empty


def format_type(
    annotation: object,  # la anotación, tal como la da `inspect`
) -> str:  # el tipo en una línea, sin los módulos de donde viene
    """Escribe un tipo como se lee en el código."""
    if annotation is _EMPTY:
        return ""
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return _MODULES.sub("", text)


def format_default(
    value: object,  # el valor por defecto
) -> str:  # su texto; vacío si no hay
    """Escribe un valor por defecto; de una función, solo el nombre."""
    if value is _EMPTY:
        return ""
    return getattr(value, "__name__", None) or ("…" if repr(value).startswith("<") else repr(value))


def _parameters(signature: inspect.Signature) -> list[str]:
    """Los parámetros de la firma, uno por uno, con el `*` que separa los que se dan por nombre."""
    parts, named_only = [], False
    for p in signature.parameters.values():
        if p.kind is p.KEYWORD_ONLY and not named_only:
            parts.append("*")
        named_only = named_only or p.kind in (p.KEYWORD_ONLY, p.VAR_POSITIONAL)
        kind, default = format_type(p.annotation), format_default(p.default)
        stars = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "")
        equals = (" = " if kind else "=") + default if default else ""
        parts.append(stars + p.name + (f": {kind}" if kind else "") + equals)
    return parts


def format_signature(
    symbol: object,  # una función o una clase
    name: str,  # el nombre con que se muestra
) -> str:  # código Python, en una línea si cabe y si no en varias
    """Escribe la firma de una función, o la cabecera de una clase."""
    if isinstance(symbol, property):
        symbol = symbol.fget
    if inspect.isclass(symbol) and not is_dataclass(symbol) and "__init__" not in vars(symbol):
        return f"class {name}({', '.join(base.__name__ for base in symbol.__bases__)})"
    signature = inspect.signature(symbol)
    keyword = "class" if inspect.isclass(symbol) else "def"
    returns = "" if inspect.isclass(symbol) else format_type(signature.return_annotation)
    parts, tail = _parameters(signature), f") -> {returns}" if returns else ")"
    line = f"{keyword} {name}({', '.join(parts)}{tail}"
    if len(line) <= _WIDTH:
        return line
    return f"{keyword} {name}(\n" + "".join(f"    {part},\n" for part in parts) + tail


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|").replace("\n", " ") for cell in cells) + " |"


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def format_table(
    symbol: object,  # una función o una clase
) -> str:  # una tabla Markdown; vacía si nada está comentado
    """Hace la tabla de los parámetros y de lo que se devuelve, con el comentario que cada uno lleva al lado."""
    if inspect.isclass(symbol) and not is_dataclass(symbol) and "__init__" not in vars(symbol):
        return ""
    notes = docments(symbol, full=True)
    result = notes.pop("return", None)
    rows = [(k, v) for k, v in notes.items() if k not in ("self", "cls")]
    commented = result and result["docment"] and not inspect.isclass(symbol)
    if not commented and not any(v["docment"] for _, v in rows):
        return ""
    defaults = any(v["default"] is not _EMPTY for _, v in rows)
    body = [_cells(_code(k), v, defaults) for k, v in rows]
    if commented:
        body.append(_cells("**Devuelve**", result, defaults))
    head = ["", "Tipo", *(["Por defecto"] if defaults else []), "Detalles"]
    return "\n".join([_row(*head), _row(*["---"] * len(head)), *body])


def _cells(name: str, note: dict, defaults: bool) -> str:
    default = [_code(format_default(note["default"]))] if defaults else []
    return _row(name, _code(format_type(note["anno"])), *default, note["docment"] or "")


def _is_command(symbol: object) -> bool:
    """¿Es una orden de click? Se sabe por lo que ofrece, sin importar click."""
    return hasattr(symbol, "get_help") and hasattr(symbol, "callback")


def _public_members(symbol: object) -> list[tuple[str, object]]:
    """Los métodos y propiedades públicos que una clase define ella misma, en el orden del código."""
    found = []
    for name, member in vars(symbol).items() if inspect.isclass(symbol) else ():
        member = getattr(member, "__func__", member)  # classmethod y staticmethod
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
            found.append((f"{symbol.__name__}.{name}", member))
    return found


class SpanishRenderer:
    """Dibuja en Markdown la ficha de un símbolo y, si es una clase, las de sus métodos públicos."""

    def __init__(
        self,
        sym: object,  # lo que se documenta
        name: str | None = None,  # el nombre con que se muestra; por defecto, el suyo
        title_level: int = 3,  # nivel del encabezado
    ):
        named = getattr(sym, "callback", sym) if _is_command(sym) else sym
        self.symbol, self.level = sym, title_level
        self.name = name or getattr(named, "__qualname__", None) or str(sym)

    def _repr_markdown_(self) -> str:
        cards = [_card(self.symbol, self.name, self.level)]
        cards += [_card(member, name, self.level + 1) for name, member in _public_members(self.symbol)]
        return "\n\n".join(cards)

    def __repr__(self) -> str:
        return self.name


def _card(symbol: object, name: str, level: int) -> str:
    """La ficha de un solo símbolo: encabezado, enlace al código, firma, explicación y tabla."""
    source = NbdevLookup().code(name)
    link = f'[código]({source}){{.source-link}}' if source else ""
    if _is_command(symbol):
        return "\n\n".join(filter(None, [f"{'#' * level} {name}", link, _help(symbol)]))
    text = inspect.getdoc(symbol) if "__doc__" in dir(symbol) else ""
    function = symbol.fget if isinstance(symbol, property) else symbol
    signature = f"```python\n{format_signature(symbol, name)}\n```"
    parts = [f"{'#' * level} {name}", link, signature, text, format_table(function)]
    return "\n\n".join(part for part in parts if part)


def _help(command: object) -> str:
    """La ayuda de una orden, tal como sale en la terminal."""
    import click

    context = click.Context(command, info_name=command.name, terminal_width=_WIDTH)
    return f"```text\n{command.get_help(context)}\n```"
