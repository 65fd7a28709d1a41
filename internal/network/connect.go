package network

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/purple-sandbox/purple/internal/host"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// connectSteps are the host's part. The masquerading and the filter stand
// before the link is up.
var connectSteps = []step{
	{"make the bridge", (*Namespace).makeBridge},
	{"load the host's rules", (*Namespace).addHostRules},
	{"let the host forward", (*Namespace).forward},
	{"connect the sandbox to the bridge", (*Namespace).plug},
	{"bring the sandbox's link up", (*Namespace).awaitUp},
}

// Connect links the namespace to the rest of the world, if its ruleset has read
// back as it was loaded. It is called when the unit's first process is there, so
// that systemd has it undone, whatever becomes of this process.
func (n *Namespace) Connect() error {
	if <-n.linked; n.linkErr != nil {
		return n.linkErr
	}
	unlock, err := lock()
	if err != nil {
		return err
	}
	defer unlock.Close()
	return n.do(connectSteps)
}

// makeBridge makes the bridge, or adds this run's ranges to the one that is there.
func (n *Namespace) makeBridge() error {
	bridge, err := n.host.LinkByName(host.Bridge)
	if err == nil && !isOwn(bridge) {
		bridge, err = nil, n.removeStranger(bridge)
	}
	if isGone(err) || err == nil && bridge == nil {
		bridge, err = n.newBridge()
	}
	if err != nil {
		return err
	}
	for _, family := range n.config.families() {
		addr := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(address(family, gateway), family.Bits())), Flags: unix.IFA_F_NODAD}
		if err := n.host.AddrAdd(bridge, addr); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("cannot add the address %s: %w", addr.IPNet, err)
		}
	}
	return nil
}

// isOwn tells Purple's bridge from whatever else has its name.
func isOwn(link netlink.Link) bool {
	return link.Type() == "bridge" && bytes.Equal(link.Attrs().HardwareAddr, bridgeMAC)
}

// removeStranger removes a bridge that has the name and no port. What is in use
// is somebody's, and stays.
func (n *Namespace) removeStranger(bridge netlink.Link) error {
	links, err := host.List(n.host.LinkList)
	if err != nil {
		return fmt.Errorf("cannot list the interfaces: %w", err)
	}
	inUse := slices.ContainsFunc(links, func(l netlink.Link) bool { return l.Attrs().MasterIndex == bridge.Attrs().Index })
	if inUse || bridge.Type() != "bridge" {
		return fmt.Errorf("there is a %s %q of somebody else's; rename it", bridge.Type(), host.Bridge)
	}
	return n.host.LinkDel(bridge)
}

func (n *Namespace) newBridge() (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr, attrs.MTU = host.Bridge, bridgeMAC, n.config.MTU
	snooping := false
	bridge := &netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}
	if err := n.host.LinkAdd(bridge); err != nil {
		return nil, err
	}
	if n.config.Range6.IsValid() {
		// It may be off for new interfaces on a host whose uplink has it.
		if err := writeSetting("ipv6/conf/"+host.Bridge+"/disable_ipv6", off); err != nil {
			return nil, fmt.Errorf("cannot turn IPv6 on: %w", err)
		}
	}
	if err := distrust(host.Bridge, n.config.Range6.IsValid()); err != nil {
		return nil, err
	}
	if err := n.quietHostLink(bridge); err != nil {
		return nil, err
	}
	return bridge, n.host.LinkSetUp(bridge)
}

// quietHostLink keeps the host from having a link-local address on a link to a
// sandbox: services of the host would listen there.
func (n *Namespace) quietHostLink(link netlink.Link) error {
	if !n.config.Range6.IsValid() {
		return nil
	}
	if err := n.host.LinkSetIP6AddrGenMode(link, noAddrGen); err != nil {
		return fmt.Errorf("cannot turn off link-local addresses of %q: %w", link.Attrs().Name, err)
	}
	return nil
}

// plug makes the link's end a port of the bridge: one that reaches the host and
// no other port, learns nothing and gets nothing that is not meant for it.
func (n *Namespace) plug() error {
	port, err := n.host.LinkByName(n.port)
	if err != nil {
		return err
	}
	bridge, err := n.host.LinkByName(host.Bridge)
	if err != nil {
		return err
	}
	if err := n.quietHostLink(port); err != nil {
		return err
	}
	if err := n.host.LinkSetMaster(port, bridge); err != nil {
		return fmt.Errorf("cannot make %q a port: %w", n.port, err)
	}
	if err := n.shieldPort(port); err != nil {
		return err
	}
	if err := n.host.LinkSetUp(port); err != nil {
		return fmt.Errorf("cannot bring up %q: %w", n.port, err)
	}
	return n.introduce(port, bridge)
}

// upTimeout bounds awaitUp, on a machine that is very busy.
const upTimeout = 5 * time.Second

// awaitUp waits until the link carries packets. The kernel opens a port and
// starts an interface's queue in its own time after the carrier is there
// (net/core/link_watch.c), and loses without a word what is sent before.
func (n *Namespace) awaitUp() error {
	for end := time.Now().Add(upTimeout); ; time.Sleep(time.Millisecond) {
		waits, err := n.notUp()
		if waits == "" || err != nil {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("%q is not up after %v", waits, upTimeout)
		}
	}
}

// notUp names an interface of the link that is not up yet, if there is one.
func (n *Namespace) notUp() (string, error) {
	for _, l := range []struct {
		handle *netlink.Handle
		name   string
	}{{n.own, device}, {n.host, n.port}, {n.host, host.Bridge}} {
		link, err := l.handle.LinkByName(l.name)
		if err != nil {
			return "", fmt.Errorf("cannot examine %q: %w", l.name, err)
		}
		if link.Attrs().OperState != netlink.OperUp {
			return l.name, nil
		}
	}
	return "", nil
}

func (n *Namespace) shieldPort(port netlink.Link) error {
	if err := n.host.LinkSetIsolated(port, true); err != nil {
		return fmt.Errorf("cannot isolate %q: %w", n.port, err)
	}
	if err := n.host.LinkSetLearning(port, false); err != nil {
		return fmt.Errorf("cannot turn off the learning of %q: %w", n.port, err)
	}
	if err := n.host.LinkSetFlood(port, false); err != nil {
		return fmt.Errorf("cannot turn off the flooding of %q: %w", n.port, err)
	}
	return nil
}

// introduce tells the bridge, and the host, where the sandbox is.
func (n *Namespace) introduce(port, bridge netlink.Link) error {
	mac := sandboxMAC(n.number)
	entry := &netlink.Neigh{
		LinkIndex: port.Attrs().Index, Family: unix.AF_BRIDGE, State: netlink.NUD_NOARP | netlink.NUD_PERMANENT,
		Flags: netlink.NTF_MASTER, HardwareAddr: mac,
	}
	if err := n.host.NeighSet(entry); err != nil {
		return fmt.Errorf("cannot set the forwarding entry of %q: %w", n.port, err)
	}
	for _, addr := range n.addresses() {
		neighbour := &netlink.Neigh{LinkIndex: bridge.Attrs().Index, State: netlink.NUD_PERMANENT, IP: addr.AsSlice(), HardwareAddr: mac}
		if err := n.host.NeighSet(neighbour); err != nil {
			return fmt.Errorf("cannot set the neighbour %s: %w", addr, err)
		}
	}
	return nil
}

// addresses are the sandbox's own.
func (n *Namespace) addresses() []netip.Addr {
	var out []netip.Addr
	for _, family := range n.config.families() {
		out = append(out, address(family, gateway+n.number))
	}
	return out
}

// forward turns forwarding on where the sandbox's packets come in and where the
// answers do.
func (n *Namespace) forward() error {
	uplinks, err := uplinks(n.host, n.config.Routes)
	if err != nil {
		return err
	}
	s := sysctls{dir: sysctlDir}
	before, err := s.turnedOn()
	if err != nil {
		return err
	}
	if err := s.forward4(append(uplinks[unix.AF_INET], host.Bridge)); err != nil {
		return err
	}
	// Without a way out in IPv6 nothing of the host's IPv6 is changed.
	if len(uplinks[unix.AF_INET6]) > 0 && n.config.Range6.IsValid() {
		if err := s.forward6(append(uplinks[unix.AF_INET6], host.Bridge)); err != nil {
			return err
		}
	}
	after, err := s.turnedOn()
	if err != nil || n.tableExisted && slices.Equal(before, after) {
		return err
	}
	return guardRouter(s)
}

// anywhere are addresses, one in each part of the public ones for which VPNs have
// routes of their own. Rules may choose another table than the main one for them.
var anywhere = []netip.Addr{
	netip.MustParseAddr("1.1.1.1"), netip.MustParseAddr("64.0.0.1"), netip.MustParseAddr("129.0.0.1"), netip.MustParseAddr("193.0.0.1"),
	netip.MustParseAddr("2001:4860::1"), netip.MustParseAddr("2a00::1"), netip.MustParseAddr("3000::1"),
}

// uplinks are the interfaces, for each family, that lead to a destination that
// a policy allows: those of default routes, of public addresses, and of what it
// names.
func uplinks(h *netlink.Handle, named []netip.Addr) (map[int][]string, error) {
	found := map[int][]string{}
	add := func(family, index int) {
		link, err := h.LinkByIndex(index)
		if err != nil || link.Attrs().Flags&unix.IFF_LOOPBACK != 0 || link.Attrs().Name == host.Bridge {
			return
		}
		if !slices.Contains(found[family], link.Attrs().Name) {
			found[family] = append(found[family], link.Attrs().Name)
		}
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := host.List(func() ([]netlink.Route, error) { return h.RouteList(nil, family) })
		if err != nil {
			return nil, fmt.Errorf("cannot list the routes: %w", err)
		}
		for _, r := range routes {
			if isDefault(r) {
				for _, index := range outInterfaces(r) {
					add(family, index)
				}
			}
		}
	}
	for _, dst := range slices.Concat(anywhere, named) {
		routes, err := h.RouteGet(dst.AsSlice())
		if err != nil {
			continue // nothing leads there, as the command will be told
		}
		for _, r := range routes {
			add(familyOf(dst), r.LinkIndex)
		}
	}
	return found, nil
}

func familyOf(a netip.Addr) int {
	if a.Is6() {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

func isDefault(r netlink.Route) bool {
	if r.Dst == nil {
		return true
	}
	ones, _ := r.Dst.Mask.Size()
	return ones == 0
}

func outInterfaces(r netlink.Route) []int {
	if len(r.MultiPath) == 0 {
		return []int{r.LinkIndex}
	}
	var out []int
	for _, hop := range r.MultiPath {
		out = append(out, hop.LinkIndex)
	}
	return out
}

// Uplinks are the interfaces through which a sandbox's packets will leave the
// host, for what examines the host's firewall. named are addresses that the
// policy names.
func Uplinks(named []netip.Addr) (ipv4, ipv6 []string, err error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot ask the kernel about the network: %w", err)
	}
	defer h.Close()
	found, err := uplinks(h, named)
	return found[unix.AF_INET], found[unix.AF_INET6], err
}

// addHostRules adds this run to the host's table, which it makes if need be.
func (n *Namespace) addHostRules() error {
	return withHostTable(func(h *hostTable) error {
		if err := h.create(n.config.families()); err != nil {
			return err
		}
		n.tableExisted = h.exists // and was not replaced, guard and all
		return h.addRun(chainOf(n.config.Unit), n.addresses(), n.config.ToHost)
	})
}

// guardRouter keeps the host from becoming a router for others: it forwards
// now, but between the bridge and the rest only.
func guardRouter(s sysctls) error {
	return withHostTable(func(h *hostTable) error { return h.guard(s) })
}

// withHostTable changes the host's table in one transaction.
func withHostTable(change func(*hostTable) error) error {
	c, err := openNFT()
	if err != nil {
		return err
	}
	defer c.CloseLasting()
	h := newHostTable(c)
	if h.exists, err = hasHostTable(c); err != nil {
		return err
	}
	if err := change(h); err != nil {
		return err
	}
	return c.Flush()
}

func hasHostTable(c *nftables.Conn) (bool, error) {
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return false, fmt.Errorf("cannot list the tables: %w", err)
	}
	return slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == hostTableName }), nil
}
