from .inference import infer_dictionary as infer_dictionary
from .stages import compare_stages as compare_stages
from .stages import land as land
from .stages import raise_stage as raise_stage
from .templates import Landing as Landing
