package firewall

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// network is a sandbox, the machine that it runs on, and a server beyond it.
type network struct{ sandbox, router, server *namespace }

func newNetwork(t *testing.T) network {
	n := network{newNamespace(t), newNamespace(t), newNamespace(t)}
	n.router.script(t, fmt.Sprintf(`
		ip link add purple0 type bridge
		ip link add inside type veth peer name eth0 netns %d
		ip link add eth0 type veth peer name eth0 netns %d
		ip link set inside master purple0
		ip link set inside up
		ip address add 10.77.0.1/24 dev purple0
		ip link set purple0 up
		ip address add 203.0.113.254/24 dev eth0
		ip link set eth0 up`, n.sandbox.tid, n.server.tid))
	n.router.do(func() {
		if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
			t.Error(err)
		}
	})
	n.sandbox.script(t, `
		ip address add 10.77.0.2/24 dev eth0
		ip link set eth0 up
		ip route add default via 10.77.0.1`)
	n.server.script(t, `
		ip address add 203.0.113.1/24 dev eth0
		ip link set eth0 up`)
	// As Purple's own table does it.
	n.router.command(t, "table inet purple { chain nat { type nat hook postrouting priority 100; oifname eth0 masquerade; }; chain forward { type filter hook forward priority -10; policy accept; }; }\n", "nft", "-f", "-")
	n.listen(t)
	return n
}

func (n network) listen(t *testing.T) {
	n.server.do(func() {
		l, err := net.Listen("tcp4", "203.0.113.1:443")
		if err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(func() { l.Close() })
	})
}

// passes tells whether a connection comes about: both directions.
func (n network) passes(t *testing.T) bool {
	var err error
	n.sandbox.do(func() { err = connect() })
	if err != nil && !errors.Is(err, unix.EHOSTUNREACH) && !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINPROGRESS) {
		t.Errorf("not the filter's doing: %v", err)
	}
	return err == nil
}

// connect stays on its thread, which net.Dial need not. A connection whose
// replies are dropped does not come about either.
func connect() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	timeout := unix.NsecToTimeval(int64(400 * time.Millisecond))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &timeout); err != nil {
		return err
	}
	return unix.Connect(fd, &unix.SockaddrInet4{Port: 443, Addr: [4]byte{203, 0, 113, 1}})
}

// TestPackets compares what Obstacles says with what becomes of a connection.
func TestPackets(t *testing.T) {
	cases := []struct{ name, fixture, more string }{
		{"nothing", "", ""},
		{"admin", "admin-drop", ""},
		{"admin, only the way out", "admin-drop", `nft insert rule inet filter forward iifname purple0 accept`},
		{"admin, only replies", "admin-drop", `nft insert rule inet filter forward oifname purple0 ct state established,related accept`},
		{"admin, another interface", "admin-drop", `
			nft insert rule inet filter forward iifname docker0 accept
			nft insert rule inet filter forward oifname docker0 accept`},
		{"admin, remedy", "admin-drop", adminRemedy},
		{"Docker", "docker", ""},
		{"Docker, remedy", "docker", `
			nft insert rule ip filter DOCKER-USER iifname purple0 accept
			nft insert rule ip filter DOCKER-USER oifname purple0 ct state related,established accept`},
		{"ufw", "ufw", ""},
		{"ufw, remedy", "ufw", `nft add rule ip filter ufw-user-forward iifname purple0 counter accept`},
		{"firewalld", "firewalld", ""},
		{"firewalld, remedy", "firewalld", `nft insert rule inet firewalld filter_FORWARD_ZONES iifname purple0 goto filter_FWD_trusted`},
		{"one accepts, another drops", "admin-drop", adminRemedy + "\n" + `
			nft add table ip late
			nft add chain ip late forward '{ type filter hook forward priority 50; }'
			nft add rule ip late forward tcp dport { 80, 443 } reject`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n := newNetwork(t)
			if c.fixture != "" {
				load(t, n.router, c.fixture)
			}
			n.router.script(t, c.more)
			rules := n.router.read(t)
			found := append(rules.Obstacles(out), rules.Obstacles(reply)...)
			if found != nil && !slices.ContainsFunc(found, func(o Obstacle) bool { return o.Certain }) {
				t.Errorf("not certain: %s", say(found))
			}
			if passes := n.passes(t); passes != (found == nil) {
				t.Errorf("the connection comes about: %v, but %q", passes, say(found))
			}
		})
	}
}
