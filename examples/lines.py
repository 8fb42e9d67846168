"""Eight GPIO lines that remember what they were set to. Any type of the standard can be served like this."""

import virtio
from virtio.spec import gpio


class Lines(virtio.Device):
    spec = gpio

    def __init__(self) -> None:
        self.levels = [0] * 8
        super().__init__(config={"ngpio": len(self.levels)})

    def on_requests(self, chain: virtio.Chain) -> None:
        request = gpio.REQUEST.unpack(chain.read())
        status, value = gpio.STATUS.OK, 0
        if request.gpio >= len(self.levels):
            status = gpio.STATUS.ERR
        elif request.type == gpio.MSG.SET_VALUE:
            self.levels[request.gpio] = request.value & 1
        elif request.type == gpio.MSG.GET_VALUE:
            value = self.levels[request.gpio]
        elif request.type == gpio.MSG.GET_DIRECTION:
            value = gpio.DIRECTION.OUT
        elif request.type != gpio.MSG.SET_DIRECTION:
            status = gpio.STATUS.ERR
        chain.write(gpio.RESPONSE.pack(status=status, value=value))


if __name__ == "__main__":
    virtio.serve(Lines(), "vhost-user:/tmp/gpio.sock")
