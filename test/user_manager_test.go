//go:build integration

package test

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"gopkg.in/yaml.v3"
)

// The suite runs for both managers: root's runs on the system's and, with
// PURPLE_TEST_MANAGER=user, those of an ordinary user on the user's own. What
// the tests call is the same; purple, systemctl and journalctl are then scripts
// that become the user (userTools).
var asUser = os.Getenv("PURPLE_TEST_MANAGER") == "user"

// The users of a run for user managers. Neither has a privilege; bob is there to
// see nothing of alice's, and is in a group.
const (
	alice, aliceUID = "purple-alice", 30011
	bob, bobUID     = "purple-bob", 30012
)

// Reasons why a test cannot hold under a user manager.
const (
	rootsPart    = "it is about root's part of the network on the host, and a user's run has none"
	rootsOwn     = "it is about root, sudo or the ids that root's runs get"
	systemUnits  = "it changes the system manager, the system bus or units of the system"
	noHold       = "it holds up the start by a lock or a unit that only root's runs wait for"
	aScript      = "the purple of users is a script here, and cannot be copied beside another purple-init"
	lookups      = "a user's purple itself, outside of the sandbox, asks the name services who the user is"
	passedOn     = "pasta is a process: what is sent and not waited for may end with it. The rules stand before it is started"
	perRunLimits = "cgroup v1 gives a user's manager no controller, so there is no limit to test"
	blockIO      = "block IO is not delegated to users: TestUserBlockIO"
)

// onlyUsers are the tests of what root's runs have not got.
const onlyUsers = "^TestUser"

// notForUsers are the tests that cannot hold under a user manager, and why.
var notForUsers = map[string]string{
	"TestAddressRange":                         rootsPart,
	"TestFiftyAtOnce":                          rootsPart,
	"TestFirewallThatDoesNotDropIsNoHindrance": rootsPart,
	"TestFirewallThatDropsIsNamed":             rootsPart,
	"TestForwardingOfTheHostsOwnStays":         rootsPart,
	"TestGatewayIsTheHost":                     rootsPart,
	"TestHostsPartIsConfined":                  rootsPart,
	"TestHostAddressOnPurpose":                 rootsPart,
	"TestKilledRunsLeaveNoNetwork":             rootsPart,
	"TestLeftoversAreCleanedUp":                rootsPart,
	"TestNetworkTopology":                      rootsPart,
	"TestNothingIsLeftOfTheNetwork":            rootsPart,
	"TestPlanChangesNothing":                   rootsPart,
	"TestPlannedRulesAreTheLoadedRules":        rootsPart,
	"TestRemedyForAFirewallWorks":              rootsPart,
	"TestStartWhileTheHostsPartGoes":           rootsPart,
	"TestUnusualHosts":                         rootsPart,
	"TestCountersOfTheHostsRoot":               rootsOwn,
	"TestDocumentedCommands":                   rootsOwn,
	"TestFirstUse":                             rootsOwn,
	"TestLogAndReceiptUnderSudo":               rootsOwn,
	"TestLogOnAFullDisk":                       rootsOwn,
	"TestManageAsUser":                         rootsOwn,
	"TestNoFileCapabilitiesAreLeftBehind":      rootsOwn,
	"TestOthersAskTheirOwnManager":             rootsOwn,
	"TestSudo":                                 rootsOwn,
	"TestFoldersOfOthers":                      rootsOwn,
	"TestProfilesBehindSudo":                   rootsOwn,
	"TestFilesBehindSudo":                      rootsOwn,
	"TestLogsBehindSudo":                       rootsOwn,
	"TestPathsBehindSudo":                      rootsOwn,
	"TestPathsThatAreClosedBehindSudo":         rootsOwn,
	"TestPortsBehindSudo":                      rootsOwn,
	"TestProcBehindSudo":                       rootsOwn,
	"TestLinkToProfilesBehindSudo":             rootsOwn,
	"TestRoutesBehindSudo":                     rootsOwn,
	"TestEventsAreExplained":                   systemUnits,
	"TestManagerReload":                        systemUnits,
	"TestOthersUnitsAreLeftAlone":              systemUnits,
	"TestPsOfManyRuns":                         systemUnits,
	"TestStopDuringTheStart":                   noHold,
	"TestStopBeforeTheStart":                   systemUnits,
	"TestTimeoutWithoutTheBus":                 systemUnits,
	"TestInterruptsWithoutTheBus":              systemUnits,
	"TestEndWhileInitHangs":                    noHold,
	"TestInitThatCannotBeExecuted":             aScript,
	"TestNameServiceSocketsAreUnreachable":     lookups,
	"TestFirstInstructionSendsNothing":         passedOn,
	"TestKillInTheLastMomentBeforeTheCommand":  noHold,
	"TestBlockIOLimit":                         blockIO,
	"TestBlockIOLimitOnATmpfs":                 blockIO,
}

// notForUsersOnV1 are those that need a limit of a control group.
var notForUsersOnV1 = map[string]string{
	"TestCPULimit":                   perRunLimits,
	"TestLimitsAreInTheCgroup":       perRunLimits,
	"TestLimitsReached":              perRunLimits,
	"TestLiveStats":                  perRunLimits,
	"TestMemoryLimit":                perRunLimits,
	"TestPs":                         perRunLimits,
	"TestRunsHaveABeginningAndAnEnd": perRunLimits,
	"TestStats":                      perRunLimits,
	"TestTasksLimit":                 perRunLimits,
	"TestAuditThatIsNotEnabled":      perRunLimits,
	"TestUserBlockIODelegated":       perRunLimits,
	"TestUsageIsTold":                perRunLimits,
	"TestWhyOfLimits":                perRunLimits,
}

// Who calls purple, and what follows from that: the uid inside, the groups as
// /proc/PID/status has them, and where journald has the unit of who sent an entry
// and of what it is about.
var (
	caller, callerUID = "root", 0
	insideUID         = 1000
	insideGroups      = ""
	unitField         = "_SYSTEMD_UNIT"
	aboutField        = "OBJECT_SYSTEMD_UNIT"
)

func fourTimes(id int) string { return strings.Join(slices.Repeat([]string{fmt.Sprint(id)}, 4), "\t") }

func homeOf(user string) string {
	if user == "root" {
		return "/root"
	}
	return "/home/" + user
}

// lifted: the profiles are without limits, see liftLimits.
var lifted bool

// setUpUsers makes the users and what they call, and skips what cannot hold. The
// function that it returns takes it all back.
func setUpUsers() (func(), error) {
	caller, callerUID, insideUID, insideGroups = alice, aliceUID, aliceUID, fmt.Sprint(aliceUID)
	unitField, aboutField = "_SYSTEMD_USER_UNIT", "USER_UNIT"
	hybrid, err := isHybrid()
	if err != nil {
		return nil, err
	}
	skip := slices.Collect(maps.Keys(notForUsers))
	if lifted = hybrid; lifted {
		skip = append(skip, slices.Collect(maps.Keys(notForUsersOnV1))...)
	}
	slices.Sort(skip)
	if err := flag.Set("test.skip", "^("+strings.Join(skip, "|")+")$"); err != nil {
		return nil, err
	}
	fmt.Printf("not under a user manager: %s\n", strings.Join(skip, " "))
	if err := makeUsers(); err != nil {
		return nil, err
	}
	tools, err := userTools()
	if err == nil && lifted {
		err = liftLimits()
	}
	return func() {
		os.RemoveAll(tools)
		_ = exec.Command("bash", "-c", removeUsers).Run()
	}, err
}

func isHybrid() (bool, error) {
	out, err := exec.Command("stat", "-f", "-c", "%T", "/sys/fs/cgroup").Output()
	return strings.TrimSpace(string(out)) != "cgroup2fs", err
}

const removeUsers = `
for u in ` + alice + " " + bob + `; do
	loginctl disable-linger $u; loginctl terminate-user $u
	for i in $(seq 50); do pgrep -u $u >/dev/null || break; sleep 0.1; done
	userdel -r $u
done`

func makeUsers() error {
	script := fmt.Sprintf(`set -e
getent group purple-test >/dev/null || groupadd purple-test
useradd -m -u %d %s
useradd -m -u %d -G purple-test %s
loginctl enable-linger %[2]s
loginctl enable-linger %[4]s`, aliceUID, alice, bobUID, bob)
	if out, err := exec.Command("bash", "-c", script).CombinedOutput(); err != nil {
		return fmt.Errorf("cannot make the users: %v\n%s", err, out)
	}
	for _, uid := range []int{aliceUID, bobUID} {
		bus := fmt.Sprintf("/run/user/%d/bus", uid)
		for end := time.Now().Add(limit); ; time.Sleep(100 * time.Millisecond) {
			if _, err := os.Stat(bus); err == nil {
				break
			}
			if time.Now().After(end) {
				return fmt.Errorf("there is no %s", bus)
			}
		}
	}
	return nil
}

// become is a script that runs the rest of its line as a user, with nothing of a
// login but the home directory.
func become(user string, uid int) string {
	return fmt.Sprintf(`exec setpriv --reuid=%[2]d --regid=%[2]d --init-groups env HOME=/home/%[1]s USER=%[1]s LOGNAME=%[1]s`, user, uid)
}

// userTools puts purple, systemctl and journalctl of alice's in front of root's.
func userTools() (string, error) {
	dir, err := os.MkdirTemp("/var/tmp", "purple-user.")
	if err != nil {
		return "", err
	}
	copies := fmt.Sprintf("chmod 755 %[2]s; mkdir %[2]s/real %[2]s/bin %[2]s/tools; cp %[1]s/{purple,purple-init,purple-net} %[2]s/real; cp %[1]s/{purple-init,purple-net,probe} %[2]s/bin", bin, dir)
	if out, err := exec.Command("bash", "-c", copies).CombinedOutput(); err != nil {
		return dir, fmt.Errorf("cannot copy bin: %v\n%s", err, out)
	}
	runtime := fmt.Sprintf("XDG_RUNTIME_DIR=/run/user/%d", aliceUID)
	for name, script := range map[string]string{
		"bin/purple": become(alice, aliceUID) + " " + dir + `/real/purple "$@"`,
		// The user's manager, but for what only the system has.
		"tools/systemctl": become(alice, aliceUID) + " " + runtime + ` /usr/bin/systemctl --user "$@"`,
		// journald is root's to be asked to write.
		"tools/journalctl": `case "$*" in --sync|--update-catalog) exec /usr/bin/journalctl "$@";; esac
args=(); while (($#)); do if [[ $1 == -u ]]; then args+=(--user-unit="$2"); shift 2; else args+=("$1"); shift; fi; done
` + become(alice, aliceUID) + ` /usr/bin/journalctl "${args[@]}"`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/bash\n"+script+"\n"), 0o755); err != nil {
			return dir, err
		}
	}
	bin = filepath.Join(dir, "bin")
	return dir, os.Setenv("PATH", filepath.Join(dir, "tools")+":"+os.Getenv("PATH"))
}

// tempDir is a directory of the caller's of purple.
func tempDir(t *testing.T) string {
	t.Helper()
	if !asUser {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp("/home/"+alice, "test.")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err == nil {
		err = os.Chown(dir, aliceUID, aliceUID)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// builtin are the built-in profiles that the tests name.
var builtin = []string{"ai-dev-safe", "node", "offline", "python"}

// liftLimits takes the limits out of every profile that the tests use: the user
// manager of a hybrid host has no controller, and purple refuses. Of the built-in
// ones alice gets copies, which are found first.
func liftLimits() error {
	own := "/home/" + alice + "/.config/purple/policies"
	for _, name := range builtin {
		if out, err := exec.Command(filepath.Join(bin, "purple"), "profile", "create", name, "--from", name).CombinedOutput(); err != nil {
			return fmt.Errorf("cannot copy the profile %s: %v\n%s", name, err, out)
		}
	}
	files, err := filepath.Glob(profiles + "/*.yaml")
	if err != nil {
		return err
	}
	for _, name := range builtin {
		files = append(files, filepath.Join(own, name+".yaml"))
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err == nil {
			err = os.WriteFile(file, []byte(lift(string(data))), 0o644)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// unlimited are the limits that take a controller.
var unlimited = []string{"cpu_shares", "memory_limit_bytes", "pids_limit", "block_io_limit"}

// liftedFields are the limits that the start of a run does not tell then, of a
// profile that limits memory and tasks.
func liftedFields() []string {
	if !lifted {
		return nil
	}
	return unlimited[1:3]
}

// lift takes the limits out of a profile where they are to be. What extends
// another has that one's, which have been taken out; what cannot be read is a
// profile that purple refuses, as the test wants.
func lift(profile string) string {
	var all map[string]any
	if !lifted || yaml.Unmarshal([]byte(profile), &all) != nil {
		return profile
	}
	resources, has := all["resources"].(map[string]any)
	if !has && all["extends"] != nil {
		return profile
	}
	none := "resources: {" + strings.Join(unlimited, ": unlimited, ") + ": unlimited}"
	if !has {
		return profile + "\n" + none + "\n"
	}
	if line := regexp.MustCompile(`(?m)^resources: \{.*\}$`); line.MatchString(profile) {
		return line.ReplaceAllLiteralString(profile, none) // the lines stay where they are
	}
	for _, key := range unlimited {
		resources[key] = "unlimited"
	}
	data, err := yaml.Marshal(all)
	if err != nil {
		return profile
	}
	return string(data)
}

// The tables name tests that there are.
func TestTablesOfUserManagers(t *testing.T) {
	list := exec.Command(os.Args[0], "-test.list", ".")
	list.Env = append(os.Environ(), "PURPLE_TEST_MANAGER=")
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Fields(string(out))
	for _, table := range []map[string]string{notForUsers, notForUsersOnV1} {
		for name, reason := range table {
			if !slices.Contains(all, name) || reason == "" {
				t.Errorf("%s: %q: there is no such test, or no reason", name, reason)
			}
		}
	}
}
