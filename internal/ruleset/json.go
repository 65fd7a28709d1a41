package ruleset

import (
	"encoding/json"
	"fmt"
	"reflect"
)

// statements are all that a rule can have, by their names in JSON.
var statements = func() map[string]reflect.Type {
	types := map[string]reflect.Type{}
	for _, s := range []Statement{
		Established{}, InLoopback{}, OutLoopback{}, ForeignSource{}, ListenerReport{}, NeighbourDiscovery{}, TCP{},
		To{}, ToSet{}, Ports{}, Accept{}, Drop{}, Reject{}, Reset{}, Log{}, Goto{},
	} {
		t := reflect.TypeOf(s)
		types[t.Name()] = t
	}
	return types
}()

// wireRule is a rule in JSON: each statement an object of one key, its name.
type wireRule struct {
	Statements []map[string]json.RawMessage
	Comment    string
}

// MarshalJSON is for the process that loads a table in another namespace.
func (r Rule) MarshalJSON() ([]byte, error) {
	w := wireRule{Comment: r.Comment}
	for _, s := range r.Statements {
		name := reflect.TypeOf(s).Name()
		if statements[name] == nil {
			return nil, fmt.Errorf("internal error: no name for %T", s)
		}
		body, err := json.Marshal(s)
		if err != nil {
			return nil, err
		}
		w.Statements = append(w.Statements, map[string]json.RawMessage{name: body})
	}
	return json.Marshal(w)
}

// UnmarshalJSON refuses a statement that it does not know.
func (r *Rule) UnmarshalJSON(data []byte) error {
	var w wireRule
	if err := json.Unmarshal(data, &w); err != nil {
		return err
	}
	*r = Rule{Comment: w.Comment}
	for _, object := range w.Statements {
		if len(object) != 1 {
			return fmt.Errorf("a statement with %d names", len(object))
		}
		for name, body := range object {
			t := statements[name]
			if t == nil {
				return fmt.Errorf("an unknown statement %q", name)
			}
			s := reflect.New(t)
			if err := json.Unmarshal(body, s.Interface()); err != nil {
				return fmt.Errorf("statement %q: %w", name, err)
			}
			r.Statements = append(r.Statements, s.Elem().Interface().(Statement))
		}
	}
	return nil
}
