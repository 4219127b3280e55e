// Package dhcpoption reads, checks and writes DHCP options as a person configures
// them: by number, with a value whose form the number decides (RFC 2132 and the
// registry that follows it).
//
// A value is checked when it is configured and kept as it goes on the wire, so that
// the server has nothing to decide about it. What a server itself must set (message
// type, server identifier, times) cannot be configured.
package dhcpoption
