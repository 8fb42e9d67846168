#!/bin/busybox sh
# What udhcpc has got for an interface, put to use.

case $1 in
deconfig)
	ip addr flush dev "$interface"
	ip link set "$interface" up
	;;
bound | renew)
	ip addr flush dev "$interface"
	ip addr add "$ip/${mask:-24}" dev "$interface"
	for gateway in $router; do
		# It may be outside of the network, as with a mask of 32 bits.
		ip route replace "$gateway" dev "$interface"
		ip route replace default via "$gateway" dev "$interface"
	done
	: >/etc/resolv.conf
	for server in $dns; do
		echo "nameserver $server" >>/etc/resolv.conf
	done
	;;
esac
