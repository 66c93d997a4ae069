from .protocol import Server as Server
from .settings import ServeSettings as ServeSettings
from .settings import load_settings as load_settings
from .workers import Assignment as Assignment
from .workers import assemble as assemble
from .workers import open_socket as open_socket
from .workers import serve_forever as serve_forever
