"""Los números que lee una persona están en español, en todas partes y escritos por la misma función."""
import re
from html import unescape
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import de_jupyter_a_la_tierra
from de_jupyter_a_la_tierra.api.page import build_page
from de_jupyter_a_la_tierra.api.payload import PayloadError, PayloadReader
from de_jupyter_a_la_tierra.landing.inference import infer_dictionary
from de_jupyter_a_la_tierra.spanish import format_number
from de_jupyter_a_la_tierra.tables.dictionary import Column, describe_range

PACKAGE = Path(de_jupyter_a_la_tierra.__file__).parent
PRICE = Column(name="precio", meaning="Precio", unit="€", minimum=0, maximum=1_234_567.0)
INFO = {
    "name": "pisos", "task": "regression", "classes": [], "features": [PRICE.to_dict()], "data": {"origin": "own"},
    "target": Column(name="y", meaning="Y").to_dict(),
    "baseline": {"levels": [0.0, 0.5, 1.0], "features": {"precio": [0.0, 234_567.25, 1_000_000.0]}},
}


@given(st.floats(-1e300, 1e300) | st.integers(-(10**18), 10**18))
def test_a_number_is_the_one_that_was(value: float) -> None:
    """Con todas sus cifras: quien deshaga los puntos y la coma tiene el mismo número."""
    text = format_number(value)
    assert re.fullmatch(r"-?(\d{1,4}|\d{2,3}(\.\d{3})+|\d{1,3}(\.\d{3}){2,})(,\d+)?(E-?\d+)?", text), text
    back = float(text.replace(".", "").replace(",", "."))
    assert back == pytest.approx(float(value), rel=1e-14, abs=0)


def test_a_range_a_refusal_and_a_page_say_the_same() -> None:
    assert describe_range(PRICE) == "de 0 a 1.234.567 €"
    with pytest.raises(PayloadError, match=r"«precio» ha de ser un número de 0 a 1\.234\.567 €, y es -1"):
        PayloadReader(INFO).read(b'{"precio": -1}')
    page = build_page(INFO, "v1", "http://x")
    assert "de 0 a 1.234.567 €" in page and 'value="234567,25"' in page  # en la casilla, sin puntos: se puede corregir
    assert '"precio": 234567.25' in unescape(page)  # el curl es para una máquina


def test_the_notes_of_a_new_project_are_in_spanish(tmp_path: Path) -> None:
    from de_jupyter_a_la_tierra.tables.csv import read_table

    (tmp_path / "h.csv").write_text("a,y\n" + "".join(f"{k % 7},{k * 12345.5}\n" for k in range(100)))
    notes = infer_dictionary(read_table(tmp_path / "h.csv"), "x", "y")[2]
    assert "va de 0 a 1.222.204,5." in notes[0]


def test_nobody_writes_numbers_on_his_own() -> None:
    """Ni comas a mano ni formatos de Python en lo que lee una persona."""
    by_hand = re.compile(r'replace\("\.", ","\)|:g\}|%\.\d+f|\{(?:n_\w+|len\([\w.]+\))\} (?:filas|líneas|=)')
    found = [f"{path.name}: {line.strip()}" for path in PACKAGE.rglob("*.py") for line in path.read_text().splitlines() if by_hand.search(line)]
    assert found == []
