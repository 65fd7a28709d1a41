package confine

import (
	"testing"

	"golang.org/x/sys/unix"
)

// A peer that goes without a word does not keep one of the places for good. (No
// package net here: it brings cgo, and with it other tests would lose the calls
// on all threads.)
func TestSilentPeersAreNoticed(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	loopback := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}
	if err := unix.Bind(fd, loopback); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 1); err != nil {
		t.Fatal(err)
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := pollable(fd)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	client, err := connect(tcpSocket, unix.AF_INET, bound)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	outside, err := accept(listener)
	if err != nil {
		t.Fatal(err)
	}
	defer outside.Close()
	for _, want := range [][3]int{{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1}, {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 120}} {
		err := control(outside, func(fd int) error {
			got, err := unix.GetsockoptInt(fd, want[0], want[1])
			if got != want[2] {
				t.Errorf("option %d is %d, want %d", want[1], got, want[2])
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
