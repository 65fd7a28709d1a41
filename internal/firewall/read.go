// Package firewall finds what in the machine's own packet filter would drop a
// sandbox's traffic, and says what lets it through. It changes nothing.
//
// In nftables a drop in any base chain of a hook is final: Purple's own table
// can accept a packet as often as it likes, and Docker's "policy drop" still
// has it. Read takes the rules from the kernel, Ruleset.Obstacles follows a
// flow through them.
//
// Not looked at: the families bridge, arp and netdev, the hooks before and
// after forward and input, BPF programs, routing, and security modules.
package firewall

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"time"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Ruleset is what filters forwarded and incoming packets in one network
// namespace. Its zero value filters nothing.
type Ruleset struct {
	bases  []base
	tables map[tableID]*table
	// interfaces are the indexes by name, for rules that compare these.
	interfaces map[string]uint32
	legacy     []legacyTable
}

type tableID struct {
	family uint8 // NFPROTO_IPV4, NFPROTO_IPV6 or NFPROTO_INET
	name   string
}

// base is a chain that the kernel calls itself.
type base struct {
	table    tableID
	chain    string
	hook     uint64
	priority int32
	drops    bool // its policy
}

type table struct {
	chains map[string][]rule
	sets   map[string]*set
}

type rule struct {
	handle uint64
	exprs  []expression
}

// expression is a part of a rule; parsed is nil if it is not understood.
type expression struct {
	name   string
	parsed expr.Any
}

// set is a named or anonymous set or map.
type set struct {
	interval bool
	// unread: too large, or of a kind whose elements do not compare as bytes.
	unread   bool
	elements []element
}

type element struct {
	key      []byte
	end      bool // the first key after an interval
	catchAll bool
	verdict  *expr.Verdict
}

// own is Purple's table. Whoever writes it knows what it drops.
var own = tableID{unix.NFPROTO_INET, "purple"}

var families = []uint8{unix.NFPROTO_IPV4, unix.NFPROTO_IPV6, unix.NFPROTO_INET}

// attempts are made at reading rules that somebody changes meanwhile: a
// daemon that starts up changes them a hundred times within a second.
const (
	attempts = 5
	pause    = 20 * time.Millisecond
)

// Read takes the rules of the calling thread's network namespace from the
// kernel. It needs CAP_NET_ADMIN there, starts no process, and takes a few
// milliseconds at most.
func Read() (Ruleset, error) {
	for range attempts {
		r, err := readOnce()
		if !errors.Is(err, errChanged) {
			return r, err
		}
		time.Sleep(pause)
	}
	return Ruleset{}, fmt.Errorf("cannot read the rules of nftables: %w", errChanged)
}

func readOnce() (Ruleset, error) {
	r := Ruleset{tables: map[tableID]*table{}, interfaces: map[string]uint32{}}
	for _, step := range []func() error{r.readTables, r.readChains, r.readRules, r.readSets, r.readInterfaces, r.readLegacy} {
		if err := step(); err != nil {
			return Ruleset{}, err
		}
	}
	return r, nil
}

// dormant is NFT_TABLE_F_DORMANT: the base chains of such a table do nothing.
const dormant = 1

func (r *Ruleset) readTables() error {
	return wrap("tables", dump(unix.NFT_MSG_GETTABLE, unix.NFPROTO_UNSPEC, nil, func(family uint8, b []byte) error {
		id := tableID{family, text(b, unix.NFTA_TABLE_NAME)}
		if slices.Contains(families, family) && id != own && number(b, unix.NFTA_TABLE_FLAGS)&dormant == 0 {
			r.tables[id] = &table{chains: map[string][]rule{}, sets: map[string]*set{}}
		}
		return nil
	}))
}

// readChains keeps the base chains of both hooks, and only their tables.
func (r *Ruleset) readChains() error {
	if len(r.tables) == 0 {
		return nil
	}
	err := dump(unix.NFT_MSG_GETCHAIN, unix.NFPROTO_UNSPEC, nil, func(family uint8, b []byte) error {
		hook := attribute(b, unix.NFTA_CHAIN_HOOK)
		c := base{
			table:    tableID{family, text(b, unix.NFTA_CHAIN_TABLE)},
			chain:    text(b, unix.NFTA_CHAIN_NAME),
			hook:     number(hook, unix.NFTA_HOOK_HOOKNUM),
			priority: int32(number(hook, unix.NFTA_HOOK_PRIORITY)),
			drops:    attribute(b, unix.NFTA_CHAIN_POLICY) != nil && number(b, unix.NFTA_CHAIN_POLICY) == verdictDrop,
		}
		if hook != nil && r.tables[c.table] != nil && (c.hook == unix.NF_INET_FORWARD || c.hook == unix.NF_INET_LOCAL_IN) {
			r.bases = append(r.bases, c)
		}
		return nil
	})
	maps.DeleteFunc(r.tables, func(id tableID, _ *table) bool {
		return !slices.ContainsFunc(r.bases, func(c base) bool { return c.table == id })
	})
	slices.SortFunc(r.bases, func(a, b base) int {
		return cmp.Or(cmp.Compare(a.priority, b.priority), cmp.Compare(a.table.family, b.table.family), cmp.Compare(a.table.name, b.table.name), cmp.Compare(a.chain, b.chain))
	})
	return wrap("chains", err)
}

// readRules takes a table's rules in one go, which is cheaper than asking for
// each chain that a base chain reaches.
func (r *Ruleset) readRules() error {
	for id, t := range r.tables {
		err := dump(unix.NFT_MSG_GETRULE, id.family, appendText(nil, unix.NFTA_RULE_TABLE, id.name), func(family uint8, b []byte) error {
			if name := text(b, unix.NFTA_RULE_TABLE); name != id.name || family != id.family {
				return nil // a kernel that does not filter dumps
			}
			chain := text(b, unix.NFTA_RULE_CHAIN)
			t.chains[chain] = append(t.chains[chain], parseRule(family, b))
			return nil
		})
		if err != nil {
			return wrap("rules", err)
		}
	}
	return nil
}

// parseRule copies what it keeps: the message's buffer is used again.
func parseRule(family uint8, b []byte) rule {
	r := rule{handle: number(b, unix.NFTA_RULE_HANDLE)}
	for _, e := range attributes(slices.Clone(attribute(b, unix.NFTA_RULE_EXPRESSIONS))) {
		r.exprs = append(r.exprs, parseExpression(family, text(e, unix.NFTA_EXPR_NAME), attribute(e, unix.NFTA_EXPR_DATA)))
	}
	return r
}

// understood are the expressions that evaluate.go knows.
var understood = map[string]func() expr.Any{
	"bitwise":   func() expr.Any { return &expr.Bitwise{} },
	"cmp":       func() expr.Any { return &expr.Cmp{} },
	"counter":   func() expr.Any { return &expr.Counter{} },
	"ct":        func() expr.Any { return &expr.Ct{} },
	"immediate": func() expr.Any { return &expr.Immediate{} },
	"log":       func() expr.Any { return &expr.Log{} },
	"lookup":    func() expr.Any { return &expr.Lookup{} },
	"match":     func() expr.Any { return &expr.Match{} },
	"meta":      func() expr.Any { return &expr.Meta{} },
	"objref":    func() expr.Any { return &expr.Objref{} },
	"payload":   func() expr.Any { return &expr.Payload{} },
	"queue":     func() expr.Any { return &expr.Queue{} },
	"range":     func() expr.Any { return &expr.Range{} },
	"reject":    func() expr.Any { return &expr.Reject{} },
	"target":    func() expr.Any { return &expr.Target{} },
}

func parseExpression(family uint8, name string, data []byte) expression {
	e := expression{name: name}
	if name == "immediate" {
		if verdict := parseVerdict(attribute(data, unix.NFTA_IMMEDIATE_DATA)); verdict != nil {
			e.parsed = verdict
			return e
		}
	}
	if parsed := understood[name]; parsed != nil {
		e.parsed = parsed()
		if expr.Unmarshal(family, data, e.parsed) != nil {
			e.parsed = nil
		}
	}
	return e
}

// parseVerdict is nil for data that is none.
func parseVerdict(data []byte) *expr.Verdict {
	b := attribute(data, unix.NFTA_DATA_VERDICT)
	if b == nil {
		return nil
	}
	code := int32(number(b, unix.NFTA_VERDICT_CODE))
	return &expr.Verdict{Kind: expr.VerdictKind(code), Chain: text(b, unix.NFTA_VERDICT_CHAIN)}
}

// maxElements are read of a set. A list of all addresses that ever attacked
// somebody would take longer than the sandbox's start.
const maxElements = 4096

// readSets takes the sets that a rule looks something up in.
func (r *Ruleset) readSets() error {
	for id, t := range r.tables {
		for name := range t.lookups() {
			t.sets[name] = &set{}
		}
		if len(t.sets) == 0 {
			continue
		}
		err := dump(unix.NFT_MSG_GETSET, id.family, appendText(nil, unix.NFTA_SET_TABLE, id.name), func(family uint8, b []byte) error {
			s := t.sets[text(b, unix.NFTA_SET_NAME)]
			if s == nil || family != id.family || text(b, unix.NFTA_SET_TABLE) != id.name {
				return nil
			}
			flags := number(b, unix.NFTA_SET_FLAGS)
			s.interval = flags&unix.NFT_SET_INTERVAL != 0
			s.unread = s.interval && flags&setConcat != 0
			return nil
		})
		if err != nil {
			return wrap("sets", err)
		}
		for name, s := range t.sets {
			if err := s.read(id, name); err != nil {
				return wrap("elements", err)
			}
		}
	}
	return nil
}

// lookups are the names of the sets that rules refer to.
func (t *table) lookups() map[string]bool {
	names := map[string]bool{}
	for _, rules := range t.chains {
		for _, r := range rules {
			for _, e := range r.exprs {
				if l, ok := e.parsed.(*expr.Lookup); ok {
					names[l.SetName] = true
				}
			}
		}
	}
	return names
}

// What golang.org/x/sys lacks of linux/netfilter/nf_tables.h.
const (
	setConcat       = 0x80 // NFT_SET_CONCAT
	elementCatchAll = 0x2  // NFT_SET_ELEM_CATCHALL
	verdictDrop     = 0    // NF_DROP
)

func (s *set) read(id tableID, name string) error {
	if s.unread {
		return nil
	}
	request := appendText(appendText(nil, unix.NFTA_SET_ELEM_LIST_TABLE, id.name), unix.NFTA_SET_ELEM_LIST_SET, name)
	err := dump(unix.NFT_MSG_GETSETELEM, id.family, request, func(_ uint8, b []byte) error {
		for _, e := range attributes(attribute(b, unix.NFTA_SET_ELEM_LIST_ELEMENTS)) {
			s.elements = append(s.elements, parseElement(e))
		}
		if len(s.elements) > maxElements {
			return errEnough
		}
		return nil
	})
	if err == errEnough {
		s.unread, s.elements, err = true, nil, nil
	}
	// In the kernel's order the end of one interval may come after the
	// start of the next, which is the same key.
	slices.SortStableFunc(s.elements, func(a, b element) int {
		if c := slices.Compare(a.key, b.key); c != 0 || a.end == b.end {
			return c
		}
		if a.end {
			return -1
		}
		return 1
	})
	return err
}

func parseElement(b []byte) element {
	flags := number(b, unix.NFTA_SET_ELEM_FLAGS)
	return element{
		key:      slices.Clone(attribute(attribute(b, unix.NFTA_SET_ELEM_KEY), unix.NFTA_DATA_VALUE)),
		end:      flags&unix.NFT_SET_ELEM_INTERVAL_END != 0,
		catchAll: flags&elementCatchAll != 0,
		verdict:  parseVerdict(attribute(b, unix.NFTA_SET_ELEM_DATA)),
	}
}

func (r *Ruleset) readInterfaces() error {
	interfaces, err := net.Interfaces()
	if err != nil {
		return fmt.Errorf("cannot list the network interfaces: %w", err)
	}
	for _, i := range interfaces {
		r.interfaces[i.Name] = uint32(i.Index)
	}
	return nil
}
