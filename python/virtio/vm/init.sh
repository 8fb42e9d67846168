#!/bin/busybox sh
# Process 1 of the guest. It loads the modules, says that it is ready, and then does what the host writes to the
# console, line by line. Each line that it says itself begins with the token, which no other output does.

export PATH=/sbin:/bin HOME=/root TERM=linux PS1='guest # '
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
read -r token </etc/token
# The exact bytes of a command's output are to reach the host, and of its input the guest.
stty raw -echo

while read -r module; do
	insmod "/lib/modules/$module.ko" || echo "init: cannot load $module"
done </etc/modules

echo "$token ready"
while read -r verb argument; do
	case $verb in
	put)
		echo "$argument" >>/run/script.base64
		echo "$token put"
		;;
	run)
		base64 -d /run/script.base64 >/run/script
		rm /run/script.base64
		echo "$token begin"
		sh /run/script </dev/null 2>&1
		echo "$token end $?"
		;;
	shell)
		# shellcheck disable=SC2086  # "rows R cols C"
		stty sane $argument
		echo "$token begin"
		cd /root && setsid cttyhack sh
		status=$?
		cd /
		stty raw -echo
		echo "$token end $status"
		;;
	poweroff)
		break
		;;
	esac
done
poweroff -f
