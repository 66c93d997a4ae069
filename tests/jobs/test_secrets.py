"""Lo que no se escribe en ningún sitio, dónde se ejecuta un cuaderno y qué se reintenta: por la terminal, de una vez."""
import nbformat
from nbformat.v4 import new_code_cell, new_notebook

from de_jupyter_a_la_tierra.jobs.ledger import read_ledger

SECRET = "hunter2-no-se-ve"
PARAMETERS = '# cwd: notebook\nn: int = 1  # un número\ntoken: str = ""  # con qué se entra, secreto'
SOURCE = """
import beside
from de_jupyter_a_la_tierra.parameters.returned import hand_back

print("entro con", token)
hand_back(long=len(token), token=token, told=beside.TOLD)
assert n != 2, f"no puede ser {token}"
"""


def test_a_secret_is_used_and_written_nowhere(tmp_path, tierra, monkeypatch):
    """El cuaderno lo recibe, y no está en ningún fichero ni en lo que se dice; junto a ella está su módulo, y su assert no se reintenta."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/beside.py").write_text("TOLD = 'al lado'\n")
    notebook = new_notebook(cells=[new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), new_code_cell(SOURCE)])
    notebook.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "python3"}
    nbformat.write(notebook, tmp_path / "sub/door.ipynb")
    monkeypatch.setenv("TIERRA_SECRET_TOKEN", SECRET)
    order = ("jobs", "run", "sub/door.ipynb", "--grid", "n=1,2", "--out", "lote", "--workers", "1", "--retries", "2")
    done = tierra(*order, cwd=tmp_path)
    assert done.returncode == 1 and "Un assert no se reintenta" in done.stderr, done.stderr
    good, bad = read_ledger(tmp_path / "lote")
    assert good.returned == {"long": len(SECRET), "token": "•••", "told": "al lado"} and bad.attempts == 1
    assert good.parameters == {"n": 1} and "no puede ser •••" in bad.error
    loose = tierra("jobs", "run", "sub/door.ipynb", "-o", "one.ipynb", cwd=tmp_path)
    assert loose.returncode == 0 and "entro con •••" in loose.stdout
    monkeypatch.setenv("TIERRA_SECRET_TOKEN", f"otro-{SECRET}")
    assert "y 1 ya lo estaban" in tierra(*order, cwd=tmp_path).stdout  # otra contraseña no es otro trabajo
    refused = tierra("jobs", "run", "sub/door.ipynb", "-p", "token=x", cwd=tmp_path)
    assert refused.returncode == 2 and "TIERRA_SECRET_TOKEN" in refused.stderr
    for said in (done, loose):
        assert SECRET not in said.stdout + said.stderr
    leaks = [path for path in tmp_path.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert not leaks
