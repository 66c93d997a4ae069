"""Fundir tres versiones de un fichero: con git, sin git, con nbdime y sin él, nunca se pierde lo de nadie."""
import json
import random
import sys

import nbformat
import pytest

from de_jupyter_a_la_tierra.landing.merge import hash_text, merge_notebooks, merge_texts, update_files


def edit(lines: list[str], seed: int) -> str:
    """Un texto con unas cuantas líneas cambiadas, quitadas o añadidas, siempre distintas."""
    rng, lines = random.Random(seed), list(lines)
    for number in range(rng.randint(1, 3)):
        place = rng.randrange(len(lines))
        lines[place : place + rng.randint(0, 1)] = rng.choice([[], [f"{seed}.{number}\n"]])
    return "".join(lines)


@pytest.mark.parametrize("seed", range(40))
def test_merge_keeps_both_changes(seed):
    """Lo que se funde es lo mismo se mire desde donde se mire, y lleva las líneas nuevas de los dos y solo las suyas."""
    lines = [f"línea {number}\n" for number in range(20)]
    base, theirs, ours = "".join(lines), edit(lines, seed), edit(lines, 1000 + seed)
    merged = merge_texts(base, theirs, ours)
    assert merged == merge_texts(base, ours, theirs)
    assert merge_texts(base, theirs, base) == merge_texts(base, base, theirs) == merge_texts(base, theirs, theirs) == theirs
    if merged is not None:
        before, *after = (set(text.splitlines()) for text in (base, theirs, ours))
        assert set(merged.splitlines()) == (after[0] & after[1]) | (after[0] - before) | (after[1] - before)


@pytest.mark.parametrize("theirs", ["uno\ndos\ntres", "UNO\r\ndos\r\ntres\r\n", "ñ\udcff\n"], ids=["sin salto", "CRLF", "Latin-1"])
def test_their_bytes_survive(theirs):
    """Ni el salto que falta al final ni los de Windows ni lo que no es UTF-8 cambian si no los hemos tocado."""
    assert merge_texts("uno\n", theirs, "uno\n") == theirs


def test_a_binary_file_is_not_merged():
    """Lo que no es texto no se funde."""
    assert merge_texts("a\0\nb\nc\n", "A\0\nb\nc\n", "a\0\nb\nC\n") is None


def test_without_git_ours_is_set_aside(tmp_path, monkeypatch):
    """Sin git no se adivina: lo suyo se queda como está y lo nuestro, al lado."""
    monkeypatch.setenv("PATH", str(tmp_path))
    base, theirs, ours = "uno\ndos\ntres\n", "UNO\ndos\ntres\n", "uno\ndos\nTRES\n"
    (tmp_path / "Makefile").write_text(theirs)
    (change,) = update_files(tmp_path, {"Makefile": base}, {"Makefile": ours}, {"Makefile": hash_text(base)})
    assert change.action == "aside"
    assert [(tmp_path / name).read_text() for name in ("Makefile", "Makefile.tierra")] == [theirs, ours]


def notebook(*sources: str, **metadata: object) -> str:
    """Un cuaderno con esas celdas, como lo escribe Jupyter."""
    cells = [nbformat.v4.new_code_cell(source, id=f"c{number}") for number, source in enumerate(sources)]
    return nbformat.writes(nbformat.v4.new_notebook(cells=cells, metadata=metadata)) + "\n"


BASE = notebook("leer()", "limpiar()", "pintar()")


def test_notebooks_merge_cell_by_cell():
    """Cada cual cambió una celda y añadió la suya: quedan las cuatro cosas, y el cuaderno es válido."""
    theirs = notebook("leer(todo)", "limpiar()", "pintar()", "mía()")
    ours = notebook("leer()", "limpiar(más)", "pintar()")
    merged = merge_notebooks(BASE, theirs, ours)
    nbformat.validate(json.loads(merged))
    sources = [cell.source for cell in nbformat.reads(merged, as_version=4).cells]
    assert sources == ["leer(todo)", "limpiar(más)", "pintar()", "mía()"]


def test_running_a_notebook_is_no_disagreement():
    """Haberlo ejecutado no impide que llegue lo nuevo."""
    theirs = json.loads(BASE)
    theirs["cells"][0] |= {"execution_count": 7, "outputs": [{"output_type": "stream", "name": "stdout", "text": ["hola\n"]}]}
    merged = json.loads(merge_notebooks(BASE, json.dumps(theirs), notebook("leer(bien)", "limpiar()", "pintar()")))
    assert merged["cells"][0]["source"] == ["leer(bien)"]
    assert merged["cells"][0]["outputs"][0]["text"] == ["hola\n"]


@pytest.mark.parametrize("has_nbdime", [True, False])
def test_the_same_cell_twice_is_a_disagreement(has_nbdime, monkeypatch):
    """La misma celda cambiada por los dos no se funde, esté o no nbdime; y un cuaderno roto, tampoco."""
    if not has_nbdime:
        monkeypatch.setitem(sys.modules, "nbdime", None)
    assert merge_notebooks(BASE, notebook("mío", "limpiar()", "pintar()"), notebook("tuyo", "limpiar()", "pintar()")) is None
    assert merge_notebooks(BASE, "{", notebook("leer()")) is None
    assert json.loads(merge_notebooks(BASE, notebook("mío", "limpiar()", "pintar()"), BASE))["cells"][0]["source"] == ["mío"]


def test_what_only_they_changed_keeps_its_bytes():
    """Si de lo nuestro no cambia nada, lo suyo no se reescribe, lo escribiera como lo escribiera."""
    theirs = json.dumps(json.loads(notebook("mío", "limpiar()", "pintar()")), indent=4)
    assert merge_notebooks(BASE, theirs, BASE) == theirs
