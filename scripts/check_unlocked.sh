#!/bin/sh
# Instala el proyecto con pip y sin candados en un entorno aparte, y prueba el viaje: scripts/check_unlocked.sh [python]
set -eu
cd "$(dirname "$0")/.."
aside=$(mktemp -d)
trap 'rm -rf "$aside"' EXIT INT TERM
export MLFLOW_DISABLE_TELEMETRY=true KEDRO_DISABLE_TELEMETRY=1

"${1:-python3}" -m venv "$aside/venv"
export PATH="$aside/venv/bin:$PATH"
pip install -q --disable-pip-version-check '.[cluster]' pytest pytest-timeout hypothesis nbval nbdime fastcore httpx
pip check
python -VV
pip list --disable-pip-version-check 2>/dev/null | grep -iE '^(ipython|ipykernel|pandas|scikit-learn|kedro|mlflow) '

echo "El viaje, con la rueda y en una carpeta vacía…"
mkdir "$aside/viaje"
cd "$aside/viaje"
tierra data
tierra run
tierra predict data/01_raw/catfood_simulated.csv puntuadas.csv
tierra jobs run entrenar
cd "$OLDPWD"

echo "El motor, los trabajos y sus cuadernos…"
pytest -q tests/engine/test_engine.py tests/jobs/test_jobs.py tests/parameters/test_parameters.py tests/projects/test_pipelines.py
pytest -q --nbval-current-env nbs/2_kedro nbs/6_trabajos --ignore=nbs/2_kedro/00_kedro.ipynb --ignore=nbs/6_trabajos/00_trabajos.ipynb
