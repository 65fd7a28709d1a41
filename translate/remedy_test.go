package translate

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// Every entry that is suggested, written into the profile, lets the flow pass.
func TestNetworkRemediesWork(t *testing.T) {
	before := mustBuild(t, filtered, networked).Network
	for _, c := range []struct {
		protocol, to string
		port         uint16
		want         string // empty: nothing allows it
	}{
		{"tcp", "93.184.216.34", 8200, "8200/tcp"},
		{"udp", "93.184.216.34", 8050, "8050/udp"},
		{"tcp", "2606:2800::1", 22, "22/tcp"},
		{"tcp", "10.0.0.1", 443, "10.0.0.1:443/tcp"},
		{"tcp", "192.168.1.7", 5432, "192.168.1.7:5432/tcp"}, // the host's own
		{"tcp", "169.254.169.254", 80, "169.254.169.254:80/tcp"},
		{"udp", "fd00:2::5", 443, "[fd00:2::5]:443/udp"},
		{"tcp", "::ffff:10.0.0.1", 443, ""},
		{"tcp", "127.0.0.1", 443, ""},
		{"icmp", "93.184.216.34", 0, ""},
		{"sctp", "93.184.216.34", 443, ""},
		{"tcp", "93.184.216.34", 0, ""},
		{"tcp", "93.184.216.34", 443, ""}, // allowed: denied for a made-up source
	} {
		to := netip.MustParseAddr(c.to)
		remedy := before.Remedy(c.protocol, to, c.port)
		got, ok := remedy.Allow, remedy.Never == ""
		if got != c.want || ok != (c.want != "") {
			t.Errorf("%s to %s port %d: %q, want %q", c.protocol, c.to, c.port, got, c.want)
		}
		if !ok {
			continue
		}
		if v := verdict(t, before.Rules, to, c.protocol, c.port); v != "ruleset.Goto" {
			t.Errorf("%s: it was not denied: %s", c.to, v)
		}
		mended := strings.Replace(filtered, "    - 53\n", fmt.Sprintf("    - 53\n    - %q\n", got), 1)
		after := mustBuild(t, mended, networked).Network
		if v := verdict(t, after.Rules, to, c.protocol, c.port); v != "ruleset.Accept" {
			t.Errorf("%s: after %s it is %s", c.to, got, v)
		}
	}
}
