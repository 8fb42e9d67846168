"""Unix stream sockets: what vhost-user and vfio-user stand on, whatever they say through them."""
