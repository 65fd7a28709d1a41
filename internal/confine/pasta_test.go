package confine

import "testing"

// As Linux 6.18 has them, by pasta and without it.
func TestDefaultRoutes(t *testing.T) {
	const heading = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
	four := map[string]bool{
		"":      false,
		heading: false,
		heading + "eth0\t0000D50A\t00000000\t0001\t0\t0\t0\t00F0FFFF\t0\t0\t0\n": false,
		heading + "eth0\t00000000\t0100D50A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n": true,
		heading + "eth0\t00000000\t0100D50A\t0002\t0\t0\t0\t00000000\t0\t0\t0\n": false, // down
		heading + "tun0\t00000000\t00000000\t0001\t0\t0\t0\t00000080\t0\t0\t0\n": false, // 0.0.0.0/1
	}
	for text, want := range four {
		if got := hasDefault4(text); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
	const zero = "00000000000000000000000000000000"
	six := map[string]bool{
		"": false,
		zero + " 00 " + zero + " 00 " + zero + " ffffffff 00000001 00000000 00200200       lo\n":                          false,
		zero + " 00 " + zero + " 00 fd7075720ad500000000000000000001 00000400 00000001 00000000 00000003     eth0\n":      true,
		zero + " 00 " + zero + " 00 fd7075720ad500000000000000000001 00000400 00000001 00000000 00000002     eth0\n":      false,
		"fd7075720ad500000000000000000000 40 " + zero + " 00 " + zero + " 00000100 00000001 00000000 00000001     eth0\n": false,
	}
	for text, want := range six {
		if got := hasDefault6(text); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func TestUsableAddress(t *testing.T) {
	const lo = "00000000000000000000000000000001 01 80 10 80       lo\n"
	for text, want := range map[string]bool{
		"": false,
		lo: false,
		lo + "fe80000000000000d8a9f6fffe3bc5e1 02 40 20 80     eth0\n": false, // of the link
		lo + "fd7075720ad500000000000000000002 02 40 00 c0     eth0\n": false, // tentative
		lo + "fd7075720ad500000000000000000002 02 40 00 80     eth0\n": true,
		lo + "fd7075720ad500000000000000000002 02 40 00 82     eth0\n": true, // without the look for others
	} {
		if got := hasAddress6(text); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}
