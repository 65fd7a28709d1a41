package host

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
)

// Bridge is Purple's own bridge, to which every networked sandbox is a port.
const Bridge = "purple0"

// Network is what a plan with a filtered network needs to know of the machine.
type Network struct {
	// Addresses are those of all interfaces but the loopback and Purple's own
	// bridge, sorted. (The bridge's are private and come and go with sandboxes.)
	Addresses []netip.Addr
	// Taken are the prefixes that have a route, and so are in use; without
	// what stands for all addresses and without Purple's own bridge.
	Taken []netip.Prefix
	// BridgeAddresses are those of Purple's bridge, with its prefixes; none
	// while there is no networked sandbox.
	BridgeAddresses []netip.Prefix
	// MTU is the smallest of the interfaces with a default route; 0: none has one.
	MTU int
	// IPv6: the kernel has it, and it is not turned off: an interface other
	// than the loopback has an address, or a new one would get one.
	IPv6 bool
	DNS  DNS
	// DefaultRoute4 and DefaultRoute6: the main table has one.
	DefaultRoute4, DefaultRoute6 bool
	// UnprivilegedPortStart is the first port that users may listen on.
	UnprivilegedPortStart uint16
	// Pasta is pasta(1), absolute; empty: it is not installed.
	Pasta string
}

// DNS is the machine's configuration of its resolver (resolv.conf(5)).
type DNS struct {
	File string // where it was read
	// Resolvers are the name servers that a sandbox can reach.
	Resolvers []netip.Addr
	// Unreachable are those that it cannot: on the host's own loopback, or
	// with an interface of the host's in their name.
	Unreachable []string
	// Lines are those of search and options, as they are.
	Lines []string
}

// ProbeNetwork examines the network of the calling thread's namespace.
func ProbeNetwork() (Network, error) {
	var n Network
	steps := []func(*Network) error{probeAddresses, probeRoutes, probeResolver, probePorts, probePasta}
	for _, step := range steps {
		if err := step(&n); err != nil {
			return Network{}, err
		}
	}
	return n, nil
}

// pastaPath is where every distribution has it. The caller's PATH must not choose
// what stands between a sandbox and the network.
const pastaPath = "/usr/bin/pasta"

func probePasta(n *Network) error {
	if info, err := os.Stat(pastaPath); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
		n.Pasta = pastaPath
	}
	return nil
}

// probePorts: where the kernel does not tell, it is ip(7)'s default.
func probePorts(n *Network) error {
	n.UnprivilegedPortStart = 1024
	data, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start")
	if start, parseErr := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 16); err == nil && parseErr == nil {
		n.UnprivilegedPortStart = uint16(start)
	}
	return nil
}

func probeAddresses(n *Network) error {
	bridge := -1
	if link, err := netlink.LinkByName(Bridge); err == nil {
		bridge = link.Attrs().Index
	}
	addrs, err := List(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("cannot list the machine's addresses: %w", err)
	}
	for _, a := range addrs {
		prefix, ok := toPrefix(a.IPNet)
		if !ok {
			continue
		}
		n.IPv6 = n.IPv6 || prefix.Addr().Is6() && (!prefix.Addr().IsLoopback() || newLinksHaveIPv6())
		if prefix.Addr().IsLoopback() {
			continue
		}
		if a.LinkIndex == bridge {
			n.BridgeAddresses = append(n.BridgeAddresses, prefix)
			continue
		}
		n.Addresses = append(n.Addresses, prefix.Addr())
	}
	slices.SortFunc(n.Addresses, netip.Addr.Compare)
	n.Addresses = slices.Compact(n.Addresses)
	return nil
}

func newLinksHaveIPv6() bool {
	off, err := os.ReadFile("/proc/sys/net/ipv6/conf/default/disable_ipv6")
	return err == nil && strings.TrimSpace(string(off)) == "0"
}

// List repeats a listing that the kernel says was overtaken by a change
// (NLM_F_DUMP_INTR of netlink(7)).
func List[T any](ask func() ([]T, error)) ([]T, error) {
	for tries := 0; ; tries++ {
		found, err := ask()
		if !errors.Is(err, netlink.ErrDumpInterrupted) || tries == maxTries {
			return found, err
		}
	}
}

const maxTries = 50

func toPrefix(ipnet *net.IPNet) (netip.Prefix, bool) {
	if ipnet == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(ipnet.IP)
	ones, bits := ipnet.Mask.Size()
	if !ok || bits == 0 {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(addr.Unmap(), ones), true
}

// probeRoutes looks at the main table: what other tables send elsewhere is in
// use by somebody who chose so, and has its addresses in it all the same.
func probeRoutes(n *Network) error {
	routes, err := List(func() ([]netlink.Route, error) { return netlink.RouteList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("cannot list the machine's routes: %w", err)
	}
	mtus := map[int]int{}
	for _, r := range routes {
		prefix, ok := toPrefix(r.Dst)
		if !ok || prefix.Bits() == 0 {
			n.DefaultRoute4 = n.DefaultRoute4 || r.Family == netlink.FAMILY_V4
			n.DefaultRoute6 = n.DefaultRoute6 || r.Family == netlink.FAMILY_V6
		}
		if !ok || prefix.Bits() < shortestNetwork {
			if err := n.limitMTU(r.LinkIndex, mtus); err != nil {
				return err
			}
			continue
		}
		own := slices.ContainsFunc(n.BridgeAddresses, func(p netip.Prefix) bool { return p.Masked() == prefix.Masked() })
		if !own {
			n.Taken = append(n.Taken, prefix.Masked())
		}
	}
	return nil
}

// shortestNetwork is the length of the largest network that anybody has. VPNs
// send everything their way with two or more routes that are shorter
// (0.0.0.0/1 and 128.0.0.0/1), so as to leave the default route alone.
const shortestNetwork = 8

// limitMTU takes an interface with a default route into account.
func (n *Network) limitMTU(index int, known map[int]int) error {
	if index == 0 || known[index] != 0 {
		return nil
	}
	link, err := netlink.LinkByIndex(index)
	var gone netlink.LinkNotFoundError
	if errors.As(err, &gone) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot examine interface %d: %w", index, err)
	}
	known[index] = link.Attrs().MTU
	if n.MTU == 0 || known[index] < n.MTU {
		n.MTU = known[index]
	}
	return nil
}

// The files of resolv.conf(5). systemd-resolved answers on a loopback address,
// to which no sandbox gets; where it asks itself stands in a file of its own
// (systemd-resolved.service(8)).
const (
	resolverFile = "/etc/resolv.conf"
	resolvedFile = "/run/systemd/resolve/resolv.conf"
)

// resolvedStubs are the addresses of systemd-resolved.
var resolvedStubs = []string{"127.0.0.53", "127.0.0.54"}

func probeResolver(n *Network) error {
	dns, err := readResolver(resolverFile)
	if err != nil {
		return err
	}
	stub := slices.ContainsFunc(dns.Unreachable, func(s string) bool { return slices.Contains(resolvedStubs, s) })
	if stub {
		behind, err := readResolver(resolvedFile)
		if err != nil {
			return err
		}
		if len(behind.Resolvers) > 0 {
			dns = behind
		}
	}
	n.DNS = dns
	return nil
}

func readResolver(name string) (DNS, error) {
	data, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		return DNS{File: name}, nil
	}
	if err != nil {
		return DNS{}, fmt.Errorf("cannot read the machine's resolvers: %w", err)
	}
	return parseResolver(name, string(data)), nil
}

func parseResolver(name, text string) DNS {
	dns := DNS{File: name}
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		switch words[0] {
		case "nameserver":
			dns.add(words[1])
		case "search", "domain", "options":
			dns.Lines = append(dns.Lines, strings.Join(words, " "))
		}
	}
	return dns
}

func (d *DNS) add(text string) {
	addr, err := netip.ParseAddr(text)
	addr = addr.Unmap()
	if err != nil || addr.IsLoopback() || addr.IsUnspecified() || addr.Zone() != "" || addr.IsLinkLocalUnicast() {
		d.Unreachable = append(d.Unreachable, text)
		return
	}
	d.Resolvers = append(d.Resolvers, addr)
}
