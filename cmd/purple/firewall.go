package main

import (
	"fmt"
	"runtime"
	"slices"
	"strings"

	"github.com/purple-sandbox/purple/internal/firewall"
	"github.com/purple-sandbox/purple/internal/host"
	"github.com/purple-sandbox/purple/internal/network"
	"github.com/purple-sandbox/purple/translate"
)

// obstacles are what else on this machine filters forwarded packets, and would
// drop the sandbox's: a drop is final, whatever Purple's own table says.
func obstacles(plan *translate.Plan) ([]firewall.Obstacle, error) {
	if plan.Network == nil || plan.Spec.UserManager {
		return nil, nil // nothing is forwarded: pasta's connections are the user's own
	}
	ipv4, ipv6, err := network.Uplinks(plan.Network.Routes)
	if err != nil {
		return nil, err
	}
	rules, err := readFirewall()
	if err != nil {
		return nil, err
	}
	return obstaclesOf(rules, ipv4, ipv6), nil
}

// reportObstacles makes an error, which says how to let the packets through, of
// what certainly drops every one of them; what may drop some is a warning.
// Purple changes no table but its own.
func (a *app) reportObstacles(found []firewall.Obstacle) error {
	var certain, possible []firewall.Obstacle
	for _, o := range found {
		if o.Certain {
			certain = append(certain, o)
		} else {
			possible = append(possible, o)
		}
	}
	if len(certain) > 0 {
		return fmt.Errorf("cannot let the sandbox into the network: %s", describe(certain))
	}
	if len(possible) > 0 {
		fmt.Fprintf(a.stderr, "purple: warning: the sandbox may have no network: %s\n", describe(possible))
	}
	return nil
}

// readFirewall reads in the host's namespace, from a thread that stays there.
func readFirewall() (firewall.Ruleset, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return firewall.Read()
}

// obstaclesOf are those in the way of a sandbox's packets and of their answers,
// each once. Nothing but where the packets go in and out is known of them.
func obstaclesOf(rules firewall.Ruleset, ipv4, ipv6 []string) []firewall.Obstacle {
	var found []firewall.Obstacle
	for family, uplinks := range map[firewall.Family][]string{firewall.IPv4: ipv4, firewall.IPv6: ipv6} {
		for _, uplink := range uplinks {
			out := firewall.Flow{In: host.Bridge, Out: uplink, Family: family, State: firewall.New}
			back := firewall.Flow{In: uplink, Out: host.Bridge, Family: family, State: firewall.Established}
			found = append(found, rules.Obstacles(out)...)
			found = append(found, rules.Obstacles(back)...)
		}
	}
	slices.SortStableFunc(found, func(x, y firewall.Obstacle) int { return strings.Compare(place(x), place(y)) })
	return slices.CompactFunc(found, func(x, y firewall.Obstacle) bool { return place(x) == place(y) && x.Certain == y.Certain })
}

// place is a chain in nft's own words.
func place(o firewall.Obstacle) string { return fmt.Sprintf("%v %s %s", o.Family, o.Table, o.Chain) }

func describe(found []firewall.Obstacle) string {
	verb := "drops"
	if !found[0].Certain {
		verb = "may drop"
	}
	var out []string
	for _, o := range found {
		remedy := "\n    " + strings.ReplaceAll(strings.TrimSpace(o.Remedy), "\n", "\n    ")
		out = append(out, fmt.Sprintf("the chain %s of this machine %s its packets (%s); to let them through:%s", place(o), verb, o.Reason, remedy))
	}
	return strings.Join(out, "\n  ")
}
