package host

import (
	"fmt"
	"testing"
)

func TestParseResolver(t *testing.T) {
	for text, want := range map[string]string{
		"": "[] [] []",
		"nameserver 192.168.1.1\nnameserver 2001:db8::1\nsearch lan example\noptions ndots:2  edns0\n": "[192.168.1.1 2001:db8::1] [] [search lan example options ndots:2 edns0]",
		"# nameserver 1.1.1.1\n;nameserver 2.2.2.2\nnameserver\nsortlist 10.0.0.0\n":                   "[] [] []",
		"nameserver 127.0.0.53\nnameserver ::1\nnameserver 0.0.0.0\nnameserver fe80::1%eth0\n":         "[] [127.0.0.53 ::1 0.0.0.0 fe80::1%eth0] []",
		"nameserver fe80::1\nnameserver ::ffff:10.0.0.1\nnameserver one.one.one.one\n":                 "[10.0.0.1] [fe80::1 one.one.one.one] []",
	} {
		dns := parseResolver("file", text)
		if got := fmt.Sprint(dns.Resolvers, dns.Unreachable, dns.Lines); got != want || dns.File != "file" {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

// The machine's own: what there is to see from here is a loopback interface.
func TestProbeNetwork(t *testing.T) {
	n, err := ProbeNetwork()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range n.Addresses {
		if a.IsLoopback() {
			t.Errorf("%s is an address of the host's network", a)
		}
	}
	for _, p := range n.Taken {
		if p.Bits() == 0 {
			t.Errorf("the default route %s takes every range", p)
		}
	}
}
