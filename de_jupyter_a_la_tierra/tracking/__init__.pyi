from .connection import connect as connect
from .connection import settle as settle
from .promotion import promote as promote
from .promotion import rollback as rollback
from .registry import register_model as register_model
from .registry import resolve_model as resolve_model
from .sweeps import run_sweep as run_sweep
