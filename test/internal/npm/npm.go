// Package npm installs the npm packages that tests run, exactly those of a
// committed lock file.
package npm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Install installs the packages of dir's lock file into dir/node_modules,
// unless those are there.
func Install(ctx context.Context, dir string) error {
	for _, tool := range []string{"node", "npm"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%s is not installed; Node.js 20 or later with npm is needed: "+
				"apt-get install -y nodejs npm, or brew install node", tool)
		}
	}
	lock, err := os.ReadFile(filepath.Join(dir, "package-lock.json"))
	if err != nil {
		return fmt.Errorf("install packages: %w", err)
	}
	sum := sha256.Sum256(lock)
	want, stamp := hex.EncodeToString(sum[:]), filepath.Join(dir, "node_modules", ".leasehold-lock")
	if have, err := os.ReadFile(stamp); err == nil && string(have) == want {
		return nil
	}
	cmd := exec.CommandContext(ctx, "npm", "ci", "--no-audit", "--no-fund")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("npm ci in %s: %w\n%s", dir, err, out)
	}
	if err := os.WriteFile(stamp, []byte(want), 0o644); err != nil {
		return fmt.Errorf("install packages: %w", err)
	}
	return nil
}

// CheckLock returns an error if dir's lock file names a host. That host would be
// asked by everybody, though it may be a mirror that only the machine knows where
// the file was written. An .npmrc with omit-lockfile-registry-resolved=true
// keeps hosts out.
func CheckLock(dir string) error {
	lock, err := os.ReadFile(filepath.Join(dir, "package-lock.json"))
	if err != nil {
		return fmt.Errorf("check the lock file: %w", err)
	}
	if !bytes.Contains(lock, []byte(`"integrity"`)) {
		return errors.New("the lock file has no packages")
	}
	if at := bytes.Index(lock, []byte(`"resolved"`)); at >= 0 {
		return fmt.Errorf("the lock file has %.120q; make it with the .npmrc beside it", lock[at:])
	}
	return nil
}
