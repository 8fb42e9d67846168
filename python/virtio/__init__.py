"""The whole VIRTIO standard for Python: both ends of the queue."""
