package policies

import (
	"embed"
	"fmt"
	"io/fs"
	"path"
	"strings"
)

//go:embed *.yaml
var builtinFiles embed.FS

// builtinDir is what errors and Files call the place of the built-in profiles.
const builtinDir = "built-in"

// IsBuiltin tells whether a file, as Policy.Files and a Position have it, is part of purple.
func IsBuiltin(file string) bool { return strings.HasPrefix(file, builtinDir+"/") }

// Builtins are the names of the profiles that are part of purple, sorted.
func Builtins() []string {
	entries, err := fs.ReadDir(builtinFiles, ".")
	if err != nil {
		return nil // no embedded file: the build would have failed
	}
	var names []string
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), ".yaml"))
	}
	return names
}

// builtin returns a built-in profile as it was written, comments and all.
func builtin(name string) (file string, content []byte, ok bool) {
	if !validName(name) {
		return "", nil, false
	}
	content, err := builtinFiles.ReadFile(name + ".yaml")
	return path.Join(builtinDir, name+".yaml"), content, err == nil
}

// Builtin returns a built-in profile, unparsed, whatever stands under its name
// in a directory.
func Builtin(name string) (Profile, error) {
	file, content, ok := builtin(name)
	if !ok {
		return Profile{}, fmt.Errorf("there is no built-in profile %s%s", printable(name), didYouMean(name, Builtins()))
	}
	return Profile{name, SourceBuiltin, file, content}, nil
}
