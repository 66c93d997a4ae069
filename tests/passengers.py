"""Una hoja que tiene de todo, escrita como la guardaría su dueño: huecos, fechas, sí o no, categorías, texto, códigos y constantes."""
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

CLASS, AMOUNT = "¿Sobrevive?", "Gasto (€)"  # lo que se predice, según la tarea
USED = ("Clase", "Sexo", "Edad", "Familia", "Tarifa (€)", "Puerto", "Fumador", "Embarque")
UNUSED = ("Expediente", "Nombre", "Naviera")  # un código, un texto libre y una constante


def _hide(values: pd.Series, share: float, word: str, rng: np.random.Generator) -> pd.Series:
    """Quita una parte de los valores y pone en su sitio una palabra, o nada."""
    return values.astype("object").mask(rng.random(len(values)) < share, word)


def build_passengers(
    n: int = 400,  # filas
    task: Literal["classification", "regression"] = "classification",
    seed: int = 7,
) -> pd.DataFrame:  # celdas de texto y números, como se escribirán
    """Los pasajeros de un barco que no existió: el objetivo depende de su sexo, su clase, su edad y su fecha."""
    rng = np.random.default_rng(seed)
    level = rng.choice([0, 1, 2], n, p=[0.25, 0.2, 0.55])
    woman, age, family = rng.random(n) < 0.37, np.clip(rng.normal(30, 14, n), 1, 80).round(1), rng.poisson(0.7, n)
    fare = (rng.lognormal(2.2, 0.5, n) * (3 - level)).round(2)
    day = pd.Timestamp("2019-01-01") + pd.to_timedelta(rng.integers(0, 700, n), unit="D")
    names = [f"{a} {b}, {c}" for a, b, c in zip(rng.choice(["Peña", "Núñez", "Íñigo", "O'Hara"], n), range(n), rng.choice(["Luis", "Ana"], n), strict=True)]
    table = pd.DataFrame(
        {
            "Expediente": np.arange(10_001, 10_001 + n),
            "Nombre": names,
            "Naviera": "Estrella",
            "Clase": np.array(["primera", "segunda", "tercera"])[level],
            "Sexo": np.where(woman, "mujer", "hombre"),
            "Edad": _hide(pd.Series(age), 0.2, "", rng),
            "Familia": family,
            "Tarifa (€)": fare,
            "Puerto": _hide(pd.Series(rng.choice(["Cádiz", "La Coruña", "Vigo"], n)), 0.05, "NA", rng),
            "Fumador": _hide(pd.Series(np.where(rng.random(n) < 0.3, "sí", "no")), 0.1, "", rng),
            "Embarque": _hide(pd.Series(day.strftime("%d/%m/%Y")), 0.08, "", rng),
        }
    )
    late = (day - pd.Timestamp("2019-01-01")).days / 700
    if task == "classification":
        score = 2.6 * woman - 1.1 * level - 0.03 * age + 1.2 * late + rng.logistic(0, 0.7, n)
        return table.assign(**{CLASS: np.where(score > np.quantile(score, 0.6), "sí", "no")})
    amount = 200 + 150 * (2 - level) + 80 * woman + 3 * age + 60 * late + rng.normal(0, 25, n)
    return table.assign(**{AMOUNT: amount.round(2)})


def write_passengers(
    path: Path,  # dónde se escribe
    n: int = 400,
    task: Literal["classification", "regression"] = "classification",
    seed: int = 7,
) -> str:  # el objetivo
    """Escribe la hoja: la de clasificar, como un Excel en español; la de calcular, con comas y en UTF-8."""
    spanish = {"sep": ";", "decimal": ",", "encoding": "cp1252"} if task == "classification" else {}
    table = build_passengers(n, task, seed)
    if spanish:
        table["Edad"] = table["Edad"].astype("str").str.replace(".", ",")
    table.to_csv(path, index=False, **spanish)
    return CLASS if task == "classification" else AMOUNT
