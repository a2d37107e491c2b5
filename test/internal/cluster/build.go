package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
)

// module is the path of this module.
const module = "github.com/leasehold/leasehold"

// Binaries are the programs that a cluster runs.
type Binaries struct {
	// Leasehold is the product.
	Leasehold string
	// Etcd runs one member of an etcd cluster.
	Etcd string
	// Ledger is an upstream.
	Ledger string
}

// builds remembers what was built, so that each program is built once in a run.
var builds struct {
	mu   sync.Mutex // guards all below
	dir  string
	done map[string]string
}

// Build builds what a cluster runs; the product with the race detector if asked.
func Build(race bool) (Binaries, error) {
	var b Binaries
	var err error
	if b.Leasehold, err = Program("cmd/leasehold", race); err != nil {
		return b, err
	}
	if b.Etcd, err = Program("test/internal/etcdmember", false); err != nil {
		return b, err
	}
	b.Ledger, err = Program("test/internal/ledgerd", false)
	return b, err
}

// Program builds the program of a package of this module and returns its path.
func Program(pkg string, race bool) (string, error) {
	builds.mu.Lock()
	defer builds.mu.Unlock()
	name := filepath.Base(pkg)
	if race {
		name += "-race"
	}
	if path := builds.done[name]; path != "" {
		return path, nil
	}
	if builds.dir == "" {
		dir, err := os.MkdirTemp("", "leasehold-build-")
		if err != nil {
			return "", fmt.Errorf("build %s: %w", pkg, err)
		}
		builds.dir, builds.done = dir, map[string]string{}
	}
	path := filepath.Join(builds.dir, name)
	args := []string{"build", "-o", path}
	if race {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, module+"/"+pkg)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", pkg, err, out)
	}
	builds.done[name] = path
	return path, nil
}

// RemoveBinaries removes what was built. A main or TestMain calls it last.
func RemoveBinaries() {
	builds.mu.Lock()
	defer builds.mu.Unlock()
	if builds.dir != "" {
		os.RemoveAll(builds.dir)
	}
	builds.dir, builds.done = "", nil
}
