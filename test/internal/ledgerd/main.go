// Command ledgerd runs the ledger as a process of its own. It prints the URL it
// serves once it is ready, and serves until it is killed.
package main

import (
	"flag"
	"fmt"
	"net"
	"os"

	"github.com/leasehold/leasehold/test/internal/ledger"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "where to listen")
	flag.Parse()
	if err := run(*listen); err != nil {
		fmt.Fprintln(os.Stderr, "ledgerd:", err)
		os.Exit(1)
	}
}

// run serves on listen.
func run(listen string) error {
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	fmt.Printf("ready http://%s\n", listener.Addr())
	return ledger.New().Server().Serve(listener)
}
