package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/godbus/dbus/v5"
	"github.com/purple-sandbox/purple/internal/firewall"
	"github.com/purple-sandbox/purple/internal/spec"
	"github.com/purple-sandbox/purple/policies"
	"github.com/purple-sandbox/purple/translate"
	"github.com/purple-sandbox/purple/translate/seccomp"
	"github.com/purple-sandbox/purple/units"
	"github.com/spf13/cobra"
)

func newRunCommand(a *app) *cobra.Command {
	var req request
	cmd := &cobra.Command{
		Use:   "run [flags] -- COMMAND [ARGUMENT]...",
		Short: "Run a command under a profile",
		Long: `Run a command as a transient systemd service under a profile.

The exit status is the command's own; 128+n when signal n killed it; 124 after
the timeout; 137 out of memory; 125 when Purple refused or failed, and then
nothing of the command has run; 126 not executable; 127 not found. 123 when
Purple failed after the start: the command may have run, and how it ended is not
known, or it succeeded and its receipt could not be kept.

SIGINT, SIGTERM, SIGHUP and SIGQUIT are passed on to the command; what has not
ended 5 seconds later, or at a second signal, is killed. On a terminal the keys
go to the command's own pty, as outside. When purple is killed, so is the run.`,
		Example: `  purple run --profile ai-dev-safe -- python3 agent.py
  purple run --workspace . -- make`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req.argv = args
			return a.runForReceipt(cmd.Context(), req)
		},
	}
	req.addFlags(cmd)
	cmd.Flags().StringVar(&req.receipt, "receipt", "", "write how the run has ended to this file, as one JSON object")
	cmd.Flags().BoolVarP(&req.detach, "detach", "d", false, "print the unit's name and leave; output goes to the journal")
	return cmd
}

// run is the road of `purple run`: prepare, start, attach, end.
func (a *app) run(ctx context.Context, req request, receipt *receipt) error {
	d, err := a.domain()
	if err == nil {
		err = d.requireOwn("run a command")
	}
	if err != nil {
		return err
	}
	connection := meanwhile(func() (*units.Manager, error) { return d.connect(ctx) })
	var streams [3]int
	if !req.detach {
		req.terminal, req.winsize = callerTerminal()
		if streams, err = callersStreams(req.terminal); err != nil {
			return err
		}
	}
	p, err := a.prepare(req)
	if err != nil {
		return moreBasic(err, connection)
	}
	p.streams = streams
	receipt.planned(p.plan)
	if err := req.placed.requireOutside(p.plan); err != nil {
		return err
	}
	a.warn(p.plan.Warnings)
	if req.detach {
		a.warnOfLinger(d)
	}
	manager, err := connection()
	if err != nil {
		return err
	}
	defer manager.Close()
	if p.log, err = openAuditLog(p.plan, p.invoker); err != nil {
		return err
	}
	defer p.log.Close() // of none it is harmless
	inTheWay := meanwhile(func() ([]firewall.Obstacle, error) { return obstacles(p.plan) })
	network, err := makeUplink(p.plan, p.netPath)
	if err != nil {
		return err
	}
	found, err := inTheWay()
	if err == nil {
		err = a.reportObstacles(found)
	}
	if err != nil {
		network.close()
		return err
	}
	s, err := start(ctx, manager, p, network)
	if err != nil {
		return err
	}
	defer s.conn.Close()
	s.log = a.log(logInit)
	a.log(logUnits).Info("started", "unit", p.plan.Unit)
	if network != nil {
		a.log(logNetwork).Info("connected", "unit", p.plan.Unit, "namespace", p.plan.Spec.NetworkNamespace, "published", p.plan.Spec.Published)
	}
	if req.detach {
		return a.detach(ctx, s)
	}
	return a.attach(ctx, s, receipt)
}

// moreBasic is why there is no manager, where the other error is that it has not got
// something.
func moreBasic(err error, connection func() (*units.Manager, error)) error {
	if !errors.As(err, new(*translate.UnsupportedError)) {
		return err
	}
	manager, missing := connection()
	if missing != nil {
		return missing
	}
	manager.Close()
	return err
}

// session is a started unit and this end of its control socket.
type session struct {
	plan    *translate.Plan
	unit    *units.Run
	conn    *spec.Conn
	rules   *seccomp.Rules // of the filter; once the spec is sent
	log     *slog.Logger   // of what purple-init says
	learner *learner       // nil: not a learning run
	policy  *policies.Policy

	released bool // from here on the command may have run
}

// start starts the unit and gives it its network.
func start(ctx context.Context, manager *units.Manager, p *prepared, network *uplink) (*session, error) {
	defer network.close()
	s, err := startUnit(ctx, manager, p, network)
	if err != nil {
		return nil, err
	}
	if err := s.connect(ctx, network); err != nil {
		s.conn.Close()
		return nil, err
	}
	return s, nil
}

// startUnit asks systemd for the unit and sends the spec. The unit's standard
// input is the control socket: a descriptor that only systemd and the unit hold
// from here on, so there is no name to connect to and no peer to check, and the
// end of both is seen.
func startUnit(ctx context.Context, manager *units.Manager, p *prepared, network *uplink) (*session, error) {
	conn, theirs, err := spec.Pair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	unit, err := manager.Start(ctx, p.plan.Unit, properties(p.plan, theirs, network))
	if err != nil {
		conn.Close()
		return nil, err
	}
	s := &session{plan: p.plan, unit: unit, conn: conn, learner: p.learner, policy: p.policy}
	if err := s.sendSpec(p); err != nil {
		conn.Close()
		return nil, errors.Join(err, unit.Kill(ctx))
	}
	return s, nil
}

// sendSpec sends the spec and the descriptors that go with it.
func (s *session) sendSpec(p *prepared) error {
	body := p.plan.Spec
	filter, err := p.program()
	if err != nil {
		return err
	}
	s.rules = filter.Rules()
	body.Filter = filter.Bytes()
	if p.learner != nil {
		// What is explained is the profile that it is learnt under.
		if s.rules, err = seccomp.Resolve(p.policy.Syscalls, seccomp.NativeArch); err != nil {
			return err
		}
		p.learner.prepared, p.learner.base, p.learner.lax = p, s.rules, filter.Rules()
	}
	var sent descriptors
	defer sent.close()
	if err := sent.open(spec.Encode(&body)); err != nil {
		return err
	}
	for _, owner := range body.Idmaps {
		if err := sent.open(openIdmap(owner, body.Identity)); err != nil {
			return err
		}
	}
	if !body.Detach {
		if err := sent.addStreams(p.streams, body.Terminal); err != nil {
			return err
		}
	}
	if p.log != nil {
		sent.add(int(p.log.Fd()))
	}
	mayHaveRun()
	return s.conn.Send(spec.Message{Kind: spec.Start}, sent.fds...)
}

// descriptors are what a message carries, and the files of them that are closed
// when it is sent.
type descriptors struct {
	fds    []int
	opened []*os.File
}

func (d *descriptors) add(fd int) { d.fds = append(d.fds, fd) }

// open adds the result of what opens a file.
func (d *descriptors) open(f *os.File, err error) error {
	if err != nil {
		return err
	}
	d.opened = append(d.opened, f)
	d.add(int(f.Fd()))
	return nil
}

func (d *descriptors) close() {
	for _, f := range d.opened {
		f.Close()
	}
}

// addStreams adds the streams that are not terminals; a terminal's place is taken
// by /dev/null until purple-init has made a pty.
func (d *descriptors) addStreams(streams [3]int, terminal [3]bool) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("cannot open %q: %w", os.DevNull, err)
	}
	d.opened = append(d.opened, null)
	for n, fd := range streams {
		if terminal[n] {
			fd = int(null.Fd())
		}
		d.add(fd)
	}
	return nil
}

// detach waits until the command has started, then leaves it to systemd.
func (a *app) detach(ctx context.Context, s *session) error {
	m, err := s.hear(ctx)
	if err != nil {
		return s.unexplained(ctx, err)
	}
	switch m.Kind {
	case spec.Failed:
		return refusal(m)
	case spec.Broken:
		return s.statusError(lost(brokenError(m)))
	}
	fmt.Fprintln(a.stdout, s.plan.Unit)
	return nil
}

// properties are the plan's, and what exists only now: the control socket as
// standard input, and the network namespace.
func properties(plan *translate.Plan, socket *os.File, network *uplink) []units.Property {
	all := network.properties()
	for _, p := range plan.Properties {
		all = append(all, property(p.Name, p.Value))
	}
	return append(all, property("StandardInputFileDescriptor", dbus.UnixFD(socket.Fd())))
}

func property(name string, value any) units.Property {
	return units.Property{Name: name, Value: dbus.MakeVariant(value)}
}
