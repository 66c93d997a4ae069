"""El CatFoodDB simulado se parece al real en lo que el proyecto cuenta de él, con cualquier semilla.

Los objetivos son cifras agregadas de CatFoodDB, rastreado el 2020-03-11 (3165 comidas). Si
`TIERRA_CATFOOD_CSV` nombra ese fichero, la última prueba comprueba que lo siguen siendo.
"""
import os
import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from de_jupyter_a_la_tierra.catfood.columns import CATFOOD, FIGURES, LABEL_FIGURES
from de_jupyter_a_la_tierra.catfood.simulate import simulate_foods
from de_jupyter_a_la_tierra.errors import UsageError

LISTS = ["potential_allergens", "quality_ingredients", "questionable_ingredients"]
LEVELS = [0.05, 0.25, 0.50, 0.75, 0.95]
WET_SHARE = 0.684
PAW_SHARES = {
    "nutrition_paws": [0.083, 0.190, 0.357, 0.277, 0.093],
    "ingredients_paws": [0.149, 0.252, 0.310, 0.224, 0.066],
}
PAWS_BY_TYPE = {"dry": [0.235, 0.449, 0.270, 0.033, 0.012], "wet": [0.012, 0.070, 0.398, 0.389, 0.131]}
DISTINCT_SHARE, TWIN_SHARE = 0.626, 0.531  # juegos de doce cifras distintos; filas con gemela
NO_ASH_SHARE = 0.384
MISSING_SHARE = {"potential_allergens": 0.082, "quality_ingredients": 0.034, "questionable_ingredients": 0.234}
WHISKAS = np.array([[1.7, 76.0, 21.0, 50.0, 84.0]])

QUANTILES = """
dry dma_ash 0 0 2 7 10
dry dma_cals 321.9 353 370 384 410
dry dma_carbs 19 31 36 42 49
dry dma_fat 10 14 18 20 24
dry dma_fiber 2 3 4 6 9
dry dma_prot 32 35 38 42 50
dry ga_ash 0 0 1.8 6.5 9
dry ga_carbs 17.45 27.75 32.5 38 44.01
dry ga_fat 9 13 16 18 21.7
dry ga_fiber 1.8 3 4 5 8.31
dry ga_moist 8 9.4 10 10 12
dry ga_prot 29 32 34 38 45
wet dma_ash 0 0 9 14 18
wet dma_cals 54 67 80 97 114
wet dma_carbs 0 8 15 23 33
wet dma_fat 9 13 20 27 36
wet dma_fiber 2 5 6 7 11
wet dma_prot 38 44 50 55 67
wet ga_ash 0 0 1.9 3 3.5
wet ga_carbs 0 1.5 3 4.5 7
wet ga_fat 1.6 2 4 6 8
wet ga_fiber 0.5 1 1 1.5 2.5
wet ga_moist 76.4 78 79 82 85
wet ga_prot 7.5 9 10 11 14
"""
# Correlaciones de Spearman, triángulo inferior: cada fila, con las anteriores de su tipo.
CORRELATIONS = """
dry dma_ash
dry dma_cals -0.27
dry dma_carbs -0.40 -0.34
dry dma_fat 0.14 0.83 -0.63
dry dma_fiber -0.17 -0.53 0.17 -0.46
dry dma_prot -0.02 0.28 -0.73 0.32 -0.17
dry ga_moist 0.11 -0.33 0.01 -0.16 0.03 0.15
dry nutrition_paws 0.14 0.29 -0.81 0.42 -0.13 0.83 0.04
wet dma_ash
wet dma_cals -0.39
wet dma_carbs -0.56 0.07
wet dma_fat -0.20 0.81 -0.17
wet dma_fiber -0.01 -0.27 0.06 -0.17
wet dma_prot 0.05 -0.45 -0.46 -0.49 -0.11
wet ga_moist 0.10 -0.83 -0.06 -0.48 0.19 0.40
wet nutrition_paws 0.28 -0.17 -0.80 -0.04 -0.10 0.68 0.17
"""


def _read_table(text: str) -> dict[tuple[str, str], list[float]]:
    rows = (line.split() for line in text.split("\n") if line)
    return {(kind, name): [float(value) for value in values] for kind, name, *values in rows}


def _read_foods(raw: pd.DataFrame) -> pd.DataFrame:
    """Los números de la tabla en texto, leídos aparte: esta prueba no depende de la limpieza."""
    foods = raw[list(FIGURES)].apply(lambda text: text.str.replace(r"[%,]|/100g", "", regex=True).astype(float))
    for name in PAW_SHARES:
        foods[name] = raw[name].str.strip("[]").astype(int)
    foods["kind"] = np.where(foods["ga_moist"] >= 50, "wet", "dry")
    foods["twin"] = foods.groupby(list(FIGURES)).ngroup()
    return foods


def _fit_published(foods: pd.DataFrame):
    split = train_test_split(
        foods[list(LABEL_FIGURES)].to_numpy(), foods["nutrition_paws"], test_size=0.33, random_state=42,
        stratify=foods["nutrition_paws"],
    )
    X_train, X_test, y_train, y_test = split
    model = make_pipeline(StandardScaler(), LogisticRegression(solver="newton-cg")).fit(X_train, y_train)
    return model, model.score(X_test, y_test)


@pytest.fixture(scope="module", params=[0, 7, 42], ids="semilla {}".format)
def raw(request) -> pd.DataFrame:
    return simulate_foods(seed=request.param)


@pytest.fixture(scope="module")
def foods(raw) -> pd.DataFrame:
    return _read_foods(raw)


def test_shares(raw, foods):
    assert (foods["kind"] == "wet").mean() == pytest.approx(WET_SHARE, abs=0.02)
    for name, shares in PAW_SHARES.items():
        simulated = foods[name].value_counts(normalize=True).reindex(range(1, 6), fill_value=0)
        assert simulated.tolist() == pytest.approx(shares, abs=0.02), name
    for kind, shares in PAWS_BY_TYPE.items():
        simulated = foods.loc[foods["kind"] == kind, "nutrition_paws"].value_counts(normalize=True).reindex(range(1, 6), fill_value=0)
        assert simulated.tolist() == pytest.approx(shares, abs=0.03), kind
    assert (foods["ga_ash"] == 0).mean() == pytest.approx(NO_ASH_SHARE, abs=0.03)
    for name, share in MISSING_SHARE.items():
        assert (raw[name] == "").mean() == pytest.approx(share, abs=0.03), name


def test_quantiles(foods):
    """El centro, al 12 % del recorrido real (del 5 al 95 %) y las colas, al 20 %; o un punto, si es más."""
    for (kind, name), real in _read_table(QUANTILES).items():
        simulated = foods.loc[foods["kind"] == kind, name].quantile(LEVELS).to_numpy()
        tolerance = np.maximum(1.0, (real[-1] - real[0]) * np.array([0.20, 0.12, 0.12, 0.12, 0.20]))
        assert (abs(simulated - real) <= tolerance).all(), (kind, name, simulated, real)


@pytest.mark.parametrize(("n_rows", "tolerance"), [(3165, 0.20), (30_000, 0.13)])
def test_correlations(n_rows, tolerance):
    foods = _read_foods(simulate_foods(n_rows, seed=7))
    table = _read_table(CORRELATIONS)
    for kind in ("dry", "wet"):
        names = [name for k, name in table if k == kind]
        correlation = foods.loc[foods["kind"] == kind, names].corr("spearman").to_numpy()
        for row, name in enumerate(names):
            assert correlation[row, :row].tolist() == pytest.approx(table[kind, name], abs=tolerance), (kind, name)


def test_twins(foods):
    size = foods.groupby("twin").size()
    assert len(size) / len(foods) == pytest.approx(DISTINCT_SHARE, abs=0.02)
    assert size[size > 1].sum() / len(foods) == pytest.approx(TWIN_SHARE, abs=0.02)
    disagree = foods.groupby("twin")["nutrition_paws"].nunique()[size > 1] > 1
    assert 0.05 < disagree.mean() < 0.16  # en la fuente, 53 de 498


@pytest.mark.parametrize("n_rows", [3165, 10_000])
@pytest.mark.parametrize("seed", range(0, 21, 2))
def test_first_lesson(seed, n_rows):
    model, accuracy = _fit_published(_read_foods(simulate_foods(n_rows, seed)))
    assert 0.79 <= accuracy <= 0.85
    assert model.predict(WHISKAS).item() == 3
    assert model[-1].predict(WHISKAS).item() == 4  # sin escalar


def test_second_lesson(foods):
    forest = RandomForestClassifier(60, random_state=0)
    X, y = foods[list(FIGURES)], foods["nutrition_paws"]
    by_rows = cross_val_score(forest, X, y, cv=StratifiedKFold(5, shuffle=True, random_state=0)).mean()
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    together = cross_val_score(forest, X, y, groups=foods["twin"], cv=folds).mean()
    assert by_rows - together > 0.03


def test_raw_form(raw):
    assert list(raw) == list(CATFOOD.names) and not raw.isna().any().any()
    assert raw.filter(like="ga_").apply(lambda text: text.str.fullmatch(r"\d{1,3}\.\d%")).all().all()
    dry_matter = raw.filter(like="dma_").drop(columns="dma_cals")
    assert dry_matter.apply(lambda text: text.str.fullmatch(r"\d{1,3}%")).all().all()
    assert raw["dma_cals"].str.fullmatch(r"\d{1,3}(,\d{3})*/100g").all()
    assert raw[list(PAW_SHARES)].apply(lambda text: text.str.fullmatch(r"\[[1-5]\]")).all().all()


def test_label_adds_up(foods):
    ga = foods[["ga_ash", "ga_carbs", "ga_fat", "ga_fiber", "ga_moist", "ga_prot"]]
    assert (ga.sum(axis=1).round(1) >= 100).all()
    assert (ga.sum(axis=1).round(1)[foods["ga_carbs"] > 0] == 100).all()
    for name in ("ash", "carbs", "fat", "fiber", "prot"):
        exact = 100 * foods[f"ga_{name}"] / (100 - foods["ga_moist"])
        assert abs(foods[f"dma_{name}"] - exact).max() <= 0.5001
    cals = 8.5 * foods["ga_fat"] + 3.5 * (foods["ga_prot"] + foods["ga_carbs"])
    assert abs(foods["dma_cals"] - cals).max() <= 0.5001


def test_lists_come_from_ingredients(raw):
    for row in raw[["ingredients", *LISTS]].itertuples(index=False):
        ingredients = row.ingredients.split(",")
        assert len(set(ingredients)) == len(ingredients)
        for derived in row[1:]:
            positions = [ingredients.index(item) for item in derived.split(",") if item]
            assert positions == sorted(positions)


def test_ingredient_paws_follow_the_lists(raw, foods):
    counts = raw[LISTS].apply(lambda text: text.str.count(",") + (text != "")).assign(paws=foods["ingredients_paws"])
    correlation = counts.corr("spearman")["paws"]
    assert correlation["quality_ingredients"] > 0.3 and correlation["questionable_ingredients"] < -0.5


def test_any_size_and_seed():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [simulate_foods(n, 3).shape for n in (0, 1, 2, 10)] == [(n, 20) for n in (0, 1, 2, 10)]
    assert simulate_foods(500, 3).equals(simulate_foods(500, 3))
    assert not simulate_foods(500, 3).equals(simulate_foods(500, 4))
    with pytest.raises(UsageError, match="No se pueden simular -1 filas"):
        simulate_foods(-1)


REAL_CSV = os.environ.get("TIERRA_CATFOOD_CSV", "")


@pytest.mark.skipif(not REAL_CSV, reason="TIERRA_CATFOOD_CSV no nombra el CatFoodDB real")
def test_targets_are_the_real_figures():
    raw = pd.read_csv(REAL_CSV, dtype=str, keep_default_na=False)
    foods = _read_foods(raw)
    assert (foods["kind"] == "wet").mean() == pytest.approx(WET_SHARE, abs=5e-4)
    for name, shares in PAW_SHARES.items():
        assert foods[name].value_counts(normalize=True).sort_index().tolist() == pytest.approx(shares, abs=6e-4)
    for kind, shares in PAWS_BY_TYPE.items():
        real = foods.loc[foods["kind"] == kind, "nutrition_paws"].value_counts(normalize=True).sort_index()
        assert real.tolist() == pytest.approx(shares, abs=6e-4)
    size = foods.groupby("twin").size()
    assert len(size) / len(foods) == pytest.approx(DISTINCT_SHARE, abs=6e-4)
    assert size[size > 1].sum() / len(foods) == pytest.approx(TWIN_SHARE, abs=6e-4)
    assert (foods["ga_ash"] == 0).mean() == pytest.approx(NO_ASH_SHARE, abs=6e-4)
    for name, share in MISSING_SHARE.items():
        assert (raw[name] == "").mean() == pytest.approx(share, abs=6e-4)
    for (kind, name), quantiles in _read_table(QUANTILES).items():
        real = foods.loc[foods["kind"] == kind, name].quantile(LEVELS)
        assert real.tolist() == pytest.approx(quantiles, abs=0.006), (kind, name)
    table = _read_table(CORRELATIONS)
    for kind in ("dry", "wet"):
        names = [name for k, name in table if k == kind]
        correlation = foods.loc[foods["kind"] == kind, names].corr("spearman").to_numpy()
        for row, name in enumerate(names):
            assert correlation[row, :row].tolist() == pytest.approx(table[kind, name], abs=0.006)
    assert _fit_published(foods)[1] == pytest.approx(856 / 1045)
