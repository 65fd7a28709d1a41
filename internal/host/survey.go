package host

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Survey is what a doctor wants to know of the machine besides Facts: what a run
// finds out by doing it. An empty text of an error means that there was none.
type Survey struct {
	Version      string // systemd's
	ManagerError string // why it cannot be asked

	HelperError string // why purple-init or purple-net cannot be used

	// What a trial of purple-init says: the namespaces of a sandbox, a /proc in
	// them, a ruleset.
	NamespacesError, ProcError, RulesError string

	SeccompActions []string // the kernel's (seccomp(2), /proc/sys/kernel/seccomp)
	PastaVersion   string   // empty: it says none

	// Of users only.
	MaxUserNamespaces int  // user.max_user_namespaces; -1: not known
	CloneAllowed      bool // kernel.unprivileged_userns_clone, where there is that
	AppArmorRestricts bool // kernel.apparmor_restrict_unprivileged_userns
	Lingers           bool

	JournalReadable bool
}

// ProbeSurvey fills in what stands in files.
func ProbeSurvey() Survey {
	return Survey{
		SeccompActions:    strings.Fields(readSetting("/proc/sys/kernel/seccomp/actions_avail", "")),
		MaxUserNamespaces: number(readSetting("/proc/sys/user/max_user_namespaces", "-1")),
		CloneAllowed:      readSetting("/proc/sys/kernel/unprivileged_userns_clone", "1") != "0",
		AppArmorRestricts: readSetting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "0") == "1",
	}
}

func readSetting(name, otherwise string) string {
	data, err := os.ReadFile(name)
	if err != nil {
		return otherwise
	}
	return strings.TrimSpace(string(data))
}

func number(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil {
		return -1
	}
	return n
}

// Lingers tells whether a user's manager outlives the user's last session
// (loginctl(1), enable-linger).
func Lingers(user string) bool {
	_, err := os.Stat(filepath.Join("/var/lib/systemd/linger", user))
	return err == nil
}

// JournalReadable tells whether the caller is shown all that the journal has of
// the units of the manager. A user's own entries are in a file of the user's where
// the journal is kept on disk; otherwise they are among the system's
// (journald.conf(5), SplitMode=), which only some groups may read.
func JournalReadable(manager ManagerKind, uid int) bool {
	if os.Geteuid() == 0 {
		return true
	}
	files := "system.journal"
	if manager == UserManager {
		files = "user-" + strconv.Itoa(uid) + ".journal"
	}
	found, err := filepath.Glob("/var/log/journal/*/" + files)
	return err == nil && slices.ContainsFunc(found, func(name string) bool { return unix.Access(name, unix.R_OK) == nil })
}
