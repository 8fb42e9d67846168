"""The contract of transports, on each of them."""

from tests.transport.contract import Contract


class TestMem(Contract):
    address = "mem:contract"


class TestMmio(Contract):
    address = "mmio:contract"


class TestMemBetweenProcesses(Contract):
    address = "mem:{tmp}/contract.mem"


class TestVhostUser(Contract):
    address = "vhost-user:{tmp}/contract.sock"


class TestVhostUserInBand(Contract):
    address = "vhost-user:{tmp}/contract.sock?notifications=in-band"
    suffix = "?notifications=in-band"
