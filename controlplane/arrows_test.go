package controlplane_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/leasehold/leasehold/"

// listed is what `go list` says of a package. Imports leaves out tests.
type listed struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

// list lists the packages that match a pattern; none is no mistake.
func list(t *testing.T, pattern string) []listed {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-e", "-json=ImportPath,Imports,Deps", pattern)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %s: %v", pattern, err)
	}
	var packages []listed
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}

// within are the listed packages of ours under a path.
func within(packages []listed, path string) []listed {
	return slices.DeleteFunc(slices.Clone(packages), func(p listed) bool {
		return p.ImportPath != module+path && !strings.HasPrefix(p.ImportPath, module+path+"/")
	})
}

// refuse fails the test for each of deps that lies under one of the paths.
func refuse(t *testing.T, who string, deps []string, paths ...string) {
	t.Helper()
	for _, dep := range deps {
		for _, path := range paths {
			if dep == path || strings.HasPrefix(dep, path+"/") {
				t.Errorf("%s must not depend on %s", who, dep)
			}
		}
	}
}

func ours(paths ...string) []string {
	for i, path := range paths {
		paths[i] = module + path
	}
	return paths
}

func TestArrowsPointOneWay(t *testing.T) {
	planes := list(t, "../controlplane/...")
	if len(within(planes, "controlplane")) < 5 {
		t.Fatal("go list found too few packages")
	}
	for _, p := range within(planes, "controlplane") {
		refuse(t, p.ImportPath, p.Deps, ours("dataplane", "cmd", "test")...)
		if p.ImportPath != module+"controlplane/etcd" {
			refuse(t, p.ImportPath, p.Imports, "go.etcd.io")
		}
	}
	for _, rules := range []string{"controlplane/gateway", "controlplane/session", "controlplane/store", "controlplane/filter"} {
		for _, p := range within(planes, rules) {
			refuse(t, p.ImportPath, p.Deps, "go.etcd.io")
			refuse(t, p.ImportPath, p.Deps, ours("controlplane/etcd", "controlplane/rpc", "controlplane/publish", "controlplane/observe", "controlplane/keyring")...)
		}
	}
	for _, p := range within(planes, "controlplane/rpc") {
		refuse(t, p.ImportPath, p.Deps, ours("controlplane/etcd", "controlplane/observe", "controlplane/keyring")...)
	}
	for _, p := range within(planes, "controlplane/publish") {
		refuse(t, p.ImportPath, p.Deps, ours("controlplane/etcd", "controlplane/rpc", "controlplane/keyring")...)
	}
	for _, p := range within(list(t, "../gen/..."), "gen") {
		refuse(t, p.ImportPath, p.Deps, ours("controlplane", "dataplane", "cmd", "test")...)
	}
	for _, p := range within(list(t, "../dataplane/..."), "dataplane") {
		refuse(t, p.ImportPath, p.Deps, ours("controlplane", "cmd", "test")...)
		refuse(t, p.ImportPath, p.Deps, "go.etcd.io")
	}
}
