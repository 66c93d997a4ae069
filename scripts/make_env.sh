#!/bin/sh
# Prepara .venv con los candados de requirements/: scripts/make_env.sh runtime|dev
# Es idempotente: una marca por candado dice lo que ya está puesto; `dev` incluye `runtime` y no se rebaja.
set -eu
cd "$(dirname "$0")/.."
kind=$1
venv=.venv

is_recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
is_fresh() { [ -f "$venv/.$1" ] && [ -z "$(find "requirements/$1.txt" -newer "$venv/.$1")" ]; }

find_python() {
    for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11; do
        if is_recent "$candidate"; then echo "$candidate"; return; fi
    done
    echo "Hace falta Python 3.11 o posterior y no se encuentra; instálalo o dilo así: make PYTHON=/ruta/a/python3" >&2
    exit 1
}

ensure_venv() {
    "$1" -c 'import ensurepip, venv' 2>/dev/null && return
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        echo "Falta el módulo venv: se instala python3-venv…"
        apt-get install -qq -y python3-venv >/dev/null 2>&1 || { apt-get update -qq && apt-get install -qq -y python3-venv >/dev/null; }
    else
        echo "A este Python le falta el módulo venv. Instálalo y repite: sudo apt-get install python3-venv" >&2
        exit 1
    fi
}

# Un entorno lleva dentro, escrita, la carpeta en la que se creó: si el proyecto se copia o se muda, ya no es el suyo.
# Si .venv es un enlace, lo que cuenta es adónde lleva.
if [ -d "$venv" ]; then
    home=$(cd "$venv" && pwd -P)
    if [ -s "$venv/.home" ] && [ "$(cat "$venv/.home")" != "$home" ]; then
        echo "El entorno de $venv se creó en otra carpeta, «$(cat "$venv/.home")»: se rehace aquí."
        rm -rf "$venv"
    elif [ ! -s "$venv/.home" ] && ! grep -qsF "$home" "$venv/bin/activate"; then
        echo "El entorno de $venv se creó en otra carpeta: se rehace aquí."
        rm -rf "$venv"
    fi
fi

# Los certificados, los del sistema: en muchas redes hay una autoridad propia. pip los usa solo desde la 24.2.
export UV_SYSTEM_CERTS="${UV_SYSTEM_CERTS:-1}"

find_certificates() {
    "$1" -c '
import os, ssl, pip
paths = ssl.get_default_verify_paths()
old = tuple(map(int, pip.__version__.split(".")[:2])) < (24, 2)
full = paths.cafile or (paths.capath if paths.capath and os.listdir(paths.capath) else "")
print(full if old else "")' 2>/dev/null || true
}

if ! is_recent "$venv/bin/python" || [ ! -x "$venv/bin/uv" ]; then
    python=$(find_python)
    ensure_venv "$python"
    echo "Se crea $venv con $("$python" --version)…"
    "$python" -m venv --clear "$venv"
    if [ -z "${PIP_CERT:-}${REQUESTS_CA_BUNDLE:-}" ] && ! "$venv/bin/python" -m pip config list | grep -q '\.cert='; then
        certificates=$(find_certificates "$venv/bin/python")
        if [ -n "$certificates" ]; then export PIP_CERT="$certificates"; fi
    fi
    "$venv/bin/python" -m pip install -q --disable-pip-version-check --require-hashes -r requirements/bootstrap.txt
fi
[ -s "$venv/.home" ] || (cd "$venv" && pwd -P) > "$venv/.home"

# En una terminal se ve cuánto va; en otro sitio, solo las líneas de aquí.
if [ -t 2 ]; then quiet=; else quiet=-q; fi
uv() { "$venv/bin/uv" "$@" $quiet --python "$venv/bin/python"; }

# setuptools se pierde si hay llaves en la ruta de su Python: entonces trabaja en otro, que uv le prepara aparte.
case $(pwd) in
    *[{}]*) apart="--build-constraints requirements/bootstrap.txt" ;;
    *) apart=--no-build-isolation ;;
esac

if ! is_fresh dev && { [ "$kind" = dev ] || ! is_fresh runtime; }; then
    echo "Se instalan las dependencias de requirements/$kind.txt: casi 1 GB, y la primera vez hay que bajarlo…"
    start=$(date +%s)
    # setuptools lo trajo pip. Las pruebas crean proyectos sin red, que lo sacan de la caché de uv: que lo guarde también él.
    if [ "$kind" = dev ]; then again="--reinstall-package setuptools"; else again=; fi
    uv pip install --require-hashes $apart $again -r "requirements/$kind.txt"
    echo "Instaladas en $(($(date +%s) - start)) s."
    rm -f "$venv/.project"
    touch "$venv/.$kind"
fi

# El propio proyecto, editable: se repite si cambian sus metadatos.
if [ ! -f "$venv/.project" ] || [ -n "$(find settings.ini setup.py pyproject.toml -newer "$venv/.project")" ]; then
    uv pip install --no-deps $apart -e .
    rm -rf ./*.egg-info  # desde esta carpeta taparía los metadatos recién instalados con los de antes
    touch "$venv/.project"
fi
