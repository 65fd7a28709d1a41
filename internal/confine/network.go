package confine

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// prepareNetwork checks the loopback interface, which the manager brings up
// with PrivateNetwork=, and opens the low ports where the policy does.
func (s *sandbox) prepareNetwork() error {
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

func requireLoopbackUp() error {
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
	if ifr.Uint16()&unix.IFF_UP == 0 {
		return errors.New("the loopback interface is down")
	}
	return nil
}
