package confine

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/purple-sandbox/purple/internal/spec"
	"github.com/purple-sandbox/purple/journal"
	"golang.org/x/sys/unix"
)

// grace is how long the command may take to end after SIGTERM, when the manager
// stops the unit or nobody is attached any more. It is less than the unit's
// TimeoutStopSec=, so that the supervisor lives to say how the run has ended.
const grace = 5 * time.Second

// sendWait is how long the supervisor waits for purple to read. A stopped one
// reads nothing, and the run has to end without it.
const sendWait = time.Second

// supervisor is the unit's main process. It stays outside the sandbox: the
// command can neither see nor signal it.
type supervisor struct {
	spec    *spec.Spec
	specFD  int
	idmaps  []int  // the user namespaces of idmapped mounts, by spec.Idmaps
	callers [3]int // the caller's streams
	streams [3]int // the command's

	input     *copiedInput     // nil: standard input is no copy of a regular file
	inputPath string           // under a user manager: what init makes the copy of; empty: it makes none
	relayed   []*relayedOutput // streams that the command has a pipe instead of

	up   *spec.Conn // to purple
	deaf bool       // nobody reads what it would be told: detached, or it has been stopped for long
	down *spec.Conn // to the sandbox's init

	initPID   int
	listening *spec.Conn     // on which the filter's listener comes
	sockets   *insideSockets // nil: this process is in the sandbox's network namespace
	uplink    *pasta         // nil: the manager or purple has made the network

	output *output // of a detached command; nil: the caller has it

	audit    *audit       // nil: nothing is recorded
	denied   *denials     // nil: denied connections are not
	calls    *deniedCalls // nil: denied system calls are not, the kernel answers them
	trace    *tracer      // nil: not a learning run
	lookers  []*looker    // the threads of calls and trace
	accounts *accounts
	limits   *limitWatch

	signals    <-chan os.Signal // of the manager
	fromPurple <-chan event     // its messages, and its end
	start      *starting        // until the command has started
	kill       <-chan time.Time // when the sandbox is ended that has been told to end; nil: it has not

	// released: the command may have been executed. What fails from then on is no
	// refusal any more.
	released atomic.Bool

	readyAt, startedAt time.Time // of the unit, for the manager's timeout; of the command

	// Why the run ends; several may hold.
	stopping    bool // the manager asked the unit to stop
	timedOut    bool // and that at the policy's timeout
	abandoned   bool // purple is gone
	signalled   bool // purple has passed a signal on, which ends it all if the command does not
	outOfMemory bool
}

// Supervise runs as the unit's main process, on a thread that its goroutine keeps;
// its standard input is the control socket. It returns the exit status: the
// command's, so that systemctl shows it.
func Supervise() int {
	control, err := takeControlSocket()
	if err != nil {
		say("%v", err)
		return spec.StatusRefused
	}
	s := &supervisor{up: control}
	status, err := s.run()
	if err == nil {
		return status
	}
	say("%v", err)
	if s.released.Load() {
		report(s.up, spec.Broken, err)
		s.failed(err, spec.StatusLost)
		return spec.StatusLost
	}
	report(s.up, spec.Failed, err)
	s.failed(err, asStepError(err, "start the sandbox").Status)
	return spec.StatusRefused
}

// takeControlSocket moves the control socket away from where a command's standard
// input is, so that no mistake with numbers makes one of the other.
func takeControlSocket() (*spec.Conn, error) {
	kind, err := unix.GetsockoptInt(0, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil || kind != unix.SOCK_SEQPACKET {
		return nil, errors.New("standard input is no control socket; purple starts purple-init itself")
	}
	fd, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("cannot move the control socket: %w", err)
	}
	null, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open \"/dev/null\": %w", err)
	}
	defer unix.Close(null)
	return spec.NewConn(fd), unix.Dup2(null, 0)
}

func (s *supervisor) run() (int, error) {
	if err := s.receiveSpec(); err != nil {
		return 0, err
	}
	// No goroutine needs the main thread, which to keep costs two switches of threads
	// at each turn of another. But init is the child of the thread that clones it, and
	// of another one when that ends: not of the tracer's, which waits for all its own.
	if !s.spec.Learning {
		runtime.UnlockOSThread()
	}
	// Before anything is made.
	if err := s.verifyUnit(); err != nil {
		return 0, &StepError{Step: "verify the unit's namespaces", Err: err, Status: spec.StatusRefused}
	}
	if err := s.announceNetwork(); err != nil {
		return 0, &StepError{Step: "verify the network namespace", Err: err, Status: spec.StatusRefused}
	}
	if err := s.recordDenied(); err != nil {
		return 0, &StepError{Step: "record denied connections", Err: err, Status: spec.StatusRefused}
	}
	defer func() { s.uplink.end() }()
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	s.signals, s.fromPurple = signals, readMessages(s.up)
	// Before there is any child, see requireNoChild.
	if err := s.startTracer(); err != nil {
		return 0, &StepError{Step: "trace the system calls", Err: err, Status: spec.StatusRefused}
	}
	if err := s.startInit(); err != nil {
		return 0, &StepError{Step: "start the sandbox", Err: err, Status: spec.StatusRefused}
	}
	s.start = s.watchStart()
	err := s.startCommand()
	if calledOff := s.start.end(); calledOff != nil {
		err = calledOff // for which init is gone
	}
	if err != nil {
		return 0, err
	}
	return s.follow()
}

// startCommand goes from the clone of init to the command's first instruction.
func (s *supervisor) startCommand() error {
	if err := s.connectUplink(); err != nil {
		return err
	}
	if err := s.recordSyscalls(); err != nil {
		return &StepError{Step: "record denied system calls", Err: err, Status: spec.StatusRefused}
	}
	s.surviveOOM()
	if err := checkLimits(s.spec.Checks); err != nil {
		return &StepError{Step: "verify the limits", Err: err, Status: spec.StatusRefused}
	}
	return s.release()
}

// receiveSpec takes the first message: the spec and the command's streams.
// Detached, the streams are the unit's own, which lead to the journal.
func (s *supervisor) receiveSpec() error {
	m, fds, err := s.up.Recv()
	if err != nil {
		return err
	}
	if m.Kind != spec.Start || len(fds) == 0 {
		return fmt.Errorf("got the message %q instead of the spec", m.Kind)
	}
	s.specFD = fds[0]
	if s.spec, err = spec.Decode(s.specFD); err != nil {
		return err
	}
	if s.deaf = s.spec.Detach; !s.deaf {
		if err := s.up.LimitSend(sendWait); err != nil {
			return err
		}
	}
	if fds, err = s.takeIdmaps(fds[1:]); err != nil {
		return err
	}
	if fds, err = s.takeLog(fds); err != nil {
		return err
	}
	if s.accounts, err = openAccounts(s.spec.Unit); err != nil {
		return err
	}
	if s.spec.Detach {
		return s.detachedStreams()
	}
	return s.takeStreams(fds)
}

// takeIdmaps takes the user namespaces, which are the first of the descriptors, and
// gives the others.
func (s *supervisor) takeIdmaps(fds []int) ([]int, error) {
	n := len(s.spec.Idmaps)
	if len(fds) < n {
		return nil, fmt.Errorf("got %d descriptors for %d id maps", len(fds), n)
	}
	s.idmaps = fds[:n:n]
	return fds[n:], nil
}

// takeLog opens the audit, whose log is the last of the descriptors, and gives
// the others. They are close-on-exec: no process of the sandbox has the log.
func (s *supervisor) takeLog(fds []int) ([]int, error) {
	log := -1
	if a := s.spec.Audit; a != nil && a.LogPath != "" {
		if len(fds) == 0 {
			return nil, errors.New("got no descriptor of the log")
		}
		log, fds = fds[len(fds)-1], fds[:len(fds)-1]
	}
	var err error
	s.audit, err = openAudit(s.spec, log)
	return fds, err
}

// The choice of the kernel's when the unit is out of memory (proc_pid_oom_score_adj(5)).
const (
	oomNever  = "-1000"
	oomRather = "500"
)

// surviveOOM keeps the kernel from choosing the supervisor when the unit is out
// of memory: it has next to none, and has to say what happened. The sandbox's
// init is there already and keeps the manager's choice. Where a container has
// taken CAP_SYS_RESOURCE from everybody, the sandbox is offered instead, which
// then is also the first to go when all of the machine is out of memory. An
// ordinary user may not protect anything either: there init offers itself.
func (s *supervisor) surviveOOM() {
	if s.spec.UserManager {
		return
	}
	err := os.WriteFile("/proc/self/oom_score_adj", []byte(oomNever), 0)
	if errors.Is(err, unix.EACCES) {
		err = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", s.initPID), []byte(oomRather), 0)
	}
	s.audit.complain(err)
}

func (s *supervisor) detachedStreams() error {
	null, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot open \"/dev/null\": %w", err)
	}
	s.streams[0] = null
	return s.relayOutput()
}

// startInit clones the sandbox's PID 1 into the namespaces that the unit's
// properties cannot give it. (The host name's is among them because
// ProtectHostname= would come with a filter that forbids to set it.)
func (s *supervisor) startInit() error {
	extra, err := s.extraSockets()
	if err != nil {
		return err
	}
	defer closeFiles(extra)
	conn, theirs, err := spec.Pair()
	if err != nil {
		return err
	}
	s.down = conn
	attr := &syscall.ProcAttr{
		Env:   []string{oneProcessor},
		Files: []uintptr{uintptr(s.streams[0]), uintptr(s.streams[1]), uintptr(unix.Stderr), uintptr(s.specFD), theirs.Fd(), uintptr(s.streams[2])},
		Sys:   s.initAttributes(),
	}
	for _, f := range extra {
		attr.Files = append(attr.Files, descriptor(f))
	}
	s.initPID, err = syscall.ForkExec("/proc/self/exe", initArgs(), attr)
	theirs.Close()
	if err != nil {
		return fmt.Errorf("cannot clone its init: %w%s", err, s.cloneHint(err))
	}
	s.leaveStreams()
	if s.spec.UserManager {
		return s.sendSources()
	}
	if err := s.sendIdmaps(); err != nil {
		return fmt.Errorf("cannot pass on the id maps: %w", err)
	}
	return nil
}

// cloneHint is for what an administrator may have forbidden ordinary users.
func (s *supervisor) cloneHint(err error) string {
	if s.spec.UserManager && (errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EUSERS)) {
		return "; this machine keeps you from making user namespaces, `purple doctor` says why"
	}
	return ""
}

// sendSources follows the links to what is bound, while init starts.
func (s *supervisor) sendSources() error {
	paths, err := s.pathsOfSources()
	if err != nil {
		return &StepError{Step: "find the bound paths", Err: err, Status: spec.StatusRefused}
	}
	return s.down.Send(spec.Message{Kind: spec.Sources, Paths: paths})
}

// extraSockets are what init gets from listenerFD on; nil: not this one.
func (s *supervisor) extraSockets() ([]*os.File, error) {
	listener, err := s.expectListener()
	if err != nil {
		return nil, err
	}
	sockets, err := s.expectSockets()
	if err != nil {
		closeFiles([]*os.File{listener})
		return nil, err
	}
	return []*os.File{listener, sockets}, nil
}

// expectSockets makes the way on which init gives sockets of the sandbox's
// network namespace, where this process is not in it and ports are published.
func (s *supervisor) expectSockets() (*os.File, error) {
	if s.spec.Uplink == nil || len(s.spec.Published) == 0 {
		return nil, nil
	}
	conn, theirs, err := spec.Pair()
	s.sockets = &insideSockets{conn: conn}
	return theirs, err
}

// descriptor is a file's number for a child; without a file, that it has none.
func descriptor(f *os.File) uintptr {
	if f == nil {
		return ^uintptr(0)
	}
	return f.Fd()
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		f.Close() // of none it is harmless
	}
}

// initAttributes are the namespaces that init is cloned into. Under a user
// manager it gets its privileges by a user namespace, in which the user's ids are
// the only ones and stay what they are: the file system and the network of the
// sandbox belong to that one, and the command's own is below it.
func (s *supervisor) initAttributes() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | unix.CLONE_NEWCGROUP | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
		Setsid:     true,
	}
	if s.spec.UserManager {
		id := s.spec.Identity
		attr.Cloneflags |= syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: int(id.HostUID), HostID: int(id.HostUID), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: int(id.HostGID), HostID: int(id.HostGID), Size: 1}}
		// They are lost at execve by whoever is not uid 0, but for these.
		attr.AmbientCaps = initCapabilities
	}
	return attr
}

// initCapabilities are what the steps of init need in a user namespace: mounts
// and the host name, the loopback interface, and signals to the command, which
// all of the rest is dropped for.
var initCapabilities = []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN, unix.CAP_KILL}

// sendIdmaps passes on the user namespaces that purple has made for idmapped mounts.
func (s *supervisor) sendIdmaps() error {
	if len(s.idmaps) == 0 {
		return nil
	}
	defer func() {
		for _, fd := range s.idmaps {
			unix.Close(fd)
		}
	}()
	return s.down.Send(spec.Message{Kind: spec.UserNS}, s.idmaps...)
}

// leaveStreams closes the supervisor's copies of the command's streams.
func (s *supervisor) leaveStreams() {
	for _, fd := range s.streams {
		if fd > 2 {
			unix.Close(fd)
		}
	}
	unix.Close(s.specFD)
}

// release lets the command go once everything has been read back, and tells
// the manager and purple that it runs. If the last step fails, the filter's,
// the unit never becomes ready.
func (s *supervisor) release() error {
	// While init and the command's process work.
	if err := dropProcessCapabilities(0); err != nil {
		return &StepError{Step: "drop the supervisor's privileges", Err: err, Status: spec.StatusRefused}
	}
	if err := s.restrictSelf(); err != nil {
		return &StepError{Step: "restrict the supervisor", Err: err, Status: spec.StatusRefused}
	}
	m, fds, err := s.down.Recv()
	if err != nil {
		return fmt.Errorf("the sandbox's init is gone: %w", err)
	}
	if err := expect(m, spec.Ready); err != nil {
		return err
	}
	fds = s.inputOf(fds)
	listeners, err := s.awaitNetwork()
	if err == nil {
		err = s.awaitUplink()
	}
	if err != nil {
		return err
	}
	// It would be killed at once.
	if err := s.start.requireWanted(); err != nil {
		return err
	}
	if err := s.audit.begin(s.started()); err != nil {
		return &StepError{Step: "write the audit log", Err: err, Status: spec.StatusRefused}
	}
	s.limits = newLimitWatch(s.accounts, s.spec.Limits, s.initPID, s.uplink.tasks(), s.tellLimit)
	if err := s.seizeCommand(); err != nil {
		return &StepError{Step: "trace the system calls", Err: err, Status: spec.StatusRefused}
	}
	if err := s.up.Send(spec.Message{Kind: spec.Released}); err != nil {
		return fmt.Errorf("purple is gone: %w", err)
	}
	s.startedAt = time.Now()
	s.released.Store(true)
	if err := s.down.Send(spec.Message{Kind: spec.Go}); err != nil {
		return err
	}
	publish(listeners, s.spec.Published, s.socketMaker())
	if err := s.takeListener(); err != nil {
		return err
	}
	m, _, err = s.down.Recv()
	if err != nil {
		return fmt.Errorf("the sandbox's init is gone: %w", err)
	}
	if err := s.expectStarted(m); err != nil {
		return err
	}
	s.readyAt = time.Now()
	if err := notifyReady(); err != nil {
		return &StepError{Step: "tell the manager that the unit is ready", Err: err, Status: spec.StatusRefused}
	}
	if err := s.up.Send(spec.Message{Kind: spec.Started}, fds...); err != nil && !s.spec.Detach {
		return fmt.Errorf("purple is gone: %w", err)
	}
	for _, fd := range fds {
		unix.Close(fd)
	}
	return nil
}

// expectStarted: what init says after the go is the last that can be a refusal, if the
// command could not be executed.
func (s *supervisor) expectStarted(m spec.Message) error {
	if m.Kind == spec.Failed {
		s.released.Store(false)
	}
	return expect(m, spec.Started)
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// event is what a reader of one control socket got.
type event struct {
	m   spec.Message
	fds []int
	err error
}

func readMessages(c *spec.Conn) <-chan event {
	events := make(chan event)
	go func() {
		for {
			m, fds, err := c.Recv()
			events <- event{m, fds, err}
			if err != nil {
				return
			}
		}
	}()
	return events
}

// follow relays between purple, the manager and the sandbox until the command
// has ended.
func (s *supervisor) follow() (int, error) {
	down := readMessages(s.down)
	look := time.NewTicker(lookInterval)
	defer look.Stop()
	// What came while the command was started.
	for _, e := range s.start.later {
		s.hearPurple(e)
	}
	if s.start.stopped {
		s.stop()
	}
	for {
		select {
		case e := <-down:
			if status, done, err := s.fromInit(e); done || err != nil {
				return status, err
			}
		case e := <-s.fromPurple:
			s.hearPurple(e)
		case <-s.signals:
			s.stop()
		case <-look.C:
			s.watch()
		case <-s.kill:
			s.end()
		}
	}
}

// hearPurple passes a message on. The end of an attached run's purple, which was killed
// or has lost its terminal, is the run's; a detached one is left.
func (s *supervisor) hearPurple(e event) {
	closeAll(e.fds)
	switch {
	case s.spec.Detach:
	case e.err != nil:
		s.abandoned, s.kill = true, time.After(grace)
		s.toInit(spec.Message{Kind: spec.StopAll, Signal: int(unix.SIGTERM)})
	default:
		s.signalled = s.signalled || e.m.Kind == spec.Signal
		s.toInit(e.m)
	}
}

// stop does what the manager asks for. It does not say why: at its timeout or
// for somebody.
func (s *supervisor) stop() {
	timeout := time.Duration(s.spec.Limits.Timeout) * time.Microsecond
	if !s.stopping && !s.abandoned && timeout != 0 && time.Since(s.readyAt) >= timeout {
		s.timedOut = true
		s.limits.reach(journal.LimitTime, s.spec.Limits.Timeout, journal.Amount{})
	}
	s.stopping = true
	if s.kill == nil {
		s.kill = time.After(grace)
	}
	if s.watch(); !s.outOfMemory {
		s.toInit(spec.Message{Kind: spec.StopAll, Signal: int(unix.SIGTERM)})
	}
}

// watch looks at the limits. Out of memory ends the run, not one process of
// it, as OOMPolicy=stop of systemd's would; on cgroup v1 systemd does not notice.
func (s *supervisor) watch() {
	s.limits.look()
	if !s.outOfMemory && s.limits.counts.OOMKills.N > 0 {
		s.outOfMemory = true
		s.end()
	}
}

// tellLimit makes an event of a limit that was reached.
func (s *supervisor) tellLimit(limit journal.Limit, value uint64, count journal.Amount) {
	if s.audit == nil || !s.spec.Audit.Resources {
		return
	}
	s.audit.complain(s.audit.emit(journal.LimitReached{Run: runOf(s.spec), Limit: limit, Value: value, Count: count}))
}

// toInit passes a message down. A failure means that init is gone, which the
// other direction reports.
func (s *supervisor) toInit(m spec.Message) { _ = s.down.Send(m) }

// end closes the way to init, which then exits; the kernel kills the sandbox
// with its PID 1 (pid_namespaces(7)).
func (s *supervisor) end() { _ = unix.Shutdown(s.down.FD(), unix.SHUT_RDWR) }

// fromInit handles one message of the sandbox's init; done: the run has ended.
func (s *supervisor) fromInit(e event) (status int, done bool, err error) {
	closeAll(e.fds)
	if e.err != nil && !errors.Is(e.err, io.EOF) {
		return 0, true, e.err
	}
	if e.err != nil {
		// Killed from outside: the command went with it.
		e.m = spec.Message{Kind: spec.Exited, WaitStatus: uint32(unix.SIGKILL)}
	}
	switch e.m.Kind {
	case spec.Stopped:
		s.tell(e.m)
	case spec.Exited:
		ws, wall := unix.WaitStatus(e.m.WaitStatus), time.Since(s.startedAt)
		e.m.Stopping, e.m.OutOfMemory = s.stopping, s.outOfMemory || s.isOOM(ws)
		s.tell(e.m)
		// The kernel kills all of the sandbox with its init, and init is gone
		// when they are: the manager finds nothing left to kill.
		if _, err := unix.Wait4(s.initPID, nil, 0, nil); err != nil {
			s.audit.complain(fmt.Errorf("cannot wait for the sandbox's init: %w", err))
		}
		s.awaitOutput()
		s.input.returnOffset()
		s.tellLearnt()
		s.limits.finish(e.m.Threads)
		s.ended(ws, wall, s.reportDenials())
		return spec.ExitStatus(ws), true, nil
	case spec.Failed, spec.Broken:
		return 0, true, expect(e.m, spec.Exited)
	}
	return 0, false, nil
}

// tell sends to purple, which may be gone: then nobody wants to know. Where it
// does not read, the run goes on and ends without telling it more: what the end
// is recorded with must not wait for a terminal.
func (s *supervisor) tell(m spec.Message) {
	if !s.deaf {
		s.deaf = s.up.Send(m) != nil
	}
}
