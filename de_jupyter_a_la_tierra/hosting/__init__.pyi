from .protocol import open_socket as open_socket
from .protocol import run_server as run_server
