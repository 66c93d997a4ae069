from .protocol import open_socket as open_socket
from .protocol import run_server as run_server
from .recording import Recorder as Recorder
from .recording import build_recorder as build_recorder
from .settings import ServeSettings as ServeSettings
from .settings import load_settings as load_settings
