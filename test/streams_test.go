//go:build integration

package test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// stream is what bin/probe tells of a standard stream.
type stream struct{ Link, Kind, OpenToRead, OpenToWrite, Chmod string }

// streamsDir is a folder that the sandbox may write to, with the probe in it.
func streamsDir(t *testing.T) string {
	t.Helper()
	dir := tempDir(t)
	sh(t, fmt.Sprintf("cp %q %q", filepath.Join(bin, "probe"), dir))
	return dir
}

// streamsCall runs the probe, which writes to the file "answer": standard output may
// be what is tested.
func streamsCall(dir string) call {
	return call{dir: dir, args: []string{"run", "--profile", profilePath("plain"), "--workspace", dir, "--", "./probe", "streams", "answer"}}
}

func answerIn(t *testing.T, dir string) [3]stream {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "answer"))
	if err != nil {
		t.Fatal(err)
	}
	var got [3]stream
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatalf("%v: %s", err, data)
	}
	return got
}

// withStreams runs a call with files as its streams; nil is /dev/null.
func withStreams(t *testing.T, c call, files [3]*os.File) result {
	t.Helper()
	cmd := c.command(t.Context())
	cmd.Stdin = nil
	var stderr bytes.Buffer
	if files[0] != nil {
		cmd.Stdin = files[0]
	}
	if files[1] != nil {
		cmd.Stdout = files[1]
	}
	cmd.Stderr = &stderr
	if files[2] != nil {
		cmd.Stderr = files[2]
	}
	err := cmd.Run()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return result{stderr: stderr.String(), status: cmd.ProcessState.ExitCode()}
}

// With standard streams closed, as daemons and cron jobs start programs, nothing of
// Purple's own takes their place: neither its connection to the bus nor the spec.
func TestClosedStreams(t *testing.T) {
	dir := streamsDir(t)
	c := streamsCall(dir)
	words := []string{quote(filepath.Join(bin, "purple"))}
	for _, arg := range c.args {
		words = append(words, quote(arg))
	}
	for closed := range 8 {
		redirections := ""
		for n, closing := range []string{" <&-", " >&-", " 2>&-"} {
			if closed>>n&1 == 1 {
				redirections += closing
			}
		}
		for range starts(t) / 5 {
			script := fmt.Sprintf("rm -f answer; %s%s", strings.Join(words, " "), redirections)
			cmd := exec.CommandContext(t.Context(), "bash", "-c", script)
			cmd.Dir = dir
			stdin, output := pipe(t), pipe(t)
			cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin[0], output[1], output[1]
			if err := cmd.Run(); err != nil {
				t.Fatalf("%q: %v", redirections, err)
			}
			for n, got := range answerIn(t, dir) {
				want := stream{Link: linkOf(t, [3]*os.File{stdin[0], output[1], output[1]}[n]), Kind: "pipe"}
				if closed>>n&1 == 1 {
					want = stream{Link: "/dev/null", Kind: "null"}
				}
				if got.Link != want.Link || got.Kind != want.Kind {
					t.Fatalf("%q: descriptor %d is %+v, want %+v", redirections, n, got, want)
				}
			}
			for _, f := range append(stdin[:], output[:]...) {
				f.Close()
			}
		}
	}
}

// The helpers, which systemd and purple start, end with a word if they are called so.
func TestHelpersWithClosedStreams(t *testing.T) {
	for program, want := range map[string]string{
		"purple-init":      "status 125: purple: standard input is no control socket",
		"purple-net rules": "status 1: purple-net: cannot read the ruleset",
	} {
		for _, closed := range []string{"<&-", "<&- >&-", ">&- </dev/null"} {
			script := fmt.Sprintf("said=$(%s/%s 2>&1 1>/dev/null %s); echo \"status $?: $said\"", bin, program, closed)
			if got := sh(t, script); !strings.HasPrefix(got, want) || strings.Count(got, "\n") != 1 {
				t.Errorf("%s %s: %q", program, closed, got)
			}
		}
	}
}

func pipe(t *testing.T) [2]*os.File {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	return [2]*os.File{r, w}
}

func linkOf(t *testing.T, f *os.File) string {
	t.Helper()
	link, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	return link
}

// descriptor makes one that is more than a stream.
func descriptor(t *testing.T, kind, dir string) *os.File {
	t.Helper()
	var fd int
	var err error
	pair := func(kind int) {
		var fds [2]int
		if fds, err = unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0); err == nil {
			fd = fds[0]
			unix.Close(fds[1])
		}
	}
	switch kind {
	case "directory":
		fd, err = unix.Open("/etc", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	case "path":
		fd, err = unix.Open("/etc/passwd", unix.O_PATH|unix.O_CLOEXEC, 0)
	case "epoll":
		fd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	case "pidfd":
		fd, err = unix.PidfdOpen(os.Getpid(), 0)
	case "memory file":
		fd, err = unix.MemfdCreate("test", unix.MFD_CLOEXEC)
	case "namespace":
		fd, err = unix.Open("/proc/self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	case "named pipe":
		if err = unix.Mkfifo(filepath.Join(dir, "fifo"), 0o666); err == nil {
			fd, err = unix.Open(filepath.Join(dir, "fifo"), unix.O_RDWR|unix.O_CLOEXEC, 0)
		}
	case "stream socket":
		pair(unix.SOCK_STREAM)
	case "datagram socket":
		pair(unix.SOCK_DGRAM)
	case "packet socket":
		pair(unix.SOCK_SEQPACKET)
	case "listening socket":
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err == nil {
			err = unix.Listen(fd, 1)
		}
	case "file":
		if fd, err = unix.Open(filepath.Join(dir, "file"), unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o666); err == nil {
			err = unix.Fchmod(fd, 0o666)
		}
	default:
		t.Fatalf("no kind %q", kind)
	}
	if err != nil {
		t.Fatalf("%s: %v", kind, err)
	}
	f := os.NewFile(uintptr(fd), kind)
	t.Cleanup(func() { f.Close() })
	return f
}

// What is more than a stream is refused, or something else is in its place.
func TestHostileStreams(t *testing.T) {
	for _, tt := range []struct {
		kind    string
		refused string // why; empty: the command runs
	}{
		{"directory", "it is a directory"},
		{"path", "it is not open for reading or writing"},
		{"epoll", "it is not a file"},
		{"pidfd", "it is "},
		{"namespace", "it is a namespace"},
		{"datagram socket", "not a connected stream"},
		{"packet socket", "not a connected stream"},
		{"listening socket", "not a connected stream"},
		{"stream socket", ""},
		{"memory file", ""},
		{"named pipe", ""},
		{"file", ""},
	} {
		t.Run(tt.kind, func(t *testing.T) {
			for n := range 3 {
				dir := streamsDir(t)
				var files [3]*os.File
				files[n] = descriptor(t, tt.kind, dir)
				if n == 2 && tt.refused != "" {
					continue // purple has nowhere to say so: see below
				}
				r := withStreams(t, streamsCall(dir), files)
				if tt.refused != "" {
					r.mustRefuse(t, 125, "cannot pass standard", tt.refused)
					continue
				}
				if r.mustSucceed(t); n != 2 && r.stderr != "" {
					t.Errorf("stderr: %s", r.stderr)
				}
				got := answerIn(t, dir)[n]
				if got.Kind != "pipe" && !(n == 0 && got.Kind == "file" && got.OpenToWrite == "EROFS" && got.Chmod == "EROFS") {
					t.Errorf("descriptor %d: %+v", n, got)
				}
			}
		})
	}
	dir := streamsDir(t)
	if r := withStreams(t, streamsCall(dir), [3]*os.File{2: descriptor(t, "directory", dir)}); r.status != 125 {
		t.Errorf("a directory as standard error: status %d", r.status)
	}
	if _, err := os.Stat(filepath.Join(dir, "answer")); err == nil {
		t.Error("the command has run with a directory as standard error")
	}
}

// streamFile is a file of the user who calls purple.
func streamFile(t *testing.T, content string, mode os.FileMode) string {
	t.Helper()
	name := filepath.Join(tempDir(t), "stream")
	if err := os.WriteFile(name, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(name, callerUID, callerUID); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(name, mode); err != nil { // whatever the umask is
		t.Fatal(err)
	}
	return name
}

func openFile(t *testing.T, name string, flags int) *os.File {
	t.Helper()
	f, err := os.OpenFile(name, flags, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// A file on standard input can be read, seeked in and opened again, and neither be
// written nor changed, although it belongs to the command's user.
func TestFileOnStandardInput(t *testing.T) {
	name := streamFile(t, "first\nsecond\n", 0o666) // its mode is not what protects it
	dir := streamsDir(t)
	withStreams(t, streamsCall(dir), [3]*os.File{openFile(t, name, os.O_RDWR)}).mustSucceed(t)
	want := stream{Link: "/", Kind: "file", OpenToRead: "ok", OpenToWrite: "EROFS", Chmod: "EROFS"}
	if got := answerIn(t, dir)[0]; got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	const script = `import sys; f = sys.stdin.buffer; print(f.read(5)); f.seek(-4, 2); print(f.read()); print(open("/dev/stdin").read())`
	out := pipe(t)
	withStreams(t, call{args: []string{"run", "--profile", profilePath("plain"), "--", "python3", "-c", script}}, [3]*os.File{openFile(t, name, os.O_RDONLY), out[1]}).mustSucceed(t)
	out[1].Close()
	if text, err := io.ReadAll(out[0]); err != nil || string(text) != "b'first'\nb'ond\\n'\nfirst\nsecond\n\n" {
		t.Errorf("%q, %v", text, err)
	}
	if got := sh(t, "cat "+name+"; stat -c %a "+name); got != "first\nsecond\n666\n" {
		t.Errorf("the file is now %q", got)
	}
	// The control: outside, the same descriptor is good for all that.
	outside := exec.CommandContext(t.Context(), filepath.Join(bin, "probe"), "streams")
	outside.Stdin = openFile(t, name, os.O_RDONLY)
	text, err := outside.Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := decode[[3]stream](t, result{stdout: string(text)})[0]; got.OpenToWrite != "ok" || got.Chmod != "ok" {
		t.Errorf("control: %+v", got)
	}
}

// The command is sent the file as it is, wherever it may not be opened by its path: it
// has no name any more, or belongs to somebody else.
func TestFileOnStandardInputWithoutAPath(t *testing.T) {
	cat := call{args: []string{"run", "--profile", profilePath("plain"), "--", "cat", "/dev/stdin"}}
	for name, prepare := range map[string]string{
		"deleted":     "rm %s",
		"root's only": "chown 0 %[1]s; chmod 600 %[1]s",
	} {
		file := streamFile(t, "content\n", 0o644)
		stdin, out := openFile(t, file, os.O_RDONLY), pipe(t)
		sh(t, fmt.Sprintf(prepare, file))
		withStreams(t, cat, [3]*os.File{stdin, out[1]}).mustSucceed(t)
		out[1].Close()
		if text, err := io.ReadAll(out[0]); err != nil || string(text) != "content\n" {
			t.Errorf("%s: %q, %v", name, text, err)
		}
	}
}

// What the command has read of a file is read for whoever comes next.
func TestOffsetOfStandardInput(t *testing.T) {
	name := streamFile(t, "one\ntwo\nthree\n", 0o644)
	read := fmt.Sprintf("%q run --profile %q -- sh -c 'read x; echo got $x'", filepath.Join(bin, "purple"), profilePath("plain"))
	for _, tt := range []struct{ script, want string }{
		{"{ " + read + "; " + read + "; cat; }", "got one\ngot two\nthree\n"},
		{"while read -r x; do echo $x; " + strings.Replace(read, "read x; echo got $x", ":", 1) + "; done", "one\ntwo\nthree\n"},
	} {
		if got := sh(t, fmt.Sprintf("cd %q; %s <%s", tempDir(t), tt.script, name)); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.script, got, tt.want)
		}
	}
}

// Output into a file is only appended: what is in it can be neither read nor changed.
func TestOutputIntoAFile(t *testing.T) {
	for _, flags := range []int{os.O_WRONLY, os.O_WRONLY | os.O_APPEND, os.O_RDWR | os.O_APPEND} {
		name := streamFile(t, "secret\n", 0o666)
		dir := streamsDir(t)
		log := openFile(t, name, flags)
		if _, err := log.Seek(0, io.SeekEnd); err != nil {
			t.Fatal(err)
		}
		withStreams(t, streamsCall(dir), [3]*os.File{1: log, 2: log}).mustSucceed(t)
		if got := answerIn(t, dir); got[1].Kind != "pipe" || got[2] != got[1] {
			t.Errorf("%+v", got)
		}
		const script = "for i in 1 2 3; do echo out $i; echo err $i >&2; echo byname $i >/dev/stdout; done; truncate -s 0 /dev/stdout; cat </dev/stderr & sleep 0.2; kill $!"
		withStreams(t, call{args: []string{"run", "--profile", profilePath("plain"), "--", "sh", "-c", script}}, [3]*os.File{1: log, 2: log})
		got, err := os.ReadFile(name)
		want := "secret\nout 1\nerr 1\nbyname 1\nout 2\nerr 2\nbyname 2\nout 3\nerr 3\nbyname 3\n"
		if err != nil || !strings.HasPrefix(string(got), want) {
			t.Errorf("%q, %v, want it to begin with %q", got, err, want)
		}
	}
}

// /dev/stdin, /dev/stdout and /dev/stderr can be opened, for whatever they are outside
// and whoever it belongs to.
func TestStreamsByName(t *testing.T) {
	const script = "cat /dev/stdin; echo out >/dev/stdout; echo err >/dev/stderr; cat /dev/fd/0; tee /dev/stderr </dev/null"
	c := call{args: []string{"run", "--profile", profilePath("plain"), "--", "sh", "-c", script}}
	for name, input := range map[string]func() *os.File{
		"pipe": func() *os.File {
			// Of the user who calls purple, as the shell's is.
			p := pipe(t)
			if err := p[0].Chown(callerUID, callerUID); err != nil {
				t.Fatal(err)
			}
			fmt.Fprintln(p[1], "in")
			p[1].Close()
			return p[0]
		},
		"file":                 func() *os.File { return openFile(t, streamFile(t, "in\n", 0o644), os.O_RDONLY) },
		"file of the caller's": func() *os.File { return openFile(t, streamFile(t, "in\n", 0o600), os.O_RDONLY) },
		"socket": func() *os.File {
			fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			far := os.NewFile(uintptr(fds[1]), "socket")
			fmt.Fprintln(far, "in")
			far.Close()
			return os.NewFile(uintptr(fds[0]), "socket")
		},
	} {
		stdin, out, errs := input(), pipe(t), pipe(t)
		if err := out[1].Chown(callerUID, callerUID); err != nil {
			t.Fatal(err)
		}
		if err := errs[1].Chown(callerUID, callerUID); err != nil {
			t.Fatal(err)
		}
		r := withStreams(t, c, [3]*os.File{stdin, out[1], errs[1]})
		out[1].Close()
		errs[1].Close()
		text, _ := io.ReadAll(out[0])
		errors, _ := io.ReadAll(errs[0])
		again := ""
		if name == "file" || name == "file of the caller's" && asUser {
			again = "in\n" // from its beginning
		}
		if r.status != 0 || string(text) != "in\nout\n"+again || string(errors) != "err\n" {
			t.Errorf("%s: status %d, %q, %q", name, r.status, text, errors)
		}
	}
}

// A pipe is opened anew in the direction in which the command has it; that of root's
// run has another uid and no more than that.
func TestPipesKeepTheirDirection(t *testing.T) {
	if asUser {
		t.Log("a pipe belongs to the user who runs the command: security.md says so")
	}
	dir := streamsDir(t)
	in, out := pipe(t), pipe(t)
	withStreams(t, streamsCall(dir), [3]*os.File{in[0], out[1]}).mustSucceed(t)
	got := answerIn(t, dir)
	if asUser { // the pipes are root's here
		if got[0].OpenToWrite != "EACCES" || got[1].OpenToRead != "EACCES" {
			t.Errorf("%+v", got)
		}
		return
	}
	if got[0].OpenToRead != "ok" || got[0].OpenToWrite != "EACCES" || got[0].Chmod != "EPERM" {
		t.Errorf("standard input: %+v", got[0])
	}
	if got[1].OpenToWrite != "ok" || got[1].OpenToRead != "EACCES" || got[1].Chmod != "EPERM" {
		t.Errorf("standard output: %+v", got[1])
	}
}

// Sockets as streams, as Node and inetd give them, stay outside and work.
func TestSocketStreams(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	near, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	far, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	socket, err := near.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	near.Close()
	c := call{args: []string{"run", "--profile", profilePath("plain"), "--", "sh", "-c", "read x; echo got $x; stat -Lc %F /proc/self/fd/0 /proc/self/fd/1 >&2"}}
	if _, err := fmt.Fprintln(far, "hello"); err != nil {
		t.Fatal(err)
	}
	withStreams(t, c, [3]*os.File{socket, socket, socket}).mustSucceed(t)
	socket.Close()
	if text, err := io.ReadAll(far); err != nil || string(text) != "got hello\nfifo\nfifo\n" {
		t.Errorf("%q, %v", text, err)
	}
}

// A reader that is slower than the command gets all of it, long after the command's
// end; and one that never reads does not keep the run from being stopped.
func TestSlowReader(t *testing.T) {
	const size = 400_000 // more than a socket holds and less than socket, pipe and buffer do
	c := call{args: []string{"run", "--profile", profilePath("plain"), "--", "head", "-c", fmt.Sprint(size), "/dev/zero"}}
	start := func() (*exec.Cmd, *os.File) {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		near, far := os.NewFile(uintptr(fds[0]), "socket"), os.NewFile(uintptr(fds[1]), "socket")
		cmd := c.command(t.Context())
		cmd.Dir, cmd.Stdin, cmd.Stdout = tempDir(t), nil, near
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		near.Close()
		return cmd, far
	}
	cmd, far := start()
	time.Sleep(4 * time.Second) // longer than a run waits for a journal
	text, err := io.ReadAll(far)
	if err != nil || len(text) != size {
		t.Errorf("%d bytes, %v", len(text), err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	cmd, far = start()
	defer far.Close()
	time.Sleep(2 * time.Second)
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it must come back; the status is the command's, or that of the signal
}

// Where a file takes no more, the run says so.
func TestOutputThatCannotBeWritten(t *testing.T) {
	c := call{args: []string{"run", "--profile", profilePath("plain"), "--", "sh", "-c", "echo text; echo more >&2"}}
	r := withStreams(t, c, [3]*os.File{1: openFile(t, fullDisk(t), os.O_WRONLY)})
	if !strings.Contains(r.stderr, "more\n") || !strings.Contains(r.stderr, "cannot write all of the command's output to standard output: no space left on device") {
		t.Errorf("%+v", r)
	}
}

// fullDisk is a file that takes nothing more.
func fullDisk(t *testing.T) string {
	t.Helper()
	dir := tempDir(t)
	sh(t, fmt.Sprintf("mount -t tmpfs -o size=4k,mode=777 none %[1]s && touch %[1]s/file && chmod 666 %[1]s/file && head -c 4096 /dev/zero >%[1]s/full", dir))
	t.Cleanup(func() { sh(t, "umount -l "+dir) })
	return filepath.Join(dir, "file")
}

// Landlock, which makes an output path write-only, lets a file on standard input be
// opened by its name.
func TestStandardInputUnderLandlock(t *testing.T) {
	out := tempDir(t)
	profile := writeProfile(t, fmt.Sprintf("name: landlocked\nextends: offline\nfilesystem:\n  output_paths: [{host_path: %q, sandbox_path: /output}]\n", out))
	stdin := openFile(t, streamFile(t, "in\n", 0o644), os.O_RDONLY)
	stdout := pipe(t)
	c := call{args: []string{"run", "--profile", profile, "--", "sh", "-c", "cat /dev/stdin; ls /output"}}
	r := withStreams(t, c, [3]*os.File{stdin, stdout[1]})
	stdout[1].Close()
	text, err := io.ReadAll(stdout[0])
	if err != nil || string(text) != "in\n" || r.status == 0 || !strings.Contains(r.stderr, "Permission denied") {
		t.Errorf("%q, %v, %+v", text, err, r)
	}
}
