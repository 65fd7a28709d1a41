package journal

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
)

// ErrNotPurple says that an entry has none of the message ids of this package.
var ErrNotPurple = errors.New("not an event of Purple's")

// FromFields reads an event back from the fields of a journal entry, as
// `journalctl -o json` has them. It says nothing about who sent the entry.
func FromFields(fields map[string]string) (Event, error) {
	r := &reader{fields: fields}
	var e Event
	switch id := fields[fieldMessageID]; id {
	case ConnectionDeniedID:
		e = r.connectionDenied()
	case DenialsSummaryID:
		e = r.denialsSummary()
	case SyscallDeniedID:
		e = r.syscallDenied()
	case SyscallsDeniedID:
		e = r.syscallsDenied()
	case PathDeniedID:
		e = r.pathDenied()
	case PathsDeniedID:
		e = r.pathsDenied()
	case CapabilityDeniedID:
		e = r.capabilityDenied()
	case CapabilitiesDeniedID:
		e = r.capabilitiesDenied()
	case RunStartedID:
		e = r.runStarted()
	case LimitReachedID:
		e = r.limitReached()
	case RunEndedID:
		e = r.runEnded()
	case LogFailedID:
		e = r.logFailed()
	default:
		return nil, fmt.Errorf("cannot read the message id %q: %w", id, ErrNotPurple)
	}
	if r.err != nil {
		return nil, fmt.Errorf("cannot read the event %q: %w", e.name(), r.err)
	}
	return e, nil
}

// reader takes fields apart and keeps the first error.
type reader struct {
	fields map[string]string
	err    error
}

func (r *reader) run() Run {
	return Run{Unit: r.text(FieldUnit), Profile: r.text(FieldProfile), RunID: r.text(FieldRunID), Learning: r.learning()}
}

func (r *reader) learning() bool {
	value, ok := r.fields[FieldLearning]
	if ok && value != "1" {
		r.fail(FieldLearning, fmt.Errorf("%q is not 1", value))
	}
	return ok
}

func (r *reader) connectionDenied() Event {
	e := ConnectionDenied{
		Run:         r.run(),
		Protocol:    r.protocol(),
		Source:      r.address(FieldSource),
		Destination: r.address(FieldDestination),
		Count:       r.number(FieldCount, 64),
	}
	switch {
	case e.hasICMPType():
		e.ICMPType = uint8(r.number(FieldICMPType, 8))
	case e.hasPort():
		e.Port = uint16(r.number(FieldPort, 16))
	}
	return e
}

func (r *reader) denialsSummary() Event {
	return DenialsSummary{
		Run:          r.run(),
		Total:        r.number(FieldTotal, 64),
		Lost:         r.number(FieldLost, 64),
		Unreadable:   r.number(FieldUnreadable, 64),
		Others:       r.number(FieldOthers, 64),
		Destinations: r.number(FieldDestinations, 64),
	}
}

func (r *reader) fail(name string, err error) {
	if r.err == nil {
		r.err = fmt.Errorf("%s: %w", name, err)
	}
}

func (r *reader) text(name string) string {
	value, ok := r.fields[name]
	if !ok {
		r.fail(name, errors.New("the field is missing"))
	}
	return value
}

func (r *reader) number(name string, bits int) uint64 {
	n, err := strconv.ParseUint(r.text(name), 10, bits)
	if err != nil {
		r.fail(name, err)
	}
	return n
}

// address refuses a zone: Purple writes none, and it may be any text.
func (r *reader) address(name string) netip.Addr {
	text := r.text(name)
	a, err := netip.ParseAddr(text)
	if err == nil && a.Zone() != "" {
		err = fmt.Errorf("%q has a zone", text)
	}
	if err != nil {
		r.fail(name, err)
		return netip.Addr{}
	}
	return a
}

// protocol is a word or a number, so that it can be printed as it is.
func (r *reader) protocol() string {
	text := r.text(FieldProtocol)
	for _, c := range text {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			r.fail(FieldProtocol, fmt.Errorf("%q is no protocol", text))
			break
		}
	}
	return text
}
