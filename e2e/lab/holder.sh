# Run by sh as the first process of a host's namespaces (network, mount, UTS): makes
# them look like a machine of its own, says "ready", and waits for its standard input to
# end. The far end of that pipe is the lab's process, so that a killed test ends its
# hosts too. What then still runs in the host is killed; the kernel removes the rest.
#
# Arguments: host name, an existing directory to mount the private files on, the machine
# ID, the directory of our programs and that of cnitool and the reference plugins (either
# may be empty), a FIFO to wait on instead of standard input (or empty).
set -eu
name=$1 stage=$2 machine_id=$3 bin=$4 cni=$5 fifo=$6
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

# Everything private hangs below one tmpfs and is bound from there to its place. It is
# built first: once /etc is covered, what must be bound may be hidden.
mount -t tmpfs -o mode=0755 flatdhcp-lab "$stage"
cd "$stage"
mkdir etc run run/lock run/netns run/lab run/lab/etc run/lab/path var-lib opt opt/cni opt/cni/bin
[ -z "$bin" ] || { mkdir run/lab/bin && mount --bind "$bin" run/lab/bin; }
[ -z "$cni" ] || { mkdir run/lab/cni && mount --bind "$cni" run/lab/cni; }
set --
for program in run/lab/cni/* run/lab/bin/*; do
	case ${program##*/} in
	flat-dhcpd | flatctl | cnitool) [ ! -x "$program" ] || ln -s "/$program" run/lab/path/ ;;
	*) [ ! -f "$program" ] || set -- "$@" "/$program" ;;
	esac
done
[ $# = 0 ] || ln -s -t opt/cni/bin "$@"

# /etc is a new directory of links to the machine's files, so that CNI and DHCP clients can
# write there (a link is replaced, never followed, by what writes and renames; the bind is
# read-only for the rest). No overlay: not every user namespace may mount one.
mount --rbind /etc run/lab/etc
mount -o remount,bind,ro run/lab/etc 2>/dev/null || :
(cd run/lab/etc && printf '/run/lab/etc/%s\0' *) | xargs -0 ln -s -t etc
rm -rf etc/cni etc/resolv.conf etc/machine-id etc/hostname etc/mtab
mkdir -p etc/cni/net.d
ln -s /proc/self/mounts etc/mtab
: >etc/resolv.conf
echo "$name" >etc/hostname
echo "$machine_id" >etc/machine-id
mkdir var-lib/dhcp var-lib/misc
hostname "$name"

mount --rbind etc /etc
mount --rbind opt /opt
mount --rbind var-lib /var/lib
mount --rbind run /run
cd /
# As the first `ip netns add` would do it: a later one then changes nothing but its own.
mount --bind --make-shared /run/netns /run/netns
# The /sys of a network namespace is the one it was mounted in. Some kernels refuse this
# in a user namespace; the programs under test read links by netlink anyway.
mount -t sysfs sysfs /sys 2>/dev/null || :
ip link set lo up

echo ready
exec >/dev/null 2>&1
if [ -n "$fifo" ]; then
	exec 0<>"$fifo"
fi
read -r _ || :

# By namespace, not by parentage: a daemon that detached itself counts as well, and so
# does one that `ip netns exec` gave a mount namespace of its own.
trap '' INT TERM HUP
set -- -false
# The brackets are escaped: -lname takes a pattern.
for ns in $(stat -L -c 'mnt:\[%i\]' /proc/self/ns/mnt) $(stat -L -c 'net:\[%i\]' /proc/self/ns/net /run/netns/*); do
	set -- "$@" -o -lname "$ns"
done
while :; do
	found=
	for link in $(find /proc/[0-9]*/ns/mnt /proc/[0-9]*/ns/net "$@"); do
		pid=${link#/proc/}
		pid=${pid%%/*}
		# find itself has ended by now; killing nothing is no finding.
		[ "$pid" = $$ ] || ! kill -9 "$pid" || found=yes
	done
	[ -n "$found" ] || exit 0
done
