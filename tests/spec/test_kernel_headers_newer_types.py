"""The device types from file system to RTC against the kernel's headers."""
