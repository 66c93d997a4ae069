"""Lee settings.ini, el único sitio donde se escriben nombre, versión y dependencias."""
from configparser import ConfigParser

from setuptools import find_packages, setup

parser = ConfigParser(delimiters=["="], interpolation=None)
parser.read("settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    author=cfg["author"],
    author_email=cfg["author_email"],
    packages=find_packages(include=[cfg["lib_path"], f"{cfg['lib_path']}.*"]),
    install_requires=cfg["requirements"].split("\n")[1:],
    extras_require={"dev": cfg["dev_requirements"].split("\n")[1:]},
)
