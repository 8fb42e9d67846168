"""The driver's end: find out what a device is, agree with it, and use it."""
