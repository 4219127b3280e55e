package ipam

// Limits bound what one workload may send, in packets a second; 0 = no bound. A second's
// worth may come at once.
type Limits struct {
	ARP       int `json:"arp"`
	Broadcast int `json:"broadcast"` // group-addressed frames but for ARP and DHCP
	DHCP      int `json:"dhcp"`      // to a DHCP server
	DNS       int `json:"dns"`       // by UDP, to any server
}
