# The four programs and nothing else: they are static. `make image` builds it; without
# arguments it installs the plugins into the node's directory that is mounted at
# /host/opt/cni/bin, as an initContainer does. The daemon is in it as well:
# `command: ["/bin/flat-dhcpd"]`.
FROM scratch
COPY bin/flat-bridge bin/flat-ipam bin/flat-dhcpd bin/flatctl /bin/
ENTRYPOINT ["/bin/flatctl", "install-plugins"]
CMD ["/host/opt/cni/bin"]
