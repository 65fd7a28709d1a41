package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/purple-sandbox/purple/internal/network"
	"github.com/purple-sandbox/purple/internal/spec"
	"github.com/purple-sandbox/purple/translate"
	"github.com/purple-sandbox/purple/units"
	"golang.org/x/sys/unix"
)

// uplink is the network of a run, as far as purple has made it.
type uplink struct {
	*network.Namespace // nil under a user manager
	unit               string
	helper             string     // purple-net
	hasRules           bool       // of its own on the host
	listeners          []*os.File // of the published ports, one for each of spec.Published
}

// makeUplink makes the network that a plan asks for, nil where it isolates.
// Nothing of the host is changed, but the published ports are taken from here on.
//
// helper is purple-net.
func makeUplink(plan *translate.Plan, helper string) (*uplink, error) {
	want := plan.Network
	if want == nil {
		return nil, nil
	}
	u := &uplink{unit: plan.Unit, helper: helper, hasRules: len(want.ToHost) > 0}
	if err := u.listen(plan, want.Published); err != nil {
		u.close()
		return nil, err
	}
	if plan.Spec.UserManager {
		return u, nil // purple-init makes the rest
	}
	err := network.MakeRunDir() // networkUnit may write to it
	if err != nil {
		u.close()
		return nil, err
	}
	if u.Namespace, err = network.New(networkConfig(plan)); err != nil {
		u.close()
		return nil, err
	}
	if plan.Spec.NetworkNamespace, err = u.Inode(); err != nil {
		u.close()
		return nil, err
	}
	return u, nil
}

func networkConfig(plan *translate.Plan) network.Config {
	want := plan.Network
	c := network.Config{
		Unit: plan.Unit, Rules: want.Rules, Range4: want.Range4, Range6: want.Range6, MTU: want.MTU, Routes: want.Routes,
	}
	for _, d := range want.ToHost {
		c.ToHost = append(c.ToHost, network.Destination(d))
	}
	return c
}

// listen opens the published ports on the host: one that is taken is an error
// now and not a surprise later.
func (u *uplink) listen(plan *translate.Plan, published []translate.Published) error {
	for _, p := range published {
		for _, addr := range p.Addresses {
			f, err := listenTCP(netip.AddrPortFrom(addr, p.Port))
			if err != nil {
				return fmt.Errorf("cannot publish port %d (%s): %w", p.Port, p.Key, err)
			}
			u.listeners = append(u.listeners, f)
			plan.Spec.Published = append(plan.Spec.Published, p.Port)
		}
	}
	return nil
}

// listenTCP listens on exactly one address: [::] is not 0.0.0.0 as well.
func listenTCP(addr netip.AddrPort) (*os.File, error) {
	protocol := "tcp4"
	if addr.Addr().Is6() {
		protocol = "tcp6"
	}
	listener, err := net.ListenTCP(protocol, net.TCPAddrFromAddrPort(addr))
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	return listener.File()
}

func (u *uplink) close() {
	if u == nil {
		return
	}
	if u.Namespace != nil {
		u.Namespace.Close()
	}
	for _, f := range u.listeners {
		f.Close()
	}
}

// connect links the namespace once the unit's first process is in it, hands the
// listening sockets over, and lets that process go on. From then on the unit
// holds all of it.
func (s *session) connect(ctx context.Context, u *uplink) error {
	if u == nil {
		return nil
	}
	m, err := s.hear(ctx)
	switch {
	case err != nil:
		return s.unexplained(ctx, err)
	case m.Kind == spec.Failed:
		return refusal(m)
	case m.Kind != spec.Alive:
		return fmt.Errorf("internal error: got the message %q instead of %q", m.Kind, spec.Alive)
	}
	if err = s.link(ctx, u); err == nil {
		err = s.conn.Send(spec.Message{Kind: spec.Connected}, u.descriptors()...)
	}
	if err != nil {
		return s.abandon(ctx, u, s.reason(err))
	}
	return nil
}

// link does the host's part, which only root has.
func (s *session) link(ctx context.Context, u *uplink) error {
	if u.Namespace == nil {
		return nil
	}
	// Before anything changes on the host, so that it is there to change it back.
	if err := s.unit.StartAux(ctx, u.aux()); err != nil {
		return err
	}
	if err := u.Connect(); err != nil {
		return err
	}
	// Now that there is a link for it to see. Before, it may have been
	// about to leave.
	return s.unit.RequireAux(ctx, u.aux())
}

// reason is what the unit's first process said before it went, where that is
// why it could not be told anything.
func (s *session) reason(failure error) error {
	if !errors.Is(failure, unix.EPIPE) {
		return failure
	}
	if m, _, err := s.conn.Recv(); err == nil && m.Kind == spec.Failed {
		return refusal(m)
	}
	return failure
}

// networkUnit holds the host's part of the network as long as a networked run
// is there, and removes it after the last. The name is none of 'purple-*': those
// are the sandboxes.
const networkUnit = "purplenet.service"

// properties are those of the run's unit.
func (u *uplink) properties() []units.Property {
	if u == nil || u.Namespace == nil {
		return nil
	}
	all := []units.Property{property("NetworkNamespacePath", u.Path())}
	if u.hasRules {
		all = append(all, property("ExecStopPost", u.helperCommand("disconnect", u.unit)))
	}
	return all
}

// aux is the unit that every networked run starts, unless it is there. It must
// outlive whoever started it, and mends itself when it is killed.
func (u *uplink) aux() units.Aux {
	return units.Aux{Name: networkUnit, Properties: []units.Property{
		property("Description", "Network of the Purple sandboxes"),
		property("Slice", "purple.slice"),
		property("ExecStart", u.helperCommand("hold")),
		property("NotifyAccess", "main"),
		property("Restart", "on-failure"),
		property("CapabilityBoundingSet", uint64(1)<<unix.CAP_NET_ADMIN),
		property("NoNewPrivileges", true),
		property("CollectMode", "inactive-or-failed"),
		property("SyslogIdentifier", "purple-net"),
		// Defence in depth: all it needs is netlink, its lock and what it has recorded,
		// the settings below /proc/sys/net, and the manager's socket.
		property("ProtectSystem", "strict"),
		property("ReadWritePaths", []string{network.RunDir}),
		property("ProtectHome", homesFor(u.helper)),
		property("ProtectKernelModules", true),
		property("ProtectKernelLogs", true),
		property("ProtectControlGroups", true),
		property("ProtectClock", true),
		property("RestrictNamespaces", uint64(0)),
		property("RestrictAddressFamilies", filterList{true, []string{"AF_UNIX", "AF_NETLINK"}}),
		property("SystemCallArchitectures", []string{"native"}),
		property("SystemCallFilter", filterList{true, []string{"@system-service"}}),
		property("SystemCallErrorNumber", int32(unix.EPERM)),
		property("MemoryDenyWriteExecute", true),
		property("LockPersonality", true),
		property("RestrictRealtime", true),
		property("RestrictSUIDSGID", true),
	}}
}

// filterList is a list of what is allowed, of the type (bas).
type filterList struct {
	Allow bool
	Names []string
}

// homesFor is ProtectHome= of a service whose program may lie in a home directory, as
// where purple was built.
func homesFor(program string) string {
	for _, dir := range []string{"/home/", "/root/", "/run/user/"} {
		if strings.HasPrefix(program, dir) {
			return "read-only"
		}
	}
	return "yes"
}

// helperCommand is a command of the type a(sasb).
func (u *uplink) helperCommand(args ...string) []translate.ExecCommand {
	return []translate.ExecCommand{{Path: u.helper, Argv: append([]string{u.helper}, args...)}}
}

func (u *uplink) descriptors() []int {
	var fds []int
	for _, f := range u.listeners {
		fds = append(fds, int(f.Fd()))
	}
	return fds
}

// abandon ends the unit after a failure. Its own clean-up may have come before
// the last of what has to be cleaned.
func (s *session) abandon(ctx context.Context, u *uplink, failure error) error {
	killErr := s.unit.Kill(ctx)
	ctx, cancel := context.WithTimeout(ctx, endTimeout)
	defer cancel()
	<-s.watchUnit(ctx)
	if u.Namespace == nil {
		return errors.Join(failure, killErr)
	}
	return errors.Join(failure, killErr, network.Disconnect(u.unit))
}
