package main

import (
	"errors"

	"github.com/purple-sandbox/purple/internal/host"
	"github.com/purple-sandbox/purple/policies"
	"github.com/purple-sandbox/purple/translate"
	"github.com/purple-sandbox/purple/translate/seccomp"
	"github.com/purple-sandbox/purple/units"
)

// profileState is what has become of a run's profile.
type profileState string

const (
	profileSame       profileState = "same"       // it still means what it meant to the run
	profileChanged    profileState = "changed"    // since the start of the run
	profileUnreadable profileState = "unreadable" // it is gone, or no profile any more
)

// runProfile is the profile of a run as it is now. The remedies are for it.
type runProfile struct {
	name  string
	file  string // empty: it is built in, or was not recorded
	state profileState
	err   error // why it is unreadable

	evaluator
	networkErr error // why there is no evaluator.network
}

// profileOf loads the profile of a run again.
func (a *app) profileOf(r *record) *runProfile {
	p := &runProfile{}
	p.name, _, _ = units.ParseName(r.unit)
	if h := &r.history; h.Started != nil {
		p.file = h.Started.ProfileFile
	}
	var digest string
	if p.policy, p.err = a.loadAgain(p); p.err == nil {
		digest, p.err = p.policy.Digest()
	}
	if p.err == nil {
		p.rules, p.err = seccomp.Resolve(p.policy.Syscalls, seccomp.NativeArch)
	}
	switch {
	case p.err != nil:
		p.forget()
	case digest == r.policyHash():
		p.state = profileSame
	default:
		p.state = profileChanged
	}
	p.files = p.policy
	if p.policy != nil && len(r.history.Connections) > 0 {
		p.network, p.networkErr = networkOf(p.policy)
	}
	return p
}

func (a *app) loadAgain(p *runProfile) (*policies.Policy, error) {
	store, err := a.store()
	if err != nil {
		return nil, err
	}
	if p.file != "" {
		return store.Load(p.file)
	}
	return store.Load(p.name)
}

// forget leaves what holds whatever a profile says.
func (p *runProfile) forget() {
	p.state, p.policy = profileUnreadable, nil
	p.rules, _ = seccomp.Resolve(policies.Syscalls{}, seccomp.NativeArch) // of no rule none is wrong
}

// networkOf makes the rules again, with what this machine's network is now.
func networkOf(policy *policies.Policy) (*translate.Network, error) {
	if policy.Network.Isolated {
		return nil, errors.New("the profile isolates the network now")
	}
	facts, err := host.ProbeNetwork()
	if err != nil {
		return nil, err
	}
	return translate.NetworkOf(policy, facts)
}
