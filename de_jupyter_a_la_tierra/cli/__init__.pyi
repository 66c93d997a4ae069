from .main import main as main
from .main import tierra as tierra
