package confine

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/purple-sandbox/purple/internal/spec"
	"golang.org/x/sys/unix"
)

const (
	// uplinkTimeout is how long pasta may take to make its interface.
	uplinkTimeout = 20 * time.Second
	// uplinkPause is how often the supervisor looks for that.
	uplinkPause = time.Millisecond
	// A pasta that has died is started again after restartPause, and given up
	// when it has died maxRestarts times, each sooner than restartWindow after its
	// start. Without it there is no network: nothing else leads out.
	restartPause  = time.Second
	restartWindow = time.Minute
	maxRestarts   = 5
)

// pasta is the uplink of a run under a user manager: pasta(1), a child of the
// supervisor's, on the host's network. It ends with the unit.
type pasta struct {
	argv  []string // with the pid of init, whose namespaces it joins
	init  int
	ipv4  bool
	ipv6  bool
	say   func(error)
	links *os.File // /proc/net/dev of the sandbox's namespace
	ready chan error
	over  chan struct{} // closed when nothing of it runs any more

	starter *starter

	mu     sync.Mutex
	child  int // pidfd of the pasta that runs; -1: none does
	ending bool
}

// connectUplink waits until the rules of the sandbox's network namespace stand,
// begins to listen to them, and starts the uplink.
func (s *supervisor) connectUplink() error {
	up := s.spec.Uplink
	if up == nil {
		return nil
	}
	m, fds, err := s.down.Recv()
	if err != nil {
		return fmt.Errorf("the sandbox's init is gone: %w", err)
	}
	if err := expect(m, spec.Filtered); err != nil {
		return err
	}
	if len(fds) != 1 {
		return fmt.Errorf("got %d descriptors instead of a netfilter socket", len(fds))
	}
	if err := s.recordDeniedOn(fds[0]); err != nil {
		return &StepError{Step: "record denied connections", Err: err, Status: spec.StatusRefused}
	}
	s.uplink = &pasta{
		argv: append(up.Pasta[:len(up.Pasta):len(up.Pasta)], strconv.Itoa(s.initPID)), init: s.initPID, ipv4: up.IPv4, ipv6: up.IPv6,
		say: s.audit.complain, ready: make(chan error, 1), over: make(chan struct{}), child: -1,
	}
	if s.uplink.links, err = os.Open(fmt.Sprintf("/proc/%d/net/dev", s.initPID)); err != nil {
		return fmt.Errorf("cannot open the counters of the sandbox's link: %w", err)
	}
	if len(up.Pasta) == 0 { // the machine has no way out either
		s.uplink.ready <- nil
		close(s.uplink.over)
		return nil
	}
	if s.uplink.starter, err = newStarter(s.uplink.argv); err != nil {
		return err
	}
	go s.uplink.follow()
	return nil
}

// awaitUplink waits until there is a way out.
func (s *supervisor) awaitUplink() error {
	if s.uplink == nil {
		return nil
	}
	select {
	case err := <-s.uplink.ready:
		if err != nil {
			return &StepError{Step: "connect the sandbox to the network", Err: err, Status: spec.StatusRefused}
		}
		return nil
	case <-s.start.calledOff:
		return s.start.refusal()
	}
}

// follow keeps pasta running. The first start is the run's: its failure is told
// to who waits for the uplink.
func (p *pasta) follow() {
	defer close(p.over)
	connected := false
	err := p.once(func() {
		connected = true
		p.ready <- nil
	})
	if !connected {
		p.ready <- err
		return
	}
	for deaths := 1; ; deaths++ {
		if p.isEnding() {
			return
		}
		p.say(fmt.Errorf("the uplink is gone, the sandbox has no network: %w", err))
		if deaths > maxRestarts {
			p.say(errors.New("the uplink is given up"))
			return
		}
		time.Sleep(restartPause)
		begun := time.Now()
		err = p.once(func() { p.say(errors.New("the uplink is there again")) })
		if time.Since(begun) > restartWindow {
			deaths = 0
		}
	}
}

// once runs pasta to its end, and says why that was. up is called when there is
// a way out.
func (p *pasta) once(up func()) error {
	pid, err := p.start()
	if err != nil {
		return err
	}
	ended := make(chan string, 1)
	go func() { ended <- p.wait(pid) }()
	why, failed := p.awaitRoute(ended)
	if failed {
		p.kill()
	} else {
		up()
		why = <-ended
	}
	return fmt.Errorf("%s: %s: %s", p.argv[0], why, p.starter.text())
}

func (p *pasta) start() (pid int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ending {
		return 0, errors.New("the run has ended")
	}
	if pid, err = p.starter.start(); err != nil {
		return 0, err
	}
	p.child, err = unix.PidfdOpen(pid, 0)
	return pid, err
}

// wait waits for the end of pasta, and says how it was.
func (p *pasta) wait(pid int) string {
	var ws unix.WaitStatus
	_, err := unix.Wait4(pid, &ws, 0, nil)
	for errors.Is(err, unix.EINTR) {
		_, err = unix.Wait4(pid, &ws, 0, nil)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	unix.Close(p.child)
	p.child = -1
	switch {
	case err != nil:
		return err.Error()
	case ws.Signaled():
		return "signal: " + ws.Signal().String()
	default:
		return fmt.Sprintf("exit status %d", ws.ExitStatus())
	}
}

// kill ends the pasta that runs, if one does.
func (p *pasta) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.child >= 0 {
		_ = unix.PidfdSendSignal(p.child, unix.SIGKILL, nil, 0) // it may be gone already
	}
}

// awaitRoute waits for a default route in each family; failed: there will be none.
func (p *pasta) awaitRoute(ended <-chan string) (state string, failed bool) {
	for end := time.Now().Add(uplinkTimeout); time.Now().Before(end); {
		if p.hasRoutes() {
			return "", false
		}
		select {
		case state := <-ended:
			return state, true
		case <-time.After(uplinkPause):
		}
	}
	return fmt.Sprintf("it has made no route in %v", uplinkTimeout), true
}

func (p *pasta) hasRoutes() bool {
	dir := fmt.Sprintf("/proc/%d/net/", p.init)
	four, _ := readKernelFile(dir + "route")
	six, _ := readKernelFile(dir + "ipv6_route")
	addresses, _ := readKernelFile(dir + "if_inet6")
	return (!p.ipv4 || hasDefault4(four)) && (!p.ipv6 || hasDefault6(six) && hasAddress6(addresses))
}

// hasAddress6 looks in /proc/net/if_inet6 for a global address that can be used: none is
// until the kernel has found nobody else with it (IFA_F_TENTATIVE), and what is sent
// meanwhile waits for a second.
func hasAddress6(text string) bool {
	const global = "00"
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 6 || f[3] != global || f[5] == "lo" {
			continue
		}
		flags, err := strconv.ParseUint(f[4], 16, 32)
		if err == nil && flags&unix.IFA_F_TENTATIVE == 0 {
			return true
		}
	}
	return false
}

// hasDefault4 looks for the destination 0.0.0.0 in /proc/net/route, behind an
// interface that is up (RTF_UP).
func hasDefault4(text string) bool {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) > 7 && f[1] == "00000000" && f[7] == "00000000" && isUp(f[3]) {
			return true
		}
	}
	return false
}

// hasDefault6 looks for ::/0 by a gateway in /proc/net/ipv6_route. The kernel's
// own entry for what has no route is on the loopback interface.
func hasDefault6(text string) bool {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) > 9 && f[1] == "00" && strings.Trim(f[0], "0") == "" && f[9] != "lo" && isUp(f[8]) {
			return true
		}
	}
	return false
}

func isUp(flags string) bool {
	n, err := strconv.ParseUint(flags, 16, 32)
	return err == nil && n&unix.RTF_UP != 0
}

func (p *pasta) isEnding() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ending
}

// tasks are those of the uplink in the unit: pasta and what starts it.
func (p *pasta) tasks() uint64 {
	if p == nil || p.starter == nil {
		return 0
	}
	return 2
}

// end ends pasta with the run, and waits for that: the manager finds nothing left
// to kill.
func (p *pasta) end() {
	if p == nil {
		return
	}
	p.mu.Lock()
	p.ending = true
	p.mu.Unlock()
	p.kill()
	select {
	case <-p.over:
	case <-time.After(2 * restartPause):
	}
	p.starter.end()
}

// linkBytes are what went over the sandbox's link. The file shows the namespace
// that it was opened in, as long as it is open.
func (p *pasta) linkBytes() (text string) {
	data, err := io.ReadAll(io.NewSectionReader(p.links, 0, 1<<16))
	if err != nil {
		return ""
	}
	return string(data)
}
