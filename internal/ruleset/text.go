package ruleset

import (
	"fmt"
	"net/netip"
	"strings"
)

// Text is the table in nft's own syntax: `nft -f` takes it.
func (t Table) Text() string {
	var out strings.Builder
	fmt.Fprintf(&out, "table inet %s {\n", t.Name)
	for i, s := range t.Sets {
		separate(&out, i > 0)
		s.write(&out)
	}
	for i, c := range t.Chains {
		separate(&out, i > 0 || len(t.Sets) > 0)
		c.write(&out)
	}
	out.WriteString("}\n")
	return out.String()
}

func separate(out *strings.Builder, wanted bool) {
	if wanted {
		out.WriteByte('\n')
	}
}

func (s Set) write(out *strings.Builder) {
	var elements []string
	for _, p := range s.Prefixes {
		elements = append(elements, prefixText(p))
	}
	kind := "ipv4_addr"
	if s.IPv6 {
		kind = "ipv6_addr"
	}
	fmt.Fprintf(out, "\tset %s {\n\t\ttype %s\n\t\tflags interval\n\t\telements = { %s }\n\t}\n", s.Name, kind, strings.Join(elements, ",\n\t\t\t     "))
}

func (c Chain) write(out *strings.Builder) {
	fmt.Fprintf(out, "\tchain %s {\n", c.Name)
	if c.Hook != "" {
		fmt.Fprintf(out, "\t\ttype filter hook %s priority filter; policy drop;\n", c.Hook)
	}
	for _, r := range c.Rules {
		fmt.Fprintf(out, "\t\t%s\n", r.text())
	}
	out.WriteString("\t}\n")
}

func (r Rule) text() string {
	var words []string
	for _, s := range r.Statements {
		words = append(words, s.nft())
	}
	if r.Comment != "" {
		words = append(words, fmt.Sprintf("comment %q", r.Comment))
	}
	return strings.Join(words, " ")
}

// prefixText writes a single address without its length, as nft does.
func prefixText(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

func addressFamily(ipv6 bool) string {
	if ipv6 {
		return "ip6"
	}
	return "ip"
}

func (Established) nft() string   { return "ct state established,related" }
func (InLoopback) nft() string    { return `iifname "lo"` }
func (OutLoopback) nft() string   { return `oifname "lo"` }
func (ForeignSource) nft() string { return "fib saddr type != local" }
func (ListenerReport) nft() string {
	return "icmpv6 type mld2-listener-report"
}
func (NeighbourDiscovery) nft() string {
	return "icmpv6 type nd-neighbor-solicit-nd-neighbor-advert"
}
func (TCP) nft() string { return "meta l4proto tcp" }
func (s To) nft() string {
	return addressFamily(s.Prefix.Addr().Is6()) + " daddr " + prefixText(s.Prefix)
}
func (s ToSet) nft() string { return addressFamily(s.IPv6) + " daddr @" + s.Set }
func (s Ports) nft() string {
	if s.First == s.Last {
		return fmt.Sprintf("%s dport %d", s.Protocol, s.First)
	}
	return fmt.Sprintf("%s dport %d-%d", s.Protocol, s.First, s.Last)
}
func (Accept) nft() string { return "accept" }
func (Drop) nft() string   { return "drop" }
func (Reject) nft() string { return "reject with icmpx admin-prohibited" }
func (Reset) nft() string  { return "reject with tcp reset" }
func (s Log) nft() string  { return fmt.Sprintf("log group %d", s.Group) }
func (s Goto) nft() string { return "goto " + s.Chain }
