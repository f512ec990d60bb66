"""For tests, simulations and the curious: a host without processes, a network without sockets.

    host = ModelHost()
    host.on_command("make test", stdout="42 passed", exit_code=0, duration=90)
    host.on_command(re.compile("deploy (.*)"), deploy)      # a function that acts it out
    host.on_port(7, echo)                                   # where tunnels lead to

The real client runs on it, over `sandbox_anyio.virtual_network.VirtualNetwork`, in whichever
loop; things go wrong there as `Faults` say::

    network = VirtualNetwork(host, faults=Faults(LoseExit(), seed=7, drop=0.2))
    client = AsyncSandboxClient(api_endpoint=host.origin, api_key=host.api_key, network=network)

The core by itself needs no loop at all::

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
