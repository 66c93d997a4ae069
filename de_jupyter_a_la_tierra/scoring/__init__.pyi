from .sheets import open_sheet as open_sheet
from .stream import score_files as score_files
