package main

import (
	"runtime"

	"github.com/spf13/cobra"

	"github.com/leasehold/leasehold/cmd/internal/usage"
	"github.com/leasehold/leasehold/dataplane"
)

const (
	// mostPrograms is more than one machine can run.
	mostPrograms = 1_000_000
	// leastMemory is what a program needs to come as far as saying what is wrong.
	leastMemory = 1 << 20
)

// programs is the flags of the programs that a worker runs for gateways.
type programs struct {
	allow       bool
	max, memory int
}

func (p *programs) flags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.BoolVar(&p.allow, "allow-stdio", false, "run the programs of gateways with TRANSPORT_STDIO: whoever may write gateways can then run anything here")
	flags.IntVar(&p.max, "max-programs", dataplane.DefaultMaxPrograms, "how many programs it runs at most, one for each session of such a gateway")
	flags.IntVar(&p.memory, "program-memory", 0, "bytes of memory that each process of a program may write to (RLIMIT_DATA, Linux only); 0 for no bound")
}

func (p *programs) check() error {
	switch {
	case p.max < 1 || p.max > mostPrograms:
		return usage.Errorf("--max-programs: %d is not a number of programs a worker could run", p.max)
	case p.memory < 0 || p.memory > 0 && p.memory < leastMemory:
		return usage.Errorf("--program-memory: %d bytes are too few for any program; 0 means no bound", p.memory)
	case p.memory > 0 && runtime.GOOS != "linux":
		return usage.Errorf("--program-memory: needs Linux")
	}
	return nil
}
