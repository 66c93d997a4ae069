from .cell import describe_parameters as describe_parameters
from .cell import read_parameters as read_parameters
from .cell import read_values as read_values
from .returned import hand_back as hand_back
from .returned import read_returned as read_returned
from .types import read_value as read_value
