package confine

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// A peer that goes without a word does not keep one of the places for good. (No
// package net: with cgo the tests could not set what holds for all threads.)
func TestSilentPeersAreNoticed(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	listener := os.NewFile(uintptr(fd), "listener")
	defer listener.Close()
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 1); err != nil {
		t.Fatal(err)
	}
	address, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	client, err := connect(unix.AF_INET, address)
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
		for _, o := range [][3]int{{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1}, {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 120}} {
			got, err := unix.GetsockoptInt(fd, o[0], o[1])
			if err != nil || got != o[2] {
				t.Errorf("option %d: %d, %v; want %d", o[1], got, err, o[2])
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
