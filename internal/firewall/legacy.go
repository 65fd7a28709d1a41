package firewall

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// legacyTable is the table filter of iptables-legacy, which nftables does not
// show. Of its rules only their number is looked at.
type legacyTable struct {
	family Family
	hooks  map[Hook]legacyChain
	chains []string // of the known makers of rules
}

type legacyChain struct{ drops, hasRules bool }

// legacyABI is how one family's table is read: linux/netfilter_ipv4/ip_tables.h
// and linux/netfilter_ipv6/ip6_tables.h.
type legacyABI struct {
	family       Family
	names        string
	domain       int
	level        int
	targetOffset int // of the field in struct ipt_entry, ip6t_entry
}

var legacyABIs = []legacyABI{
	{IPv4, "/proc/thread-self/net/ip_tables_names", unix.AF_INET, unix.SOL_IP, 88},
	{IPv6, "/proc/thread-self/net/ip6_tables_names", unix.AF_INET6, unix.SOL_IPV6, 140},
}

const (
	legacyGetInfo    = 64 // IPT_SO_GET_INFO, IP6T_SO_GET_INFO
	legacyGetEntries = 65
	legacyDrop       = -verdictDrop - 1 // how a standard target says it
)

// legacyInfo is struct ipt_getinfo; the arrays go by hook number.
type legacyInfo struct {
	name       [32]byte
	validHooks uint32
	entry      [5]uint32
	underflow  [5]uint32 // where the policy is
	entries    uint32
	size       uint32
}

// readLegacy asks only for tables that are there: asking loads them.
func (r *Ruleset) readLegacy() error {
	for _, abi := range legacyABIs {
		names, err := os.ReadFile(abi.names)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("cannot read the tables of iptables: %w", err)
		}
		if !slices.Contains(strings.Fields(string(names)), "filter") {
			continue
		}
		t, err := abi.read()
		if err != nil {
			return fmt.Errorf("cannot read the table filter of %s-legacy: %w", iptables(familyName(Flow{Family: abi.family}.nfproto())), err)
		}
		r.legacy = append(r.legacy, t)
	}
	return nil
}

func (abi legacyABI) read() (legacyTable, error) {
	t := legacyTable{family: abi.family, hooks: map[Hook]legacyChain{}}
	fd, err := unix.Socket(abi.domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return t, err
	}
	defer unix.Close(fd)
	var info legacyInfo
	copy(info.name[:], "filter")
	if err := getsockopt(fd, abi.level, legacyGetInfo, unsafe.Slice((*byte)(unsafe.Pointer(&info)), unsafe.Sizeof(info))); err != nil {
		return t, err
	}
	// struct ipt_get_entries: the name, the size, and aligned to 8 the entries.
	const header = 40
	b := make([]byte, header+info.size)
	copy(b, "filter")
	binary.NativeEndian.PutUint32(b[32:], info.size)
	if err := getsockopt(fd, abi.level, legacyGetEntries, b); err == unix.EAGAIN {
		return t, errChanged // its size is another one now
	} else if err != nil {
		return t, err
	}
	entries := b[header:]
	for hook, number := range map[Hook]uint64{Forward: Flow{Hook: Forward}.hook(), Input: Flow{Hook: Input}.hook()} {
		drops, err := abi.policyDrops(entries, int(info.underflow[number]))
		if err != nil {
			return t, err
		}
		t.hooks[hook] = legacyChain{drops, info.entry[number] != info.underflow[number]}
	}
	for _, maker := range []string{"DOCKER-USER", "ufw-", "ufw6-"} {
		if bytes.Contains(entries, []byte(maker)) {
			t.chains = append(t.chains, maker)
		}
	}
	return t, nil
}

// policyDrops reads the verdict of the standard target at the end of a chain,
// which comes after struct xt_entry_target.
func (abi legacyABI) policyDrops(entries []byte, at int) (bool, error) {
	const targetHeader = 32
	if at < 0 || at+abi.targetOffset+2 > len(entries) {
		return false, errors.New("an entry is cut off")
	}
	verdict := at + int(binary.NativeEndian.Uint16(entries[at+abi.targetOffset:])) + targetHeader
	if verdict+4 > len(entries) {
		return false, errors.New("a target is cut off")
	}
	return int32(binary.NativeEndian.Uint32(entries[verdict:])) == legacyDrop, nil
}

func getsockopt(fd, level, option int, b []byte) error {
	length := uint32(len(b))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option), uintptr(unsafe.Pointer(&b[0])), uintptr(unsafe.Pointer(&length)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func (r Ruleset) legacyObstacles(f Flow) []Obstacle {
	var found []Obstacle
	for _, t := range r.legacy {
		chain := t.hooks[f.Hook]
		if t.family != f.Family || !chain.drops && !chain.hasRules {
			continue
		}
		o := Obstacle{Family: familyName(f.nfproto()), Table: "filter", Chain: legacyNames[f.Hook], Certain: !chain.hasRules, Reason: "its policy in iptables-legacy is drop"}
		if !chain.drops {
			o.Reason = "it has rules in iptables-legacy, which Purple cannot read"
		}
		o.Remedy = legacyRemedy(o, f, t.chains)
		found = append(found, o)
	}
	return found
}

var legacyNames = map[Hook]string{Forward: "FORWARD", Input: "INPUT"}

func legacyRemedy(o Obstacle, f Flow, chains []string) string {
	command, sandbox := iptables(o.Family)+"-legacy", f.sandbox()
	switch {
	case f.Hook == Forward && slices.Contains(chains, "DOCKER-USER"):
		return onForward(command+" -I DOCKER-USER", sandbox)
	case len(chains) > 0 && !slices.Contains(chains, "DOCKER-USER"):
		return ufw(f, sandbox)
	case f.Hook == Forward:
		return onForward(command+" -I FORWARD", sandbox)
	}
	command += " -I INPUT -i " + sandbox
	if f.Protocol != "" {
		command += " -p " + f.Protocol
	}
	if f.Port != 0 {
		command += fmt.Sprintf(" --dport %d", f.Port)
	}
	return command + " -j ACCEPT"
}
