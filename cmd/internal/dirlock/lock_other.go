//go:build !unix

package dirlock

import "os"

// lock relies on the embedded etcd's own lock, which waits instead of failing.
func lock(*os.File) error { return nil }
