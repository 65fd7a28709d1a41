package confine

import (
	"bufio"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/purple-sandbox/purple/journal"
	"golang.org/x/sys/unix"
)

// The rules that Purple will make, as far as the log goes. What the kernel
// sends on its own (neighbour discovery, multicast reports) is no denial of
// the command's.
const denyAll = `table inet t {
	chain output {
		type filter hook output priority 0; policy drop;
		ct state established,related accept
		oif lo accept
		icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, mld-listener-report, mld2-listener-report } accept
		tcp dport 443 accept
		counter log group 1 prefix "purple"
		meta l4proto tcp reject with tcp reset
		reject with icmpx admin-prohibited
	}
}`

const dummyNetwork = `set -e
ip link set lo up
ip link add up0 type veth peer name peer0
ip addr add 10.9.0.1/24 dev up0
ip -6 addr add fd09::1/64 dev up0 nodad
ip link set up0 up
ip link set peer0 up
ip route add default via 10.9.0.2
ip -6 route add default via fd09::2
ip neigh add 10.9.0.2 lladdr 02:00:00:00:00:02 dev up0
ip -6 neigh add fd09::2 lladdr 02:00:00:00:00:02 dev up0
nft -f - <<'END'
` + denyAll + `
END
`

// inNetns runs a child in a network namespace of its own: as root, or as the
// root of a user namespace.
func inNetns(t *testing.T, name string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "CONFINE_TEST_CHILD="+name)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, unix.EPERM) && os.Getuid() != 0 {
		t.Fatal("needs root: this machine lets only root make a network namespace")
	}
	if err != nil {
		t.Fatalf("child %s: %v\n%s", name, err, out)
	}
	t.Logf("%s", out)
}

func TestDenialsOfRealConnections(t *testing.T) { inNetns(t, "denials") }

func TestDenialsOfAFloodAreCountedExactly(t *testing.T) { inNetns(t, "flood") }

func TestDenialsLostLastAreCounted(t *testing.T) { inNetns(t, "burst") }

func TestOpenDenialsNeedsPrivileges(t *testing.T) { inNetns(t, "unprivileged") }

// counterReader prints the rules' own counter when its standard input ends: it
// is started with the privileges that the test then drops.
type counterReader struct {
	stdin interface{ Close() error }
	lines *bufio.Reader
}

func startCounterReader() (*counterReader, error) {
	cmd := exec.Command("sh", "-c", "read x; nft list ruleset | grep -o 'counter packets [0-9]*'")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return &counterReader{stdin, bufio.NewReader(stdout)}, cmd.Start()
}

func (c *counterReader) packets() (uint64, error) {
	c.stdin.Close()
	line, _ := c.lines.ReadString('\n')
	return strconv.ParseUint(regexp.MustCompile(`\d+`).FindString(line), 10, 64)
}

// denialsRun is one run in the namespace, with the supervisor's privileges
// dropped once the log is open.
type denialsRun struct {
	denials *denials
	events  []journal.Event
	counter *counterReader
}

func startDenialsRun(setUp func(*denials) error) (*denialsRun, error) {
	cmd := exec.Command("sh", "-c", dummyNetwork)
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("cannot set up the network: %w\n%s", err, out)
	}
	d, err := openOwnDenials()
	if err != nil {
		return nil, err
	}
	if _, err := openOwnDenials(); err == nil || !strings.Contains(err.Error(), "another program reads log group 1") {
		return nil, fmt.Errorf("a second reader: %v", err)
	}
	r := &denialsRun{denials: d}
	if r.counter, err = startCounterReader(); err != nil {
		return nil, err
	}
	if err := dropProcessCapabilities(0); err != nil {
		return nil, err
	}
	if err := setUp(d); err != nil {
		return nil, err
	}
	d.start(journal.Run{Unit: "u", Profile: "p", RunID: "r"}, func(e journal.Event) error {
		r.events = append(r.events, e)
		return nil
	})
	return r, nil
}

// end compares the total with the rules' own count.
func (r *denialsRun) end() (journal.DenialsSummary, []journal.ConnectionDenied, error) {
	begin := time.Now()
	total, destinations, err := r.denials.end()
	fmt.Printf("end took %v: %+v, %d events\n", time.Since(begin).Round(time.Microsecond), total, len(r.events))
	if err != nil {
		return total, nil, err
	}
	counted, err := r.counter.packets()
	if err == nil && counted != total.Total {
		err = fmt.Errorf("the rules refused %d packets", counted)
	}
	return total, destinations, err
}

func childStatus(err error) int {
	if err == nil {
		return 0
	}
	fmt.Println(err)
	return 1
}

func sockaddr(to string) (family int, sa unix.Sockaddr) {
	a := netip.MustParseAddrPort(to)
	if a.Addr().Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// attempt sends one packet, by connecting or by sending, and wants an errno.
func attempt(kind, protocol int, to string, payload []byte, want ...error) error {
	family, sa := sockaddr(to)
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return fmt.Errorf("%s: %w", to, err)
	}
	defer unix.Close(fd)
	if kind == unix.SOCK_STREAM {
		err = unix.Connect(fd, sa)
	} else {
		err = unix.Sendto(fd, payload, 0, sa)
	}
	for _, w := range want {
		if errors.Is(err, w) {
			return nil
		}
	}
	return fmt.Errorf("protocol %d to %s: %v, want %v", protocol, to, err, want)
}

func attempts() error {
	echo := []byte{8, 0, 0, 0, 0, 0, 0, 1}
	echo6 := []byte{128, 0, 0, 0, 0, 0, 0, 1}
	var errs []error
	for range 3 {
		errs = append(errs,
			attempt(unix.SOCK_STREAM, 0, "192.0.2.7:25", nil, unix.ECONNREFUSED),
			attempt(unix.SOCK_STREAM, 0, "[2001:db8::7]:25", nil, unix.ECONNREFUSED),
			attempt(unix.SOCK_STREAM, 0, "[::ffff:192.0.2.7]:25", nil, unix.ECONNREFUSED),
			attempt(unix.SOCK_DGRAM, 0, "192.0.2.7:123", []byte("x"), nil, unix.EPERM),
			attempt(unix.SOCK_DGRAM, 0, "[2001:db8::7]:123", []byte("x"), nil, unix.EPERM),
			attempt(unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE, "192.0.2.7:123", []byte("x"), nil, unix.EPERM, unix.EPROTONOSUPPORT),
			// Allowed, so no denial.
			attempt(unix.SOCK_DGRAM, 0, "127.0.0.1:9", []byte("x"), nil),
		)
	}
	errs = append(errs,
		attempt(unix.SOCK_DGRAM, unix.IPPROTO_ICMP, "192.0.2.7:0", echo, nil, unix.EPERM),
		attempt(unix.SOCK_DGRAM, unix.IPPROTO_ICMPV6, "[2001:db8::7]:0", echo6, nil, unix.EPERM),
		// 30 fragments on the wire, one packet for the rules.
		attempt(unix.SOCK_DGRAM, 0, "192.0.2.7:4000", make([]byte, 40000), nil, unix.EPERM),
	)
	return errors.Join(errs...)
}

func denialsChild([]string) int {
	// Before the privileges are gone: unprivileged pings.
	_ = os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 0"), 0)
	r, err := startDenialsRun(func(*denials) error { return nil })
	if err != nil {
		return childStatus(err)
	}
	if err := attempts(); err != nil {
		return childStatus(err)
	}
	total, destinations, err := r.end()
	if err != nil {
		return childStatus(err)
	}
	var got strings.Builder
	for _, e := range destinations {
		fmt.Fprintf(&got, "%s %s>%s %d/%d ×%d\n", e.Protocol, e.Source, e.Destination, e.Port, e.ICMPType, e.Count)
	}
	const want = `tcp 10.9.0.1>192.0.2.7 25/0 ×6
tcp fd09::1>2001:db8::7 25/0 ×3
udp 10.9.0.1>192.0.2.7 123/0 ×3
udp fd09::1>2001:db8::7 123/0 ×3
udplite 10.9.0.1>192.0.2.7 123/0 ×3
icmp 10.9.0.1>192.0.2.7 0/8 ×1
icmpv6 fd09::1>2001:db8::7 0/128 ×1
udp 10.9.0.1>192.0.2.7 4000/0 ×1
`
	if got.String() != want || total.Total != 21 || total.Lost != 0 || total.Unreadable != 0 {
		return childStatus(fmt.Errorf("got\n%swant\n%s", got.String(), want))
	}
	// A first event each, a final one for the five that went on, the summary.
	if len(r.events) != 8+5+1 {
		return childStatus(fmt.Errorf("%d events: %v", len(r.events), r.events))
	}
	return 0
}

// flood sends n datagrams to many ports as fast as it can.
func flood(n int) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	begin := time.Now()
	for i := range n {
		to := &unix.SockaddrInet4{Addr: [4]byte{192, 0, 2, 7}, Port: 1000 + i%1000}
		if err := unix.Sendto(fd, []byte("x"), 0, to); err != nil && !errors.Is(err, unix.EPERM) &&
			!errors.Is(err, unix.EHOSTUNREACH) && !errors.Is(err, unix.EACCES) {
			return err
		}
	}
	fmt.Printf("%d sends, %.0f a second\n", n, float64(n)/time.Since(begin).Seconds())
	return nil
}

func floodChild([]string) int {
	r, err := startDenialsRun(func(*denials) error { return nil })
	if err != nil {
		return childStatus(err)
	}
	if err := flood(50000); err != nil {
		return childStatus(err)
	}
	total, _, err := r.end()
	if err == nil && (total.Total < 50000 || total.Destinations != maxDestinations) {
		err = errors.New("not all were counted")
	}
	if err == nil && len(r.events) > 2*maxDestinations+1 {
		err = errors.New("too many events")
	}
	return childStatus(err)
}

// burstChild sends more than the socket holds before anything is read, so that
// those that are lost are the last, and no number tells.
func burstChild([]string) int {
	r, err := startDenialsRun(func(*denials) error { return flood(30000) })
	if err != nil {
		return childStatus(err)
	}
	total, _, err := r.end()
	if err == nil && total.Lost == 0 {
		err = errors.New("nothing was lost: the test shows nothing")
	}
	return childStatus(err)
}

func unprivilegedChild([]string) int {
	if err := dropProcessCapabilities(0); err != nil {
		return childStatus(err)
	}
	if _, err := openOwnDenials(); !errors.Is(err, unix.EPERM) {
		return childStatus(fmt.Errorf("without CAP_NET_ADMIN: %v", err))
	}
	return 0
}

func openOwnDenials() (*denials, error) {
	fd, err := netfilterSocket()
	if err != nil {
		return nil, err
	}
	return openDenials(fd)
}
