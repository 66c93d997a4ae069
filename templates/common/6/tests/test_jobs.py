"""Los trabajos, ejecutados de verdad."""
import json


def test_every_job_is_listed(call):
    """Los tres trabajos aparecen en la lista."""
    listed = call("tierra", "jobs", "list").stdout
    assert all(name in listed for name in ("entrenar", "predecir", "informe"))


def test_the_training_job_leaves_a_model_and_its_notebook(trained, call):
    """`entrenar` deja un modelo más y la libreta ejecutada, con sus salidas."""
    before = set((trained / "data/06_models").rglob("model.json"))
    call("tierra", "jobs", "run", "entrenar", "-o", "entrenada.ipynb")
    assert len(set((trained / "data/06_models").rglob("model.json")) - before) == 1
    cells = json.loads((trained / "entrenada.ipynb").read_text(encoding="utf-8"))["cells"]
    assert any(cell.get("outputs") for cell in cells)


def test_a_batch_does_each_job(trained, call):
    """Un lote de dos, a la vez y sin estorbarse: cada uno con su libreta y su hoja, y las dos iguales."""
    said = call("tierra", "jobs", "run", "predecir", "--grid", "output=una.csv,otra.csv", "--out", "lote").stdout
    assert "Trabajos hechos: 2," in said and len(list((trained / "lote/notebooks").glob("*.ipynb"))) == 2
    assert (trained / "una.csv").read_bytes() == (trained / "otra.csv").read_bytes()


def test_an_unknown_parameter_is_refused(call):
    """Una errata en el nombre de un parámetro no pasa inadvertida."""
    assert "orgin" in call("tierra", "jobs", "run", "entrenar", "-p", "orgin", "own", code=2).stderr
