package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/purple-sandbox/purple/internal/host"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// noAddrGen is IN6_ADDR_GEN_MODE_NONE of <linux/if_link.h>.
const noAddrGen = 1

// device is the sandbox's end of the link.
const device = "eth0"

// link makes the pair of interfaces. The name of the host's end holds the
// number from which the addresses follow, so the kernel itself makes sure that
// no two sandboxes have the same.
func (n *Namespace) link() error {
	unlock, err := lock()
	if err != nil {
		return err
	}
	defer unlock.Close()
	ports, err := portsOf(n.host)
	if err != nil {
		return err
	}
	used := map[int]bool{}
	for _, p := range ports {
		number, _ := portNumber(p.Attrs().Name)
		used[number] = true
	}
	if n.number, err = firstFree(used, capacity(n.config.Range4)); err != nil {
		return fmt.Errorf("%s: %w", n.config.Range4, err)
	}
	n.port = portName(n.number)
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = n.port, n.config.MTU
	veth := &netlink.Veth{
		LinkAttrs: attrs, PeerName: device, PeerMTU: uint32(n.config.MTU),
		PeerHardwareAddr: sandboxMAC(n.number), PeerNamespace: netlink.NsFd(n.file.Fd()),
	}
	if err := n.host.LinkAdd(veth); err != nil {
		return fmt.Errorf("cannot make %q: %w", n.port, err)
	}
	// Whose it is, for the administrator and for Disconnect.
	if err := n.host.LinkSetAlias(veth, n.config.Unit); err != nil {
		return fmt.Errorf("cannot name the owner of %q: %w", n.port, err)
	}
	return nil
}

func portName(number int) string { return host.Bridge + "-" + strconv.Itoa(number) }

// portsOf are the links' ends that exist on the host.
func portsOf(h *netlink.Handle) ([]netlink.Link, error) {
	links, err := host.List(h.LinkList)
	if err != nil {
		return nil, fmt.Errorf("cannot list the interfaces: %w", err)
	}
	return slices.DeleteFunc(links, func(l netlink.Link) bool {
		_, isPort := portNumber(l.Attrs().Name)
		return !isPort
	}), nil
}

func portNumber(name string) (int, bool) {
	text, ok := strings.CutPrefix(name, host.Bridge+"-")
	number, err := strconv.Atoi(text)
	return number, ok && err == nil
}

func firstFree(used map[int]bool, capacity int) (int, error) {
	for number := 1; number <= capacity; number++ {
		if !used[number] {
			return number, nil
		}
	}
	return 0, fmt.Errorf("all %d addresses are in use", capacity)
}

// families are the ranges in use, each with its default route.
func (c Config) families() []netip.Prefix {
	if c.Range6.IsValid() {
		return []netip.Prefix{c.Range4, c.Range6}
	}
	return []netip.Prefix{c.Range4}
}

func (n *Namespace) raiseLoopback() error {
	loopback, err := n.own.LinkByName("lo")
	if err != nil {
		return err
	}
	return n.own.LinkSetUp(loopback)
}

// configure brings the sandbox's end of the link up. The address is a single
// one, and all else is behind the bridge: no other sandbox is on the link.
func (n *Namespace) configure() error {
	link, err := n.own.LinkByName(device)
	if err != nil {
		return err
	}
	if err := n.keepQuiet(link); err != nil {
		return err
	}
	if err := n.own.LinkSetUp(link); err != nil {
		return fmt.Errorf("cannot bring up %q: %w", device, err)
	}
	for _, family := range n.config.families() {
		if err := n.addAddress(link, family); err != nil {
			return err
		}
	}
	return nil
}

// keepQuiet keeps the kernel from sending by itself: neither router
// solicitations nor a link-local address, which would be announced.
func (n *Namespace) keepQuiet(link netlink.Link) error {
	if err := distrust(device, n.config.Range6.IsValid()); err != nil {
		return err
	}
	if !n.config.Range6.IsValid() {
		return nil
	}
	if err := n.own.LinkSetIP6AddrGenMode(link, noAddrGen); err != nil {
		return fmt.Errorf("cannot turn off link-local addresses: %w", err)
	}
	return nil
}

func (n *Namespace) addAddress(link netlink.Link, family netip.Prefix) error {
	own, via := address(family, gateway+n.number), address(family, gateway)
	addr := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(own, own.BitLen())), Flags: unix.IFA_F_NODAD | unix.IFA_F_NOPREFIXROUTE}
	if err := n.own.AddrAdd(link, addr); err != nil {
		return fmt.Errorf("cannot add the address %s: %w", own, err)
	}
	// So that nobody has to be asked for the bridge's address: neighbour
	// solicitations would have to be let out.
	neighbour := &netlink.Neigh{LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT, IP: via.AsSlice(), HardwareAddr: bridgeMAC}
	if err := n.own.NeighSet(neighbour); err != nil {
		return fmt.Errorf("cannot set the neighbour %s: %w", via, err)
	}
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Gw: via.AsSlice(), Flags: int(netlink.FLAG_ONLINK)}
	if err := n.own.RouteAdd(route); err != nil {
		return fmt.Errorf("cannot add the default route via %s: %w", via, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// isGone tells that there is no such link.
func isGone(err error) bool {
	var gone netlink.LinkNotFoundError
	return errors.As(err, &gone)
}
