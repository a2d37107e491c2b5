// Command leasehold puts MCP servers behind one endpoint that scales out: each
// stateful session has one owner among the workers, and any worker takes any
// request. See `leasehold --help`.
package main

import (
	"context"
	"os"
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
