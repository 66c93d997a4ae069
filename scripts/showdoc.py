"""La ficha de cada función en el sitio: firma, explicación y tabla de parámetros, en español.

nbdev pone una ficha detrás de cada celda exportada y deja elegir quién la dibuja (`renderer` en su configuración).
La suya está en inglés, mete los comentarios dentro de la firma y escribe los tipos como los ve Python y no como los
escribió su autora. Esta lee el código: los tipos salen como están escritos, y los comentarios, en una tabla.
"""

import ast
import inspect
import io
import linecache
import os
import re
import subprocess
import sys
import textwrap
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass

from nbdev.config import get_config
from nbdev.doclinks import NbdevLookup

_PROGRAM = "tierra"
_SHORT = 12  # líneas que se enseñan sin plegar
_WIDTH = 78
_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass
class Field:
    """Un parámetro, o el resultado, tal como está escrito en el código."""

    name: str  # con los asteriscos de *args y **kwargs
    kind: str = ""  # el tipo
    default: str = ""  # el valor por defecto
    note: str = ""  # el comentario de su línea

    def __str__(self) -> str:
        equals = " = " if self.kind else "="
        return self.name + (f": {self.kind}" if self.kind else "") + (equals + self.default if self.default else "")


# ---- Leer el código


def _read_source(symbol: object) -> str:
    """El código de un símbolo. De una clase definida en un cuaderno `inspect` no sabe: se busca en las celdas."""
    try:
        return textwrap.dedent(inspect.getsource(symbol))
    except (OSError, TypeError):
        cells = ["".join(lines) for _, _, lines, *_ in [e for e in linecache.cache.values() if len(e) > 2]]
        header = re.compile(rf"^class {symbol.__name__}\b", re.M)
        return next((cell for cell in reversed(cells) if header.search(cell)), "")


def _find_definition(source: str, name: str) -> _Definition | None:
    """La definición que lleva ese nombre, dentro del código."""
    found = (node for node in ast.walk(ast.parse(source)) if isinstance(node, _Definition) and node.name == name)
    return next(found, None)


def _read_comments(source: str) -> dict[int, str]:
    """El comentario de cada línea que lo tiene."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}


class _Reader:
    """Saca de una definición sus parámetros y su resultado."""

    def __init__(self, source: str, node: _Definition):
        self.source, self.node, self.comments = source, node, _read_comments(source)

    def _text(self, node: ast.AST | None) -> str:
        return " ".join((ast.get_source_segment(self.source, node) or "").split()) if node else ""

    def _type(self, node: ast.AST | None) -> str:
        quoted = isinstance(node, ast.Constant) and isinstance(node.value, str)  # "Pipeline": se importa después
        return node.value if quoted else self._text(node)

    def _field(self, name: str, kind: ast.AST | None, default: ast.AST | None, last: ast.AST) -> Field:
        return Field(name, self._type(kind), self._text(default), self.comments.get(last.end_lineno, ""))

    def result(self) -> Field | None:
        """Lo que devuelve la función, si dice su tipo."""
        returns = getattr(self.node, "returns", None)
        return self._field("", returns, None, returns) if returns else None

    def fields(self) -> list[Field]:
        """Los parámetros, o los campos si es una clase de datos."""
        if not isinstance(self.node, ast.ClassDef):
            return list(self._parameters(self.node.args))
        init = next((n for n in self.node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
        if init:
            return list(self._parameters(init.args))
        star = [Field("*")] if any("kw_only=True" in self._text(d) for d in self.node.decorator_list) else []
        declared = [n for n in self.node.body if isinstance(n, ast.AnnAssign) and "ClassVar" not in self._text(n.annotation)]
        return star * bool(declared) + [self._field(n.target.id, n.annotation, n.value, n) for n in declared]

    def _parameters(self, args: ast.arguments) -> Iterator[Field]:
        by_place = [*args.posonlyargs, *args.args]
        defaults = [*[None] * (len(by_place) - len(args.defaults)), *args.defaults]
        for arg, default in zip(by_place, defaults, strict=True):
            if arg.arg not in ("self", "cls"):
                yield self._field(arg.arg, arg.annotation, default, default or arg)
        if args.vararg:
            yield self._field(f"*{args.vararg.arg}", args.vararg.annotation, None, args.vararg)
        elif args.kwonlyargs:
            yield Field("*")
        for arg, default in zip(args.kwonlyargs, args.kw_defaults, strict=True):
            yield self._field(arg.arg, arg.annotation, default, default or arg)
        if args.kwarg:
            yield self._field(f"**{args.kwarg.arg}", args.kwarg.annotation, None, args.kwarg)


# ---- Escribir la ficha


def format_signature(
    name: str,  # el nombre con que se muestra
    node: _Definition,  # la definición
    fields: list[Field],  # sus parámetros
    result: Field | None = None,  # lo que devuelve
) -> str:  # código Python, en una línea si cabe y si no en varias
    """Escribe la firma de una función, o la cabecera de una clase."""
    keyword = "class" if isinstance(node, ast.ClassDef) else "def"
    parts = [str(f) for f in fields]
    if keyword == "class" and not fields:
        parts = [ast.unparse(base) for base in node.bases]
    tail = f") -> {result.kind}" if result else ")"
    line = f"{keyword} {name}({', '.join(parts)}{tail}"
    if len(line) <= _WIDTH:
        return line
    return f"{keyword} {name}(\n" + "".join(f"    {part},\n" for part in parts) + tail


def format_table(
    fields: list[Field],  # los parámetros
    result: Field | None = None,  # lo que devuelve
) -> str:  # una tabla Markdown; vacía si nada está comentado
    """Hace la tabla de los parámetros y del resultado, con el comentario que cada uno lleva al lado."""
    fields = [f for f in fields if f.name != "*"]
    if not any(f.note for f in [*fields, *([result] if result else [])]):
        return ""
    defaults = any(f.default for f in fields)
    rows = [(_literal(f.name), _code(f.kind), _literal(f.default), f.note) for f in fields]
    if result and result.note:
        rows.append(("**Devuelve**", _code(result.kind), "", result.note))
    rows = [("", "Tipo", "Por defecto", "Detalles"), ("---",) * 4, *rows]
    return "\n".join(_row(row if defaults else (*row[:2], row[3])) for row in rows)


def _row(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _literal(text: str) -> str:
    """Como `_code`, pero nbdev no lo enlaza: un parámetro que se llame «data» no es la orden «data»."""
    return f"`` {text} ``" if text else ""


def fold(
    code: str,  # código Python
    title: str,  # lo que se ve plegado
) -> str:  # Markdown que entienden Quarto y smalldocs
    """Enseña un trozo de código plegado."""
    return f"<details>\n<summary>{title}</summary>\n\n```python\n{code.strip()}\n```\n\n</details>"


def _is_command(symbol: object) -> bool:
    """¿Es una orden de click? Se sabe por lo que ofrece, sin importar click."""
    return hasattr(symbol, "get_help") and hasattr(symbol, "callback")


def _path(command: object) -> list[str]:
    """Lo que hay que escribir detrás de «tierra» para llegar a una orden: su nombre y, delante, el de su grupo."""
    if command.name == _PROGRAM:
        return []
    known = getattr(command.callback, "__globals__", {}).values()
    groups = [group for group in known if command in getattr(group, "commands", {}).values()]
    return [*(_path(groups[0]) if groups else []), command.name]


def _help(path: list[str]) -> str:
    """La ayuda de una orden, tal como sale en la terminal: se le pide a la orden misma."""
    package = get_config().lib_path.name
    call = [sys.executable, "-c", f"from {package}.cli.main import main; main()", *path, "--help"]
    done = subprocess.run(call, capture_output=True, text=True, env={**os.environ, "COLUMNS": str(_WIDTH)})
    if done.returncode:
        raise ChildProcessError(f"«{' '.join([_PROGRAM, *path])} --help» terminó con el código {done.returncode}: {done.stderr.strip()}")
    return f"```text\n{done.stdout.strip()}\n```"


def _explain(symbol: object) -> list[str]:
    """Firma, explicación y tabla de un símbolo del que se tiene el código."""
    function = symbol.fget if isinstance(symbol, property) else inspect.unwrap(symbol)
    source = _read_source(function)
    node = _find_definition(source, function.__name__) if source else None
    if not node:
        return [inspect.getdoc(function) or ""]
    reader = _Reader(source, node)
    fields, result = reader.fields(), reader.result()
    signature = format_signature(function.__qualname__, node, fields, result)
    parts = [f"```python\n{signature}\n```", ast.get_docstring(node) or "", format_table(fields, result)]
    method = "." in function.__qualname__  # su código ya sale en el de la clase
    return parts if method else [*parts, fold(source, "Ver el código")]


def _card(symbol: object, name: str, level: int) -> str:
    """La ficha de un solo símbolo."""
    address = NbdevLookup().code(name)
    link = f"[código]({address}){{.source-link}}" if address else ""
    if _is_command(symbol):
        path = _path(symbol)
        title, body = f"{' '.join([_PROGRAM, *path])} {{#{name}}}", [_help(path)]
    else:
        title, body = name, _explain(symbol)
    return "\n\n".join(part for part in [f"{'#' * level} {title}", link, *body] if part)


def _public_members(symbol: object) -> list[tuple[str, object]]:
    """Los métodos y propiedades públicos que una clase define ella misma, en el orden del código."""
    found = []
    for name, member in vars(symbol).items() if inspect.isclass(symbol) else ():
        member = getattr(member, "__func__", member)  # classmethod y staticmethod
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
            found.append((f"{symbol.__name__}.{name}", member))
    return found


def _hides_nothing(tree: ast.Module) -> bool:
    """¿Es una celda que no hace falta enseñar? Solo importa, o define algo público, que ya tiene su ficha."""
    imports = (ast.Import, ast.ImportFrom, ast.If)
    only_imports = all(isinstance(node, imports) for node in tree.body)
    return only_imports or any(isinstance(node, _Definition) and not node.name.startswith("_") for node in tree.body)


def show_helpers(
    cell: dict,  # una celda del cuaderno, que se cambia aquí mismo
) -> bool:  # si se enseña
    """Enseña las constantes y las funciones privadas que se exportan: nbdev las borraría y la prosa hablaría del aire."""
    if "export" not in cell.directives_ or not cell.source or _hides_nothing(ast.parse(cell.source)):
        return False
    code = cell.source.strip()
    short = code.count("\n") < _SHORT
    cell.source = f"```python\n{code}\n```" if short else fold(code, "Código de apoyo")
    cell.cell_type = "markdown"
    cell.pop("outputs", None)
    return True


class SpanishRenderer:
    """Dibuja en Markdown la ficha de un símbolo y, si es una clase, las de sus métodos públicos."""

    def __init__(
        self,
        sym: object,  # lo que se documenta
        name: str | None = None,  # el nombre con que se muestra; por defecto, el suyo
        title_level: int = 3,  # nivel del encabezado
    ):
        named = sym.callback if _is_command(sym) else sym
        self.name = name or getattr(named, "__qualname__", None) or str(sym)
        # Aquí y no en `_repr_markdown_`: lo que ahí falla, IPython lo escribe en la página y sigue.
        cards = [_card(sym, self.name, title_level)]
        cards += [_card(member, name, title_level + 1) for name, member in _public_members(sym)]
        self.text = "\n\n".join(cards)

    def _repr_markdown_(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return self.name
