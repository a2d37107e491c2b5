package npm

import (
	"os"
	"path/filepath"
	"testing"
)

func TestCheckLockRefusesHosts(t *testing.T) {
	tests := map[string]struct {
		lock string
		ok   bool
	}{
		"hosts left out":       {`{"packages": {"node_modules/a": {"version": "1.0.0", "integrity": "sha512-x"}}}`, true},
		"a package with a URL": {`{"packages": {"node_modules/a": {"resolved": "https://mirror.example/a.tgz", "integrity": "sha512-x"}}}`, false},
		"no packages":          {`{"packages": {}}`, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "package-lock.json"), []byte(test.lock), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := CheckLock(dir); (err == nil) != test.ok {
				t.Errorf("got %v, want it to pass: %v", err, test.ok)
			}
		})
	}
}
