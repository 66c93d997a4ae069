"""Dos modelos pequeños, que se entrenan en un instante, para las pruebas a las que les da igual cuál."""
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression, Ridge

from de_jupyter_a_la_tierra.models.freezing import freeze_model
from de_jupyter_a_la_tierra.tables.dictionary import Column


def freeze_small(folder: Path, estimator: Any = None) -> Path:
    """Congela en esa carpeta un modelo que pide `kilos` y contesta quince veces más."""
    X = np.arange(20, dtype="float32").reshape(-1, 1)
    freeze_model(
        (estimator or Ridge(alpha=0)).fit(X, X[:, 0] * 15), folder, X_train=X, X_evaluation=X, metrics={}, name="ración",
        features=[Column(name="kilos", meaning="Peso del gato", unit="kg", minimum=0, maximum=20)],
        target=Column(name="gramos", meaning="Ración diaria", unit="g"), data={"origin": "own"},
    )
    return folder


def freeze_double(folder: Path) -> Path:
    """Congela en esa carpeta un modelo que pide `kilos` y contesta si toca ración doble, con su probabilidad."""
    X = np.arange(40, dtype="float32").reshape(-1, 1)
    freeze_model(
        LogisticRegression().fit(X, (X[:, 0] > 12).astype(int)), folder, X_train=X, X_evaluation=X, metrics={}, name="ración",
        features=[Column(name="kilos", meaning="Peso del gato", unit="kg", minimum=0, maximum=40)],
        target=Column(name="doble", meaning="Si le toca ración doble"), data={"origin": "own"},
    )
    return folder
