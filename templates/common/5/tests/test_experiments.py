"""El registro: cada ejecución queda apuntada y su modelo se puede promocionar."""
import json


def test_a_run_leaves_its_model_in_the_registry(trained, call, model_folder):
    """La ficha del modelo dice qué ejecución lo hizo, y el registro lo conoce por su versión."""
    assert (trained / "mlflow.db").is_file()
    assert json.loads((model_folder / "model.json").read_text(encoding="utf-8"))["run_id"]
    assert model_folder.parent.name in call("tierra", "models", "list").stdout


def test_the_first_model_is_promoted_and_used(trained, call):
    """El primero que se promociona es el campeón, y `tierra predict` sabe encontrarlo."""
    call("tierra", "models", "promote")
    assert "★" in call("tierra", "models", "list").stdout
