"""The store listens on loopback where all ranks are on one machine; a taken port is one line."""

import socket

import pytest

from systems.environment import LOOPBACK
from systems.network import meeting
from systems.schema import InputError
from tests.ranks import listening


def test_on_one_machine_it_listens_on_loopback_only() -> None:
    before = listening()
    store = meeting.serve(LOOPBACK, 0)
    assert set(listening() - before) == {LOOPBACK}
    meeting.connect(LOOPBACK, store.port, 10).set("key", "value")
    assert store.get("key") == b"value"


def test_over_several_nodes_it_listens_on_every_interface() -> None:
    before = listening()
    store = meeting.serve(socket.gethostname(), 0)
    assert set(listening() - before) <= {"0.0.0.0", "::"}
    del store
    assert listening() == before


@pytest.mark.parametrize("address", [LOOPBACK, "node0"])
def test_a_port_that_cannot_be_listened_on_is_named(address: str) -> None:
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port} .*in use; give another"):
            meeting.serve(address, port)
    with pytest.raises(InputError, match="port 70000"):
        meeting.serve(address, 70000)
