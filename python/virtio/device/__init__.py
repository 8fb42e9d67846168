"""The device's end: what a device is, without saying how it is attached.

``base`` is the class that authors derive from; ``status``, ``features`` and ``config`` are the parts that
the standard gives to every device; each device type has a module of its own.
"""
