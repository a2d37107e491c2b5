// Package version knows which build of Leasehold this is.
package version

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
)

// Set by the linker (-X), see the Makefile.
var (
	number = "0.1.0-dev"
	commit = ""
)

// Number returns the version, without a leading v.
func Number() string {
	info, ok := debug.ReadBuildInfo()
	if number == "0.1.0-dev" && ok && strings.HasPrefix(info.Main.Version, "v") {
		return strings.TrimPrefix(info.Main.Version, "v") // installed with go install …@version
	}
	return number
}

// Commit returns the commit this was built from, or "unknown".
func Commit() string {
	if commit != "" {
		return commit
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, setting := range info.Settings {
			if setting.Key == "vcs.revision" && len(setting.Value) >= 12 {
				return setting.Value[:12]
			}
		}
	}
	return "unknown"
}

// Line returns all of it in one line.
func Line() string {
	return fmt.Sprintf("leasehold v%s (%s, %s)", Number(), Commit(), runtime.Version())
}
