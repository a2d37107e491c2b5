// Command volleyd sends the requests of a volley when its input ends.
package main

import (
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/leasehold/leasehold/test/internal/volley"
)

func main() {
	patience := flag.Duration("patience", 30*time.Second, "how long each request waits for its answer")
	flag.Parse()
	if err := volley.Serve(os.Stdin, os.Stdout, *patience); err != nil {
		fmt.Fprintln(os.Stderr, "volleyd:", err)
		os.Exit(1)
	}
}
