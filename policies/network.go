package policies

import (
	"fmt"
	"net/netip"
	"strings"
)

func (d *decoder) network(n *node, net *Network) {
	d.mapping(n,
		reader{"isolated", func(n *node) { d.boolean(n, &net.Isolated) }},
		reader{"allow_outgoing", func(n *node) { d.outgoing(n, net) }},
		reader{"allow_incoming", func(n *node) { d.incoming(n, net) }},
		reader{"address_range", func(n *node) { d.addressRange(n, net) }},
	)
	if net.Isolated {
		d.nothingListed(n, "allow_outgoing")
		d.nothingListed(n, "allow_incoming")
	}
}

func (d *decoder) addressRange(n *node, net *Network) {
	text, ok := d.str(n)
	if !ok {
		return
	}
	if err := checkAddressRange(text); err != nil {
		d.errorf(n, "%v", err)
		return
	}
	net.AddressRange = text
}

// privateRanges are where a sandbox may have its address: RFC 1918 and RFC 6598.
var privateRanges = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"),
	netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16"),
}

// The shortest and longest prefix of a range: one for all sandboxes of a
// machine, and one with an address for a few.
const (
	minRangeBits = 12
	maxRangeBits = 28
)

func checkAddressRange(text string) error {
	prefix, err := netip.ParsePrefix(text)
	switch {
	case err != nil || !prefix.Addr().Is4():
		return fmt.Errorf("%s is no IPv4 range: write it as 10.200.0.0/20; the IPv6 addresses follow from it", printable(text))
	case prefix.Masked() != prefix:
		return fmt.Errorf("%s has bits set behind the prefix: write %s", printable(text), prefix.Masked())
	case prefix.Bits() < minRangeBits || prefix.Bits() > maxRangeBits:
		return fmt.Errorf("%s must have a length from /%d to /%d", printable(text), minRangeBits, maxRangeBits)
	}
	for _, private := range privateRanges {
		if private.Bits() <= prefix.Bits() && private.Contains(prefix.Addr()) {
			return nil
		}
	}
	return fmt.Errorf("%s is not private: take one from 10.0.0.0/8, 100.64.0.0/10, 172.16.0.0/12 or 192.168.0.0/16", printable(text))
}

// nothingListed refuses a list that isolation makes void: a person who wrote
// both meant one of them, and only they know which.
func (d *decoder) nothingListed(n *node, name string) {
	listed := n.field(name)
	if listed == nil || len(listed.items) == 0 {
		return
	}
	if isolated := n.field("isolated"); isolated != nil {
		d.errorf(listed, "contradicts network.isolated: true (%s): set that to false, or this to []", isolated.at)
		return
	}
	d.errorf(listed, "the network is isolated unless the profile says otherwise: add \"isolated: false\"")
}

// plainText reads a port or an address: a string, or a number as YAML sees it.
func (d *decoder) plainText(n *node) (string, bool) {
	return d.amount(n, "a port")
}

func (d *decoder) outgoing(n *node, net *Network) {
	net.Outgoing = nil
	d.each(n, func(item *node) {
		text, ok := d.plainText(item)
		if !ok {
			return
		}
		rule, err := parseOutgoing(text)
		if err != nil {
			d.errorf(item, "%s: %v", printable(text), err)
			return
		}
		rule.Key = item.key
		net.Outgoing = append(net.Outgoing, rule)
	})
}

// parseOutgoing reads [PREFIX:]PORT[-PORT][/tcp|/udp].
func parseOutgoing(text string) (Outgoing, error) {
	var rule Outgoing
	prefix, ports, err := cutAddress(text)
	if err != nil {
		return rule, err
	}
	if prefix != "" {
		if rule.Prefix, err = parseDestination(prefix); err != nil {
			return rule, err
		}
	}
	ports, protocol, named := strings.Cut(ports, "/")
	if named && protocol != "tcp" && protocol != "udp" {
		return rule, fmt.Errorf("unknown protocol %s: must be tcp or udp, or left out for both", printable(protocol))
	}
	rule.Protocol = protocol
	rule.First, rule.Last, err = parsePorts(ports)
	return rule, err
}

// parseDestination refuses the loopback addresses: they would not mean the
// host's, as whoever writes them may think.
func parseDestination(text string) (string, error) {
	prefix, err := parsePrefix(text)
	if err == nil && netip.MustParsePrefix(prefix).Addr().IsLoopback() {
		return "", fmt.Errorf("%s is the sandbox's own loopback, which needs no entry; the host's is never reached", printable(text))
	}
	return prefix, err
}

// cutAddress splits "ADDRESS:REST" and "[ADDRESS]:REST"; without an address
// all of it is the rest.
func cutAddress(text string) (address, rest string, err error) {
	if inner, ok := strings.CutPrefix(text, "["); ok {
		address, rest, ok = strings.Cut(inner, "]:")
		if !ok || !strings.Contains(address, ":") {
			return "", "", fmt.Errorf("brackets hold an IPv6 address, with a port behind: [fd00::/8]:443")
		}
		return address, rest, nil
	}
	address, rest, found := strings.Cut(text, ":")
	switch {
	case !found && strings.Contains(text, "."):
		return "", "", fmt.Errorf("a port is missing: write ADDRESS:PORT, such as 10.1.0.0/16:443")
	case !found:
		return "", text, nil
	case strings.Contains(rest, ":"):
		return "", "", fmt.Errorf("an IPv6 address needs brackets: [fd00::/8]:443")
	case address == "":
		return "", "", fmt.Errorf("the address before the colon is missing")
	}
	return address, rest, nil
}

func parsePrefix(text string) (string, error) {
	if !strings.Contains(text, "/") {
		addr, err := parseAddress(text)
		if err != nil {
			return "", err
		}
		return netip.PrefixFrom(addr, addr.BitLen()).String(), nil
	}
	prefix, err := netip.ParsePrefix(text)
	switch {
	case err != nil:
		return "", fmt.Errorf("%s is no address or prefix: write it as 10.1.0.0/16 or [fd00::/8]; names are not looked up", printable(text))
	case prefix.Addr().Is4In6():
		return "", fmt.Errorf("%s is IPv4 written as IPv6: write the IPv4 prefix", printable(text))
	case prefix.Masked() != prefix:
		return "", fmt.Errorf("%s has bits set behind the prefix: write %s", printable(text), prefix.Masked())
	}
	return prefix.String(), nil
}

func parseAddress(text string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(text)
	switch {
	case err != nil:
		return addr, fmt.Errorf("%s is no IP address: names are not looked up, write the address", printable(text))
	case addr.Zone() != "":
		return addr, fmt.Errorf("%s names an interface of the host, which the sandbox does not have: leave out %q", printable(text), "%"+addr.Zone())
	case addr.Is4In6():
		return addr, fmt.Errorf("%s is IPv4 written as IPv6: write %s", printable(text), addr.Unmap())
	}
	return addr, nil
}

func parsePorts(text string) (first, last uint16, err error) {
	from, to, ranged := strings.Cut(text, "-")
	if first, err = parsePort(from); err != nil || !ranged {
		return first, first, err
	}
	if last, err = parsePort(to); err != nil {
		return 0, 0, err
	}
	if last < first {
		return 0, 0, fmt.Errorf("the range ends before it begins: write %d-%d", last, first)
	}
	return first, last, nil
}

// servicePorts are the names that people write for a port, for the hint only:
// /etc/services differs from host to host, and a profile must not.
var servicePorts = map[string]uint16{"http": 80, "https": 443, "dns": 53, "domain": 53, "ssh": 22, "ftp": 21, "git": 9418, "ntp": 123, "smtp": 25}

func parsePort(text string) (uint16, error) {
	if port, known := servicePorts[strings.ToLower(text)]; known {
		return 0, fmt.Errorf("a port is a number: write %d", port)
	}
	port, err := parseWhole(text, 1, 65535)
	if err != nil {
		return 0, fmt.Errorf("a port %w", err)
	}
	return uint16(port), nil
}

// maxIncoming caps the published ports: each takes two descriptors, which all
// travel in one message.
const maxIncoming = 64

func (d *decoder) incoming(n *node, net *Network) {
	net.Incoming = nil
	if len(n.items) > maxIncoming {
		d.errorf(n, "has %d entries, more than %d", len(n.items), maxIncoming)
		return
	}
	taken := map[Incoming]*node{}
	d.each(n, func(item *node) {
		text, ok := d.plainText(item)
		if !ok {
			return
		}
		rule, err := parseIncoming(text)
		if err != nil {
			d.errorf(item, "%s: %v", printable(text), err)
			return
		}
		if first := taken[rule]; first != nil {
			d.errorf(item, "%s is published by %s (%s) already", printable(text), first.key, first.at)
			return
		}
		taken[rule] = item
		rule.Key = item.key
		net.Incoming = append(net.Incoming, rule)
	})
}

// parseIncoming reads PORT or ADDRESS:PORT, the address on the host.
func parseIncoming(text string) (Incoming, error) {
	var rule Incoming
	address, port, err := cutAddress(text)
	if err != nil {
		return rule, err
	}
	if address != "" {
		addr, err := parseAddress(address)
		if err != nil {
			return rule, err
		}
		rule.Address = addr.String()
	}
	rule.Port, err = parsePort(port)
	return rule, err
}

// String is the rule as parseOutgoing reads it.
func (o Outgoing) String() string {
	text := fmt.Sprint(o.First)
	if o.Last != o.First {
		text = fmt.Sprintf("%d-%d", o.First, o.Last)
	}
	if o.Protocol != "" {
		text += "/" + o.Protocol
	}
	return withAddress(o.Prefix, text)
}

// String is the rule as parseIncoming reads it.
func (i Incoming) String() string { return withAddress(i.Address, fmt.Sprint(i.Port)) }

func withAddress(address, rest string) string {
	switch {
	case address == "":
		return rest
	case strings.Contains(address, ":"):
		return "[" + address + "]:" + rest
	}
	return address + ":" + rest
}
