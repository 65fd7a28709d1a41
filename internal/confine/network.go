package confine

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// prepareNetwork checks the loopback interface, which the system manager brings
// up with PrivateNetwork=, and opens the low ports where the policy does.
func (s *sandbox) prepareNetwork() error {
	if s.spec.UserManager {
		if err := bringLoopbackUp(); err != nil {
			return err
		}
	}
	if err := requireLoopbackUp(); err != nil {
		return err
	}
	if s.spec.UnprivilegedPortStart < 0 {
		return nil
	}
	// Per network namespace (Documentation/networking/ip-sysctl.rst), and
	// this one is proven not to be the host's.
	const name = "/proc/sys/net/ipv4/ip_unprivileged_port_start"
	if err := os.WriteFile(name, []byte(strconv.Itoa(s.spec.UnprivilegedPortStart)), 0); err != nil {
		return fmt.Errorf("cannot set the first unprivileged port: %w", err)
	}
	return nil
}

// loopback calls f with a socket and the flags of the loopback interface.
func loopback(f func(fd int, ifr *unix.Ifreq) error) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, ifr); err != nil {
		return fmt.Errorf("cannot examine the loopback interface: %w", err)
	}
	return f(fd, ifr)
}

func requireLoopbackUp() error {
	return loopback(func(_ int, ifr *unix.Ifreq) error {
		if ifr.Uint16()&unix.IFF_UP == 0 {
			return errors.New("the loopback interface is down")
		}
		return nil
	})
}

func bringLoopbackUp() error {
	return loopback(func(fd int, ifr *unix.Ifreq) error {
		ifr.SetUint16(ifr.Uint16() | unix.IFF_UP)
		if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
			return fmt.Errorf("cannot bring the loopback interface up: %w", err)
		}
		return nil
	})
}
