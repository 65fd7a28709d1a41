package spec

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// Specs and messages travel as their fields in a fixed order. Three processes
// read a spec while somebody waits for the command: what encoding/json spends
// on finding out how the types look, each time anew, is a twentieth of a start.
//
// codec goes through a value in one direction or the other, so that both
// cannot disagree. The first error stays, and what follows does nothing.
type codec struct {
	decoding bool
	data     []byte // written so far, or left to read
	err      error
}

var errShort = errors.New("it ends too early")

func (c *codec) fail(err error) {
	if c.err == nil {
		c.err = err
	}
	c.data = nil
}

// number is a varint, as encoding/binary has it.
func (c *codec) number(v *uint64) {
	if !c.decoding {
		c.data = binary.AppendUvarint(c.data, *v)
		return
	}
	n, size := binary.Uvarint(c.data)
	if size <= 0 {
		c.fail(errShort)
		return
	}
	*v, c.data = n, c.data[size:]
}

// integer is any other whole number, made 64 bits wide.
func integer[T ~int | ~int32 | ~uint16 | ~uint32](c *codec, v *T) {
	wide := uint64(*v)
	c.number(&wide)
	if uint64(T(wide)) != wide {
		c.fail(fmt.Errorf("%d is too large", wide))
		return
	}
	*v = T(wide)
}

func (c *codec) flag(v *bool) {
	var wide uint64
	if *v {
		wide = 1
	}
	c.number(&wide)
	if wide > 1 {
		c.fail(fmt.Errorf("%d is neither true nor false", wide))
		return
	}
	*v = wide == 1
}

// bytes are their number and themselves. Decoded, they are a copy.
func (c *codec) bytes(v *[]byte) {
	length := uint64(len(*v))
	c.number(&length)
	if !c.decoding {
		c.data = append(c.data, *v...)
		return
	}
	if length > uint64(len(c.data)) {
		c.fail(errShort)
		return
	}
	*v, c.data = append([]byte(nil), c.data[:length]...), c.data[length:]
}

func text[T ~string](c *codec, v *T) {
	b := []byte(*v)
	c.bytes(&b)
	*v = T(b)
}

// list is the number of elements and each of them, which takes a byte or more:
// a length that lies makes no more of them than there are bytes.
func list[T any](c *codec, v *[]T, element func(*codec, *T)) {
	length := uint64(len(*v))
	c.number(&length)
	if !c.decoding {
		for i := range *v {
			element(c, &(*v)[i])
		}
		return
	}
	*v = nil
	for ; length > 0 && c.err == nil; length-- {
		var e T
		element(c, &e)
		*v = append(*v, e)
	}
}

// numbers is a map, by the order of its keys.
func (c *codec) numbers(v *map[string]uint64) {
	type entry struct {
		key   string
		value uint64
	}
	var entries []entry
	for _, key := range slices.Sorted(maps.Keys(*v)) {
		entries = append(entries, entry{key, (*v)[key]})
	}
	list(c, &entries, func(c *codec, e *entry) {
		text(c, &e.key)
		c.number(&e.value)
	})
	if !c.decoding {
		return
	}
	*v = map[string]uint64{}
	for _, e := range entries {
		(*v)[e.key] = e.value
	}
}

// encode returns the bytes of what layout goes through.
func encode[T any](v *T, layout func(*codec, *T)) []byte {
	c := &codec{}
	layout(c, v)
	return c.data
}

// decode refuses what layout does not use up.
func decode[T any](data []byte, v *T, layout func(*codec, *T)) error {
	c := &codec{decoding: true, data: data}
	layout(c, v)
	if c.err == nil && len(c.data) > 0 {
		return errors.New("trailing data")
	}
	return c.err
}

// A field that is missing here is not sent; TestLayoutHasEveryField looks.

func specLayout(c *codec, s *Spec) {
	integer(c, &s.Version)
	if s.Version != Version {
		c.fail(fmt.Errorf("its version is %d, this purple-init has %d; purple and purple-init must be of one release", s.Version, Version))
		return
	}
	text(c, &s.Unit)
	text(c, &s.Profile)
	text(c, &s.RunID)
	c.flag(&s.Detach)
	c.flag(&s.UserManager)
	text(c, &s.Command.Path)
	list(c, &s.Command.Argv, (*codec).bytes)
	list(c, &s.Command.Env, (*codec).bytes)
	text(c, &s.Command.Dir)
	for _, id := range []*uint32{
		&s.Identity.UID, &s.Identity.GID, &s.Identity.HostUID, &s.Identity.HostGID, &s.Identity.OwnerUID, &s.Identity.OwnerGID,
	} {
		integer(c, id)
	}
	list(c, &s.OwnerGroups, integer[uint32])
	c.numbers(&s.ManagerNamespaces)
	text(c, &s.Hostname)
	list(c, &s.Idmaps, func(c *codec, o *Owner) {
		integer(c, &o.UID)
		integer(c, &o.GID)
	})
	list(c, &s.Mounts, mountLayout)
	list(c, &s.Files, fileLayout)
	list(c, &s.WriteOnly, text[string])
	c.number(&s.Capabilities)
	c.number(&s.NetworkNamespace)
	optional(c, &s.Uplink, func(c *codec, u *Uplink) {
		text(c, &u.Helper)
		c.bytes(&u.Rules)
		list(c, &u.Pasta, text[string])
		c.flag(&u.IPv4)
		c.flag(&u.IPv6)
	})
	c.flag(&s.RecordDenied)
	c.flag(&s.RecordSyscalls)
	c.flag(&s.RecordPaths)
	c.flag(&s.RecordReads)
	c.flag(&s.RecordCapabilities)
	c.flag(&s.Learning)
	list(c, &s.Published, integer[uint16])
	integer(c, &s.UnprivilegedPortStart)
	list(c, &s.Rlimits, rlimitLayout)
	c.number(&s.TasksLimit)
	c.bytes(&s.Filter)
	list(c, &s.Checks, checkLayout)
	text(c, &s.PolicyHash)
	text(c, &s.ProfileFile)
	for _, limit := range []*uint64{&s.Limits.Memory, &s.Limits.Tasks, &s.Limits.CPU, &s.Limits.IO, &s.Limits.Timeout} {
		c.number(limit)
	}
	optional(c, &s.Audit, auditLayout)
	for i := range s.Terminal {
		c.flag(&s.Terminal[i])
	}
	for i := range s.Winsize {
		integer(c, &s.Winsize[i])
	}
}

func auditLayout(c *codec, a *Audit) {
	c.flag(&a.Resources)
	text(c, &a.LogPath)
}

func mountLayout(c *codec, m *Mount) {
	text(c, &m.Kind)
	text(c, &m.Source)
	text(c, &m.Target)
	c.number(&m.Size)
	c.number(&m.Inodes)
	integer(c, &m.Mode)
	c.flag(&m.NoSymlinks)
	integer(c, &m.Idmap)
	c.flag(&m.AsOwner)
	c.flag(&m.Exec)
}

func fileLayout(c *codec, f *File) {
	text(c, &f.Path)
	integer(c, &f.Mode)
	c.bytes(&f.Content)
}

func rlimitLayout(c *codec, l *Rlimit) {
	integer(c, &l.Resource)
	c.number(&l.Soft)
	c.number(&l.Hard)
}

func checkLayout(c *codec, check *CgroupCheck) {
	text(c, &check.Setting)
	text(c, &check.Controller)
	text(c, &check.File)
	text(c, &check.Device)
	list(c, &check.Want, text[string])
}

func messageLayout(c *codec, m *Message) {
	text(c, &m.Kind)
	integer(c, &m.Signal)
	integer(c, &m.WaitStatus)
	c.flag(&m.Stopping)
	c.flag(&m.OutOfMemory)
	c.number(&m.Threads)
	text(c, &m.Step)
	text(c, &m.Error)
	integer(c, &m.Status)
	optional(c, &m.Denied, deniedLayout)
	optional(c, &m.DeniedCalls, deniedCallsLayout)
	optional(c, &m.DeniedAccess, deniedAccessLayout)
	optional(c, &m.Learnt, learntLayout)
	list(c, &m.Event, func(c *codec, f *Field) {
		text(c, &f.Name)
		text(c, &f.Value)
	})
	integer(c, &m.Family)
	list(c, &m.Paths, text[string])
}

// optional is a flag, and the value if there is one.
func optional[T any](c *codec, v **T, layout func(*codec, *T)) {
	there := *v != nil
	c.flag(&there)
	if !there {
		return
	}
	if c.decoding {
		*v = new(T)
	}
	layout(c, *v)
}

func deniedLayout(c *codec, d *Denied) {
	c.number(&d.Total)
	list(c, &d.Most, func(c *codec, r *Refusal) {
		text(c, &r.Destination)
		text(c, &r.Protocol)
		text(c, &r.Address)
		integer(c, &r.Port)
		c.number(&r.Count)
	})
	c.number(&d.More)
}

func deniedCallsLayout(c *codec, d *DeniedCalls) {
	c.number(&d.Total)
	list(c, &d.Most, func(c *codec, r *RefusedCall) {
		integer(c, &r.Nr)
		for i := range r.Args {
			c.number(&r.Args[i])
		}
		text(c, &r.Comm)
		text(c, &r.Errno)
		c.number(&r.Count)
	})
	c.number(&d.More)
}

func learntLayout(c *codec, l *Learnt) {
	c.number(&l.Of)
	list(c, &l.Calls, func(c *codec, call *LearntCall) {
		integer(c, &call.Nr)
		c.number(&call.Count)
		c.number(&call.First)
		list(c, &call.Comms, text[string])
	})
}

func deniedAccessLayout(c *codec, d *DeniedAccess) {
	c.number(&d.Paths)
	c.number(&d.Capabilities)
	list(c, &d.Most, func(c *codec, r *RefusedAccess) {
		text(c, &r.Path)
		text(c, &r.Effect)
		text(c, &r.Capability)
		text(c, &r.Comm)
		text(c, &r.Errno)
		c.number(&r.Count)
	})
	c.number(&d.More)
}
