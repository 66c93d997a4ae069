from .main import StageCommands as StageCommands
from .main import tierra as tierra
