from .plugin import TierraEngine as TierraEngine
from .processes import warm_context as warm_context
