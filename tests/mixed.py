"""Un modelo pequeño con columnas de todas las clases, para las pruebas que lo sirven, lo registran o puntúan con él."""
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from de_jupyter_a_la_tierra.models.features import featurize, list_inputs
from de_jupyter_a_la_tierra.models.freezing import freeze_model
from de_jupyter_a_la_tierra.tables.dictionary import Column

COLUMNS = [
    Column(name="age", meaning="Edad", unit="años", minimum=0, maximum=120, required=False),
    Column(name="fare", meaning="Pasaje", unit="£", minimum=0),
    Column(name="port", meaning="Puerto", kind="category", labels=("Cádiz", "Palos", "Vigo"), required=False, missing=("s/d",)),
    Column(name="class", meaning="Clase", kind="category", labels=("1", "2", "3")),
    Column(name="alone", meaning="Viaja sin nadie", kind="boolean", labels=("no", "sí")),
    Column(name="saved", meaning="Se salvó otra vez", kind="boolean", labels=("no", "sí"), required=False),
    Column(name="sailed", meaning="Cuándo zarpó", kind="date", date_format="%d/%m/%Y"),
    Column(name="seen", meaning="Visto por última vez", kind="date", date_format="%Y-%m-%d %H:%M", required=False),
    Column(name="watch", meaning="A qué hora entró de guardia", kind="date", date_format="%H:%M", required=False),
    Column(name="notes", meaning="Lo que anotó el sobrecargo", kind="text", required=False),
]
NAMES = [column.name for column in COLUMNS]
TARGET = Column(name="survived", meaning="Llegó", kind="category", labels=("no", "sí"))
VOYAGE = {
    "age": 30, "fare": 12.5, "port": "Vigo", "class": "3", "alone": True, "saved": None,
    "sailed": "1912-04-10", "seen": "1912-04-14T23:40:00", "watch": "04:30:00", "notes": "lleva perro",
}
ISO = {"sailed": "%Y-%m-%d", "seen": "%Y-%m-%dT%H:%M:%S", "watch": "%H:%M:%S"}  # cómo viaja cada fecha


def simulate_voyages(n_rows: int = 600, seed: int = 0) -> pd.DataFrame:
    """Viajes de mentira, ya con sus tipos, y si llegaron."""
    rng = np.random.default_rng(seed)
    start = np.datetime64("1912-04-01T00:00", "us")
    rows = pd.DataFrame(
        {
            "age": np.where(rng.random(n_rows) < 0.2, np.nan, rng.integers(1, 80, n_rows)),
            "fare": rng.gamma(2, 12, n_rows).round(2),
            "port": rng.choice(["Cádiz", "Palos", "Vigo", ""], n_rows, p=[0.3, 0.2, 0.45, 0.05]),
            "class": rng.choice(["1", "2", "3"], n_rows),
            "alone": rng.integers(0, 2, n_rows).astype(float),
            "saved": rng.choice([0.0, 1.0, np.nan], n_rows),
            "sailed": start + rng.integers(0, 60, n_rows).astype("m8[D]"),
            "seen": start + rng.integers(0, 80_000, n_rows).astype("m8[m]"),
            "watch": np.datetime64("1970-01-01", "us") + 15 * rng.integers(0, 96, n_rows).astype("m8[m]"),
            "notes": rng.choice(["", "lleva perro", "lleva gato", "sin equipaje", "perro y gato"], n_rows),
        }
    ).astype({"port": "str", "class": "str", "notes": "str"})
    for name in ("seen", "watch"):
        rows.loc[rng.random(n_rows) < 0.1, name] = pd.NaT
    odds = (rows["class"] == "1") * 2.0 - (rows["port"] == "Palos") * 1.5 + rows["alone"] + (rows["notes"] == "lleva perro") - 1
    rows["survived"] = np.where(odds + rng.normal(0, 0.7, n_rows) > 0, "sí", "no")
    return rows


def as_json(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Unas filas con sus tipos, como las mandaría un programa: `null` donde falta y las fechas como manda ISO."""
    sent = rows[NAMES].astype(object)
    for name, form in ISO.items():
        sent[name] = rows[name].dt.strftime(form)
    sent = sent.astype(object).where(rows[NAMES].notna() & (rows[NAMES] != ""), None)
    return [{name: bool(v) if name in ("alone", "saved") and v is not None else v for name, v in row.items()} for row in sent.to_dict("records")]


def write_voyages(rows: pd.DataFrame, path: Path) -> None:
    """Escribe unos viajes como los escribiría una persona: fechas con barras, síes, huecos y alguna palabra por hueco."""
    sheet = rows.copy()
    sheet["port"] = sheet["port"].replace("", "s/d")
    for name in ("alone", "saved"):
        sheet[name] = sheet[name].map({0.0: "no", 1.0: "sí"})
    sheet["sailed"] = sheet["sailed"].dt.strftime("%d/%m/%Y")
    sheet["seen"] = sheet["seen"].dt.strftime("%Y-%m-%d %H:%M")
    sheet["watch"] = sheet["watch"].dt.strftime("%H:%M")
    sheet.to_csv(path, index=False)


def fit_voyages(rows: pd.DataFrame, columns: list[Column] = COLUMNS):
    """Un `Pipeline` que mira todas esas columnas."""
    inputs = list_inputs(columns)
    texts = [each.name for each in inputs if each.kind == "text" and each.name != "notes"]
    numbers = [each.name for each in inputs if each.kind == "number"]
    notes = [("notes", TfidfVectorizer(lowercase=False), "notes")] if any(each.name == "notes" for each in inputs) else []
    steps = ColumnTransformer(
        [
            ("numbers", make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), numbers),
            ("levels", OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=5, sparse_output=False), texts),
            *notes,
        ],
        sparse_threshold=0,
    )
    X = featurize(rows[[column.name for column in columns]], columns)
    return make_pipeline(steps, LogisticRegression(max_iter=2000)).fit(X, rows["survived"])


def freeze_voyages(folder: Path) -> Path:
    """Entrena y congela el modelo."""
    rows = simulate_voyages()
    freeze_model(
        fit_voyages(rows), folder, X_train=rows[NAMES], X_evaluation=simulate_voyages(100, 1)[NAMES], features=COLUMNS,
        target=TARGET, metrics={}, data={"origin": "own"}, name="voyages",
    )
    return folder
