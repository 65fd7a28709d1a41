package firewall

import (
	"bytes"
	"encoding/binary"
	"slices"

	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// truth is whether a rule matches; maybe is where something is not known.
type truth uint8

const (
	no truth = iota
	maybe
	yes
)

func (t truth) not() truth { return yes - t }

func truthOf(b bool) truth {
	if b {
		return yes
	}
	return no
}

// value is bytes of which some bits may not be known: known has a 1 for each
// that is.
type value struct{ bits, known []byte }

func known(b ...byte) value {
	return value{b, bytes.Repeat([]byte{0xff}, len(b))}
}

func unknown(n int) value {
	return value{make([]byte, n), make([]byte, n)}
}

func known32(n uint32) value {
	return known(binary.NativeEndian.AppendUint32(nil, n)...)
}

// equals compares as many bytes as data has.
func (v value) equals(data []byte) truth {
	all := yes
	for i, b := range data {
		if i >= len(v.bits) || (v.bits[i]^b)&v.known[i] != 0 {
			return no
		}
		if v.known[i] != 0xff {
			all = maybe
		}
	}
	return all
}

func (v value) isKnown() bool {
	return !slices.ContainsFunc(v.known, func(k byte) bool { return k != 0xff })
}

// registers are those that the expressions of a rule hand values on in: 16 of
// four bytes.
type registers struct{ bits, known [64]byte }

// offset of a register: the kernel numbers them as four of 16 bytes (1 to 4)
// and as 16 of four bytes (from 8).
func (r *registers) offset(register uint32) int {
	switch {
	case register >= unix.NFT_REG_1 && register <= unix.NFT_REG_4:
		return int(register-unix.NFT_REG_1) * 16
	case register >= unix.NFT_REG32_00 && register <= unix.NFT_REG32_15:
		return int(register-unix.NFT_REG32_00) * 4
	}
	return len(r.bits)
}

// set pads with zeros to whole registers, as the kernel does.
func (r *registers) set(register uint32, v value) {
	at := r.offset(register)
	padding := align(len(v.bits)) - len(v.bits)
	copy(r.bits[at:], append(slices.Clone(v.bits), make([]byte, padding)...))
	copy(r.known[at:], append(slices.Clone(v.known), bytes.Repeat([]byte{0xff}, padding)...))
}

func (r *registers) get(register uint32, n int) value {
	at := r.offset(register)
	end := min(at+n, len(r.bits))
	return value{r.bits[at:end], r.known[at:end]}
}

func (r *registers) forget() { *r = registers{} }

// packet is what is known of a flow's packets, as nftables sees them.
type packet struct {
	meta      map[expr.MetaKey]value
	ct        map[expr.CtKey]value
	network   value
	transport value
	state     uint32 // 0: not known
	protocol  uint8  // 0: not known
	port      uint16 // 0: not known
}

var protocols = map[string]uint8{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP}

// The bits are those of NF_CT_STATE_BIT, which ipt_conntrack uses too.
var states = map[State]uint32{Established: 2, New: 8}

// destinationNAT is IPS_DST_NAT.
const destinationNAT = 0x20

func newPacket(f Flow, interfaces map[string]uint32) packet {
	p := packet{network: unknown(40), transport: unknown(20), state: states[f.State], protocol: protocols[f.Protocol], port: f.Port}
	in, inIndex := interfaceValues(f.In, interfaces)
	out, outIndex := interfaceValues(f.Out, interfaces)
	if f.Hook == Input {
		out, outIndex = known(make([]byte, unix.IFNAMSIZ)...), known32(0)
	}
	etherType := known(0x08, 0x00)
	if f.Family == IPv6 {
		etherType = known(0x86, 0xdd)
	}
	p.meta = map[expr.MetaKey]value{
		expr.MetaKeyIIFNAME: in, expr.MetaKeyIIF: inIndex, expr.MetaKeyOIFNAME: out, expr.MetaKeyOIF: outIndex,
		expr.MetaKeyNFPROTO: known(f.nfproto()), expr.MetaKeyPROTOCOL: etherType,
	}
	// Bit by bit: a flow that nobody redirects can still be masqueraded.
	status := unknown(4)
	copy(status.known, known32(destinationNAT).bits)
	p.ct = map[expr.CtKey]value{expr.CtKeySTATUS: status}
	if p.state != 0 {
		p.ct[expr.CtKeySTATE] = known32(p.state)
	}
	p.fillHeaders(f)
	return p
}

// noIndex is what no rule compares with: one of an interface that is not there
// yet has not been given to any other.
const noIndex = 1<<31 - 1

func interfaceValues(name string, interfaces map[string]uint32) (byName, index value) {
	if name == "" {
		return unknown(unix.IFNAMSIZ), unknown(4)
	}
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	number, ok := interfaces[name]
	if !ok {
		number = noIndex
	}
	return known(padded...), known32(number)
}

// fillHeaders writes what is known into the packet's headers. IPv6 extension
// headers are taken to be absent.
func (p *packet) fillHeaders(f Flow) {
	protocolAt, sourceAt, destinationAt := 9, 12, 16
	if f.Family == IPv6 {
		protocolAt, sourceAt, destinationAt = 6, 8, 24
	}
	if p.protocol != 0 {
		p.meta[expr.MetaKeyL4PROTO] = known(p.protocol)
		p.network.write(protocolAt, []byte{p.protocol})
	}
	p.network.write(sourceAt, f.Source.AsSlice())
	p.network.write(destinationAt, f.Destination.AsSlice())
	if p.port != 0 {
		p.transport.write(2, binary.BigEndian.AppendUint16(nil, p.port))
	}
}

func (v value) write(at int, b []byte) {
	copy(v.bits[at:], b)
	copy(v.known[at:], bytes.Repeat([]byte{0xff}, len(b)))
}

// matches takes one expression's step and tells whether the rule goes on.
func (p packet) matches(x expression, regs *registers, sets map[string]*set) truth {
	switch x := x.parsed.(type) {
	case *expr.Counter, *expr.Log, *expr.Target:
		return yes
	case *expr.Objref:
		return objref(x)
	case *expr.Match:
		return p.xtables(x)
	case *expr.Cmp:
		return compare(regs.get(x.Register, len(x.Data)), x.Op, x.Data)
	case *expr.Range:
		return between(x, regs)
	case *expr.Lookup:
		return lookup(x, regs, sets)
	case *expr.Meta, *expr.Ct, *expr.Payload, *expr.Bitwise, *expr.Immediate:
		p.load(x, regs)
		return yes
	}
	if x.name == "notrack" || x.name == "last" || x.name == "dup" {
		return yes
	}
	// It may write into any register.
	regs.forget()
	return maybe
}

// load is the expressions that always match and write a register.
func (p packet) load(x expr.Any, regs *registers) {
	switch x := x.(type) {
	case *expr.Meta:
		if !x.SourceRegister {
			regs.set(x.Register, orUnknown(p.meta[x.Key], unix.IFNAMSIZ))
		}
	case *expr.Ct:
		if !x.SourceRegister {
			regs.set(x.Register, orUnknown(p.ct[x.Key], unix.IFNAMSIZ))
		}
	case *expr.Payload:
		if x.OperationType == expr.PayloadLoad {
			regs.set(x.DestRegister, p.header(x))
		}
	case *expr.Bitwise:
		regs.set(x.DestRegister, bitwise(x, regs.get(x.SourceRegister, int(x.Len))))
	case *expr.Immediate:
		regs.set(x.Register, known(x.Data...))
	}
}

func orUnknown(v value, n int) value {
	if v.bits == nil {
		return unknown(n)
	}
	return v
}

// header is the bytes that a payload expression loads.
func (p packet) header(x *expr.Payload) value {
	var from value
	switch x.Base {
	case expr.PayloadBaseNetworkHeader:
		from = p.network
	case expr.PayloadBaseTransportHeader:
		from = p.transport
	}
	n := min(int(x.Len), 64)
	if end := int(x.Offset) + n; end <= len(from.bits) {
		return value{from.bits[x.Offset:end], from.known[x.Offset:end]}
	}
	return unknown(n)
}

func bitwise(x *expr.Bitwise, v value) value {
	result := unknown(len(v.bits))
	// Shifts, and the operations on two registers, have no mask.
	if len(x.Mask) != len(v.bits) || len(x.Xor) != len(v.bits) {
		return result
	}
	for i := range v.bits {
		result.bits[i] = v.bits[i]&x.Mask[i] ^ x.Xor[i]
		result.known[i] = v.known[i] | ^x.Mask[i]
	}
	return result
}

func compare(v value, op expr.CmpOp, data []byte) truth {
	switch {
	case op == expr.CmpOpEq:
		return v.equals(data)
	case op == expr.CmpOpNeq:
		return v.equals(data).not()
	case !v.isKnown():
		return maybe
	}
	order := bytes.Compare(v.bits, data)
	switch op {
	case expr.CmpOpLt:
		return truthOf(order < 0)
	case expr.CmpOpLte:
		return truthOf(order <= 0)
	case expr.CmpOpGt:
		return truthOf(order > 0)
	case expr.CmpOpGte:
		return truthOf(order >= 0)
	}
	return maybe
}

func between(x *expr.Range, regs *registers) truth {
	v := regs.get(x.Register, len(x.FromData))
	if !v.isKnown() {
		return maybe
	}
	inside := truthOf(bytes.Compare(v.bits, x.FromData) >= 0 && bytes.Compare(v.bits, x.ToData) <= 0)
	if x.Op == expr.CmpOpNeq {
		return inside.not()
	}
	return inside
}

// objref is a named counter or helper, which always match; quotas and limits
// run out.
func objref(x *expr.Objref) truth {
	if x.Type == unix.NFT_OBJECT_COUNTER || x.Type == unix.NFT_OBJECT_CT_HELPER {
		return yes
	}
	return maybe
}

func lookup(x *expr.Lookup, regs *registers, sets map[string]*set) truth {
	s := sets[x.SetName]
	if x.IsDestRegSet {
		regs.set(x.DestRegister, unknown(16)) // a map's data
	}
	if s == nil || s.unread {
		return maybe
	}
	_, found := s.find(regs, x.SourceRegister)
	if x.Invert {
		return found.not()
	}
	return found
}

// find is the elements that the register's value may be, and whether it is one.
func (s *set) find(regs *registers, register uint32) (elements []element, found truth) {
	if s.interval {
		return s.findInterval(regs, register)
	}
	var other []element
	for _, el := range s.elements {
		if el.catchAll {
			other = append(other, el)
			continue
		}
		if t := regs.get(register, len(el.key)).equals(el.key); t != no {
			elements, found = append(elements, el), max(found, t)
		}
	}
	if found != yes && other != nil {
		return append(elements, other...), yes
	}
	return elements, found
}

// findInterval goes by the last bound that is not above the value: the value
// is in an interval if that one starts there.
func (s *set) findInterval(regs *registers, register uint32) ([]element, truth) {
	var other, last []element
	for _, el := range s.elements {
		if el.catchAll {
			other = append(other, el)
			continue
		}
		v := regs.get(register, len(el.key))
		if !v.isKnown() {
			starts := slices.DeleteFunc(slices.Clone(s.elements), func(el element) bool { return el.end })
			if other != nil {
				return starts, yes
			}
			return starts, maybe
		}
		if bytes.Compare(el.key, v.bits) > 0 {
			break
		}
		last = []element{el}
	}
	if last != nil && !last[0].end {
		return last, yes
	}
	return other, truthOf(other != nil)
}

// xtables is a match of iptables-nft. Its newer versions write most of them as
// expressions of nftables, but not the state.
func (p packet) xtables(m *expr.Match) truth {
	switch info := m.Info.(type) {
	case *xt.Comment:
		return yes
	case *xt.ConntrackMtinfo1:
		return p.conntrack(info.ConntrackMtinfoBase, uint32(info.StateMask))
	case *xt.ConntrackMtinfo2:
		return p.conntrack(info.ConntrackMtinfoBase, uint32(info.StateMask))
	case *xt.ConntrackMtinfo3:
		return p.conntrack(info.ConntrackMtinfoBase, uint32(info.StateMask))
	case *xt.Tcp:
		other := info.SrcPorts != anyPort || info.Option != 0 || info.FlagsMask != 0
		return p.ports(unix.IPPROTO_TCP, info.DstPorts, info.InvFlags&xt.TcpInvDestPorts != 0, other)
	case *xt.Udp:
		return p.ports(unix.IPPROTO_UDP, info.DstPorts, info.InvFlags&xt.UdpInvDestPorts != 0, info.SrcPorts != anyPort)
	}
	return maybe
}

func (p packet) conntrack(info xt.ConntrackMtinfoBase, mask uint32) truth {
	const state = uint16(xt.ConntrackState | xt.ConntrackStateAlias)
	if info.MatchFlags&state == 0 || p.state == 0 {
		return maybe
	}
	t := truthOf(mask&p.state != 0)
	if info.InvertFlags&state != 0 {
		t = t.not()
	}
	if info.MatchFlags&^state != 0 {
		return min(t, maybe) // it asks for more
	}
	return t
}

var anyPort = [2]uint16{0, 65535}

// ports is the match -m tcp or -m udp; other tells that it asks for more than
// the destination port.
func (p packet) ports(protocol uint8, ports [2]uint16, inverted, other bool) truth {
	if p.protocol != 0 && p.protocol != protocol {
		return no
	}
	t := maybe
	if p.port != 0 {
		t = truthOf(ports[0] <= p.port && p.port <= ports[1])
	} else if ports == anyPort {
		t = yes
	}
	if inverted {
		t = t.not()
	}
	if other || p.protocol == 0 {
		t = min(t, maybe)
	}
	return t
}
