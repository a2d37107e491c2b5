package dirlock

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestSecondLockFailsAtOnceAndSaysWhy(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "for", "it")
	first, err := Acquire(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Acquire(dir)
	if err == nil || !strings.Contains(err.Error(), "in use by another leasehold (process ") || !strings.Contains(err.Error(), dir) {
		t.Errorf("second lock: got %v, want an error that names the directory and the process", err)
	}
	first.Release()
	again, err := Acquire(dir)
	if err != nil {
		t.Fatalf("after release: %v", err)
	}
	again.Release()
}
