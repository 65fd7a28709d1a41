package confine

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// A peer that goes without a word does not keep one of the places for good.
func TestSilentPeersAreNoticed(t *testing.T) {
	server, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	listener, err := server.File()
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	client, err := net.Dial("tcp4", server.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	outside, err := accept(listener)
	if err != nil {
		t.Fatal(err)
	}
	defer outside.Close()
	err = control(outside, func(fd int) error {
		alive, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE)
		if alive != 1 {
			t.Errorf("SO_KEEPALIVE is %d", alive)
		}
		idle, _ := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE)
		if idle != 120 {
			t.Errorf("TCP_KEEPIDLE is %d", idle)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
