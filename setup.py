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
    """Un extra por etapa, cada uno con los anteriores; `dev` los trae todos. Y los de aparte, que solo traen lo suyo."""
    extras, so_far = {}, []
    for stage in [*cfg["extras"].split(), "dev"]:
        so_far = [*so_far, *requirements(f"{stage}_requirements")]
        extras[stage] = so_far
    return extras | {name: requirements(f"{name}_requirements") for name in cfg["apart"].split()}


# Lo que viaja dentro de la rueda sin ser código: nombre dentro del paquete → carpeta de aquí, y qué ficheros.
# conf/base va; conf/local, con lo de cada uno, nunca.
cargo = {
    "conf": ("conf", ["*.yml", "base/*.yml"]),
    "notebooks": ("nbs", ["*_*/*.ipynb"]),
    "templates": ("templates", ["**/*", "**/.*"]),
    "constraints": ("requirements", ["runtime.txt", "bootstrap.txt"]),
}


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
    packages=[*find_packages(include=[package, f"{package}.*"]), *(f"{package}.{name}" for name in cargo)],
    package_dir={f"{package}.{name}": folder for name, (folder, _) in cargo.items()},
    package_data={
        package: ["py.typed", "*.pyi", "*/*.pyi", "locale/*/LC_MESSAGES/*.[mp]o"],
        **{f"{package}.{name}": patterns for name, (_, patterns) in cargo.items()},
    },
    include_package_data=False,
    zip_safe=False,
    entry_points={
        "console_scripts": [f"tierra = {package}.cli.main:main"],
        "papermill.engine": [f"tierra = {package}.engine.plugin:TierraEngine"],
        "jupyter_client.kernel_provisioners": [f"tierra = {package}.engine.client:WarmProvisioner"],
        "tierra.project": [f"catfood = {package}.catfood"],
        # Cada etapa anuncia aquí sus órdenes, con su extra, y sus ganchos: las anteriores no tienen que saber de ella.
        "tierra.commands": [
            f"data = {package}.cli.pipelines:data [libreta]",
            f"run = {package}.cli.pipelines:run [kedro]",
            f"predict = {package}.cli.predict:predict [kedro]",
            f"serve = {package}.cli.serve:serve [api]",
            f"keys = {package}.cli.serve:keys [api]",
            f"monitor = {package}.cli.monitor:monitor [api]",
            f"models = {package}.cli.models:models [mlflow]",
            f"sweep = {package}.cli.models:sweep [mlflow]",
            f"jobs = {package}.cli.jobs:jobs [trabajos]",
            f"stage = {package}.cli.projects:stage [libreta]",
            f"new = {package}.cli.projects:new [libreta]",
        ],
        "tierra.hooks": [
            f"progress = {package}.projects.hooks:ProgressHook",
            f"progress_bar = {package}.projects.hooks:ProgressBarHook",
            f"parameters = {package}.projects.hooks:ParametersHook",
            f"start = {package}.projects.hooks:StartHook",
            f"whole_files = {package}.projects.hooks:WholeFilesHook",
            f"contracts = {package}.projects.contracts:ContractsHook",
            f"tracking = {package}.tracking.hook:TrackingHook",
        ],
        # Y lo que una etapa necesita de otra posterior: quién explica una clase de error, y quién abre los modelos de un registro.
        "tierra.failures": [f"DataValidationError = {package}.projects.contracts:explain_failure [pruebas]"],
        "tierra.models": [f"models = {package}.tracking.registry:resolve_model [mlflow]"],
    },
)
