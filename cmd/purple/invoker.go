package main

import (
	"fmt"
	"os"
	"os/user"
	"runtime"
	"strconv"
	"sync"

	"github.com/purple-sandbox/purple/internal/fsids"
	"github.com/purple-sandbox/purple/policies"
	"github.com/purple-sandbox/purple/translate"
)

// invoker is the user behind sudo, else this process's own.
var invoker = sync.OnceValues(findInvoker)

func findInvoker() (translate.Invoker, error) {
	euid := os.Geteuid()
	behind, err := userBehind(euid, os.Getenv)
	switch {
	case err != nil:
		return translate.Invoker{}, err
	case behind != nil:
		return invokerOf(behind)
	case euid == 0:
		return translate.Invoker{}, nil
	}
	own, err := user.LookupId(strconv.Itoa(euid))
	if err != nil {
		// A container's user may have no entry; its plan needs none.
		return translate.Invoker{UID: uint32(euid), GID: uint32(os.Getegid())}, nil
	}
	return invokerOf(own)
}

// userBehind is who has root's rights from sudo(8), pkexec(1) or doas(1), by the variable
// that each of them sets; nil: nobody, or root. Only root is asked: nobody else can write
// its environment, unless one of the three is told to keep the caller's. So where they do
// not agree, root is never believed, and two users are refused.
func userBehind(euid int, getenv func(string) string) (*user.User, error) {
	if euid != 0 {
		return nil, nil
	}
	var behind *user.User
	for _, by := range []struct {
		variable string
		lookup   func(string) (*user.User, error)
	}{{"SUDO_UID", lookupID}, {"PKEXEC_UID", lookupID}, {"DOAS_USER", user.Lookup}} {
		value := getenv(by.variable)
		if value == "" {
			continue
		}
		u, err := by.lookup(value)
		switch {
		case err != nil:
			return nil, fmt.Errorf("cannot find the user of %s=%q: %w", by.variable, value, err)
		case u.Uid == "0":
		case behind != nil && behind.Uid != u.Uid:
			return nil, fmt.Errorf("cannot tell who calls: %s=%q is not the user %q of another such variable; unset the one that is wrong", by.variable, value, behind.Username)
		default:
			behind = u
		}
	}
	return behind, nil
}

// lookupID is user.LookupId of a number that is an id: that cuts off what is above.
func lookupID(text string) (*user.User, error) {
	uid, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return nil, err
	}
	return user.LookupId(strconv.FormatUint(uid, 10))
}

func invokerOf(u *user.User) (translate.Invoker, error) {
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return translate.Invoker{}, fmt.Errorf("cannot read the id of %q: %w", u.Username, err)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return translate.Invoker{}, fmt.Errorf("cannot read the group of %q: %w", u.Username, err)
	}
	i := translate.Invoker{UID: uint32(uid), GID: uint32(gid), Name: u.Username, Home: u.HomeDir}
	if os.Geteuid() == 0 {
		i.Groups, err = groupsOf(u)
	}
	return i, err
}

func groupsOf(u *user.User) ([]uint32, error) {
	names, err := u.GroupIds()
	if err != nil {
		return nil, fmt.Errorf("cannot find the groups of %q: %w", u.Username, err)
	}
	groups := make([]uint32, len(names))
	for n, name := range names {
		gid, err := strconv.ParseUint(name, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("cannot read a group of %q: %w", u.Username, err)
		}
		groups[n] = uint32(gid)
	}
	return groups, nil
}

// behindSudo tells whether purple has more rights than who calls it.
func behindSudo(i translate.Invoker) bool { return os.Geteuid() == 0 && i.UID != 0 }

// rightsOf are those that the user behind sudo has to files: purple itself is root, and a
// path of that user's choice could lead anywhere. For plain root, and for a user who
// calls purple themselves, they are this process's.
func rightsOf(i translate.Invoker) policies.Rights {
	return func(f func() error) error { return asInvoker(i, f) }
}

// asInvoker calls f with those rights, see rightsOf, on a thread of its own, which then
// ends.
func asInvoker(i translate.Invoker, f func() error) error {
	if !behindSudo(i) {
		return f()
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked
		if err := fsids.Become(i.UID, i.GID, i.Groups); err != nil {
			done <- fmt.Errorf("cannot act as uid %d: %w", i.UID, err)
			return
		}
		done <- f()
	}()
	return <-done
}

// asRoot calls f, from what asInvoker calls, with the rights of this process.
func asRoot(i translate.Invoker, f func() error) error {
	if !behindSudo(i) {
		return f()
	}
	done := make(chan error)
	go func() { done <- f() }() // on another thread, because that one is locked
	return <-done
}
