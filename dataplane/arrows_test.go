package dataplane_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/leasehold/leasehold/"

// imports returns the packages of this module that pkg depends on.
func imports(t *testing.T, pkg string) []string {
	t.Helper()
	out, err := exec.Command("go", "list", "-deps", module+pkg).CombinedOutput()
	if err != nil {
		t.Fatalf("go list -deps %s: %v\n%s", pkg, err, out)
	}
	var ours []string
	for path := range strings.Lines(string(out)) {
		if p, ok := strings.CutPrefix(strings.TrimSpace(path), module); ok && p != pkg {
			ours = append(ours, p)
		}
	}
	return ours
}

// TestArrowsPointOneWay holds each package to what it may depend on: rules know
// no adapter, adapters not each other, and the data plane neither the control
// plane nor what starts it.
func TestArrowsPointOneWay(t *testing.T) {
	const gen = "gen/leasehold/v1"
	may := map[string][]string{
		"dataplane/mcp":        {},
		"dataplane/sessionid":  {},
		"dataplane/credential": {gen},
		"dataplane/catalogue":  {"dataplane/mcp"},
		"dataplane/config":     {gen, "dataplane/sessionid", "dataplane/credential", "dataplane/catalogue", "dataplane/mcp"},
		"dataplane/session":    {gen, "dataplane/sessionid", "dataplane/credential", "dataplane/config", "dataplane/catalogue", "dataplane/mcp", "dataplane/replay"},
		"dataplane/replay":     {},
		"dataplane/dial":       {},
		"dataplane/material":   {gen, "dataplane/sessionid", "dataplane/credential", "dataplane/config", "dataplane/catalogue", "dataplane/mcp", "dataplane/dial"},
		"dataplane/balance":    {},
	}
	rules := append([]string{"dataplane/session"}, may["dataplane/session"]...)
	may["dataplane/route"] = rules
	may["dataplane/front"] = rules
	may["dataplane/upstream"] = append([]string{"dataplane/dial", "dataplane/material"}, rules...)
	may["dataplane/visit"] = rules
	may["dataplane/checkup"] = append([]string{"dataplane/visit"}, rules...)
	may["dataplane/inspect"] = may["dataplane/checkup"]
	may["dataplane/keycheck"] = []string{gen, "dataplane/mcp", "dataplane/catalogue", "dataplane/sessionid", "dataplane/credential", "dataplane/config"}
	may["dataplane/control"] = rules
	may["dataplane/forward"] = append([]string{"dataplane/route"}, rules...)
	may["dataplane/duplex"] = rules
	may["dataplane/duplex/duplextest"] = nil
	may["dataplane/duplex/stdio"] = append([]string{"dataplane/duplex"}, rules...)
	may["dataplane/duplex/sse"] = append([]string{"dataplane/duplex"}, rules...)
	may["dataplane/merge"] = rules
	may["dataplane"] = append([]string{"dataplane/balance", "dataplane/merge", "dataplane/duplex", "dataplane/duplex/stdio", "dataplane/duplex/sse", "dataplane/route", "dataplane/front", "dataplane/upstream", "dataplane/dial",
		"dataplane/material", "dataplane/checkup", "dataplane/keycheck", "dataplane/visit", "dataplane/inspect", "dataplane/control", "dataplane/forward"}, rules...)
	out, err := exec.Command("go", "list", "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	for pkg := range strings.Lines(string(out)) {
		pkg = strings.TrimPrefix(strings.TrimSpace(pkg), module)
		allowed, ok := may[pkg]
		if !ok {
			t.Errorf("%s is in no line of this test: say what it may import", pkg)
			continue
		}
		for _, got := range imports(t, pkg) {
			if !slices.Contains(allowed, got) {
				t.Errorf("%s imports %s, which it may not", pkg, got)
			}
		}
	}
}
