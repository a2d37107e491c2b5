package control

import "golang.org/x/sys/unix"

// bootID returns an id that this boot of this machine has and no other.
func bootID() (string, error) { return unix.Sysctl("kern.bootsessionuuid") }
