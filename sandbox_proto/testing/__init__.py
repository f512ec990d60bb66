"""For tests, simulations and the curious: a host without processes, a network without sockets.

    host = ModelHost()
    host.on_command("make test", stdout="42 passed", exit_code=0, duration=90)
    world = World(host)
    record = world.drive(...)       # any flow of `sandbox_proto.flows`
    events = world.run(session)     # any `ExecSession`

Nothing here does I/O, and no time passes but the virtual.
"""

from .faults import (
    Delay,
    Drop,
    Faults,
    HalfOpen,
    LoseExit,
    NamedFault,
    Refuse,
    Reload,
    SlowConnect,
    Split,
    Unavailable,
    disconnect_at_every_byte,
    disconnect_at_every_frame,
)
from .model_commands import CommandRun, ScriptedCommand
from .model_connection import ModelConnection
from .model_files import ModelFiles
from .model_host import ModelHost
from .model_tunnel import echo
from .virtual_clock import VirtualClock
from .virtual_host import Peer, VirtualHost
from .virtual_link import Crossing, Cut, End
from .virtual_wires import Trouble, VirtualWires
from .world import World

__all__ = [
    "CommandRun",
    "Crossing",
    "Cut",
    "Delay",
    "Drop",
    "End",
    "Faults",
    "HalfOpen",
    "LoseExit",
    "ModelConnection",
    "ModelFiles",
    "ModelHost",
    "NamedFault",
    "Peer",
    "Refuse",
    "Reload",
    "ScriptedCommand",
    "SlowConnect",
    "Split",
    "Trouble",
    "Unavailable",
    "VirtualClock",
    "VirtualHost",
    "VirtualWires",
    "World",
    "disconnect_at_every_byte",
    "disconnect_at_every_frame",
    "echo",
]
