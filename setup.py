"""Lee settings.ini, el único sitio donde se escriben nombre, versión, dependencias y extras."""
import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

parser = ConfigParser(delimiters=["="], interpolation=None)
parser.read("settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]
package = cfg["lib_path"]


def requirements(key: str) -> list[str]:
    """Devuelve las dependencias de una clave de settings.ini, una por línea."""
    return cfg.get(key, "").split("\n")[1:]


def cumulative_extras() -> dict[str, list[str]]:
    """Un extra por etapa, cada uno con los anteriores; `dev` los trae todos."""
    extras, so_far = {}, []
    for stage in [*cfg["extras"].split(), "dev"]:
        so_far = [*so_far, *requirements(f"{stage}_requirements")]
        extras[stage] = so_far
    return extras


def long_description() -> str:
    """El README con sus enlaces relativos convertidos en enlaces al repositorio."""
    base = f"{cfg['git_url']}/raw/{cfg['branch']}/"
    text = Path("README.md").read_text(encoding="utf-8") if Path("README.md").exists() else cfg["description"]
    text = re.sub(r'(!\[[^\]]*\]\(|src=")(?!https?:)', rf"\g<1>{base}", text)
    return re.sub(r'(\]\(|href=")(?!https?:|#|mailto:)', rf"\g<1>{base.replace('/raw/', '/blob/')}", text)


setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=long_description(),
    long_description_content_type="text/markdown",
    keywords=cfg["keywords"].split(),
    author=cfg["author"],
    author_email=cfg["author_email"],
    license="Apache-2.0",
    license_files=["LICENSE"],
    url=cfg["git_url"],
    project_urls={
        "Documentación": cfg["doc_host"] + cfg["doc_baseurl"],
        "Cambios": f"{cfg['git_url']}/blob/{cfg['branch']}/CHANGELOG.md",
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Framework :: Jupyter",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Natural Language :: Spanish",
        "Operating System :: MacOS",
        "Operating System :: POSIX :: Linux",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13)),
        "Topic :: Scientific/Engineering",
    ],
    python_requires=f">={cfg['min_python']}",
    install_requires=requirements("requirements"),
    extras_require=cumulative_extras(),
    # conf/base y conf/logging.yml viajan dentro de la rueda; conf/local, con lo de cada uno, nunca.
    packages=[*find_packages(include=[package, f"{package}.*"]), f"{package}.conf"],
    package_dir={f"{package}.conf": "conf"},
    package_data={package: ["locale/*/LC_MESSAGES/*.[mp]o"], f"{package}.conf": ["*.yml", "base/*.yml"]},
    include_package_data=False,
    zip_safe=False,
    entry_points={
        "console_scripts": [f"tierra = {package}.cli:main"],
        "tierra.project": [f"catfood = {package}.catfood"],
    },
)
