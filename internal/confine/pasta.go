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

	mu     sync.Mutex
	child  *os.Process
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
		say: s.audit.complain, ready: make(chan error, 1), over: make(chan struct{}),
	}
	if s.uplink.links, err = os.Open(fmt.Sprintf("/proc/%d/net/dev", s.initPID)); err != nil {
		return fmt.Errorf("cannot open the counters of the sandbox's link: %w", err)
	}
	if len(up.Pasta) == 0 { // the machine has no way out either
		s.uplink.ready <- nil
		close(s.uplink.over)
		return nil
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
	child, said, err := p.start()
	if err != nil {
		return err
	}
	ended := make(chan string, 1)
	go func() {
		state, err := child.Wait()
		if err != nil {
			ended <- err.Error()
			return
		}
		ended <- state.String()
	}()
	why, failed := p.awaitRoute(ended)
	if failed {
		_ = child.Kill() // it may be gone already
	} else {
		up()
		why = <-ended
	}
	return fmt.Errorf("%s: %s: %s", p.argv[0], why, <-said)
}

// start starts pasta. What it has said comes at its end.
func (p *pasta) start() (child *os.Process, said <-chan string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ending {
		return nil, nil, errors.New("the run has ended")
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, nil, err
	}
	defer null.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer w.Close()
	child, err = os.StartProcess(p.argv[0], p.argv, &os.ProcAttr{Files: []*os.File{null, w, w}, Env: []string{}})
	if err != nil {
		r.Close()
		return nil, nil, err
	}
	p.child = child
	text := make(chan string, 1)
	go func() {
		defer r.Close()
		first, _ := io.ReadAll(io.LimitReader(r, maxSaid))
		_, _ = io.Copy(io.Discard, r) // it must never wait for a reader
		text <- strings.TrimSpace(string(first))
	}()
	return child, text, nil
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
	return (!p.ipv4 || hasDefault4(four)) && (!p.ipv6 || hasDefault6(six))
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

// end ends pasta with the run, and waits for that: the manager finds nothing left
// to kill.
func (p *pasta) end() {
	if p == nil {
		return
	}
	p.mu.Lock()
	p.ending = true
	if p.child != nil {
		_ = p.child.Kill() // it may be gone already
	}
	p.mu.Unlock()
	select {
	case <-p.over:
	case <-time.After(2 * restartPause):
	}
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
