package control

import (
	"os"
	"strings"
)

// bootID returns an id that this boot of this machine has and no other.
func bootID() (string, error) {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(text)), err
}
