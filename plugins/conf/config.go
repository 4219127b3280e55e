// Package conf reads what a runtime sends: the network configuration on standard
// input, a conflist file, CNI_ARGS. It turns them into an [ipam.Network] with every
// default filled in, and into the request of one attachment.
//
// It is pure: nothing here opens a file, asks the kernel or reads the environment.
// Every error is a [types.Error] with the CNI code of the design, names the key and
// the value, and says what is accepted.
package conf

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/utils"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/flatdhcp/flatdhcp/ipam"
)

// The two plugins, by the name a conflist's "type" gives them.
const (
	FlatBridge = "flat-bridge"
	FlatIPAM   = "flat-ipam"
)

// DefaultDataDir is where the stores are unless ipam.dataDir says otherwise.
const DefaultDataDir = "/var/lib/flatdhcp"

// MinVersion is the oldest version of the CNI specification that is served; 0.3.0
// and older have another result format.
const MinVersion = "0.3.1"

// maxName bounds a network's name (bytes): it goes into file names (255) and, with a
// container ID, into interface aliases (255).
const maxName = 128

// Config is one plugin's configuration as a runtime sent it, validated.
type Config struct {
	CNIVersion string
	Name       string // of the network
	Type       string // the main plugin's type; FlatBridge unless flat-ipam serves another one
	// Chain lists the types of a file's plugins, Type among them, in the order in which a
	// runtime runs them. Nil unless it was read by ParseList.
	Chain []string
	// Network has every default filled in. Network.Bridge is nil for flat-ipam. It is
	// the zero value but for Name after ParseRelease.
	Network ipam.Network
	DataDir string // absolute path

	RuntimeConfig Asked // capability arguments: mac, ips
	Args          Asked // args.cni: mac, ips, hostname, identity, allowSameNetTraffic
	Annotations   Asked // the pod's flatdhcp.io/ annotations

	ignored notices // about annotations that mean nothing

	// Notices name the keys that were accepted without effect; the caller logs them.
	Notices []string

	// PrevResult is the result of the plugin before this one, or of the ADD in CHECK
	// and DEL; nil if the runtime sent none.
	PrevResult *types100.Result
	// ValidAttachments is GC's list: nil = the key is absent, which means touch
	// nothing; null and [] both give an empty list, which means nothing is valid.
	ValidAttachments *[]types.GCAttachment
}

// Parse reads and validates what a runtime sends plugin (FlatBridge or FlatIPAM) on
// standard input. Every error is a *types.Error.
func Parse(stdin []byte, plugin string) (*Config, error) {
	c, err := parse(stdin, plugin)
	if err != nil {
		return nil, exported(err, nowhere)
	}
	return c, nil
}

func parse(stdin []byte, plugin string) (*Config, error) {
	root, err := decode(stdin)
	if err != nil {
		return nil, err
	}
	c := &Config{}
	if err := c.readEnvelope(root); err != nil {
		return nil, err
	}
	if err := c.readNetwork(root, plugin); err != nil {
		return nil, err
	}
	if err := c.readAsked(root); err != nil {
		return nil, err
	}
	if err := c.readPrevResult(root); err != nil {
		return nil, err
	}
	return c, c.readValidAttachments(root)
}

// ParseRelease reads only what DEL and GC need: version, name, data directory and
// GC's list. Runtimes send the file as it is now, so a mistake made in it after the
// ADD must not keep a container from being taken away; no other key is looked at.
func ParseRelease(stdin []byte) (*Config, error) {
	c, err := parseRelease(stdin)
	if err != nil {
		return nil, exported(err, nowhere)
	}
	return c, nil
}

func parseRelease(stdin []byte) (*Config, error) {
	root, err := decode(stdin)
	if err != nil {
		return nil, err
	}
	c := &Config{DataDir: DefaultDataDir}
	if err := c.readEnvelope(root); err != nil {
		return nil, err
	}
	c.Network.Name = c.Name
	if sub, ok, err := root.object("ipam"); err == nil && ok {
		if c.DataDir, err = sub.dataDir(); err != nil {
			return nil, err
		}
	}
	return c, c.readValidAttachments(root)
}

// readEnvelope reads the keys that every plugin's configuration has.
func (c *Config) readEnvelope(root *object) (err error) {
	if c.CNIVersion, err = root.text("cniVersion", ""); err != nil {
		return err
	}
	if c.CNIVersion == "" {
		return newError(types.ErrIncompatibleCNIVersion, "key cniVersion is missing, which means 0.1.0: %s are served",
			strings.Join(Versions(), ", "))
	}
	if !slices.Contains(Versions(), c.CNIVersion) {
		return newError(types.ErrIncompatibleCNIVersion, "key cniVersion with value %q: %s are served",
			clipped(c.CNIVersion), strings.Join(Versions(), ", "))
	}
	if c.Name, err = root.text("name", ""); err != nil {
		return err
	}
	if err := checkName(c.Name); err != nil {
		return err
	}
	c.Type, err = root.text("type", "")
	return err
}

// Versions lists the versions of the CNI specification that are served, oldest first.
func Versions() []string { return version.VersionsStartingFrom(MinVersion).SupportedVersions() }

// checkName applies the specification's rule for network names, and our limit.
func checkName(name string) error {
	if name == "" {
		return invalid("name", nil, "a network needs a name")
	}
	if utils.ValidateNetworkName(name) != nil || len(name) > maxName {
		return invalid("name", quoted(name), "at most %d letters, digits, '_', '.' and '-' are accepted, the first a letter or digit", maxName)
	}
	return nil
}

// readNetwork reads the keys that are the plugin's own, strictly.
func (c *Config) readNetwork(root *object, plugin string) error {
	c.Network.Name = c.Name
	if plugin == FlatBridge {
		if err := root.checkKeys(bridgeKeys); err != nil {
			return err
		}
	}
	sub, ok, err := root.object("ipam")
	if err != nil {
		return err
	}
	if !ok {
		return invalid("ipam", nil, `it is required, such as {"type": "flat-ipam", "subnet": "10.0.0.0/24"}`)
	}
	if err := sub.checkIPAMType(); err != nil {
		return err
	}
	if err := sub.checkKeys(ipamKeys); err != nil {
		return err
	}
	if c.DataDir, err = sub.dataDir(); err != nil {
		return err
	}
	if err := sub.readPool(&c.Network.Pool); err != nil {
		return err
	}
	if plugin != FlatBridge {
		return nil
	}
	if c.Network.Pool.MACPrefix, err = root.macPrefix(); err != nil {
		return err
	}
	if c.Network.Bridge, c.Notices, err = root.readBridge(); err != nil {
		return err
	}
	if err := root.readGateways(&c.Network); err != nil {
		return err
	}
	if err := root.readAllowedAddresses(&c.Network); err != nil {
		return err
	}
	for _, read := range []func(ipam.Network) error{
		root.readNAT,
		root.readUplinkDHCP,
		root.readMetadata,
		root.readHostAccess,
		root.checkForwarders,
	} {
		if err := read(c.Network); err != nil {
			return err
		}
	}
	return nil
}

// readAsked reads what runtimeConfig (annotations included) and args.cni ask for. Keys there that other
// plugins serve (portMappings, bandwidth) are theirs.
func (c *Config) readAsked(root *object) error {
	rc, ok, err := root.object("runtimeConfig")
	if err != nil {
		return err
	}
	if ok {
		if raw, given := rc.raw("ipRanges"); given && !isEmptyList(raw) {
			return rc.invalid("ipRanges", "ranges by capability are not accepted: write subnet or ranges into ipam")
		}
		if c.RuntimeConfig, err = rc.asked(wishIP, wishMAC); err != nil {
			return err
		}
		if err := c.readPodAnnotations(rc); err != nil {
			return err
		}
	}
	args, ok, err := root.object("args")
	if err != nil || !ok {
		return err
	}
	cni, ok, err := args.object("cni")
	if err != nil || !ok {
		return err
	}
	c.Args, err = cni.asked(wishWords...)
	return err
}

func (c *Config) readPrevResult(root *object) error {
	raw, ok := root.raw("prevResult")
	if !ok {
		return nil
	}
	var pc types.PluginConf
	err := json.Unmarshal(raw, &pc.RawPrevResult)
	if err == nil && len(pc.RawPrevResult) == 0 {
		return nil
	}
	if err == nil {
		pc.CNIVersion = c.CNIVersion
		err = version.ParsePrevResult(&pc)
	}
	if err == nil {
		c.PrevResult, err = types100.NewResultFromResult(pc.PrevResult)
	}
	if err != nil {
		return newError(types.ErrDecodingFailure, "decoding key prevResult as a result of version %s: %v", c.CNIVersion, err)
	}
	return nil
}

// readValidAttachments tells an absent key from null and []: the library's own type
// cannot.
func (c *Config) readValidAttachments(root *object) error {
	raw, ok := root.fields["cni.dev/valid-attachments"]
	if !ok {
		return nil
	}
	list := []types.GCAttachment{}
	if err := json.Unmarshal(raw, &list); err != nil {
		return newError(types.ErrDecodingFailure, "decoding key cni.dev/valid-attachments: %v", err)
	}
	if list == nil {
		list = []types.GCAttachment{}
	}
	c.ValidAttachments = &list
	return nil
}
