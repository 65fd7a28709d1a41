package policies

import (
	"fmt"
	"strings"
)

const maxName = 64

// ValidateName refuses a profile name that could leave its directory or change
// the meaning of a unit's name (purple-NAME-0123abcd.service): a name is 1 to
// 64 of the characters a-z, 0-9, ".", "_" and "-", starts with a letter or a
// digit, and does not end in ".yaml". The error states the rule.
func ValidateName(name string) error {
	if validName(name) {
		return nil
	}
	hint := ""
	switch {
	case strings.HasSuffix(name, ".yaml") || strings.HasSuffix(name, ".yml"):
		hint = `; a name has no ".yaml"; a file is written with a slash, "./my.yaml"`
	case validName(strings.ToLower(name)):
		hint = fmt.Sprintf("; write it %q", strings.ToLower(name))
	}
	return fmt.Errorf("%s cannot be a profile's name: a name is 1 to %d of a-z, 0-9, \".\", \"_\" and \"-\", "+
		"and starts with a letter or a digit%s", printable(name), maxName, hint)
}

func validName(name string) bool {
	if name == "" || len(name) > maxName || strings.HasSuffix(name, ".yaml") || strings.HasSuffix(name, ".yml") {
		return false
	}
	for i := range len(name) {
		c := name[i]
		letter := 'a' <= c && c <= 'z' || '0' <= c && c <= '9'
		if !letter && (i == 0 || c != '.' && c != '_' && c != '-') {
			return false
		}
	}
	return true
}
