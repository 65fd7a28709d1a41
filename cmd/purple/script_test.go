package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/purple-sandbox/purple/policies"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// The directories of profiles, for a purple that a script runs. Only this test
// binary looks at them: the real one takes no such thing from the environment.
const (
	userDirVariable   = "PURPLE_TEST_USER_POLICIES"
	systemDirVariable = "PURPLE_TEST_SYSTEM_POLICIES"
)

func TestMain(m *testing.M) {
	unix.Umask(0o022) // a wider one would make every file of a script an unsafe one
	testscript.Main(m, map[string]func(){"purple": scriptedPurple})
}

// scriptedPurple is main with profiles of the script's own.
func scriptedPurple() {
	a := &app{
		stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr,
		policyDirs: []policies.Dir{
			{Path: os.Getenv(userDirVariable), Source: "user", Writable: true},
			{Path: os.Getenv(systemDirVariable), Source: "system"},
		},
	}
	os.Exit(a.main(os.Args[1:]))
}

// TestScripts runs the command lines in testdata. In a script, $USERDIR and
// $SYSTEMDIR are the directories of profiles; $USERDIR can be written to. The
// condition [systemd] holds on a machine that is booted with one.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Condition: func(name string) (bool, error) {
			if name != "systemd" {
				return false, fmt.Errorf("unknown condition %q", name)
			}
			_, err := os.Stat("/run/dbus/system_bus_socket")
			return err == nil, nil
		},
		Setup: func(env *testscript.Env) error {
			user, system := filepath.Join(env.WorkDir, ".user"), filepath.Join(env.WorkDir, ".system")
			env.Setenv(userDirVariable, user)
			env.Setenv(systemDirVariable, system)
			env.Setenv("USERDIR", user)
			env.Setenv("SYSTEMDIR", system)
			return os.Mkdir(system, 0o755)
		},
	})
}
