from .keys import Gatekeeper as Gatekeeper
from .keys import open_gate as open_gate
from .protocol import open_socket as open_socket
from .protocol import run_server as run_server
from .settings import ServeSettings as ServeSettings
from .settings import load_settings as load_settings
