"""El ejemplo y los proyectos que escribe `tierra new` entrenan con las mismas funciones, y por filas."""
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator

from de_jupyter_a_la_tierra.catfood.model import predict_scores
from de_jupyter_a_la_tierra.models.training import fit_estimator, predict_rows

TEMPLATES = Path(__file__).parents[2] / "templates/new/2/nbs/2_kedro"
SEEN: list[tuple[str, bool]] = []


class Witness(BaseEstimator):
    """Un modelo que solo apunta cómo le llegan las filas."""

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def fit(self, X: np.ndarray, y: np.ndarray) -> "Witness":
        SEEN.append((X.dtype.name, X.flags["C_CONTIGUOUS"]))
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        SEEN.append((X.dtype.name, X.flags["C_CONTIGUOUS"]))
        return np.ones(len(X), dtype=int)


def test_rows_are_contiguous_when_training_and_when_predicting_also_in_the_example() -> None:
    by_columns = pd.DataFrame(np.asfortranarray(np.ones((9, 4))), columns=list("abcd"))[["d", "a", "b"]]
    assert not np.asarray(by_columns, dtype=np.float32).flags["C_CONTIGUOUS"]
    SEEN.clear()
    witness = fit_estimator(by_columns, by_columns["a"], {"type": "witness"}, {"witness": [Witness()]})
    predict_rows(witness, by_columns)
    predict_scores(witness, by_columns)
    assert SEEN == [("float32", True)] * 3


@pytest.mark.parametrize("chapter", ["03_model", "04_training"])
def test_a_new_project_only_has_the_wiring(chapter: str) -> None:
    text = (TEMPLATES / f"{chapter}.py.jinja").read_text(encoding="utf-8")
    assert "models.training import" in text
    assert not re.findall(r"np\.|evaluation_mask\(table|hash_rows\(training", text)


def test_a_new_project_builds_its_pipeline_in_the_open() -> None:
    text = (TEMPLATES / "03_model.py.jinja").read_text(encoding="utf-8")
    for step in ("ColumnTransformer(", "SimpleImputer(", "OneHotEncoder(", "TargetEncoder(", "TfidfVectorizer(lowercase=False"):
        assert step in text
