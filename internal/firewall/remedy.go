package firewall

import (
	"fmt"
	"slices"
	"strings"
)

// remedy is the commands that let a flow and its replies through a base chain
// of somebody else's. Who made the chain undoes what nft alone adds to it, so
// the makers that are known get their own command. chains are those that the
// base chain leads to.
func remedy(o Obstacle, f Flow, chains []string) string {
	sandbox := f.sandbox()
	has := func(prefix string) bool {
		return slices.ContainsFunc(chains, func(c string) bool { return strings.HasPrefix(c, prefix) })
	}
	switch {
	case o.Table == "firewalld":
		// The zone accepts all that comes from the interface; what the
		// sandbox may do is Purple's own table's to say.
		return lines("firewall-cmd --zone=trusted --add-interface=%[1]s", "firewall-cmd --permanent --zone=trusted --add-interface=%[1]s", sandbox)
	case f.Hook == Forward && o.Table == "filter" && slices.Contains(chains, "DOCKER-USER"):
		return onForward(iptables(o.Family)+" -I DOCKER-USER", sandbox)
	case has("ufw-") || has("ufw6-"):
		return ufw(f, sandbox)
	}
	return generic(o, f, sandbox)
}

// sandbox is the interface on the sandbox's side: replies go out by it.
func (f Flow) sandbox() string {
	if f.Hook == Forward && f.State == Established {
		return f.Out
	}
	return f.In
}

func iptables(family string) string {
	if family == "ip6" {
		return "ip6tables"
	}
	return "iptables"
}

func onForward(insert, sandbox string) string {
	return lines(insert+" -i %[1]s -j ACCEPT", insert+" -o %[1]s -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", sandbox)
}

// ufw accepts replies by itself: ufw-before-forward in its before.rules.
func ufw(f Flow, sandbox string) string {
	if f.Hook == Forward {
		return "ufw route allow in on " + sandbox
	}
	command := "ufw allow in on " + sandbox
	if f.Port != 0 {
		command += fmt.Sprintf(" to any port %d", f.Port)
	}
	if f.Protocol != "" {
		command += " proto " + f.Protocol
	}
	return command
}

// generic opens no more of the machine itself than the flow needs.
func generic(o Obstacle, f Flow, sandbox string) string {
	insert := fmt.Sprintf("nft insert rule %s %s %s", o.Family, o.Table, o.Chain)
	if f.Hook == Input {
		return fmt.Sprintf("%s iifname %q%s accept", insert, sandbox, service(f))
	}
	return lines(insert+" iifname \"%[1]s\" accept", insert+" oifname \"%[1]s\" ct state established,related accept", sandbox)
}

func service(f Flow) string {
	switch {
	case f.Protocol == "":
		return ""
	case f.Port == 0:
		return " meta l4proto " + f.Protocol
	}
	return fmt.Sprintf(" %s dport %d", f.Protocol, f.Port)
}

func lines(first, second, sandbox string) string {
	return fmt.Sprintf(first+"\n"+second, sandbox)
}
