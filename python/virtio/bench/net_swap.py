"""A network device in Python that swaps each frame's addresses and sends it back, as a program.

``python -m virtio.bench.net_swap SOCKET frame|batch`` serves it until it is told to end.
"""

import sys
import threading
from typing import Literal

import virtio
from virtio._native import NetFrame, NetFrames

Way = Literal["frame", "batch"]


class PerFrame(virtio.NetworkDevice):
    """One call for each frame."""

    def on_frame(self, frame: NetFrame) -> None:
        """Swap the addresses in place, and send the frame back."""
        data = frame.data
        data[:6], data[6:12] = bytes(data[6:12]), bytes(data[:6])
        self.send(data)


class PerBatch(virtio.NetworkDevice):
    """One call for all frames that came together."""

    def on_frames(self, frames: NetFrames) -> None:
        """The same with one NumPy array over all frames, which lie one behind the other."""
        import numpy as np

        starts = np.frombuffer(frames.starts, np.uint32)
        distance = int(starts[1] - starts[0]) if len(starts) > 1 else 12
        if (np.diff(starts) != distance).any():
            # Frames of different lengths: where each byte of the addresses is.
            data = np.frombuffer(frames.data, np.uint8)
            data[starts[:, None] + np.arange(12)] = data[starts[:, None] + np.roll(np.arange(12), 6)]
        else:
            rows = np.ndarray(
                len(starts),
                [("destination", "V6"), ("source", "V6")],
                frames.data,
                int(starts[0]),
                (distance,),
            )
            destination = rows["destination"].copy()
            rows["destination"] = rows["source"]
            rows["source"] = destination
        self.send_frames(frames)


def main(socket: str, way: Way) -> None:
    """Serve until the process ends."""
    device = PerFrame(name="net") if way == "frame" else PerBatch(name="net")
    with virtio.start(device, f"vhost-user:{socket}"):
        threading.Event().wait()


if __name__ == "__main__":
    main(sys.argv[1], "frame" if sys.argv[2] == "frame" else "batch")
