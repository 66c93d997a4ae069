from .inference import infer_dictionary as infer_dictionary
from .land import compare_stages as compare_stages
from .land import land as land
from .land import raise_stage as raise_stage
from .templates import Landing as Landing
