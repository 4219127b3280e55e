#!/bin/sh
# What a lab VM's udhcpc runs on every event: configures the interface as a guest would, and
# prints one "lease:" line that the lab reads back. The name server goes to a file of the
# VM's own: containers of a host share its /etc.
case $1 in
deconfig)
	ip -4 address flush dev "$interface"
	ip link set "$interface" up
	;;
bound | renew)
	ip -4 address replace "$ip/$mask" broadcast "${broadcast:-+}" dev "$interface"
	for gateway in $router; do
		ip -4 route replace default via "$gateway" dev "$interface"
		break
	done
	echo "lease: event=$1 ip=$ip mask=$mask router=${router:-} dns=${dns:-} domain=${domain:-} hostname=${hostname:-} server=${serverid:-} seconds=${lease:-}"
	;;
leasefail | nak)
	echo "$1: ${message:-no lease}"
	;;
esac
