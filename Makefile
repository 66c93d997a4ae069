# De Jupyter a la Tierra. `make` a secas enseña los objetivos.
# Nada hace falta antes: cada objetivo prepara .venv con los candados de requirements/ si aún no está.
.DEFAULT_GOAL := help
SHELL := /bin/sh

# El PATH de quien llama: con él se sabe si en su terminal hay una orden «tierra», y si no, se le dice con su ruta.
TERMINAL_PATH := $(or $(TIERRA_PATH),$(PATH))
run serve job data: export TIERRA_PATH = $(TERMINAL_PATH)

# Los procesos que arranquen los cuadernos también deben ver las órdenes de .venv. Y que Python guarde lo que
# compila, aunque el entorno diga que no: aquí arrancan muchos procesos, y compilar otra vez es la mitad de lo que tardan.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
unexport VIRTUAL_ENV PYTHONHOME PYTHONPATH PYTHONDONTWRITEBYTECODE

# Ni MLflow ni Kedro ni onnxruntime llaman a casa desde aquí.
export MLFLOW_DISABLE_TELEMETRY := true
export KEDRO_DISABLE_TELEMETRY := 1
export ORT_DISABLE_TELEMETRY := 1

# Pruebas a la vez: en dos núcleos caben tres, que muchas solo esperan.
JOBS ?= 3
HOST ?= 127.0.0.1
PORT ?= 8000
UI_PORT ?= 5000
WHISKAS = {"dma_ash":1.7,"dma_cals":76,"dma_carbs":21,"dma_prot":50,"ga_moist":84}
NO_NETWORK = python scripts/offline.py
LOCK = uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate -q $(LOCK_FLAGS)

.PHONY: help env env-dev run serve ui job test test-long test-papermill test-all data docs readme export update clean-nbs check lint hooks jupyter-hook lab viz dist lock clean

help: ## Enseña esta ayuda
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env:
	@scripts/make_env.sh runtime

env-dev:
	@scripts/make_env.sh dev

run: env ## Hace el viaje entero: entorno, datos simulados, pipelines y resultado
	@tierra data
	@tierra run
	@echo
	@echo "Lo siguiente, cada cosa en su terminal:"
	@echo "  make ui$(if $(filter-out 5000,$(UI_PORT)), UI_PORT=$(UI_PORT))"
	@echo "      los experimentos, en http://$(HOST):$(UI_PORT)"
	@echo "  make serve$(if $(filter-out 8000,$(PORT)), PORT=$(PORT))"
	@echo "      la API, en http://$(HOST):$(PORT)/docs; para preguntarle por una comida:"
	@echo '  curl -s http://$(HOST):$(PORT)/predict_score -d '"'"'$(WHISKAS)'"'"
	@echo "Y para tener a mano la orden «tierra», activa el entorno en tu terminal:"
	@echo "  . .venv/bin/activate"

serve: env ## Sirve el último modelo en http://127.0.0.1:8000 (PORT=… para otro puerto)
	@tierra serve --host $(HOST) --port $(PORT)

ui: env ## Abre los experimentos de MLflow en http://127.0.0.1:5000 (UI_PORT=… para otro puerto)
	@python -c 'from de_jupyter_a_la_tierra.tracking.connection import settle; settle(".")'
	@mlflow ui --workers 1 --host $(HOST) --port $(UI_PORT)

job: env ## Corre un cuaderno como trabajo: make job NAME=entrenar
	@tierra jobs $(if $(NAME),run $(NAME),list)

# Las pruebas ya van en paralelo: un hilo de cálculo por proceso, o se estorban unos a otros. Y van sin red.
# nbval ejecuta los cuadernos y compara sus salidas; nbdev_test, que solo los ejecuta, va con las largas, y sin recolector:
# en los primeros 3.11, si pasa en medio de un `compile`, este falla (python/cpython#106905).
test test-long: export OMP_NUM_THREADS := 1
test test-long: export OPENBLAS_NUM_THREADS := 1
test: env-dev ## Pasa las pruebas: cuadernos, paquete, rueda, API, MLflow, trabajos y repositorio
	@tierra data >/dev/null
	@$(NO_NETWORK) python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(PYTEST_FLAGS)

test-long: env-dev ## Las pruebas largas: capítulos, paridad, cada etapa y proyecto nuevo en un entorno limpio, y el README con pip
	@tierra data >/dev/null
	@echo "Los asertos de los cuadernos (nbdev_test)…"
	@$(NO_NETWORK) python -c 'import gc; gc.disable(); from nbdev.test import nbdev_test; nbdev_test()' --n_workers $(JOBS)
	@$(NO_NETWORK) python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "long and not network" $(PYTEST_FLAGS)
	@echo "Lo que hace quien instala con pip, que es lo único que necesita red…"
	@python -m pytest tests -m network $(PYTEST_FLAGS)

test-papermill: env-dev ## Las pruebas de papermill, las suyas, con nuestro motor (hace falta red; sin ella lo dice y se salta)
	@python scripts/run_papermill_tests.py

test-all: test test-long test-papermill ## Todas las pruebas

data: env ## Escribe los datos simulados en data/01_raw (ORIGIN=real trae los de verdad)
	@tierra data $(if $(filter real,$(ORIGIN)),--real)

docs: env-dev ## Construye el sitio en _docs
	@python scripts/build_docs.py

readme: env-dev ## Escribe README.md a partir de nbs/index.ipynb
	@python scripts/build_readme.py

export: env-dev ## Exporta los cuadernos al paquete, sin pisar lo editado en él (FORCE=1 lo pisa)
	@python scripts/export_notebooks.py $(if $(FORCE),--force)

update: env-dev ## Lleva a los cuadernos lo que se editó en el paquete (nbdev_update)
	@python scripts/export_notebooks.py --update

clean-nbs: env-dev ## Limpia los cuadernos: metadatos, y las salidas de los trabajos
	@python scripts/clean_notebooks.py

check: env-dev ## Exporta, limpia, revisa y prueba una sola cosa y lo que la importa: make check NB=nbs/…/x.ipynb (ALONE=1, solo ella)
	@$(if $(NB),,echo "Di cuál: make check NB=nbs/2_kedro/01_errors.ipynb" >&2; exit 2)
	@python scripts/check_one.py $(if $(ALONE),--alone) --jobs $(JOBS) "$(NB)"

lint: env-dev ## Comprueba las capas, el estilo y los tipos
	@lint-imports --no-logo
	@ruff check
	@mypy

# Los ganchos de nbdev_install_hooks (fusionar, limpiar al guardar y dar por fiables los cuadernos), sin tocar ~/.jupyter.
hooks: env-dev jupyter-hook ## Instala los ganchos de git y el de JupyterLab: cuadernos limpios, enteros y exportados
	@git config --local include.path ../.gitconfig
	@pre-commit install

jupyter-hook: env-dev
	@mkdir -p .venv/etc/jupyter
	@ln -sf ../../../scripts/jupyter_server_config.py .venv/etc/jupyter/

lab: env-dev jupyter-hook ## Abre los cuadernos en JupyterLab
	@jupyter lab nbs $$([ "$$(id -u)" -ne 0 ] || echo --allow-root)

viz: env-dev ## Dibuja los pipelines con Kedro-Viz en _viz/index.html
	@python scripts/build_viz.py

dist: env-dev ## Construye la rueda y el paquete fuente en dist/ y los comprueba
	@rm -rf build dist && python -m build -q --no-isolation && rm -rf build
	@twine check --strict dist/*

lock: env-dev ## Rehace los candados (LOCK_FLAGS=--upgrade sube las versiones)
	@UV_CUSTOM_COMPILE_COMMAND="make lock" && export UV_CUSTOM_COMPILE_COMMAND && \
	$(LOCK) pyproject.toml --extra dev -c requirements/limits.in -o requirements/dev.txt && \
	$(LOCK) pyproject.toml --extra cluster -c requirements/dev.txt -o requirements/runtime.txt && \
	$(LOCK) pyproject.toml --extra servir -c requirements/dev.txt -o requirements/servir.txt && \
	$(LOCK) requirements/bootstrap.in -c requirements/dev.txt -o requirements/bootstrap.txt

clean: ## Borra lo que se puede rehacer: entorno, sitio, paquetes y cachés (los datos, no)
	@rm -rf .venv _docs _proc _viz .viz build dist *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache .import_linter_cache
