"""For tests, simulations and the curious: a host without processes, a network without sockets.

    host = ModelHost()
    host.on_command("make test", stdout="42 passed", exit_code=0, duration=90)
    world = World(host)
    record = world.drive(...)       # any flow of `sandbox_proto.flows`
    events = world.run(session)     # any `ExecSession`

Nothing here does I/O, and no time passes but the virtual.
"""

from .model_connection import ModelConnection
from .model_host import ModelHost, ScriptedCommand
from .virtual_clock import VirtualClock
from .virtual_host import Peer, VirtualHost
from .world import World

__all__ = [
    "ModelConnection",
    "ModelHost",
    "Peer",
    "ScriptedCommand",
    "VirtualClock",
    "VirtualHost",
    "World",
]
