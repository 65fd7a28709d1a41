// Package journal is Purple's audit: typed events to and from journal fields.
//
// An event is worth what the journal's own fields say of its sender. Whoever
// reaches the journal's socket can send the same fields, so a reader asks for
// _SYSTEMD_UNIT= (which journald sets, and a sandbox cannot reach the socket),
// never for PURPLE_UNIT= alone.
package journal

import (
	"fmt"
	"net/netip"
	"strconv"
)

// The message ids: random, and never changed. packaging/purple.catalog
// explains each.
const (
	ConnectionDeniedID = "4adb36f80d634d419606d46fd1fc1346"
	DenialsSummaryID   = "ef3d949366f741fbadc434105a31f941"
)

// The fields of Purple's own. docs/audit.md has the same list.
const (
	FieldEvent        = "PURPLE_EVENT"
	FieldUnit         = "PURPLE_UNIT"
	FieldProfile      = "PURPLE_PROFILE"
	FieldRunID        = "PURPLE_RUN_ID"
	FieldLearning     = "PURPLE_LEARNING"
	FieldProtocol     = "PURPLE_PROTOCOL"
	FieldSource       = "PURPLE_SOURCE"
	FieldDestination  = "PURPLE_DESTINATION"
	FieldPort         = "PURPLE_PORT"
	FieldICMPType     = "PURPLE_ICMP_TYPE"
	FieldCount        = "PURPLE_COUNT"
	FieldTotal        = "PURPLE_TOTAL"
	FieldLost         = "PURPLE_LOST"
	FieldUnreadable   = "PURPLE_UNREADABLE"
	FieldOthers       = "PURPLE_OTHERS"
	FieldDestinations = "PURPLE_DESTINATIONS"
)

// The fields that every program's messages have (systemd.journal-fields(7)).
const (
	fieldMessage      = "MESSAGE"
	fieldMessageID    = "MESSAGE_ID"
	fieldPriority     = "PRIORITY"
	fieldInvocationID = "INVOCATION_ID"

	// FieldIdentifier is what stands in front of an entry in journalctl's output.
	FieldIdentifier = "SYSLOG_IDENTIFIER"

	// FieldObjectUnit is the unit that a message is about, where its sender is
	// of another.
	FieldObjectUnit = "OBJECT_SYSTEMD_UNIT"
	// FieldUserUnit is the same for a unit of a user manager. journald lets any
	// process write it; it counts from one of that user.
	FieldUserUnit = "USER_UNIT"
)

const (
	// Identifier stands in front of events, and of what else Purple has to say: it is
	// the unit's SyslogIdentifier=, too.
	Identifier = "purple-init"
	// OutputIdentifier stands in front of what a detached command prints: its words must
	// not look like Purple's.
	OutputIdentifier = "purple-command"

	// Warning. journald limits the rate for each unit and group of priorities;
	// the command's output is in another group, so it cannot use up the audit's.
	priority = "4"
)

// Field is one field of a journal entry.
type Field struct{ Name, Value string }

// Event is one of the types below.
type Event interface {
	id() string
	name() string
	message() string
	own() []Field
}

// Run is the run that an event is of.
type Run struct {
	Unit    string // "purple-web-0123abcd.service"
	Profile string
	RunID   string // "0123abcd"
	// Learning: system calls that the profile does not name were let through.
	Learning bool
}

func (r Run) fields() []Field {
	fields := []Field{{FieldUnit, r.Unit}, {FieldProfile, r.Profile}, {FieldRunID, r.RunID}}
	if r.Learning {
		fields = append(fields, Field{FieldLearning, "1"})
	}
	return fields
}

// ConnectionDenied is what the network rules have refused to one destination,
// from the start of the run on: of several events for one destination, the
// last one counts.
type ConnectionDenied struct {
	Run
	Protocol    string // "tcp", "udp", "icmp", …, or its number: "47"
	Source      netip.Addr
	Destination netip.Addr
	Port        uint16 // of the destination; 0: none, or not readable
	ICMPType    uint8
	Count       uint64 // packets: each try of a TCP connection, each datagram
}

func (ConnectionDenied) id() string   { return ConnectionDeniedID }
func (ConnectionDenied) name() string { return "connection-denied" }

func (e ConnectionDenied) own() []Field {
	fields := append(e.fields(),
		Field{FieldProtocol, e.Protocol},
		Field{FieldSource, e.Source.String()},
		Field{FieldDestination, e.Destination.String()},
	)
	switch {
	case e.hasICMPType():
		fields = append(fields, Field{FieldICMPType, decimal(uint64(e.ICMPType))})
	case e.hasPort():
		fields = append(fields, Field{FieldPort, decimal(uint64(e.Port))})
	}
	return append(fields, Field{FieldCount, decimal(e.Count)})
}

func (e ConnectionDenied) hasICMPType() bool { return e.Protocol == "icmp" || e.Protocol == "icmpv6" }

func (e ConnectionDenied) hasPort() bool {
	switch e.Protocol {
	case "tcp", "udp", "udplite", "sctp", "dccp":
		return true
	}
	return false
}

// Flow is what was denied, in words: "tcp to 192.0.2.1 port 25".
func (e ConnectionDenied) Flow() string {
	text := fmt.Sprintf("%s to %s", e.Protocol, e.Destination)
	switch {
	case e.hasICMPType():
		text += fmt.Sprintf(" type %d", e.ICMPType)
	case e.hasPort():
		text += fmt.Sprintf(" port %d", e.Port)
	}
	return text
}

func (e ConnectionDenied) message() string {
	text := "Denied " + e.Flow()
	if e.Count > 1 {
		text += fmt.Sprintf(", %d times so far", e.Count)
	}
	return text
}

// DenialsSummary ends the events of a run's network. Its Total is exact.
type DenialsSummary struct {
	Run
	Total uint64 // packets refused, all of the following included
	// Lost were refused and counted by the kernel, but came faster than they
	// could be read: their destinations are not known.
	Lost uint64
	// Unreadable had no IP header that could be understood.
	Unreadable uint64
	// Others went to destinations beyond those told one by one.
	Others uint64
	// Destinations is how many were told one by one.
	Destinations uint64
}

func (DenialsSummary) id() string   { return DenialsSummaryID }
func (DenialsSummary) name() string { return "connections-denied-total" }

func (e DenialsSummary) own() []Field {
	return append(e.fields(),
		Field{FieldTotal, decimal(e.Total)},
		Field{FieldLost, decimal(e.Lost)},
		Field{FieldUnreadable, decimal(e.Unreadable)},
		Field{FieldOthers, decimal(e.Others)},
		Field{FieldDestinations, decimal(e.Destinations)},
	)
}

func (e DenialsSummary) message() string {
	text := fmt.Sprintf("Denied packets in this run: %d; destinations: %d", e.Total, e.Destinations)
	if e.Others > 0 {
		text += fmt.Sprintf("; to further destinations: %d", e.Others)
	}
	if unknown := e.Lost + e.Unreadable; unknown > 0 {
		text += fmt.Sprintf("; to destinations not known: %d", unknown)
	}
	return text
}

func decimal(n uint64) string { return strconv.FormatUint(n, 10) }

// Message is the event for a reader. No byte of it steers a terminal.
func Message(e Event) string { return Escape(e.message()) }

// Fields are the journal's fields for the event, MESSAGE first.
func Fields(e Event) []Field {
	return append([]Field{
		{fieldMessage, Message(e)},
		{fieldMessageID, e.id()},
		{fieldPriority, priority},
		{FieldIdentifier, Identifier},
		{FieldEvent, e.name()},
	}, e.own()...)
}
